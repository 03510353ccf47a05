"""What tests over real sockets share: a server in the test's own loop, a client without manners.

`serving` runs `h2sse.serve` on a free port of 127.0.0.1 behind the development certificate.
`RawClient` speaks HTTP/2 to it over verified TLS.  It writes any bytes, keeps no rule of its own,
and shows the frames that come back; what the server may *never* do, whatever it is sent, is
asserted on every frame (`RawClient._check`), so each test that uses it also tests that:

    async with serving(app) as served, served.client(settings={INITIAL_WINDOW_SIZE: 0}) as client:
        stream = await client.open_stream("/events?topic=a", ("last-event-id", "7"))
        await client.answered(stream)
        await client.send(window_update(stream.id, 10), ping(b"any time"))

Whatever waits for the server fails after `PATIENCE_SECONDS`, or a client's own `patience_seconds`.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import shutil
import socket
import ssl
import struct
import tempfile
import termios
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack, cast, final

import hpack
import trio

import h2sse
from h2sse.server import Server
from h2sse.tls import development_certificate

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "DEFAULT_WINDOW",
    "ENABLE_PUSH",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HEADERS",
    "HEADER_TABLE_SIZE",
    "INITIAL_WINDOW_SIZE",
    "MAX_CONCURRENT_STREAMS",
    "MAX_FRAME_SIZE",
    "MAX_WINDOW",
    "PATIENCE_SECONDS",
    "PING",
    "PREFACE",
    "PRIORITY",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "ConnectionLost",
    "Frame",
    "RawClient",
    "Served",
    "Stream",
    "certificates",
    "frame",
    "ping",
    "reset",
    "serving",
    "settings_frame",
    "waiting",
    "window_update",
]

# Far above what anything on loopback takes, so that only a fault runs into it.
PATIENCE_SECONDS = 5.0

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# RFC 9113 6.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8

# RFC 9113 6.5.2.
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5

DEFAULT_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1

_HTTP_1_1_REQUIRED = 13
_HEAD_BYTES = 9
_READ_BYTES = 64 * 1024
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


# -- frames


@final
@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it stood on the wire."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def is_ack(self) -> bool:
        """A SETTINGS or PING frame that answers ours."""
        return self.kind in (SETTINGS, PING) and bool(self.flags & ACK)

    @property
    def ends(self) -> bool:
        """DATA or HEADERS with END_STREAM."""
        return self.kind in (DATA, HEADERS) and bool(self.flags & END_STREAM)

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        assert self.kind in (RST_STREAM, GOAWAY)
        at = 4 if self.kind == GOAWAY else 0
        return int.from_bytes(self.payload[at : at + 4], "big")

    @property
    def last_stream(self) -> int:
        """The last stream id of GOAWAY."""
        assert self.kind == GOAWAY
        return int.from_bytes(self.payload[:4], "big")

    @property
    def settings(self) -> dict[int, int]:
        """The entries of SETTINGS."""
        assert self.kind == SETTINGS
        pieces = (self.payload[at : at + 6] for at in range(0, len(self.payload), 6))
        return {int.from_bytes(p[:2], "big"): int.from_bytes(p[2:], "big") for p in pieces}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Any frame, true to the RFC or not."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def settings_frame(settings: Mapping[int, int]) -> bytes:
    """SETTINGS."""
    pairs = (name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in settings.items())
    return frame(SETTINGS, 0, 0, b"".join(pairs))


def window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE of a stream, or of the connection (0)."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def ping(data: bytes) -> bytes:
    """PING with eight bytes."""
    return frame(PING, 0, 0, data)


def reset(stream: int, code: int = 8) -> bytes:
    """RST_STREAM, by default with CANCEL, as `EventSource.close()` sends it."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def _split(buffer: bytearray) -> list[Frame]:
    """Take the whole frames off the front."""
    frames = []
    while len(buffer) >= _HEAD_BYTES:
        end = _HEAD_BYTES + int.from_bytes(buffer[:3], "big")
        if len(buffer) < end:
            break
        stream = int.from_bytes(buffer[5:9], "big")
        frames.append(Frame(buffer[3], buffer[4], stream, bytes(buffer[_HEAD_BYTES:end])))
        del buffer[:end]
    return frames


# -- the server


@functools.cache
def certificates() -> Path:
    """The directory of one development certificate for the whole test run."""
    directory = tempfile.mkdtemp(prefix="h2sse-test-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def waiting(sock: socket.socket) -> int:
    """Bytes that can be read."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))
    assert isinstance(count, int)
    return count


class _Settings(TypedDict, total=False):
    host: str
    http1: bool
    cors_origins: tuple[str, ...]
    heartbeat_seconds: float
    retry_ms: int
    retry_spread: float
    limits: h2sse.Limits


@final
@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs, and ways to reach it."""

    app: h2sse.App
    listening: h2sse.Listening
    ca: Path

    @property
    def server(self) -> Server:
        """The server behind it, for its `statistics()`."""
        return cast("Server", self.app.servers[-1])

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.listening.addresses[0]

    def context(self, *protocols: str) -> ssl.SSLContext:
        """A client's TLS context that trusts the development CA and offers these by ALPN."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if protocols:
            context.set_alpn_protocols(protocols)
        return context

    async def secure(self, *protocols: str) -> trio.SSLStream[trio.SocketStream]:
        """A TLS connection, its handshake done and its certificate verified."""
        host, port = self.address
        with trio.fail_after(PATIENCE_SECONDS):
            stream = await trio.open_ssl_over_tcp_stream(
                host, port, https_compatible=True, ssl_context=self.context(*protocols)
            )
            try:
                await stream.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        return stream

    @asynccontextmanager
    async def client(
        self, *, settings: Mapping[int, int] | None = None, hello: bytes | None = None
    ) -> AsyncIterator[RawClient]:
        """A connected client that has sent its preface: with `settings`, or just `hello`."""
        stream = await self.secure("h2")
        try:
            assert stream.selected_alpn_protocol() == "h2"
            client = RawClient(stream, f"{self.address[0]}:{self.address[1]}")
            await client.send(PREFACE + settings_frame(settings or {}) if hello is None else hello)
            yield client
        finally:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def serving(app: h2sse.App, **settings: Unpack[_Settings]) -> AsyncIterator[Served]:
    """Serve `app` while the block runs; `settings` are those of `h2sse.Config`.

    A failure in the block comes out as it is, not in an exception group.
    """
    tls = h2sse.Tls(directory=certificates())
    # A numeric host: its look-up needs no thread, so that an autojump clock sees all waiting.
    config = h2sse.Config(**({"host": "127.0.0.1"} | settings), port=0, tls=tls)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        listening: h2sse.Listening = await nursery.start(h2sse.serve, app, config)
        ca = development_certificate(tls.directory).ca
        try:
            yield Served(app, listening, ca)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


# -- the client


class ConnectionLost(AssertionError):
    """The server closed the connection while a test waited for something else."""


@final
@dataclass(slots=True, eq=False)
class Stream:
    """What has come on one stream so far."""

    id: int
    sections: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False  # by END_STREAM
    reset: int | None = None  # by RST_STREAM, with this code
    window: int = 0  # what the server may still send; kept by the client
    # The body read as an event stream.
    messages: list[h2sse.Message] = field(default_factory=list)
    parser: h2sse.Parser = field(default_factory=h2sse.Parser)

    @property
    def over(self) -> bool:
        """Ended or reset: nothing more may come."""
        return self.ended or self.reset is not None

    @property
    def status(self) -> int | None:
        """The status of the response, None before it."""
        return int(dict(self.sections[-1])[b":status"]) if self.sections else None

    @property
    def fields(self) -> dict[str, str]:
        """The response's fields, repeated ones joined by ", "."""
        joined: dict[str, str] = {}
        for name, value in self.sections[-1]:
            if not name.startswith(b":"):
                text = value.decode()
                key = name.decode()
                joined[key] = f"{joined[key]}, {text}" if key in joined else text
        return joined

    @property
    def data_frames(self) -> list[Frame]:
        """The DATA frames, in order."""
        return [each for each in self.frames if each.kind == DATA]

    @property
    def data(self) -> list[str]:
        """The data of each event so far."""
        return [message.data for message in self.messages]


@final
class RawClient:
    """An HTTP/2 connection that sends anything; see the module's docstring.

    `frames` holds all that came, `streams` the same by stream, `window` what the server may still
    send on the connection.  It gives no window back by itself.
    """

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], authority: str) -> None:
        self.transport = stream
        self.authority = authority
        self.frames: list[Frame] = []
        self.streams: dict[int, Stream] = {}
        self.window = DEFAULT_WINDOW
        self.at_end = False
        self.next_stream = 1
        self.patience_seconds = PATIENCE_SECONDS
        self._encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self._received = bytearray()
        self._sent = bytearray()
        self._preface_left = len(PREFACE)
        self._initial_window = DEFAULT_WINDOW
        self._max_frame_size = 16_384
        self._unacknowledged: list[Frame] = []
        self._barriers = 0

    # -- out

    async def send(self, *pieces: bytes) -> None:
        """Write bytes, in one TLS record if they fit."""
        data = b"".join(pieces)
        self._note(data)
        with trio.fail_after(self.patience_seconds):
            await self.transport.send_all(data)

    def encode(self, *fields: tuple[str, str] | tuple[str, bytes]) -> bytes:
        """A header block; values may be any bytes."""
        raw = [
            (name.encode(), value if isinstance(value, bytes) else value.encode())
            for name, value in fields
        ]
        return bytes(self._encoder.encode(raw))

    def request(
        self,
        path: str,
        *fields: tuple[str, str] | tuple[str, bytes],
        method: str = "GET",
        body: bytes | None = None,
    ) -> tuple[Stream, bytes]:
        """The next stream, and the bytes that would open it."""
        stream = Stream(self.next_stream)
        self.next_stream += 2
        block = self.encode(
            (":method", method),
            (":scheme", "https"),
            (":authority", self.authority),
            (":path", path),
            *fields,
        )
        flags = END_HEADERS | (END_STREAM if body is None else 0)
        data = frame(HEADERS, flags, stream.id, block)
        if body is not None:
            data += frame(DATA, END_STREAM, stream.id, body)
        self.watch(stream)
        return stream, data

    def watch(self, stream: Stream) -> Stream:
        """Keep account of a stream that is opened by hand."""
        stream.window = self._initial_window
        self.streams[stream.id] = stream
        self.next_stream = max(self.next_stream, stream.id + 2)
        return stream

    async def open_stream(
        self,
        path: str,
        *fields: tuple[str, str] | tuple[str, bytes],
        method: str = "GET",
        body: bytes | None = None,
    ) -> Stream:
        """Send a request."""
        stream, data = self.request(path, *fields, method=method, body=body)
        await self.send(data)
        return stream

    async def fetch(
        self,
        path: str,
        *fields: tuple[str, str] | tuple[str, bytes],
        method: str = "GET",
        body: bytes | None = None,
    ) -> Stream:
        """Send a request and read until its stream is over."""
        stream = await self.open_stream(path, *fields, method=method, body=body)
        await self.over(stream)
        return stream

    async def listen(self, path: str, *fields: tuple[str, str] | tuple[str, bytes]) -> Stream:
        """Open an event stream and read until its first bytes are here."""
        stream = await self.open_stream(path, *fields)
        await self.read_until(lambda: bool(stream.body) or stream.over)
        assert stream.status == 200, stream
        assert not stream.over, stream
        return stream

    # -- in

    async def read_until(self, done: Callable[[], object]) -> list[Frame]:
        """Read frames until `done()`, which may be at once; those read meanwhile."""
        read: list[Frame] = []
        with trio.fail_after(self.patience_seconds):
            while not done():
                if self.at_end:
                    raise ConnectionLost(f"the last frames were {self.frames[-3:]}")
                read += await self._read()
        return read

    async def answered(self, *streams: Stream) -> None:
        """Read until each has the fields of its response."""
        await self.read_until(lambda: all(each.sections for each in streams))

    async def begun(self, *streams: Stream) -> None:
        """Read until each has some of its body."""
        await self.read_until(lambda: all(each.body for each in streams))

    async def heard(self, count: int, *streams: Stream) -> None:
        """Read until each has so many events."""
        await self.read_until(lambda: all(len(each.messages) >= count for each in streams))

    async def over(self, *streams: Stream) -> None:
        """Read until each has been ended or reset."""
        await self.read_until(lambda: all(each.over for each in streams))

    async def read_frame(self, kind: int, *, ack: bool = False) -> Frame:
        """Read until a frame of this kind comes; an acknowledgement only if `ack`."""
        found: list[Frame] = []
        start = len(self.frames)

        def seen() -> bool:
            found[:] = [
                each for each in self.frames[start:] if each.kind == kind and each.is_ack == ack
            ]
            return bool(found)

        await self.read_until(seen)
        return found[0]

    async def read_to_end(self) -> list[Frame]:
        """Read until the server has closed the connection."""
        return await self.read_until(lambda: self.at_end)

    async def settle(self) -> None:
        """Read all that the server has to say now.

        A PING's answer goes ahead of DATA, so it takes a second one to be sure of the DATA that
        could go out with the first answer.
        """
        for _ in range(2):
            self._barriers += 1
            data = b"wait" + self._barriers.to_bytes(4, "big")
            await self.send(ping(data))
            await self.read_until(functools.partial(self._answered, data))

    def _answered(self, data: bytes) -> bool:
        return any(each.kind == PING and each.payload == data for each in reversed(self.frames))

    async def _read(self) -> list[Frame]:
        try:
            data = await self.transport.receive_some(_READ_BYTES)
        except trio.BrokenResourceError:
            data = b""  # without close_notify, or reset
        if not data:
            self.at_end = True
            return []
        self._received += data
        frames = _split(self._received)
        for each in frames:
            self._check(each)
            self.frames.append(each)
        return frames

    # -- accounts

    def _note(self, data: bytes) -> None:
        """What we send changes what the server may send."""
        skip = min(self._preface_left, len(data))
        self._preface_left -= skip
        self._sent += data[skip:]
        for each in _split(self._sent):
            if each.kind == SETTINGS and not each.flags & ACK:
                self._unacknowledged.append(each)
            elif each.kind == WINDOW_UPDATE and len(each.payload) == 4:
                increment = int.from_bytes(each.payload, "big")
                if not each.stream:
                    self.window += increment
                elif each.stream in self.streams:
                    self.streams[each.stream].window += increment

    def _check(self, each: Frame) -> None:
        """Assert what holds for every frame of a server; keep the accounts."""
        if not self.frames:
            assert each.kind == SETTINGS, "B56: the first frame is SETTINGS"
            assert not each.flags & ACK, "B56: the first frame is SETTINGS"
        stream = self.streams.get(each.stream)
        match each.kind:
            case 0:
                assert stream is not None, each
                self._check_data(each, stream)
            case 1:
                assert stream is not None, each
                assert each.flags & END_HEADERS, "no section of ours needs CONTINUATION"
                assert not stream.ended, "HEADERS after END_STREAM"
                fields = cast(
                    "list[tuple[bytes, bytes]]", list(self.decoder.decode(each.payload, raw=True))
                )
                _check_section(fields)
                stream.sections.append(fields)
            case 3:
                assert each.code != _HTTP_1_1_REQUIRED, "B71: Chromium then leaves HTTP/2"
                if stream is not None:
                    stream.reset = each.code
            case 4 if each.flags & ACK:
                self._acknowledged(self._unacknowledged.pop(0))
            case 5:
                raise AssertionError("B88: no PUSH_PROMISE")
            case 7:
                assert each.code != _HTTP_1_1_REQUIRED, "B71: Chromium then leaves HTTP/2"
            case _:
                pass
        if stream is not None:
            stream.frames.append(each)
            stream.ended = stream.ended or each.ends

    def _check_data(self, each: Frame, stream: Stream) -> None:
        size = len(each.payload)
        assert not each.flags & PADDED, "we never pad"
        assert not stream.ended, "DATA after END_STREAM"
        assert stream.sections, "DATA before HEADERS"
        assert size <= self._max_frame_size, "B78: SETTINGS_MAX_FRAME_SIZE"
        if size:
            assert size <= stream.window, f"B72: {size} bytes into a window of {stream.window}"
            assert size <= self.window, f"B72: {size} bytes into a window of {self.window}"
        stream.window -= size
        self.window -= size
        stream.body += each.payload
        stream.messages += stream.parser.feed(each.payload)

    def _acknowledged(self, sent: Frame) -> None:
        # What follows the acknowledgement was framed under these settings (RFC 9113 6.5.3).
        initial = sent.settings.get(INITIAL_WINDOW_SIZE, self._initial_window)
        for stream in self.streams.values():
            stream.window += initial - self._initial_window
        self._initial_window = initial
        self._max_frame_size = sent.settings.get(MAX_FRAME_SIZE, self._max_frame_size)
        if HEADER_TABLE_SIZE in sent.settings:
            self.decoder.max_allowed_table_size = sent.settings[HEADER_TABLE_SIZE]


def _check_section(fields: list[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in fields]
    assert names[0] == b":status", "B57: :status comes first"
    assert not any(name.startswith(b":") for name in names[1:]), "B57: one :status"
    assert len(fields[0][1]) == 3, "B57: three digits"
    assert fields[0][1].isdigit(), "B57: three digits"
    for name, value in fields:
        assert name == name.lower(), "B58: names in lower case"
        assert name not in _CONNECTION_SPECIFIC, "B59: no connection-specific fields"
        assert not set(value) & set(b"\r\n\0"), "RFC 9113 8.2.1"
        assert value == value.strip(b" \t"), "RFC 9113 8.2.1"
