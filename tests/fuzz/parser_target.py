"""The parser of event streams, against the standard's own algorithm (HTML 9.2.6), line by line."""

from __future__ import annotations

import re

from h2sse.sse import Message, Parser

__all__ = ["parser"]

_LINE_END = re.compile("\r\n|\r|\n")


def _by_the_letter(stream: bytes) -> tuple[list[Message], str, int | None]:
    """Messages, the last event ID and the reconnection time."""
    text = stream.decode(errors="replace").removeprefix("\ufeff")
    messages: list[Message] = []
    data = kind = last_id = place = ""
    retry: int | None = None
    for line in _LINE_END.split(text)[:-1]:
        if not line:
            place = last_id
            if data:
                messages.append(Message(kind or "message", data.removesuffix("\n"), place))
            data = kind = ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            # No one waits longer; and Python does not read more digits.
            retry = int(value) if len(value.lstrip("0")) <= 18 else retry
    return messages, place, retry


def parser(data: bytes) -> None:
    """Parse a stream whole, byte by byte and in pieces of the size that its first byte says."""
    size, stream = (data[0] or 1, data[1:]) if data else (1, b"")
    expected = _by_the_letter(stream)
    for step in (max(1, len(stream)), size, 1):
        parser = Parser()
        seen: list[Message] = []
        for at in range(0, len(stream), step):
            seen += parser.feed(stream[at : at + step])
            fed = stream[: at + step]
            line_start = max(fed.rfind(b"\r"), fed.rfind(b"\n")) + 1
            assert parser.unfinished_line_bytes == len(fed) - line_start
        assert (seen, parser.last_event_id, parser.reconnection_time) == expected
