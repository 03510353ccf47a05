"""curl, nghttp and h2load at full tilt: no bound stands in their way.

More streams than a connection may have, more connections than a browser would open, transfers that
are given up: all is answered, and the server has nothing to say against anyone.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from support import Served

import h2sse

from .conftest import wait_for_tabs

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Tool

pytestmark = pytest.mark.interop


@pytest.fixture
async def served(served: Served) -> AsyncIterator[Served]:
    """The server, which in the end has refused and ended nothing."""
    yield served
    statistics = served.server.statistics()
    assert statistics.reasons == {}
    assert statistics.refused_connections == statistics.refused_streams == 0
    assert statistics.resets_sent == statistics.overflowed == 0


# -- h2load


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/healthz", "-n 3000 -c 30 -m 100"),
        ("/publish", "-n 3000 -c 3 -m 1000"),
        ("/healthz", "-n 1000 -c 100 --h1"),
        ("/healthz", "-D 1 -c 20 -m 100"),
        ("/publish", "-D 1 -c 20 --h1"),
    ],
)
async def test_h2load(
    served: Served, h2load: Tool, path: str, options: str, tmp_path: Path
) -> None:
    """So many requests, or (-D) as many as go into a second."""
    body = tmp_path / "body"
    body.write_text("topic=a&data=x")
    form = ("-d", str(body), "-H", "content-type: application/x-www-form-urlencoded")
    posts = form if path == "/publish" else ()
    done = await h2load.run(*options.split(), *posts, f"{served.listening.url}{path}")
    found = re.search(
        r"^requests: \d+ total, (\d+) started, (\d+) done, (\d+) succeeded,"
        r" 0 failed, 0 errored, 0 timeout$",
        done.out,
        re.MULTILINE,
    )
    assert found, done
    started, answered, succeeded = map(int, found.groups())
    assert answered == succeeded > 0
    if "-D" not in options:  # which ends with requests under way
        assert started == answered


# -- nghttp


@pytest.mark.parametrize("options", ["", "--no-dep", "-w 10 -W 10"])
async def test_nghttp(served: Served, nghttp: Tool, options: str) -> None:
    """With the priorities of RFC 7540, without, and through windows of a KiB."""
    url = f"{served.listening.url}/healthz"
    done = await nghttp.run("--verbose", "-m", "1000", *options.split(), url)
    assert done.out.count(":status: 200") == 1000, done
    # It says goodbye itself, and is told nothing of the kind.
    assert not re.search(r"recv (GOAWAY|RST_STREAM)", done.out)


# -- curl


@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
async def test_curl_with_300_transfers_at_once(served: Served, curl: Tool, version: str) -> None:
    at_once = (
        version,
        "--parallel",
        "--parallel-max",
        "300",
        "--no-progress-meter",
        "-w",
        "%{stderr}%{http_code}\n",
    )
    url = f"{served.listening.url}/healthz?[1-600]"
    done = await curl.run(*at_once, "--output", "/dev/null", url)
    assert done.code == 0, done
    assert len(re.findall(r"^200$", done.err, re.MULTILINE)) == 600, done


@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
async def test_curl_with_300_event_streams_given_up_in_a_loop(
    served: Served, curl: Tool, version: str
) -> None:
    at_once = (version, "--parallel", "--parallel-max", "300", "--no-progress-meter")
    url = f"{served.listening.url}/events?topic=all&topic=t[1-300]"
    for _ in range(2):
        async with curl.start(*at_once, url) as running:
            await wait_for_tabs(served, "all", 300)
            served.app.publish("all", h2sse.Event(data="for each"))
            await running.read_until(lambda text: text.count("data: for each\n") == 300)
            running.process.kill()
            await wait_for_tabs(served, "all", 0)
