"""What stands in the stream, and when it comes."""

from __future__ import annotations

import codecs
import zlib
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Final

import trio

from h2sse.probe.connection import Connection, Stream
from h2sse.probe.lab import Lab
from h2sse.probe.verdict import Fault, Finding, Silent, Unclear, charged, check, passed, warned

__all__ = ["CHECKS"]

# HTML 9.2.6; without a name it is a comment.
_KNOWN: Final = frozenset((b"data", b"event", b"id", b"retry", b""))
# Between the first and the last byte of one event; a server writes it in one piece.
_WHOLE_SECONDS: Final = 0.25
# From the publication to the event.
_PROMPT_SECONDS: Final = 1.0
# Events that came within this came together.
_TOGETHER_SECONDS: Final = 0.02
# HTML 9.2.7 has a comment every 15 s or so; proxies give up after 30 to 60 s.
_QUIET_SECONDS: Final = 30
# Long enough to say that a stream is not quiet.
_BUSY_SECONDS: Final = 5
_SPREAD_STREAMS: Final = 8
# Events that are looked at for one of several lines.
_AWAITED: Final = 3

events = partial(check, group="events")


async def _some(lab: Lab) -> Stream:
    """A stream with an event or two in it, or at least what came with the response."""
    async with lab.listening() as (peer, stream):
        try:
            await lab.events(peer, stream, count=2)
        except Unclear:
            if not stream.body.size:
                raise
    return stream


@events(
    "well-formed",
    clause="HTML 9.2.5",
    does="Reads the stream line by line.",
    notice="Clients drop in silence what they do not know: of an event a part may be missing.",
    mend="Write each line of the data as a `data:` line of its own, in UTF-8, `retry` as digits,"
    " and no field but data, event, id and retry.",
)
async def well_formed(lab: Lab) -> Finding:
    stream = await _some(lab)
    try:
        # Incremental: the last character may be cut.
        codecs.getincrementaldecoder("utf-8")().decode(stream.raw)
    except UnicodeDecodeError as error:
        raise Fault(f"byte {error.start} of the body is not UTF-8") from None
    lines = [line for block in stream.body.blocks for line in block.lines]
    for line in lines:
        name, _, value = line.partition(b":")
        if name == b"retry" and not value.removeprefix(b" ").isdigit():
            raise Fault(f"retry is not digits: {value[:60]!r}")
        if name == b"id" and b"\0" in value:
            raise Fault("an id with NUL, which clients ignore")
    if not lines:
        raise Unclear("nothing whole came")
    # HTML 9.2.6: an unknown field is ignored, so it harms nobody, if it was meant to be one.
    for line in lines:
        if line.partition(b":")[0] not in _KNOWN:
            return warned(f"a field that clients ignore: {line[:60]!r}")
    return passed(f"{len(lines)} lines in {len(stream.body.blocks)} blocks")


@events(
    "multi-line",
    clause="HTML 9.2.5",
    does="Publishes data of three lines, one of them like a field; without --publish-url, looks"
    " for an event whose data has several.",
    notice="Of text with line breaks only a part arrives, or it forges an event or an id.",
    mend="Write `data:` before every line, after CR, LF and CRLF alike.",
)
async def multi_line(lab: Lab) -> Finding:
    async with lab.listening() as (peer, stream):
        if not lab.publishes:
            return await _multi_line_awaited(peer, stream)
        data = await lab.publish("\nid: forged\n é€😀")
        word = data.partition("\n")[0]
        try:
            await peer.until(lambda: any(word in e.data for e in stream.body.events), "event")
        except Silent as error:
            raise Unclear(str(error)) from None
    event = next(each for each in stream.body.events if word in each.data)
    # An envelope of JSON has the line breaks escaped: all is on one line then.
    if data in event.data or ("\\n" in event.data and event.id != "forged"):
        return passed("it came back as it was")
    raise Fault(f"it came back as {event.data!r}")


async def _multi_line_awaited(peer: Connection, stream: Stream) -> Finding:
    def most() -> int:
        return max((len(each.values("data")) for each in stream.body.events), default=0)

    with suppress(Silent):
        await peer.until(lambda: most() > 1 or len(stream.body.events) >= _AWAITED, "event")
    if most() < 2:
        raise Unclear("no event of several lines came; name a --publish-url, and it can be told")
    return passed(f"an event of {most()} lines came whole")


@events(
    "whole",
    clause="HTML 9.2.5",
    does="Measures the time between the first and the last byte of each event.",
    notice="An event waits for its last line until the next one comes.",
    mend="Write an event, its blank line included, in one piece, and flush it.",
)
async def whole(lab: Lab) -> Finding:
    async with lab.listening() as (peer, stream):
        await lab.events(peer, stream, count=2)
    found = stream.body.events
    slowest = max(each.ended_at - each.began_at for each in found)
    if slowest > _WHOLE_SECONDS:
        raise Fault(f"{slowest:.1f} s from the first byte of an event to its last")
    return passed(f"{len(found)} events, each in {slowest * 1000:.0f} ms or less")


@events(
    "prompt",
    clause="HTML 9.2.5",
    does="Publishes two events, a second apart, and one of 40,000 characters; without"
    " --publish-url, watches how events come.",
    notice="Events come late, and several together: a buffer on the way fills first.",
    mend="Flush after each event; turn off buffering and compression in the proxy (nginx:"
    " `proxy_buffering off`, or `x-accel-buffering: no` in the response).",
)
async def prompt(lab: Lab) -> Finding:
    async with lab.listening() as (peer, stream):
        if lab.publishes:
            return await _prompt_published(lab, peer, stream)
        await peer.watch(min(0.5, lab.patience))  # what is replayed comes together, and may
        begun = len(stream.body.events)
        await lab.events(peer, stream, count=4)
        times = [each.ended_at for each in stream.body.events[begun:]]
    sizes = [1]
    for earlier, later in pairwise(times):
        if later - earlier < _TOGETHER_SECONDS:
            sizes[-1] += 1
        else:
            sizes.append(1)
    if len(sizes) == 1:
        raise Unclear("all events came together; name a --publish-url, and it can be told")
    if min(sizes[:-1]) > 1:
        return warned(f"events come in bursts, of {', '.join(map(str, sizes))}")
    return passed("events come one by one")


async def _prompt_published(lab: Lab, peer: Connection, stream: Stream) -> Finding:
    def here(data: str) -> float | None:
        times = (each.ended_at for each in stream.body.events if data in each.data)
        return next(times, None)

    first = await lab.publish()
    first_at = trio.current_time()
    await peer.watch(1)
    on_time = here(first) is not None
    second = await lab.publish()
    second_at = trio.current_time()
    try:
        await peer.until(lambda: here(first) is not None and here(second) is not None, "event")
    except Silent:
        what = "the first only, after the second was published" if here(first) else "neither"
        raise Fault(f"of two events, {what}, within {lab.patience:g} s") from None
    if not on_time:
        raise Fault("the first event came only with, or after, the second, a second later")
    lags = [(here(first) or 0) - first_at, (here(second) or 0) - second_at]
    if max(lags) > _PROMPT_SECONDS:
        raise Fault(f"an event came {max(lags):.1f} s after its publication")
    # A proxy may pass on small ones at once, and keep the end of what does not fit its buffers.
    with suppress(Unclear):
        large = await lab.publish("x" * 40_000)
        try:
            await peer.until(lambda: here(large) is not None, "event")
        except Silent:
            raise Fault(f"a large event did not come within {lab.patience:g} s") from None
    return passed(f"small ones came within {max(*lags, 0) * 1000:.0f} ms, and a large one whole")


@events(
    "compression",
    clause="RFC 9110 8.4",
    does="Asks with Accept-Encoding gzip, deflate, br, zstd, as browsers do.",
    notice="A compressor holds events back until its block is full.",
    mend="Leave text/event-stream out of compression, or flush the compressor after every event;"
    " `cache-control: no-transform` tells middle boxes so.",
)
async def compression(lab: Lab) -> Finding:
    async with lab.listening() as (peer, _):
        with charged("compressed, it seems"):
            stream = await lab.listen(peer, ("accept-encoding", "gzip, deflate, br, zstd"))
        coding = ", ".join(stream.values("content-encoding")).lower()
        if coding in ("", "identity"):
            return passed("it is not compressed")
        try:
            await peer.until(lambda: stream.raw, "byte of the body")
            if lab.publishes:
                await lab.publish()
            await peer.watch(_PROMPT_SECONDS)
        except Silent as error:
            raise Fault(f"compressed with {coding}, and {error}") from None
    if coding not in ("gzip", "x-gzip", "deflate"):
        return warned(f"compressed with {coding}; whether events are held back was not seen")
    try:
        text = zlib.decompressobj(wbits=47).decompress(bytes(stream.raw))
    except zlib.error as error:
        raise Fault(f"compressed with {coding}, which is broken: {error}") from None
    if b"\n" not in text:
        raise Fault(f"compressed with {coding}, of which no line can be undone yet")
    return warned(f"compressed with {coding}, and flushed; each stream keeps a compressor")


@events(
    "heartbeat",
    clause="HTML 9.2.7",
    does="Watches a stream while nothing is published.",
    notice="Proxies and routers drop a quiet connection after 30 to 60 s, and nobody notices until"
    " an event is lost.",
    mend="Send a comment, `:` and a blank line, every 15 s on a quiet stream.",
)
async def heartbeat(lab: Lab) -> Finding:
    async with lab.listening() as (peer, stream):
        began = trio.current_time()
        until = began + lab.options.quiet_seconds
        longest = 0.0
        while (now := trio.current_time()) < until:
            body = stream.body
            times = [stream.answered_at or began, *body.arrivals]
            gaps = [later - earlier for earlier, later in pairwise(times)]
            longest = max(gaps, default=0.0)
            if body.comments and body.comments[-1] - times[0] >= 1:
                return _comments(longest)
            quiet = max(longest, now - times[-1])
            if now - began > 2 * _BUSY_SECONDS and quiet < _BUSY_SECONDS:
                return passed(f"something came every {longest:.1f} s: it was never quiet")
            await peer.watch(min(1.0, until - now))
        silent = trio.current_time() - times[-1]
    if max(silent, longest) > _QUIET_SECONDS:
        raise Fault(f"nothing came for {max(silent, longest):.0f} s")
    if silent > _BUSY_SECONDS and lab.options.quiet_seconds <= _QUIET_SECONDS:
        raise Unclear(f"{lab.options.quiet_seconds:g} s were too short to tell")
    return passed(f"something came every {longest:.0f} s")


def _comments(longest: float) -> Finding:
    if longest > _QUIET_SECONDS:
        raise Fault(f"nothing came for {longest:.0f} s")
    return passed(f"a comment after {longest:.0f} s of silence")


async def _retries(lab: Lab, streams: int) -> list[int]:
    """The reconnection times that so many streams are told."""
    async with lab.connect() as peer:
        opened = [await lab.listen(peer) for _ in range(streams)]
        try:
            await peer.until(
                lambda: all(each.body.blocks for each in opened), "block", min(2.0, lab.patience)
            )
        except Silent:
            if lab.publishes:
                await lab.events(peer, *opened)
        values = [
            value
            for each in opened
            for block in each.body.blocks[:4]
            for value in block.values("retry")[:1]
        ]
        return [int(value) for value in values if value.isascii() and value.isdigit()]


@events(
    "retry",
    clause="HTML 9.2.6",
    does="Looks for a `retry` line at the beginning of the stream.",
    notice="Chromium comes back after 3 s, Firefox after 5 s, whatever suits the server; with 0"
    " Chromium comes back without any pause.",
    mend="Begin every stream with `retry:` and a time in milliseconds, some thousands.",
)
async def retry(lab: Lab) -> Finding:
    found = await _retries(lab, 1)
    if not found:
        return warned("none: each browser waits as long as it likes")
    if found[0] == 0:
        raise Fault("retry: 0 has browsers come back without a pause")
    return passed(f"{found[0]} ms")


@events(
    "retry-spread",
    clause="HTML 9.2.3",
    does=f"Opens {_SPREAD_STREAMS} streams and compares what they are told.",
    notice="After a restart all clients come back in the same instant, and overload the server.",
    mend="Give each stream a `retry` of its own, drawn from a range of, say, +-30 %.",
)
async def retry_spread(lab: Lab) -> Finding:
    found = await _retries(lab, _SPREAD_STREAMS)
    if len(found) < _SPREAD_STREAMS:
        raise Unclear("there is no retry in each stream")
    if len(set(found)) == 1:
        return warned(f"{found[0]} ms for all of them")
    return passed(f"{min(found)} to {max(found)} ms")


@events(
    "ids",
    clause="HTML 9.2.4",
    does="Looks for an id in every event.",
    notice="After a disconnection, events since the last one with an id come twice, or not at all.",
    mend="Put an id on every event, one with data (Firefox forgets others), below 128 bytes.",
)
async def ids(lab: Lab) -> Finding:
    async with lab.listening() as (peer, stream):
        await lab.news(peer, stream, 2)
    found = stream.body.news  # what greets comes again, with an id or without
    without = [each for each in found if each.id is None]
    if len(without) == len(found):
        return warned("no event has an id: nothing that is missed can be asked for")
    if without:
        raise Fault(f"{len(without)} of {len(found)} events have no id")
    if len({each.id for each in found}) < len(found):
        raise Fault("two events have the same id")
    return passed(f"{len(found)} events, each with an id of its own")


CHECKS = (
    well_formed,
    multi_line,
    whole,
    prompt,
    compression,
    heartbeat,
    retry,
    retry_spread,
    ids,
)
