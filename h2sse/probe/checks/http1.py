"""The same endpoint over HTTP/1.1, where each stream has a connection."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import trio

from h2sse.probe.http1 import Http1
from h2sse.probe.lab import Lab, Unreachable
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

__all__ = ["CHECKS"]

# What a browser opens to a host.
_BROWSER: Final = 6
_CONNECTIONS: Final = 12
_SINGLE: Final = (
    *("content-type", "cache-control", "transfer-encoding", "connection", "date", "server"),
    *("content-length", "content-encoding", "access-control-allow-origin"),
)

http1 = partial(check, group="http1", http2=False)


async def _ask(lab: Lab, peer: Http1) -> None:
    await peer.ask(lab.target.path, *lab.fields1())
    await peer.until(lambda: peer.status, "response")


async def _stream(lab: Lab, peer: Http1) -> None:
    try:
        await _ask(lab, peer)
    except (Silent, Lost) as error:
        raise Unclear(str(error)) from None
    if not peer.is_event_stream:
        raise Unclear(f"it is no event stream: status {peer.status}")


@http1(
    "http1",
    clause="HTML 9.2.3",
    does="Asks over HTTP/1.1.",
    notice="Behind proxies that do not speak HTTP/2 there are no events.",
    mend="Offer http/1.1 by ALPN, too, and serve the same stream there.",
)
async def works(lab: Lab) -> Finding:
    try:
        stream = await lab.dial("http/1.1")
    except Unreachable:
        # Is it HTTP/1.1 that it refuses, or everyone?
        await trio.aclose_forcefully(await lab.dial("h2"))
        return warned("it speaks HTTP/2 alone")
    await trio.aclose_forcefully(stream)
    async with lab.http1() as peer:
        with charged():
            await _ask(lab, peer)
            if not peer.is_event_stream:
                raise Fault(f"status {peer.status}, {', '.join(peer.values('content-type'))}")
            await peer.until(lambda: peer.body.size, "byte of the body")
    return passed("200, text/event-stream, and a first byte")


@http1(
    "http1-framing",
    clause="RFC 9112 6, 7.1",
    does="Looks at how the body is framed.",
    notice="The stream is cut after Content-Length, or a proxy waits for its end.",
    mend="Send `transfer-encoding: chunked`, a chunk for each event, and no Content-Length.",
)
async def framing(lab: Lab) -> Finding:
    async with lab.http1() as peer:
        await _stream(lab, peer)
        lengths = peer.values("content-length")
        if lengths:
            raise Fault(f"content-length: {', '.join(lengths)}")
        coding = ", ".join(peer.values("transfer-encoding")).lower()
        if coding != "chunked":
            return warned(f"transfer-encoding is {coding or 'missing'}: an end looks like a loss")
    return passed("chunked")


@http1(
    "http1-fields",
    clause="RFC 9110 5.3",
    does="Looks for fields that stand twice.",
    notice="Of two contradicting fields each proxy takes another; two Transfer-Encodings are an"
    " error.",
    mend="Write each field once: what the proxy adds, the server is to leave out.",
)
async def fields(lab: Lab) -> Finding:
    async with lab.http1() as peer:
        await _stream(lab, peer)
        doubled = [name for name in _SINGLE if len(peer.values(name)) > 1]
    if doubled:
        raise Fault(f"twice: {', '.join(doubled)}")
    return passed(f"{len(peer.fields)} fields, none twice")


@http1(
    "http1-connections",
    clause="RFC 9112 9.4",
    does=f"Opens {_CONNECTIONS} connections, a stream on each.",
    notice=f"A browser opens {_BROWSER}; two people behind one address need {_CONNECTIONS}."
    "  Beyond, tabs hang.",
    mend="Raise the connections that an address may have.",
)
async def connections(lab: Lab) -> Finding:
    granted = 0
    reason = ""
    async with AsyncExitStack() as stack:
        for number in range(_CONNECTIONS):
            try:
                peer = await stack.enter_async_context(lab.http1())
                await _stream(lab, peer)
                granted += 1
            except Unclear as error:
                if not number:
                    raise
                reason = f": {error}"
                break
    seen = f"{granted} of {_CONNECTIONS}{reason}"
    if granted <= _BROWSER:
        raise Fault(seen)
    return passed(seen) if granted == _CONNECTIONS else warned(seen)


CHECKS = (works, framing, fields, connections)
