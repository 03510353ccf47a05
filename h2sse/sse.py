"""The event stream format: `Event` to bytes, and bytes back to `Message`.

Both follow the HTML Standard, 9.2.5 (format) and 9.2.6 (interpretation), to the byte.  Encoding
holds two promises: nothing in an event can forge a field, and one event is one whole block, so it
can be sent as it is to any number of tabs.  Parsing gives the same messages however the bytes are
cut into chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

__all__ = ["HEARTBEAT", "MAX_RETRY_MS", "Event", "Message", "Parser", "opening"]

# A comment in a block of its own: parsers drop it, middle boxes see traffic (HTML 9.2.7).
HEARTBEAT = b":\n\n"

# A day.  A client that is told to wait longer is, for its user, gone for good.
MAX_RETRY_MS = 86_400_000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message on its way to every subscriber.

    `data` may hold any text, line breaks too (CR and CRLF arrive as LF); `event` is the type that
    `addEventListener` names, absent for `onmessage`; `id` becomes the tab's last event ID (one is
    assigned on publishing when it is None); `retry` sets the tab's reconnection time, in ms.

    Raises ValueError if a field could not be written as one line, or holds a lone surrogate, which
    has no UTF-8 form (HTML 9.2.5).
    """

    data: str = ""
    event: str | None = None
    id: str | None = None
    retry: int | None = None

    def __post_init__(self) -> None:
        # A line break here would let a publisher forge whole fields in every tab.
        if self.event is not None and ("\r" in self.event or "\n" in self.event):
            raise ValueError(f"event must be one line, without CR or LF: {self.event!r}")
        # An id with NUL is ignored by clients (HTML 9.2.6), so it could never be resumed from.
        if self.id is not None and set(self.id) & set("\r\n\0"):
            raise ValueError(f"id must be one line, without CR, LF or NUL: {self.id!r}")
        if self.retry is not None and (
            type(self.retry) is not int or not 0 < self.retry <= MAX_RETRY_MS
        ):
            # Not 0: Chromium would come back at once, for ever.
            raise ValueError(f"retry must be 1 to {MAX_RETRY_MS} ms: {self.retry!r}")
        for name, text in (("data", self.data), ("event", self.event), ("id", self.id)):
            if text and not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise ValueError(f"{name} holds a lone surrogate: {error}") from None

    def encode(self) -> bytes:
        """The event as one block of the stream, blank line included."""
        # HTML 9.2.5 knows three line ends, and only these: str.splitlines cuts at U+2028 too.
        lines = []
        if self.event:
            lines.append(f"event: {self.event}\n")
        if self.id is not None:
            lines.append(f"id: {self.id}\n")
        if self.retry is not None:
            lines.append(f"retry: {self.retry}\n")
        data = self.data.encode()
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" in data:
            data = data.replace(b"\n", b"\ndata: ")
        return b"%bdata: %b\n\n" % ("".join(lines).encode(), data)


def opening(*, retry: int, id: str | None = None) -> bytes:  # noqa: A002
    """The first block of a stream: a reconnection time in ms and, if given, where the tab stands.

    It goes out with the response headers, because Firefox fires `open` only at the first byte of
    the body.  The id spares a tab that drops before its first event from missing any.
    """
    place = "" if id is None else f"id: {id}\n"
    return f"retry: {retry}\n{place}\n".encode()


@final
class Message(NamedTuple):
    """One event as a client sees it: the fields of a MessageEvent (HTML 9.2.6)."""

    # A tuple, because a frozen dataclass takes longer to make than its event to parse.

    event: str
    data: str
    last_event_id: str


@final
class Parser:
    """Interprets an event stream (HTML 9.2.6), fed in chunks of any size.

    `last_event_id` is the last event ID string: what to send as Last-Event-ID.
    `reconnection_time` is the last `retry`, in ms, or None if there was none.
    """

    __slots__ = (
        "_at_start",
        "_data",
        "_event",
        "_held",
        "_id",
        "_skip_lf",
        "_tail",
        "_tail_bytes",
        "last_event_id",
        "reconnection_time",
    )

    def __init__(self, *, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.reconnection_time: int | None = None
        self._id = last_event_id
        self._event = ""
        self._data: list[str] = []
        self._held = 0
        self._tail: list[bytes] = []  # the unfinished line, in the pieces it came in
        self._tail_bytes = 0
        self._skip_lf = False  # the last chunk ended in CR: an LF now belongs to it
        self._at_start = True

    @property
    def unfinished_line_bytes(self) -> int:
        """How much of a line waits for its end.  Nothing here bounds it: the reader must."""
        return self._tail_bytes

    @property
    def unfinished_event_chars(self) -> int:
        """How much data, line ends included, waits for its blank line.  Not bounded either."""
        return self._held

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes, in order.  Never raises: any bytes are a stream."""
        if not data:
            return []
        if self._skip_lf:
            self._skip_lf = False
            if data[0] == 0x0A:
                data = data[1:]
        # Where the last whole line ends; what follows waits for more.
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if end == 0:
            if data:
                self._tail.append(data)
                self._tail_bytes += len(data)
            return []
        rest = data[end:]
        self._skip_lf = not rest and data[-1] == 0x0D
        whole = b"".join((*self._tail, data[:end])) if self._tail else data[:end]
        self._tail = [rest] if rest else []
        self._tail_bytes = len(rest)
        if self._at_start:
            self._at_start = False
            whole = whole.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in whole:
            whole = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # Every field's name and every line end is ASCII, which bad UTF-8 never swallows: the whole
        # decodes to what its lines decode to.
        return self._interpret(whole.decode(errors="replace").split("\n"))

    def _interpret(self, lines: list[str]) -> list[Message]:
        # Locals, and the usual lines first: half of what a small event costs, else
        # (benchmarks/micro/parse.py).
        del lines[-1]  # what follows the last line end is no line
        messages: list[Message] = []
        new = tuple.__new__  # `Message()` without its call of a Python function
        data, event, new_id = self._data, self._event, self._id
        counted = len(data)  # of `data`, the lines that are in `_held` already
        for line in lines:
            if line[:6] == "data: ":
                data.append(line[6:])
            elif not line:
                self.last_event_id = new_id
                if data:
                    text = data[0] if len(data) == 1 else "\n".join(data)
                    messages.append(new(Message, (event or "message", text, new_id)))
                    data = []
                event = ""
                counted = self._held = 0
            else:
                name, _, value = line.partition(":")
                if value[:1] == " ":
                    value = value[1:]
                if name == "id":
                    if "\0" not in value:
                        new_id = value
                elif name == "event":
                    event = value
                elif name == "data":
                    data.append(value)
                elif name == "retry":
                    self._retry(value)
                # Else a comment, or a field of another day: ignored.
        if data:
            self._held += len(data) - counted + sum(map(len, data[counted:]))
        self._data, self._event, self._id = data, event, new_id
        return messages

    def _retry(self, value: str) -> None:
        # Python refuses to read integers of thousands of digits; no one waits that long.
        digits = value.lstrip("0") or "0"
        if value.isascii() and value.isdigit() and len(digits) <= 18:
            self.reconnection_time = int(digits)
