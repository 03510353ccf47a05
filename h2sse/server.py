"""Listeners: accepting, bounding, flushing, and going away gracefully.

`serve` is the entry.  One server is one listening port; several may serve the same `App`.  Beside
the connections' own tasks there are three: one accepts on each socket, one flushes the connections
that an event was offered to (so that events published together leave together), and one ticks once
a second for deadlines, heartbeats and certificates.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVarTuple, final

import trio

from . import binding
from .app import ServerStatistics
from .config import Config
from .connection import ROUND_TRIP_SECONDS, Connection
from .guard import BREACHES, Bucket
from .handshake import Handshakes
from .metering import Histogram
from .overflow import LOSSY
from .sse import HEARTBEAT
from .tls import Certificates
from .turns import Turns
from .unison import FLUSH_BYTES, FLUSH_SLICE, Unison
from .uploads import Uploads

if TYPE_CHECKING:
    from .app import App
    from .hub import Speaker
    from .trace import Taps
    from .wire import ProtocolName

__all__ = ["Listening", "Server", "serve"]

logger = logging.getLogger(__name__)

_Args = TypeVarTuple("_Args")

TICK_SECONDS = 1.0
# How long ticking may hold the loop before others have a turn.
_SLICE_SECONDS = 0.002
# So many connections are accepted before others have one.
_ACCEPT_SLICE = 64
# After running out of descriptors or memory: until then something may have been closed.
_ACCEPT_PAUSE_SECONDS = 0.25
# A client that leaves before it is accepted is not the listener's fault.
_ACCEPT_AGAIN = frozenset((errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.EPERM))
# How often it is looked whether all peers have answered the PING that follows our first GOAWAY.
_LOOK_SECONDS = 0.01
# Of connections that were stopped from something: whoever makes a thousand of them must not also
# fill the log.  /metrics has them all.
_LOG_LINES = 20
_LOG_LINES_PER_SECOND = 1.0
# No peer can make up reasons, as far as we know; should one, they are counted as one.
_REASONS = 200


@final
@dataclass(frozen=True, slots=True)
class Listening:
    """A server that is listening: what `nursery.start(serve, ...)` gives.

    `url` is where browsers find it; `addresses` are the sockets' own, as (host, port).
    """

    url: str
    port: int
    addresses: tuple[tuple[str, int], ...]
    _server: Server

    async def aclose(self) -> None:
        """Drain: end the streams well, let answers go out, close.  Safe to call twice."""
        self._server.stop.set()
        await self._server.stopped.wait()


async def serve(
    app: App,
    config: Config | None = None,
    taps: Taps | None = None,
    *,
    task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an app until cancelled, or until `Listening.aclose`.

    For `await nursery.start(serve, app, config)`, which returns a `Listening` once the sockets
    are bound.  `taps`, if given, are told of every byte (trace/).  Raises ConfigError for a
    certificate that cannot be used, OSError if the address cannot be bound.
    """
    config = config if config is not None else Config()
    certificates = Certificates(config.tls, http1=config.http1)
    sockets = await binding.bind(config)
    server = Server(app, config, certificates, taps)
    try:
        async with trio.open_nursery() as nursery:
            addresses = tuple(each.getsockname()[:2] for each in sockets)
            server.start(nursery, sockets)
            url = f"https://{binding.url_host(config.host)}:{addresses[0][1]}"
            logger.info("listening at %s", ", ".join(f"{host} {each}" for host, each in addresses))
            task_status.started(Listening(url, addresses[0][1], addresses, server))
            try:
                await server.stop.wait()
                for each in sockets:
                    server.accept_waiting(each)
                    trio.lowlevel.notify_closing(each)
                    each.close()
                await server.drain()
            finally:
                server.running = False
            nursery.cancel_scope.cancel()
    finally:
        for each in sockets:
            each.close()
        server.end()


@final
class Server:
    """The state of one `serve` call."""

    def __init__(
        self, app: App, config: Config, certificates: Certificates, taps: Taps | None = None
    ) -> None:
        self.app = app
        self.config = config
        self.limits = config.limits
        self.certificates = certificates
        self.taps = taps
        self.stop = trio.Event()
        self.stopped = trio.Event()
        self.running = True  # whether new tasks may begin
        self.bytes_sent = 0
        self.bytes_received = 0
        # One for all connections, counted when an answer comes: a scrape asks none of them.
        self.round_trips = Histogram()
        self._nursery: trio.Nursery | None = None
        self._connections: dict[Connection, None] = {}
        self._addresses: Counter[str] = Counter()
        self._numbers = app.connection_numbers
        self.to_flush: list[Connection] = []
        self.unisons: Mapping[ProtocolName, Unison] = {
            "h2": Unison(self, "h2"),
            "http/1.1": Unison(self, "http/1.1"),
        }
        self.flushing = trio.Event()
        self._flushes = False  # whether it is amid that
        self._emptied = trio.Event()
        self._draining = False
        self._accepted = self._refused = 0
        self._full_logged = False
        self.turns = Turns(self.now(), lambda: self._flushes or self.flushing.is_set())
        self.uploads = Uploads()
        self.handshakes = Handshakes()
        self._telling = Bucket(_LOG_LINES, _LOG_LINES_PER_SECOND)
        self._untold = 0
        self._past: Counter[str] = Counter()  # counts of connections that are gone
        self._reasons: Counter[str] = Counter()

    # -- life

    def start(self, nursery: trio.Nursery, sockets: Sequence[socket.socket]) -> None:
        """Begin to serve."""
        self._nursery = nursery
        for each in sockets:
            nursery.start_soon(self.accept, each)
        nursery.start_soon(self.flush)
        nursery.start_soon(self.tick)
        self.app.attach(self)

    def run_backgrounds(self) -> None:
        """Run what the app wants to run, in this server of all that serve it."""
        assert self._nursery is not None
        for task in self.app.backgrounds:
            self._nursery.start_soon(task)

    def end(self) -> None:
        """All tasks have ended."""
        self.app.detach(self)
        self.stopped.set()

    # -- what connections ask of their server

    def now(self) -> float:
        """The clock of deadlines."""
        return trio.current_time()

    def spawn(
        self, connection: Connection, task: Callable[[*_Args], Awaitable[None]], *args: *_Args
    ) -> None:
        """Run a task of a connection's."""
        assert self._nursery is not None
        self._nursery.start_soon(self._guard, connection, task, args)

    async def _guard(
        self, connection: Connection, task: Callable[..., Awaitable[None]], args: tuple[Any, ...]
    ) -> None:
        try:
            await task(*args)
        except Exception as error:  # noqa: BLE001 - it stays that connection's
            self.failed(connection, error)

    @staticmethod
    def failed(connection: Connection, error: Exception) -> None:
        """Something went wrong that is not the peer's fault: end that one, and say so."""
        logger.error(
            "connection %d of %s failed", connection.number, connection.peer, exc_info=error
        )
        connection.abort()

    def _tell_all(self, act: Callable[[Connection], None]) -> None:
        for connection in list(self._connections):
            try:
                act(connection)
            except Exception as error:  # noqa: BLE001 - it stays that connection's
                self.failed(connection, error)

    def shook_hands(self, connection: Connection) -> None:
        """TLS stands; the protocol is chosen."""
        if self._draining:
            connection.drain()

    def count(self, reason: str, connection: Connection | None = None) -> None:
        """Something was ended by us, or could not begin."""
        self._reasons[reason] += 1
        if connection is not None:
            self.tell(connection, {reason: 1})

    def tell(self, connection: Connection, reasons: Mapping[str, int]) -> None:
        """Log what a connection was stopped from doing, in one line, and not too many lines."""
        level = logging.WARNING if reasons.keys() & BREACHES else logging.INFO
        if not reasons or not logger.isEnabledFor(level):
            return
        if not self._telling.take(self.now()):
            self._untold += 1
            return
        untold, self._untold = self._untold, 0
        logger.log(
            level,
            "connection %d from %s over %s: %s%s",
            connection.number,
            connection.peer,
            connection.protocol,
            ", ".join(f"{reason} ({count})" for reason, count in reasons.items()),
            f" (and {untold} connections more that were not logged)" if untold else "",
        )

    @property
    def connections(self) -> Collection[Connection]:
        """Those that are open."""
        return self._connections.keys()

    # -- accepting

    async def accept(self, listener: socket.socket) -> None:
        """Accept for ever, whatever happens to single connections."""
        while True:
            try:
                await trio.lowlevel.wait_readable(listener)
                for _ in range(_ACCEPT_SLICE):
                    self._accept_one(listener)
            except BlockingIOError:
                self._full_logged = False  # nobody waits any more
            except trio.ClosedResourceError:
                return
            except (OSError, MemoryError) as error:
                if listener.fileno() < 0:
                    return
                code = error.errno if isinstance(error, OSError) else errno.ENOMEM
                if code in _ACCEPT_AGAIN:
                    continue
                # EMFILE, ENFILE, ENOBUFS, ENOMEM: what is open goes on, new ones wait.
                self.count(f"accept: {errno.errorcode.get(code or 0, 'error')}")
                if not self._full_logged:
                    self._full_logged = True
                    logger.warning("accepting pauses: %s", str(error) or "out of memory")
                await trio.sleep(_ACCEPT_PAUSE_SECONDS)

    def accept_waiting(self, listener: socket.socket) -> None:
        """Accept who has connected already: closing the listener would reset them."""
        # Without those that come now, one after the other, and for whom we would never close.
        with contextlib.suppress(OSError, MemoryError):
            for _ in range(binding.BACKLOG):
                self._accept_one(listener)

    def _accept_one(self, listener: socket.socket) -> None:
        sock, address = listener.accept()
        try:
            self._admit(sock, address[0])
        except Exception:
            sock.close()
            logger.exception("a connection of %s could not begin", address[0])

    def _admit(self, sock: socket.socket, peer: str) -> None:
        limits = self.limits
        self._accepted += 1
        loopback = peer.startswith("127.") or peer == "::1"
        if len(self._connections) >= limits.connections or (
            not loopback and self._addresses[peer] >= limits.connections_per_address
        ):
            self._refused += 1
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux and macOS have it
            sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.unsent_kernel_bytes
            )
        connection = Connection(self, sock, peer, next(self._numbers))
        self._connections[connection] = None
        self._addresses[peer] += 1
        self.spawn(connection, self._run, connection)

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            del self._connections[connection]
            self._addresses[connection.peer] -= 1
            if not self._addresses[connection.peer]:
                del self._addresses[connection.peer]
            wire = connection.wire
            if wire is not None:
                self._add(self._past, self._reasons, connection)
            if not self._connections:
                self._emptied.set()

    # -- the two that go round

    async def flush(self) -> None:
        """Write for the connections that something was offered to.

        HTTP/2 before HTTP/1.1: one write there is for many tabs.
        """
        while True:
            await self.flushing.wait()
            self.flushing = trio.Event()
            self._flushes = True
            began = self.app.clock()
            await self._flush_alone()
            for unison in self.unisons.values():
                await unison.flush()
            self._flushes = False
            self.app.flushed(began)

    async def _flush_alone(self) -> None:
        """Write for those with a queue of their own.

        Those of a slice are framed first and then written, for a fifth less than one by one: each
        would find the processor's caches full of OpenSSL and the kernel, and a client that reads
        many of them would be woken for each.
        """
        batch, self.to_flush = self.to_flush, []
        for start in range(0, len(batch), FLUSH_SLICE):
            connections = batch[start : start + FLUSH_SLICE]
            self._frame(connections)
            enough = self.bytes_sent + FLUSH_BYTES
            for connection in connections:
                try:
                    connection.flush()
                except Exception as error:  # noqa: BLE001 - it stays that connection's
                    self.failed(connection, error)
                if self.bytes_sent >= enough:
                    await trio.lowlevel.checkpoint()
                    enough = self.bytes_sent + FLUSH_BYTES
            await trio.lowlevel.checkpoint()

    def _frame(self, connections: Sequence[Connection]) -> None:
        # Of large events only some, the rest as it is written.
        room = FLUSH_BYTES
        for connection in connections:
            try:
                room -= connection.frame()
            except Exception as error:  # noqa: BLE001 - it stays that connection's
                self.failed(connection, error)
            if room <= 0:
                break

    async def tick(self) -> None:
        """Once a second: deadlines, heartbeats, certificates."""
        for second in itertools.count(1):
            await trio.sleep(TICK_SECONDS)
            for unison in self.unisons.values():
                self._beat(unison)
            await self._expire()
            if second % 5 == 0:
                self.certificates.check()

    async def _expire(self) -> None:
        # Not within `tick`, which would hold the last connection until the next one comes.
        now = turn = self.now()
        for connection in list(self._connections):
            try:
                connection.expire(now)
                self._beat(connection)
            except Exception as error:  # noqa: BLE001 - it stays that connection's
                self.failed(connection, error)
            now = self.now()
            if now - turn > _SLICE_SECONDS:
                await trio.lowlevel.checkpoint()
                now = turn = self.now()

    def _beat(self, speaker: Speaker) -> None:
        for group in list(speaker.groups.values()):
            if group.within is not None:
                continue
            group.quiet += 1
            if group.quiet >= self.config.heartbeat_seconds:
                group.quiet = 0
                group.lane.offer(HEARTBEAT)
                speaker.offered()

    # -- going away

    async def drain(self) -> None:
        """End all streams well, and wait for the connections to close.

        It takes `drain_seconds` at most, the last of them for the last word to be read.
        """
        self._draining = True
        whole = self.limits.drain_seconds
        last = min(self.limits.linger_seconds, whole / 2)
        until = self.now() + whole - last
        self._tell_all(Connection.drain)
        with trio.move_on_after(min(ROUND_TRIP_SECONDS, whole - last)):
            while not all(each.knows_end for each in self._connections):  # noqa: ASYNC110
                await trio.sleep(_LOOK_SECONDS)
        await self._end_streams(until - self.now())
        with trio.move_on_at(until):
            await self._wait_empty()
        # Those who do not read, and handlers that do not end.
        self._tell_all(Connection.close)
        with trio.move_on_after(last):
            await self._wait_empty()

    async def _end_streams(self, seconds: float) -> None:
        """End all event streams, spread over so many seconds as far as need be.

        Tabs are to come back `returns_per_second` at a time.  As far as there is time for it they
        are ended so; for the rest their reconnection times see to it.  Those of a connection end
        together and the largest comes last, so that nobody waits for its many tabs to be apart.
        """
        connections = sorted(self._connections, key=lambda each: each.tabs)
        rate = self.limits.returns_per_second
        whole = sum(each.tabs for each in connections) / rate
        share = max(0.0, min(1.0, seconds / whole)) if whole else 0.0
        began, place = self.now(), 0.0
        for connection in connections:
            await trio.sleep_until(began + place * share)
            later = place * (1 - share)
            place += connection.tabs / rate
            try:
                connection.end_streams(later)
            except Exception as error:  # noqa: BLE001 - it stays that connection's
                self.failed(connection, error)

    async def _wait_empty(self) -> None:
        while self._connections:
            self._emptied = trio.Event()
            await self._emptied.wait()

    # -- counting

    def statistics(self) -> ServerStatistics:
        """The counts of this instant."""
        totals, reasons = Counter(self._past), Counter(self._reasons)
        connections: Counter[str] = Counter()
        tabs: Counter[str] = Counter()
        for connection in self._connections:
            if connection.wire is not None:
                connections[connection.protocol] += 1
                tabs[connection.protocol] += connection.tabs
                self._add(totals, reasons, connection)
        return ServerStatistics(
            connections=connections,
            tabs=tabs,
            accepted=self._accepted,
            refused_connections=self._refused,
            requests=totals["requests"],
            bytes_sent=self.bytes_sent,
            bytes_received=self.bytes_received,
            resets_received=totals["resets_received"],
            resets_sent=totals["resets_sent"],
            refused_streams=totals["refused"],
            overflowed=totals["overflowed"],
            reasons=reasons,
            unfinished_body_bytes=self.uploads.total,
            lost={name: totals[name] for name in LOSSY},
            round_trips=self.round_trips.copy(),
        )

    @staticmethod
    def _add(totals: Counter[str], reasons: Counter[str], connection: Connection) -> None:
        assert connection.wire is not None
        counts = connection.wire.statistics
        totals["requests"] += counts.requests
        totals["resets_received"] += counts.resets_received
        totals["resets_sent"] += counts.resets_sent
        totals["refused"] += counts.refused
        totals["overflowed"] += counts.overflowed
        totals.update(counts.lost)
        for reason, count in counts.by_reason.items():
            known = reason in reasons or len(reasons) < _REASONS
            reasons[reason if known else "other"] += count
