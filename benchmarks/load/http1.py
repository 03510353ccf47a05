"""A simulated tab over HTTP/1.1: one connection, one event stream.  Bytes in, tab progress out.

Thousands of connections are sent the same bytes; a read that begins and ends between two chunks,
and between two events, is interpreted once and remembered (`Memory`).  All else goes through the
plain parse of RFC 9112 7.1.
"""

from __future__ import annotations

import re
from typing import final

from .events import Reader, Text, join
from .sequences import Tab, Tabs

__all__ = ["Http1", "Memory"]

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[^\r\n]*\r\n")
# Longer than any server's; a head that goes on past it never ends.
HEAD_BYTES = 64 * 1024
REMEMBERED = 256


@final
class Memory:
    """What whole reads said, over all connections of a process."""

    def __init__(self) -> None:
        self.reader = Reader()
        self.reads: dict[bytes, Text] = {}

    def learn(self, data: bytes) -> Text | None:
        """What a read said, if it was whole chunks of whole events and not the last."""
        body, rest, over = _chunks(data)
        if rest or over:
            return None
        text = self.reader.read(body)
        if text.rest:
            return None
        if len(self.reads) >= REMEMBERED:
            self.reads.clear()
        self.reads[data] = text
        return text


def _chunks(data: bytes) -> tuple[bytes, bytes, bool]:
    """The content of whole chunks, what is left of `data`, whether the last chunk came.

    Raises ValueError for what is no chunk.
    """
    body: list[bytes] = []
    at = 0
    while line := _SIZE_LINE.match(data, at):
        size = int(line[1], 16)
        if not size:
            return b"".join(body), data[at:], True
        end = line.end() + size
        if len(data) < end + 2:
            break
        if data[end : end + 2] != b"\r\n":
            raise ValueError("no CRLF after a chunk")
        body.append(data[line.end() : end])
        at = end + 2
    if line is None and len(data) - at > 16 and b"\r\n" not in data[at : at + 1024]:
        raise ValueError("no chunk size")
    return b"".join(body), data[at:], False


@final
class Http1:
    """One connection.  `output` is what is to be written; `over` says why nothing more comes."""

    def __init__(self, tabs: Tabs, memory: Memory, authority: str, path: str) -> None:
        self.output = bytearray()
        self.over: str | None = None
        self.tab = -1
        self._tabs = tabs
        self._memory = memory
        self._head = (
            f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: keep-alive\r\n"
            "Cache-Control: no-cache\r\nAccept: text/event-stream\r\n"
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64) h2sse-benchmark\r\n"
            "Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n"
        ).encode()
        self.answered = False
        self._chunked = False
        self._part = b""  # of the head, or of a chunk
        self._rest = b""  # of an event

    @property
    def ready(self) -> bool:
        """Whether requests may be written."""
        return True

    def ask(self, tabs: list[int], last_id: bytes, now: int) -> None:
        """Request an event stream for the one tab."""
        (self.tab,) = tabs
        self._tabs.ask(self._tabs.indices(tabs), now)
        last_id = self._tabs.last_id(self.tab) or last_id
        self.output += self._head
        if last_id:
            self.output += b"Last-Event-ID: " + last_id + b"\r\n"
        self.output += b"\r\n"

    def give_up(self, reason: str) -> None:
        """Wait no more for an answer that has not come."""
        if self._tabs.states[self.tab] == Tab.ASKED:
            self._end(reason)

    def receive(self, data: bytes, now: int) -> None:
        """Bytes that came at `now`."""
        if self._chunked and not self._part and not self._rest:
            text = self._memory.reads.get(data) or self._learn(data)
            if text is not None:
                self._deliver(text, now)
                return
        try:
            self._parse(data, now)
        except ValueError as error:
            self._end(str(error))

    def _learn(self, data: bytes) -> Text | None:
        try:
            return self._memory.learn(data)
        except ValueError:
            return None  # `_parse` says what is wrong

    def closed(self, reason: str) -> None:
        """The connection is gone."""
        self.over = self.over or reason
        if self.tab >= 0:
            self._tabs.ended(self.tab, self.over)

    def _end(self, reason: str) -> None:
        self.over = reason
        self._tabs.ended(self.tab, reason)

    def _parse(self, data: bytes, now: int) -> None:
        data = self._part + data
        self._part = b""
        while not self.answered:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                if len(head) > HEAD_BYTES:
                    raise ValueError("endless header section")
                self._part = head
                return
            self._answer(head, now)
            if self.over is not None:
                return
        over = False
        if self._chunked:
            data, self._part, over = _chunks(data)
        text = self._memory.reader.read(join(self._rest, data))
        self._rest = text.rest
        self._deliver(text, now)
        if over:
            self._end("end of stream")

    def _answer(self, head: bytes, now: int) -> None:
        status, *lines = head.split(b"\r\n")
        version, _, rest = status.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            raise ValueError("not HTTP/1.1")
        if rest.startswith(b"1"):
            return  # the answer comes after it
        if not rest.startswith(b"200"):
            self._end(f"status {rest[:3].decode(errors='replace')}")
            return
        self.answered = True
        self._chunked = any(
            name.lower() == b"transfer-encoding" and b"chunked" in value.lower()
            for name, _, value in (line.partition(b":") for line in lines)
        )
        self._tabs.opened(self.tab, now)

    def _deliver(self, text: Text, now: int) -> None:
        tabs, tab = self._tabs, self.tab
        if tabs.states[tab] != Tab.OPEN:
            return
        for sequence, intended in text.stamps:
            tabs.saw(tab, sequence, (now - intended) // 1000)
        if text.id is not None:
            tabs.saw_id(tab, text.id)
