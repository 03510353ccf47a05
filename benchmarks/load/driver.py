"""What scenarios use: `Load`, simulated tabs against one server, and `Publisher`.

Both run in processes of their own, never the server's and never the runner's; here is only the
trio side that tells them what to do and adds up what they answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, final

import trio

from benchmarks.model import Latency, Opened, ProtocolName, Published, Reception, Shape

from .child import Child, children
from .messages import Asked, Done, Finished, Progress, Sent

__all__ = ["Load", "Publisher"]

T = TypeVar("T")

# More handshakes take longer than servers wait for a connection's first request (h2sse 10 s,
# Hypercorn 5).
TOGETHER = 500

# How far behind its timetable a publisher may come, waiting for answers, before it is broken.
LATE_SECONDS = 60.0


@final
class Load:
    """Simulated tabs against one server, in one or more client processes."""

    def __init__(self, workers: tuple[Child, ...], protocol: ProtocolName) -> None:
        self._workers = workers
        self._protocol = protocol
        self._standing = [0 for _ in workers]  # connections, of each
        self._made = 0

    @classmethod
    @asynccontextmanager
    async def against(
        cls,
        host: str,
        port: int,
        protocol: ProtocolName,
        *,
        path: str = "/events?topic=bench",
        processes: int = 1,
        cafile: Path | None = None,
    ) -> AsyncIterator[Load]:
        """Client processes, ended with the block.  Without `cafile` no certificate is verified."""
        trust = [] if cafile is None else [str(cafile)]
        arguments = [
            [host, str(port), protocol, path, str(number), *trust] for number in range(processes)
        ]
        async with children("benchmarks.load.worker", arguments) as workers:
            yield cls(workers, protocol)

    @property
    def pids(self) -> tuple[int, ...]:
        """The client processes."""
        return tuple(each.pid for each in self._workers)

    async def open(
        self,
        shape: Shape,
        *,
        deadline: float = 10.0,
        connect_deadline: float = 60.0,
        last_event_id: str = "",
        stalled: int = 0,
    ) -> Opened:
        """Add tabs: connect everything, then ask for all tabs as fast as it can.

        Over HTTP/1.1, or with more than `TOGETHER` connections, each asks as soon as it is up.
        What is not up within `connect_deadline` seconds has failed, and then what is not answered
        within `deadline` seconds.

        `stalled` of the tabs, spread evenly over the connections, never read: over HTTP/2 their
        windows are 65,535 bytes and never given back, over HTTP/1.1 nothing is read of the socket
        after the answer's head.  They are not counted by `finish`, except where they end.
        """
        if shape.protocol != self._protocol:
            raise ValueError(f"these clients speak {self._protocol}, not {shape.protocol}")
        plans: list[list[tuple[int, int]]] = [[] for _ in self._workers]
        for number in range(shape.connections):
            share = stalled * (number + 1) // shape.connections
            share -= stalled * number // shape.connections
            plans[self._made % len(plans)].append((shape.tabs_per_connection, share))
            self._made += 1
        together = self._protocol == "h2" and shape.connections <= TOGETHER
        if together:
            # All workers' connections are up before the first of them asks.
            await self._all(
                lambda worker, number: worker.ask(
                    Done,
                    "connect",
                    seconds=connect_deadline,
                    plan=plans[number],
                    limit=connect_deadline,
                )
            )
        asked = await self._all(
            lambda worker, number: worker.ask(
                Asked,
                "open",
                seconds=connect_deadline + deadline,
                plan=[] if together else plans[number],
                connect_limit=connect_deadline,
                limit=deadline,
                last_event_id=last_event_id,
            )
        )
        return self._opened(asked)

    async def grow(self, tabs: int, *, deadline: float = 10.0) -> Opened:
        """More tabs on the connections that stand, evenly."""
        if self._protocol != "h2":
            raise ValueError("an HTTP/1.1 connection carries one event stream")
        ends = [sum(self._standing[: number + 1]) for number in range(len(self._workers))]
        whole = max(ends[-1], 1)
        shares = [
            tabs * end // whole - tabs * (end - mine) // whole
            for end, mine in zip(ends, self._standing, strict=True)
        ]
        if not ends[-1]:
            shares[0] = tabs  # they fail, and say so
        asked = await self._all(
            lambda worker, number: worker.ask(
                Asked, "grow", seconds=deadline, tabs=shares[number], limit=deadline
            )
        )
        return self._opened(asked)

    async def begin(self) -> None:
        """Forget what was received so far.  The tabs that are open now are the ones counted."""
        await self._all(lambda worker, _: worker.ask(Done, "begin"))

    async def finish(self, published: Published, *, patience: float = 5.0) -> Reception:
        """Wait until every tab that lives has all events published; then what came since `begin`.

        Ends `patience` seconds after the last delivery; or one second after it, if all have seen
        the last event but some lack others.  `records` counts reads of at most one TLS record,
        `bytes` are the kernel's (TCP_INFO), `client_cpu` is that from `begin` to the last delivery.
        """
        first, last = published.first_sequence, published.last_sequence
        # Deliveries put the end off; a minute of them past the last publish is no measurement.
        finished = await self._all(
            lambda worker, _: worker.ask(
                Finished,
                "finish",
                seconds=LATE_SECONDS + patience,
                first=first,
                last=last,
                patience=patience,
                limit=LATE_SECONDS,
            )
        )
        latency: Counter[int] = Counter()
        for each in finished:
            for value, count in each.latency:
                latency[value] += count
        return Reception(
            expected=sum(each.expected for each in finished),
            delivered=sum(each.delivered for each in finished),
            lost=sum(each.lost for each in finished),
            doubled=sum(each.doubled for each in finished),
            misordered=sum(each.misordered for each in finished),
            latency=Latency(counts=dict(latency)),
            bytes=sum(each.bytes for each in finished),
            records=sum(each.records for each in finished),
            client_cpu=max(
                (each.cpu_seconds / each.seconds for each in finished if each.seconds), default=0.0
            ),
            client_cpu_seconds=sum(each.cpu_seconds for each in finished),
            ended=_added(each.ended for each in finished),
        )

    async def drop(self) -> None:
        """Close all connections at once, without a word on them, as a change of network does."""
        await self._all(lambda worker, _: worker.ask(Done, "drop"))

    async def reopen(
        self,
        *,
        deadline: float = 10.0,
        connect_deadline: float = 60.0,
        spread_seconds: float = 0.0,
    ) -> Opened:
        """The dropped tabs again, each with the last event id it saw.

        The connections' attempts begin evenly over `spread_seconds`; each asks as soon as it is up.
        """
        asked = await self._all(
            lambda worker, _: worker.ask(
                Asked,
                "reopen",
                seconds=spread_seconds + connect_deadline + deadline,
                connect_limit=connect_deadline,
                limit=deadline,
                spread=spread_seconds,
            )
        )
        return self._opened(asked)

    async def progress(self) -> tuple[int, int]:
        """Tabs that are open, and deliveries since `begin`."""
        each = await self._all(lambda worker, _: worker.ask(Progress, "progress"))
        return sum(one.open for one in each), sum(one.delivered for one in each)

    async def _all(self, ask: Callable[[Child, int], Awaitable[T]]) -> list[T]:
        """Ask all workers at once."""
        answers: dict[int, T] = {}
        failures: list[Exception] = []

        async def one(worker: Child, number: int) -> None:
            try:
                answers[number] = await ask(worker, number)
            except Exception as error:  # noqa: BLE001 - raised below, outside any group
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for number, worker in enumerate(self._workers):
                nursery.start_soon(one, worker, number)
        if failures:
            raise failures[0]
        return [answers[number] for number in range(len(self._workers))]

    def _opened(self, asked: list[Asked]) -> Opened:
        self._standing = [each.standing for each in asked]
        waits = sorted(wait for each in asked for wait in each.waits)
        return Opened(
            tabs=len(waits),
            connections=sum(each.connections for each in asked),
            connect_seconds=_span(
                [(each.connect_began, each.connect_ended) for each in asked if each.connections]
            ),
            open_seconds=_span([(each.began, each.ended) for each in asked if each.waits]),
            first_byte_seconds=tuple(
                waits[min(len(waits) - 1, int(len(waits) * share))] / 1e6
                for share in (0.5, 0.99, 1.0)
                if waits
            ),
            failures=_added(each.failures for each in asked),
        )


def _span(times: list[tuple[int, int]]) -> float:
    """From the first beginning to the last end, in seconds."""
    if not times:
        return 0.0
    return (max(end for _, end in times) - min(began for began, _ in times)) / 1e9


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts by reason, of all workers."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


@final
class Publisher:
    """A process that publishes on a timetable, over one HTTP/1.1 connection."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.pid = child.pid

    @classmethod
    @asynccontextmanager
    async def to(
        cls,
        host: str,
        port: int,
        path: str,
        *,
        form: bool,
        topic: str = "bench",
        size: int = 100,
        cafile: Path | None = None,
    ) -> AsyncIterator[Publisher]:
        """A publisher of events of `size` bytes, ended with the block.

        `form`: POST `topic=..&data=..`; else the body is the data itself.
        """
        arguments = [host, str(port), path, topic if form else "", str(size)]
        if cafile is not None:
            arguments.append(str(cafile))
        async with children("benchmarks.load.publisher", [arguments]) as (child,):
            yield cls(child)

    async def publish(self, count: int, rate: float) -> Published:
        """Publish `count` events at `rate` a second: event i is due at the start + i / rate.

        Sequence numbers go on where the last call ended.
        """
        sent = await self._child.ask(
            Sent, "publish", seconds=count / rate + LATE_SECONDS, count=count, rate=rate
        )
        return Published(
            sent=sent.sent,
            acknowledged=sent.acknowledged,
            first_sequence=sent.first_sequence,
            last_sequence=sent.last_sequence,
            late_p99_seconds=sent.late_p99_seconds,
            failures=sent.failures,
        )
