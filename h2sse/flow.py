"""DATA under two windows: payloads in, frames out, fair turns between streams.

RFC 9113 5.1: DATA leaves an open stream open, so only the stream's and the connection's window
change.  Frames are written here instead of through `h2.send_data`, which costs some 10 us a frame
(benchmarks/micro/offer.py); h2 still opens and closes every stream, and its windows are kept in
step.
tests/test_flow.py::test_equals_send_data holds bytes, windows and states equal.

An `Outflow` is one stream with a queue of its own.  A `Lane` is many streams that receive the same
payloads and stand *in step*: one queue and one debit for all of them, and the frames of a payload
are a single `join` over their stream ids (benchmarks/micro/offer.py).  A stream that cannot keep
step, because its window is short, goes *apart* into its own Outflow and steps in again once it has
caught up and the lane is idle.

    in step --window short--> apart --caught up, lane idle--> in step

Nothing is framed before `Flow.take` asks for it, so a PING's answer never waits behind a backlog,
and a payload waiting for 5,000 tabs is one reference, not 5,000 copies.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING, TypeAlias, final

from .liveness import Pace
from .wire import BEHIND, Drained, Overflowed, Rest

if TYPE_CHECKING:
    from h2.connection import H2Connection
    from h2.stream import H2Stream

    from .config import Limits
    from .wire import Overflow

__all__ = ["FRAME_BYTES", "Flow", "Lane", "Outflow"]

# No peer may ask for less (RFC 9113 6.5.2), and larger frames would make turns longer.
FRAME_BYTES = 16_384
# One turn of a stream or lane: two TLS records, so that a page load waits for little.
TURN_BYTES = 32 * 1024
# What one call of `take` returns: a few TLS records.  OpenSSL must be given the same bytes again
# after a full socket, so this is also what a slow peer pins.
TAKE_BYTES = 128 * 1024

HEAD_BYTES = 9


@final
class Outflow:
    """One stream's way out.

    `queue` is None while the stream is in step; else it holds the payloads that wait, the first
    of them sent up to `offset`.  `ends` says that the stream ends when the queue is empty.
    `bound` is how many bytes may wait: past it the stream ends, or its lane's policy acts.
    `pace` is kept from when its window closed before what waited, until it has caught up.
    """

    __slots__ = (
        "bound",
        "ends",
        "flow",
        "h2",
        "id",
        "lane",
        "offset",
        "pace",
        "queue",
        "queued",
        "ready",
        "tells",
        "whole",
    )

    def __init__(self, flow: Flow, h2_stream: H2Stream) -> None:
        self.flow = flow
        self.h2 = h2_stream
        self.id = h2_stream.stream_id.to_bytes(4, "big")
        self.lane: Lane | None = None
        self.queue: list[bytes] | None = []
        self.queued = 0
        self.bound = flow.limits.tab_backlog_bytes
        self.offset = 0
        self.pace: Pace | None = None
        self.ready = False
        self.ends = False
        self.whole = False  # whether it is one answer, not a stream of events
        self.tells = False  # whether `Drained` is due when the queue is empty

    def push(self, payload: bytes) -> None:
        """Queue a payload, unbounded: for what the caller has bounded already."""
        if self.queue is None:
            assert self.lane is not None
            self.lane.take_apart(self)
            assert self.queue is not None
        self.queue.append(payload)
        self.queued += len(payload)
        self.flow.queued += len(payload)
        if self.h2.outbound_flow_control_window <= 0:
            self._stand()
        elif not self.ready:
            self.flow.make_ready(self)

    def _stand(self) -> None:
        """Something waits, and the window is closed."""
        flow, pace = self.flow, self.pace
        if pace is None:
            pace = self.pace = Pace(flow.limits, flow.now, self.queued)
        flow.stalled[self] = pace.since

    def offer(self, payload: bytes) -> None:
        """Queue a payload within the tab's and the connection's bound, or overflow."""
        if self.ends:
            return
        flow = self.flow
        size = len(payload)
        if (
            self.queued
            and (
                self.queued + size > self.bound
                or flow.queued + size > flow.limits.connection_backlog_bytes
            )
            and (self.lane is None or not self.lane.make_room(self, self.offset > 0, size, 1))
        ):
            flow.overflow(self)
        else:
            self.push(payload)

    def clear(self) -> None:
        """Forget what waits."""
        if self.queue:
            self.queue.clear()
        self.flow.queued -= self.queued
        self.queued = self.offset = 0

    def settle(self) -> None:
        """Bring h2's window of this stream up to date."""
        if self.queue is None:
            assert self.lane is not None
            self.lane.settle(self)

    def window_moved(self, by: int) -> None:
        """The stream's window has changed in h2.  It must have been settled before."""
        if self.queue is None:
            assert self.lane is not None
            self.lane.window_moved(self, by)
        elif self.h2.outbound_flow_control_window > 0:
            self.flow.stalled.pop(self, None)
            if self.queue and not self.ready:
                self.flow.make_ready(self)

    def serve(self, out: list[bytes], budget: int) -> int:
        """Take one turn: at most one frame into `out`; what it cost."""
        self.ready = False
        flow, h2, queue = self.flow, self.h2, self.queue
        if not queue:
            return 0
        machine = flow.machine
        payload = queue[0]
        left = len(payload) - self.offset
        size = min(left, FRAME_BYTES, h2.outbound_flow_control_window)
        if size <= 0:
            self._stand()
            return 0
        size = min(size, machine.outbound_flow_control_window, max(budget, 1))
        data = payload if size == len(payload) else payload[self.offset : self.offset + size]
        self.queued -= size
        flow.queued -= size
        if size == left:
            queue.pop(0)
            self.offset = 0
        else:
            self.offset += size
        pace = self.pace
        if pace is not None:
            if queue:
                pace.took(size, flow.now, self.queued)
            else:
                self.pace = None
        if self.ends and not queue:
            machine.send_data(h2.stream_id, data, end_stream=True)
            out.append(machine.data_to_send())
            flow.ended(self)
            return size + HEAD_BYTES
        machine.outbound_flow_control_window -= size
        h2.outbound_flow_control_window -= size
        out += (size.to_bytes(3, "big"), b"\0\0", self.id, data)
        if queue:
            if h2.outbound_flow_control_window > 0:
                flow.make_ready(self)
            else:
                self._stand()
        elif self.tells:
            self.tells = False
            flow.events.append(Drained(h2.stream_id))
        return size + HEAD_BYTES


@final
class Lane:
    """Streams of one connection that receive the same payloads.

    `ids` are those in step, sorted, as four bytes each; the first `place` of them have been sent
    the piece at the head of `queue`.  `sent` counts the bytes each has been sent before that piece
    since the lane began, and `limits[id]` is how far that count may go: the stream's window is the
    difference.  `floor` is never above the least limit, so one comparison clears a piece for all.
    `bound` is as an Outflow's.  `overflow` acts at it, on the queue of the lane, which is that of
    all in step, and on each one apart; without it streams end there.
    """

    __slots__ = (
        "apart",
        "bound",
        "floor",
        "flow",
        "ids",
        "limits",
        "overflow",
        "place",
        "queue",
        "queued",
        "ready",
        "sent",
    )

    def __init__(self, flow: Flow, overflow: Overflow | None = None) -> None:
        self.flow = flow
        self.overflow = overflow
        self.bound = self._acts_from(0)
        self.ids: list[bytes] = []
        self.limits: dict[bytes, int] = {}
        self.apart: dict[bytes, Outflow] = {}
        self.queue: list[bytes] = []
        self.queued = 0
        self.sent = 0
        self.floor = 0
        self.place = 0
        self.ready = False

    def offer(self, payload: bytes) -> None:
        """Queue one payload for every stream of the lane.  Never waits, never raises."""
        flow = self.flow
        size = len(payload)
        if self.apart:
            for outflow in list(self.apart.values()):
                if not self.queue and not outflow.queue and self._step_in(outflow, size):
                    continue
                outflow.offer(payload)
        if not self.ids:
            return
        if (
            self.queued
            and (
                self.queued + size > self.bound
                or flow.queued + size > flow.limits.connection_backlog_bytes
            )
            and not self.make_room(self, self.place > 0, size, len(self.ids))
        ):
            # The connection does not drain: all its tabs of this lane are behind alike.
            self.shed()
            return
        if size <= FRAME_BYTES:
            self.queue.append(payload)
        else:
            self.queue.append(payload[:FRAME_BYTES])
            later = range(FRAME_BYTES, size, FRAME_BYTES)
            self.queue.extend(Rest(payload[i : i + FRAME_BYTES]) for i in later)
        self.queued += size
        flow.queued += size
        if not self.ready:
            flow.make_ready(self)

    def make_room(self, source: _Source, begun: bool, size: int, streams: int) -> bool:
        """Whether `size` more bytes may wait after all, in this lane or for one that is apart."""
        overflow, flow = self.overflow, self.flow
        if overflow is None:
            return False
        limits = flow.limits
        assert source.queue is not None
        others = flow.queued - source.queued
        bound = limits.connection_backlog_bytes - others
        share = limits.connection_backlog_bytes // len(flow.outflows)
        if source.queued >= share >= 2 * size:
            # Who has its share of a full connection gives way to that: all at the same event, and
            # alike, not one after the other as each finds what the one before has left.
            bound = share
        room = overflow.make_room(
            source.queue,
            begun=int(begun),
            waits=source.queued,
            size=size,
            bound=min(limits.tab_backlog_bytes, bound),
        )
        if room is None:
            return False
        source.queued = room.waits
        flow.queued = others + room.waits
        source.bound = self._acts_from(room.waits + size)
        if room.lost:
            flow.lost[overflow.name] = flow.lost.get(overflow.name, 0) + room.lost * streams
        return True

    def _acts_from(self, waits: int) -> int:
        bound = self.flow.limits.tab_backlog_bytes
        return bound if self.overflow is None else self.overflow.acts_from(waits, bound)

    def shed(self, reason: str = BEHIND) -> None:
        """End every stream in step."""
        for stream_id in list(self.ids):
            self.flow.overflow(self.flow.outflows[int.from_bytes(stream_id, "big")], reason)

    def add(self, outflow: Outflow) -> None:
        """A stream joins: in step if both are idle, else apart until it can step in."""
        outflow.lane = self
        outflow.bound = self.bound
        outflow.tells = False
        self.apart[outflow.id] = outflow
        if not self.queue and not outflow.queue and not outflow.ends:
            self._step_in(outflow, 1)

    def remove(self, outflow: Outflow) -> None:
        """A stream leaves, wherever it stands."""
        if outflow.queue is None:
            self.take_apart(outflow, keep=False)
        self.apart.pop(outflow.id, None)
        outflow.lane = None

    def _step_in(self, outflow: Outflow, size: int) -> bool:
        window = outflow.h2.outbound_flow_control_window
        if window < size or outflow.ends:
            return False
        del self.apart[outflow.id]
        outflow.queue = None
        # Stream ids rise, so this is nearly always an append.
        insort(self.ids, outflow.id)
        limit = self.sent + window
        self.limits[outflow.id] = limit
        if limit < self.floor or len(self.ids) == 1:
            self.floor = limit
        return True

    def settle(self, outflow: Outflow) -> None:
        """Bring h2's window of a stream in step up to date."""
        window = self.limits[outflow.id] - self.sent
        if self.place and bisect_left(self.ids, outflow.id) < self.place:
            window -= len(self.queue[0])
        outflow.h2.outbound_flow_control_window = window

    def window_moved(self, outflow: Outflow, by: int) -> None:
        """The window of a stream in step has changed.  It must have been settled before."""
        limit = self.limits[outflow.id] = self.limits[outflow.id] + by
        # A piece on its way has been cleared for all: whom it no longer fits must step aside.
        if by < 0:
            self.floor = min(self.floor, limit)
            if self.place and limit < self.sent + len(self.queue[0]):
                self.take_apart(outflow)

    def take_apart(self, outflow: Outflow, *, keep: bool = True) -> None:
        """Out of step: the stream goes on by itself, with what it has not been sent yet."""
        self.settle(outflow)
        place = bisect_left(self.ids, outflow.id)
        served = place < self.place
        del self.ids[place]
        del self.limits[outflow.id]
        self.place -= served
        outflow.queue = []
        self.apart[outflow.id] = outflow
        if keep and self.queue:
            for payload in self.queue[served:]:
                outflow.push(payload)
        if not self.ids:
            self._reset()
        elif self.place == len(self.ids):
            self._next_piece()

    def serve(self, out: list[bytes], budget: int) -> int:
        """Take one turn: the frames of one piece for as many streams as fit; what they cost."""
        self.ready = False
        queue = self.queue
        if not queue:
            return 0
        flow, ids = self.flow, self.ids
        machine = flow.machine
        piece = queue[0]
        size = len(piece)
        if not self.place and self.sent + size > self.floor:
            self._clear_for(size)
            if not ids:
                return 0
        window = machine.outbound_flow_control_window
        place, frame = self.place, size + HEAD_BYTES
        count = len(ids) - place
        if count * size > window or count * frame > budget:
            count = min(count, max(1, budget // frame), window // size)
            if not count:
                # The connection's window ends within a frame: one stream takes the rest of it.
                self.take_apart(flow.outflows[int.from_bytes(ids[place], "big")])
                if queue:
                    flow.make_ready(self)
                return 0
        machine.outbound_flow_control_window = window - count * size
        head = size.to_bytes(3, "big") + b"\0\0"
        if count == len(ids):
            out += (head, (piece + head).join(ids), piece)
            self._next_piece()
        else:
            out += (head, (piece + head).join(ids[place : place + count]), piece)
            self.place = place + count
            if self.place == len(ids):
                self._next_piece()
        if queue:
            flow.make_ready(self)
        return count * frame

    def _clear_for(self, size: int) -> None:
        """Put those apart whose window is short of `size`, and find the floor again."""
        need = self.sent + size
        short = [stream_id for stream_id, limit in self.limits.items() if limit < need]
        for stream_id in short:
            self.take_apart(self.flow.outflows[int.from_bytes(stream_id, "big")])
        self.floor = min(self.limits.values(), default=0)

    def _next_piece(self) -> None:
        size = len(self.queue.pop(0))
        self.sent += size
        self.queued -= size
        self.flow.queued -= size
        self.place = 0

    def _reset(self) -> None:
        self.flow.queued -= self.queued
        self.queue.clear()
        self.queued = self.sent = self.floor = self.place = 0


_Source: TypeAlias = Outflow | Lane


@final
class Flow:
    """All DATA of one connection: who is ready, whose turn it is, and the bounds."""

    __slots__ = (
        "dropped",
        "events",
        "finished",
        "limits",
        "lost",
        "machine",
        "now",
        "outflows",
        "queued",
        "shut",
        "stalled",
        "turns",
    )

    def __init__(self, machine: H2Connection, limits: Limits) -> None:
        self.machine = machine
        self.limits = limits
        self.outflows: dict[int, Outflow] = {}
        self.turns: deque[_Source] = deque()
        self.dropped = 0  # entries of `turns` whose stream is gone
        self.queued = 0
        # Streams with something to send and no window, and since when they stand still.
        self.stalled: dict[Outflow, float] = {}
        self.events: list[Drained | Overflowed] = []
        self.lost: dict[str, int] = {}  # events times streams, by policy
        self.finished: list[int] = []  # streams whose last frame has been framed
        self.now = 0.0
        self.shut = False  # the connection has said its last word: nothing can end any more

    def begin(self, stream: int) -> Outflow:
        """A stream is about to send its first DATA."""
        outflow = self.outflows[stream] = Outflow(self, self.machine.streams[stream])
        return outflow

    def drop(self, stream: int) -> None:
        """A stream is gone: forget all of it."""
        outflow = self.outflows.pop(stream, None)
        if outflow is None:
            return
        if outflow.lane is not None:
            outflow.lane.remove(outflow)
        outflow.clear()
        self.stalled.pop(outflow, None)
        if outflow.ready:
            outflow.ready = False
            self.dropped += 1
            if 2 * self.dropped > len(self.turns):
                # Behind a closed window no turn comes, however many streams come and go.
                live = [each for each in self.turns if each.ready]
                self.turns.clear()
                self.turns.extend(live)
                self.dropped = 0

    def make_ready(self, source: _Source) -> None:
        """It has something to send, and its turn is to come."""
        source.ready = True
        self.turns.append(source)

    def take(self, out: list[bytes]) -> None:
        """Frame what the windows allow, up to `TAKE_BYTES`, in fair turns."""
        budget = TAKE_BYTES
        turns, machine = self.turns, self.machine
        while turns and budget > 0 and machine.outbound_flow_control_window > 0:
            source = turns.popleft()
            if not source.ready:
                self.dropped -= 1
                continue
            budget -= source.serve(out, budget if not turns else min(budget, TURN_BYTES))

    def finish(self, outflow: Outflow) -> None:
        """End a stream after what waits for it."""
        if outflow.queue is None:
            assert outflow.lane is not None
            outflow.lane.take_apart(outflow)
        outflow.tells = False
        outflow.ends = True
        if not outflow.queue:
            self._end_now(outflow)

    def finish_all(self) -> None:
        """End every event stream now: its client had the time to read, and resumes the rest.

        Answers are left broken off, for their clients to see that they are.
        """
        for outflow in list(self.outflows.values()):
            if not outflow.whole:
                self.cut(outflow)

    def overflow(self, outflow: Outflow, reason: str = BEHIND) -> None:
        """A stream is over its bound: end it now, what waits for it is resumed later by id.

        The empty DATA frame needs no window.  A client drops an event that breaks off (HTML
        9.2.6), so nothing half is ever seen.
        """
        self.cut(outflow)
        self.events.append(Overflowed(outflow.h2.stream_id, reason))

    def cut(self, outflow: Outflow) -> None:
        """End a stream now, whatever waits for it."""
        if outflow.queue is None:
            assert outflow.lane is not None
            outflow.lane.take_apart(outflow, keep=False)
        outflow.clear()
        outflow.ends = True
        self.stalled.pop(outflow, None)
        self._end_now(outflow)

    def largest(self) -> _Source | None:
        """The stream, or the lane of those in step, for which most waits; None if nothing does."""
        # Not a set: of two that are equal, the same one is to go each time.
        sources: dict[_Source, None] = {}
        for outflow in self.outflows.values():
            sources[outflow.lane if outflow.queue is None and outflow.lane else outflow] = None
        most = max(sources, key=lambda each: each.queued, default=None)
        return most if most is not None and most.queued else None

    def shut_down(self) -> None:
        """The connection has said its last word: nothing is framed any more, so let go of it."""
        self.shut = True
        for outflow in list(self.outflows):
            self.drop(outflow)
        self.turns.clear()

    def _end_now(self, outflow: Outflow) -> None:
        if self.shut:
            return
        self.machine.end_stream(outflow.h2.stream_id)
        self.ended(outflow)

    def ended(self, outflow: Outflow) -> None:
        """The stream's END_STREAM has been framed."""
        self.finished.append(outflow.h2.stream_id)

    def settle(self) -> None:
        """Bring h2's windows of all streams up to date."""
        for outflow in self.outflows.values():
            outflow.settle()

    def windows_moved(self, by: int) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE has moved every stream's window in h2 (RFC 9113 6.9.2)."""
        if by:
            for outflow in self.outflows.values():
                outflow.window_moved(by)
