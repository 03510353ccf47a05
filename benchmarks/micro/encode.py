"""One event to its bytes: paid once an event, whatever the number of tabs."""

from __future__ import annotations

from collections.abc import Iterator

from h2sse import Event

from . import Case


def cases() -> Iterator[Case]:
    """Events of the sizes the targets speak of."""
    small = Event(data="x" * 100, id="0123456789-42")
    yield Case("100 bytes", small.encode)
    yield Case("1 KB", Event(data="x" * 1000, id="0123456789-42").encode)
    yield Case("1 KB in 20 lines", Event(data=("x" * 49 + "\n") * 20, id="0-1").encode)
    yield Case("100 bytes, made and encoded", lambda: Event(data="x" * 100, id="0-42").encode())
