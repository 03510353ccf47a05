"""How things end, and what all other checks met by the way; so these come last."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Final

from h2sse.probe.connection import code_name
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

from .access import METHOD

__all__ = ["CHECKS"]

_HTTP_1_1_REQUIRED: Final = 13
_NO_CONTENT: Final = 204


@check(
    "no-push",
    "end",
    clause="RFC 9113 8.4",
    does="Looks whether any connection got a PUSH_PROMISE, which the probe forbids as browsers do.",
    notice="Browsers close the connection with PROTOCOL_ERROR.",
    mend="Obey SETTINGS_ENABLE_PUSH.",
)
async def no_push(lab: Lab) -> Finding:
    try:
        async with lab.listening():
            pass
    except Lost:
        if not lab.pushed:
            raise
    if lab.pushed:
        raise Fault("a PUSH_PROMISE came")
    return passed("none came")


@check(
    "ends",
    "end",
    clause="RFC 9113 8.1, 7",
    does=f"Asks for what ends, with OPTIONS and {METHOD}, and looks how it does; and how streams"
    " ended that the server ended while the other checks ran.",
    notice="Clients wait for the rest of an answer that has none, or take its end for a loss."
    "  Browsers come back after any end of a stream; HTTP_1_1_REQUIRED makes Chromium leave HTTP/2,"
    " and a reset is told as a network error.",
    mend="End what ends with END_STREAM, an event stream on an empty DATA frame; answer 204 to who"
    " must not return, without body and Content-Length.",
)
async def ends(lab: Lab) -> Finding:
    short = [seen for method in ("OPTIONS", METHOD) if (seen := await _ended(lab, method))]
    counted = Counter(
        "END_STREAM" if each.code is None else f"RST_STREAM {code_name(each.code)}"
        for each in lab.endings
    )
    seen = ", ".join(f"{number} with {how}" for how, number in counted.items())
    if any(each.code == _HTTP_1_1_REQUIRED for each in lab.endings):
        raise Fault(f"event streams: {seen}")
    if set(counted) - {"END_STREAM"}:
        return warned(f"event streams: {seen}")
    if not short and not seen:
        raise Unclear("nothing was ended by the server")
    ended = f"{', '.join(short)}, with END_STREAM; " if short else ""
    return passed(f"{ended}event streams: {seen or 'none was ended by the server'}")


async def _ended(lab: Lab, method: str) -> str:
    """What was answered, if that was to end, and did so well; "" if it was not."""
    async with lab.connect() as peer:
        stream = await peer.open(lab.target.path, *lab.fields(), method=method)
        with suppress(Silent):  # which is what those methods' own checks are about
            await peer.until(lambda: stream.answered, "response")
        if not stream.status or stream.is_event_stream:
            return ""
        seen = f"{stream.status} to {method}"
        with charged(f"{seen} does not end"):
            await peer.until(lambda: stream.over, "END_STREAM")
    if not stream.ended:
        raise Fault(f"{seen} ends with RST_STREAM {code_name(stream.reset or 0)}")
    lengths = stream.values("content-length")
    if stream.status == _NO_CONTENT and (stream.body.size or lengths):
        raise Fault(f"{seen} has {'a body' if stream.body.size else 'a content-length'}")
    return seen


CHECKS = (no_push, ends)
