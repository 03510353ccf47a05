"""What an HTTP/2 peer may do, and how often: asked of each frame before h2 sees it.

RFC 9113 bounds the size of a frame and leaves their number to us (10.5).  These are legal, cost
their sender a few bytes and h2 2 to 75 us, and have each stopped servers:

    frame                             counts as                             known as
    any, over 16 KiB                  too long, by its head alone           -
    SETTINGS of many entries          too long, by its head alone           -
    SETTINGS                          one of `settings_frames`              CVE-2019-9515
    SETTINGS that acknowledges        one, of the one that we sent          -
    HEADERS, then CONTINUATION        `continuation_frames`, `.._block_..`  CVE-2024-27316
    PING, PRIORITY, GOAWAY, unknown   one of `small_frames`                 CVE-2019-9512, -9513
    DATA of a few bytes, not the last one of `small_frames`                 CVE-2019-9518
    RST_STREAM, nothing open          one of `small_frames`                 -
    WINDOW_UPDATE                     the same, paid for by DATA we sent    CVE-2019-9511
    RST_STREAM before the answer      one of `resets`                       CVE-2023-44487
    whatever makes us reset a stream  one of `resets`                       CVE-2025-8671

A row is a rate, never a total: browsers reset streams and answer PINGs all day.  What browsers were
seen to do counts for nothing, or is far below (`Limits` has the numbers).  A row that is broken
ends the connection, since nothing less stops the frames from coming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from .frames import (
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

if TYPE_CHECKING:
    from .config import Limits

__all__ = ["BREACHES", "TOO_LARGE_COST", "Breach", "Bucket", "Guard"]

_PROTOCOL_ERROR, _FRAME_SIZE_ERROR, _ENHANCE_YOUR_CALM = 1, 6, 11  # RFC 9113 7

_ENTRY_BYTES: Final = 6
# DATA under this costs more by its frame than by its bytes.
_SHORT_BYTES: Final = 32
# What a request may bring with it: Firefox sends each a WINDOW_UPDATE, Chromium a PRIORITY_UPDATE
# and a frame of no known kind.
_FRAMES_A_REQUEST: Final = 4
# A client that gives back every event by itself, on stream and connection, sends two for 50 bytes.
_BYTES_A_WINDOW_UPDATE: Final = 32
# A section that is refused as too large has been decoded, and costs as much as ten resets.
TOO_LARGE_COST: Final = 10


@final
@dataclass(frozen=True, slots=True)
class Breach:
    """Why a connection ends: the reason as it is counted, and the code of its GOAWAY."""

    reason: str
    code: int = _ENHANCE_YOUR_CALM


_TOO_LONG = Breach("frame over SETTINGS_MAX_FRAME_SIZE", _FRAME_SIZE_ERROR)
_ENTRIES = Breach("too many entries in SETTINGS")
_SETTINGS_RATE = Breach("too many SETTINGS frames")
_UNSOLICITED = Breach("SETTINGS acknowledged that we did not send", _PROTOCOL_ERROR)
_CONTINUATIONS = Breach("too many CONTINUATION frames")
_BLOCK = Breach("header block too long")
_RESETS = Breach("too many requests given up")
_OTHER = Breach("too many unknown frames")
_SMALL = {
    DATA: Breach("too many short DATA frames"),
    PRIORITY: Breach("too many PRIORITY frames"),
    RST_STREAM: Breach("too many RST_STREAM frames"),
    PING: Breach("too many PING frames"),
    GOAWAY: Breach("too many GOAWAY frames"),
    WINDOW_UPDATE: Breach("too many WINDOW_UPDATE frames"),
}
_FIXED = (_TOO_LONG, _ENTRIES, _SETTINGS_RATE, _UNSOLICITED, _CONTINUATIONS, _BLOCK, _RESETS)

# Every reason there is, by which a log tells an attack from a mishap.
BREACHES: Final = frozenset(each.reason for each in (*_FIXED, _OTHER, *_SMALL.values()))


@final
class Bucket:
    """So many at once, and then so many a second.

    Kept as the one moment at which it will be full again (the GCRA of ATM): no refilling, and what
    is taken moves that moment on.
    """

    __slots__ = ("_each", "_full_at", "_most")

    def __init__(self, burst: float, per_second: float) -> None:
        self._each = 1 / per_second
        self._most = burst / per_second
        self._full_at = float("-inf")

    def take(self, now: float, count: int = 1) -> bool:
        """Take `count` out, at `now` in seconds of any clock; False if they are not there."""
        full_at = max(self._full_at, now) + count * self._each
        # The sum of many small steps may be off by as much.
        if full_at - now > self._most + 1e-6:
            return False
        self._full_at = full_at
        return True

    def earn(self, count: int) -> None:
        """Put `count` back, as far as there is room."""
        self._full_at -= count * self._each


@final
class Guard:
    """One connection's counts.  Each question is answered with None, or why it is to end."""

    __slots__ = (
        "_acknowledged",
        "_block",
        "_limits",
        "_pieces",
        "_resets",
        "_sent",
        "_settings",
        "_small",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._small = Bucket(limits.small_frames, limits.small_frames_per_second)
        self._resets = Bucket(limits.resets, limits.resets_per_second)
        self._settings = Bucket(limits.settings_frames, limits.settings_frames_per_minute / 60)
        self._acknowledged = False
        self._block = 0  # bytes so far of the header block being read
        self._pieces: int | None = None  # its CONTINUATION frames so far; None: none is being read
        self._sent = 0  # bytes of DATA that have earned their WINDOW_UPDATE frames

    @property
    def amid_section(self) -> bool:
        """Whether a header section has begun and not ended."""
        return self._pieces is not None

    def head(self, kind: int, size: int) -> Breach | None:
        """A frame's head has come, to be followed by `size` bytes."""
        if size > FRAME_BYTES:
            return _TOO_LONG
        if kind == SETTINGS and size > self._limits.settings_entries * _ENTRY_BYTES:
            return _ENTRIES
        return None

    def frame(self, kind: int, flags: int, size: int, now: float) -> Breach | None:
        """A whole frame has come."""
        if kind == HEADERS:
            if not flags & END_HEADERS:
                self._pieces = 0
                self._block = size
        elif kind == DATA:
            if size < _SHORT_BYTES and not flags & END_STREAM:
                return self._small_frame(kind, now)
        elif kind == CONTINUATION:
            return self._continuation(flags, size)
        elif kind == SETTINGS:
            return self._settings_frame(flags, now)
        elif kind not in (WINDOW_UPDATE, RST_STREAM):  # which have methods of their own
            return self._small_frame(kind, now)
        return None

    def _settings_frame(self, flags: int, now: float) -> Breach | None:
        if not flags & ACK:
            return None if self._settings.take(now) else _SETTINGS_RATE
        if self._acknowledged:
            return _UNSOLICITED
        self._acknowledged = True
        return None

    def _small_frame(self, kind: int, now: float) -> Breach | None:
        return None if self._small.take(now) else _SMALL.get(kind, _OTHER)

    def _continuation(self, flags: int, size: int) -> Breach | None:
        if self._pieces is None:
            return None  # h2 knows the answer
        self._pieces += 1
        self._block += size
        if self._pieces > self._limits.continuation_frames:
            return _CONTINUATIONS
        if self._block > self._limits.header_block_bytes:
            return _BLOCK
        if flags & END_HEADERS:
            self._pieces = None
        return None

    def window_update(self, sent: int, now: float) -> Breach | None:
        """WINDOW_UPDATE has come, when `sent` bytes of DATA have been framed in all."""
        earned = (sent - self._sent) // _BYTES_A_WINDOW_UPDATE
        if earned > 0:
            self._sent += earned * _BYTES_A_WINDOW_UPDATE
            self._small.earn(earned)
        return self._small_frame(WINDOW_UPDATE, now)

    def request(self) -> None:
        """A request has come."""
        self._small.earn(_FRAMES_A_REQUEST)

    def reset(self, now: float, *, is_open: bool, answered: bool) -> Breach | None:
        """RST_STREAM has come.  To leave a stream whose answer is out is what a browser does."""
        if not is_open:
            return self._small_frame(RST_STREAM, now)
        return None if answered else self.gave_up(now)

    def gave_up(self, now: float, count: int = 1) -> Breach | None:
        """So many requests came to nothing."""
        return None if self._resets.take(now, count) else _RESETS
