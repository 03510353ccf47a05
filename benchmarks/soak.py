"""`python -m benchmarks.soak`: for as long as you like, with honest tabs, and attacks amid them.

A real `h2sse serve`, with the limits it is shipped with.  Most honest tabs stay and are measured;
others come and go, and resume by their last id.  Events flow all the time.  First without attacks,
then with one after another, each from 20 connections, then without again, window by window:

    before --a fifth of the time--> during --three fifths--> after

What is stated in `Bounds` is held against every window, and what has changed from before to after
is drift.  Ctrl-C ends it early and prints what is known.  The exit code is 0 if all bounds held.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, final

import trio

from benchmarks.attacks import ATTACKS, EVENTS
from benchmarks.load import ClientFailed, Load, Publisher
from benchmarks.model import Opened, Reception, Shape
from benchmarks.peers.peer import Peer, Setup
from benchmarks.servers import Server, ServerFailed, serving
from h2sse import __version__

__all__ = ["Bounds", "Soak", "Window", "main", "soak"]

_MIB = 1024 * 1024
_ROOT = Path(__file__).parents[1]

WINDOW_SECONDS = 5.0
# Of events, to every tab: what a busy page shows.
_RATE = 20.0
_CONNECTIONS_OF_AN_ATTACK = 20
# A tab of five goes and comes back in every window.
_TABS_A_CONNECTION = 10
_COMING_SHARE = 5
# Tabs that stand between two windows wait no longer than this for what they lack.
_PATIENCE_SECONDS = 15.0
# For the connections of an attack that was just ended to be noticed.
_SETTLE_SECONDS = 5.0
_ASK_SECONDS = 5.0
_SAMPLE_SECONDS = 0.5

_COLUMNS = (
    *("s", "phase", "attack", "p50 ms", "p99 ms", "worst ms", "wrong"),
    *("PSS MiB", "peak MiB", "descriptors", "connections", "tabs"),
)

Phase: TypeAlias = Literal["before", "during", "after"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What is to hold.  `p99_ms` is of a machine that has its two cores to itself."""

    p99_ms: float = 50.0
    # What 20 connections that attack may hold, above what the server had before.
    attack_bytes: int = _CONNECTIONS_OF_AN_ATTACK * 10 * _MIB
    # From before to after: the allocator's, and of histories, which are full by then.
    drift_bytes: int = 16 * _MIB
    drift_descriptors: int = 5


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What five seconds were like."""

    phase: Phase
    attack: str
    seconds: float  # since the start
    p50_ms: float
    p99_ms: float
    worst_ms: float
    delivered: int
    wrong: int  # lost, doubled or out of order
    pss_bytes: int
    peak_bytes: int
    descriptors: int
    connections: int | None  # as /metrics has them; None if it did not answer
    tabs: int | None


@final
@dataclass(slots=True)
class Soak:
    """What is known so far."""

    bounds: Bounds
    tabs: int
    windows: list[Window] = field(default_factory=list)
    attacks: dict[str, int] = field(default_factory=dict)  # connections that each has taken
    broken: list[str] = field(default_factory=list)  # what failed, beside the bounds

    def violations(self) -> Iterator[str]:
        """Which bounds did not hold, in words."""
        yield from self.broken
        bounds = self.bounds
        before = [each for each in self.windows if each.phase == "before"]
        after = [each for each in self.windows if each.phase == "after"]
        for each in self.windows:
            when = f"at {each.seconds:.0f} s ({each.attack or each.phase})"
            if each.p99_ms > bounds.p99_ms:
                yield f"p99 {each.p99_ms:.1f} ms {when}, over {bounds.p99_ms:g}"
            if each.wrong:
                yield f"{each.wrong} events lost, doubled or out of order {when}"
            if before and each.peak_bytes > before[-1].pss_bytes + bounds.attack_bytes:
                grown = (each.peak_bytes - before[-1].pss_bytes) / _MIB
                yield f"memory grew by {grown:.0f} MiB {when}"
        if before and after:
            grown = after[-1].pss_bytes - before[-1].pss_bytes
            if grown > bounds.drift_bytes:
                yield f"memory drifted by {grown / _MIB:.1f} MiB"
            left = after[-1].descriptors - before[-1].descriptors
            if left > bounds.drift_descriptors:
                yield f"{left} descriptors are left over"
            if after[-1].tabs not in (None, before[-1].tabs):
                yield f"{after[-1].tabs} tabs after, {before[-1].tabs} before"

    def report(self) -> str:
        """As Markdown."""
        lines = [
            f"{self.tabs} tabs, {_RATE:g} events a second, h2sse {__version__}",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            f"|{' --- |' * len(_COLUMNS)}",
        ]
        for each in self.windows:
            cells = (
                f"{each.seconds:.0f}",
                each.phase,
                each.attack,
                f"{each.p50_ms:.1f}",
                f"{each.p99_ms:.1f}",
                f"{each.worst_ms:.1f}",
                each.wrong,
                f"{each.pss_bytes / _MIB:.1f}",
                f"{each.peak_bytes / _MIB:.1f}",
                each.descriptors,
                "?" if each.connections is None else each.connections,
                "?" if each.tabs is None else each.tabs,
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines += self._by_attack()
        violations = list(self.violations())
        lines += ["", *(f"- {each}" for each in violations)] if violations else []
        lines += ["", "Not all bounds held." if violations else "All bounds held."]
        return "\n".join(lines)

    def _by_attack(self) -> list[str]:
        """What honest tabs felt of each attack, and the server's memory, as a table."""
        before = [each for each in self.windows if each.phase == "before"]
        if not self.attacks or not before:
            return []
        calm = max(each.p99_ms for each in before)
        lines = ["", "| attack | its connections | p99 ms of honest tabs | memory, MiB more |"]
        lines += ["| --- | --- | --- | --- |", f"| none | 0 | {calm:.1f} | 0.0 |"]
        for name, connections in sorted(self.attacks.items()):
            during = [each for each in self.windows if each.attack == name]
            if during:
                p99 = max(each.p99_ms for each in during)
                grown = max(each.peak_bytes for each in during) - before[-1].pss_bytes
                lines.append(f"| {name} | {connections:,} | {p99:.1f} | {grown / _MIB:.1f} |")
        return lines


@final
class _AsShipped(Peer):
    """h2sse with its own limits, which are what is tried here."""

    name = "h2sse"
    title = "h2sse"
    install = "uv sync"
    events_path = EVENTS

    def version(self) -> str:
        return __version__

    def command(self, setup: Setup) -> list[str]:
        return [
            *(sys.executable, "-m", "h2sse", "serve"),
            *("--host", setup.host, "--port", str(setup.port)),
            *("--cert", str(setup.cert), "--key", str(setup.key)),
        ]


# -- the run


async def soak(record: Soak, seconds: float, attacks: Sequence[str], chance: random.Random) -> None:
    """Fill `record`.  Raises ServerFailed and ClientFailed."""
    coming_shape = _shape(max(1, record.tabs // _COMING_SHARE))
    staying_shape = _shape(record.tabs - coming_shape.connections * _TABS_A_CONNECTION)
    async with (
        serving(_AsShipped(), "h2") as server,
        _load(server) as staying,
        _load(server) as coming,
        Publisher.to(server.host, server.port, "/publish", form=True, topic="a") as publisher,
    ):
        try:
            for load, shape in ((staying, staying_shape), (coming, coming_shape)):
                _check(await load.open(shape, deadline=60.0), shape)
            run = _Run(record, server, staying, coming, publisher)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.sample)
                await run.all(seconds, attacks, chance)
                nursery.cancel_scope.cancel()
        finally:
            if not server.alive:
                record.broken.append(f"the server {server.ending}")
            if re.search(r"Traceback|ERROR", server.output):
                record.broken.append(f"the server's log has an error:\n{server.output}")


def _shape(tabs: int) -> Shape:
    connections = max(1, tabs // _TABS_A_CONNECTION)
    return Shape(protocol="h2", connections=connections, tabs_per_connection=_TABS_A_CONNECTION)


@asynccontextmanager
async def _load(server: Server) -> AsyncIterator[Load]:
    async with Load.against(server.host, server.port, "h2", path=EVENTS) as load:
        yield load


def _check(opened: Opened, shape: Shape) -> None:
    wanted = shape.connections * shape.tabs_per_connection
    if opened.tabs != wanted:
        raise ClientFailed(f"{opened.tabs} of {wanted} tabs opened: {dict(opened.failures)}")


@final
class _Run:
    """A server, its tabs, and what they went through."""

    def __init__(
        self, record: Soak, server: Server, staying: Load, coming: Load, publisher: Publisher
    ) -> None:
        self._record = record
        self._server = server
        self._staying = staying
        self._coming = coming
        self._publisher = publisher
        self._began = trio.current_time()
        self._peak = 0

    async def all(self, seconds: float, attacks: Sequence[str], chance: random.Random) -> None:
        """Before, during and after."""
        ends = self._began + seconds
        while not self._record.windows or trio.current_time() < self._began + seconds / 5:
            await self._window("before", "")
        left: list[str] = []
        while attacks and trio.current_time() < ends - seconds / 5:
            if not left:
                left = chance.sample(attacks, len(attacks))
            name = left.pop()
            async with self._attacking(name):
                await self._window("during", name)
        await trio.sleep(_SETTLE_SECONDS)
        while trio.current_time() < ends or self._record.windows[-1].phase != "after":
            await self._window("after", "")

    async def sample(self) -> None:
        """See what memory is at its highest."""
        while True:
            self._peak = max(self._peak, self._server.usage().pss_bytes)
            await trio.sleep(_SAMPLE_SECONDS)

    @asynccontextmanager
    async def _attacking(self, name: str) -> AsyncIterator[None]:
        server = self._server
        arguments = (server.host, str(server.port), name, str(_CONNECTIONS_OF_AN_ATTACK))
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "benchmarks.attacks", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = await process.stdout.receive_some()  # that it has begun
            yield
            await process.stdin.aclose()
            async for data in process.stdout:
                said += data
            if await process.wait():
                raise ClientFailed(f"the attack {name!r} ended with {process.returncode}")
            taken = json.loads(said.splitlines()[-1])["connections"]
            self._record.attacks[name] = self._record.attacks.get(name, 0) + taken
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()

    async def _window(self, phase: Phase, attack: str) -> None:
        """Five seconds of events, for tabs that stay and tabs that go and come back meanwhile."""
        staying, coming = self._staying, self._coming
        await staying.begin()
        await coming.begin()
        self._peak = self._server.usage().pss_bytes

        async def come_and_go() -> None:
            await trio.sleep(WINDOW_SECONDS / 4)
            await coming.drop()
            await trio.sleep(WINDOW_SECONDS / 4)
            await coming.reopen(deadline=60.0, spread_seconds=0.5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_and_go)
            published = await self._publisher.publish(int(WINDOW_SECONDS * _RATE), _RATE)
        if published.failures:
            self._record.broken.append(f"publishing: {dict(published.failures)}")
        stayed = await staying.finish(published, patience=_PATIENCE_SECONDS)
        came = await coming.finish(published, patience=_PATIENCE_SECONDS)
        usage = self._server.usage()
        metrics = await trio.to_thread.run_sync(_metrics, self._server)
        window = Window(
            phase=phase,
            attack=attack,
            seconds=trio.current_time() - self._began,
            p50_ms=stayed.latency.percentile(50) / 1e3,
            p99_ms=stayed.latency.percentile(99) / 1e3,
            worst_ms=stayed.latency.worst / 1e3,
            delivered=stayed.delivered + came.delivered,
            wrong=_wrong(stayed) + _wrong(came),
            pss_bytes=usage.pss_bytes,
            peak_bytes=max(self._peak, usage.pss_bytes),
            descriptors=usage.descriptors,
            connections=metrics.get("connections"),
            tabs=metrics.get("tabs"),
        )
        self._record.windows.append(window)
        print(
            f"{window.seconds:7.0f} s  {phase:6}  {attack or '-':24}  p99 {window.p99_ms:8.1f} ms"
            f"  {window.pss_bytes / _MIB:7.1f} MiB  {window.descriptors} descriptors",
            flush=True,
        )


def _wrong(reception: Reception) -> int:
    return reception.lost + reception.doubled + reception.misordered


def _metrics(server: Server) -> dict[str, int]:
    """What `/metrics` says of now, as far as it answers."""
    context = ssl.create_default_context(cafile=server.cafile)
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPSConnection(
            server.host, server.port, timeout=_ASK_SECONDS, context=context
        )
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        found = re.findall(
            r'^h2sse_(connections|tabs)\{protocol="h2"\} ([\d.]+)', text, re.MULTILINE
        )
        return {name: int(float(value)) for name, value in found}
    return {}


# -- the command


def main(argv: Sequence[str] | None = None) -> int:
    """The command.  Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Honest tabs, and attacks amid them, for as long as you like.",
        epilog=f"attacks: {'; '.join(ATTACKS)}",
    )
    parser.add_argument("--minutes", type=float, required=True, metavar="N")
    parser.add_argument(
        "--attack",
        action="append",
        choices=(*ATTACKS, "none"),
        metavar="NAME",
        help="only this one, or none; may be repeated (default: all, one after another)",
    )
    parser.add_argument("--tabs", type=int, default=1_000, metavar="N", help="(default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (default: 0)")
    parser.add_argument(
        "--p99-ms",
        type=float,
        default=Bounds().p99_ms,
        metavar="MS",
        help="the bound on a machine that others use too (default: %(default)s)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write it there, too")
    arguments = parser.parse_args(argv)
    attacks = [name for name in arguments.attack or ATTACKS if name != "none"]
    record = Soak(Bounds(p99_ms=arguments.p99_ms), arguments.tabs)
    trio.run(_until_interrupted, record, arguments.minutes * 60, attacks, arguments.seed)
    if not record.windows:
        record.broken.append("it ended before anything was known")
    report = record.report()
    print(f"\n{report}")
    if arguments.report:
        arguments.report.write_text(f"{report}\n")
    return 1 if list(record.violations()) else 0


async def _until_interrupted(
    record: Soak, seconds: float, attacks: Sequence[str], seed: int
) -> None:
    async def watch(cancel_scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        try:
            await soak(record, seconds, attacks, random.Random(seed))
        except* (ServerFailed, ClientFailed) as group:
            record.broken += [str(each) for each in _leaves(group)]
        nursery.cancel_scope.cancel()


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


if __name__ == "__main__":
    sys.exit(main())
