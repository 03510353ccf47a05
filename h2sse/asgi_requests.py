"""A request as an ASGI server tells of it, held to what HTTP/2's own are held to.

Servers differ in what they let through: paths raw or unquoted, absolute or below a mount, fields of
one hop, no Host.  All of that is made one here and judged by `fields.read_head`, and the body is
bounded in bytes and in time, so that an application sees the same `Request` wherever it runs.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never, final
from urllib.parse import quote

import anyio

from .errors import RemoteError
from .fields import Head, Malformed, TooLarge, read_head
from .http1_requests import too_large
from .wire import Request

if TYPE_CHECKING:
    from collections import Counter

    from .config import Limits
    from .fields import Verdict
    from .wire import ProtocolName

__all__ = ["Left", "Receive", "Scope", "read_request"]

# Servers type these as unions of TypedDicts, each its own: a Mapping takes all of them.
Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]

# The server's to act on (RFC 9110 7.6.1); HTTP/1.1 has them, and `read_head` knows HTTP/2.
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade")
)
# What may stand in a path as it is (RFC 3986 3.3).
_PATH_SAFE = "/:@!$&'()*+,;=-._~"
# RFC 9112 3.2.2: a server takes the absolute form too; Host says the same.
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


@final
class Left(Exception):
    """The client left before its request was whole."""


async def read_request(
    scope: Scope,
    receive: Receive,
    limits: Limits,
    counts: Counter[str],
    *,
    protocol: ProtocolName,
    connection: int,
    peer: str,
) -> Request:
    """The whole request; `counts` is told the bytes of its body.

    Raises RemoteError if it may not be served, Left without one, and what `receive` raises.
    """
    match _judged(scope, limits):
        case Malformed(reason):
            raise RemoteError(reason)
        case TooLarge(reason):
            raise RemoteError(reason, status=431)
        case Head() as head:
            pass
        case unexpected:
            assert_never(unexpected)
    if (head.content_length or 0) > limits.body_bytes:
        raise too_large(limits)
    return Request(
        stream=0,
        method=head.method,
        path=head.path,
        query=head.query,
        authority=head.authority,
        fields=head.fields,
        body=await _read_body(receive, limits, counts),
        protocol=protocol,
        connection=connection,
        peer=peer,
    )


async def _read_body(receive: Receive, limits: Limits, counts: Counter[str]) -> bytes:
    body = b""
    with anyio.move_on_after(limits.body_seconds):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Left
            # Most come in one message, which is not copied.
            piece = message.get("body", b"")
            body = body + piece if body else bytes(piece)
            counts["bytes_received"] += len(piece)
            if len(body) > limits.body_bytes:
                raise too_large(limits)
            if not message.get("more_body", False):
                return body
    raise RemoteError("the body took too long", status=408)


def _judged(scope: Scope, limits: Limits) -> Verdict:
    method = str(scope["method"])
    path = scope.get("raw_path") or quote(scope["path"], safe=_PATH_SAFE).encode()
    path = _ABSOLUTE.sub(b"", path.partition(b"?")[0], count=1)
    root = quote(scope.get("root_path", "").rstrip("/"), safe=_PATH_SAFE).encode()
    if root and path[len(root) : len(root) + 1] in (b"", b"/"):
        path = path.removeprefix(root)
    if not path:
        path = b"/"
    query = scope.get("query_string", b"")
    plain = [(name.lower(), value) for name, value in scope["headers"]]
    plain = [each for each in plain if each[0] not in _HOP_BY_HOP and each != (b"host", b"")]
    # HTTP/1.0 may come without Host, and is then given an empty one by some servers.
    authority = next((value for name, value in plain if name == b"host"), b"localhost")
    pseudo = [
        (b":method", method.encode("latin-1", "replace")),
        (b":scheme", b"https"),  # a proxy may have taken TLS off: it is no fault here
        (b":authority", authority),
        (b":path", path + b"?" + query if query else path),
    ]
    return read_head([*pseudo, *plain], limits)
