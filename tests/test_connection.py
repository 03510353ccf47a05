"""One connection over real TLS: its deadlines, its bounds, and what a peer can do to others.

Deadlines are awaited on a clock that jumps (conftest.py), so `between` holds them to the second.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import random
import select
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias, final

import hpack
import pytest
import trio
import trio.testing
from support import (
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_WINDOW,
    PATIENCE_SECONDS,
    PING,
    PREFACE,
    RST_STREAM,
    RawClient,
    Served,
    Stream,
    frame,
    ping,
    reset,
    serving,
    settings_frame,
    window_update,
)
from trio.testing import MockClock

import h2sse
import h2sse.binding
import h2sse.connection
import h2sse.server
from h2sse.connection import Connection
from h2sse.flow import TAKE_BYTES, Outflow
from h2sse.frames import FRAME_BYTES
from h2sse.handshake import AT_ONCE, Line
from h2sse.tls_socket import TlsSocket
from h2sse.unison import FLUSH_BYTES

EVENTS = "/events?topic=a"
NO_ERROR, CANCEL, ENHANCE_YOUR_CALM = 0, 8, 11
OPEN_WINDOWS = {INITIAL_WINDOW_SIZE: MAX_WINDOW}
OPEN_CONNECTION = window_update(0, MAX_WINDOW - DEFAULT_WINDOW)


async def until(done: Callable[[], object]) -> None:
    """Wait for what no event of trio's tells of."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not done():  # noqa: ASYNC110
            await trio.sleep(0.001)


@contextmanager
def between(earliest: float, latest: float) -> Iterator[None]:
    """The block takes so many seconds of the clock that jumps."""
    began = trio.current_time()
    yield
    took = trio.current_time() - began
    assert earliest <= took <= latest, took


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    """What comes until the server ends it; a reset is an error."""
    text = b""
    with trio.fail_after(PATIENCE_SECONDS):
        async for data in stream:
            text += data
    return text


async def wait_closed(stream: trio.abc.ReceiveStream) -> None:
    """Until the server has ended it or, what it was sent being unread, reset it."""
    with contextlib.suppress(trio.BrokenResourceError):
        await read_to_end(stream)


@asynccontextmanager
async def in_the_clear(served: Served) -> AsyncIterator[trio.SocketStream]:
    stream = await trio.open_tcp_stream(*served.address)
    async with stream:
        yield stream


async def trickle(stream: trio.abc.SendStream, data: bytes) -> None:
    """A byte every half second, until the server has had enough."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for at in range(len(data)):
            await stream.send_all(data[at : at + 1])
            await trio.sleep(0.5)


def reasons(served: Served) -> dict[str, int]:
    return dict(served.server.statistics().reasons)


# -- before the first request


HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(100)


@pytest.mark.parametrize("said", [b"", HELLO[:1], HELLO], ids=["nothing", "a byte", "half a hello"])
async def test_a_handshake_has_a_deadline(said: bytes, jumping_clock: MockClock) -> None:
    limits = h2sse.Limits(handshake_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served, in_the_clear(served) as stream:
        with between(3, 4):
            if said:
                await stream.send_all(said)
            await wait_closed(stream)
        assert reasons(served) == {"no TLS handshake within handshake_seconds": 1}
        async with served.client() as client:
            assert (await client.fetch("/healthz")).status == 200


def whole_hello(context: ssl.SSLContext) -> bytes:
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    return out.read()


async def test_handshakes_are_taken_in_turns() -> None:
    """Of many hellos at once, few are answered before one who has shaken hands already."""
    async with serving(h2sse.App()) as served, served.client() as client:
        with contextlib.ExitStack() as opened:
            peers = [
                opened.enter_context(socket.create_connection(served.address)) for _ in range(100)
            ]
            await until(lambda: len(served.server.connections) == 101)
            hello = whole_hello(served.context("h2"))
            for peer in peers:
                peer.sendall(hello)
            await client.send(ping(b"12345678"))
            await client.read_frame(PING, ack=True)
            assert len(select.select(peers, [], [], 0)[0]) < 50
            await until(lambda: len(select.select(peers, [], [], 0)[0]) == 100)


Stack: TypeAlias = contextlib.ExitStack | contextlib.AsyncExitStack


def connected(stack: Stack) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = stack.enter_context(socket.create_connection(listener.getsockname()))
        return stack.enter_context(listener.accept()[0]), theirs


RESET = struct.pack("ii", 1, 0)  # on close, SO_LINGER


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has left")
@pytest.mark.parametrize("leave", ["reset", "close"])
async def test_who_has_left_has_no_turn_to_shake_hands(leave: str) -> None:
    line, had, passed_over = Line(), [], 0

    async def take(number: int, sock: socket.socket) -> None:
        nonlocal passed_over
        try:
            async with line.turn(sock):
                had.append(number)
        except ConnectionResetError:
            passed_over += 1

    with contextlib.ExitStack() as opened:
        pairs = [connected(opened) for _ in range(100)]
        async with contextlib.AsyncExitStack() as taken, trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                await taken.enter_async_context(line.turn(pairs[0][0]))
            for number, (ours, theirs) in enumerate(pairs):
                nursery.start_soon(take, number, ours)
                await trio.testing.wait_all_tasks_blocked()
                if number % 10:
                    theirs.sendall(b"x")
                    if leave == "reset":
                        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    theirs.close()
            pairs[50][0].close()  # by a deadline of ours
            await taken.aclose()
    # So many wait behind each other that some are not looked at; then they find out by themselves.
    assert set(had) >= set(range(0, 100, 10)) - {50}
    assert len(had) + passed_over == 100
    assert passed_over > 80
    async with line.turn(pairs[0][0]), line.turn(pairs[0][0]), line.turn(pairs[0][0]):
        assert line._free == AT_ONCE - 3


async def test_who_waits_longest_and_who_came_last_are_next_by_turns() -> None:
    line, had = Line(), list[int]()

    async def take(number: int) -> None:
        async with line.turn(sock):
            had.append(number)

    with contextlib.ExitStack() as opened:
        sock, _ = connected(opened)
        async with contextlib.AsyncExitStack() as taken, trio.open_nursery() as nursery:
            for _ in range(AT_ONCE - 1):
                await taken.enter_async_context(line.turn(sock))
            async with line.turn(sock):
                for number in range(7):
                    nursery.start_soon(take, number)
                    await trio.testing.wait_all_tasks_blocked()
    assert had == [0, 6, 1, 5, 2, 4, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has left")
async def test_who_resets_after_the_hello_costs_no_handshake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = 0

    def counted(*arguments: Any) -> TlsSocket:
        nonlocal begun
        begun += 1
        return TlsSocket(*arguments)

    monkeypatch.setattr(h2sse.connection, "TlsSocket", counted)
    async with serving(h2sse.App()) as served:
        hello = whole_hello(served.context("h2"))
        with contextlib.ExitStack() as opened:
            for _ in range(100):
                peer = opened.enter_context(socket.create_connection(served.address))
                peer.sendall(hello)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                peer.close()
        await until(lambda: served.server.statistics().accepted == 100)
        await until(lambda: not served.server.connections)
        assert begun == 0
        async with served.client() as client:
            assert (await client.fetch("/healthz")).status == 200
        assert begun == 1


async def test_the_deadline_stands_still_until_a_handshake_has_its_turn(
    jumping_clock: MockClock,
) -> None:
    """Thousands that come at once are not to be ended for waiting in line, and come again."""
    limits = h2sse.Limits(handshake_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served:
        async with trio.open_nursery() as nursery:

            async def come() -> None:
                await (await served.secure("h2")).aclose()

            async with contextlib.AsyncExitStack() as taken:
                mine, _ = connected(taken)
                for _ in range(AT_ONCE):
                    await taken.enter_async_context(served.server.handshakes.begin.turn(mine))
                nursery.start_soon(come)
                await trio.sleep(4)
        assert reasons(served) == {}


BEGINNING = PREFACE + settings_frame({})
SECTION = frame(HEADERS, END_STREAM, 1, hpack.Encoder().encode([(":method", "GET")]))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        PREFACE[:10],
        PREFACE,
        PREFACE + settings_frame({})[:5],
        PREFACE + settings_frame({}) + SECTION,
    ],
    ids=["nothing", "half a preface", "no SETTINGS", "half a frame", "half a header section"],
)
async def test_a_first_request_has_a_deadline_over_http2(
    said: bytes, jumping_clock: MockClock
) -> None:
    limits = h2sse.Limits(request_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served:
        async with served.client(hello=b"") as client:
            with between(3, 4):
                await client.send(said)
                await client.read_to_end()
        (goaway,) = [each for each in client.frames if each.kind == GOAWAY]
        assert goaway.code == ENHANCE_YOUR_CALM
        assert reasons(served) == {"no whole frame within request_seconds": 1}


@pytest.mark.parametrize(
    ("said", "answer"),
    [(b"", b""), (b"GET / HTTP/1.1\r\nHost: h\r\n", b"HTTP/1.1 408 Request Timeout\r\n")],
    ids=["nothing", "half a header section"],
)
async def test_a_first_request_has_a_deadline_over_http1(
    said: bytes, answer: bytes, jumping_clock: MockClock
) -> None:
    limits = h2sse.Limits(request_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served:
        stream = await served.secure("http/1.1")
        with between(3, 4):
            await stream.send_all(said)
            text = await read_to_end(stream)
        assert text[: len(answer)] == answer
        assert bool(text) == bool(answer)
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize(
    ("protocol", "said", "slow"),
    [
        ("h2", b"", PREFACE),
        ("h2", BEGINNING, SECTION),
        ("http/1.1", b"GET / HTTP/1.1\r\n", b"Host: h\r\nAccept: */*\r\n"),
    ],
    ids=["preface", "frame", "http/1.1"],
)
async def test_a_trickle_does_not_move_the_deadline(
    protocol: str, said: bytes, slow: bytes, jumping_clock: MockClock
) -> None:
    limits = h2sse.Limits(request_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served, trio.open_nursery() as nursery:
        stream = await served.secure(protocol)
        with between(3, 4):
            await stream.send_all(said)
            nursery.start_soon(trickle, stream, slow)
            await read_to_end(stream)
        await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


async def test_plain_http_is_told_to_use_https() -> None:
    for request in (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"POST /" + b"x" * 50_000, PREFACE):
        async with serving(h2sse.App()) as served, in_the_clear(served) as stream:
            await stream.send_all(request)
            answer = await read_to_end(stream)
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"https://" in answer


@pytest.mark.parametrize(
    "said",
    [
        b"\0" * 100,
        b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        HELLO[:60] * 9,
    ],
    ids=["zeros", "an oversized record", "another protocol", "a broken hello"],
)
async def test_what_is_not_tls_is_closed_without_ado(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(h2sse.App()) as served, in_the_clear(served) as stream:
        await stream.send_all(said)
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_eof()  # for the one that could be a beginning still
        await wait_closed(stream)
        async with served.client() as client:
            assert (await client.fetch("/healthz")).status == 200
        await until(lambda: dict(served.server.statistics().connections) in ({}, {"h2": 0}))
    assert not [each for each in caplog.records if each.levelno > logging.INFO]


# -- bodies


@pytest.mark.parametrize("trickles", [False, True])
async def test_a_body_has_a_deadline_over_http2(trickles: bool, jumping_clock: MockClock) -> None:
    limits = h2sse.Limits(body_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        stream, head = client.request("/publish", method="POST", body=b"")
        head = head[: -len(frame(DATA, END_STREAM, stream.id))]
        with between(3, 4):
            await client.send(head)
            async with trio.open_nursery() as nursery:
                if trickles:
                    nursery.start_soon(_trickle_frames, client, stream)
                await client.over(stream)
        assert stream.status == 408
        await client.settle()
        # RFC 9113 8.1: the answer is whole, and the rest of the request is not wanted.
        resets = [each.code for each in stream.frames if each.kind == RST_STREAM]
        assert (stream.ended, resets) == (True, [NO_ERROR])
        served.app.publish("a", h2sse.Event(data="x"))
        await client.heard(1, tab)


async def _trickle_frames(client: RawClient, stream: Stream) -> None:
    while not stream.over:
        await client.send(frame(DATA, 0, stream.id, b"x"))
        await trio.sleep(0.5)


@pytest.mark.parametrize("trickles", [False, True])
async def test_a_body_has_a_deadline_over_http1(trickles: bool, jumping_clock: MockClock) -> None:
    limits = h2sse.Limits(body_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served, trio.open_nursery() as nursery:
        stream = await served.secure("http/1.1")
        with between(3, 4):
            await stream.send_all(
                b"POST /publish HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\n"
            )
            if trickles:
                nursery.start_soon(trickle, stream, b"x" * 99)
            assert (await read_to_end(stream)).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


# -- idle connections


async def test_an_idle_http2_connection_is_closed(jumping_clock: MockClock) -> None:
    limits = h2sse.Limits(idle_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        await trio.sleep(10)
        # A tab, however quiet, is not idle; when it has gone, the time begins.
        served.app.publish("a", h2sse.Event(data="x"))
        await client.heard(1, tab)
        await client.send(reset(tab.id))
        await client.settle()
        with between(3, 4):
            await client.read_to_end()
        (goaway,) = [each for each in client.frames if each.kind == GOAWAY]
        assert (goaway.code, goaway.last_stream) == (NO_ERROR, tab.id)


async def test_an_idle_http1_connection_is_closed(jumping_clock: MockClock) -> None:
    limits = h2sse.Limits(idle_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served:
        stream = await served.secure("http/1.1")
        for _ in range(2):
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
            text = await stream.receive_some()
            assert text.startswith(b"HTTP/1.1 200 ")
            await trio.sleep(1)
        with between(2, 3):
            # Without an answer to a question that was not asked.
            assert await read_to_end(stream) == b""
        await trio.aclose_forcefully(stream)


# -- peers that do not read


def narrow_server(patch: pytest.MonkeyPatch) -> None:
    """The server's kernel holds little; accepted sockets inherit it (socket(7))."""
    bind = h2sse.binding.bind

    async def bind_small(config: h2sse.Config) -> list[socket.socket]:
        sockets = await bind(config)
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return sockets

    patch.setattr(h2sse.binding, "bind", bind_small)


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's kernel holds little."""
    narrow_server(monkeypatch)


@asynccontextmanager
async def narrow(served: Served, protocol: str) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    """A client's connection whose kernel holds little."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(served.address)
    stream = trio.SSLStream(
        trio.SocketStream(sock),
        served.context(protocol),
        server_hostname=served.address[0],
        https_compatible=True,
    )
    try:
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def narrow_client(served: Served) -> AsyncIterator[RawClient]:
    """The same over HTTP/2, with windows that never close."""
    async with narrow(served, "h2") as stream:
        client = RawClient(stream, "narrow")
        await client.send(PREFACE + settings_frame(OPEN_WINDOWS) + OPEN_CONNECTION)
        yield client


async def fill_socket(served: Served, topic: str) -> None:
    """Publish until the kernel's buffers take no more."""
    written = -1
    while served.server.bytes_sent > written:
        written = served.server.bytes_sent
        served.app.publish(topic, h2sse.Event(data="x" * 50_000))
        # The client's kernel acknowledges what nobody reads 40 ms late; then ours takes some more.
        await trio.testing.wait_all_tasks_blocked(0.1)


@contextmanager
def standing_still(clock: MockClock) -> Iterator[None]:
    """No jumps: what is waited for is not the server."""
    threshold, clock.autojump_threshold = clock.autojump_threshold, math.inf
    yield
    clock.autojump_threshold = threshold


async def test_a_socket_that_stays_full_is_closed(
    jumping_clock: MockClock, small_buffers: None
) -> None:
    limits = h2sse.Limits(stall_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served, narrow_client(served) as client:
        await client.listen("/events?topic=large")
        left = trio.Event()
        served.app.presence("large")(lambda _: left.set())
        with standing_still(jumping_clock):
            await fill_socket(served, "large")
        with between(2, 4):
            assert not left.is_set()
            await left.wait()
        assert reasons(served) == {"socket full for stall_seconds": 1}
        assert not served.server.statistics().connections["h2"]


async def test_a_socket_that_stays_full_is_closed_over_http1(
    jumping_clock: MockClock, small_buffers: None
) -> None:
    limits = h2sse.Limits(stall_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served, narrow(served, "http/1.1") as stream:
        await stream.send_all(b"GET /events?topic=large HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        left = trio.Event()
        served.app.presence("large")(lambda _: left.set())
        with standing_still(jumping_clock):
            await fill_socket(served, "large")
        with between(2, 4):
            assert not left.is_set()
            await left.wait()
        assert reasons(served) == {"socket full for stall_seconds": 1}
        assert not served.server.connections


async def test_a_slow_reader_is_not_a_stalled_one(
    jumping_clock: MockClock, small_buffers: None
) -> None:
    limits = h2sse.Limits(stall_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served, narrow_client(served) as client:
        tab = await client.listen(EVENTS)
        served.app.publish("a", h2sse.Event(data="x" * 200_000))
        with between(10, 20):
            while not tab.messages:
                size = len(tab.body)
                await trio.sleep(1)  # and then take a TLS record
                await client.read_until(lambda size=size: len(tab.body) > size)  # type: ignore[misc]  # mypy cannot type a lambda's default
        assert not tab.over


async def test_a_flood_of_pings_from_one_who_does_not_read_is_not_read(
    small_buffers: None,
) -> None:
    limits = h2sse.Limits(unsent_control_bytes=16 * 1024, small_frames=30_000)
    flood = [ping(number.to_bytes(8, "big")) for number in range(20_000)]
    async with (
        serving(h2sse.App(), limits=limits) as served,
        narrow_client(served) as client,
        served.client() as other,
        trio.open_nursery() as nursery,
    ):
        tab = await other.listen(EVENTS)
        nursery.start_soon(client.transport.send_all, b"".join(flood))
        taken = -1
        while taken < served.server.bytes_received:
            taken = served.server.bytes_received
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert taken < 100 * 1024
        served.app.publish("a", h2sse.Event(data="x"))
        await other.heard(1, tab)
        # Once it reads, it has every answer.
        await client.read_until(
            lambda: client.frames and client.frames[-1].payload == flood[-1][9:]
        )
        answers = [each.payload for each in client.frames if each.kind == PING]
        assert answers == [each[9:] for each in flood]


async def test_a_window_closed_for_too_long_ends_its_stream(jumping_clock: MockClock) -> None:
    limits = h2sse.Limits(stall_seconds=3)
    app = h2sse.App()
    app.get("/large")(lambda _: h2sse.Response.text("x" * 100_000))
    async with serving(app, limits=limits) as served, served.client() as client:
        await client.send(OPEN_CONNECTION)
        tab, other = await client.listen("/events?topic=large"), await client.listen(EVENTS)
        with between(3, 4):
            app.publish("large", h2sse.Event(data="x" * 100_000))
            page = await client.open_stream("/large")
            await client.over(tab, page)
        # The tab comes back and resumes; half a page is not to be taken for a whole one.
        assert (tab.ended, tab.reset) == (True, None)
        assert (page.ended, page.reset) == (False, CANCEL)
        app.publish("a", h2sse.Event(data="x"))
        await client.heard(1, other)


async def test_a_connection_window_closed_for_too_long_ends_the_connection(
    jumping_clock: MockClock,
) -> None:
    limits = h2sse.Limits(stall_seconds=3)
    async with (
        serving(h2sse.App(), limits=limits) as served,
        served.client(settings=OPEN_WINDOWS) as client,
    ):
        await client.listen(EVENTS)
        with between(3, 5):
            served.app.publish("a", h2sse.Event(data="x" * 100_000))
            await client.read_to_end()
        assert client.window == 0
        assert client.frames[-1].kind == GOAWAY
        assert client.frames[-1].code == ENHANCE_YOUR_CALM


async def test_a_connection_window_may_stay_closed_when_nothing_waits(
    jumping_clock: MockClock,
) -> None:
    limits = h2sse.Limits(stall_seconds=3)
    async with (
        serving(h2sse.App(), limits=limits) as served,
        served.client(settings=OPEN_WINDOWS) as client,
    ):
        await close_window(served, client)
        await trio.sleep(10)
        await client.send(OPEN_CONNECTION)
        assert (await client.fetch("/healthz")).status == 200


async def test_streams_behind_a_closed_window_leave_nothing_when_they_go() -> None:
    """No turn comes to them, so nothing that is theirs may wait for one."""
    async with (
        serving(h2sse.App()) as served,
        served.client(settings=OPEN_WINDOWS) as client,
    ):
        await close_window(served, client)
        for _ in range(5):
            opened = [client.request(EVENTS) for _ in range(100)]
            await client.send(*(data for _, data in opened))
            await client.answered(*(stream for stream, _ in opened))
            await client.send(*(reset(stream.id) for stream, _ in opened))
            await client.settle()
        assert served.app.hub.statistics().tabs == 0
        gc.collect()
        left = [each for each in gc.get_objects() if isinstance(each, Outflow)]
        assert len(left) < 10


async def close_window(served: Served, client: RawClient) -> None:
    """Take the connection's window up with a tab that then goes."""
    tab = await client.listen("/events?topic=large")
    served.app.publish("large", h2sse.Event(data="x" * 100_000))
    await client.read_until(lambda: client.window == 0)
    await client.send(reset(tab.id))
    await client.settle()


async def test_a_tab_without_window_delays_no_other_and_resumes_in_full() -> None:
    """It is ended at its bound, by END_STREAM, and its id brings the rest, each event once."""
    app = h2sse.App()
    limits = h2sse.Limits(tab_backlog_bytes=8 * 1024)
    async with (
        serving(app, limits=limits) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: 400}) as client,
    ):
        await client.send(OPEN_CONNECTION)
        stalled, *others = [await client.listen(EVENTS) for _ in range(21)]
        await client.send(*(window_update(each.id, MAX_WINDOW - 400) for each in others))
        for count in range(1, 201):
            app.publish("a", h2sse.Event(data=f"{count} " + "x" * 100))
            # Each event, before the next is published.
            await client.heard(count, *others)
        assert stalled.ended
        assert stalled.reset is None
        assert stalled.window == 0
        assert served.server.statistics().overflowed == 1
        assert len(app.tabs("a")) == 20
        had = stalled.messages
        again = await client.open_stream(EVENTS, ("last-event-id", had[-1].last_event_id))
        await client.send(window_update(again.id, MAX_WINDOW - 400))
        await client.heard(200 - len(had), again)
        assert had + again.messages == others[0].messages


async def test_of_a_large_event_little_is_framed_before_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Framing goes ahead of writing for many connections, by so many bytes at the most."""
    app = h2sse.App()
    framed: list[int] = []
    flush = Connection.flush
    async with serving(app) as served, contextlib.AsyncExitStack() as stack:

        def noting(self: Connection) -> None:
            connections = served.server.connections
            framed.append(sum(len(each._pending) for each in connections if each.full is None))
            flush(self)

        clients = [
            await stack.enter_async_context(served.client(settings=OPEN_WINDOWS)) for _ in range(20)
        ]
        for client in clients:
            await client.send(OPEN_CONNECTION)
            await client.listen(EVENTS)
        monkeypatch.setattr(Connection, "flush", noting)
        app.publish("a", h2sse.Event(data="x" * 400_000))
        for client in clients:
            await client.heard(1, client.streams[1])
    assert FLUSH_BYTES <= max(framed) < FLUSH_BYTES + TAKE_BYTES + FRAME_BYTES


# -- the last word


async def test_the_last_word_arrives_though_the_peer_goes_on_talking() -> None:
    """Input left unread would make the kernel reset the connection, and our GOAWAY be lost."""
    async with serving(h2sse.App()) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        wrong = frame(DATA, 0, 0, b"DATA on no stream is a connection error")
        await client.send(wrong, *(ping(b"and more") for _ in range(20_000)))
        await client.read_to_end()
        assert client.frames[-1].kind == GOAWAY
        assert client.frames[-1].last_stream == tab.id
        # By then it has left already, and its handlers and tabs with it.
        assert not served.app.tabs("a")


async def test_a_connection_in_error_holds_no_tab_though_its_socket_is_full(
    small_buffers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2sse.server, "TICK_SECONDS", 3600)
    async with serving(h2sse.App()) as served, narrow_client(served) as client:
        await client.listen(EVENTS)
        await fill_socket(served, "a")
        assert len(served.app.tabs("a")) == 1
        await client.send(frame(DATA, 0, 0, b"DATA on no stream is a connection error"))
        await until(lambda: not served.app.tabs("a"))


# -- acceptance: tabs that come and go


TABS_A_CONNECTION = 10


@final
class Tab:
    """An EventSource: it remembers its last event ID, and what it heard."""

    __slots__ = ("heard", "parser")

    def __init__(self) -> None:
        self.parser = h2sse.Parser()
        self.heard: list[str] = []

    def feed(self, data: bytes) -> None:
        for message in self.parser.feed(data):
            assert message.event == "message", message  # no gap is told of
            self.heard.append(message.data)


@final
class Browser:
    """One HTTP/2 connection with ten tabs, all of which come back whenever they are dropped."""

    def __init__(self, served: Served, context: ssl.SSLContext) -> None:
        self.tabs = [Tab() for _ in range(TABS_A_CONNECTION)]
        self._address = served.address
        self._context = context
        self._open: dict[int, Tab] = {}
        self._transport: trio.SSLStream[trio.SocketStream] | None = None
        self._stream = 1

    @property
    def is_up(self) -> bool:
        return self._transport is not None

    async def run(self) -> None:
        """Connect, read, and start again when the connection has been dropped."""
        while True:
            transport = await trio.open_ssl_over_tcp_stream(
                *self._address, https_compatible=True, ssl_context=self._context
            )
            self._stream = 1
            self._open.clear()
            hello = PREFACE + settings_frame(OPEN_WINDOWS) + OPEN_CONNECTION
            try:
                await transport.send_all(hello + b"".join(map(self._request, self.tabs)))
                self._transport = transport
                with contextlib.suppress(trio.ClosedResourceError):
                    await self._read(transport)
                    raise AssertionError("the server closed the connection")
            finally:
                await trio.aclose_forcefully(transport)

    async def drop(self) -> None:
        """Reset the connection: all its tabs are dropped."""
        assert self._transport is not None
        tcp, self._transport = self._transport.transport_stream, None
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(tcp)

    async def drop_tabs(self, tabs: list[Tab]) -> None:
        """Reset the streams of some tabs, and open new ones for them."""
        assert self._transport is not None
        streams = [stream for stream, tab in self._open.items() if tab in tabs]
        for stream in streams:
            del self._open[stream]
        said = [reset(stream) for stream in streams] + [self._request(tab) for tab in tabs]
        await self._transport.send_all(b"".join(said))

    def _request(self, tab: Tab) -> bytes:
        tab.parser = h2sse.Parser(last_event_id=tab.parser.last_event_id)
        fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "browser"),
            (":path", EVENTS),
            ("last-event-id", tab.parser.last_event_id),
        ]
        stream, self._stream = self._stream, self._stream + 2
        self._open[stream] = tab
        block = hpack.Encoder().encode(fields)
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)

    async def _read(self, transport: trio.SSLStream[trio.SocketStream]) -> None:
        rest = b""
        while data := await transport.receive_some(64 * 1024):
            rest += data
            at = 0
            while len(rest) >= at + 9:
                end = at + 9 + int.from_bytes(rest[at : at + 3], "big")
                if end > len(rest):
                    break
                kind, flags = rest[at + 3], rest[at + 4]
                assert kind != GOAWAY
                if kind == DATA:
                    assert not flags & END_STREAM
                    tab = self._open.get(int.from_bytes(rest[at + 5 : at + 9], "big"))
                    if tab is not None:
                        tab.feed(rest[at + 9 : end])
                at = end
            rest = rest[at:]


async def test_a_thousand_tabs_that_come_and_go_hear_every_event_once_in_order() -> None:
    chance = random.Random(5)
    app = h2sse.App()
    async with serving(app) as served, trio.open_nursery() as nursery:
        context = served.context("h2")
        browsers = [Browser(served, context) for _ in range(100)]
        tabs = [tab for browser in browsers for tab in browser.tabs]
        for browser in browsers:
            nursery.start_soon(browser.run)
        with trio.fail_after(60):
            await _until_all(lambda: len(app.tabs("a")) == len(tabs))
            await _until_all(lambda: all(tab.parser.last_event_id for tab in tabs))

        published = 0
        drops = 0
        while published < 100:
            for _ in range(chance.randint(1, 4)):
                app.publish("a", h2sse.Event(data=f"{published}"))
                published += 1
            up = [browser for browser in browsers if browser.is_up]
            for browser in chance.sample(up, min(6, len(up))):
                if chance.random() < 0.2:
                    await browser.drop()
                    drops += TABS_A_CONNECTION
                else:
                    some = chance.sample(browser.tabs, chance.randint(1, TABS_A_CONNECTION))
                    await browser.drop_tabs(some)
                    drops += len(some)
            # Anything from nobody hearing of it to everybody.
            for _ in range(chance.choice((0, 1, 5))):
                await trio.lowlevel.checkpoint()

        expected = [f"{number}" for number in range(published)]
        with trio.fail_after(60):
            await _until_all(lambda: all(len(tab.heard) >= published for tab in tabs))
        await trio.testing.wait_all_tasks_blocked(0.01)  # what would come twice comes now
        assert all(tab.heard == expected for tab in tabs)
        statistics = app.hub.statistics()
        assert statistics.tabs == len(tabs)
        assert statistics.gaps == 0
        assert drops > len(tabs)
        nursery.cancel_scope.cancel()
    assert app.hub.statistics().tabs == 0


async def _until_all(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110
        await trio.sleep(0.01)
