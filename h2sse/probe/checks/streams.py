"""Many streams on one connection: limits, windows, and what must harm one stream only."""

from __future__ import annotations

from functools import partial
from typing import Final

from h2sse.frames import FRAME_BYTES, PING
from h2sse.probe.connection import (
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    REFUSED_STREAM,
    Connection,
    Stream,
    frame,
    settings_frame,
    window_update,
)
from h2sse.probe.lab import Lab
from h2sse.probe.verdict import (
    Fault,
    Finding,
    Lost,
    Silent,
    Unclear,
    charged,
    check,
    passed,
    warned,
)

__all__ = ["CHECKS", "open_and_cancel"]

_MANY: Final = 100
# The most streams that the prober opens at once; twice what browsers use.
_MOST: Final = 512
_PROMPT_SECONDS: Final = 1.0
# Smaller than the first bytes of a stream usually are.
_SMALL_WINDOW: Final = 5
_WINDOW: Final = 65_535
# How long a server is watched that must not send.
_STILL_SECONDS: Final = 1.0
_PROTOCOL_ERROR: Final = 1

# How browsers begin: SETTINGS and WINDOW_UPDATE as Chromium 156 and Firefox 153 send them.
_CHROMIUM: Final = settings_frame({1: 65_536, 2: 0, 4: 6_291_456, 6: 262_144}) + window_update(
    0, 15_663_105
)
_FIREFOX: Final = settings_frame({1: 65_536, 2: 0, 4: 131_072, 5: 16_384}) + window_update(
    0, 12_517_377
)
_HAS_PRIORITY: Final = 32

http2 = partial(check, group="http2")


async def _limit(peer: Connection) -> int | None:
    await peer.until(lambda: peer.first is not None, "SETTINGS")
    return peer.settings.get(MAX_CONCURRENT_STREAMS)


async def _open_many(lab: Lab, peer: Connection, count: int) -> list[Stream]:
    """Requests by the dozen, each answered."""
    streams: list[Stream] = []
    while len(streams) < count:
        batch = [peer.request(lab.target.path, *lab.fields()) for _ in range(32)]
        batch = batch[: count - len(streams)]
        peer.next_stream = batch[-1][0].id + 2
        await peer.send(*(each for _, frames in batch for each in frames))
        found = [stream for stream, _ in batch]
        await lab.answered(peer, *found)
        streams += found
    return streams


async def open_and_cancel(lab: Lab, peer: Connection, before: int) -> Stream:
    """One stream more, after so many that were cancelled.  Raises Fault if it is refused."""
    stream = await lab.ask(peer)
    if not stream.is_event_stream:
        raise Fault(f"after {before} that were cancelled: {stream}")
    await peer.cancel(stream)
    return stream


@http2(
    "browser-requests",
    clause="RFC 9113 5.1.1, 8.2.2, 8.2.3, RFC 9218 4",
    does="Sends the first bytes of Chromium and of Firefox: their SETTINGS and windows, priorities,"
    " te: trailers, cookies in several fields, stream numbers that begin at 3.",
    notice="It works with curl, and not with a browser.",
    mend="Take what the RFCs allow; ignore priorities that you do not use.",
)
async def browser_requests(lab: Lab) -> Finding:
    async with lab.listening():
        pass  # so that what is found is not every request's
    cookies = (("cookie", "a=1"), ("cookie", "b=2"))
    for name, hello, first, more in (
        ("Chromium", _CHROMIUM, 1, (("priority", "u=1, i"), *cookies)),
        ("Firefox", _FIREFOX, 3, (("te", "trailers"), ("priority", "u=4"), *cookies)),
    ):
        async with lab.connect(hello=hello) as peer:
            with charged(f"as {name} asks"):
                peer.next_stream = first
                stream, frames = peer.request(
                    lab.target.path,
                    *lab.fields(("cache-control", "no-cache"), ("pragma", "no-cache"), *more),
                    flags=_HAS_PRIORITY,
                    before=b"\x80\0\0\0\xff" if first == 1 else b"\0\0\0\0\x15",
                )
                await peer.send(*frames)
                await peer.until(lambda stream=stream: stream.answered, "response")  # type: ignore[misc]  # bound by default
                await peer.alive()
            if not stream.is_event_stream:
                raise Fault(f"as {name} asks: {stream}")
    return passed("both are answered")


@http2(
    "many-streams",
    clause="RFC 9113 5.1.2",
    does=f"Opens {_MANY} streams on one connection (or as many as are allowed).",
    notice="Tabs beyond some number stay at CONNECTING, or fail.",
    mend="Raise what bounds streams, workers or connections to the upstream; a stream must not hold"
    " a worker.",
    frames=300,
)
async def many_streams(lab: Lab) -> Finding:
    async with lab.connect() as peer:
        limit = await _limit(peer)
        count = min(_MANY, _MANY if limit is None else limit)
        first = await lab.listen(peer)
        streams = [first]
        with charged(f"of {count} streams"):
            try:
                streams += await _open_many(lab, peer, count - 1)
            except Unclear as error:
                raise Fault(f"of {count} streams, one more was not taken: {error}") from None
        over = [each for each in streams if each.over]
        if over:
            raise Fault(f"{len(over)} of {count} streams were ended: {over[0]}")
    return passed(f"{count} streams, each answered")


@http2(
    "surplus-stream",
    clause="RFC 9113 5.1.2",
    does="Opens as many streams as are allowed, and one more.",
    notice="One tab too many, and all tabs of the browser lose their connection at once.",
    mend="Answer the surplus stream with RST_STREAM, REFUSED_STREAM; leave the connection alone.",
    frames=2 * _MOST + 100,
)
async def surplus_stream(lab: Lab) -> Finding:
    async with lab.connect() as peer:
        limit = await _limit(peer)
        if limit is None or limit > _MOST:
            raise Unclear(f"its limit is {'not stated' if limit is None else limit}")
        streams = await _open_many(lab, peer, limit)
        with charged(f"stream {limit + 1}, where {limit} are allowed, ends all of them"):
            try:
                surplus = await lab.ask(peer)
            except Silent:
                await peer.alive()
                raise Fault("the surplus stream is neither answered nor refused") from None
            await peer.alive()
        over = [each for each in streams if each.over]
        if over:
            raise Fault(f"{len(over)} other streams were ended")
        if surplus.reset in (REFUSED_STREAM, _PROTOCOL_ERROR):
            return passed(f"stream {limit + 1}: {surplus}; the other {limit} live")
        return warned(f"stream {limit + 1}: {surplus}, where REFUSED_STREAM is due")


@http2(
    "cancelled-streams",
    clause="RFC 9113 5.1, 5.4.2",
    does=f"Opens and cancels more streams, one after the other, than are allowed at once (up to"
    f" {_MOST}).",
    notice="After some reloads new tabs hang: streams that are closed still count.",
    mend="On RST_STREAM end the handler, and free the stream, also where it waits for a window.",
    frames=2 * _MOST + 200,
    seconds=20,
)
async def cancelled_streams(lab: Lab) -> Finding:
    async with lab.listening() as (peer, _):
        limit = await _limit(peer)
        count = min(limit or _MANY, _MOST) + 20
        with charged(f"while {count} streams were opened and cancelled in turn"):
            for number in range(count):
                await open_and_cancel(lab, peer, number)
            await peer.alive()
    return passed(f"{count} in turn, and the connection lives")


@http2(
    "window-kept",
    clause="RFC 9113 5.2, 6.9",
    does=f"Opens a stream whose window is {_SMALL_WINDOW} bytes, later 65,535.",
    notice="Browsers close the connection with FLOW_CONTROL_ERROR, and every tab with it.",
    mend="Send no more DATA than the smaller of both windows; go on when it is opened.",
)
async def window_kept(lab: Lab) -> Finding:
    async with lab.listening({INITIAL_WINDOW_SIZE: _SMALL_WINDOW}) as (peer, stream):
        stream.held = True
        if lab.publishes:
            await lab.publish()
        await peer.watch(_STILL_SECONDS)
        before = stream.body.size
        if before > _SMALL_WINDOW:
            raise Fault(f"{before} bytes into a window of {_SMALL_WINDOW}")
        await peer.give(stream, _WINDOW)
        try:
            await peer.until(lambda: stream.body.size > before, "byte after WINDOW_UPDATE")
        except Silent as error:
            if before == _SMALL_WINDOW or lab.publishes:
                raise Fault(str(error)) from None
            raise Unclear("too little came to fill a window") from None
        if peer.overruns:
            raise Fault(peer.overruns[0])
    return passed(f"{before} bytes, then a pause until the window was opened")


@http2(
    "stalled-neighbour",
    clause="RFC 9113 5.2",
    does="Keeps the window of one stream at 0, and reads another beside it.",
    notice="One tab that does not read, in the background say, delays all others.",
    mend="Let a stream without window wait by itself; never write to the connection in its name"
    " while others have something to send.",
    seconds=10,
)
async def stalled_neighbour(lab: Lab) -> Finding:
    async with lab.connect({INITIAL_WINDOW_SIZE: 0}) as peer:
        await peer.until(lambda: peer.settings_acks, "acknowledgement of SETTINGS")

        async def listen(window: int) -> Stream:
            # The window comes with the request: some servers hold the head back without one.
            stream, frames = peer.request(lab.target.path, *lab.fields())
            stream.held = True
            stream.window += window
            await peer.send(*frames, *([window_update(stream.id, window)] if window else []))
            return stream

        async def begun(stream: Stream) -> None:
            """Wait for anything at all."""
            await lab.answered(peer, stream)
            if lab.publishes:
                await lab.events(peer, stream)
            else:
                await peer.until(lambda: stream.body.size, "byte of the body")

        alone = await listen(_WINDOW)
        try:
            await begun(alone)
        except Silent as error:
            raise Unclear(f"a stream alone: {error}") from None
        stalled = await listen(0)
        await peer.watch(min(0.2, lab.patience))
        beside = await listen(_WINDOW)
        size = alone.body.size
        try:
            await begun(beside)
            if lab.publishes and alone.body.size == size:
                await peer.until(lambda: alone.body.size > size, "byte of the other stream")
        except (Silent, Lost, Unclear) as error:
            raise Fault(f"beside a stream whose window is 0: {error}") from None
        if stalled.over:
            return warned(f"the stalled stream was ended: {stalled}")
    return passed("the streams beside it went on")


@http2(
    "negative-window",
    clause="RFC 9113 6.9.2",
    does="Lowers SETTINGS_INITIAL_WINDOW_SIZE to 0 while a stream is open, so that its window falls"
    " below zero, and raises it again.",
    notice="A client under memory pressure loses its connection, or gets no event any more.",
    mend="Move the windows of all open streams with every change of the setting, below zero too.",
    seconds=10,
)
async def negative_window(lab: Lab) -> Finding:
    async with lab.listening({INITIAL_WINDOW_SIZE: _WINDOW}) as (peer, stream):
        stream.held = True
        await lab.events(peer, stream)
        with charged("INITIAL_WINDOW_SIZE lowered to 0"):
            await peer.change({INITIAL_WINDOW_SIZE: 0})
            size = stream.body.size
            if lab.publishes:
                await lab.publish()
            await peer.watch(_STILL_SECONDS + 0.5)
        if stream.body.size > size:
            raise Fault(f"{stream.body.size - size} bytes into a window below zero")
        with charged("INITIAL_WINDOW_SIZE raised again"):
            await peer.change({INITIAL_WINDOW_SIZE: _WINDOW})
            await peer.until(lambda: stream.body.size > size, "byte of what waits")
    return passed("it waited, and went on")


@http2(
    "frame-size",
    clause="RFC 9113 4.2",
    does="Looks at the largest DATA frame; if it can, publishes an event of 40,000 characters.",
    notice="Browsers close the connection with FRAME_SIZE_ERROR, and every tab with it.",
    mend=f"Cut DATA at the client's SETTINGS_MAX_FRAME_SIZE, {FRAME_BYTES} unless it says more.",
)
async def frame_size(lab: Lab) -> Finding:
    async with lab.listening() as (peer, stream):
        if lab.publishes:
            data = await lab.publish("x" * 40_000)
            await peer.until(lambda: any(data in e.data for e in stream.body.events), "event")
        else:
            await lab.events(peer, stream)
    if stream.largest_frame > FRAME_BYTES:
        raise Fault(f"a DATA frame of {stream.largest_frame} bytes")
    return passed(f"the largest DATA frame had {stream.largest_frame} bytes")


@http2(
    "ping",
    clause="RFC 9113 6.7",
    does="Sends PING while 20 streams are open and, if that can be had, an event goes to each.",
    notice="Chromium and Firefox ping before they use a connection again; without an answer they"
    " give it up, and every tab on it.",
    mend="Answer PING at once, with the same eight bytes, ahead of DATA.",
    frames=200,
)
async def ping(lab: Lab) -> Finding:
    async with lab.connect() as peer:
        limit = await _limit(peer)
        await _open_many(lab, peer, min(20, 20 if limit is None else limit))
        if lab.publishes:
            await lab.publish()
        with charged():
            took = max([await peer.ping() for _ in range(3)])
    if took > _PROMPT_SECONDS:
        raise Fault(f"the answer to a PING took {took:.1f} s")
    return passed(f"answered within {took * 1000:.0f} ms")


@http2(
    "unknown-frames",
    clause="RFC 9113 4.1, 5.5, 6.5.2",
    does="Sends frames of two unknown types, an unknown setting, and a PING with unknown flags.",
    notice="Chromium sends such frames on purpose, now and then: its connection is lost.",
    mend="Ignore frame types, settings and flags that you do not know.",
)
async def unknown_frames(lab: Lab) -> Finding:
    async with lab.bystander() as (peer, stream):
        await peer.send(
            frame(0x1A, 0xFF, 0, b"h2sse"),
            frame(0xFA, 0, stream.id, b"h2sse"),
            settings_frame({0x1A1A: 0xFFFFFFFF}),
            frame(PING, 0xFE, 0, b"h2sse-pr"),
        )
    return passed("ignored")


@http2(
    "malformed-request",
    clause="RFC 9113 8.1.1",
    does="Sends a request with an upper-case field name, beside a stream that must live.",
    notice="One faulty request, of an extension say, ends every tab of that browser.",
    mend="Answer with RST_STREAM, PROTOCOL_ERROR, or with 400; leave the connection alone.",
)
async def malformed_request(lab: Lab) -> Finding:
    async with lab.bystander() as (peer, _):
        stream = await lab.ask(peer, ("X-Upper", "1"), what="answer or RST_STREAM")
    if stream.is_event_stream:
        return warned("it is answered as if it were well formed")
    return passed(f"{stream}, of that stream alone")


CHECKS = (
    browser_requests,
    many_streams,
    surplus_stream,
    cancelled_streams,
    window_kept,
    stalled_neighbour,
    negative_window,
    frame_size,
    ping,
    unknown_frames,
    malformed_request,
)
