"""ramp: how many tabs a server sustains before its service breaks, and what breaks first.

Tabs are doubled on a server that stands, and each number is held to the service level; between
the last that kept it and the first that did not, fresh servers are asked for numbers in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from benchmarks.load import ClientFailed, Load, Publisher
from benchmarks.model import Case, Opened, ProtocolName, Shape, Verdict
from benchmarks.servers import Server, ServerFailed, serving
from benchmarks.statistics import search

from . import MAX_CLIENT_CPU, Contender, Outcome, Scale, Tell, judge, unopened

__all__ = ["OPEN_SECONDS", "P99_SECONDS", "RAMP"]

# The service level: what a user of a page would call working.
OPEN_SECONDS = 10.0
P99_SECONDS = 0.25
_RATE = 1.0

_EVENTS = {Scale.QUICK: 3, Scale.FULL: 4}
_START = {Scale.QUICK: 500, Scale.FULL: 1_000}
# Quick stops where a laptop answers within its 5 minutes; a result says "at least" then.
_LIMITS: dict[tuple[Scale, ProtocolName], int] = {
    (Scale.QUICK, "h2"): 8_000,
    (Scale.QUICK, "http/1.1"): 4_000,
    (Scale.FULL, "h2"): 50_000,
    (Scale.FULL, "http/1.1"): 50_000,
}
_PRECISION = {Scale.QUICK: 0.5, Scale.FULL: 0.2}

ONE_CONNECTION = "all tabs on one connection"
FIVE_TABS = "5 tabs a browser"
A_CONNECTION_EACH = "a connection a tab"


@final
@dataclass(slots=True)
class _Standing:
    """A server with the tabs that are open on it."""

    server: Server
    load: Load
    publisher: Publisher
    tabs: int = 0


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

    def cases(self, scale: Scale, protocol: ProtocolName) -> Sequence[Case]:
        if protocol == "http/1.1":
            return [{"shape": A_CONNECTION_EACH}]
        if scale is Scale.QUICK:
            return [{"shape": ONE_CONNECTION}]
        return [{"shape": ONE_CONNECTION}, {"shape": FIVE_TABS}]

    async def run(self, contender: Contender, case: Case, scale: Scale, tell: Tell) -> Outcome:
        limit = _LIMITS[scale, contender.protocol]
        trial = _Trial(contender, str(case["shape"]), _EVENTS[scale], tell)
        async with trial:
            found = await search(
                trial.works, start=_START[scale], limit=limit, precision=_PRECISION[scale]
            )
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

    def __init__(self, contender: Contender, shape: str, events: int, tell: Tell) -> None:
        self.figures: dict[int, dict[str, float]] = {}
        self.client_limited: set[int] = set()
        self._contender = contender
        self._shape = shape
        self._events = events
        self._tell = tell
        self._standing: _Standing | None = None
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> _Trial:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def works(self, tabs: int) -> tuple[bool, str]:
        """Whether the service level holds with so many tabs."""
        self._tell(f"{tabs:,} tabs")
        try:
            why = await self._attempt(tabs)
        except (ServerFailed, ClientFailed) as error:
            why = str(error)
        if why:
            await self._stack.aclose()
            self._standing = None
        return not why, why

    async def _attempt(self, tabs: int) -> str:
        if self._shape == FIVE_TABS:
            tabs -= tabs % 5
        standing = self._standing
        if standing is None or standing.tabs >= tabs:
            await self._stack.aclose()
            standing = self._standing = await self._stack.enter_async_context(self._stand())
        more = tabs - standing.tabs
        opened = await self._add(standing, more)
        if why := unopened(opened, more):
            died = "" if standing.server.alive else "; the server died"
            return f"{why} within {OPEN_SECONDS:.0f} s{died}"
        standing.tabs = tabs
        await standing.load.begin()
        published = await standing.publisher.publish(self._events, _RATE)
        reception = await standing.load.finish(published)
        verdict, why = judge(reception, tabs * self._events)
        if verdict is Verdict.INVALID or reception.client_cpu > MAX_CLIENT_CPU:
            self.client_limited.add(tabs)
        p99 = reception.latency.percentile(99) / 1e6
        if not why and p99 > P99_SECONDS:
            why = f"p99 latency {p99 * 1e3:.0f} ms"
        if published.failures:
            refusals = ", ".join(f"{n} {what}" for what, n in published.failures.items())
            why = "; ".join(filter(None, (why, f"publishing failed: {refusals}")))
        self.figures[tabs] = {
            "p99_ms": p99 * 1e3,
            "open_s": opened.open_seconds,
            "client_cpu": reception.client_cpu,
        }
        return why

    async def _add(self, standing: _Standing, tabs: int) -> Opened:
        protocol = self._contender.protocol
        if self._shape == ONE_CONNECTION and standing.tabs:
            return await standing.load.grow(tabs, deadline=OPEN_SECONDS)
        per_connection = {ONE_CONNECTION: tabs, FIVE_TABS: 5, A_CONNECTION_EACH: 1}[self._shape]
        shape = Shape(
            protocol=protocol,
            connections=tabs // per_connection,
            tabs_per_connection=per_connection,
        )
        return await standing.load.open(shape, deadline=OPEN_SECONDS)

    @contextlib.asynccontextmanager
    async def _stand(self) -> AsyncIterator[_Standing]:
        peer, protocol = self._contender.peer, self._contender.protocol
        async with (
            serving(peer, protocol) as server,
            Load.against(
                server.host,
                server.port,
                protocol,
                path=peer.events_path,
                processes=1 if self._shape == ONE_CONNECTION else 2,
            ) as load,
            Publisher.to(
                server.host, server.port, peer.publish_path, form=peer.publish_form
            ) as publisher,
        ):
            yield _Standing(server, load, publisher)


RAMP = _Ramp()
