"""What the request bodies that are not whole yet take together, and who gives way.

Each connection's are bounded (`connection_body_bytes`) and each body is due in time
(`body_seconds`), but thousands of connections could still fill the memory.  Past a bound on all of
them the body that was begun first is refused, then the next, until a part of the bound is free
again: a body that is sent as fast as the network goes is never among the first, where bodies are
held to fill the memory.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Protocol, final

from .ledger import Tally

__all__ = ["OVER_TOTAL", "Uploads"]

# What is made free, of the bound.
_PART = 64

# Why a body is refused for others' sake.
OVER_TOTAL = "bodies together at total_body_bytes"


class Uploader(Protocol):
    """A connection."""

    @property
    def body_due(self) -> float:
        """When the first of its bodies that are not whole is to be; infinity without any."""

    def refuse_body(self) -> None:
        """Refuse that one, and note what is left."""


@final
class Uploads(Tally[Uploader]):
    """The unfinished bodies of a server's connections."""

    def __init__(self) -> None:
        super().__init__()
        self._relieving = False

    def relieve(self, bound: int) -> None:
        """Refuse those begun first, if they have more than `bound` bytes in all."""
        if self.total <= bound or self._relieving:
            return
        self._relieving = True
        enough = bound - bound // _PART
        order = itertools.count()
        heap = [(each.body_due, next(order), each) for each in self._held]
        heapq.heapify(heap)
        try:
            while self.total > enough and heap:
                _, _, uploader = heapq.heappop(heap)
                uploader.refuse_body()
                if uploader in self._held:
                    heapq.heappush(heap, (uploader.body_due, next(order), uploader))
        finally:
            self._relieving = False
