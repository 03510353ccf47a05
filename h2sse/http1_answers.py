"""Answers of HTTP/1.1, written by h11: a whole response, or the head that begins an event stream.

h11 judges every field, so what it gives can be sent as it is.  Raises LocalError, here and in
`http1.py`, for a field that HTTP/1.1 cannot carry (RFC 9110 5.5).
"""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11

from .errors import LocalError
from .wire import end_to_end, to_send

if TYPE_CHECKING:
    from .wire import Fields, Response

__all__ = ["answer", "stream_head"]

_CLOSE = (b"connection", b"close")
_REASONS = {int(status): status.phrase.encode() for status in HTTPStatus}


def answer(response: Response, version: bytes, *, head: bool, close: bool) -> list[bytes]:
    """A whole response to a request of that HTTP version; with `head`, its fields only."""
    fields, body = to_send(response, head=head)
    if close:
        fields.append(_CLOSE)
    written = _written(response.status, tuple(fields), version)
    return [written, body] if body else [written]


def stream_head(fields: Fields, version: bytes) -> bytes:
    """The head of an event stream."""
    return _written(200, (*end_to_end(fields), _CLOSE), version)


@lru_cache(maxsize=64)
def _written(status: int, fields: Fields, version: bytes) -> bytes:
    # Thousands of tabs get the same, and a publisher's answers are as long as each other.
    machine = h11.Connection(h11.SERVER)
    machine.receive_data(b"GET / HTTP/%b\r\nHost: localhost\r\n\r\n" % version)
    machine.next_event()
    return machine.send(_head(status, fields))


def _head(status: int, fields: Fields) -> h11.Response:
    """A status and its fields, for h11."""
    try:
        return h11.Response(
            status_code=status, headers=list(fields), reason=_REASONS.get(status, b"")
        )
    except h11.LocalProtocolError as error:
        raise LocalError(f"bad response field: {error}") from error
