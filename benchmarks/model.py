"""The benchmark's vocabulary: what is asked of a server, and what was seen of it.

Values only, without IO, clock or server.  Every module of the harness speaks in them, and a
`Result` is what is written to disk; reports are made from results alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias, final

__all__ = [
    "Case",
    "Latency",
    "Opened",
    "ProtocolName",
    "Published",
    "Reception",
    "Result",
    "Shape",
    "Usage",
    "Verdict",
]

ProtocolName: TypeAlias = Literal["h2", "http/1.1"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How simulated tabs connect: each tab is one event stream."""

    protocol: ProtocolName
    connections: int
    tabs_per_connection: int = 1

    def __post_init__(self) -> None:
        if self.connections < 1 or self.tabs_per_connection < 1:
            raise ValueError("a shape has at least one connection and one tab on each")
        if self.protocol == "http/1.1" and self.tabs_per_connection != 1:
            raise ValueError("an HTTP/1.1 connection carries one event stream")

    @property
    def tabs(self) -> int:
        return self.connections * self.tabs_per_connection


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What came of asking for tabs.  Times are in seconds from the first request to the last tab.

    `failures` counts, by reason, what did not open: "refused stream", "connect: Connection reset".
    """

    tabs: int
    connections: int
    connect_seconds: float
    open_seconds: float
    first_byte_seconds: tuple[float, ...] = ()  # p50, p99, max: from a tab's request to its 200
    failures: Mapping[str, int] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the publisher did.  An event's latency counts from when it *should* have been sent."""

    sent: int
    acknowledged: int
    first_sequence: int
    last_sequence: int
    late_p99_seconds: float  # how far behind its plan the publisher itself was
    failures: Mapping[str, int] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Delivery latency in microseconds: counts by value, merged over all tabs and clients."""

    counts: Mapping[int, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def percentile(self, percent: float) -> float:
        """The smallest value in us that `percent` of the deliveries did not exceed; 0 of none."""
        total = self.total
        seen = 0
        for value in sorted(self.counts):
            seen += self.counts[value]
            if seen * 100 >= percent * total:
                return value
        return 0

    @property
    def worst(self) -> int:
        return max(self.counts, default=0)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """What all tabs together received of the events asked about.

    A tab must get each sequence number once, in order.  `bytes` are those on the wire (TLS
    included), `records` the TLS records; `client_cpu` is the busiest client process's share of a
    core while events flowed.
    """

    expected: int
    delivered: int
    lost: int
    doubled: int
    misordered: int
    latency: Latency
    bytes: int
    records: int
    client_cpu: float
    client_cpu_seconds: float
    ended: Mapping[str, int] = field(default_factory=dict)  # tabs whose stream ended, by reason


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a server's processes have used, read at one instant."""

    user_seconds: float
    system_seconds: float
    pss_bytes: int  # proportional set size: memory shared between processes counted once
    socket_bytes: int  # the kernel's TCP buffers, of both ends on this machine
    descriptors: int
    processes: int

    @property
    def cpu_seconds(self) -> float:
        return self.user_seconds + self.system_seconds


class Verdict(StrEnum):
    """Whether a result's figures may be used."""

    OK = "ok"
    FAILED = "failed"  # the server did not do what was asked; `why` says what happened
    INVALID = "invalid"  # the harness was the limit: its figures say nothing of the server
    ABSENT = "absent"  # not installed; `why` is the command that installs it


Case: TypeAlias = Mapping[str, str | int | float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One measurement of one server: a line of results.jsonl.

    `case` are the parameters that results share when they may be compared, `figures` the numbers,
    named with their unit ("cpu_us_per_event", "p99_ms"), `notes` what a number cannot say
    ("broke first" for one).  `latency` is there where a curve is drawn.
    """

    scenario: str
    server: str
    protocol: ProtocolName
    case: Case
    round: int
    verdict: Verdict
    why: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    latency: Latency | None = None
