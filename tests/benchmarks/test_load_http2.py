"""A connection of simulated tabs: what it asks for, and what it makes of any frames."""

from __future__ import annotations

import dataclasses

import hpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    PADDED,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    _split,
    frame,
    ping,
    reset,
    settings_frame,
    window_update,
)

from benchmarks.load.http2 import Http2, Memory
from benchmarks.load.sequences import Tab, Tabs

OK = hpack.Encoder().encode([(":status", "200")])
NOW = 1_000_000


def event(sequence: int, extra: str = "") -> bytes:
    return f"id: e{sequence}\ndata: {sequence} {NOW - 5000} {extra}\n\n".encode()


def connected(count: int, settings: dict[int, int] | None = None, *, stalls: int = 0) -> Http2:
    """A connection whose tabs have been answered with 200, and are counted."""
    tabs = Tabs()
    wire = Http2(tabs, Memory(), "localhost", "/events", stalls=stalls > 0)
    wire.receive(settings_frame(settings or {}), NOW)
    new = tabs.add(count)
    tabs.stalls[:stalls] = True
    wire.ask(list(new), b"", NOW)
    for place in range(count):
        wire.receive(frame(HEADERS, END_HEADERS, 2 * place + 1, OK), NOW)
    tabs.begin()
    return wire


def sent(wire: Http2) -> list[Frame]:
    """The frames it wrote since this was last called."""
    output = wire.output
    if output.startswith(PREFACE):
        del output[: len(PREFACE)]
    return _split(output)


def fields_of(decoder: hpack.Decoder, request: Frame) -> dict[str, str]:
    return {str(name): str(value) for name, value in decoder.decode(request.payload)}


def story(wire: Http2) -> object:
    """All that can be told of a connection's tabs."""
    tabs = wire._tabs
    return (
        dataclasses.astuple(tabs.tally(1, 6)),
        tabs.state.tolist(),
        [tabs.last_id(tab) for tab in range(tabs.size)],
        tabs.latency,
        tabs.used.tolist(),
        tabs.ends,
        wire._used,
        wire.over,
        dict(wire._rest),
    )


# -- runs

TEXTS = st.one_of(
    st.integers(1, 6).map(event),
    st.sampled_from((b":\n\n", b"data: 1 2", b"\n\n", b"", b"data: 2 3\r\n\r\n")),
    st.sampled_from((event(1) + event(2), b"event: gap\ndata: 1\n\n", b"data: 3 4\r\r")),
)
IDS = st.one_of(
    st.just(tuple(range(1, 80, 2))),
    st.just((*range(1, 41, 2), *range(1, 41, 2))),
    st.just((*range(41, 90, 2), 90, 91, 93)),
    st.just(tuple(range(79, 0, -2))),
    st.just(tuple(range(1, 80, 6)) + tuple(range(81, 200, 2))),
    st.lists(st.integers(0, 100), max_size=5).map(tuple),
)
FLAGS = st.sampled_from((0, 0, 0, 0, END_STREAM))


@given(st.lists(st.tuples(IDS, TEXTS, FLAGS), max_size=8), st.lists(st.integers(1, 4000)))
def test_runs_equal_frames(
    groups: list[tuple[tuple[int, ...], bytes, int]], cuts: list[int]
) -> None:
    """Whole, in pieces, or a frame at a time: the same."""
    data = b"".join(frame(DATA, flags, each, text) for ids, text, flags in groups for each in ids)
    whole, pieces, single = (
        connected(40, stalls=2),
        connected(40, stalls=2),
        connected(40, stalls=2),
    )
    whole.receive(data, NOW)
    at = 0
    for end in sorted({*(cut for cut in cuts if cut < len(data)), len(data)}):
        pieces.receive(data[at:end], NOW)
        at = end
    for each in _split(bytearray(data)):
        single.receive(frame(each.kind, each.flags, each.stream, each.payload), NOW)
    assert story(whole) == story(single)
    assert story(pieces) == story(single)


def test_a_fan_out_is_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the property above does compare two paths."""
    wire = connected(100)
    monkeypatch.setattr(wire, "_data", None)
    wire.receive(b"".join(frame(DATA, 0, 2 * n + 1, event(1)) for n in range(100)), NOW)
    assert wire._tabs.tally(1, 1).delivered == 100
    assert wire._tabs.latency == {5: 100}


# -- requests


def test_requests_are_an_eventsource_s() -> None:
    wire = Http2(tabs := Tabs(), Memory(), "localhost:1", "/events?topic=a")
    assert not wire.ready
    wire.receive(settings_frame({}), NOW)
    assert wire.ready
    tabs.add(3)
    tabs.saw_id(2, b"mine-7")
    wire.ask([0, 1, 2], b"all-1", NOW)
    settings, window, ack, *requests = sent(wire)
    assert settings.settings == {1: 65_536, 2: 0, 4: 6_291_456, 6: 262_144}
    assert window.payload == (15_663_105).to_bytes(4, "big")
    assert (ack.kind, ack.flags) == (SETTINGS, ACK)
    assert [each.stream for each in requests] == [1, 3, 5]
    assert all(each.flags == END_STREAM | END_HEADERS for each in requests)
    decoder = hpack.Decoder()
    fields = [fields_of(decoder, each) for each in requests]
    assert [each.pop("last-event-id") for each in fields] == ["all-1", "all-1", "mine-7"]
    assert fields[0] == fields[1] == fields[2]
    assert fields[0][":path"] == "/events?topic=a"
    assert len(requests[1].payload) < len(requests[0].payload) / 3


@pytest.mark.parametrize("size", [0, 100, 4096, 65_536])
def test_requests_obey_the_server_s_table(size: int) -> None:
    wire = Http2(tabs := Tabs(), Memory(), "localhost:1", "/events?topic=a")
    wire.receive(settings_frame({1: size}), NOW)
    wire.ask(list(tabs.add(2)), b"", NOW)
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = size
    for each in sent(wire)[-2:]:
        assert fields_of(decoder, each)["accept"] == "text/event-stream"


def test_a_long_id_is_written_right() -> None:
    wire = Http2(tabs := Tabs(), Memory(), "localhost", "/")
    wire.ask(list(tabs.add(1)), b"x" * 5000, NOW)
    assert fields_of(hpack.Decoder(), sent(wire)[-1])["last-event-id"] == "x" * 5000


def test_the_server_s_limit_is_kept() -> None:
    wire = connected(3, {MAX_CONCURRENT_STREAMS: 3})
    wire.ask(list(wire._tabs.add(2)), b"", NOW)
    assert wire._tabs.failures == {"stream limit 3": 2}
    wire.receive(reset(1), NOW)
    wire.ask(list(wire._tabs.add(1)), b"", NOW)
    assert sent(wire)[-1].stream == 7
    assert wire._tabs.states[5] == Tab.ASKED


# -- answers and ends


def test_answers() -> None:
    wire = Http2(tabs := Tabs(), Memory(), "localhost", "/")
    wire.receive(settings_frame({}), NOW)
    wire.ask(list(tabs.add(5)), b"", NOW)
    encoder = hpack.Encoder()
    early = encoder.encode([(":status", "103")])
    busy = encoder.encode([(":status", "503"), ("x", "y")])
    wire.receive(frame(HEADERS, END_HEADERS, 1, early), NOW)
    wire.receive(
        frame(HEADERS, 0, 3, busy[:1]) + frame(CONTINUATION, END_HEADERS, 3, busy[1:]), NOW
    )
    for stream in (1, 5):
        block = encoder.encode([(":status", "200"), ("x", "y")])
        wire.receive(frame(HEADERS, END_HEADERS | PADDED, stream, b"\2" + block + b"\0\0"), NOW + 1)
    wire.receive(frame(HEADERS, END_HEADERS | END_STREAM, 7, block), NOW)
    wire.receive(reset(9, 7), NOW)
    assert tabs.state.tolist() == [Tab.OPEN, Tab.ENDED, Tab.OPEN, Tab.ENDED, Tab.ENDED]
    assert tabs.opened_at[0] == NOW + 1
    assert tabs.failures == {"status 503": 1, "RST_STREAM REFUSED_STREAM": 1}
    assert tabs.ends == {"end of stream": 1}


def test_the_end_of_a_connection_has_its_reason() -> None:
    wire = connected(4)
    wire.receive(frame(DATA, END_STREAM, 1), NOW)
    wire.receive(frame(GOAWAY, 0, 0, (3).to_bytes(4, "big") + (11).to_bytes(4, "big")), NOW)
    assert wire._tabs.ends == {"end of stream": 1, "GOAWAY ENHANCE_YOUR_CALM": 2}
    wire.closed("closed")
    assert wire._tabs.ends == {"end of stream": 1, "GOAWAY ENHANCE_YOUR_CALM": 3}
    wire = connected(2)
    wire.closed("closed: Connection reset by peer")
    assert wire._tabs.ends == {"closed: Connection reset by peer": 2}


def test_no_answer() -> None:
    wire = Http2(tabs := Tabs(), Memory(), "localhost", "/")
    wire.ask(list(tabs.add(2)), b"", NOW)
    wire.receive(frame(HEADERS, END_HEADERS, 1, OK), NOW)
    wire.output.clear()
    wire.give_up("no answer in 1 s")
    assert [(each.stream, each.code) for each in sent(wire)] == [(3, 8)]
    assert tabs.failures == {"no answer in 1 s": 1}


def test_a_ping_is_answered() -> None:
    wire = connected(1)
    sent(wire)
    wire.receive(ping(b"12345678") + window_update(0, 5), NOW)
    assert sent(wire) == [Frame(PING, ACK, 0, b"12345678")]


def test_a_frame_too_long_ends_the_connection() -> None:
    wire = connected(1)
    wire.receive((16_385).to_bytes(3, "big") + bytes(6), NOW)
    assert wire.over == "frame of 16385 bytes"


# -- windows


@pytest.mark.parametrize("together", [True, False])
def test_windows_are_given_back_when_half_is_used(together: bool) -> None:
    count = 40
    wire = connected(count)
    sent(wire)
    text = event(1, "x" * 16_000)
    used = {2 * n + 1: 0 for n in range(count)} | {0: 0}
    lent = {2 * n + 1: 6_291_456 for n in range(count)} | {0: 15_728_640}
    for _ in range(500):
        frames = [frame(DATA, 0, 2 * n + 1, text) for n in range(count)]
        for data in [b"".join(frames)] if together else frames:
            wire.receive(data, NOW)
        for stream in lent:
            used[stream] += len(text) * (count if stream == 0 else 1)
        for each in sent(wire):
            assert each.kind == WINDOW_UPDATE
            lent[each.stream] += int.from_bytes(each.payload, "big")
    assert all(0 <= lent[n] - used[n] <= 15_728_640 for n in lent)
    assert all(lent[n] - used[n] > 6_291_456 // 2 - len(text) for n in lent if n)
    assert lent[1] > 6_291_456
    assert np.all(wire._tabs.used < 6_291_456 // 2)


def test_stalled_tabs_keep_their_windows() -> None:
    wire = connected(3, stalls=1)
    frames = sent(wire)
    assert frames[0].settings[INITIAL_WINDOW_SIZE] == 65_535
    assert [each.stream for each in frames if each.kind == WINDOW_UPDATE] == [0, 3, 5]
    for _ in range(6):
        wire.receive(b"".join(frame(DATA, 0, n, event(1, "x" * 10_000)) for n in (1, 3, 5)), NOW)
    assert wire._tabs.tally(1, 1).expected == 2
    wire.receive(reset(1), NOW)
    assert wire._tabs.ends == {"stalled: RST_STREAM CANCEL": 1}
    assert [each.stream for each in sent(wire)] == []
