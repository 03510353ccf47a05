"""Tabs over HTTP/1.1 that are written to as one: who is among them, and what all of them see."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeAlias, final

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Served, serving
from test_connection import narrow, narrow_server, small_buffers  # noqa: F401 - a fixture
from test_server import TextClient, text_client, until
from trio.testing import MockClock

import h2sse
import h2sse.unison
from h2sse.connection import Connection
from h2sse.http1 import PIECE_BYTES
from h2sse.sse import HEARTBEAT
from h2sse.trace import Taps
from h2sse.unison import Batch, Part

EVENTS = "/events?topic=a"


def in_unison(served: Served) -> list[int]:
    """How many are, of each set of topics."""
    parts = [group.lane for group in served.server.unison.groups.values()]
    return [len(part.members) for part in parts if isinstance(part, Part)]


async def published(served: Served, *data: str, topic: str = "a") -> None:
    """Publish so many events in one go, and have them written."""
    for each in data:
        served.app.publish(topic, h2sse.Event(data=each))
    await trio.testing.wait_all_tasks_blocked()


async def tab(served: Served, stack: AsyncExitStack, path: str = EVENTS) -> TextClient:
    """An event stream that is open."""
    client = await stack.enter_async_context(text_client(served))
    await client.get(path)
    await client.read_until(lambda text: "retry: " in text)
    return client


@asynccontextmanager
async def tabs(served: Served, count: int, path: str = EVENTS) -> AsyncIterator[list[TextClient]]:
    """Event streams that are in unison."""
    async with AsyncExitStack() as stack:
        clients = [await tab(served, stack, path) for _ in range(count)]
        await published(served, "first")
        assert in_unison(served) == [count]
        yield clients


def data(text: str) -> list[str]:
    """The data of the events, in their order."""
    return re.findall(r"^data: (.*)\n\n", text, re.MULTILINE)


async def hears(client: TextClient, *expected: str) -> None:
    """So far, and nothing else."""
    await client.read_until(lambda text: len(data(text)) >= len(expected))
    assert data(client.text) == list(expected)


# -- who


async def test_tabs_are_in_unison_from_the_first_event_on_that_they_were_written() -> None:
    async with serving(h2sse.App()) as served, AsyncExitStack() as stack:
        clients = [await tab(served, stack) for _ in range(3)]
        assert in_unison(served) == []
        await published(served, "first")
        assert in_unison(served) == [3]
        late = await tab(served, stack)
        await published(served, "second")
        assert in_unison(served) == [4]
        await published(served, "third")
        for client in clients:
            await hears(client, "first", "second", "third")
        await hears(late, "second", "third")
        assert served.app.hub.statistics().delivered == 3 + 4 + 4


async def test_those_of_other_topics_are_a_part_of_their_own() -> None:
    async with serving(h2sse.App()) as served, AsyncExitStack() as stack:
        paths = (EVENTS, EVENTS, "/events?topic=b", "/events?topic=a&topic=b")
        a, _, b, both = [await tab(served, stack, path) for path in paths]
        await published(served, "to a")
        await published(served, "to b", topic="b")
        assert sorted(in_unison(served)) == [1, 1, 2]
        served.app.publish(("a", "b"), h2sse.Event(data="to both"))
        await hears(a, "to a", "to both")
        await hears(b, "to b", "to both")
        await hears(both, "to a", "to b", "to both")


async def test_only_those_are_looked_at_who_are_to_hear_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topics = [f"t{number}" for number in range(5)]
    async with serving(h2sse.App()) as served, AsyncExitStack() as stack:
        clients = [await tab(served, stack, f"/events?topic={topic}") for topic in topics]
        for topic in topics:
            await published(served, "first", topic=topic)
        assert in_unison(served) == [1] * 5
        looked_at: list[Part] = []
        begin = Part.begin

        def look(part: Part) -> Sequence[Batch]:
            looked_at.append(part)
            return begin(part)

        monkeypatch.setattr(Part, "begin", look)
        await published(served, "second", "third", topic="t3")
        await hears(clients[3], "first", "second", "third")
        assert len(looked_at) == 1
        for topic in topics:
            served.app.publish(topic, h2sse.Event(data="last"))
        for number, client in enumerate(clients):
            await hears(client, "first", *(("second", "third") if number == 3 else ()), "last")


async def test_http2_is_not_among_them() -> None:
    async with serving(h2sse.App()) as served, served.client() as client:
        stream = await client.listen(EVENTS)
        await published(served, "first")
        await client.read_until(lambda: stream.messages)
        assert in_unison(served) == []


async def test_http1_0_is_not_among_them() -> None:
    # It has no chunks.
    async with serving(h2sse.App()) as served, text_client(served) as client:
        await client.get(EVENTS, version="1.0")
        await client.read_until(lambda text: "retry: " in text)
        await published(served, "first")
        await hears(client, "first")
        assert in_unison(served) == []


async def test_who_is_traced_is_not_among_them() -> None:
    seen: list[str] = []
    taps = Taps(lambda: 0.0)
    taps.listeners.append(lambda records: seen.extend(each.type for each in records))
    async with serving(h2sse.App()) as served:
        served.server.taps = taps
        async with AsyncExitStack() as stack:
            client = await tab(served, stack)
            for number in range(3):
                await published(served, f"{number}")
            await hears(client, "0", "1", "2")
            assert in_unison(served) == []
    assert seen.count("CHUNK") == 4


# -- leaving


async def test_who_leaves_is_missed_by_nobody() -> None:
    async with serving(h2sse.App()) as served, tabs(served, 3) as (first, second, third):
        await trio.aclose_forcefully(second.transport)
        await until(lambda: in_unison(served) == [2])
        await published(served, "second")
        await hears(first, "first", "second")
        await hears(third, "first", "second")
        for client in (first, third):
            await trio.aclose_forcefully(client.transport)
        await until(lambda: in_unison(served) == [])
        assert served.app.hub.statistics().topics == 0


async def test_the_end_comes_after_all_that_was_published(jumping_clock: MockClock) -> None:
    async with serving(h2sse.App()) as served, tabs(served, 3) as clients:
        served.app.publish("a", h2sse.Event(data="last"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.listening.aclose)
            for client in clients:
                text = await client.read_to_end()
                assert data(text) == ["first", "last"]
                # Then the time to come back in, and the last chunk.
                assert re.search(r"data: last\n\n\r\n.*retry: .*\r\n0\r\n\r\n$", text, re.DOTALL)


@pytest.mark.parametrize(
    ("end", "seen"),
    [
        (Connection.end_streams, ["first", "last"]),
        (Connection.close, ["first", "last"]),
        (lambda connection: connection.shed("too much waits"), ["first"]),
    ],
    ids=["end_streams", "close", "shed"],
)
async def test_nothing_comes_after_the_end(
    end: Callable[[Connection], None], seen: list[str]
) -> None:
    async with serving(h2sse.App()) as served, tabs(served, 2) as clients:
        first, second = served.server.connections
        served.app.publish("a", h2sse.Event(data="last"))
        end(first)
        assert in_unison(served) == [1]
        served.app.publish("a", h2sse.Event(data="later"))
        text = await clients[0].read_to_end()
        assert data(text) == seen
        assert text.endswith("0\r\n\r\n")
        await hears(clients[1], "first", "last", "later")
        assert second in served.server.connections


async def test_an_old_connection_ends(jumping_clock: MockClock) -> None:
    limits = h2sse.Limits(connection_age_seconds=3, linger_seconds=1)
    async with serving(h2sse.App(), limits=limits) as served, tabs(served, 2) as clients:
        began = trio.current_time()
        for client in clients:
            assert (await client.read_to_end()).endswith("0\r\n\r\n")
        assert trio.current_time() - began > 2
        assert in_unison(served) == []


async def test_a_quiet_topic_has_heartbeats(jumping_clock: MockClock) -> None:
    async with serving(h2sse.App(), heartbeat_seconds=1) as served, tabs(served, 2) as clients:
        beat = HEARTBEAT.decode()
        for client in clients:
            await client.read_until(lambda text: text.count(beat) == 3)
        await published(served, "second")
        for client in clients:
            await hears(client, "first", "second")


async def test_what_fails_for_one_is_not_felt_by_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(h2sse.App()) as served, tabs(served, 3) as clients:
        hear = Connection.hear
        unlucky = min(each.number for each in served.server.connections)

        def fail(connection: Connection, part: Part, batch: Batch) -> None:
            if connection.number == unlucky:
                raise RuntimeError("as it happens")
            hear(connection, part, batch)

        monkeypatch.setattr(Connection, "hear", fail)
        await published(served, "second")
        for client in clients[1:]:
            await hears(client, "first", "second")
        await clients[0].read_until(lambda _: clients[0].at_end)
        assert data(clients[0].text) == ["first"]
        assert in_unison(served) == [2]
    assert [each.levelname for each in caplog.records if "as it happens" in str(each.exc_info)] == [
        "ERROR"
    ]


# -- going alone


async def test_a_large_event_is_each_ones_own() -> None:
    large = "x" * PIECE_BYTES
    async with serving(h2sse.App()) as served, tabs(served, 2) as clients:
        served.app.publish("a", h2sse.Event(data="second"))
        served.app.publish("a", h2sse.Event(data=large))
        assert in_unison(served) == []
        for client in clients:
            await hears(client, "first", "second", large)
        assert served.app.hub.statistics().delivered == 6
        await published(served, "third")
        assert in_unison(served) == [2]
        await published(served, "fourth")
        for client in clients:
            await hears(client, "first", "second", large, "third", "fourth")


async def test_who_goes_alone_amid_the_writing_hears_the_rest_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(h2sse.unison, "FLUSH_SLICE", 1)
    large = "x" * PIECE_BYTES
    async with serving(h2sse.App()) as served, tabs(served, 4) as clients:
        before = served.server.bytes_sent
        served.app.publish("a", h2sse.Event(data="second"))
        while served.server.bytes_sent == before:
            await trio.lowlevel.checkpoint()
        # One has been written it, the others have not; then none is in unison any more.
        served.app.publish("a", h2sse.Event(data=large))
        assert in_unison(served) == []
        for client in clients:
            await hears(client, "first", "second", large)


@pytest.mark.usefixtures("small_buffers")
async def test_who_does_not_read_is_bounded_as_ever_and_delays_nobody() -> None:
    limits = h2sse.Limits(tab_backlog_bytes=200_000)
    async with (
        serving(h2sse.App(), limits=limits) as served,
        tabs(served, 1) as (reads,),
        narrow(served, "http/1.1") as transport,
    ):
        still = TextClient(transport)
        await still.get(EVENTS)
        await still.read_until(lambda text: "retry: " in text)
        expected = ["first"]
        while not served.server.statistics().overflowed:
            expected.append(f"{len(expected)} {'x' * 5000}")
            await published(served, expected[-1])
            await hears(reads, *expected)
            assert len(expected) < 200
        assert in_unison(served) == [1]
        seen = data(await still.read_to_end())
        # Whole events in their order; the rest it would resume by its last event id.
        assert seen == expected[1 : 1 + len(seen)]
        assert seen[0] == expected[1]


Step: TypeAlias = tuple[str, int, int]
STEPS = st.one_of(
    st.tuples(st.just("publish"), st.integers(0, 2), st.sampled_from([10, 3000, 20_000, 70_000])),
    st.tuples(st.just("publish"), st.integers(0, 2), st.just(10)),
    st.tuples(st.just("settle"), st.just(0), st.just(0)),
    st.tuples(st.just("turn"), st.just(0), st.integers(1, 3)),
    st.tuples(st.sampled_from(["join", "leave", "read"]), st.integers(0, 5), st.just(0)),
)
TOPICS = (("a",), ("b",), ("a", "b"))


@final
class Tab:
    """One of the program's, with what it is to hear."""

    def __init__(self, topics: tuple[str, ...], client: TextClient) -> None:
        self.topics = topics
        self.client = client
        self.due: list[str] = []


@given(st.lists(STEPS, max_size=40))
@settings(max_examples=60)
def test_every_tab_hears_every_event_once_in_order(steps: list[Step]) -> None:
    """Whoever joins, leaves, reads or does not, amid the writing of whatever is published."""
    with pytest.MonkeyPatch.context() as patch:
        narrow_server(patch)
        patch.setattr(h2sse.unison, "FLUSH_SLICE", 1)  # others have a turn after each write
        trio.run(run, steps)


async def run(steps: list[Step]) -> None:
    # None is ended for being slow: what it is to hear would depend on the kernel.
    limits = h2sse.Limits(tab_backlog_bytes=2**30, total_backlog_bytes=2**30)
    async with serving(h2sse.App(), limits=limits) as served, AsyncExitStack() as stack:
        open_tabs: list[Tab] = []
        count = 0
        for step, number, size in [("join", each, 0) for each in range(4)] + steps:
            match step:
                case "publish":
                    count += 1
                    text = f"{count} {'x' * size}"
                    topics = TOPICS[number % len(TOPICS)]
                    served.app.publish(topics, h2sse.Event(data=text))
                    for each in open_tabs:
                        if set(each.topics) & set(topics):
                            each.due.append(text)
                case "settle":
                    await trio.testing.wait_all_tasks_blocked(0.001)
                case "turn":
                    for _ in range(size):
                        await trio.lowlevel.checkpoint()
                case "join":
                    topics = TOPICS[number % len(TOPICS)]
                    client = TextClient(await stack.enter_async_context(narrow(served, "http/1.1")))
                    await client.get("/events?" + "&".join(f"topic={each}" for each in topics))
                    await client.read_until(lambda text: "retry: " in text)
                    open_tabs.append(Tab(topics, client))
                case _ if not open_tabs:
                    pass
                case "leave":
                    await trio.aclose_forcefully(
                        open_tabs.pop(number % len(open_tabs)).client.transport
                    )
                case _:
                    each = open_tabs[number % len(open_tabs)]
                    await hears(each.client, *each.due)
        for each in open_tabs:
            await hears(each.client, *each.due)
        await trio.testing.wait_all_tasks_blocked(0.001)
        assert sum(in_unison(served)) <= len(open_tabs)
