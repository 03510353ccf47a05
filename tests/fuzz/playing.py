"""A wire played through, from one input: the peer's bytes, and what we do between them.

An input is a *script*, so that a fuzzer changes all of it by changing bytes:

    count           one byte: how many steps
    size, action    two bytes a step: feed so many of the peer's bytes (255: all), then do that
    the rest        the peer's bytes

Requests are answered by the first letter of their path, or by a later step.  Each script is played
twice, with the peer's bytes as the steps cut them and byte by byte, and both must come to the same.
What the wire sends is read by a `Reader`, which knows its RFC and what the peer has said, and
nothing of the wire.  So these are asserted of any input:

- no method of the wire raises, and nothing follows its last word;
- each event is of a stream that the peer opened, and each request comes once;
- what arrives on a stream is what was given to it, in order; where events may be lost, those that
  arrive are whole and in order;
- nothing is sent that may not be, and nothing waits that may be sent;
- what waits is within its bounds, and adds up;
- a peer that falls silent is left.

None of it needs a fuzzer: tests/test_fuzz.py plays every seed, and mutations of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple, Protocol, assert_never, final

from h2sse.config import Limits
from h2sse.overflow import GAP_EVENT, OVERFLOWS
from h2sse.sse import Event, Parser, opening
from h2sse.trace import Tracer
from h2sse.wire import Drained, Gone, Lane, Overflowed, Request, Response, Wire, WireEvent

__all__ = ["EVERYTHING", "LIMITS", "Action", "Reader", "Script", "Step", "play"]

# As the size of a step.
EVERYTHING = 255

# All that has a bound comes to it within a script of a few hundred bytes.
LIMITS = Limits(
    header_list_bytes=512,
    header_fields=12,
    continuation_frames=3,
    header_block_bytes=1_024,
    body_bytes=256,
    connection_body_bytes=400,
    max_concurrent_streams=5,
    stream_id=61,
    resets=12,
    small_frames=40,
    settings_frames=8,
    settings_entries=4,
    tab_backlog_bytes=6_000,
    connection_backlog_bytes=20_000,
    unsent_control_bytes=2_000,
)
FIELDS = ((b"content-type", b"text/event-stream"),)
FIRST = opening(retry=1)
# More than one frame, piece and turn.
LARGE = bytes(range(256)) * 160
PAGE = b":" + b"p" * 7_000 + b"\n\n"
LANES = tuple(OVERFLOWS.values())

SECONDS = (0.1, 1.0, 5.0, 9.0, 11.0, 21.0, 31.0, 61.0)
# More than any limit of the wire's, so that each `expire` ends something, or asks.
LONG_SECONDS = 100.0
_ROUNDS = 5


@final
class Action:
    """What a step may do; its argument says how much of it, or to which stream."""

    REST = 0
    PUBLISH = 1
    PUBLISH_LARGE = 2
    SEND = 3
    FINISH = 4
    RESPOND = 5
    OPEN = 6
    WAIT = 7
    BLOCK = 8  # the socket is full, or no longer
    WRITE_ONE = 9  # it takes one piece more
    SHED = 10
    DRAIN = 11
    CLOSE = 12
    END_OF_FILE = 13
    BURST = 14
    PUBLISH_ALL = 15


class Step(NamedTuple):
    """Feed `size` bytes, then act."""

    size: int
    action: int = Action.REST
    argument: int = 0


@final
@dataclass(frozen=True)
class Script:
    """One input, read."""

    steps: tuple[Step, ...]
    peer: bytes

    @classmethod
    def read(cls, data: bytes) -> Script:
        """Any bytes are a script."""
        count = min(data[0], (len(data) - 1) // 2) if data else 0
        tape = data[1 : 1 + 2 * count]
        pairs = zip(tape[::2], tape[1::2], strict=True)
        steps = tuple(Step(size, what & 15, what >> 4) for size, what in pairs)
        return cls(steps, data[1 + 2 * count :])

    def write(self) -> bytes:
        """The bytes that it is read from."""
        tape = (bytes((size, action | argument << 4)) for size, action, argument in self.steps)
        return bytes((len(self.steps),)) + b"".join(tape) + self.peer


class Reader(Protocol):
    """The peer, as far as it must be to judge what it is sent: by its RFC, and what it said."""

    def said(self, data: bytes) -> None:
        """The peer has sent this."""

    def asked(self, request: Request) -> None:
        """The wire has seen this request.  Fails if the peer has not made it."""

    def heard(self, data: bytes) -> None:
        """It is sent this.  Fails if that is none of what it may be sent."""

    @property
    def broken(self) -> bool:
        """Whether the peer has surely broken its connection, so that it is to be closed."""

    def opened(self, stream: int) -> bool:
        """Whether the peer has opened it, be it by opening a later one."""

    def body(self, stream: int) -> bytes:
        """What has arrived on it."""

    def ended(self, stream: int) -> bool:
        """Whether its end has arrived too."""

    def room(self, stream: int) -> bool:
        """Whether more may be sent on it."""

    def finish(self, *, left: bool) -> None:
        """The wire has closed and all was heard; `left` says that the peer went first."""

    def account(self) -> object:
        """What it was sent, as far as that may not depend on how its own bytes were cut."""


@dataclass
class _Answer:
    """What was given to a stream."""

    told: bytearray
    lane: int | None = None  # in which it is, or will be once it has `Drained`
    live: bool = False
    ends: bool = False
    over: bool = False

    @property
    def lossy(self) -> bool:
        return self.lane is not None and LANES[self.lane] is not None


@dataclass
class _Player:
    wire: Wire
    reader: Reader
    measure: Callable[[Wire], None]
    by_byte: bool
    tracer: Tracer | None
    now: float = 0.0
    blocked: bool = False
    cut: bool = False  # streams were ended whatever waited for them
    left: bool = False
    lanes: dict[int, Lane] = field(default_factory=dict)
    answers: dict[int, _Answer] = field(default_factory=dict)
    waiting: dict[int, Request] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    events: list[WireEvent] = field(default_factory=list)

    def play(self, script: Script) -> None:
        at = 0
        for step in script.steps:
            end = len(script.peer) if step.size == EVERYTHING else at + step.size
            self.feed(script.peer[at:end])
            at = min(end, len(script.peer))
            self.act(step.action, step.argument)
            self.flush()
        self.feed(script.peer[at:])
        self.flush()
        self.fall_silent()
        self.poke()
        self.reader.finish(left=self.left)
        for stream, answer in self.answers.items():
            self.compare(stream, answer)

    # -- in

    def feed(self, data: bytes) -> None:
        wire = self.wire
        # As connection.py reads: not from one who does not read our answers.
        if self.blocked and wire.unsent > LIMITS.unsent_control_bytes:
            return
        if not data or wire.closed:
            return
        if self.tracer is not None:
            self.tracer.received(data, self.now)
        self.reader.said(data)
        events: list[WireEvent] = []
        size = 1 if self.by_byte else len(data)
        for at in range(0, len(data), size):
            events += wire.receive(data[at : at + size], self.now)
        assert not self.reader.broken or self.wire.closed
        self.measure(wire)
        self.hear(events)

    def hear(self, events: Iterable[WireEvent]) -> None:
        for event in events:
            self.events.append(event)
            stream = event.stream
            assert self.reader.opened(stream), event
            answer = self.answers.get(stream)
            match event:
                case Request():
                    assert stream not in self.seen
                    self.seen.add(stream)
                    self.reader.asked(event)
                    self.answer(event)
                case Gone():
                    self.waiting.pop(stream, None)
                    if answer is not None:
                        self.leave(answer)
                case Drained():
                    assert answer is not None
                    assert not answer.over
                    assert answer.lane is not None
                    if not answer.live and not answer.ends:
                        self.enter(stream, answer)
                case Overflowed():
                    assert answer is not None
                    assert not answer.over
                    assert answer.lane is not None
                    self.leave(answer)
                case _:
                    assert_never(event)

    # -- what the application does

    def answer(self, request: Request) -> None:
        """By the path's first letter: eight kinds, and those that are answered later."""
        letter = request.path[1:2]
        if letter in ("e", "o", "l") and request.method == "GET":
            self.open(request, "eol".index(letter), enters=True)
        elif letter == "r" and request.method == "GET":
            self.open(request, 0, enters=False)
        elif letter == "t":
            self.respond(request, Response.text("text " + "x" * len(request.body)))
        elif letter == "b":
            self.respond(request, Response(body=LARGE))
        elif letter == "n":
            self.respond(request, Response(status=204))
        else:
            self.waiting[request.stream] = request

    def respond(self, request: Request, response: Response) -> None:
        head = request.method == "HEAD"
        told = b"" if head or response.status == 204 else response.body
        self.answers[request.stream] = _Answer(bytearray(told), ends=True)
        self.wire.respond(request.stream, response, head=head)

    def open(self, request: Request, lane: int, *, enters: bool) -> None:
        """As connection.py opens a tab that is at the newest event, or behind by a page."""
        stream = request.stream
        answer = self.answers[stream] = _Answer(bytearray(FIRST), lane)
        self.wire.open(stream, FIELDS, FIRST)
        if enters:
            self.enter(stream, answer)
        else:
            answer.told += PAGE
            self.wire.send(stream, PAGE)

    def enter(self, stream: int, answer: _Answer) -> None:
        assert answer.lane is not None
        answer.live = True
        lane = self.lanes.get(answer.lane)
        if lane is None:
            lane = self.lanes[answer.lane] = self.wire.lane(LANES[answer.lane])
        self.wire.enter(stream, lane)

    def leave(self, answer: _Answer) -> None:
        answer.over = True
        if not any(each.live and not each.over for each in self.answers.values()):
            self.lanes.clear()  # as the hub's groups go

    def publish(self, lane: int, size: int) -> None:
        if lane not in self.lanes or self.wire.closed:
            return
        number = str(len(self.published) + 1)
        event = Event(id=number, event="ab"[len(self.published) % 2], data=number + "x" * size)
        self.published[number] = event.data
        payload = event.encode()
        for answer in self.answers.values():
            if answer.live and answer.lane == lane and not (answer.ends or answer.over):
                answer.told += payload
        self.lanes[lane].offer(payload)

    def act(self, action: int, argument: int) -> None:
        wire = self.wire
        tabs = [n for n, each in self.answers.items() if each.lane is not None and not each.over]
        match action:
            case Action.PUBLISH:
                self.publish(argument % 3, 40 * argument)
            case Action.PUBLISH_LARGE:
                self.publish(argument % 3, 3_000 * argument)
            case Action.BURST:
                for _ in range(argument + 1):
                    self.publish(argument % 3, 500)
            case Action.PUBLISH_ALL:
                for lane in range(3):
                    self.publish(lane, 200 * argument)
            case Action.SEND if tabs and not wire.closed:
                stream = tabs[argument % len(tabs)]
                if not self.answers[stream].ends:
                    payload = b":" + b"s" * (700 * argument) + b"\n\n"
                    self.answers[stream].told += payload
                    wire.send(stream, payload)
            case Action.FINISH if tabs:
                stream = tabs[argument % len(tabs)]
                self.answers[stream].ends = True
                wire.finish(stream)
            case Action.RESPOND | Action.OPEN if self.waiting:
                request = self.waiting.pop(list(self.waiting)[argument % len(self.waiting)])
                if action == Action.OPEN and request.method == "GET":
                    self.open(request, argument % 3, enters=bool(argument & 4))
                else:
                    self.respond(request, Response(status=200 + argument, body=b"late" * argument))
            case Action.WAIT:
                self.now += SECONDS[argument % len(SECONDS)]
                self.hear(wire.expire(self.now))
            case Action.BLOCK:
                self.blocked = not self.blocked
            case Action.WRITE_ONE:
                self.blocked = True
                self.write()
            case Action.SHED:
                wire.shed("shed")
            case Action.DRAIN:
                wire.drain()
            case Action.CLOSE:
                self.cut = True
                wire.close()
            case Action.END_OF_FILE if not wire.closed:
                self.left = True
                self.hear(wire.receive(b"", self.now))
                assert wire.closed
            case _:
                pass

    # -- out

    def write(self) -> bool:
        idle = self.wire.idle
        data = self.wire.take_output()
        assert not (idle and data)
        self.reader.heard(data)
        if self.tracer is not None and data:
            self.tracer.sent(data, self.now)
        return bool(data)

    def flush(self) -> None:
        """As connection.py does."""
        wire = self.wire
        while True:
            if not self.blocked and self.write():
                continue
            events = wire.take_events()
            self.hear(events)
            if not events or self.blocked:
                break
        self.measure(wire)
        if not self.blocked:
            assert not wire.unsent
            if not wire.closed:
                self.progress()

    def progress(self) -> None:
        """Nothing waits that the windows let go."""
        open_ones = {n: each for n, each in self.answers.items() if not each.over}
        roomy = [n for n in open_ones if self.reader.room(n)]
        for stream in roomy:
            answer = self.answers[stream]
            if not answer.lossy:
                assert len(self.reader.body(stream)) == len(answer.told), stream
            assert self.reader.ended(stream) == answer.ends, stream
        if len(roomy) == len(open_ones):
            assert not self.wire.waits

    # -- the end

    def fall_silent(self) -> None:
        """The peer says nothing any more, but reads."""
        wire = self.wire
        self.blocked = False
        self.flush()
        for rounds in range(2 * _ROUNDS):
            if wire.closed:
                break
            if rounds == _ROUNDS:
                # HTTP/1.1 has TCP to find out; a PING is HTTP/2's.
                assert wire.protocol == "http/1.1"
                assert wire.open_streams
                self.cut = True
                wire.close()
            self.now += LONG_SECONDS
            self.hear(wire.expire(self.now))
            self.flush()
        assert wire.closed

    def poke(self) -> None:
        """After its last word, nothing draws another from it."""
        wire = self.wire
        assert wire.receive(b"\0\0\x08\x06\0\0\0\0\0any time", self.now) == ()
        for stream in [*self.seen, 1]:
            wire.respond(stream, Response())
            wire.open(stream, FIELDS, FIRST)
            wire.send(stream, FIRST)
            wire.finish(stream)
        for lane in self.lanes.values():
            lane.offer(FIRST)
        wire.shed("shed")
        wire.drain()
        wire.close()
        assert not wire.expire(self.now + LONG_SECONDS)
        assert not wire.take_output()
        assert not wire.take_events()

    def compare(self, stream: int, answer: _Answer) -> None:
        body = self.reader.body(stream)
        if not answer.lossy:
            assert answer.told.startswith(body), stream
            if answer.ends and not (answer.over or self.cut) and self.reader.ended(stream):
                assert len(body) == len(answer.told), stream
            return
        last = 0
        for message in Parser().feed(body):
            if message.event == GAP_EVENT:
                assert int(message.last_event_id) > last
            else:
                assert message.data == self.published[message.last_event_id]
                assert int(message.last_event_id) > last
            last = int(message.last_event_id)


def play(
    data: bytes,
    wire: Callable[[], Wire],
    reader: Callable[[], Reader],
    measure: Callable[[Wire], None],
) -> None:
    """Play one input both ways; `measure` looks into the wire for what waits."""
    script = Script.read(data)
    came = []
    for by_byte in (False, True):
        made, hears = wire(), reader()
        tracer = None if by_byte else Tracer(1, made.protocol)
        player = _Player(made, hears, measure, by_byte, tracer)
        player.play(script)
        counts = asdict(made.statistics)
        # Of two faults in a request, either may be found first.
        del counts["by_reason"]
        came.append((player.events, hears.account(), counts))
    assert came[0] == came[1]
