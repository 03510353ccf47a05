"""The load client's own cost an event: decrypted bytes in, every tab's progress noted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic_ns

from benchmarks.load import http1, http2
from benchmarks.load.http1 import Http1
from benchmarks.load.http2 import Http2
from benchmarks.load.sequences import Tabs

from . import Case

READ_BYTES = 8 * 16_384  # what a client process looks at at once
EVENTS = 4
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
# HEADERS with END_HEADERS: ":status: 200", from the static table.
_ANSWER = b"\0\0\1\1\4"


def cases() -> Iterator[Case]:
    """Runs, single frames, and HTTP/1.1; each call is another event to every tab."""
    for connections, streams in ((1, 5_000), (1, 50_000), (20, 50), (1_000, 5)):
        yield Case(
            f"event, {connections} x {streams}",
            _h2(connections, streams),
            EVENTS * connections * streams,
        )
    yield Case("event, HTTP/1.1, 1000 connections", _http1(1_000), EVENTS * 1_000)
    yield Case("request, 5000 on a connection", _ask(5_000), 5_000)


def payload(sequence: int) -> bytes:
    """An event as h2sse sends it."""
    data = f"{sequence} {monotonic_ns()} ".ljust(100, "x")
    return f"id: 0123456789-{sequence}\ndata: {data}\n\n".encode()


def _h2(connections: int, streams: int) -> Callable[[], None]:
    tabs, memory = Tabs(), http2.Memory()
    wires = []
    ids = [(2 * place + 1).to_bytes(4, "big") for place in range(streams)]
    for _ in range(connections):
        wire = Http2(tabs, memory, "localhost", "/events")
        wire.receive(_SETTINGS, monotonic_ns())
        wire.ask(list(tabs.add(streams)), b"", monotonic_ns())
        wire.receive(b"".join(_ANSWER + each + b"\x88" for each in ids), monotonic_ns())
        wires.append(wire)
    batches = []
    for sequence in range(1, EVENTS + 1):
        text = payload(sequence)
        head = len(text).to_bytes(3, "big") + b"\0\0"
        data = b"".join([head + each + text for each in ids])
        batches.append([data[at : at + READ_BYTES] for at in range(0, len(data), READ_BYTES)])

    def run() -> None:
        tabs.last[:] = 0
        tabs.first[:] = 1
        for reads in batches:
            for wire in wires:
                for read in reads:
                    wire.receive(bytes(bytearray(read)), monotonic_ns())  # read anew each time
                wire.output.clear()

    return run


def _http1(connections: int) -> Callable[[], None]:
    tabs, memory = Tabs(), http1.Memory()
    wires = []
    for tab in tabs.add(connections):
        wire = Http1(tabs, memory, "localhost", "/events")
        wire.ask([tab], b"", monotonic_ns())
        wire.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", monotonic_ns())
        wires.append(wire)
    chunks = []
    for sequence in range(1, EVENTS + 1):
        text = payload(sequence)
        chunks.append(b"%x\r\n%b\r\n" % (len(text), text))

    def run() -> None:
        tabs.last[:] = 0
        tabs.first[:] = 1
        for chunk in chunks:
            for wire in wires:
                wire.receive(bytes(bytearray(chunk)), monotonic_ns())  # read anew each time

    return run


def _ask(streams: int) -> Callable[[], None]:
    def run() -> None:
        tabs = Tabs()
        wire = Http2(tabs, http2.Memory(), "localhost", "/events")
        wire.ask(list(tabs.add(streams)), b"", monotonic_ns())

    return run
