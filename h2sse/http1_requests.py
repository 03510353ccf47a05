"""Requests of HTTP/1.1, read: bytes go in, a whole request or a `RemoteError` comes out.

A header section is looked at before h11 sees it, once it is whole, and what h11 takes although
RFC 9112 or we do not is refused: a bare LF, folded lines, a Content-Length beside a
Transfer-Encoding (2.2, 5.2, 6.1), which proxies in front may read otherwise, so that one request
becomes two.  Head, body and the framing of the body are bounded while they come.  Each error
carries the status to answer with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import h11

from .errors import RemoteError
from .wire import Request

if TYPE_CHECKING:
    from .config import Limits

__all__ = ["Exchange", "begin", "too_large"]

# What a body's chunks may bring with them, beside the body.
_FRAMING_BYTES = 64 * 1024

# Where h11 would end a header section; the bare LF among these is then refused.
_BLANK_LINE = re.compile(rb"\n\r?\n")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,20})[ \t]*(?:;[^\r\n]*)?\r\n")
_BARE_OR_FOLDED = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
# RFC 3986 3.2.2 and 3.2.3: an address in brackets or a name, then perhaps a port.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[-A-Za-z0-9._~%!$&'()*+,;=]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"([A-Za-z][-A-Za-z0-9+.]*)://([^/?]+)(.*)")


@final
@dataclass(slots=True)
class Exchange:
    """A request from its header section to its answer, and the machine that follows both."""

    machine: h11.Connection
    head: h11.Request
    authority: str
    path: str
    query: str
    chunked: bool
    limits: Limits
    body: bytearray = field(default_factory=bytearray)
    fed: int = 0  # bytes given to the machine after the header section
    tail: bytes = b""  # the last four of them
    chunk_line: bytes = b""  # before the next chunk, as far as it has come
    chunk_left: int = 0  # of a chunk and its line end, yet to come; -1: the last one has begun

    def read(self, data: bytes) -> bytes | None:
        """Read on in the body: what came after its end, or None while it is not whole.

        Raises RemoteError if it may not be served.
        """
        machine, body = self.machine, self.body
        fed = b""
        while True:
            try:
                event = machine.next_event()
            except h11.RemoteProtocolError as error:
                raise _remote_error(error) from None
            if isinstance(event, h11.Data):
                body += event.data
                if len(body) > self.limits.body_bytes:
                    raise too_large(self.limits)
            elif isinstance(event, h11.EndOfMessage):
                break
            elif data:
                fed, data = data, b""
                self.fed += len(fed)
                if self.chunked:
                    self._follow(fed)
                machine.receive_data(fed)
            else:
                self.tail = (self.tail + fed[-4:])[-4:]
                # Chunks of one byte, with long extensions: much work for little body.
                if self.fed - len(body) > self.limits.body_bytes + _FRAMING_BYTES:
                    raise RemoteError("the body's chunks are mostly framing", status=413)
                return None
        early, _ = machine.trailing_data
        if self.chunked:
            # h11 ends a trailer section at a bare LF too.
            end = self.tail + fed[: len(fed) - len(early)]
            if not end.endswith(b"\r\n\r\n"):
                raise RemoteError("a bare LF ends the trailer section")
        return early + data

    def _follow(self, data: bytes) -> None:
        """Judge the line before each chunk: h11 takes a bare CR in it (RFC 9112 2.2)."""
        at = 0
        while at < len(data) and self.chunk_left >= 0:
            if self.chunk_left:
                step = min(self.chunk_left, len(data) - at)
                self.chunk_left -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self.chunk_line += data[at:end]
            at = end
            if self.chunk_line.endswith(b"\n"):
                found = _CHUNK_LINE.fullmatch(self.chunk_line)
                if found is None:
                    raise RemoteError("the line before a chunk is malformed")
                size = int(found[1], 16)
                self.chunk_left = size + 2 if size else -1
                self.chunk_line = b""

    def go_on(self) -> bytes:
        """`100 Continue` for a client that waits for it before it sends the body, else b""."""
        machine = self.machine
        if not machine.they_are_waiting_for_100_continue:
            return b""
        return machine.send(
            h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
        )

    def request(self, stream: int, *, connection: int, peer: str) -> Request:
        """What has been read, once it is whole.  The body is handed over, not kept."""
        body = bytes(self.body)
        self.body.clear()
        return Request(
            stream=stream,
            method=self.head.method.decode(),
            path=self.path,
            query=self.query,
            authority=self.authority,
            fields=tuple(self.head.headers),
            body=body,
            protocol="http/1.1",
            connection=connection,
            peer=peer,
        )


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
    if _BARE_OR_FOLDED.search(section):
        raise RemoteError("a bare CR or LF, or a folded line, in the header section")
    exchange = _parsed(section, limits)
    if _content_length(exchange.head) > limits.body_bytes:
        raise too_large(limits)
    return exchange, data[size:]


def _parsed(section: bytes, limits: Limits) -> Exchange:
    line, line_end, rest = section.partition(b"\r\n")
    machine = h11.Connection(h11.SERVER)
    machine.receive_data(_ascii(line) + line_end + rest)
    try:
        head = machine.next_event()
    except h11.RemoteProtocolError as error:
        raise _remote_error(error) from None
    assert isinstance(head, h11.Request)
    authority, path, query = _target(head, line.split(b" ")[1])
    return Exchange(
        machine=machine,
        head=head,
        authority=authority,
        path=path,
        query=query,
        chunked=_is_chunked(head),
        limits=limits,
    )


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
