"""The verdict: what each tab noted, held against what the publisher was promised.

The model is a tab's own: of its topics, each acknowledged event once, in the server's order, from
where it began.  When the server has been restarted, the ids of the earlier run are unknown, so the
tab is told of a gap, in-band, once: what that run had for it beyond the last event noted, and what
runs in between had, counts as told.  All else that is missing is lost, all of the run it came to
included.

An event that was not acknowledged may be there or not, but not twice and not out of order.  Order
is that of ids, `<run>-<place>` (h2sse/history.py): two POSTs of which the first got no answer may
have arrived in any.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never, final

from .journal import Note, read

__all__ = ["FAULTS", "Judge", "Published", "Verdict"]

# Each must be 0, with what it counts.
FAULTS: Mapping[str, str] = {
    "lost": "acknowledged, neither delivered nor told of",
    "doubled": "delivered twice",
    "misordered": "delivered after a later one",
    "untold": "went on with another run's events without being told",
    "unexplained": "told of a gap where the server was not restarted, or of another gap",
    "altered": "not the event that was acknowledged under its id, or not of the tab's topics",
    "failed": "tabs whose source ended for good",
}
# In words, of all that was wrong.
_MOST_WORDS = 20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """An event that was sent.  `id` is what it was acknowledged with, None if it was not."""

    number: int
    topics: frozenset[str]
    id: str | None
    quiet: bool  # nothing else was going on


@final
@dataclass(slots=True)
class Verdict:
    """Sums over tabs."""

    tabs: int = 0
    delivered: int = 0
    gaps: int = 0  # restarts, times the tabs told
    told: int = 0  # events missed so
    faults: Counter[str] = field(default_factory=Counter)
    words: list[str] = field(default_factory=list)
    microseconds: Counter[int] = field(default_factory=Counter)  # of quiet deliveries


@final
@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """An id, taken apart; `run` counts the server's runs."""

    run: int
    number: int


@final
class Judge:
    """Judges one tab after another into `verdict`."""

    def __init__(self, published: Iterable[Published]) -> None:
        self.verdict = Verdict()
        self._published = {each.number: each for each in published}
        self._runs: dict[str, int] = {}
        self._due: list[tuple[_Place, Published]] = []
        for each in self._published.values():
            if each.id is not None:
                run = each.id.rpartition("-")[0]
                self._runs.setdefault(run, len(self._runs))
                place = self._place(each.id)
                assert place is not None
                self._due.append((place, each))
        self._due.sort(key=lambda due: due[0])

    def files(self, files: Iterable[Path]) -> None:
        """All tabs of these journals.  A tab's notes are all in one."""
        for file in files:
            notes: defaultdict[int, list[Note]] = defaultdict(list)
            for note in read(file):
                notes[note.tab].append(note)
            for each in notes.values():
                self.tab(each)

    def tab(self, notes: Sequence[Note]) -> None:
        """All that one tab noted."""
        begun, *rest = notes
        assert begun.what == "begun"
        topics = frozenset(begun.detail.split(","))
        start = at = self._place(begun.id)
        if start is None or at is None:
            raise ValueError(f"tab {begun.tab} begins at {begun.id}, which was never acknowledged")
        last = begun.id
        seen: set[int] = set()
        gaps: list[tuple[_Place, _Place]] = []
        self.verdict.tabs += 1
        for note in rest:
            place = self._place(note.id)
            if place is None:
                self._fault("altered", note, "an id of no run")
                continue
            match note.what:
                case "saw":
                    self._saw(note, place, at, topics, seen)
                case "told":
                    before, reason = note.detail.split(" ")
                    if (reason, before) == ("unknown", last) and place.run > at.run:
                        gaps.append((at, place))
                        self.verdict.gaps += 1
                    else:
                        self._fault("unexplained", note, f"after {last}")
                case "damaged":
                    self._fault("altered", note, "other data")
                case "failed":
                    self._fault("failed", note, "")
                case "begun":
                    raise ValueError(f"tab {note.tab} begins twice")
                case _:
                    assert_never(note.what)
            at, last = max(at, place), note.id
        for place, event in self._due:
            if place > start and event.number not in seen and event.topics & topics:
                # What the run it came to has for it is there, and must come.
                if any(before < place and place.run < after.run for before, after in gaps):
                    self.verdict.told += 1
                else:
                    self._fault("lost", begun, f"event {event.number}, {event.id}")

    def _saw(
        self, note: Note, place: _Place, at: _Place, topics: frozenset[str], seen: set[int]
    ) -> None:
        number, microseconds = map(int, note.detail.split(" "))
        event = self._published.get(number)
        if event is None or event.id not in (None, note.id) or not event.topics & topics:
            self._fault("altered", note, "")
            return
        if number in seen:
            self._fault("doubled", note, "")
            return
        seen.add(number)
        self.verdict.delivered += 1
        if place.run > at.run:
            self._fault("untold", note, "")
        elif place <= at:
            self._fault("misordered", note, "")
        if event.quiet:
            self.verdict.microseconds[microseconds] += 1

    def _place(self, event_id: str) -> _Place | None:
        run, _, number = event_id.rpartition("-")
        return _Place(self._runs[run], int(number)) if run in self._runs else None

    def _fault(self, fault: str, note: Note, why: str) -> None:
        assert fault in FAULTS
        verdict = self.verdict
        verdict.faults[fault] += 1
        if len(verdict.words) < _MOST_WORDS:
            what = f"tab {note.tab}, {fault}: {note.id} {note.what} {note.detail}"
            verdict.words.append(f"{what} ({why})" if why else what)
