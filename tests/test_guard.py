"""Rates and liveness, without a connection: what is counted, and when it is too much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2sse.config import Limits
from h2sse.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from h2sse.guard import BREACHES, Bucket, Guard
from h2sse.liveness import Liveness

LIMITS = Limits(
    small_frames=10,
    small_frames_per_second=2,
    resets=5,
    resets_per_second=1,
    settings_frames=3,
    settings_frames_per_minute=60,
)


def taken(bucket: Bucket, now: float, tries: int = 100) -> int:
    return sum(bucket.take(now) for _ in range(tries))


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(10, 2)
    assert taken(bucket, 0) == 10
    assert taken(bucket, 0.4) == 0
    assert taken(bucket, 0.5) == 1
    assert taken(bucket, 3) == 5
    assert taken(bucket, 1_000) == 10  # it never holds more than its burst


def test_a_bucket_takes_many_at_once_or_none() -> None:
    bucket = Bucket(10, 2)
    assert not bucket.take(0, 11)
    assert bucket.take(0, 10)
    assert not bucket.take(0)


def test_a_bucket_earns_as_far_as_there_is_room() -> None:
    bucket = Bucket(10, 2)
    bucket.earn(100)
    assert taken(bucket, 0) == 10
    bucket.earn(3)
    assert taken(bucket, 0) == 3


@given(
    st.integers(1, 20),
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=60),
)
def test_a_bucket_is_a_bucket(burst: int, rate: int, steps: list[tuple[int, int]]) -> None:
    """The moment of being full says the same as a count that is topped up."""
    bucket = Bucket(burst, rate)
    now = 0.0
    held = float(burst)
    for eighths, count in steps:
        now += eighths / 8
        held = min(burst, held + eighths * rate / 8)
        there = held >= count
        assert bucket.take(now, count) == there
        held -= count * there


@pytest.mark.parametrize(
    ("kind", "flags", "size", "name"),
    [
        (PING, 0, 8, "PING"),
        (PING, ACK, 8, "PING"),
        (PRIORITY, 0, 5, "PRIORITY"),
        (GOAWAY, 0, 8, "GOAWAY"),
        (DATA, 0, 0, "short DATA"),
        (DATA, 0, 31, "short DATA"),
        (0x10, 0, 4, "unknown"),
        (0xFA, 0, 0, "unknown"),
    ],
)
def test_small_frames_share_a_rate(kind: int, flags: int, size: int, name: str) -> None:
    guard = Guard(LIMITS)
    for _ in range(9):
        assert guard.frame(kind, flags, size, 0.0) is None
    assert guard.frame(0x42, 0, 0, 0.0) is None
    breach = guard.frame(kind, flags, size, 0.0)
    assert breach is not None
    assert breach.reason == f"too many {name} frames"
    assert breach.reason in BREACHES
    assert guard.frame(kind, flags, size, 0.5) is None


@pytest.mark.parametrize(
    ("kind", "flags", "size"),
    [
        (DATA, 0, 32),
        (DATA, END_STREAM, 0),
        (HEADERS, END_HEADERS, 20),
        (HEADERS, END_HEADERS | END_STREAM, 20),
        (RST_STREAM, 0, 4),  # counted by `reset`
        (WINDOW_UPDATE, 0, 4),  # counted by `window_update`
    ],
)
def test_requests_and_their_bodies_are_not_counted(kind: int, flags: int, size: int) -> None:
    guard = Guard(LIMITS)
    assert {guard.frame(kind, flags, size, 0.0) for _ in range(1_000)} == {None}


def test_a_request_earns_the_frames_that_come_with_it() -> None:
    guard = Guard(LIMITS)
    for _ in range(100):
        guard.request()
        for _ in range(4):
            assert guard.frame(PRIORITY, 0, 5, 0.0) is None


def test_window_updates_are_paid_by_data() -> None:
    guard = Guard(LIMITS)
    sent = 0
    for _ in range(1_000):
        sent += 64
        assert guard.window_update(sent, 0.0) is None
        assert guard.window_update(sent, 0.0) is None
    # The first two came when the bucket was full: there was no room for what they earned.
    refused = [guard.window_update(sent, 0.0) for _ in range(9)]
    assert refused[:8] == [None] * 8
    assert refused[8] is not None
    # A byte at a time pays for nothing.
    assert guard.window_update(sent + 31, 0.0) is not None
    assert guard.window_update(sent + 32, 0.0) is None


def test_a_reset_counts_if_the_answer_was_not_out() -> None:
    guard = Guard(LIMITS)
    for _ in range(1_000):
        assert guard.reset(0.0, is_open=True, answered=True) is None
    for _ in range(5):
        assert guard.reset(0.0, is_open=True, answered=False) is None
    assert guard.reset(0.0, is_open=True, answered=False) == guard.gave_up(0.0)
    stray = [guard.reset(0.0, is_open=False, answered=False) for _ in range(11)]
    assert stray[10] is not None
    assert stray[10].reason == "too many RST_STREAM frames"


def test_settings() -> None:
    guard = Guard(LIMITS)
    for _ in range(3):
        assert guard.frame(SETTINGS, 0, 6, 0.0) is None
    assert guard.frame(SETTINGS, 0, 6, 0.9) is not None
    assert guard.frame(SETTINGS, 0, 6, 1.0) is None
    assert guard.frame(SETTINGS, ACK, 0, 0.0) is None
    assert guard.frame(SETTINGS, ACK, 0, 0.0) is not None  # we sent one


def test_a_head_tells_what_is_too_long() -> None:
    guard = Guard(LIMITS)
    assert guard.head(DATA, FRAME_BYTES) is None
    assert guard.head(DATA, FRAME_BYTES + 1) is not None
    entries = LIMITS.settings_entries
    assert guard.head(SETTINGS, 6 * entries) is None
    assert guard.head(SETTINGS, 6 * entries + 1) is not None


def test_a_header_section_in_pieces() -> None:
    guard = Guard(Limits(continuation_frames=2, header_block_bytes=100))
    assert guard.frame(HEADERS, 0, 50, 0.0) is None
    assert guard.amid_section
    assert guard.frame(CONTINUATION, 0, 25, 0.0) is None
    assert guard.frame(CONTINUATION, END_HEADERS, 25, 0.0) is None
    assert not guard.amid_section
    # The next one has all of it again, but no more.
    assert guard.frame(HEADERS, 0, 100, 0.0) is None
    breach = guard.frame(CONTINUATION, 0, 1, 0.0)
    assert breach is not None
    assert breach.reason == "header block too long"


# -- liveness


def test_a_silent_peer_is_asked_and_then_lost() -> None:
    peer = Liveness(Limits(probe_seconds=20, probe_answer_seconds=10), 100.0)
    assert not peer.due(119.0)
    assert peer.due(120.0)
    assert not peer.due(121.0)  # asked once
    assert not peer.lost(121.0, unsent=17)  # the question is not out: the socket is full
    assert not peer.lost(150.0, unsent=17)
    assert not peer.lost(151.0, unsent=0)
    assert not peer.lost(160.9, unsent=0)
    assert peer.lost(161.0, unsent=0)


def test_an_answer_tells_the_round_trip() -> None:
    peer = Liveness(Limits(probe_seconds=20, probe_answer_seconds=10), 0.0)
    peer.answered(1.0)  # to nothing we asked
    assert peer.round_trip is None
    assert peer.due(20.0)
    peer.heard = 20.25
    peer.answered(20.25)
    assert peer.round_trip == 0.25
    assert not peer.lost(1_000.0, unsent=0)
    assert not peer.due(40.0)
    assert peer.due(40.25)


def test_whatever_is_heard_is_a_sign_of_life() -> None:
    peer = Liveness(Limits(probe_seconds=20, probe_answer_seconds=10), 0.0)
    assert peer.due(20.0)
    assert not peer.lost(21.0, unsent=0)
    for now in range(22, 100):
        peer.heard = float(now)
        assert not peer.lost(now + 0.5, unsent=0)
    assert peer.lost(109.0, unsent=0)
