"""What breaks, and when: a function of the seed alone.

Each minute ends with some quiet seconds, for things to settle and to measure what they are like.
The server goes twice: at a third of the time it is asked to (SIGTERM), at two thirds it is killed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import final

from benchmarks.attacks import ATTACKS

__all__ = ["Act", "Kind", "plan"]

# Between two acts, on average.  Most take seconds, so several are always under way.
_PAUSE_SECONDS = 1.5
_MINUTE_SECONDS = 60.0
_QUIET_SECONDS = 15.0
# A first look at tabs that nothing has happened to.
_FIRST_SECONDS = 1.0


@final
class Kind(StrEnum):
    """What happens; the value is what a report calls it."""

    RESET = "connections reset (TCP RST)"
    CANCEL = "streams cancelled (RST_STREAM)"
    LEAVE = "connections closed in order (GOAWAY)"
    KILL = "client processes killed (SIGKILL)"
    STALL = "windows stalled"
    OVERRUN = "bursts past the bound of stalled windows"
    ATTACK = "attack bursts"
    TERMINATE = "server restarts (SIGTERM)"
    CRASH = "server restarts (SIGKILL)"


_WEIGHTS = {
    Kind.RESET: 6,
    Kind.CANCEL: 6,
    Kind.LEAVE: 3,
    Kind.KILL: 2,
    Kind.STALL: 4,
    Kind.OVERRUN: 2,
    Kind.ATTACK: 2,
}
# To how many of a process's connections or tabs it happens at a time.
_MOST = {Kind.RESET: 3, Kind.CANCEL: 20, Kind.LEAVE: 2, Kind.STALL: 20}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One thing that breaks, `at` so many seconds.

    `process` is the client process it happens to; `which` are its connections or tabs, as numbers
    that are taken modulo how many there are; `seconds` is how long it lasts; `name` is an attack's.
    """

    at: float
    kind: Kind
    process: int = 0
    which: tuple[int, ...] = ()
    seconds: float = 0.0
    name: str = ""

    @property
    def count(self) -> int:
        """To how many it happens."""
        return max(1, len(self.which))


def plan(seconds: float, seed: int, processes: int) -> Sequence[Act]:
    """All that happens, in order."""
    chance = random.Random(seed)
    attacks: list[str] = []
    acts = [
        Act(at=seconds / 3, kind=Kind.TERMINATE),
        Act(at=seconds * 2 / 3, kind=Kind.CRASH),
    ]
    at = _FIRST_SECONDS
    while (at := at + chance.expovariate(1 / _PAUSE_SECONDS)) < seconds:
        (kind,) = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        name = ""
        if kind is Kind.ATTACK:
            # Each once before any comes again.
            attacks = attacks or chance.sample(list(ATTACKS), len(ATTACKS))
            name = attacks.pop()
        act = Act(
            at=at,
            kind=kind,
            process=chance.randrange(processes),
            which=tuple(
                chance.randrange(2**16) for _ in range(chance.randint(1, _MOST.get(kind, 1)))
            ),
            seconds=chance.uniform(1.0, 5.0),
            name=name,
        )
        if at % _MINUTE_SECONDS < _MINUTE_SECONDS - _QUIET_SECONDS:
            acts.append(act)
    return sorted(acts, key=lambda act: act.at)
