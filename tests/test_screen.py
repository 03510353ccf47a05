"""Frames on their way to h2, without a connection: how they are cut, judged and mended.

What comes of it on the wire stands in test_http2.py and test_behaviours.py; how many frames of a
kind may come, in test_guard.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st
from support import frame, ping, settings_frame

from h2sse.config import Limits
from h2sse.flow import Flow
from h2sse.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    GOAWAY,
    HEAD_BYTES,
    HEADERS,
    MAX_WINDOW,
    PREFACE,
    PRIORITY,
    SETTINGS,
)
from h2sse.guard import Guard
from h2sse.http2_requests import Requests, Reset
from h2sse.machine import CLOSED_STREAMS, Machine
from h2sse.patience import Patience
from h2sse.screen import Fault, Screen

LIMITS = Limits()
PADDED, HAS_PRIORITY = 8, 0x20
SETTINGS_FRAME = settings_frame({SettingCodes.INITIAL_WINDOW_SIZE: 100})
BEGINNING = PREFACE + SETTINGS_FRAME
PING = ping(b"12345678")
SECTION = [frame(HEADERS, 0, 1), frame(CONTINUATION, 0, 1), frame(CONTINUATION, END_HEADERS, 1)]
# Streams: whose answer is out, that has none yet, whose answer is not out, that is over, to come.
ANSWERED, ASKED, UNSENT, CLOSED, IDLE = 1, 3, 5, 7, 9


class Bed:
    """A real screen among its real neighbours."""

    def __init__(self) -> None:
        self.machine = Machine(LIMITS)
        self.flow = Flow(self.machine, LIMITS)
        requests = Requests(LIMITS, connection=0, peer="")
        self.patience = Patience(LIMITS, self.machine, self.flow, requests, 0.0)
        self.screen = Screen(self.machine, Guard(LIMITS), self.flow, self.patience)

    def take(self, data: bytes, now: float = 0.0) -> list[bytes]:
        return list(self.screen.whole_frames(data, now))


def busy() -> Bed:
    """One with a stream in each state that matters here."""
    bed = Bed()
    for each in bed.take(BEGINNING):
        bed.machine.receive_data(each)
    for stream in (ANSWERED, ASKED, UNSENT, CLOSED):
        bed.machine.begin(stream, b"", ended=False)
    for stream in (ANSWERED, UNSENT):
        bed.machine.answer(stream, ((b":status", b"200"),), ended=False)
        bed.flow.begin(stream)
    bed.screen.unanswered.add(UNSENT)
    bed.machine.reset_stream(CLOSED)
    bed.machine.forget(CLOSED)
    return bed


def fault(act: Callable[[], object]) -> tuple[ErrorCodes, str]:
    with pytest.raises(Fault) as caught:
        act()
    return caught.value.code, caught.value.reason


# -- cutting


def played(chunks: list[bytes]) -> tuple[list[tuple[bytes, bool]], str | None]:
    """The frames, each with whether a section was open before it, and the reason of the end."""
    screen = Bed().screen
    came: list[tuple[bytes, bool]] = []
    try:
        for chunk in chunks:
            came += ((each, screen.amid_section) for each in screen.whole_frames(chunk, 0.0))
    except Fault as end:
        return came, end.reason
    return came, None


# Two acknowledgements, too many CONTINUATION frames and a frame too long end it.
PAYLOAD = st.binary(max_size=20) | st.sampled_from([bytes(FRAME_BYTES), bytes(FRAME_BYTES + 1)])
FRAME = st.builds(frame, st.integers(0, 10), st.sampled_from([0, 1, 4, 5]), st.just(1), PAYLOAD)


@given(st.lists(FRAME, max_size=12), st.lists(st.integers(0, 400), max_size=20), st.binary())
def test_frames_are_the_same_however_the_bytes_are_cut(
    sent: list[bytes], cuts: list[int], remainder: bytes
) -> None:
    data = BEGINNING + b"".join(sent)
    whole, reason = played([data])
    frames = [each for each, _ in whole]
    assert frames == [SETTINGS_FRAME, *sent][: len(frames)]
    assert reason is not None or len(frames) == 1 + len(sent)
    marks = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert played([data[a:b] for a, b in itertools.pairwise(marks)]) == (whole, reason)
    # Less than a head is never a frame, nor a reason.
    assert played([data + remainder[: HEAD_BYTES - 1]]) == (whole, reason)


def test_a_section_is_open_from_after_its_headers_to_its_last_continuation() -> None:
    sent = [*SECTION, PING, frame(HEADERS, END_HEADERS, 3), PING]
    came, _ = played([BEGINNING + b"".join(sent)])
    assert [amid for _, amid in came[1:]] == [False, True, True, False, False, False]


@pytest.mark.parametrize(
    ("kind", "size", "code", "reason"),
    [
        (DATA, FRAME_BYTES + 1, ErrorCodes.FRAME_SIZE_ERROR, "frame over SETTINGS_MAX_FRAME_SIZE"),
        (0xFA, 2**24 - 1, ErrorCodes.FRAME_SIZE_ERROR, "frame over SETTINGS_MAX_FRAME_SIZE"),
        (SETTINGS, 33 * 6, ErrorCodes.ENHANCE_YOUR_CALM, "too many entries in SETTINGS"),
    ],
)
def test_a_head_is_judged_before_its_body_has_come(
    kind: int, size: int, code: ErrorCodes, reason: str
) -> None:
    head = size.to_bytes(3, "big") + bytes((kind, 0)) + bytes(4)
    bed = Bed()
    bed.take(BEGINNING + head[:-1])
    assert fault(lambda: bed.take(head[-1:])) == (code, reason)
    # What came before it is dealt with first.
    frames = Bed().screen.whole_frames(BEGINNING + PING + head, 0.0)
    assert [next(frames), next(frames)] == [SETTINGS_FRAME, PING]
    assert fault(lambda: next(frames)) == (code, reason)


NO_PREFACE, NO_SETTINGS = "no HTTP/2 preface", "the first frame is not SETTINGS"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"X", NO_PREFACE),
        (b"GET / HTTP/1.1\r\n", NO_PREFACE),
        (PREFACE[:-1] + b"X", NO_PREFACE),
        (SETTINGS_FRAME, NO_PREFACE),
        (PREFACE + PING, NO_SETTINGS),
        (PREFACE + frame(HEADERS, END_HEADERS, 1), NO_SETTINGS),
        (PREFACE + frame(SETTINGS, ACK, 0), NO_SETTINGS),
    ],
)
def test_a_connection_begins_with_preface_and_settings(data: bytes, reason: str) -> None:
    bed = Bed()
    frames = bed.screen.whole_frames(data + BEGINNING, 0.0)
    assert fault(lambda: next(frames)) == (ErrorCodes.PROTOCOL_ERROR, reason)


# -- patience


@pytest.mark.parametrize(
    ("chunks", "due"),
    [
        ([(1, PREFACE), (2, SETTINGS_FRAME[:12])], 10),
        ([(1, PREFACE), (9, SETTINGS_FRAME)], math.inf),
        ([(1, PREFACE), (9, SETTINGS_FRAME + PING[:3])], 19),
        ([(0, BEGINNING), (20, PING[:1]), (25, PING[1:10])], 30),
        ([(0, BEGINNING), (20, PING[:1]), (25, PING[1:])], math.inf),
        ([(0, BEGINNING), (20, PING[:1]), (25, PING[1:] + PING[:1])], 35),
        ([(0, BEGINNING), (20, SECTION[0]), (25, SECTION[1] + SECTION[2][:3])], 30),
        ([(0, BEGINNING), (20, SECTION[0]), (25, SECTION[2])], math.inf),
        ([(0, BEGINNING), (20, SECTION[0]), (25, SECTION[2] + PING[:3])], 35),
        ([(0, BEGINNING), (20, SECTION[0]), (25, SECTION[2] + SECTION[0])], 35),
    ],
)
def test_the_rest_of_a_frame_or_section_is_due(
    chunks: list[tuple[float, bytes]], due: float
) -> None:
    """In `request_seconds`, 10, from its own beginning, however much comes meanwhile."""
    bed = Bed()
    for now, data in chunks:
        bed.take(data, now)
    assert not bed.patience.frame_is_late(min(due, 1e6) - 0.1)
    assert bed.patience.frame_is_late(due) == (due < math.inf)


# -- judging and mending


@pytest.mark.parametrize(
    ("flags", "before", "depends_on", "mended"),
    [
        (HAS_PRIORITY, b"", 5, True),
        (HAS_PRIORITY, b"", 5 | 2**31, True),  # exclusively
        (HAS_PRIORITY | PADDED, b"\0", 5, True),
        (HAS_PRIORITY, b"", 3, False),
        (0, b"", 5, False),  # it is the block that begins so
    ],
)
def test_headers_that_depend_on_themselves_are_mended(
    flags: int, before: bytes, depends_on: int, mended: bool
) -> None:
    def headers(parent: int) -> bytes:
        return frame(HEADERS, flags, 5, before + parent.to_bytes(4, "big") + b"\x10block")

    screen = Bed().screen
    assert screen.headers(headers(depends_on), 5) == headers(0 if mended else depends_on)
    assert screen.mended == mended
    screen.headers(frame(HEADERS, END_HEADERS, 7), 7)
    assert not screen.mended


@pytest.mark.parametrize(
    ("flags", "stream", "shown", "mended"),
    [
        (END_HEADERS, ANSWERED, END_HEADERS | END_STREAM, True),
        (0, ASKED, END_STREAM, True),
        (END_HEADERS | END_STREAM, ASKED, END_HEADERS | END_STREAM, False),
        (END_HEADERS, CLOSED, END_HEADERS, False),
        (END_HEADERS, IDLE, END_HEADERS, False),
    ],
)
def test_trailers_of_an_open_stream_end_it(
    flags: int, stream: int, shown: int, mended: bool
) -> None:
    screen = busy().screen
    sent = frame(HEADERS, flags, stream, b"block")
    assert screen.trailers(sent, flags, stream, 0.0) == frame(HEADERS, shown, stream, b"block")
    assert screen.mended == mended


@pytest.mark.parametrize(
    ("payload", "reset"),
    [
        (b"\0\0\0\x03\x10", None),
        (bytes(4), Reset(ErrorCodes.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")),
        (b"\0\0\0\x05" + bytes(2), Reset(ErrorCodes.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")),
        (b"\0\0\0\x05\x10", Reset(ErrorCodes.PROTOCOL_ERROR, "stream depends on itself")),
        (b"\x80\0\0\x05\x10", Reset(ErrorCodes.PROTOCOL_ERROR, "stream depends on itself")),
    ],
)
def test_priority(payload: bytes, reset: Reset | None) -> None:
    assert Bed().screen.priority(frame(PRIORITY, 0, 5, payload), 5) == reset


WINDOW, UNKNOWN = b"\0\x04\0\0\0\x64", b"\0\x07\0\0\0\1"


@pytest.mark.parametrize(
    ("flags", "stream", "payload", "shown", "moves_windows"),
    [
        (ACK, 0, WINDOW + UNKNOWN, WINDOW + UNKNOWN, False),
        (0, 1, WINDOW + UNKNOWN, WINDOW + UNKNOWN, False),
        (0, 0, WINDOW + b"\0", WINDOW + b"\0", False),
        (0, 0, WINDOW + UNKNOWN, WINDOW, True),
        (0, 0, UNKNOWN, b"", False),
    ],
)
def test_settings_in_error_are_left_to_h2_and_unknown_ones_kept_from_it(
    flags: int, stream: int, payload: bytes, shown: bytes, moves_windows: bool
) -> None:
    expected = frame(SETTINGS, flags, stream, shown), moves_windows
    assert Bed().screen.settings(frame(SETTINGS, flags, stream, payload), flags) == expected


@pytest.mark.parametrize(
    ("act", "code", "reason"),
    [
        (lambda screen: screen.goaway(frame(GOAWAY, 0, 1, bytes(8)), 1), 1, "GOAWAY on a stream"),
        (
            lambda screen: screen.goaway(frame(GOAWAY, 0, 0, bytes(7)), 0),
            6,
            "GOAWAY of a wrong size",
        ),
        (lambda screen: screen.rst_stream(2, 0.0), 1, "RST_STREAM of an idle stream"),
        (lambda screen: screen.rst_stream(IDLE, 0.0), 1, "RST_STREAM of an idle stream"),
    ],
)
def test_what_ends_the_connection(act: Callable[[Screen], None], code: int, reason: str) -> None:
    screen = busy().screen
    assert fault(lambda: act(screen)) == (code, reason)
    screen.goaway(frame(GOAWAY, 0, 0, bytes(8)), 0)  # which does not


# -- counting


def trailers(screen: Screen, stream: int) -> None:
    screen.trailers(frame(HEADERS, END_HEADERS, stream), END_HEADERS, stream, 0.0)


GIVEN_UP, RESETS = "too many requests given up", "too many RST_STREAM frames"
COUNTED: dict[str, tuple[Callable[[Screen], None], int, str]] = {
    "given up": (lambda screen: screen.gave_up(0.0), LIMITS.resets, GIVEN_UP),
    "two given up": (lambda screen: screen.gave_up(0.0, 2), LIMITS.resets // 2, GIVEN_UP),
    "DATA, closed": (lambda screen: screen.stray(CLOSED, 0.0), LIMITS.resets, GIVEN_UP),
    "HEADERS, closed": (lambda screen: trailers(screen, CLOSED), LIMITS.resets, GIVEN_UP),
    "reset, asked": (lambda screen: screen.rst_stream(ASKED, 0.0), LIMITS.resets, GIVEN_UP),
    "reset, unsent": (lambda screen: screen.rst_stream(UNSENT, 0.0), LIMITS.resets, GIVEN_UP),
    "reset, closed": (lambda screen: screen.rst_stream(CLOSED, 0.0), LIMITS.small_frames, RESETS),
}
UNCOUNTED: dict[str, Callable[[Screen], None]] = {
    "DATA, open": lambda screen: screen.stray(ASKED, 0.0),
    "HEADERS, open": lambda screen: trailers(screen, ASKED),
    "HEADERS, idle": lambda screen: trailers(screen, IDLE),
    "reset, answered": lambda screen: screen.rst_stream(ANSWERED, 0.0),
}


@pytest.mark.parametrize("name", COUNTED)
def test_as_many_as_the_limits_allow_and_no_more(name: str) -> None:
    act, most, reason = COUNTED[name]
    screen = busy().screen
    for _ in range(most):
        act(screen)
    assert fault(lambda: act(screen)) == (ErrorCodes.ENHANCE_YOUR_CALM, reason)


@pytest.mark.parametrize("name", UNCOUNTED)
def test_what_costs_nothing_counts_for_nothing(name: str) -> None:
    screen = busy().screen
    for _ in range(LIMITS.small_frames + 1):
        UNCOUNTED[name](screen)
    screen.gave_up(0.0, LIMITS.resets)  # all of them are there yet


# -- closed streams


def test_so_many_closed_streams_are_remembered_and_the_oldest_forgotten() -> None:
    screen = Bed().screen
    streams = range(1, 2 * CLOSED_STREAMS + 21, 2)
    for stream in streams:
        screen.closed(stream, stream * 10)
    assert screen.recent == {stream: stream * 10 for stream in streams[-CLOSED_STREAMS:]}


@pytest.mark.parametrize("window", [-100, 0, 65_535, MAX_WINDOW])
def test_a_window_that_overflows_is_told_once(window: int) -> None:
    """Also one that SETTINGS had made negative (RFC 9113 6.9.2)."""
    screen = Bed().screen
    screen.closed(1, window)
    screen.closed(3, window)
    room = MAX_WINDOW - window
    assert not screen.overruns(1, room - room // 2)
    assert not screen.overruns(1, room // 2)
    assert screen.overruns(1, 1)
    assert screen.recent == {3: window}
