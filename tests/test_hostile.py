"""Hostile and broken peers, by real bytes over real TLS.  `docs/security.md` names these tests.

Each attack is sent as it stands in its description (a CVE has its number beside it); the server is
to answer as promised, to count the reason, and to go on serving everyone else.  Those that
benchmarks/soak.py sends without end are in benchmarks/floods.py.
"""

from __future__ import annotations

import ctypes
import logging
import socket
import ssl
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import pairwise

import pytest
import trio
from support import (
    ACK,
    CONTINUATION,
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
    SETTINGS,
    ConnectionLost,
    RawClient,
    Served,
    Stream,
    frame,
    reset,
    serving,
    settings_frame,
    waiting,
    window_update,
)
from trio.testing import MockClock

import h2sse
import h2sse.intake
from benchmarks.attacks import ATTACKS, EVENTS, FLOODS, _attack_once, malformed_requests
from h2sse.handshake import was_reset
from h2sse.sse import HEARTBEAT
from h2sse.tls_socket import STEP_BYTES, TlsSocket
from h2sse.turns import Usage

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 0, 1, 3, 6
STREAM_CLOSED, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 5, 7, 8, 9, 11

# A tenth of the defaults, and next to nothing earned back while a test runs.
LIMITS = h2sse.Limits(
    small_frames=100,
    small_frames_per_second=0.01,
    resets=50,
    resets_per_second=0.01,
    settings_frames=5,
    settings_frames_per_minute=0.01,
)


def reasons(served: Served) -> dict[str, int]:
    return dict(served.server.statistics().reasons)


async def attack(client: RawClient, *pieces: bytes) -> int:
    """Send bytes to one who may have enough of them before their end; the code of its GOAWAY."""
    with suppress(trio.BrokenResourceError):
        await client.send(*pieces)
    await client.read_to_end()
    assert client.frames[-1].kind == GOAWAY
    return client.frames[-1].code


@asynccontextmanager
async def bystander(served: Served) -> AsyncIterator[None]:
    """Somebody else's tab, which hears what is published though the block was an attack."""
    async with served.client() as client:
        tab = await client.listen("/events?topic=bystander")
        yield
        served.app.publish("bystander", h2sse.Event(data="x"))
        await client.heard(1, tab)


# -- HTTP/2: floods


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_ends_its_connection(name: str) -> None:
    """Legal frames in illegal numbers: ENHANCE_YOUR_CALM, one reason, and nobody else feels it."""
    build, reason = FLOODS[name]
    async with serving(h2sse.App(), limits=LIMITS) as served, bystander(served):
        async with served.client() as client:
            assert await attack(client, *build(client)) == ENHANCE_YOUR_CALM
        assert reasons(served)[reason] == 1
        assert not served.app.tabs("a")


@pytest.mark.parametrize("name", FLOODS)
async def test_a_little_less_is_no_flood(name: str) -> None:
    """With the bounds as they are by default, as much as that is nothing."""
    build, _ = FLOODS[name]
    async with serving(h2sse.App()) as served, served.client() as client:
        await client.settle()
        await client.send(*build(client))
        await client.settle()
        assert all(each.kind != GOAWAY for each in client.frames)


async def test_a_reset_that_answers_nothing_is_a_small_frame() -> None:
    """RST_STREAM for a stream that is over."""
    async with serving(h2sse.App(), limits=LIMITS) as served, served.client() as client:
        answer = await client.fetch("/healthz")
        assert await attack(client, *[reset(answer.id)] * 110) == ENHANCE_YOUR_CALM
        assert reasons(served) == {"too many RST_STREAM frames": 1}


@pytest.mark.parametrize(
    "pieces",
    [
        [(HEADERS, END_HEADERS)],
        [(HEADERS, END_HEADERS | END_STREAM)],
        [(HEADERS, 0), (CONTINUATION, END_HEADERS)],
        [(DATA, END_STREAM)],
    ],
    ids=["trailers without end", "trailers", "trailers in two", "the end of a body"],
)
@pytest.mark.parametrize("by_us", [True, False], ids=["by the server", "by the client"])
async def test_a_stream_that_is_over_is_no_way_round_the_bounds(
    pieces: list[tuple[int, int]], by_us: bool
) -> None:
    """Whatever is answered with RST_STREAM once more counts like the first (CVE-2025-8671)."""
    async with serving(h2sse.App(), limits=LIMITS) as served, bystander(served):
        async with served.client() as client:
            stream, data = client.request("/publish", method="POST", body=b"")
            await client.send(data.removesuffix(frame(DATA, END_STREAM, stream.id)))
            over = window_update(stream.id, 0) if by_us else reset(stream.id)
            flood = b"".join(frame(kind, flags, stream.id) for kind, flags in pieces)
            assert await attack(client, over, *[flood] * 60) == ENHANCE_YOUR_CALM
            assert len([each for each in client.frames if each.kind == RST_STREAM]) <= 51
        assert reasons(served)["too many requests given up"] == 1


# -- HTTP/2: what browsers do all day


async def test_300_tabs_opened_and_closed_in_a_loop_are_no_flood() -> None:
    """EventSource.close() of a tab that was answered counts for nothing."""
    limits = h2sse.Limits(
        max_concurrent_streams=300,
        resets=10,
        resets_per_second=0.01,
        small_frames=10,
        small_frames_per_second=0.01,
    )
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        await client.send(window_update(0, 10_000_000))
        for _ in range(10):
            opened = [client.request(EVENTS) for _ in range(300)]
            # Firefox gives each a window of its own.
            pieces = [data + window_update(tab.id, 12_451_840) for tab, data in opened]
            await client.send(*pieces)
            await client.begun(*(tab for tab, _ in opened))
            await client.send(*(reset(tab.id) for tab, _ in opened))
        assert (await client.fetch("/healthz")).status == 200
        assert reasons(served) == {}
        assert served.server.statistics().resets_received == 3_000


async def test_a_page_that_is_reloaded_while_it_loads_is_no_flood() -> None:
    """A hundred requests given up a second, none of them answered, with the default bounds."""
    app = h2sse.App()

    @app.get("/slow")
    async def slow(_: h2sse.Request) -> h2sse.Response:
        await trio.sleep_forever()
        raise AssertionError

    async with serving(app) as served, served.client() as client:
        for _ in range(5):
            opened = [client.request("/slow") for _ in range(100)]
            await client.send(*(data for _, data in opened))
            await client.send(*(reset(stream.id) for stream, _ in opened))
        assert (await client.fetch("/healthz")).status == 200
        assert reasons(served) == {}


async def test_a_client_that_gives_back_every_event_by_itself_is_no_flood() -> None:
    """Two WINDOW_UPDATE frames for each DATA frame, as simple clients send them."""
    limits = h2sse.Limits(small_frames=20, small_frames_per_second=0.01)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        for number in range(1, 200):
            served.app.publish("a", h2sse.Event(data="x" * 50))
            await client.heard(number, tab)
            size = len(tab.data_frames[-1].payload)
            await client.send(window_update(0, size), window_update(tab.id, size))
        assert (await client.fetch("/healthz")).status == 200


# -- HTTP/2: frames that are refused


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (frame(SETTINGS, 0, 0, bytes(6 * 33))[:9], ENHANCE_YOUR_CALM),
        (b"\0\x40\x01" + bytes((HEADERS, 0, 0, 0, 0, 1)), FRAME_SIZE_ERROR),
        (b"\xff\xff\xff" + bytes((0xBB, 0, 0, 0, 0, 1)), FRAME_SIZE_ERROR),
    ],
    ids=["SETTINGS of 33 entries", "HEADERS over 16 KiB", "unknown of 16 MiB"],
)
async def test_a_frame_too_long_is_refused_by_its_head(head: bytes, code: int) -> None:
    """Nothing of its body is waited for, nor kept."""
    async with serving(h2sse.App()) as served, bystander(served), served.client() as client:
        assert await attack(client, head) == code


async def test_settings_of_32_entries_are_taken() -> None:
    """Clients that send eleven have been met."""
    async with serving(h2sse.App()) as served, served.client() as client:
        await client.send(settings_frame(dict.fromkeys(range(0x1000, 0x1020), 1)))
        assert (await client.fetch("/healthz")).status == 200


async def test_data_after_the_end_resets_its_stream_and_says_so() -> None:
    """RFC 9113 5.1: the tab has said that it sends nothing more."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        stream, other = await client.listen(EVENTS), await client.listen(EVENTS)
        await client.send(frame(DATA, 0, stream.id, b"x"))
        await client.read_until(lambda: stream.over)
        assert stream.reset == STREAM_CLOSED
        # What is on its way to a stream that was reset is no new fault.
        heard = len(client.frames)
        await client.send(frame(DATA, 0, stream.id, b"x"))
        await client.settle()
        assert not [each for each in client.frames[heard:] if each.stream == stream.id]
        app.publish("a", h2sse.Event(data="still here"))
        await client.heard(1, other)


async def test_an_acknowledgement_of_nothing_is_refused() -> None:
    """The server has sent SETTINGS once."""
    async with serving(h2sse.App()) as served, served.client() as client:
        await client.send(frame(SETTINGS, ACK, 0))
        await client.settle()
        assert await attack(client, frame(SETTINGS, ACK, 0)) == PROTOCOL_ERROR
        assert reasons(served) == {"SETTINGS acknowledged that we did not send": 1}


# -- HTTP/2: header sections


async def test_a_header_block_is_bounded() -> None:
    """CONTINUATION frames that are few but long (CVE-2024-27316)."""
    async with serving(h2sse.App()) as served, served.client() as client:
        pieces = [frame(HEADERS, END_STREAM, 1, bytes(16_384))]
        pieces += [frame(CONTINUATION, 0, 1, bytes(16_384))] * 4
        assert await attack(client, *pieces) == ENHANCE_YOUR_CALM
        assert reasons(served) == {"header block too long": 1}


async def test_continuation_frames_do_not_move_the_deadline(jumping_clock: MockClock) -> None:
    """A header section that never ends, in pieces that come just in time."""
    limits = h2sse.Limits(request_seconds=4)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        await client.settle()
        began = trio.current_time()
        await client.send(frame(HEADERS, END_STREAM, 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_piece_by_piece, client)
            await client.read_to_end()
            assert 4 <= trio.current_time() - began <= 6
            nursery.cancel_scope.cancel()
        assert client.frames[-1].code == ENHANCE_YOUR_CALM


async def _piece_by_piece(client: RawClient) -> None:
    with suppress(trio.BrokenResourceError):
        while True:
            await trio.sleep(1)
            await client.send(frame(CONTINUATION, 0, 1))


async def test_table_size_updates_are_bounded() -> None:
    """RFC 7541 4.2 has a use for two at the start of a block."""
    async with serving(h2sse.App()) as served, served.client() as client:
        stream, data = client.request("/healthz")
        twice = b"\x20\x3f\xe1\x1f"  # to 0, and back to 4,096
        await client.send(frame(HEADERS, 5, stream.id, twice + data[9:]))
        await client.over(stream)
        assert stream.status == 200
        bomb = frame(HEADERS, 5, stream.id + 2, b"\x20" * 16_000)
        assert await attack(client, bomb) == COMPRESSION_ERROR


@pytest.mark.parametrize(
    "block",
    [b"\x80", b"\xfe", b"\x40\x0aab", b"\x00\x81\xff\xff", b"\x3f\xe2\x1f", b"\x82\x20"],
    ids=[
        "index 0",
        "an index that is not there",
        "a literal that breaks off",
        "Huffman code that is none",
        "a table over the one we allow",
        "a table-size update amid fields",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
async def test_a_section_that_cannot_be_decoded_is_a_compression_error(
    block: bytes, whole: bool
) -> None:
    """RFC 9113 4.3: without its state no later section can be read."""
    parts = frame(HEADERS, 5, 1, block)
    if not whole:
        parts = frame(HEADERS, 1, 1, block[:1]) + frame(CONTINUATION, 4, 1, block[1:])
    async with serving(h2sse.App()) as served, served.client() as client:
        assert await attack(client, parts) == COMPRESSION_ERROR
        assert reasons(served) == {"CompressionError": 1}


async def test_a_header_bomb_is_not_unpacked() -> None:
    """2 KB that name one field of the table 1,900 times (CVE-2016-6581)."""
    async with serving(h2sse.App()) as served, served.client() as client:
        stream, data = client.request("/healthz", ("x", "y"))
        await client.send(data)
        await client.over(stream)
        bomb = frame(HEADERS, 5, stream.id + 2, b"\xbe" * 1_900)
        assert await attack(client, bomb) == ENHANCE_YOUR_CALM


async def test_reasons_are_few_whatever_a_peer_makes_up() -> None:
    """Names and values of its own choice do not become metrics."""
    async with serving(h2sse.App()) as served, served.client() as client:
        for number in range(100):
            await client.fetch("/", (f"a b{number}", "1"))
            await client.fetch("/", (f"x{number}", f"\x01{number}"))
        assert len(reasons(served)) == 2


# -- HTTP/2: the age of a connection


async def test_a_connection_at_the_end_of_its_ids_is_told_to_go() -> None:
    """It keeps its streams, and gets no new ones."""
    async with serving(h2sse.App()) as served, served.client() as client:
        early = await client.listen(EVENTS)
        client.next_stream = 2**30 + 1
        late = await client.listen(EVENTS)
        (goaway,) = [each for each in client.frames if each.kind == GOAWAY]
        assert (goaway.code, goaway.last_stream) == (NO_ERROR, MAX_WINDOW)
        (asked,) = [each for each in client.frames if each.kind == PING]
        await client.send(frame(PING, ACK, 0, asked.payload))
        goaway = await client.read_frame(GOAWAY)
        assert (goaway.code, goaway.last_stream) == (NO_ERROR, late.id)
        surplus = await client.fetch(EVENTS)
        assert surplus.reset == REFUSED_STREAM
        served.app.publish("a", h2sse.Event(data="x"))
        await client.heard(1, early, late)


# -- liveness


async def test_a_silent_http2_peer_is_noticed(jumping_clock: MockClock) -> None:
    """One PING for all tabs; without an answer the tabs are gone, and presence says so."""
    limits = h2sse.Limits(probe_seconds=3, probe_answer_seconds=2)
    app = h2sse.App()
    left = trio.Event()
    async with serving(app, limits=limits) as served, served.client() as client:
        await client.listen(EVENTS)
        await client.listen(EVENTS)
        app.presence("a")(lambda _: left.set())
        began = trio.current_time()
        await left.wait()
        assert 5 <= trio.current_time() - began <= 8
        await client.read_to_end()
        assert len([each for each in client.frames if each.kind == PING]) == 1
        assert reasons(served) == {"no answer to a PING within probe_answer_seconds": 1}


async def test_a_peer_that_answers_is_left_alone(jumping_clock: MockClock) -> None:
    """And its round trip is known."""
    limits = h2sse.Limits(probe_seconds=3, probe_answer_seconds=2)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        for _ in range(5):
            asked = await client.read_frame(PING)
            await client.send(frame(PING, ACK, 0, asked.payload))
        served.app.publish("a", h2sse.Event(data="x"))
        await client.heard(1, tab)
        (connection,) = served.server.connections
        assert connection.round_trip is not None
        assert connection.round_trip < 1


async def test_a_connection_without_streams_is_not_asked(jumping_clock: MockClock) -> None:
    """It is closed when it has been idle for long enough, and costs nothing until then."""
    limits = h2sse.Limits(probe_seconds=1, idle_seconds=3)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        await client.settle()
        mark = len(client.frames)
        await client.read_to_end()
        assert [each.kind for each in client.frames[mark:]] == [GOAWAY]


@contextmanager
def cable_pulled(sock: trio.socket.SocketType) -> Iterator[None]:
    """Nothing reaches this socket any more, so it acknowledges nothing: a filter drops it all."""

    class Instruction(ctypes.Structure):
        _fields_ = (
            ("code", ctypes.c_uint16),
            ("jt", ctypes.c_uint8),
            ("jf", ctypes.c_uint8),
            ("k", ctypes.c_uint32),
        )

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(Instruction)))

    attach, detach = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER of Linux
    drop_all = Instruction(code=0x06, k=0)  # return 0 bytes
    program = Program(length=1, filter=ctypes.pointer(drop_all))
    sock.setsockopt(socket.SOL_SOCKET, attach, bytes(program))
    try:
        yield
    finally:
        sock.setsockopt(socket.SOL_SOCKET, detach, 0)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_a_pulled_cable_is_noticed(protocol: str) -> None:
    """Over HTTP/2 by the PING, over HTTP/1.1 by heartbeats that nobody acknowledges."""
    limits = h2sse.Limits(probe_seconds=0.5, probe_answer_seconds=0.5, unacknowledged_seconds=0.5)
    app = h2sse.App()
    arrived, left = trio.Event(), trio.Event()

    @app.presence("a")
    def _(change: h2sse.Presence) -> None:
        (arrived if change.joined else left).set()

    async with serving(app, limits=limits, heartbeat_seconds=0.5) as served:
        stream = await served.secure(protocol)
        sock = stream.transport_stream.socket
        if protocol == "h2":
            client = RawClient(stream, "localhost")
            await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings_frame({}))
            await client.listen(EVENTS)
            for _again in range(2):  # who is there, and says so, stays
                asked = await client.read_frame(PING)
                await client.send(frame(PING, ACK, 0, asked.payload))
        else:
            await stream.send_all(b"GET /events?topic=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
            heard = b""
            with trio.fail_after(PATIENCE_SECONDS):
                while heard.count(HEARTBEAT) < 2:
                    heard += await stream.receive_some()
        assert arrived.is_set()
        assert not left.is_set()
        with cable_pulled(sock), trio.fail_after(30):
            await left.wait()
        await trio.aclose_forcefully(stream)


# -- what the operator sees


async def test_an_attack_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A WARNING that names the peer and all reasons; what is no attack is INFO."""
    caplog.set_level(logging.INFO, "h2sse.server")
    async with serving(h2sse.App(), limits=LIMITS) as served:
        async with served.client() as client:
            await attack(client, *malformed_requests(client))
        async with served.client() as client:
            await client.fetch("/", ("x", "a\x01"))
        with trio.fail_after(PATIENCE_SECONDS):
            while served.server.connections:  # noqa: ASYNC110
                await trio.sleep(0.01)
    lines = [each for each in caplog.records if "from 127.0.0.1" in each.getMessage()]
    assert [each.levelno for each in lines] == [logging.WARNING, logging.INFO]
    assert "too many requests given up (1)" in lines[0].getMessage()
    assert "a value with control bytes or blank ends (RFC 9113 8.2.1) (51)" in lines[0].getMessage()


async def test_a_thousand_attacks_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, jumping_clock: MockClock
) -> None:
    """Past a rate they are counted, and the next line says how many there were."""
    caplog.set_level(logging.INFO, "h2sse.server")

    def lines() -> list[str]:
        return [m for m in caplog.messages if "from 127.0.0.1" in m]

    async with serving(h2sse.App()) as served:
        for _ in range(30):
            async with served.client() as client:
                await client.fetch("/", ("x", "a\x01"))
        while served.server.connections:  # noqa: ASYNC110
            await trio.sleep(0.001)
        told = len(lines())
        assert 20 <= told < 30
        await trio.sleep(10)
        async with served.client() as client:
            await client.fetch("/", ("x", "a\x01"))
        while served.server.connections:  # noqa: ASYNC110
            await trio.sleep(0.001)
        assert lines()[-1].endswith(f"(and {30 - told} connections more that were not logged)")


# -- one loop for all


@pytest.mark.parametrize("end", ["close", "go on"])
async def test_heavy_input_is_taken_in_turns(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """However slow the machine: all of it is taken, in order, and its end is seen."""
    monkeypatch.setattr(h2sse.intake, "TURN_SECONDS", -1.0)  # every turn is over at once
    monkeypatch.setattr(h2sse.intake, "PIECE_BYTES", 100)
    limits = h2sse.Limits(max_concurrent_streams=1_000)
    app = h2sse.App()
    async with (
        serving(app, limits=limits) as served,
        bystander(served),
        served.client() as one,
        served.client() as two,
    ):
        tabs = {}
        for client in (one, two):
            made = [client.request(EVENTS) for _ in range(300)]
            await client.send(*(data for _, data in made))
            tabs[client] = [stream for stream, _ in made]
        for client in (one, two):
            await client.begun(*tabs[client])
        app.publish("a", h2sse.Event(data="x"))
        for client in (one, two):
            await client.heard(1, *tabs[client])
            if end == "close":
                await trio.aclose_forcefully(client.transport)
            else:
                await client.send(*(reset(stream.id) for stream in tabs[client]))
        with trio.fail_after(PATIENCE_SECONDS):
            while app.tabs("a"):  # noqa: ASYNC110
                await trio.sleep(0.01)


def takes_long(began: list[float] | None = None) -> h2sse.App:
    """`began` is when each such request was, in the server's time."""
    app = h2sse.App()

    @app.get("/long")
    def long(_: h2sse.Request) -> h2sse.Response:
        if began is not None:
            began.append(trio.current_time())
        until = time.perf_counter() + 0.03
        while time.perf_counter() < until:
            pass
        return h2sse.Response(status=204)

    return app


async def test_what_takes_long_leaves_others_half_of_the_time() -> None:
    """However many such requests come at once: one handler that does not wait cannot be cut."""
    began: list[float] = []
    async with (
        serving(takes_long(began)) as served,
        served.client() as one,
        served.client() as other,
    ):
        made = [one.request("/long") for _ in range(20)]
        await one.send(*(data for _, data in made))
        answers = 0
        async with trio.open_nursery() as nursery:

            async def all_answered() -> None:
                await one.answered(*(stream for stream, _ in made))
                nursery.cancel_scope.cancel()

            nursery.start_soon(all_answered)
            while True:
                await other.fetch("/healthz")
                answers += 1
    assert len(began) == len(made)
    # The first is answered at once: until then its peer had used little.
    assert all(later - before >= 2 * 0.03 for before, later in pairwise(began[1:]))
    assert answers > len(made) / 2


async def test_of_records_without_data_one_step_is_taken_at_a_time() -> None:
    async with serving(h2sse.App()) as served, served.client() as other:
        before = set(served.server.connections)
        async with trio.open_nursery() as nursery:
            async with served.server.turns.turn(Usage(0), 0):  # another's
                nursery.start_soon(
                    _attack_once, ATTACKS["key updates"], *served.address, Counter[str]()
                )
                with trio.fail_after(PATIENCE_SECONDS):
                    while not (found := set(served.server.connections) - before):  # noqa: ASYNC110
                        await trio.sleep(0.01)
                    (attacked,) = found
                    while not ((tls := attacked._tls) and tls.idle_bytes > STEP_BYTES):  # noqa: ASYNC110
                        await trio.sleep(0.01)
                for _ in range(10):
                    await other.fetch("/healthz")
                assert tls.idle_bytes <= 2 * STEP_BYTES <= 2_048  # of twenty at once, 20 ms
            with trio.fail_after(PATIENCE_SECONDS):
                while "TLS records without data" not in served.server.statistics().reasons:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["key updates behind data", "key updates amid data"])
async def test_data_buys_records_without_data_no_step_beside_a_turn(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twenty at once each step would be taken in one round of the loop: 10 ms each, once."""
    in_turns: list[int] = []
    beside: list[int] = []

    def watched(tls: TlsSocket, size: int, step: int = STEP_BYTES) -> bytes:
        before = waiting(tls._sock) + tls._in.pending
        try:
            return recv(tls, size, step)
        finally:
            taken = before - waiting(tls._sock) - tls._in.pending
            (in_turns if served.server.turns._taken else beside).append(taken)

    recv = TlsSocket.recv
    monkeypatch.setattr(TlsSocket, "recv", watched)
    async with serving(h2sse.App()) as served:
        await _attack_once(ATTACKS[name], *served.address, Counter[str]())
    assert max(beside) <= STEP_BYTES
    assert sum(beside) < sum(in_turns)


async def test_who_has_taken_much_time_waits_for_a_turn_and_nobody_else_does() -> None:
    async with (
        serving(takes_long()) as served,
        served.client() as one,
        served.client() as other,
    ):
        await one.fetch("/long")
        async with served.server.turns.turn(Usage(0), 0):
            stream, data = one.request("/healthz")
            await one.send(data)
            before = served.server.statistics().requests
            for _ in range(5):
                await other.fetch("/healthz")
            assert served.server.statistics().requests == before + 5
        await one.answered(stream)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has left")
async def test_who_resets_its_connection_has_no_turn() -> None:
    """A peer can ask and reset faster than it is served, and those who stay would wait for all."""
    app, heard = takes_long(), list[str]()

    @app.get("/tell")
    def tell(request: h2sse.Request) -> h2sse.Response:
        heard.append(request.query)
        return h2sse.Response(status=204)

    async with serving(app) as served, served.client() as one, served.client() as other:
        for client in (one, other):
            await client.fetch("/long")
        turns, connections = served.server.turns, set(served.server.connections)
        with trio.fail_after(PATIENCE_SECONDS):
            async with turns.turn(Usage(0), 0):
                await one.send(one.request("/tell?one")[1])
                stream, data = other.request("/tell?other")
                await other.send(data)
                while len(turns._waiting) < 2:  # noqa: ASYNC110 - it comes by no event
                    await trio.sleep(0.01)
                one.transport.transport_stream.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                await trio.aclose_forcefully(one.transport)
                while not any(was_reset(each._sock) for each in connections):  # noqa: ASYNC110
                    await trio.sleep(0.01)
        await other.over(stream)
        assert heard == ["other"]


# -- what holds a connection open, and does no more

HELD_SECONDS = 75
HELLO = PREFACE + settings_frame({})
NO_WINDOW = PREFACE + settings_frame({INITIAL_WINDOW_SIZE: 0})
WIDE_STREAMS = PREFACE + settings_frame({INITIAL_WINDOW_SIZE: MAX_WINDOW})


def _post(client: RawClient) -> bytes:
    """A request whose body is to follow."""
    stream, data = client.request("/publish", method="POST", body=b"")
    return data.removesuffix(frame(DATA, END_STREAM, stream.id))


def _get(path: str) -> Callable[[RawClient], bytes]:
    return lambda client: client.request(path)[1]


# What a client begins with, what it goes on with, and the code it is sent away with at last.
HOLDS: dict[str, tuple[bytes, Callable[[RawClient], bytes], int]] = {
    "no preface": (b"", lambda _: b"", ENHANCE_YOUR_CALM),
    "no SETTINGS": (PREFACE, lambda _: b"", ENHANCE_YOUR_CALM),
    "no request": (HELLO, lambda _: b"", NO_ERROR),
    "half a header section": (HELLO, lambda client: _post(client)[:-1], ENHANCE_YOUR_CALM),
    "no body": (HELLO, _post, NO_ERROR),
    "no bodies": (HELLO, lambda client: b"".join(_post(client) for _ in range(3)), NO_ERROR),
    "no body, no window": (NO_WINDOW, _post, NO_ERROR),
    "no window for an answer": (NO_WINDOW, _get("/healthz"), NO_ERROR),
    "no window for a tab": (NO_WINDOW, _get(EVENTS), NO_ERROR),
    "no window for a refusal": (
        NO_WINDOW,
        lambda client: client.request(EVENTS, *[("x", "y")] * 110)[1],
        NO_ERROR,
    ),
    "no window for either": (
        NO_WINDOW,
        lambda client: _get(EVENTS)(client) + _post(client),
        NO_ERROR,
    ),
    "no window for the connection": (WIDE_STREAMS, _get("/large"), ENHANCE_YOUR_CALM),
}


@pytest.mark.parametrize("what", HOLDS)
async def test_a_connection_that_only_holds_is_gone(what: str, jumping_clock: MockClock) -> None:
    """With the limits as they are, though it answers PINGs and never closes by itself."""
    hello, build, code = HOLDS[what]
    app = h2sse.App()
    app.get("/large")(lambda _: h2sse.Response.text("x" * 100_000))
    async with serving(app) as served, served.client(hello=hello) as client:
        began = trio.current_time()
        await client.send(build(client))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_pings, client)
            await gone(served)
        assert trio.current_time() - began <= HELD_SECONDS
        (goaway,) = [each for each in client.frames if each.kind == GOAWAY]
        assert goaway.code == code


def _instead(build: Callable[[RawClient], bytes]) -> Callable[[RawClient], bytes]:
    """The same, and the one before is reset."""
    opened: list[int] = []

    def again(client: RawClient) -> bytes:
        data = build(client)
        opened.append(int.from_bytes(data[5:9], "big"))
        return b"".join(reset(stream) for stream in opened[-2:-1]) + data

    return again


def _reset_at_once(client: RawClient) -> bytes:
    stream, data = client.request(EVENTS)
    return data + reset(stream.id)


# Likewise, but of these one comes every so many seconds.
HELD_ANEW: dict[str, tuple[bytes, Callable[[RawClient], bytes], float]] = {
    "no window for a tab, each 50 s": (NO_WINDOW, _get(EVENTS), 50),
    "no window for a tab, each 5 s": (NO_WINDOW, _get(EVENTS), 5),
    "no window for an answer, each 50 s": (NO_WINDOW, _get("/healthz"), 50),
    "no window for an answer, each 5 s": (NO_WINDOW, _get("/healthz"), 5),
    "no body, each 10 s": (HELLO, _post, 10),
    "no body, each half second": (HELLO, _post, 0.5),
    "no body, each 28 s, the last reset": (HELLO, _instead(_post), 28),
    "no body, each second, the last reset": (HELLO, _instead(_post), 1),
    "no window for a tab, each 59 s, the last reset": (NO_WINDOW, _instead(_get(EVENTS)), 59),
    "no window for a tab, each 29 s, the last reset": (NO_WINDOW, _instead(_get(EVENTS)), 29),
    "no window for an answer, each 5 s, the last reset": (NO_WINDOW, _instead(_get("/x")), 5),
    "no body and no window, each 5 s": (
        NO_WINDOW,
        lambda client: _get(EVENTS)(client) + _post(client),
        5,
    ),
    "no window for the connection, no body, each 10 s": (
        WIDE_STREAMS,
        lambda client: _get("/large")(client) + _post(client),
        10,
    ),
    "malformed requests, each 5 s": (
        HELLO,
        lambda client: client.request("/healthz", ("connection", "close"))[1],
        5,
    ),
    "requests that are reset at once, each 5 s": (HELLO, _reset_at_once, 5),
    "header sections too large, each 50 s": (
        HELLO,
        lambda client: client.request("/healthz", *[("x", "y")] * 110)[1],
        50,
    ),
}


@pytest.mark.parametrize("what", HELD_ANEW)
async def test_a_connection_that_holds_anew_is_gone(what: str, jumping_clock: MockClock) -> None:
    """One stream more before the last is late buys no time, if nothing comes of any."""
    hello, build, every_seconds = HELD_ANEW[what]
    app = h2sse.App()
    app.get("/large")(lambda _: h2sse.Response.text("x" * 100_000))
    async with serving(app) as served, served.client(hello=hello) as client:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_pings, client)
            nursery.start_soon(_again, client, build, every_seconds)
            await gone(served)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began <= HELD_SECONDS


async def _again(
    client: RawClient, build: Callable[[RawClient], bytes], every_seconds: float
) -> None:
    with suppress(trio.BrokenResourceError):
        while True:
            await client.send(build(client))
            await trio.sleep(every_seconds)


async def test_a_stream_that_is_late_is_not_replaced(jumping_clock: MockClock) -> None:
    """Nor does the next one buy time that comes once the last has been reset."""
    async with serving(h2sse.App()) as served, served.client(hello=NO_WINDOW) as client:
        began = trio.current_time()
        client.patience_seconds = HELD_SECONDS
        stream = await client.open_stream("/healthz")
        asked = await client.read_frame(PING)
        await client.send(frame(PING, ACK, 0, asked.payload))
        await client.over(stream)
        await client.open_stream("/healthz")
        await gone(served)
        assert trio.current_time() - began <= HELD_SECONDS


async def test_a_tab_that_overflows_before_it_is_late_buys_no_time(
    jumping_clock: MockClock,
) -> None:
    """Of which nothing was ever taken."""
    app = h2sse.App()
    async with serving(app) as served, served.client(hello=NO_WINDOW) as client:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_pings, client)
            tab = await client.open_stream(EVENTS)
            await trio.sleep(25)
            app.publish("a", h2sse.Event(data="x" * served.server.limits.tab_backlog_bytes))
            await gone(served)
        assert tab.ended
        assert trio.current_time() - began <= HELD_SECONDS


async def _feed_by_a_byte(client: RawClient, stream: Stream) -> None:
    with suppress(trio.BrokenResourceError):
        while True:
            await client.send(window_update(stream.id, 1))
            await trio.sleep(1)


async def test_a_tab_that_is_fed_by_a_byte_buys_no_time_when_it_overflows(
    jumping_clock: MockClock,
) -> None:
    """It has taken its greeting, and falls behind."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        began = trio.current_time()
        tab = await client.listen(EVENTS)
        await client.send(window_update(0, MAX_WINDOW - DEFAULT_WINDOW))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_pings, client)
            nursery.start_soon(_feed_by_a_byte, client, tab)
            app.publish("a", h2sse.Event(data="x" * DEFAULT_WINDOW))  # no window is left
            while not tab.over and served.server.connections:
                app.publish("a", h2sse.Event(data="x" * 10_000))
                await trio.sleep(1)
            assert trio.current_time() - began >= 20
            await gone(served)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began <= HELD_SECONDS


@asynccontextmanager
async def without_windows(app: h2sse.App) -> AsyncIterator[tuple[Served, RawClient]]:
    """A client that answers PINGs and gives its streams no window."""
    async with (
        serving(app) as served,
        served.client(hello=NO_WINDOW) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_answer_pings, client)
        yield served, client
        nursery.cancel_scope.cancel()


async def test_a_tab_that_was_behind_finds_its_connection_when_it_comes_back(
    jumping_clock: MockClock,
) -> None:
    app = h2sse.App()
    async with without_windows(app) as (served, client):
        tab = await client.open_stream(EVENTS)
        await client.send(window_update(tab.id, 10_000))
        await trio.sleep(100)
        app.publish("a", h2sse.Event(data="x" * 10_000))
        app.publish("a", h2sse.Event(data="x" * served.server.limits.tab_backlog_bytes))
        await trio.sleep(4)
        assert tab.ended
        again, data = client.request(EVENTS)
        await client.send(data, window_update(again.id, 10_000))
        await trio.sleep(100)
        assert again.status == 200
        assert not again.over


@pytest.mark.parametrize("path", ["/healthz", EVENTS], ids=["answers", "tabs"])
async def test_a_window_that_stays_closed_ends_its_tab_whatever_others_do(
    path: str, jumping_clock: MockClock
) -> None:
    """Each by itself, and neither those that are read nor their connection."""
    app = h2sse.App()
    async with without_windows(app) as (_, client):
        held, read = await client.open_stream("/events?topic=b"), []
        for _ in range(8):
            assert not held.over
            stream, data = client.request(path)
            await client.send(data, window_update(stream.id, 10_000))
            read.append(stream)
            app.publish("a", h2sse.Event(data="x"))
            app.publish("b", h2sse.Event(data="x"))
            await trio.sleep(4)
        assert held.ended
        assert held.reset is None
        assert not held.body
        assert all(stream.body and stream.reset is None for stream in read)
        assert path != EVENTS or not any(stream.ended for stream in read)
        assert path != EVENTS or not [each for each in client.frames if each.kind == GOAWAY]


async def test_a_body_that_trickles_does_not_hold_its_connection(jumping_clock: MockClock) -> None:
    async with serving(h2sse.App()) as served, served.client() as client:
        began = trio.current_time()
        await client.send(_post(client))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_pings, client)
            nursery.start_soon(_trickle, client, client.streams[1])
            await gone(served)
        assert trio.current_time() - began <= HELD_SECONDS
        assert client.streams[1].status == 408
        assert client.streams[1].body.startswith(b'{"title": "Request Timeout"')
        assert client.frames[-1].code == NO_ERROR


async def _trickle(client: RawClient, stream: Stream) -> None:
    with suppress(trio.BrokenResourceError):
        while True:
            await client.send(frame(DATA, 0, stream.id, b"x"))
            await trio.sleep(1)


async def test_a_late_body_ends_nothing_that_others_wait_for(jumping_clock: MockClock) -> None:
    """Neither a tab beside it, nor the next request, nor the time that follows it."""
    limits = h2sse.Limits(body_seconds=3, idle_seconds=10)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        client.patience_seconds = 60
        tab = await client.listen(EVENTS)
        await client.send(_post(client))
        await client.over(client.streams[3])
        assert client.streams[3].status == 408
        await trio.sleep(5)
        await client.send(reset(tab.id))
        await trio.sleep(5)
        assert (await client.fetch("/healthz")).status == 200
        # Alone it takes the connection with it, unless another request comes meanwhile.
        await client.send(_post(client))
        await client.over(client.streams[7])
        assert (await client.fetch("/healthz")).status == 200
        began = trio.current_time()
        await client.read_to_end()
        assert 10 <= trio.current_time() - began <= 11
        assert client.frames[-1].code == NO_ERROR


@pytest.mark.parametrize(
    "said",
    [b"", b"GET / HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"],
    ids=["nothing", "half a header section", "a request, and no other"],
)
async def test_http1_a_connection_that_only_holds_is_gone(
    said: bytes, jumping_clock: MockClock
) -> None:
    async with serving(h2sse.App()) as served:
        stream = await served.secure("http/1.1")
        began = trio.current_time()
        await stream.send_all(said)
        await gone(served)
        assert trio.current_time() - began <= HELD_SECONDS
        await trio.aclose_forcefully(stream)


async def test_http1_a_body_that_trickles_does_not_hold_its_connection(
    jumping_clock: MockClock,
) -> None:
    async with serving(h2sse.App()) as served:
        stream = await served.secure("http/1.1")
        began = trio.current_time()
        await stream.send_all(POST + b"Content-Length: 99\r\n\r\n")
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                with suppress(trio.BrokenResourceError):
                    while True:
                        await stream.send_all(b"x")
                        await trio.sleep(1)

            nursery.start_soon(trickle)
            await gone(served)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began <= HELD_SECONDS
        await trio.aclose_forcefully(stream)


async def _answer_pings(client: RawClient) -> None:
    client.patience_seconds = 10 * HELD_SECONDS
    with suppress(ConnectionLost):
        while True:
            asked = await client.read_frame(PING)
            await client.send(frame(PING, ACK, 0, asked.payload))


async def gone(served: Served) -> None:
    """Until the server has no connection any more; that comes by no event."""
    with trio.fail_after(10 * HELD_SECONDS):
        while served.server.connections:  # noqa: ASYNC110
            await trio.sleep(1)


async def test_early_requests_over_http1_are_answered_in_turns_too() -> None:
    """Others have theirs after each piece of input whose answers took long, not after all of it."""
    request = b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n"
    others = 0
    answered: Counter[int] = Counter()
    app = h2sse.App()

    @app.get("/long")
    def long(_: h2sse.Request) -> h2sse.Response:
        ends = time.perf_counter() + 0.001
        while time.perf_counter() < ends:
            pass
        answered[others] += 1
        return h2sse.Response()

    async def other() -> None:
        nonlocal others
        while True:
            await trio.lowlevel.checkpoint()
            others += 1

    async with (
        serving(app) as served,
        await served.secure("http/1.1") as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(other)
        await stream.send_all(request * 500)
        with trio.fail_after(PATIENCE_SECONDS):
            while answered.total() < 500:
                await stream.receive_some()
        nursery.cancel_scope.cancel()
    # One or two pieces of input, as trio has it, and not the 16 KB that are read at once.
    assert max(answered.values()) <= 4 * h2sse.intake.PIECE_BYTES // len(request)


# -- HTTP/1.1


async def say(served: Served, data: bytes) -> bytes:
    """Send bytes to HTTP/1.1 and read to the end of the connection."""
    stream = await served.secure("http/1.1")
    async with stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
        text = b""
        with trio.fail_after(PATIENCE_SECONDS), suppress(trio.BrokenResourceError):
            async for piece in stream:
                text += piece
    return text


POST = b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

REFUSED = {
    "CL and TE": (POST + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "TE and CL": (POST + CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
    "a length with a sign": (POST + b"Content-Length: +5\r\n\r\n", 400),
    "a length of two": (POST + b"Content-Length: 5, 6\r\n\r\n", 400),
    "TE twice": (POST + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n", 501),
    "TE of another name": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "TE over HTTP/1.0": (
        POST.replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNKED + b"\r\n0\r\n\r\n",
        400,
    ),
    "a bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "a bare CR": (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    "a folded line": (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
    "a blank before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "a bare LF in chunks": (POST + CHUNKED + b"\r\n2\n{}\r\n0\r\n\r\n", 400),
    "a long head": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 17_000 + b"\r\n\r\n", 431),
    "many fields": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    "a long target": (b"GET /" + b"y" * 17_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a large body": (POST + b"Content-Length: 9999999\r\n\r\n", 413),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_http1_what_could_be_read_in_two_ways_is_refused(what: str) -> None:
    """One answer, then the end: what follows is never taken for a request."""
    data, status = REFUSED[what]
    async with serving(h2sse.App()) as served, bystander(served):
        text = await say(served, data + SMUGGLED)
        assert text.startswith(b"HTTP/1.1 %d " % status)
        assert text.count(b"HTTP/1.1 ") == 1
        assert sum(reasons(served).values()) == 1


async def test_http1_early_requests_are_bounded() -> None:
    """A megabyte of them: those that fit are answered, and the last answer says that it is."""
    async with serving(h2sse.App()) as served, bystander(served):
        one = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        # None is answered before the handler of the first is done, so they wait.
        gate = trio.Event()

        @served.app.get("/gate")
        async def _(_: h2sse.Request) -> h2sse.Response:
            await gate.wait()
            return h2sse.Response.text("well")

        stream = await served.secure("http/1.1")
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(_send_all, stream, one.replace(b"healthz", b"gate") + one * 30_000)
            with trio.fail_after(PATIENCE_SECONDS):
                while "too many early requests" not in reasons(served):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            gate.set()
            text = b""
            with trio.fail_after(PATIENCE_SECONDS), suppress(trio.BrokenResourceError):
                async for piece in stream:
                    text += piece
            nursery.cancel_scope.cancel()
        assert text.count(b"HTTP/1.1 200") == 1
        assert b"connection: close" in text.lower()


async def _send_all(stream: trio.SSLStream[trio.SocketStream], data: bytes) -> None:
    with suppress(trio.BrokenResourceError, ssl.SSLError):
        await stream.send_all(data)
