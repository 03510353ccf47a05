"""What several rounds say together, and the search for the largest number that works.

Machines are noisy and few rounds are run, so nothing here pretends to be more than it is: a
`Spread` is the median with the least and the most beside it, its text has no more digits than
those support, and a ratio is taken within a round first, where both servers had the same machine.

The search is a pure step (`following`) and a loop that asks.  It trusts each answer, so that a
fluke costs precision and never more: what it found sustained was seen to work, what it found
failed was seen to fail.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias, TypeVar, final

from .model import Latency

__all__ = ["Found", "Spread", "Tried", "curve", "following", "merge", "ratio", "search"]

_Round = TypeVar("_Round")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of some rounds, and how far they lay apart."""

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Raises ValueError if there are no values."""
        seen = sorted(values)
        if not seen:
            raise ValueError("a spread needs at least one value")
        return cls(median=median(seen), least=seen[0], most=seen[-1], rounds=len(seen))

    @property
    def decimals(self) -> int:
        """How many decimal places (negative: tens, hundreds) mean something.

        The place of the range's first digit, but two significant digits at least and three at
        most.  One round shows no range: two.  Whole numbers that all rounds agree on are exact.
        """
        width = self.most - self.least
        whole = all(value == int(value) for value in (self.median, self.least, self.most))
        if whole and not width:
            return 0
        largest = max(abs(self.median), abs(self.least) if not self.median else 0.0)
        magnitude = math.floor(math.log10(largest)) if largest else 0
        coarsest, finest = 1 - magnitude, 2 - magnitude
        if width:
            places = min(max(-math.floor(math.log10(width)), coarsest), finest)
        else:
            places = coarsest if self.rounds == 1 else finest
        return min(places, 0) if whole else places

    def shown(self, value: float) -> str:
        """A value of these rounds, to the digits that they support."""
        rounded = round(value, self.decimals)
        return f"{rounded + 0.0:,.{max(0, self.decimals)}f}"

    def __str__(self) -> str:
        least, middle, most = (self.shown(each) for each in (self.least, self.median, self.most))
        return middle if least == most else f"{middle} ({least}–{most})"


def ratio(values: Mapping[_Round, float], to: Mapping[_Round, float]) -> Spread | None:
    """How many times `to` the values are, round by round; None if no round has both.

    What is not above zero (memory that shrank) has no ratio.
    """
    ratios = [
        value / to[each] for each, value in values.items() if value > 0 and to.get(each, 0) > 0
    ]
    return Spread.of(ratios) if ratios else None


def merge(latencies: Iterable[Latency]) -> Latency:
    """All deliveries together."""
    counts: Counter[int] = Counter()
    for latency in latencies:
        counts.update(latency.counts)
    return Latency(counts=counts)


def curve(latency: Latency, *, behind: int = 10) -> list[tuple[float, float]]:
    """Pairs (n, us), rising: one delivery in n took that many us or longer.

    n is 2 at the median, 100 at the 99th percentile.  The curve ends where fewer than `behind`
    deliveries are left: a few say nothing of how often such happens.
    """
    left = total = latency.total
    points = []
    for value in sorted(latency.counts):
        if left < behind:
            break
        points.append((total / left, float(value)))
        left -= latency.counts[value]
    if points and points[-1][0] < total / behind:
        points.append((total / behind, points[-1][1]))
    return points


@final
@dataclass(frozen=True, slots=True)
class Tried:
    """A number that was asked for, and the answer."""

    number: int
    works: bool
    why: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where the search ended.

    `sustained` is the largest number that worked, 0 if none did; `failed` the smallest that did
    not, None if all did up to the limit.
    """

    sustained: int
    failed: int | None
    tried: Sequence[Tried]

    @property
    def why(self) -> str:
        """What broke at `failed`; "" if nothing did."""
        whys = (each.why for each in reversed(self.tried) if each.number == self.failed)
        return next(whys, "")


_Ask: TypeAlias = Callable[[int], Awaitable[tuple[bool, str]]]
"""Whether a number works, and if not, why."""


async def search(
    works: _Ask, *, start: int, limit: int, precision: float, then: int | None = None
) -> Found:
    """The largest number up to `limit` that works.

    Doubles from `start` until a number fails, then bisects until `failed` and `sustained` are
    within `precision` of each other, relative to `sustained`.  If `start` itself fails, halves
    until a number works, or 1 has failed.  No number is asked for twice.  Where an earlier search
    ended at `start` and at `then`, which failed, that is asked first.
    """
    if min(start, limit) < 1 or not 0 < precision < 1:
        raise ValueError("search needs a start and a limit from 1, and 0 < precision < 1")
    tried: list[Tried] = []
    sustained: int = 0
    failed: int | None = None
    number: int | None = min(start, limit)
    while number is not None:
        holds, why = await works(number)
        tried.append(Tried(number, holds, why))
        if holds:
            sustained = number
        else:
            failed = number
        number = following(sustained, failed, limit=limit, precision=precision)
        if holds and then is not None and sustained < then <= limit:
            number = then
        then = None
    return Found(sustained=sustained, failed=failed, tried=tuple(tried))


def following(sustained: int, failed: int | None, *, limit: int, precision: float) -> int | None:
    """The number to ask for next; None when the answer is known closely enough."""
    if failed is None:
        return min(2 * sustained, limit) if sustained < limit else None
    if not sustained:
        return failed // 2 or None
    apart = failed - sustained
    if apart <= max(1.0, precision * sustained):
        return None
    return sustained + apart // 2
