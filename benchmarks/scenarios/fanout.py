"""fanout: what one event costs the server for each tab, and when it arrives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from benchmarks.load import Load, Publisher
from benchmarks.model import Case, Latency, ProtocolName, Shape, Verdict
from benchmarks.servers import serving

from . import THREE_ROUNDS, Contender, Outcome, Scale, Tell, judge, unopened, workers_for

__all__ = ["FANOUT", "latency_figures"]

# Enough for compilers and allocators to settle: Node's CPU an event falls over the first ten.
_WARMING_EVENTS = 15
_WARMING_RATE = 10.0
_MEASURED_SECONDS = {Scale.QUICK: 3.0, Scale.FULL: 5.0}
_OPEN_DEADLINE = 30.0

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
        peer = contender.peer
        async with (
            serving(peer, contender.protocol) as server,
            Load.against(
                server.host,
                server.port,
                contender.protocol,
                path=peer.events_path,
                processes=workers_for(connections),
            ) as load,
            Publisher.to(
                server.host, server.port, peer.publish_path, form=peer.publish_form, size=size
            ) as publisher,
        ):
            tell("opens")
            empty = server.usage()
            opened = await load.open(shape, deadline=_OPEN_DEADLINE)
            if why := unopened(opened, shape.tabs):
                return Outcome(verdict=Verdict.FAILED, why=why)
            tell("warms up")
            await load.begin()
            warming = await load.finish(await publisher.publish(_WARMING_EVENTS, _WARMING_RATE))
            verdict, why = judge(warming, shape.tabs * _WARMING_EVENTS)
            if verdict is Verdict.FAILED:
                return Outcome(verdict=verdict, why=f"while it warmed up: {why}")
            tell("publishes")
            full = server.usage()
            await load.begin()
            count = max(5, round(_MEASURED_SECONDS[scale] * rate))
            published = await publisher.publish(count, rate)
            reception = await load.finish(published)
            after = server.usage()
        verdict, why = judge(reception, shape.tabs * count)
        if published.failures:
            refusals = ", ".join(f"{n} {what}" for what, n in published.failures.items())
            verdict, why = Verdict.FAILED, f"publishing failed: {refusals}; {why}"
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
                **latency_figures(reception.latency),
            },
            latency=reception.latency,
        )


def latency_figures(latency: Latency) -> dict[str, float]:
    """The percentiles in ms, by the names that results give them."""
    return {
        "p50_ms": latency.percentile(50) / 1e3,
        "p99_ms": latency.percentile(99) / 1e3,
        "p999_ms": latency.percentile(99.9) / 1e3,
        "max_ms": latency.worst / 1e3,
    }


FANOUT = _Fanout()
