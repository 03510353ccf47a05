"""Bytes back to messages: what `Parser` does for a client."""

from __future__ import annotations

from collections.abc import Iterator

from h2sse import Event, Parser

from . import Case

CHUNK = 16_384


def cases() -> Iterator[Case]:
    """Small events in TLS-record-sized chunks, and one long line."""
    events = 2_000
    block = b"".join(Event(data="x" * 100, id=f"e-{n}").encode() for n in range(events))
    chunks = [block[at : at + CHUNK] for at in range(0, len(block), CHUNK)]

    def small() -> None:
        parser = Parser()
        for chunk in chunks:
            parser.feed(chunk)

    yield Case("event of 100 bytes", small, events)

    line = b"data: " + b"x" * 1_000_000 + b"\n\n"
    pieces = [line[at : at + CHUNK] for at in range(0, len(line), CHUNK)]

    def long() -> None:
        parser = Parser()
        for piece in pieces:
            parser.feed(piece)

    yield Case("KB of a line of 1 MB", long, 1_000)
