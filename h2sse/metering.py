"""Durations as counts, cheap to observe; metrics.py turns them into Prometheus text."""

from __future__ import annotations

import operator
from typing import final

__all__ = ["Histogram"]


@final
class Histogram:
    """Counts of durations by upper bound in seconds, cheap to observe."""

    BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.total += seconds
        for place, bound in enumerate(self.BOUNDS):
            if seconds <= bound:
                self.counts[place] += 1
                return
        self.counts[-1] += 1

    def add(self, other: Histogram) -> None:
        """Count what another has counted, too."""
        self.counts = list(map(operator.add, self.counts, other.counts))
        self.total += other.total

    def copy(self) -> Histogram:
        """The counts of this instant."""
        copied = Histogram()
        copied.add(self)
        return copied

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus wants its buckets."""
        found: list[tuple[str, float]] = []
        seen = 0
        for bound, count in zip((*map(str, self.BOUNDS), "+Inf"), self.counts, strict=True):
            seen += count
            found.append((bound, seen))
        return found
