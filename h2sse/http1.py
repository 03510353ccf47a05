"""HTTP/1.1 behind the `Wire` interface: h11 reads requests and writes answers, streams are ours.

A connection serves one request at a time.  How it is read, and which are refused, is in
`http1_requests.py`, how an answer is written in `http1_answers.py`; here is what becomes of it.
h11 judges and writes every head, each only once where they repeat.

Requests that come early (pipelining, RFC 9112 9.3.2) wait unread, 64 KiB at the most.  The next one
is read when the answer before it is queued and at most `PIECE_BYTES` of answers are unsent, so it
comes from `take_events` as well as from `receive`.  When more wait, they are dropped and the answer
in progress says `connection: close`: the client knows which requests to repeat.

An event stream is the last answer of its connection and says so (`connection: close`).  What the
client sends after that is dropped (RFC 9112 9.6).  Its chunk framing is made once a payload and
shared by all connections: fan-out to one more stream is an append to a list.
"""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import TYPE_CHECKING, assert_never, final

from .errors import RemoteError
from .http1_answers import answer, stream_head
from .http1_requests import Exchange, begin
from .wire import (
    BEHIND,
    Drained,
    Fields,
    Gone,
    Lane,
    Overflow,
    Overflowed,
    ProtocolName,
    Response,
    WireEvent,
    WireStatistics,
    problem,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import Limits

__all__ = ["PIECE_BYTES", "Http1", "chunk"]

# Four TLS records: a stalled peer's pending write stays small, a fast one's system calls few.
PIECE_BYTES = 64 * 1024
# Early requests that wait for the answer before them.  Browsers send none, load tools a few KB.
UNREAD_BYTES = 64 * 1024

_LAST_CHUNK = b"0\r\n\r\n"


class _State(Enum):
    IDLE = auto()  # between two requests
    HEAD = auto()  # a header section is due: the connection is new, or part of one came
    BODY = auto()  # the header section is whole, the body is not
    ANSWER = auto()  # a whole request is with the application
    STREAM = auto()  # it was answered with an event stream
    CLOSED = auto()  # nothing more is read or begun; output may be waiting


_NEXT = {
    _State.IDLE: {_State.HEAD, _State.CLOSED},  # the first byte; too late, or drained
    _State.HEAD: {_State.BODY, _State.CLOSED},  # whole; or refused
    _State.BODY: {_State.ANSWER, _State.CLOSED},  # whole; or refused
    _State.ANSWER: {_State.IDLE, _State.STREAM, _State.CLOSED},  # `respond`, `open`; or the last
    _State.STREAM: {_State.CLOSED},  # never another request: its header said so
    _State.CLOSED: {_State.CLOSED},
}

# Looking an enum's member up costs 0.1 us, and these two are looked at for every payload.
_STREAM, _CLOSED = _State.STREAM, _State.CLOSED


@final
class Http1:
    """One HTTP/1.1 (or 1.0) connection as a `Wire`; see the module's docstring.

    `connection` and `peer` are handed on in each `Request`; `now` is when the connection began, in
    seconds of any clock that only goes forward.
    """

    __slots__ = (
        "_backlog",
        "_begun",
        "_bound",
        "_connection",
        "_deadline",
        "_draining",
        "_events",
        "_exchange",
        "_limits",
        "_now",
        "_output",
        "_overflow",
        "_peer",
        "_state",
        "_stream",
        "_undrained",
        "_unread",
        "_waiting",
        "chunked",
        "statistics",
    )

    protocol: ProtocolName = "http/1.1"

    def __init__(
        self, limits: Limits, *, connection: int = 0, peer: str = "", now: float = 0.0
    ) -> None:
        self.statistics = WireStatistics()
        self._limits = limits
        self._connection = connection
        self._peer = peer
        self._state = _State.HEAD
        self._now = now  # the latest we were told
        self._deadline = now + limits.request_seconds  # of the state
        self._draining = False
        self._unread = b""
        self._exchange: Exchange | None = None
        self._stream = 0  # the number of the latest request
        self._events: tuple[WireEvent, ...] = ()
        # Heads and whole answers, then the payloads of the event stream (lists: an empty deque is
        # 760 bytes).  `_begun` bytes of the very first entry are already taken.
        self._output: list[bytes] = []
        self._waiting: list[bytes] = []
        self._begun = 0
        # Bytes of `_waiting`, and how many they may be: past it the stream ends, or `_overflow`
        # makes room.
        self._backlog = 0
        self._bound = limits.tab_backlog_bytes
        self._overflow: Overflow | None = None
        self.chunked = True  # the event stream: HTTP/1.0 knows no chunks
        # How many entries of `_waiting` are yet to be taken before `Drained`; None: it is not due.
        self._undrained: int | None = None

    # -- what the connection asks

    @property
    def open_streams(self) -> int:
        """1 from a whole header section to the end of its answer, else 0."""
        return int(self._state in (_State.BODY, _State.ANSWER, _State.STREAM))

    @property
    def unsent(self) -> int:
        """Bytes of answers that wait to be taken, payloads of a stream not counted."""
        return sum(map(len, self._output)) - (self._begun if self._output else 0)

    @property
    def waits(self) -> int:
        """Bytes of everything that waits to be taken."""
        return self._backlog + (self.unsent if self._output else 0)

    @property
    def body_bytes(self) -> int:
        """Bytes of the request body that is not whole yet."""
        return len(self._exchange.body) if self._state is _State.BODY and self._exchange else 0

    @property
    def body_due(self) -> float:
        """When it is to be whole, infinity if there is none."""
        return self._deadline if self._state is _State.BODY else math.inf

    @property
    def idle(self) -> bool:
        """True when it is open, nothing `waits` and no event is to be taken."""
        return not (self._waiting or self._output or self._events or self._state is _CLOSED)

    @property
    def last_word(self) -> bool:
        """True after `drain`: the next answer says `connection: close`, and that is all."""
        return self._draining

    @property
    def closed(self) -> bool:
        """True when no more can be said: once the output is out, the socket is to be closed."""
        return self._state is _CLOSED

    def take_events(self) -> Sequence[WireEvent]:
        """`Drained`, `Overflowed`, and an early `Request` whose turn has come."""
        events, self._events = self._events, ()
        return events

    def take_output(self) -> bytes:
        """The next bytes for the peer: one entry as it is, or several joined to `PIECE_BYTES`."""
        waiting = self._waiting
        if (
            len(waiting) == 1
            and self._undrained is None
            and not (self._output or self._begun)
            and len(waiting[0]) <= PIECE_BYTES
        ):
            # What fan-out asks of every connection in turn, by the shortest way.
            self._backlog = 0
            return waiting.pop()
        if self._output:
            data = self._take(self._output)
            if self._unread:
                self._advance()
        elif self._waiting:
            before = len(self._waiting)
            data = self._take(self._waiting)
            self._backlog -= len(data)
            if self._undrained:
                self._undrained = max(0, self._undrained - before + len(self._waiting))
        else:
            return b""
        if self._undrained == 0 and not self._output:
            self._undrained = None
            self._events += (Drained(self._stream),)
        return data

    def _take(self, entries: list[bytes]) -> bytes:
        first = entries[0]
        if len(entries) == 1 and not self._begun and len(first) <= PIECE_BYTES:
            entries.clear()
            return first
        if len(first) - self._begun > PIECE_BYTES:
            start, self._begun = self._begun, self._begun + PIECE_BYTES
            return first[start : self._begun]
        count = 0
        size = -self._begun
        for entry in entries:
            size += len(entry)
            if size > PIECE_BYTES:
                break
            count += 1
        pieces = entries[:count]
        pieces[0] = first[self._begun :]
        del entries[:count]
        self._begun = 0
        return b"".join(pieces)

    # -- requests

    def receive(self, data: bytes, now: float) -> Sequence[WireEvent]:
        """Take bytes from the peer (b"" at its end of file) and say what they mean.

        A client that ended its sending half counts as gone: browsers never half-close.
        """
        self._now = now
        if not data:
            self._peer_left()
        elif self._state not in (_State.STREAM, _State.CLOSED):
            self._unread += data
            self._advance()
        return self.take_events()

    def _peer_left(self) -> None:
        if self._state in (_State.ANSWER, _State.STREAM):
            self._events += (Gone(self._stream),)
            self._drop_waiting()
        # Answers already given stay: the peer may still read them.
        self._become(_State.CLOSED)

    def _advance(self) -> None:
        """Read on in `_unread`, as far as one request."""
        try:
            if self._state in (_State.IDLE, _State.HEAD) and self.unsent <= PIECE_BYTES:
                self._read_head()
            if self._state is _State.BODY:
                self._read_body()
        except RemoteError as error:
            self._refuse(error)
        if len(self._unread) > UNREAD_BYTES and self._state in (_State.IDLE, _State.ANSWER):
            self._count("too many early requests")
            self.drain()

    def _read_head(self) -> None:
        self._unread = unread = self._unread.lstrip(b"\r\n")  # RFC 9112 2.2: empty lines
        if not unread:
            return
        if self._state is _State.IDLE:
            self._become(_State.HEAD)
        begun = begin(unread, self._limits)
        if begun is not None:
            self._exchange, self._unread = begun
            self._become(_State.BODY)

    def _read_body(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        data, self._unread = self._unread, b""
        early = exchange.read(data)
        if early is None:
            if go_on := exchange.go_on():
                self._output.append(go_on)
            return
        self._unread = early
        self._become(_State.ANSWER)
        self._stream += 1
        self.statistics.requests += 1
        request = exchange.request(self._stream, connection=self._connection, peer=self._peer)
        self._events += (request,)

    # -- answers

    def respond(self, stream: int, response: Response, *, head: bool = False) -> None:
        """Answer with a whole response; with `head`, its fields only.  A gone stream: nothing.

        Raises LocalError if a field is not one that HTTP/1.1 can carry.
        """
        exchange = self._unanswered(stream)
        if exchange is None:
            return
        close = self._draining or not exchange.head.keeps_alive
        self._output += answer(response, exchange.head.version, head=head, close=close)
        if close:
            self._become(_State.CLOSED)
        else:
            self._exchange = None
            self._become(_State.IDLE)
            if self._unread:
                self._advance()

    def open(self, stream: int, fields: Fields, first: bytes) -> None:
        """Answer 200 with these fields and begin an event stream with the payload `first`.

        Raises LocalError if a field is not one that HTTP/1.1 can carry.
        """
        exchange = self._unanswered(stream)
        if exchange is None:
            return
        # Without chunks the stream lasts until the connection ends.
        version = exchange.head.version
        self.chunked = version >= b"1.1"
        self._output.append(stream_head(fields, version) + self._frame(first))
        self._undrained = 0
        self._exchange = None
        self._unread = b""
        self._become(_State.STREAM)

    def finish(self, stream: int) -> None:
        """End a stream after what is queued.  An unanswered request: the connection is closed."""
        if stream == self._stream and self._state in (_State.ANSWER, _State.STREAM):
            self._end()

    def _unanswered(self, stream: int) -> Exchange | None:
        if stream == self._stream and self._state is _State.ANSWER:
            return self._exchange
        return None

    def _refuse(self, error: RemoteError) -> None:
        """Answer a request that is not one, or not ours to serve, and close."""
        exchange = self._exchange
        is_head = exchange.head.method == "HEAD" if exchange else self._unread.startswith(b"HEAD ")
        self.statistics.refused += 1
        self._count(str(error))
        response = problem(error.status, str(error))
        self._output += answer(response, b"1.1", head=is_head, close=True)
        self._become(_State.CLOSED)

    # -- event streams

    def send(self, stream: int, payload: bytes) -> None:
        """Queue a payload for one stream, unbounded.  When all is out, `Drained` follows."""
        if stream == self._stream and self._state is _STREAM and payload:
            self._queue(payload)
            self._undrained = len(self._waiting)

    def lane(self, overflow: Overflow | None = None) -> Lane:
        """The connection itself: its one stream needs no other."""
        self._overflow = overflow
        if overflow is not None:
            self._bound = overflow.acts_from(0, self._limits.tab_backlog_bytes)
        return self

    def enter(self, stream: int, lane: Lane) -> None:
        """Nothing to do: what is offered to the lane goes to the one stream there is."""
        assert lane is self
        assert stream <= self._stream

    def offer(self, payload: bytes) -> None:
        """Queue one payload for the event stream, if there is one.  Never waits, never raises."""
        if self._state is not _STREAM or not payload:
            return
        if (
            self._backlog
            and self._backlog + len(payload) > self._bound
            and not self._make_room(len(payload))
        ):
            self.shed(BEHIND)
            return
        self._queue(payload)

    def _queue(self, payload: bytes) -> None:
        # Written here, one offer costs 0.2 us; a Data event of h11 costs 3.6 us.
        # test_http1.py::test_event_stream_equals_h11 holds the bytes equal.
        if self.chunked:
            last, frame = _framed
            if last is not payload:
                frame = chunk(payload)
        else:
            frame = payload
        self._waiting.append(frame)
        self._backlog += len(frame)

    def _make_room(self, size: int) -> bool:
        overflow, bound = self._overflow, self._limits.tab_backlog_bytes
        if overflow is None:
            return False
        room = overflow.make_room(
            self._waiting,
            begun=int(self._begun > 0 and not self._output),
            waits=self._backlog,
            size=size,
            bound=bound,
            frame=chunk if self.chunked else bytes,
        )
        if room is None:
            return False
        self._backlog = room.waits
        self._bound = overflow.acts_from(room.waits + size, bound)
        lost = self.statistics.lost
        lost[overflow.name] = lost.get(overflow.name, 0) + room.lost
        # It is live: what it was sent before has no end to be told of any more.
        self._undrained = None
        return True

    def shed(self, reason: str) -> bool:
        """End the event stream, if there is one, without what waits for it."""
        if self._state is not _STREAM:
            return False
        self.statistics.overflowed += 1
        self._events += (Overflowed(self._stream, reason),)
        self._count(reason)
        self._drop_waiting()
        self._end()
        return True

    def _frame(self, payload: bytes) -> bytes:
        return chunk(payload) if self.chunked and payload else payload

    def _drop_waiting(self) -> None:
        """Forget the payloads of which the peer has not seen a byte."""
        begun = self._begun and not self._output
        del self._waiting[1 if begun else 0 :]
        self._backlog = len(self._waiting[0]) - self._begun if begun else 0

    # -- ends

    def expire(self, now: float) -> Sequence[WireEvent]:
        """Close a connection that is idle for too long; answer 408 to a request that is slow."""
        self._now = now
        if now < self._deadline:
            return self.take_events()
        match self._state:
            case _State.IDLE:
                self._become(_State.CLOSED)
            case _State.HEAD if not self._unread:
                self._count("no request within request_seconds")
                self._become(_State.CLOSED)
            case _State.HEAD:
                self._refuse(RemoteError("the header section took too long", status=408))
            case _State.BODY:
                self._refuse(RemoteError("the body took too long", status=408))
            case _:
                raise AssertionError("nothing is due from the peer")
        return self.take_events()

    def refuse_body(self, reason: str) -> None:
        """Answer 503 to the request whose body is not whole yet, and close."""
        if self._state is _State.BODY:
            self._refuse(RemoteError(reason, status=503))

    def drain(self) -> None:
        """Serve the request in progress, saying `connection: close`, and no other."""
        self._draining = True
        if self._state in (_State.IDLE, _State.HEAD):
            self._become(_State.CLOSED)
        elif self._state is _State.ANSWER:
            self._unread = b""

    def close(self) -> None:
        """End an event stream well; a request without an answer is left so."""
        self._end()

    def _end(self) -> None:
        if self._state is _STREAM and self.chunked:
            self._waiting.append(_LAST_CHUNK)
            self._backlog += len(_LAST_CHUNK)
        self._become(_State.CLOSED)

    def _count(self, reason: str) -> None:
        reasons = self.statistics.by_reason
        reasons[reason] = reasons.get(reason, 0) + 1

    def _become(self, state: _State) -> None:
        assert state in _NEXT[self._state], f"{self._state.name} has no way to {state.name}"
        self._state = state
        self._deadline = self._now + self._patience()
        if state is _State.CLOSED:
            self._exchange = None
            self._unread = b""
            self._undrained = None

    def _patience(self) -> float:
        """Seconds that the state may last: for what is due from the peer."""
        limits = self._limits
        match self._state:
            case _State.IDLE:
                return limits.idle_seconds
            case _State.HEAD:
                return limits.request_seconds
            case _State.BODY:
                return limits.body_seconds
            case _State.ANSWER | _State.STREAM | _State.CLOSED:
                return math.inf
            case _:
                assert_never(self._state)


# The payload framed last and its chunk: fan-out offers one payload to every connection in turn.
_framed = (b"", b"")


def chunk(payload: bytes) -> bytes:
    """`payload` as one chunk (RFC 9112 7.1), made once for all who ask in turn."""
    global _framed
    last, chunk = _framed
    if last is not payload:
        chunk = b"%x\r\n%b\r\n" % (len(payload), payload)
        _framed = (payload, chunk)
    return chunk
