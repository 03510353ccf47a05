"""The client's side of an HTTP/2 connection: requests in, `StreamEvent`s out; sans-IO.

h2 is the state machine, but each frame passes by us first, one by one.  Where h2 4.4 ends the
connection and RFC 9113 only the stream, or nothing at all, the frame never reaches it:

- Header sections are put together, decoded and judged here; h2 is shown a stand-in that says no
  more than "response", "informational" or "trailers".  A malformed response (8.1.1) resets its
  stream, and nothing that a field holds can raise inside h2.
- GOAWAY (6.8): h2 would take no frame after it, while streams up to its last id live on.
- Frames on streams that we have reset (5.1), and those of no use to a client that sends no bodies.

Windows: the connection's is given back on arrival, a stream's as its reader reads.  So a slow
reader stalls its own stream and no other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Decoder, NeverIndexedHeaderTuple
from hpack.exceptions import HPACKError

from h2sse.fields import read_trailers
from h2sse.wire import Fields

from .exchange import Data, Ended, Head, Lost, StreamEvent
from .limits import ClientLimits

__all__ = ["Http2"]

_HEAD_BYTES: Final = 9
_FRAME_BYTES: Final = 16_384  # SETTINGS_MAX_FRAME_SIZE as it begins; we never raise it
_MAX_STREAM: Final = 2**31 - 1

# RFC 9113 6.
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS = 0, 1, 2, 3, 4
_PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 5, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY_FLAG = 1, 1, 4, 8, 32

_SETTINGS_HEADER_TABLE_SIZE: Final = 1
_KNOWN_SETTINGS: Final = frozenset((1, 2, 3, 4, 5, 6, 8))
# Whatever the peer allows: a larger table costs ms to search.
_ENCODER_TABLE_BYTES: Final = 4096

# Header blocks as h2 is shown them: the static table's entry 8 (RFC 7541 A), a literal with the
# name of entry 8, and an empty one.
_RESPONSE: Final = b"\x88"
_INFORMATIONAL: Final = b"\x08\x03103"
_TRAILERS: Final = b""

_SECRET: Final = frozenset((b"authorization", b"cookie", b"proxy-authorization"))


@final
class _Machine(H2Connection):
    # Of streams long closed h2 would remember 65,536; it is never asked about one.
    MAX_CLOSED_STREAMS = 256


@final
@dataclass(slots=True)
class _Stream:
    """What is left to check of a stream that lives."""

    answered: bool = False
    length: int | None = None  # content-length, less what has come
    owed: int = 0  # of its window: read, and the server does not know yet


@final
@dataclass(slots=True)
class _Block:
    """A header section of which more is to come."""

    stream: int
    ends: bool
    data: bytearray
    frames: int = 0


class _ConnectionFault(Exception):
    """The peer broke a rule that holds for the whole connection (RFC 9113 5.4.1)."""

    def __init__(self, reason: str, code: ErrorCodes = ErrorCodes.PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.code = code


@final
class Http2:
    """One connection; `now` is a time in seconds on any clock.

    Feed `receive` and `expire`, act on the events they give, send `take_output()`.  Once `closed`,
    nothing is to be read any more; `fault` says why if it was not in peace.
    """

    def __init__(self, limits: ClientLimits, *, now: float) -> None:
        self._limits = limits
        self.closed = False
        self.accepting = True  # no GOAWAY yet, and stream ids left
        self.fault: str | None = None
        self._streams: dict[int, _Stream] = {}
        self._buffer = bytearray()
        self._block: _Block | None = None
        self._settled = False  # the peer's first SETTINGS are here
        self._owed = 0  # of the connection's window
        self._heard_at = self._idle_since = now
        self._pinged_at: float | None = None
        self._raw = bytearray()
        self._machine = machine = _Machine(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        machine.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
            },
        )
        machine.max_inbound_frame_size = _FRAME_BYTES
        self._decoder = Decoder(max_header_list_size=limits.header_list_bytes)
        machine.initiate_connection()
        if limits.connection_window_bytes > 65_535:
            machine.increment_flow_control_window(limits.connection_window_bytes - 65_535)

    # -- out

    @property
    def capacity(self) -> int:
        """How many more streams may be opened now (RFC 9113 5.1.2)."""
        if not self.accepting:
            return 0
        limit = self._limits.streams_until_told
        if self._settled:
            limit = self._machine.remote_settings.max_concurrent_streams
        return max(0, limit - len(self._streams))

    @property
    def open_streams(self) -> int:
        """Streams whose response is not over."""
        return len(self._streams)

    @property
    def unsent(self) -> int:
        """Bytes that `take_output` would give."""
        return len(self._machine._data_to_send) + len(self._raw)  # noqa: SLF001 - no public count

    def open(self, authority: str, path: str, fields: Fields, now: float) -> int:
        """Send a GET; its stream.  There must be `capacity`."""
        assert self.capacity
        machine = self._machine
        stream = machine.get_next_available_stream_id()
        section = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", authority.encode()),
            (b":path", path.encode()),
            # RFC 7541 7.1.3: no one may guess at a secret by its size in a table.
            *(NeverIndexedHeaderTuple(*each) if each[0] in _SECRET else each for each in fields),
        ]
        machine.send_headers(stream, section, end_stream=True)
        if not self._streams:
            # What the peer did not say while nobody listened is not held against it.
            self._heard_at = max(self._heard_at, now - self._limits.quiet_seconds)
        self._streams[stream] = _Stream()
        if stream >= _MAX_STREAM - 1:
            self.accepting = False
        return stream

    def read(self, stream: int, size: int) -> None:
        """The reader of a stream has taken so much of it."""
        state = self._streams.get(stream)
        if state is None or self.closed:
            return
        state.owed += size
        self._give_back(stream, state)

    def _give_back(self, stream: int, state: _Stream) -> None:
        # In halves, not in crumbs: when all is read, at least half of the window is open.
        if state.owed * 2 >= self._limits.stream_window_bytes:
            self._machine.increment_flow_control_window(state.owed, stream)
            state.owed = 0

    def cancel(self, stream: int, now: float) -> None:
        """Nobody wants the rest of a stream: RST_STREAM with CANCEL."""
        if stream in self._streams and not self.closed:
            self._reset(stream, ErrorCodes.CANCEL, now)

    def _reset(self, stream: int, code: ErrorCodes, now: float) -> None:
        self._machine.reset_stream(stream, code)
        self._forget(stream, now)

    def _forget(self, stream: int, now: float) -> None:
        del self._streams[stream]
        if not self._streams:
            self._idle_since = now
            if not self.accepting:
                self.close()

    def close(self) -> None:
        """Say the last word: GOAWAY with NO_ERROR."""
        if not self.closed:
            self._machine.close_connection()
            self._end(None)

    def take_output(self) -> bytes:
        """What is to be sent now."""
        data = self._machine.data_to_send()
        if self._raw:
            data += bytes(self._raw)
            self._raw.clear()
        return data

    # -- time

    @property
    def deadline(self) -> float:
        """When `expire` should be called, if nothing comes before."""
        if self.closed:
            return math.inf
        if self._pinged_at is not None:
            return self._pinged_at + self._limits.ping_seconds
        if self._streams:
            return self._heard_at + self._limits.quiet_seconds
        return self._idle_since + self._limits.idle_seconds

    def expire(self, now: float) -> list[StreamEvent]:
        """Ask a quiet peer for a sign of life, give a dead one up, close what is not used."""
        if now < self.deadline:
            return []
        if self._pinged_at is not None:
            return self.lose("the server does not answer, not even a PING")
        if self._streams:
            self._machine.ping(b"h2sse?\0\0")
            self._pinged_at = now
        else:
            self.close()
        return []

    # -- in

    def receive(self, data: bytes, now: float) -> list[StreamEvent]:
        """What the peer's bytes mean for our streams.  Never raises for what it sends."""
        if self.closed:
            return []
        self._heard_at, self._pinged_at = now, None
        self._buffer += data
        events: list[StreamEvent] = []
        try:
            self._frames(events, now)
        except _ConnectionFault as fault:
            self._machine.close_connection(fault.code)
            events += self.lose(str(fault))
        except ProtocolError as error:  # h2 has framed its GOAWAY already
            events += self.lose(f"the server breaks HTTP/2: {error}")
        self._pay()
        return events

    def lose(self, reason: str) -> list[StreamEvent]:
        """The connection is gone, and all streams with it."""
        events: list[StreamEvent] = [Lost(stream, reason) for stream in self._streams]
        self._streams.clear()
        self._end(reason)
        return events

    def _end(self, fault: str | None) -> None:
        if not self.closed:
            self.closed, self.accepting, self.fault = True, False, fault

    def _frames(self, events: list[StreamEvent], now: float) -> None:
        buffer, at = self._buffer, 0
        try:
            while len(buffer) - at >= _HEAD_BYTES and not self.closed:
                size = int.from_bytes(buffer[at : at + 3], "big")
                if size > _FRAME_BYTES:
                    # Before it is buffered.
                    raise _ConnectionFault("a frame above 16384 bytes", ErrorCodes.FRAME_SIZE_ERROR)
                end = at + _HEAD_BYTES + size
                if end > len(buffer):
                    return
                frame = bytes(buffer[at:end])
                at = end
                self._frame(frame, events, now)
        finally:
            del buffer[:at]

    def _frame(self, frame: bytes, events: list[StreamEvent], now: float) -> None:
        kind, flags = frame[3], frame[4]
        stream = int.from_bytes(frame[5:9], "big") & _MAX_STREAM
        if not self._settled:
            if kind != _SETTINGS or flags & _ACK:
                raise _ConnectionFault("the first frame is not SETTINGS (RFC 9113 3.4)")
            self._settled = True
        if self._block is not None and (kind != _CONTINUATION or stream != self._block.stream):
            raise _ConnectionFault("a header section is interrupted (RFC 9113 6.10)")
        if kind in (_DATA, _HEADERS, _RST_STREAM):
            self._check_stream(stream)
        match kind:
            case 0:
                self._data(frame, flags, stream, events, now)
            case 1:
                body = _unpadded(frame[_HEAD_BYTES:], flags)
                if flags & _PRIORITY_FLAG:
                    body = body[5:]
                self._block = _Block(stream, bool(flags & _END_STREAM), bytearray(body))
                self._continue(flags, events, now)
            case 3:
                self._was_reset(frame, stream, events, now)
            case 4:
                self._feed(_plain_settings(frame))
            case 5:
                raise _ConnectionFault("PUSH_PROMISE, which we forbade (RFC 9113 8.4)")
            case 6:
                self._feed(frame)
            case 7:
                self._goaway(frame, stream, events, now)
            case 8:
                # We send no DATA, so a stream's window is of no interest.
                if not stream:
                    self._feed(frame)
            case 9:
                block = self._block
                if block is None:
                    raise _ConnectionFault("CONTINUATION without HEADERS (RFC 9113 6.10)")
                block.frames += 1
                block.data += frame[_HEAD_BYTES:]
                too_long = len(block.data) > self._limits.header_list_bytes
                if block.frames > self._limits.continuation_frames or too_long:
                    raise _ConnectionFault(
                        "an endless header section", ErrorCodes.ENHANCE_YOUR_CALM
                    )
                self._continue(flags, events, now)
            case _:
                pass  # PRIORITY, and what RFC 9113 5.5 has us ignore

    def _check_stream(self, stream: int) -> None:
        # 5.1: a stream that was never opened is idle.  Ours are odd; a server has none (8.4).
        if stream % 2 == 0 or stream > self._machine.highest_outbound_stream_id:
            raise _ConnectionFault(f"a frame on stream {stream}, which is idle (RFC 9113 5.1)")

    def _feed(self, frame: bytes) -> None:
        self._machine.receive_data(frame)

    # -- header sections

    def _continue(self, flags: int, events: list[StreamEvent], now: float) -> None:
        if not flags & _END_HEADERS:
            return
        block, self._block = self._block, None
        assert block is not None
        try:
            fields = tuple(self._decoder.decode(bytes(block.data), raw=True))
        except HPACKError as error:
            raise _ConnectionFault(f"HPACK: {error}", ErrorCodes.COMPRESSION_ERROR) from None
        state = self._streams.get(block.stream)
        if state is None:
            return  # it was on its way when we reset the stream; only the table matters
        head = _read_section(block.stream, fields, first=not state.answered, ends=block.ends)
        if isinstance(head, str):
            self._malformed(block.stream, head, events, now)
            return
        if head is None:
            shown = _TRAILERS
        elif head.status < 200:
            shown = _INFORMATIONAL
        else:
            shown = _RESPONSE
            state.answered = True
            lengths = [value for name, value in head.fields if name == b"content-length"]
            state.length = int(lengths[0]) if lengths else None
            events.append(head)
        ends = _END_STREAM if block.ends else 0
        size = len(shown).to_bytes(3, "big")
        number = block.stream.to_bytes(4, "big")
        self._feed(size + bytes((_HEADERS, _END_HEADERS | ends)) + number + shown)
        if block.ends:
            self._over(block.stream, state, events, now)

    def _malformed(
        self,
        stream: int,
        what: str,
        events: list[StreamEvent],
        now: float,
        *,
        over: bool = False,
    ) -> None:
        """End one stream; `over` if h2 has seen its end."""
        if over:
            self._forget(stream, now)
        else:
            self._reset(stream, ErrorCodes.PROTOCOL_ERROR, now)
        events.append(Lost(stream, f"malformed response: {what}"))

    # -- bodies

    def _data(
        self, frame: bytes, flags: int, stream: int, events: list[StreamEvent], now: float
    ) -> None:
        size = len(frame) - _HEAD_BYTES
        body = _unpadded(frame[_HEAD_BYTES:], flags)
        state = self._streams.get(stream)
        if state is None or not state.answered:
            # On its way when we reset the stream, or before any HEADERS.  h2 would answer with
            # another RST_STREAM, or GOAWAY; it is not told, so the window is given back beside it.
            if size:
                head = b"\0\0\4" + bytes((_WINDOW_UPDATE,)) + bytes(5)
                self._raw += head + size.to_bytes(4, "big")
            if state is not None:
                self._malformed(stream, "DATA before HEADERS (RFC 9113 8.1)", events, now)
            return
        self._feed(frame)
        self._owed += size
        if state.length is not None:
            state.length -= len(body)
            if state.length < 0:
                what = "more than content-length says (RFC 9113 8.1.1)"
                self._malformed(stream, what, events, now, over=bool(flags & _END_STREAM))
                return
        state.owed += size - len(body)  # nobody reads padding
        if body:
            events.append(Data(stream, body))
        if flags & _END_STREAM:
            self._over(stream, state, events, now)
        else:
            self._give_back(stream, state)

    def _pay(self) -> None:
        if self._owed * 4 >= self._limits.connection_window_bytes and not self.closed:
            self._machine.increment_flow_control_window(self._owed)
            self._owed = 0

    def _over(self, stream: int, state: _Stream, events: list[StreamEvent], now: float) -> None:
        self._forget(stream, now)
        if state.length:
            events.append(Lost(stream, "malformed response: less than content-length says"))
        else:
            events.append(Ended(stream))

    # -- ends

    def _was_reset(self, frame: bytes, stream: int, events: list[StreamEvent], now: float) -> None:
        if stream not in self._streams and len(frame) == _HEAD_BYTES + 4:
            return
        self._feed(frame)
        code = int.from_bytes(frame[_HEAD_BYTES:], "big")
        answered = self._streams[stream].answered
        self._forget(stream, now)
        refused = code == ErrorCodes.REFUSED_STREAM and not answered
        events.append(Lost(stream, f"the server reset the stream: {_name(code)}", refused))

    def _goaway(self, frame: bytes, stream: int, events: list[StreamEvent], now: float) -> None:
        if stream or len(frame) < _HEAD_BYTES + 8:
            raise _ConnectionFault("a malformed GOAWAY (RFC 9113 6.8)")
        last = int.from_bytes(frame[9:13], "big") & _MAX_STREAM
        code = int.from_bytes(frame[13:17], "big")
        self.accepting = False
        # Never processed, so they may be asked for elsewhere at once (RFC 9113 8.7); unless one was
        # answered, which belies that: it is a drop like others.
        for lost in [each for each in self._streams if each > last]:
            answered = self._streams[lost].answered
            self._machine.reset_stream(lost, ErrorCodes.CANCEL)
            self._forget(lost, now)
            events.append(Lost(lost, f"the server goes away: {_name(code)}", not answered))
        if not self._streams:
            self.close()


def _unpadded(body: bytes, flags: int) -> bytes:
    if not flags & _PADDED:
        return body
    if not body or body[0] >= len(body):
        raise _ConnectionFault("padding longer than its frame (RFC 9113 6.1)")
    return body[1 : len(body) - body[0]]


def _plain_settings(frame: bytes) -> bytes:
    """SETTINGS as h2 may see them: it would keep unknown ones for ever."""
    if frame[4] & _ACK or (len(frame) - _HEAD_BYTES) % 6:
        return frame  # h2 knows what is wrong with the latter
    kept = b""
    for at in range(_HEAD_BYTES, len(frame), 6):
        name, value = int.from_bytes(frame[at : at + 2], "big"), frame[at + 2 : at + 6]
        if name in _KNOWN_SETTINGS:
            if name == _SETTINGS_HEADER_TABLE_SIZE:
                size = min(int.from_bytes(value, "big"), _ENCODER_TABLE_BYTES)
                value = size.to_bytes(4, "big")
            kept += frame[at : at + 2] + value
    return len(kept).to_bytes(3, "big") + frame[3:_HEAD_BYTES] + kept


def _read_section(stream: int, fields: Fields, *, first: bool, ends: bool) -> Head | str | None:
    """A response's head, final or informational; None for trailers; or why it is malformed."""
    if not first:
        if not ends:
            return "trailers without END_STREAM (RFC 9113 8.1)"
        fault = read_trailers(fields)
        return fault.reason if fault else None
    if not fields or fields[0][0] != b":status":
        return ":status does not come first (RFC 9113 8.3.2)"
    value, plain = fields[0][1], fields[1:]
    if len(value) != 3 or not value.isdigit() or value < b"100" or value == b"101":
        return f":status is {value!r} (RFC 9113 8.3.2)"
    if any(name[:1] == b":" for name, _ in plain):
        return "a second pseudo-header field (RFC 9113 8.3.2)"
    fault = read_trailers(plain)
    if fault:
        return fault.reason
    lengths = {length for name, length in plain if name == b"content-length"}
    if len(lengths) > 1 or not all(each.isdigit() and len(each) < 19 for each in lengths):
        return "content-length is not one number (RFC 9110 8.6)"
    status = int(value)
    if status < 200 and ends:
        return "an informational response ends the stream (RFC 9113 8.1)"
    return Head(stream, status, plain)


def _name(code: int) -> str:
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"code {code}"
