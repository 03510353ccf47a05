"""What a client gets that comes back with Last-Event-ID.

The truth is a second stream, which stays open all the while: what it has after an event is what a
client that comes back with that event's id must get, once and in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

from h2sse.probe.connection import Connection, Stream
from h2sse.probe.lab import Lab
from h2sse.probe.reading import Block
from h2sse.probe.verdict import Fault, Finding, Silent, Unclear, charged, check, passed, warned

__all__ = ["CHECKS", "compare"]

_ROUNDS: Final = 20

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
    return [(each.id, each.data) for each in stream.body.events]


def _place(stream: Stream) -> str | None:
    """The id of a block without data before the first event.

    With it a server says that it goes on from there, and replays nothing: the client knows.
    """
    for block in stream.body.blocks:
        if block.is_event:
            return None
        if block.id is not None:
            return block.id
    return None


def _judge(sent: str, expected: Sequence[_Event], stream: Stream) -> tuple[str | None, bool]:
    """What is wrong with what came, and whether it begins later than was due, and says so.

    `sent` is the id that was asked with, `expected` what followed it.
    """
    got = _events(stream)
    place = _place(stream)
    if place is not None and place != sent:
        ids = [each[0] for each in expected]
        if place in ids:
            begin = ids.index(place) + 1
        else:
            # Of an event that this stream does not have, if ids are the whole server's.
            begin = expected.index(got[0]) if got and got[0] in expected else 0
        if begin and compare(expected[begin:], got) is None:
            return None, True
    return compare(expected, got), False


async def _with_ids(lab: Lab, peer: Connection, count: int) -> tuple[Stream, list[Block]]:
    """A stream, and events of it, each with an id."""
    truth = await lab.listen(peer)
    found = await lab.events(peer, truth, count=count)
    if any(each.id is None for each in found):
        raise Unclear("there are events without an id")
    return truth, found


async def _come_back(
    lab: Lab, *fields: tuple[str, str], parameter: bool = False
) -> tuple[str, list[_Event], Stream]:
    """Miss two events, come back, wait for a third.

    Returns the id that was asked with, all that followed it, and the stream that came.
    """
    async with lab.connect() as peer:
        truth, found = await _with_ids(lab, peer, 3)
        place = found[0].id or ""
        at = _events(truth).index((found[0].id, found[0].data))
        header = () if parameter else (("last-event-id", place.encode()),)
        path = lab.path(lastEventId=place) if parameter else None
        stream = await lab.listen(peer, *fields, *header, path=path)
        await lab.events(peer, stream, truth)
        expected = _events(truth)[at + 1 :]
        with suppress(Silent):  # what is missing is for the caller to say
            await peer.until(
                lambda: len(stream.body.events) >= len(expected), "more", min(lab.patience, 1)
            )
        return place, expected, stream


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
    sent, expected, stream = await _come_back(lab)
    fault, later = _judge(sent, expected, stream)
    if later:
        return passed("nothing is replayed, and the stream begins with the id at which it goes on")
    if fault is None and (missing := len(expected) - len(_events(stream))) > 0:
        fault = f"{missing} of {len(expected)} events did not come"
    if fault is not None:
        raise Fault(fault)
    return passed(f"{len(expected)} events, each once, in order")


@resume(
    "resume-race",
    clause="HTML 9.2.4",
    does=f"Comes back {_ROUNDS} times while events are published.",
    notice="Now and then an event is lost, or doubled, when a client comes back on a busy topic.",
    mend="Join the live events first and hold them back; replay; then release the others.",
    publishes=True,
    frames=600,
    seconds=30,
)
async def resume_race(lab: Lab) -> Finding:
    rounds: list[tuple[_Event, Stream]] = []
    async with lab.connect() as peer:
        truth, found = await _with_ids(lab, peer, 1)
        at: _Event = (found[0].id, found[0].data)
        for _ in range(_ROUNDS):
            request = lab.fields(("last-event-id", (at[0] or "").encode()))
            stream = await peer.open(lab.target.path, *request)
            last = await lab.publish()
            try:
                await peer.until(
                    lambda stream=stream, last=last: any(  # type: ignore[misc]  # bound by default
                        last in each.data for each in stream.body.events
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
    due = _events(truth)
    came = skipped = 0
    for at, stream in rounds:
        if at not in due:
            raise Fault(f"the event {at[0]!r} came, which nobody else was given")
        fault, later = _judge(at[0] or "", due[due.index(at) + 1 :], stream)
        if fault:
            raise Fault(f"in {_ROUNDS} rounds: {fault}")
        came += len(_events(stream))
        skipped += later
    told = f"; in {skipped} what was missed is left out, and that is said" if skipped else ""
    return passed(f"{came} events over {_ROUNDS} rounds, each once, in order{told}")


@resume(
    "id-parameter",
    clause="practice",
    does="Comes back with `lastEventId` as a query parameter, as polyfills do that cannot set a"
    " header.",
    notice="Such clients, and pages that stored an id, begin anew and miss what was in between.",
    mend="Read the query parameter `lastEventId` where there is no Last-Event-ID.",
    seconds=30,
)
async def id_parameter(lab: Lab) -> Finding:
    sent, expected, by_header = await _come_back(lab)
    if _judge(sent, expected, by_header)[1]:
        return passed("there is nothing to ask for: nothing is replayed, which the stream says")
    if compare(expected, _events(by_header)) or len(by_header.body.events) < len(expected):
        raise Unclear("it replays nothing after Last-Event-ID either")
    _, expected, stream = await _come_back(lab, parameter=True)
    if compare(expected, _events(stream)):
        return warned("it replays after Last-Event-ID only")
    return passed(f"{len(expected)} events, as after the header")


async def _odd(lab: Lab, value: str | bytes) -> Finding:
    """Ask with an odd Last-Event-ID, beside a stream that must live."""
    async with lab.connect() as peer:
        beside = await lab.listen(peer)
        with charged("the connection, and every stream on it, is lost"):
            stream = await peer.open(lab.target.path, *lab.fields(("last-event-id", value)))
            await peer.until(lambda: stream.answered, "response")
            await peer.alive()
        if beside.over:
            raise Fault("the stream beside it was ended")
        if stream.status >= 500:
            raise Fault(str(stream))
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
    return await _odd(lab, "h2sse-probe-never-given-18446744073709551617")


@_ODD("empty-id", does="Asks with an empty Last-Event-ID, which a blank id gives in Chromium.")
async def empty_id(lab: Lab) -> Finding:
    return await _odd(lab, "")


@_ODD("non-ascii-id", does="Asks with an id in UTF-8, as all browsers send it.")
async def non_ascii_id(lab: Lab) -> Finding:
    return await _odd(lab, "é€😀".encode())


@_ODD("long-id", does="Asks with an id of 1,000 characters.")
async def long_id(lab: Lab) -> Finding:
    return await _odd(lab, "9" * 1000)


@_ODD(
    "blank-edged-id",
    does="Asks with an id that ends in a blank, as Firefox sends such an id; the field is malformed"
    " (RFC 9113 8.2.1).",
)
async def blank_edged_id(lab: Lab) -> Finding:
    async with lab.connect() as peer:
        beside = await lab.listen(peer)
        with charged("the connection, and every stream on it, is lost"):
            stream = await peer.open(lab.target.path, *lab.fields(("last-event-id", b"7 \t")))
            await peer.until(lambda: stream.answered, "answer or RST_STREAM")
            await peer.alive()
        if beside.over:
            raise Fault("the stream beside it was ended")
        if stream.status >= 500:
            raise Fault(str(stream))
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
