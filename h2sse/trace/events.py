"""What a DATA frame or a chunk carries of an event stream, found without keeping it.

`Scanner` follows HTML 9.2.6 line by line as `sse.Parser` does, but holds no data: it remembers the
begin of one line and the fields of one block, so a trace costs a stream the same few hundred bytes
whatever flows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final
from urllib.parse import parse_qsl

from .record import shown

__all__ = ["Block", "Scanner", "said", "subject"]

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_BOM: Final = b"\xef\xbb\xbf"
# What is kept of a line: enough for any id or type that is shown.
_LINE_BYTES: Final = 300
# Blocks of one frame that are named each; of further ones only the number is said.
_NAMED_BLOCKS: Final = 4
# A stream may be of many topics; a line is to be read.
_NAMED_TOPICS: Final = 4


@final
@dataclass(frozen=True, slots=True)
class Block:
    """What stood before a blank line: an event if it has data, else what it sets, or nothing."""

    event: bool
    type: bytes
    id: bytes | None
    retry: bytes | None

    def says(self) -> str:
        """In words."""
        words = [f"event {shown(self.type or b'message')}"] if self.event else []
        if self.retry is not None:
            words.append(f"retry {shown(self.retry)}")
        if self.id is not None:
            words.append(f"id {shown(self.id)}")
        return ", ".join(words) or "a comment (heartbeat)"

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"event": shown(self.type or b"message")} if self.event else {}
        if self.retry is not None:
            found["retry"] = shown(self.retry)
        if self.id is not None:
            found["id"] = shown(self.id)
        return found or {"comment": True}


@final
class Scanner:
    """Reads an event stream in chunks of any size; `feed` gives the blocks that a chunk ends."""

    __slots__ = ("_data", "_id", "_line", "_retry", "_skip_lf", "_some", "_start", "_type")

    def __init__(self) -> None:
        self._start = True  # no line has ended yet
        self._skip_lf = False  # the last chunk ended in CR: an LF now belongs to it
        self._line = b""  # the begin of the unfinished line
        self._clear()

    def _clear(self) -> None:
        self._some = self._data = False
        self._type = b""
        self._id: bytes | None = None
        self._retry: bytes | None = None

    @property
    def between(self) -> bool:
        """True when no block is begun, so that the same bytes mean the same here as elsewhere."""
        return not (self._some or self._line or self._skip_lf or self._start)

    @property
    def amid(self) -> bool:
        """True when a block has begun and not ended."""
        return self._some or bool(self._line)

    def feed(self, data: bytes) -> list[Block]:
        """The blocks that end in `data`.  Never raises."""
        if self._skip_lf and data:
            self._skip_lf = False
            if data[0] == 0x0A:
                data = data[1:]
        if not data:
            return []
        self._skip_lf = data[-1] == 0x0D
        lines = _LINE_END.split(data)
        lines[0] = self._line + lines[0][: _LINE_BYTES - len(self._line)]
        self._line = lines.pop()[:_LINE_BYTES]
        blocks = []
        for line in lines:
            if self._start:
                self._start = False
                line = line.removeprefix(_BOM)
            if line:
                self._field(line[:_LINE_BYTES])
            elif self._some:
                blocks.append(Block(self._data, self._type, self._id, self._retry))
                self._clear()
        return blocks

    def _field(self, line: bytes) -> None:
        self._some = True
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data = True
            case b"event":
                self._type = value
            case b"id" if b"\0" not in value:
                self._id = value
            case b"retry":
                self._retry = value
            case _:
                pass  # a comment, or a field that clients ignore


def said(blocks: Sequence[Block], *, amid: bool) -> str:
    """What the blocks that ended in a frame are, in words; `amid` if another one goes on."""
    words = [each.says() for each in blocks[:_NAMED_BLOCKS]]
    if len(blocks) > _NAMED_BLOCKS:
        words.append(f"and {len(blocks) - _NAMED_BLOCKS} more")
    if amid:
        words.append("the begin of the next" if words else "a part of an event")
    return " + ".join(words) or "nothing"


def subject(target: str) -> str:
    """What a stream is about: the topics its request's query names, else the path."""
    path, _, query = target.partition("?")
    topics: list[str] = []
    if "topic=" in query:
        try:
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=100)
            topics = [shown(value) for name, value in pairs if name == "topic"]
        except ValueError:
            pass  # of more fields than h2sse itself reads
    if not topics:
        return shown(path)
    more = len(topics) - _NAMED_TOPICS
    names = ", ".join(topics[:_NAMED_TOPICS]) + (f" and {more} more" if more > 0 else "")
    return f"topic{'s' if len(topics) > 1 else ''} {names}"
