"""Frames on their way to h2: cut out of the input, judged, and mended where h2 is too strict.

h2 is fed whole frames, one by one: when a later frame of a chunk is in error, it forgets the events
of the earlier ones.  Each head is looked at before its body has come, each frame before h2 sees it.

Where h2 4.4 answers one stream's fault with the end of the connection, and RFC 9113 does not, the
frame is made harmless here, and the stream is to be reset instead.  What h2 lets pass that is to
end the connection, and what it answers in silence that is to count, is found here too.  How many
frames of a kind may come is asked of `guard.py`.

What ends the connection is raised, as a `Fault`; what is to become of one stream is returned.
`http2.py` acts on both, and on what h2 makes of the frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

from h2.errors import ErrorCodes

from .frames import (
    ACK,
    END_STREAM,
    HEAD_BYTES,
    MAX_WINDOW,
    PREFACE,
    SETTINGS,
    dependency,
    independent,
    known_settings,
)
from .http2_requests import Reset
from .machine import CLOSED_STREAMS

if TYPE_CHECKING:
    from .flow import Flow
    from .guard import Breach, Guard
    from .machine import Machine
    from .patience import Patience

__all__ = ["Fault", "Screen"]


@final
class Fault(Exception):
    """The connection is to end, with `code`, and be counted by `reason`."""

    def __init__(self, code: ErrorCodes, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    @classmethod
    def of(cls, breach: Breach) -> Fault:
        """What a breach comes to."""
        return cls(ErrorCodes(breach.code), breach.reason)


@final
class Screen:
    """One connection's.  Its methods raise `Fault` where what has come is to be the last."""

    __slots__ = (
        "_buffer",
        "_flow",
        "_guard",
        "_machine",
        "_patience",
        "_preface",
        "_settled",
        "amid_section",
        "mended",
        "recent",
        "unanswered",
    )

    def __init__(self, machine: Machine, guard: Guard, flow: Flow, patience: Patience) -> None:
        self._machine = machine
        self._guard = guard
        self._flow = flow
        self._patience = patience
        self._buffer = bytearray()
        self._preface = False  # whether the preface is complete
        self._settled = False  # whether the client's first SETTINGS has come
        # Whether a header section had begun, and not ended, before the frame that came last.
        self.amid_section = False
        # Whether h2 was shown the last HEADERS with a fault mended, for which to reset the stream.
        self.mended = False
        # Streams whose answer, if there is one, was not out when the latest input came.
        self.unanswered: set[int] = set()
        # Streams closed of late, and what was left of their windows to send.
        self.recent: dict[int, int] = {}

    # -- cutting

    def whole_frames(self, data: bytes, now: float) -> Iterator[bytes]:
        """Those that `data` makes whole, each to be dealt with before the next is asked for."""
        buffer, guard = self._buffer, self._guard
        buffer += data
        used = 0
        # Whether all that has come so far goes on with what was waited for before.
        same = guard.amid_section
        if not self._preface:
            if not PREFACE.startswith(buffer[: len(PREFACE)]):
                raise Fault(ErrorCodes.PROTOCOL_ERROR, "no HTTP/2 preface")
            if len(buffer) < len(PREFACE):
                return
            self._machine.receive_data(PREFACE)
            self._preface = True
            used = len(PREFACE)
        while len(buffer) - used >= HEAD_BYTES:
            size = int.from_bytes(buffer[used : used + 3], "big")
            # Here, not when the body has come: h2 would buffer it first, all 16 MB.
            if breach := guard.head(buffer[used + 3], size):
                raise Fault.of(breach)
            end = used + HEAD_BYTES + size
            if end > len(buffer):
                break
            frame = bytes(buffer[used:end])
            used = end
            kind, flags = frame[3], frame[4]
            if not self._settled:
                if kind != SETTINGS or flags & ACK:
                    raise Fault(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")
                self._settled = True
            self.amid_section = guard.amid_section
            if breach := guard.frame(kind, flags, size, now):
                raise Fault.of(breach)
            same = same and guard.amid_section
            yield frame
        del buffer[:used]
        if self._settled:
            if not buffer and not guard.amid_section:
                self._patience.frame_is_whole()
            else:
                self._patience.frame_is_amid(now, anew=bool(used) and not same)

    # -- judging and mending

    def headers(self, frame: bytes, stream: int) -> bytes:
        """HEADERS has come: as h2 may see it, if it opens a stream."""
        self.mended = False
        if dependency(frame) == stream:
            frame = independent(frame)
            self.mended = True
        return frame

    def trailers(self, frame: bytes, flags: int, stream: int, now: float) -> bytes:
        """HEADERS has come, of trailers unless the stream is idle: as h2 may see it."""
        if stream in self._machine.streams and not flags & END_STREAM:
            # Trailers that do not end the stream make it malformed (RFC 9113 8.1), no more.
            frame = frame[:4] + bytes((flags | END_STREAM,)) + frame[5:]
            self.mended = True
        elif not self.is_idle(stream):
            self.stray(stream, now)
        return frame

    def rst_stream(self, stream: int, now: float) -> None:
        """RST_STREAM has come."""
        if self.is_idle(stream):
            # h2 lets it pass while any stream is open (RFC 9113 6.4).
            raise Fault(ErrorCodes.PROTOCOL_ERROR, "RST_STREAM of an idle stream")
        is_open = stream in self._machine.streams
        answered = stream in self._flow.outflows and stream not in self.unanswered
        if breach := self._guard.reset(now, is_open=is_open, answered=answered):
            raise Fault.of(breach)

    def is_idle(self, stream: int) -> bool:
        """Whether a stream has not been opened yet."""
        # Those of even ids are ours to open, and never are.
        return not stream % 2 or stream > self._machine.highest_inbound_stream_id

    def stray(self, stream: int, now: float) -> None:
        """DATA or HEADERS has come: it counts if the stream is not open."""
        # h2 resets a closed stream once more for it, and tells nobody.
        if stream not in self._machine.streams:
            self.gave_up(now)

    def gave_up(self, now: float, count: int = 1) -> None:
        """So many requests came to nothing."""
        if breach := self._guard.gave_up(now, count):
            raise Fault.of(breach)

    def priority(self, frame: bytes, stream: int) -> Reset | None:
        """PRIORITY has come, of a stream that is not idle; else it is ignored (RFC 9113 5.3.2)."""
        if len(frame) != HEAD_BYTES + 5:
            return Reset(ErrorCodes.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
        if dependency(frame) == stream:
            return Reset(ErrorCodes.PROTOCOL_ERROR, "stream depends on itself")
        return None

    def goaway(self, frame: bytes, stream: int) -> None:
        """GOAWAY has come, which h2 is not to see."""
        if stream:
            raise Fault(ErrorCodes.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(frame) < HEAD_BYTES + 8:
            raise Fault(ErrorCodes.FRAME_SIZE_ERROR, "GOAWAY of a wrong size")

    def settings(self, frame: bytes, flags: int) -> tuple[bytes, bool]:
        """SETTINGS has come: as h2 may see it, and whether it moves the windows of all streams."""
        if flags & ACK or (len(frame) - HEAD_BYTES) % 6 or frame[5:9] != b"\0\0\0\0":
            return frame, False  # h2 knows the answer
        return known_settings(frame)

    # -- closed streams

    def closed(self, stream: int, window: int) -> None:
        """A stream is closed, with so much left of its window to send."""
        self.recent[stream] = window
        if len(self.recent) > CLOSED_STREAMS:
            del self.recent[next(iter(self.recent))]

    def overruns(self, stream: int, increment: int) -> bool:
        """WINDOW_UPDATE has come of one of `recent`: whether to reset that once more."""
        # Such a frame may have crossed our END_STREAM and is ignored, but for the one fault that
        # it can still show (RFC 9113 6.9.1).
        self.recent[stream] += increment
        if self.recent[stream] <= MAX_WINDOW:
            return False
        del self.recent[stream]
        return True
