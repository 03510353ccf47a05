"""DATA under two windows: payloads in, frames out, fair turns between streams.

RFC 9113 5.1: DATA leaves an open stream open, so only the stream's and the connection's window
change.  Frames are written here instead of through `h2.send_data`, which costs some 10 us a frame
(benchmarks/micro/offer.py); h2 still opens and closes every stream, and its windows are kept in
step.
tests/test_flow.py::test_equals_send_data holds bytes, windows and states equal.

An `Outflow` is one stream; in a `Lane` (lane.py) many that receive the same payloads share a queue.
Nothing is framed before `Flow.take` asks for it, so a PING's answer never waits behind a backlog,
and a payload waiting for 5,000 tabs is one reference, not 5,000 copies.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

from .frames import FRAME_BYTES, HEAD_BYTES
from .lane import Lane
from .liveness import Pace
from .wire import BEHIND, Drained, Overflowed

if TYPE_CHECKING:
    from h2.connection import H2Connection
    from h2.stream import H2Stream

    from .config import Limits
    from .lane import Standstill

__all__ = ["TAKE_BYTES", "Flow", "Outflow"]

# One turn of a stream or lane: two TLS records, so that a page load waits for little.
TURN_BYTES = 32 * 1024
# What one call of `take` returns: a few TLS records, sent as one.  Once encrypted it may wait for a
# full socket, so this is also what a slow peer pins.
TAKE_BYTES = 128 * 1024
_DEFAULT_WINDOW = 65_535  # RFC 9113 6.9.2
# The first stream ids as frames have them, which are the same on every connection.
_IDS = tuple(number.to_bytes(4, "big") for number in range(1024))


@final
class Outflow:
    """One stream's way out.

    `queue` is None while the stream is in step; else it holds the payloads that wait, the first
    of them sent up to `offset`.  At a `standstill` that queue is shared, and `queued` and `bound`
    are kept there.  `ends` says that the stream ends when the queue is empty.
    `bound` is how many bytes may wait: past it the stream ends, or its lane's policy acts.
    `pace` is kept from when its window closed before what waited, until it has caught up.
    `owes` is what its peer has yet to take for the stream not to have been opened for nothing:
    a payload, or `stall_bytes` of it.
    """

    __slots__ = (
        "bound",
        "ends",
        "flow",
        "h2",
        "id",
        "lane",
        "offset",
        "owes",
        "pace",
        "queue",
        "queued",
        "ready",
        "standstill",
        "tells",
        "whole",
    )

    def __init__(self, flow: Flow, h2_stream: H2Stream) -> None:
        self.flow = flow
        self.h2 = h2_stream
        number = h2_stream.stream_id
        self.id = _IDS[number] if number < len(_IDS) else number.to_bytes(4, "big")
        self.lane: Lane | None = None
        self.standstill: Standstill | None = None
        self.queue: list[bytes] | None = []
        self.queued = 0
        self.bound = flow.limits.tab_backlog_bytes
        self.offset = 0
        self.owes = flow.limits.stall_bytes
        self.pace: Pace | None = None
        self.ready = False
        self.ends = False
        self.whole = False  # whether it is one answer, not a stream of events
        self.tells = False  # whether `Drained` is due when the queue is empty

    @property
    def waits(self) -> int:
        """Bytes that wait in its queue, be that its own or shared."""
        return self.queued if self.standstill is None else self.standstill.queued

    def push(self, payload: bytes) -> None:
        """Queue a payload, unbounded: for what the caller has bounded already."""
        if self.queue is None or self.standstill is not None:
            self.go_alone()
            assert self.queue is not None
        self.queue.append(payload)
        self.queued += len(payload)
        self.flow.queued += len(payload)
        if self.h2.outbound_flow_control_window <= 0:
            self._stand()
        elif not self.ready:
            self.flow.make_ready(self)

    def go_alone(self, *, keep: bool = True) -> None:
        """Have a queue of its own, with what waits for it; without `keep`, it may be empty."""
        if self.standstill is not None:
            self.standstill.left_by(self)
        elif self.queue is None:
            assert self.lane is not None
            self.lane.take_apart(self, keep=keep)

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
            # Whoever waits for nothing takes an event of any size; of a connection, so does one.
            (self.queued and self.queued + size > self.bound)
            or (flow.queued and flow.queued + size > flow.limits.connection_backlog_bytes)
        ) and (self.lane is None or not self.lane.make_room(self, self.offset > 0, size, 1)):
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
            self.go_alone()
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
        # No peer may ask for less (RFC 9113 6.5.2), and larger frames would make turns longer.
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
            self.offset = self.owes = 0
        else:
            self.offset += size
            self.owes -= size
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
class Flow:
    """All DATA of one connection: who is ready, whose turn it is, and the bounds."""

    __slots__ = (
        "dropped",
        "events",
        "finished",
        "granted",
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
        self.turns: deque[Outflow | Lane] = deque()
        self.dropped = 0  # entries of `turns` whose stream is gone
        self.queued = 0
        self.granted = _DEFAULT_WINDOW  # the connection's window, had we sent nothing
        # Streams with something to send and no window, and since when they stand still.
        self.stalled: dict[Outflow, float] = {}
        self.events: list[Drained | Overflowed] = []
        self.lost: dict[str, int] = {}  # events times streams, by policy
        self.finished: list[int] = []  # streams whose last frame has been framed
        self.now = 0.0
        self.shut = False  # the connection has said its last word: nothing can end any more

    @property
    def sent(self) -> int:
        """Bytes of DATA, so far."""
        return self.granted - self.machine.outbound_flow_control_window

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

    def make_ready(self, source: Outflow | Lane) -> None:
        """It has something to send, and its turn is to come."""
        source.ready = True
        self.turns.append(source)

    def take(self, out: list[bytes]) -> None:
        """Frame what the windows allow, up to `TAKE_BYTES`, in fair turns.  There must be some."""
        budget = TAKE_BYTES
        # So little would be a TLS record of its own.
        little = TAKE_BYTES // 128
        turns, machine = self.turns, self.machine
        while machine.outbound_flow_control_window > 0:
            source = turns.popleft()
            if source.ready:
                budget -= source.serve(out, min(budget, TURN_BYTES) if turns else budget)
            else:
                self.dropped -= 1
            if not turns or budget < little:
                break

    def take_whole(self) -> bytes:
        """The same as one string, where one piece for those in step is all there is; else b""."""
        turns = self.turns
        source = turns[0]
        if len(turns) > 1 or not isinstance(source, Lane) or not source.ready:
            return b""
        data = source.serve_whole(TAKE_BYTES)
        if data:
            turns.clear()
        return data

    def finish(self, outflow: Outflow) -> None:
        """End a stream after what waits for it."""
        outflow.go_alone()
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
        outflow.owes = outflow.flow.limits.stall_bytes  # whatever it took before: it is behind
        self.events.append(Overflowed(outflow.h2.stream_id, reason))

    def cut(self, outflow: Outflow) -> None:
        """End a stream now, whatever waits for it."""
        outflow.go_alone(keep=False)
        outflow.clear()
        outflow.ends = True
        self.stalled.pop(outflow, None)
        self._end_now(outflow)

    def largest(self) -> Outflow | Lane | Standstill | None:
        """The stream, or those in step or at a standstill, for which most waits; None: nothing."""
        # Not a set: of two that are equal, the same one is to go each time.
        sources: dict[Outflow | Lane | Standstill, None] = {}
        for outflow in self.outflows.values():
            if outflow.queue is None and outflow.lane:
                sources[outflow.lane] = None
            else:
                sources[outflow.standstill or outflow] = None
        most = max(sources, key=lambda each: each.waits, default=None)
        return most if most is not None and most.waits else None

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
