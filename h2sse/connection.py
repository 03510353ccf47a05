"""One connection: a socket, its TLS, its Wire, and the tabs that live on it.

A task of its own reads; writing needs none.  `flush` gives bytes straight to a non-blocking
`ssl.SSLSocket` (in a prototype a quarter of what a writer task over trio's SSLStream cost), and
only a full socket spawns a task, which lives until the socket has drained.

CPython does not enable partial TLS writes: after a full socket OpenSSL must be given the same bytes
again.  So `_pending` is kept as it is until it is accepted, and nothing more is framed meanwhile.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import random
import socket
import ssl
from collections.abc import Awaitable, Iterable
from enum import Enum, auto
from typing import TYPE_CHECKING, assert_never, final

import trio

from . import hello
from .app import STREAM_FIELDS, Announce, Call, Reply, Stream
from .errors import BadRequest
from .http1 import Http1
from .http2 import Http2
from .hub import Subscribe, spread
from .overflow import GAP_EVENT
from .sse import MAX_RETRY_MS, opening
from .wire import Drained, Gone, Overflowed, Request, Response, problem

if TYPE_CHECKING:
    from .app import Decision
    from .hub import Group, Tab
    from .server import Server
    from .trace import Tap
    from .wire import Fields, Lane, Overflow, ProtocolName, Wire, WireEvent

__all__ = ["ROUND_TRIP_SECONDS", "Connection"]

logger = logging.getLogger(__name__)

READ_BYTES = 16 * 1024
# Input is looked at in pieces of so much: 20 of the smallest requests, up to 5 ms...
PIECE_BYTES = 512
# ... and a connection whose input takes longer than this twice in a row (once may be the machine's
# fault) is `_heavy`.  It has its turns one by one with all others that are, so that however many
# there are, tabs wait for one turn of one of them.
TURN_SECONDS = 0.004
# At most this much output is written before others have theirs.
FLUSH_BYTES = 1024 * 1024
# What a peer may take to answer the PING that follows our first GOAWAY.
ROUND_TRIP_SECONDS = 1.0
# By how much of it connections differ in their age: those made together, as after a restart, would
# else be ended together.
_AGE_SPREAD = 0.1


class _Stay(Enum):
    """Whether a connection is to stay; it only ever goes down these lines."""

    SERVING = auto()
    # It is old: the peer is told that no new requests will be served.  A round trip later it ends.
    RETIRING = auto()
    # The same with all others, when the server goes: `end_streams` follows in its turn.
    LEAVING = auto()
    # Event streams end, those too that are answered only now; with the last of them, it does.
    ENDING = auto()


@final
class Connection:
    """A client's connection, and the hub's `Sink`."""

    __slots__ = (
        "__weakref__",
        "_aborted",
        "_blocked_since",
        "_calls",
        "_deadline",
        "_heavy",
        "_noted",
        "_offered",
        "_peer_left",
        "_pending",
        "_server",
        "_slow",
        "_sock",
        "_stay",
        "_tabs",
        "_trace",
        "_unblocked",
        "_wire",
        "groups",
        "number",
        "peer",
    )

    def __init__(self, server: Server, sock: socket.socket, peer: str, number: int) -> None:
        self.number = number
        self.peer = peer
        self.groups: dict[frozenset[str], Group] = {}
        self._server = server
        self._sock = sock
        self._wire: Wire | None = None
        self._tabs: dict[int, Tab] = {}
        self._calls: dict[int, trio.CancelScope] = {}
        self._pending = b""
        self._trace: Tap | None = None  # unless someone listens
        self._noted = 0  # what the ledger knows to be waiting here
        self._offered = False
        self._stay = _Stay.SERVING
        self._heavy = self._slow = False
        self._aborted = False
        self._peer_left = False
        self._blocked_since: float | None = None
        self._unblocked: trio.Event | None = None
        # Of the handshake; then of the connection's age; then of the round trip before its end.
        self._deadline = server.now() + server.limits.handshake_seconds

    @property
    def protocol(self) -> ProtocolName:
        return self._wire.protocol if self._wire is not None else "http/1.1"

    @property
    def wire(self) -> Wire | None:
        """The protocol, once TLS has chosen it."""
        return self._wire

    @property
    def tabs(self) -> int:
        """How many event streams are open."""
        return len(self._tabs)

    @property
    def round_trip(self) -> float | None:
        """Seconds to the peer and back, as last measured; None over HTTP/1.1, or not yet."""
        return self._wire.round_trip if isinstance(self._wire, Http2) else None

    # -- life

    async def run(self) -> None:
        """Serve the connection to its end.  Its faults stay here."""
        try:
            if self._aborted:
                return  # `drain` came before us
            if await self._handshake():
                await self._read()
                await self._linger()
        except trio.ClosedResourceError:
            pass  # `abort` ended us
        except (OSError, ssl.SSLError) as error:
            logger.debug("connection %d: %s", self.number, error)
        except Exception:
            logger.exception("connection %d of %s failed", self.number, self.peer)
        finally:
            self._leave_all()
            self.abort()
            if self._trace is not None:
                self._trace.end()
            if self._wire is not None and self._wire.statistics.by_reason:
                self._server.tell(self, self._wire.statistics.by_reason)

    def abort(self) -> None:
        """Close the socket now; whoever waits on it is woken."""
        self._aborted = True
        self._note(0)
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def _handshake(self) -> bool:
        sock = self._sock
        offer = await self._offer()
        match offer:
            case hello.PlainHttp():
                await self._refuse(hello.PLAIN_HTTP_ANSWER)
                return False
            case hello.Hello() if not offer.accepts(self._server.certificates.protocols):
                # RFC 7301 3.2.  CPython's ssl would go on without a protocol instead.
                await self._refuse(hello.NO_APPLICATION_PROTOCOL_ALERT)
                return False
            case _:
                pass
        context = self._server.certificates.context
        secure = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._sock = secure
        while True:
            try:
                secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(secure)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(secure)
        kind: type[Http1 | Http2] = Http2 if secure.selected_alpn_protocol() == "h2" else Http1
        self._wire = kind(
            self._server.limits, connection=self.number, peer=self.peer, now=self._server.now()
        )
        differs = random.uniform(1 - _AGE_SPREAD, 1 + _AGE_SPREAD)  # noqa: S311 - not a secret
        age = self._server.limits.connection_age_seconds * differs
        self._deadline = self._server.now() + age
        if self._server.taps is not None:
            self._trace = self._server.taps.begin(self.number, self.peer, kind.protocol)
        if kind is Http1 and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; others wait for TCP
            patience_ms = int(self._server.limits.unacknowledged_seconds * 1000)
            secure.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)
        self._server.shook_hands(self)
        self.flush()
        return True

    async def _offer(self) -> hello.Offer:
        """Look at the ClientHello without taking it."""
        sock = self._sock
        seen = 0
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                data = sock.recv(hello.HELLO_BYTES, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            offer = hello.offered_protocols(data)
            if not isinstance(offer, hello.NeedMore) or len(data) in (0, seen):
                if seen:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                return offer
            # The rest is on its way: do not wake for what has been seen.
            seen = len(data)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)

    async def _refuse(self, answer: bytes) -> None:
        """Answer in the clear, without TLS, and see that it arrives."""
        sock = self._sock
        with contextlib.suppress(BlockingIOError):  # an empty socket takes a few bytes
            sock.send(answer)
        sock.shutdown(socket.SHUT_WR)
        await self._discard(sock)

    async def _discard(self, sock: socket.socket) -> None:
        # Input left unread would make the kernel reset the connection, and what we said be lost.
        with trio.move_on_after(self._server.limits.linger_seconds):
            while True:
                await trio.lowlevel.wait_readable(sock)
                with contextlib.suppress(BlockingIOError):
                    if not sock.recv(READ_BYTES):
                        return

    async def _read(self) -> None:
        sock, wire, server = self._sock, self._wire, self._server
        assert wire is not None
        assert isinstance(sock, ssl.SSLSocket)
        while not wire.closed:
            while self._unblocked is not None and wire.unsent > server.limits.unsent_control_bytes:
                await self._unblocked.wait()  # it asks, but does not read our answers
            try:
                data = sock.recv(READ_BYTES)
            except ssl.SSLWantReadError:
                await self._readable(sock, wire)
                continue
            except ssl.SSLWantWriteError:
                if self._unblocked is not None:
                    await self._unblocked.wait()  # two tasks may not wait for one socket
                else:
                    await trio.lowlevel.wait_writable(sock)
                continue
            except ssl.SSLEOFError:
                data = b""  # without close_notify: browsers end so
            self._peer_left = not data
            server.bytes_received += len(data)
            if self._trace is not None:
                self._trace.received(data)
            if data and (self._heavy or len(data) > PIECE_BYTES):
                await self._take_turns(wire, data, server.now())
            else:
                self._take(wire, data, server.now())
            if sock.pending():
                await trio.lowlevel.checkpoint()
            elif data:
                # SSL_read takes one record at a time off the socket, so with nothing pending there
                # is nothing in the TLS layer, and asking it again would only cost an exception.
                await self._readable(sock, wire)

    def _take(self, wire: Wire, data: bytes, came: float) -> None:
        began = self._server.now()
        self._act(wire.receive(data, came))
        self._taken(began)

    async def _take_turns(self, wire: Wire, data: bytes, came: float) -> None:
        """Take in much, or what takes long, a turn at a time."""
        server = self._server
        at = 0
        while at < len(data):
            async with server.turns:
                if self._aborted:
                    raise trio.ClosedResourceError
                began = server.now()
                while True:
                    self._act(wire.receive(data[at : at + PIECE_BYTES], came))
                    at += PIECE_BYTES
                    if at >= len(data) or server.now() - began > TURN_SECONDS:
                        break
                self._taken(began)

    def _taken(self, began: float) -> None:
        self.flush()
        slow = self._server.now() - began > TURN_SECONDS
        self._heavy = slow and self._slow
        self._slow = slow
    async def _readable(self, sock: ssl.SSLSocket, wire: Wire) -> None:
        if self._aborted:
            raise trio.ClosedResourceError  # writing has found it broken
        try:
            if not wire.closed:
                await trio.lowlevel.wait_readable(sock)
        except trio.ClosedResourceError:
            if not wire.closed:
                raise

    async def _linger(self) -> None:
        """Write what is left, say the last word, and see that it arrives."""
        sock = self._sock
        self._leave_all()
        while not self._peer_left and (self._offered or self._unblocked is not None):
            # The peer may be slow: `stall_seconds` bounds that, in `expire`.
            if self._unblocked is not None:
                await self._unblocked.wait()
            self.flush()
            await trio.lowlevel.checkpoint()
        if self._peer_left or self._aborted:
            return
        assert isinstance(sock, ssl.SSLSocket)
        with contextlib.suppress(ssl.SSLError):
            sock.unwrap()  # sends close_notify; the peer's is not waited for
        sock.shutdown(socket.SHUT_WR)
        await self._discard(sock)

    def expire(self, now: float) -> None:
        """End what has waited too long for the peer."""
        if self._wire is None:
            if now >= self._deadline:
                self._server.count("no TLS handshake within handshake_seconds", self)
                self.abort()
        elif self._blocked_since is not None:
            if now >= self._blocked_since + self._server.limits.stall_seconds:
                self._server.count("socket full for stall_seconds", self)
                self.abort()
        elif not self._wire.closed:
            events = self._wire.expire(now)
            self._act(events)
            if now >= self._deadline and not self._wire.closed:
                self._age(now)
            if events or self._wire.unsent or self._wire.closed:
                self.flush()

    # -- going away

    @property
    def knows_end(self) -> bool:
        """After `drain`: no round trip is left to wait for before its streams end."""
        wire = self._wire
        return self._aborted or (wire is not None and (wire.last_word or wire.closed))

    def _age(self, now: float) -> None:
        match self._stay:
            case _Stay.SERVING:
                self._server.count("older than connection_age_seconds", self)
                self._stay = _Stay.RETIRING
                self._deadline = now + ROUND_TRIP_SECONDS
                self.drain()
            case _Stay.RETIRING:
                self.end_streams()
            case _Stay.LEAVING | _Stay.ENDING:
                pass
            case _:
                assert_never(self._stay)

    def drain(self) -> None:
        """Say that no new requests will be served, now or once TLS stands.  Safe to call twice."""
        if self._stay is _Stay.SERVING:
            self._stay = _Stay.LEAVING
        if self._wire is not None:
            self._wire.drain()
            self._go_on()
            self.flush()

    def _go_on(self) -> None:
        """Take the next step of going away, once it can be taken."""
        wire = self._wire
        if self._stay is _Stay.SERVING or wire is None or wire.closed:
            return
        if self._stay is _Stay.ENDING or (self._stay is _Stay.RETIRING and wire.last_word):
            self.end_streams()
        elif wire.last_word:
            self._close_if_done()

    def end_streams(self, later: float = 0.0) -> None:
        """End the event streams, and the connection once nothing else is open.

        Their tabs are told to come back `later` seconds after their usual time, and apart.
        """
        wire, config, limits = self._wire, self._server.config, self._server.limits
        if wire is None:
            self.abort()
            return
        if wire.closed:
            return
        self._stay = _Stay.ENDING
        span = len(self._tabs) / limits.returns_per_second
        for stream in list(self._tabs):
            wait = later + span * random.random()  # noqa: S311 - not a secret
            retry = spread(config.retry_ms, config.retry_spread) + round(1000 * wait)
            wire.send(stream, opening(retry=min(retry, MAX_RETRY_MS)))
            self._leave(stream)
            wire.finish(stream)
        self.flush()
        self._close_if_done()

    def _close_if_done(self) -> None:
        assert self._wire is not None
        if not self._wire.open_streams and not self._calls:
            self.close()

    def close(self) -> None:
        """Say the last word now, whatever is still open."""
        if self._wire is None:
            self.abort()
            return
        self._leave_all()
        self._wire.close()
        self.flush()

    # -- what the wire says

    def _act(self, events: Iterable[WireEvent]) -> None:
        for event in events:
            match event:
                case Request():
                    self._serve(event)
                case Drained(stream):
                    tab = self._tabs.get(stream)
                    if tab is not None:
                        app = self._server.app
                        app.hub.resume(tab, app.clock())
                case Gone(stream) | Overflowed(stream):
                    self._leave(stream)
                case _:
                    assert_never(event)
        self._go_on()

    def _serve(self, request: Request) -> None:
        app = self._server.app
        decision = app.decide(request, self._server.config.cors_origins)
        if isinstance(decision, Call):
            self._call(request, decision)
        else:
            self._carry_out(request, decision)
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "%s %s %s over %s, connection %d stream %d",
                self.peer,
                request.method,
                request.path,
                request.protocol,
                self.number,
                request.stream,
            )

    def _call(self, request: Request, call: Call) -> None:
        try:
            result = call.handler(request)
            if inspect.isawaitable(result):
                self._calls[request.stream] = trio.CancelScope()
                self._server.spawn(self, self._await, request, result, call.fields)
                return
            decision = self._server.app.conclude(request, result, call.fields)
        except Exception as error:  # noqa: BLE001 - one stream's fault, answered there
            decision = self._failed(request, error, call.fields)
        self._carry_out(request, decision)

    async def _await(self, request: Request, result: Awaitable[object], fields: Fields) -> None:
        app, limits = self._server.app, self._server.limits
        scope = self._calls[request.stream]
        scope.deadline = trio.current_time() + limits.handler_seconds
        decision: Decision = Reply(
            problem(504, f"the handler took over {limits.handler_seconds} s", fields=fields)
        )
        with scope:
            try:
                decision = app.conclude(request, await result, fields)
            except Exception as error:  # noqa: BLE001 - one stream's fault, answered there
                decision = self._failed(request, error, fields)
        if self._calls.pop(request.stream, None) is None:
            return  # the client has left meanwhile
        self._carry_out(request, decision)
        self.flush()
        self._go_on()

    def _failed(self, request: Request, error: Exception, fields: Fields) -> Decision:
        if isinstance(error, BadRequest):
            return self._server.app.refuse(error, fields)
        logger.error("the handler of %s %s failed", request.method, request.path, exc_info=error)
        return Reply(problem(500, "the handler failed; the server's log says how", fields=fields))

    def _carry_out(self, request: Request, decision: Decision) -> None:
        wire = self._wire
        assert wire is not None
        match decision:
            case Reply(response):
                wire.respond(request.stream, response, head=request.method == "HEAD")
            case Announce(publication, fields):
                try:
                    entry = self._server.app.announce(publication)
                except BadRequest as error:
                    decision = self._server.app.refuse(error, fields)
                    self._carry_out(request, decision)
                    return
                body = {"id": entry.event.id, "topics": list(publication.topics)}
                wire.respond(request.stream, Response.json(body, fields=fields))
            case Stream(subscribe, last_event_id, fields):
                self._open(request, subscribe, last_event_id, fields)
            case Call():
                raise AssertionError("a call's conclusion is never a call")
            case _:
                assert_never(decision)

    # -- tabs

    def _open(
        self, request: Request, subscribe: Subscribe, last_event_id: str, fields: Fields
    ) -> None:
        wire, server = self._wire, self._server
        assert wire is not None
        app, config = server.app, server.config
        now = app.clock()
        retry = subscribe.retry or spread(config.retry_ms, config.retry_spread)
        try:
            joining = app.hub.join(
                self, request.stream, subscribe, last_event_id=last_event_id, retry=retry, now=now
            )
        except Exception as error:  # noqa: BLE001 - the greeting is the application's
            self._carry_out(request, self._failed(request, error, fields))
            return
        all_fields = (*STREAM_FIELDS, *subscribe.fields, *fields)
        if joining.gap is not None:
            all_fields += ((GAP_EVENT.encode(), joining.gap.encode()),)
        wire.open(request.stream, all_fields, joining.first)
        self._tabs[request.stream] = joining.tab
        app.hub.resume(joining.tab, now)
        app.hub.arrive(joining.tab)

    def _leave(self, stream: int) -> None:
        scope = self._calls.pop(stream, None)
        if scope is not None:
            scope.cancel()
        tab = self._tabs.pop(stream, None)
        if tab is not None:
            self._server.app.hub.leave(tab)

    def _leave_all(self) -> None:
        for stream in [*self._tabs, *self._calls]:
            self._leave(stream)

    # -- Sink

    def lane(self, overflow: Overflow | None = None) -> Lane:
        assert self._wire is not None
        return self._wire.lane(overflow)

    def send(self, stream: int, payload: bytes) -> None:
        assert self._wire is not None
        self._wire.send(stream, payload)

    def enter(self, stream: int, lane: Lane) -> None:
        assert self._wire is not None
        self._wire.enter(stream, lane)

    def offered(self) -> None:
        if not self._offered:
            self._offered = True
            server = self._server
            if not server.to_flush:
                server.flushing.set()
            server.to_flush.append(self)

    # -- out

    def flush(self) -> None:
        """Write what there is, as far as the socket takes it."""
        self._offered = False
        wire = self._wire
        if wire is None or self._aborted:
            return
        self._flush(wire)
        waits = wire.waits + len(self._pending)
        if waits != self._noted and not self._aborted:
            self._note(waits)
            self._server.app.ledger.relieve(self._server.limits.total_backlog_bytes)

    def _note(self, waits: int) -> None:
        if waits != self._noted:
            self._noted = waits
            self._server.app.ledger.note(self, waits)

    def shed(self, reason: str) -> None:
        """Give up what takes most of the memory: a tab, or, without one, the connection."""
        try:
            wire = self._wire
            if wire is not None and wire.shed(reason):
                self._act(wire.take_events())
                self.flush()
            else:
                self._server.count(reason, self)
                self.abort()
        except Exception:
            logger.exception("connection %d of %s failed", self.number, self.peer)
            self.abort()

    def _flush(self, wire: Wire) -> None:
        if self._unblocked is not None:
            # The socket is full; tabs that came to their bound meanwhile are gone all the same.
            if events := wire.take_events():
                self._act(events)
        elif not self._write(wire):
            self._unblocked = trio.Event()
            self._blocked_since = self._server.now()
            self._server.spawn(self, self._unblock, wire)

    def _wake_reader(self) -> None:
        # It waits for input, which may never come, to see that the wire is closed.
        if not self._aborted:
            trio.lowlevel.notify_closing(self._sock)

    def _write(self, wire: Wire) -> bool:
        """False when the socket is full."""
        sock, budget = self._sock, FLUSH_BYTES
        while True:
            pending = self._pending or wire.take_output()
            if not pending:
                events = wire.take_events()
                if not events:
                    if wire.closed:
                        self._wake_reader()
                    return True
                self._act(events)
                continue
            try:
                sock.send(pending)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._pending = pending
                return False
            except OSError as error:
                logger.debug("connection %d: %s", self.number, error)
                self.abort()
                return True
            self._pending = b""
            self._server.bytes_sent += len(pending)
            if self._trace is not None:
                self._trace.sent(pending)
            if wire.idle:
                return True
            budget -= len(pending)
            if budget <= 0:
                self.offered()
                return True

    async def _unblock(self, wire: Wire) -> None:
        """Wait for the socket to drain, and write on."""
        assert self._unblocked is not None
        try:
            while not self._aborted:
                await trio.lowlevel.wait_writable(self._sock)
                self._blocked_since = self._server.now()
                if self._write(wire):
                    break
        except (OSError, trio.ClosedResourceError) as error:
            logger.debug("connection %d: %s", self.number, error)
            self.abort()
        finally:
            event, self._unblocked, self._blocked_since = self._unblocked, None, None
            event.set()
            if not self._aborted:
                self._note(wire.waits)
            if wire.closed:
                self._wake_reader()
