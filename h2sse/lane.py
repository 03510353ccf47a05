"""Streams of one connection that receive the same payloads: one queue for as many as can share it.

A `Lane` is such streams as stand *in step*: one queue and one debit for all of them, and the frames
of a payload are a single `join` over their stream ids (benchmarks/micro/offer.py).  A stream that
cannot keep step, because its window is short, goes *apart* into its own `Outflow` and steps in
again once it has caught up and the lane is idle.  Those that come to a `Standstill` with the same
before them share a queue again, so that thousands who do not read cost a publish next to nothing.

    in step --window short--> apart --caught up, lane idle--> in step
                              apart --window closed, at a payload--> at a standstill
                              apart <--window opens-- at a standstill
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, TypeAlias, final

from .frames import FRAME_BYTES, HEAD_BYTES
from .wire import BEHIND, Rest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .flow import Flow, Outflow
    from .wire import Overflow

__all__ = ["Framed", "Lane", "Standstill", "cut", "framed"]

# A piece, the head of its frame, and the two as they stand between two stream ids.
Framed: TypeAlias = tuple[bytes, bytes, bytes]
# The piece framed last: fan-out frames one on every connection in turn.
_framed: Framed = (b"", b"", b"")


def framed(piece: bytes) -> Framed:
    """`piece`, of at most FRAME_BYTES, as it is to be framed; made once for all who ask in turn."""
    global _framed
    last = _framed
    if last[0] is not piece:
        head = len(piece).to_bytes(3, "big") + b"\0\0"
        last = _framed = (piece, head, piece + head)
    return last


# The large payload cut last, and its pieces.
_cut: tuple[bytes, tuple[bytes, ...]] = (b"", ())


def cut(payload: bytes) -> tuple[bytes, ...]:
    """`payload` in pieces of FRAME_BYTES at most; made once for all who ask in turn.

    Each connection with pieces of its own, an event of a mebibyte for a thousand took a gibibyte.
    """
    global _cut
    last = _cut
    if last[0] is not payload:
        later = range(FRAME_BYTES, len(payload), FRAME_BYTES)
        rest = (Rest(payload[at : at + FRAME_BYTES]) for at in later)
        last = _cut = (payload, (payload[:FRAME_BYTES], *rest))
    return last[1]


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
        "machine",
        "overflow",
        "place",
        "queue",
        "queued",
        "ready",
        "sent",
        "standstills",
    )

    def __init__(self, flow: Flow, overflow: Overflow | None = None) -> None:
        self.flow = flow
        self.machine = flow.machine
        self.overflow = overflow
        self.bound = self._acts_from(0)
        self.ids: list[bytes] = []
        self.limits: dict[bytes, int] = {}
        self.apart: dict[bytes, Outflow] = {}
        self.standstills: dict[Standstill, None] = {}
        self.queue: list[bytes] = []
        self.queued = 0
        self.sent = 0
        self.floor = 0
        self.place = 0
        self.ready = False

    @property
    def waits(self) -> int:
        """Bytes that wait for those in step."""
        return self.queued

    def offer(self, payload: bytes) -> None:
        """Queue one payload for every stream of the lane.  Never waits, never raises."""
        flow = self.flow
        size = len(payload)
        if self.standstills:
            for standstill in list(self.standstills):
                standstill.offer(payload)
        if self.apart:
            for outflow in list(self.apart.values()):
                if not self.queue and not outflow.queue and self._step_in(outflow, size):
                    continue
                outflow.offer(payload)
            self._find_still()
        if not self.ids:
            return
        if (
            (self.queued and self.queued + size > self.bound)
            or (flow.queued and flow.queued + size > flow.limits.connection_backlog_bytes)
        ) and not self.make_room(self, self.place > 0, size, len(self.ids)):
            # The connection does not drain: all its tabs of this lane are behind alike.
            self.shed()
            return
        if size <= FRAME_BYTES:
            self.queue.append(payload)
        else:
            self.queue += cut(payload)
        self.queued += size
        flow.queued += size
        if not self.ready:
            self.ready = True
            flow.turns.append(self)

    def _find_still(self) -> None:
        """Let those apart who wait for a window share what waits, where that is the same."""
        still = [each for each in self.apart.values() if each.queue and not each.ready]
        if not still:
            return
        found = {(each.queued, each.offset): each for each in self.standstills}
        for outflow in still:
            if outflow.ends:
                continue
            del self.apart[outflow.id]
            place = outflow.queued, outflow.offset
            standstill = found.get(place)
            if standstill is None or not standstill.joined_by(outflow):
                found[place] = Standstill(self, outflow)

    def make_room(
        self, source: _Source, begun: bool, size: int, streams: int, copies: int = 1
    ) -> bool:
        """Whether `size` more bytes may wait after all for `source`, which is of so many `streams`.

        What waits there is counted as so many `copies`.
        """
        overflow, flow = self.overflow, self.flow
        if overflow is None:
            return False
        limits = flow.limits
        assert source.queue is not None
        others = flow.queued - copies * source.queued
        bound = (limits.connection_backlog_bytes - others) // copies
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
        flow.queued = others + copies * room.waits
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

    def gather(self) -> bool:
        """Have those step in who can, while nothing waits; whether all are in step, then."""
        for outflow in list(self.apart.values()):
            if not outflow.queue:
                self._step_in(outflow, 1)
        return not (self.apart or self.standstills)

    def remove(self, outflow: Outflow) -> None:
        """A stream leaves, wherever it stands."""
        if outflow.queue is None:
            self.take_apart(outflow, keep=False)
        elif outflow.standstill is not None:
            outflow.standstill.left_by(outflow)
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
        flow, machine, ids, place = self.flow, self.machine, self.ids, self.place
        piece = queue[0]
        size = len(piece)
        if not place and self.sent + size > self.floor:
            self._clear_for(size)
            if not ids:
                return 0
        window = machine.outbound_flow_control_window
        frame = size + HEAD_BYTES
        count = len(ids) - place
        if count * frame > min(window, budget):
            count = min(count, max(1, budget // frame), window // size)
            if not count:
                # The connection's window ends within a frame: one stream takes the rest of it.
                self.take_apart(flow.outflows[int.from_bytes(ids[place], "big")])
                if queue:
                    flow.make_ready(self)
                return 0
        machine.outbound_flow_control_window = window - count * size
        _, head, between = framed(piece)
        if count == len(ids):
            out += (head, between.join(ids), piece)
        else:
            out += (head, between.join(ids[place : place + count]), piece)
        if place + count < len(ids):
            self.place = place + count
        else:
            self._next_piece()
        if queue:
            flow.make_ready(self)
        return count * frame

    def serve_whole(self, budget: int) -> bytes:
        """The same as one string, where one turn is all; else b"", and nothing has happened."""
        queue, size = self.queue, self.queued
        if len(queue) != 1 or self.place:
            return b""
        data = self.frame((framed(queue[0]),), size, budget)
        if data:
            queue.clear()
            self.queued = 0
            self.ready = False
            self.flow.queued -= size
        return data

    def frame(self, pieces: Sequence[Framed], size: int, budget: int) -> bytes:
        """Frame `pieces`, of `size` bytes in all, for all in step, past a queue that is empty.

        b"", and nothing has happened, if a window or the `budget` is too small for that, or nobody
        is in step.  What fan-out does with every connection in turn, so by the shortest way.
        """
        ids, machine = self.ids, self.machine
        count = len(ids)
        sent = self.sent + size
        window = machine.outbound_flow_control_window - size * count
        if sent > self.floor or window < 0 or (size + HEAD_BYTES * len(pieces)) * count > budget:
            return b""
        machine.outbound_flow_control_window = window
        self.sent = sent
        if len(pieces) == 1:
            piece, head, between = pieces[0]
            return b"".join((head, between.join(ids), piece))
        each = ((head, between.join(ids), piece) for piece, head, between in pieces)
        return b"".join(part for parts in each for part in parts)

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


@final
class Standstill:
    """Streams of a lane that wait for a window, with the same before them: one queue for them all.

    For each of them `queued` bytes wait, and of the first payload the peer has all up to `offset`.
    Each counts in full against the connection's bound: it may go on alone, with all of it.
    """

    __slots__ = ("bound", "lane", "members", "offset", "queue", "queued")

    def __init__(self, lane: Lane, outflow: Outflow) -> None:
        assert outflow.queue is not None
        self.lane = lane
        self.queue = outflow.queue
        self.queued = outflow.queued
        self.offset = outflow.offset
        self.bound = outflow.bound
        self.members: dict[Outflow, None] = {outflow: None}
        outflow.standstill = self
        lane.standstills[self] = None

    @property
    def waits(self) -> int:
        """Bytes that wait, counted for each of them."""
        return self.queued * len(self.members)

    def joined_by(self, outflow: Outflow) -> bool:
        """Whether it has the same before it, and so is one of these now."""
        if outflow.bound != self.bound or outflow.queue != self.queue:
            return False
        self.members[outflow] = None
        outflow.queue = self.queue
        outflow.standstill = self
        return True

    def left_by(self, outflow: Outflow) -> None:
        """It goes on apart, with what waits in a queue of its own."""
        del self.members[outflow]
        lane = self.lane
        if not self.members:
            del lane.standstills[self]
        outflow.standstill = None
        outflow.queue = self.queue.copy()
        outflow.queued = self.queued
        outflow.bound = self.bound
        lane.apart[outflow.id] = outflow

    def offer(self, payload: bytes) -> None:
        """Queue one payload for each of these; while there is no room, one of them ends."""
        flow, members = self.lane.flow, self.members
        size, most = len(payload), flow.limits.connection_backlog_bytes
        while self.queued + size > self.bound or flow.queued + size * len(members) > most:
            count = len(members)
            if self.lane.make_room(self, self.offset > 0, size, count, copies=count):
                break
            flow.overflow(next(iter(members)))
            if not members:
                return
        self.queue.append(payload)
        self.queued += size
        flow.queued += size * len(members)

    def shed(self, reason: str) -> None:
        """End every one of them: one by one, each would be looked for anew."""
        for outflow in list(self.members):
            self.lane.flow.overflow(outflow, reason)


_Source: TypeAlias = "Outflow | Lane | Standstill"
