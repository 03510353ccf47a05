"""A connection of the prober: it sends any frame, keeps few rules, and remembers all that comes.

There is no task behind it: frames are read while a check waits for something (`until`, `watch`),
and only then.  What every client owes is done meanwhile: SETTINGS and PING are acknowledged, and
streams are given their windows back, unless a check keeps a window to itself (`Stream.held`).

Whatever the peer sends ends in `Lost` at worst, never in another exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

import hpack
import trio
from hpack.exceptions import HPACKError

from h2sse.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEAD_BYTES,
    HEADERS,
    MAX_STREAM,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    reset_frame,
)
from h2sse.wire import Fields

from .reading import Reading
from .verdict import Lost, Silent

__all__ = [
    "CANCEL",
    "INITIAL_WINDOW_SIZE",
    "MAX_CONCURRENT_STREAMS",
    "REFUSED_STREAM",
    "Connection",
    "Ending",
    "Stream",
    "Tls",
    "code_name",
    "frame",
    "settings_frame",
    "window_update",
]

Tls: TypeAlias = trio.SSLStream[trio.SocketStream]

# RFC 9113 6.5.2 and 7.
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
PROTOCOL_ERROR: Final = 1
REFUSED_STREAM: Final = 7
CANCEL: Final = 8

_PUSH_PROMISE: Final = 5
_PADDED: Final = 8
_HAS_PRIORITY: Final = 32

_CODES: Final = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT"),
    *("STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR"),
    *("CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)

_DEFAULT_WINDOW: Final = 65_535
# What a stream may be ahead of us; far above any event.
_STREAM_WINDOW: Final = 1024 * 1024
# All streams of a connection together; 100 streams and an event of some 100 KiB in each.
_CONNECTION_WINDOW: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 64 * 1024
# Frames that are larger than we allow are looked at, up to here.
_LARGEST_FRAME: Final = 1024 * 1024
_HEADER_LIST_BYTES: Final = 64 * 1024


def code_name(code: int) -> str:
    """An error code as RFC 9113 7 names it."""
    return _CODES[code] if code < len(_CODES) else f"code {code}"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Any frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def settings_frame(settings: Mapping[int, int]) -> bytes:
    """SETTINGS."""
    pairs = (name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in settings.items())
    return frame(SETTINGS, 0, 0, b"".join(pairs))


def window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE of a stream, or of the connection (0)."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


@final
@dataclass(frozen=True, slots=True)
class Ending:
    """An event stream that the server ended: with END_STREAM, or with RST_STREAM and a code."""

    code: int | None


@final
@dataclass(slots=True, eq=False)
class Stream:
    """What has come on one stream so far."""

    id: int
    opened_at: float
    window: int
    method: str = "GET"
    sections: list[Fields] = field(default_factory=list)
    answered_at: float | None = None
    body: Reading = field(default_factory=Reading)
    raw: bytearray = field(default_factory=bytearray)  # the body's beginning
    largest_frame: int = 0
    ended: bool = False
    reset: int | None = None
    cancelled: bool = False
    held: bool = False  # its window is the check's business

    @property
    def fields(self) -> Fields:
        """The response's, pseudo-header fields too; () before it."""
        for section in self.sections:
            if dict(section).get(b":status", b"")[:1] != b"1":
                return section
        return ()

    @property
    def status(self) -> int:
        """0 before the response, or if it has none that could be read."""
        value = dict(self.fields).get(b":status", b"")
        return int(value) if value.isdigit() else 0

    def values(self, name: str) -> list[str]:
        """The values of a field, whatever the case of its name."""
        wanted = name.encode()
        return [v.decode("utf-8", "replace") for n, v in self.fields if n.lower() == wanted]

    @property
    def is_event_stream(self) -> bool:
        kind = ",".join(self.values("content-type")).rpartition(",")[2]
        return self.status == 200 and kind.partition(";")[0].strip().lower() == "text/event-stream"

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def answered(self) -> bool:
        """Nothing more is to be waited for if one waits for its head."""
        return bool(self.fields) or self.over

    def __str__(self) -> str:
        if self.reset is not None and not self.fields:
            return f"RST_STREAM with {code_name(self.reset)}"
        return f"status {self.status}" if self.fields else "no answer"


@final
class Connection:
    """An HTTP/2 connection; `spend` is told of every frame that is sent, and may raise."""

    def __init__(
        self,
        transport: Tls,
        *,
        authority: str,
        patience: float,
        spend: Callable[[int], None],
        note: Callable[[Ending], None],
    ) -> None:
        self.transport = transport
        self.authority = authority
        self.patience = patience
        self.streams: dict[int, Stream] = {}
        self.settings: dict[int, int] = {}  # the server's
        self.first: tuple[int, int] | None = None  # type and flags of the server's first frame
        self.settings_acks = 0
        self.pushed = False
        self.goaway: tuple[int, int] | None = None  # last stream, code
        self.overruns: list[str] = []  # what was sent past a window
        self.next_stream = 1
        self._spend = spend
        self._note = note
        self._pongs: set[bytes] = set()
        self._pings = 0
        self._window = _DEFAULT_WINDOW
        self._initial_window = _DEFAULT_WINDOW
        self._unacknowledged: list[Mapping[int, int]] = []
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder(max_header_list_size=_HEADER_LIST_BYTES)
        self._received = bytearray()
        self._block: tuple[int, bool, bytearray] | None = None
        self._gone: str | None = None

    # -- out

    async def start(self, settings: Mapping[int, int] | None = None, hello: bytes = b"") -> None:
        """Send the preface: with these settings above ours, or, if given, as `hello` has it.

        `hello` may open windows as far as it likes, and the header table to 65,536 bytes.
        """
        sent = {ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: _STREAM_WINDOW} | dict(settings or {})
        self._unacknowledged.append(sent)
        if hello:
            self._window = 2**31 - 1
            self._initial_window = 2**31 - 1
            self._unacknowledged[0] = {}
            self._decoder.max_allowed_table_size = 65_536
            await self.send(PREFACE + hello)
            return
        increment = _CONNECTION_WINDOW - _DEFAULT_WINDOW
        self._window += increment
        await self.send(PREFACE + settings_frame(sent), window_update(0, increment))

    async def send(self, *frames: bytes) -> None:
        """Write frames, each given by itself, in one piece."""
        if self._gone is not None:
            raise Lost(self._gone)
        self._spend(len(frames))
        try:
            with trio.fail_after(self.patience):
                await self.transport.send_all(b"".join(frames))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # What it said last tells more than that it is gone.
            await self._drain()
            raise Lost(self._why("the connection was closed")) from None
        except trio.TooSlowError:
            self._gone = f"nothing was read of what we sent, for {self.patience:g} s"
            raise Lost(self._gone) from None

    async def change(self, settings: Mapping[int, int]) -> None:
        """Send SETTINGS and wait for the acknowledgement."""
        self._unacknowledged.append(settings)
        wanted = self.settings_acks + len(self._unacknowledged)
        await self.send(settings_frame(settings))
        await self.until(lambda: self.settings_acks >= wanted, "acknowledgement of SETTINGS")

    def encode(self, *fields: tuple[str, str | bytes]) -> bytes:
        """A header block; values may be any bytes."""
        raw = [(n.encode(), v if isinstance(v, bytes) else v.encode()) for n, v in fields]
        return bytes(self._encoder.encode(raw))

    def request(
        self,
        path: str,
        *fields: tuple[str, str | bytes],
        method: str = "GET",
        body: bytes | None = None,
        flags: int = 0,
        before: bytes = b"",
    ) -> tuple[Stream, list[bytes]]:
        """The next stream, and the frames that open it; `before` stands in front of the block."""
        stream = Stream(self.next_stream, trio.current_time(), self._initial_window, method)
        self.next_stream += 2
        self.streams[stream.id] = stream
        block = before + self.encode(
            (":method", method),
            (":scheme", "https"),
            (":authority", self.authority),
            (":path", path),
            *fields,
        )
        flags |= END_HEADERS | (END_STREAM if body is None else 0)
        frames = [frame(HEADERS, flags, stream.id, block)]
        if body is not None:
            pieces = [body[at : at + FRAME_BYTES] for at in range(0, len(body), FRAME_BYTES)]
            pieces = pieces or [b""]
            frames += [frame(DATA, 0, stream.id, piece) for piece in pieces[:-1]]
            frames.append(frame(DATA, END_STREAM, stream.id, pieces[-1]))
        return stream, frames

    async def open(
        self,
        path: str,
        *fields: tuple[str, str | bytes],
        method: str = "GET",
        body: bytes | None = None,
    ) -> Stream:
        """Send a request."""
        stream, frames = self.request(path, *fields, method=method, body=body)
        await self.send(*frames)
        return stream

    async def cancel(self, *streams: Stream) -> None:
        """RST_STREAM with CANCEL, for those that are not over."""
        living = [each for each in streams if not each.over]
        for each in living:
            each.cancelled = True
        if living:
            await self.send(*(reset_frame(each.id, CANCEL) for each in living))

    # -- in

    async def until(
        self, done: Callable[[], object], what: str, seconds: float | None = None
    ) -> None:
        """Read until `done()`, which may be at once.  Raises Silent, naming `what`, and Lost."""
        seconds = self.patience if seconds is None else seconds
        with trio.move_on_after(seconds):
            while not done():
                await self._read()
            return
        if not done():
            if self.goaway is not None:
                raise Lost(self._why(""))
            raise Silent(f"no {what} within {seconds:g} s")

    async def watch(self, seconds: float) -> None:
        """Read for so long.  Raises Lost."""
        with trio.move_on_after(seconds):
            while True:
                await self._read()

    async def ping(self) -> float:
        """The seconds until a PING was answered.  Raises Silent and Lost."""
        self._pings += 1
        data = b"probe" + self._pings.to_bytes(3, "big")
        began = trio.current_time()
        await self.send(frame(PING, 0, 0, data))
        await self.until(lambda: data in self._pongs, "answer to a PING")
        return trio.current_time() - began

    async def alive(self) -> None:
        """Raises Silent or Lost unless the connection is as good as before."""
        # A fault may be said after the answer to a PING that was sent behind its cause.
        await self.ping()
        await self.ping()
        if self.goaway is not None:
            raise Lost(self._why(""))

    def _why(self, what: str) -> str:
        if self.goaway is not None:
            what = f"GOAWAY with {code_name(self.goaway[1])}"
        self._gone = what
        return what

    async def _drain(self) -> None:
        with trio.move_on_after(self.patience):
            try:
                while True:
                    await self._read()
            except Lost:
                pass

    async def _read(self) -> None:
        if self._gone is not None:
            raise Lost(self._gone)
        try:
            data = await self.transport.receive_some(_READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            raise Lost(self._why("the connection was closed"))
        self._received += data
        answers: list[bytes] = []
        try:
            self._frames(answers)
        finally:
            if answers:
                await self.send(*answers)

    def _frames(self, answers: list[bytes]) -> None:
        buffer = self._received
        while len(buffer) >= HEAD_BYTES:
            size = int.from_bytes(buffer[:3], "big")
            if size > _LARGEST_FRAME:
                self._gone = f"a frame of {size} bytes"
                raise Lost(self._gone)
            end = HEAD_BYTES + size
            if len(buffer) < end:
                return
            kind, flags = buffer[3], buffer[4]
            number = int.from_bytes(buffer[5:9], "big") & MAX_STREAM
            payload = bytes(buffer[HEAD_BYTES:end])
            del buffer[:end]
            if self.first is None:
                self.first = (kind, flags)
            self._frame(kind, flags, number, payload, answers)

    def _frame(
        self, kind: int, flags: int, number: int, payload: bytes, answers: list[bytes]
    ) -> None:
        stream = self.streams.get(number)
        match kind:
            case 0 if stream is not None:
                self._data(stream, flags, payload, answers)
            case 1:
                block = _unpadded(payload, flags)
                if flags & _HAS_PRIORITY:
                    block = block[5:]
                self._block = (number, bool(flags & END_STREAM), bytearray(block))
                self._continue(flags)
            case 3 if stream is not None and len(payload) == 4:
                stream.reset = int.from_bytes(payload, "big")
                if stream.is_event_stream and not stream.cancelled and not stream.ended:
                    self._note(Ending(stream.reset))
            case 4:
                self._settings(flags, payload, answers)
            case 5:
                self.pushed = True
                raise Lost(self._why("a PUSH_PROMISE, which we had forbidden"))
            case 6 if len(payload) == 8:
                if flags & ACK:
                    self._pongs.add(payload)
                else:
                    answers.append(frame(PING, ACK, 0, payload))
            case 7 if len(payload) >= 8:
                last = int.from_bytes(payload[:4], "big") & MAX_STREAM
                self.goaway = (last, int.from_bytes(payload[4:8], "big"))
                if self.goaway[1]:
                    # Nothing good comes after it (RFC 9113 5.4.1); some servers do not even close.
                    raise Lost(self._why(""))
            case 9 if self._block is not None:
                self._block[2].extend(payload)
                self._continue(flags)
            case _:
                pass

    def _settings(self, flags: int, payload: bytes, answers: list[bytes]) -> None:
        if flags & ACK:
            self.settings_acks += 1
            if self._unacknowledged:
                sent = self._unacknowledged.pop(0)
                initial = sent.get(INITIAL_WINDOW_SIZE, self._initial_window)
                for stream in self.streams.values():
                    stream.window += initial - self._initial_window
                self._initial_window = initial
            return
        for at in range(0, len(payload) - 5, 6):
            name = int.from_bytes(payload[at : at + 2], "big")
            self.settings[name] = int.from_bytes(payload[at + 2 : at + 6], "big")
        if HEADER_TABLE_SIZE in self.settings:
            self._encoder.header_table_size = min(4096, self.settings[HEADER_TABLE_SIZE])
        answers.append(frame(SETTINGS, ACK, 0))

    def _continue(self, flags: int) -> None:
        if not flags & END_HEADERS:
            return
        assert self._block is not None
        number, ends, data = self._block
        self._block = None
        try:
            section = tuple(self._decoder.decode(bytes(data), raw=True))
        except HPACKError as error:
            self._gone = f"a header section that cannot be decoded: {error}"
            raise Lost(self._gone) from None
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.sections.append(section)
        if stream.fields and stream.answered_at is None:
            stream.answered_at = trio.current_time()
        if ends:
            self._ended(stream)

    def _data(self, stream: Stream, flags: int, payload: bytes, answers: list[bytes]) -> None:
        size = len(payload)
        stream.window -= size
        self._window -= size
        for window, whose in ((stream.window, "its stream"), (self._window, "the connection")):
            if size and window < 0:
                self.overruns.append(f"{-window} bytes past the window of {whose}")
        stream.largest_frame = max(stream.largest_frame, size)
        body = _unpadded(payload, flags)
        if body:
            stream.body.feed(body, trio.current_time())
            if len(stream.raw) < FRAME_BYTES:
                stream.raw += body
        if self._window < _CONNECTION_WINDOW // 2:
            answers.append(window_update(0, _CONNECTION_WINDOW - self._window))
            self._window = _CONNECTION_WINDOW
        if flags & END_STREAM:
            self._ended(stream)
        elif not stream.held and stream.window < _STREAM_WINDOW // 2 <= self._initial_window:
            answers.append(window_update(stream.id, _STREAM_WINDOW - stream.window))
            stream.window = _STREAM_WINDOW

    def _ended(self, stream: Stream) -> None:
        stream.ended = True
        if stream.is_event_stream and stream.method == "GET" and not stream.cancelled:
            self._note(Ending(None))

    async def give(self, stream: Stream, increment: int) -> None:
        """Open the window of a stream."""
        stream.window += increment
        await self.send(window_update(stream.id, increment))


def _unpadded(body: bytes, flags: int) -> bytes:
    if not flags & _PADDED:
        return body
    return body[1 : len(body) - body[0]] if body and body[0] < len(body) else b""
