"""A prober: what an SSE endpoint does on the wire, seen from outside.

Each check (`checks/`) asks one thing, on connections of its own, with frames that no library would
send (`connection.py`), and comes to a verdict.  No check hangs, sends more frames than it states,
or ends another: whatever happens in one stays there.

    report = await probe(Options(url="https://localhost:8443/events?topic=a"))
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable

import trio

from h2sse.errors import ConfigError

from .checks import CHECKS
from .lab import Lab, Options, Unreachable
from .report import Report, line
from .verdict import Check, Fault, Finding, Lost, Result, Silent, Unclear, Verdict

__all__ = ["CHECKS", "Options", "Report", "describe", "frames_at_most", "probe", "run", "selected"]

logger = logging.getLogger(__name__)

# A check waits for so many answers at the most, one after the other.
_WAITS = 8


def selected(options: Options) -> list[Check]:
    """The checks to be made, the rough ones last.  Raises ConfigError for a name that is none."""
    names = {check.name for check in CHECKS} | {check.group for check in CHECKS}
    for name in (*options.only, *options.skip):
        if name not in names:
            known = ", ".join(dict.fromkeys(check.group for check in CHECKS))
            raise ConfigError(f"there is no check {name!r}; see --list, or name a group: {known}")
    chosen = []
    for check in CHECKS:
        its = {check.name, check.group}
        if its & set(options.skip) or (options.only and not its & set(options.only)):
            continue
        if check.intrusive and not options.intrusive:
            if check.name in options.only:
                raise ConfigError(f"{check.name} is a rough check: it needs --intrusive")
            continue
        chosen.append(check)
    # A server that a rough check ends has been seen in full before.
    return sorted(chosen, key=lambda check: check.intrusive)


def frames_at_most(checks: list[Check]) -> int:
    """How many frames these checks may send together."""
    return sum(check.frames for check in checks)


async def probe(options: Options, tell: Callable[[Result], None] = lambda _: None) -> Report:
    """Make the checks, one after the other; `tell` is called with each result.

    Raises ConfigError; whatever the endpoint does is in the report.
    """
    lab = Lab(options)
    checks = selected(options)
    reason = await _why_not_http2(lab)
    results: list[Result] = []
    for check in checks:
        result = await _made(lab, check, reason)
        results.append(result)
        tell(result)
    rough = 0 if options.intrusive or options.only else sum(each.intrusive for each in CHECKS)
    return Report(url=options.url, results=results, left_out=rough)


async def _why_not_http2(lab: Lab) -> str | None:
    try:
        stream = await lab.dial("h2", "http/1.1")
    except Unreachable as error:
        return str(error)
    chosen = stream.selected_alpn_protocol()
    await trio.aclose_forcefully(stream)
    return None if chosen == "h2" else "it does not speak HTTP/2"


async def _made(lab: Lab, check: Check, why_not_http2: str | None) -> Result:
    lab.sent, lab.allowed = 0, check.frames
    began = trio.current_time()
    seconds = _WAITS * lab.patience + check.seconds
    if check.name == "heartbeat":
        seconds += lab.options.quiet_seconds
    finding = Finding(Verdict.CANNOT_TELL, f"it was not done within {math.ceil(seconds)} s")
    with trio.move_on_after(seconds):
        finding = await _found(lab, check, why_not_http2)
    return Result(check, finding, lab.sent, trio.current_time() - began)


async def _found(lab: Lab, check: Check, why_not_http2: str | None) -> Finding:
    if check.http2 and why_not_http2 is not None:
        return Finding(Verdict.CANNOT_TELL, why_not_http2)
    try:
        return await check.run(lab)
    except Fault as fault:
        return Finding(Verdict.FAIL, str(fault))
    except (Unclear, Silent, Lost, Unreachable) as error:
        return Finding(Verdict.CANNOT_TELL, str(error))
    except Exception as error:
        # One check's mistake is no reason to lose what the others find.
        logger.exception("the check %s failed", check.name)
        return Finding(Verdict.CANNOT_TELL, f"the check itself failed: {error!r}")


# -- the command


def run(options: Options, *, as_json: bool) -> int:
    """`h2sse probe`: returns the exit code.  Raises ConfigError."""
    import os
    import shutil

    from h2sse.terminal import say

    checks = selected(options)
    Lab(options)  # raises what the user is to mend, before a word is said
    width = shutil.get_terminal_size((100, 24)).columns
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(  # noqa: T201
        f"h2sse: {len(checks)} checks of {options.url}; at most {frames_at_most(checks):,} frames",
        file=sys.stderr,
    )
    tell: Callable[[Result], None] = (
        (lambda _: None)
        if as_json
        else (lambda result: say(line(result, width=width, colour=colour)))
    )
    report = trio.run(probe, options, tell)
    say(report.json() if as_json else report.summary(width=width, colour=colour))
    return report.exit_code


def describe() -> str:
    """`h2sse probe --list`: every check, a line each."""
    wide = max(len(check.name) for check in CHECKS)
    return "\n".join(
        f"{check.name:{wide}}  {check.group:10}  {check.clause}"
        + ("  (rough: --intrusive)" if check.intrusive else "")
        for check in CHECKS
    )
