"""The report, as Markdown: made of the record alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.machine import Fact
from benchmarks.model import Latency

from .judge import FAULTS
from .plan import Kind
from .run import Chaos, Sample

__all__ = ["report"]

_MIB = 1024 * 1024
# Of the table of what the server was like.
_ROWS = 20
_COLUMNS = ("until s", "peak PSS MiB", "descriptors", "connections", "tabs")


def report(record: Chaos, facts: Mapping[str, Fact]) -> str:
    """The whole of it, but for the last line end."""
    return "\n".join(_lines(record, facts))


def _lines(record: Chaos, facts: Mapping[str, Fact]) -> Iterator[str]:
    verdict = record.verdict
    yield "# Chaos"
    yield ""
    if record.held:
        yield (
            f"Every one of {verdict.tabs} tabs saw every acknowledged event once, in order, or,"
            " across a restart, was told in-band that it had missed some."
        )
    else:
        yield "**It did not hold.**"
        yield ""
        missing = f"{record.tabs - verdict.tabs} tabs have left no notes"
        words = () if verdict.tabs == record.tabs else (missing,)
        yield from (f"- {each}" for each in (*record.broken, *words, *verdict.words))
    yield ""
    command = f"--minutes {record.seconds / 60:g} --tabs {record.tabs} --seed {record.seed}"
    ended = "interrupted after" if record.interrupted else "ran for"
    yield f"`python -m benchmarks.chaos {command}` {ended} {record.lasted:.0f} s"
    yield from _machine(facts)
    yield ""
    yield "## What happened"
    yield ""
    yield from _table(("what", "how many"), [(kind.value, record.acts[kind]) for kind in Kind])
    if record.attacks:
        taken = ", ".join(f"{name} {count}" for name, count in sorted(record.attacks.items()))
        yield ""
        yield f"Connections that each attack took: {taken}."
    yield ""
    yield "## What came of it"
    yield ""
    yield from _table(("what", "how many"), list(_outcome(record)))
    yield ""
    yield from _latency(verdict.microseconds)
    yield ""
    yield "## The server"
    yield ""
    yield from _table(_COLUMNS, [_row(each) for each in _spans(record.samples)])
    yield ""
    yield "Connections and tabs are those at the end of each span, attackers' included."


def _machine(facts: Mapping[str, Fact]) -> Iterator[str]:
    if not facts:
        return
    dirty = ", and changes that are not in it" if facts["dirty"] else ""
    yield f"on {facts['cpu']}, {facts['usable_cores']} cores, {facts['memory_gib']} GiB,"
    yield f"{facts['kernel']}, {facts['python']}, {facts['tls']};"
    yield f"{facts['measured_at']}, commit {facts['commit']}{dirty}."


def _outcome(record: Chaos) -> Iterator[tuple[str, object]]:
    verdict = record.verdict
    acknowledged = sum(1 for each in record.published if each.id is not None)
    last = record.samples[-1] if record.samples else None
    yield "tabs", verdict.tabs
    yield "events acknowledged", acknowledged
    yield (
        "events sent without an answer (the server was away)",
        len(record.published) - acknowledged,
    )
    yield "events delivered, times the tabs", verdict.delivered
    if last is not None:
        yield "resumed by an id the server knew", last.resumed
        yield "streams ended at their bound, attackers' included", last.overflows
    yield "gaps told, times the tabs", verdict.gaps
    yield "events told of as missed, times the tabs", verdict.told
    for fault, meaning in FAULTS.items():
        yield f"**{fault}** ({meaning})", f"**{verdict.faults[fault]}**"


def _latency(microseconds: Counter[int]) -> Iterator[str]:
    latency = Latency(counts=microseconds)
    if not latency.total:
        yield "There was no quiet second to measure the delivery in."
        return
    p50, p99 = (latency.percentile(percent) / 1e3 for percent in (50, 99))
    yield (
        f"Delivery in quiet seconds, from before the POST to the tab's note of it:"
        f" p50 {p50:.1f} ms, p99 {p99:.1f} ms, of {latency.total}."
    )


def _spans(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    size = max(1, -(-len(samples) // _ROWS))
    for at in range(0, len(samples), size):
        yield samples[at : at + size]


def _row(span: Sequence[Sample]) -> Sequence[object]:
    last = span[-1]
    return (
        f"{last.seconds:.0f}",
        f"{max(each.pss_bytes for each in span) / _MIB:.1f}",
        max(each.descriptors for each in span),
        "?" if last.connections is None else last.connections,
        "?" if last.tabs is None else last.tabs,
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
