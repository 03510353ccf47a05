"""The frames of one HTTP/2 connection, read from the bytes of both directions.

This stands beside the connection, not in it: it has decoders of its own, keeps its own account of
both windows, and believes nothing (a peer is hostile, and we may be wrong).  What it cannot read it
says so of, once, and goes on with what it still can: a lost HPACK state hides header fields, not
frames.

Both ends see the same rules (RFC 9113 6.5.3, 6.9): what the peer's SETTINGS ask of us holds from
their frame on, what ours ask of the peer holds from its acknowledgement on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias, cast, final

from hpack import Decoder, HPACKError

from .events import Scanner, said, subject
from .record import UNREADABLE, Direction, TraceRecord, shown, shown_fields, shown_path

__all__ = ["Http2Trace"]

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD_BYTES: Final = 9
_NAMES: Final = (
    *("DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS"),
    *("PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION"),
)
_DATA, _HEADERS, _PUSH_PROMISE, _CONTINUATION = 0, 1, 5, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_FLAGS: Final[dict[int, tuple[tuple[int, str], ...]]] = {
    0: ((_END_STREAM, "END_STREAM"), (_PADDED, "PADDED")),
    1: (
        (_END_STREAM, "END_STREAM"),
        (_END_HEADERS, "END_HEADERS"),
        (_PADDED, "PADDED"),
        (_PRIORITY, "PRIORITY"),
    ),
    4: ((_ACK, "ACK"),),
    5: ((_END_HEADERS, "END_HEADERS"), (_PADDED, "PADDED")),
    6: ((_ACK, "ACK"),),
    9: ((_END_HEADERS, "END_HEADERS"),),
}

# RFC 9113 6.5.2, RFC 8441, RFC 9218.
_SETTINGS: Final = {
    1: "HEADER_TABLE_SIZE",
    2: "ENABLE_PUSH",
    3: "MAX_CONCURRENT_STREAMS",
    4: "INITIAL_WINDOW_SIZE",
    5: "MAX_FRAME_SIZE",
    6: "MAX_HEADER_LIST_SIZE",
    8: "ENABLE_CONNECT_PROTOCOL",
    9: "NO_RFC7540_PRIORITIES",
}
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4

# RFC 9113 7, and what it comes to for an event stream.
_ERRORS: Final = (
    ("NO_ERROR", "nothing is wrong"),
    ("PROTOCOL_ERROR", "a rule of HTTP/2 was broken"),
    ("INTERNAL_ERROR", "the sender failed"),
    ("FLOW_CONTROL_ERROR", "more DATA came than a window allowed, or a window grew too large"),
    ("SETTINGS_TIMEOUT", "SETTINGS were not acknowledged in time"),
    ("STREAM_CLOSED", "a frame came for a stream that had ended"),
    ("FRAME_SIZE_ERROR", "a frame has a length that it cannot have"),
    ("REFUSED_STREAM", "nothing was done with the request: it may be sent again at once"),
    ("CANCEL", "no longer wanted: an EventSource closed, or its page left"),
    ("COMPRESSION_ERROR", "the header compression is out of step"),
    ("CONNECT_ERROR", "a CONNECT tunnel broke"),
    ("ENHANCE_YOUR_CALM", "too much was asked for"),
    ("INADEQUATE_SECURITY", "TLS is too weak"),
    ("HTTP_1_1_REQUIRED", "to be asked again over HTTP/1.1"),
)

_DEFAULT_WINDOW: Final = 65_535
_MAX_WINDOW: Final = 2**31 - 1
_MAX_STREAM: Final = 2**31 - 1
# A frame is kept until it is whole; a larger one is told of by its head.  Four times what h2sse
# and browsers allow each other (SETTINGS_MAX_FRAME_SIZE).
_FRAME_BYTES: Final = 64 * 1024
# A header section, encoded and decoded, as the server's own decoder has it (machine.py).
_SECTION_BYTES: Final = 64 * 1024
# A dynamic table, whatever its reader allowed; browsers allow 64 KiB.
_TABLE_BYTES: Final = 64 * 1024
# Streams that are open; past this the oldest is forgotten, and its DATA told of by length alone.
_STREAMS: Final = 10_000
# SETTINGS and PINGs that wait for their acknowledgement.
_UNANSWERED: Final = 32

_Told: TypeAlias = tuple[str, dict[str, Any]]
_Carried: TypeAlias = tuple[str, tuple[dict[str, Any], ...]]  # events, in words and for JSON


@final
class _Stream:
    """An open stream: what it is about, and how it stands both ways (index 0 in, 1 out)."""

    __slots__ = ("ended", "path", "scanner", "subject", "windows")

    def __init__(self, windows: list[int]) -> None:
        self.path = ""
        self.subject = ""
        self.scanner: Scanner | None = None  # from a response's head on, if it is an event stream
        self.windows = windows
        self.ended = [False, False]


@final
class _Way:
    """One direction."""

    __slots__ = (
        "block",
        "block_stream",
        "buffer",
        "client",
        "decoder",
        "direction",
        "index",
        "initial_window",
        "lost",
        "pings",
        "preface",
        "settings",
        "skip",
        "window",
    )

    def __init__(self, index: int, *, client: bool) -> None:
        self.index = index
        self.direction: Direction = "out" if index else "in"
        self.client = client  # whether the client sends this way
        self.buffer = b""
        self.skip = 0  # bytes of a frame too large to keep that are still to come
        self.preface = client  # whether the preface is still due
        self.lost = False  # whether this way has ceased to be frames
        self.decoder: Decoder | None = Decoder(max_header_list_size=_SECTION_BYTES)
        self.block = bytearray()  # a header section that goes on
        self.block_stream: int | None = None
        self.window = self.initial_window = _DEFAULT_WINDOW
        self.pings: dict[bytes, float] = {}  # sent this way, and when
        self.settings: list[bytes] = []  # sent this way, not acknowledged


@final
class Http2Trace:
    """Frames to records.  `connection` goes into each; `client` is whether we are the client."""

    def __init__(self, connection: int, *, client: bool = False, secrets: bool = False) -> None:
        self._connection = connection
        self._secrets = secrets
        self._ways = (_Way(0, client=not client), _Way(1, client=client))
        self._streams: dict[int, _Stream] = {}
        self._now = 0.0
        self._tabs: set[int] = set()  # the event streams whose DATA is in the bytes being read
        # The last whole payload of events and what it was: fan-out repeats it for every tab.
        self._last: tuple[bytes, _Carried] = (b"", ("", ()))
        # Of these kinds each has a reader; (way, stream, flags, payload) -> meaning and details.
        self._readers: dict[int, Callable[[_Way, int, int, bytes], _Told]] = {
            2: self._priority,
            3: self._reset,
            4: self._settings,
            6: self._ping,
            7: self._goaway,
            8: self._window_update,
        }

    @property
    def held(self) -> int:
        """Bytes that wait for the rest of their frame or section."""
        return sum(len(way.buffer) + len(way.block) for way in self._ways)

    def take(self, direction: Direction, data: bytes, now: float) -> list[TraceRecord]:
        """The records of the frames that `data` completes.  Never raises for what it holds."""
        way = self._ways[direction == "out"]
        self._now = now
        tabs = self._tabs
        tabs.clear()
        records = list(self._frames(way, data))
        if direction == "out" and len(tabs) > 1:
            details = (("tabs", len(tabs)), ("frames", len(records)))
            meaning = f"the frames of {len(tabs)} tabs in one TLS write"
            write = self._record(way, "WRITE", meaning, length=len(data), details=details)
            records.insert(0, write)
        return records

    def end(self) -> list[TraceRecord]:
        """What is left when the connection has ended."""
        return [
            self._record(way, "?", f"{UNREADABLE} a frame that breaks off", length=len(way.buffer))
            for way in self._ways
            if way.buffer or way.skip
        ]

    def _record(self, way: _Way, kind: str, meaning: str, **more: Any) -> TraceRecord:
        return TraceRecord(
            time=self._now,
            connection=self._connection,
            direction=way.direction,
            type=kind,
            meaning=meaning,
            **more,
        )

    # -- bytes to frames

    def _frames(self, way: _Way, data: bytes) -> Iterator[TraceRecord]:
        if way.lost:
            return
        data = way.buffer + data if way.buffer else bytes(data)
        at = 0
        if way.preface:
            if not _PREFACE.startswith(data[: len(_PREFACE)]):
                way.lost = True
                way.buffer = b""
                start = shown(data[: len(_PREFACE)])
                yield self._record(way, "?", f"{UNREADABLE} this way: no HTTP/2 preface: {start}")
                return
            if len(data) < len(_PREFACE):
                way.buffer = data
                return
            way.preface = False
            at = len(_PREFACE)
            yield self._record(way, "PREFACE", "the client begins HTTP/2", length=at)
        while True:
            if way.skip:
                skipped = min(way.skip, len(data) - at)
                at += skipped
                way.skip -= skipped
            if len(data) - at < _HEAD_BYTES:
                break
            size = int.from_bytes(data[at : at + 3], "big")
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & _MAX_STREAM
            if size > _FRAME_BYTES:
                way.skip = size
                at += _HEAD_BYTES
                yield self._oversize(way, kind, flags, stream, size)
                continue
            end = at + _HEAD_BYTES + size
            if end > len(data):
                break
            yield self._frame(way, kind, flags, stream, data[at + _HEAD_BYTES : end])
            at = end
        way.buffer = data[at:]

    def _oversize(self, way: _Way, kind: int, flags: int, stream: int, size: int) -> TraceRecord:
        if kind in (_HEADERS, _PUSH_PROMISE, _CONTINUATION):
            way.decoder = None
        elif kind == _DATA:
            self._debit(way, stream, size)
        meaning = f"{UNREADABLE} a frame over {_FRAME_BYTES} bytes"
        return self._told(way, kind, flags, stream, size, meaning, {})

    def _frame(self, way: _Way, kind: int, flags: int, stream: int, payload: bytes) -> TraceRecord:
        if way.block_stream is not None and (kind, stream) != (_CONTINUATION, way.block_stream):
            # RFC 9113 6.10: nothing may come in between.  The section is lost, and the state.
            way.decoder, way.block_stream = None, None
            way.block.clear()
        size = len(payload)
        if kind == _DATA:
            meaning, details = self._data(way, stream, flags, payload)
        elif kind in (_HEADERS, _CONTINUATION, _PUSH_PROMISE):
            meaning, details = self._section(way, kind, stream, flags, payload)
        elif kind in self._readers:
            meaning, details = self._readers[kind](way, stream, flags, payload)
        else:
            meaning, details = "a frame of an extension, to be ignored", {}
        return self._told(way, kind, flags, stream, size, meaning, details)

    def _told(
        self,
        way: _Way,
        kind: int,
        flags: int,
        stream: int,
        size: int,
        meaning: str,
        details: dict[str, Any],
    ) -> TraceRecord:
        """The record of a frame; and its stream is forgotten if it is over."""
        known = self._streams.get(stream)
        windows: dict[str, int] = {}
        if kind in (0, 8):
            # An update is of the windows of the other direction.
            index = way.index if kind == 0 else 1 - way.index
            if known is not None:
                windows["stream_window"] = known.windows[index]
            if kind == 0 or not stream:
                windows["connection_window"] = self._ways[index].window
        if known is not None:
            if flags & _END_STREAM and kind in (_DATA, _HEADERS):
                known.ended[way.index] = True
            if kind == 3 or all(known.ended):
                del self._streams[stream]
        return TraceRecord(
            time=self._now,
            connection=self._connection,
            direction=way.direction,
            type=_NAMES[kind] if kind < len(_NAMES) else f"0x{kind:02x}",
            meaning=meaning,
            stream=stream,
            flags=tuple([name for bit, name in _FLAGS.get(kind, ()) if flags & bit]),
            length=size,
            path=known.path if known is not None else "",
            details=tuple(details.items()),
            **windows,
        )

    # -- DATA

    def _debit(self, way: _Way, stream: int, size: int) -> _Stream | None:
        way.window -= size
        known = self._streams.get(stream)
        if known is not None:
            known.windows[way.index] -= size
        return known

    def _data(self, way: _Way, stream: int, flags: int, payload: bytes) -> _Told:
        known = self._debit(way, stream, len(payload))
        body = _unpadded(payload, flags)
        if body is None:
            return f"{UNREADABLE} it: more padding than frame", {}
        if known is None:
            return f"{len(body)} bytes for a stream that is not open here", {}
        details: dict[str, Any] = {"of": known.subject}
        over = " " + known.subject if known.subject else ""
        if way.client:
            meaning = f"{len(body)} bytes of the request's body{over}"
        elif known.scanner is None:
            meaning = f"{len(body)} bytes of the response's body{over}"
        elif not body:
            meaning = f"nothing more, {known.subject}"
        else:
            self._tabs.add(stream)
            words, details["events"] = self._scan(known.scanner, body)
            meaning = f"{words}, {known.subject}"
        if known.windows[way.index] < 0 or way.window < 0:
            meaning += "; this is MORE THAN THE WINDOW"
        if flags & _END_STREAM and known.scanner is not None and not way.client:
            meaning += "; the stream ends, its EventSource will come back"
        return meaning, details

    def _scan(self, scanner: Scanner, body: bytes) -> _Carried:
        begun = not scanner.between
        if not begun and body == self._last[0]:
            return self._last[1]
        blocks = scanner.feed(body)
        carried = said(blocks, amid=scanner.amid), tuple(each.facts() for each in blocks)
        if not begun and scanner.between:
            self._last = body, carried
        return carried

    # -- header sections

    def _section(self, way: _Way, kind: int, stream: int, flags: int, payload: bytes) -> _Told:
        if kind == _CONTINUATION:
            if way.block_stream is None:
                way.decoder = None
                return f"{UNREADABLE} it: there is no section to continue", {}
            fragment = payload
        else:
            whole = _unpadded(payload, flags)
            skip = 4 if kind == _PUSH_PROMISE else 5 if flags & _PRIORITY else 0
            if whole is None or len(whole) < skip:
                way.decoder = None
                return f"{UNREADABLE} it: more padding than frame", {}
            fragment = whole[skip:]
            self._begin(way, stream)
        if way.decoder is None:
            way.block_stream = None if flags & _END_HEADERS else stream
            return f"{UNREADABLE} the fields: the state of HPACK is lost", {}
        way.block += fragment
        if len(way.block) > _SECTION_BYTES:
            way.block.clear()
            way.decoder = None
            way.block_stream = None if flags & _END_HEADERS else stream
            return f"{UNREADABLE} a section over {_SECTION_BYTES} bytes", {}
        if not flags & _END_HEADERS:
            way.block_stream = stream
            return "a part of a header section", {}
        block = bytes(way.block)
        way.block.clear()
        way.block_stream = None
        try:
            fields = cast("list[tuple[bytes, bytes]]", list(way.decoder.decode(block, raw=True)))
        except (HPACKError, IndexError, TypeError, ValueError) as error:
            way.decoder = None
            return f"{UNREADABLE} the fields: {shown(str(error))}", {}
        if kind == _PUSH_PROMISE:
            return "promises a response that nobody asked for", {}
        return self._fields(way, stream, fields, ends=bool(flags & _END_STREAM))

    def _begin(self, way: _Way, stream: int) -> None:
        if way.client and stream and stream not in self._streams:
            if len(self._streams) >= _STREAMS:
                del self._streams[next(iter(self._streams))]
            self._streams[stream] = _Stream([each.initial_window for each in self._ways])

    def _fields(
        self, way: _Way, stream: int, fields: Sequence[tuple[bytes, bytes]], *, ends: bool
    ) -> _Told:
        known = self._streams.get(stream)
        pseudo = {name: value for name, value in fields if name[:1] == b":"}
        plain = [each for each in fields if each[0][:1] != b":"]
        told = shown_fields(plain, secrets=self._secrets)
        rest = "".join(f", {name}: {value}" for name, value in told)
        details: dict[str, Any] = {}
        if b":status" in pseudo:
            status = shown(pseudo[b":status"])
            details["status"] = status
            meaning = status
            kinds = [value for name, value in fields if name == b"content-type"]
            if known is not None and not way.client and not status.startswith("1"):
                if kinds and kinds[-1].lower().startswith(b"text/event-stream") and not ends:
                    known.scanner = known.scanner or Scanner()
                    meaning += f" an event stream, {known.subject}"
                elif known.subject:
                    meaning += f" for {known.subject}"
        elif b":method" in pseudo:
            target = pseudo.get(b":path", b"").decode("utf-8", "surrogateescape")
            details["method"] = shown(pseudo[b":method"])
            details["target"] = shown_path(target, secrets=self._secrets)
            meaning = f"{details['method']} {details['target']}"
            if b":authority" in pseudo:
                details["authority"] = shown(pseudo[b":authority"])
                meaning += f" at {details['authority']}"
            if known is not None and not known.subject:
                known.path = shown(target.partition("?")[0])
                known.subject = subject(target)
        else:
            meaning = "trailers"
        return meaning + rest, details | {"fields": [list(each) for each in told]}

    # -- the others

    def _priority(self, way: _Way, stream: int, flags: int, payload: bytes) -> _Told:  # noqa: ARG002
        return "a priority of RFC 7540, which nobody heeds any more", {}

    def _reset(self, way: _Way, stream: int, flags: int, payload: bytes) -> _Told:  # noqa: ARG002
        if len(payload) != 4:
            return f"{UNREADABLE} it: it must have 4 bytes", {}
        name, why = _error(int.from_bytes(payload, "big"))
        known = self._streams.get(stream)
        about = f" ({known.subject})" if known is not None and known.subject else ""
        return f"{name}: {why}{about}", {"error": name}

    def _settings(self, way: _Way, stream: int, flags: int, payload: bytes) -> _Told:  # noqa: ARG002
        other = self._ways[1 - way.index]
        if flags & _ACK:
            if not other.settings:
                return "acknowledges SETTINGS that were not sent", {}
            if other.direction == "out":
                self._apply(other, other.settings[0])
            del other.settings[0]
            return "acknowledges the other side's SETTINGS", {}
        if len(payload) % 6:
            return f"{UNREADABLE} it: a setting has 6 bytes", {}
        if way.direction == "in":
            self._apply(way, payload)
        if len(way.settings) < _UNANSWERED:
            way.settings.append(payload)
        pairs = [
            (_SETTINGS.get(name, f"unknown 0x{name:x}"), value)
            for name, value in struct.iter_unpack(">HL", payload[: 6 * _UNANSWERED])
        ]
        words = ", ".join(f"{name} {value}" for name, value in pairs)
        return words or "all as it is by default", {"settings": [list(each) for each in pairs]}

    def _apply(self, way: _Way, payload: bytes) -> None:
        """What SETTINGS sent this way ask of the other."""
        other = self._ways[1 - way.index]
        for name, value in struct.iter_unpack(">HL", payload):
            if name == _INITIAL_WINDOW_SIZE:
                moved = value - other.initial_window
                other.initial_window = value
                for stream in self._streams.values():
                    stream.windows[other.index] += moved
            elif name == _HEADER_TABLE_SIZE and other.decoder is not None:
                other.decoder.max_allowed_table_size = min(value, _TABLE_BYTES)

    def _ping(self, way: _Way, stream: int, flags: int, payload: bytes) -> _Told:  # noqa: ARG002
        if len(payload) != 8:
            return f"{UNREADABLE} it: it must have 8 bytes", {}
        data = payload.hex()
        if not flags & _ACK:
            if len(way.pings) >= _UNANSWERED:
                del way.pings[next(iter(way.pings))]
            way.pings[payload] = self._now
            return f"asks for {data} back", {"ping": data}
        began = self._ways[1 - way.index].pings.pop(payload, None)
        if began is None:
            return f"answers a PING {data} that was not sent", {"ping": data}
        took = max(0.0, 1000 * (self._now - began))
        what = "a round trip of" if way.direction == "in" else "answered after"
        return f"brings {data} back, {what} {took:.3f} ms", {"ping": data, "ms": round(took, 3)}

    def _goaway(self, way: _Way, stream: int, flags: int, payload: bytes) -> _Told:  # noqa: ARG002
        if len(payload) < 8:
            return f"{UNREADABLE} it: it must have 8 bytes", {}
        last = int.from_bytes(payload[:4], "big") & _MAX_STREAM
        name, why = _error(int.from_bytes(payload[4:8], "big"))
        if last == _MAX_STREAM and name == "NO_ERROR":
            meaning = "will close soon: open no new streams, those on their way still count"
        else:
            meaning = f"streams above {last} were not looked at and may be sent again elsewhere"
        debug = f", it says {shown(payload[8:])}" if len(payload) > 8 else ""
        return f"{name}: {why}; {meaning}{debug}", {"error": name, "last_stream": last}

    def _window_update(self, way: _Way, stream: int, flags: int, payload: bytes) -> _Told:  # noqa: ARG002
        if len(payload) != 4:
            return f"{UNREADABLE} it: it must have 4 bytes", {}
        by = int.from_bytes(payload, "big") & _MAX_WINDOW
        index = 1 - way.index
        known = self._streams.get(stream)
        if not stream:
            window = self._ways[index].window = self._ways[index].window + by
        elif known is not None:
            window = known.windows[index] = known.windows[index] + by
        else:
            return f"{by} bytes for a stream that is not open here", {"increment": by}
        about = f" of {known.subject}" if known is not None and known.subject else ""
        meaning = f"{by} bytes more may come{about}" if by else "0 bytes more: FORBIDDEN"
        if window > _MAX_WINDOW:
            meaning += f"; the window is OVER {_MAX_WINDOW}"
        return meaning, {"increment": by}


def _unpadded(payload: bytes, flags: int) -> bytes | None:
    """The payload without its padding, None if that cannot be."""
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        return None
    return payload[1 : len(payload) - payload[0]]


def _error(code: int) -> tuple[str, str]:
    if code < len(_ERRORS):
        return _ERRORS[code]
    return f"unknown 0x{code:x}", "an error of an extension"
