"""What happens to events that wait for a tab which reads more slowly than they come.

    end          the stream ends; its EventSource comes back and resumes by id.  Nothing is lost.
    drop-oldest  the oldest events make room, and one event in their place says which they were.
    latest       of the events of one name, the newest alone is kept.

A wire knows bytes, not events.  So it hands a lossy policy the list of what waits, one payload an
event, and the policy takes out whole events that the peer has not seen a byte of.  It does so in
gulps, a quarter of the bound at least, so that a tab which stays behind costs little more for each
further event than one that does not.  What such a gulp cannot make fit ends the stream after all.

Ids stay in order either way.  The mark of a gap carries the id of the last event it stands for: who
has read it resumes after the gap, who has not resumes before it, and gets those events after all,
as far as the history remembers them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final

from .sse import Event
from .wire import Rest, Room

if TYPE_CHECKING:
    from .history import Entry
    from .wire import Overflow

__all__ = ["GAP_EVENT", "LOSSY", "OVERFLOWS", "OverflowName", "Overflows", "newest"]

OverflowName: TypeAlias = Literal["end", "drop-oldest", "latest"]

# The type of the one event that tells a tab, in-band, that it may have missed events.
GAP_EVENT = "history-gap"

# `latest` lets so much wait as it is: events published together shall not displace each other, and
# a tab that reads again is not to be shown the past first.  One TLS record.
_LATEST_BYTES = 16 * 1024

# The name and the id of an event, as `Event.encode` writes them: before the data.  HTTP/1.1 has the
# size of the chunk in front.
_EVENT = re.compile(
    rb"(?:[0-9a-f]+\r\n)?(?P<kind>retry: |:)?"
    rb"(?:event: (?P<name>[^\n]*)\n)?(?:id: (?P<id>[^\n]*)\n)?"
)
_OPENING, _COMMENT = b"retry: ", b":"
# The mark of a gap, but for its ids.
_MARK_BYTES = 128

_Frame: TypeAlias = Callable[[bytes], bytes]


@final
class _Gap(bytes):
    """The mark of a gap as it waits: so many `events`, and the id of the `first`."""

    events: int
    first: str


def _read(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """What kind of payload it is, if no event; its event's name, and its id."""
    found = _EVENT.match(payload)
    assert found is not None  # all of it is optional
    return found["kind"] or b"", found["name"] or b"", found["id"] or b""


def _events(waiting: list[bytes], begun: int) -> list[int]:
    """Where the events begin of which no byte has been sent."""
    return [place for place in range(begun, len(waiting)) if not isinstance(waiting[place], Rest)]


@final
@dataclass(frozen=True, slots=True)
class _Gulp:
    """What was taken out of what: `lost` events, `freed` bytes."""

    before: list[bytes]
    begun: int
    frame: _Frame
    most: int
    after: list[bytes]
    lost: int
    freed: int


class _Lossy:
    """What both lossy policies do: make a quarter of the bound free, or nothing.

    Connections that stand still side by side have the same before them.  So the last gulp is kept:
    for thousands at once, each of which has hundreds of events to look at, it is a comparison.
    """

    def __init__(self) -> None:
        self._last: _Gulp | None = None

    def make_room(
        self,
        waiting: list[bytes],
        *,
        begun: int,
        waits: int,
        size: int,
        bound: int,
        frame: _Frame = bytes,
    ) -> Room | None:
        most = bound - bound // 4 - size
        if most <= 0:
            return None
        last = self._last
        if (
            last is not None
            and waits - last.freed <= most <= last.most + last.most // 4
            and last.begun == begun
            and last.frame is frame
            and last.before == waiting
        ):
            waiting[:] = last.after
            return Room(last.lost, waits - last.freed)
        before = waiting.copy()
        room = self._shorten(waiting, begun, waits, most, frame)
        if room.waits > most:
            waiting[:] = before
            return None
        after, freed = waiting.copy(), waits - room.waits
        self._last = _Gulp(before, begun, frame, most, after, room.lost, freed)
        return room

    @staticmethod
    def _shorten(waiting: list[bytes], begun: int, waits: int, most: int, frame: _Frame) -> Room:
        raise NotImplementedError


@final
class _DropOldest(_Lossy):
    name = "drop-oldest"

    @staticmethod
    def acts_from(waits: int, bound: int) -> int:  # noqa: ARG004 - the seam's
        return bound

    @staticmethod
    def _shorten(waiting: list[bytes], begun: int, waits: int, most: int, frame: _Frame) -> Room:
        events = known = 0
        first, last = "", ""
        places = [*_events(waiting, begun), len(waiting)]
        start = end = places[0]
        for place, following in itertools.pairwise(places):
            payload = waiting[place]
            kind, _, event_id = _read(payload)
            if kind == _OPENING:
                # Its retry and its greeting wait still, and nothing stands before them.
                start = end = following
                continue
            if isinstance(payload, _Gap):
                events += payload.events
                known += payload.events
                first = first or payload.first
            elif waits + _MARK_BYTES + len(first) + 2 * len(last) <= most:
                break
            elif kind != _COMMENT:
                events += 1
                first = first or event_id.decode()
            last = event_id.decode() or last
            waits -= sum(map(len, waiting[place:following]))
            end = following
        mark: list[bytes] = []
        if events:
            gap = _Gap(frame(_mark(events, first, last)))
            gap.events, gap.first = events, first
            mark.append(gap)
        waiting[start:end] = mark
        return Room(events - known, waits + sum(map(len, mark)))


def _mark(events: int, first: str, last: str) -> bytes:
    told = {"reason": "overflow", "dropped": events, "first": first, "last": last}
    data = json.dumps(told, ensure_ascii=False)
    return Event(event=GAP_EVENT, id=last or None, data=data).encode()


@final
class _Latest(_Lossy):
    name = "latest"

    @staticmethod
    def acts_from(waits: int, bound: int) -> int:
        # Twice of what could not be let go of, as garbage collectors do: each event is looked at
        # about once, however many names there are.
        return min(bound, max(_LATEST_BYTES, 2 * waits))

    @staticmethod
    def _shorten(waiting: list[bytes], begun: int, waits: int, most: int, frame: _Frame) -> Room:  # noqa: ARG004 - the seam's
        conflated = 0
        seen: set[bytes] = set()
        kept: list[bytes] = []  # from the newest on
        places = _events(waiting, begun)
        end = len(waiting)
        for place in reversed(places):
            kind, name, _ = _read(waiting[place])
            if kind == _OPENING or (kind != _COMMENT and name not in seen):
                kept += reversed(waiting[place:end])
                seen.add(name)
            else:
                waits -= sum(map(len, waiting[place:end]))
                conflated += kind != _COMMENT
            end = place
        if places:
            waiting[places[0] :] = reversed(kept)
        return Room(conflated, waits)


OVERFLOWS: Mapping[OverflowName, Overflow | None] = {
    # From what loses least to what loses most.
    "end": None,
    "drop-oldest": _DropOldest(),
    "latest": _Latest(),
}
# Those that lose events, which are counted.
LOSSY = [name for name, overflow in OVERFLOWS.items() if overflow is not None]
_RANK = {name: rank for rank, name in enumerate(OVERFLOWS)}


@final
class Overflows:
    """Which policy a topic has."""

    def __init__(self) -> None:
        self._names: dict[str, OverflowName] = {}

    def choose(self, topic: str, overflow: OverflowName) -> None:
        """For this topic; with `*` at its end, for those that begin so and have none longer."""
        self._names[topic] = overflow

    def of(self, topics: Iterable[str]) -> Overflow | None:
        """That of a tab: of several, the one that loses least.  None is to end."""
        if not self._names:
            return None
        return OVERFLOWS[min(map(self._of, topics), key=_RANK.__getitem__)]

    def _of(self, topic: str) -> OverflowName:
        names = self._names
        if topic in names:
            return names[topic]
        fitting = [n for n in names if n.endswith("*") and topic.startswith(n[:-1])]
        return names[max(fitting, key=len)] if fitting else "end"


def newest(entries: list[Entry]) -> list[Entry]:
    """The newest entry of each event name, in order."""
    found: dict[str | None, Entry] = {}
    for entry in reversed(entries):
        found.setdefault(entry.name, entry)
    return list(reversed(found.values()))
