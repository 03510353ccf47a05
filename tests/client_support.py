"""What the client's tests share: servers that do as the test says, and a reader that keeps all.

`scripted` listens on 127.0.0.1 with real TLS and hands each connection to the test: a `Peer` that
speaks HTTP/2, or a `Peer1` that speaks HTTP/1.1.  Neither keeps a rule of its own, and neither
answers anything by itself but the client's SETTINGS.

A `Reader` reads one source in a task and keeps what it sees:

    async with scripted() as server:
        reader = Reader(server.source("/events"))
        nursery.start_soon(reader.run)
        peer = await server.accept()
        asked = await peer.asked()
        await peer.answer(asked, body=b"data: x\\n\\n")
        await reader.heard("x")

These tests run on `jumping_clock`: whatever waits in vain fails at `PATIENCE_SECONDS` of its time.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import final

import hpack
import trio
from support import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Frame,
    _split,
    certificates,
    frame,
    settings_frame,
)

from h2sse import Message
from h2sse.client import Client, ClientLimits, EventSource, SourceFailed
from h2sse.tls import development_certificate

__all__ = ["OK", "PATIENCE_SECONDS", "Asked", "Peer", "Peer1", "Reader", "Scripted", "scripted"]

# Of the jumping clock; above every deadline of the client.
PATIENCE_SECONDS = 100_000

OK = (("content-type", "text/event-stream"),)

PRIORITY_FLAG = 0x20

Field = tuple[str, str]
_Stream = trio.SSLStream[trio.SocketStream]


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has come: its stream, and its fields as they stood on the wire."""

    stream: int
    fields: list[tuple[bytes, bytes]]
    ended: bool
    at: float

    def __getitem__(self, name: str) -> bytes:
        (value,) = [value for each, value in self.fields if each == name.encode()]
        return value

    def __contains__(self, name: str) -> bool:
        return any(each == name.encode() for each, _ in self.fields)


@final
class Peer:
    """The server's end of an HTTP/2 connection."""

    def __init__(self, stream: _Stream) -> None:
        self.transport = stream
        self.frames: list[Frame] = []
        self.at_end = False
        self.requests: list[Asked] = []
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._received = bytearray()
        self._preface = False
        self._seen = 0

    async def start(self, settings: dict[int, int] | None) -> None:
        if settings is not None:
            await self.send(settings_frame(settings))

    async def send(self, *pieces: bytes) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            await self.transport.send_all(b"".join(pieces))

    async def read_until(self, done: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            while not done():
                assert not self.at_end, self.frames[-3:]
                await self._read()

    async def _read(self) -> None:
        try:
            data = await self.transport.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self.at_end = True
        self._received += data
        if not self._preface and len(self._received) >= len(PREFACE):
            assert self._received.startswith(PREFACE)
            del self._received[: len(PREFACE)]
            self._preface = True
        for each in _split(self._received) if self._preface else ():
            self.frames.append(each)
            if each.kind == HEADERS:
                # Browsers put a priority of five bytes before the fields (RFC 9113 6.2).
                block = each.payload[5:] if each.flags & PRIORITY_FLAG else each.payload
                fields = list(self._decoder.decode(block, raw=True))
                now = trio.current_time()
                self.requests.append(Asked(each.stream, fields, each.ends, now))  # type: ignore[arg-type]  # raw
            elif each.kind == SETTINGS and not each.is_ack:
                await self.send(frame(SETTINGS, ACK, 0))

    async def asked(self) -> Asked:
        """The next request."""
        await self.read_until(lambda: len(self.requests) > self._seen)
        self._seen += 1
        return self.requests[self._seen - 1]

    async def frame(self, kind: int, *, ack: bool = False) -> Frame:
        """The first frame of a kind that has come or comes."""
        await self.read_until(lambda: any(self._of(kind, ack)))
        return self._of(kind, ack)[0]

    def _of(self, kind: int, ack: bool) -> list[Frame]:
        return [each for each in self.frames if each.kind == kind and each.is_ack == ack]

    async def reset_of(self, asked: Asked) -> int:
        """The code with which the client resets a stream."""

        def found() -> list[Frame]:
            return [f for f in self.frames if f.kind == RST_STREAM and f.stream == asked.stream]

        await self.read_until(found)
        return found()[0].code

    async def closed(self) -> None:
        """Read until the client has closed the connection."""
        await self.read_until(lambda: self.at_end)

    def head(
        self, asked: Asked, status: int | str = 200, fields: tuple[Field, ...] = OK, flags: int = 0
    ) -> bytes:
        """A header section."""
        return self.section(asked, (":status", str(status)), *fields, flags=flags)

    def section(self, asked: Asked, *fields: Field, flags: int = 0) -> bytes:
        """Any HEADERS frame."""
        raw = [(name.encode(), value.encode()) for name, value in fields]
        block = self._encoder.encode(raw)
        return frame(HEADERS, END_HEADERS | flags, asked.stream, block)

    async def answer(
        self,
        asked: Asked,
        status: int = 200,
        fields: tuple[Field, ...] = OK,
        body: bytes = b"",
        *,
        ends: bool = False,
    ) -> None:
        """A response, in one write; it stays open unless `ends`."""
        pieces = [self.head(asked, status, fields, END_STREAM if ends and not body else 0)]
        if body:
            pieces.append(frame(DATA, END_STREAM if ends else 0, asked.stream, body))
        await self.send(*pieces)

    async def data(self, asked: Asked, body: bytes, *, ends: bool = False) -> None:
        """More of the body."""
        await self.send(frame(DATA, END_STREAM if ends else 0, asked.stream, body))

    async def goaway(self, last: int, code: int = 0) -> None:
        await self.send(frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big")))

    async def kill(self) -> None:
        """Close the connection without a word."""
        await trio.aclose_forcefully(self.transport)


@final
class Peer1:
    """The server's end of an HTTP/1.1 connection."""

    def __init__(self, stream: _Stream) -> None:
        self.transport = stream

    async def asked(self) -> dict[str, bytes]:
        """The request's fields, and its request line as ""."""
        data = b""
        with trio.fail_after(PATIENCE_SECONDS):
            while not data.endswith(b"\r\n\r\n"):
                more = await self.transport.receive_some(65536)
                assert more, data
                data += more
        line, *lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
        pairs = [each.split(b": ", 1) for each in lines]
        fields = {name.decode().lower(): value for name, value in pairs}
        assert len(fields) == len(pairs), "no field twice"
        return {"": line, **fields}

    async def send(self, data: bytes) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            await self.transport.send_all(data)

    async def closed(self) -> None:
        """Wait until the client has closed the connection."""
        with trio.fail_after(PATIENCE_SECONDS):
            with suppress(trio.BrokenResourceError):
                assert await self.transport.receive_some(1) == b""

    async def kill(self) -> None:
        """Close the connection without a word."""
        await trio.aclose_forcefully(self.transport)


@final
class Reader:
    """Reads a source in a task of its own and keeps what it sees."""

    def __init__(self, source: EventSource, *, count: int | None = None) -> None:
        self.source = source
        self.messages: list[Message] = []
        self.failure: SourceFailed | None = None
        self.over = False
        self.count = count  # stop asking after so many, with the source open
        self.more = trio.Event()
        self._changed = trio.Event()

    @property
    def data(self) -> list[str]:
        return [message.data for message in self.messages]

    async def run(self) -> None:
        async with self.source:
            try:
                async for message in self.source:
                    self.messages.append(message)
                    self._changed.set()
                    if len(self.messages) == self.count:
                        await self.more.wait()
            except SourceFailed as error:
                self.failure = error
        self.over = True
        self._changed.set()

    async def until(self, done: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            while not done():
                self._changed = trio.Event()
                await self._changed.wait()

    async def heard(self, *data: str) -> None:
        """Wait for as many messages; all so far are these."""
        await self.until(lambda: len(self.messages) >= len(data))
        assert self.data == list(data)

    async def end(self) -> SourceFailed | None:
        """Wait for the end of the iteration; its failure, if it was one."""
        await self.until(lambda: self.over)
        return self.failure


@final
@dataclass(slots=True)
class Scripted:
    """A listener whose connections the test answers."""

    port: int
    settings: dict[int, int] | None
    accepted: int = 0
    _waiting: list[_Stream] = field(default_factory=list)
    _arrived: trio.Event = field(default_factory=trio.Event)

    def url(self, path: str = "/events") -> str:
        return f"https://127.0.0.1:{self.port}{path}"

    def source(
        self,
        path: str = "/events",
        *,
        limits: ClientLimits | None = None,
        headers: tuple[Field, ...] = (),
        last_event_id: str = "",
        http1: bool = False,
    ) -> EventSource:
        return EventSource(
            self.url(path),
            ca_file=development_certificate(certificates()).ca,
            limits=limits,
            headers=headers,
            last_event_id=last_event_id,
            http1=http1,
        )

    def client(self, *, limits: ClientLimits | None = None) -> Client:
        return Client(ca_file=development_certificate(certificates()).ca, limits=limits)

    async def stream(self) -> _Stream:
        """The next connection, its handshake done."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not self._waiting:
                self._arrived = trio.Event()
                await self._arrived.wait()
        return self._waiting.pop(0)

    async def accept(self) -> Peer:
        """The next connection; it speaks HTTP/2 and has been sent our SETTINGS."""
        stream = await self.stream()
        assert stream.selected_alpn_protocol() == "h2"
        peer = Peer(stream)
        await peer.start(self.settings)
        return peer

    async def accept1(self) -> Peer1:
        """The next connection; it speaks HTTP/1.1."""
        stream = await self.stream()
        assert stream.selected_alpn_protocol() in ("http/1.1", None)
        return Peer1(stream)

    async def _take(self, transport: trio.SocketStream, context: ssl.SSLContext) -> None:
        stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client does not trust us
        self.accepted += 1
        self._waiting.append(stream)
        self._arrived.set()
        await trio.sleep_forever()  # the test closes it, or the end of the block


@asynccontextmanager
async def scripted(
    *protocols: str, port: int = 0, settings: dict[int, int] | None = None
) -> AsyncIterator[Scripted]:
    """A listener; a failure in the block comes out as it is, not in an exception group."""
    certificate = development_certificate(certificates())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    context.set_alpn_protocols(protocols or ("h2", "http/1.1"))
    failure: BaseException | None = None
    (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    server = Scripted(listener.socket.getsockname()[1], settings if settings is not None else {})
    async with trio.open_nursery() as nursery:

        async def take(transport: trio.SocketStream) -> None:
            await server._take(transport, context)

        nursery.start_soon(trio.serve_listeners, take, [listener])
        try:
            yield server
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
