"""HTTP/2 frames by name, the few we write by hand, and those made harmless before h2 reads them."""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "FRAME_BYTES",
    "GOAWAY",
    "HEADERS",
    "HEAD_BYTES",
    "MAX_STREAM",
    "MAX_WINDOW",
    "PING",
    "PREFACE",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "dependency",
    "goaway_frame",
    "independent",
    "known_settings",
    "reset_frame",
    "whole_section",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
# We advertise no SETTINGS_MAX_FRAME_SIZE, so this is it (RFC 9113 6.5.2).
FRAME_BYTES: Final = 16_384

# RFC 9113 6.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9
END_STREAM: Final = 1
ACK: Final = 1
END_HEADERS: Final = 4
_PADDED: Final = 8
_HAS_PRIORITY: Final = 32

MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM: Final = 2**31 - 1

_HEADER_TABLE_SIZE: Final = 1
_INITIAL_WINDOW_SIZE: Final = 4
_KNOWN_SETTINGS: Final = frozenset((1, 2, 3, 4, 5, 6, 8))
# Our encoder never needs more, whatever the peer allows: a larger table costs ms to search.
_ENCODER_TABLE_BYTES: Final = 4096


def reset_frame(stream: int, code: int) -> bytes:
    """RST_STREAM."""
    return b"\0\0\x04\x03\0" + stream.to_bytes(4, "big") + code.to_bytes(4, "big")


def goaway_frame(last_stream: int) -> bytes:
    """GOAWAY with NO_ERROR."""
    return b"\0\0\x08\x07\0\0\0\0\0" + last_stream.to_bytes(4, "big") + bytes(4)


def dependency(frame: bytes) -> int | None:
    """The stream that HEADERS or PRIORITY makes its own depend on (RFC 7540 5.3.1), if any."""
    at = _dependency_at(frame)
    return None if at is None else int.from_bytes(frame[at : at + 4], "big") & MAX_STREAM


def independent(frame: bytes) -> bytes:
    """HEADERS whose stream depends on none."""
    at = _dependency_at(frame)
    return frame if at is None else frame[:at] + bytes(4) + frame[at + 4 :]


def _dependency_at(frame: bytes) -> int | None:
    if frame[3] == PRIORITY:
        return HEAD_BYTES if len(frame) == HEAD_BYTES + 5 else None
    return HEAD_BYTES + bool(frame[4] & _PADDED) if frame[4] & _HAS_PRIORITY else None


def whole_section(frame: bytes) -> bytes | None:
    """The header block of HEADERS, where it is all there and not padded."""
    flags = frame[4]
    if not flags & END_HEADERS or flags & _PADDED:
        return None
    if flags & _HAS_PRIORITY:
        return frame[HEAD_BYTES + 5 :] if len(frame) >= HEAD_BYTES + 5 else None
    return frame[HEAD_BYTES:]


def known_settings(frame: bytes) -> tuple[bytes, bool]:
    """SETTINGS without what h2 does not know, and whether it moves the windows of all streams.

    h2 would keep unknown settings for ever, 14 MB of them in 200 KB.
    """
    kept = b""
    moves_windows = False
    for name, value in struct.iter_unpack(">HL", frame[HEAD_BYTES:]):
        if name in _KNOWN_SETTINGS:
            if name == _HEADER_TABLE_SIZE:
                value = min(value, _ENCODER_TABLE_BYTES)
            moves_windows = moves_windows or name == _INITIAL_WINDOW_SIZE
            kept += struct.pack(">HL", name, value)
    return len(kept).to_bytes(3, "big") + frame[3:HEAD_BYTES] + kept, moves_windows
