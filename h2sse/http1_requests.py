"""Requests of HTTP/1.1, read: bytes go in, a whole request or a `RemoteError` comes out.

A header section is looked at before h11 sees it, once it is whole, and what h11 takes although
RFC 9112 or we do not is refused: a bare LF, folded lines, a Content-Length beside a
Transfer-Encoding (2.2, 5.2, 6.1), which proxies in front may read otherwise, so that one request
becomes two.  Head, body and the framing of the body are bounded while they come.  Each error
carries the status to answer with.  A section that repeats is judged once; the body is read by h11
only if it comes in chunks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, final

import h11

from .errors import RemoteError
from .wire import Request

if TYPE_CHECKING:
    from .config import Limits
    from .wire import Fields

__all__ = ["Exchange", "Head", "begin", "too_large"]

# What a body's chunks may bring with them, beside the body.
_FRAMING_BYTES = 64 * 1024
# Header sections over this are not kept; those of browsers are below it, but for their cookies.
_MEMO_BYTES = 1024

# Where h11 would end a header section; the bare LF among these is then refused.
_BLANK_LINE = re.compile(rb"\n\r?\n")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,20})[ \t]*(?:;[^\r\n]*)?\r\n")
_BARE_OR_FOLDED = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
# RFC 3986 3.2.2 and 3.2.3: an address in brackets or a name, then perhaps a port.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[-A-Za-z0-9._~%!$&'()*+,;=]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"([A-Za-z][-A-Za-z0-9+.]*)://([^/?]+)(.*)")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A header section that may be served: what h11 made of it, and what follows from that."""

    section: bytes  # as h11 takes it
    method: str
    version: bytes
    authority: str
    path: str
    query: str
    fields: Fields
    size: int | None  # of the body, in bytes; None: it comes in chunks
    keeps_alive: bool  # whether another request may follow (RFC 9112 9.3)
    expects_continue: bool  # whether the client waits for our word before it sends the body


@final
class Exchange:
    """A request from its header section to its answer; `body` is what has come of it."""

    __slots__ = ("_chunks", "_waits", "body", "head")

    def __init__(self, head: Head, limits: Limits) -> None:
        self.head = head
        self.body = bytearray()
        self._chunks = _Chunks(head.section, limits) if head.size is None else None
        self._waits = head.expects_continue

    def read(self, data: bytes) -> bytes | None:
        """Read on in the body: what came after its end, or None while it is not whole.

        Raises RemoteError if it may not be served.
        """
        if data:
            self._waits = False
        if self._chunks is not None:
            return self._chunks.read(data, self.body)
        assert self.head.size is not None
        missing = self.head.size - len(self.body)
        self.body += data[:missing]
        return data[missing:] if len(data) >= missing else None

    def go_on(self) -> bytes:
        """`100 Continue` for a client that waits for it before it sends the body, else b""."""
        waits, self._waits = self._waits, False
        return b"HTTP/1.1 100 Continue\r\n\r\n" if waits else b""

    def request(self, stream: int, *, connection: int, peer: str) -> Request:
        """What has been read, once it is whole.  The body is handed over, not kept."""
        body = bytes(self.body)
        self.body.clear()
        head = self.head
        return Request(
            stream=stream,
            method=head.method,
            path=head.path,
            query=head.query,
            authority=head.authority,
            fields=head.fields,
            body=body,
            protocol="http/1.1",
            connection=connection,
            peer=peer,
        )


@final
class _Chunks:
    """A body that comes in chunks, which h11 reads."""

    __slots__ = ("_announced", "_fed", "_left", "_limits", "_line", "_machine", "_tail")

    def __init__(self, section: bytes, limits: Limits) -> None:
        self._limits = limits
        self._machine = h11.Connection(h11.SERVER)
        self._machine.receive_data(section)
        self._machine.next_event()
        self._fed = 0  # bytes given to the machine after the header section
        self._tail = b""  # the last four of them
        self._line = b""  # before the next chunk, as far as it has come
        self._announced = 0  # bytes of chunks, those included that have yet to come
        self._left = 0  # of a chunk and its line end, yet to come; -1: the last one has begun

    def read(self, data: bytes, body: bytearray) -> bytes | None:
        """See `Exchange.read`; what is in the chunks goes into `body`."""
        machine = self._machine
        fed = b""
        while True:
            try:
                event = machine.next_event()
            except h11.RemoteProtocolError as error:
                raise _remote_error(error) from None
            if isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif data:
                fed, data = data, b""
                self._fed += len(fed)
                self._follow(fed)
                machine.receive_data(fed)
            else:
                self._tail = (self._tail + fed[-4:])[-4:]
                # Chunks of one byte, with long extensions: much work for little body.
                if self._fed - len(body) > self._limits.body_bytes + _FRAMING_BYTES:
                    raise RemoteError("the body's chunks are mostly framing", status=413)
                return None
        early, _ = machine.trailing_data
        # h11 ends a trailer section at a bare LF too.
        end = self._tail + fed[: len(fed) - len(early)]
        if not end.endswith(b"\r\n\r\n"):
            raise RemoteError("a bare LF ends the trailer section")
        return early + data

    def _follow(self, data: bytes) -> None:
        """Judge the line before each chunk: h11 takes a bare CR in it (RFC 9112 2.2)."""
        at = 0
        while at < len(data) and self._left >= 0:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            at = end
            if self._line.endswith(b"\n"):
                found = _CHUNK_LINE.fullmatch(self._line)
                if found is None:
                    raise RemoteError("the line before a chunk is malformed")
                size = int(found[1], 16)
                self._announced += size
                if self._announced > self._limits.body_bytes:
                    raise too_large(self._limits)
                self._left = size + 2 if size else -1
                self._line = b""


def begin(data: bytes, limits: Limits) -> tuple[Exchange, bytes] | None:
    """The exchange that a header section begins and what comes after it; None: it is not whole.

    Raises RemoteError if the request may not be served.
    """
    blank = _BLANK_LINE.search(data)
    size = blank.end() if blank else len(data)
    if size > limits.header_list_bytes and b"\n" not in data[: limits.header_list_bytes]:
        raise RemoteError("the request line is too long", status=414)
    # As in HTTP/2, 32 bytes more a field (RFC 9113 6.5.2), less the four around its value.
    fields = max(0, data.count(b"\n", 0, size) - 2)
    if size + 28 * fields > limits.header_list_bytes:
        raise RemoteError(
            f"the header section is over {limits.header_list_bytes} bytes", status=431
        )
    if fields > limits.header_fields:
        raise RemoteError(f"more than {limits.header_fields} header fields", status=431)
    if blank is None:
        # TLS to a plain port, say: it may never send a line end.
        if data[0] < 0x21:
            raise RemoteError("this is not an HTTP request")
        return None
    section = data[:size]
    head = _head(section) if size <= _MEMO_BYTES else _judged(section)
    if head.size is not None and head.size > limits.body_bytes:
        raise too_large(limits)
    return Exchange(head, limits), data[size:]


def _judged(section: bytes) -> Head:
    if _BARE_OR_FOLDED.search(section):
        raise RemoteError("a bare CR or LF, or a folded line, in the header section")
    line, line_end, rest = section.partition(b"\r\n")
    section = _ascii(line) + line_end + rest
    machine = h11.Connection(h11.SERVER)
    machine.receive_data(section)
    try:
        head = machine.next_event()
    except h11.RemoteProtocolError as error:
        raise _remote_error(error) from None
    assert isinstance(head, h11.Request)
    authority, path, query = _target(head, line.split(b" ")[1])
    size = None if _is_chunked(head) else _content_length(head)
    return Head(
        section=section,
        method=head.method.decode(),
        version=head.http_version,
        authority=authority,
        path=path,
        query=query,
        fields=tuple(head.headers),
        size=size,
        keeps_alive=head.http_version >= b"1.1" and b"close" not in _listed(head, b"connection"),
        expects_continue=machine.they_are_waiting_for_100_continue,
    )


# A publisher's requests have one header section, but for its Content-Length, and a browser's tabs
# have one: h11 reads each once.
_head = lru_cache(maxsize=64)(_judged)


def _listed(head: h11.Request, name: bytes) -> set[bytes]:
    """The members of a field that is a list, in lower case (RFC 9110 5.6.1)."""
    values = b",".join(value for each, value in head.headers if each == name)
    return {each.strip().lower() for each in values.split(b",")}


def _ascii(line: bytes) -> bytes:
    """A request line as h11 takes it: curl sends UTF-8 as it was typed, and so may others."""
    method, space, rest = line.partition(b" ")
    return method + space + _NOT_ASCII.sub(b"?", rest)


def _is_chunked(head: h11.Request) -> bool:
    """Whether the body is chunked.  Raises RemoteError where that is in doubt (RFC 9112 6.1)."""
    names = {name for name, _ in head.headers}
    if b"transfer-encoding" not in names:
        return False
    if head.http_version < b"1.1":
        raise RemoteError("HTTP/1.0 has no Transfer-Encoding")
    if b"content-length" in names:
        raise RemoteError("Content-Length beside Transfer-Encoding")
    return True


def _content_length(head: h11.Request) -> int:
    """What the request says of its body's length, 0 if nothing."""
    return next((int(value) for name, value in head.headers if name == b"content-length"), 0)


def _target(head: h11.Request, target: bytes) -> tuple[str, str, str]:
    """Authority, path and query (RFC 9112 3.2).  Raises RemoteError for any other target."""
    if not b"1.0" <= head.http_version < b"2.0":
        raise RemoteError("this connection speaks HTTP/1.1", status=505)
    if head.method == b"CONNECT":
        raise RemoteError("this is not a proxy", status=501)
    authority = next((value for name, value in head.headers if name == b"host"), None)
    if authority is None:
        if head.http_version > b"1.0":
            raise RemoteError("Host is missing")
        authority = b""
    if absolute := _ABSOLUTE.fullmatch(target):
        scheme, authority, target = absolute.groups()
        if scheme.lower() != b"https":
            raise RemoteError("only https is served here", status=421)
        if not target.startswith(b"/"):
            target = b"*" if head.method == b"OPTIONS" and not target else b"/" + target
    if not _HOST.fullmatch(authority):
        raise RemoteError("Host is not host[:port]")
    if b"#" in target or (
        not target.startswith(b"/") and (target, head.method) != (b"*", b"OPTIONS")
    ):
        raise RemoteError("the request target is not a path")
    try:
        path, _, query = target.decode().partition("?")
    except UnicodeDecodeError:
        raise RemoteError("the request target is neither ASCII nor UTF-8") from None
    return authority.decode(), path, query


def _remote_error(error: h11.RemoteProtocolError) -> RemoteError:
    """What h11 found wrong, as an error of ours."""
    # What follows is the offending line as a repr, of any length.
    message = str(error).partition(": bytearray(")[0]
    return RemoteError(message, status=error.error_status_hint)


def too_large(limits: Limits) -> RemoteError:
    """The error of a body over its bound."""
    return RemoteError(f"the body is over {limits.body_bytes} bytes", status=413)
