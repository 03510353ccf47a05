"""What tabs lost, doubled or got out of order is counted exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.sequences import Tab, Tabs, Tally


def opened(count: int) -> Tabs:
    """Tabs that are open, and counted."""
    tabs = Tabs()
    tabs.ask(tabs.indices(tabs.add(count)), 1)
    for tab in range(count):
        tabs.opened(tab, 2)
    tabs.begin()
    return tabs


@pytest.mark.parametrize(
    ("seen", "delivered", "doubled", "misordered"),
    [
        ([1, 2, 3, 4], 4, 0, 0),
        ([], 0, 0, 0),
        ([1, 2, 4], 3, 0, 0),
        ([2, 3, 4], 3, 0, 0),
        ([1, 2, 3], 3, 0, 0),
        ([1, 2, 2, 3, 4], 4, 1, 0),
        ([1, 3, 2, 4], 4, 0, 1),
        ([2, 1, 3, 4], 4, 0, 1),
        ([1, 2, 4, 3], 4, 0, 1),
        ([4, 3, 2, 1], 4, 0, 3),
        ([1, 1, 1], 1, 2, 0),
        ([1, 2, 3, 4, 1, 2, 3, 4], 4, 4, 0),
        ([0, 1, 2, 3, 4, 5, 6], 4, 0, 0),
        ([5, 6], 0, 0, 0),
    ],
)
def test_one_tab(seen: list[int], delivered: int, doubled: int, misordered: int) -> None:
    tabs = opened(1)
    for sequence in seen:
        tabs.saw(0, sequence, 10)
    assert tabs.tally(1, 4) == Tally(4, delivered, 4 - delivered, doubled, misordered)


@given(st.lists(st.tuples(st.integers(1, 6), st.sets(st.integers(0, 3), min_size=1))))
def test_all_at_once_equals_one_by_one(events: list[tuple[int, set[int]]]) -> None:
    together, single = opened(4), opened(4)
    for sequence, who in events:
        together.all_saw(together.indices(sorted(who)), sequence, 5)
        for tab in sorted(who):
            single.saw(tab, sequence, 5)
    assert together.tally(2, 5) == single.tally(2, 5)
    assert together.waiting(2, 5) == single.waiting(2, 5)
    assert together.latency == single.latency
    assert together.delivered == single.delivered


@given(st.lists(st.integers(1, 6)))
def test_the_counts_are_those_of_the_definition(seen: list[int]) -> None:
    tabs = opened(1)
    for sequence in seen:
        tabs.saw(0, sequence, 5)
    inside = [each for each in seen if 2 <= each <= 5]
    news = [(place, each) for place, each in enumerate(inside) if each not in inside[:place]]
    late = sum(any(other > each for other in inside[:place]) for place, each in news)
    distinct = len(set(inside))
    assert tabs.tally(2, 5) == Tally(4, distinct, 4 - distinct, len(inside) - distinct, late)


def test_numbers_go_on_over_a_new_beginning() -> None:
    tabs = opened(2)
    for sequence in (1, 2):
        tabs.all_saw(tabs.indices([0, 1]), sequence, 5)
    tabs.begin()
    assert (tabs.delivered, tabs.latency) == (0, {})
    tabs.saw(0, 2, 5)  # again, and too late to be asked about
    tabs.saw(0, 3, 7)
    tabs.saw(1, 3, 7)
    assert tabs.tally(3, 3) == Tally(2, 2, 0, 0, 0)
    assert tabs.latency == {7: 2}


def test_only_tabs_that_were_open_at_the_beginning_are_counted() -> None:
    tabs = opened(1)
    new = tabs.add(1)
    tabs.ask(tabs.indices(new), 3)
    tabs.opened(1, 4)
    tabs.all_saw(tabs.indices([0, 1]), 1, 5)
    assert tabs.tally(1, 1) == Tally(1, 1, 0, 0, 0)


def test_what_waits_is_what_living_tabs_lack() -> None:
    tabs = opened(3)
    tabs.all_saw(tabs.indices([0, 1]), 1, 5)
    tabs.saw(0, 2, 5)
    tabs.saw(1, 3, 5)
    assert tabs.waiting(1, 3) == (2, 3)  # 0 lacks 3, 1 lacks 2, 2 lacks all
    tabs.ended(2, "closed")
    tabs.saw(0, 3, 5)
    assert tabs.waiting(1, 3) == (0, 1)
    assert tabs.tally(1, 3).lost == 4
    assert tabs.ends == {"closed": 1}


def test_a_life_has_its_reasons() -> None:
    tabs = Tabs()
    new = tabs.add(4)
    tabs.stalls[2] = True
    tabs.ended(0, "never asked")
    tabs.ask(tabs.indices(list(new)[1:]), 1)
    tabs.ended(1, "refused")
    tabs.opened(2, 2)
    tabs.opened(3, 2)
    assert tabs.open == 2
    assert tabs.states[2] == Tab.STALLED
    tabs.ended(2, "RST")
    tabs.drop([3])
    tabs.ended(3, "closed")  # we have left: nobody's fault
    tabs.ended(2, "again")
    assert tabs.open == 0
    assert tabs.failures == {"never asked": 1, "refused": 1}
    assert tabs.ends == {"stalled: RST": 1}
