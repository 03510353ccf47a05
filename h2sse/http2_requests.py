"""Requests over HTTP/2, from a judged header section and DATA to a whole `Request`.

Bodies wait here until they are whole, each bounded in time, each and all of a connection's together
in bytes, and held to their content-length (RFC 9113 8.1.1).  What may not be served comes out as a
value too, for `http2.py` to act on: `Reset` where the request is malformed, `Refused` where it is
well formed, and too much or too late.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, final

from h2.errors import ErrorCodes

from .fields import Head, Malformed, TooLarge
from .guard import TOO_LARGE_COST
from .wire import Request, Response, problem

if TYPE_CHECKING:
    from .config import Limits
    from .fields import Verdict

__all__ = ["Outcome", "Refused", "Requests", "Reset"]


@final
@dataclass(frozen=True, slots=True)
class Reset:
    """The stream is to be reset, and counted by `reason`."""

    code: ErrorCodes
    reason: str


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """The request is to be answered so, and counted by `reason`, as `cost` resets if any."""

    response: Response
    reason: str
    cost: int = 0


Outcome: TypeAlias = Request | Reset | Refused


@final
@dataclass(slots=True)
class _Body:
    head: Head
    deadline: float
    data: bytearray = field(default_factory=bytearray)


@final
class Requests:
    """The requests of one connection; `bodies` are those that are not whole yet, by stream.

    `size` is what has come of these, in bytes.
    """

    __slots__ = ("_connection", "_limits", "_peer", "bodies", "size")

    def __init__(self, limits: Limits, *, connection: int, peer: str) -> None:
        self._limits = limits
        self._connection = connection
        self._peer = peer
        self.size = 0
        self.bodies: dict[int, _Body] = {}

    def begin(self, stream: int, head: Verdict, ended: bool, now: float) -> Outcome | None:
        """A header section has come.  None: its body is to follow, as it has not `ended`."""
        match head:
            case Malformed(reason):
                return Reset(ErrorCodes.PROTOCOL_ERROR, reason)
            case TooLarge(reason):
                return Refused(problem(431, reason), "header section too large", TOO_LARGE_COST)
            case Head() if ended:
                if head.content_length:
                    return Reset(ErrorCodes.PROTOCOL_ERROR, "content-length without body")
                return self._request(stream, head, b"")
            case Head():
                if (head.content_length or 0) > self._limits.body_bytes:
                    return self._too_large()
                self.bodies[stream] = _Body(head, now + self._limits.body_seconds)
                return None

    def data(self, stream: int, data: bytes) -> Outcome | None:
        """DATA has come for one of `bodies`."""
        body = self.bodies[stream]
        body.data += data
        self.size += len(data)
        limits, expected = self._limits, body.head.content_length
        if expected is not None and len(body.data) > expected:
            return Reset(ErrorCodes.PROTOCOL_ERROR, "body over its content-length")
        if len(body.data) > limits.body_bytes:
            return self._too_large()
        if self.size > limits.connection_body_bytes:
            return Reset(ErrorCodes.ENHANCE_YOUR_CALM, "too many bodies at once")
        return None

    def end(self, stream: int) -> Outcome:
        """The peer has ended one of `bodies`."""
        body = self.bodies[stream]
        if body.head.content_length not in (None, len(body.data)):
            return Reset(ErrorCodes.PROTOCOL_ERROR, "body under its content-length")
        self.drop(stream)
        return self._request(stream, body.head, bytes(body.data))

    def drop(self, stream: int) -> None:
        """The body, if there is one, is not waited for any more."""
        body = self.bodies.pop(stream, None)
        if body is not None:
            self.size -= len(body.data)

    def late(self, now: float) -> dict[int, Refused]:
        """The streams whose body is not whole after `body_seconds`, and their answer."""
        late = [stream for stream, body in self.bodies.items() if now >= body.deadline]
        if not late:
            return {}
        answer = problem(408, f"no body within {self._limits.body_seconds} s")
        return dict.fromkeys(late, Refused(answer, "no whole body within body_seconds"))

    @property
    def due(self) -> float:
        """When the first of `bodies` is to be whole, infinity without any."""
        return next((body.deadline for body in self.bodies.values()), math.inf)

    def _too_large(self) -> Refused:
        detail = f"a body may have {self._limits.body_bytes} bytes"
        return Refused(problem(413, detail), "body too large")

    def _request(self, stream: int, head: Head, body: bytes) -> Request:
        return Request(
            stream=stream,
            method=head.method,
            path=head.path,
            query=head.query,
            authority=head.authority,
            fields=head.fields,
            body=body,
            connection=self._connection,
            peer=self._peer,
            max_concurrent_streams=self._limits.max_concurrent_streams,
        )
