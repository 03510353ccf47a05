"""The tabs of one client process: which are open, and what each has seen.

A tab must get every sequence number once, in order.  What it got is kept as runs of consecutive
numbers, the current one in two arrays over all tabs; a tab that behaves has one run, so that an
event which reaches thousands of tabs is checked with a few vector operations, and one event of one
tab with two look-ups.  A gap, a repetition or a step back begins another run, and `tally` counts
exactly from them what was lost, doubled or misordered.

A tab's life: asked for, open (or stalled: open, but its reader never reads), ended.  `DROPPED` are
those whose connection we closed ourselves, to come back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Indices", "Tab", "Tabs", "Tally"]

Indices: TypeAlias = NDArray[np.intp]


class Tab(IntEnum):
    """Where a tab is in its life."""

    NEW = 0
    ASKED = 1
    OPEN = 2
    STALLED = 3
    ENDED = 4
    DROPPED = 5


@final
@dataclass(frozen=True, slots=True)
class Tally:
    """What all counted tabs got of the numbers asked about."""

    expected: int
    delivered: int
    lost: int
    doubled: int
    misordered: int


@final
class Tabs:
    """Tabs by index.  Times are `time.monotonic_ns`.

    `failures` says, by reason, which tabs did not open; `ends` which were open and ended.
    """

    def __init__(self) -> None:
        self.size = 0
        self.state = np.zeros(0, np.uint8)
        self.stalls = np.zeros(0, bool)  # asked never to read
        self.asked_at = np.zeros(0, np.int64)
        self.opened_at = np.zeros(0, np.int64)
        self.used = np.zeros(0, np.int64)  # of an HTTP/2 stream's window, not given back yet
        self.first = np.zeros(0, np.int64)  # the current run; empty while last == first - 1
        self.last = np.zeros(0, np.int64)
        self.place = np.zeros(0, np.int32)  # the last event id, as an index of `_ids`
        self.counted = np.zeros(0, bool)
        self._earlier: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self._ids: list[bytes] = [b""]
        self._id_places = {b"": 0}
        self._floor = 0
        self._highest = 0
        self.open = 0
        self.delivered = 0
        self.latency: dict[int, int] = {}
        self.failures: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self._share()

    def _share(self) -> None:
        # A memoryview's items cost a third of an array's (benchmarks/micro/receive.py).
        self.states = memoryview(self.state.data)
        self.used_of = memoryview(self.used.data)
        self._last_of = memoryview(self.last.data)

    def add(self, count: int) -> range:
        """New tabs."""
        tabs = range(self.size, self.size + count)
        self.size += count
        for name in ("state", "stalls", "asked_at", "opened_at", "used", "first", "last", "place"):
            self._grow(name, count)
        self._grow("counted", count)
        self.first[tabs.start :] = 1
        self._share()
        return tabs

    def _grow(self, name: str, count: int) -> None:
        old = getattr(self, name)
        setattr(self, name, np.concatenate((old, np.zeros(count, old.dtype))))

    @staticmethod
    def indices(tabs: Sequence[int]) -> Indices:
        """Tabs, to be looked up all at once."""
        return np.array(tabs, np.intp)

    # -- life

    def ask(self, tabs: Indices, now: int) -> None:
        """Their requests have been written."""
        self.state[tabs] = Tab.ASKED
        self.asked_at[tabs] = now
        self.opened_at[tabs] = 0
        self.used[tabs] = 0

    def opened(self, tab: int, now: int) -> None:
        """Its 200 has come."""
        if self.states[tab] == Tab.ASKED:
            self.states[tab] = Tab.STALLED if self.stalls[tab] else Tab.OPEN
            self.opened_at[tab] = now
            self.open += 1

    def ended(self, tab: int, reason: str) -> None:
        """Nothing more comes: it did not open, or its stream is over."""
        match self.states[tab]:
            case Tab.NEW | Tab.ASKED:
                self.failures[reason] += 1
            case Tab.OPEN:
                self.ends[reason] += 1
                self.open -= 1
            case Tab.STALLED:
                self.ends[f"stalled: {reason}"] += 1
                self.open -= 1
            case _:
                return
        self.states[tab] = Tab.ENDED

    def drop(self, tabs: Iterable[int]) -> None:
        """Those that are open leave, to come back."""
        for tab in tabs:
            if self.states[tab] in (Tab.OPEN, Tab.STALLED):
                self.states[tab] = Tab.DROPPED
                self.open -= 1

    def last_id(self, tab: int) -> bytes:
        """The last event id that the tab has seen."""
        return self._ids[int(self.place[tab])]

    # -- events

    def _intern(self, last_id: bytes) -> int:
        place = self._id_places.get(last_id)
        if place is None:
            place = self._id_places[last_id] = len(self._ids)
            self._ids.append(last_id)
        return place

    def saw_id(self, tab: int, last_id: bytes) -> None:
        """One tab's last event id."""
        self.place[tab] = self._intern(last_id)

    def all_saw_id(self, tabs: Indices, last_id: bytes) -> None:
        """Many tabs' last event id."""
        self.place[tabs] = self._intern(last_id)

    def saw(self, tab: int, sequence: int, latency: int) -> None:
        """One tab got an event, `latency` us after it was due."""
        last_of = self._last_of
        if last_of[tab] == sequence - 1:
            last_of[tab] = sequence
        else:
            self._begin_run(tab, sequence)
        self._count(1, sequence, latency)

    def all_saw(self, tabs: Indices, sequence: int, latency: int) -> None:
        """Tabs, each at most once, got the same event at the same instant."""
        in_order = self.last[tabs] == sequence - 1
        if in_order.all():
            self.last[tabs] = sequence
        else:
            self.last[tabs[in_order]] = sequence
            odd = tabs[~in_order]
            empty = self.last[odd] < self.first[odd]
            self.first[odd[empty]] = self.last[odd[empty]] = sequence
            for tab in odd[~empty].tolist():
                self._begin_run(tab, sequence)
        self._count(len(tabs), sequence, latency)

    def _begin_run(self, tab: int, sequence: int) -> None:
        first, last = int(self.first[tab]), int(self.last[tab])
        if first <= last:
            self._earlier[tab].append((first, last))
        self.first[tab] = self.last[tab] = sequence

    def _count(self, count: int, sequence: int, latency: int) -> None:
        if sequence > self._highest:
            self._highest = sequence
        if sequence > self._floor:
            self.delivered += count
            self.latency[latency] = self.latency.get(latency, 0) + count

    # -- counting

    def begin(self) -> None:
        """Forget what was seen; from now on the tabs that are open now are counted.

        What any tab had already seen is not counted when it reaches others late.
        """
        self.first[:] = self.last + 1
        self.counted = self.state == Tab.OPEN
        self._earlier.clear()
        self._floor = self._highest
        self.delivered = 0
        self.latency.clear()
        self.ends.clear()

    def tally(self, first: int, last: int) -> Tally:
        """What the counted tabs got of the sequence numbers `first` to `last`."""
        delivered = doubled = misordered = 0
        plain = self.counted.copy()
        for tab in self._earlier:
            if not self.counted[tab]:
                continue
            plain[tab] = False
            seen: set[int] = set()
            highest = 0
            for low, high in self._runs(tab):
                for sequence in range(max(low, first), min(high, last) + 1):
                    if sequence in seen:
                        doubled += 1
                    else:
                        misordered += sequence < highest
                        seen.add(sequence)
                    highest = max(highest, sequence)
            delivered += len(seen)
        delivered += int(self._got(plain, first, last).sum())
        expected = int(self.counted.sum()) * (last - first + 1)
        return Tally(expected, delivered, expected - delivered, doubled, misordered)

    def waiting(self, first: int, last: int) -> tuple[int, int]:
        """Of the counted tabs that live: how many have not seen `last`, how many lack any."""
        live = self.counted & (self.state == Tab.OPEN)
        lacking = np.flatnonzero(live)[self._got(live, first, last) < last - first + 1]
        behind = lacks = 0
        for tab in lacking.tolist():
            if tab not in self._earlier:
                behind += bool(self.last[tab] < last)
                lacks += 1
                continue
            seen: set[int] = set()
            for low, high in self._runs(tab):
                seen.update(range(max(low, first), min(high, last) + 1))
            behind += last not in seen
            lacks += len(seen) < last - first + 1
        return behind, lacks

    def _runs(self, tab: int) -> list[tuple[int, int]]:
        return [*self._earlier[tab], (int(self.first[tab]), int(self.last[tab]))]

    def _got(self, which: NDArray[np.bool_], first: int, last: int) -> NDArray[np.int64]:
        """How many of the numbers are in the current run, of each tab of a mask."""
        low = np.maximum(self.first[which], first)
        high = np.minimum(self.last[which], last)
        got: NDArray[np.int64] = np.maximum(high - low + 1, 0)
        return got
