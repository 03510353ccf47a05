"""Fan-out: one encoded event to every stream that asked for its topic.

The hub knows topics, tabs and sinks, nothing of HTTP.  A *sink* is a connection; a *tab* is one
stream of it; a *group* is the tabs of a sink that asked for the same topics, so that a payload is
offered once a group, whatever the number of tabs.  Connections that all get the same may speak with
one voice: groups are *united* in one, of a `Speaker` that stands for them all.  It is synchronous:
`publish` encodes once, makes one offer a group and returns, so a publish is never seen half done.
A sink that fails amid it is ended alone.

    joined --behind--> catching up (reads pages of the history) --at the newest event--> live

A tab that resumes reads from the history, page by page, as fast as its connection drains.  Once a
page holds all there is, the tab enters its group in the same call, with no chance for an event to
come in between: no gap, no double, in order, and nothing held in memory for it meanwhile.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias, final

from .history import Known, Lost
from .overflow import GAP_EVENT, Overflows, newest
from .sse import MAX_RETRY_MS, Event, opening
from .wire import check_fields

if TYPE_CHECKING:
    from .history import Entry, History
    from .wire import Lane, Overflow, ProtocolName

__all__ = [
    "Group",
    "Hub",
    "HubStatistics",
    "Presence",
    "Sink",
    "Speaker",
    "Subscribe",
    "Tab",
    "spread",
]

logger = logging.getLogger(__name__)

# What a tab that catches up is given at a time: a page waits in memory, no more.
PAGE_BYTES = 64 * 1024
# In pieces of about so much, a TLS record.
_PIECE_BYTES = 16 * 1024
# Tabs that were cut off together come back to the same places.
_PAGES_KEPT = 16

Greeting: TypeAlias = Sequence[Event] | Callable[[], Sequence[Event]]


@final
@dataclass(frozen=True, init=False)
class Subscribe:
    """The decision to answer a request with an event stream.

    `greeting` is for a tab that starts afresh: its first events, or a function that gives them at
    the instant of joining.  A tab that comes back with an id we know gets what it missed instead;
    with `replay` False nothing is replayed and every tab is greeted.  `retry` is the reconnection
    time in ms, instead of the configured one.  `fields` are further response header fields.
    """

    topics: frozenset[str]
    greeting: Greeting
    replay: bool
    retry: int | None
    fields: tuple[tuple[bytes, bytes], ...]

    def __init__(
        self,
        *topics: str,
        greeting: Greeting = (),
        replay: bool = True,
        retry: int | None = None,
        fields: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        if not topics or not all(topics):
            raise ValueError("Subscribe needs at least one topic, none of them empty")
        check_fields(fields)
        if retry is not None and (type(retry) is not int or not 0 < retry <= MAX_RETRY_MS):
            raise ValueError(f"retry must be 1 to {MAX_RETRY_MS} ms: {retry!r}")
        for name, value in (
            ("topics", frozenset(topics)),
            ("greeting", greeting),
            ("replay", replay),
            ("retry", retry),
            ("fields", tuple(fields)),
        ):
            object.__setattr__(self, name, value)


class Speaker(Protocol):
    """Who brings events to tabs.  None of its methods waits, or is meant to raise."""

    groups: dict[frozenset[str], Group]

    @property
    def number(self) -> int:
        """The connection's number; 0 for many."""

    @property
    def peer(self) -> str:
        """The client's address."""

    def lane(self, overflow: Overflow | None = None) -> Lane:
        """A new lane, which `overflow` keeps within its bound; without one its streams end."""

    def offered(self) -> None:
        """Something has been queued: write it, soon."""

    def abort(self) -> None:
        """It has failed all the same: end it.  Its tabs leave later, not within this call."""


class Sink(Speaker, Protocol):
    """A connection, as the hub sees it."""

    @property
    def protocol(self) -> ProtocolName:
        """What it speaks."""

    def send(self, stream: int, payload: bytes) -> None:
        """Queue a payload for one stream; `Hub.resume` follows when there is room for more."""

    def enter(self, stream: int, lane: Lane) -> None:
        """The stream goes live in that lane."""


@final
class Tab:
    """One event stream that is open, as `App.tabs` and presence callbacks show it."""

    __slots__ = ("_group", "_position", "_sink", "_stream", "_told", "id", "topics")

    def __init__(self, number: int, sink: Sink, stream: int, topics: frozenset[str]) -> None:
        self.id = number
        self.topics = topics
        self._sink = sink
        self._stream = stream
        self._position = 0  # the sequence number it has seen all up to
        self._told = 0  # up to which forgotten one it knows of the gap
        self._group: Group | None = None

    def __repr__(self) -> str:
        return f"<Tab {self.id} of {sorted(self.topics)}>"

    @property
    def connection(self) -> int:
        """The number of its connection: tabs that share one show the same."""
        return self._sink.number

    @property
    def protocol(self) -> ProtocolName:
        """ "h2" or "http/1.1"."""
        return self._sink.protocol

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._sink.peer


@final
@dataclass(frozen=True, slots=True)
class Presence:
    """A tab has come to a topic (`joined`) or left it."""

    topic: str
    tab: Tab
    joined: bool


@final
class Group:
    """The live tabs of one speaker that asked for the same topics, `within` a larger one or not."""

    __slots__ = ("lane", "quiet", "sink", "size", "topics", "within")

    def __init__(self, sink: Speaker, topics: frozenset[str], overflow: Overflow | None) -> None:
        self.sink = sink
        self.topics = topics
        self.lane = sink.lane(overflow)
        self.size = 0
        self.quiet = 0  # ticks since something was offered
        self.within: Group | None = None


@final
@dataclass(frozen=True, slots=True)
class HubStatistics:
    """A snapshot of the hub's counts."""

    tabs: int
    topics: int
    published: int
    delivered: int
    resumed: int
    gaps: int


@final
@dataclass(frozen=True, slots=True)
class Joining:
    """How a new tab begins: its first bytes, and whether it was told of a gap."""

    tab: Tab
    first: bytes
    gap: str | None


@final
@dataclass(frozen=True, slots=True)
class _Page:
    """Some of what a tab missed: up to which event, and whether there is more."""

    pieces: Sequence[bytes]
    last: int
    more: bool


class _Topic:
    __slots__ = ("groups", "tabs", "watchers")

    def __init__(self) -> None:
        self.groups: dict[Group, None] = {}
        self.tabs: dict[int, Tab] = {}


@final
class Hub:
    """Topics, and who listens to them.  All calls must come from one thread."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.overflows = Overflows()
        self._topics: dict[str, _Topic] = {}
        self._watchers: dict[str, list[Callable[[Presence], object]]] = {}
        self._numbers = itertools.count(1)
        self._tabs = self._published = self._delivered = self._resumed = self._gaps = 0
        # By topics, policy and place, as of the newest event.
        self._pages: dict[tuple[frozenset[str], Overflow | None, int], _Page] = {}

    # -- publishing

    def publish(self, topics: Sequence[str], event: Event, now: float) -> Entry:
        """Give the event its place in the history and offer it to every tab of these topics."""
        entry = self.history.append(topics, event, now)
        self._published += 1
        self._pages.clear()
        payload = entry.payload
        delivered = 0
        failed: dict[Speaker, Exception] = {}
        # A snapshot: tabs that fall out of step get a group of their own, and the payload with it.
        for group in tuple(self._groups(topics)):
            size = group.size
            try:
                group.lane.offer(payload)
                group.sink.offered()
            except Exception as error:  # noqa: BLE001 - it stays that connection's
                failed.setdefault(group.sink, error)
            else:
                group.quiet = 0
                delivered += size
        self._delivered += delivered
        for sink, fault in failed.items():
            self._give_up(sink, fault)
        return entry

    def _give_up(self, sink: Speaker, error: Exception) -> None:
        logger.error("connection %d of %s failed", sink.number, sink.peer, exc_info=error)
        # Until its tabs have left, no event is to fail, and be logged, again.
        for group in sink.groups.values():
            for name in group.topics:
                self._topics[name].groups.pop(group, None)
        sink.abort()

    def _groups(self, topics: Sequence[str]) -> Iterable[Group]:
        if len(topics) == 1:
            topic = self._topics.get(topics[0])
            return topic.groups if topic is not None else ()
        groups: dict[Group, None] = {}
        for name in topics:
            if (topic := self._topics.get(name)) is not None:
                groups |= topic.groups
        return groups

    # -- coming and going

    def join(
        self,
        sink: Sink,
        stream: int,
        subscribe: Subscribe,
        *,
        last_event_id: str,
        retry: int,
        now: float,
    ) -> Joining:
        """A new tab.  Its first bytes are for the caller to send; then call `resume`."""
        history = self.history
        topics = subscribe.topics
        history.hear(topics)
        tab = Tab(next(self._numbers), sink, stream, topics)
        tab._position = history.last_sequence
        gap: str | None = None
        events: list[Event] = []
        fresh = True
        if last_event_id and subscribe.replay:
            match history.place(topics, last_event_id, now):
                case Known(sequence):
                    tab._position = sequence
                    fresh = False
                    self._resumed += 1
                case Lost(sequence, gap):
                    self._gaps += 1
                    if not subscribe.greeting:
                        tab._position = sequence
                    tab._told = history.pruned(topics, now)
                    events.append(_gap(gap, last_event_id, history.id(tab._position)))
        place = history.id(tab._position)
        if fresh:
            greeting = subscribe.greeting
            events += greeting() if callable(greeting) else greeting
            if events and events[-1].id is None:
                # Firefox takes an id only from an event with data.
                events[-1] = replace(events[-1], id=place)
        first = b"".join(event.encode() for event in events)
        # Of a gap the tab learns first, and by the same event what comes after it.
        start = opening(retry=retry, id=place if fresh and gap is None else None)
        self._tabs += 1
        return Joining(tab, start + first, gap)

    def resume(self, tab: Tab, now: float) -> None:
        """Give a tab the next page of what it missed, or let it go live."""
        if tab._group is not None:
            return
        history, sink, stream = self.history, tab._sink, tab._stream
        if history.last_sequence > tab._position:
            if history.pruned(tab.topics, now) > max(tab._position, tab._told):
                self._tell_gap(tab, now)
            page = self._page(tab.topics, tab._position)
            for piece in page.pieces:
                sink.send(stream, piece)
            tab._position = page.last
            if page.pieces:
                sink.offered()
            if page.more:
                return
        self._go_live(tab)

    def _page(self, topics: frozenset[str], position: int) -> _Page:
        overflow = self.overflows.of(topics)
        key = (topics, overflow, position)
        page = self._pages.get(key)
        if page is None:
            if len(self._pages) == _PAGES_KEPT:
                del self._pages[next(iter(self._pages))]
            page = self._pages[key] = self._read_page(topics, overflow, position)
        return page

    def _read_page(self, topics: frozenset[str], overflow: Overflow | None, position: int) -> _Page:
        history = self.history
        if overflow is None or overflow.name != "latest":
            entries, more = history.after(topics, position, PAGE_BYTES)
        else:
            # As if it had been there, and behind.
            missed, _ = history.after(topics, position, sys.maxsize)
            kept = newest(missed)
            sizes = itertools.accumulate(len(entry.payload) for entry in kept)
            count = 1 + sum(size < PAGE_BYTES for size in sizes)
            entries, more = kept[:count], count < len(kept)
        payloads = [entry.payload for entry in entries]
        # A policy that takes events out of what waits is to find them one by one.
        pieces = _joined(payloads) if overflow is None else payloads
        return _Page(pieces, entries[-1].sequence if entries else position, more)

    def _tell_gap(self, tab: Tab, now: float) -> None:
        # What the tab was reading has been forgotten under its eyes.
        before = self.history.id(tab._position)
        place = self.history.place(tab.topics, before, now)
        tab._position = place.sequence
        tab._told = self.history.pruned(tab.topics, now)
        self._gaps += 1
        gap = _gap("pruned", before, self.history.id(tab._position))
        tab._sink.send(tab._stream, gap.encode())
        tab._sink.offered()

    def _go_live(self, tab: Tab) -> None:
        sink = tab._sink
        sink.enter(tab._stream, self._enter(tab, sink).lane)

    def unite(self, group: Group, speaker: Speaker) -> Group:
        """From now on `speaker` brings events to the tabs of this group: the larger one there."""
        assert group.within is None
        whole = group.within = self._group(speaker, group.topics)
        whole.size += group.size
        whole.quiet = max(whole.quiet, group.quiet)
        self._unlist(group)
        return whole

    def separate(self, group: Group) -> None:
        """From now on its own sink does so again."""
        whole, group.within = group.within, None
        if whole is None or not group.size:
            return
        self._list(group)
        group.quiet = whole.quiet
        self._shrink(whole, group.size)

    def _enter(self, tab: Tab, sink: Sink) -> Group:
        group = self._group(sink, tab.topics)
        group.size += 1
        if group.within is not None:
            group.within.size += 1
        tab._group = group
        tab.topics = group.topics  # one set for all tabs of the group
        return group

    def _group(self, sink: Speaker, topics: frozenset[str]) -> Group:
        group = sink.groups.get(topics)
        if group is None:
            group = sink.groups[topics] = Group(sink, topics, self.overflows.of(topics))
            self._list(group)
        return group

    def _leave_group(self, tab: Tab) -> None:
        group, tab._group = tab._group, None
        if group is None:
            return
        if group.within is not None:
            self._shrink(group.within, 1)
        self._shrink(group, 1)

    def _shrink(self, group: Group, by: int) -> None:
        group.size -= by
        if not group.size:
            groups = group.sink.groups
            if groups.get(group.topics) is group:
                del groups[group.topics]
            self._unlist(group)

    def _list(self, group: Group) -> None:
        """Events of its topics are offered to it."""
        for name in group.topics:
            self._topic(name).groups[group] = None

    def _unlist(self, group: Group) -> None:
        for name in group.topics:
            self._topics[name].groups.pop(group, None)

    def arrive(self, tab: Tab) -> None:
        """The tab's stream is open: it counts as present, and watchers hear of it."""
        for name in tab.topics:
            self._topic(name).tabs[tab.id] = tab
        if self._watchers:
            self._tell(tab, joined=True)

    def leave(self, tab: Tab) -> None:
        """The tab's stream is gone.  Its sink has taken it out of its lane."""
        self._tabs -= 1
        self._leave_group(tab)
        for name in tab.topics:
            topic = self._topics[name]
            del topic.tabs[tab.id]
            if not topic.tabs:
                del self._topics[name]
        if self._watchers:
            self._tell(tab, joined=False)

    def _topic(self, name: str) -> _Topic:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _Topic()
        return topic

    # -- looking

    def tabs(self, topic: str) -> Sequence[Tab]:
        """The tabs of a topic, in the order they came."""
        found = self._topics.get(topic)
        return tuple(found.tabs.values()) if found is not None else ()

    def watch(self, topic: str, callback: Callable[[Presence], object]) -> None:
        """Call back after each coming and going, from within the hub: it must not wait."""
        self._watchers.setdefault(topic, []).append(callback)

    def _tell(self, tab: Tab, *, joined: bool) -> None:
        for name in tab.topics:
            for callback in self._watchers.get(name, ()):
                try:
                    callback(Presence(name, tab, joined))
                except Exception:
                    logger.exception("presence callback for topic %r failed", name)

    def statistics(self) -> HubStatistics:
        """The counts of this instant."""
        return HubStatistics(
            tabs=self._tabs,
            topics=len(self._topics),
            published=self._published,
            delivered=self._delivered,
            resumed=self._resumed,
            gaps=self._gaps,
        )


def _joined(payloads: Sequence[bytes]) -> list[bytes]:
    """The same bytes in fewer pieces."""
    pieces: list[list[bytes]] = []
    room = 0
    for payload in payloads:
        if len(payload) > room:
            pieces.append([])
            room = _PIECE_BYTES
        pieces[-1].append(payload)
        room -= len(payload)
    return [b"".join(piece) for piece in pieces]


def _gap(reason: str, last_event_id: str, place: str) -> Event:
    data = json.dumps({"reason": reason, "lastEventId": last_event_id}, ensure_ascii=False)
    return Event(event=GAP_EVENT, id=place, data=data)


def spread(retry_ms: int, fraction: float) -> int:
    """A reconnection time around `retry_ms`, so that tabs dropped together come back apart."""
    return max(1, round(retry_ms * random.uniform(1 - fraction, 1 + fraction)))  # noqa: S311
