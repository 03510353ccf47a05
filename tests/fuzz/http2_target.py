"""HTTP/2, played: an independent reading of RFC 9113 from the client's end."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

from hpack import Decoder
from playing import LIMITS, play

from h2sse.http2 import Http2
from h2sse.machine import CLOSED_STREAMS

if TYPE_CHECKING:
    from h2sse.wire import Request, Wire

__all__ = ["http2"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
HEAD_BYTES, FRAME_BYTES, DEFAULT_WINDOW = 9, 16_384, 65_535
MAX_WINDOW = 2**31 - 1
LAST_CODE = 13

# Payload that one call may give a stream beyond its bound: the largest that the player has.
ONE_PAYLOAD_BYTES = 48_000


@final
class Http2Reader:
    """What the client allows, by its frames, and whether the server kept to it."""

    def __init__(self) -> None:
        self._in = bytearray()
        self._begun = False
        self.broken = False
        # What the client has said.
        self._highest = 0
        self._initial = DEFAULT_WINDOW
        self._window = DEFAULT_WINDOW
        self._windows: dict[int, int] = {}
        self._reset: set[int] = set()
        self._owed = 0  # bytes of its DATA, for which it may be given window back
        self._pings: deque[bytes] = deque()
        self._tables: deque[int | None] = deque()  # of each SETTINGS, its last HEADER_TABLE_SIZE
        # What it has heard.
        self._decoder = Decoder()
        self._all = bytearray()
        self._frames = 0
        self._last_kind = -1
        self._block: tuple[int, int, bytes] | None = None
        self._answered: set[int] = set()
        self._ended: set[int] = set()
        self._reset_by_server: set[int] = set()
        self._bodies: dict[int, bytearray] = {}
        self._goaway = MAX_WINDOW

    # -- what the client says

    def said(self, data: bytes) -> None:
        self._in += data
        if not self._begun:
            if len(self._in) < len(PREFACE):
                return
            self._begun = True
            del self._in[: len(PREFACE)]
        while len(self._in) >= HEAD_BYTES:
            end = HEAD_BYTES + int.from_bytes(self._in[:3], "big")
            if len(self._in) < end:
                return
            stream = int.from_bytes(self._in[5:9], "big") & MAX_WINDOW
            self._say(self._in[3], self._in[4], stream, bytes(self._in[HEAD_BYTES:end]))
            del self._in[:end]

    def _say(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Take it as if it were well-formed: if it is not, the server closes."""
        if kind in (DATA, RST_STREAM, WINDOW_UPDATE) and stream:
            # RFC 9113 5.1: none of these may come to an idle stream.
            self.broken = self.broken or not stream % 2 or stream > self._highest
        elif kind in (PING, SETTINGS, GOAWAY):
            self.broken = self.broken or stream > 0
        if kind == HEADERS and stream % 2 and stream > self._highest:
            self._highest = stream
            self._windows[stream] = self._initial
        elif kind == RST_STREAM and len(payload) == 4:
            self._reset.add(stream)
        elif kind == DATA:
            self._owed += len(payload)
        elif kind == PING and not flags & ACK:
            self._pings.append(payload)
        elif kind == WINDOW_UPDATE and len(payload) == 4:
            increment = int.from_bytes(payload, "big") & MAX_WINDOW
            if not stream:
                self._window += increment
            elif stream in self._windows:
                self._windows[stream] += increment
        elif kind == SETTINGS and not flags & ACK:
            self._say_settings(payload)

    def _say_settings(self, payload: bytes) -> None:
        table = None
        for at in range(0, len(payload) - 5, 6):
            value = int.from_bytes(payload[at + 2 : at + 6], "big")
            match int.from_bytes(payload[at : at + 2], "big"):
                case 1:
                    table = value
                case 4:
                    for stream in self._windows:
                        self._windows[stream] += value - self._initial
                    self._initial = value
                case _:
                    pass
        self._tables.append(table)

    def asked(self, request: Request) -> None:
        assert request.stream % 2

    def opened(self, stream: int) -> bool:
        return stream % 2 == 1 and stream <= self._highest

    def body(self, stream: int) -> bytes:
        return bytes(self._bodies.get(stream, b""))

    def ended(self, stream: int) -> bool:
        return stream in self._ended

    def room(self, stream: int) -> bool:
        return self._window > 0 and self._windows[stream] > 0 and stream not in self._reset

    # -- what it hears

    def heard(self, data: bytes) -> None:
        """Whole frames, each of which may be sent where it stands."""
        self._all += data
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 3], "big")
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            at += HEAD_BYTES
            assert size <= FRAME_BYTES
            assert stream <= MAX_WINDOW
            self._hear(kind, flags, stream, data[at : at + size])
            at += size
        assert at == len(data)

    def _hear(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert (kind == SETTINGS and not flags) == (not self._frames), "SETTINGS come first, once"
        assert (kind == CONTINUATION) == (self._block is not None)
        self._frames += 1
        self._last_kind = kind
        if kind in (DATA, HEADERS, CONTINUATION):
            assert stream in self._windows, "a stream that is idle"
            assert stream not in self._ended, "after END_STREAM"
            assert stream not in self._reset_by_server, "after RST_STREAM"
        match kind:
            case 0:
                self._hear_data(flags, stream, payload)
            case 1:
                self._block = (flags, stream, payload)
            case 9:
                assert self._block is not None
                assert self._block[1] == stream
                self._block = (self._block[0] | flags, stream, self._block[2] + payload)
            case 3:
                # RFC 9113 6.4: never of an idle stream.
                assert stream % 2
                assert stream <= self._highest
                assert int.from_bytes(payload, "big") <= LAST_CODE
                self._reset_by_server.add(stream)
            case 4:
                self._hear_settings(flags, stream, payload)
            case 6:
                assert not stream
                if flags & ACK:
                    assert self._pings, "an answer to no PING"
                    assert payload == self._pings.popleft()
            case 7:
                assert not stream
                last, code = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")
                assert last <= self._goaway, "GOAWAY takes streams back, never gives"
                assert code <= LAST_CODE
                self._goaway = last
            case 8:
                self._hear_window_update(stream, payload)
            case _:
                raise AssertionError(f"a server sends no frame of kind {kind}")
        if self._block is not None and self._block[0] & END_HEADERS:
            self._hear_headers(*self._block)
            self._block = None

    def _hear_data(self, flags: int, stream: int, payload: bytes) -> None:
        assert stream in self._answered, "DATA before HEADERS"
        size = len(payload)
        if size:
            assert stream not in self._reset
            assert size <= self._window, "over the connection's window"
            assert size <= self._windows[stream], "over the stream's window"
        assert not flags & ~END_STREAM
        self._window -= size
        self._windows[stream] -= size
        self._bodies.setdefault(stream, bytearray()).extend(payload)
        if flags & END_STREAM:
            self._ended.add(stream)

    def _hear_headers(self, flags: int, stream: int, block: bytes) -> None:
        name, value = next(iter(self._decoder.decode(block, raw=True)))[:2]
        assert name == b":status"
        status = int(value)
        assert stream not in self._answered, "two answers"
        if status >= 200:
            self._answered.add(stream)
        else:
            assert status == 100
            assert not flags & END_STREAM
        if flags & END_STREAM:
            self._ended.add(stream)

    def _hear_settings(self, flags: int, stream: int, payload: bytes) -> None:
        assert not stream
        if flags & ACK:
            assert not payload
            assert self._tables, "an answer to no SETTINGS"
            table = self._tables.popleft()
            if table is not None:
                self._decoder.max_allowed_table_size = table
        else:
            assert len(payload) % 6 == 0

    def _hear_window_update(self, stream: int, payload: bytes) -> None:
        increment = int.from_bytes(payload, "big")
        assert 0 < increment <= MAX_WINDOW
        if stream:
            assert stream in self._windows
        else:
            self._owed -= increment
            assert self._owed >= 0, "more window than was used"

    def finish(self, *, left: bool) -> None:
        assert left or self._last_kind == GOAWAY

    def account(self) -> object:
        return bytes(self._all)


def measure(wire: Wire) -> None:
    """What waits in it, counted anew."""
    assert isinstance(wire, Http2)
    machine, flow = wire._machine, wire._flow
    if wire.closed:
        assert not flow.outflows
        assert not flow.turns
        assert wire.waits == wire.unsent
        return
    assert len(wire._screen._buffer) <= HEAD_BYTES + FRAME_BYTES
    bodies = wire._requests.bodies
    sizes = [len(each.data) for each in bodies.values()]
    assert wire._requests.size == sum(sizes) <= LIMITS.connection_body_bytes
    assert max(sizes, default=0) <= LIMITS.body_bytes
    assert wire.open_streams <= LIMITS.max_concurrent_streams
    assert len(machine._closed_streams) <= CLOSED_STREAMS
    assert len(wire._screen.recent) <= CLOSED_STREAMS
    assert bodies.keys() <= machine.streams.keys()
    assert flow.outflows.keys() <= machine.streams.keys()
    lanes = {each.lane for each in flow.outflows.values() if each.lane is not None}
    apart = [each for each in flow.outflows.values() if each.queue is not None]
    most = LIMITS.tab_backlog_bytes + ONE_PAYLOAD_BYTES
    for outflow in apart:
        assert outflow.queue is not None
        assert outflow.waits == sum(map(len, outflow.queue)) - outflow.offset <= most
    for lane in lanes:
        assert lane.queued == sum(map(len, lane.queue)) <= most
    assert flow.queued == sum(each.waits for each in apart) + sum(each.waits for each in lanes)
    # Lanes wait for their turn also when their streams have gone.
    assert len(flow.turns) <= 2 * LIMITS.max_concurrent_streams + 2 * len(flow.outflows)


def http2(data: bytes) -> None:
    """Play a script to an `Http2`."""
    play(data, lambda: Http2(LIMITS), Http2Reader, measure)
