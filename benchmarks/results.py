"""Results on disk, and the rounds of a server side by side.

A folder holds `machine.json`, the facts of each run, and `results.jsonl`, a line for each `Result`
with the number of its run, flushed as it is written: what is finished outlives Ctrl-C.  Latency is
kept as an HDR histogram in its standard encoding (three digits, a few hundred bytes, readable by
other tools), not as a count for every microsecond.

A later run replaces what it measured again, server by server and case by case, and leaves the
rest.  Rounds of different runs are never mixed: a `Row` is of one run, and rounds are paired by run
and number, so that a ratio is always between neighbours in time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, final

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]  # it has no types

from .model import Case, Latency, ProtocolName, Result, Verdict
from .peers import PEERS
from .statistics import Spread, merge, ratio

__all__ = [
    "BASE",
    "PROTOCOLS",
    "SERVERS",
    "Damaged",
    "Facts",
    "Record",
    "RoundName",
    "Row",
    "Store",
    "server_title",
]

logger = logging.getLogger(__name__)

Facts: TypeAlias = Mapping[str, object]
"""What JSON can hold: strings, numbers, lists and mappings."""

RoundName: TypeAlias = tuple[int, int]
"""A run's number, and that of a round in it."""

# The server that ratios are to.
BASE = "h2sse"

# In this order everywhere; one that is not here comes last, under its own name.
SERVERS = {name: peer.title for name, peer in PEERS.items()}
PROTOCOLS: dict[ProtocolName, str] = {"h2": "HTTP/2", "http/1.1": "HTTP/1.1"}

# Microseconds, up to an hour; three significant digits.
_LONGEST_US = 3_600_000_000
_DIGITS = 3

# Figures that say, other than 0, that a server did not carry the whole load.
_FAULTS = ("lost", "doubled", "misordered", "overloaded")


class Damaged(Exception):
    """A file of results is not what was written; the message names the line."""


def server_title(server: str) -> str:
    return SERVERS.get(server, server)


@final
@dataclass(frozen=True)
class Row:
    """The rounds of one server, in one protocol and one case, of one run."""

    scenario: str
    server: str
    protocol: ProtocolName
    case: Case
    rounds: Mapping[RoundName, Result]

    @property
    def title(self) -> str:
        return f"{server_title(self.server)}, {PROTOCOLS[self.protocol]}"

    @property
    def verdict(self) -> Verdict:
        """OK if any round was; else what most rounds were."""
        verdicts = Counter(each.verdict for each in self.rounds.values())
        return Verdict.OK if verdicts[Verdict.OK] else verdicts.most_common(1)[0][0]

    @property
    def same_load(self) -> bool:
        """Whether it carried all it was asked to, in every round: only then latency compares."""
        return all(
            each.verdict is Verdict.OK and not any(each.figures.get(fault) for fault in _FAULTS)
            for each in self.rounds.values()
        )

    @property
    def troubles(self) -> list[tuple[Verdict, str, int]]:
        """What was not OK and why, each with its number of rounds, the most frequent first."""
        count = Counter(
            (each.verdict, each.why)
            for each in self.rounds.values()
            if each.verdict is not Verdict.OK
        )
        return [(verdict, why, number) for (verdict, why), number in count.most_common()]

    def values(self, figure: str) -> dict[RoundName, float]:
        """A figure by round, of the rounds that were OK."""
        return {
            name: each.figures[figure]
            for name, each in self.rounds.items()
            if each.verdict is Verdict.OK and figure in each.figures
        }

    def spread(self, figure: str) -> Spread | None:
        values = self.values(figure)
        return Spread.of(values.values()) if values else None

    def ratio(self, figure: str, to: Row) -> Spread | None:
        """How many times `to`'s figure, within each round that both have."""
        return ratio(self.values(figure), to.values(figure))

    def at_least(self, figure: str) -> int:
        """In how many rounds the figure is no more than a bound: the server was not the limit.

        So with tabs sustained where the search reached its own limit, or the client its.
        """
        if figure != "tabs_sustained":
            return 0
        return sum(
            not self.rounds[name].figures.get("tabs_failed")
            or self.rounds[name].notes.get("broke_first", "").startswith("the client itself")
            for name in self.values(figure)
        )

    def text(self, figure: str) -> str:
        """Median and range, with a plus where more may be possible; "" if there is none."""
        spread, bounds = self.spread(figure), self.at_least(figure)
        if spread is None:
            return ""
        text = spread.shown(spread.median) + ("+" if 2 * bounds > spread.rounds else "")
        least, most = spread.shown(spread.least), spread.shown(spread.most)
        return text if least == most else f"{text} ({least}–{most}{'+' if bounds else ''})"

    def note(self, name: str) -> str:
        """What the rounds say, the most frequent first."""
        notes = Counter(
            each.notes[name]
            for each in self.rounds.values()
            if each.verdict is Verdict.OK and each.notes.get(name)
        )
        return "; ".join(note for note, _ in notes.most_common())

    @property
    def latency(self) -> Latency | None:
        """All rounds together; None if there is none, or none that may be compared."""
        latencies = [each.latency for each in self.rounds.values() if each.latency is not None]
        return merge(latencies) if latencies and self.same_load else None


@final
@dataclass(frozen=True)
class Record:
    """All that is known: the facts of each run by its number, and the rows, in a fixed order."""

    runs: Mapping[int, Facts] = field(default_factory=dict)
    rows: Sequence[Row] = ()

    def of(
        self, scenario: str, protocol: ProtocolName | None = None, case: Case | None = None
    ) -> list[Row]:
        """The rows of a scenario: all, or those of a protocol and a case."""
        return [
            row
            for row in self.rows
            if row.scenario == scenario
            and protocol in (None, row.protocol)
            and (case is None or case == row.case)
        ]

    def base(self, row: Row) -> Row | None:
        """h2sse's row of the same protocol and case; None if there is none."""
        return self._bases.get((row.scenario, row.protocol, _key(row.case)))

    @cached_property
    def _bases(self) -> dict[tuple[str, str, object], Row]:
        return {
            (row.scenario, row.protocol, _key(row.case)): row
            for row in self.rows
            if row.server == BASE
        }

    @cached_property
    def digest(self) -> str:
        """Names this record: pictures carry it, so that a test knows what they were made of."""
        told = [asdict(result) for row in self.rows for result in row.rounds.values()]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    """The results in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._facts = folder / "machine.json"
        self._results = folder / "results.jsonl"
        self._run = 0

    def begin(self, facts: Facts, scenarios: Collection[str] = ()) -> None:
        """A new run, of these scenarios: results appended from now on are of it.

        `facts` are what the report says of the machine, the versions, the command and the commit.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        runs = self._runs()
        self._run = max(runs, default=0) + 1
        runs[self._run] = {"scenarios": sorted(scenarios), **facts} if scenarios else facts
        text = json.dumps({str(run): each for run, each in runs.items()}, indent=2)
        self._facts.write_text(text + "\n", encoding="utf-8")
        self._mend()

    def append(self, result: Result) -> None:
        """Write a result at once.  Raises RuntimeError before `begin`."""
        if not self._run:
            raise RuntimeError("begin a run before appending to it")
        line = {"run": self._run, **_encoded(result)}
        with self._results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def load(self) -> Record:
        """All there is; nothing if the folder is not there.  Raises Damaged."""
        rows: dict[tuple[object, ...], dict[RoundName, Result]] = {}
        for run, result in self._lines():
            key = (result.scenario, result.server, result.protocol, _key(result.case))
            before = rows.get(key, {})
            measured = any(each.verdict is not Verdict.ABSENT for each in before.values())
            if measured and result.verdict is Verdict.ABSENT:
                continue  # that it is not installed now says nothing of what was measured
            same_run = {name: each for name, each in before.items() if name[0] == run}
            rows[key] = {**same_run, (run, result.round): result}
        return Record(runs=self._runs(), rows=_sorted(map(_row, rows.values())))

    def _lines(self) -> Iterator[tuple[int, Result]]:
        lines = self._results.read_text(encoding="utf-8").splitlines() if self._exists else []
        for number, line in enumerate(lines, start=1):
            try:
                fields = json.loads(line)
                yield int(fields.pop("run")), _decoded(fields)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if number < len(lines):
                    raise Damaged(f"{self._results}, line {number}: {error!r}") from error
                # A run that was killed while it wrote.
                logger.warning("%s: the last line is damaged and left out", self._results)

    @property
    def _exists(self) -> bool:
        return self._results.exists()

    def _runs(self) -> dict[int, Facts]:
        if not self._facts.exists():
            return {}
        try:
            return {int(run): facts for run, facts in json.loads(self._facts.read_text()).items()}
        except (ValueError, AttributeError) as error:
            raise Damaged(f"{self._facts}: {error!r}") from error

    def _mend(self) -> None:
        """Cut off half a line that a killed run left, or the next would be appended to it."""
        if self._exists:
            content = self._results.read_bytes()
            if content and not content.endswith(b"\n"):
                logger.warning("%s: the last line is damaged and cut off", self._results)
                self._results.write_bytes(content[: content.rfind(b"\n") + 1])


def _key(case: Case) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(case.items()))


def _row(rounds: Mapping[RoundName, Result]) -> Row:
    result = next(iter(rounds.values()))
    return Row(result.scenario, result.server, result.protocol, result.case, rounds)


def _sorted(rows: Iterable[Row]) -> tuple[Row, ...]:
    """By server and protocol in their fixed order; cases stay as they were measured."""
    servers, protocols = list(SERVERS), list(PROTOCOLS)

    def place(row: Row) -> tuple[int, str, int]:
        known = servers.index(row.server) if row.server in SERVERS else len(servers)
        return known, row.server, protocols.index(row.protocol)

    return tuple(sorted(rows, key=place))


def _encoded(result: Result) -> dict[str, object]:
    fields = asdict(result)
    if result.latency is not None:
        histogram = HdrHistogram(1, _LONGEST_US, _DIGITS)
        for value, count in result.latency.counts.items():
            if value < 0 or not histogram.record_value(value, count):
                raise ValueError(f"a latency of {value} us is not one")
        fields["latency"] = histogram.encode().decode("ascii")
    return fields


def _decoded(fields: dict[str, object]) -> Result:
    encoded = fields.pop("latency")
    latency = None
    if encoded is not None:
        histogram = HdrHistogram.decode(encoded)
        # Its own iterator visits every empty bucket, in Python: 0.2 s a histogram.
        counts = np.ctypeslib.as_array(histogram.counts)
        latency = Latency(
            counts={
                histogram.get_highest_equivalent_value(histogram.get_value_from_index(index)): int(
                    counts[index]
                )
                for index in np.flatnonzero(counts).tolist()
            }
        )
    verdict = Verdict(str(fields.pop("verdict")))
    return Result(**fields, verdict=verdict, latency=latency)  # type: ignore[arg-type]  # as written
