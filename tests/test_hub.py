"""The hub against fake connections that deliver only when told."""

from __future__ import annotations

import itertools
import json
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from h2sse.config import Limits
from h2sse.history import TOPIC_BYTES, MemoryHistory
from h2sse.hub import PAGE_BYTES, Group, Hub, Presence, Subscribe, Tab, spread
from h2sse.overflow import GAP_EVENT
from h2sse.sse import Event, Message, Parser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from h2sse.wire import Lane, Overflow, ProtocolName

RETRY_MS = 3_000


class FakeLane:
    """Says at once who is to receive what, and counts the offers."""

    def __init__(self, sink: FakeSink) -> None:
        self.sink = sink
        self.streams: list[int] = []
        self.offers = 0

    def offer(self, payload: bytes) -> None:
        self.offers += 1
        for stream in self.streams:
            self.sink.write(stream, payload)


class FakeSink:
    """A connection without a wire: what is written to a stream is given to its callback."""

    peer = "192.0.2.1"
    protocol: ProtocolName = "h2"

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self.groups: dict[frozenset[str], Group] = {}
        self.streams: dict[int, Callable[[bytes], None]] = {}
        self.unannounced = False  # whether something was written since `offered`

    def write(self, stream: int, payload: bytes) -> None:
        self.streams[stream](payload)
        self.unannounced = True

    def lane(self, overflow: Overflow | None = None) -> Lane:
        return FakeLane(self)

    def send(self, stream: int, payload: bytes) -> None:
        self.write(stream, payload)

    def enter(self, stream: int, lane: Lane) -> None:
        assert isinstance(lane, FakeLane)
        lane.streams.append(stream)

    def offered(self) -> None:
        self.unannounced = False

    def abort(self) -> None:
        raise AssertionError("nothing here fails")

    def close(self, stream: int) -> None:
        """The wire's part when a stream ends."""
        del self.streams[stream]
        for group in self.groups.values():
            assert isinstance(group.lane, FakeLane)
            if stream in group.lane.streams:
                group.lane.streams.remove(stream)


# -- every interleaving


@dataclass(eq=False)
class Page:
    """A browser's page with one EventSource, and what the rules owe it.

    `unread` is on its way to it; `last_event_id` is what it has read, and comes back with.  `due`
    is checked against what is written, `position` is the newest event written, `told` the newest
    one that it knows to be forgotten.
    """

    topics: frozenset[str]
    greeted: bool
    replay: bool
    last_event_id: str = ""
    tab: Tab | None = None
    sink: FakeSink | None = None
    stream: int = 0
    unread: bytearray = field(default_factory=bytearray)
    reads: Parser = field(default_factory=Parser)
    written: Parser = field(default_factory=Parser)
    due: deque[int] = field(default_factory=deque)
    position: int = 0
    told: int = 0
    greetings: int = 0

    def read(self, size: int) -> None:
        self.reads.feed(bytes(self.unread[:size]))
        del self.unread[:size]


@dataclass(frozen=True)
class Published:
    sequence: int
    topics: frozenset[str]
    event_id: str
    time: float


TOPICS = ("a", "b")
SETS = st.sets(st.sampled_from(TOPICS), min_size=1)
SINKS = st.integers(0, 1)
# One such event makes a page of the history.
LARGE = PAGE_BYTES


class Delivery(RuleBasedStateMachine):
    """Each page is written every event of its topics after its place, once and in order, or is
    told of a gap: wherever it leaves, resumes, reads, or history forgets."""

    LIMITS = Limits(
        history_events=3,
        history_seconds=60,
        history_topics=4,
        history_unheard_bytes=4 * (LARGE + TOPIC_BYTES),
    )

    pages = Bundle[Page]("pages")

    def __init__(self) -> None:
        super().__init__()
        self.history = MemoryHistory(self.LIMITS)
        self.hub = Hub(self.history)
        self.sinks = [FakeSink(1), FakeSink(2)]
        self.streams = itertools.count(1)
        self.now = 0.0
        self.log: list[Published] = []
        self.open: list[Page] = []
        self.present: dict[str, list[Tab]] = {topic: [] for topic in TOPICS}
        self.delivered = 0

    @initialize()
    def watch(self) -> None:
        def note(presence: Presence) -> None:
            tabs = self.present[presence.topic]
            if presence.joined:
                tabs.append(presence.tab)
            else:
                tabs.remove(presence.tab)
            # What has happened is to be seen already.
            assert list(self.hub.tabs(presence.topic)) == tabs

        for topic in TOPICS:
            self.hub.watch(topic, note)

    # -- what happens

    @rule(topics=SETS, times=st.integers(1, 4), large=st.booleans(), own=st.booleans())
    def publish(self, topics: set[str], times: int, large: bool, own: bool) -> None:
        for _ in range(times):
            self.publish_one(topics, large, own)

    def publish_one(self, topics: set[str], large: bool, own: bool) -> None:
        sequence = len(self.log) + 1
        event_id = f"own {sequence}" if own else self.history.id(sequence)
        self.log.append(Published(sequence, frozenset(topics), event_id, self.now))
        live = 0
        for page in self.open:
            if page.topics & topics:
                page.due.append(sequence)
                live += page.tab is not None and self.is_live(page)
        data = f"{sequence} {'x' * LARGE if large else ''}"
        event = Event(data=data, id=event_id if own else None)
        entry = self.hub.publish(sorted(topics), event, self.now)
        assert (entry.sequence, entry.id) == (sequence, event_id)
        self.delivered += live

    @initialize()
    def hear(self) -> None:
        """Somebody listens to each, and has gone: what others publish takes nothing from them."""
        self.history.hear(TOPICS)

    @rule(times=st.integers(1, 6), large=st.booleans())
    def publish_unheard(self, times: int, large: bool) -> None:
        """To ever new topics, which nobody listens to."""
        for _ in range(times):
            self.publish_one({f"unheard {len(self.log)}"}, large, own=False)

    @rule(seconds=st.sampled_from([1, 30, 100]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(
        target=pages,
        topics=SETS,
        sink=SINKS,
        seen=st.none() | st.integers(0, 8),
        greeted=st.booleans(),
        replay=st.sampled_from([True, True, True, False]),
    )
    def load(
        self, topics: set[str], sink: int, seen: int | None, greeted: bool, replay: bool
    ) -> Page:
        """A new page; with `seen`, one that resumes from some events ago."""
        page = Page(frozenset(topics), greeted, replay)
        if seen is not None:
            page.last_event_id = self.history.id(max(0, len(self.log) - seen))
        self.connect(page, sink)
        return page

    @rule(page=pages, sink=SINKS)
    def connect(self, page: Page, sink: int) -> None:
        if page.tab is not None:
            return
        page.sink, page.stream = self.sinks[sink], next(self.streams)
        page.sink.streams[page.stream] = lambda payload: self.check(page, payload)
        page.reads = Parser(last_event_id=page.last_event_id)
        page.written = Parser(last_event_id=page.last_event_id)
        page.greetings = page.told = 0
        places = {self.history.id(n): n for n in range(len(self.log) + 1)}
        places |= {each.event_id: each.sequence for each in self.log}
        if page.last_event_id and page.replay:
            page.position = places.get(page.last_event_id, 0)
        else:
            page.position = len(self.log)
        page.due = deque(self.since(page, page.position))
        greeting = [Event(event="greeting")] if page.greeted else []
        joining = self.hub.join(
            page.sink,
            page.stream,
            Subscribe(*page.topics, greeting=greeting, replay=page.replay),
            last_event_id=page.last_event_id,
            retry=RETRY_MS,
            now=self.now,
        )
        self.check(page, joining.first)
        page.tab = joining.tab
        afresh = not page.last_event_id or not page.replay or joining.gap is not None
        assert page.greetings == (afresh and page.greeted)
        if afresh:
            # From the first byte on the page has a place to come back to.
            assert page.written.last_event_id in places
        self.open.append(page)
        self.hub.resume(page.tab, self.now)
        self.hub.arrive(page.tab)

    @rule(page=pages)
    def drain(self, page: Page) -> None:
        """The connection takes all there is, and says so."""
        page.read(len(page.unread))
        if page.tab is not None:
            self.hub.resume(page.tab, self.now)

    @rule(page=pages, share=st.floats(0, 1))
    def disconnect(self, page: Page, share: float) -> None:
        """At any byte."""
        if page.tab is None or page.sink is None:
            return
        page.read(round(len(page.unread) * share))
        page.last_event_id = page.reads.last_event_id
        page.unread.clear()
        page.sink.close(page.stream)
        self.open.remove(page)
        self.hub.leave(page.tab)
        page.tab = None

    @rule(page=pages)
    def misremember(self, page: Page) -> None:
        """It has been on a server of an earlier run."""
        if page.tab is None:
            page.last_event_id = "0123456789-1"

    # -- what it comes to

    def since(self, page: Page, position: int) -> Iterable[int]:
        log = self.log[position:]
        return (each.sequence for each in log if each.topics & page.topics)

    def remembered(self, topic: str) -> list[int]:
        """What a topic holds by the rules: the newest few, none too old."""
        of_topic = [each for each in self.log if topic in each.topics]
        newest = of_topic[-self.LIMITS.history_events :]
        oldest = self.now - self.LIMITS.history_seconds
        return [each.sequence for each in newest if each.time >= oldest]

    def is_live(self, page: Page) -> bool:
        assert page.sink is not None
        group = page.sink.groups.get(page.topics)
        return group is not None and page.stream in _lane(group).streams

    def check(self, page: Page, payload: bytes) -> None:
        page.unread += payload
        for message in page.written.feed(payload):
            match message.event:
                case "history-gap":
                    self.check_gap(page, message)
                case "greeting":
                    page.greetings += 1
                case _:
                    sequence = int(message.data.partition(" ")[0])
                    assert page.due, "an event twice, or of another topic"
                    assert sequence == page.due.popleft()
                    assert message.last_event_id == self.log[sequence - 1].event_id
                    page.position = sequence

    def check_gap(self, page: Page, message: Message) -> None:
        reason = json.loads(message.data)["reason"]
        held = {each for topic in page.topics for each in self.remembered(topic)}
        newest_forgotten = max(
            (
                each.sequence
                for each in self.log
                for topic in page.topics & each.topics
                if each.sequence not in self.remembered(topic)
            ),
            default=0,
        )
        if reason == "unknown":
            assert page.last_event_id not in map(self.history.id, range(len(self.log) + 1))
            page.position = 0
            page.due = deque(self.since(page, 0))
        else:
            assert reason == "pruned"
            assert newest_forgotten > max(page.position, page.told), "nothing more was lost"
        page.told = newest_forgotten
        if page.tab is None and page.greeted:
            held = set()  # the greeting stands for all that was
            page.position = len(self.log)
        page.due = deque(each for each in page.due if each in held)
        # What is still due can be resumed from the gap's own id.
        place = int(message.last_event_id.rpartition("-")[2])
        assert message.last_event_id == self.history.id(place)
        assert all(each > place for each in page.due)
        assert place >= page.position

    @invariant()
    def live_pages_have_been_written_everything(self) -> None:
        for page in self.open:
            if self.is_live(page):
                assert not page.due
            else:
                assert page.unread, "nothing will drain, so nothing would follow"

    @invariant()
    def what_is_written_is_announced(self) -> None:
        assert not any(sink.unannounced for sink in self.sinks)

    @invariant()
    def counts_are_true(self) -> None:
        for topic in TOPICS:
            tabs = [page.tab for page in self.open if topic in page.topics]
            assert list(self.hub.tabs(topic)) == self.present[topic] == tabs
        for sink in self.sinks:
            for topics, group in sink.groups.items():
                assert group.size == len(_lane(group).streams) > 0
                assert group.topics == topics
        statistics = self.hub.statistics()
        assert statistics.tabs == len(self.open)
        assert statistics.topics == len({name for page in self.open for name in page.topics})
        assert statistics.published == len(self.log)
        assert statistics.delivered == self.delivered

    def teardown(self) -> None:
        """Whoever drains gets all; when all have left, nothing of them is held."""
        for page in list(self.open):
            while page.unread:
                self.drain(page)
            assert self.is_live(page)
            assert not page.due
            self.disconnect(page, 1)
        self.counts_are_true()
        assert self.hub._topics == {}
        assert [sink.groups for sink in self.sinks] == [{}, {}]


def _lane(group: Group) -> FakeLane:
    assert isinstance(group.lane, FakeLane)
    return group.lane


Delivery.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestDelivery = Delivery.TestCase


# -- one at a time


class Reader:
    """A tab whose connection drains at once."""

    def __init__(
        self,
        hub: Hub,
        subscribe: Subscribe,
        *,
        sink: FakeSink | None = None,
        last_event_id: str = "",
        now: float = 0,
    ) -> None:
        self.hub = hub
        self.sink = sink if sink is not None else FakeSink()
        self.stream = 1 + max(self.sink.streams, default=0)
        self.parser = Parser(last_event_id=last_event_id)
        self.messages: list[Message] = []
        self.sink.streams[self.stream] = self._read
        joining = hub.join(
            self.sink,
            self.stream,
            subscribe,
            last_event_id=last_event_id,
            retry=RETRY_MS,
            now=now,
        )
        self.tab = joining.tab
        self.gap = joining.gap
        self._read(joining.first)
        self.more(now)
        hub.arrive(self.tab)

    def _read(self, payload: bytes) -> None:
        self.messages += self.parser.feed(payload)

    def more(self, now: float) -> None:
        """Until the tab is live."""
        seen = -1
        while len(self.messages) > seen:
            seen = len(self.messages)
            self.hub.resume(self.tab, now)

    @property
    def data(self) -> list[str]:
        return [message.data for message in self.messages if message.event != GAP_EVENT]

    @property
    def gaps(self) -> list[object]:
        return [json.loads(each.data) for each in self.messages if each.event == GAP_EVENT]

    def leave(self) -> None:
        self.sink.close(self.stream)
        self.hub.leave(self.tab)


def new_hub(**limits: int) -> Hub:
    return Hub(MemoryHistory(Limits(**limits)))


def test_a_payload_is_offered_once_a_group() -> None:
    hub, sink = new_hub(), FakeSink()
    tabs = [Reader(hub, Subscribe(*topics), sink=sink) for topics in ("a", "a", "ab", "ba", "c")]
    assert [sorted(topics) for topics in sink.groups] == [["a"], ["a", "b"], ["c"]]
    lanes = [_lane(group) for group in sink.groups.values()]
    hub.publish(["a"], Event(data="1"), 0)
    assert [lane.offers for lane in lanes] == [1, 1, 0]
    hub.publish(["b", "a", "c"], Event(data="2"), 0)
    assert [lane.offers for lane in lanes] == [2, 2, 1]
    assert [tab.data for tab in tabs] == [["1", "2"]] * 4 + [["2"]]
    assert hub.statistics().delivered == 9


def test_an_opening_comes_first() -> None:
    hub = new_hub()
    hub.publish(["b"], Event(), 0)
    reader = Reader(hub, Subscribe("a"))
    assert reader.messages == []
    assert reader.parser.reconnection_time == RETRY_MS
    assert reader.parser.last_event_id == hub.history.id(1)
    # What comes back keeps its own place: the server has none that is newer.
    again = Reader(hub, Subscribe("a"), last_event_id=hub.history.id(0))
    assert again.parser.last_event_id == hub.history.id(0)


def test_whoever_starts_afresh_is_greeted_and_whoever_resumes_gets_what_was_missed() -> None:
    hub = new_hub()
    subscribe = Subscribe("a", greeting=[Event(data="hello"), Event(data="there")])
    reader = Reader(hub, subscribe)
    hub.publish("a", Event(data="1"), 0)
    assert reader.data == ["hello", "there", "1"]
    # The last of a greeting carries the place: Firefox takes an id only from an event with data.
    place = hub.history.id(0)
    assert [each.last_event_id for each in reader.messages] == [place, place, hub.history.id(1)]
    assert Reader(hub, subscribe, last_event_id=place).data == ["1"]
    always = Subscribe("a", greeting=subscribe.greeting, replay=False)
    assert Reader(hub, always, last_event_id=place).data == ["hello", "there"]


def test_a_greeting_is_asked_for_at_the_instant_of_joining() -> None:
    hub = new_hub()
    state = ["before"]

    def greeting() -> list[Event]:
        # Even what is published meanwhile is not lost between the greeting and the stream.
        hub.publish("a", Event(data="meanwhile"), 0)
        return [Event(data=state[0], id="own")]

    subscribe = Subscribe("a", greeting=greeting)
    state[0] = "after"
    reader = Reader(hub, subscribe)
    assert [(each.data, each.last_event_id) for each in reader.messages] == [
        ("after", "own"),
        ("meanwhile", hub.history.id(1)),
    ]


def test_a_greeting_that_raises_leaves_nothing_behind() -> None:
    hub, sink = new_hub(), FakeSink()

    def greeting() -> list[Event]:
        raise LookupError("the application's own")

    with pytest.raises(LookupError):
        Reader(hub, Subscribe("a", greeting=greeting), sink=sink)
    assert (hub.statistics().tabs, hub.statistics().topics, sink.groups) == (0, 0, {})


def test_a_gap_is_told_once() -> None:
    hub = new_hub(history_events=2)
    before = hub.history.id(0)
    hub.publish("a", Event(data="1"), 0)
    for number in range(2, 6):
        hub.publish("b", Event(data=str(number)), 0)
    for last_event_id, reason in ((before, "pruned"), ("0123456789-1", "unknown")):
        for topics in ("b", "ab"):
            # With two topics, what one still holds is older than what the other has forgotten.
            reader = Reader(hub, Subscribe(*topics), last_event_id=last_event_id)
            assert reader.gap == reason
            assert reader.gaps == [{"reason": reason, "lastEventId": last_event_id}]
            assert reader.data == [*("1" if "a" in topics else ""), "4", "5"]
    assert hub.statistics().gaps == 4


@pytest.mark.parametrize("greeting", [(), (Event(data="hello"),)], ids=["bare", "greeted"])
def test_who_is_cut_off_before_it_heard_of_the_gap_hears_of_it_again(
    greeting: tuple[Event, ...],
) -> None:
    """No id comes ahead of the gap: it would be known, and the gap never be told."""
    hub = new_hub()
    hub.publish("a", Event(data="1"), 0)
    subscribe = Subscribe("a", greeting=greeting)
    joining = hub.join(
        FakeSink(), 1, subscribe, last_event_id="0123456789-1", retry=RETRY_MS, now=0
    )
    for size in range(len(joining.first) + 1):
        parser = Parser()
        told = [each.event for each in parser.feed(joining.first[:size])]
        assert GAP_EVENT in told or parser.last_event_id == ""


def test_a_gap_under_the_eyes_of_who_catches_up_is_told_once() -> None:
    hub = new_hub(history_events=3)
    for number in (1, 2, 3):
        hub.publish("a", Event(data=f"{number}" + "x" * PAGE_BYTES), 0)
    sink = FakeSink()
    read: list[Message] = []
    parser = Parser()
    sink.streams[1] = lambda payload: read.extend(parser.feed(payload))
    joining = hub.join(
        sink, 1, Subscribe("a"), last_event_id=hub.history.id(0), retry=RETRY_MS, now=0
    )
    assert joining.gap is None
    hub.resume(joining.tab, 0)
    assert [each.data[0] for each in read] == ["1"]
    for number in (4, 5):
        hub.publish("a", Event(data=f"{number}" + "x" * PAGE_BYTES), 0)
    assert len(read) == 1  # its connection is behind: nothing waits in memory for it
    for _ in range(4):
        hub.resume(joining.tab, 0)
    assert [each.data[0] for each in read if each.event == "message"] == ["1", "3", "4", "5"]
    gap = read[1]
    assert (gap.event, gap.last_event_id) == (GAP_EVENT, hub.history.id(2))
    assert json.loads(gap.data) == {"reason": "pruned", "lastEventId": hub.history.id(1)}
    assert (hub.statistics().gaps, len(read)) == (1, 5)


def test_a_gap_with_nothing_after_it_is_announced() -> None:
    hub = new_hub(history_seconds=10)
    for number in (1, 2):
        hub.publish("a", Event(data=f"{number}" + "x" * PAGE_BYTES), 0)
    sink = FakeSink()
    parser = Parser()
    read: list[Message] = []
    sink.streams[1] = lambda payload: read.extend(parser.feed(payload))
    joining = hub.join(
        sink, 1, Subscribe("a"), last_event_id=hub.history.id(0), retry=RETRY_MS, now=0
    )
    hub.resume(joining.tab, 0)
    hub.resume(joining.tab, 20)
    assert [each.event for each in read] == ["message", GAP_EVENT]
    assert not sink.unannounced


class FailingSink(FakeSink):
    """A connection that fails once it is `broken`: in its lane, or when told to write."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(number)
        self.where = where
        self.broken = False
        self.aborted = 0

    def write(self, stream: int, payload: bytes) -> None:
        if self.broken and self.where == "offer":
            raise ZeroDivisionError
        super().write(stream, payload)

    def offered(self) -> None:
        if self.broken and self.where == "offered":
            raise ZeroDivisionError
        super().offered()

    def abort(self) -> None:
        self.aborted += 1


@pytest.mark.parametrize("where", ["offer", "offered"])
def test_a_sink_that_fails_is_ended_alone(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever stands before or behind it hears each event; it is logged once, and asked no more."""
    hub, sink = new_hub(), FailingSink(7, where)
    before = Reader(hub, Subscribe("a"))
    victims = [Reader(hub, Subscribe(*topics), sink=sink) for topics in ("a", "a", "ab", "b")]
    behind = Reader(hub, Subscribe("a", "b"))
    sink.broken = True
    for number, topics in enumerate(("a", "b", "ab")):
        entry = hub.publish(tuple(topics), Event(data=str(number)), 0)
        assert entry.id == hub.history.id(entry.sequence)
    assert (before.data, behind.data) == (["0", "2"], ["0", "1", "2"])
    (record,) = caplog.records
    assert record.getMessage() == "connection 7 of 192.0.2.1 failed"
    assert record.exc_info is not None
    assert sink.aborted == 1
    assert hub.statistics().delivered == 5
    for reader in (*victims, before, behind):
        reader.leave()
    assert (hub.statistics().tabs, hub.statistics().topics, sink.groups) == (0, 0, {})


def test_presence_shows_who_is_there(caplog: pytest.LogCaptureFixture) -> None:
    hub = new_hub()
    heard: list[tuple[str, int, bool, list[int]]] = []

    def fail(presence: Presence) -> None:
        raise ZeroDivisionError

    def note(presence: Presence) -> None:
        there = [tab.id for tab in hub.tabs(presence.topic)]
        heard.append((presence.topic, presence.tab.id, presence.joined, there))

    hub.watch("a", fail)
    hub.watch("a", note)
    with caplog.at_level(logging.ERROR):
        one = Reader(hub, Subscribe("a", "b"), sink=FakeSink(7))
        two = Reader(hub, Subscribe("a"))
        Reader(hub, Subscribe("b"))
        one.leave()
        two.leave()
    assert heard == [
        ("a", 1, True, [1]),
        ("a", 2, True, [1, 2]),
        ("a", 1, False, [2]),
        ("a", 2, False, []),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "presence callback for topic 'a' failed"
    ] * 4
    assert (one.tab.connection, one.tab.protocol, one.tab.peer) == (7, "h2", "192.0.2.1")
    assert one.tab.topics == {"a", "b"}
    assert repr(one.tab) == "<Tab 1 of ['a', 'b']>"


def test_a_presence_callback_may_publish() -> None:
    hub = new_hub()

    def tell(presence: Presence) -> None:
        ids = [tab.id for tab in hub.tabs("a")]
        hub.publish("a", Event(data=str(ids)), 0)

    hub.watch("a", tell)
    one = Reader(hub, Subscribe("a"))
    two = Reader(hub, Subscribe("a"), sink=one.sink)
    two.leave()
    assert one.data == ["[1]", "[1, 2]", "[1]"]
    assert two.data == ["[1, 2]"]
    one.leave()
    assert (hub.statistics().topics, one.sink.groups) == (0, {})


# -- Subscribe


def test_topics_are_a_set() -> None:
    assert Subscribe("a", "b", "a") == Subscribe("b", "a")
    for topics in ((), ("",), ("a", "")):
        with pytest.raises(ValueError, match="at least one topic, none of them empty"):
            Subscribe(*topics)


@pytest.mark.parametrize("retry", [0, -1, 86_400_001, True, 1.5])
def test_a_retry_out_of_bounds_is_refused(retry: int) -> None:
    with pytest.raises(ValueError, match="retry"):
        Subscribe("a", retry=retry)


@pytest.mark.parametrize(
    "pair", [(b"x", b"a\r\nset-cookie: b"), (b"x\n", b""), (b"X", b""), (b"", b""), (b"x", b"\0")]
)
def test_a_field_that_would_forge_another_is_refused(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="field"):
        Subscribe("a", fields=[pair])


def test_reconnection_times_are_spread_around_what_is_configured() -> None:
    times = [spread(1_000, 0.3) for _ in range(1_000)]
    assert 700 <= min(times) < 800
    assert 1_200 < max(times) <= 1_300
    assert {spread(1_000, 0) for _ in range(10)} == {1_000}
    assert {spread(1, 0.9) for _ in range(100)} <= {1, 2}
