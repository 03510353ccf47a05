"""The run: a server, a publisher, processes of tabs, and a plan of what breaks.

    begin: one event to all topics, and all tabs from its id  ->  the acts of the plan
    -> a last event to all topics, and wait until every tab has it  ->  the verdict

As each tab is given events in order, none is on its way any more once it has the last one.
"""

from __future__ import annotations

import http.client
import json
import math
import random
import re
import signal
import ssl
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never, final

import trio

from benchmarks.groups import leaves
from benchmarks.load import ClientFailed
from benchmarks.servers import ServerFailed

from .journal import Note, begin
from .judge import Judge, Published, Verdict
from .plan import Act, Kind
from .publisher import TOPICS, Publisher
from .standing import Standing, standing
from .tabs import HEAVY

__all__ = ["Chaos", "Sample", "chaos"]

_ROOT = Path(__file__).parents[2]

_CONNECTIONS_OF_AN_ATTACK = 20
# One tab in so many listens to the topic that can be too much for it.
_HEAVY_SHARE = 10
# What has ended goes on for a while: tabs come back within 4 s, at the second attempt in 8.
_SETTLE_SECONDS = 8.0
_SAMPLE_SECONDS = 1.0
_ASK_SECONDS = 5.0
_LOOK_SECONDS = 0.2
# For all tabs to be there: handshakes, and a second for each process to start.
_OPEN_SECONDS = 60.0
# Without a single note, before what is lacking counts as lost: the client's longest pause between
# two attempts (`backoff_seconds`), its `response_seconds`, and a bit.
_PATIENCE_SECONDS = 100.0
# For a process to end once its stdin has.
_END_SECONDS = 10.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The server at some second; the last five are what /metrics says, None if it did not."""

    seconds: float
    pss_bytes: int
    descriptors: int
    connections: int | None
    tabs: int | None  # those of attackers, too
    resumed: int | None  # in all runs until now, like the two that follow
    gaps: int | None
    overflows: int | None


@final
@dataclass(slots=True, kw_only=True)
class Chaos:
    """What is asked for, and what is known so far."""

    tabs: int
    processes: int
    seconds: float
    seed: int
    lasted: float = 0.0
    interrupted: bool = False
    acts: Counter[Kind] = field(default_factory=Counter)  # connections, tabs, processes, ...
    attacks: Counter[str] = field(default_factory=Counter)  # connections that each has taken
    samples: list[Sample] = field(default_factory=list)
    published: Sequence[Published] = ()
    verdict: Verdict = field(default_factory=Verdict)
    broken: list[str] = field(default_factory=list)  # what failed, beside the verdict

    @property
    def held(self) -> bool:
        """Whether all is as it must be."""
        verdict = self.verdict
        return not self.broken and not verdict.faults.total() and verdict.tabs == self.tabs


async def chaos(record: Chaos, acts: Sequence[Act], options: Sequence[str] = ()) -> None:
    """Fill `record`.  `options` are for `h2sse serve`.

    SIGINT and SIGTERM end the acts early, and a second one the waiting for what is on its way.
    """
    with tempfile.TemporaryDirectory(prefix="h2sse-chaos-") as folder:
        files = [Path(folder) / f"{number}.journal" for number in range(record.processes)]
        try:
            async with standing(options, record.broken) as server:
                run = _Run(record, server, files)
                try:
                    await run.all(acts)
                finally:
                    record.published = run.close()
        except* (ServerFailed, ClientFailed, trio.TooSlowError) as group:
            record.broken += [str(each) or repr(each) for each in leaves(group)]
        judge = Judge(record.published)
        judge.files(file for file in files if file.exists())
        record.verdict = judge.verdict


# -- the processes


@final
class _Process:
    """Tabs in a process of their own, which is started again when it was killed."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._process: trio.Process | None = None
        self._away: float | None = None
        self._writing = trio.Lock()

    async def run(self) -> None:
        """For ever.  Raises ClientFailed if it ends by itself."""
        while True:
            self._process = process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "benchmarks.chaos.tabs", *self._arguments],
                stdin=subprocess.PIPE,
                cwd=_ROOT,
            )
            try:
                await process.wait()
            finally:
                self._process = None
                await _end(process)
            if self._away is None:
                raise ClientFailed(f"a process of tabs ended with {process.returncode}")
            await trio.sleep(self._away)
            self._away = None

    def kill(self, seconds: float) -> bool:
        """SIGKILL, and away for so long.  False if it was not there."""
        process, self._process = self._process, None
        if process is None:
            return False
        self._away = seconds
        process.kill()
        return True

    async def tell(self, act: Act) -> bool:
        """Have it do something to itself.  False if it is not there."""
        process = self._process
        if process is None or process.stdin is None:
            return False
        line = json.dumps({"kind": act.kind.name, "which": act.which, "seconds": act.seconds})
        try:
            async with self._writing:
                await process.stdin.send_all(f"{line}\n".encode())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True


async def _end(process: trio.Process) -> None:
    with trio.CancelScope(shield=True):
        if process.stdin is not None:
            await process.stdin.aclose()
        with trio.move_on_after(_END_SECONDS):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


# -- the run


@final
class _Run:
    def __init__(self, record: Chaos, server: Standing, files: Sequence[Path]) -> None:
        self._record = record
        self._server = server
        self._files = files
        self._chance = random.Random(record.seed)
        self._publisher = Publisher(
            server.host, server.port, server.cafile, self._chance, self._is_quiet
        )
        place = server.host, str(server.port), str(server.cafile)
        self._processes = [_Process((*place, str(file))) for file in files]
        self._began = self._quiet_since = math.inf  # once all tabs are there
        self._busy = 0  # acts under way
        self._before: Counter[str] = Counter()  # what the server's earlier runs counted
        self._counts: Counter[str] = Counter()  # what this one did, when last asked

    def close(self) -> Sequence[Published]:
        """All that was sent."""
        self._publisher.close()
        return self._publisher.published

    def _is_quiet(self) -> bool:
        return not self._busy and trio.current_time() > self._quiet_since + _SETTLE_SECONDS

    async def all(self, acts: Sequence[Act]) -> None:
        """From the first event to the last."""
        first = await self._publisher.publish_surely()
        assert first.id is not None
        for number, file in enumerate(self._files):
            begin(file, self._tabs(number, first.id))
        async with trio.open_nursery() as nursery:
            breaking = trio.CancelScope()
            nursery.start_soon(self._watch_signals, [breaking, nursery.cancel_scope])
            for process in self._processes:
                nursery.start_soon(process.run)
            nursery.start_soon(self._sample_always)
            async with trio.open_nursery() as publishing:
                publishing.start_soon(self._publisher.run)
                with breaking:
                    await self._wait_open()
                    await self._break(acts)
                publishing.cancel_scope.cancel()
            self._record.lasted = max(0.0, trio.current_time() - self._began)
            await self._wait_all_saw(await self._last())
            await self._sample()
            nursery.cancel_scope.cancel()

    def _tabs(self, process: int, event_id: str) -> Sequence[Note]:
        """The tabs of a process, with one or two topics each."""
        notes = []
        for tab in range(process, self._record.tabs, self._record.processes):
            topics = self._chance.sample(TOPICS, self._chance.randint(1, 2))
            if tab // self._record.processes % _HEAVY_SHARE == 0:
                topics.append(HEAVY)
            notes.append(Note(tab, event_id, "begun", ",".join(topics)))
        return notes

    async def _wait_open(self) -> None:
        with trio.fail_after(_OPEN_SECONDS):
            while self._counts["tabs"] < self._record.tabs:  # noqa: ASYNC110 - another's state
                await trio.sleep(_LOOK_SECONDS)

    async def _watch_signals(self, scopes: Sequence[trio.CancelScope]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            for scope in scopes:
                await anext(signals)
                if self._record.interrupted:
                    self._record.broken.append("interrupted twice: what was on its way is lost")
                self._record.interrupted = True
                scope.cancel()

    # -- acts

    async def _break(self, acts: Sequence[Act]) -> None:
        self._began = self._quiet_since = trio.current_time()
        async with trio.open_nursery() as nursery:
            for act in acts:
                await trio.sleep_until(self._began + act.at)
                nursery.start_soon(self._do, act)
            await trio.sleep_until(self._began + self._record.seconds)

    async def _do(self, act: Act) -> None:
        self._busy += 1
        try:
            if await self._done(act):
                self._record.acts[act.kind] += act.count
                seconds = trio.current_time() - self._began
                print(f"{seconds:7.1f} s  {act.count:2} {act.kind} {act.name}", flush=True)
        finally:
            self._busy -= 1
            self._quiet_since = trio.current_time()

    async def _done(self, act: Act) -> bool:
        """Do it, until it is over; whether it could be done."""
        process = self._processes[act.process]
        match act.kind:
            case Kind.RESET | Kind.CANCEL | Kind.LEAVE:
                return await process.tell(act)
            case Kind.STALL:
                done = await process.tell(act)
                await trio.sleep(act.seconds)
                return done
            case Kind.OVERRUN:
                if not await process.tell(act):
                    return False
                ends = trio.current_time() + act.seconds
                await self._publisher.burst()
                await trio.sleep_until(max(trio.current_time(), ends))
                return True
            case Kind.KILL:
                done = process.kill(act.seconds)
                await trio.sleep(act.seconds)
                return done
            case Kind.ATTACK:
                await self._attack(act)
                return True
            case Kind.TERMINATE | Kind.CRASH:
                await self._sample()
                self._before += self._counts
                self._counts.clear()
                terminate = act.kind is Kind.TERMINATE
                await self._server.restart(signal.SIGTERM if terminate else signal.SIGKILL)
                return True
            case _:
                assert_never(act.kind)

    async def _attack(self, act: Act) -> None:
        """As benchmarks/soak.py does."""
        server = self._server
        arguments = (server.host, str(server.port), act.name, str(_CONNECTIONS_OF_AN_ATTACK))
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "benchmarks.attacks", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = bytes(await process.stdout.receive_some())  # that it has begun
            await trio.sleep(act.seconds)
            await process.stdin.aclose()
            async for data in process.stdout:
                said += data
            if await process.wait():
                raise ClientFailed(f"the attack {act.name!r} ended with {process.returncode}")
            self._record.attacks[act.name] += json.loads(said.splitlines()[-1])["connections"]
        finally:
            await _end(process)

    # -- the end

    async def _last(self) -> Published:
        event = await self._publisher.publish_surely()
        print(f"event {event.number} is the last; waiting for all tabs to have it", flush=True)
        return event

    async def _wait_all_saw(self, last: Published) -> None:
        """Return when all tabs have noted that event, or nothing has been noted for long."""
        mark = f" saw {last.number} ".encode()
        moved = trio.current_time()
        sizes = [0] * len(self._files)
        seen = [0] * len(self._files)
        while sum(seen) < self._record.tabs:
            if trio.current_time() > moved + _PATIENCE_SECONDS:
                return  # the verdict says who lacks what
            if self._server.fell:
                raise ServerFailed("the server has ended")
            for number, file in enumerate(self._files):
                if file.stat().st_size != sizes[number]:
                    moved = trio.current_time()
                    sizes[number] = file.stat().st_size
                    seen[number] = await trio.to_thread.run_sync(_count, file, mark)
            await trio.sleep(_LOOK_SECONDS)

    # -- what the server is like

    async def _sample_always(self) -> None:
        while True:
            await self._sample()
            if self._server.fell:
                raise ServerFailed("the server has ended")
            await trio.sleep(_SAMPLE_SECONDS)

    async def _sample(self) -> None:
        server = self._server
        metrics = await trio.to_thread.run_sync(
            _metrics, server.host, server.port, server.cafile, abandon_on_cancel=True
        )
        usage = server.usage
        if usage is None:
            return
        if metrics:
            self._counts = Counter(metrics)
        if self._began == math.inf:
            return
        totals = self._before + self._counts
        self._record.samples.append(
            Sample(
                seconds=trio.current_time() - self._began,
                pss_bytes=usage.pss_bytes,
                descriptors=usage.descriptors,
                connections=metrics.get("connections"),
                tabs=metrics.get("tabs"),
                resumed=totals["tabs_resumed_total"],
                gaps=totals["history_gaps_total"],
                overflows=totals["overflows_total"],
            )
        )


def _count(file: Path, mark: bytes) -> int:
    return file.read_bytes().count(mark)


def _metrics(host: str, port: int, cafile: Path) -> Mapping[str, int]:
    """What `/metrics` says, summed over labels; empty if it does not."""
    context = ssl.create_default_context(cafile=cafile)
    found: Counter[str] = Counter()
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPSConnection(host, port, timeout=_ASK_SECONDS, context=context)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        for name, value in re.findall(r"^h2sse_(\w+)(?:\{.*\})? ([\d.]+)$", text, re.MULTILINE):
            found[name] += int(float(value))
    return found
