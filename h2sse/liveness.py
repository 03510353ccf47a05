"""Whether a peer is still there, and whether it moves.

`Liveness` is for one that is silent: one PING for all streams of a connection.

    quiet --probe_seconds--> asked --answered--> quiet
                               | probe_answer_seconds, and nothing else heard
                               v
                              lost

A cable that is pulled sends no FIN.  Without this, tabs would seem present until TCP gives up on
the heartbeats, a quarter of an hour later.  The answer also tells the round-trip time, which counts
in the server's histogram, if there is one.

`Pace` is for one that something waits for: a stream's window, the connection's, a full socket.  It
may be slow, but what little it takes must come to something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from .config import Limits
    from .metering import Histogram

__all__ = ["PROBE", "Liveness", "Pace"]

# What the PING carries, by which its answer is known.
PROBE: Final = b"h2sse up"


@final
class Liveness:
    """One connection's; `heard` is to be set to `now` when anything comes from the peer."""

    __slots__ = ("_asked", "_deadline", "_limits", "_round_trips", "heard", "round_trip")

    def __init__(self, limits: Limits, now: float, round_trips: Histogram | None = None) -> None:
        self._limits = limits
        self._round_trips = round_trips
        self._asked: float | None = None
        self._deadline: float | None = None
        self.heard = now
        self.round_trip: float | None = None  # in seconds, as last measured

    @property
    def due_at(self) -> float:
        """When to ask, if nothing is heard before; 0 while the answer is due."""
        return self.heard + self._limits.probe_seconds if self._asked is None else 0.0

    def due(self, now: float) -> bool:
        """Whether to ask now.  If so, the question counts as asked."""
        if self._asked is not None or now < self.due_at:
            return False
        self._asked = now
        return True

    def lost(self, now: float, unsent: int) -> bool:
        """Whether the question has stayed unanswered for too long."""
        if self._asked is None:
            return False
        patience = self._limits.probe_answer_seconds
        if self._deadline is None:
            # The socket may have been full: the peer's time begins when the question is out.
            if not unsent:
                self._deadline = now + patience
            return False
        return now >= max(self._deadline, self.heard + patience)

    def answered(self, now: float) -> None:
        """The PING has come back."""
        if self._asked is not None:
            self.round_trip = now - self._asked
            self._asked = self._deadline = None
            if self._round_trips is not None:
                self._round_trips.observe(self.round_trip)


@final
class Pace:
    """How a peer takes what waits for it: `stall_bytes` buy it another `stall_seconds`.

    So does all that waited, when that was less: who is always one short event behind keeps pace.
    `since` is when it last had done so, or when something began to wait; `now` is in seconds of any
    clock that only goes forward.
    """

    __slots__ = ("_limits", "_owes", "since")

    def __init__(self, limits: Limits, now: float, waits: int) -> None:
        self._limits = limits
        self._begin(now, waits)

    def _begin(self, now: float, waits: int) -> None:
        self.since = now
        self._owes = min(self._limits.stall_bytes, waits)

    def took(self, size: int, now: float, waits: int) -> None:
        """The peer took so many bytes, and so many wait still."""
        self._owes -= size
        if self._owes <= 0:
            self._begin(now, waits)

    def stands_still(self, now: float) -> bool:
        """Whether it has taken less, for too long."""
        return now >= self.since + self._limits.stall_seconds
