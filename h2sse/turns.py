"""How those take turns whose input takes much of the processor.

A peer may ask for anything, as fast as it can, on as many connections as it can.  What a few
requests take nobody notices; whoever has used more than that has its input taken in by turns with
all others of whom that is true, one at a time, so that tabs wait for one turn at the most.  Of
those who wait, who has used least of late is next; who has only just come counts as having used
much, and so does what waits to be taken in: thousands that come, ask and leave have used nothing.

What cannot be cut may take far longer than a turn should: a large body, an event for thousands who
stand still, a slow handler.  After such a turn comes a rest as long, so that the others have half
of the time at least; who has used little goes on during it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Turns", "Usage"]

# Of what was used, a share of 1/e is left after so many seconds: long beside the time in which a
# hundred have a turn each, so that who never stops stays behind who asks now and then.
_MEMORY_SECONDS = 2.0
# Much is so much at once, as for a page load; or, by the above, a four-hundredth of the time, as
# for five publishes a second.
_MUCH_SECONDS = 0.005
# To who waits, less than this is the same; and a newcomer has used so much already, which is more
# than whoever publishes often does.  Else that one would wait for all who have just come.
_LITTLE_SECONDS = 0.002
_NEWCOMER_SECONDS = 0.05
# So much is what waits to be taken in reckoned at, as requests for tabs are: who has a little to
# say comes before twenty who ask for 250 tabs each, though none of them has used anything yet.
_SECONDS_A_BYTE = 3e-6
# To who waits, time goes by so much slower: else a thousand that come, ask for much and leave would
# come, by waiting alone, before who has been there all the time.
_FORGIVEN_IN_LINE = 0.25
# Between two turns others have so much time to come to the end of what they have begun: it takes as
# long to write an event to some 500 connections.
_OTHERS_SECONDS = 0.01
# After a turn longer than this comes a rest: four times what a turn should take.
_LONG_SECONDS = 0.016
# Who has used so much or less has turns during a rest: whoever publishes twenty times a second.
_LIGHT_SECONDS = 0.02
# When all input that did not wait for a turn has so much of the time, a hundred connections that
# stay below the above, less than that is much.
_CROWDED_SECONDS = 0.6 * _MEMORY_SECONDS
_MUCH_IN_A_CROWD_SECONDS = 0.002


@final
class Usage:
    """How much of the processor's time the input of one peer has taken of late."""

    __slots__ = ("_at", "_came", "_seconds")

    def __init__(self, now: float) -> None:
        self._seconds = 0.0
        self._at = self._came = now

    def add(self, seconds: float, now: float) -> None:
        """So much more of it was used, until now."""
        self._seconds = seconds + self._left(now)
        self._at = now

    def _left(self, now: float) -> float:
        return _left(self._seconds, now - self._at)

    def over(self, seconds: float, now: float) -> bool:
        """Whether it is more than that."""
        return self._seconds > seconds and self._left(now) > seconds

    def rank(self, now: float, waits: int = 0) -> float:
        """What it ranks by that comes to wait now, with so many bytes: less if it has used less.

        It compares with that of any other who came before or will come after, so those who wait
        need not be looked at again: who comes later falls in behind whoever waits for long enough.
        """
        used = self._left(now) + _left(_NEWCOMER_SECONDS, now - self._came)
        used += waits * _SECONDS_A_BYTE
        return _rank(max(used, _LITTLE_SECONDS), now)


def _rank(used: float, now: float) -> float:
    return _FORGIVEN_IN_LINE * now + _MEMORY_SECONDS * math.log(used)


def _left(seconds: float, age: float) -> float:
    return seconds * math.exp(-age / _MEMORY_SECONDS)


@final
class Turns:
    """Turns that are had one at a time, the least rank first, with time for all others between."""

    __slots__ = ("_busy", "_order", "_rests_until", "_taken", "_waiting", "without")

    def __init__(self, now: float, busy: Callable[[], bool] = lambda: False) -> None:
        """`busy` says whether what others do has been begun and needs more rounds of the loop."""
        self._busy = busy
        # What was used by all who did not wait for one.
        self.without = Usage(now)
        self._taken = False
        self._rests_until = -math.inf
        self._waiting: list[tuple[float, int, trio.lowlevel.Task]] = []
        self._order = itertools.count()

    def needed(self, usage: Usage, now: float) -> bool:
        """Whether it has used so much that others come first."""
        crowded = self.without.over(_CROWDED_SECONDS, now)
        return usage.over(_MUCH_IN_A_CROWD_SECONDS if crowded else _MUCH_SECONDS, now)

    @asynccontextmanager
    async def turn(self, usage: Usage, now: float, waits: int = 0) -> AsyncIterator[None]:
        """Wait for a turn, with so many bytes to be taken in, and have it."""
        rank = usage.rank(now, waits)
        if self._taken or not self._may_go(rank):
            await self._wait(rank)
        self._taken = True
        began = trio.current_time()
        try:
            yield
        finally:
            ended = trio.current_time()
            # Else all who come meanwhile would have theirs in one round of the loop, and an event
            # for a hundred connections, which takes a few rounds, would wait for a turn in each.
            until = ended + _OTHERS_SECONDS
            await trio.lowlevel.cancel_shielded_checkpoint()
            while self._busy() and trio.current_time() < until:
                await trio.lowlevel.cancel_shielded_checkpoint()
            self._taken = False
            if ended - began > _LONG_SECONDS:
                await self._rest(trio.current_time() + ended - began)
            else:
                self._go_on()

    async def _rest(self, until: float) -> None:
        """Whoever had a long turn waits as long, and so do all others that have used much."""
        self._rests_until = max(self._rests_until, until)
        self._go_on()
        try:
            await trio.sleep_until(until)
        finally:
            if self._rests_until == until:  # else that of another lasts longer
                self._rests_until = -math.inf
                self._go_on()

    def _may_go(self, rank: float) -> bool:
        now = trio.current_time()
        return now >= self._rests_until or rank <= _rank(_LIGHT_SECONDS, now)

    def _go_on(self) -> None:
        """Give the turn to who is next, unless someone has it."""
        if not self._taken and self._waiting and self._may_go(self._waiting[0][0]):
            self._taken = True
            _, _, task = heapq.heappop(self._waiting)
            trio.lowlevel.reschedule(task)

    async def _wait(self, rank: float) -> None:
        entry = rank, next(self._order), trio.lowlevel.current_task()

        def give_up(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(entry)
            heapq.heapify(self._waiting)
            return trio.lowlevel.Abort.SUCCEEDED

        heapq.heappush(self._waiting, entry)
        await trio.lowlevel.wait_task_rescheduled(give_up)
