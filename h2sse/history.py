"""Where events get their ids and their order, and how a tab finds its place again.

Every event of a run has a sequence number; its id is `<epoch>-<sequence>`, and the epoch is drawn
anew by every run, so that an id of an earlier one is known to be unknown.  One sequence spans all
topics: a tab of several topics resumes in all of them by one id.  A publisher may give an id of its
own instead; it is kept in the topics' index.

A topic remembers a bounded number of events, bytes and seconds.  `place` says where an id stands:
`Known`, or, with the reason, `Lost`.

All topics together are bounded, too.  Those that no tab has ever listened to are *unheard*; they
have little room and are forgotten first, so that whoever publishes to ever new topics takes nothing
from those that matter to someone.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, final

from .errors import BadRequest

if TYPE_CHECKING:
    from .config import Limits
    from .sse import Event

__all__ = [
    "ENTRY_BYTES",
    "TOPIC_BYTES",
    "Entry",
    "History",
    "Known",
    "Lost",
    "MemoryHistory",
    "Place",
]


# What Python takes for an event beside its payload.
ENTRY_BYTES: Final = 256
# What it takes for a topic beside its events, with a short name.
TOPIC_BYTES: Final = 512
_FEW: Final = 64


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One published event: its `id`, the event's name, and its bytes on every stream."""

    sequence: int
    id: str
    name: str | None
    payload: bytes
    published: float

    @property
    def size(self) -> int:
        """Bytes that it takes to remember it, about."""
        return len(self.payload) + ENTRY_BYTES


@final
@dataclass(frozen=True, slots=True)
class Known:
    """Nothing was missed beyond what is still there after `sequence`."""

    sequence: int


@final
@dataclass(frozen=True, slots=True)
class Lost:
    """Events may have been missed; those after `sequence` are still there.

    "unknown": the id was never given, or by an earlier run.  "pruned": it was, but not all that
    followed it is remembered.
    """

    sequence: int
    reason: Literal["unknown", "pruned"]


Place: TypeAlias = Known | Lost


class History(Protocol):
    """One order of events; what is behind it (memory, a database) is its own affair."""

    @property
    def last_sequence(self) -> int:
        """The sequence number of the newest event, 0 before the first."""

    def append(self, topics: Sequence[str], event: Event, now: float) -> Entry:
        """Give the event its place, and its id if it has none.

        Raises BadRequest (409) if one of the topics still remembers another event of that id.
        """

    def hear(self, topics: Iterable[str]) -> None:
        """A tab listens to these topics."""

    def id(self, sequence: int) -> str:
        """The id that stands for having seen all up to `sequence`."""

    def place(self, topics: Iterable[str], last_event_id: str, now: float) -> Place:
        """Where a tab of these topics stands that has seen this id last."""

    def after(self, topics: Iterable[str], sequence: int, size: int) -> tuple[list[Entry], bool]:
        """The next remembered events after `sequence`, in order, each once: about `size` bytes of
        them; and whether there are more."""

    def pruned(self, topics: Iterable[str], now: float) -> int:
        """The newest sequence number that any of these topics may have forgotten, 0 if none."""


@final
@dataclass(slots=True)
class _Topic:
    shelf: _Shelf
    # A list while they are few, as of thousands of topics most are: an empty deque takes 760 bytes.
    entries: list[Entry] | deque[Entry] = field(default_factory=list)
    size: int = 0
    pruned: int = 0  # the newest sequence forgotten
    ids: dict[str, int] = field(default_factory=dict)  # of those publishers gave


@final
@dataclass(slots=True)
class _Shelf:
    """Topics, in the order in which they were published to."""

    topics: OrderedDict[str, _Topic] = field(default_factory=OrderedDict)
    size: int = 0
    forgotten: int = 0  # the newest sequence of a topic forgotten as a whole

    def put(self, name: str, topic: _Topic) -> None:
        self.topics[name] = topic
        self.size += topic.size + TOPIC_BYTES
        topic.shelf = self

    def take(self, name: str) -> _Topic | None:
        topic = self.topics.pop(name, None)
        if topic is not None:
            self.size -= topic.size + TOPIC_BYTES
        return topic

    def forget_oldest(self) -> None:
        topic = self.take(next(iter(self.topics)))
        assert topic is not None
        newest = topic.entries[-1].sequence if topic.entries else topic.pruned
        self.forgotten = max(self.forgotten, newest)


@final
class MemoryHistory:
    """A `History` of this process alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # 40 bits: two runs share an epoch once in 10^12 restarts.
        self._epoch = secrets.token_hex(5)
        self._heard, self._unheard = _Shelf(), _Shelf()
        # Names that tabs have listened to, the latest last, each with the newest sequence that its
        # topic may have forgotten by then.  What unheard topics forget later is no loss of theirs.
        self._names: OrderedDict[str, int] = OrderedDict()
        self._last = 0

    @property
    def last_sequence(self) -> int:
        return self._last

    def id(self, sequence: int) -> str:
        return f"{self._epoch}-{sequence}"

    def hear(self, topics: Iterable[str]) -> None:
        for name in topics:
            self._names[name] = self._forgotten(name)
            self._names.move_to_end(name)
            topic = self._unheard.take(name)
            if topic is not None:
                self._heard.put(name, topic)
        while len(self._names) > self._limits.history_topics:
            self._names.popitem(last=False)

    def _forgotten(self, name: str) -> int:
        """The newest sequence that a topic of this name may have forgotten as a whole."""
        heard, unheard = self._heard.forgotten, self._unheard.forgotten
        return max(heard, self._names.get(name, unheard))

    def _topic(self, name: str) -> _Topic | None:
        return self._heard.topics.get(name) or self._unheard.topics.get(name)

    def append(self, topics: Sequence[str], event: Event, now: float) -> Entry:
        if event.id is None:
            given = None
            event_id = self.id(self._last + 1)
            event = replace(event, id=event_id)
        else:
            given = event_id = event.id
            self._refuse_twice(topics, given, now)
        self._last = sequence = self._last + 1
        entry = Entry(sequence, event_id, event.event, event.encode(), now)
        for name in topics:
            topic = self._topic(name)
            if topic is None:
                shelf = self._heard if name in self._names else self._unheard
                topic = _Topic(shelf, pruned=self._forgotten(name))
                shelf.put(name, topic)
            else:
                topic.shelf.topics.move_to_end(name)
            if len(topic.entries) == _FEW:
                topic.entries = deque(topic.entries)
            topic.entries.append(entry)
            topic.size += entry.size
            topic.shelf.size += entry.size
            if given is not None:
                topic.ids[given] = sequence
            self._trim(topic, now)
        self._forget_topics()
        return entry

    def _refuse_twice(self, topics: Sequence[str], given: str, now: float) -> None:
        if given.startswith(self._epoch):
            raise BadRequest("id", "looks like one that is assigned here; choose another")
        for name in topics:
            topic = self._topic(name)
            if topic is None:
                continue
            self._trim(topic, now)
            if given in topic.ids:
                raise BadRequest("id", f"topic {name!r} still remembers this id", status=409)

    def place(self, topics: Iterable[str], last_event_id: str, now: float) -> Place:
        names = list(topics)
        sequence = self._sequence(names, last_event_id)
        if sequence is None:
            return Lost(self._oldest(names, now), "unknown")
        if self.pruned(names, now) > sequence:
            return Lost(max(sequence, self._oldest(names, now)), "pruned")
        return Known(sequence)

    def _sequence(self, names: list[str], last_event_id: str) -> int | None:
        epoch, _, number = last_event_id.partition("-")
        if epoch == self._epoch and number.isascii() and number.isdigit() and len(number) < 19:
            sequence = int(number)
            return sequence if sequence <= self._last else None
        # Two topics may hold the same given id.  From the earlier on, nothing is lost.
        found = [
            topic.ids[last_event_id]
            for name in names
            if (topic := self._topic(name)) is not None and last_event_id in topic.ids
        ]
        return min(found, default=None)

    def _oldest(self, names: list[str], now: float) -> int:
        """The sequence before the oldest event that any of these topics remembers."""
        oldest = self._last
        for name in names:
            topic = self._topic(name)
            if topic is not None:
                self._trim(topic, now)
                if topic.entries:
                    oldest = min(oldest, topic.entries[0].sequence - 1)
        return oldest

    def pruned(self, topics: Iterable[str], now: float) -> int:
        newest = 0
        for name in topics:
            topic = self._topic(name)
            if topic is None:
                newest = max(newest, self._forgotten(name))
            else:
                self._trim(topic, now)
                newest = max(newest, topic.pruned)
        return newest

    def after(self, topics: Iterable[str], sequence: int, size: int) -> tuple[list[Entry], bool]:
        found: dict[int, Entry] = {}
        for name in topics:
            topic = self._topic(name)
            for entry in reversed(topic.entries) if topic is not None else ():
                if entry.sequence <= sequence:
                    break
                found[entry.sequence] = entry
        page: list[Entry] = []
        for number in sorted(found):
            if size <= 0:
                return page, True
            page.append(found[number])
            size -= len(found[number].payload)
        return page, False

    def _trim(self, topic: _Topic, now: float) -> None:
        limits, entries = self._limits, topic.entries
        while entries and (
            len(entries) > limits.history_events
            or topic.size > limits.history_bytes
            or entries[0].published < now - limits.history_seconds
        ):
            entry = entries[0]
            del entries[0]
            topic.pruned = entry.sequence
            topic.size -= entry.size
            topic.shelf.size -= entry.size
            topic.ids.pop(entry.id, None)

    def _forget_topics(self) -> None:
        limits, heard, unheard = self._limits, self._heard, self._unheard
        while unheard.size > limits.history_unheard_bytes and len(unheard.topics) > 1:
            unheard.forget_oldest()
        while (count := len(heard.topics) + len(unheard.topics)) > limits.history_topics or (
            heard.size + unheard.size > limits.history_total_bytes and count > 1
        ):
            (unheard if unheard.topics else heard).forget_oldest()
