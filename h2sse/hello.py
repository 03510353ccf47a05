"""The first bytes of a connection: what a ClientHello offers, or what else it is.

`offered_protocols` reads a ClientHello from the bytes that MSG_PEEK shows.  It is needed because
the ssl module answers "no protocol in common" by choosing none, where RFC 7301 3.2 wants the alert
no_application_protocol; and because a browser sent to http:// deserves an answer it can read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "HELLO_BYTES",
    "NO_APPLICATION_PROTOCOL_ALERT",
    "PLAIN_HTTP_ANSWER",
    "Hello",
    "NeedMore",
    "NotHello",
    "Offer",
    "PlainHttp",
    "offered_protocols",
]

# What to peek at.  Browsers' ClientHellos are 500 to 2,000 bytes, the larger half of that being
# post-quantum key shares; past this OpenSSL is to judge alone.
HELLO_BYTES = 16 * 1024
# Records one ClientHello may be cut into, likewise: clients that cut it at all make two or three.
# It bounds a peek to 0.1 ms of work, whatever peer sends a byte a record, a record a packet.
HELLO_RECORDS = 64

# RFC 8446 5.1 and 6: alert, legacy version 1.2, two bytes: fatal, no_application_protocol.
NO_APPLICATION_PROTOCOL_ALERT = bytes((21, 3, 3, 0, 2, 2, 120))

_ADVICE = b"This port speaks HTTPS: write https:// in the address.\n"
PLAIN_HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"content-type: text/plain\r\n"
    b"content-length: %d\r\n"
    b"connection: close\r\n\r\n%b"
) % (len(_ADVICE), _ADVICE)

# How plain HTTP begins; the last is HTTP/2 by prior knowledge (RFC 9113 3.4).
_METHODS = tuple(
    method + b" " for method in b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI".split()
)

# TLS's numbers: ContentType and HandshakeType (RFC 8446 B), ExtensionType (RFC 7301 3.1).
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_ALPN = 16
_RECORD_BYTES = 2**14  # RFC 8446 5.1: the most a record holds


@final
@dataclass(frozen=True, slots=True)
class NeedMore:
    """What is there may become anything: peek again when there is more."""


@final
@dataclass(frozen=True, slots=True)
class PlainHttp:
    """HTTP without TLS: answer `PLAIN_HTTP_ANSWER` and close."""


@final
@dataclass(frozen=True, slots=True)
class NotHello:
    """No ClientHello: OpenSSL would answer it with an alert; or just close."""


@final
@dataclass(frozen=True, slots=True)
class Hello:
    """A ClientHello and the protocols it offers; none if it has no ALPN, or one past reading."""

    protocols: tuple[bytes, ...] = ()

    def accepts(self, served: Collection[str]) -> bool:
        """False if `NO_APPLICATION_PROTOCOL_ALERT` is due: ALPN, but nothing of it is served."""
        return not self.protocols or any(name.encode() in self.protocols for name in served)


Offer: TypeAlias = NeedMore | PlainHttp | NotHello | Hello


def offered_protocols(data: bytes) -> Offer:
    """What a connection that begins with `data` wants.

    Only the first `HELLO_BYTES` and `HELLO_RECORDS` count.  Never raises, and never takes back a
    decision: more bytes change nothing but `NeedMore`.
    """
    data = data[:HELLO_BYTES]
    if data[:1] != bytes((_HANDSHAKE,)):
        return _in_clear(data)
    # A handshake message may be cut over any number of records (RFC 8446 5.1).
    message = bytearray()
    at = 0
    unfinished = NeedMore() if len(data) < HELLO_BYTES else Hello()
    for _ in range(HELLO_RECORDS):
        head = data[at : at + 5]
        if not b"\x16\x03".startswith(head[:2]):
            return NotHello()
        if len(head) < 5:
            return unfinished
        size = int.from_bytes(head[3:])
        if not 0 < size <= _RECORD_BYTES:
            return NotHello()
        message += data[at + 5 : at + 5 + size]
        at += 5 + size
        if message and message[0] != _CLIENT_HELLO:
            return NotHello()
        if len(message) >= 4:
            end = 4 + int.from_bytes(message[1:4])
            if end > HELLO_BYTES:
                return Hello()
            if len(message) >= end:
                return _hello(bytes(message[4:end]))
        if at > len(data):
            return unfinished
    return Hello()


def _in_clear(data: bytes) -> Offer:
    if data.startswith(_METHODS):
        return PlainHttp()
    if any(method.startswith(data) for method in _METHODS):
        return NeedMore()
    return NotHello()


def _hello(body: bytes) -> Hello | NotHello:
    try:
        _, rest = _take(body, 2 + 32)  # legacy version, random
        _, rest = _vector(rest, 1)  # legacy session id
        _, rest = _vector(rest, 2)  # cipher suites
        _, rest = _vector(rest, 1)  # legacy compression methods
        extensions = _vector(rest, 2)[0] if rest else b""
        while extensions:
            kind, rest = _take(extensions, 2)
            content, extensions = _vector(rest, 2)
            if int.from_bytes(kind) == _ALPN:
                return Hello(_names(content))
    except _TooShortError:
        return NotHello()
    return Hello()


def _names(content: bytes) -> tuple[bytes, ...]:
    names = []
    rest, _ = _vector(content, 2)
    while rest:
        name, rest = _vector(rest, 1)
        names.append(name)
    return tuple(names)


class _TooShortError(Exception):
    pass


def _take(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise _TooShortError
    return data[:size], data[size:]


def _vector(data: bytes, width: int) -> tuple[bytes, bytes]:
    """A vector: its length in `width` bytes, then that many (RFC 8446 3.4); and what follows."""
    size, rest = _take(data, width)
    return _take(rest, int.from_bytes(size))
