"""The Wire over HTTP/2: h2 is the state machine, the frames pass by us first.

They come one by one out of `screen.py`, where each is looked at before h2 sees it.  Where h2 4.4
answers one stream's fault with the end of the connection, and RFC 9113 does not, h2 is shown none
and the stream is reset instead: malformed requests (8.1.1), streams above the limit (5.1.2),
priorities of a stream on itself (RFC 7540 5.3.1).  How many frames of a kind may come is asked of
`guard.py`, and for how long the peer is waited for of `patience.py`.

h2 never sees header fields.  Its decoder is ours (machine.py): it keeps the fields for `fields.py`
to judge and gives h2 an empty section, so that no content of a request can raise inside h2.  What
becomes a request, and what is refused, is decided in `http2_requests.py`.  Two kinds of frames pass
by h2's framing, not by its machines: DATA of open streams (`flow.py`), and the HEADERS that open a
stream or answer it (`machine.py`).  Everything else that is sent, h2 sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, assert_never, final

from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    PingAckReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from . import frames, wire
from .fields import Head, read_trailers
from .flow import Flow, Outflow
from .frames import HEAD_BYTES, MAX_STREAM, MAX_WINDOW
from .guard import Guard
from .http2_requests import Refused, Requests, Reset
from .lane import Lane, Standstill
from .liveness import PROBE, Liveness
from .machine import Machine
from .patience import Patience
from .screen import Fault, Screen
from .wire import Fields, Gone, Request, Response, WireEvent, WireStatistics, end_to_end, to_send

if TYPE_CHECKING:
    from .config import Limits
    from .http2_requests import Outcome
    from .metering import Histogram

__all__ = ["Http2"]

_DRAIN_PING: Final = b"h2ssebye"


@final
class Http2:
    """One connection.  See `wire.Wire` for what each method promises."""

    protocol: wire.ProtocolName = "h2"

    __slots__ = (
        "_closed",
        "_draining",
        "_events",
        "_flow",
        "_guard",
        "_last_word",
        "_limits",
        "_liveness",
        "_machine",
        "_patience",
        "_requests",
        "_screen",
        "statistics",
    )

    def __init__(
        self,
        limits: Limits,
        *,
        connection: int = 0,
        peer: str = "",
        now: float = 0.0,
        round_trips: Histogram | None = None,
    ) -> None:
        self._limits = limits
        self._machine = machine = Machine(limits)
        self._flow = Flow(machine, limits)
        self._guard = guard = Guard(limits)
        self._liveness = Liveness(limits, now, round_trips)
        self._requests = Requests(limits, connection=connection, peer=peer)
        self._patience = Patience(limits, machine, self._flow, self._requests, now)
        self._screen = Screen(machine, guard, self._flow, self._patience)
        self.statistics = WireStatistics(lost=self._flow.lost)
        self._events: list[WireEvent] = []
        self._draining = False
        self._last_word = False
        self._closed = False

    # -- state

    @property
    def open_streams(self) -> int:
        return len(self._machine.streams)

    @property
    def unsent(self) -> int:
        return self._machine.unsent

    @property
    def waits(self) -> int:
        return self._flow.queued + self._machine.unsent

    @property
    def body_bytes(self) -> int:
        return 0 if self._closed else self._requests.size

    @property
    def body_due(self) -> float:
        return self._requests.due

    @property
    def round_trip(self) -> float | None:
        """The round-trip time in seconds, as last measured."""
        return self._liveness.round_trip

    @property
    def idle(self) -> bool:
        flow = self._flow
        return not (
            flow.queued
            or self._closed
            or flow.events
            or flow.finished
            or self._events
            or self._machine._data_to_send
        )

    @property
    def last_word(self) -> bool:
        return self._last_word

    @property
    def closed(self) -> bool:
        return self._closed

    # -- in

    def receive(self, data: bytes, now: float) -> Sequence[WireEvent]:
        if self._closed:
            return ()
        if not data:
            self._end("")
            return self.take_events()
        if now > self._liveness.heard and not self._machine._data_to_send:
            self._screen.unanswered.clear()
        self._flow.now = self._liveness.heard = now
        self._patience.heard()
        try:
            for frame in self._screen.whole_frames(data, now):
                self._frame(frame, now)
        except Fault as fault:
            self._give_up(fault.reason, fault.code)
        except ProtocolError as error:
            # h2 has queued its GOAWAY, with the code and the last stream.  What it says of the
            # frame is not counted by: a peer could make up any number of reasons.
            self._end(type(error).__name__)
        return self.take_events()

    def _frame(self, frame: bytes, now: float) -> None:
        kind, flags = frame[3], frame[4]
        stream = int.from_bytes(frame[5:9], "big") & MAX_STREAM
        screen, resets_sent = self._screen, self.statistics.resets_sent
        if screen.amid_section:
            self._feed(frame, now)  # which refuses anything but CONTINUATION
        elif kind == frames.WINDOW_UPDATE:
            self._window_update(frame, stream, now)
        elif kind == frames.HEADERS:
            self._headers(frame, flags, stream, now)
        elif kind == frames.RST_STREAM:
            screen.rst_stream(stream, now)
            self._feed(frame, now)
        elif kind == frames.SETTINGS:
            self._settings(frame, flags, now)
        elif kind == frames.PRIORITY:
            self._priority(frame, stream, now)
        elif kind == frames.GOAWAY:
            # h2 would close both ways (python-hyper/h2#1181); a client that says GOAWAY opens
            # nothing more, but reads its streams to their end (RFC 9113 6.8).
            screen.goaway(frame, stream)
            self._draining = True
        elif kind == frames.DATA:
            screen.stray(stream, now)
            self._feed(frame, now)
            if self.statistics.resets_sent == resets_sent:  # else it is what this frame earned
                self._machine.forgive(stream)
        elif kind <= frames.CONTINUATION:
            self._feed(frame, now)
        # else: a frame of an extension, ignored (RFC 9113 5.5)
        given_up = self.statistics.resets_sent - resets_sent
        if given_up:
            screen.gave_up(now, given_up)

    def _feed(self, frame: bytes, now: float) -> None:
        for event in self._machine.receive_data(frame):
            match event:
                case RequestReceived():
                    self._opened(event.stream_id, event.stream_ended is not None, now)
                case DataReceived():
                    self._data(event.stream_id, event.data, event.flow_controlled_length)
                case StreamEnded() if event.stream_id in self._requests.bodies:
                    self._came_to(event.stream_id, self._requests.end(event.stream_id))
                case TrailersReceived():
                    self._trailers(event.stream_id)
                case StreamReset():
                    if event.remote_reset:
                        self.statistics.resets_received += 1
                        self._patience.given_up(event.stream_id, now)
                    else:
                        self.statistics.resets_sent += 1
                    self._gone(event.stream_id)
                case PingAckReceived() if event.ping_data == PROBE:
                    self._liveness.answered(now)
                case PingAckReceived() if event.ping_data == _DRAIN_PING:
                    self._say_last_word()
                case _:
                    # WINDOW_UPDATE and SETTINGS are acted on where the frame came in; PING has
                    # been answered by h2; PRIORITY is ignored.
                    pass

    def _say_last_word(self) -> None:
        # A peer may make up the answer, before there is a question or twice.
        if self._draining and not self._last_word:
            self._last_word = True
            last = self._machine.last_stream = self._machine.highest_inbound_stream_id
            self._machine.raw(frames.goaway_frame(last))

    # -- frames that are more than fed

    def _headers(self, frame: bytes, flags: int, stream: int, now: float) -> None:
        frame = self._screen.headers(frame, stream)
        machine = self._machine
        if stream > machine.highest_inbound_stream_id and stream % 2:
            block = frames.whole_section(frame)
            if block is not None:
                ended = bool(flags & frames.END_STREAM)
                machine.begin(stream, block, ended=ended)
                self._opened(stream, ended, now)
                return
        self._feed(self._screen.trailers(frame, flags, stream, now), now)

    def _priority(self, frame: bytes, stream: int, now: float) -> None:
        # An idle stream cannot be reset, so there h2 ends the connection.
        if self._screen.is_idle(stream):
            self._feed(frame, now)
        elif reset := self._screen.priority(frame, stream):
            self._reset(stream, reset.code, reset.reason)

    def _settings(self, frame: bytes, flags: int, now: float) -> None:
        frame, moves_windows = self._screen.settings(frame, flags)
        if not moves_windows:
            self._feed(frame, now)
            return
        flow = self._flow
        flow.settle()
        before = self._machine.remote_settings.initial_window_size
        self._feed(frame, now)
        flow.windows_moved(self._machine.remote_settings.initial_window_size - before)

    def _window_update(self, frame: bytes, stream: int, now: float) -> None:
        flow, screen = self._flow, self._screen
        if breach := self._guard.window_update(flow.sent, now):
            raise Fault.of(breach)
        outflow = flow.outflows.get(stream)
        increment = int.from_bytes(frame[HEAD_BYTES:], "big") & MAX_WINDOW
        whole = len(frame) == HEAD_BYTES + 4
        if whole and stream in screen.recent:
            if screen.overruns(stream, increment):
                self._machine.raw(frames.reset_frame(stream, ErrorCodes.FLOW_CONTROL_ERROR))
                self.statistics.resets_sent += 1
        elif whole and not increment and stream in self._machine.streams:
            self._reset(stream, ErrorCodes.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        elif outflow is None:
            self._feed(frame, now)
            if not stream:
                flow.granted += increment
        else:
            outflow.settle()
            self._feed(frame, now)
            if stream in flow.outflows:
                outflow.window_moved(increment)

    # -- requests

    def _opened(self, stream: int, ended: bool, now: float) -> None:
        self._patience.opened()
        self._guard.request()
        self.statistics.requests += 1
        refuses = self._draining
        if stream >= self._limits.stream_id and not refuses:
            self._count("stream ids used up")
            self.drain()
        if self._screen.mended:
            self._reset(stream, ErrorCodes.PROTOCOL_ERROR, "stream depends on itself")
            return
        if refuses or len(self._machine.streams) > self._limits.max_concurrent_streams:
            # No handler has seen it, so the browser may send it again (RFC 9113 8.7).
            self.statistics.refused += 1
            self._reset(stream, ErrorCodes.REFUSED_STREAM, "surplus stream")
            return
        head = self._machine.sections.head()
        outcome = self._requests.begin(stream, head, ended, now)
        if outcome is not None:
            self._came_to(stream, outcome)
        elif isinstance(head, Head) and head.expects_continue:
            self._machine.send_headers(stream, ((b":status", b"100"),))

    def _data(self, stream: int, data: bytes, flow_controlled_length: int) -> None:
        # Also for streams we gave up: what is not given back leaves the connection's window.
        if flow_controlled_length:
            self._machine.acknowledge_received_data(flow_controlled_length, stream)
        if stream in self._requests.bodies:
            outcome = self._requests.data(stream, data)
            if outcome is not None:
                self._came_to(stream, outcome)

    def _came_to(self, stream: int, outcome: Outcome) -> None:
        match outcome:
            case Request():
                self._patience.served()
                self._events.append(outcome)
            case Reset(code, reason):
                self._reset(stream, code, reason)
            case Refused(response, reason, cost):
                self._count(reason)
                self.respond(stream, response)
                if cost:
                    self._screen.gave_up(self._flow.now, cost)
            case _:
                assert_never(outcome)

    def _trailers(self, stream: int) -> None:
        malformed = read_trailers(self._machine.sections.section)
        if self._screen.mended:
            self._reset(stream, ErrorCodes.PROTOCOL_ERROR, "trailers without END_STREAM")
        elif malformed is not None:
            self._reset(stream, ErrorCodes.PROTOCOL_ERROR, malformed.reason)

    # -- out

    def respond(self, stream: int, response: Response, *, head: bool = False) -> None:
        machine = self._machine
        if stream not in machine.streams or stream in self._flow.outflows or self._closed:
            return
        self._requests.drop(stream)
        fields, body = to_send(response, head=head)
        section = ((b":status", b"%d" % response.status), *fields)
        if not body:
            machine.answer(stream, section, ended=True)
            self._forget(stream)
            self._patience.useful(self._flow.now)
            return
        machine.answer(stream, section, ended=False)
        outflow = self._flow.begin(stream)
        self._screen.unanswered.add(stream)
        outflow.push(body)
        outflow.ends = outflow.whole = True

    def open(self, stream: int, fields: Fields, first: bytes) -> None:
        machine = self._machine
        if stream not in machine.streams or stream in self._flow.outflows or self._closed:
            return
        machine.answer(stream, ((b":status", b"200"), *end_to_end(fields)), ended=False)
        outflow = self._flow.begin(stream)
        self._screen.unanswered.add(stream)
        outflow.tells = True
        outflow.push(first)

    def send(self, stream: int, payload: bytes) -> None:
        outflow = self._flow.outflows.get(stream)
        if outflow is not None and not outflow.ends:
            outflow.tells = True
            outflow.push(payload)

    def lane(self, overflow: wire.Overflow | None = None) -> Lane:
        return Lane(self._flow, overflow)

    def enter(self, stream: int, lane: wire.Lane) -> None:
        assert isinstance(lane, Lane)
        outflow = self._flow.outflows.get(stream)
        if outflow is not None and not outflow.ends:
            lane.add(outflow)

    def finish(self, stream: int) -> None:
        outflow = self._flow.outflows.get(stream)
        if outflow is not None and not outflow.ends and not self._closed:
            self._flow.finish(outflow)
            self._reap()

    def take_events(self) -> Sequence[WireEvent]:
        self._reap()
        events, self._events = self._events, []
        if self._flow.events:
            for event in self._flow.events:
                if isinstance(event, wire.Overflowed):
                    self.statistics.overflowed += 1
                    self._count(event.reason)
            events += self._flow.events
            self._flow.events.clear()
        return events

    def take_output(self) -> bytes:
        machine, flow = self._machine, self._flow
        out = []
        if machine._data_to_send:
            out.append(machine.data_to_send())
        elif flow.turns and not self._closed and (data := flow.take_whole()):
            return data
        if flow.turns and not self._closed:
            flow.take(out)
            if flow.finished:
                self._reap()
        return b"".join(out)

    # -- ends

    def expire(self, now: float) -> Sequence[WireEvent]:
        if self._closed:
            return ()
        flow, patience = self._flow, self._patience
        flow.now = now
        if patience.rests(now) and self.idle:
            return ()
        if patience.frame_is_late(now):
            self._give_up("no whole frame within request_seconds")
        elif patience.serves_nothing(now):
            self.close()
        elif self._liveness.lost(now, self._machine.unsent):
            self._machine.close_connection(ErrorCodes.NO_ERROR)
            self._end("no answer to a PING within probe_answer_seconds")
        else:
            if self._machine.streams and self._liveness.due(now):
                self._machine.ping(PROBE)
            self._end_late(now)
            if patience.stands_still(now):
                self._give_up("connection window closed too long")
            patience.rest(self._liveness.due_at)
        return self.take_events()

    def _end_late(self, now: float) -> None:
        """End the streams that have waited too long for the rest of a body, or for a window."""
        late, stalled = self._requests.late(now), self._patience.stalled(now)
        if not (late or stalled):
            return
        for stream, refused in late.items():
            self._answer_late(stream, refused)
        for outflow in stalled:
            if outflow.whole:
                self._reset(outflow.h2.stream_id, ErrorCodes.CANCEL, "window closed too long")
            else:
                self._flow.overflow(outflow, "window closed too long")
        self._reap()
        self._patience.ended(now, for_windows=bool(stalled))

    def _answer_late(self, stream: int, refused: Refused) -> None:
        """Answer past the flow, by what fits the windows: for one now it would be waited again."""
        machine, response = self._machine, refused.response
        window = machine.streams[stream].outbound_flow_control_window
        if min(window, machine.outbound_flow_control_window) < len(response.body):
            response = replace(response, fields=(), body=b"")
        fields, body = to_send(response, head=False)
        self._count(refused.reason)
        machine.answer(stream, ((b":status", b"%d" % response.status), *fields), ended=not body)
        if body:
            machine.send_data(stream, body, end_stream=True)
        self._forget(stream)

    def shed(self, reason: str) -> bool:
        most = None if self._closed else self._flow.largest()
        match most:
            case None:
                return False
            case Lane() | Standstill():
                most.shed(reason)
            case Outflow(whole=True):
                self._reset(most.h2.stream_id, ErrorCodes.CANCEL, reason)
            case Outflow():
                self._flow.overflow(most, reason)
        return True

    def refuse_body(self, reason: str) -> None:
        if not self._closed:
            stream = next(iter(self._requests.bodies))
            self._came_to(stream, Refused(wire.problem(503, reason), reason))
            self._requests.drop(stream)

    def drain(self) -> None:
        if self._closed or self._draining:
            return
        # RFC 9113 6.8: first the largest id, so that requests on their way are not lost; a round
        # trip later, when the PING comes back, the true one.
        self._draining = True
        self._machine.raw(frames.goaway_frame(MAX_STREAM))
        self._machine.ping(_DRAIN_PING)

    def close(self) -> None:
        if not self._closed:
            self._flow.finish_all()
            self._machine.close_connection(ErrorCodes.NO_ERROR)
            self._end("")

    def _give_up(self, reason: str, code: ErrorCodes = ErrorCodes.ENHANCE_YOUR_CALM) -> None:
        self._machine.close_connection(code)
        self._end(reason)

    def _end(self, reason: str) -> None:
        self._closed = True
        self._flow.shut_down()
        if reason:
            self._count(reason)

    def _reset(self, stream: int, code: ErrorCodes, reason: str) -> None:
        if stream in self._machine.streams:
            self._machine.reset_stream(stream, code)
        else:
            self._machine.raw(frames.reset_frame(stream, code))
        self.statistics.resets_sent += 1
        self._count(reason)
        self._gone(stream)

    def _gone(self, stream: int) -> None:
        self._events.append(Gone(stream))
        self._forget(stream)

    def _reap(self) -> None:
        """Let go of the streams whose END_STREAM has been framed."""
        finished, outflows = self._flow.finished, self._flow.outflows
        while finished:
            stream = finished.pop()
            outflow = outflows.get(stream)
            if outflow is not None and outflow.owes > 0:
                self._patience.held(self._flow.now)
            elif outflow is not None:
                self._patience.useful(self._flow.now)
            self._forget(stream)

    def _forget(self, stream: int) -> None:
        machine = self._machine
        h2_stream = machine.streams.get(stream)
        if h2_stream is None:
            return
        if not h2_stream.closed:
            # Answered before the request was whole: the rest of it is not wanted (RFC 9113 8.1).
            machine.reset_stream(stream, ErrorCodes.NO_ERROR)
            self.statistics.resets_sent += 1
        self._flow.drop(stream)
        self._requests.drop(stream)
        machine.forget(stream)
        self._screen.closed(stream, h2_stream.outbound_flow_control_window)
        if not machine.streams:
            self._patience.emptied(self._flow.now)

    def _count(self, reason: str) -> None:
        counts = self.statistics.by_reason
        counts[reason] = counts.get(reason, 0) + 1
