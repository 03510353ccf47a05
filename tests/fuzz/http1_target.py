"""HTTP/1.1, played: an independent reading of RFC 9112 from the client's end, without h11.

It reads both ways.  Requests: which ones the client's bytes surely are, so that none is served that
a strict reader does not see (smuggling).  Answers: each of its request, in order, of the length
that it says, and nothing between or after them.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, final
from unittest.mock import patch

from playing import LIMITS, play

from h2sse import http1
from h2sse.http1 import Http1

if TYPE_CHECKING:
    from h2sse.wire import Request, Wire

__all__ = ["http1_"]

# Within reach of a script: what one call returns, and what may come early.
PIECE_BYTES = 1_500
UNREAD_BYTES = 300

_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*", re.DOTALL)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,20})[ \t]*(?:;[^\r\n]*)?\r\n")
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ !-~]*")

Fields = list[tuple[bytes, bytes]]


class _Head(NamedTuple):
    line: bytes
    fields: Fields
    end: int

    def all(self, name: bytes) -> list[bytes]:
        return [value for each, value in self.fields if each == name]


def _head(data: bytes, at: int) -> _Head | None:
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        return None
    line, *rest = data[at:end].split(b"\r\n")
    found = [_LINE.fullmatch(each) for each in rest]
    fields = [(each[1].lower(), each[2]) for each in found if each is not None]
    return _Head(line, fields, end + 4) if len(fields) == len(rest) else None


def _chunks(data: bytes, at: int) -> tuple[bytes, int, bool]:
    """The body from `at` on, where what was whole of it ends, and whether that was all."""
    body = b""
    while found := _CHUNK.match(data, at):
        size = int(found[1], 16)
        start = found.end()
        if not size:
            if data[start : start + 2] == b"\r\n":
                return body, start + 2, True
            trailers = data.find(b"\r\n\r\n", start)
            return (body, trailers + 4, True) if trailers >= 0 else (body, at, False)
        if data[start + size : start + size + 2] != b"\r\n":
            break
        body += data[start : start + size]
        at = start + size + 2
    return body, at, False


class _Asked(NamedTuple):
    method: bytes
    target: bytes
    body: bytes


def _request(data: bytes, at: int) -> tuple[_Asked, int] | None:
    """The request at `at`, where it is surely one, and where it ends."""
    while data[at : at + 1] in (b"\r", b"\n"):
        at += 1
    head = _head(data, at)
    if head is None:
        return None
    parts = head.line.split(b" ")
    lengths = {each.strip() for value in head.all(b"content-length") for each in value.split(b",")}
    codings = head.all(b"transfer-encoding")
    if len(parts) != 3 or len(lengths) + len(codings) > 1:
        return None
    body, end = b"", head.end
    if codings:
        if codings[0].lower() != b"chunked":
            return None
        body, end, whole = _chunks(data, end)
        if not whole:
            return None
    elif lengths:
        size = int(lengths.pop())
        body = data[end : end + size]
        if len(body) < size:
            return None
        end += size
    return _Asked(parts[0], parts[1], body), end


@final
class Http1Reader:
    """The client: what it asked, and whether each answer is one."""

    broken = False

    def __init__(self) -> None:
        self._said = bytearray()
        self._read = 0  # of what it said, in whole requests
        self._asked: list[Request] = []
        self._heard = bytearray()
        self._answers = 0  # that have begun
        self._amid: tuple[str, int] | None = None  # how the body ends, what is left of it
        self._closes = False
        self._refused = False
        self._bodies: dict[int, bytes] = {}
        self._ended: set[int] = set()

    def said(self, data: bytes) -> None:
        self._said += data

    def asked(self, request: Request) -> None:
        found = _request(bytes(self._said), self._read)
        assert found is not None, "served what is no request to a strict reader"
        asked, self._read = found
        assert request.method.encode() == asked.method
        assert request.body == asked.body
        path, _, query = asked.target.partition(b"?")
        assert request.query.encode() == query
        # https://a has no path, and OPTIONS asks for it with "*".
        assert path.endswith(request.path.encode()) or request.path in ("/", "*")
        assert request.stream == len(self._asked) + 1
        self._asked.append(request)

    def opened(self, stream: int) -> bool:
        # A request is what opens it, so that none is known before.
        return stream <= len(self._asked) + 1

    def body(self, stream: int) -> bytes:
        return self._bodies.get(stream, b"")

    def ended(self, stream: int) -> bool:
        return stream in self._ended

    def room(self, stream: int) -> bool:
        return stream > 0

    def heard(self, data: bytes) -> None:
        self._heard += data
        while self._heard and (self._read_body() if self._amid else self._read_head()):
            pass

    def _read_head(self) -> bool:
        assert not (self._closes and self._ended), "after the last answer"
        assert not self._refused, "after a refusal"
        head = _head(bytes(self._heard), 0)
        assert head is not None, "heads go out whole"
        status = _STATUS.fullmatch(head.line)
        assert status is not None
        del self._heard[: head.end]
        code = int(status[1])
        if code < 200:
            assert code == 100
            assert not head.fields
            return True
        self._answers += 1
        self._closes = self._closes or b"close" in head.all(b"connection")
        lengths, codings = head.all(b"content-length"), head.all(b"transfer-encoding")
        assert len(lengths) + len(codings) <= 1
        if self._answers > len(self._asked):
            # No request of which the application heard: refused by the wire.
            assert code >= 400
            assert self._closes
            self._refused = True
            assert len(self._heard) in (0, int(lengths[0]))  # 0 if it was HEAD
            self._heard.clear()
            return False
        request = self._asked[self._answers - 1]
        if request.method == "HEAD" or code in (204, 304):
            self._ended.add(self._answers)
            return True
        if codings:
            assert codings == [b"chunked"]
            self._amid = ("chunked", 0)
        elif lengths:
            self._amid = ("length", int(lengths[0]))
        else:
            self._amid = ("close", 0)
        return self._read_body() if self._amid == ("length", 0) else True

    def _read_body(self) -> bool:
        assert self._amid is not None
        kind, left = self._amid
        data = bytes(self._heard)
        ended = False
        if kind == "chunked":
            data, used, ended = _chunks(data, 0)
        elif kind == "length":
            data = data[:left]
            used = len(data)
            self._amid = (kind, left - used)
            ended = used == left
        else:
            used = len(data)
        self._bodies[self._answers] = self.body(self._answers) + data
        del self._heard[:used]
        if ended:
            self._ended.add(self._answers)
            self._amid = None
        return bool(used) or ended

    def finish(self, *, left: bool) -> None:
        if self._amid is not None and self._amid[0] != "close":
            # Broken off: within an answer that the client did not wait for.
            assert left or self._amid[0] == "chunked"
        assert not self._heard or self._amid is not None

    def account(self) -> object:
        return self._bodies, self._ended, self._answers, self._refused


def measure(wire: Wire) -> None:
    """What waits in it, counted anew."""
    assert isinstance(wire, Http1)
    assert wire._backlog == sum(map(len, wire._waiting)) - (
        wire._begun if wire._waiting and not wire._output else 0
    )
    assert len(wire._unread) <= max(UNREAD_BYTES, LIMITS.header_list_bytes) + 1
    if wire._exchange is not None:
        assert len(wire._exchange.body) <= LIMITS.body_bytes
    if wire.closed:
        assert not wire._unread
        assert wire._exchange is None


def http1_(data: bytes) -> None:
    """Play a script to an `Http1`."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(http1, "PIECE_BYTES", PIECE_BYTES))
        stack.enter_context(patch.object(http1, "UNREAD_BYTES", UNREAD_BYTES))
        play(data, lambda: Http1(LIMITS), Http1Reader, measure)
