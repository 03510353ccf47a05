"""ramp: how many tabs a server sustains before its service breaks, and what breaks first.

Tabs are doubled on a server that stands, and each number is held to the service level; between
the last that kept it and the first that did not, fresh servers are asked for numbers in between.
However a number is come to, no more tabs are asked for at once than there are.

Later rounds begin where the first one ended: they ask for what it found sustained, and then for
what failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import final

from benchmarks.load import ClientFailed
from benchmarks.model import Case, Opened, ProtocolName, Shape, Verdict
from benchmarks.servers import ServerFailed
from benchmarks.statistics import Found, search

from . import MAX_CLIENT_CPU, Contender, Outcome, Scale, Tell, judge, unopened, unpublished
from .stage import Stage, stage

__all__ = ["OPEN_SECONDS", "P99_SECONDS", "RAMP"]

# The service level: what a user of a page would call working.
OPEN_SECONDS = 10.0
P99_SECONDS = 0.25
_RATE = 1.0

_EVENTS = 3
_START = {Scale.QUICK: 500, Scale.FULL: 2_000}
# Quick stops where a laptop answers within its 5 minutes; a result says "at least" then.
_LIMITS: dict[tuple[Scale, ProtocolName], int] = {
    (Scale.QUICK, "h2"): 8_000,
    (Scale.QUICK, "http/1.1"): 4_000,
    (Scale.FULL, "h2"): 50_000,
    (Scale.FULL, "http/1.1"): 50_000,
}
_PRECISION = {Scale.QUICK: 0.5, Scale.FULL: 0.25}

ONE_CONNECTION = "all tabs on one connection"
FIVE_TABS = "5 tabs a browser"
A_CONNECTION_EACH = "a connection a tab"


@final
class _Ramp:
    name = "ramp"
    about = (
        "Simulated tabs are doubled until the service breaks: every tab open within"
        f" {OPEN_SECONDS:.0f} s of asking, every event delivered to every tab once and in order,"
        f" p99 latency at most {P99_SECONDS * 1e3:.0f} ms at {_RATE:.0f} event/s."
    )
    servers: tuple[str, ...] = ()
    # A search is long, and half of the quick run's time with one round.
    rounds: Mapping[Scale, int] = {Scale.QUICK: 1, Scale.FULL: 3}

    def __init__(self) -> None:
        self._earlier: dict[tuple[Scale, str, str], Found] = {}

    def cases(self, scale: Scale, protocol: ProtocolName) -> Sequence[Case]:
        if protocol == "http/1.1":
            return [{"shape": A_CONNECTION_EACH}]
        if scale is Scale.QUICK:
            return [{"shape": ONE_CONNECTION}]
        return [{"shape": ONE_CONNECTION}, {"shape": FIVE_TABS}]

    async def run(self, contender: Contender, case: Case, scale: Scale, tell: Tell) -> Outcome:
        limit = _LIMITS[scale, contender.protocol]
        trial = _Trial(contender, str(case["shape"]), _START[scale], tell)
        asked = scale, contender.title, str(case["shape"])
        earlier = self._earlier.get(asked)
        async with trial:
            found = await search(
                trial.works,
                start=earlier.sustained if earlier and earlier.sustained else _START[scale],
                then=earlier.failed if earlier else None,
                limit=limit,
                precision=_PRECISION[scale],
            )
        self._earlier[asked] = found
        figures = {"tabs_sustained": float(found.sustained), "limit": float(limit)}
        figures |= trial.figures.get(found.sustained, {})
        notes = {"tried": ", ".join(f"{each.number:,}" for each in found.tried)}
        if found.failed is None:
            notes["broke_first"] = f"nothing up to {limit:,} tabs"
            return Outcome(figures=figures, notes=notes)
        figures["tabs_failed"] = float(found.failed)
        notes["broke_first"] = found.why
        if found.failed in trial.client_limited:
            # The server carried what is reported; more was not for this client to find out.
            notes["broke_first"] = f"the client itself: {notes['broke_first']}"
        return Outcome(figures=figures, notes=notes)


@final
class _Trial:
    """One contender's search: its standing server, and what each number came to."""

    def __init__(self, contender: Contender, shape: str, first: int, tell: Tell) -> None:
        self.figures: dict[int, dict[str, float]] = {}
        self.client_limited: set[int] = set()
        self._contender = contender
        self._shape = shape
        self._first = first
        self._tell = tell
        self._stage: Stage | None = None
        self._tabs = 0  # that are open on it
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> _Trial:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._leave()

    async def works(self, tabs: int) -> tuple[bool, str]:
        """Whether the service level holds with so many tabs."""
        self._tell(f"{tabs:,} tabs")
        try:
            why = await self._attempt(tabs)
        except (ServerFailed, ClientFailed) as error:
            why = str(error)
        if why:
            await self._leave()
        return not why, why

    async def _leave(self) -> None:
        await self._stack.aclose()
        self._stage, self._tabs = None, 0

    async def _attempt(self, tabs: int) -> str:
        on = self._stage
        if on is None or self._tabs >= tabs:
            await self._leave()
            processes = 1 if self._shape == ONE_CONNECTION else 2
            on = await self._stack.enter_async_context(stage(self._contender, processes=processes))
            self._stage = on
        if self._shape == FIVE_TABS:
            tabs -= tabs % 5
        open_seconds = 0.0
        while self._tabs < tabs:
            more = min(tabs - self._tabs, max(self._tabs, self._first))
            opened = await self._add(on, more)
            if why := unopened(opened, more):
                died = "" if on.server.alive else "; the server died"
                others = f", {self._tabs:,} others open" if self._tabs else ""
                return f"{why} within {OPEN_SECONDS:.0f} s{others}{died}"
            open_seconds = opened.open_seconds
            self._tabs += more
        await on.load.begin()
        published = await on.publisher.publish(_EVENTS, _RATE)
        reception = await on.load.finish(published)
        verdict, why = judge(reception, tabs * _EVENTS)
        if verdict is Verdict.INVALID or reception.client_cpu > MAX_CLIENT_CPU:
            self.client_limited.add(tabs)
        p99 = reception.latency.percentile(99) / 1e6
        if not why and p99 > P99_SECONDS:
            why = f"p99 latency {p99 * 1e3:.0f} ms"
        why = "; ".join(filter(None, (why, unpublished(published))))
        self.figures[tabs] = {
            "p99_ms": p99 * 1e3,
            "open_s": open_seconds,
            "client_cpu": reception.client_cpu,
        }
        return why

    async def _add(self, on: Stage, tabs: int) -> Opened:
        if self._shape == ONE_CONNECTION and self._tabs:
            return await on.load.grow(tabs, deadline=OPEN_SECONDS)
        per_connection = {ONE_CONNECTION: tabs, FIVE_TABS: 5, A_CONNECTION_EACH: 1}[self._shape]
        shape = Shape(
            protocol=self._contender.protocol,
            connections=tabs // per_connection,
            tabs_per_connection=per_connection,
        )
        return await on.load.open(shape, deadline=OPEN_SECONDS)


RAMP = _Ramp()
