"""What a connection was made of goes with it, and is not left to the garbage collector.

That would look at all that the others are made of, too: 0.1 s for 2,000 connections, in which no
tab hears anything.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import resource
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
import trio.testing
from support import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    Served,
    frame,
    reset,
    serving,
    window_update,
)
from test_server import follow, text_client
from trio.testing import MockClock

import h2sse
from h2sse import commands
from h2sse.commands import _COLLECT_SECONDS, _collect_garbage
from h2sse.server import TICK_SECONDS

Way: TypeAlias = Callable[[Served], Awaitable[None]]

EVENTS = "/events?topic=a"
LINGER_NONE = struct.pack("ii", 1, 0)


async def tabs_leave(served: Served) -> None:
    async with served.client() as client:
        streams = [await client.listen(EVENTS) for _ in range(3)]
        served.app.publish("a", h2sse.Event(data="x"))
        await client.heard(1, *streams)
        await client.send(*(reset(each.id) for each in streams))
        await client.settle()


async def tabs_that_do_not_read_leave(served: Served) -> None:
    async with served.client() as client:
        for _ in range(3):
            await client.listen(EVENTS)
        for _ in range(9):
            served.app.publish("a", h2sse.Event(data="x" * 50_000))
            await trio.testing.wait_all_tasks_blocked()


async def connection_is_closed(served: Served) -> None:
    async with served.client() as client:
        stream = await client.listen(EVENTS)
        served.app.publish("a", h2sse.Event(data="x"))
        await client.heard(1, stream)


async def connection_is_reset(served: Served) -> None:
    async with served.client() as client:
        await client.listen(EVENTS)
        transport = client.transport.transport_stream
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        await trio.aclose_forcefully(transport)


async def connection_is_aborted(served: Served) -> None:
    """As when a write fails, or waits for too long; tabs in step, apart and at a standstill."""
    async with served.client(settings={INITIAL_WINDOW_SIZE: 50}) as client:
        streams = [await client.listen(EVENTS) for _ in range(3)]
        await client.send(window_update(streams[0].id, 50_000))
        await client.settle()
        for _ in range(3):
            served.app.publish("a", h2sse.Event(data="x" * 100))
            await client.settle()
        for each in list(served.server.connections):
            each.abort()


async def connection_error(served: Served) -> None:
    async with served.client() as client:
        await client.listen(EVENTS)
        await client.send(window_update(0, 0))
        await client.read_to_end()


async def stream_errors(served: Served) -> None:
    async with served.client() as client:
        await client.fetch("/nowhere")
        await client.fetch("/publish", method="POST", body=b"topic=a")
        await client.send(frame(1, 5, 99, b"\x00\x01\xff"))
        await client.read_to_end()


async def frames_come_after_the_end(served: Served) -> None:
    async with served.client() as client:
        streams = [await client.listen(EVENTS) for _ in range(2)]
        await client.send(frame(DATA, 0, streams[0].id, b"x"))
        await client.send(frame(HEADERS, END_HEADERS | END_STREAM, streams[1].id, b"\x82"))
        await client.settle()


async def handler_fails(served: Served) -> None:
    async with served.client() as client:
        answer = await client.fetch("/fails")
        assert answer.status == 500


async def server_ends_it(served: Served) -> None:
    async with served.client() as client:
        await client.listen(EVENTS)
        for each in list(served.server.connections):
            each.end_streams()
        await follow(client)


async def http1_is_closed(served: Served) -> None:
    async with text_client(served) as client:
        await client.get("/healthz")
        await client.get(EVENTS)
        await client.read_until(lambda text: "retry: " in text)
        served.app.publish("a", h2sse.Event(data="x"))
        await client.read_until(lambda text: "data: x" in text)


async def http1_is_aborted(served: Served) -> None:
    async with text_client(served) as client:
        await client.get(EVENTS)
        await client.read_until(lambda text: "retry: " in text)
        served.app.publish("a", h2sse.Event(data="x"))
        for each in list(served.server.connections):
            each.abort()


async def http1_is_malformed(served: Served) -> None:
    async with text_client(served) as client:
        await client.transport.send_all(b"GET / HTTP/1.1\nHost : h\r\n\r\n")
        await client.read_to_end()


async def http1_handler_fails(served: Served) -> None:
    async with text_client(served) as client:
        await client.get("/fails")
        await client.read_until(lambda text: " 500 " in text)


async def handshake_fails(served: Served) -> None:
    async with await trio.open_tcp_stream(*served.address) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        async for _ in stream:
            pass


WAYS: list[Way] = [
    *(tabs_leave, tabs_that_do_not_read_leave, connection_is_closed, connection_is_reset),
    *(connection_is_aborted, connection_error, stream_errors),
    *(frames_come_after_the_end, handler_fails, server_ends_it),
    *(http1_is_closed, http1_is_aborted, http1_is_malformed, http1_handler_fails, handshake_fails),
]


@contextmanager
def garbage() -> Iterator[list[object]]:
    """What only the collector can free, of all that went within the block."""
    found: list[object] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_nothing_of_a_connection_is_left_to_the_collector(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    app = h2sse.App()

    @app.get("/fails")
    async def fails(_: h2sse.Request) -> h2sse.Response:
        raise RuntimeError

    async with serving(app) as served:
        await way(served)  # what is made once has been made
        caplog.clear()
        with garbage() as found:
            await way(served)
            with trio.fail_after(10):
                while served.server.connections:
                    await trio.testing.wait_all_tasks_blocked()
            caplog.clear()
            await trio.testing.wait_all_tasks_blocked()
    # The client is made of cycles: trio.SSLStream holds itself.
    ours = [each for each in found if type(each).__module__.split(".")[0] in ("h2sse", "h2")]
    assert ours == []


class Cycle:
    def __init__(self) -> None:
        self.itself = self


async def test_h2sse_serve_looks_at_everything_once_an_hour(autojump_clock: MockClock) -> None:
    thresholds = gc.get_threshold()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_collect_garbage)
            await trio.testing.wait_all_tasks_blocked()
            assert gc.get_threshold()[:2] == thresholds[:2]
            cycle = Cycle()
            gc.collect(1)  # it has come to those that are looked at rarely
            gone = weakref.ref(cycle)
            del cycle
            # By so much had Python looked at everything: a quarter more than the rest.
            kept: list[list[int]] = [[] for _ in range(len(gc.get_objects()) + 100_000)]
            assert gone() is not None
            await trio.sleep(_COLLECT_SECONDS + 1)
            assert gone() is None
            assert kept
            nursery.cancel_scope.cancel()
    finally:
        gc.set_threshold(*thresholds)


async def test_h2sse_serve_gives_freed_memory_back(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = 0.0
    trimmed: list[float] = []

    def trim(kept: int) -> int:
        assert kept == 0
        trimmed.append(trio.current_time() - began)
        return 1

    def mallopt(*option: int) -> int:
        options.append(option)
        return 1

    options: list[tuple[int, ...]] = []
    monkeypatch.setattr(commands, "_glibc", lambda: (mallopt, trim))
    monkeypatch.setattr(time, "perf_counter", lambda: took * len(trimmed))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commands._trim_memory)
        await trio.sleep(210)
        assert options == [(commands._M_MMAP_THRESHOLD, commands._MAPPED_BYTES)]
        assert trimmed == pytest.approx([60, 120, 180])
        took = 0.09  # then it has a thousandth of the time
        trimmed.clear()
        await trio.sleep(240)
        assert trimmed == pytest.approx([240, 330, 420])
        nursery.cancel_scope.cancel()


async def test_h2sse_serve_does_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # of musl or macOS: no malloc_trim
    await commands._trim_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_what_is_freed_below_what_stays_is_given_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    found = commands._glibc()
    assert found is not None
    _, trim = found
    blocks = [bytes(15_000) for _ in range(4_000)]
    stays = blocks[::100]
    del blocks
    before = resident()
    trim(0)
    assert before - resident() > 40_000_000
    assert len(stays) == 40


async def test_a_server_that_nobody_is_connected_to_holds_no_connection(
    autojump_clock: MockClock,
) -> None:
    async with serving(h2sse.App()) as served:
        async with served.client() as client:
            await client.listen(EVENTS)
            await trio.sleep(1.5 * TICK_SECONDS)
            (gone,) = map(weakref.ref, served.server.connections)
        while served.server.connections:
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1.5 * TICK_SECONDS)
        assert gone() is None


_LARGE_BLOCKS = """
import resource
from h2sse import commands

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

mallopt, _ = commands._glibc()
if {bounded}:
    assert mallopt(commands._M_MMAP_THRESHOLD, commands._MAPPED_BYTES)
b"x" * 1_000_000  # the largest block ever freed
blocks = [b"x" * 300_000 + bytes(1) for _ in range(200)]
stays = blocks[::20]
before = resident()
del blocks
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize("bounded", [False, True])
def test_large_blocks_are_given_back_at_once(*, bounded: bool) -> None:
    code = _LARGE_BLOCKS.format(bounded=bounded)
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (int(run.stdout) > 50_000_000) == bounded
