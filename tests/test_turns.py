"""Whose turn it is, of those whose input takes much."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from h2sse.turns import Turns, Usage


def used(*parts: tuple[float, float]) -> Usage:
    """Of `(seconds, when)`."""
    usage = Usage(0)
    for seconds, when in parts:
        usage.add(seconds, when)
    return usage


@pytest.mark.parametrize("each", [0.000_05, 0.000_1])
def test_much_is_so_much_at_once_or_such_a_share_of_the_time(each: float) -> None:
    needed = Turns(0).needed
    assert not needed(used(), 0)
    assert not needed(used((0.004_9, 0)), 0)
    assert needed(used((0.005_1, 0)), 0)
    assert not needed(used((0.005_1, 0)), 1)
    assert not needed(used((0.005_1, 0), (0.000_1, 1)), 1)
    for share, much in ((0.002_4, False), (0.002_6, True)):
        steady = used(*((each, at * each / share) for at in range(round(20 * share / each))))
        assert needed(steady, 20) == much


def test_in_a_crowd_less_is_much() -> None:
    turns = Turns(0)
    some = used((0.004, 10))
    for at in range(1000):
        turns.without.add(0.005, at / 100)  # half of the time
    assert not turns.needed(some, 10)
    for at in range(1000, 2000):
        turns.without.add(0.007, at / 100)
    some.add(0.004, 20)
    assert turns.needed(some, 20)
    assert not turns.needed(used((0.001, 20)), 20)


TIMES = st.floats(0, 1)
PARTS = st.lists(st.tuples(st.floats(0.001, 1), TIMES), min_size=1, max_size=5)


@given(one=PARTS, other=PARTS, later=st.floats(0, 10))
def test_who_has_used_less_of_late_ranks_before(
    one: list[tuple[float, float]], other: list[tuple[float, float]], later: float
) -> None:
    now = 1 + later
    usages = [used(*sorted(parts, key=lambda part: part[1])) for parts in (one, other)]
    ranks = [usage.rank(now) for usage in usages]
    for usage in usages:
        usage.add(0, now)  # nor does it matter when that was last reckoned
    left = [usage._seconds for usage in usages]
    if min(left) > 0.002 and abs(left[0] - left[1]) > 1e-6:
        assert (ranks[0] < ranks[1]) == (left[0] < left[1])
        assert [usage.rank(now) for usage in usages] == pytest.approx(ranks)


def test_who_waits_comes_before_equals_who_come_later_and_at_last_before_anyone() -> None:
    heavy, light = used((0.2, 9)), used((0.02, 9))
    assert light.rank(9) < used((0.02, 9.1)).rank(9.1) < heavy.rank(9)
    # A thousand that have just come, asked for much and wait since do not come before it.
    light.add(0.02, 13)
    assert light.rank(13) < Usage(9).rank(9)
    assert heavy.rank(9) < used((0.02, 30)).rank(30)


async def test_who_has_used_least_is_next_and_of_equals_who_came_first() -> None:
    turns, order = Turns(0), []

    async def take(name: str, usage: Usage, now: float) -> None:
        async with turns.turn(usage, now):
            order.append(name)
            await trio.lowlevel.checkpoint()
            assert order[-1] == name

    async with trio.open_nursery() as nursery, turns.turn(used(), 0):
        for name, seconds in {"c": 0.03, "a": 0.001_2, "d": 0.04, "b": 0.001, "e": 1.0}.items():
            nursery.start_soon(take, name, used((seconds, 9)), 9)
            await trio.testing.wait_all_tasks_blocked()
        # Whoever has waited for long enough comes before one that comes now.
        nursery.start_soon(take, "late", used((0.03, 12)), 12)
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
    assert order == ["a", "b", "c", "d", "late", "e"]
    async with turns.turn(used(), 0):  # it is free again
        pass


def test_who_has_been_there_comes_before_newcomers_until_they_have_been_there_too() -> None:
    there = used((0.015, 9))
    assert there.rank(9) < Usage(9).rank(9)
    assert there.rank(9.1) < Usage(9).rank(9.1)
    # Of those who have used little nobody is before another, be it new or idle for long.
    assert used((0.001, 9)).rank(9) == used((0.004, 0)).rank(9) == Usage(0).rank(9)
    there.add(0.03, 10)
    assert Usage(9).rank(10) < there.rank(10)


def test_of_newcomers_who_has_little_to_say_comes_first() -> None:
    said = Usage(9)
    said.add(0.005, 9.5)
    assert said.rank(9.5, 200) < Usage(9).rank(9.5, 8_000)


async def test_one_that_gives_up_leaves_the_others_their_turns() -> None:
    turns, had = Turns(0), []

    async def take(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with turns.turn(used(), 0):
                had.append(name)

    scopes = {name: trio.CancelScope() for name in "abcd"}
    async with trio.open_nursery() as nursery:
        async with turns.turn(used(), 0):
            for name, scope in scopes.items():
                nursery.start_soon(take, name, scope)
                await trio.testing.wait_all_tasks_blocked()
            scopes["b"].cancel()
            await trio.testing.wait_all_tasks_blocked()
            scopes["d"].cancel()
        # Its turn has been given to it already.
        scopes["a"].cancel()
    assert had in (["a", "c"], ["c"])
    with pytest.raises(ZeroDivisionError):
        async with turns.turn(used(), 0):
            raise ZeroDivisionError
    async with turns.turn(used(), 0):
        pass


async def had_beside_a_long_turn(gives_up: float) -> dict[str, float]:
    """When each has a turn, if one of 0.1 s is had first, and who had it goes away then."""
    turns, when = Turns(0), {}

    async def have_long() -> None:
        with trio.CancelScope(deadline=gives_up):
            async with turns.turn(used(), 0):
                await trio.sleep(0.1)

    async def take(name: str, seconds: float, come: float) -> None:
        await trio.sleep_until(come)
        async with turns.turn(used((seconds, come)), come):
            when[name] = round(trio.current_time(), 3)
            await trio.sleep(0.01)
            assert list(when)[-1] == name

    async with trio.open_nursery() as nursery:
        nursery.start_soon(have_long)
        nursery.start_soon(take, "heavy", 0.4, 10.05)
        nursery.start_soon(take, "light", 0.01, 10.06)
        nursery.start_soon(take, "light too", 0.015, 10.07)
        nursery.start_soon(take, "light later", 0.01, 10.16)
        nursery.start_soon(take, "heavy later", 0.2, 10.17)
    return when


async def test_after_a_long_turn_only_who_has_used_little_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.jump(10)
    when = await had_beside_a_long_turn(gives_up=20)
    lights = {"light": 10.1, "light too": 10.11, "light later": 10.16}
    assert when == lights | {"heavy later": 10.2, "heavy": 10.21}


async def test_a_long_turn_whose_peer_has_gone_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.jump(10)
    when = await had_beside_a_long_turn(gives_up=10.15)
    lights = {"light": 10.1, "light too": 10.11}
    assert when == lights | {"heavy": 10.15, "light later": 10.16, "heavy later": 10.17}


async def test_a_long_turn_amid_the_rest_after_a_longer_one_does_not_end_that(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns, when = Turns(0), {}

    async def take(name: str, come: float, uses: float, takes: float) -> None:
        await trio.sleep_until(come)
        async with turns.turn(used((uses, come)), come):
            when[name] = round(trio.current_time(), 3)
            await trio.sleep(takes)

    autojump_clock.jump(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, "long", 10, 0, 0.1)
        nursery.start_soon(take, "less long", 10.05, 0.01, 0.02)
        nursery.start_soon(take, "heavy", 10.06, 0.4, 0)
    assert when == {"long": 10, "less long": 10.1, "heavy": 10.2}


async def test_between_two_turns_all_others_run() -> None:
    turns, rounds, had = Turns(0), 0, []

    async def take() -> None:
        async with turns.turn(used(), 0):
            had.append(rounds)

    async def other() -> None:
        nonlocal rounds
        while len(had) < 20:
            await trio.lowlevel.checkpoint()
            rounds += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(20):
            nursery.start_soon(take)
    assert len(set(had)) == 20


async def test_between_two_turns_others_come_to_the_end_of_what_they_have_begun() -> None:
    """An event for many connections takes rounds of the loop; whoever never ends has no more."""
    left = 0
    turns, had = Turns(0, lambda: left > 0), list[int]()

    async def take() -> None:
        nonlocal left
        async with turns.turn(used(), 0):
            had.append(left)
            left = (10, 5, 1_000_000)[len(had) % 3]

    async def other() -> None:
        nonlocal left
        while len(had) < 7:
            await trio.lowlevel.checkpoint()
            left = max(left - 1, 0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(7):
            nursery.start_soon(take)
    assert [unfinished > 0 for unfinished in had] == [False, False, True] * 2 + [False]
