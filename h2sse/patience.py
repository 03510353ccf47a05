"""For how long an HTTP/2 connection waits for its peer, and for what.

One stream's lateness ends that stream.  The connection ends when the rest of a frame does not
come, when nothing is open, when of what waits nothing is taken, or when it is held for nothing: a
peer who opens one stream more before the last is late, or resets it, would else stay for ever.

`Patience` tells who is late and whether it is enough; what then becomes of them is the wire's part.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

from .liveness import Pace

if TYPE_CHECKING:
    from .config import Limits
    from .flow import Flow, Outflow
    from .http2_requests import Requests
    from .machine import Machine

__all__ = ["Patience"]

# A tab that was ended for being behind comes back after its `retry`, by default four seconds at the
# most: until then its connection stays.
_COMES_BACK_SECONDS = 5


@final
class Patience:
    """One connection's; `now` is in seconds of any clock that only goes forward."""

    __slots__ = (
        "_flow",
        "_frame_until",
        "_idle",
        "_idle_until",
        "_limits",
        "_machine",
        "_overdue_at",
        "_pace",
        "_requests",
        "_rests_until",
        "_sent",
        "_served",
        "_useful_at",
    )

    def __init__(
        self, limits: Limits, machine: Machine, flow: Flow, requests: Requests, now: float
    ) -> None:
        self._limits = limits
        self._machine = machine
        self._flow = flow
        self._requests = requests
        self._frame_until: float | None = now + limits.request_seconds
        # What was never fit to be served puts off nothing: one malformed request after the other.
        self._idle = True
        self._idle_until = now + limits.idle_seconds
        self._served = 0  # requests of those open since it was idle, less those given up
        # When something has last come of a stream; and when the connection ends because some were
        # held for nothing since, if all that are left by then only hold, too.
        self._useful_at = now
        self._overdue_at = math.inf
        self._pace: Pace | None = None  # while DATA waits, for whichever window
        self._sent = 0  # DATA as of the latest look at which some waited
        # Until then there is nothing to look at while the connection is idle and nothing comes.
        self._rests_until = 0.0

    # -- what happens

    def heard(self) -> None:
        """Something has come."""
        self._rests_until = 0.0

    def frame_is_whole(self) -> None:
        """So is its header section, if it is of one."""
        self._frame_until = None

    def frame_is_amid(self, now: float, *, anew: bool) -> None:
        """The rest of a frame or header section is to come; `anew`: it is another than before."""
        if anew or self._frame_until is None:
            self._frame_until = now + self._limits.request_seconds

    def opened(self) -> None:
        """A stream has been opened."""
        self._idle = False

    def served(self) -> None:
        """It was a request, whole and well formed."""
        self._served += 1

    def emptied(self, now: float) -> None:
        """None is open any more."""
        self._idle = True
        if self._served:
            self._served = 0
            self._idle_until = now + self._limits.idle_seconds
        self._rests_until = 0.0

    def useful(self, now: float) -> None:
        """Something has come of a stream."""
        self._useful_at = now
        self._overdue_at = math.inf

    def given_up(self, stream: int, now: float) -> None:
        """The peer has reset a stream."""
        if self._holds(stream):
            self.held(now)
        elif stream in self._flow.outflows or stream in self._requests.bodies:
            self.useful(now)
        else:
            self._served -= 1  # it did not stay for the answer

    def held(self, now: float) -> None:
        """A stream that was held for nothing is gone: it buys no time for the next."""
        if self._overdue_at == math.inf:
            over = self._useful_at + self._limits.idle_seconds
            self._overdue_at = max(over, now + _COMES_BACK_SECONDS)

    def ended(self, now: float, *, for_windows: bool) -> None:
        """Streams have been ended for being late, for closed windows among others."""
        if for_windows:
            self._pace = None  # it was theirs; others may have begun to wait later
        if self._only_holds():
            # At the next look: by then one may have gone well.
            self._overdue_at = now

    # -- looking, once a second

    def rests(self, now: float) -> bool:
        """Whether there is nothing to look at, if the connection is idle."""
        return now < self._rests_until

    def rest(self, until: float) -> None:
        """All has been looked at; but for what is waited for here, nothing is due `until` then."""
        waits = self._requests.bodies or self._pace is not None or self._overdue_at < math.inf
        if self._frame_until is None and not waits:
            self._rests_until = self._idle_until if self._idle else until

    def frame_is_late(self, now: float) -> bool:
        """Whether the rest of a frame, or of a header section, has not come in time."""
        return self._frame_until is not None and now >= self._frame_until

    def serves_nothing(self, now: float) -> bool:
        """Whether nothing has been open for too long, or all that is is held for nothing."""
        overdue = now >= self._overdue_at
        if (self._idle and now >= self._idle_until) or (overdue and self._only_holds()):
            return True
        if overdue:
            self._overdue_at = math.inf
        return False

    def stalled(self, now: float) -> list[Outflow]:
        """The streams whose window has been closed for too long."""
        since_over = now - self._limits.stall_seconds
        return [outflow for outflow, since in self._flow.stalled.items() if since <= since_over]

    def stands_still(self, now: float) -> bool:
        """Whether of what waits the peer has taken nothing, or all but, for too long.

        Not for its window alone: one that closes it whenever it opens those of its streams would
        have twice the time.  A stream that is at fault by itself has been ended before.
        """
        flow = self._flow
        if not flow.queued:
            self._pace = None
            return False
        before, self._sent = self._sent, flow.sent
        if self._pace is None:
            self._pace = Pace(self._limits, now, flow.queued)
            return False
        self._pace.took(self._sent - before, now, flow.queued)
        return self._pace.stands_still(now)

    def _only_holds(self) -> bool:
        """Whether all streams wait for the peer, and nothing has come of any of them."""
        return all(self._holds(stream) for stream in self._machine.streams)

    def _holds(self, stream: int) -> bool:
        outflow = self._flow.outflows.get(stream)
        if outflow is not None:
            return outflow.waits > 0 and outflow.owes > 0
        body = self._requests.bodies.get(stream)
        return body is not None and len(body.data) < self._limits.stall_bytes
