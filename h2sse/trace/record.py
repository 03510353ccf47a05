"""What a trace says: one frozen `TraceRecord` a frame, as a line or as a JSON object.

A line is made of our own words and of what peers sent.  The latter passes through `shown`, which
quotes whatever is not plain and escapes what is not printable, so that no byte of a peer can break
a line, move a terminal's cursor or pass for something that we say.  Secrets do not come this far:
`shown_fields` and `shown_path` leave them out where the record is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias, final

__all__ = [
    "UNREADABLE",
    "Direction",
    "TraceRecord",
    "shown",
    "shown_fields",
    "shown_path",
]

Direction: TypeAlias = Literal["in", "out", ""]

# How the meaning of what could not be understood begins.
UNREADABLE: Final = "cannot read"

# What is kept of a peer's text: a topic fits, and a user agent; a line stays one that is read.
_SHOWN_CHARS: Final = 256
# Fields of a section that are shown; h2sse refuses more (`limits.header_fields`).
_SHOWN_FIELDS: Final = 100

_SECRET_FIELDS: Final = frozenset(
    (b"authorization", b"cookie", b"proxy-authorization", b"set-cookie")
)
# EventSource can set no header, so its pages often put what should be one into the query.
_SECRET_PARAMETER: Final = re.compile(
    r"(?<=[?&])((?:[\w.-]*(?:token|secret|password|passwd|signature|api_?key)|auth|jwt|key|sig)=)"
    r"[^&#\s]+",
    re.IGNORECASE,
)

# Without blanks, quotes, commas and brackets: nothing that separates.
_PLAIN: Final = re.compile(r"[\w!#$%&'*+./:;<=>?@^`|~-]+", re.ASCII).fullmatch

# ANSI colours.  Streams take turns among six, so that neighbours differ.
_STREAM_COLOURS: Final = (36, 33, 35, 32, 34, 96)
_QUIET, _BOLD, _RED = "2", "1", "31"
_ARROWS: Final[dict[Direction, str]] = {"in": "<-", "out": "->", "": "--"}
_FAULTS: Final = frozenset(("RST_STREAM", "GOAWAY"))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRecord:
    """One thing that passed on a connection, seen from our end.

    `time` is in seconds since the epoch, `direction` "in" for what we received, "out" for what we
    sent, "" for what no frame carried.  `type` is a frame's (RFC 9113 6), for HTTP/1.1 REQUEST,
    RESPONSE, CHUNK or BODY, and OPEN, WRITE and CLOSE for the connection itself.  `length` is the
    payload's in bytes.  The two windows are how much DATA may still be sent that way, after this
    frame, on its stream and on the connection (RFC 9113 5.2).  `path` is what the stream's request
    asked for, without the query; `details` are the facts in `meaning`, for programs.
    """

    time: float
    connection: int
    direction: Direction
    type: str
    meaning: str
    stream: int | None = None
    flags: tuple[str, ...] = ()
    length: int | None = None
    path: str = ""
    stream_window: int | None = None
    connection_window: int | None = None
    details: tuple[tuple[str, Any], ...] = ()

    @property
    def readable(self) -> bool:
        """False for what could not be understood."""
        return not self.meaning.startswith(UNREADABLE)

    def line(self, *, colour: bool = False) -> str:
        """One line, without its end: time, connection, direction, stream, type, length, meaning."""
        stream = "" if self.stream is None else f"s{self.stream}"
        length = "" if self.length is None else str(self.length)
        time = f"{datetime.fromtimestamp(self.time):%H:%M:%S.%f}"
        where = f"c{self.connection:<3} {_ARROWS[self.direction]}"
        stream, kind, length = f"{stream:<6}", f"{self.type:<13}", f"{length:>6}"
        notes = self._notes()
        meaning = self.meaning
        if colour:
            fault = not self.readable or self.type in _FAULTS
            time, where, notes = (_paint(_QUIET, each) for each in (time, where, notes))
            kind = _paint(_RED if fault else _BOLD, kind)
            if self.stream:
                hue = _STREAM_COLOURS[self.stream // 2 % len(_STREAM_COLOURS)]
                stream = _paint(str(hue), stream)
            if fault:
                meaning = _paint(_RED, meaning)
        return f"{time} {where} {stream} {kind} {length}  {meaning}{notes}".rstrip()

    def _notes(self) -> str:
        notes = [" ".join(self.flags)] if self.flags else []
        if self.stream_window is not None:
            notes.append(f"stream window {self.stream_window}")
        if self.connection_window is not None:
            notes.append(f"connection window {self.connection_window}")
        return f"  [{', '.join(notes)}]" if notes else ""

    def as_dict(self) -> dict[str, Any]:
        """What there is to say, by name, for `json.dumps`."""
        found: dict[str, Any] = {
            "time": round(self.time, 6),
            "connection": self.connection,
            "direction": self.direction,
            "type": self.type,
        }
        for name in ("stream", "length", "stream_window", "connection_window"):
            value = getattr(self, name)
            if value is not None:
                found[name] = value
        if self.flags:
            found["flags"] = list(self.flags)
        if self.path:
            found["path"] = self.path
        return found | dict(self.details) | {"meaning": self.meaning}

    def json(self) -> str:
        """`as_dict` as one line of ASCII."""
        return json.dumps(self.as_dict(), separators=(",", ":"))


def _paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if text.strip() else text


def shown(text: bytes | str) -> str:
    """A peer's text, as it may stand in a line: as it is where it is plain, else quoted."""
    if isinstance(text, bytes):
        text = text[: 4 * _SHOWN_CHARS + 4].decode("utf-8", "surrogateescape")
    more = "..." if len(text) > _SHOWN_CHARS else ""
    text = text[:_SHOWN_CHARS]
    if not more and _PLAIN(text):
        return text
    return f'"{"".join(map(_escaped, text))}{more}"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    # Spaces of other widths, and marks that turn the direction of writing, are not printable.
    if character.isprintable():
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{{{number:x}}}"


def shown_path(path: bytes | str, *, secrets: bool = False) -> str:
    """A request's target, without the values of parameters that are secrets by their names."""
    text = path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path
    text = text[: 4 * _SHOWN_CHARS]
    return shown(text if secrets else _SECRET_PARAMETER.sub(r"\1***", text))


def shown_fields(
    fields: Iterable[tuple[bytes, bytes]], *, secrets: bool = False
) -> tuple[tuple[str, str], ...]:
    """Names and values as they may be shown.

    Credentials are given by their length: those that everyone knows, and those that the sender
    asked never to be indexed (RFC 7541 7.1.3).
    """
    found: list[tuple[str, str]] = []
    for field in fields:
        if len(found) == _SHOWN_FIELDS:
            break
        name, value = field
        hidden = name.lower() in _SECRET_FIELDS or not getattr(field, "indexable", True)
        if hidden and not secrets:
            found.append((shown(name), f"({len(value)} bytes, not shown)"))
        else:
            found.append((shown(name), shown_path(value, secrets=secrets)))
    return tuple(found)
