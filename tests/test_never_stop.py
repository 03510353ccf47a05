"""Whatever fails, within or around it: the server goes on, says so once, and recovers by itself."""

from __future__ import annotations

import ast
import errno
import functools
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, ClassVar, final

import hpack
import pytest
import trio
import trustme
from process_support import STEP_SECONDS, Process, running
from support import (
    HEADERS,
    PING,
    PREFACE,
    ConnectionLost,
    RawClient,
    Served,
    certificates,
    frame,
    ping,
    reset,
    serving,
    settings_frame,
)
from trio.testing import MockClock

import h2sse
import h2sse.binding
import h2sse.connection
import h2sse.server
import h2sse.tls
from h2sse.connection import Connection
from h2sse.http2 import Http2
from h2sse.lane import Lane
from h2sse.trace import Taps

EVENTS = "/events?topic=a"


@asynccontextmanager
async def bystander(served: Served) -> AsyncIterator[None]:
    """Somebody else's tab, which hears what is published though something failed in the block."""
    async with served.client() as client:
        tab = await client.listen("/events?topic=bystander")
        yield
        served.app.publish("bystander", h2sse.Event(data="x"))
        await client.heard(1, tab)
        async with served.client() as another:
            assert (await another.fetch("/healthz")).status == 200


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.levelno >= logging.ERROR]


class Fault(Exception):
    """Not one that anybody expects."""


# -- a connection


def failing(
    monkeypatch: pytest.MonkeyPatch, where: str, kind: type[Exception] = Fault
) -> list[Http2]:
    """The wires, to be filled in, whose method fails from then on."""
    real: Callable[..., Any] = getattr(Http2, where)
    victims: list[Http2] = []

    @functools.wraps(real)
    def fails(self: Http2, *args: Any, **kwargs: Any) -> Any:
        if self in victims:
            raise kind("a fault", [Fault()]) if kind is ExceptionGroup else kind("a fault")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Http2, where, fails)
    return victims


async def alone(client: RawClient) -> None:
    """Tabs of different topics, so that the connection has a queue of its own (unison.py)."""
    await client.listen(EVENTS)
    await client.listen("/events?topic=elsewhere")


def newest(served: Served) -> tuple[Connection, Http2]:
    connection = list(served.server.connections)[-1]
    assert isinstance(connection.wire, Http2)
    return connection, connection.wire


@pytest.mark.parametrize("kind", [Fault, MemoryError, RecursionError, ExceptionGroup])
@pytest.mark.parametrize("where", ["receive", "take_output", "expire", "respond"])
async def test_a_fault_in_a_connection_is_its_own(
    where: str,
    kind: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    jumping_clock: MockClock,
) -> None:
    """In its reader, a flush, the tick or a task of its own: it ends, and one line says so."""
    app = h2sse.App()

    @app.get("/late")
    async def late(_: h2sse.Request) -> h2sse.Response:
        await trio.lowlevel.checkpoint()
        return h2sse.Response.text("well")

    victims = failing(monkeypatch, where, kind)
    async with serving(app) as served, bystander(served), served.client() as client:
        await alone(client)
        connection, wire = newest(served)
        victims.append(wire)
        match where:
            case "receive":
                await client.send(ping(b"any time"))
            case "take_output":
                app.publish("a", h2sse.Event(data="x"))
            case "respond":
                await client.open_stream("/late")
            case _:
                pass  # the tick comes by itself
        await client.read_to_end()
        await trio.testing.wait_all_tasks_blocked()  # it is closed before its task has ended
        assert not app.tabs("a")
    (record,) = errors(caplog)
    assert record.getMessage() == f"connection {connection.number} of 127.0.0.1 failed"
    assert record.exc_info is not None


@pytest.mark.parametrize("where", ["drain", "send", "finish", "close"])
async def test_a_fault_in_going_away_is_its_own(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The tabs of all others end well, and so does the server."""
    victims = failing(monkeypatch, where)
    async with serving(h2sse.App()) as served, served.client() as other:
        tab = await other.listen(EVENTS)
        async with served.client() as client:
            await client.listen(EVENTS)
            connection, wire = newest(served)
            victims.append(wire)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(served.listening.aclose)
                for each in (client, other):
                    nursery.start_soon(follow, each)
        assert (tab.ended, tab.reset) == (True, None)
    (record,) = errors(caplog)
    assert record.getMessage() == f"connection {connection.number} of 127.0.0.1 failed"


@pytest.mark.parametrize("where", ["the lane", "the connection"])
async def test_a_fault_amid_a_publishing_is_its_own(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The publisher is answered, everybody else hears the event, and one line says who did not."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as first, served.client() as client:
        tabs = [await first.listen(EVENTS)]
        await alone(client)
        connection, wire = newest(served)
        async with served.client() as last:
            tabs.append(await last.listen(EVENTS))
            offer, offered = Lane.offer, Connection.offered

            def offer_fails(self: Lane, payload: bytes) -> None:
                if self.flow is wire._flow and where == "the lane":
                    raise Fault
                offer(self, payload)

            def offered_fails(self: Connection) -> None:
                if self is connection and where == "the connection":
                    raise Fault
                offered(self)

            monkeypatch.setattr(Lane, "offer", offer_fails)
            monkeypatch.setattr(Connection, "offered", offered_fails)
            for number in (1, 2):
                app.publish("a", h2sse.Event(data="x"))
                await first.heard(number, tabs[0])
                await last.heard(number, tabs[1])
            await client.read_to_end()
            assert len(app.tabs("a")) == 2
    (record,) = errors(caplog)
    assert record.getMessage() == f"connection {connection.number} of 127.0.0.1 failed"
    assert record.exc_info is not None


async def follow(client: RawClient) -> None:
    """Read to the end, answering the PING between the two GOAWAYs."""
    with suppress(trio.BrokenResourceError, ConnectionLost):
        asked = await client.read_frame(PING)
        await client.send(frame(PING, 1, 0, asked.payload))
    if not client.at_end:
        await client.read_to_end()
    await trio.aclose_forcefully(client.transport)


# -- the trace


async def test_a_fault_in_the_trace_is_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In what reads the bytes: that connection is no longer traced.  In who listens: one line."""
    seen: list[str] = []
    broken = False

    def listens(records: Iterable[h2sse.trace.TraceRecord]) -> None:
        seen.extend(each.type for each in records)
        if broken:
            raise Fault

    taps = Taps(time.time)
    taps.listeners.append(listens)
    app = h2sse.App()
    tls = h2sse.Tls(directory=certificates())
    async with trio.open_nursery() as nursery:
        config = h2sse.Config(host="127.0.0.1", port=0, tls=tls)
        listening = await nursery.start(h2sse.serve, app, config, taps)
        served = Served(app, listening, certificates() / "ca.pem")
        async with bystander(served), served.client() as client:
            tab = await client.listen(EVENTS)
            broken = True
            await client.send(ping(b"any time"))
            await client.settle()
            broken = False
            told = len(errors(caplog))
            assert told >= 1
            with monkeypatch.context() as patch:
                patch.setattr(h2sse.trace.Tracer, "received", None)
                await client.send(ping(b"any time"))
                await client.settle()
            traced = len(seen)
            app.publish("a", h2sse.Event(data="x"))
            await client.heard(1, tab)
            assert len(seen) == traced
            assert len(errors(caplog)) == told + 1
        assert len(seen) > traced  # others are traced
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
async def test_a_full_disk_under_the_trace_ends_nothing() -> None:
    """`--trace FILE`, without room from the first byte on: one line on stderr."""
    async with running("--trace", "/dev/full") as process:
        for _ in range(3):
            await hear_one(process)
        await process.until(lambda: process.log)
        assert process.log.count("\n") == 1
        assert os.strerror(errno.ENOSPC) in process.log
        assert process.log.endswith("the trace pauses until it can\n")
        process.signal(15)
        assert await process.end() == 0
    assert process.log.count("\n") == 1


async def hear_one(process: Process) -> None:
    """An event from its publisher to a tab."""
    tab = await process.secure("http/1.1")
    await tab.send_all(b"GET /events?topic=a HTTP/1.1\r\nHost: a\r\n\r\n")
    text = b""
    with trio.fail_after(STEP_SECONDS):
        while b"retry: " not in text:
            text += await tab.receive_some()
        other = await process.secure("http/1.1")
        await other.send_all(
            b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 14\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\ntopic=a&data=x"
        )
        while b"data: x\n\n" not in text:
            text += await tab.receive_some()
    await trio.aclose_forcefully(other)
    await trio.aclose_forcefully(tab)


# -- accepting


@final
class Listener(socket.socket):
    """A listener whose kernel has run out of something."""

    faults: ClassVar[list[Exception]] = []

    def accept(self) -> tuple[socket.socket, Any]:
        if self.faults:
            raise self.faults.pop()
        return super().accept()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What `accept` is to raise."""
    bind = h2sse.binding.bind

    async def bind_faulty(config: h2sse.Config) -> list[socket.socket]:
        return [Listener(fileno=each.detach()) for each in await bind(config)]

    monkeypatch.setattr(h2sse.binding, "bind", bind_faulty)
    monkeypatch.setattr(Listener, "faults", [])
    return Listener.faults


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        *(
            (OSError(code, os.strerror(code)), f"accept: {errno.errorcode[code]}")
            for code in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
        ),
        (MemoryError(), "accept: ENOMEM"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_accepting_pauses_and_goes_on(
    faulty: list[Exception],
    fault: Exception,
    reason: str,
    caplog: pytest.LogCaptureFixture,
    jumping_clock: MockClock,
) -> None:
    """What is open is served meanwhile; one line each time it begins."""
    async with serving(h2sse.App()) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        for times in (1, 2):
            faulty += [fault] * 5
            async with trio.open_nursery() as nursery:

                async def come() -> None:
                    async with served.client() as late:
                        assert (await late.fetch("/healthz")).status == 200

                nursery.start_soon(come)
                await trio.testing.wait_all_tasks_blocked()
                served.app.publish("a", h2sse.Event(data="x"))
                await client.heard(times, tab)
            assert not faulty
            paused = [each for each in caplog.messages if each.startswith("accepting pauses: ")]
            assert len(paused) == times
            assert served.server.statistics().reasons[reason] == 5 * times


async def test_a_connection_that_cannot_begin_costs_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever keeps it from it; its socket is closed."""
    async with serving(h2sse.App()) as served, bystander(served):
        with monkeypatch.context() as patch:
            patch.setattr(h2sse.server, "Connection", None)
            with pytest.raises((trio.BrokenResourceError, OSError)):
                await served.secure("h2")
    (record,) = errors(caplog)
    assert record.getMessage() == "a connection of 127.0.0.1 could not begin"


# -- the clock


# Certificates have dates of this world, and a trace is read by people.  All else counts seconds
# that nobody can set.
WALL_CLOCKS = {"tls", "commands", "listen"}


def test_no_deadline_and_no_history_knows_what_time_it_is() -> None:
    """`time.time` and `datetime.now` stand where a date is meant, and nowhere else."""
    root = Path(h2sse.server.__file__).parent
    users = set()
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                *("time.time", "time.time_ns", "time.localtime", "time.gmtime"),
                *("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
            ):
                users.add(module)
    assert {each for each in users if not each.startswith(("demo.", "probe"))} == WALL_CLOCKS


async def test_a_clock_that_is_set_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, jumping_clock: MockClock, tmp_path: Path
) -> None:
    """Years ahead and back: tabs stay, resume by id, and the development certificate follows."""
    step = timedelta()

    class Stepped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # it is one
            return datetime.now(tz) + step

    monkeypatch.setattr(h2sse.tls, "datetime", Stepped)
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + step.total_seconds())
    app = h2sse.App()
    async with trio.open_nursery() as nursery:
        config = h2sse.Config(host="127.0.0.1", port=0, tls=h2sse.Tls(directory=tmp_path))
        listening = await nursery.start(h2sse.serve, app, config)
        served = Served(app, listening, tmp_path / "ca.pem")
        certificates_of = served.server.certificates
        async with served.client() as client:
            tab = await client.listen(EVENTS)
            app.publish("a", h2sse.Event(data="1"))
            await client.heard(1, tab)
            for number, days in enumerate((80, -900, 0), 2):
                step = timedelta(days=days)
                await trio.sleep(6)  # of a clock that jumps
                app.publish("a", h2sse.Event(data=str(number)))
                await client.heard(number, tab)
                now = datetime.now(UTC) + step
                assert now < certificates_of.not_after < now + timedelta(days=91)
            async with served.client() as back:
                last = tab.messages[0].last_event_id
                again = await back.listen(EVENTS, ("last-event-id", last))
                await back.heard(3, again)
                assert again.data == ["2", "3", "4"]
        nursery.cancel_scope.cancel()


# -- a certificate


RUBBISH = {
    "nothing": b"",
    "bytes": bytes(range(256)) * 8,
    "a head alone": b"-----BEGIN CERTIFICATE-----\n",
    "no base64": b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
    "no DER": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
}


@pytest.mark.parametrize("what", [*RUBBISH, "gone", "a directory", "half of it"])
async def test_a_certificate_replaced_by_rubbish(
    what: str,
    jumping_clock: MockClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The old one stays in use, one line says why, and a good one is taken up when it is there."""
    authorities = [trustme.CA(), trustme.CA()]
    cert, key, ca = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"

    def install(authority: trustme.CA) -> None:
        leaf = authority.issue_cert("127.0.0.1")
        cert.write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())

    install(authorities[0])
    authorities[0].cert_pem.write_to_path(ca)
    app = h2sse.App()
    async with trio.open_nursery() as nursery:
        config = h2sse.Config(host="127.0.0.1", port=0, tls=h2sse.Tls(cert=cert, key=key))
        listening = await nursery.start(h2sse.serve, app, config)
        served = Served(app, listening, ca)
        async with bystander(served):
            match what:
                case "gone":
                    cert.unlink()
                case "a directory":
                    cert.unlink()
                    cert.mkdir()
                case "half of it":
                    cert.write_bytes(cert.read_bytes()[:400])
                case _:
                    cert.write_bytes(RUBBISH[what])
            await trio.sleep(16)  # of a clock that jumps; it is looked at every five seconds
            (line,) = [each for each in caplog.records if each.name == "h2sse.tls"]
            assert line.getMessage().startswith("the old certificate stays in use: ")
            assert str(cert) in line.getMessage()
            async with served.client() as client:
                assert (await client.fetch("/healthz")).status == 200
            if what == "a directory":
                cert.rmdir()
            install(authorities[1])
            authorities[1].cert_pem.write_to_path(ca)
            await trio.sleep(6)
        nursery.cancel_scope.cancel()
    assert len([each for each in caplog.records if each.name == "h2sse.tls"]) == 1


# -- memory


STREAMS_A_CONNECTION = 25
# 1,000 connections that left 3 KB each behind, or 25,000 streams that left 120 bytes.
GROWTH_BYTES = 3 * 1024 * 1024


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="measures by /proc")
async def test_memory_is_what_it_was_when_all_have_gone() -> None:
    """1,000 connections with 25,000 streams, after which nothing is left of them.

    `benchmarks/soak.py` does the same for as long as one likes.
    """
    async with running() as process:

        async def settle() -> None:
            await process.until(lambda: descriptors(process.pid) == at_rest)

        at_rest = descriptors(process.pid)
        await come_and_go(process, 250)
        await settle()
        before = pss(process.pid)
        await come_and_go(process, 1_000)
        await settle()
        grown = pss(process.pid) - before
    print(f"PSS grew from {before} by {grown} bytes")
    assert process.log == ""
    assert grown < GROWTH_BYTES


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


async def come_and_go(process: Process, connections: int) -> None:
    context = ssl.create_default_context(cafile=str(process.ca))
    context.set_alpn_protocols(["h2"])
    threads = 4

    def some(first: int) -> None:
        for number in range(first, connections, threads):
            come_once(context, process.port, number)

    async with trio.open_nursery() as nursery:
        for first in range(threads):
            nursery.start_soon(trio.to_thread.run_sync, some, first)


def come_once(context: ssl.SSLContext, port: int, number: int) -> None:
    """A connection with its streams, of a topic of its own; it leaves in one of four ways."""
    encoder = hpack.Encoder()
    streams = range(1, 2 * STREAMS_A_CONNECTION, 2)
    requests = [
        frame(
            HEADERS,
            0x5,
            stream,
            encoder.encode(
                [
                    (":method", "GET"),
                    (":scheme", "https"),
                    (":authority", "localhost"),
                    (":path", f"/events?topic=t{number}"),
                ]
            ),
        )
        for stream in streams
    ]
    plain = socket.create_connection(("127.0.0.1", port), timeout=STEP_SECONDS)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
        sock.sendall(PREFACE + settings_frame({}) + b"".join(requests) + ping(b"are here"))
        text = b""
        while b"are here" not in text:
            text += sock.recv(65_536)
        match number % 4:
            case 0:
                sock.sendall(b"".join(map(reset, streams)) + ping(b"are gone"))
                while b"are gone" not in text:
                    text += sock.recv(65_536)
            case 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            case 2:
                with suppress(ssl.SSLError):
                    sock.unwrap()
            case _:
                pass  # FIN, as browsers leave
