"""The same App behind ASGI 3: any ASGI server hosts it, on trio or on asyncio.

    application = ASGI(app)  # hypercorn -k trio module:application

This is the counterpart of connection.py and server.py where sockets, TLS and frames are another
server's.  What is decided and what is sent are the same; what differs is what ASGI cannot say.  It
shows requests, not connections, so each event stream is a `Sink` of its own, with one stream and
one lane, and fan-out is one `send` a tab, not one write a connection.

The server gives each request a task.  A tab costs that and one more, which waits in `receive`: in
ASGI nothing else tells at once that a client has left.  (Cancelling `receive` for every event
would spare it, but not all servers keep what a cancelled `receive` was about to give.)  On trio the
two come to some 25 KB, and an event to some 20 us a tab, of which waking a task is the half; what
the server's `send` costs is not in that.  Beside them one task ticks once a second, in the
lifespan, for heartbeats and for clients that take nothing.

An event waits here until the server's `send` returns from the one before it.  So servers whose
`send` waits for the client are the ones whose slow tabs come to `tab_backlog_bytes`; a server that
buffers without bound holds the backlog itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, final

try:
    import anyio
    import anyio.lowlevel
except ImportError as error:
    raise ImportError(
        "h2sse.asgi needs anyio: pip install 'h2sse[asgi]'", name=error.name
    ) from error

from .app import ServerStatistics
from .asgi_exchange import Client, Exchange, Send
from .asgi_requests import Receive, Scope
from .config import Config
from .errors import LocalError

if TYPE_CHECKING:
    from .app import App
    from .wire import ProtocolName

__all__ = ["ASGI"]

logger = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
# Exchanges looked at in a tick before others have their turn, at about 1 us each.
_TICK_SLICE = 1024


@final
class ASGI:
    """An ASGI 3 application that serves `app`: HTTP and lifespan; a WebSocket is refused.

    Of `config` it uses `cors_origins`, `heartbeat_seconds`, `retry_ms`, `retry_spread` and, of the
    limits, those of bodies, handlers, backlogs, stalls, draining and lingering; listening and TLS
    are the server's.  The server must speak the lifespan protocol; where a framework mounts this
    application and keeps the lifespan to itself, run `serving` in the framework's.

    Handlers and backgrounds run on the server's event loop: they may use trio on trio only.
    """

    def __init__(self, app: App, config: Config | None = None) -> None:
        self.app = app
        self.config = config if config is not None else Config()
        self.limits = self.config.limits
        self.running = False  # whether new tasks may begin
        self.draining = False
        self.exchanges: dict[Exchange, None] = {}
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._group: anyio.abc.TaskGroup | None = None
        self._clients: dict[object, Client] = {}
        self._behind = 0
        self._ended: anyio.Event | None = None  # made on the server's loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the server calls.  Raises LocalError for a scope that is none of the three."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await self._lifespan(receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1000})  # before accept: 403
            case kind:
                raise LocalError(f"h2sse serves HTTP, not {kind!r}")

    # -- life

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if self.running:
            # Raised, it would pass for "no lifespan here", and the server would go on.
            text = "this h2sse.asgi.ASGI is being served already"
            await send({"type": "lifespan.startup.failed", "message": text})
            return
        try:
            async with self.serving():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception:
            # A background failed, say; not all servers tell why a lifespan has ended.
            logger.exception("the application failed, and is served no more")
            raise
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve while the block runs, then `drain`: what the lifespan protocol does.

        Raises LocalError if it is being served already, and whatever a background raises.
        """
        if self.running:
            raise LocalError("this h2sse.asgi.ASGI is being served already")
        self.running, self.draining = True, False
        try:
            async with anyio.create_task_group() as self._group:
                self._group.start_soon(self._tick)
                self.app.attach(self)
                try:
                    yield
                    await self.drain()
                finally:
                    self.running = False
                self._group.cancel_scope.cancel()
        finally:
            self._finish()  # after a failure
            self.app.detach(self)

    async def drain(self) -> None:
        """End every event stream well, and wait until that is said, `drain_seconds` at most.

        Whoever asks for a stream from now on is told to come back.  Most servers begin the
        lifespan's shutdown only when all requests have ended: await this before theirs begins, in
        Hypercorn's `shutdown_trigger` for one.  Safe to call twice.
        """
        self._finish()
        with anyio.move_on_after(self.limits.drain_seconds):
            while any(exchange.streams for exchange in self.exchanges):
                if self._ended is None or self._ended.is_set():
                    self._ended = anyio.Event()
                await self._ended.wait()

    def _finish(self) -> None:
        self.draining = True
        for exchange in self.exchanges:
            exchange.finish()

    def run_backgrounds(self) -> None:
        """Run what the app wants to run, in this server of all that serve it."""
        assert self._group is not None
        for task in self.app.backgrounds:
            self._group.start_soon(_run, task)

    async def _tick(self) -> None:
        """Once a second: heartbeats, and those who take nothing."""
        while True:
            await anyio.sleep(_TICK_SECONDS)
            for place, exchange in enumerate(list(self.exchanges), start=1):
                exchange.tick()
                if place % _TICK_SLICE == 0:
                    await anyio.lowlevel.checkpoint()

    # -- requests

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        # HTTP/3 shares connections as HTTP/2 does; of the two it is that.
        version = str(scope.get("http_version", "1.1"))
        protocol: ProtocolName = "http/1.1" if version.startswith("1") else "h2"
        address = scope.get("client")
        peer = str(address[0]) if address else ""
        # Without a port (a proxy's `Forwarded`, a UNIX socket) any two may be strangers.
        key: object = (peer, address[1], protocol) if address and address[1] else object()
        client = self._clients.get(key)
        if client is None:
            number = next(self.app.connection_numbers)
            client = self._clients[key] = Client(number, protocol)
            self.counts["accepted"] += 1
        client.requests += 1
        exchange = Exchange(self, client, peer, receive, send)
        self.exchanges[exchange] = None
        try:
            await exchange.run(scope)
        finally:
            del self.exchanges[exchange]
            client.requests -= 1
            if not client.requests:
                del self._clients[key]
            if self._ended is not None:
                self._ended.set()

    def fell_behind(self) -> None:
        """One more exchange has something to hand over."""
        self._behind += 1

    def caught_up(self) -> None:
        """It is handing it over, or never will."""
        self._behind -= 1
        if not self._behind:
            self.app.flushed(self.app.clock())

    # -- counting

    def statistics(self) -> ServerStatistics:
        """The counts of this instant.

        Bytes are those of bodies; resets received are streams whose client left, resets sent are
        those given up on, and refused streams are requests that could not be served.
        """
        counts = self.counts
        return ServerStatistics(
            connections=Counter(client.protocol for client in self._clients.values()),
            tabs=Counter(each.protocol for each in self.exchanges if each.streams),
            accepted=counts["accepted"],
            refused_connections=0,
            requests=counts["requests"],
            bytes_sent=counts["bytes_sent"],
            bytes_received=counts["bytes_received"],
            resets_received=counts["resets_received"],
            resets_sent=counts["resets_sent"],
            refused_streams=counts["refused"],
            overflowed=counts["overflowed"],
            reasons=Counter(self.reasons),
        )


async def _run(task: Callable[[], Awaitable[None]]) -> None:
    await task()
