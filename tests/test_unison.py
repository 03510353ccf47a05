"""Connections that are spoken to as one: who is among them, and what all of their tabs see."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeAlias, final

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    ACK,
    INITIAL_WINDOW_SIZE,
    MAX_WINDOW,
    PING,
    PREFACE,
    RawClient,
    Served,
    Stream,
    frame,
    reset,
    serving,
    settings_frame,
    window_update,
)
from test_connection import (  # noqa: F401 - a fixture
    narrow,
    narrow_client,
    narrow_server,
    small_buffers,
)
from test_server import TextClient, text_client, until
from trio.testing import MockClock

import h2sse
import h2sse.server
import h2sse.unison
from h2sse.connection import Connection
from h2sse.flow import TAKE_BYTES
from h2sse.frames import FRAME_BYTES
from h2sse.http1 import PIECE_BYTES
from h2sse.sse import HEARTBEAT
from h2sse.tls_socket import TlsSocket
from h2sse.trace import Taps
from h2sse.unison import FLUSH_BYTES, Batch, Member, Part

EVENTS = "/events?topic=a"


def parts(served: Served) -> list[Part]:
    """One for each protocol and set of topics."""
    groups = (unison.groups.values() for unison in served.server.unisons.values())
    lanes = [group.lane for each in groups for group in each]
    return [lane for lane in lanes if isinstance(lane, Part)]


def members(served: Served) -> list[Member]:
    """Who is in unison."""
    return [member for part in parts(served) for member in part.members]


def in_unison(served: Served) -> list[int]:
    """How many are, of each protocol and set of topics."""
    return [len(part.members) for part in parts(served)]


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


async def test_tabs_are_in_unison_from_when_nothing_is_owed_them() -> None:
    async with serving(h2sse.App()) as served, AsyncExitStack() as stack:
        clients = [await tab(served, stack) for _ in range(3)]
        assert in_unison(served) == [3]
        await published(served, "first")
        assert in_unison(served) == [3]
        late = await tab(served, stack)
        await published(served, "second", "third")
        assert in_unison(served) == [4]
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


async def test_over_http2_they_are_among_themselves() -> None:
    async with (
        serving(h2sse.App()) as served,
        tabs(served, 2) as clients,
        served.client() as one,
        served.client() as other,
    ):
        streams = [await client.listen(EVENTS) for client in (one, one, other)]
        await published(served, "second")
        assert in_unison(served) == [2, 2]
        before = served.app.hub.statistics().delivered
        await published(served, "third")
        assert served.app.hub.statistics().delivered - before == 2 + 3
        await one.heard(2, *streams[:2])
        await other.heard(2, streams[2])
        assert [each.data for each in streams] == [["second", "third"]] * 3
        for client in clients:
            await hears(client, "first", "second", "third")


async def test_tabs_over_http2_are_in_unison_before_their_first_event() -> None:
    async with serving(h2sse.App()) as served, AsyncExitStack() as stack:
        streams: list[tuple[RawClient, Stream]] = []
        for count in (1, 2, 3):
            client = await stack.enter_async_context(served.client())
            for _ in range(3):
                streams.append((client, await client.listen(EVENTS)))
                await client.settle()
                assert in_unison(served) == [count]
        await published(served, "first")
        assert in_unison(served) == [3]
        for client, stream in streams:
            await client.heard(1, stream)
            assert stream.data == ["first"]


async def test_tabs_come_and_go_in_a_connection() -> None:
    async with serving(h2sse.App()) as served, served.client() as client:
        first, second = await client.listen(EVENTS), await client.listen(EVENTS)
        await published(served, "0")
        assert in_unison(served) == [1]
        served.app.publish("a", h2sse.Event(data="1"))
        third, request = client.request(EVENTS)
        # In one turn: what waits for the two is not for the third, nor any more for the second.
        await client.send(reset(second.id), request)
        await client.begun(third)
        served.app.publish("a", h2sse.Event(data="2"))
        await client.heard(3, first)
        await client.heard(1, third)
        assert first.data == ["0", "1", "2"]
        assert third.data == ["2"]
        await client.settle()
        assert in_unison(served) == [1]
        elsewhere = await client.listen("/events?topic=b")
        await published(served, "3")
        assert in_unison(served) == []  # two topics
        await client.send(reset(elsewhere.id))
        await client.settle()
        await published(served, "4")
        assert in_unison(served) == [1]
        await client.heard(3, third)
        assert third.data == ["2", "3", "4"]
        await client.send(reset(first.id), reset(third.id))
        await client.settle()
        assert in_unison(served) == []
        assert served.app.hub.statistics().topics == 0
        fourth = await client.listen(EVENTS)
        await published(served, "5")
        await client.heard(1, fourth)
        assert in_unison(served) == [1]


async def test_a_connection_without_tabs_hears_nothing() -> None:
    async with serving(h2sse.App()) as served, served.client() as one, served.client() as other:
        left, stays = await one.listen(EVENTS), await other.listen(EVENTS)
        await published(served, "first")
        assert in_unison(served) == [2]
        await one.send(reset(left.id))
        await one.settle()
        mark = len(one.frames)
        await published(served, "second")
        await one.settle()
        assert {each.kind for each in one.frames[mark:]} == {PING}
        await other.heard(2, stays)


async def test_answers_and_pings_go_on_over_a_connection_in_unison() -> None:
    async with serving(h2sse.App()) as served, served.client() as client:
        stream = await client.listen(EVENTS)
        await published(served, "first")
        assert in_unison(served) == [1]
        answer = await client.fetch("/healthz")
        assert answer.status == 200
        await client.settle()
        assert in_unison(served) == [1]
        answer = await client.fetch(
            "/publish",
            ("content-type", "application/x-www-form-urlencoded"),
            method="POST",
            body=b"topic=a&data=second",
        )
        assert answer.status == 200
        await client.heard(2, stream)
        assert stream.data == ["first", "second"]


async def test_a_connection_in_unison_is_probed(jumping_clock: MockClock) -> None:
    limits = h2sse.Limits(probe_seconds=2, probe_answer_seconds=1)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        await client.listen(EVENTS)
        await published(served, "first")
        assert in_unison(served) == [1]
        for _ in range(3):
            asked = await client.read_frame(PING)
            await client.send(frame(PING, ACK, 0, asked.payload))
            assert in_unison(served) == [1]
        await client.read_to_end()  # it does not answer any more


async def test_heartbeats_come_however_often_connections_go_alone(
    jumping_clock: MockClock,
) -> None:
    async with serving(h2sse.App(), heartbeat_seconds=3) as served, tabs(served, 1) as (client,):
        (connection,) = served.server.connections
        began = trio.current_time()
        for _ in range(10):
            await trio.sleep(1)
            connection.go_alone()
            assert in_unison(served) == []
            connection.flush()
            assert in_unison(served) == [1]
        await client.read_until(lambda text: text.count(HEARTBEAT.decode()) >= 3)
        assert client.text.count(HEARTBEAT.decode()) == (trio.current_time() - began) // 3


@pytest.mark.usefixtures("small_buffers")
async def test_an_answer_that_fills_the_socket_is_not_overtaken() -> None:
    """What OpenSSL has not accepted must be given to it again before anything else."""
    app = h2sse.App()
    body = bytes(range(256)) * 8000
    app.get("/large")(lambda _: h2sse.Response(body=body))
    async with serving(app) as served, narrow_client(served) as client:
        stream = await client.listen(EVENTS)
        await published(served, "0")
        assert in_unison(served) == [1]
        large = await client.open_stream("/large")
        await client.read_until(lambda: large.body)
        expected = [f"{number}" for number in range(20)]
        for each in expected[1:]:
            await published(served, each)
            assert in_unison(served) == []
        await client.heard(20, stream)
        await client.over(large)
        assert stream.data == expected
        assert large.body == body


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_who_goes_alone_between_framing_and_writing_hears_it_once(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the first write fails, and who watches for the tab that leaves publishes that."""
    large = "x" * PIECE_BYTES
    async with serving(h2sse.App()) as served, AsyncExitStack() as stack:

        def amid(_: TlsSocket) -> bool:
            monkeypatch.undo()
            served.app.publish("a", h2sse.Event(data=large))
            return False

        if protocol == "h2":
            settings = {INITIAL_WINDOW_SIZE: 2**20}
            clients = [
                await stack.enter_async_context(served.client(settings=settings)) for _ in range(3)
            ]
            streams = [await client.listen(EVENTS) for client in clients]
            for client in clients:
                await client.send(window_update(0, 2**20))
            await published(served, "first")
            assert in_unison(served) == [3]
            monkeypatch.setattr(TlsSocket, "flush", amid)
            await published(served, "second")
            for client, stream in zip(clients, streams, strict=True):
                await client.heard(3, stream)
                assert stream.data == ["first", "second", large]
        else:
            text_clients = await stack.enter_async_context(tabs(served, 3))
            monkeypatch.setattr(TlsSocket, "flush", amid)
            await published(served, "second")
            for each in text_clients:
                await hears(each, "first", "second", large)


async def test_of_large_events_little_is_framed_before_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    framed: list[int] = []
    seal = TlsSocket.seal
    async with serving(h2sse.App()) as served, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(served.client(settings={INITIAL_WINDOW_SIZE: 2**20}))
            for _ in range(20)
        ]
        for client in clients:
            await client.send(window_update(0, 2**20))
            for _ in range(2 if client is not clients[0] else 5):
                await client.listen(EVENTS)
        await published(served, "first")
        assert in_unison(served) == [20]

        def noting(tls: TlsSocket, data: bytes) -> None:
            assert len(data) < TAKE_BYTES + FRAME_BYTES
            framed.append(len(data) + sum(len(each.data) for each in members(served)))
            seal(tls, data)

        monkeypatch.setattr(TlsSocket, "seal", noting)
        served.app.publish("a", h2sse.Event(data="x" * 60_000))
        for client in clients:
            await client.heard(2, *client.streams.values())
        assert FLUSH_BYTES <= max(framed) < FLUSH_BYTES + TAKE_BYTES
        await published(served, "last")
        assert in_unison(served) == [20]


@pytest.mark.parametrize("topics", ["topic=a", "topic=a&topic=b"], ids=["in unison", "alone"])
async def test_others_have_a_turn_amid_the_writing_of_much(
    topics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2sse.unison, "FLUSH_BYTES", 1)
    monkeypatch.setattr(h2sse.server, "FLUSH_BYTES", 1)
    async with serving(h2sse.App()) as served, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(served.client()) for _ in range(10)]
        for client in clients:
            await client.listen(f"/events?{topics}")
            if topics != "topic=a":
                await client.listen("/events?topic=c")
        await published(served, "first")
        assert in_unison(served) == ([10] if topics == "topic=a" else [])
        served.app.publish("a", h2sse.Event(data="second"))
        seen = {served.server.bytes_sent}
        for _ in range(30):
            await trio.lowlevel.checkpoint()
            seen.add(served.server.bytes_sent)
        # Of two tasks that each give the other a turn, one may have two in a row.
        assert len(seen) >= 6
        for client in clients:
            await client.heard(2, client.streams[1])


async def test_a_short_window_is_its_streams_alone() -> None:
    async with serving(h2sse.App()) as served, served.client() as client:
        short, long = await client.listen(EVENTS), await client.listen(EVENTS)
        await published(served, "first")
        assert in_unison(served) == [1]
        await client.send(window_update(long.id, MAX_WINDOW // 2), window_update(0, 2**20))
        expected = ["first"]
        for number in range(80):
            expected.append(f"{number} {'x' * 1000}")
            await published(served, expected[-1])
        await client.heard(len(expected), long)
        assert long.data == expected
        assert 60 < len(short.data) < 66
        assert in_unison(served) == []
        await client.send(window_update(short.id, 2**20))
        await client.heard(len(expected), short)
        assert short.data == expected
        await published(served, "last")
        assert in_unison(served) == [1]
        await client.heard(len(expected) + 1, short, long)


async def test_a_small_window_of_the_connection_is_kept() -> None:
    async with serving(h2sse.App()) as served, served.client() as client:
        streams = [await client.listen(EVENTS) for _ in range(3)]
        expected = [f"{number} {'x' * 1000}" for number in range(60)]
        for each in expected:
            await published(
                served, each
            )  # the client's accounts see to it that no window is passed
        await client.settle()
        assert client.window < 1000
        assert any(each.data != expected for each in streams)
        await client.send(window_update(0, 2**20))
        await client.heard(len(expected), *streams)
        assert all(each.data == expected for each in streams)


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
        began = trio.current_time()
        for client in clients:
            await client.read_until(lambda text: text.count(beat) == 3)
        assert trio.current_time() - began > 2
        await published(served, "second")
        for client in clients:
            await hears(client, "first", "second")


@pytest.mark.parametrize("step", ["seal", "flush"])
async def test_what_fails_for_one_is_not_felt_by_others(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(h2sse.App()) as served, tabs(served, 3) as clients:
        unlucky = min(each.number for each in served.server.connections)
        whole = getattr(TlsSocket, step)

        def fail(tls: TlsSocket, *data: bytes) -> object:
            (member,) = (each for each in members(served) if each.tls is tls)
            if member.connection.number == unlucky:
                raise RuntimeError("as it happens")
            done: object = whole(tls, *data)
            return done

        monkeypatch.setattr(TlsSocket, step, fail)
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


def play(run: Callable[[list[Step]], Awaitable[None]], steps: list[Step]) -> None:
    """Run a program where sockets are soon full, and others have a turn after each write."""
    with pytest.MonkeyPatch.context() as patch:
        narrow_server(patch)
        patch.setattr(h2sse.unison, "FLUSH_SLICE", 1)
        trio.run(run, steps)


@given(st.lists(STEPS, max_size=40))
@settings(max_examples=60)
def test_every_tab_hears_every_event_once_in_order(steps: list[Step]) -> None:
    """Whoever joins, leaves, reads or does not, amid the writing of whatever is published."""
    play(run, steps)


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


STEPS_HTTP2 = st.one_of(
    st.tuples(st.just("publish"), st.integers(0, 2), st.sampled_from([10, 3000, 20_000, 70_000])),
    st.tuples(st.just("publish"), st.integers(0, 2), st.just(10)),
    st.tuples(st.just("settle"), st.just(0), st.just(0)),
    st.tuples(st.just("turn"), st.just(0), st.integers(1, 3)),
    st.tuples(st.sampled_from(["join", "listen"]), st.integers(0, 5), st.integers(0, 2)),
    st.tuples(st.sampled_from(["leave", "end", "fetch", "ping"]), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("window"), st.integers(0, 5), st.sampled_from([0, 1000, 70_000])),
    st.tuples(st.just("connection window"), st.integers(0, 5), st.sampled_from([1000, 70_000])),
    st.tuples(st.just("initial window"), st.integers(0, 5), st.sampled_from([0, 1000, 100_000])),
    st.tuples(st.just("read"), st.integers(0, 5), st.just(0)),
)


@final
class Peer:
    """A client of the program's over HTTP/2, and its streams with what they are to hear."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.due: dict[Stream, tuple[tuple[str, ...], list[str]]] = {}

    async def listen(self, topics: tuple[str, ...]) -> None:
        stream, request = self.client.request("/events?" + "&".join(f"topic={t}" for t in topics))
        # Its first bytes are to come, whatever the windows were left at.
        await self.client.send(request, window_update(stream.id, 1000), window_update(0, 1000))
        await self.client.answered(stream)
        self.due[stream] = (topics, [])

    async def read(self) -> None:
        """Open all windows, and see that each has heard what was due, in its order."""
        grants = [window_update(each.id, 2**22) for each in self.due]
        await self.client.send(window_update(0, 2**23), *grants)
        for stream, (_, due) in self.due.items():
            await self.client.heard(len(due), stream)
            assert stream.data == due


@given(st.lists(STEPS_HTTP2, max_size=40))
@settings(max_examples=80)
def test_every_stream_hears_every_event_once_in_order(steps: list[Step]) -> None:
    """Whatever its windows, its neighbours and its connection are doing amid the writing."""
    play(run_http2, steps)


async def run_http2(steps: list[Step]) -> None:
    limits = h2sse.Limits(tab_backlog_bytes=2**30, connection_backlog_bytes=2**30)
    async with serving(h2sse.App(), limits=limits) as served, AsyncExitStack() as stack:
        peers: list[Peer] = []
        count = 0
        begin: list[Step] = [("join", 0, 0), ("listen", 0, 0), ("join", 0, 0), ("join", 0, 0)]
        for step, number, size in begin + steps:
            peer = peers[number % len(peers)] if peers else None
            topics = TOPICS[size % len(TOPICS)]
            match step:
                case "publish":
                    count += 1
                    text = f"{count} {'x' * size}"
                    served.app.publish(TOPICS[number], h2sse.Event(data=text))
                    for asked, due in (each for peer in peers for each in peer.due.values()):
                        if set(asked) & set(TOPICS[number]):
                            due.append(text)
                case "settle":
                    await trio.testing.wait_all_tasks_blocked(0.001)
                case "turn":
                    for _ in range(size):
                        await trio.lowlevel.checkpoint()
                case "join":
                    transport = await stack.enter_async_context(narrow(served, "h2"))
                    peers.append(Peer(RawClient(transport, "narrow")))
                    await peers[-1].client.send(PREFACE + settings_frame({}))
                    await peers[-1].listen(topics)
                case _ if peer is None:
                    pass
                case "listen":
                    await peer.listen(topics)
                case "leave":
                    peers.remove(peer)
                    await trio.aclose_forcefully(peer.client.transport)
                case "end" if peer.due:
                    await peer.client.send(reset(peer.due.popitem()[0].id))
                case "fetch":
                    await peer.client.open_stream("/healthz")
                case "ping":
                    await peer.client.settle()
                case "window" if peer.due:
                    await peer.client.send(window_update(next(iter(peer.due)).id, size or 1))
                case "connection window":
                    await peer.client.send(window_update(0, size))
                case "initial window":
                    await peer.client.send(settings_frame({INITIAL_WINDOW_SIZE: size}))
                case "read":
                    await peer.read()
                case _:
                    pass
        for peer in peers:
            await peer.client.settle()  # its accounts are of the windows that it gave
            await peer.read()
