"""open: how fast tabs come, on one connection and on many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from benchmarks.model import Case, ProtocolName, Shape, Verdict

from . import THREE_ROUNDS, Contender, Outcome, Scale, Tell, unopened, workers_for
from .stage import stage

__all__ = ["OPEN"]

_OPEN_DEADLINE = 30.0

# connections, tabs on each
_SHAPES: dict[tuple[Scale, ProtocolName], tuple[tuple[int, int], ...]] = {
    (Scale.QUICK, "h2"): ((1, 1_000),),
    (Scale.QUICK, "http/1.1"): ((1_000, 1),),
    (Scale.FULL, "h2"): ((1, 1_000), (1, 5_000), (1_000, 5)),
    (Scale.FULL, "http/1.1"): ((1_000, 1),),
}


@final
class _Open:
    name = "open"
    about = (
        "All connections shake hands, then all tabs ask at once: TLS handshakes and streams a"
        " second, the server's CPU for each, and from a tab's request to its response."
    )
    servers: tuple[str, ...] = ()
    rounds = THREE_ROUNDS

    def cases(self, scale: Scale, protocol: ProtocolName) -> Sequence[Case]:
        return [
            {"connections": connections, "streams": connections * tabs}
            for connections, tabs in _SHAPES[scale, protocol]
        ]

    async def run(self, contender: Contender, case: Case, scale: Scale, tell: Tell) -> Outcome:
        connections, streams = int(case["connections"]), int(case["streams"])
        shape = Shape(
            protocol=contender.protocol,
            connections=connections,
            tabs_per_connection=streams // connections,
        )
        async with stage(contender, processes=workers_for(connections)) as on:
            tell("opens")
            before = on.server.usage()
            opened = await on.load.open(shape, deadline=_OPEN_DEADLINE)
            after = on.server.usage()
        if why := unopened(opened, streams):
            return Outcome(verdict=Verdict.FAILED, why=why)
        figures = {
            "streams_per_s": streams / opened.open_seconds,
            "open_s": opened.open_seconds,
            "cpu_us_per_tab": (after.cpu_seconds - before.cpu_seconds) / streams * 1e6,
        }
        if connections > 1:
            figures["handshakes_per_s"] = connections / opened.connect_seconds
        if opened.first_byte_seconds:
            median, p99, worst = opened.first_byte_seconds
            figures |= {
                "first_event_p50_ms": median * 1e3,
                "first_event_p99_ms": p99 * 1e3,
                "first_event_max_ms": worst * 1e3,
            }
        return Outcome(figures=figures)


OPEN = _Open()
