"""Header sections of HTTP/1.1: a request's, read and checked, and a response's, for h11 to write.

h11 parses; what it takes and RFC 9112 or we do not is refused here, as a `RemoteError` with the
status to answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, final

import h11

from .errors import LocalError, RemoteError

if TYPE_CHECKING:
    from .config import Limits
    from .wire import Fields

__all__ = [
    "Exchange",
    "content_length",
    "end_to_end",
    "read_request",
    "remote_error",
    "response_head",
    "too_large",
]

_REASONS = {int(status): status.phrase.encode() for status in HTTPStatus}
# Ours to say, whatever the application says (RFC 9110 7.6.1, 8.6).
_FRAMING_FIELDS = frozenset(
    (b"connection", b"content-length", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
# RFC 3986 3.2.2 and 3.2.3: an address in brackets or a name, then perhaps a port.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[-A-Za-z0-9._~%!$&'()*+,;=]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"([A-Za-z][-A-Za-z0-9+.]*)://([^/?]+)(.*)")


@final
@dataclass(slots=True)
class Exchange:
    """A request from its header section to its answer, and the machine that follows it."""

    machine: h11.Connection
    request: h11.Request
    authority: str
    path: str
    query: str
    chunked: bool
    body: bytearray = field(default_factory=bytearray)
    fed: int = 0  # bytes given to the machine after the header section
    tail: bytes = b""  # the last four of them


def read_request(head: bytes) -> Exchange:
    """Parse a whole header section.  Raises RemoteError if it may not be served."""
    line, line_end, rest = head.partition(b"\r\n")
    machine = h11.Connection(h11.SERVER)
    machine.receive_data(_ascii(line) + line_end + rest)
    try:
        request = machine.next_event()
    except h11.RemoteProtocolError as error:
        raise remote_error(error) from None
    assert isinstance(request, h11.Request)
    authority, path, query = _target(request, line.split(b" ")[1])
    return Exchange(
        machine=machine,
        request=request,
        authority=authority,
        path=path,
        query=query,
        chunked=_is_chunked(request),
    )


def _ascii(line: bytes) -> bytes:
    """A request line as h11 takes it: curl sends UTF-8 as it was typed, and so may others."""
    method, space, rest = line.partition(b" ")
    return method + space + _NOT_ASCII.sub(b"?", rest)


def _is_chunked(request: h11.Request) -> bool:
    """Whether the body is chunked.  Raises RemoteError where that is in doubt (RFC 9112 6.1)."""
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" not in names:
        return False
    if request.http_version < b"1.1":
        raise RemoteError("HTTP/1.0 has no Transfer-Encoding")
    if b"content-length" in names:
        raise RemoteError("Content-Length beside Transfer-Encoding")
    return True


def content_length(request: h11.Request) -> int:
    """What the request says of its body's length, 0 if nothing."""
    return next((int(value) for name, value in request.headers if name == b"content-length"), 0)


def _target(request: h11.Request, target: bytes) -> tuple[str, str, str]:
    """Authority, path and query (RFC 9112 3.2).  Raises RemoteError for any other target."""
    if not b"1.0" <= request.http_version < b"2.0":
        raise RemoteError("this connection speaks HTTP/1.1", status=505)
    if request.method == b"CONNECT":
        raise RemoteError("this is not a proxy", status=501)
    authority = next((value for name, value in request.headers if name == b"host"), None)
    if authority is None:
        if request.http_version > b"1.0":
            raise RemoteError("Host is missing")
        authority = b""
    if absolute := _ABSOLUTE.fullmatch(target):
        scheme, authority, target = absolute.groups()
        if scheme.lower() != b"https":
            raise RemoteError("only https is served here", status=421)
        if not target.startswith(b"/"):
            target = b"*" if request.method == b"OPTIONS" and not target else b"/" + target
    if not _HOST.fullmatch(authority):
        raise RemoteError("Host is not host[:port]")
    if b"#" in target or (
        not target.startswith(b"/") and (target, request.method) != (b"*", b"OPTIONS")
    ):
        raise RemoteError("the request target is not a path")
    try:
        path, _, query = target.decode().partition("?")
    except UnicodeDecodeError:
        raise RemoteError("the request target is neither ASCII nor UTF-8") from None
    return authority.decode(), path, query


def remote_error(error: h11.RemoteProtocolError) -> RemoteError:
    """What h11 found wrong, as an error of ours."""
    # What follows is the offending line as a repr, of any length.
    message = str(error).partition(": bytearray(")[0]
    return RemoteError(message, status=error.error_status_hint)


def too_large(limits: Limits) -> RemoteError:
    """The error of a body over its bound."""
    return RemoteError(f"the body is over {limits.body_bytes} bytes", status=413)


# -- writing a header section


def end_to_end(fields: Fields) -> list[tuple[bytes, bytes]]:
    """The fields that are the application's to give."""
    return [each for each in fields if each[0] not in _FRAMING_FIELDS]


def response_head(status: int, fields: Fields) -> h11.Response:
    """A status and its fields, for h11.  Raises LocalError for a field that cannot be sent."""
    try:
        return h11.Response(
            status_code=status, headers=list(fields), reason=_REASONS.get(status, b"")
        )
    except h11.LocalProtocolError as error:
        raise LocalError(f"bad response field: {error}") from error
