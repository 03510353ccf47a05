"""Header sections of HTTP/2 requests: from decoded fields to a `Head`, or why not.

h2 leaves most of RFC 9113 8.2 and 8.3 to its user, or answers with a connection error where the
RFC asks for a stream error.  So these rules stand here, in one place: a `Malformed` section ends
its stream (8.1.1), a `TooLarge` one is answered with 431, and a `Head` is a request that may be
served.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias, final

from .config import Limits
from .wire import Fields

__all__ = [
    "FIELD_OVERHEAD_BYTES",
    "Head",
    "Malformed",
    "TooLarge",
    "Verdict",
    "read_head",
    "read_trailers",
]

# RFC 9113 6.5.2: what a field costs beside its name and value.
FIELD_OVERHEAD_BYTES = 32

_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
# Lower case only (RFC 9113 8.2.1).
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
# Control bytes anywhere, blanks at the ends (RFC 9110 5.5, RFC 9113 8.2.1).
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\A[ \t]|[ \t]\Z").search
# No fragment, blanks or control bytes; raw UTF-8 is let through, as curl sends it.
_TARGET = re.compile(rb"/[!\"$-~\x80-\xff]*").fullmatch
_AUTHORITY = re.compile(rb"[0-9A-Za-z.\-_~%!$&'()*+,;=:\[\]]+").fullmatch

# RFC 9113 8.2.2.
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a request's header section says."""

    method: str
    path: str
    query: str
    authority: str
    fields: Fields
    content_length: int | None
    expects_continue: bool


@final
@dataclass(frozen=True, slots=True)
class Malformed:
    """A section that breaks RFC 9113: the stream is reset with PROTOCOL_ERROR.

    Reasons are counted by, so none has a word of the peer's in it: it could make up a new one for
    every request.
    """

    reason: str


@final
@dataclass(frozen=True, slots=True)
class TooLarge:
    """A well-formed section over our limits: answered with 431 (RFC 6585 5)."""

    reason: str


Verdict: TypeAlias = Head | Malformed | TooLarge


def read_head(fields: Fields, limits: Limits) -> Verdict:
    """Judge a request's fields, in the order they came, pseudo-header fields first."""
    pseudo: dict[bytes, bytes] = {}
    plain: list[tuple[bytes, bytes]] = []
    cookies: list[bytes] = []
    lengths: set[bytes] = set()
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + FIELD_OVERHEAD_BYTES
        if name[:1] == b":":
            if plain or cookies:
                return Malformed("a pseudo-header field after a regular one (RFC 9113 8.3)")
            if name not in _PSEUDO or name in pseudo:
                return Malformed("a pseudo-header field twice or unknown (RFC 9113 8.3)")
            pseudo[name] = value
            continue
        if fault := _fault(name, value):
            return Malformed(fault)
        if name == b"cookie":
            cookies.append(value)
            continue
        if name == b"content-length":
            lengths.add(value)
        plain.append((name, value))
    if cookies:
        plain.append((b"cookie", b"; ".join(cookies)))  # RFC 9113 8.2.3
    if len(fields) > limits.header_fields:
        return TooLarge(f"more than {limits.header_fields} header fields")
    if size > limits.header_list_bytes:
        return TooLarge(f"header fields of more than {limits.header_list_bytes} bytes")
    if len(lengths) > 1 or not all(value.isdigit() and len(value) < 19 for value in lengths):
        return Malformed("content-length is not one number (RFC 9110 8.6)")
    return _target(pseudo, plain, int(lengths.pop()) if lengths else None)


def read_trailers(fields: Fields) -> Malformed | None:
    """Judge trailers; their content is of no use to us."""
    for name, value in fields:
        if name[:1] == b":":
            return Malformed("a pseudo-header field in trailers (RFC 9113 8.1)")
        if fault := _fault(name, value):
            return Malformed(fault)
    return None


def _fault(name: bytes, value: bytes) -> str | None:
    if not _NAME(name):
        return "a field name (RFC 9113 8.2.1)"
    if value and _BAD_VALUE(value):
        return "a value with control bytes or blank ends (RFC 9113 8.2.1)"
    if name in _CONNECTION_SPECIFIC:
        return f"connection-specific field {name.decode()} (RFC 9113 8.2.2)"
    if name == b"te" and value != b"trailers":
        return "te other than trailers (RFC 9113 8.2.2)"
    return None


def _target(
    pseudo: dict[bytes, bytes], plain: list[tuple[bytes, bytes]], length: int | None
) -> Verdict:
    method = pseudo.get(b":method", b"")
    if not _METHOD(method):
        return Malformed(":method is missing or no token (RFC 9113 8.3.1)")
    hosts = [value for name, value in plain if name == b"host"]
    authority = pseudo.get(b":authority")
    if authority is None:
        authority = hosts[0] if hosts else b""
    if len(hosts) > 1 or (hosts and hosts[0].lower() != authority.lower()):
        return Malformed("host and :authority differ (RFC 9113 8.3.1)")
    if not _AUTHORITY(authority):
        return Malformed(":authority is missing or not host[:port] (RFC 9113 8.3.1)")
    target = pseudo.get(b":path", b"")
    if method == b"CONNECT":
        if b":scheme" in pseudo or target:
            return Malformed("CONNECT with :scheme or :path (RFC 9113 8.5)")
    else:
        if pseudo.get(b":scheme", b"").lower() != b"https":
            return Malformed(":scheme is missing or not https (RFC 9113 8.3.1)")
        if not _TARGET(target) and not (target == b"*" and method == b"OPTIONS"):
            return Malformed(":path is missing or malformed (RFC 9113 8.3.1)")
    try:
        path, _, query = target.decode().partition("?")
    except UnicodeDecodeError:
        return Malformed(":path is neither ASCII nor UTF-8")
    expect = any(name == b"expect" and value.lower() == b"100-continue" for name, value in plain)
    return Head(
        method=method.decode(),
        path=path,
        query=query,
        authority=authority.decode(),
        fields=tuple(plain),
        content_length=length,
        expects_continue=expect,
    )
