"""Fan-out on one connection: a payload in, all its DATA frames out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from h2sse.config import Limits
from h2sse.flow import TAKE_BYTES
from h2sse.http1 import Http1
from h2sse.lane import framed
from h2sse.wire import Request

from . import Case
from ._link import FIRST, RESPONSE_FIELDS, opened, opening_bytes

PAYLOAD = b"id: 0123456789-42\ndata: " + b"x" * 100 + b"\n\n"


def cases() -> Iterator[Case]:
    """In step, apart, through h2 itself, many connections in unison, and HTTP/1.1."""
    for streams in (1, 5, 100, 5_000):
        yield Case(f"tab, {streams} in step", _in_step(streams), streams)
    yield Case("tab, 5000 apart", _apart(5_000), 5_000)
    yield Case("tab, 5000 by h2.send_data", _by_h2(5_000), 5_000)
    yield Case("tab, 1000 connections of 5 in unison", _in_unison(1_000, 5), 5_000)
    yield Case("tab, HTTP/1.1, 1000 connections", _http1(1_000), 1_000)


def _in_step(streams: int) -> Callable[[], None]:
    wire, ids = opened(opening_bytes(streams))
    lane = wire.lane()
    for stream in ids:
        wire.enter(stream, lane)

    def run() -> None:
        # Windows never close here: giving them back is the client's affair.
        wire._machine.outbound_flow_control_window = 2**30
        lane.floor = lane.sent + 2**30
        lane.offer(PAYLOAD)
        while wire.take_output():
            pass

    return run


def _in_unison(connections: int, streams: int) -> Callable[[], None]:
    opening = opening_bytes(streams)
    lanes = []
    for _ in range(connections):
        wire, ids = opened(opening)
        lane = wire.lane()
        for stream in ids:
            wire.enter(stream, lane)
        lane.offer(PAYLOAD)  # they step in
        while wire.take_output():
            pass
        lanes.append(lane)

    def run() -> None:
        frames = (framed(PAYLOAD),)
        for lane in lanes:
            lane.machine.outbound_flow_control_window = 2**30
            lane.floor = lane.sent + 2**30
            lane.frame(frames, len(PAYLOAD), TAKE_BYTES)

    return run


def _apart(streams: int) -> Callable[[], None]:
    wire, ids = opened(opening_bytes(streams))

    def run() -> None:
        wire._machine.outbound_flow_control_window = 2**30
        for stream in ids:
            outflow = wire._flow.outflows[stream]
            outflow.h2.outbound_flow_control_window = 2**20
            outflow.offer(PAYLOAD)
        while wire.take_output():
            pass

    return run


def _by_h2(streams: int) -> Callable[[], None]:
    wire, ids = opened(opening_bytes(streams))
    machine = wire._machine

    def run() -> None:
        machine.outbound_flow_control_window = 2**30
        for stream in ids:
            machine.streams[stream].outbound_flow_control_window = 2**20
            machine.send_data(stream, PAYLOAD)
        machine.data_to_send()

    return run


def _http1(connections: int) -> Callable[[], None]:
    pairs = []
    for _ in range(connections):
        wire = Http1(Limits())
        (request,) = wire.receive(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n", 0.0)
        assert isinstance(request, Request)
        wire.open(request.stream, RESPONSE_FIELDS, FIRST)
        while wire.take_output():
            pass
        lane = wire.lane()
        wire.enter(request.stream, lane)
        pairs.append((wire, lane))

    def run() -> None:
        payload = bytes(bytearray(PAYLOAD))  # another object each time, as events are
        for wire, lane in pairs:
            lane.offer(payload)
            wire.take_output()

    return run
