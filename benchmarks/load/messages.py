"""What the client processes are told and what they answer: JSON, a line each, over their pipes.

A command is `{"number": n, "do": name, ...}`, its answer `{"number": n, "answer": {...}}` with the
fields of one of these classes.  Instants are `time.monotonic_ns`, one clock for all processes of a
machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

__all__ = ["Answer", "Asked", "Done", "Finished", "Progress", "Sent"]


@final
@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to say."""


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking for tabs, and of the connections made for them.

    `began` and `ended`: from the first request to the last 200; each tab's wait is in us.
    `standing` are all connections that are up.
    """

    connections: int
    connect_began: int
    connect_ended: int
    standing: int
    began: int
    ended: int
    waits: list[int]
    failures: dict[str, int]


@final
@dataclass(frozen=True, slots=True)
class Finished:
    """What was received since `begin`; `latency` as (us, count)."""

    expected: int
    delivered: int
    lost: int
    doubled: int
    misordered: int
    latency: list[tuple[int, int]]
    bytes: int
    records: int
    cpu_seconds: float
    seconds: float
    ended: dict[str, int]


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """Tabs that are open, and deliveries since `begin`."""

    open: int
    delivered: int


@final
@dataclass(frozen=True, slots=True)
class Sent:
    """What a publisher did; lateness in seconds."""

    sent: int
    acknowledged: int
    first_sequence: int
    last_sequence: int
    late_p99_seconds: float
    failures: dict[str, int]


Answer: TypeAlias = Done | Asked | Finished | Progress | Sent
