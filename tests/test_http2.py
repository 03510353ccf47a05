"""The Wire over HTTP/2, without sockets: chunks of any size, and the hooks into h2.

What each clause asks of it stands in test_behaviours.py, over real TLS; how DATA is framed, in
test_flow.py.
"""

from __future__ import annotations

import inspect
import itertools
import tracemalloc
from functools import partial

import h2
import h2.connection
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from h2.stream import H2Stream
from hpack import Decoder, Encoder, HPACKError
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from h2sse.config import Limits
from h2sse.frames import END_HEADERS, END_STREAM, HEADERS, PREFACE, whole_section
from h2sse.http2 import Http2
from h2sse.machine import CompressionError, FieldDecoder, Machine
from h2sse.wire import Fields, Gone, Request, Response, WireEvent

FIELDS = (
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
)


def script() -> bytes:
    """A client's requests of every kind, one of them malformed, one reset, a PING among them."""
    client = H2Connection(
        H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    client.initiate_connection()
    client.send_headers(1, (*FIELDS, (b":path", b"/a?b=c")), end_stream=True)
    client.send_headers(3, (*FIELDS, (b":path", b"/d"), (b"content-length", b"4")))
    client.send_data(3, b"bo")
    client.ping(b"12345678")
    client.send_data(3, b"dy", end_stream=True)
    client.send_headers(5, (*FIELDS, (b":path", b"/"), (b"last-event-id", b"x ")), end_stream=True)
    client.send_headers(7, (*FIELDS, (b":path", b"/gone")), end_stream=True)
    client.reset_stream(7, 8)
    client.send_headers(9, (*FIELDS, (b":path", b"/long"), (b"a", b"b" * 9_000)), end_stream=True)
    client.increment_flow_control_window(100)
    return client.data_to_send()


SCRIPT = script()


def played(chunks: list[bytes]) -> tuple[list[WireEvent], bytes]:
    wire = Http2(Limits())
    events: list[WireEvent] = []
    for chunk in chunks:
        events += wire.receive(chunk, 0.0)
    return events, wire.take_output()


def test_the_script_means_what_it_says() -> None:
    events, _ = played([SCRIPT])
    assert [event.stream for event in events] == [1, 3, 5, 7, 7, 9]
    requests = [event for event in events if isinstance(event, Request)]
    assert [request.path for request in requests] == ["/a", "/d", "/gone", "/long"]
    assert requests[0].query == "b=c"
    assert requests[1].body == b"body"
    assert [event.stream for event in events if isinstance(event, Gone)] == [5, 7]


def test_byte_by_byte() -> None:
    assert played([SCRIPT[at : at + 1] for at in range(len(SCRIPT))]) == played([SCRIPT])


def test_a_remainder_waits() -> None:
    whole, _ = played([SCRIPT])
    events, _ = played([SCRIPT + SCRIPT[24:30]])
    assert events == whole


@given(cuts=st.lists(st.integers(0, len(SCRIPT)), max_size=20))
def test_cut_anywhere(cuts: list[int]) -> None:
    marks = [0, *sorted(cuts), len(SCRIPT)]
    chunks = [SCRIPT[a:b] for a, b in itertools.pairwise(marks) if a < b]
    assert played(chunks) == played([SCRIPT])


@given(st.binary(max_size=200))
def test_any_bytes_are_taken(data: bytes) -> None:
    """`receive` never raises, whatever follows a good beginning."""
    wire = Http2(Limits())
    wire.receive(SCRIPT, 0.0)
    wire.receive(data, 0.0)
    wire.take_output()
    wire.expire(1_000.0)
    assert wire.closed


@given(st.integers(0, 9), st.integers(0, 255), st.integers(0, 20), st.binary(max_size=40))
def test_any_frame_is_taken(kind: int, flags: int, stream: int, body: bytes) -> None:
    wire = Http2(Limits())
    wire.receive(SCRIPT, 0.0)
    wire.open(3, (), b"retry: 1\n\n")
    head = len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    wire.receive(head + body, 0.0)
    while wire.take_output():
        pass
    if not wire.closed:
        # Whatever it was, the other requests can still be answered.
        wire.respond(1 if stream != 1 else 9, Response(status=204))
        assert wire.take_output()[3] == 1


def test_the_hooks_into_h2_are_where_they_were() -> None:
    """machine.py stands on these; a new h2 that moves one must fail here, not in use."""
    assert h2.__version__.startswith("4.4.")
    machine = Machine(Limits())
    assert isinstance(machine.streams, dict)
    assert isinstance(machine._data_to_send, bytearray)
    assert isinstance(machine._closed_streams, dict)
    assert set(machine.local_settings._settings) == set(SettingCodes)
    assert SettingCodes.MAX_CONCURRENT_STREAMS not in machine.remote_settings
    assert isinstance(inspect.getattr_static(H2Connection, "open_inbound_streams"), property)
    assert "self.open_inbound_streams" in inspect.getsource(H2Connection._receive_headers_frame)
    assert "self.decoder" in inspect.getsource(H2Connection._receive_headers_frame)
    assert "self.MAX_CLOSED_STREAMS" in inspect.getsource(H2Connection.__init__)
    assert isinstance(inspect.getattr_static(H2Stream, "closed_by"), property)
    assert "outbound_flow_control_window" in vars(
        H2Stream(1, machine.config, inbound_window_size=1, outbound_window_size=1)
    )
    assert list(inspect.signature(Decoder.decode).parameters) == ["self", "data", "raw"]
    assert list(inspect.signature(Encoder.encode).parameters) == ["self", "headers", "huffman"]
    assert machine.remote_settings._settings.keys() >= {SettingCodes.INITIAL_WINDOW_SIZE}
    assert machine.outbound_flow_control_window == 65_535
    assert "self._frame_dispatch_table[frame.__class__](frame)" in inspect.getsource(
        H2Connection._receive_frame
    )
    assert inspect.getsource(h2.connection).count("_frame_dispatch_table") == 2


def test_the_hooks_into_hpack_are_where_they_were() -> None:
    """Our decoder's loop is our own; what one field is, it asks hpack."""
    assert list(inspect.signature(Decoder._decode_indexed).parameters) == ["self", "data"]
    assert list(inspect.signature(Decoder._decode_literal).parameters) == [
        *("self", "data", "should_index")
    ]
    assert list(inspect.signature(Decoder._update_encoding_context).parameters) == ["self", "data"]
    assert list(inspect.signature(Decoder._assert_valid_table_size).parameters) == ["self"]
    assert HeaderTable().get_by_index(2) == (b":method", b"GET")


NAMES = st.sampled_from([b"a", b"b", b":path"])
REQUEST = st.lists(st.tuples(NAMES, st.binary(max_size=6)), max_size=4).map(tuple)
# Two of the long values are more than a frame.
ANSWER = st.lists(st.tuples(NAMES, st.sampled_from([b"x", b"y" * 12_000])), max_size=3).map(
    lambda fields: ((b":status", b"200"), *fields)
)
# A request, or bytes that are none, and whether it is whole; an answer, and whether it is.
EXCHANGE = st.tuples(REQUEST | st.binary(max_size=9), st.booleans(), ANSWER, st.booleans())


@given(st.lists(EXCHANGE, max_size=6), st.integers(0, 6), st.booleans())
def test_streams_open_and_are_answered_as_h2_does_it(
    exchanges: list[tuple[tuple[tuple[bytes, bytes], ...] | bytes, bool, Fields, bool]],
    resets: int,
    prioritised: bool,
) -> None:
    """`begin` and `answer` pass by h2's frames, not by its machines."""
    ours, theirs = Machine(Limits()), Machine(Limits())
    encoder = Encoder()
    for machine in (ours, theirs):
        machine.receive_data(PREFACE + b"\0\0\x06\x04" + bytes(5) + b"\0\x05\0\0\x42\0")
    for number, (request, whole, response, ended) in enumerate(exchanges):
        stream = 2 * number + 1
        block = request if isinstance(request, bytes) else encoder.encode(request)
        flags = END_HEADERS | (END_STREAM if whole else 0) | (0x20 if prioritised else 0)
        body = (bytes(5) if prioritised else b"") + block
        frame = len(body).to_bytes(3, "big") + bytes((HEADERS, flags)) + stream.to_bytes(4, "big")
        assert whole_section(frame + body) == block
        faults: list[type[Exception] | None] = []
        for begin in (
            partial(ours.begin, stream, block, ended=whole),
            partial(theirs.receive_data, frame + body),
        ):
            try:
                begin()
                faults.append(None)
            except ProtocolError as error:
                faults.append(type(error))
        assert faults[0] is faults[1]
        if faults[0] is None:
            assert ours.sections.section == theirs.sections.section
            if number == resets:
                ours.reset_stream(stream)
                theirs.reset_stream(stream)
            else:
                ours.answer(stream, response, ended=ended)
                theirs.send_headers(stream, response, end_stream=ended)
            one, other = ours.streams[stream], theirs.streams[stream]
            assert vars(one.state_machine) == vars(other.state_machine)
            assert one.outbound_flow_control_window == other.outbound_flow_control_window
            assert one.max_outbound_frame_size == other.max_outbound_frame_size
        assert ours.state_machine.state is theirs.state_machine.state
        assert ours.highest_inbound_stream_id == theirs.highest_inbound_stream_id
        assert ours.data_to_send() == theirs.data_to_send()
        if faults[0] is not None:
            return


FIELD = st.tuples(st.sampled_from([b"a", b"b", b":path", b"cookie"]), st.binary(max_size=6))


@given(st.lists(st.lists(FIELD, max_size=6), max_size=6), st.booleans())
def test_our_decoder_reads_what_hpack_s_reads(
    sections: list[list[tuple[bytes, bytes]]], resizes: bool
) -> None:
    encoder, theirs, ours = Encoder(), Decoder(), FieldDecoder(Limits())
    for number, section in enumerate(sections):
        if resizes and number == 2:
            encoder.header_table_size = 64
        block = encoder.encode(section)
        ours.decode(block)
        assert list(ours.section) == [tuple(each) for each in theirs.decode(block, raw=True)]
        assert list(ours.header_table.dynamic_entries) == list(theirs.header_table.dynamic_entries)


@given(st.binary(max_size=60))
def test_our_decoder_fails_where_hpack_s_fails(block: bytes) -> None:
    """But for table-size updates, of which it takes two."""

    def outcome(decoder: Decoder) -> str:
        try:
            decoder.decode(block, raw=True)
        except (HPACKError, IndexError, CompressionError):
            return "error"
        return "fields"

    if block[:1] and block[0] & 0xE0 != 0x20:
        assert outcome(FieldDecoder(Limits())) == outcome(Decoder())


def test_the_table_makes_a_new_entry_of_an_equal_one() -> None:
    """What tells one state of a dynamic table from the next."""
    table = HeaderTable()
    table.add(b"a", b"b")
    first = table.dynamic_entries[0]
    table.add(b"a", b"b")
    assert table.dynamic_entries[0] == first
    assert table.dynamic_entries[0] is not first


@pytest.mark.parametrize("streams", [1, 300])
def test_finished_streams_are_forgotten_at_once(streams: int) -> None:
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    wire = Http2(Limits())
    for number in range(streams):
        stream = 2 * number + 1
        client.send_headers(stream, (*FIELDS, (b":path", b"/")), end_stream=True)
        wire.receive(client.data_to_send(), 0.0)
        wire.respond(stream, Response(body=b"well"))
        client.receive_data(wire.take_output())
        assert wire.open_streams == 0
    assert not wire._machine.streams
    assert len(wire._machine._closed_streams) <= 256
    assert len(wire._screen.recent) <= 256


def test_sections_that_repeat_take_little_memory_however_long_they_are() -> None:
    decoder = FieldDecoder(Limits())
    encoder = Encoder()
    blocks = [encoder.encode([(b"x", b"%03d" % each * 4_000, True)]) for each in range(64)]
    tracemalloc.start()
    try:
        for block in blocks:
            decoder.decode(block)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 64 * 1024
