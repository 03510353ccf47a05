# ruff: noqa: E501 - lines of a trace are as long as they are
"""What a trace says: lines for a scripted conversation, at any chunking, whatever the bytes are."""

from __future__ import annotations

import errno
import json
import os
import re
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import hpack
import pytest
import trio
import trio.testing
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
    PADDED,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    Served,
    certificates,
    frame,
    ping,
    reset,
    settings_frame,
    window_update,
)

import h2sse
from h2sse.errors import ConfigError
from h2sse.trace import Taps, Tracer, TraceRecord, http2
from h2sse.trace.events import Scanner, said, subject
from h2sse.trace.output import TraceOutput
from h2sse.trace.record import shown, shown_fields, shown_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

NOW = 1_700_000_000.0
EVENT = b"event: tick\nid: e-1\ndata: x\n\n"

Side = Literal["in", "out"]
Script = list[tuple[Side, bytes]]


def section(encoder: hpack.Encoder, *fields: tuple[str, str]) -> bytes:
    return bytes(encoder.encode(fields))


def request(encoder: hpack.Encoder, path: str, *more: tuple[str, str]) -> bytes:
    return section(encoder, (":method", "GET"), (":path", path), (":authority", "localhost"), *more)


def streaming(encoder: hpack.Encoder) -> bytes:
    return section(encoder, (":status", "200"), ("content-type", "text/event-stream"))


def conversation() -> Script:
    """Two tabs of one topic, and all else that there is, as our end sees it."""
    browser, server = hpack.Encoder(), hpack.Encoder()
    whole = END_HEADERS | END_STREAM
    first = request(browser, "/events?topic=a&topic=c")
    long = request(browser, "/events?topic=b", ("cookie", "a=secret"), ("user-agent", "U A"))
    return [
        ("out", settings_frame({3: 256})),
        ("in", PREFACE + settings_frame({INITIAL_WINDOW_SIZE: 1000, 0x1A1A: 7})),
        ("in", window_update(0, 100)),
        ("out", frame(4, ACK, 0)),
        ("in", frame(4, ACK, 0)),
        ("in", frame(HEADERS, whole, 1, first)),
        ("out", frame(HEADERS, END_HEADERS, 1, streaming(server))),
        ("in", frame(HEADERS, END_STREAM, 3, long[:5])),
        ("in", frame(CONTINUATION, END_HEADERS, 3, long[5:])),
        ("out", frame(HEADERS, END_HEADERS, 3, streaming(server))),
        ("out", frame(DATA, 0, 1, b"retry: 3000\nid: e-0\n\n")),
        ("out", frame(DATA, 0, 1, EVENT) + frame(DATA, 0, 3, EVENT)),
        ("out", frame(DATA, 0, 1, b":\n\n")),
        ("out", frame(DATA, 0, 1, EVENT * 2 + b"da")),
        ("out", frame(DATA, 0, 1, b"ta: y")),
        ("in", window_update(1, 50)),
        ("in", ping(b"12345678")),
        ("out", frame(6, ACK, 0, b"12345678")),
        ("in", frame(PRIORITY, 0, 3, bytes(5))),
        ("in", frame(0xFA, 0, 0, b"grease")),
        ("in", reset(3)),
        ("out", frame(DATA, END_STREAM, 1, b"")),
        (
            "in",
            frame(
                HEADERS,
                END_HEADERS,
                5,
                section(browser, (":method", "POST"), (":path", "/publish")),
            ),
        ),
        ("in", frame(DATA, END_STREAM | PADDED, 5, b"\x02{}\0\0")),
        ("out", frame(RST_STREAM, 0, 5, (7).to_bytes(4, "big"))),
        ("out", frame(GOAWAY, 0, 0, (2**31 - 1).to_bytes(4, "big") + bytes(4))),
        ("out", frame(GOAWAY, 0, 0, (5).to_bytes(4, "big") + bytes(4))),
        ("in", frame(GOAWAY, 0, 0, bytes(4) + (1).to_bytes(4, "big") + b"bye\x1b[2J")),
    ]


# Without the time and the connection's number, which each line begins with.
LINES = """\
--        OPEN                  HTTP/2 over TLS with 192.0.2.7
-> s0     SETTINGS           6  MAX_CONCURRENT_STREAMS 256
<-        PREFACE           24  the client begins HTTP/2
<- s0     SETTINGS          12  INITIAL_WINDOW_SIZE 1000, unknown 0x1a1a 7
<- s0     WINDOW_UPDATE      4  100 bytes more may come  [connection window 65635]
-> s0     SETTINGS           0  acknowledges the other side's SETTINGS  [ACK]
<- s0     SETTINGS           0  acknowledges the other side's SETTINGS  [ACK]
<- s1     HEADERS           NN  GET /events?topic=a&topic=c at localhost  [END_STREAM END_HEADERS]
-> s1     HEADERS           NN  200 an event stream, topics a, c, content-type: text/event-stream  [END_HEADERS]
<- s3     HEADERS            5  a part of a header section  [END_STREAM]
<- s3     CONTINUATION      NN  GET /events?topic=b at localhost, cookie: (8 bytes, not shown), user-agent: "U A"  [END_HEADERS]
-> s3     HEADERS           NN  200 an event stream, topic b, content-type: text/event-stream  [END_HEADERS]
-> s1     DATA              21  retry 3000, id e-0, topics a, c  [stream window 979, connection window 65614]
->        WRITE             76  the frames of 2 tabs in one TLS write
-> s1     DATA              29  event tick, id e-1, topics a, c  [stream window 950, connection window 65585]
-> s3     DATA              29  event tick, id e-1, topic b  [stream window 971, connection window 65556]
-> s1     DATA               3  a comment (heartbeat), topics a, c  [stream window 947, connection window 65553]
-> s1     DATA              60  event tick, id e-1 + event tick, id e-1 + the begin of the next, topics a, c  [stream window 887, connection window 65493]
-> s1     DATA               5  a part of an event, topics a, c  [stream window 882, connection window 65488]
<- s1     WINDOW_UPDATE      4  50 bytes more may come of topics a, c  [stream window 932]
<- s0     PING               8  asks for 3132333435363738 back
-> s0     PING               8  brings 3132333435363738 back, answered after 0.000 ms  [ACK]
<- s3     PRIORITY           5  a priority of RFC 7540, which nobody heeds any more
<- s0     0xfa               6  a frame of an extension, to be ignored
<- s3     RST_STREAM         4  CANCEL: no longer wanted: an EventSource closed, or its page left (topic b)
-> s1     DATA               0  nothing more, topics a, c; the stream ends, its EventSource will come back  [END_STREAM, stream window 932, connection window 65488]
<- s5     HEADERS           NN  POST /publish  [END_HEADERS]
<- s5     DATA               5  2 bytes of the request's body /publish  [END_STREAM PADDED, stream window 65530, connection window 65530]
-> s5     RST_STREAM         4  REFUSED_STREAM: nothing was done with the request: it may be sent again at once (/publish)
-> s0     GOAWAY             8  NO_ERROR: nothing is wrong; will close soon: open no new streams, those on their way still count
-> s0     GOAWAY             8  NO_ERROR: nothing is wrong; streams above 5 were not looked at and may be sent again elsewhere
<- s0     GOAWAY            15  PROTOCOL_ERROR: a rule of HTTP/2 was broken; streams above 0 were not looked at and may be sent again elsewhere, it says "bye\\x1b[2J"
--        CLOSE                 after 0.0 s; III bytes received, OOO sent
"""

HTTP1: Script = [
    ("in", b"\r\nPOST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
    ("out", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
    (
        "in",
        b"HEAD /a HTTP/1.1\r\n\r\nGET /events?topic=n HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n",
    ),
    ("out", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
    ("out", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"),
    ("out", b"Transfer-Encoding: chunked\r\n\r\n"),
    ("out", b"%x\r\n%b\r\n" % (len(EVENT), EVENT)),
    ("out", b"3;x=y\r\n:\n\n\r\n0\r\nx: y\r\n\r\n"),
]

HTTP1_LINES = """\
--        OPEN                  HTTP/1.1 over TLS with 192.0.2.7
<- s1     REQUEST           NN  POST /publish HTTP/1.1, host: a, content-length: 5
<- s1     BODY               5  of the request's body /publish
-> s1     RESPONSE          NN  200 for /publish, content-length: 2
-> s1     BODY               2  of the response's body /publish
<- s2     REQUEST           NN  HEAD /a HTTP/1.1
<- s3     REQUEST           NN  GET /events?topic=n HTTP/1.1, authorization: (8 bytes, not shown)
-> s2     RESPONSE          NN  200 for /a, content-length: 9
-> s3     RESPONSE          NN  100 for topic n
-> s3     RESPONSE          NN  200 an event stream, for topic n, content-type: text/event-stream, transfer-encoding: chunked
-> s3     CHUNK             29  event tick, id e-1, topic n
-> s3     CHUNK              3  a comment (heartbeat), topic n
-> s3     CHUNK              0  the last one; the stream ends, its EventSource will come back
--        CLOSE                 after 0.0 s; III bytes received, OOO sent
"""


def trace(
    script: Iterable[tuple[Side, bytes]], protocol: Literal["h2", "http/1.1"] = "h2"
) -> list[TraceRecord]:
    tracer = Tracer(1, protocol)
    records = [*tracer.begin("192.0.2.7", NOW)]
    for side, data in script:
        records += (tracer.received if side == "in" else tracer.sent)(data, NOW)
    return [*records, *tracer.end(NOW)]


def lines(records: Sequence[TraceRecord]) -> list[str]:
    """Their lines without what stands first, and without lengths that are HPACK's affair."""
    found = []
    for each in records:
        line = each.line()
        assert re.match(r"\d\d:\d\d:\d\d\.\d{6} c1   (<-|->|--) ", line), line
        line = line[21:]
        if each.type in ("HEADERS", "CONTINUATION", "REQUEST", "RESPONSE") and each.length != 5:
            line = f"{line[:24]}    NN{line[30:]}"
        if each.type == "CLOSE":
            line = re.sub(r"\d+ bytes received, \d+ sent", "III bytes received, OOO sent", line)
        found.append(line)
    return found


def bytewise(script: Script) -> Script:
    return [(side, data[i : i + 1]) for side, data in script for i in range(len(data))]


@pytest.mark.parametrize(
    ("protocol", "script", "expected"),
    [("h2", conversation(), LINES), ("http/1.1", HTTP1, HTTP1_LINES)],
)
def test_lines(protocol: Literal["h2", "http/1.1"], script: Script, expected: str) -> None:
    assert lines(trace(script, protocol)) == expected.splitlines()


@pytest.mark.parametrize(("protocol", "script"), [("h2", conversation()), ("http/1.1", HTTP1)])
def test_the_same_byte_by_byte(protocol: Literal["h2", "http/1.1"], script: Script) -> None:
    whole = [each for each in trace(script, protocol) if each.type != "WRITE"]
    assert trace(bytewise(script), protocol) == whole


def test_json_says_the_same() -> None:
    records = trace(conversation())
    found = [json.loads(each.json()) for each in records]
    assert all(
        each["meaning"] == record.meaning for each, record in zip(found, records, strict=True)
    )
    by_type = {each["type"]: each for each in found}
    assert by_type["WRITE"]["tabs"] == 2
    assert by_type["RST_STREAM"]["error"] == "REFUSED_STREAM"
    assert found[3]["settings"] == [["INITIAL_WINDOW_SIZE", 1000], ["unknown 0x1a1a", 7]]
    assert ["cookie", "(8 bytes, not shown)"] in by_type["CONTINUATION"]["fields"]
    [event] = [each for each in found if each.get("stream") == 3 and each["type"] == "DATA"]
    assert event["events"] == [{"event": "tick", "id": "e-1"}]
    assert (event["path"], event["of"]) == ("/events", "topic b")
    assert (event["stream_window"], event["connection_window"]) == (971, 65556)


def test_the_client_sees_the_same_the_other_way_round() -> None:
    swapped: Script = [("out" if side == "in" else "in", data) for side, data in conversation()]
    tracer = Tracer(1, "h2", client=True)
    records: list[TraceRecord] = []
    for side, data in swapped:
        records += (tracer.received if side == "in" else tracer.sent)(data, NOW)
    ours = [each for each in trace(conversation())[1:-1] if each.type != "WRITE"]
    assert [(r.type, r.meaning) for r in records if r.type != "PING"] == [
        (r.type, r.meaning) for r in ours if r.type != "PING"
    ]
    assert [r.stream_window for r in records] == [r.stream_window for r in ours]


def test_windows_follow_settings_also_below_zero() -> None:
    browser, server = hpack.Encoder(), hpack.Encoder()
    script: Script = [
        ("in", PREFACE),
        ("in", frame(HEADERS, END_HEADERS | END_STREAM, 1, request(browser, "/"))),
        ("out", frame(HEADERS, END_HEADERS, 1, streaming(server))),
        ("out", frame(DATA, 0, 1, b"x" * 100)),
        ("in", settings_frame({INITIAL_WINDOW_SIZE: 50})),
        ("in", window_update(1, 40)),
        ("out", frame(DATA, 0, 1, b"x")),
        ("in", window_update(1, 2**31 - 1)),
        ("in", window_update(1, 12)),
    ]
    *_, first, last, _, over, _ = trace(script)
    assert first.stream_window == 50 - 100 + 40
    assert last.stream_window == -11
    assert last.meaning.endswith("MORE THAN THE WINDOW")
    assert "OVER 2147483647" in over.meaning


def test_a_round_trip_is_timed() -> None:
    tracer = Tracer(1, "h2")
    tracer.received(PREFACE, NOW)
    tracer.sent(ping(b"12345678"), NOW)
    [record] = tracer.received(frame(6, ACK, 0, b"12345678"), NOW + 0.25)
    assert record.meaning.endswith("a round trip of 250.000 ms")
    assert dict(record.details)["ms"] == 250


# -- what cannot be read


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n", 'this way: no HTTP/2 preface: "GET / HTTP/1.1\\x0d\\x0a"'),
        (PREFACE + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff"), "the fields: "),
        (PREFACE + frame(HEADERS, END_HEADERS | PADDED, 1, b"\x09"), "it: more padding than frame"),
        (PREFACE + frame(CONTINUATION, END_HEADERS, 1), "it: there is no section to continue"),
        (PREFACE + frame(DATA, PADDED, 1, b""), "it: more padding than frame"),
        (PREFACE + frame(4, 0, 0, b"x"), "it: a setting has 6 bytes"),
        (PREFACE + frame(6, 0, 0, b"x"), "it: it must have 8 bytes"),
        (PREFACE + frame(7, 0, 0, b"x"), "it: it must have 8 bytes"),
        (PREFACE + frame(8, 0, 0, b"x"), "it: it must have 4 bytes"),
        (PREFACE + frame(RST_STREAM, 0, 1, b"x"), "it: it must have 4 bytes"),
        (PREFACE + b"\xff\xff\xff\0\0\0\0\0\1", "a frame over 65536 bytes"),
        (PREFACE + frame(DATA, 0, 1, b"x")[:-1], "a frame that breaks off"),
    ],
)
def test_what_cannot_be_read_is_said(data: bytes, why: str) -> None:
    record, *_ = [each for each in trace([("in", data)]) if not each.readable]
    assert record.meaning.startswith(f"cannot read {why}")


def test_a_lost_state_hides_fields_not_frames() -> None:
    good = request(hpack.Encoder(), "/a")
    script: Script = [
        ("in", PREFACE + frame(HEADERS, 0, 1, good[:1])),  # never continued
        ("in", ping(b"12345678")),
        ("in", frame(HEADERS, END_HEADERS, 3, good)),
        ("in", frame(PUSH_PROMISE, END_HEADERS, 3, bytes(4) + good)),
        ("in", frame(DATA, 0, 3, b"abc")),
    ]
    found = [each.meaning for each in trace(script)[3:-1]]
    lost = "cannot read the fields: the state of HPACK is lost"
    assert found == [
        "asks for 3132333435363738 back",
        lost,
        lost,
        "3 bytes of the request's body",
    ]


def test_a_frame_too_large_is_passed_over() -> None:
    size = 100_000
    big = size.to_bytes(3, "big") + b"\0\0\0\0\0\1" + b"x" * size
    found = trace([*bytewise([("in", PREFACE)]), ("in", big[:50_000]), ("in", big[50_000:])])
    [record] = [each for each in found if each.type == "DATA"]
    assert (record.length, record.connection_window) == (size, 65_535 - size)
    after = trace([("in", PREFACE + big + ping(b"12345678"))])
    assert [each.type for each in after] == ["OPEN", "PREFACE", "DATA", "PING", "CLOSE"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ([("in", b"\x16\x03\x01 hello\r\n\r\n")], "an HTTP/1.1 request: "),
        ([("out", b"what\r\n\r\n")], "an HTTP/1.1 response: what; followed no further this way"),
        ([("in", b"x" * 70_000)], "a head over 65536 bytes"),
        ([("in", b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")], "the size of a"),
        (
            [("in", b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n")],
            "what follows",
        ),
        ([("in", b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 5000)], "a line"),
        ([("in", b"GET / HTTP/1.1\r\n\r\n" * 1025)], "over 1024 requests without an answer"),
        ([("in", b"GET / HT")], "what breaks off"),
    ],
)
def test_what_is_no_http1_is_said_once(script: Script, why: str) -> None:
    more: Script = [*script, (script[0][0], b"")]
    [record] = [each for each in trace(more, "http/1.1") if not each.readable]
    assert record.meaning.startswith(f"cannot read {why}")


SIDES = st.sampled_from(["in", "out"])
FRAMES = st.builds(
    frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.integers(0, 7),
    st.one_of(st.binary(max_size=40), st.builds(lambda p: request(hpack.Encoder(), p), st.text())),
)
PIECES = st.one_of(
    st.binary(max_size=300),
    FRAMES,
    st.sampled_from([data for _, data in conversation() + HTTP1]),
)


@given(st.lists(st.tuples(SIDES, PIECES), max_size=30), st.booleans(), st.booleans())
def test_any_bytes_make_lines_and_no_errors(
    script: list[tuple[Side, bytes]], http1: bool, begun: bool
) -> None:
    tracer = Tracer(1, "http/1.1" if http1 else "h2")
    records = [*tracer.begin("192.0.2.7", NOW)]
    if begun:
        records += tracer.received(PREFACE, NOW)
    for side, data in script:
        records += (tracer.received if side == "in" else tracer.sent)(data, NOW)
        assert tracer.held <= 2 * (64 * 1024 + 64 * 1024)
    for record in [*records, *tracer.end(NOW)]:
        line = record.line()
        assert line.isprintable()
        assert len(line.splitlines()) == 1
        assert json.loads(record.json())["type"] == record.type
        assert record.json().isascii()


@given(st.lists(st.tuples(SIDES, PIECES), max_size=12), st.booleans())
def test_any_bytes_mean_the_same_byte_by_byte(
    script: list[tuple[Side, bytes]], begun: bool
) -> None:
    start: Script = [("in", PREFACE)] if begun else []
    whole = [each for each in trace([*start, *script]) if each.type != "WRITE"]
    found = trace(bytewise([*start, *script]))
    assert [(r.type, r.stream, r.length) for r in found] == [
        (r.type, r.stream, r.length) for r in whole
    ]


def test_memory_is_bounded_whatever_a_peer_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "_STREAMS", 100)
    block = request(hpack.Encoder(), "/events?topic=" + "t" * 200)
    tracer = Tracer(1, "h2")
    tracer.received(PREFACE, NOW)

    def storm(first: int) -> None:
        for stream in range(first, first + 1_000, 2):
            tracer.received(frame(HEADERS, END_HEADERS, stream, block), NOW)
            tracer.received(ping(stream.to_bytes(8, "big")), NOW)
            tracer.received(settings_frame({3: 1}), NOW)

    storm(1)
    tracemalloc.start()
    try:
        storm(1_001)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A hundred streams took the place of others, which were made before we counted.
    assert kept < 100 * 3_000


# -- what may be shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"plain/value;q=0.1", "plain/value;q=0.1"),
        (b"two words", '"two words"'),
        (b'a"b\\', '"a\\"b\\\\"'),
        (b"a\r\nb\x1b]0;x\x07\x9b2J", '"a\\x0d\\x0ab\\x1b]0;x\\x07\\x9b2J"'),
        ("é\u202e\u2028\ufeff\U0001f600", '"é\\u{202e}\\u{2028}\\u{feff}\U0001f600"'),
        (b"\xc2\x85\xff", '"\\x85\\xff"'),
        (b"x" * 300, f'"{"x" * 256}..."'),
        (b"", '""'),
    ],
)
def test_text_of_a_peer_is_quoted_and_escaped(text: bytes | str, expected: str) -> None:
    assert shown(text) == expected
    assert shown(text).isprintable()


def test_credentials_are_not_shown() -> None:
    fields: list[tuple[bytes, bytes]] = [
        (b"authorization", b"Bearer abc"),
        (b"Cookie", b"a=abc"),
        (b"set-cookie", b"abc"),
        (b"referer", b"https://a/?x=1&access_token=abc#top"),
        hpack.NeverIndexedHeaderTuple(b"x-mine", b"abc"),
    ]
    said_of = dict(shown_fields(fields))
    assert "abc" not in str(said_of)
    assert said_of["referer"] == "https://a/?x=1&access_token=***#top"
    assert dict(shown_fields(fields, secrets=True))["authorization"] == '"Bearer abc"'
    assert shown_path("/e?topic=a&TOKEN=abc&key=1") == "/e?topic=a&TOKEN=***&key=***"
    assert shown_path("/e?topic=token&monkey=1") == "/e?topic=token&monkey=1"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/events?topic=a", "topic a"),
        ("/events?topic=a%20b&x=1&topic=c", 'topics "a b", c'),
        ("/events?" + "&".join(f"topic={n}" for n in range(6)), "topics 0, 1, 2, 3 and 2 more"),
        ("/clock/stream?x=topic", "/clock/stream"),
        ("/?" + "topic=x&" * 200, "/"),
    ],
)
def test_what_a_stream_is_about(target: str, expected: str) -> None:
    assert subject(target) == expected


@given(
    st.lists(
        st.sampled_from([b"id: 7", b"event: e", b"data", b":", b"\n", b"\r", b"\r\n", b"x" * 400]),
        max_size=20,
    ),
    st.lists(st.integers(1, 9)),
)
def test_events_are_those_of_the_parser(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    scanner, parser = Scanner(), h2sse.Parser()
    messages = parser.feed(stream)
    blocks = []
    at = 0
    for size in [*cuts, len(stream)]:
        blocks += scanner.feed(stream[at : at + size])
        at += size
    found = [each for each in blocks if each.event]
    assert [(each.type or b"message").decode() for each in found] == [m.event for m in messages]
    ids = [each.id for each in blocks if each.id is not None]
    # As much as is shown of it.
    assert (ids[-1] if ids else b"")[:256] == parser.last_event_id.encode()[:256]


def test_many_events_in_one_frame_are_counted() -> None:
    scanner = Scanner()
    assert said(scanner.feed(b"data\n\n" * 9), amid=False).endswith("event message + and 5 more")


# -- colour


def test_colour_paints_and_changes_no_word() -> None:
    for record in trace(conversation()):
        painted = record.line(colour=True)
        assert "\x1b[" in painted
        assert re.sub(r"\x1b\[\d+m", "", painted) == record.line()


# -- over real sockets


async def test_a_real_conversation(nursery: trio.Nursery) -> None:
    app = h2sse.App()
    found: list[TraceRecord] = []
    taps = Taps(time.time)
    taps.listeners += [lambda _: 1 / 0, found.extend]  # a listener that fails hurts nobody
    config = h2sse.Config(host="127.0.0.1", port=0, tls=h2sse.Tls(directory=certificates()))
    listening = await nursery.start(h2sse.serve, app, config, taps)
    assert isinstance(listening, h2sse.Listening)
    served = Served(app, listening, certificates() / "ca.pem")
    async with served.client() as client:
        tabs = [await client.listen("/events?topic=news") for _ in range(3)]
        app.publish("news", h2sse.Event(data="hello", event="tick"))
        await client.heard(1, *tabs)
        await client.send(reset(tabs[0].id))
        await client.settle()
    await until(lambda: found[-1].type == "CLOSE")
    types = [each.type for each in found]
    assert types[0] == "OPEN"
    assert all(each.readable for each in found)
    at = types.index("WRITE")
    assert dict(found[at].details) == {"tabs": 3, "frames": 3}
    assert {each.stream for each in found[at + 1 : at + 4]} == {tab.id for tab in tabs}
    assert all(
        "event tick" in each.meaning and "topic news" in each.meaning
        for each in found[at + 1 : at + 4]
    )
    # Its account of the windows is the client's own.
    last = {each.stream: each for each in found if each.type == "DATA"}
    assert all(last[tab.id].stream_window == tab.window for tab in tabs)
    sent = [each for each in found if each.direction == "out" and each.type == "DATA"]
    assert sent[-1].connection_window == client.window


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_both_ends_of_a_conversation_tell_the_same(
    nursery: trio.Nursery, protocol: Literal["h2", "http/1.1"]
) -> None:
    app = h2sse.App()
    ends: dict[str, list[TraceRecord]] = {"server": [], "client": []}
    taps = {name: Taps(time.time) for name in ends}
    for name, found in ends.items():
        taps[name].listeners.append(found.extend)
    config = h2sse.Config(host="127.0.0.1", port=0, tls=h2sse.Tls(directory=certificates()))
    listening: h2sse.Listening = await nursery.start(h2sse.serve, app, config, taps["server"])
    url = f"https://127.0.0.1:{listening.addresses[0][1]}/events?topic=news"
    client = h2sse.Client(
        ca_file=certificates() / "ca.pem",
        headers={"authorization": "Bearer secret"},
        taps=taps["client"],
    )
    async with client, client.events(url, http1=protocol != "h2") as source:
        await source.wait_open()
        app.publish("news", h2sse.Event(data="hello", event="tick"))
        await anext(source)
    for found in ends.values():
        await until(lambda found=found: found[-1].type == "CLOSE")  # type: ignore[misc]  # a lambda's default
    ours, theirs = ends["client"], ends["server"]
    assert all(each.readable for each in ours)
    assert f"with 127.0.0.1:{listening.addresses[0][1]}" in ours[0].meaning
    assert "secret" not in "".join(each.line() for each in ours)
    # In each direction the same, in the same order; what is in at one end is out at the other.
    for here, there in (("in", "out"), ("out", "in")):
        assert [
            (each.type, each.stream, each.meaning) for each in ours if each.direction == here
        ] == [(each.type, each.stream, each.meaning) for each in theirs if each.direction == there]
    events = [each for each in ours if "event tick" in each.meaning]
    assert [each.direction for each in events] == ["in"]


# -- output


async def collected(path: Path, *batches: Sequence[TraceRecord], json: bool = False) -> str:
    output = TraceOutput(path, json=json)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.run)
        for each in batches:
            output.write(each)
            await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    output.finish()
    return path.read_text()  # noqa: ASYNC240 - a few KB


async def test_a_file_is_appended_to_and_private(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    records = trace(conversation())
    expected = "".join(each.line() + "\n" for each in records)
    assert await collected(path, records[:5], records[5:]) == expected
    assert await collected(path, records) == 2 * expected
    assert path.stat().st_mode & 0o777 == 0o600
    text = await collected(tmp_path / "trace.jsonl", records, json=True)
    assert [json.loads(each)["type"] for each in text.splitlines()] == [r.type for r in records]


async def test_what_comes_as_the_server_ends_is_written_too(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    output = TraceOutput(path)
    records = trace(conversation())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        output.write(records)
    output.finish()
    assert len(path.read_text().splitlines()) == len(records)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write the trace to .*: Is a directory"):
        TraceOutput(tmp_path)


async def test_a_pipe_that_nobody_reads_is_said_once(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    output = TraceOutput(path)
    os.close(reader)
    records = trace(conversation())
    with trio.fail_after(5):
        output.write(records)
        await output.run()  # which ends: there is nobody to write to any more
    output.write(records)
    output.finish()
    [said_so] = caplog.messages
    assert said_so == f"cannot trace to {path}: [Errno 32] Broken pipe; the trace ends"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
async def test_a_full_disk_pauses_the_trace(
    mock_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    path = tmp_path / "trace.txt"
    output = TraceOutput(Path("/dev/full"))
    records = trace(conversation())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.run)
        output.write(records)
        await until(lambda: caplog.messages)
        output.write(records)  # it pauses: these are counted
        # Somebody makes room.
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, output._fd)
        os.close(file)
        mock_clock.jump(10)
        await trio.testing.wait_all_tasks_blocked(0.01)
        output.write(records[:1])
        await until(lambda: path.stat().st_size)
        nursery.cancel_scope.cancel()
    output.finish()
    [said_so] = caplog.messages
    assert os.strerror(errno.ENOSPC) in said_so
    assert said_so.endswith("the trace pauses until it can")
    gap, line = path.read_text().splitlines()
    assert gap.startswith(f"... {2 * len(records)} lines left out")
    assert line == records[0].line()


async def until(done: Callable[[], object]) -> None:
    """Wait for a thread, which no clock of trio's sees."""
    for _ in range(1_000):
        if done():
            return
        await trio.testing.wait_all_tasks_blocked(0.01)
    raise AssertionError("it never came to be")


async def test_a_reader_that_stops_costs_lines_not_time(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        output = TraceOutput(path)
        records = trace(conversation())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.run)
            output.write(records * 100)  # more than a pipe holds: the thread is stuck from here on
            await trio.testing.wait_all_tasks_blocked(0.05)
            for _ in range(500):
                output.write(records)
            assert output._waiting_bytes < 2**20 + 10_000
            assert output._left_out > 0
            nursery.cancel_scope.cancel()
        output.finish()
    finally:
        os.close(reader)
