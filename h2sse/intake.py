"""What comes in on a connection: it is read from TLS and given to the wire, by turns if it is much.

Most input is little, and is taken in at once.  Input that is longer than a piece, or whose peer has
taken much of the processor of late, takes turns with all others of whom that is true (turns.py); so
does what has TLS decrypt much, or much that is no data.
"""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, final

import trio

from .handshake import was_reset
from .tls_socket import LONG_STEP_BYTES, STEP_BYTES
from .turns import Usage

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from .connection import Connection
    from .server import Server
    from .tls_socket import TlsSocket
    from .wire import Wire, WireEvent

__all__ = ["Intake"]

READ_BYTES = 16 * 1024
# Input is looked at in pieces of so much: 20 of the smallest requests, up to 5 ms...
PIECE_BYTES = 512
# ... for as long as this, and then it is another's turn.
TURN_SECONDS = 0.004
# Of late, to decrypt: some 150 requests a second, or sixteen steps without data.
_MUCH_TO_DECRYPT_SECONDS = 0.01


@final
class Intake:
    """One connection's, once TLS stands.  The connection acts on what its wire says of it."""

    __slots__ = ("_connection", "_decrypting", "_server", "_sock", "_tls", "_usage", "_wire")

    def __init__(
        self,
        connection: Connection,
        server: Server,
        sock: socket.socket,
        tls: TlsSocket,
        wire: Wire,
    ) -> None:
        self._connection = connection
        self._server = server
        self._sock = sock
        self._tls = tls
        self._wire = wire
        self._usage = Usage(server.now())
        # Of that, what TLS used: next to nothing, unless there is much more to decrypt than data.
        self._decrypting = Usage(server.now())

    async def run(self) -> bool:
        """Take in all that comes, until the wire is closed; whether the peer has left.

        Raises `OSError` or `ssl.SSLError` for what is wrong with the socket or TLS, and
        `trio.ClosedResourceError` if the connection is aborted.
        """
        connection, server, tls, wire = self._connection, self._server, self._tls, self._wire
        limits = server.limits
        peer_left = False
        while not wire.closed:
            while (
                connection.full is not None
                and wire.unsent + len(tls.unsent) > limits.unsent_control_bytes
            ):
                await connection.full.drained.wait()  # it asks, but does not read our answers
            try:
                data = await self._receive()
            except ssl.SSLWantReadError:
                if tls.idle_bytes > limits.tls_idle_bytes:
                    server.count("TLS records without data", connection)
                    return False
                if tls.unsent:
                    connection.flush()
                await self._readable()
                continue
            except ssl.SSLEOFError:
                data = b""  # without close_notify: browsers end so
            peer_left = not data
            connection.received(data)
            now, used = server.now(), time.thread_time()
            if data and (len(data) > PIECE_BYTES or server.turns.needed(self._usage, now)):
                await self._take_turns(data, now)
            else:
                events = connection.act(wire.receive(data, now), now + TURN_SECONDS)
                server.turns.without.add(self._taken(used), server.now())
                if events:
                    await self._take_turns(b"", now, events)
            if tls.pending:
                await trio.lowlevel.checkpoint()
            elif data:
                await self._readable()
        return peer_left

    async def _receive(self) -> bytes:
        server = self._server
        if not (self._tls.dear or self._decrypting.over(_MUCH_TO_DECRYPT_SECONDS, server.now())):
            return self._take_step(STEP_BYTES)
        async with server.turns.turn(self._usage, server.now()):
            return self._take_step(LONG_STEP_BYTES)

    def _take_step(self, step: int) -> bytes:
        used = time.thread_time()
        try:
            return self._tls.recv(READ_BYTES, step)
        finally:  # it may be no data that has come, at 2 ms a step
            took, now = time.thread_time() - used, self._server.now()
            self._usage.add(took, now)
            self._decrypting.add(took, now)

    async def _take_turns(self, data: bytes, came: float, events: Sequence[WireEvent] = ()) -> None:
        """Take in much, or what takes long, a turn at a time; first `events` that are left over."""
        connection, server, wire = self._connection, self._server, self._wire
        at = 0
        while events or at < len(data):
            waits = len(data) - at
            async with server.turns.turn(self._usage, server.now(), waits):
                if connection.aborted or was_reset(self._sock):
                    raise trio.ClosedResourceError
                until, used = server.now() + TURN_SECONDS, time.thread_time()
                while True:
                    if not events:
                        events = wire.receive(data[at : at + PIECE_BYTES], came)
                        at += PIECE_BYTES
                    events = connection.act(events, until)
                    if wire.protocol != "h2":
                        # Here an early request is answered when the one before it is written:
                        # those of many pieces, all at once, would take a second.
                        connection.flush()
                    if not (events or at < len(data)) or server.now() > until:
                        break
                self._taken(used)

    def _taken(self, used: float) -> float:
        """Input has been taken in since the thread had `used` so much; how much more it has now."""
        self._connection.flush()
        self._connection.note_bodies()
        took = time.thread_time() - used
        self._usage.add(took, self._server.now())
        return took

    async def _readable(self) -> None:
        if self._connection.aborted:
            raise trio.ClosedResourceError  # writing has found it broken
        try:
            if not self._wire.closed:
                await trio.lowlevel.wait_readable(self._sock)
        except trio.ClosedResourceError:
            if not self._wire.closed:
                raise
