"""What a client gets that comes back with Last-Event-ID.

The truth is a second stream, which stays open all the while: what it has after an event is what a
client that comes back with that event's id must get, once and in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias, final

import trio

from h2sse.probe.connection import Connection, Stream
from h2sse.probe.lab import Lab
from h2sse.probe.reading import Block
from h2sse.probe.verdict import Fault, Finding, Silent, Unclear, check, passed, warned

__all__ = ["CHECKS", "compare"]

_ROUNDS: Final = 20
# Where events come by themselves: so many of them are met, each by a client for every offset, in
# seconds from the moment at which it is due.  A server's timer is seldom later.
_TICKS: Final = 3
_OFFSETS: Final = (-0.015, -0.01, -0.005, 0.0, 0.005, 0.01, 0.015)
_NEAR_SECONDS: Final = 0.02
# A polyfill can be told to send the other name.
_PARAMETERS: Final = ("lastEventId", "last_event_id")

_Event: TypeAlias = tuple[str | None, str]

resume = partial(check, group="resume")


def compare(expected: Sequence[_Event], got: Sequence[_Event]) -> str | None:
    """What is wrong with what came, each event as (id, data); None if nothing is."""
    seen: set[_Event] = set()
    for at, each in enumerate(got):
        if each in seen:
            return f"the event {each[0]!r} came twice"
        seen.add(each)
        if at < len(expected) and each != expected[at]:
            if each not in expected:
                return f"the event {each[0]!r} came, which the client had already"
            missing = expected.index(each) - at
            if missing > 0:
                return f"{missing} of {len(expected)} events were not replayed"
            return f"the event {each[0]!r} came out of order"
    return None


def _events(stream: Stream) -> list[_Event]:
    return [(each.id, each.data) for each in stream.body.news]


def _judge(
    sent: str, expected: Sequence[_Event], stream: Stream, *, greeted: bool = False
) -> tuple[str | None, bool]:
    """What is wrong with what came, and whether it begins later than was due, and says so.

    `sent` is the id that was asked with, `expected` what followed it; `greeted` says that who
    comes for the first time is told how things stand.  Only then may that be told again to a
    client that has it already.
    """
    body = stream.body
    got = _events(stream)
    place = body.place
    if place is not None and place != sent:
        ids = [each[0] for each in expected]
        if place in ids:
            begin = ids.index(place) + 1
        else:
            # Of an event that this stream does not have, if ids are the whole server's.
            begin = expected.index(got[0]) if got and got[0] in expected else 0
        if begin and compare(expected[begin:], got) is None:
            return None, True
    if not greeted:
        got = [(each.id, each.data) for each in body.events]
    return compare(expected, got), False


async def _with_ids(lab: Lab, peer: Connection, truth: Stream, count: int) -> list[Block]:
    """So many events of a stream, each with an id."""
    found = await lab.news(peer, truth, count)
    if any(each.id is None for each in found):
        raise Unclear("there are events without an id")
    return found


@final
@dataclass(frozen=True, slots=True)
class _Return:
    """A stream that came back behind an event, what the truth had after that, and the judgement."""

    expected: Sequence[_Event]
    stream: Stream
    fault: str | None
    later: bool


async def _come_back(lab: Lab, *, parameter: str = "") -> _Return:
    """Miss two events, come back with the id in the header or in a parameter, wait for a third."""
    async with lab.listening() as (peer, truth):
        missed = (await _with_ids(lab, peer, truth, 3))[0]
        place = missed.id or ""
        at = _events(truth).index((place, missed.data))
        header = () if parameter else (("last-event-id", place.encode()),)
        path = lab.path(**{parameter: place}) if parameter else None
        stream = await lab.listen(peer, *header, path=path)
        await lab.events(peer, stream, truth)
        expected = _events(truth)[at + 1 :]
        with suppress(Silent):  # what is missing is for the caller to say
            await peer.until(lambda: expected[-1] in _events(stream), "more", min(lab.patience, 1))
        fault, later = _judge(place, expected, stream, greeted=bool(truth.body.greeting))
        return _Return(expected, stream, fault, later)


@resume(
    "resume",
    clause="HTML 9.2.4",
    does="Comes back with the id of an event while two that followed it were missed, and waits for"
    " a new one.",
    notice="After every disconnection events are missing, or come twice.",
    mend="Keep a history; on Last-Event-ID send what follows it, then go live with nothing in"
    " between.  If there is nothing to replay, begin with a line `id:` alone: the client then knows"
    " where it stands.",
    seconds=30,
)
async def resumes(lab: Lab) -> Finding:
    back = await _come_back(lab)
    if back.later:
        return passed("nothing is replayed, and the stream begins with the id at which it goes on")
    if back.fault is not None:
        raise Fault(back.fault)
    missing = len(back.expected) - len(_events(back.stream))
    if missing > 0:
        raise Fault(f"{missing} of {len(back.expected)} events did not come")
    return passed(f"{len(back.expected)} events, each once, in order")


@resume(
    "resume-race",
    clause="HTML 9.2.4",
    does=f"Comes back {_ROUNDS} times while events are published; without --publish-url,"
    f" {_TICKS * len(_OFFSETS)} times, at the moments when the next event is due.",
    notice="Now and then an event is lost, or doubled, when a client comes back on a busy topic.",
    mend="Join the live events first and hold them back; replay; then release the others.",
    frames=600,
    seconds=30,
)
async def resume_race(lab: Lab) -> Finding:
    async with lab.listening() as (peer, truth):
        race = _race_published if lab.publishes else _race_awaited
        rounds = await race(lab, peer, truth)
    due = _events(truth)
    greeted = bool(truth.body.greeting)
    came = skipped = 0
    for at, stream in rounds:
        if at not in due:
            raise Fault(f"the event {at[0]!r} came, which nobody else was given")
        expected = due[due.index(at) + 1 :]
        fault, later = _judge(at[0] or "", expected, stream, greeted=greeted)
        if fault:
            raise Fault(f"in {len(rounds)} rounds: {fault}")
        came += len(_events(stream))
        skipped += later
    told = f"; in {skipped} what was missed is left out, and that is said" if skipped else ""
    return passed(f"{came} events over {len(rounds)} rounds, each once, in order{told}")


# A round: the event behind which a client came back, and its stream.
_Round: TypeAlias = tuple[_Event, Stream]


async def _race_published(lab: Lab, peer: Connection, truth: Stream) -> list[_Round]:
    rounds: list[_Round] = []
    (found,) = await _with_ids(lab, peer, truth, 1)
    at: _Event = (found.id, found.data)
    for _ in range(_ROUNDS):
        request = lab.fields(("last-event-id", (at[0] or "").encode()))
        stream = await peer.open(lab.target.path, *request)
        last = await lab.publish()
        try:
            await peer.until(
                lambda stream=stream, last=last: any(  # type: ignore[misc]  # bound by default
                    last in each.data for each in stream.body.news
                ),
                "event",
            )
        except Silent:
            raise Fault("an event published while a client came back never came") from None
        rounds.append((at, stream))
        at = _events(stream)[-1]
        await peer.cancel(stream)
        await lab.publish()  # while nobody but the truth listens
    await lab.events(peer, truth)
    return rounds


async def _race_awaited(lab: Lab, peer: Connection, truth: Stream) -> list[_Round]:
    """Come back behind the event before the last, just as the next one leaves the server."""
    await _with_ids(lab, peer, truth, 2)
    trip = await peer.ping()
    rounds: list[_Round] = []
    before: list[Stream] = []  # those of the last event; this one they must get live
    for offsets in (*[_OFFSETS] * _TICKS, ()):
        came = len(truth.body.news)
        earlier, last = truth.body.news[-2:]
        gap = last.ended_at - earlier.ended_at
        request = lab.fields(("last-event-id", (earlier.id or "").encode()))
        streams: list[Stream] = []
        for offset in offsets:
            pause = last.ended_at + gap - trip + offset - trio.current_time()
            await peer.watch(max(0.0, pause))
            streams.append(await peer.open(lab.target.path, *request))
        await peer.until(partial(_more, truth, came), "event", gap + lab.patience)
        await lab.answered(peer, *streams)
        try:
            await peer.until(partial(_have, before, _events(truth)[-1]), "event")
        except Silent:
            raise Fault("a client that came back never got an event that came later") from None
        await peer.cancel(*before)
        rounds += [((earlier.id, earlier.data), each) for each in streams]
        before = streams
    moments = [each.ended_at - trip for each in truth.body.news]
    off = min(abs(moment - stream.opened_at) for moment in moments for _, stream in rounds)
    if off > _NEAR_SECONDS:
        raise Unclear("no event came just then; name a --publish-url, and it can be told")
    return rounds


def _more(stream: Stream, count: int) -> bool:
    return len(stream.body.news) > count


def _have(streams: Sequence[Stream], event: _Event) -> bool:
    return all(event in _events(each) for each in streams)


@resume(
    "id-parameter",
    clause="practice",
    does="Comes back with `lastEventId` as a query parameter, as polyfills do that cannot set a"
    " header, or else with `last_event_id`.",
    notice="Such clients, and pages that stored an id, begin anew and miss what was in between.",
    mend="Read the query parameter `lastEventId` where there is no Last-Event-ID.",
    seconds=30,
)
async def id_parameter(lab: Lab) -> Finding:
    header = await _come_back(lab)
    if header.later:
        return passed("there is nothing to ask for: nothing is replayed, which the stream says")
    if header.fault or header.expected[-1] not in _events(header.stream):
        raise Unclear("it replays nothing after Last-Event-ID either")
    for name in _PARAMETERS:
        parameter = await _come_back(lab, parameter=name)
        if not parameter.fault and not parameter.later:
            return passed(f"{len(parameter.expected)} events after `{name}`, as after the header")
    return warned("it replays after Last-Event-ID only")


async def _odd(lab: Lab, value: str | bytes) -> Stream:
    """Ask with an odd Last-Event-ID, beside a stream that must live."""
    async with lab.bystander() as (peer, _):
        stream = await lab.ask(peer, ("last-event-id", value))
    if stream.status >= 500:
        raise Fault(str(stream))
    return stream


async def _answered(lab: Lab, value: str | bytes) -> Finding:
    stream = await _odd(lab, value)
    if stream.reset is not None:
        return warned(f"{stream}, of that stream alone: its EventSource asks for ever")
    if stream.status in (200, 204, 400):
        return passed(str(stream))
    return warned(f"{stream}, which ends an EventSource for good")


_ODD = partial(
    resume,
    clause="HTML 9.2.4, RFC 9113 8.1.1",
    notice="A client with such an id is told of a fault of ours and ends, or takes all tabs of its"
    " browser with it.",
    mend="Treat it as an id that is not known: begin live, and say so.",
)


@_ODD("unknown-id", does="Asks with an id that was never given.")
async def unknown_id(lab: Lab) -> Finding:
    return await _answered(lab, "h2sse-probe-never-given-18446744073709551617")


@_ODD("empty-id", does="Asks with an empty Last-Event-ID, which a blank id gives in Chromium.")
async def empty_id(lab: Lab) -> Finding:
    return await _answered(lab, "")


@_ODD("non-ascii-id", does="Asks with an id in UTF-8, as all browsers send it.")
async def non_ascii_id(lab: Lab) -> Finding:
    return await _answered(lab, "é€😀".encode())


@_ODD("long-id", does="Asks with an id of 1,000 characters.")
async def long_id(lab: Lab) -> Finding:
    return await _answered(lab, "9" * 1000)


@_ODD(
    "blank-edged-id",
    does="Asks with an id that ends in a blank, as Firefox sends such an id; the field is malformed"
    " (RFC 9113 8.2.1).",
)
async def blank_edged_id(lab: Lab) -> Finding:
    stream = await _odd(lab, b"7 \t")
    return passed(f"{stream}, of that stream alone")


CHECKS = (
    resumes,
    resume_race,
    id_parameter,
    unknown_id,
    empty_id,
    non_ascii_id,
    long_id,
    blank_edged_id,
)
