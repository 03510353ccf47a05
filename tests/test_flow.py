"""DATA framed directly equals what h2 would have framed, and keeps to both windows.

Two real machines stand side by side.  One is inside `Http2` and frames DATA through `flow.py`; the
other is plain h2, told the same requests, window updates and settings, and made to `send_data`
exactly what the first one sent.  Bytes, windows and stream states must be equal after every step.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from h2sse import flow
from h2sse.config import Limits
from h2sse.flow import TAKE_BYTES
from h2sse.frames import FRAME_BYTES, HEAD_BYTES
from h2sse.http2 import Http2
from h2sse.lane import Lane
from h2sse.wire import Drained, Gone, Overflowed, Request, Response

REQUEST = (
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b":path", b"/events"),
)
FIELDS = ((b"content-type", b"text/event-stream"),)
FIRST = b"retry: 1\n\n"


class Link:
    """An `Http2`, the client that talks to it, and the plain h2 server that shadows it."""

    def __init__(self, limits: Limits, *, window: int = 65_535) -> None:
        self.wire = Http2(limits)
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.shadow = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.shadow.initiate_connection()
        self.client.initiate_connection()
        self.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.received: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.frames: list[tuple[int, int]] = []  # (stream, size) of every DATA frame, in order
        self.events: list[object] = []
        self.now = 0.0
        self.sync()

    def say(self) -> None:
        """Bring what the client has to say to both servers."""
        data = self.client.data_to_send()
        if data:
            self.events += self.wire.receive(data, self.now)
            self.shadow.receive_data(data)
            self.shadow.clear_outbound_data_buffer()

    def hear(self) -> None:
        """Take one piece of output and make the shadow send the same."""
        data = self.wire.take_output()
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 3], "big")
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            frame = data[at : at + 9 + size]
            at += 9 + size
            if kind == 0:
                # h2 raises here if a window were overrun or the stream could not send.
                self.shadow.send_data(stream, frame[9:], end_stream=bool(flags & 1))
                assert self.shadow.data_to_send() == frame
                self.received[stream] = self.received.get(stream, b"") + frame[9:]
                self.frames.append((stream, size))
                if flags & 1:
                    self.ended.add(stream)
            elif kind == 3 and stream in self.shadow.streams:
                self.shadow.reset_stream(stream, int.from_bytes(frame[9:13], "big"))
                self.shadow.clear_outbound_data_buffer()
            if kind != 0:
                # Not DATA: the client's own h2 would refuse an empty frame while a window that
                # SETTINGS lowered is negative, which RFC 9113 6.9.2 allows.
                self.client.receive_data(frame)
        assert at == len(data)
        self.events += self.wire.take_events()

    def sync(self) -> None:
        """Exchange until both sides are silent."""
        while True:
            self.say()
            before = len(self.frames)
            self.hear()
            if not self.wire._flow.turns and len(self.frames) == before:
                self.say()
                return
            if self.wire._machine.outbound_flow_control_window <= 0:
                self.say()
                return

    def open(self) -> int:
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, REQUEST, end_stream=True)
        self.say()
        self.wire.open(stream, FIELDS, FIRST)
        self.shadow.send_headers(stream, ((b":status", b"200"), *FIELDS))
        self.shadow.clear_outbound_data_buffer()
        return stream

    def compare(self) -> None:
        """Windows and states of both machines, stream by stream."""
        machine, shadow = self.wire._machine, self.shadow
        assert machine.outbound_flow_control_window == shadow.outbound_flow_control_window
        self.wire._flow.settle()
        for stream, ours in machine.streams.items():
            theirs = shadow.streams[stream]
            assert ours.outbound_flow_control_window == theirs.outbound_flow_control_window
            assert ours.state_machine.state == theirs.state_machine.state

    def compare_ends(self) -> None:
        """With nothing on its way, both machines have the same streams open."""
        for stream, theirs in self.shadow.streams.items():
            assert stream in self.wire._machine.streams or theirs.closed


class Programs(RuleBasedStateMachine):
    """Random programs of opens, offers, window updates, settings, resets and ends."""

    @initialize(
        window=st.sampled_from([0, 1, 100, 4_000, 65_535, 1_000_000]),
        take=st.sampled_from([300, 20_000, flow.TAKE_BYTES]),
    )
    def start(self, window: int, take: int) -> None:
        # A small one makes output stop amid a lane, as a full socket does.
        flow.TAKE_BYTES = take
        limits = Limits(
            tab_backlog_bytes=120_000,
            connection_backlog_bytes=400_000,
            # No time passes here in which to earn more.
            settings_frames=10_000,
            small_frames=10_000,
            resets=10_000,
        )
        self.link = Link(limits, window=window)
        self.lanes = [self.link.wire.lane(), self.link.wire.lane()]
        self.lane_of: dict[int, int] = {}
        self.offered: dict[int, bytes] = {}
        self.gone: set[int] = set()
        self.count = 0

    def _live(self) -> list[int]:
        return [stream for stream in self.lane_of if stream not in self.gone]

    def _note_ends(self) -> None:
        for event in self.link.events:
            match event:
                case Gone(stream) | Overflowed(stream):
                    self.gone.add(stream)
                case Request() | Drained():
                    pass
                case _:
                    raise AssertionError(event)
        self.link.events.clear()

    @precondition(lambda self: len(self._live()) < 12)
    @rule(lane=st.integers(0, 1), count=st.integers(1, 4))
    def open(self, lane: int, count: int) -> None:
        for _ in range(count):
            stream = self.link.open()
            self.offered[stream] = FIRST
            self.lane_of[stream] = lane
            self.link.wire.enter(stream, self.lanes[lane])

    @rule(lane=st.integers(0, 1), size=st.sampled_from([1, 30, 135, 5_000, 16_384, 16_385, 50_000]))
    def offer(self, lane: int, size: int) -> None:
        self.count += 1
        payload = (b"%d:" % self.count * (size // 2 + 1))[:size]
        # Before the offer: one that overflows has not been sent it.
        for stream in self._live():
            if self.lane_of[stream] == lane:
                self.offered[stream] += payload
        self.lanes[lane].offer(payload)
        self.link.events += self.link.wire.take_events()
        self._note_ends()

    @precondition(lambda self: self.link.wire.idle)
    @rule(lane=st.integers(0, 1))
    def gather(self, lane: int) -> None:
        together = self.lanes[lane].gather()
        left = [each.h2.outbound_flow_control_window for each in self.lanes[lane].apart.values()]
        assert together == (not left)
        assert max(left, default=0) <= 0

    @precondition(lambda self: self._live())
    @rule(data=st.data(), size=st.sampled_from([3, 700, 40_000]))
    def send(self, data: st.DataObject, size: int) -> None:
        stream = data.draw(st.sampled_from(self._live()))
        self.offered[stream] += b"s" * size
        self.link.wire.send(stream, b"s" * size)

    @precondition(lambda self: self._live())
    @rule(data=st.data(), increment=st.sampled_from([1, 50, 3_000, 70_000]))
    def stream_window(self, data: st.DataObject, increment: int) -> None:
        stream = data.draw(st.sampled_from(self._live()))
        if stream not in self.link.ended:
            self.link.client.increment_flow_control_window(increment, stream)
            self.link.say()

    @rule(increment=st.sampled_from([1, 5_000, 300_000]))
    def connection_window(self, increment: int) -> None:
        self.link.client.increment_flow_control_window(increment)
        self.link.say()

    @rule(window=st.sampled_from([0, 10, 16_384, 65_535, 200_000]))
    def initial_window(self, window: int) -> None:
        self.link.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.link.say()

    @precondition(lambda self: self._live())
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self._live()))
        if stream not in self.link.ended:
            self.link.client.reset_stream(stream, 8)
            self.gone.add(stream)
            self.link.say()
            self._note_ends()

    @precondition(lambda self: self._live())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self._live()))
        self.link.wire.finish(stream)
        self.gone.add(stream)  # nothing more is offered to it

    @rule()
    def hear(self) -> None:
        self.link.hear()
        self._note_ends()

    @rule()
    def drain_all(self) -> None:
        self.link.sync()
        self._note_ends()

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "link"):
            self.link.compare()

    @invariant()
    def a_prefix_of_what_was_offered(self) -> None:
        if hasattr(self, "link"):
            for stream, data in self.link.received.items():
                assert self.offered[stream].startswith(data)

    def teardown(self) -> None:
        flow.TAKE_BYTES = TAKE_BYTES
        if not hasattr(self, "link"):
            return
        # With windows wide open, whoever is still there gets all of it.
        self.link.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
        self.link.client.increment_flow_control_window(2**30)
        self.link.sync()
        self._note_ends()
        self.link.compare()
        self.link.compare_ends()
        for stream in self._live():
            assert self.link.received.get(stream, b"") == self.offered[stream]
        assert self.link.wire._flow.queued == 0
        assert not self.link.wire._flow.turns


Programs.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
test_equals_send_data = Programs.TestCase


def test_a_short_window_that_steps_in_lowers_the_floor() -> None:
    link = Link(Limits(), window=1_000)
    lane, streams = streams_in_lane(link, 3)
    for stream in streams[:2]:
        link.client.increment_flow_control_window(2**20, stream)
    link.say()
    lane.offer(b"x" * 900)
    link.sync()
    lane.offer(b"y" * 50)  # all in step; the third has 40 bytes left after it
    link.sync()
    lane.offer(b"z" * 50)
    link.sync()
    assert len(link.received[streams[2]]) == 1_000
    assert len(link.received[streams[0]]) == 1_000 + len(FIRST)


def streams_in_lane(link: Link, count: int) -> tuple[Lane, list[int]]:
    lane = link.wire.lane()
    streams = []
    for _ in range(count):
        stream = link.open()
        link.wire.enter(stream, lane)
        streams.append(stream)
    link.sync()
    link.frames.clear()
    return lane, streams


def test_one_payload_goes_to_every_stream_once() -> None:
    link = Link(Limits())
    lane, streams = streams_in_lane(link, 50)
    lane.offer(b"data: hello\n\n")
    link.sync()
    assert Counter(link.frames) == Counter({(stream, 13): 1 for stream in streams})


def test_what_is_taken_at_once_fills_whole_records() -> None:
    """Eight of 16 KiB, and not a few bytes of a ninth for the one stream that still fitted."""
    link = Link(Limits())
    lane, _ = streams_in_lane(link, 100)
    link.client.increment_flow_control_window(2**30)
    link.say()
    lane.offer(b"y")  # all step in
    link.sync()
    for _ in range(6):
        lane.offer(b"x" * 701)
    *full, _ = iter(link.wire.take_output, b"")
    assert full
    for data in full:
        assert TAKE_BYTES - 701 - HEAD_BYTES < len(data) <= TAKE_BYTES


def test_a_closed_window_holds_back_its_own_stream_only() -> None:
    link = Link(Limits())
    lane, (stalled, *others) = streams_in_lane(link, 10)
    link.client.increment_flow_control_window(2**30)
    window = link.shadow.streams[stalled].outbound_flow_control_window
    for stream in others:
        link.client.increment_flow_control_window(2**20, stream)
    for _ in range(window // 1_000 + 10):
        lane.offer(b"x" * 1_000)
        link.sync()
    assert len(link.received[stalled]) == window + len(FIRST)
    for stream in others:
        assert len(link.received[stream]) == (window // 1_000 + 10) * 1_000 + len(FIRST)
    link.client.increment_flow_control_window(2**20, stalled)
    link.sync()
    assert len(link.received[stalled]) == (window // 1_000 + 10) * 1_000 + len(FIRST)


def test_a_stream_that_was_served_leaves_amid_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(Limits())
    lane, streams = streams_in_lane(link, 10)
    lane.offer(b"y")  # all step in
    link.sync()
    monkeypatch.setattr(flow, "TAKE_BYTES", 300)
    lane.offer(b"x" * 100)
    link.hear()
    served = [stream for stream in streams if link.received[stream].endswith(b"x")]
    assert 0 < len(served) < 9
    link.client.reset_stream(served[0], 8)
    link.sync()
    for stream in streams:
        assert link.received[stream] == FIRST + b"y" + b"x" * 100


def test_settings_lower_the_windows_amid_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(Limits(), window=1_000)
    lane, streams = streams_in_lane(link, 10)
    lane.offer(b"y")
    link.sync()
    monkeypatch.setattr(flow, "TAKE_BYTES", 700)
    lane.offer(b"x" * 200)
    link.hear()
    served = [stream for stream in streams if link.received[stream].endswith(b"x")]
    assert 0 < len(served) < 9
    link.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
    link.sync()  # the shadow would refuse to overrun a window
    for stream in streams:
        if stream not in served:
            assert len(link.received[stream]) == 100


def test_streams_step_in_again() -> None:
    """Once it has caught up, a stream that was apart costs no more than the others."""
    link = Link(Limits(), window=2_000)
    lane, streams = streams_in_lane(link, 3)
    link.client.increment_flow_control_window(2**20, streams[1])
    link.client.increment_flow_control_window(2**20, streams[2])
    link.say()
    lane.offer(b"x" * 3_000)
    link.sync()
    assert list(lane.apart) == [streams[0].to_bytes(4, "big")]
    link.client.increment_flow_control_window(2**20, streams[0])
    link.sync()
    lane.offer(b"y" * 100)
    link.sync()
    assert not lane.apart
    assert len(lane.ids) == 3
    assert {len(link.received[stream]) for stream in streams} == {len(FIRST) + 3_100}


def test_large_events_are_cut_and_take_turns() -> None:
    link = Link(Limits(), window=2**24)
    link.client.increment_flow_control_window(2**30)
    lane, streams = streams_in_lane(link, 4)
    other = link.wire.lane()
    (single,) = [link.open()]
    link.wire.enter(single, other)
    link.sync()
    link.frames.clear()
    lane.offer(b"x" * 200_000)
    other.offer(b"y" * 100)
    link.sync()
    assert max(size for _, size in link.frames) == FRAME_BYTES
    # The small one had its turn after the first turn of the large ones, not after all of them.
    place = [stream for stream, _ in link.frames].index(single)
    assert place <= 8
    for stream in streams:
        sizes = [size for each, size in link.frames if each == stream]
        assert sum(sizes) == 200_000


def test_a_large_event_takes_memory_once_however_many_connections_it_goes_to() -> None:
    size = 1_000_000
    lanes = []
    for _ in range(20):
        link = Link(Limits(), window=2**24)
        lane, _ = streams_in_lane(link, 2)
        lanes.append(lane)
    tracemalloc.start()
    try:
        payload = b"x" * size
        for lane in lanes:
            lane.offer(payload)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [lane.queued for lane in lanes] == [size] * 20
    assert taken < 3 * size


def test_overflow_ends_the_stream_cleanly() -> None:
    """B73: at its bound the tab is ended, by END_STREAM, and the others go on."""
    link = Link(Limits(tab_backlog_bytes=10_000), window=100)
    lane, (stalled, other) = streams_in_lane(link, 2)
    link.client.increment_flow_control_window(2**20, other)
    link.events.clear()
    for _ in range(11):
        lane.offer(b"x" * 1_000)
        link.sync()
    assert link.events == [Overflowed(stalled)]
    assert link.ended == {stalled}
    assert len(link.received[other]) == 11_000 + len(FIRST)


def test_a_backlog_is_not_copied_for_each_stream() -> None:
    """While the connection's window is closed, a payload waits once for all tabs."""
    link = Link(Limits(), window=2**24)
    lane, _ = streams_in_lane(link, 90)
    held = link.wire._flow.queued
    for _ in range(20):
        lane.offer(b"x" * 5_000)
    assert link.wire._flow.queued - held == 20 * 5_000
    assert list(lane.queue) == [b"x" * 5_000] * 20


def test_a_payload_is_queued_once_for_all_at_a_standstill() -> None:
    link = Link(Limits(), window=100)
    lane, (apart, *streams) = streams_in_lane(link, 20)
    lane.offer(b"x" * 500)  # more than their windows: each sends what it may
    link.sync()
    link.client.increment_flow_control_window(50, apart)
    lane.offer(b"y" * 300)
    link.sync()
    # All have had as much as their windows allowed when they are found side by side again.
    lane.offer(b"z" * 300)
    alone, together = sorted(lane.standstills, key=lambda each: len(each.members))
    assert [each.h2.stream_id for each in alone.members] == [apart]
    assert [each.h2.stream_id for each in together.members] == streams
    assert together.queue == [b"x" * 500, b"y" * 300, b"z" * 300]
    link.client.increment_flow_control_window(50, streams[-1])  # it comes to the same place later
    link.sync()
    lane.offer(b"w" * 300)
    assert [each.h2.stream_id for each in alone.members] == [apart, streams.pop()]
    assert not lane.apart
    for stream in streams[::2]:
        link.client.increment_flow_control_window(2**20, stream)
    link.sync()
    assert [each.h2.stream_id for each in together.members] == streams[1::2]
    link.client.reset_stream(streams[1])
    link.say()
    lane.offer(b"a")
    last = max(link.received)
    for stream in (apart, last, *streams[3::2]):
        link.client.increment_flow_control_window(2**20, stream)
    link.sync()
    assert not lane.standstills
    assert link.wire._flow.queued == 0
    for stream in (apart, last, streams[0], *streams[2:]):
        whole = FIRST + b"x" * 500 + b"y" * 300 + b"z" * 300 + b"w" * 300 + b"a"
        assert link.received[stream] == whole


def test_who_stands_still_together_is_shed_together() -> None:
    link = Link(Limits(), window=100)
    lane, streams = streams_in_lane(link, 20)
    link.client.increment_flow_control_window(2**20, streams[0])
    link.client.increment_flow_control_window(10, streams[1])
    for _ in range(3):
        lane.offer(b"x" * 500)
        link.sync()
    assert link.wire.shed("for others")
    link.sync()
    assert link.ended == set(streams[2:])
    assert link.wire._flow.queued == 1_500 - (100 + 10 - len(FIRST))
    assert link.wire.shed("for others")
    assert not link.wire.shed("for others")
    link.sync()
    assert link.ended == set(streams[1:])


def test_as_many_at_a_standstill_end_as_make_room() -> None:
    """At the connection's bound, where each of them counts in full."""
    limits = Limits(tab_backlog_bytes=60_000, connection_backlog_bytes=100_000)
    link = Link(limits, window=100)
    lane, streams = streams_in_lane(link, 10)
    for _ in range(3):
        lane.offer(b"x" * 3_000)
        link.sync()
    assert link.wire._flow.queued > 85_000
    assert not link.events or Overflowed(streams[0]) not in link.events
    lane.offer(b"x" * 3_000)
    link.sync()
    ended = [event.stream for event in link.events if isinstance(event, Overflowed)]
    assert ended == streams[: len(ended)]
    assert len(ended) == 2  # 10 times 9,000 wait: 8 times 12,000 may
    assert link.wire._flow.queued <= 100_000


@pytest.mark.parametrize("window", [100, 2**20], ids=["apart", "in step"])
def test_who_waits_for_nothing_has_room_while_the_connection_has(window: int) -> None:
    """A large event each, for many who listen to different topics, is many large events."""
    limits = Limits(tab_backlog_bytes=1_000, connection_backlog_bytes=100_000)
    link = Link(limits, window=window)
    lanes = [streams_in_lane(link, 1)[0] for _ in range(10)]
    # It is the connection's window that those wait for who have one of their own.
    link.wire._machine.outbound_flow_control_window = 0
    for lane in lanes:
        lane.offer(b"x" * 30_000)
        link.events += link.wire.take_events()
    ended = [event.stream for event in link.events if isinstance(event, Overflowed)]
    assert len(ended) == 7
    assert 90_000 <= link.wire._flow.queued <= 100_000


def test_memory_of_a_whole_backlog_is_bounded() -> None:
    limits = Limits(tab_backlog_bytes=50_000)
    link = Link(limits, window=2**24)
    lane, streams = streams_in_lane(link, 20)
    for _ in range(100):
        lane.offer(b"x" * 5_000)
        link.events += link.wire.take_events()
    assert {event.stream for event in link.events if isinstance(event, Overflowed)} == set(streams)
    assert link.wire._flow.queued == 0


@pytest.mark.parametrize("size", [0, 1, FRAME_BYTES, FRAME_BYTES + 1, 300_000])
def test_whole_responses(size: int) -> None:
    link = Link(Limits(), window=2**24)
    link.client.increment_flow_control_window(2**30)
    stream = link.client.get_next_available_stream_id()
    link.client.send_headers(stream, REQUEST, end_stream=True)
    link.say()
    link.wire.respond(stream, Response(body=b"z" * size))
    link.shadow.send_headers(stream, ((b":status", b"200"),), end_stream=not size)
    link.shadow.clear_outbound_data_buffer()
    if size:
        link.sync()
        assert link.received[stream] == b"z" * size
        assert stream in link.ended
    assert link.wire.open_streams == 0


# -- what a peer must take, to be waited for


class Waiting:
    """A stream before whose window 1,000 bytes wait, of which `takes` come into it at times."""

    def __init__(self, *, window: int = 65_535) -> None:
        self.limits = Limits(stall_seconds=60, stall_bytes=100)
        self.link = Link(self.limits, window=window)
        self.lane, (self.stream,) = streams_in_lane(self.link, 1)
        if not window:
            self.link.client.increment_flow_control_window(len(FIRST), self.stream)
        self.link.sync()

    def offer(self, size: int) -> None:
        self.lane.offer(b"x" * size)
        self.link.sync()

    def takes(self, at: float, size: int, stream: int | None = None) -> None:
        self.link.now = at
        self.link.client.increment_flow_control_window(size, stream)
        self.link.sync()

    def looked_at(self, at: float) -> bool:
        """Whether it has not been ended by then."""
        self.link.now = at
        self.link.wire.expire(at)
        self.link.hear()
        return self.stream not in self.link.ended and not self.link.wire.closed


def test_bytes_now_and_then_buy_no_time() -> None:
    waiting = Waiting(window=0)
    waiting.offer(1_000)
    for second in range(1, 60):
        waiting.takes(second, 1, waiting.stream)
        assert waiting.looked_at(second)
    assert not waiting.looked_at(60)


def test_enough_bytes_buy_as_long_again() -> None:
    """However they come, and from when they are enough; what is more than that is not kept."""
    waiting = Waiting(window=0)
    waiting.offer(1_000)
    waiting.takes(10, 99, waiting.stream)
    waiting.takes(50, 1, waiting.stream)
    assert waiting.looked_at(109)
    waiting.takes(109, 500, waiting.stream)
    assert waiting.looked_at(168)
    assert not waiting.looked_at(169)


def test_all_that_waited_is_enough() -> None:
    waiting = Waiting(window=0)
    waiting.offer(30)
    waiting.link.now = 20
    waiting.offer(500)
    waiting.takes(59, 30, waiting.stream)
    assert waiting.looked_at(118)
    assert not waiting.looked_at(119)


def test_who_has_caught_up_begins_anew() -> None:
    waiting = Waiting(window=0)
    waiting.offer(10)
    waiting.takes(59, 10, waiting.stream)
    assert waiting.looked_at(500)
    waiting.offer(10)
    assert waiting.looked_at(559)
    assert not waiting.looked_at(560)


def test_windows_that_open_and_close_again_buy_no_time() -> None:
    """SETTINGS give a window and take it back before anything can be sent (RFC 9113 6.9.2)."""
    waiting = Waiting(window=0)
    client = waiting.link.client
    waiting.offer(1_000)
    for second in (20, 40, 59):
        waiting.link.now = second
        for window in (60_000, 0):
            client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        waiting.link.sync()
        assert waiting.looked_at(second)
    assert not waiting.looked_at(60)


def test_a_window_that_is_open_is_not_at_fault() -> None:
    """The stream waits for the connection then, which moves."""
    waiting = Waiting(window=0)
    waiting.offer(100_000)
    waiting.takes(1, 10, waiting.stream)
    assert waiting.looked_at(2)
    waiting.takes(3, 99_990, waiting.stream)
    rest = waiting.link.wire._flow.queued
    assert 0 < rest < 100_000 - 60_000
    for second in range(50, 250, 50):
        assert waiting.looked_at(second)
        waiting.takes(second, 100)
    assert waiting.link.wire._flow.queued == rest - 400


def test_windows_closed_in_turns_buy_no_time() -> None:
    """First the connection's, and when that opens the stream's."""
    waiting = Waiting(window=2**30)
    waiting.offer(100_000)
    assert waiting.looked_at(1)
    assert waiting.looked_at(50)
    waiting.link.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    waiting.takes(50, 100_000)
    assert waiting.looked_at(51)
    assert waiting.looked_at(60)
    assert not waiting.looked_at(61)


def test_a_stream_that_stands_still_ends_alone() -> None:
    waiting = Waiting(window=0)
    waiting.offer(1_000)
    assert waiting.looked_at(1)
    late = waiting.link.open()
    waiting.link.wire.enter(late, waiting.lane)
    waiting.link.client.increment_flow_control_window(len(FIRST), late)
    waiting.link.now = 30
    waiting.offer(10)
    assert waiting.looked_at(59)
    assert not waiting.looked_at(60)
    waiting.takes(70, 1)  # it is there, and answers PINGs
    waiting.looked_at(89)
    assert waiting.link.ended == {waiting.stream}
    waiting.looked_at(90)
    assert waiting.link.ended == {waiting.stream, late}
    assert not waiting.link.wire.closed


@pytest.mark.parametrize(("size", "lives"), [(1, 60), (2, 199)])
def test_a_connection_window_too_moves_by_enough(size: int, lives: int) -> None:
    waiting = Waiting(window=2**30)
    waiting.offer(100_000)
    lived = 0
    while lived < 199:
        waiting.takes(lived + 1, size)
        if not waiting.looked_at(lived + 1):
            break
        lived += 1
    assert lived == lives
