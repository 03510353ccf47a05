"""`python -m benchmarks.soak`: honest tabs, and attacks amid them, for as long as you like.

A real `h2sse serve`, with the limits it is shipped with.  Most honest tabs stay and are measured;
others come and go, and resume by their last id.  Events flow all the time.  First without attacks,
then with one after another, each from 20 connections, then without again, window by window:

    before --30 s--> during --a window for each attack--> after --30 s-->
    before --a fifth, a minute at most--> during --> after --as before-->    with --minutes

What is stated in `Bounds` is held against every window, and what has changed from before to after
is drift.  Ctrl-C ends it early and prints what is known.  The exit code is 0 if all bounds held.
`python -m benchmarks.soak report` writes what is known into docs/security.md.

A window is long enough for p99 to be of more than one event: an event reaches all tabs at once, so
what counts is the number of events, not that of deliveries.
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
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import trio

from benchmarks import machine, soak_report
from benchmarks.attacks import ATTACKS, EVENTS, LOSSY
from benchmarks.groups import leaves
from benchmarks.load import ClientFailed, Load, Publisher
from benchmarks.model import Opened, Reception, Shape
from benchmarks.peers.peer import Peer, Setup
from benchmarks.servers import Server, ServerFailed, serving
from benchmarks.soak_record import MIB, Bounds, Phase, Setting, Soak, Window, save
from h2sse import __version__

__all__ = ["Plan", "main", "soak"]

_ROOT = Path(__file__).parents[1]

# 200 events: p99 is the third worst.
WINDOW_SECONDS = 10.0
# Of events, to every tab: what a busy page shows.
_RATE = 20.0
_CONNECTIONS_OF_AN_ATTACK = 20
# To the scheduler a tenth of the server, and of those who measure (sched(7)).
_NICE_OF_AN_ATTACK = 10
# Before the attacks and after them: so many windows, or a part of the time that is given.
_CALM_WINDOWS = 3
_CALM_SHARE = 5
_CALM_SECONDS = 60.0
# A tab of five goes and comes back in every window.
_TABS_A_CONNECTION = 10
_COMING_SHARE = 5
# Tabs that stand between two windows wait no longer than this for what they lack.
_PATIENCE_SECONDS = 15.0
# For the connections of an attack that was just ended to be noticed.
_SETTLE_SECONDS = 5.0
# If its cables are pulled: probe_seconds, probe_answer_seconds, and some.
_CABLE_SECONDS = 45.0
_ASK_SECONDS = 5.0
_SAMPLE_SECONDS = 0.5

# What is shipped drops nobody's events.
_CONFIG = f"""\
[topics]
drop_oldest = ["{LOSSY}"]
"""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is sent, and for how long: `seconds`, or `rounds` of all attacks if that is None."""

    attacks: Sequence[str]
    seconds: float | None = None
    rounds: int = 1
    seed: int = 0


@final
class _AsShipped(Peer):
    """h2sse with its own limits, which are what is tried here, and a topic that loses events."""

    name = "h2sse"
    title = "h2sse"
    install = "uv sync"
    events_path = EVENTS

    def version(self) -> str:
        return __version__

    def command(self, setup: Setup) -> list[str]:
        config = setup.folder / "h2sse.toml"
        config.write_text(_CONFIG)
        return [
            *(sys.executable, "-m", "h2sse", "serve", "--config", str(config)),
            *("--host", setup.host, "--port", str(setup.port)),
            *("--cert", str(setup.cert), "--key", str(setup.key)),
        ]


# -- the run


async def soak(record: Soak, plan: Plan) -> None:
    """Fill `record`.  Raises ServerFailed and ClientFailed."""
    tabs = record.setting.tabs
    coming_shape = _shape(tabs // _COMING_SHARE)
    staying_shape = _shape(tabs - coming_shape.tabs)
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
                await run.all(plan)
                nursery.cancel_scope.cancel()
        finally:
            if not server.alive:
                record.broken.append(f"the server {server.ending}")
            if server.error:
                record.broken.append(f"the server's log has an error:\n{server.error}")


def _shape(tabs: int) -> Shape:
    connections = max(1, tabs // _TABS_A_CONNECTION)
    return Shape(protocol="h2", connections=connections, tabs_per_connection=_TABS_A_CONNECTION)


@asynccontextmanager
async def _load(server: Server) -> AsyncIterator[Load]:
    async with Load.against(server.host, server.port, "h2", path=EVENTS) as load:
        yield load


def _check(opened: Opened, shape: Shape) -> None:
    if opened.tabs != shape.tabs:
        raise ClientFailed(f"{opened.tabs} of {shape.tabs} tabs opened: {dict(opened.failures)}")


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
        self._began = self._noticed_by = trio.current_time()
        self._peak = 0

    async def all(self, plan: Plan) -> None:
        """Before, during and after."""
        if plan.seconds is None:
            calm = _CALM_WINDOWS * WINDOW_SECONDS
        else:
            calm = min(plan.seconds / _CALM_SHARE, _CALM_SECONDS)
        await self._calm("before", calm)
        chance = random.Random(plan.seed)
        ends = None if plan.seconds is None else self._began + plan.seconds - calm
        rounds = 0
        while plan.attacks and (rounds < plan.rounds if ends is None else self._now < ends):
            rounds += 1
            for name in chance.sample(plan.attacks, len(plan.attacks)):
                if ends is None or self._now < ends:
                    await self._under(name)
        await trio.sleep_until(self._noticed_by)
        await self._calm("after", calm if ends is None else ends + calm - self._now)

    @property
    def _now(self) -> float:
        return trio.current_time()

    async def _calm(self, phase: Phase, seconds: float) -> None:
        ends = self._now + seconds - WINDOW_SECONDS / 2
        self._note(await self._window(phase))
        while self._now < ends:
            self._note(await self._window(phase))

    async def _under(self, name: str) -> None:
        # Not at the window's beginning: what the first connections take would be in it.
        began_bytes = self._server.usage().pss_bytes
        async with self._attacking(name) as taken:
            window = await self._window("during", name)
        attackers, share = int(taken["connections"]), taken["cpu"]
        self._note(replace(window, began_bytes=began_bytes, attackers=attackers, attack_cpu=share))
        seconds = _CABLE_SECONDS if ATTACKS[name].deaf else _SETTLE_SECONDS
        self._noticed_by = max(self._noticed_by, self._now + seconds)

    def _note(self, window: Window) -> None:
        self._record.windows.append(window)
        print(
            f"{window.seconds:7.0f} s  {window.phase:6}  {window.attack or '-':26}"
            f"  p99 {window.p99_ms:8.1f} ms  {window.peak_bytes / MIB:7.1f} MiB"
            f"  server {window.server_cpu:4.0%}  attack {window.attack_cpu:4.0%}",
            flush=True,
        )

    async def sample(self) -> None:
        """See what memory is at its highest."""
        while True:
            self._peak = max(self._peak, self._server.usage().pss_bytes)
            await trio.sleep(_SAMPLE_SECONDS)

    @asynccontextmanager
    async def _attacking(self, name: str) -> AsyncIterator[dict[str, float]]:
        """Attack meanwhile.  What that took is in what this gives, once it is over."""
        taken: dict[str, float] = {}
        server = self._server
        numbers = (str(_CONNECTIONS_OF_AN_ATTACK), str(_NICE_OF_AN_ATTACK))
        arguments = (server.host, str(server.port), name, *numbers)
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "benchmarks.attacks", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            start_new_session=True,  # in which it can be nice
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = await process.stdout.receive_some()  # that it has begun
            yield taken
            await process.stdin.aclose()
            async for data in process.stdout:
                said += data
            if await process.wait():
                raise ClientFailed(f"the attack {name!r} ended with {process.returncode}")
            taken.update(json.loads(said.splitlines()[-1]))
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()

    async def _window(self, phase: Phase, attack: str = "") -> Window:
        """Some seconds of events, for tabs that stay and tabs that go and come back meanwhile."""
        staying, coming = self._staying, self._coming
        await staying.begin()
        await coming.begin()
        began, before = self._now, self._server.usage()
        self._peak = before.pss_bytes

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
        share = (usage.cpu_seconds - before.cpu_seconds) / (self._now - began)
        metrics = await trio.to_thread.run_sync(_metrics, self._server)
        latency = stayed.latency
        return Window(
            phase=phase,
            attack=attack,
            seconds=round(self._now - self._began, 1),
            events=published.sent,
            samples=latency.total,
            p50_ms=round(latency.percentile(50) / 1e3, 2),
            p99_ms=round(latency.percentile(99) / 1e3, 2),
            worst_ms=round(latency.worst / 1e3, 2),
            wrong=_wrong(stayed) + _wrong(came),
            began_bytes=before.pss_bytes,
            pss_bytes=usage.pss_bytes,
            peak_bytes=max(self._peak, usage.pss_bytes),
            descriptors=usage.descriptors,
            connections=metrics.get("connections"),
            tabs=metrics.get("tabs"),
            server_cpu=round(share, 3),
            client_cpu=round(max(stayed.client_cpu, came.client_cpu), 3),
        )


def _wrong(reception: Reception) -> int:
    return reception.lost + reception.doubled + reception.misordered


def _metrics(server: Server) -> dict[str, int]:
    """What `/metrics` says of HTTP/2, as far as it answers: this asks over HTTP/1.1."""
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
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.tabs < 2 * _TABS_A_CONNECTION or arguments.tabs % _TABS_A_CONNECTION:
        parser.error(
            f"--tabs: {_TABS_A_CONNECTION} on each connection, of which at least two are needed"
        )
    if arguments.command == "report":
        soak_report.write()
        return 0
    attacks = [name for name in arguments.attack or ATTACKS if name != "none"]
    plan = Plan(
        attacks=attacks,
        seconds=None if arguments.minutes is None else arguments.minutes * 60,
        rounds=arguments.rounds,
        seed=arguments.seed,
    )
    record = Soak(setting=_setting(arguments.tabs), bounds=Bounds(p99_ms=arguments.p99_ms))
    trio.run(_until_interrupted, record, plan)
    if not record.windows:
        record.broken.append("it ended before anything was known")
    report = soak_report.report(record)
    print(f"\n{report}")
    if arguments.report:
        arguments.report.write_text(f"{report}\n")
    if arguments.save:
        save(soak_report.RESULTS, record)
    return 1 if list(record.violations()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Honest tabs, and attacks amid them, for as long as you like.",
        epilog=f"attacks: {'; '.join(ATTACKS)}",
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("run", "report"),
        default="run",
        help="`report` writes docs/security.md and benchmarks/results/soak.md from what is saved",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="N", help="for so long")
    length.add_argument(
        "--rounds",
        type=int,
        default=1,
        metavar="N",
        help="each attack so often (default: 1, which is 12 minutes for all)",
    )
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
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep it in benchmarks/results/soak.jsonl, where `report` finds it",
    )
    return parser


def _setting(tabs: int) -> Setting:
    facts = machine.facts()
    del facts["peers"]  # none of them has part in this
    return Setting(
        tabs=tabs,
        window_seconds=WINDOW_SECONDS,
        rate=_RATE,
        attack_connections=_CONNECTIONS_OF_AN_ATTACK,
        attack_nice=_NICE_OF_AN_ATTACK,
        facts={"h2sse": __version__, **facts},
    )


async def _until_interrupted(record: Soak, plan: Plan) -> None:
    async def watch(cancel_scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        try:
            await soak(record, plan)
        except* (ServerFailed, ClientFailed) as group:
            record.broken += [str(each) for each in leaves(group)]
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(main())
