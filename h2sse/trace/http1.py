"""The messages of one HTTP/1.1 connection, read from the bytes of both directions.

Requests, response heads, chunks and bodies, each told of when it is whole.  Reading is lenient: a
trace is to show what came, also where the server then refuses it.  What is no HTTP any more is said
once, and that direction is followed no further.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, Final, final

from .events import Block, Scanner, said, subject
from .record import UNREADABLE, Direction, TraceRecord, shown, shown_fields, shown_path

__all__ = ["Http1Trace"]

_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n")
_LINE_END: Final = re.compile(rb"\r?\n")
_DIGITS: Final = re.compile(rb"[0-9]{1,18}").fullmatch
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{1,15}").fullmatch
# A header section; h2sse takes a quarter of it.
_HEAD_BYTES: Final = 64 * 1024
# The line before a chunk, extensions included; and one of the trailers after the last.
_LINE_BYTES: Final = 4 * 1024
# Requests that wait for their answers (RFC 9112 9.3.2).
_PIPELINED: Final = 1_024
# Blocks of a chunk that are kept until the chunk is whole.
_BLOCKS: Final = 16


class _State(Enum):
    HEAD = auto()
    BODY = auto()  # `left` bytes of it are to come
    CHUNK_HEAD = auto()
    CHUNK = auto()  # likewise
    CHUNK_END = auto()  # the line end after it
    TRAILERS = auto()
    TO_THE_END = auto()  # a response without a length (RFC 9112 6.3)
    LOST = auto()


@final
class _Request:
    """What is to be remembered of a request until its answer is whole."""

    __slots__ = ("method", "number", "path", "subject")

    def __init__(self, number: int, method: bytes, target: bytes) -> None:
        text = target.decode("utf-8", "surrogateescape")
        self.number = number
        self.method = method
        self.path = shown(text.partition("?")[0])
        self.subject = subject(text)


@final
class _Way:
    __slots__ = (
        "blocks",
        "buffer",
        "direction",
        "exchange",
        "left",
        "requests",
        "scanner",
        "size",
        "state",
    )

    def __init__(self, direction: Direction, *, requests: bool) -> None:
        self.direction: Direction = direction
        self.requests = requests  # whether requests go this way, or responses
        self.state = _State.HEAD
        self.buffer = b""
        self.exchange: _Request | None = None
        self.left = 0
        self.size = 0  # of the chunk or body, as far as it came
        self.scanner: Scanner | None = None
        self.blocks: list[Block] = []

    @property
    def lost(self) -> bool:
        """Whether this way has ceased to be HTTP."""
        return self.state is _State.LOST


@final
class Http1Trace:
    """Messages to records.  `connection` goes into each; `client` is whether we are the client."""

    def __init__(self, connection: int, *, client: bool = False, secrets: bool = False) -> None:
        self._connection = connection
        self._secrets = secrets
        self._ways = (_Way("in", requests=not client), _Way("out", requests=client))
        self._number = 0
        self._waiting: deque[_Request] = deque()
        self._now = 0.0

    @property
    def held(self) -> int:
        """Bytes that wait for the rest of their head or line."""
        return sum(len(way.buffer) for way in self._ways)

    def take(self, direction: Direction, data: bytes, now: float) -> list[TraceRecord]:
        """The records of what `data` completes.  Never raises for what it holds."""
        self._now = now
        way = self._ways[direction == "out"]
        return list(self._read(way, data))

    def end(self) -> list[TraceRecord]:
        """What is left when the connection has ended."""
        records = []
        for way in self._ways:
            if way.buffer:
                meaning = f"{UNREADABLE} what breaks off"
                records.append(self._record(way, "?", meaning, len(way.buffer)))
            elif way.state is _State.TO_THE_END and way.size:
                records.append(self._body(way, "BODY"))
        return records

    def _record(
        self, way: _Way, kind: str, meaning: str, length: int, **details: Any
    ) -> TraceRecord:
        exchange = way.exchange
        return TraceRecord(
            time=self._now,
            connection=self._connection,
            direction=way.direction,
            type=kind,
            meaning=meaning,
            stream=exchange.number if exchange is not None else None,
            length=length,
            path=exchange.path if exchange is not None else "",
            details=tuple(details.items()),
        )

    # -- bytes to messages

    def _read(self, way: _Way, data: bytes) -> Iterator[TraceRecord]:
        data = way.buffer + data if way.buffer else bytes(data)
        way.buffer = b""
        while data and not way.lost:
            match way.state:
                case _State.HEAD:
                    data = data.lstrip(b"\r\n")
                    blank = _BLANK_LINE.search(data, 0, _HEAD_BYTES)
                    if blank is None:
                        if len(data) >= _HEAD_BYTES:
                            yield self._lose(way, f"a head over {_HEAD_BYTES} bytes")
                        else:
                            way.buffer = data
                        return
                    head, data = data[: blank.start()], data[blank.end() :]
                    yield self._head(way, head, blank.end())
                case _State.BODY | _State.CHUNK | _State.TO_THE_END:
                    endless = way.state is _State.TO_THE_END
                    piece = data if endless else data[: way.left]
                    data = data[len(piece) :]
                    whole = self._take_piece(way, piece)
                    if endless and whole:
                        yield self._body(way, "BODY")
                    elif not endless and not way.left:
                        chunk = way.state is _State.CHUNK
                        yield self._body(way, "CHUNK" if chunk else "BODY")
                        self._become(way, _State.CHUNK_END if chunk else _State.HEAD)
                case _:  # a line: before a chunk, after it, or of the trailers
                    end = _LINE_END.search(data, 0, _LINE_BYTES)
                    if end is None:
                        if len(data) >= _LINE_BYTES:
                            yield self._lose(way, "a line that does not end")
                        else:
                            way.buffer = data
                        return
                    line, data = data[: end.start()], data[end.end() :]
                    record = self._line(way, line)
                    if record is not None:
                        yield record

    def _lose(self, way: _Way, what: str) -> TraceRecord:
        self._become(way, _State.LOST)
        return self._record(way, "?", f"{UNREADABLE} {what}; followed no further this way", 0)

    @staticmethod
    def _become(way: _Way, state: _State) -> None:
        way.state = state
        if state is _State.HEAD:
            way.scanner = None

    def _take_piece(self, way: _Way, piece: bytes) -> bool:
        """Count a piece of a body or chunk; whether it ended a block of an event stream."""
        way.left -= len(piece)
        way.size += len(piece)
        if way.scanner is None:
            return False
        blocks = way.scanner.feed(piece)
        way.blocks = (way.blocks + blocks)[:_BLOCKS]
        return bool(blocks)

    def _body(self, way: _Way, kind: str) -> TraceRecord:
        about = way.exchange.subject if way.exchange is not None else ""
        size, way.size = way.size, 0
        blocks, way.blocks = way.blocks, []
        if way.scanner is not None:
            meaning = f"{said(blocks, amid=way.scanner.amid)}, {about}"
            return self._record(
                way, kind, meaning, size, of=about, events=[each.facts() for each in blocks]
            )
        whose = "request" if way.requests else "response"
        return self._record(way, kind, f"of the {whose}'s body {about}", size, of=about)

    def _line(self, way: _Way, line: bytes) -> TraceRecord | None:
        match way.state:
            case _State.CHUNK_END:
                if line:
                    return self._lose(way, "what follows a chunk")
                self._become(way, _State.CHUNK_HEAD)
            case _State.TRAILERS:
                if not line:
                    self._become(way, _State.HEAD)
            case _:
                number = line.partition(b";")[0].strip(b" \t")
                if not _HEX(number):
                    return self._lose(way, f"the size of a chunk: {shown(line)}")
                way.left = int(number, 16)
                if way.left:
                    self._become(way, _State.CHUNK)
                else:
                    events = way.scanner is not None
                    self._become(way, _State.TRAILERS)
                    after = "; the stream ends, its EventSource will come back" if events else ""
                    return self._record(way, "CHUNK", f"the last one{after}", 0)
        return None

    # -- heads

    def _head(self, way: _Way, head: bytes, size: int) -> TraceRecord:
        first, *lines = _LINE_END.split(head)
        fields = []
        for line in lines:
            name, _, value = line.partition(b":")
            fields.append((name.lower(), value.strip(b" \t")))
        told = shown_fields(fields, secrets=self._secrets)
        rest = "".join(f", {name}: {value}" for name, value in told)
        if way.requests:
            return self._request(way, first, fields, rest, told, size)
        return self._response(way, first, fields, rest, told, size)

    def _request(
        self,
        way: _Way,
        first: bytes,
        fields: list[tuple[bytes, bytes]],
        rest: str,
        told: tuple[tuple[str, str], ...],
        size: int,
    ) -> TraceRecord:
        parts = first.split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            return self._lose(way, f"an HTTP/1.1 request: {shown(first)}")
        if len(self._waiting) >= _PIPELINED:
            return self._lose(way, f"over {_PIPELINED} requests without an answer")
        method, target, version = parts
        self._number += 1
        way.exchange = _Request(self._number, method, target)
        self._waiting.append(way.exchange)
        self._expect(way, fields, otherwise=_State.HEAD)
        asked = shown_path(target, secrets=self._secrets)
        return self._record(
            way,
            "REQUEST",
            f"{shown(method)} {asked} {shown(version)}{rest}",
            size,
            method=shown(method),
            target=asked,
            fields=[list(each) for each in told],
        )

    def _response(
        self,
        way: _Way,
        first: bytes,
        fields: list[tuple[bytes, bytes]],
        rest: str,
        told: tuple[tuple[str, str], ...],
        size: int,
    ) -> TraceRecord:
        version, _, status = first.partition(b" ")
        code = status[:3]
        if not version.startswith(b"HTTP/1.") or not _DIGITS(code):
            return self._lose(way, f"an HTTP/1.1 response: {shown(first)}")
        interim = code.startswith(b"1")
        if interim:
            way.exchange = self._waiting[0] if self._waiting else None
        else:
            way.exchange = self._waiting.popleft() if self._waiting else None
        exchange = way.exchange
        head = exchange is not None and exchange.method == b"HEAD"
        meaning = shown(code)
        if not (interim or head or code in (b"204", b"304")):
            self._expect(way, fields, otherwise=_State.TO_THE_END)
            kind = dict(fields).get(b"content-type", b"").lower()
            if kind.startswith(b"text/event-stream"):
                way.scanner = Scanner()
                meaning += " an event stream,"
        if exchange is not None:
            meaning += f" for {exchange.subject}"
        return self._record(
            way,
            "RESPONSE",
            meaning + rest,
            size,
            status=shown(code),
            fields=[list(each) for each in told],
        )

    @staticmethod
    def _expect(way: _Way, fields: list[tuple[bytes, bytes]], *, otherwise: _State) -> None:
        """What comes after a head (RFC 9112 6.3)."""
        known = dict(fields)
        length = known.get(b"content-length", b"")
        if known.get(b"transfer-encoding", b"").lower().endswith(b"chunked"):
            way.state = _State.CHUNK_HEAD
        elif _DIGITS(length):
            way.left = int(length)
            way.state = _State.BODY if way.left else _State.HEAD
        else:
            way.state = otherwise
