"""The rough checks: only with --intrusive, and after all others.

What one of them sends may end a server that is not ready for it.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Final

import trio

from h2sse.frames import PRIORITY, reset_frame
from h2sse.probe.connection import CANCEL, frame
from h2sse.probe.lab import Lab
from h2sse.probe.verdict import Fault, Finding, Lost, Silent, charged, check, passed, warned

from .streams import open_and_cancel

__all__ = ["CHECKS"]

_CHAIN: Final = 150
# What a list that is scanned makes of a stream; one that is not stays where it was (0.8 ms).
_SLOWER: Final = 3
_SLOWER_SECONDS: Final = 0.005
# More than the 1,000 that nghttp2, and what is built on it, takes before it ends the connection.
_BURST: Final = 1_500
# So many resets on one connection are more than any browser's.
_RESETS: Final = 1_000

rough = partial(check, group="http2", intrusive=True)


@rough(
    "priority-chain",
    clause="RFC 9113 5.3.2",
    does=f"Makes {_CHAIN} streams depend on each other, and opens one more.",
    notice="A client that still sends priorities can end its connection, or the server.",
    mend="Ignore PRIORITY, or bound the depth of the tree.",
    frames=_CHAIN + 100,
)
async def priority_chain(lab: Lab) -> Finding:
    async with lab.listening() as (peer, _):
        first = peer.next_stream
        chain = [
            frame(PRIORITY, 0, number, (number - 2).to_bytes(4, "big") + b"\x0f")
            for number in range(first, first + 2 * _CHAIN, 2)
        ]
        with charged(f"a chain of {_CHAIN} streams"):
            await peer.send(*chain)
            await peer.alive()
            peer.next_stream = first + 2 * _CHAIN
            stream = await lab.ask(peer)
        if not stream.is_event_stream:
            raise Fault(f"after a chain of {_CHAIN} streams: {stream}")
    return passed("no harm")


@rough(
    "churn",
    clause="RFC 9113 5.1, 5.4.2",
    does="Opens and cancels 10,000 streams in turn, and compares the first with the last.",
    notice="A connection that lives for days grows slower, or fails.",
    mend="Forget a stream when it is closed; keep no list that is scanned.",
    frames=20_400,
    seconds=110,
)
async def churn(lab: Lab) -> Finding:
    count = lab.options.churn_streams
    tenth = max(1, count // 10)
    took: list[float] = []
    async with lab.listening() as (peer, _):
        try:
            for _ in range(count):
                began = trio.current_time()
                stream = await open_and_cancel(lab, peer, len(took))
                took.append(trio.current_time() - began)
                del peer.streams[stream.id]
            await peer.alive()
        except (Silent, Lost) as error:
            if peer.goaway is not None and peer.goaway[1] == 0:
                # Its own decision, and a browser follows it: another connection.
                return passed(f"{len(took)} streams, then GOAWAY with NO_ERROR")
            if peer.goaway is not None and len(took) >= _RESETS:
                # A bound on resets that counts streams which were answered, too.
                return warned(f"after {len(took)} streams: {error}")
            raise Fault(f"after {len(took)} streams: {error}") from None
    first, last = statistics.median(took[:tenth]), statistics.median(took[-tenth:])
    seen = f"{first * 1000:.1f} ms a stream at first, {last * 1000:.1f} ms after {count}"
    if last > _SLOWER * first and last - first > _SLOWER_SECONDS:
        raise Fault(seen)
    return passed(seen)


@rough(
    "burst",
    clause="RFC 9113 10.5",
    does=f"Opens and resets {_BURST:,} streams in one write, and connects anew.",
    notice="Who means harm keeps the server busy with little: others wait.",
    mend="Count resets a connection, and end it past some hundreds in a moment.",
    frames=2 * _BURST + 200,
    seconds=20,
)
async def burst(lab: Lab) -> Finding:
    ended: str | None = None
    async with lab.listening() as (peer, _):
        frames: list[bytes] = []
        for _ in range(_BURST):
            stream, opening = peer.request(lab.target.path, *lab.fields())
            stream.cancelled = True
            frames += [*opening, reset_frame(stream.id, CANCEL)]
        try:
            await peer.send(*frames)
            await peer.alive()
        except (Lost, Silent) as error:
            ended = str(error)
    async with lab.connect() as peer:
        with charged(f"on a new connection, after {_BURST:,} streams were opened and reset"):
            stream = await lab.ask(peer)
        if not stream.is_event_stream:
            raise Fault(f"on a new connection: {stream}")
    if ended is None:
        return warned(f"all {_BURST:,} are taken")
    return passed(f"bounded: {ended}; others are served")


CHECKS = (priority_chain, churn, burst)
