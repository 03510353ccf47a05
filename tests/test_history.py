"""Ids, order, bounds, and where a tab stands that comes back."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2sse.config import Limits
from h2sse.errors import BadRequest
from h2sse.history import ENTRY_BYTES, TOPIC_BYTES, History, Known, Lost, MemoryHistory
from h2sse.sse import Event

ALL = 2**31


def event(*, size: int = 0, id: str | None = None) -> Event:  # noqa: A002
    """An event; with `size`, its payload has that many bytes if it has an id of one byte."""
    return Event(data="x" * max(0, size - len("id: 1\ndata: \n\n")), id=id)


def published(history: History, *topics: str, now: float = 0, id: str | None = None) -> str:  # noqa: A002
    """The id of a new event."""
    assigned = history.append(topics, event(id=id), now).id
    assert assigned is not None
    return assigned


def after(history: History, *topics: str, sequence: int = 0) -> list[int]:
    entries, more = history.after(topics, sequence, ALL)
    assert not more
    return [entry.sequence for entry in entries]


# -- ids and order


def test_one_sequence_spans_all_topics() -> None:
    history = MemoryHistory(Limits())
    assert history.last_sequence == 0
    entries = [history.append(topics, event(), 0) for topics in (["a"], ["b"], ["a", "b"], ["c"])]
    assert [entry.sequence for entry in entries] == [1, 2, 3, 4]
    assert [entry.id for entry in entries] == [history.id(n) for n in (1, 2, 3, 4)]
    assert [entry.payload for entry in entries] == [event(id=each.id).encode() for each in entries]
    assert history.last_sequence == 4
    assert after(history, "a") == [1, 3]
    assert after(history, "b", "a") == [1, 2, 3]  # in order, and 3 once
    assert after(history, "a", "b", sequence=2) == [3]
    assert after(history, "unheard of") == []


def test_a_page_holds_about_the_bytes_asked_for() -> None:
    history = MemoryHistory(Limits())
    for number in range(5):
        history.append("ab", event(size=100, id=str(number)), 0)

    def page(sequence: int, size: int) -> tuple[list[int], bool]:
        entries, more = history.after("ab", sequence, size)
        return [entry.sequence for entry in entries], more

    assert page(0, 1) == ([1], True)  # never empty: that would be for ever
    assert page(0, 100) == ([1], True)
    assert page(0, 101) == ([1, 2], True)
    assert page(2, 300) == ([3, 4, 5], False)
    assert page(5, 100) == ([], False)


def test_a_place_is_the_id_of_all_seen_before() -> None:
    history = MemoryHistory(Limits())
    assert history.place("a", history.id(0), 0) == Known(0)
    for _ in range(3):
        published(history, "a")
    assert [history.place("a", history.id(n), 0) for n in range(4)] == [Known(n) for n in range(4)]


def test_ids_of_an_earlier_run_are_unknown() -> None:
    earlier, history = MemoryHistory(Limits()), MemoryHistory(Limits())
    ids = [published(earlier, "a") for _ in range(3)]
    assert published(history, "a") not in ids
    for last_event_id in (*ids, earlier.id(0)):
        assert history.place("a", last_event_id, 0) == Lost(0, "unknown")


# With "run" for the epoch of this one.
ODD_IDS = (
    *("run-3", "run-", "run", "run--1", "run-1 ", " run-1", "run-+1", "run-1.0", "run-\u0661"),
    *("run-" + "9" * 5_000, "-1", "1", "", "\0", "\ud800", "é€😀", "x" * 100_000),
)


def test_odd_ids_are_unknown() -> None:
    history = MemoryHistory(Limits())
    epoch = history.id(0).partition("-")[0]
    published(history, "b")
    published(history, "a")
    for odd in ODD_IDS:
        last_event_id = odd.replace("run", epoch)
        # All that its topics still hold follows.
        assert history.place("a", last_event_id, 0) == Lost(1, "unknown")
        assert history.place("ab", last_event_id, 0) == Lost(0, "unknown")
        assert history.place("c", last_event_id, 0) == Lost(2, "unknown")


# -- bounds


def test_a_topic_remembers_a_number_of_events() -> None:
    history = MemoryHistory(Limits(history_events=3))
    for _ in range(5):
        published(history, "a")
    assert after(history, "a") == [3, 4, 5]
    assert history.place("a", history.id(1), 0) == Lost(2, "pruned")
    assert history.place("a", history.id(2), 0) == Known(2)


def test_a_topic_remembers_a_number_of_bytes() -> None:
    history = MemoryHistory(Limits(history_bytes=2 * (100 + ENTRY_BYTES) + 50))
    for number in range(4):
        history.append("a", event(size=100, id=str(number)), 0)
    assert after(history, "a") == [3, 4]
    history.append("a", event(size=251 + ENTRY_BYTES, id="4"), 0)
    assert after(history, "a") == []
    assert history.place("a", "3", 0) == Lost(5, "unknown")
    assert history.place("a", history.id(4), 0) == Lost(5, "pruned")
    assert history.place("a", history.id(5), 0) == Known(5)


def test_a_topic_remembers_a_number_of_seconds() -> None:
    history = MemoryHistory(Limits(history_seconds=10))
    for now in (0, 4, 8):
        published(history, "a", now=now)
    assert history.place("a", history.id(0), 10) == Known(0)
    # Time alone forgets, whether the topic hears of anything new or not.
    assert history.place("a", history.id(0), 10.5) == Lost(1, "pruned")
    assert after(history, "a") == [2, 3]
    assert history.place("a", history.id(2), 14.5) == Known(2)
    assert after(history, "a") == [3]
    published(history, "a", now=30)
    assert after(history, "a") == [4]


def test_what_a_topic_forgot_long_ago_is_no_loss_of_another() -> None:
    history = MemoryHistory(Limits(history_events=2))
    published(history, "quiet")
    for _ in range(5):
        published(history, "busy")
    assert history.place(["quiet"], history.id(0), 0) == Known(0)
    assert history.place(["quiet", "busy"], history.id(2), 0) == Lost(2, "pruned")
    # What both still hold of what came later follows, and nothing the tab has seen before.
    assert history.place(["quiet", "busy"], history.id(0), 0) == Lost(0, "pruned")
    assert after(history, "quiet", "busy") == [1, 5, 6]


def test_too_many_topics_forget_the_one_published_to_longest_ago() -> None:
    history = MemoryHistory(Limits(history_topics=2))
    published(history, "a")
    published(history, "b")
    published(history, "a")
    published(history, "c")
    assert (after(history, "a"), after(history, "b"), after(history, "c")) == ([1, 3], [], [4])
    assert history.place("b", history.id(1), 0) == Lost(4, "pruned")
    assert history.place("b", history.id(2), 0) == Known(2)
    # It is not taken for new when it comes back, nor when it has never been heard of.
    published(history, "b")
    assert history.place("b", history.id(1), 0) == Lost(4, "pruned")
    assert after(history, "b") == [5]


def test_all_topics_together_remember_a_number_of_bytes() -> None:
    history = MemoryHistory(Limits(history_total_bytes=10 * (100 + ENTRY_BYTES + TOPIC_BYTES)))
    for number in range(15):
        history.append([f"topic {number}"], event(size=100, id="1"), 0)
    kept = [number for number in range(15) if after(history, f"topic {number}")]
    assert kept == list(range(5, 15))
    # One topic is bounded by its own limit.
    history.append(["large"], event(size=10_000, id="1"), 0)
    assert after(history, "large") == [16]
    assert after(history, "topic 14") == []


def test_topics_that_nobody_listens_to_are_forgotten_first() -> None:
    history = MemoryHistory(Limits(history_topics=3))
    history.hear("a")
    published(history, "a")
    published(history, "b")
    history.hear("b")  # from here on; what it remembers stays
    for number in range(10):
        published(history, f"unheard {number}")
    assert (after(history, "a"), after(history, "b")) == ([1], [2])
    assert after(history, "unheard 8") == []
    assert after(history, "unheard 9") == [12]
    # Nothing that somebody listens to has been forgotten; of others it cannot be known.
    history.hear(["c"])
    published(history, "d")
    published(history, "e")
    assert history.place("ab", history.id(0), 0) == Known(0)
    assert history.place("c", history.id(11), 0) == Known(11)
    assert history.place("c", history.id(10), 0) == Lost(14, "pruned")
    assert history.place("x", history.id(11), 0) == Lost(14, "pruned")


def test_topics_that_nobody_listens_to_have_little_room_together() -> None:
    size = 100 + ENTRY_BYTES + TOPIC_BYTES
    history = MemoryHistory(Limits(history_unheard_bytes=3 * size))
    history.hear("abcdef")
    for topic in "abcdef":
        history.append(topic, event(size=100, id="1"), 0)
    for number in range(5):
        history.append([f"unheard {number}"], event(size=100, id="1"), 0)
    assert after(history, *"abcdef") == [1, 2, 3, 4, 5, 6]
    kept = [number for number in range(5) if after(history, f"unheard {number}")]
    assert kept == [2, 3, 4]
    # One that is listened to makes room.
    history.hear(["unheard 2"])
    history.append(["unheard 5"], event(size=100, id="1"), 0)
    assert after(history, *(f"unheard {number}" for number in range(6))) == [9, 10, 11, 12]


NAMES = "abcdefg"
SOME = st.sets(st.sampled_from(NAMES), min_size=1, max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("hear"), SOME, st.just(0)),
    st.tuples(st.just("publish"), SOME, st.integers(0, 200)),
    st.tuples(st.just("publish"), SOME, st.just(0)),
    st.tuples(st.just("wait"), st.just(set[str]()), st.sampled_from([1, 30, 100])),
)


@given(steps=st.lists(STEPS, max_size=60), topics=st.integers(1, 5))
def test_what_is_said_to_be_known_is_all_there(
    steps: list[tuple[str, set[str], int]], topics: int
) -> None:
    """Whatever is heard and forgotten, and in which order: no gap goes untold."""
    one = 100 + ENTRY_BYTES + TOPIC_BYTES // 2
    bound, unheard = 8 * one, 3 * one
    limits = Limits(
        history_events=4,
        history_seconds=60,
        history_topics=topics,
        history_total_bytes=bound,
        history_unheard_bytes=unheard,
    )
    history, now = MemoryHistory(limits), 0.0
    log: list[set[str]] = []
    for step, names, amount in steps:
        match step:
            case "hear":
                history.hear(names)
            case "publish":
                log.append(names)
                history.append(sorted(names), event(size=amount), now)
            case _:
                now += amount
        for looked_at in (*NAMES, "ab", "acg", NAMES):
            for sequence in range(len(log) + 1):
                place = history.place(looked_at, history.id(sequence), now)
                if isinstance(place, Known):
                    owed = [
                        at for at, to in enumerate(log, 1) if at > sequence and to & {*looked_at}
                    ]
                    assert after(history, *looked_at, sequence=sequence) == owed
        held = [topic for topic in NAMES if after(history, topic)]
        assert len(held) <= topics
        size = sum(each.size for name in held for each in history.after(name, 0, ALL)[0])
        size += TOPIC_BYTES * len(held)
        assert size <= bound or len(held) == 1


@pytest.mark.parametrize("size", [0, 100, 10_000, 1_000_000])
def test_what_is_remembered_takes_the_memory_that_is_counted(size: int) -> None:
    bound = 8_000_000
    history = MemoryHistory(Limits(history_events=10**6, history_bytes=bound))
    tracemalloc.start()
    try:
        for number in range(2 * bound // (size + ENTRY_BYTES)):
            history.append(["a"], Event(data="x" * size, id=f"{number} of mine"), 0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bound * 0.7 < taken < bound * 1.1


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("size", [0, 1_000])
def test_what_many_topics_remember_takes_the_memory_that_is_counted(
    size: int, *, heard: bool
) -> None:
    bound = 4_000_000
    limits = Limits(history_topics=10**6, history_total_bytes=bound, history_unheard_bytes=bound)
    history = MemoryHistory(limits)
    names = [f"users/{number}" for number in range(2 * bound // (size + ENTRY_BYTES + TOPIC_BYTES))]
    if heard:
        history.hear(names)  # which takes memory too, by another bound
    tracemalloc.start()
    try:
        for name in names:
            history.append([name], Event(data="x" * size, id=name), 0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bound * 0.7 < taken < bound * 1.1


# -- ids that publishers give


def test_a_given_id_is_a_place_too() -> None:
    history = MemoryHistory(Limits())
    published(history, "a")
    assert published(history, "a", id="é 1") == "é 1"
    published(history, "a")
    assert history.place("a", "é 1", 0) == Known(2)
    assert history.place("b", "é 1", 0) == Lost(3, "unknown")


def test_a_given_id_stands_once_in_what_a_topic_remembers() -> None:
    history = MemoryHistory(Limits(history_events=2))
    published(history, "a", "b", id="x")
    with pytest.raises(BadRequest) as caught:
        history.append(["c", "b"], event(id="x"), 0)
    assert (caught.value.status, caught.value.field) == (409, "id")
    assert "'b'" in caught.value.detail
    # Nothing is half published.
    assert history.last_sequence == 1
    assert after(history, "c") == []
    published(history, "a")
    published(history, "a")
    published(history, "a", id="x")  # by now "a" has forgotten the first one
    assert after(history, "a") == [3, 4]
    # Two topics, two events of one id: from the earlier on, nothing is lost.
    assert history.place("a", "x", 0) == Known(4)
    assert history.place("b", "x", 0) == Known(1)
    assert history.place("ba", "x", 0) == Lost(1, "pruned")
    published(history, "c", id="x")
    assert history.place("ac", "x", 0) == Known(4)


def test_time_frees_a_given_id() -> None:
    history = MemoryHistory(Limits(history_seconds=10))
    published(history, "a", id="x")
    published(history, "a", id="x", now=10.5)
    assert after(history, "a") == [2]
    assert history.place("a", "x", 10.5) == Known(2)


def test_a_given_id_may_not_look_like_ours() -> None:
    history = MemoryHistory(Limits())
    for own in (history.id(1), history.id(0) + "0", history.id(7) + " "):
        with pytest.raises(BadRequest, match="looks like one that is assigned") as caught:
            history.append(["a"], event(id=own), 0)
        assert (caught.value.status, caught.value.field) == (422, "id")
    assert history.last_sequence == 0
