"""The format and its interpretation, clause by clause (HTML Standard, 9.2.5 and 9.2.6)."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from h2sse.sse import HEARTBEAT, MAX_RETRY_MS, Event, Message, Parser, opening

BOM = "\ufeff".encode()

# Every code point that has a UTF-8 form, and often those that have a meaning in the format.
TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("\r\n\0 :\ufeff\u2028\x0b\x85"))
LINE = TEXT.map(lambda text: re.sub("[\r\n]", "", text))
EVENTS = st.builds(
    Event,
    data=TEXT,
    event=st.none() | LINE,
    id=st.none() | LINE.map(lambda text: text.replace("\0", "")),
    retry=st.none() | st.integers(1, MAX_RETRY_MS),
)


def messages(*events: Event, last_event_id: str = "") -> list[Message]:
    """What a tab sees of these events, by the letter of the standard."""
    seen = []
    for event in events:
        last_event_id = last_event_id if event.id is None else event.id
        data = re.sub("\r\n|\r", "\n", event.data)
        seen.append(Message(event.event or "message", data, last_event_id))
    return seen


# -- Event


@given(st.lists(EVENTS))
@example([Event(data="a\revent: forged\n\nid: 1\r\n:x")])
@example([Event(data="a\u2028b\nc\x0bd\x85e\x1ef\rg")])
@example([Event(data=""), Event(data="\n"), Event(data="\r\n\r"), Event(data=" x", event=" y")])
@example([Event(data="x", id=""), Event(data="\ufeff", id="\ufeff"), Event(data="x")])
def test_events_come_back_as_they_were(events: list[Event]) -> None:
    parser = Parser()
    assert parser.feed(b"".join(event.encode() for event in events)) == messages(*events)
    retries = [event.retry for event in events if event.retry is not None]
    assert parser.reconnection_time == (retries[-1] if retries else None)


@given(EVENTS)
def test_an_event_is_one_block_of_its_own_fields(event: Event) -> None:
    *lines, end, nothing = re.split(b"\r\n|\r|\n", event.encode())
    assert (end, nothing) == (b"", b"")
    named = [line.split(b": ", 1)[0].decode() for line in lines]
    given = {"event": bool(event.event), "id": event.id is not None, "retry": event.retry}
    parts = len(re.split("\r\n|\r|\n", event.data))
    assert named == [name for name, there in given.items() if there] + ["data"] * parts


@pytest.mark.parametrize("field", ["event", "id"])
@pytest.mark.parametrize("text", ["a\n", "\rb", "a\r\nb", "\n"])
def test_a_field_of_two_lines_is_refused(field: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be one line"):
        replace(Event(), **{field: text})  # type: ignore[arg-type]  # the name is a parameter


def test_an_id_with_nul_is_refused_but_data_may_hold_one() -> None:
    with pytest.raises(ValueError, match=r"^id must be one line, without CR, LF or NUL:"):
        Event(id="a\0")
    assert Parser().feed(Event(data="\0", event="\0").encode()) == [Message("\0", "\0", "")]


@pytest.mark.parametrize("field", ["data", "event", "id"])
@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\udc80\ud83d"])
def test_a_lone_surrogate_is_refused(field: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} holds a lone surrogate"):
        replace(Event(), **{field: text})  # type: ignore[arg-type]  # the name is a parameter


@pytest.mark.parametrize("retry", [0, -1, MAX_RETRY_MS + 1, True, 1.0, "1"])
def test_a_retry_out_of_bounds_is_refused(retry: int) -> None:
    with pytest.raises(ValueError, match=f"^retry must be 1 to {MAX_RETRY_MS} ms"):
        Event(retry=retry)
    for bound in (1, MAX_RETRY_MS):
        assert Event(retry=bound).encode() == b"retry: %d\ndata: \n\n" % bound


def test_a_heartbeat_is_a_whole_block_that_says_nothing() -> None:
    parser = Parser(last_event_id="7")
    block = Event(data="x").encode()
    assert parser.feed(HEARTBEAT + block + HEARTBEAT) == [Message("message", "x", "7")]
    assert (parser.last_event_id, parser.reconnection_time) == ("7", None)


def test_an_opening_sets_the_place_without_an_event() -> None:
    parser = Parser()
    assert parser.feed(opening(retry=3000)) == []
    assert (parser.last_event_id, parser.reconnection_time) == ("", 3000)
    assert parser.feed(opening(retry=20, id="run-7")) == []
    assert (parser.last_event_id, parser.reconnection_time) == ("run-7", 20)


# -- Parser


class Seen(NamedTuple):
    """What a parser has said and knows at the end of a stream."""

    messages: list[Message]
    last_event_id: str = ""
    reconnection_time: int | None = None


def data(*texts: str) -> list[Message]:
    return [Message("message", text, "") for text in texts]


NOTHING = Seen([])
X = Seen(data("x"))
XY = Seen(data("x", "y"))

STREAMS: dict[str, tuple[bytes, Seen]] = {
    # The standard's own examples.
    "stocks": (b"data: YHOO\ndata: +2\ndata: 10\n\n", Seen(data("YHOO\n+2\n10"))),
    "four blocks": (
        b": test\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
        Seen([Message("message", "first event", "1"), *data("second event")]),
    ),
    "empty data": (b"data\n\ndata\ndata\n\ndata:", Seen(data("", "\n"))),
    "the same": (b"data:x\n\ndata: y\n\n", XY),
    # A byte order mark, once and only at the start.
    "bom": (BOM + b"data: x\n\n", X),
    "bom alone": (BOM, NOTHING),
    "bom, blank line": (BOM + b"\ndata: x\n\n", X),
    "two boms": (BOM * 2 + b"data: x\n\n", NOTHING),
    "bom later": (b"data: x\n\n" + BOM + b"data: y\n\n", X),
    # Line ends.
    "cr": (b"data: x\r\r", X),
    "crlf": (b"data: x\r\n\r\n", X),
    "mixed": (b"data: x\r\n\rdata: y\n\r\ndata: z\r\n\n", Seen(data("x", "y", "z"))),
    "crlf, lf": (b"data: x\r\n\ndata: y\r\r", XY),
    "crlf is one end": (b"data: x\r\ndata: y\r\n\r\n", Seen(data("x\ny"))),
    "lf, cr is two": (b"data: x\n\rdata: y\n\n", XY),
    "no other end": (
        b"data: a\x0bb\x0cc\x1cd\xc2\x85e\xe2\x80\xa8f\n\n",
        Seen(data("a\x0bb\x0cc\x1cd\x85e\u2028f")),
    ),
    "only ends": (b"\n\r\n\r\r\n\n", NOTHING),
    # Names and values.
    "two spaces": (b"data:  x\n\n", Seen(data(" x"))),
    "a space after": (b"data: x \n\n", Seen(data("x "))),
    "a tab": (b"data:\tx\n\n", Seen(data("\tx"))),
    "two colons": (b"data::x\n\n", Seen(data(":x"))),
    "nul": (b"data: \0\n\n", Seen(data("\0"))),
    "a space in the name": (b" data: y\ndata : y\ndata: x\n\n", X),
    "case": (b"Data: y\nDATA: y\ndata: x\nEvent: e\n\n", X),
    "unknown": (b"datas: y\nevents: e\nx\ndata: x\n\n", X),
    "comment": (b":data: y\n: y\n:\ndata: x\n:\n\n", X),
    # Types.
    "type": (b"event: a\ndata: x\n\ndata: y\n\n", Seen([Message("a", "x", ""), *data("y")])),
    "the last type": (b"event: a\nevent: b\ndata: x\n\n", Seen([Message("b", "x", "")])),
    "type emptied": (b"event: a\nevent\ndata: x\n\n", X),
    "type without data": (b"event: a\n\ndata: x\n\n", X),
    # IDs.
    "id": (
        b"id: 1\ndata: x\n\ndata: y\n\n",
        Seen([Message("message", "x", "1"), Message("message", "y", "1")], "1"),
    ),
    "id emptied": (
        b"id: 1\ndata: x\n\nid\ndata: y\n\n",
        Seen([Message("message", "x", "1"), *data("y")]),
    ),
    "id with nul": (b"id: 1\nid: 2\0\ndata: x\n\n", Seen([Message("message", "x", "1")], "1")),
    "id in utf-8": (
        "id: é€😀\ndata: x\n\n".encode(),
        Seen([Message("message", "x", "é€😀")], "é€😀"),
    ),
    "id without data": (b"id: 9\n\n", Seen([], "9")),
    "id without end": (b"id: 9\n", NOTHING),
    # Reconnection times: ASCII digits and nothing else, with no blank line to wait for.
    "retry": (b"retry: 200\n", Seen([], "", 200)),
    "retry, zeros": (b"retry:007\n", Seen([], "", 7)),
    "retry 0": (b"retry:0\n", Seen([], "", 0)),
    "the last retry": (b"retry: 5\nretry: 6\nretry: x\n", Seen([], "", 6)),
    "retry without end": (b"retry: 200", NOTHING),
    "signs": (b"retry\nretry: -1\nretry: +1\nretry: 1.5\nretry: 1e3\nretry: 1_0\n", NOTHING),
    "blanks": (b"retry:  1\nretry: 1 \nretry: \n", NOTHING),
    "not ascii digits": ("retry: ١\nretry: ²\nretry: ０\n".encode(), NOTHING),
    # An unfinished block is dropped.
    "no blank line": (b"data: x\n\nid: 5\ndata: y\n", X),
    "no line end": (b"data: x\n\ndata: y", X),
    # Bytes that are not UTF-8: one U+FFFD for each maximal part of a sequence.
    "bad utf-8": (
        b"data: \xff\xc3\ndata: \xe2\x82x\xf0\x9f\x98\nevent: \x80\nid: \xc0\x80\n\n",
        Seen([Message("\ufffd", "\ufffd\ufffd\n\ufffdx\ufffd", "\ufffd\ufffd")], "\ufffd\ufffd"),
    ),
    "a surrogate": (b"data: \xed\xa0\x80\n\n", Seen(data("\ufffd" * 3))),
    "bad utf-8 in a name": (b"\xffdata: y\ndata\xff: y\ndata: x\n\n", X),
    "nothing": (b"", NOTHING),
}


def parsed(*chunks: bytes) -> Seen:
    parser = Parser()
    found = [message for chunk in chunks for message in parser.feed(chunk)]
    return Seen(found, parser.last_event_id, parser.reconnection_time)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    return [stream[a:b] for a, b in pairwise([0, *sorted(places), len(stream)])]


@pytest.mark.parametrize(("stream", "expected"), STREAMS.values(), ids=STREAMS)
def test_interpretation(stream: bytes, expected: Seen) -> None:
    assert parsed(stream) == expected
    assert parsed(*cut(stream, list(range(len(stream))))) == expected


@pytest.mark.parametrize("length", [18, 19, 5000])
def test_a_retry_may_have_any_number_of_digits(length: int) -> None:
    zeros, nines = b"0" * length, b"9" * length
    block = b"data: x\n\n"
    assert parsed(b"retry: " + zeros + b"3\n" + block) == Seen(data("x"), "", 3)
    # Longer than the universe will last: as good as none.
    assert parsed(b"retry: " + nines + b"\n" + block)[:2] == X[:2]


# What meets in every order: line ends, names and bad UTF-8 above all.
STREAM = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b":", b" ", b"data", b"data: x", b"id", b"event:"])
    | st.sampled_from([b"retry: 12", b"\0", BOM])
    | st.binary(max_size=4)
).map(b"".join)


@given(st.data(), STREAM | st.sampled_from([stream for stream, _ in STREAMS.values()]))
def test_cuts_change_nothing(draw: st.DataObject, stream: bytes) -> None:
    places = draw.draw(st.lists(st.integers(0, len(stream))))
    assert parsed(*cut(stream, places)) == parsed(stream)


@given(STREAM)
def test_interpretation_is_that_of_the_standard(stream: bytes) -> None:
    assert parsed(stream) == by_the_letter(stream)


def by_the_letter(stream: bytes) -> Seen:
    """HTML 9.2.6, sentence by sentence, on a whole stream."""
    *lines, _ = re.split("\r\n|\r|\n", stream.decode(errors="replace").removeprefix("\ufeff"))
    found = []
    buffer, kind, id_buffer, last_event_id = "", "", "", ""
    retry = None
    for line in lines:
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            last_event_id = id_buffer
            if buffer:
                text = buffer.removesuffix("\n")
                found.append(Message(kind or "message", text, last_event_id))
            buffer = kind = ""
        elif colon and not field:
            pass
        elif field == "event":
            kind = value
        elif field == "data":
            buffer += value + "\n"
        elif field == "id" and "\0" not in value:
            id_buffer = value
        elif field == "retry" and re.fullmatch("[0-9]{1,18}", value):
            retry = int(value)
    return Seen(found, last_event_id, retry)


def test_a_new_connection_keeps_the_last_event_id() -> None:
    # By the letter the buffer starts empty again; every browser keeps the id.
    parser = Parser(last_event_id="7")
    assert parser.last_event_id == "7"
    assert parser.feed(b"data: x\n\n") == [Message("message", "x", "7")]


@given(st.data(), STREAM)
def test_what_is_unfinished_is_counted(draw: st.DataObject, stream: bytes) -> None:
    """A reader that bounds both counts bounds all that a parser keeps."""
    parser = Parser()
    for chunk in cut(stream, draw.draw(st.lists(st.integers(0, len(stream))))):
        parser.feed(chunk)
        assert parser.unfinished_line_bytes == len(b"".join(parser._tail))
        assert parser.unfinished_event_chars == sum(len(line) + 1 for line in parser._data)
