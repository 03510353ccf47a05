"""What all who are behind have waiting, in one sum, and who gives way when it is too much.

Each connection has bounds of its own, but thousands of them together could still fill the memory.
So each notes what waits for it when that has changed, after writing; whoever reads as fast as
events come has nothing to note.  Past the bound the largest backlog is shed first, a tab or the
connection, until a part of the bound is free again: enough that those with a backlog are looked at
seldom, however many they are, and so little that nobody waits long for it.  No publish pays it.

Bytes are counted as if no two tabs shared a payload.  They do share them, so the memory it takes is
less, in fan-out by far.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OVER_TOTAL", "Ledger", "Tally"]

# What is made free, of the bound: of 256 MiB a few dozen tabs, 10 ms.
_PART = 64

# Why a stream or connection is ended for others' sake.
OVER_TOTAL = "backlogs together at total_backlog_bytes"


class Holder(Protocol):
    """Something that has bytes waiting: a connection, or a stream of another's server."""

    def shed(self, reason: str) -> None:
        """End the stream for which most waits, or all, and note what is left."""


_H = TypeVar("_H")


class Tally(Generic[_H]):
    """How many bytes each holds of those that hold any, and all together."""

    def __init__(self) -> None:
        self.total = 0
        self._held: dict[_H, int] = {}
        self._lightening = False

    def note(self, holder: _H, size: int) -> None:
        """It holds so many now."""
        self.total += size - self._held.get(holder, 0)
        if size:
            self._held[holder] = size
        else:
            self._held.pop(holder, None)

    def _lighten(
        self, bound: int, rank: Callable[[_H], float], give_way: Callable[[_H], None]
    ) -> None:
        """Have holders give way, the least rank first, if they hold more than `bound` in all.

        One that does so is asked again in its turn; one that changes nothing is passed over.
        """
        if self.total <= bound or self._lightening:
            return
        self._lightening = True
        enough = bound - bound // _PART
        order = itertools.count()
        heap = [(rank(holder), next(order), holder) for holder in self._held]
        heapq.heapify(heap)
        try:
            while self.total > enough and heap:
                ranked, _, holder = heapq.heappop(heap)
                held = self._held.get(holder, 0)
                if not held:
                    continue  # it has let go of all by itself meanwhile
                give_way(holder)
                left = self._held.get(holder, 0)
                if left and (left < held or rank(holder) > ranked):
                    heapq.heappush(heap, (rank(holder), next(order), holder))
        finally:
            self._lightening = False


@final
class Ledger(Tally[Holder]):
    """The backlogs of an app's connections, and what policies let go of in them."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: Counter[str] = Counter()  # events times tabs, by policy

    @property
    def largest(self) -> int:
        """The largest of the backlogs."""
        return max(self._held.values(), default=0)

    @property
    def holders(self) -> int:
        """How many have one."""
        return len(self._held)

    def relieve(self, bound: int) -> None:
        """Shed the largest, if more than `bound` bytes wait in all.  Not from amid a publish."""
        self._lighten(
            bound, lambda holder: -self._held[holder], lambda holder: holder.shed(OVER_TOTAL)
        )
