"""What a soak says, as Markdown: its report, and what honest tabs feel in docs/security.md.

There a row of a table says in the column `honest tabs feel` which attacks are of its kind, by their
names in backticks; what stands beside the names is written here, from results alone.  So a row's
attacks are chosen by hand, and no figure is.  A cell without a name is words, and stays.  What was
measured, and on what, stands between `<!-- soak -->` and `<!-- /soak -->`.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from .attacks import AGAIN_SECONDS, ATTACKS
from .soak_record import MIB, Bounds, Felt, Setting, Soak, felt, load

__all__ = ["DOCUMENT", "RESULTS", "Row", "filled", "page", "report", "rows", "write"]

_ROOT = Path(__file__).parents[1]
RESULTS = _ROOT / "benchmarks" / "results" / "soak.jsonl"
DOCUMENT = _ROOT / "docs" / "security.md"

HEADING = "honest tabs feel"
# Less than this is the allocator's.
_TOLD_BYTES = 4 * MIB

_COLUMNS = (
    *("s", "phase", "attack", "p50 ms", "p99 ms", "worst ms", "wrong", "PSS MiB", "peak MiB"),
    *("descriptors", "connections", "tabs", "server's CPU", "tabs' CPU", "attack's CPU"),
)
_ATTACK_COLUMNS = (
    *("attack", "its connections", "p99 ms of honest tabs", "MiB more", "server's CPU"),
    "attack's CPU",
)
_REGION = re.compile(r"(<!-- soak -->\n).*?(<!-- /soak -->)", re.DOTALL)


def write() -> None:
    """The report of the committed results, and the document, anew."""
    runs = load(RESULTS)
    RESULTS.with_suffix(".md").write_text(page(runs), encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(filled(text, runs), encoding="utf-8")


# -- the report


def page(runs: Sequence[Soak]) -> str:
    """All runs of a file."""
    parts = ["# Soak", _wrapped(_INTRODUCTION)]
    for run in runs:
        parts += [f"## {_day(run.setting)}", report(run)]
    return "\n\n".join(parts) + "\n"


_AT_ONCE = ", ".join(
    f"`{name}`" for name, each in ATTACKS.items() if each.again_seconds < AGAIN_SECONDS
)
_INTRODUCTION = (
    "What `python -m benchmarks.soak` saw, written by `python -m benchmarks.soak report` from"
    " soak.jsonl. Of the tabs that stay, each event's time from when it was due until a tab had it"
    " is a sample; the others go and come back in every window. Attacks are sent by a process of"
    " its own, with bytes made once for all its connections, and it is nice: on a machine that all"
    " share, it takes little from those who measure. A connection that the server has"
    f" ended comes back after {AGAIN_SECONDS:g} s; those of {_AT_ONCE} after less. CPU is a"
    " share of one core."
)


def report(run: Soak) -> str:
    """One run."""
    lines = [_wrapped(_setting(run.setting)), "", *_table(_COLUMNS, _windows(run))]
    if during := felt([run]):
        none = ("none", "0", f"{run.calm_ms:.1f}", "", "", "")
        lines += ["", *_table(_ATTACK_COLUMNS, (none, *_attacks(during)))]
    violations = list(run.violations())
    lines += ["", *(f"- {each}" for each in violations)] if violations else []
    lines += ["", "Not all bounds held." if violations else "All bounds held."]
    return "\n".join(lines)


def _windows(run: Soak) -> Iterator[tuple[str, ...]]:
    for each in run.windows:
        times = (each.p50_ms, each.p99_ms, each.worst_ms)
        counts = (each.descriptors, each.connections, each.tabs)
        yield (
            *(f"{each.seconds:.0f}", each.phase, each.attack, *(f"{ms:.1f}" for ms in times)),
            *(str(each.wrong), f"{each.pss_bytes / MIB:.1f}", f"{each.peak_bytes / MIB:.1f}"),
            *("?" if count is None else str(count) for count in counts),
            *(f"{share:.0%}" for share in (each.server_cpu, each.client_cpu, each.attack_cpu)),
        )


def _attacks(during: Mapping[str, Felt]) -> Iterator[tuple[str, ...]]:
    for name, each in sorted(during.items()):
        shares = (f"{share:.0%}" for share in (each.server_cpu, each.attack_cpu))
        grown = f"{each.grown_bytes / MIB:.1f}"
        yield (name, f"{each.attackers:,}", f"{each.p99_ms:.1f}", grown, *shares)


def _table(head: tuple[str, ...], body: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *body)]


def _setting(setting: Setting) -> str:
    facts = setting.facts
    commit = str(facts.get("commit") or "unknown")[:7]
    changed = ", changed since" if facts.get("dirty") else ""
    return (
        f"{setting.tabs:,} honest tabs, {setting.rate:g} events a second, windows of"
        f" {setting.window_seconds:g} s, attacks from {setting.attack_connections} connections"
        f" at nice {setting.attack_nice};"
        f" h2sse {facts.get('h2sse')} (commit {commit}{changed}) on {facts.get('python')},"
        f" {facts.get('usable_cores')} cores of {facts.get('cpu')} for all processes together."
    )


def _day(setting: Setting) -> str:
    return str(setting.facts.get("measured_at", ""))[:10]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


# -- the document


@final
@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table with the column: its cells by their heading, and the attacks it names."""

    cells: Mapping[str, str]
    attacks: Sequence[str]


def rows(text: str) -> list[Row]:
    """All of a document, in order."""
    found = []
    for head, cells in _rows(text.splitlines()):
        if cells is not None:
            told = {name.strip(): cell.strip() for name, cell in zip(head, cells, strict=True)}
            found.append(Row(told, _named(told[HEADING])))
    return found


def filled(text: str, runs: Sequence[Soak]) -> str:
    """The document, with its figures from these runs; what it had before is gone."""
    known = felt(runs)
    lines = text.splitlines()
    for at, (head, cells) in enumerate(_rows(lines)):
        if cells is not None:
            place = [name.strip() for name in head].index(HEADING)
            if names := _named(cells[place]):
                told = ", ".join(f"`{name}` {_felt(known.get(name))}" for name in names)
                lines[at] = "|".join([*cells[:place], f" {told} ", *cells[place + 1 :]])
    measured = "\n".join(_measured(known))
    return _REGION.sub(lambda found: f"{found[1]}{measured}\n{found[2]}", "\n".join(lines) + "\n")


def _rows(lines: Sequence[str]) -> Iterator[tuple[list[str], list[str] | None]]:
    """For each line the heads of the columns it has, and, if it is a row with ours, its cells."""
    head: list[str] = []
    for line in lines:
        cells = re.split(r"(?<!\\)\|", line) if line.startswith("|") else []
        if not cells or not head:
            head = cells
            yield head, None
        else:
            ours = HEADING in map(str.strip, head) and not re.fullmatch(r"[|\s:-]+", line)
            yield head, cells if ours else None


def _named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _felt(of: Felt | None) -> str:
    """p99 rounded up, bold if it is over the bound, and memory if there is something to tell.

    The bound is the one that the document names, though a run may have been let off with another.
    """
    if of is None:
        return "not measured"
    told = f"{math.ceil(of.p99_ms)} ms"
    told = told if of.p99_ms <= Bounds().p99_ms else f"**{told}**"
    grown = of.grown_bytes
    return told if grown < _TOLD_BYTES else f"{told} (+{grown / MIB:.0f} MiB)"


def _measured(known: Mapping[str, Felt]) -> Iterator[str]:
    """For each run that has figures here, what it was and how calm its tabs were before."""
    runs: list[Soak] = []
    for each in known.values():
        if not any(each.run is run for run in runs):
            runs.append(each.run)
    if not runs:
        yield "Nothing has been measured yet."
    for run in runs:
        mine = [each for each in known.values() if each.run is run]
        least = min(window.samples for each in mine for window in each.windows)
        events = min(window.events for each in mine for window in each.windows)
        attacks = (
            "all attacks"
            if len(mine) == len(known)
            else f"{len(mine)} attack{'s' * (len(mine) != 1)}"
        )
        yield _wrapped(
            f"Measured on {_day(run.setting)}, {attacks}: {_setting(run.setting)} Each figure is of"
            f" {events} events or more, {least:,} deliveries. Without an attack p99 was"
            f" {math.ceil(run.calm_ms)} ms."
        )
