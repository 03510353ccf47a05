"""Spreads, ratios within a round, latency curves, and the search with as few calls as it takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.model import Latency
from benchmarks.statistics import Found, Spread, curve, merge, ratio, search

positive = st.floats(1e-3, 1e7)


@given(st.lists(positive, min_size=1, max_size=9))
def test_a_spread_holds_all_rounds(values: list[float]) -> None:
    spread = Spread.of(values)
    assert (spread.least, spread.most, spread.rounds) == (min(values), max(values), len(values))
    assert sum(value <= spread.median for value in values) * 2 >= len(values)
    assert sum(value >= spread.median for value in values) * 2 >= len(values)


def test_a_spread_of_nothing_is_none() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.5612, 0.5598, 0.5634], "0.561 (0.560–0.563)"),  # three digits at most
        ([5.234, 5.1, 5.4], "5.2 (5.1–5.4)"),  # the range's place
        ([5.234, 2.1, 9.4], "5.2 (2.1–9.4)"),  # two digits at least
        ([51_234.0, 50_000.0, 52_345.0], "51,000 (50,000–52,000)"),
        ([13_300, 12_900, 13_900], "13,000 (13,000–14,000)"),
        ([50_000, 50_000, 50_000], "50,000"),  # agreed on, whole, and so exact
        ([256], "256"),
        ([12_345.6], "12,000"),  # one round shows no range
        ([0.0, 0.0], "0"),
        ([0.0, 0.0, 3.0], "0 (0–3)"),
        ([-0.2, 0.1, 0.4], "0.10 (-0.20–0.40)"),
    ],
)
def test_figures_have_the_digits_that_their_range_supports(values: list[float], text: str) -> None:
    assert str(Spread.of(values)) == text


@given(st.lists(positive, min_size=1, max_size=5))
def test_rounding_is_within_the_range_or_half_a_percent(values: list[float]) -> None:
    spread = Spread.of(values)
    shown = float(spread.shown(spread.median).replace(",", ""))
    width = spread.most - spread.least
    assert abs(shown - spread.median) <= max(width, 0.05 * spread.median) + 1e-9


def test_ratios_are_taken_within_a_round() -> None:
    """The machine was ten times slower in round 2, for both: the ratio is 2 in every round."""
    theirs = {1: 2.0, 2: 20.0, 3: 2.2}
    ours = {1: 1.0, 2: 10.0, 3: 1.1}
    assert ratio(theirs, ours) == Spread(median=2.0, least=2.0, most=2.0, rounds=3)


def test_a_round_that_one_of_them_has_not_is_left_out() -> None:
    assert ratio({1: 2.0, 3: 9.0}, {1: 1.0, 2: 5.0}) == Spread.of([2.0])
    assert ratio({1: 2.0}, {2: 1.0}) is None


def test_what_is_not_above_zero_has_no_ratio() -> None:
    assert ratio({1: 1.0, 2: -1.0, 3: 4.0}, {1: 0.0, 2: 1.0, 3: 2.0}) == Spread.of([2.0])


@given(st.lists(st.dictionaries(st.integers(0, 50), st.integers(1, 9)), max_size=4))
def test_merged_latency_has_every_delivery(counts: list[dict[int, int]]) -> None:
    merged = merge(Latency(counts=each) for each in counts)
    assert merged.total == sum(sum(each.values()) for each in counts)
    assert merged.worst == max((max(each, default=0) for each in counts), default=0)


@given(st.dictionaries(st.integers(0, 10**6), st.integers(1, 500), min_size=1))
def test_a_curve_says_what_the_percentiles_say(counts: dict[int, int]) -> None:
    latency = Latency(counts=counts)
    points = curve(latency, behind=1)
    assert points == sorted(points)
    assert points[-1] == (latency.total, latency.worst)
    for n, value in points[:-1]:
        # One in n took so long or longer: of the rest, none did.
        slower = sum(count for each, count in counts.items() if each >= value)
        assert slower * n == pytest.approx(latency.total)


def test_a_curve_ends_where_too_few_deliveries_are_left() -> None:
    latency = Latency(counts={1: 95, 2: 4, 3: 1})
    assert [n for n, _ in curve(latency, behind=10)] == [1.0, 10.0]
    assert curve(Latency(counts={1: 3}), behind=10) == []


class Asked:
    """A predicate that counts; `holds` says what works."""

    def __init__(self, holds: Callable[[int], bool]) -> None:
        self.holds = holds
        self.numbers: list[int] = []

    async def __call__(self, number: int) -> tuple[bool, str]:
        self.numbers.append(number)
        works = self.holds(number)
        return works, "" if works else f"{number} is too many"


async def run(asked: Asked, start: int, limit: int, precision: float) -> Found:
    found = await search(asked, start=start, limit=limit, precision=precision)
    assert [each.number for each in found.tried] == asked.numbers
    assert len(set(asked.numbers)) == len(asked.numbers)
    assert all(1 <= number <= limit for number in asked.numbers)
    return found


numbers = st.integers(1, 100_000)
precisions = st.floats(0.01, 0.9)


@given(most=st.integers(0, 200_000), start=numbers, limit=numbers, precision=precisions)
async def test_the_search_finds_where_it_breaks(
    most: int, start: int, limit: int, precision: float
) -> None:
    asked = Asked(lambda number: number <= most)
    found = await run(asked, start, limit, precision)
    if most >= limit:
        assert (found.sustained, found.failed, found.why) == (limit, None, "")
    else:
        assert found.failed is not None
        assert found.sustained <= most < found.failed
        assert found.failed - found.sustained <= max(1, precision * found.sustained)
        assert found.why == f"{found.failed} is too many"


@given(most=numbers, start=numbers, precision=precisions)
async def test_the_search_asks_no_more_than_doubling_and_bisecting_take(
    most: int, start: int, precision: float
) -> None:
    asked = Asked(lambda number: number <= most)
    await run(asked, start, 1_000_000, precision)
    away = abs(math.log2(most / start))
    assert len(asked.numbers) <= math.floor(away) + 3 + math.ceil(math.log2(1 / precision))


@given(data=st.data(), start=numbers, limit=numbers, precision=precisions)
async def test_a_fluke_is_never_made_up(
    data: st.DataObject, start: int, limit: int, precision: float
) -> None:
    """Whatever it is told, what it reports was seen, and it ends."""
    asked = Asked(lambda _: data.draw(st.booleans()))
    found = await run(asked, start, limit, precision)
    said = {each.number: each.works for each in found.tried}
    assert found.sustained == 0 or said[found.sustained]
    assert found.failed is None or not said[found.failed]
    assert found.failed is None or found.sustained < found.failed


async def test_doubling_then_bisecting() -> None:
    asked = Asked(lambda number: number <= 5_300)
    found = await run(asked, 1_000, 50_000, 0.1)
    assert asked.numbers == [1_000, 2_000, 4_000, 8_000, 6_000, 5_000, 5_500]
    assert (found.sustained, found.failed) == (5_000, 5_500)


async def test_where_the_first_fails_it_goes_down_to_one() -> None:
    asked = Asked(lambda _: False)
    found = await run(asked, 20, 100, 0.1)
    assert asked.numbers == [20, 10, 5, 2, 1]
    assert (found.sustained, found.failed, found.why) == (0, 1, "1 is too many")


async def test_the_limit_is_asked_for_and_nothing_past_it() -> None:
    asked = Asked(lambda _: True)
    found = await run(asked, 30, 100, 0.1)
    assert asked.numbers == [30, 60, 100]
    assert (found.sustained, found.failed) == (100, None)


@pytest.mark.parametrize(
    ("start", "limit", "precision"), [(0, 9, 0.1), (1, 0, 0.1), (1, 9, 0.0), (1, 9, 1.0)]
)
async def test_a_search_that_makes_no_sense(start: int, limit: int, precision: float) -> None:
    with pytest.raises(ValueError, match="search needs"):
        await search(Asked(lambda _: True), start=start, limit=limit, precision=precision)
