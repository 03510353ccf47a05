"""stall: some tabs stop reading; what the others feel, and what it costs the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

from benchmarks.model import Case, ProtocolName, Published, Reception, Shape, Usage, Verdict

from . import THREE_ROUNDS, Contender, Outcome, Scale, Tell, judge, unopened, unpublished
from .stage import stage

__all__ = ["STALL"]

_OPEN_DEADLINE = 30.0
_TABS_PER_CONNECTION = 5
# 160 KB a second for each tab: what is not bounded grows within seconds.
_SIZE, _RATE = 16 * 1024, 10.0
_SECONDS = {Scale.QUICK: 4.0, Scale.FULL: 6.0}
_TABS, _STALLED = 200, 100
# How the load client calls the end of a tab that does not read: that is no fault.
_STALLED_TAB = "stalled: "


@final
class _Stall:
    name = "stall"
    about = (
        f"Of {_TABS} tabs {_STALLED} stop reading while {_RATE:.0f} events of 16 KB a second go on"
        " (over HTTP/2 each connection has both kinds): what the others lose or wait, what becomes"
        " of the stalled ones, and how the server's memory grows."
    )
    servers: tuple[str, ...] = ()
    rounds = THREE_ROUNDS

    def cases(self, scale: Scale, protocol: ProtocolName) -> Sequence[Case]:
        return [{"tabs": _TABS, "stalled": _STALLED}]

    async def run(self, contender: Contender, case: Case, scale: Scale, tell: Tell) -> Outcome:
        tabs, stalled = int(case["tabs"]), int(case["stalled"])
        tell("all read")
        _, without, _ = await self._measure(contender, tabs, 0, scale)
        if without is None:
            return Outcome(verdict=Verdict.FAILED, why="not all tabs open, with none stalled")
        tell("some stall")
        why, reception, grown = await self._measure(contender, tabs, stalled, scale)
        if reception is None:
            return Outcome(verdict=Verdict.FAILED, why=why)
        ended = {why: n for why, n in reception.ended.items() if why.startswith(_STALLED_TAB)}
        others = {why: n for why, n in reception.ended.items() if why not in ended}
        verdict, why = judge(
            replace(reception, ended=others),
            (tabs - stalled) * round(_SECONDS[scale] * _RATE),
        )
        return Outcome(
            verdict=verdict,
            why=why,
            notes={"what_happened": _happened(ended, stalled)},
            figures={
                "stalled_ended": sum(ended.values()),
                "p99_ms": reception.latency.percentile(99) / 1e3,
                "p99_ms_without": without.latency.percentile(99) / 1e3,
                "memory_growth_mb": grown,
                "lost": reception.lost,
                "client_cpu": reception.client_cpu,
            },
        )

    async def _measure(
        self, contender: Contender, tabs: int, stalled: int, scale: Scale
    ) -> tuple[str, Reception | None, float]:
        """What was received by those who read, and the growth of memory in MB."""
        per_connection = _TABS_PER_CONNECTION if contender.protocol == "h2" else 1
        shape = Shape(
            protocol=contender.protocol,
            connections=tabs // per_connection,
            tabs_per_connection=per_connection,
        )
        async with stage(contender, size=_SIZE) as on:
            opened = await on.load.open(shape, deadline=_OPEN_DEADLINE, stalled=stalled)
            if why := unopened(opened, tabs):
                return why, None, 0.0
            before: Usage = on.server.usage()
            await on.load.begin()
            published: Published = await on.publisher.publish(round(_SECONDS[scale] * _RATE), _RATE)
            if why := unpublished(published):
                return why, None, 0.0
            reception = await on.load.finish(published)
            after = on.server.usage()
        grown = after.pss_bytes + after.socket_bytes - before.pss_bytes - before.socket_bytes
        return "", reception, grown / 1e6


def _happened(ended: Mapping[str, int], stalled: int) -> str:
    left = stalled - sum(ended.values())
    parts = [f"{n} ended by {why.removeprefix(_STALLED_TAB)}" for why, n in sorted(ended.items())]
    if left:
        parts.append(f"{left} still open at the end")
    return ", ".join(parts)


STALL = _Stall()
