"""Connections to servers, and which request goes over which: everything of the client that waits.

A `Pool` has one HTTP/2 connection to an origin, which all its sources share, and one connection a
source where only HTTP/1.1 is spoken.  An HTTP/2 connection is two tasks, a reader and a writer; a
source costs it a dict entry.  A source whose task is cancelled anywhere in here leaves nothing
behind and harms no other: it waits for events and locks, never in the middle of a write.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from typing import TypeAlias, final

import trio

from h2sse.errors import ConfigError
from h2sse.trace import Tap, Taps
from h2sse.wire import Fields, ProtocolName

from .exchange import Data, Ended, Exchange, Head, Lost, NetworkError, StreamEvent
from .http1 import Http1
from .http2 import Http2
from .limits import ClientLimits
from .source import SourceFailed, Target

__all__ = ["Pool"]

logger = logging.getLogger("h2sse.client")

# What is looked at before others have their turn.
_READ_BYTES = 64 * 1024

_Stream: TypeAlias = trio.SSLStream[trio.SocketStream]

# HTTP/1.1 has no PING.  Probes after 30 s of silence, three of them, 10 s apart.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


# -- HTTP/2


@final
class _Http2Exchange:
    """One stream.  What has arrived waits here for its reader, bounded by the stream's window."""

    __slots__ = ("_arrived", "_connection", "_data", "_end", "_head", "_stream", "_taken", "due")

    def __init__(self, connection: _Connection, stream: int, due: float) -> None:
        self.due = due
        self._connection = connection
        self._stream = stream
        self._head: Head | None = None
        self._data: deque[bytes] = deque()
        self._taken = 0
        self._end: NetworkError | None = None
        self._arrived = trio.Event()

    def feed(self, event: StreamEvent) -> None:
        match event:
            case Head():
                self._head = event
            case Data(data=data):
                self._data.append(data)
            case Ended():
                self._end = NetworkError("the server ended the stream")
            case Lost(reason=reason, unprocessed=unprocessed):
                self._end = NetworkError(reason, unprocessed=unprocessed)
        self._arrived.set()

    async def _wait(self) -> None:
        if self._end is not None:
            raise self._end
        self._arrived = trio.Event()
        await self._arrived.wait()

    async def wait_head(self) -> Head:
        with trio.move_on_at(self.due):
            while self._head is None:
                await self._wait()
        if self._head is None:
            self.cancel()
            raise NetworkError("no response in time")
        return self._head

    async def receive(self) -> bytes:
        self._connection.read(self._stream, self._taken)
        self._taken = 0
        while not self._data:
            await self._wait()
        await trio.lowlevel.checkpoint()
        data = b"".join(self._data)
        self._data.clear()
        self._taken = len(data)
        return data

    def cancel(self) -> None:
        self._connection.cancel(self._stream)


@final
class _Connection:
    """An HTTP/2 connection; `run` is its life."""

    def __init__(self, stream: _Stream, limits: ClientLimits, name: str, trace: Tap | None) -> None:
        self._stream = stream
        self._limits = limits
        self._name = name
        self._trace = trace  # None unless someone listens
        self._wire = Http2(limits, now=trio.current_time())
        self._exchanges: dict[int, _Http2Exchange] = {}
        self._opening = trio.Lock()
        self._room = trio.Event()  # something has changed that may let a request go out
        self._work = trio.Event()  # ... that the writer should look at
        self._written = trio.Event()
        self._read_all = trio.Event()

    @property
    def accepting(self) -> bool:
        """Whether it is of any use to a new source."""
        return self._wire.accepting

    async def open(self, target: Target, fields: Fields) -> _Http2Exchange:
        """Send a request as soon as the server's limit allows it; first come, first served.

        Raises NetworkError if the connection is lost, or takes no more requests, before that.
        """
        wire = self._wire
        async with self._opening:
            while not wire.capacity:
                if not wire.accepting:
                    raise NetworkError("the server takes no more requests", unprocessed=True)
                logger.info("%s: its %d streams are in use", self._name, wire.open_streams)
                self._room = trio.Event()
                await self._room.wait()
            now = trio.current_time()
            stream = wire.open(target.authority, target.path, fields, now)
        exchange = _Http2Exchange(self, stream, now + self._limits.response_seconds)
        self._exchanges[stream] = exchange
        self._work.set()
        return exchange

    def read(self, stream: int, size: int) -> None:
        """Give so much of a stream's window back."""
        if size:
            self._wire.read(stream, size)
            if self._wire.unsent:
                self._work.set()

    def cancel(self, stream: int) -> None:
        """Reset a stream that is still open."""
        if self._exchanges.pop(stream, None) is not None:
            self._wire.cancel(stream, trio.current_time())
            self._room.set()
            self._work.set()

    def close(self) -> None:
        """Say the last word; `run` ends when it has been read, or could not be."""
        self._wire.close()
        self._act(self._wire.lose("the client is closed"))
        self._work.set()

    async def run(self) -> None:
        """Read and write until the end.  Its faults are told to its streams and stay here."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read()
                self._read_all.set()
                self._work.set()
        finally:
            self._act(self._wire.lose("the client is closed"))
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)
            if self._trace is not None:
                self._trace.end()

    async def _read(self) -> None:
        wire = self._wire
        while True:
            try:
                data = await self._stream.receive_some(_READ_BYTES)
                reason = "the server closed the connection"
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                data, reason = b"", _why(error)
            if self._trace is not None:
                self._trace.received(bytes(data))
            if not data:
                self._act(wire.lose(reason))
                return
            self._act(wire.receive(bytes(data), trio.current_time()))
            if wire.unsent or wire.closed:
                self._work.set()
            while wire.unsent > self._limits.unsent_bytes and not wire.closed:
                # It asks (PING, SETTINGS) but does not read our answers.
                self._written = trio.Event()
                await self._written.wait()

    async def _write(self) -> None:
        wire = self._wire
        try:
            while True:
                data = wire.take_output()
                if data:
                    if self._trace is not None:
                        # Before: an answer may be read while `send_all` waits to return.
                        self._trace.sent(data)
                    with trio.fail_after(self._limits.write_seconds):
                        await self._stream.send_all(data)
                elif wire.closed:
                    break
                else:
                    self._written.set()
                    with trio.move_on_at(wire.deadline):
                        await self._work.wait()
                    self._work = trio.Event()
                    self._act(wire.expire(trio.current_time()))
            # Closed at once, what is on its way to us would reset the connection, and what we said
            # last be lost.
            await self._stream.transport_stream.send_eof()
            with trio.move_on_after(self._limits.linger_seconds):
                await self._read_all.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            self._act(wire.lose(_why(error)))
        self._written.set()
        await trio.aclose_forcefully(self._stream)  # wakes the reader

    def _act(self, events: Iterable[StreamEvent]) -> None:
        for event in events:
            exchange = self._exchanges.get(event.stream)
            if exchange is not None:
                exchange.feed(event)
                if isinstance(event, Ended | Lost):
                    del self._exchanges[event.stream]
        self._room.set()


# -- HTTP/1.1


@final
class _Http1Exchange:
    """A connection of one request, read by its source alone: its window is the socket's."""

    def __init__(self, stream: _Stream, limits: ClientLimits, trace: Tap | None) -> None:
        self._stream = stream
        self._trace = trace
        self._wire = Http1(limits)
        self._due = trio.current_time() + limits.response_seconds
        self._write_seconds = limits.write_seconds
        self._events: deque[StreamEvent] = deque()

    async def send(self, target: Target, fields: Fields) -> None:
        """Send the request.  Raises NetworkError."""
        data = self._wire.request(target.authority, target.path, fields)
        if self._trace is not None:
            self._trace.sent(data)
        try:
            with trio.fail_after(self._write_seconds):
                await self._stream.send_all(data)
        except BaseException as error:
            self.cancel()
            if isinstance(error, trio.BrokenResourceError | trio.TooSlowError):
                raise NetworkError(_why(error)) from None
            raise

    async def _next(self) -> StreamEvent:
        while not self._events:
            try:
                data = await self._stream.receive_some(_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise NetworkError(_why(error)) from None
            if self._trace is not None:
                self._trace.received(bytes(data))
            self._events += self._wire.receive(bytes(data))
        return self._events.popleft()

    async def wait_head(self) -> Head:
        with trio.move_on_at(self._due):
            event = await self._next()
            if isinstance(event, Lost):
                self.cancel()
                raise NetworkError(event.reason)
            assert isinstance(event, Head)
            return event
        self.cancel()
        raise NetworkError("no response in time")

    async def receive(self) -> bytes:
        event = await self._next()
        if isinstance(event, Data):
            return event.data
        self.cancel()
        reason = event.reason if isinstance(event, Lost) else "the server ended the stream"
        raise NetworkError(reason)

    def cancel(self) -> None:
        # Without waiting, which a caller in a cancelled task could not: nothing is to be said, and
        # a task that reads is woken.
        transport = self._stream.transport_stream
        trio.lowlevel.notify_closing(transport.socket)
        transport.socket.close()
        if self._trace is not None:
            self._trace.end()


# -- which goes where


@final
@dataclass(slots=True)
class _Origin:
    """What is known of a server."""

    connection: _Connection | None = None
    http1: bool = False  # it chose HTTP/1.1 last
    failures: int = 0
    failure: NetworkError | SourceFailed | None = None
    dialing: trio.Lock = field(default_factory=trio.Lock)


@final
class Pool:
    """Connections by origin, each a task in `nursery`.  `taps`, if given, are told of every byte.

    Raises ConfigError for a bad `ca_file`.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        limits: ClientLimits,
        ca_file: str | PathLike[str] | None,
        *,
        verify: bool,
        taps: Taps | None,
    ) -> None:
        self._nursery = nursery
        self._limits = limits
        self._context = _context(ca_file, verify, "h2", "http/1.1")
        self._http1_context = _context(ca_file, verify, "http/1.1")
        self._taps = taps
        self._tapped = 0
        self._origins: dict[tuple[str, int], _Origin] = {}
        self._connections: set[_Connection] = set()
        self._closed = False
        self._empty = trio.Event()

    async def request(self, target: Target, fields: Fields, *, http1: bool) -> Exchange:
        """Send a request, over a connection there is or a new one.

        Raises NetworkError, and SourceFailed for a certificate that is not to be trusted.
        """
        origin = self._origins.setdefault(target.origin, _Origin())
        found: _Connection | _Stream
        if http1 or origin.http1:
            found = await self._dial(target, http1=http1)
        else:
            found = await self._shared(origin, target)
        if isinstance(found, _Connection):
            return await found.open(target, fields)
        if found.selected_alpn_protocol() == "h2":  # the server has been changed meanwhile
            origin.http1 = False
            return await self._adopt(origin, found, target).open(target, fields)
        exchange = _Http1Exchange(found, self._limits, self._tap(found, target))
        await exchange.send(target, fields)
        return exchange

    async def _shared(self, origin: _Origin, target: Target) -> _Connection | _Stream:
        """The origin's connection: the one there is, or one that all who wait will share."""
        failures = origin.failures
        connection = origin.connection
        if connection is not None and connection.accepting:
            return connection
        async with origin.dialing:
            connection = origin.connection
            if connection is not None and connection.accepting:
                return connection
            if origin.failure is not None and origin.failures != failures:
                # The attempt that we waited for: who waits shares it.
                if isinstance(origin.failure, SourceFailed):
                    raise SourceFailed(target.url, origin.failure.reason)
                raise origin.failure.with_traceback(None)
            if not origin.http1:
                try:
                    stream = await self._dial(target, http1=False)
                except (NetworkError, SourceFailed) as error:
                    origin.failures += 1
                    origin.failure = error
                    raise
                origin.http1 = stream.selected_alpn_protocol() != "h2"
                return stream if origin.http1 else self._adopt(origin, stream, target)
        # It turned out to speak HTTP/1.1 while we waited: each dials for itself.
        return await self._dial(target, http1=False)

    def _adopt(self, origin: _Origin, stream: _Stream, target: Target) -> _Connection:
        if self._closed:  # while we shook hands
            raise trio.ClosedResourceError
        trace = self._tap(stream, target)
        connection = _Connection(stream, self._limits, target.authority, trace)
        origin.connection = connection
        self._connections.add(connection)
        self._nursery.start_soon(self._run, connection)
        return connection

    def _tap(self, stream: _Stream, target: Target) -> Tap | None:
        if self._taps is None:
            return None
        self._tapped += 1
        protocol: ProtocolName = "h2" if stream.selected_alpn_protocol() == "h2" else "http/1.1"
        return self._taps.begin(self._tapped, target.authority, protocol, client=True)

    async def _run(self, connection: _Connection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._empty.set()

    async def _dial(self, target: Target, *, http1: bool) -> _Stream:
        limits = self._limits
        try:
            with trio.fail_after(limits.connect_seconds):
                transport = await trio.open_tcp_stream(target.host, target.port)
        except (OSError, trio.TooSlowError) as error:
            raise NetworkError(f"no connection to {target.authority}: {_why(error)}") from None
        for name, seconds in _KEEPALIVE:
            if hasattr(socket, name):  # Linux
                transport.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        context = self._http1_context if http1 else self._context
        # Servers end with EOF alone, without close_notify, as browsers have them.
        stream = trio.SSLStream(
            transport, context, server_hostname=target.host, https_compatible=True
        )
        try:
            with trio.fail_after(limits.handshake_seconds):
                await stream.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                # Coming back would be futile (HTML 9.2.2), and hide a mistake or an attack.
                reason = f"its certificate is not trusted: {error.__cause__.verify_message}"
                raise SourceFailed(target.url, reason) from None
            if isinstance(error, trio.BrokenResourceError | trio.TooSlowError):
                raise NetworkError(f"no TLS with {target.authority}: {_why(error)}") from None
            raise
        return stream

    async def aclose(self) -> None:
        """Say the last word on every connection and see that it arrives, or cannot."""
        self._closed = True
        for connection in self._connections:
            connection.close()
        while self._connections:
            self._empty = trio.Event()
            await self._empty.wait()


def _context(ca_file: str | PathLike[str] | None, verify: bool, *protocols: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ConfigError(f"ca_file: {ca_file} holds no certificate in PEM form") from None
    except OSError as error:
        raise ConfigError(f"ca_file: cannot read {ca_file}: {error.strerror}") from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    return context


def _why(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return "it took too long"
    return str(error.__cause__ or error) or repr(error)
