"""One connection: a socket, its Wire, and the bytes between them; how it stays and how it goes.

A task of its own reads (intake.py); writing needs none.  `flush` gives bytes straight to a
non-blocking socket, through TLS (in a prototype a quarter of what a writer task over trio's
SSLStream cost), and only a full socket spawns a task, which lives until the socket has drained.
Nothing more is framed meanwhile.

It is *alone*, with a queue of its own in its wire, or *in unison* with others whose tabs listen to
the same (unison.py).
"""

from __future__ import annotations

import logging
import math
import random
import socket
import ssl
from collections.abc import Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, assert_never, final

import trio

from .full_socket import FullSocket
from .handshake import admitted, part, shake_hands
from .http1 import Http1
from .http2 import Http2
from .intake import Intake
from .streams import Streams
from .tls_socket import TlsSocket
from .unison import FLUSH_BYTES, Part
from .uploads import OVER_TOTAL
from .wire import Drained, Gone, Overflowed, Request

if TYPE_CHECKING:
    from .hub import Group
    from .server import Server
    from .trace import Tap
    from .unison import Member
    from .wire import Lane, Overflow, ProtocolName, Wire, WireEvent

__all__ = ["ROUND_TRIP_SECONDS", "Connection"]

logger = logging.getLogger(__name__)

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
        "_alone",
        "_deadline",
        "_member",
        "_noted",
        "_offered",
        "_pending",
        "_server",
        "_sock",
        "_stay",
        "_streams",
        "_tls",
        "_trace",
        "_wire",
        "aborted",
        "full",
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
        self._tls: TlsSocket | None = None
        self._wire: Wire | None = None
        self._streams = Streams(server)
        self._pending = b""  # framed, and not given to TLS yet
        self._trace: Tap | None = None  # unless someone listens
        self._noted = 0  # what the ledger knows to be waiting here
        self._offered = False
        self._stay = _Stay.SERVING
        self.aborted = False  # whether the socket is closed
        self.full: FullSocket | None = None  # while the socket takes no more
        self._member: Member | None = None  # while it is in unison
        self._alone = False  # whether it is not, but may have come to be able to
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
        return self._streams.tabs

    @property
    def round_trip(self) -> float | None:
        """Seconds to the peer and back, as last measured; None over HTTP/1.1, or not yet."""
        return self._wire.round_trip if isinstance(self._wire, Http2) else None

    # -- life

    async def run(self) -> None:
        """Serve the connection to its end.  Its faults stay here."""
        try:
            if not self.aborted:  # `drain` may come before us
                await self._live()
        except Exception:
            logger.exception("connection %d of %s failed", self.number, self.peer)
        finally:
            self._streams.leave_all()
            self.abort()
            if self._trace is not None:
                self._trace.end()
            if self._wire is not None and self._wire.statistics.by_reason:
                self._server.tell(self, self._wire.statistics.by_reason)

    async def _live(self) -> None:
        try:
            if await self._handshake():
                assert self._tls is not None
                assert self._wire is not None
                intake = Intake(self, self._server, self._sock, self._tls, self._wire)
                if not await intake.run():
                    await self._linger()
        except trio.ClosedResourceError:
            pass  # `abort` ended us
        except (OSError, ssl.SSLError) as error:
            logger.debug("connection %d: %s", self.number, error)
        self._streams.leave_all()
        if self._wire is not None:
            # With streams open it would hold itself, until the collector found it.
            self._wire.receive(b"", self._server.now())

    def abort(self) -> None:
        """Close the socket now; whoever waits on it is woken."""
        self.aborted = True
        if self._member is not None:
            self._member.leave()
            self._member = None
        self._note(0)
        self.note_bodies()
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def _handshake(self) -> bool:
        server = self._server
        limits, certificates = server.limits, server.certificates
        if not await admitted(self._sock, certificates.protocols, limits.linger_seconds):
            return False
        # Until its turn has come it waits for us: when five thousand come at once, for ten seconds.
        left, self._deadline = self._deadline - server.now(), math.inf

        def begin() -> TlsSocket:
            self._deadline = server.now() + left
            return TlsSocket(self._sock, certificates.context)

        self._tls = tls = await shake_hands(self._sock, server.handshakes, begin)
        now, number, peer = server.now(), self.number, self.peer
        wire: Http1 | Http2
        if tls.selected_alpn_protocol() == "h2":
            trips = server.round_trips
            wire = Http2(limits, connection=number, peer=peer, now=now, round_trips=trips)
        else:
            wire = Http1(limits, connection=number, peer=peer, now=now)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it
                patience_ms = int(limits.unacknowledged_seconds * 1000)
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)
        self._wire = wire
        differs = random.uniform(1 - _AGE_SPREAD, 1 + _AGE_SPREAD)  # noqa: S311 - not a secret
        self._deadline = now + limits.connection_age_seconds * differs
        if server.taps is not None:
            self._trace = server.taps.begin(number, peer, wire.protocol)
        server.shook_hands(self)
        self.flush()
        return True

    async def _linger(self) -> None:
        """Write what is left, say the last word, and see that it arrives."""
        self._streams.leave_all()
        while self._offered or self.full is not None:
            # The peer may be slow: `stall_seconds` bounds that, in `expire`.
            if self.full is not None:
                await self.full.drained.wait()
            self.flush()
            await trio.lowlevel.checkpoint()
        if self.aborted:
            return
        assert self._tls is not None
        await part(self._sock, self._tls, self._server.limits.linger_seconds)

    def expire(self, now: float) -> None:
        """End what has waited too long for the peer."""
        if self.aborted:
            return
        wire = self._wire
        if self._member is not None and now < self._deadline and not isinstance(wire, Http2):
            return  # its event stream is all there is, and there is nothing that it waits for
        if wire is None:
            if now >= self._deadline:
                self._server.count("no TLS handshake within handshake_seconds", self)
                self.abort()
        elif self.full is not None:
            if self.full.stands_still(now, self._waits(wire)):
                self._server.count("socket full for stall_seconds", self)
                self.abort()
        elif not wire.closed:
            events = wire.expire(now)
            if events:
                self.act(events)
            else:
                self._go_on()
            if now >= self._deadline and not wire.closed:
                self._age(now)
            if events or wire.unsent or wire.closed:
                self.flush()
            self.note_bodies()

    # -- going away

    @property
    def knows_end(self) -> bool:
        """After `drain`: no round trip is left to wait for before its streams end."""
        wire = self._wire
        return self.aborted or (wire is not None and (wire.last_word or wire.closed))

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
        wire = self._wire
        if wire is None:
            self.abort()
            return
        if wire.closed:
            return
        self._stay = _Stay.ENDING
        self.go_alone()
        self._streams.end_tabs(wire, later)
        self.flush()
        self._close_if_done()

    def _close_if_done(self) -> None:
        assert self._wire is not None
        if not self._wire.open_streams and not self._streams.calls:
            self.close()

    def close(self) -> None:
        """Say the last word now, whatever is still open."""
        if self._wire is None:
            self.abort()
            return
        self.go_alone()
        self._streams.leave_all()
        self._wire.close()
        self.flush()

    # -- in

    def received(self, data: bytes) -> None:
        """So much has come, decrypted; nothing at the end."""
        self._server.bytes_received += len(data)
        if self._trace is not None:
            self._trace.received(data)

    def act(self, events: Sequence[WireEvent], until: float = math.inf) -> Sequence[WireEvent]:
        """Do what the wire says; returns what is left of it at the time `until`."""
        for done, event in enumerate(events, 1):
            match event:
                case Request():
                    self._streams.serve(self, event)
                case Drained(stream):
                    self._streams.drained(stream)
                case Gone(stream) | Overflowed(stream):
                    self._streams.leave(stream)
                    self._alone = self._member is None
                case _:
                    assert_never(event)
            if done < len(events) and self._server.now() > until:
                return events[done:]
        self._go_on()
        return ()

    def answered(self) -> None:
        """A handler that was awaited has had its answer."""
        self.flush()
        self._go_on()

    # -- Sink

    def lane(self, overflow: Overflow | None = None) -> Lane:
        assert self._wire is not None
        return self._wire.lane(overflow)

    def send(self, stream: int, payload: bytes) -> None:
        assert self._wire is not None
        self._wire.send(stream, payload)

    def enter(self, stream: int, lane: Lane) -> None:
        assert self._wire is not None
        self.go_alone()  # what its other tabs are owed is not for this one
        self._wire.enter(stream, lane)
        self._alone = True

    def offered(self) -> None:
        if not self._offered:
            self._offered = True
            server = self._server
            if not server.to_flush:
                server.flushing.set()
            server.to_flush.append(self)

    # -- in unison

    def _join(self) -> None:
        """Be in unison with others from now on, if all its tabs listen to the same."""
        self._alone = False
        if self._trace is not None or len(self.groups) != 1:
            return
        (group,) = self.groups.values()
        unison = self._server.unisons[self.protocol]
        if not unison.admits(group.lane):
            self._alone = True
            return
        part = self._server.app.hub.unite(group, unison).lane
        assert isinstance(part, Part)
        assert self._tls is not None
        self._member = part.add(self, group, self._tls)

    def go_alone(self) -> None:
        """Have a queue of its own again, with what it has not been written in unison."""
        member, self._member = self._member, None
        if member is None:
            return
        self._alone = True
        data, owed = member.leave()
        if data:
            assert not self._pending
            self._pending = data
        try:
            self._server.app.hub.separate(member.group)
            for payload in owed:
                member.group.lane.offer(payload)
        except Exception:
            logger.exception("connection %d of %s failed", self.number, self.peer)
            self.abort()
        if owed or data:
            self.offered()

    # -- out

    def frame(self) -> int:
        """Take what is next to be written; `flush` writes it.  How many bytes that is."""
        wire = self._wire
        if wire is None or self.full is not None or self.aborted:
            return 0
        if not self._pending:
            self._pending = wire.take_output()
        return len(self._pending)

    def flush(self) -> None:
        """Write what there is, as far as the socket takes it."""
        self._offered = False
        wire = self._wire
        if wire is None or self.aborted:
            return
        if self.full is not None:
            # The socket is full; tabs that came to their bound meanwhile are gone all the same.
            if events := wire.take_events():
                self.act(events)
        elif self._write(wire) and not self._noted:
            if self._alone:
                self._join()
            return
        self.go_alone()
        assert self._tls is not None
        waits = self._waits(wire)
        if self._tls.unsent and self.full is None and not self.aborted:
            self.full = FullSocket(self._sock, self._server.limits, self._server.now(), waits)
            self._server.spawn(self, self._drain_socket, wire, self.full)
        if waits != self._noted and not self.aborted:
            self._note(waits)
            self._server.app.ledger.relieve(self._server.limits.total_backlog_bytes)

    def _waits(self, wire: Wire) -> int:
        """Bytes that the socket has not taken."""
        assert self._tls is not None
        return wire.waits + len(self._pending) + len(self._tls.unsent)

    def _note(self, waits: int) -> None:
        if waits != self._noted:
            self._noted = waits
            self._server.app.ledger.note(self, waits)

    def note_bodies(self) -> None:
        """Tell what its unfinished request bodies take now; too much for all is relieved."""
        wire, server = self._wire, self._server
        server.uploads.note(self, wire.body_bytes if wire is not None and not self.aborted else 0)
        server.uploads.relieve(server.limits.total_body_bytes)

    @property
    def body_due(self) -> float:
        """When the first request body that is not whole is to be."""
        return self._wire.body_due if self._wire is not None else math.inf

    def refuse_body(self) -> None:
        """Refuse that one, for it and others take too much."""
        assert self._wire is not None
        try:
            self._wire.refuse_body(OVER_TOTAL)
            self.act(self._wire.take_events())
            self.flush()
            self.note_bodies()
        except Exception:
            logger.exception("connection %d of %s failed", self.number, self.peer)
            self.abort()

    def shed(self, reason: str) -> None:
        """Give up what takes most of the memory: a tab, or, without one, the connection."""
        self.go_alone()
        try:
            wire = self._wire
            if wire is not None and wire.shed(reason):
                self.act(wire.take_events())
                self.flush()
            else:
                self._server.count(reason, self)
                self.abort()
        except Exception:
            logger.exception("connection %d of %s failed", self.number, self.peer)
            self.abort()

    def _wake_reader(self) -> None:
        # It waits for input, which may never come, to see that the wire is closed.
        if not self.aborted:
            trio.lowlevel.notify_closing(self._sock)

    def _write(self, wire: Wire) -> bool:
        """Whether nothing waits any more.  What the socket does not take is left in TLS."""
        budget = FLUSH_BYTES
        if not self._send():
            return False
        while True:
            pending = self._pending or wire.take_output()
            if not pending:
                events = wire.take_events()
                if not events:
                    if wire.closed:
                        self._wake_reader()
                    return wire.idle
                self.act(events)
                continue
            self._pending = b""
            gone = self._send(pending)
            self._server.bytes_sent += len(pending)
            if self._trace is not None:
                self._trace.sent(pending)
            if not gone:
                return False
            if wire.idle:
                return True
            budget -= len(pending)
            if budget <= 0:
                self.offered()
                return False

    def _send(self, data: bytes = b"") -> bool:
        """Whether the socket has taken this, after all before it."""
        tls = self._tls
        assert tls is not None
        try:
            if data:
                tls.seal(data)
            return tls.flush()
        except OSError as error:
            logger.debug("connection %d: %s", self.number, error)
            self.abort()
            return False

    async def _drain_socket(self, wire: Wire, full: FullSocket) -> None:
        """Wait for the socket to drain, and write on."""
        assert self._tls is not None
        try:
            while not self.aborted:
                await trio.lowlevel.wait_writable(self._sock)
                full.moved(self._server.now(), self._waits(wire))
                self._write(wire)
                if not self._tls.unsent:
                    break
        except (OSError, trio.ClosedResourceError) as error:
            logger.debug("connection %d: %s", self.number, error)
            self.abort()
        finally:
            self.full = None
            full.drained.set()
            if not self.aborted:
                self._note(wire.waits)
            if wire.closed:
                self._wake_reader()
