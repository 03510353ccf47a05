"""`h2sse listen`, as a process, against a server in the test's own loop."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from support import Served, certificates, serving

import h2sse
from h2sse.tls import development_certificate

ROOT = Path(__file__).parent.parent
# How long any step of a process may take on a loaded machine, before the test says it hangs.
DEADLINE_SECONDS = 30


def command(*arguments: str, ca: bool = True) -> list[str]:
    trust = ["--ca-file", str(development_certificate(certificates()).ca)] if ca else []
    return [sys.executable, "-m", "h2sse", "listen", *trust, *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "TERM": "xterm"}


async def listen(*arguments: str, cwd: Path, ca: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end."""
    with trio.fail_after(DEADLINE_SECONDS):
        return await trio.run_process(
            command(*arguments, ca=ca),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=cwd,
            env=environment(),
        )


@asynccontextmanager
async def listening(*arguments: str, cwd: Path, stdout: int = -1) -> AsyncIterator[trio.Process]:
    """A process that runs while the block does."""
    process = await trio.lowlevel.open_process(
        command(*arguments), stdout=stdout, stderr=subprocess.PIPE, cwd=cwd, env=environment()
    )
    try:
        with trio.fail_after(DEADLINE_SECONDS):
            yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    await pipe.aclose()


async def until(pipe: object, words: str) -> str:
    """Read until these have come."""
    assert isinstance(pipe, trio.abc.ReceiveStream)
    text = b""
    while words.encode() not in text:
        more = await pipe.receive_some(65536)
        assert more, text
        text += more
    return text.decode()


def url(served: Served, topic: str = "a") -> str:
    return f"https://127.0.0.1:{served.address[1]}/events?topic={topic}"


@pytest.mark.parametrize("more", [(), ("--http1",)], ids=["http2", "http1"])
async def test_json_from_an_event_on(more: tuple[str, ...], tmp_path: Path) -> None:
    app = h2sse.App()
    async with serving(app) as served:
        first = app.publish("a", h2sse.Event(data="0"))
        app.publish("a", h2sse.Event(data="é\n\x1b\x7f", event="tick"))
        last = app.publish("a", h2sse.Event(data="2"))
        asked = ("--json", "--count", "2", "--last-event-id", first.id or "", *more)
        done = await listen(*asked, url(served), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    events = [json.loads(each) for each in done.stdout.decode().splitlines()]
    assert [each["data"] for each in events] == ["é\n\x1b\x7f", "2"]
    assert (events[0]["event"], events[1]["id"]) == ("tick", last.id)
    assert events[0]["url"] == url(served)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", events[0]["time"])
    assert b"\x1b" not in done.stdout
    assert b"\x7f" not in done.stdout


async def test_lines_for_people_from_several_endpoints(tmp_path: Path) -> None:
    app = h2sse.App()
    async with serving(app) as served:
        first = app.publish(["a", "b"], h2sse.Event(data="0"))
        app.publish("a", h2sse.Event(data="one\ntwo", event="tick", id="x"))
        app.publish("b", h2sse.Event(data="three"))
        done = await listen(
            *("--count", "2", "--last-event-id", first.id or ""),
            *(url(served, "a"), url(served, "b")),
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3}  1  tick  id=x  one\n    two$", text, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3}  2  message  id=\S+  three$", text, re.MULTILINE)
    assert f"h2sse: 2 is {url(served, 'b')}\n" in done.stderr.decode()


async def test_an_endpoint_that_ends_it(tmp_path: Path) -> None:
    async with serving(h2sse.App()) as served:
        done = await listen(f"https://127.0.0.1:{served.address[1]}/none", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"answered 404" in done.stderr
        stranger = await listen(url(served), cwd=tmp_path, ca=False)
        assert stranger.returncode == 1
        assert b"not trusted" in stranger.stderr


async def test_a_timeout_without_enough(tmp_path: Path) -> None:
    app = h2sse.App()
    async with serving(app) as served:
        done = await listen("--timeout", "0.5", "--insecure", url(served), cwd=tmp_path, ca=False)
        assert done.returncode == 1, done.stderr
        first = app.publish("a", h2sse.Event(data="0"))
        app.publish("a", h2sse.Event(data="1"))
        asked = ("--timeout", "1", "--last-event-id", first.id or "", url(served))
        some = await listen(*asked, cwd=tmp_path)
        assert (some.returncode, some.stdout.count(b"\n")) == (0, 1)
        few = await listen("--count", "2", *asked, cwd=tmp_path)
        assert few.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "URL"),
        (("http://localhost/",), "only https://"),
        (("--trace",), "URL"),
        (("https://localhost/", "--trace", "."), "cannot write the trace"),
        (("https://localhost/", "--header", "odd"), "NAME:VALUE"),
        (("https://localhost/", "--header", "host: x"), "set by the client"),
        (("https://localhost/", "--count", "0"), "--count"),
        (("https://localhost/", "--timeout", "nan"), "--timeout"),
        (("https://localhost/", "--last-event-id", "a\nb"), "last_event_id"),
    ],
)
async def test_bad_arguments(arguments: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    done = await listen(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert complaint in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_is_a_good_end(number: signal.Signals, tmp_path: Path) -> None:
    async with serving(h2sse.App()) as served, listening(url(served), cwd=tmp_path) as process:
        await until(process.stderr, ": open")
        process.send_signal(number)
        assert await process.wait() == 0


async def test_a_reader_that_leaves_ends_it(tmp_path: Path) -> None:
    app = h2sse.App()
    async with serving(app) as served, listening(url(served), cwd=tmp_path) as process:
        await until(process.stderr, ": open")
        app.publish("a", h2sse.Event(data="first"))
        await until(process.stdout, "first")
        assert process.stdout is not None
        await process.stdout.aclose()
        app.publish("a", h2sse.Event(data="second"))
        assert await process.wait() == 0
        assert process.stderr is not None
        assert b"h2sse:" not in await process.stderr.receive_some(65536)


async def test_a_trace_is_on_stderr_or_in_a_file(tmp_path: Path) -> None:
    app = h2sse.App()
    file = tmp_path / "frames.jsonl"
    async with serving(app) as served:
        first = app.publish("a", h2sse.Event(data="0"))
        app.publish("a", h2sse.Event(data="1", event="tick"))
        asked = ("--count", "1", "--last-event-id", first.id or "")
        done = await listen(*asked, "--trace", url(served), cwd=tmp_path)  # the URL is no FILE
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(b"\n") == 1
        assert re.search(rb"c1   -> s1     HEADERS .* GET /events\?topic=a at ", done.stderr)
        assert re.search(rb"c1   <- s1     DATA .* event tick, ", done.stderr)
        assert re.search(rb"c1   -> s0     GOAWAY .* NO_ERROR", done.stderr), "we say that we go"
        assert re.search(rb"c1   --        CLOSE ", done.stderr)
        done = await listen(*asked, "--http1", url(served), "--trace-json", str(file), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert b"CHUNK" not in done.stderr
    types = [json.loads(each)["type"] for each in file.read_text().splitlines()]
    assert types[:3] == ["OPEN", "REQUEST", "RESPONSE"]
    assert types[-1] == "CLOSE"


async def test_a_server_that_is_started_anew(tmp_path: Path) -> None:
    app = h2sse.App()

    async with trio.open_nursery() as nursery:

        async def serve(port: int) -> tuple[int, trio.CancelScope]:
            tls = h2sse.Tls(directory=certificates())
            config = h2sse.Config(host="127.0.0.1", port=port, tls=tls, retry_ms=200)
            scope = trio.CancelScope()

            async def run(task_status: trio.TaskStatus[h2sse.Listening]) -> None:
                with scope:
                    await h2sse.serve(app, config, task_status=task_status)

            found: h2sse.Listening = await nursery.start(run)
            return found.addresses[0][1], scope

        port, first = await serve(0)
        place = f"https://127.0.0.1:{port}/events?topic=a"
        async with listening("--count", "2", place, cwd=tmp_path) as process:
            await until(process.stderr, ": open")
            app.publish("a", h2sse.Event(data="before"))
            await until(process.stdout, "before")
            first.cancel()
            await until(process.stderr, "again in")
            app.publish("a", h2sse.Event(data="while it was gone"))
            _, second = await serve(port)
            await until(process.stdout, "while it was gone")
            await until(process.stderr, ": open")
            assert await process.wait() == 0
        second.cancel()


async def test_an_event_cannot_command_a_terminal(tmp_path: Path) -> None:
    app = h2sse.App()
    async with serving(app) as served:
        first = app.publish("a", h2sse.Event(data="0"))
        app.publish("a", h2sse.Event(data="\x1b]0;owned\x07\x9b31m\u202e\x7f é", event="\x1bc"))
        main, terminal = pty.openpty()
        try:
            asked = ("--count", "1", "--last-event-id", first.id or "", url(served))
            async with listening(*asked, cwd=tmp_path, stdout=terminal) as process:
                assert await process.wait() == 0
            text = os.read(main, 65536).decode()
        finally:
            os.close(main)
            os.close(terminal)
    plain = re.sub(r"\x1b\[\d*m", "", text)  # our own colours
    assert plain.removesuffix("\r\n").isprintable()
    assert r"\x1b]0;owned\x07\x9b31m\u202e\x7f é" in plain
    assert r"\x1bc" in plain
