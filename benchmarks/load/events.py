"""What an event stream's bytes say to a simulated tab: sequence numbers, and when they were due.

A published event's data is `"{sequence} {intended} xxxx..."`: its number, and the instant in
`time.monotonic_ns` at which the publisher meant to send it.  `read` interprets the stream as the
HTML Standard does (9.2.6) as far as that needs: any of the three line ends, comments, fields in any
order, data over several lines.  `Reader` remembers what a piece of text said, because thousands of
tabs are sent the same one.  Not h2sse's own parser: the measure must not share the faults of what
it measures.
"""

from __future__ import annotations

import re
from typing import NamedTuple, final

__all__ = ["Reader", "Text", "join", "read"]

_LINE_END = re.compile(rb"\r\n|\r|\n")
_STAMP = re.compile(rb"(\d{1,18}) (\d{1,18})(?: |\Z)")

# Tabs that are served in turn see the same few payloads; older ones do not come again.
REMEMBERED = 256


@final
class Text(NamedTuple):
    """What some text said: (sequence, intended ns) of its events, the last id, what is unfinished.

    Events that are not the publisher's have no stamp.  `id` is None if the text had none.
    """

    stamps: tuple[tuple[int, int], ...]
    id: bytes | None
    rest: bytes


def read(text: bytes) -> Text:
    """Interpret text that begins where a block begins."""
    stamps: list[tuple[int, int]] = []
    last_id: bytes | None = None
    block_id: bytes | None = None
    data: list[bytes] = []
    start = done = 0
    for end in _LINE_END.finditer(text):
        line = text[start : end.start()]
        start = end.end()
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif name == b"id" and b"\0" not in value:
                block_id = value.removeprefix(b" ")
            continue
        if data and (stamp := _STAMP.match(b"\n".join(data))):
            stamps.append((int(stamp[1]), int(stamp[2])))
        if block_id is not None:
            last_id = block_id
        block_id, data, done = None, [], start
    rest = text[done:]
    if not rest and text.endswith(b"\r"):
        rest = b"\r"  # it has ended the block; an LF that follows belongs to it
    return Text(tuple(stamps), last_id, rest)


def join(rest: bytes, text: bytes) -> bytes:
    """What was unfinished, and what came after it."""
    if rest == b"\r" and text:
        return text.removeprefix(b"\n")
    return rest + text


@final
class Reader:
    """`read`, remembered."""

    def __init__(self) -> None:
        self._known: dict[bytes, Text] = {}

    def read(self, text: bytes) -> Text:
        """As the function."""
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[text] = read(text)
        return known
