"""`h2sse.asgi` in the servers it is for: Hypercorn on trio and on asyncio, and Granian.

They run as processes, over TLS, as `docs/asgi.md` says; its examples are what is run.
"""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pytest
import trio
from support import certificates

import h2sse
from h2sse.tls import development_certificate

from .conftest import TOOL_SECONDS, Running, Tool, find

pytestmark = pytest.mark.interop

DOCS = Path(__file__).parents[2] / "docs" / "asgi.md"
# Their examples, by the name that each begins with.
EXAMPLES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", DOCS.read_text(), re.DOTALL))

TABS = 5

each_server = pytest.mark.parametrize("server", ["hypercorn -k trio", "hypercorn", "granian"])
each_version = pytest.mark.parametrize("version", ["--http2", "--http1.1"])


@final
@dataclass(frozen=True)
class Hosted:
    """A server that runs, and curl to ask it."""

    running: Running
    url: str
    curl: Tool

    async def publish(self, data: str, *options: str) -> str:
        """The id of a new event."""
        form = ("-d", "topic=a", "--data-urlencode", f"data={data}")
        done = await self.curl.run(*options, *form, f"{self.url}/publish")
        assert done.code == 0, done
        event_id = json.loads(done.out)["id"]
        assert isinstance(event_id, str)
        return event_id

    async def metric(self, name: str) -> float:
        """One line of /metrics."""
        done = await self.curl.run(f"{self.url}/metrics")
        (found,) = (line for line in done.out.splitlines() if line.startswith(f"{name} "))
        return float(found.split()[1])


@asynccontextmanager
async def hosted(folder: Path, *command: str, port: int | None = None) -> AsyncIterator[Hosted]:
    """Run a server in a folder with the examples and a certificate."""
    for name, text in EXAMPLES.items():
        (folder / name).write_text(text.replace(":8443", ":0"))
    pem = development_certificate(certificates())
    (folder / "certs").symlink_to(pem.cert.parent)
    source = Path(h2sse.__file__).parents[1]
    tool = Tool(("env", "-C", str(folder), f"PYTHONPATH={source}", sys.executable))
    options = ("-q", "-sS", "-N", "--noproxy", "*", "--cacert", str(pem.ca))
    curl = Tool((find("curl", "curl"), *options))
    async with tool.start(*command) as running:
        if port is None:
            await running.read_until(lambda text: "(CTRL" in text)
            found = re.search(r"https://[^ ]+:(\d+)", running.text)
            assert found is not None
            port = int(found[1])
        else:
            await running.read_until(lambda text: "Started worker" in text)
        yield Hosted(running, f"https://localhost:{port}", curl)
        if running.process.returncode is None:
            running.process.send_signal(signal.SIGTERM)
            await running.wait()


@asynccontextmanager
async def serving(folder: Path, server: str) -> AsyncIterator[Hosted]:
    """One of the three, by the command of the documentation."""
    name, *options = server.split()
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}")
    if name == "granian":
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]  # granian does not tell which it took
        options = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(port)]
        options += ["--workers-kill-timeout", "1"]
        options += ["--ssl-certificate", "certs/localhost.pem"]
        options += ["--ssl-keyfile", "certs/localhost-key.pem"]
    else:
        port = None
        options += ["--bind", "127.0.0.1:0", "--graceful-timeout", "1"]
        options += ["--certfile", "certs/localhost.pem", "--keyfile", "certs/localhost-key.pem"]
    command = ("-m", name, *options, "service:application")
    async with hosted(folder, *command, port=port) as running:
        yield running


@each_server
@each_version
async def test_every_tab_hears_every_event_and_what_it_missed(
    tmp_path: Path, server: str, version: str
) -> None:
    async with serving(tmp_path, server) as host:
        first = await host.publish("0", version)
        await host.publish("1" * 100_000, version)
        urls = [f"{host.url}/events?topic=a"] * TABS
        resume = ("-H", f"Last-Event-ID: {first}")
        # Each tab of HTTP/1.1 has a connection of its own, those of HTTP/2 share one.
        async with host.curl.start(version, "--parallel", *resume, *urls) as tabs:
            await tabs.read_until(lambda text: text.count("1" * 1000 + "\n\n") == TABS)
            last = await host.publish("2", version)
            await tabs.read_until(lambda text: text.count(f"id: {last}\ndata: 2\n\n") == TABS)
            protocol = "h2" if version == "--http2" else "http/1.1"
            assert await host.metric(f'h2sse_tabs{{protocol="{protocol}"}}') == TABS
        async with host.curl.start(version, *resume, urls[0]) as tab:
            await tab.read_until(lambda text: "data: 2\n\n" in text)
        (one, two) = h2sse.Parser().feed(tab.text.encode())
        assert (one.data, two) == ("1" * 100_000, h2sse.Message("message", "2", last))
        with trio.fail_after(TOOL_SECONDS):
            while await host.metric("h2sse_resets_received_total") < TABS + 1:
                pass  # each look is a request: the server has its turn
        assert await host.metric("h2sse_topics") == 0
    assert "Traceback" not in host.running.text


@each_server
@each_version
async def test_answers_other_than_streams(tmp_path: Path, server: str, version: str) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"topic=a&data=" + b"x" * 3_000_000)
    status = ("-w", "%{stderr}%{http_code}")
    async with serving(tmp_path, server) as host:
        stream = f"{host.url}/events?topic=a"
        head = await host.curl.run(version, "--head", *status, stream)
        assert (head.code, head.err) == (0, "200")
        assert "text/event-stream" in head.out
        nowhere = await host.curl.run(version, *status, f"{host.url}/n%2Fo")
        assert nowhere.err == "404"
        assert json.loads(nowhere.out)["detail"] == "nothing is at /n%2Fo"
        upload = ("--data-binary", f"@{big}", f"{host.url}/publish")
        for framing in ((), ("-H", "Transfer-Encoding: chunked")):
            over = await host.curl.run(version, *status, *framing, *upload)
            assert over.err.endswith("413"), over
            # Granian may reset the rest of the upload as soon as it has answered, and curl with it
            # forgets what it has read.
            assert (over.code, server) == (92, "granian") or json.loads(over.out)["status"] == 413
        # The connection that was refused something serves on.
        again = await host.curl.run(version, f"{host.url}/healthz")
        assert json.loads(again.out) == {"status": "ok"}


@each_version
async def test_hypercorn_drains_as_the_documentation_says(tmp_path: Path, version: str) -> None:
    pytest.importorskip("hypercorn")
    async with hosted(tmp_path, "main.py") as host:
        async with host.curl.start(version, f"{host.url}/events?topic=a") as tab:
            await tab.read_until(bool)
            await host.publish("the last")
            host.running.process.send_signal(signal.SIGTERM)
            # Not 18 (a body that breaks off), 56 (a reset) or 92 (an HTTP/2 stream error).
            assert await tab.wait() == 0, tab.text
            assert tab.text.endswith("data: the last\n\n")
        assert await host.running.wait() == 0, host.running.text
    assert "Traceback" not in host.running.text
