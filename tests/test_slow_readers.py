"""Tabs that read more slowly than events come: the three policies, and the bound on all of them."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import json
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import (
    DATA,
    DEFAULT_WINDOW,
    END_STREAM,
    INITIAL_WINDOW_SIZE,
    MAX_WINDOW,
    PREFACE,
    RawClient,
    Stream,
    frame,
    reset,
    serving,
    settings_frame,
    window_update,
)
from test_connection import narrow, small_buffers  # noqa: F401 - a fixture
from trio.testing import MockClock

import h2sse
from h2sse import flow, http1
from h2sse.config import Limits, Topics
from h2sse.errors import ConfigError, LocalError
from h2sse.flow import TAKE_BYTES, Outflow
from h2sse.http1 import PIECE_BYTES, Http1
from h2sse.http2 import Http2
from h2sse.lane import Lane
from h2sse.ledger import OVER_TOTAL, Ledger
from h2sse.overflow import GAP_EVENT, LOSSY, OVERFLOWS, OverflowName, Overflows
from h2sse.sse import HEARTBEAT, Event, Message, Parser
from h2sse.wire import Overflowed, Request, Rest, Room

KIB = 1024
REQUEST = (
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b":path", b"/events"),
)
FIELDS = ((b"content-type", b"text/event-stream"),)
FIRST = b"retry: 1\n\n"
SOCKET_FULL = "socket full for stall_seconds"
NAMES = ["", "a", "b", "c"]
POLICIES: list[OverflowName] = ["end", "drop-oldest", "latest"]


def gap_of(message: Message) -> dict[str, Any]:
    found = json.loads(message.data)
    assert isinstance(found, dict)
    return found


def numbered(number: int, name: str, size: int) -> Event:
    """An event that no piece of another could pass for a piece of."""
    data = (f"{number}-" * size)[:size]
    return Event(event=name or None, id=f"id-{number}", data=data)


class Page:
    """What a tab was offered, from when it came, and what it has received."""

    def __init__(self, policy: OverflowName) -> None:
        self.policy = policy
        self.offered: list[Message] = []
        self.received: list[Message] = []
        self.parser = Parser()
        self.over = False

    def feed(self, data: bytes) -> None:
        self.received += self.parser.feed(data)

    def check(self) -> None:
        """It saw whole events, in order, and was told of those that it did not see."""
        place = 0
        for message in self.received:
            if message.event == GAP_EVENT:
                assert self.policy == "drop-oldest"
                gap = gap_of(message)
                missing = self.offered[place : place + gap["dropped"]]
                assert gap["reason"] == "overflow"
                assert len(missing) == gap["dropped"] > 0
                assert gap["first"] == missing[0].last_event_id
                assert gap["last"] == missing[-1].last_event_id == message.last_event_id
                place += len(missing)
                continue
            if self.policy == "latest":
                place = self.offered.index(message, place)
            assert message == self.offered[place]
            place += 1
        self.seen = place

    def check_whole(self) -> None:
        """It has caught up: nothing is missing that its policy does not let go of."""
        self.check()
        newest = {message.event: message for message in self.offered}
        last = {message.event: message for message in self.received if message.event != GAP_EVENT}
        if self.policy == "latest":
            assert last == newest
        else:
            assert self.seen == len(self.offered)


class Peer:
    """An `Http2` and the client that talks to it."""

    def __init__(self, limits: Limits, window: int) -> None:
        self.wire = Http2(limits)
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.client.initiate_connection()
        self.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.pages: dict[int, Page] = {}
        self.say()

    def say(self) -> None:
        data = self.client.data_to_send()
        for event in self.wire.receive(data, 0.0) if data else ():
            if isinstance(event, Request):
                self.wire.open(event.stream, FIELDS, FIRST)

    def open(self, policy: OverflowName) -> int:
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, REQUEST, end_stream=True)
        self.pages[stream] = Page(policy)
        self.say()
        return stream

    def hear(self) -> bool:
        data = self.wire.take_output()
        at = 0
        while at < len(data):
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            if data[at + 3] == 0:
                # h2 would refuse an empty frame while a window is negative (test_flow.py).
                self.pages[stream].feed(data[at + 9 : end])
                self.pages[stream].over = bool(data[at + 4])
            else:
                self.client.receive_data(data[at:end])
            at = end
        self.say()
        return bool(data)


class SlowTabs(RuleBasedStateMachine):
    """Tabs of every policy on one connection, whatever their windows do."""

    numbers: itertools.count[int]

    @initialize(
        bound=st.sampled_from([1_500, 4_000, 60_000]),
        connection=st.sampled_from([10_000, 200_000]),
        window=st.sampled_from([0, 300, 65_535]),
        take=st.sampled_from([400, 5_000, TAKE_BYTES]),
    )
    def begin(self, bound: int, connection: int, window: int, take: int) -> None:
        flow.TAKE_BYTES = take
        limits = Limits(
            tab_backlog_bytes=bound,
            connection_backlog_bytes=connection,
            settings_frames=1_000,
            small_frames=100_000,
        )
        self.limits = limits
        self.peer = Peer(limits, window)
        self.numbers = itertools.count(1)
        self.lanes = {name: self.peer.wire.lane(OVERFLOWS[name]) for name in POLICIES}
        for policy in POLICIES:
            self.join_some(policy, 3)
        self.hear(100)

    @precondition(lambda self: len(self.peer.pages) < 15)
    @rule(policy=st.sampled_from(POLICIES), count=st.integers(1, 3))
    def join(self, policy: OverflowName, count: int) -> None:
        self.join_some(policy, count)

    def join_some(self, policy: OverflowName, count: int) -> None:
        for _ in range(count):
            self.peer.wire.enter(self.peer.open(policy), self.lanes[policy])

    @rule(
        policy=st.sampled_from(POLICIES),
        name=st.sampled_from(NAMES),
        size=st.sampled_from([0, 40, 500, 2_000, 20_000, 40_000]),
        times=st.sampled_from([1, 2, 20, 100]),
    )
    def offer(self, policy: OverflowName, name: str, size: int, times: int) -> None:
        for _ in range(times):
            event = numbered(next(self.numbers), name, size)
            message = Message(name or "message", event.data, event.id or "")
            for stream, page in self.peer.pages.items():
                if page.policy == policy and self._streams(stream):
                    page.offered.append(message)
            self.lanes[policy].offer(event.encode())
            self.bounded()

    @rule(policy=st.sampled_from(POLICIES))
    def beat(self, policy: OverflowName) -> None:
        self.lanes[policy].offer(HEARTBEAT)

    def _streams(self, stream: int) -> bool:
        outflow = self.peer.wire._flow.outflows.get(stream)
        return outflow is not None and not outflow.ends

    @precondition(lambda self: self.peer.pages)
    @rule(data=st.data(), increment=st.sampled_from([1, 60, 700, 5_000, 70_000]))
    def stream_window(self, data: st.DataObject, increment: int) -> None:
        stream = data.draw(st.sampled_from(sorted(self.peer.pages)))
        if not self.peer.pages[stream].over:
            self.peer.client.increment_flow_control_window(increment, stream)
            self.peer.say()

    @rule(increment=st.sampled_from([1, 3_000, 300_000]))
    def connection_window(self, increment: int) -> None:
        self.peer.client.increment_flow_control_window(increment)
        self.peer.say()

    @rule(window=st.sampled_from([0, 100, 65_535]))
    def initial_window(self, window: int) -> None:
        self.peer.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.peer.say()

    @rule(times=st.sampled_from([1, 2, 3, 100]))
    def read(self, times: int) -> None:
        self.hear(times)

    def hear(self, times: int) -> None:
        while times and self.peer.hear():
            times -= 1

    @rule(rarely=st.integers(0, 9))
    def shed(self, rarely: int) -> None:
        if rarely == 7 and self.peer.wire._flow.queued:
            before = self.peer.wire._flow.queued
            assert self.peer.wire.shed("for others")
            assert self.peer.wire._flow.queued < before

    @invariant()
    def in_order_and_told(self) -> None:
        if hasattr(self, "peer"):
            assert not self.peer.wire.closed
            for page in self.peer.pages.values():
                page.check()

    @invariant()
    def bounded(self) -> None:
        """What waits is within the bound, or it is one event, which nothing was before."""
        if not hasattr(self, "peer"):
            return
        every = self.peer.wire._flow
        sources: list[Lane | Outflow] = [*self.lanes.values(), *every.outflows.values()]
        for source in sources:
            queue = source.queue or []
            assert 0 <= source.waits <= sum(map(len, queue))
            begins = b"".join(queue).count(b"\n\n")
            assert source.waits <= self.limits.tab_backlog_bytes or begins <= 1 or FIRST in queue
        assert every.queued == sum(each.waits for each in sources)

    @invariant()
    def shared(self) -> None:
        """Who stands still is at one standstill, has its queue, and is nowhere else."""
        if not hasattr(self, "peer"):
            return
        for outflow in self.peer.wire._flow.outflows.values():
            lane, standstill = outflow.lane, outflow.standstill
            assert lane is not None
            if standstill is not None:
                assert standstill in lane.standstills
                assert outflow in standstill.members
                assert outflow.queue is standstill.queue
                assert outflow.offset == standstill.offset
                assert not outflow.ready
            assert (outflow.id in lane.apart) == (standstill is None and outflow.queue is not None)
        for lane in self.lanes.values():
            assert all(standstill.members for standstill in lane.standstills)

    def teardown(self) -> None:
        flow.TAKE_BYTES = TAKE_BYTES
        if not hasattr(self, "peer"):
            return
        live = [stream for stream in self.peer.pages if self._streams(stream)]
        self.peer.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
        self.peer.client.increment_flow_control_window(2**30)
        self.peer.say()
        while self.peer.hear():
            pass
        for stream in live:
            self.peer.pages[stream].check_whole()
        assert self.peer.wire._flow.queued == 0


SlowTabs.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
test_slow_tabs_over_http2 = SlowTabs.TestCase


@given(
    policy=st.sampled_from(POLICIES),
    bound=st.sampled_from([1_500, 30_000]),
    piece=st.sampled_from([300, 3_000, PIECE_BYTES]),
    steps=st.lists(
        st.one_of(
            st.just("hear"),
            st.just("beat"),
            st.tuples(st.sampled_from(NAMES), st.sampled_from([0, 40, 500, 2_000, 20_000])),
        ),
        max_size=80,
    ),
)
def test_slow_tabs_over_http1(
    policy: OverflowName, bound: int, piece: int, steps: list[str | tuple[str, int]]
) -> None:
    http1.PIECE_BYTES = piece
    try:
        wire = Http1(Limits(tab_backlog_bytes=bound))
        client = h11.Connection(h11.CLIENT)
        head = client.send(
            h11.Request(method="GET", target="/events", headers=[("host", "localhost")])
        )
        (request,) = wire.receive(head, 0.0)
        client.send(h11.EndOfMessage())
        assert isinstance(request, Request)
        wire.open(request.stream, FIELDS, FIRST)
        lane = wire.lane(OVERFLOWS[policy])
        wire.enter(request.stream, lane)
        page = Page(policy)

        def hear() -> bool:
            data = wire.take_output()
            if data:
                client.receive_data(data)
                while isinstance(event := client.next_event(), h11.Response | h11.Data):
                    if isinstance(event, h11.Data):
                        page.feed(bytes(event.data))
            return bool(data)

        for number, step in enumerate(steps):
            if isinstance(step, str):
                if step == "hear":
                    hear()
                else:
                    lane.offer(HEARTBEAT)
            else:
                name, size = step
                event = numbered(number, name, size)
                if not wire.closed:
                    page.offered.append(Message(name or "message", event.data, event.id or ""))
                lane.offer(event.encode())
            page.check()
            waiting = wire._waiting
            assert 0 <= wire._backlog <= sum(map(len, waiting))
            # Or one event, with the last chunk behind it.
            assert wire._backlog <= bound + 20 or len(waiting) == 1 + wire.closed
        ended = wire.closed
        assert ended == any(isinstance(each, Overflowed) for each in wire.take_events())
        while hear():
            pass
        if ended:
            page.check()
        else:
            page.check_whole()
        assert wire.waits == 0
    finally:
        http1.PIECE_BYTES = PIECE_BYTES


def test_a_tab_that_was_served_amid_a_lane_keeps_that_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What some tabs in step have been sent, the others are sent too."""
    for policy in ("drop-oldest", "latest"):
        monkeypatch.setattr(flow, "TAKE_BYTES", TAKE_BYTES)
        peer = Peer(Limits(tab_backlog_bytes=20_000), 2**30)
        lane = peer.wire.lane(OVERFLOWS[policy])
        for _ in range(5):
            peer.wire.enter(peer.open(policy), lane)
        peer.client.increment_flow_control_window(2**30)
        while peer.hear():
            pass

        def offer(number: int, lane: Lane = lane, peer: Peer = peer) -> None:
            event = numbered(number, "a", 500)
            for page in peer.pages.values():
                page.offered.append(Message("a", event.data, event.id or ""))
            lane.offer(event.encode())

        offer(1)
        monkeypatch.setattr(flow, "TAKE_BYTES", 1_000)
        peer.hear()
        assert lane.place == 2
        for number in range(2, 100):
            offer(number)
        assert lane.place == 2
        assert peer.wire.statistics.lost[policy] > 5 * 50
        while peer.hear():
            pass
        for page in peer.pages.values():
            assert page.received[0] == page.offered[0]
            page.check_whole()


@pytest.mark.parametrize("policy", ["drop-oldest", "latest"])
@pytest.mark.parametrize("window", [10, 5_000, 16_384, 20_000, 32_768])
def test_an_event_that_was_begun_is_sent_to_its_end(policy: OverflowName, window: int) -> None:
    """Cut anywhere by its stream's window, amid a piece of it or between two."""
    peer = Peer(Limits(tab_backlog_bytes=100_000), len(FIRST))
    lane = peer.wire.lane(OVERFLOWS[policy])
    slow, other = peer.open(policy), peer.open(policy)
    peer.wire.enter(slow, lane)
    peer.wire.enter(other, lane)
    peer.client.increment_flow_control_window(2**30)
    peer.client.increment_flow_control_window(2**30, other)
    peer.hear()
    peer.client.increment_flow_control_window(window, slow)
    peer.say()
    for number in range(200):
        event = numbered(number, "a", 1_000 if number else 40_000)
        for page in peer.pages.values():
            page.offered.append(Message("a", event.data, event.id or ""))
        lane.offer(event.encode())
        while peer.hear():
            pass
    assert peer.pages[other].received == peer.pages[other].offered
    assert not peer.pages[slow].received
    assert peer.wire.statistics.lost[policy] > 50
    peer.client.increment_flow_control_window(2**30, slow)
    peer.say()
    while peer.hear():
        pass
    peer.pages[slow].check_whole()
    assert peer.pages[slow].received[0] == peer.pages[slow].offered[0]


# -- which policy


def test_a_tab_of_several_topics_has_the_policy_that_loses_least() -> None:
    overflows = Overflows()
    assert overflows.of(["a"]) is None
    overflows.choose("prices", "latest")
    overflows.choose("log*", "drop-oldest")
    overflows.choose("log.audit*", "end")
    assert overflows.of(["prices"]) is OVERFLOWS["latest"]
    assert overflows.of(["log.web"]) is OVERFLOWS["drop-oldest"]
    assert overflows.of(["log.audit.web"]) is None
    assert overflows.of(["prices", "log.web"]) is OVERFLOWS["drop-oldest"]
    assert overflows.of(["prices", "chat"]) is None


def test_topics_are_configured() -> None:
    app = h2sse.App(topics=Topics(latest=("prices",), drop_oldest=("*",)))
    assert app.hub.overflows.of(["prices"]) is OVERFLOWS["latest"]
    assert app.hub.overflows.of(["anything"]) is OVERFLOWS["drop-oldest"]
    with pytest.raises(ConfigError, match="both list 'a'"):
        Topics(latest=("a",), drop_oldest=("a",))
    with pytest.raises(ConfigError, match=r"topics\.latest must not list an empty name"):
        Topics(latest=("",))
    with pytest.raises(LocalError, match="overflow must be one of end, drop-oldest, latest"):
        app.topic("a", overflow="newest")  # type: ignore[arg-type]  # that it is none is the point


def test_many_names_cost_no_scan_for_each_event() -> None:
    """`latest` looks at what waits only after as much again has come."""
    latest = OVERFLOWS["latest"]
    assert latest is not None
    acted = 0
    waiting: list[bytes] = []
    waits, bound = 0, latest.acts_from(0, 1_000_000)
    for number in range(20_000):
        payload = Event(event=f"n{number % 3_000}", id=str(number), data="x" * 50).encode()
        if waits + len(payload) > bound:
            acted += 1
            room = latest.make_room(
                waiting, begun=0, waits=waits, size=len(payload), bound=1_000_000
            )
            assert room is not None
            waits, bound = room.waits, latest.acts_from(room.waits + len(payload), 1_000_000)
        waiting.append(payload)
        waits += len(payload)
    assert acted < 20
    assert len({bytes(each).split(b"\n")[0] for each in waiting}) == 3_000


@given(
    st.sampled_from(LOSSY),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 90)), min_size=1, max_size=40),
    st.integers(0, 1),
    st.integers(1, 4_000),
    st.integers(0, 1_000),
)
def test_tabs_that_stand_side_by_side_lose_the_same(
    name: OverflowName, events: list[tuple[str, int]], begun: int, bound: int, more: int
) -> None:
    """What was done for one is done again for the next, unless that is too much or too little."""
    overflow = OVERFLOWS[name]
    assert overflow is not None
    before = [
        Event(event=event, id=str(number), data="x" * size).encode()
        for number, (event, size) in enumerate(events)
    ]
    waits = sum(map(len, before))

    def made(bound: int) -> tuple[list[bytes], Room | None]:
        waiting = before.copy()
        room = overflow.make_room(waiting, begun=begun, waits=waits, size=10, bound=bound)
        if room is None:
            assert waiting == before
        else:
            assert sum(map(len, waiting)) == room.waits <= bound - bound // 4 - 10
            assert waiting[:begun] == before[:begun]
        return waiting, room

    first = made(bound)
    assert made(bound) == first
    _, room = made(bound + more)
    if first[1] is not None:
        assert room is not None
        assert room.lost <= first[1].lost
        assert made(bound)[1] is not None


@pytest.mark.parametrize("name", LOSSY)
def test_the_rest_of_an_event_is_no_event(name: OverflowName) -> None:
    """It stays, though another waits for a whole event of the very same bytes, which goes."""
    overflow = OVERFLOWS[name]
    assert overflow is not None
    whole = event("a", "").encode()
    rest = Rest(whole)
    assert rest != whole
    assert whole != rest
    assert rest == Rest(whole)
    more = [event("a", "x" * 300).encode()] * 3
    kept = []
    for first in (whole, rest):
        waiting = [first, *more]
        waits = sum(map(len, waiting))
        assert overflow.make_room(waiting, begun=0, waits=waits, size=1, bound=1_000)
        kept.append(waiting[0] == first)
    assert kept == [False, True]


# -- who gives way


class Holder:
    """A connection with tabs of which so much waits; `sheds` is what it had each time."""

    def __init__(self, ledger: Ledger, sheds: list[int], tabs: list[int]) -> None:
        self.ledger = ledger
        self.sheds = sheds
        self.tabs = sorted(tabs)
        ledger.note(self, sum(tabs))

    def shed(self, reason: str) -> None:
        assert reason == OVER_TOTAL
        self.sheds.append(sum(self.tabs))
        self.tabs.pop()
        self.ledger.note(self, sum(self.tabs))
        self.ledger.relieve(800)  # as a flush would


@given(st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=5), min_size=1, max_size=20))
def test_the_largest_backlogs_give_way_first(connections: list[list[int]]) -> None:
    ledger = Ledger()
    sheds: list[int] = []
    holders = [Holder(ledger, sheds, tabs) for tabs in connections]
    before = ledger.total
    assert before == sum(map(sum, connections))
    ledger.relieve(800)
    left = [sum(holder.tabs) for holder in holders]
    assert ledger.total == sum(left)
    assert ledger.largest == max(left)
    assert ledger.holders == sum(each > 0 for each in left)
    if before <= 800:
        assert not sheds
    else:
        assert 687 <= ledger.total <= 788
        assert sheds == sorted(sheds, reverse=True)
        assert sheds[-1] >= max(left)


# -- over real sockets


async def open_tabs(client: RawClient, path: str, count: int) -> list[Stream]:
    """Tabs whose windows are closed but for their first bytes."""
    streams = []
    for _ in range(count):
        stream, data = client.request(path)
        streams.append(stream)
        await client.send(data)
    await client.answered(*streams)
    return streams


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        yield held
    finally:
        tracemalloc.stop()


def event(name: str, text: str) -> Event:
    return Event(event=name, data=text)


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_thousand_stalled_tabs_cost_their_bound_at_most(policy: OverflowName) -> None:
    limits = h2sse.Limits(tab_backlog_bytes=16 * KIB, history_events=10)
    app = h2sse.App(limits=limits)
    app.topic("a", overflow=policy)
    async with serving(app, limits=limits) as served, trio.open_nursery() as nursery:
        clients: list[RawClient] = []
        stop = trio.Event()

        async def client(*, task_status: trio.TaskStatus[None]) -> None:
            async with served.client(settings={INITIAL_WINDOW_SIZE: 0}) as client:
                client.patience_seconds = 30
                await open_tabs(client, "/events?topic=a", 250)
                clients.append(client)
                task_status.started()
                await stop.wait()

        for _ in range(4):
            await nursery.start(client)
        assert len(app.tabs("a")) == 1_000

        async def say(times: int) -> None:
            for number in range(times):
                app.publish("a", event(f"name-{number % 10}", "x" * 1_000))
                await trio.testing.wait_all_tasks_blocked()

        with traced() as held:
            await say(30)  # twice the bound
            before = held()
            await say(30)
            # 1,000 references an event, and the marks of a gap.
            assert held() - before < KIB * KIB
        assert app.ledger.total <= 1_000 * limits.tab_backlog_bytes
        counts = served.server.statistics()
        if policy == "end":
            assert counts.overflowed == 1_000
            assert app.tabs("a") == ()
            assert app.ledger.total == 0
        else:
            assert counts.overflowed == 0
            assert counts.lost[policy] > 25_000
            # Each sees where it stands as soon as it reads.
            last = app.publish("a", event("last", "now"))
            for each in clients:
                tabs = list(each.streams.values())[:20]
                await each.send(*(window_update(tab.id, KIB * KIB) for tab in tabs))
                await each.send(window_update(0, 20 * KIB * KIB))
                await each.read_until(
                    functools.partial(
                        lambda tabs: all(t.messages and t.messages[-1].data == "now" for t in tabs),
                        tabs,
                    )
                )
                for tab in tabs:
                    check_real(policy, tab, last.id)
        stop.set()


def check_real(policy: OverflowName, tab: Stream, last: str | None) -> None:
    names = [message.event for message in tab.messages]
    assert tab.messages[-1].last_event_id == last
    numbers = [int(each.last_event_id.rpartition("-")[2]) for each in tab.messages]
    assert numbers == sorted(set(numbers))
    if policy == "latest":
        assert GAP_EVENT not in names
        assert set(names) == {*(f"name-{n}" for n in range(10)), "last"}
    else:
        assert names.count(GAP_EVENT) == 1 == names.index(GAP_EVENT) + 1
        assert gap_of(tab.messages[0])["dropped"] + len(names) - 1 == 61


async def test_who_has_read_the_mark_resumes_after_it() -> None:
    limits = h2sse.Limits(tab_backlog_bytes=8 * KIB)
    app = h2sse.App(limits=limits)
    app.topic("a", overflow="drop-oldest")
    async with (
        serving(app, limits=limits) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: 0}) as client,
    ):
        (tab,) = await open_tabs(client, "/events?topic=a", 1)
        ids = [app.publish("a", event("e", f"{n} " + "x" * 500)).id for n in range(40)]
        await client.settle()
        await client.send(window_update(tab.id, 300))
        await client.heard(1, tab)
        gap = gap_of(tab.messages[0])
        assert (gap["first"], gap["last"]) == (ids[0], ids[gap["dropped"] - 1])
        # What was dropped and told is not replayed; without the mark all of it is.
        for seen, due in (
            (tab.messages[0].last_event_id, ids[gap["dropped"] :]),
            (ids[0], ids[1:]),
        ):
            back = await client.open_stream("/events?topic=a", ("last-event-id", str(seen)))
            await client.send(window_update(back.id, KIB * KIB))
            await client.heard(len(due), back)
            assert [each.last_event_id for each in back.messages] == due
            assert GAP_EVENT not in {each.event for each in back.messages}


async def test_what_a_latest_tab_missed_is_conflated_too() -> None:
    app = h2sse.App()
    app.topic("a", overflow="latest")
    first = app.publish("a", event("e", "first"))
    for n in range(100):
        app.publish("a", event(f"name-{n % 3}", f"{n} " + "x" * 1_000))
    async with serving(app) as served, served.client() as client:
        tab = await client.listen("/events?topic=a", ("last-event-id", str(first.id)))
        app.publish("a", event("e", "live"))
        await client.heard(4, tab)
        assert [each.data.split()[0] for each in tab.messages] == ["97", "98", "99", "live"]


async def test_pages_of_what_a_latest_tab_missed() -> None:
    """More names than fit a page: each comes, and the newest of it last."""
    app = h2sse.App()
    app.topic("a", overflow="latest")
    first = app.publish("a", event("e", "first"))
    for n in range(600):
        app.publish("a", event(f"name-{n % 300}", f"{n} " + "x" * 1_000))
    async with (
        serving(app) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: 2**30}) as client,
    ):
        await client.send(window_update(0, 2**30))
        tab = await client.listen("/events?topic=a", ("last-event-id", str(first.id)))
        await client.heard(300, tab)
        await client.settle()
        assert [int(each.data.split()[0]) for each in tab.messages] == list(range(300, 600))


async def test_all_backlogs_together_are_bounded() -> None:
    """The largest gives way; who has little waiting, and who reads, stay."""
    limits = h2sse.Limits(total_backlog_bytes=100 * KIB)
    app = h2sse.App(limits=limits)
    async with (
        serving(app, limits=limits) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: 0}) as client,
        served.client() as other,
    ):
        (little,) = await open_tabs(client, "/events?topic=little", 1)
        await open_tabs(client, "/events?topic=much&topic=more", 1)
        (most,) = await open_tabs(other, "/events?topic=much", 1)
        await other.begun(most)
        app.publish("little", event("e", "x" * 10_000))
        for _ in range(30):
            app.publish("much", event("e", "x" * 5_000))
            await other.send(window_update(0, 6_000), window_update(most.id, 6_000))
            await client.settle()
            await other.settle()
            assert app.ledger.total <= 100 * KIB
        assert served.server.statistics().reasons == {OVER_TOTAL: 1}
        assert len(most.messages) == 30
        assert not little.over
        assert len(app.tabs("little")) == 1
        assert app.tabs("more") == ()
        metrics = await other.fetch("/metrics")
        text = bytes(metrics.body).decode()
        assert f'h2sse_ended_total{{reason="{OVER_TOTAL}"}} 1.0' in text
        assert f"h2sse_backlog_bytes {float(app.ledger.total)}" in text


async def test_connections_without_tabs_give_way_too() -> None:
    """Answers that nobody reads count, and end with a reset."""
    limits = h2sse.Limits(total_backlog_bytes=100_000)
    app = h2sse.App(limits=limits)
    app.get("/large")(lambda _: h2sse.Response.text("x" * 60_000))
    async with (
        serving(app, limits=limits) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: 0}) as client,
    ):
        streams = [await client.open_stream("/large") for _ in range(2)]
        await client.read_until(lambda: any(each.over for each in streams))
        await client.settle()
        assert sorted(each.reset is None for each in streams) == [False, True]
        assert app.ledger.total == 60_000
        assert served.server.statistics().reasons == {OVER_TOTAL: 1}


async def test_the_memory_of_a_stalled_connection_is_back_within_a_second(
    jumping_clock: MockClock,
) -> None:
    limits = h2sse.Limits(stall_seconds=5)
    app = h2sse.App(limits=limits)
    app.topic("a", overflow="latest")
    async with serving(app, limits=limits) as served, served.client() as other:
        await other.listen("/events?topic=other")
        # A stream's window, the connection's window, and a socket that nobody reads.
        async with served.client(settings={INITIAL_WINDOW_SIZE: 0}) as client:
            await open_tabs(client, "/events?topic=a", 3)
            for _ in range(10):
                app.publish("a", event("e", "x" * 10_000))
            await client.settle()
            assert app.ledger.total >= 3 * 10_000
            await trio.sleep(6)
            assert app.ledger.total == 0
            assert app.tabs("a") == ()
        async with served.client(settings={INITIAL_WINDOW_SIZE: 2**30}) as client:
            await client.listen("/events?topic=a")
            connection = max(served.server.connections, key=lambda each: each.number)
            for number in range(30):
                app.publish("a", event(f"{number % 3}", "x" * 10_000))
                await client.settle()
            assert app.ledger.total >= 10_000
            wire = connection.wire
            assert isinstance(wire, Http2)
            await trio.sleep(7)  # whether it is closed is looked at once a second
            assert app.ledger.total == wire.waits == 0
            gone = weakref.ref(connection)
            del connection, wire
            await client.read_to_end()
        await trio.sleep(limits.linger_seconds + 1)
        gc.collect()
        assert gone() is None
        async with served.client(settings={INITIAL_WINDOW_SIZE: 2**30}) as client:
            await client.send(window_update(0, 2**30))
            await client.listen("/events?topic=a")
            for number in range(100):
                app.publish("a", event(f"{number % 2}", "x" * 100_000))
                await trio.testing.wait_all_tasks_blocked()
            assert app.ledger.total > 0
            gone = weakref.ref(max(served.server.connections, key=lambda each: each.number))
            # What is on its way to the peer's kernel is progress, by a clock that does not jump.
            while not served.server.statistics().reasons[SOCKET_FULL]:  # noqa: ASYNC110
                await trio.sleep(0.1)
            await trio.sleep(1)
            assert app.ledger.total == 0
            gc.collect()
            assert gone() is None


# -- those who take a little now and then

STALL_SECONDS = 3


async def dribble(client: RawClient, *streams: int) -> None:
    """Open windows by a byte, once a second, for as long as there is a connection."""
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await trio.sleep(1)
            await client.send(*(window_update(stream, 1) for stream in streams))


async def test_a_window_that_opens_by_a_byte_is_closed(jumping_clock: MockClock) -> None:
    """Its stream ends, an answer is reset; a tab that keeps its window open hears on."""
    limits = h2sse.Limits(stall_seconds=STALL_SECONDS)
    app = h2sse.App(limits=limits)
    app.topic("lossy", overflow="latest")
    app.get("/large")(lambda _: h2sse.Response.text("x" * 60_000))
    async with (
        serving(app, limits=limits) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: 100}) as client,
        trio.open_nursery() as nursery,
    ):
        tab = await client.listen("/events?topic=lossy")
        other = await client.listen("/events?topic=b")
        app.publish("lossy", event("e", "x" * 30_000))
        page = await client.open_stream("/large")
        nursery.start_soon(dribble, client, tab.id, page.id)
        began = trio.current_time()
        await client.over(tab, page)
        assert STALL_SECONDS <= trio.current_time() - began <= STALL_SECONDS + 2
        assert (tab.ended, page.reset) == (True, 8)
        assert app.ledger.total == 0
        assert served.server.statistics().reasons == {"window closed too long": 2}
        app.publish("b", event("e", "x"))
        await client.heard(1, other)
        nursery.cancel_scope.cancel()


async def test_a_connection_window_that_opens_by_a_byte_is_closed(
    jumping_clock: MockClock,
) -> None:
    limits = h2sse.Limits(stall_seconds=STALL_SECONDS)
    app = h2sse.App(limits=limits)
    async with (
        serving(app, limits=limits) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: 2**30}) as client,
        trio.open_nursery() as nursery,
    ):
        await client.listen("/events?topic=a")
        app.publish("a", event("e", "x" * 100_000))
        nursery.start_soon(dribble, client, 0)
        began = trio.current_time()
        await client.read_to_end()
        assert STALL_SECONDS <= trio.current_time() - began <= STALL_SECONDS + 3
        assert served.server.statistics().reasons == {"connection window closed too long": 1}
        assert app.ledger.total == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("whose", ["stream", "connection"])
async def test_a_slow_reader_has_all_the_time_it_needs(
    whose: str, jumping_clock: MockClock
) -> None:
    """`stall_bytes` in `stall_seconds`, by a window that is never open when it is looked at."""
    limits = h2sse.Limits(stall_seconds=STALL_SECONDS, stall_bytes=4 * KIB)
    settings = {INITIAL_WINDOW_SIZE: 0 if whose == "stream" else 2**30}
    async with (
        serving(h2sse.App(), limits=limits) as served,
        served.client(settings=settings) as client,
    ):
        (tab,) = await open_tabs(client, "/events?topic=a", 1)
        stream = tab.id if whose == "stream" else 0
        served.app.publish("a", event("e", "x" * 130_000))
        began = trio.current_time()
        while not tab.messages:
            await trio.sleep(1)
            await client.send(window_update(stream, 2 * KIB))
            if whose == "stream":
                await client.send(window_update(0, 2 * KIB))
            await client.settle()
        assert trio.current_time() - began > 10 * STALL_SECONDS
        assert not tab.over


async def test_a_slow_reader_may_give_up_what_it_sends(jumping_clock: MockClock) -> None:
    """Uploads that end before they have begun, and a tab that is behind all the time."""
    limits = h2sse.Limits(idle_seconds=STALL_SECONDS, stall_seconds=STALL_SECONDS)
    async with (
        serving(h2sse.App(), limits=limits) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: 0}) as client,
    ):
        (tab,) = await open_tabs(client, "/events?topic=a", 1)
        served.app.publish("a", event("e", "x" * 130_000))
        for _ in range(10):
            upload, data = client.request("/publish", method="POST", body=b"")
            await client.send(data.removesuffix(frame(DATA, END_STREAM, upload.id)))
            await client.send(window_update(tab.id, 8 * KIB), window_update(0, 8 * KIB))
            await trio.sleep(STALL_SECONDS / 2)
            await client.send(reset(upload.id))
            await client.settle()
            assert not tab.over
        assert served.server.statistics().reasons == {}


async def test_a_tab_that_is_one_short_event_behind_keeps_pace(jumping_clock: MockClock) -> None:
    """However little its topic says: it takes all that waited, if never all that waits."""
    limits = h2sse.Limits(stall_seconds=STALL_SECONDS)
    async with (
        serving(h2sse.App(), limits=limits) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: 0}) as client,
    ):
        (tab,) = await open_tabs(client, "/events?topic=a", 1)
        await client.send(window_update(tab.id, served.app.ledger.total))
        behind = served.app.publish("a", event("e", "x"))
        for _ in range(10 * STALL_SECONDS):
            await trio.sleep(1)
            taken, behind = behind, served.app.publish("a", event("e", "x"))
            await client.send(window_update(tab.id, len(taken.encode())))
            await client.settle()
            assert served.app.ledger.total == len(behind.encode())
        assert not tab.over
        assert len(tab.messages) == 10 * STALL_SECONDS


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_a_socket_read_by_a_little_is_closed(protocol: str, jumping_clock: MockClock) -> None:
    """Some KB a second make room for more each time, and come to less than `stall_bytes`."""
    limits = h2sse.Limits(stall_seconds=STALL_SECONDS, stall_bytes=64 * KIB)
    app = h2sse.App(limits=limits)
    async with serving(app, limits=limits) as served, narrow(served, protocol) as stream:
        if protocol == "h2":
            client = RawClient(stream, "narrow")
            await client.send(
                PREFACE,
                settings_frame({INITIAL_WINDOW_SIZE: MAX_WINDOW}),
                window_update(0, MAX_WINDOW - DEFAULT_WINDOW),
            )
            await client.listen("/events?topic=a")
        else:
            await stream.send_all(b"GET /events?topic=a HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        app.publish("a", event("e", "x" * 250_000))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert app.ledger.total > 0
        began = trio.current_time()
        taken = 0
        with trio.move_on_after(60), contextlib.suppress(trio.BrokenResourceError):
            while data := await stream.transport_stream.receive_some(2 * KIB):
                taken += len(data)
                await trio.sleep(0.5)
        assert STALL_SECONDS <= trio.current_time() - began <= 20
        assert 8 * KIB < taken < 128 * KIB
        assert served.server.statistics().reasons == {SOCKET_FULL: 1}
        assert app.ledger.total == 0
