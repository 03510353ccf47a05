"""What both protocols look like from above: requests come out, responses and streams go in.

A `Wire` is sans-IO: bytes received go into `receive`, bytes to send come out of `take_output`; it
never waits and holds no clock.  `http2.Http2` and `http1.Http1` are the two; one connection loop
(connection.py) serves both.

A *stream* is an int: the HTTP/2 stream id, or a count of the requests of an HTTP/1.1 connection.
A response is either whole (`respond`) or an event stream (`open`, then payloads, then `finish`).
Payloads reach a stream in two ways: `send` gives one to one stream, `offer` gives one to a whole
`Lane`, that is to all streams which from then on receive the same.  A lane is where fan-out is
cheap: the unit of work is the payload and the connection, not the tab.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as _field
from functools import cached_property, lru_cache
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, final

from .bodies import read_form, read_json
from .errors import BadRequest

__all__ = [
    "BEHIND",
    "Drained",
    "Fields",
    "Gone",
    "Lane",
    "Overflow",
    "Overflowed",
    "ProtocolName",
    "Request",
    "Response",
    "Rest",
    "Room",
    "Wire",
    "WireEvent",
    "WireStatistics",
    "check_fields",
    "end_to_end",
    "problem",
    "to_send",
]

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]
ProtocolName: TypeAlias = Literal["h2", "http/1.1"]

# Why a stream is ended by itself, when it falls behind.
BEHIND = "tab at its backlog bound"


@final
@dataclass(frozen=True, kw_only=True)
class Request:
    """One whole request, body included, already checked against RFC 9110 and the limits.

    `path` is percent-encoded as it came, without the query; `fields` has lower-case names;
    `authority` is the Host; `peer` the client's address and `connection` the number of its
    connection, counted from 1, so that a handler can tell which tabs share one.
    """

    stream: int
    method: str
    path: str
    query: str = ""
    authority: str = ""
    fields: Fields = ()
    body: bytes = b""
    protocol: ProtocolName = "h2"
    connection: int = 0
    peer: str = ""
    max_concurrent_streams: int | None = None

    def header(self, name: str) -> str | None:
        """The value of a field, several joined by ", " (RFC 9110 5.3), or None.

        Decoded as UTF-8 where it is UTF-8 (Last-Event-ID is, HTML 9.2.4), else as Latin-1.
        """
        wanted = name.lower().encode()
        found = [value for field_name, value in self.fields if field_name == wanted]
        if not found:
            return None
        raw = b", ".join(found)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.decode("latin-1")

    @cached_property
    def query_pairs(self) -> Sequence[tuple[str, str]]:
        """The query's parameters in order.  Raises BadRequest if they are not UTF-8."""
        query = self.query
        return _query(query) if len(query) <= _MEMO_BYTES else read_form(query.encode(), "query")

    def parameters(self, name: str) -> list[str]:
        """Every value of one query parameter, in order."""
        if not self.query:
            return []
        return [value for key, value in self.query_pairs if key == name]

    @property
    def content_type(self) -> str:
        """The essence of Content-Type in lower case, "" without one."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()

    def json(self) -> Any:
        """The body as JSON.  Raises BadRequest (400) if it is not, or is not UTF-8."""
        return read_json(self.body)

    def form(self) -> list[tuple[str, str]]:
        """The body as application/x-www-form-urlencoded.  Raises BadRequest (400)."""
        if not self.body.isascii():
            raise BadRequest("body", "a form holds ASCII only: percent-encode the rest", status=400)
        return read_form(self.body, "body")


# A browser's tabs ask for the same few things: what they ask for is parsed once.
_MEMO_BYTES = 256


@lru_cache(maxsize=256)
def _query(text: str) -> Sequence[tuple[str, str]]:
    return tuple(read_form(text.encode(), "query"))


_FIELD_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_FIELD_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?").fullmatch


def check_fields(fields: Fields) -> None:
    """Raise ValueError for a field that could not be sent as it is (RFC 9110 5, RFC 9113 8.2)."""
    for name, value in fields:
        if not _FIELD_NAME(name) or not _FIELD_VALUE(value):
            raise ValueError(
                "a field has a lower-case name, and a value without control bytes or blanks at"
                f" its ends: {name!r}: {value!r}"
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A status, header fields (lower-case names) and a whole body.

    Content-Length is added on sending.  `Response.json` and `Response.text` cover most needs.
    """

    status: int = 200
    fields: Fields = ()
    body: bytes = b""

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599:
            raise ValueError(f"status must be 200 to 599: {self.status}")
        check_fields(self.fields)

    @classmethod
    def json(cls, value: Any, *, status: int = 200, fields: Fields = ()) -> Response:
        """`value` as JSON."""
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        kind = (b"content-type", b"application/json")
        return cls(status=status, fields=(kind, *fields), body=body)

    @classmethod
    def text(
        cls,
        text: str,
        *,
        status: int = 200,
        content_type: str = "text/plain; charset=utf-8",
        fields: Fields = (),
    ) -> Response:
        """`text` in UTF-8."""
        kind = (b"content-type", content_type.encode())
        return cls(status=status, fields=(kind, *fields), body=text.encode())

    def with_fields(self, *fields: tuple[bytes, bytes]) -> Response:
        """The same response with more fields."""
        if not fields:
            return self
        return Response(status=self.status, fields=(*self.fields, *fields), body=self.body)


_TITLES = {status.value: status.phrase for status in HTTPStatus}


def problem(
    status: int,
    detail: str,
    *,
    field: str | None = None,
    fields: Fields = (),
) -> Response:
    """An error as problem details (RFC 9457), with the faulty field's name where there is one."""
    body: dict[str, Any] = {"title": _TITLES.get(status, ""), "status": status, "detail": detail}
    if field is not None:
        body["field"] = field
    # ASCII: a detail may tell of a lone surrogate, which has no other form.
    text = json.dumps(body)
    kind = (b"content-type", b"application/problem+json")
    return Response(status=status, fields=(kind, *fields), body=text.encode() + b"\n")


# Ours to say, whatever the application says (RFC 9110 7.6.1, 8.6).
_FRAMING_FIELDS = frozenset(
    (
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    )
)
_NO_CONTENT = frozenset((204, 304))  # RFC 9110 6.4.1


def end_to_end(fields: Fields) -> list[tuple[bytes, bytes]]:
    """The fields that are the application's to give."""
    return [each for each in fields if each[0] not in _FRAMING_FIELDS]


def to_send(response: Response, *, head: bool) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The fields and the body that go out for a response, to HEAD with `head`."""
    bare = response.status in _NO_CONTENT
    fields = end_to_end(response.fields)
    # HEAD for an event stream has an empty body, of which GET would send more: no length.
    if not bare and (response.body or not head):
        fields.append((b"content-length", b"%d" % len(response.body)))
    return fields, b"" if head or bare else response.body


@final
@dataclass(frozen=True, slots=True)
class Gone:
    """The peer ended a stream: it was reset, or the client left.  Nothing more can be sent."""

    stream: int


@final
@dataclass(frozen=True, slots=True)
class Drained:
    """All that was `send` to this stream is on its way: there is room for more."""

    stream: int


@final
@dataclass(frozen=True, slots=True)
class Overflowed:
    """A stream fell behind and was ended; its tab will come back and resume."""

    stream: int
    reason: str = _field(default=BEHIND, compare=False)


WireEvent: TypeAlias = Request | Gone | Drained | Overflowed


@final
class Rest(bytes):
    """A piece of a payload that is not its first: it goes with what stands before it.

    So it equals no whole payload, of the same bytes though it may be.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rest) and bytes(self) == bytes(other)

    def __ne__(self, other: object) -> bool:
        return not self == other  # else it would be that of bytes

    __hash__ = bytes.__hash__


@final
class Room(NamedTuple):
    """What came of making room: so many payloads were `lost`, so many bytes wait still."""

    lost: int
    waits: int


class Overflow(Protocol):
    """What lets go of payloads that wait too long, so that their stream need not end.

    Without one a stream ends at its bound.  overflow.py has those there are.
    """

    @property
    def name(self) -> str:
        """What its losses are counted under."""

    def acts_from(self, waits: int, bound: int) -> int:
        """How many bytes may wait, of `bound`, before it is asked to act; `waits` do now."""

    def make_room(
        self,
        waiting: list[bytes],
        *,
        begun: int,
        waits: int,
        size: int,
        bound: int,
        frame: Callable[[bytes], bytes] = ...,
    ) -> Room | None:
        """Let go of so much of `waiting` that `size` more bytes may wait; None if it cannot.

        It is all that or nothing.  The first `begun` entries, and the rest of such a payload, are
        on their way and stay.  `waits` is what all of it comes to; `frame` makes of a payload what
        stands in `waiting`.
        """


class Lane(Protocol):
    """Streams of one connection that receive the same payloads.  Made by `Wire.lane()`."""

    def offer(self, payload: bytes) -> None:
        """Queue one payload for every stream of the lane.  Never waits, never raises."""


@dataclass(slots=True)
class WireStatistics:
    """Counts since the connection began, read (and kept) by the connection."""

    requests: int = 0
    resets_received: int = 0
    resets_sent: int = 0
    refused: int = 0
    overflowed: int = 0
    by_reason: dict[str, int] = _field(default_factory=dict)
    # Payloads times the streams they were for, by the `Overflow` that let go of them.
    lost: dict[str, int] = _field(default_factory=dict)


class Wire(Protocol):
    """One connection's protocol, without IO.  See the module's docstring."""

    protocol: ProtocolName
    statistics: WireStatistics

    @property
    def open_streams(self) -> int:
        """Requests not yet finished: being received, answered, or streaming."""

    @property
    def unsent(self) -> int:
        """Bytes of answers that wait to be taken, DATA of streams not counted."""

    @property
    def waits(self) -> int:
        """Bytes of everything that waits to be taken, as if no two streams shared a payload."""

    @property
    def body_bytes(self) -> int:
        """Bytes of the request bodies that are not whole yet."""

    @property
    def body_due(self) -> float:
        """When the first of them is to be whole, infinity without any."""

    @property
    def idle(self) -> bool:
        """True when it is open, nothing `waits` and no event is to be taken: one look for all."""

    @property
    def last_word(self) -> bool:
        """After `drain`: the peer knows that no new requests will be served."""

    @property
    def closed(self) -> bool:
        """True when no more can be said: once the output is out, the socket is to be closed."""

    def receive(self, data: bytes, now: float) -> Sequence[WireEvent]:
        """Take bytes from the peer (b"" at its end of file) and say what they mean.

        Never raises for what a peer sends: it queues the right error, ends the stream or closes.
        """

    def respond(self, stream: int, response: Response, *, head: bool = False) -> None:
        """Answer with a whole response; with `head`, its fields only.  A gone stream: nothing."""

    def open(self, stream: int, fields: Fields, first: bytes) -> None:
        """Answer 200 with these fields and begin an event stream with the payload `first`."""

    def send(self, stream: int, payload: bytes) -> None:
        """Queue a payload for one stream.  When all is out, `Drained` follows."""

    def lane(self, overflow: Overflow | None = None) -> Lane:
        """A new, empty lane.  Its streams end at their bound, or `overflow` makes room."""

    def enter(self, stream: int, lane: Lane) -> None:
        """From now on the stream receives what is offered to `lane`, after what it was sent."""

    def finish(self, stream: int) -> None:
        """End a stream well: after what is queued, or at once where the peer does not read."""

    def take_events(self) -> Sequence[WireEvent]:
        """`Drained` and `Overflowed` since the last call."""

    def take_output(self) -> bytes:
        """The next bytes for the peer, a few TLS records at most, b"" if there are none."""

    def shed(self, reason: str) -> bool:
        """End the stream, or those of the lane, for which most waits; False if there is none."""

    def refuse_body(self, reason: str) -> None:
        """Answer 503 to the request whose body is due first."""

    def expire(self, now: float) -> Sequence[WireEvent]:
        """End whatever has waited past its deadline for the peer."""

    def drain(self) -> None:
        """Say that no new requests will be served (GOAWAY; Connection: close)."""

    def close(self) -> None:
        """Say the last word; after its output `closed` holds."""
