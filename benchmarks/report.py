"""The report: Markdown from results alone, so that no figure in it was ever typed by hand.

Every scenario says what was asked, then what came: a row for each server and protocol, the median
of the rounds with their range, and how many times h2sse's figure of the same protocol and case
that is.  What is not there says why, and where others do better than h2sse in every round, that is
said as plainly as the reverse.  Latency is compared only among those that carried the whole load.

`README.md` and `docs/benchmarks.md` hold marked regions, which `write` fills:

    <!-- benchmarks:ramp -->
    <!-- /benchmarks -->
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from . import plots
from .model import Verdict
from .peers import PEERS
from .results import BASE, PROTOCOLS, Facts, Record, Row, Store, server_title
from .sections import SECTIONS, Column, Section, Table, headline_cases
from .statistics import Spread

__all__ = ["Comparison", "comparisons", "filled", "regions", "report", "write"]

NO_RESULTS = "no results yet: run `uv run python -m benchmarks`"

# How much of a failure's reason is told; the rest is in results.jsonl.
_WHY_CHARACTERS = 200

# A table with more columns than this is one table for each case instead.
_MOST_COLUMNS = 6

# README names so many figures in which others do better; docs/benchmarks.md all.
_NAMED = 3

_REGION = re.compile(r"(<!-- benchmarks:(\w+) -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)


def write(store: Store, folder: Path, *, root: Path | None = None) -> str:
    """Write `report.md` and its pictures to `folder`; gives the report's text.

    With `root`, the project's folder, the marked regions of its documents are filled as well, and
    the pictures are in its `docs`.  Raises ValueError if a document's regions are not as expected.
    """
    record = store.load()
    pictures = root / "docs" if root is not None else folder
    folder.mkdir(parents=True, exist_ok=True)
    if root is not None:
        for name in ("README.md", "docs/benchmarks.md"):
            document = root / name
            text = document.read_text(encoding="utf-8")
            here = os.path.relpath(pictures, document.parent)
            document.write_text(filled(text, regions(record, here)), encoding="utf-8")
    plots.draw(record, pictures)
    text = report(record, os.path.relpath(pictures, folder))
    (folder / "report.md").write_text(text, encoding="utf-8")
    return text


def report(record: Record, pictures: str = ".") -> str:
    """The whole report, as a document of its own."""
    parts = regions(record, pictures)
    chapters = ["# Benchmark report", parts["headline"]]
    if record.rows:
        for section in SECTIONS:
            if record.of(section.name):
                chapters += [f"## {section.title}", parts[section.name]]
        chapters += ["## The machine and the runs", parts["facts"]]
    return "\n\n".join(chapters) + "\n"


def filled(text: str, contents: Mapping[str, str]) -> str:
    """The document with its regions' contents.  Raises ValueError for a region unknown or open."""
    found = _REGION.findall(text)
    if len(found) != text.count("<!-- benchmarks:") or len(found) != text.count("<!-- /benchmarks"):
        raise ValueError("a region is not closed, or not by `<!-- /benchmarks -->`")
    if unknown := [name for _, name, _ in found if name not in contents]:
        raise ValueError(f"no such region: {', '.join(unknown)}; there are {', '.join(contents)}")
    return _REGION.sub(lambda m: f"{m[1]}\n{contents[m[2]]}\n\n{m[3]}", text)


def regions(record: Record, pictures: str = ".") -> dict[str, str]:
    """What stands in each region; `pictures` is the folder they are in, seen from the document."""
    if not record.rows:
        return dict.fromkeys(("headline", "facts", *(s.name for s in SECTIONS)), NO_RESULTS)
    titles = plots.titles(record)

    def picture(name: str) -> Iterator[str]:
        if name in titles:
            yield f"![{titles[name]}]({os.path.normpath(Path(pictures) / plots.file(name))}.svg)"

    contents = {"headline": "\n\n".join(_headline(record, picture("tabs"), picture("cpu")))}
    contents["facts"] = "\n".join(_facts(record)).strip()
    for section in SECTIONS:
        parts = list(_section(record, section)) if record.of(section.name) else [NO_RESULTS]
        for name in section.pictures:
            parts += picture(name)
        contents[section.name] = "\n\n".join(parts)
    return contents


# A scenario


def _section(record: Record, section: Section) -> Iterator[str]:
    yield section.asked
    rows = record.of(section.name)
    for table in section.tables:
        yield from _tables(record, section, table, rows)
    yield "\n".join(_troubles(section, rows))
    if compared := list(comparisons(record, section)):
        yield _better(compared)
    yield f"Again: `uv run python -m benchmarks --full --scenario {section.name}`"


def _tables(record: Record, section: Section, table: Table, rows: Sequence[Row]) -> Iterator[str]:
    columns = [
        column
        for column in table.columns
        if any(row.note(column.key) if column.note else row.values(column.key) for row in rows)
    ]
    if not columns:
        return
    if section.a_row_a_case:
        head = [section.row_heading, *(column.heading for column in columns)]
        body = [
            [section.row_label(row), *(_cell(record, row, column) for column in columns)]
            for row in rows
        ]
        yield _markdown(head, body)
        return
    for cases, servers in _alike(section, rows):
        if len(cases) * len(columns) <= _MOST_COLUMNS:
            yield from _grid(record, section, table.title, columns, cases, servers)
        else:
            for case in cases:
                yield from _grid(record, section, table.title, columns, [case], servers)


def _grid(
    record: Record,
    section: Section,
    title: str,
    columns: Sequence[Column],
    cases: Sequence[str],
    servers: Sequence[Sequence[Row]],
) -> Iterator[str]:
    """One table: a row for each server and protocol, for each case its columns."""

    def heading(case: str, column: Column) -> str:
        if len(cases) == 1:
            return column.heading
        return f"{case}: {column.heading}" if len(columns) > 1 else case

    protocols = {rows[0].protocol for rows in servers}
    about = [title, *(PROTOCOLS[each] for each in protocols if len(protocols) == 1)]
    yield f"**{', '.join([*about, *(cases if len(cases) == 1 else ())])}**"
    body = []
    for rows in servers:
        name = server_title(rows[0].server) if len(protocols) == 1 else rows[0].title
        found = [next((row for row in rows if section.label(row.case) == c), None) for c in cases]
        cells = [_cell(record, row, column) for row in found for column in columns]
        body.append([_bold(name, rows[0].server == BASE), *cells])
    heads = [heading(case, column) for case in cases for column in columns]
    yield _markdown(["server", *heads], body)


def _alike(section: Section, rows: Sequence[Row]) -> Iterator[tuple[list[str], list[list[Row]]]]:
    """The cases that the same protocols were asked, with each server's rows in them."""
    spoken: dict[str, set[str]] = {}
    for row in rows:
        spoken.setdefault(section.label(row.case), set()).add(row.protocol)
    together: dict[frozenset[str], list[str]] = {}
    for case, protocols in spoken.items():
        together.setdefault(frozenset(protocols), []).append(case)
    for cases in together.values():
        servers: dict[str, list[Row]] = {}
        for row in rows:
            if section.label(row.case) in cases:
                servers.setdefault(row.title, []).append(row)
        yield cases, list(servers.values())


def _cell(record: Record, row: Row | None, column: Column) -> str:
    match row.verdict if row is not None else None:
        case None:
            return ""
        case Verdict.ABSENT:
            return "not installed"
        case Verdict.FAILED | Verdict.INVALID as verdict:
            return verdict.value
        case Verdict.OK:
            pass
    assert row is not None
    if column.note:
        return _plain(row.note(column.key))
    if column.latency and not row.same_load:
        return "–"
    text = row.text(column.key)
    if compared := _compare(record, row, column):
        text += f", {compared.text}"
    measured, asked = len(row.values(column.key)), len(row.rounds)
    return f"{text} [{measured} of {asked}]" if text and measured < asked else text


def _troubles(section: Section, rows: Sequence[Row]) -> Iterator[str]:
    """What failed, was invalid or absent, and why; the same of one server once."""
    told: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for verdict in (Verdict.FAILED, Verdict.INVALID, Verdict.ABSENT):
            whys = [(why, number) for each, why, number in row.troubles if each is verdict]
            if not whys:
                continue
            first = _plain(whys[0][0])
            if verdict is Verdict.ABSENT:
                told[section.absent_label(row), f"not installed; it comes with `{first}`"] = []
                continue
            count = sum(number for _, number in whys)
            often = f" in {count} of {len(row.rounds)} rounds" if len(row.rounds) > 1 else ""
            others = f" (and {len(whys) - 1} other reasons)" if len(whys) > 1 else ""
            what = section.row_label(row) if section.a_row_a_case else row.title
            cases = told.setdefault((what, f"{verdict.value}{often}: {first}{others}"), [])
            if not section.a_row_a_case:
                cases.append(section.label(row.case))
    if not told:
        yield "All did what was asked, in every round."
        return
    yield "What did not come to a figure:\n"
    for (what, text), cases in told.items():
        where = f" ({'; '.join(cases)})" if cases else ""
        yield f"- {what}{where}: {text}"


def _plain(text: str, *, most: int | None = _WHY_CHARACTERS) -> str:
    """On one line, fit for a table's cell."""
    line = " ".join(text.split())
    if most is not None and len(line) > most:
        line = line[: most - 1] + "…"
    return line.replace("|", "\\|").replace("<", "&lt;")


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table that can be read as it stands, too."""
    widths = [max(3, *(len(line[i]) for line in (head, *body))) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    return "\n".join((line(head), line(["-" * width for width in widths]), *map(line, body)))


# Comparing with h2sse


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A server's figure as a multiple of h2sse's.

    `bound` is "≥" or "≤" where one of the two is known to be at least so much.
    """

    row: Row
    column: Column
    case: str
    times: Spread
    bound: str = ""

    @property
    def text(self) -> str:
        """With the range where rounds do not agree which of the two is larger."""
        times = self.times
        middle = f"{self.bound}{_times(times.median)}×"
        if times.least < 1 < times.most:
            return f"{middle} ({_times(times.least)}–{_times(times.most)})"
        return middle

    @property
    def better(self) -> bool:
        """Whether it did better than h2sse in every round."""
        if self.column.better == "more":
            return self.times.least > 1 and self.bound != "≤"
        return self.times.most < 1

    @property
    def factor(self) -> float:
        """By how much it is better, from 1."""
        times = self.times.median
        return times if self.column.better == "more" else 1 / times if times else float("inf")


def _times(value: float) -> str:
    """Two significant digits, and no exponent: more is not in three rounds."""
    return f"{float(f'{value:.1e}'):,.10g}"


def comparisons(record: Record, section: Section) -> Iterator[Comparison]:
    """Every figure of every other server that has one of h2sse's to compare with."""
    for row in record.of(section.name):
        for table in section.tables:
            for column in table.columns:
                if compared := _compare(record, row, column, section.label(row.case)):
                    yield compared


def _compare(record: Record, row: Row, column: Column, case: str = "") -> Comparison | None:
    base = record.base(row)
    if column.better is None or base is None or row.server == BASE:
        return None
    if column.latency and not (row.same_load and base.same_load):
        return None
    times = row.ratio(column.key, base)
    ours, theirs = base.at_least(column.key), row.at_least(column.key)
    if times is None or (ours and theirs):
        return None
    bound = "≤" if ours else "≥" if theirs else ""
    return Comparison(row=row, column=column, case=case, times=times, bound=bound)


def _better(compared: Sequence[Comparison]) -> str:
    """Where others did better than h2sse: of each figure and protocol, the best of them."""
    best = _best(compared)
    if not best:
        return "Where it was compared here, no other server did better than h2sse in every round."
    lines = "\n".join(f"- {_named(each)}" for each in best)
    return f"Better than h2sse in every round:\n\n{lines}"


def _best(compared: Sequence[Comparison]) -> list[Comparison]:
    best: dict[tuple[str, str], Comparison] = {}
    for each in compared:
        key = (each.column.key, each.row.protocol)
        if each.better and (key not in best or each.factor > best[key].factor):
            best[key] = each
    return sorted(best.values(), key=lambda each: -each.factor)


def _named(each: Comparison) -> str:
    where = f"{PROTOCOLS[each.row.protocol]}, {each.case}"
    return f"{each.column.phrase} ({where}): {server_title(each.row.server)} at {each.text} h2sse's"


# The headline


def _headline(record: Record, tabs: Iterator[str], cpu: Iterator[str]) -> Iterator[str]:
    yield from tabs
    yield from cpu
    about = (_about_tabs, _about_cpu, _about_others, _about_failures)
    if told := [sentence for each in about for sentence in each(record)]:
        yield "\n".join(f"- {sentence}" for sentence in told)
    if table := _headline_table(record):
        yield table


def _about_tabs(record: Record) -> Iterator[str]:
    clauses = []
    for protocol, name in PROTOCOLS.items():
        counts = [
            f"{_bounded(row, 'tabs_sustained')} with {row.case['shape']}"
            for row in record.of("ramp", protocol)
            if row.server == BASE and row.values("tabs_sustained")
        ]
        if counts:
            clauses.append(f"over {name} {' and '.join(counts)}")
    if clauses:
        yield f"Tabs that one h2sse process sustained: {'; '.join(clauses)}."


def _bounded(row: Row, figure: str) -> str:
    spread = row.spread(figure)
    assert spread is not None
    least = "at least " if 2 * row.at_least(figure) > spread.rounds else ""
    return least + spread.shown(spread.median)


def _about_cpu(record: Record) -> Iterator[str]:
    column = Column("cpu_us_per_event", "", better="less")
    clauses = []
    for protocol, case in headline_cases(record):
        rows = record.of("fanout", protocol, case)
        base = next((row for row in rows if row.server == BASE), None)
        spread = base.spread(column.key) if base is not None else None
        if spread is None:
            continue
        others = [each for row in rows if (each := _compare(record, row, column))]
        others.sort(key=lambda each: each.times.median)
        text = f"{spread.shown(spread.median)} µs over {PROTOCOLS[protocol]}, {case['grid']}"
        if others:
            ends = [others[0]] if len(others) == 1 else [others[0], others[-1]]
            told = " to ".join(f"{e.text} ({server_title(e.row.server)})" for e in ends)
            text += f" (the others: {told})" if len(others) > 1 else f" (beside it: {told})"
        clauses.append(text)
    if clauses:
        yield (
            "Server CPU that h2sse took for each delivered event, by connections x tabs on each: "
            f"{'; '.join(clauses)}."
        )


def _about_others(record: Record) -> Iterator[str]:
    compared = [each for section in SECTIONS for each in comparisons(record, section)]
    if not compared:
        return
    best = _best(compared)
    count = sum(each.better for each in compared)
    total = f"{len(compared)} comparison{'s' if len(compared) > 1 else ''}"
    if not best:
        yield f"In none of {total} did another server do better than h2sse in every round."
        return
    named = "; ".join(_named(each) for each in best[:_NAMED])
    yield f"In {count} of {total} another server did better than h2sse in every round: {named}."


def _about_failures(record: Record) -> Iterator[str]:
    """Where h2sse failed there is nothing to compare, which must not pass for a draw."""
    failed = [
        f"{section.name} ({PROTOCOLS[row.protocol]}, {section.label(row.case)})"
        for section in SECTIONS
        for row in record.of(section.name)
        if row.server == BASE and any(each is Verdict.FAILED for each, _, _ in row.troubles)
    ]
    if failed:
        yield f"h2sse itself failed, in one round at least: {'; '.join(failed)}."


def _headline_table(record: Record) -> str:
    """A row a server: tabs sustained in each shape, and CPU an event in the pictures' cases."""
    columns = [
        (f"tabs, {PROTOCOLS[row.protocol]}, {row.case['shape']}", "tabs_sustained", row)
        for row in record.of("ramp")
    ]
    columns += [
        (f"CPU µs an event, {PROTOCOLS[row.protocol]}, {row.case['grid']}", "cpu_us_per_event", row)
        for protocol, case in headline_cases(record)
        for row in record.of("fanout", protocol, case)
    ]
    figures = {heading: figure for heading, figure, row in columns if row.values(figure)}
    cells = {
        (heading, row.server): _cell(record, row, Column(figure, ""))
        for heading, figure, row in columns
    }
    servers = dict.fromkeys(row.server for row in record.rows if row.scenario in ("ramp", "fanout"))
    body = [
        [_bold(server_title(server), server == BASE)]
        + [cells.get((heading, server), "") for heading in figures]
        for server in servers
    ]
    return _markdown(["server", *figures], body) if figures else ""


# The machine


def _facts(record: Record) -> Iterator[str]:
    """Of the runs that results are of; the number of a run only where there are several."""
    runs = sorted({run for row in record.rows for run, _ in row.rounds})
    for run in runs:
        if len(runs) > 1:
            yield f"**Run {run}**\n"
        yield from (f"- {name}: {value}" for name, value in _flat(record.runs[run]))
        yield ""
    present = {row.server for row in record.rows if row.verdict is not Verdict.ABSENT}
    yield "What differs from server to server:\n"
    for name, peer in PEERS.items():
        if name in present and peer.stated:
            yield f"- {peer.title}: {_plain(peer.stated, most=None)}"


def _flat(facts: Facts) -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        name = key.replace("_", " ")
        match value:
            case None:
                continue
            case bool():
                yield name, "yes" if value else "no"
            case Mapping():
                yield name, "; ".join(f"{each} {_plain(str(value[each]))}" for each in value)
            case list():
                yield name, ", ".join(_plain(str(each)) for each in value)
            case str() if key in ("command", "commit"):
                yield name, f"`{value}`"
            case _:
                yield name, _plain(str(value))
