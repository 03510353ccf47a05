"""`/trace`: the frames on the wire, as they pass, beside the tabs they belong to.

A viewer sees the connections that come from its own address.  What it is shown travels over such a
connection too, so the frames that carry the trace are only counted: shown, each would be followed
by one more.  Rows wait a tenth of a second and go out as one event; what comes faster than a page
can be read is counted as well, and a viewer too slow for that is dropped as any slow tab is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

import h2sse

from . import pages

__all__ = ["add"]

PATH = "/trace/events"
# Often enough to look live.
BATCH_SECONDS = 0.1
# Rows of a batch: with 256 tabs, each event to all of them is whole.
MAX_ROWS = 300
# What carries the trace to its viewers; how their streams begin and end is shown.
CARRIERS = frozenset(("DATA", "CHUNK", "BODY", "WINDOW_UPDATE"))
# Connections whose address is remembered; a browser has a few.
MAX_CONNECTIONS = 10_000


class Record(Protocol):
    """What is read of the records of h2sse's trace."""

    @property
    def connection(self) -> int: ...
    @property
    def type(self) -> str: ...
    @property
    def path(self) -> str: ...
    def as_dict(self) -> dict[str, Any]: ...


class Batch:
    """What is about to be told to the viewers at one address."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.more = 0  # rows past the bound
        self.own = 0  # frames that carry the trace itself


def topic(peer: str) -> str:
    return f"trace {peer}"


def add(app: h2sse.App) -> Callable[[Sequence[Record]], None]:
    """Mount the page; what this returns is to be called with the records of each read and write."""
    peers: dict[int, str] = {}
    batches: dict[str, Batch] = {}
    begun = [trio.Event()]

    def traced(records: Sequence[Record]) -> None:
        for record in records:
            if record.type == "OPEN":
                peers[record.connection] = record.as_dict()["peer"]
                if len(peers) > MAX_CONNECTIONS:
                    del peers[next(iter(peers))]
        connection = records[0].connection
        peer = peers.get(connection, "")
        if records[-1].type == "CLOSE":
            peers.pop(connection, None)
        if not app.tabs(topic(peer)):
            return
        batch = batches.setdefault(peer, Batch())
        told = [each for each in records if each.path != PATH or each.type not in CARRIERS]
        batch.own += len(records) - len(told)
        if all(each.type == "WRITE" for each in told):
            return  # nothing but the trace, to several viewers
        room = max(0, MAX_ROWS - len(batch.rows))
        batch.rows += [row(each) for each in told[:room]]
        batch.more += len(told[room:])
        begun[0].set()

    @app.background
    async def tell() -> None:
        while True:
            await begun[0].wait()
            await trio.sleep(BATCH_SECONDS)
            begun[0] = trio.Event()
            for peer, batch in batches.items():
                if batch.rows and app.tabs(topic(peer)):
                    found = {"rows": batch.rows, "more": batch.more, "own": batch.own}
                    app.publish(topic(peer), h2sse.Event(event="rows", data=json.dumps(found)))
            batches.clear()

    @app.stream(PATH)
    def events(request: h2sse.Request) -> h2sse.Subscribe:
        here = {"connection": request.connection, "protocol": request.protocol}
        greeting = [h2sse.Event(event="here", data=json.dumps(here))]
        return h2sse.Subscribe(topic(request.peer), greeting=greeting, replay=False)

    pages.add_page(app, "trace")
    return traced


def row(record: Record) -> dict[str, Any]:
    """What the page shows of a record: fields and settings are in the meaning already."""
    found = record.as_dict()
    for name in ("fields", "settings"):
        found.pop(name, None)
    return found
