"""What all other checks met by the way; so these come last."""

from __future__ import annotations

from collections import Counter
from typing import Final

from h2sse.probe.connection import code_name
from h2sse.probe.lab import Lab
from h2sse.probe.verdict import Fault, Finding, Lost, Unclear, check, passed, warned

__all__ = ["CHECKS"]

_HTTP_1_1_REQUIRED: Final = 13


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
        async with lab.connect() as peer:
            await lab.listen(peer)
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
    does="Looks how streams ended that the server ended while the other checks ran.",
    notice="Browsers come back after any end; HTTP_1_1_REQUIRED makes Chromium leave HTTP/2, and a"
    " reset is told as a network error.",
    mend="End a stream with END_STREAM on an empty DATA frame; answer 204 to who must not return.",
)
async def ends(lab: Lab) -> Finding:
    if not lab.endings:
        raise Unclear("no stream was ended by the server")
    counted = Counter(
        "END_STREAM" if each.code is None else f"RST_STREAM {code_name(each.code)}"
        for each in lab.endings
    )
    seen = ", ".join(f"{number} with {how}" for how, number in counted.items())
    if any(each.code == _HTTP_1_1_REQUIRED for each in lab.endings):
        raise Fault(seen)
    if set(counted) != {"END_STREAM"}:
        return warned(seen)
    return passed(seen)


CHECKS = (no_push, ends)
