"""Simulated tabs over HTTP/2: one connection, any number of streams.  Bytes in, tab progress out.

Frames are read and written here by hand, because a client that pays 20 us an event measures itself.
A fan-out reaches one connection as a run of DATA frames that differ only in their stream ids: a
run is compared and checked as the rows of an array (`_run`), at a tenth of a microsecond a tab.
Everything else, one frame at a time, goes through `_data` and `_control`; the two agree on any
bytes (tests/benchmarks/test_load_http2.py::test_runs_equal_frames).

Settings and windows are Chromium's (docs/behaviour.md B74): 6 MiB a stream and 15 MiB in all, given
back when half is used.  A connection that has stalled tabs announces 65,535 bytes a stream instead,
and widens the others' windows after their HEADERS, as Firefox does.
"""

from __future__ import annotations

import functools
import struct
from enum import IntEnum
from typing import final

import numpy as np
from h2.errors import ErrorCodes
from hpack import Decoder, Encoder, HPACKError
from numpy.typing import NDArray

from .events import Reader, join
from .sequences import Indices, Tab, Tabs

__all__ = ["Http2", "Memory"]

_END_STREAM = _ACK = 0x1
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20

_HEAD = struct.Struct(">BHBBI")  # length in two pieces, type, flags, stream
HEAD_BYTES = 9
MAX_FRAME_BYTES = 16_384

STREAM_WINDOW_BYTES = 6_291_456
CONNECTION_WINDOW_BYTES = 15_728_640
DEFAULT_WINDOW_BYTES = 65_535
HEADER_TABLE_BYTES = 65_536

# Fewer equal frames than this are cheaper one at a time (benchmarks/micro/receive.py).
RUN_FRAMES = 16


class _Kind(IntEnum):
    """RFC 9113 6."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


# The stream id in a frame's head.
_ID = slice(5, 9)


@final
class Memory:
    """What the connections of a process share: what texts said, the last one as rows of frames."""

    def __init__(self) -> None:
        self.reader = Reader()
        self._head = self._text = b""
        self._rows = np.zeros((0, 0), np.uint8)

    def rows(self, head: bytes, text: bytes, count: int) -> NDArray[np.uint8]:
        """DATA frames, as many as asked for, whose stream ids are whatever was there last."""
        if text != self._text or head != self._head or count > len(self._rows):
            self._head, self._text = head, text
            frame = np.frombuffer(head + b"\0\0\0\0" + text, np.uint8)
            self._rows = np.tile(frame, (count, 1))
        return self._rows[:count]


@final
class Http2:
    """One connection.  `output` is what is to be written; `over` says why nothing more comes.

    `limit` is the server's SETTINGS_MAX_CONCURRENT_STREAMS: streams past it are not asked for.
    """

    def __init__(
        self, tabs: Tabs, memory: Memory, authority: str, path: str, *, stalls: bool = False
    ) -> None:
        self.over: str | None = None
        self.limit = 2**31 - 1
        self.ready = False  # requests may be written: the server's SETTINGS have come
        self._tabs = tabs
        self._memory = memory
        self._narrow = stalls
        self._target = authority, path
        self._first_block, self._block = _blocks(authority, path, None)
        self._decoder = Decoder()
        self._decoder.max_allowed_table_size = HEADER_TABLE_BYTES
        self._statuses: dict[bytes, bytes] = {}
        self._tab_of: list[int] = []  # by stream id // 2
        self._tabs_of = np.zeros(0, np.intp)  # the same, made when first needed
        self._ids = b""  # of those streams, as they stand in frames
        self._open = 0  # streams, for the limit
        self._used = 0  # of the connection's window, not given back yet
        self._parting: str | None = None  # the GOAWAY that came
        self._part = b""  # of a frame
        self._rest: dict[int, bytes] = {}  # of an event, by tab
        self._section: tuple[int, int, bytes] | None = None  # stream, flags, block so far
        self._plain = 0  # streams whose tabs are open and read
        self._most_used = 0  # of any stream's window, at most
        window = DEFAULT_WINDOW_BYTES if stalls else STREAM_WINDOW_BYTES
        self.output = bytearray(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        settings = ((1, HEADER_TABLE_BYTES), (2, 0), (4, window), (6, 262_144))
        self._frame(_Kind.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in settings))
        self._widen(0, CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW_BYTES)

    # -- out

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        self.output += _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload

    def _widen(self, stream: int, increment: int) -> None:
        self._frame(_Kind.WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))

    def ask(self, tabs: list[int], last_id: bytes, now: int) -> None:
        """Request an event stream for each tab, up to the server's limit."""
        room = max(0, self.limit - self._open)
        for tab in tabs[room:]:
            self._tabs.ended(tab, f"stream limit {self.limit}")
        if self.over is not None:
            for tab in tabs[:room]:
                self._tabs.ended(tab, self.over)
            return
        tabs = tabs[:room]
        if not tabs:
            return
        stream = 2 * len(self._tab_of) + 1
        pieces: list[bytes] = []
        block, self._first_block = self._first_block or self._block, b""
        for tab in tabs:
            place = self._tabs.last_id(tab) or last_id
            whole = block + _literal(b"last-event-id", place) if place else block
            pieces.append(
                _HEAD.pack(0, len(whole), _Kind.HEADERS, _END_STREAM | _END_HEADERS, stream) + whole
            )
            if self._narrow and not self._tabs.stalls[tab]:
                more = STREAM_WINDOW_BYTES - DEFAULT_WINDOW_BYTES
                pieces.append(
                    _HEAD.pack(0, 4, _Kind.WINDOW_UPDATE, 0, stream) + more.to_bytes(4, "big")
                )
            block = self._block
            stream += 2
        self.output += b"".join(pieces)
        self._tab_of += tabs
        self._open += len(tabs)
        self._tabs.ask(self._tabs.indices(tabs), now)

    def give_up(self, reason: str) -> None:
        """Wait no more for the answers that have not come."""
        for place, tab in enumerate(self._tab_of):
            if self._tabs.states[tab] == Tab.ASKED:
                self._frame(
                    _Kind.RST_STREAM, 0, 2 * place + 1, ErrorCodes.CANCEL.to_bytes(4, "big")
                )
                self._end(2 * place + 1, reason)

    # -- in

    def receive(self, data: bytes, now: int) -> None:
        """Bytes that came at `now`, cut anywhere."""
        if self._part:
            data = self._part + data
        at, end = 0, len(data)
        while end - at >= HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            size = high << 16 | low
            if size > MAX_FRAME_BYTES:
                self.closed(f"frame of {size} bytes")
                return
            stop = at + HEAD_BYTES + size
            if stop > end:
                break
            if kind:  # all but DATA
                self._control(kind, flags, stream, data[at + HEAD_BYTES : stop], now)
                if self.over is not None:
                    return
            else:
                text = data[at + HEAD_BYTES : stop]
                if (
                    (end - at) // (HEAD_BYTES + size) >= RUN_FRAMES
                    and not flags
                    and data.startswith(text, stop + HEAD_BYTES)
                    and (run := self._run(data, at, text, now))
                ):
                    at += run * (HEAD_BYTES + size)
                    continue
                self._data(flags, stream, text, now)
            at = stop
        self._part = data[at:]

    def closed(self, reason: str) -> None:
        """The connection is gone."""
        self.over = self.over or self._parting or reason
        for tab in self._tab_of:
            self._tabs.ended(tab, self.over)

    def _run(self, data: bytes, at: int, text: bytes, now: int) -> int:
        """Take a run of equal DATA frames from `at`; how many, 0 if it is not a plain one.

        Plain: whole events of open tabs, each tab once, none in the middle of an event.
        """
        size = len(text)
        said = self._memory.reader.read(text)
        if said.rest or not size:
            return 0
        whole = HEAD_BYTES + size
        frames = (len(data) - at) // whole
        rows = np.frombuffer(data, np.uint8, frames * whole, at).reshape(frames, whole)
        # With their ids in the model's rows the bytes must be the same: a memcmp, where comparing
        # the arrays costs ten times as much.
        model = self._memory.rows(data[at : at + _ID.start], text, frames)
        model[:, _ID] = rows[:, _ID]
        if model.tobytes() != data[at : at + frames * whole]:
            frames = int((model == rows).all(1).argmin())
            rows = rows[:frames]
        each = self._tabs_on(rows[:, _ID].tobytes())
        if each is None:
            return 0
        tabs = self._tabs
        if self._plain != len(self._tab_of) and not (tabs.state[each] == Tab.OPEN).all():
            return 0
        if self._rest and not self._rest.keys().isdisjoint(each.tolist()):
            return 0
        self._take(frames * size)
        tabs.used[each] += size
        self._most_used += size
        if self._most_used >= STREAM_WINDOW_BYTES // 2:
            self._give_back()
        for sequence, intended in said.stamps:
            tabs.all_saw(each, sequence, (now - intended) // 1000)
        if said.id is not None:
            tabs.all_saw_id(each, said.id)
        return frames

    def _tabs_on(self, ids: bytes) -> Indices | None:
        """The tabs on streams, if they are ours and rise, so that none is there twice."""
        if len(self._tabs_of) != len(self._tab_of):
            self._tabs_of = self._tabs.indices(self._tab_of)
            self._ids = (2 * np.arange(len(self._tab_of)) + 1).astype(">u4").tobytes()
        first, count = int.from_bytes(ids[:4], "big") >> 1, len(ids) // 4
        if ids == self._ids[4 * first : 4 * (first + count)]:
            return self._tabs_of[first : first + count]
        streams = np.frombuffer(ids, ">u4").astype(np.intp)
        if not (np.diff(streams) > 0).all() or not (streams & 1).all():
            return None
        places = streams >> 1
        return self._tabs_of[places] if places[-1] < len(self._tabs_of) else None

    def _give_back(self) -> None:
        """Widen the windows of which half is used."""
        used = self._tabs.used[self._tabs_of]
        full = np.flatnonzero(used >= STREAM_WINDOW_BYTES // 2)
        for place in full.tolist():
            if self._tabs.states[self._tab_of[place]] == Tab.OPEN:
                self._widen(2 * place + 1, int(used[place]))
        used[full] = 0
        self._tabs.used[self._tabs_of] = used
        self._most_used = int(used.max(initial=0))

    def _take(self, size: int) -> None:
        self._used += size
        if self._used >= CONNECTION_WINDOW_BYTES // 2:
            self._widen(0, self._used)
            self._used = 0

    def _data(self, flags: int, stream: int, payload: bytes, now: int) -> None:
        self._take(len(payload))
        tab = self._tab(stream)
        if tab is None:
            return
        tabs = self._tabs
        if tabs.states[tab] == Tab.OPEN:
            used = tabs.used_of[tab] + len(payload)
            if used >= STREAM_WINDOW_BYTES // 2:
                self._widen(stream, used)
                used = 0
            tabs.used_of[tab] = used
            self._most_used = max(self._most_used, used)
            if flags & _PADDED and payload:
                payload = payload[1 : len(payload) - payload[0]]
            self._read(tab, payload, now)
        if flags & _END_STREAM:
            self._end(stream, "end of stream")

    def _read(self, tab: int, payload: bytes, now: int) -> None:
        if self._rest and tab in self._rest:
            payload = join(self._rest.pop(tab), payload)
        said = self._memory.reader.read(payload)
        if said.rest:
            self._rest[tab] = said.rest
        tabs = self._tabs
        for sequence, intended in said.stamps:
            tabs.saw(tab, sequence, (now - intended) // 1000)
        if said.id is not None:
            tabs.saw_id(tab, said.id)

    def _tab(self, stream: int) -> int | None:
        place = stream >> 1
        return self._tab_of[place] if stream & 1 and place < len(self._tab_of) else None

    def _end(self, stream: int, reason: str) -> None:
        tab = self._tab(stream)
        if tab is not None and self._tabs.states[tab] != Tab.ENDED:
            self._plain -= self._tabs.states[tab] == Tab.OPEN
            self._tabs.ended(tab, reason)
            self._rest.pop(tab, None)
            self._open -= 1

    def _control(self, kind: int, flags: int, stream: int, payload: bytes, now: int) -> None:
        if self._section is not None and kind != _Kind.CONTINUATION:
            self.closed("no CONTINUATION")
            return
        match kind:
            case _Kind.HEADERS:
                if flags & _PADDED and payload:
                    payload = payload[1 : len(payload) - payload[0]]
                self._section = stream, flags, payload[5:] if flags & _PRIORITY else payload
                self._headers(flags, now)
            case _Kind.CONTINUATION if self._section is not None:
                self._section = *self._section[:2], self._section[2] + payload
                self._headers(flags, now)
            case _Kind.RST_STREAM:
                self._end(stream, f"RST_STREAM {_code(payload)}")
            case _Kind.SETTINGS if not flags & _ACK:
                self._settings(payload)
            case _Kind.PING if not flags & _ACK:
                self._frame(_Kind.PING, _ACK, 0, payload)
            case _Kind.GOAWAY:
                self._go_away(payload)
            case _:
                pass

    def _headers(self, flags: int, now: int) -> None:
        if not flags & _END_HEADERS:
            return
        assert self._section is not None
        stream, first_flags, block = self._section
        self._section = None
        try:
            status = self._status(block)
        except HPACKError as error:
            self.closed(f"header block: {error}")
            return
        tab = self._tab(stream)
        if tab is None:
            return
        if status == b"200":
            self._tabs.opened(tab, now)
            self._plain += self._tabs.states[tab] == Tab.OPEN
        elif status and not status.startswith(b"1"):
            self._end(stream, f"status {status.decode()}")
        if first_flags & _END_STREAM:
            self._end(stream, "end of stream")

    def _status(self, block: bytes) -> bytes:
        """The `:status` of a header block, b"" of trailers."""
        status = self._statuses.get(block)
        if status is None:
            table = self._decoder.header_table.dynamic_entries
            before = len(table), table[0] if table else None
            fields = self._decoder.decode(block, raw=True)
            status = next((value for name, value in fields if name == b":status"), b"")
            after = len(table), table[0] if table else None
            # The same bytes say the same for as long as the table stays as it is.
            if before == after:
                self._statuses[block] = status
            else:
                self._statuses.clear()
        return status

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == 1 and value < 4096:
                self._first_block, self._block = _blocks(*self._target, value)
            elif name == 3:
                self.limit = value
        self._frame(_Kind.SETTINGS, _ACK, 0, b"")
        self.ready = True

    def _go_away(self, payload: bytes) -> None:
        last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        reason = f"GOAWAY {_code(payload[4:8])}"
        for place in range((last + 1) // 2, len(self._tab_of)):
            self._end(2 * place + 1, reason)
        # Streams up to the last id may go on; no others may begin, and the end has a reason.
        self.limit = 0
        self._parting = reason


@functools.cache
def _blocks(authority: str, path: str, table_bytes: int | None) -> tuple[bytes, bytes]:
    """The header block of a connection's first request, and that of all others.

    The first fills the server's table, and all others only point into it.  With a size for the
    table the first block also empties it, whatever there was.
    """
    encoder = Encoder()
    if table_bytes is not None:
        encoder.header_table_size = 0
        if table_bytes:
            encoder.header_table_size = table_bytes
    fields = (
        (b":method", b"GET"),
        (b":authority", authority.encode()),
        (b":scheme", b"https"),
        (b":path", path.encode()),
        (b"cache-control", b"no-cache"),
        (b"accept", b"text/event-stream"),
        (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) h2sse-benchmark"),
        (b"accept-encoding", b"gzip, deflate, br, zstd"),
        (b"accept-language", b"en-US,en;q=0.9"),
        (b"priority", b"u=1, i"),
    )
    return encoder.encode(fields), encoder.encode(fields)


def _code(payload: bytes) -> str:
    number = int.from_bytes(payload[:4], "big")
    try:
        return ErrorCodes(number).name
    except ValueError:
        return str(number)


def _literal(name: bytes, value: bytes) -> bytes:
    """A field that stays out of the table (RFC 7541 6.2.2), without Huffman coding."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    size -= 127
    head = bytearray((127,))
    while size >= 128:
        head.append(size % 128 + 128)
        size //= 128
    head.append(size)
    return bytes(head) + text
