"""Opening event streams on one connection: request in, response head and first bytes out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from . import Case
from ._link import opened, opening_bytes


def cases() -> Iterator[Case]:
    """The cost a stream must not grow with their number."""
    for streams in (100, 1_000, 5_000):
        data = opening_bytes(streams)
        yield Case(f"stream, {streams} on a connection", partial(opened, data), streams)
