"""`python -m benchmarks.churn`: 100,000 connections and 1,000,000 streams that come and go.

A real `h2sse serve`, with the limits it is shipped with.  After a warm-up, which fills what is
meant to stay (histories, caches, the allocator's pools), they come in ten parts, and after each,
when all of them have gone, the server's memory is read:

    start --warm-up--> warm --a tenth--> 10 % ... 100 % --the last leave--> end

`comings.py` has the ways in which they come and go.  `Bounds` says how much may be left of all
that.  The exit code is 0 if it held.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression
from typing import TypeAlias, final

import psutil  # type: ignore[import-untyped] # its stubs are apart
import trio

from benchmarks.groups import leaves
from benchmarks.load import ClientFailed
from benchmarks.peers.peer import Peer, Setup
from benchmarks.servers import Server, ServerFailed, serving
from h2sse import __version__

__all__ = ["Bounds", "Churn", "Reading", "churn", "main"]

_MIB = 1024 * 1024
_ROOT = Path(__file__).parents[1]

_PARTS = 10
_LEAST = 2 * _PARTS
# Of all that come, so many come first, unmeasured.
_WARM_SHARE = 0.08
# One keeps the server busy while the other one shakes hands.
_CLIENTS = 2
_CLIENT = ("-m", "benchmarks.comings")
# For what has gone to be noticed: a last word is given two seconds to be read.
_SETTLE_SECONDS = 20.0
_LOOK_SECONDS = 0.05
_ASK_SECONDS = 10.0

# Of /metrics, without its prefix: what is there now, and what has been.
_GAUGES = ("connections", "tabs", "topics", "backlog_bytes")
_TOTALS = {"connections_accepted": "connections", "requests": "requests"}

_COLUMNS = (
    *("at", "s", "connections", "streams", "PSS MiB", "RSS MiB"),
    *("descriptors", "threads", "connections open", "tabs", "topics", "backlog bytes"),
)


# -- what is known


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What may be left: 40 bytes a connection, or 4 a stream, would be found.

    Of RSS: PSS moves when other processes of Python come and go, too.
    """

    # From warm to the end.
    grown_bytes: int = 4 * _MIB
    # Over the second half, by the line that fits its readings best: what still grows then, grows.
    rising_bytes: int = 2 * _MIB


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The server, when all that came have gone."""

    at: str
    seconds: float  # since the start
    connections: int  # come and gone, after the warm-up
    streams: int
    pss_bytes: int
    rss_bytes: int
    descriptors: int
    threads: int
    gauges: Mapping[str, int]  # what /metrics says of now


@final
@dataclass(slots=True)
class Churn:
    """What is known so far."""

    bounds: Bounds
    readings: list[Reading] = field(default_factory=list)
    ways: Counter[str] = field(default_factory=Counter)  # connections, by how they came and went
    ends: Counter[str] = field(default_factory=Counter)  # streams, by how they ended
    counted: dict[str, int] = field(default_factory=dict)  # by the server itself, since warm
    broken: list[str] = field(default_factory=list)  # what failed, beside the bounds

    @property
    def connections(self) -> int:
        return sum(self.ways.values())

    @property
    def streams(self) -> int:
        return sum(self.ends.values())

    @property
    def complete(self) -> bool:
        """Whether all have come and gone."""
        return bool(self.readings) and self.readings[-1].at == "end"

    @property
    def grown_bytes(self) -> int:
        """From warm to the end."""
        return self._of("end").rss_bytes - self._of("warm").rss_bytes

    @property
    def rising_bytes(self) -> float:
        """Over the second half of the connections, by the line that fits best."""
        half = [each for each in self.readings if each.at.endswith("%")]
        half = half[len(half) // 2 - 1 :]
        along = [each.connections + each.streams for each in half]
        line = linear_regression(along, [each.rss_bytes for each in half])
        return line.slope * (along[-1] - along[0])

    def _of(self, at: str) -> Reading:
        return next(each for each in self.readings if each.at == at)

    def violations(self) -> Iterator[str]:
        """Which bounds did not hold, in words."""
        yield from self.broken
        if not self.complete:
            yield "it ended before all had come and gone"
            return
        bounds = self.bounds
        start, end = self._of("start"), self._of("end")
        if self.grown_bytes > bounds.grown_bytes:
            yield f"memory grew by {self.grown_bytes / _MIB:.1f} MiB"
        if self.rising_bytes > bounds.rising_bytes:
            yield f"memory rose by {self.rising_bytes / _MIB:.1f} MiB over the second half"
        if end.descriptors > start.descriptors:
            yield f"{end.descriptors - start.descriptors} descriptors are left over"
        if end.threads > self._of("warm").threads:
            yield f"{end.threads - self._of('warm').threads} threads are left over"
        for name, number in (("connections", self.connections), ("requests", self.streams)):
            if self.counted[name] < number:
                yield f"the server counted {self.counted[name]:,} {name}, not {number:,}"
        for name, value in end.gauges.items():
            if value != start.gauges[name]:
                yield f"{name} is {value} at the end, {start.gauges[name]} at the start"

    def report(self) -> str:
        """As Markdown."""
        came = f"{self.connections:,} connections and {self.streams:,} streams came and went"
        lines = [
            f"{came}, h2sse {__version__}, Python {sys.version.split()[0]}",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            f"|{' --- |' * len(_COLUMNS)}",
        ]
        for each in self.readings:
            cells = (
                each.at,
                f"{each.seconds:.0f}",
                f"{each.connections:,}",
                f"{each.streams:,}",
                f"{each.pss_bytes / _MIB:.2f}",
                f"{each.rss_bytes / _MIB:.2f}",
                each.descriptors,
                each.threads,
                *each.gauges.values(),
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines += ["", "Of the connections open, one is that which asks."]
        for what, counts in (("connections", self.ways), ("streams", self.ends)):
            lines += ["", f"| {what} | so many |", "| --- | --- |"]
            lines += [f"| {name} | {count:,} |" for name, count in sorted(counts.items())]
        if self.counted:
            told = ", ".join(f"{count:,} {name}" for name, count in self.counted.items())
            lines += ["", f"After the warm-up the server counted {told}."]
        if self.complete:
            for what, left, bound in (
                ("From warm to the end it grew by", self.grown_bytes, self.bounds.grown_bytes),
                ("Over the second half it rose by", self.rising_bytes, self.bounds.rising_bytes),
            ):
                lines += ["", f"{what} {left / _MIB:.2f} MiB, of {bound / _MIB:g}."]
        violations = list(self.violations())
        lines += ["", *(f"- {each}" for each in violations)] if violations else []
        lines += ["", "Not all bounds held." if violations else "All bounds held."]
        return "\n".join(lines)


# -- the run


@final
class _AsShipped(Peer):
    """h2sse with its own limits, which are what is tried here."""

    name = "h2sse"
    title = "h2sse"
    install = "uv sync"
    events_path = "/events?topic=a"

    def version(self) -> str:
        return __version__

    def command(self, setup: Setup) -> list[str]:
        return [
            *(sys.executable, "-m", "h2sse", "serve"),
            *("--host", setup.host, "--port", str(setup.port)),
            *("--cert", str(setup.cert), "--key", str(setup.key)),
        ]


async def churn(record: Churn, connections: int, streams: int) -> None:
    """Fill `record`.  Raises ServerFailed and ClientFailed."""
    began = trio.current_time()
    before: dict[str, int] = {}  # the server's counts, warm
    async with serving(_AsShipped(), "h2") as server:

        async def read(at: str, descriptors: int) -> None:
            """Once no more than so many descriptors are left."""
            with trio.move_on_after(_SETTLE_SECONDS):
                while server.usage().descriptors > descriptors:  # noqa: ASYNC110
                    await trio.sleep(_LOOK_SECONDS)
            usage = server.usage()
            process = psutil.Process(server.pid)
            metrics = await trio.to_thread.run_sync(_metrics, server)
            reading = Reading(
                at=at,
                seconds=trio.current_time() - began,
                connections=record.connections,
                streams=record.streams,
                pss_bytes=usage.pss_bytes,
                rss_bytes=process.memory_info().rss,
                descriptors=usage.descriptors,
                threads=process.num_threads(),
                gauges={name: metrics[name] for name in _GAUGES},
            )
            record.readings.append(reading)
            totals = {title: metrics[f"{name}_total"] for name, title in _TOTALS.items()}
            if at == "warm":
                before.update(totals)
            elif before:
                record.counted = {title: total - before[title] for title, total in totals.items()}
            print(
                f"{reading.seconds:6.0f} s  {at:6} {reading.connections:>8,} connections"
                f" {reading.streams:>10,} streams  RSS {reading.rss_bytes / _MIB:7.2f} MiB"
                f"  {reading.descriptors} descriptors",
                flush=True,
            )

        try:
            rest = server.usage().descriptors
            await read("start", rest)
            async with AsyncExitStack() as opened:
                workers = [
                    await opened.enter_async_context(_worker(server, place))
                    for place in range(_CLIENTS)
                ]
                staying = rest + len(workers)
                await _part(workers, round(connections * _WARM_SHARE), round(streams * _WARM_SHARE))
                await read("warm", staying)
                for part in range(1, _PARTS + 1):
                    came = await _part(
                        workers,
                        connections * part // _PARTS - record.connections,
                        streams * part // _PARTS - record.streams,
                    )
                    for said in came:
                        record.ways.update(said["ways"])
                        record.ends.update(said["ends"])
                    await read(f"{100 * part // _PARTS} %", staying)
            await read("end", rest)
        finally:
            if not server.alive:
                record.broken.append(f"the server {server.ending}")
            if server.error:
                record.broken.append(f"the server's log has an error:\n{server.error}")


_Said: TypeAlias = dict[str, dict[str, int]]


@final
class _Worker:
    """A process of `comings.py`, and what it says."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._said = bytearray()

    async def come(self, connections: int, streams: int) -> _Said:
        """Let so many come and go.  Raises ClientFailed."""
        assert self._process.stdin is not None
        asked = json.dumps({"connections": connections, "streams": streams})
        with suppress(trio.BrokenResourceError):
            await self._process.stdin.send_all(f"{asked}\n".encode())
        return await self.hear()

    async def hear(self) -> _Said:
        """Its next line.  Raises ClientFailed."""
        assert self._process.stdout is not None
        while b"\n" not in self._said:
            data = await self._process.stdout.receive_some()
            if not data:
                raise ClientFailed(f"a client ended: {self._said.decode().strip()}")
            self._said += data
        line, _, rest = self._said.partition(b"\n")
        self._said = rest
        try:
            said: _Said = json.loads(line)
        except ValueError:
            raise ClientFailed(f"a client said {line.decode()!r}") from None
        return said


@asynccontextmanager
async def _worker(server: Server, place: int) -> AsyncIterator[_Worker]:
    arguments = (server.host, str(server.port), str(server.cafile), str(place))
    process = await trio.lowlevel.open_process(
        [sys.executable, *_CLIENT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=_ROOT,
    )
    assert process.stdin is not None
    try:
        worker = _Worker(process)
        await worker.hear()  # that its connection stands, and the histories are full
        yield worker
        await process.stdin.aclose()
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _part(workers: Sequence[_Worker], connections: int, streams: int) -> list[_Said]:
    """All of them at once, each with its share; what they say of it."""
    came: list[_Said] = []

    async def come(worker: _Worker, place: int) -> None:
        # One more for some, if it is no whole share.
        share = ((number + place) // len(workers) for number in (connections, max(0, streams)))
        came.append(await worker.come(*share))

    async with trio.open_nursery() as nursery:
        for place, worker in enumerate(workers):
            nursery.start_soon(come, worker, place)
    return came


def _metrics(server: Server) -> dict[str, int]:
    """What `/metrics` says, without prefix, all labels of a name together.  Raises ServerFailed."""
    context = ssl.create_default_context(cafile=server.cafile)
    connection = http.client.HTTPSConnection(
        server.host, server.port, timeout=_ASK_SECONDS, context=context
    )
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise ServerFailed(f"/metrics does not answer: {error!r}") from error
    finally:
        connection.close()
    found: Counter[str] = Counter()
    for name, value in re.findall(r"^h2sse_(\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
        found[name] += int(float(value))
    return found


# -- the command


def main(argv: Sequence[str] | None = None) -> int:
    """The command.  Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.churn",
        description="Connections and streams that come and go, and the memory that they leave.",
    )
    for name, number in (("connections", 100_000), ("streams", 1_000_000)):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=number,
            metavar="N",
            help="at least so many (default: %(default)s)",
        )
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write it there, too")
    arguments = parser.parse_args(argv)
    if arguments.connections < _LEAST or arguments.streams < 0:
        parser.error(f"at least {_LEAST} connections, for {_PARTS} parts")
    record = Churn(Bounds())
    try:
        trio.run(churn, record, arguments.connections, arguments.streams)
    except* (ServerFailed, ClientFailed) as group:
        record.broken += [str(each) for each in leaves(group)]
    except* KeyboardInterrupt:
        record.broken.append("interrupted")
    report = record.report()
    print(f"\n{report}")
    if arguments.report:
        arguments.report.write_text(f"{report}\n")
    return 1 if list(record.violations()) else 0


if __name__ == "__main__":
    sys.exit(main())
