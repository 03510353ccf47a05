"""nghttp and h2load: nghttp2's own reading of the RFCs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import trio
from support import Served, serving

import h2sse

from .conftest import wait_for_tabs

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Tool

pytestmark = pytest.mark.interop


# -- nghttp; it holds its output back until it ends, so it is let end


async def test_many_streams_of_one_connection(served: Served, nghttp: Tool) -> None:
    topics = [f"t{n}" for n in range(8)]
    urls = [f"{served.listening.url}/events?topic={topic}&topic=all" for topic in topics]
    async with nghttp.start("--multiply=10", *urls) as running:
        await wait_for_tabs(served, "all", 80)
        assert len({tab.connection for tab in served.app.tabs("all")}) == 1
        served.app.publish("all", h2sse.Event(data="for all"))
        served.app.publish("t3", h2sse.Event(data="for ten"))
        await served.listening.aclose()
        assert await running.wait() == 0, running.text
    assert running.text.count("data: for all\n") == 80
    assert running.text.count("data: for ten\n") == 10


async def test_going_away_as_nghttp2_sees_it(served: Served, nghttp: Tool) -> None:
    async with nghttp.start("--verbose", f"{served.listening.url}/events?topic=a") as running:
        await wait_for_tabs(served, "a", 1)
        served.app.publish("a", h2sse.Event(data="hello"))
        await served.listening.aclose()
        assert await running.wait() == 0, running.text
    seen = re.findall(r"\] recv (?:\(.*?\) )?([A-Z_]+ frame|:status: \d+)", running.text)
    assert seen[0] == "SETTINGS frame", running.text
    goaway = seen.index("GOAWAY frame")
    assert ":status: 200" in seen[:goaway]
    assert seen[goaway + 1] == "PING frame"
    assert "DATA frame" in seen[goaway:]
    # Whatever it found wrong, it would have said so in a GOAWAY or RST_STREAM of its own.
    assert "RST_STREAM" not in running.text
    assert set(re.findall(r"error_code=(\w+)", running.text)) == {"NO_ERROR"}, running.text


@pytest.mark.parametrize(("stream_bits", "connection_bits"), [(10, 16), (16, 16), (30, 30)])
async def test_a_large_event_through_any_window(
    served: Served, nghttp: Tool, stream_bits: int, connection_bits: int
) -> None:
    data = "".join(f"{n:07};" for n in range(50_000))
    windows = (f"--window-bits={stream_bits}", f"--connection-window-bits={connection_bits}")
    url = f"{served.listening.url}/events?topic=big"
    async with nghttp.start(*windows, url) as running, trio.open_nursery() as nursery:
        await wait_for_tabs(served, "big", 1)
        served.app.publish("big", h2sse.Event(data=data))
        # While its output is read: it takes no input while that is not.
        nursery.start_soon(served.listening.aclose)
        assert await running.wait() == 0, running.text[-1000:]
    (message,) = h2sse.Parser().feed(running.text.encode())
    assert message.data == data


async def test_bodies_in_every_dress(served: Served, nghttp: Tool, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_text(json.dumps({"topic": "a", "data": "x" * 100_000}))
    command = ("-H", "content-type: application/json", "-d", str(body))
    for dress in (
        ("--padding=200",),
        ("--expect-continue",),
        ("--no-content-length",),
        ("--trailer", "x: y"),
        ("--encoder-header-table-size=0", "--header-table-size=0"),
    ):
        done = await nghttp.run(*dress, *command, f"{served.listening.url}/publish")
        assert json.loads(done.out)["topics"] == ["a"], (dress, done)


@pytest.mark.parametrize(("allowed", "answer"), [(16 * 1024, '"status": 431'), (48 * 1024, "ok")])
async def test_header_sections_in_continuation_frames(
    nghttp: Tool, allowed: int, answer: str
) -> None:
    limits = h2sse.Limits(header_list_bytes=allowed)
    async with serving(h2sse.App(limits=limits), limits=limits) as served:
        url = f"{served.listening.url}/healthz"
        done = await nghttp.run("--continuation", url, f"{url}?again")
    assert done.out.count(answer) == 2, done


# -- h2load


def counts(report: str) -> dict[str, int]:
    line = re.search(r"^requests: (.*)$", report, re.MULTILINE)
    assert line is not None, report
    return {name: int(count) for count, name in re.findall(r"(\d+) (\w+)", line[1])}


@pytest.mark.parametrize(
    "options",
    [("-m", "50"), ("--h1",), ("--h1", "-m", "50")],
    ids=["http2", "http1", "http1-pipelined"],
)
async def test_requests_under_load_all_succeed(
    served: Served, h2load: Tool, options: tuple[str, ...]
) -> None:
    url = f"{served.listening.url}/healthz"
    done = await h2load.run("-n", "2000", "-c", "10", *options, url)
    assert counts(done.out)["succeeded"] == 2000, done.out
    assert "status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx" in done.out
    statistics = served.server.statistics()
    assert statistics.requests == 2000
    assert statistics.accepted == 10


@pytest.mark.parametrize("options", [("-m", "20"), ("--h1",)], ids=["http2", "http1"])
async def test_what_is_published_under_load_arrives_once_and_in_order(
    served: Served, h2load: Tool, options: tuple[str, ...], tmp_path: Path
) -> None:
    body = tmp_path / "body"
    body.write_text("topic=a&data=x")
    form = ("-d", str(body), "-H", "content-type: application/x-www-form-urlencoded")
    url = f"{served.listening.url}/publish"
    async with served.client() as client, trio.open_nursery() as nursery:
        tab = await client.listen("/events?topic=a")
        # Concurrent with the load: a tab that reads only afterwards would test the backlog.
        nursery.start_soon(client.heard, 500, tab)
        done = await h2load.run("-n", "500", "-c", "5", *options, *form, url)
        assert counts(done.out)["succeeded"] == 500, done.out
    numbers = [int(message.last_event_id.partition("-")[2]) for message in tab.messages]
    assert numbers == list(range(1, 501))
