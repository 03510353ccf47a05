"""fanout: what one event costs the server for each tab, and when it arrives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import trio

from benchmarks.model import Case, Latency, ProtocolName, Shape, Verdict

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
from .stage import Stage, stage

__all__ = ["FANOUT", "carried_rate", "latency_figures"]

# Enough for compilers and allocators to settle: Node's CPU an event falls over the first ten.
_WARMING_EVENTS = 15
_WARMING_RATE = 10.0
_MEASURED_SECONDS = {Scale.QUICK: 3.0, Scale.FULL: 5.0}
_OPEN_DEADLINE = 30.0

# Events that go out alone before all others: the fastest shows whether the rate can be carried at
# all.  Where it cannot, so many are measured, with as much time as they take between them.
_ALONE = 3
_OVERLOADED_EVENTS = 5

# connections, tabs on each, bytes, events a second.
_Grid = tuple[int, int, int, float]

_GRIDS: dict[tuple[Scale, ProtocolName], tuple[_Grid, ...]] = {
    (Scale.QUICK, "h2"): ((1, 500, 100, 10),),
    (Scale.QUICK, "http/1.1"): ((500, 1, 100, 10),),
    (Scale.FULL, "h2"): (
        (1, 100, 100, 20),
        (1, 5_000, 100, 5),
        (1, 5_000, 1_024, 1),
        (1_000, 5, 100, 5),
    ),
    (Scale.FULL, "http/1.1"): ((100, 1, 100, 20), (5_000, 1, 100, 5)),
}


@final
class _Fanout:
    name = "fanout"
    about = (
        "A fixed number of tabs, events on a timetable: server CPU for each delivered event,"
        " latency from the instant the event was due, memory a tab, bytes and TLS records."
    )
    servers: tuple[str, ...] = ()
    rounds = THREE_ROUNDS

    def cases(self, scale: Scale, protocol: ProtocolName) -> Sequence[Case]:
        return [
            {"grid": f"{connections:,} x {tabs:,}", "size": size, "rate": rate}
            for connections, tabs, size, rate in _GRIDS[scale, protocol]
        ]

    async def run(self, contender: Contender, case: Case, scale: Scale, tell: Tell) -> Outcome:
        connections, tabs = (int(n.replace(",", "")) for n in str(case["grid"]).split(" x "))
        shape = Shape(
            protocol=contender.protocol, connections=connections, tabs_per_connection=tabs
        )
        size, rate = int(case["size"]), float(case["rate"])
        async with stage(contender, processes=workers_for(connections), size=size) as on:
            tell("opens")
            empty = on.server.usage()
            opened = await on.load.open(shape, deadline=_OPEN_DEADLINE)
            if why := unopened(opened, shape.tabs):
                return Outcome(verdict=Verdict.FAILED, why=why)
            tell("warms up")
            why, seconds = await _alone(on, shape.tabs)
            carried = carried_rate(rate, seconds)
            overloaded = carried < rate
            if not why and not overloaded:
                await on.load.begin()
                published = await on.publisher.publish(_WARMING_EVENTS, _WARMING_RATE)
                warming = await on.load.finish(published)
                verdict, why = judge(warming, shape.tabs * _WARMING_EVENTS)
                why = unpublished(published) or (why if verdict is Verdict.FAILED else "")
            if why:
                return Outcome(verdict=Verdict.FAILED, why=f"while it warmed up: {why}")
            tell("publishes")
            full = on.server.usage()
            await on.load.begin()
            count = max(5, round(_MEASURED_SECONDS[scale] * rate))
            count = _OVERLOADED_EVENTS if overloaded else count
            published = await on.publisher.publish(count, carried)
            reception = await on.load.finish(published)
            after = on.server.usage()
        verdict, why = judge(reception, shape.tabs * count)
        if refused := unpublished(published):
            verdict, why = Verdict.FAILED, refused
        delivered = max(1, reception.delivered)
        cpu = (after.cpu_seconds - full.cpu_seconds) / delivered
        return Outcome(
            verdict=verdict,
            why=why,
            figures={
                "cpu_us_per_event": cpu * 1e6,
                "user_us_per_event": (after.user_seconds - full.user_seconds) / delivered * 1e6,
                "kb_per_tab": (full.pss_bytes - empty.pss_bytes) / shape.tabs / 1e3,
                "socket_kb_per_tab": (full.socket_bytes - empty.socket_bytes) / shape.tabs / 1e3,
                "bytes_per_event": reception.bytes / delivered,
                "records_per_event": reception.records / delivered,
                "client_cpu": reception.client_cpu,
                "publisher_late_p99_ms": published.late_p99_seconds * 1e3,
                "open_s": opened.open_seconds,
                "lost": reception.lost,
                "doubled": reception.doubled,
                "misordered": reception.misordered,
                "overloaded": overloaded,
                **latency_figures(reception.latency),
            },
            notes={"overload": f"one event took {seconds:.1f} s"} if overloaded else {},
            latency=None if overloaded else reception.latency,
        )


async def _alone(on: Stage, tabs: int) -> tuple[str, float]:
    """What was wrong with the first events, each alone, and how many seconds the fastest took."""
    fastest = math.inf
    for _ in range(_ALONE):
        await on.load.begin()
        began = trio.current_time()
        reception = await on.load.finish(await on.publisher.publish(1, 1.0))
        fastest = min(fastest, trio.current_time() - began)
        verdict, why = judge(reception, tabs)
        if verdict is Verdict.FAILED:
            return why, fastest
    return "", fastest


def carried_rate(rate: float, seconds: float) -> float:
    """Of events that take so long to be with all tabs, how many a second a server carries.

    Up to twice the time there is counts as carried: that includes the harness asking whether all
    have come, and servers that work on several events at once.
    """
    return rate if seconds * rate <= 2 else 0.5 / seconds


def latency_figures(latency: Latency) -> dict[str, float]:
    """The percentiles in ms, by the names that results give them."""
    return {
        "p50_ms": latency.percentile(50) / 1e3,
        "p99_ms": latency.percentile(99) / 1e3,
        "p999_ms": latency.percentile(99.9) / 1e3,
        "max_ms": latency.worst / 1e3,
    }


FANOUT = _Fanout()
