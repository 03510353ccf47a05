"""h2, adapted: header fields kept from it, streams taken out one by one, raw frames in their place.

All that stands on h2's insides is here, small; `test_http2.py` checks that each hook is still
where it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, final

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionInputs, H2Connection, _decode_headers
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy, StreamInputs
from hpack import Decoder, Encoder, HPACKDecodingError, HPACKError, OversizedHeaderListError

from .fields import FIELD_OVERHEAD_BYTES, Verdict, read_head
from .frames import CONTINUATION, END_HEADERS, END_STREAM, FRAME_BYTES, HEADERS

if TYPE_CHECKING:
    from .config import Limits
    from .wire import Fields

__all__ = ["CLOSED_STREAMS", "Machine"]

# A section over this is not even decoded to its end, so that the HPACK state is lost and the
# connection with it.  Up to it, a section over `header_list_bytes` is answered with 431.
_DECODED_BYTES: Final = 64 * 1024
# Likewise of fields, as a multiple of `header_fields`.
_DECODED_FIELDS: Final = 4
_TABLE_SIZE_UPDATES: Final = 2

# Sections and responses that repeat; a browser's tabs ask for the same few things.
_MEMO_ENTRIES: Final = 64
# Larger ones are not remembered: 64 long queries would be 3 MB a connection.  What a client sends
# again and again stands in the table, and that is no larger.
_MEMO_BYTES: Final = 4096

# Closed streams of which we remember how they ended, for frames still on their way.
CLOSED_STREAMS: Final = 256


@final
class FieldDecoder(Decoder):
    """Keeps the fields for us and shows h2 none.

    A block that did not change the dynamic table decodes to the same fields for as long as the
    table stays as it is.  All tabs of a browser send the same block, so nearly every one is found
    in the memo, already judged.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits
        self._memo: dict[bytes, tuple[Fields, Verdict]] = {}
        self.section: Fields = ()
        self.verdict: Verdict | None = None

    def decode(self, data: bytes, raw: bool = False) -> Iterable[Any]:  # noqa: ARG002
        block = bytes(data)
        known = self._memo.get(block)
        if known is None:
            table = self.header_table
            size, newest = table.maxsize, _newest(table.dynamic_entries)
            try:
                self.section = self._fields(block)
            except OversizedHeaderListError:
                raise
            except (HPACKError, IndexError) as error:
                raise CompressionError from error
            self.verdict = None
            if table.maxsize != size or _newest(table.dynamic_entries) is not newest:
                self._memo.clear()
            elif len(self._memo) < _MEMO_ENTRIES and _size(self.section) <= _MEMO_BYTES:
                self._memo[block] = (self.section, read_head(self.section, self._limits))
        else:
            self.section, self.verdict = known
        return ()

    def _fields(self, block: bytes) -> Fields:
        """hpack's own loop, with a bound on fields and on table-size updates.

        It has none: 2 KB that name one field 1,900 times took it 6 ms, and take a tenth of that
        here, where it also ends at `_DECODED_FIELDS`.
        """
        table, most = self.header_table, _DECODED_FIELDS * self._limits.header_fields
        found: list[tuple[bytes, bytes]] = []
        size = at = updates = 0
        end = len(block)
        while at < end:
            first = block[at]
            if first > 0x80 and first != 0xFF:  # an index in one byte: nearly all there are
                field = table.get_by_index(first & 0x7F)
                at += 1
            else:
                rest = block[at:]
                if first & 0xE0 == 0x20:
                    # RFC 7541 4.2: two at the most, the least size in between and the last.
                    updates += 1
                    if found or updates > _TABLE_SIZE_UPDATES:
                        raise HPACKDecodingError("table size updates")
                    at += self._update_encoding_context(rest)
                    continue
                if first & 0x80:
                    field, used = self._decode_indexed(rest)
                else:
                    field, used = self._decode_literal(rest, bool(first & 0x40))
                at += used
            found.append(field)
            size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD_BYTES
            if size > _DECODED_BYTES or len(found) > most:
                raise OversizedHeaderListError("header list too long")
        self._assert_valid_table_size()
        return tuple(found)

    def head(self) -> Verdict:
        """What the last section says, read as a request's."""
        return self.verdict or read_head(self.section, self._limits)


@final
class CompressionError(ProtocolError):
    """A header section that cannot be decoded (RFC 9113 4.3): h2 would call it PROTOCOL_ERROR."""

    error_code = ErrorCodes.COMPRESSION_ERROR


@final
class FieldEncoder(Encoder):
    """Remembers blocks of fields that are all in the table already, for as long as they are."""

    def __init__(self) -> None:
        super().__init__()
        self._memo: dict[tuple[Any, ...], bytes] = {}

    @property
    def header_table_size(self) -> int:
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        # RFC 7541 4.2: of several changes before a block, the least and the last are told.  hpack
        # tells all of them, one over what the peer allows now too, and none at all if the last is
        # set twice.
        table = self.header_table
        if value != table.maxsize:
            table.maxsize = value
            least = min((*self.table_size_changes, value))
            self.table_size_changes = [value] if least == value else [least, value]

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        table = self.header_table
        if table.resized:
            self._memo.clear()
        key = tuple(headers)
        block = self._memo.get(key)
        if block is None:
            newest = _newest(table.dynamic_entries)
            block = super().encode(key, huffman)
            if _newest(table.dynamic_entries) is not newest:
                self._memo.clear()
            elif len(self._memo) < _MEMO_ENTRIES and _size(key) <= _MEMO_BYTES:
                self._memo[key] = block
        return block


def _size(fields: Fields) -> int:
    return sum(len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in fields)


def _newest(entries: deque[tuple[bytes, bytes]]) -> tuple[bytes, bytes] | None:
    # Entries enter a dynamic table at its head only (RFC 7541 2.3.2), and hpack makes a new tuple
    # of each, also of one that is equal to another: which object is newest tells the states apart.
    return entries[0] if entries else None


@final
class _Values(list[int]):
    """What h2 keeps a setting's values in, for a tenth of a deque's 760 bytes."""

    __slots__ = ()

    def popleft(self) -> int:
        return self.pop(0)


def _compact(settings: Settings) -> None:
    # Sixteen deques were a third of a connection's memory.
    kept: dict[SettingCodes | int, Any] = settings._settings  # noqa: SLF001
    for code in SettingCodes:
        # None stands for "not set yet", as h2 itself has it.
        kept[code] = _Values(kept.get(code, (None,)))


# What receives a frame, by its class, as h2 has it.
_RECEIVERS: Final = {
    kind: bound.__name__
    for kind, bound in H2Connection()._frame_dispatch_table.items()  # noqa: SLF001
}


@final
class _Receivers:
    """h2's table of bound methods, each made when it is asked for.

    Kept, they would be the one cycle in all that a connection is made of, so that only the garbage
    collector would free it: 2,000 that end together stopped the server for 0.1 s.
    """

    __slots__ = ("_machine",)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __getitem__(self, kind: type[Any]) -> Callable[..., Any]:
        receive: Callable[..., Any] = getattr(self._machine, _RECEIVERS[kind])
        return receive


@final
class Machine(H2Connection):
    """h2, without its two scans of all streams: finished ones are taken out one by one."""

    # What fan-out looks at stands in the object itself, not in its dict of thirty entries, which on
    # a thousand connections in turn is never in the processor's cache.
    __slots__ = ("_data_to_send", "outbound_flow_control_window")

    MAX_CLOSED_STREAMS = CLOSED_STREAMS

    def __init__(self, limits: Limits) -> None:
        super().__init__(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
            },
        )
        _compact(self.local_settings)
        _compact(self.remote_settings)
        self.decoder = self.sections = FieldDecoder(limits)
        self.encoder = FieldEncoder()
        # h2 would allow 16 MB until the peer acknowledges our SETTINGS.
        self.max_inbound_frame_size = FRAME_BYTES
        # What GOAWAY has named: RFC 9113 6.8 lets no later one name more.
        self.last_stream: int | None = None
        self.initiate_connection()

    @property  # type: ignore[override]  # h2 looks in it, no more
    def _frame_dispatch_table(self) -> _Receivers:
        return _Receivers(self)

    @_frame_dispatch_table.setter
    def _frame_dispatch_table(self, table: object) -> None:
        """h2 sets its own."""

    def close_connection(
        self,
        error_code: ErrorCodes | int = 0,
        additional_data: bytes | None = None,
        last_stream_id: int | None = None,
    ) -> None:
        last = self.last_stream if last_stream_id is None else last_stream_id
        super().close_connection(error_code, additional_data, last)

    def _terminate_connection(self, error_code: ErrorCodes) -> None:
        self.close_connection(error_code)

    @property
    def open_inbound_streams(self) -> int:
        # h2 asks on every request whether to end the connection for one stream too many, by a walk
        # over all of them (248 us at 4,000).  We count, and refuse that one stream (`_opened`).
        return 0

    def begin(self, stream: int, block: bytes, *, ended: bool) -> None:
        """Open `stream` by a section that came whole, as `receive_data` does by its frame.

        Both this and `answer` step h2's own machines, and save the frame objects around them: half
        of what an event stream costs to open.  Raises ProtocolError, as h2 does.
        """
        try:
            _decode_headers(self.decoder, block)
            self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
            states = self._begin_new_stream(stream, AllowedStreamIDs.ODD).state_machine
            states.process_input(StreamInputs.RECV_HEADERS)
            if ended:
                states.process_input(StreamInputs.RECV_END_STREAM)
        except ProtocolError as error:
            self._terminate_connection(error.error_code)
            raise

    def answer(self, stream: int, section: Fields, *, ended: bool) -> None:
        """Send the final head of a response, as `send_headers` does."""
        self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
        states = self.streams[stream].state_machine
        states.process_input(StreamInputs.SEND_HEADERS)
        block = self.encoder.encode(section)
        if ended:
            states.process_input(StreamInputs.SEND_END_STREAM)
        out, most = self._data_to_send, self.max_outbound_frame_size
        kind, flags, number = HEADERS, END_STREAM if ended else 0, stream.to_bytes(4, "big")
        while len(block) > most:
            out += most.to_bytes(3, "big") + bytes((kind, flags)) + number + block[:most]
            kind, flags, block = CONTINUATION, 0, block[most:]
        out += len(block).to_bytes(3, "big") + bytes((kind, flags | END_HEADERS)) + number + block

    # A frame after the END_STREAM of its stream: h2 raises an error from a call that has it as a
    # variable, too, so that they hold each other, and by the traceback this machine.

    def _receive_headers_frame(self, frame: Any) -> Any:
        try:
            return super()._receive_headers_frame(frame)
        except StreamClosedError as error:
            error.__traceback__ = None
            raise

    def _handle_data_on_closed_stream(self, events: Any, exc: StreamClosedError, frame: Any) -> Any:
        exc.__traceback__ = None
        return super()._handle_data_on_closed_stream(events, exc, frame)

    def forget(self, stream: int) -> None:
        """Drop a closed stream; h2 would at its next scan."""
        gone = self.streams.pop(stream, None)
        if gone is not None:
            self._closed_streams[stream] = gone.closed_by

    @property
    def unsent(self) -> int:
        """Bytes framed by h2 and not yet taken."""
        return len(self._data_to_send)

    def forgive(self, stream: int) -> None:
        """Take back h2's answer to DATA that was on its way to a stream we reset (RFC 9113 5.1)."""
        if self._closed_streams.get(stream) is StreamClosedBy.SEND_RST_STREAM:
            answer = b"\0\0\x04\x03\0" + stream.to_bytes(4, "big") + b"\0\0\0\x05"
            if self._data_to_send.endswith(answer):
                del self._data_to_send[-len(answer) :]

    def raw(self, frame: bytes) -> None:
        """Queue a frame that h2 has no call for, in its place among h2's own."""
        self._data_to_send += frame
