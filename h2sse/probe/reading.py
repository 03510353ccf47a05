"""An event stream as it comes: its blocks, and when each began and ended.

A parser (`h2sse.Parser`) gives what the bytes mean; the prober asks how they were written, too:
which lines a block has, whether it came whole, what stands between the events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import final

__all__ = ["Block", "Reading"]

# Of what a stream sends; past this the prober looks no further, and keeps nothing.
_KEPT_BYTES = 8 * 1024 * 1024


@final
@dataclass(frozen=True, slots=True)
class Block:
    """Lines up to a blank one, or, if there are only comments, one comment."""

    began_at: float
    ended_at: float
    lines: tuple[bytes, ...]

    def values(self, name: str) -> list[str]:
        """The values of a field, in order."""
        found = []
        for line in self.lines:
            field_name, _, value = line.partition(b":")
            if field_name == name.encode():
                found.append(value.removeprefix(b" ").decode(errors="replace"))
        return found

    @property
    def is_event(self) -> bool:
        """Whether it makes an event (HTML 9.2.6, dispatch)."""
        return any(line.partition(b":")[0] == b"data" for line in self.lines)

    @property
    def data(self) -> str:
        return "\n".join(self.values("data"))

    @property
    def id(self) -> str | None:
        """Its last valid id; None if it has none."""
        ids = [each for each in self.values("id") if "\0" not in each]
        return ids[-1] if ids else None


@final
@dataclass(slots=True)
class Reading:
    """Feed it what comes; `blocks` are whole, `arrivals` the times at which anything came."""

    blocks: list[Block] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    comments: list[float] = field(default_factory=list)
    size: int = 0
    _line: bytearray = field(default_factory=bytearray)
    _lines: list[bytes] = field(default_factory=list)
    _began: float | None = None
    _skip_lf: bool = False

    @property
    def events(self) -> list[Block]:
        return [block for block in self.blocks if block.is_event]

    @property
    def place(self) -> str | None:
        """The id of a block without data before the first event.

        With it a server says that it goes on from there: the client knows where it stands.
        """
        for block in self.blocks:
            if block.is_event:
                return None
            if block.id is not None:
                return block.id
        return None

    @property
    def greeting(self) -> list[Block]:
        """The events that begin the stream, the last of them under the id of its place.

        They tell how things stand there, to whoever comes, and are not what happens next.
        """
        place = self.place
        if place is None:
            return []
        first = list(takewhile(lambda event: event.id in (None, place), self.events))
        while first and first[-1].id is None:
            first.pop()
        return first

    @property
    def news(self) -> list[Block]:
        """The events after the greeting."""
        return self.events[len(self.greeting) :]

    def feed(self, data: bytes, now: float) -> None:
        """More of the body, at a time in seconds."""
        if not self.size:
            data = data.removeprefix(b"\xef\xbb\xbf")
        self.size += len(data)
        self.arrivals.append(now)
        if self.size > _KEPT_BYTES:
            return
        for piece in data.splitlines(keepends=True):
            # bytes.splitlines knows LF, CR and CRLF, and only these.
            if self._skip_lf and piece == b"\n" and not self._line:
                self._skip_lf = False
                continue
            self._skip_lf = piece.endswith(b"\r")
            if self._began is None:
                self._began = now
            self._line += piece.rstrip(b"\r\n")
            if piece[-1:] in (b"\r", b"\n"):
                self._end_line(now)

    def _end_line(self, now: float) -> None:
        line = bytes(self._line)
        self._line.clear()
        assert self._began is not None
        if line.startswith(b":"):
            self.comments.append(now)
        if line:
            self._lines.append(line)
        elif self._lines:
            self.blocks.append(Block(self._began, now, tuple(self._lines)))
            self._lines.clear()
        if not self._lines or all(each.startswith(b":") for each in self._lines):
            # A comment needs no blank line after it: the event behind one begins with itself.
            self._began = None
