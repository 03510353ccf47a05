"""storm: every tab is cut off at once and comes back while events go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import trio

from benchmarks.model import Case, ProtocolName, Published, Shape, Verdict

from . import (
    THREE_ROUNDS,
    Contender,
    Outcome,
    Scale,
    Tell,
    judge,
    unopened,
    unpublished,
    workers_for,
)
from .stage import stage

__all__ = ["STORM"]

_OPEN_DEADLINE = 30.0
_RATE = 10.0
# Events before the cut, so that every tab has an id to come back with; and from the cut on.
_BEFORE, _SINCE = 5, 30

_SHAPES: dict[tuple[Scale, ProtocolName], tuple[tuple[int, int], ...]] = {
    (Scale.QUICK, "h2"): ((200, 5),),
    (Scale.QUICK, "http/1.1"): ((1_000, 1),),
    (Scale.FULL, "h2"): ((400, 5),),
    (Scale.FULL, "http/1.1"): ((2_000, 1),),
}


@final
class _Storm:
    name = "storm"
    about = (
        "All connections are lost at once and every tab comes back with its Last-Event-ID while"
        " 10 events a second go on: the time until all are current again, nothing lost or doubled."
    )
    servers: tuple[str, ...] = ()
    rounds = THREE_ROUNDS

    def cases(self, scale: Scale, protocol: ProtocolName) -> Sequence[Case]:
        return [
            {"connections": connections, "tabs": connections * tabs}
            for connections, tabs in _SHAPES[scale, protocol]
        ]

    async def run(self, contender: Contender, case: Case, scale: Scale, tell: Tell) -> Outcome:
        connections, tabs = int(case["connections"]), int(case["tabs"])
        shape = Shape(
            protocol=contender.protocol,
            connections=connections,
            tabs_per_connection=tabs // connections,
        )
        async with stage(contender, processes=workers_for(connections)) as on:
            tell("opens")
            opened = await on.load.open(shape, deadline=_OPEN_DEADLINE)
            if why := unopened(opened, tabs):
                return Outcome(verdict=Verdict.FAILED, why=why)
            await on.load.begin()
            first = await on.publisher.publish(_BEFORE, _RATE)
            await on.load.finish(first)
            await on.load.begin()
            before = on.server.usage()
            tell("is cut off, and comes back")
            since: list[Published] = []

            async def go_on() -> None:
                since.append(await on.publisher.publish(_SINCE, _RATE))

            cut = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(go_on)
                await on.load.drop()
                reopened = await on.load.reopen(deadline=_OPEN_DEADLINE)
                back = trio.current_time()
            reception = await on.load.finish(since[0])
            after = on.server.usage()
        if why := unopened(reopened, tabs):
            return Outcome(verdict=Verdict.FAILED, why=f"coming back: {why}")
        verdict, why = judge(reception, tabs * _SINCE)
        if refused := unpublished(since[0]):
            verdict, why = Verdict.FAILED, refused
        return Outcome(
            verdict=verdict,
            why=why,
            figures={
                "all_back_s": back - cut,
                # Events are due from the cut on, so the one that came latest was the storm's end.
                "current_again_s": reception.latency.worst / 1e6,
                "lost": reception.lost,
                "doubled": reception.doubled,
                "cpu_s": after.cpu_seconds - before.cpu_seconds,
                "client_cpu": reception.client_cpu,
            },
        )


STORM = _Storm()
