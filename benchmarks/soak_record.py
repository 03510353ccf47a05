"""What a soak has seen: its windows, the bounds they are held against, and the file they are in.

A file (benchmarks/results/soak.jsonl) has a line for each run, with what it was measured on and
with, and after it one for each of its windows.  A later run's figures of an attack stand for
earlier ones, with that run's own calm beside them; a run of which nothing stands is left out when
the next is saved.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, final

__all__ = ["MIB", "Bounds", "Felt", "Phase", "Setting", "Soak", "Window", "felt", "load", "save"]

MIB = 1024 * 1024

Phase: TypeAlias = Literal["before", "during", "after"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What is to hold.  `p99_ms` is of a machine that has its two cores to itself."""

    p99_ms: float = 50.0
    # What all connections of an attack may hold, above what the server had before: 10 MiB each.
    attack_bytes: int = 200 * MIB
    # From before to after: of histories, which are full by then, and what CPython keeps of 5,000
    # tabs that are gone; a second time adds nothing.  What leaks, churn.py tells.
    drift_bytes: int = 32 * MIB
    drift_descriptors: int = 5


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What windows were measured with, and on (`machine.facts`)."""

    tabs: int
    window_seconds: float
    rate: float  # events a second
    attack_connections: int
    attack_nice: int
    facts: Mapping[str, object] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What some seconds were like.  Each `_cpu` is a share of one core."""

    phase: Phase
    attack: str
    seconds: float  # since the start
    events: int
    samples: int  # deliveries to tabs that stay, of which the times are
    p50_ms: float
    p99_ms: float
    worst_ms: float
    wrong: int  # lost, doubled or out of order, of all tabs
    began_bytes: int  # PSS of the server before it; at its end, and the most seen meanwhile
    pss_bytes: int
    peak_bytes: int
    descriptors: int
    connections: int | None  # of HTTP/2, as /metrics has them; None if it did not answer
    tabs: int | None
    server_cpu: float
    client_cpu: float  # of the busier of the two processes that measure
    attack_cpu: float = 0.0
    attackers: int = 0  # connections the attack made


@final
@dataclass(slots=True, kw_only=True)
class Soak:
    """What is known so far."""

    setting: Setting
    bounds: Bounds = field(default_factory=Bounds)
    windows: list[Window] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # what failed, beside the bounds

    def of(self, phase: Phase) -> list[Window]:
        return [each for each in self.windows if each.phase == phase]

    @property
    def calm_ms(self) -> float:
        """p99 of the worst window before any attack; 0 if there was none."""
        return max((each.p99_ms for each in self.of("before")), default=0.0)

    def violations(self) -> Iterator[str]:
        """Which bounds did not hold, in words."""
        yield from self.broken
        bounds = self.bounds
        before, after = self.of("before"), self.of("after")
        for each in self.windows:
            when = f"at {each.seconds:.0f} s ({each.attack or each.phase})"
            if each.p99_ms > bounds.p99_ms:
                yield f"p99 {each.p99_ms:.1f} ms {when}, over {bounds.p99_ms:g}"
            if each.wrong:
                yield f"{each.wrong} events lost, doubled or out of order {when}"
            if before and each.peak_bytes > before[-1].pss_bytes + bounds.attack_bytes:
                grown = (each.peak_bytes - before[-1].pss_bytes) / MIB
                yield f"memory grew by {grown:.0f} MiB {when}"
        if before and after:
            grown = after[-1].pss_bytes - before[-1].pss_bytes
            if grown > bounds.drift_bytes:
                yield f"memory drifted by {grown / MIB:.1f} MiB"
            left = after[-1].descriptors - before[-1].descriptors
            if left > bounds.drift_descriptors:
                yield f"{left} descriptors are left over"
            tabs = before[-1].tabs, after[-1].tabs
            if None not in tabs and tabs[0] != tabs[1]:
                yield f"{tabs[1]} tabs after, {tabs[0]} before"


@final
@dataclass(frozen=True, slots=True)
class Felt:
    """What one run's honest tabs felt of one attack: of several windows the worst."""

    run: Soak
    windows: Sequence[Window]

    @property
    def p99_ms(self) -> float:
        return max(each.p99_ms for each in self.windows)

    @property
    def grown_bytes(self) -> int:
        """By how much the server's memory went up, at most, from just before a window.

        What an earlier attack left with the allocator is there already.
        """
        return max(each.peak_bytes - each.began_bytes for each in self.windows)

    @property
    def attackers(self) -> int:
        return sum(each.attackers for each in self.windows)

    @property
    def server_cpu(self) -> float:
        return max(each.server_cpu for each in self.windows)

    @property
    def attack_cpu(self) -> float:
        return max(each.attack_cpu for each in self.windows)


def felt(runs: Sequence[Soak]) -> dict[str, Felt]:
    """By attack, what its latest run says."""
    found: dict[str, Felt] = {}
    for run in runs:
        during = run.of("during")
        for name in dict.fromkeys(each.attack for each in during):
            found[name] = Felt(run, [each for each in during if each.attack == name])
    return found


# -- the file


def load(file: Path) -> list[Soak]:
    """The runs of a file, the earliest first; none if it is not there."""
    runs: list[Soak] = []
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for line in map(json.loads, lines):
        if "window" in line:
            runs[-1].windows.append(Window(**line["window"]))
        else:
            run = line["run"]
            setting, bounds = Setting(**run["setting"]), Bounds(**run["bounds"])
            runs.append(Soak(setting=setting, bounds=bounds, broken=run["broken"]))
    return runs


def save(file: Path, run: Soak) -> None:
    """Add a run to a file."""
    runs = [*load(file), run]
    standing = [each.run for each in felt(runs).values()]
    kept = [each for each in runs if each is run or any(each is one for one in standing)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(line)}\n" for line in _lines(kept)), encoding="utf-8")


def _lines(runs: Sequence[Soak]) -> Iterator[Mapping[str, object]]:
    for run in runs:
        setting, bounds = asdict(run.setting), asdict(run.bounds)
        yield {"run": {"setting": setting, "bounds": bounds, "broken": run.broken}}
        for each in run.windows:
            yield {"window": asdict(each)}
