"""The hot paths, one module each.  `python -m benchmarks.micro [NAME ...]` runs them.

Each module has `cases()`, which gives `Case`s: a name, a function, and how many operations one
call of it does.  Machines are noisy: compare the lines of one run, and quote medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Case", "Result", "measure"]

# Long enough for the clock, short enough that an interruption spoils one round of many.
ROUND_SECONDS = 0.02
ROUNDS = 25


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: `run` does `operations` of the thing that `name` says."""

    name: str
    run: Callable[[], object]
    operations: int = 1


@dataclass(frozen=True, slots=True)
class Result:
    """CPU microseconds an operation, over all rounds."""

    name: str
    median: float
    best: float
    worst: float


def measure(case: Case) -> Result:
    """Run a case in rounds of CPU time."""
    case.run()
    count, spent = 1, 0.0
    while spent < ROUND_SECONDS:
        spent = _spend(case, count)
        count = max(count + 1, int(count * min(4.0, 1.2 * ROUND_SECONDS / max(spent, 1e-9))))
    rounds = [_spend(case, count) / count / case.operations * 1e6 for _ in range(ROUNDS)]
    return Result(case.name, statistics.median(rounds), min(rounds), max(rounds))


def _spend(case: Case, count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        case.run()
    return time.process_time() - began
