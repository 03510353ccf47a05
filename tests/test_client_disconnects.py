"""A thousand disconnects of every kind, process kills among them: every event once and in order.

The server is a process of its own that breaks off whatever it says, at any byte, in a way that it
draws by lot; killed, it is started anew on the same port (disconnecting_server.py).  Its events are
numbered, and it goes on after Last-Event-ID, so what the sources must see is known.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import final

import trio
from support import certificates

from h2sse.client import Client, ClientLimits, EventSource
from h2sse.tls import development_certificate

HERE = Path(__file__).parent
# How long all may take on a loaded machine, before the test says that it hangs.
DEADLINE_SECONDS = 240
SOURCES = 3
DISCONNECTS = 1_000
KINDS = {"reset", "close", "goaway", "rst_stream", "end_stream", "kill"}
# Back at once: the waits are tested elsewhere, and there are many.
LIMITS = ClientLimits(retry_seconds=0.001, min_retry_seconds=0.001, backoff_seconds=0.01)


@final
class Server:
    """The process that restarts the server, and what it tells."""

    def __init__(self, process: trio.Process) -> None:
        self.disconnects: Counter[str] = Counter()
        self.port = 0
        self._process = process
        self._changed = trio.Event()

    async def read(self) -> None:
        """Take down what it says, line by line."""
        assert self._process.stdout is not None
        rest = b""
        async for data in self._process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                word, _, number = line.decode().partition(" ")
                if word == "port":
                    self.port = int(number)
                else:
                    self.disconnects[word] += 1
            self._changed.set()

    async def wait_port(self) -> int:
        while not self.port:
            self._changed = trio.Event()
            await self._changed.wait()
        return self.port

    async def wait_disconnects(self, number: int) -> None:
        while self.disconnects.total() < number:
            self._changed = trio.Event()
            await self._changed.wait()


@asynccontextmanager
async def disconnecting(seed: int) -> AsyncIterator[Server]:
    """The server, for as long as the block takes."""
    certificate = development_certificate(certificates())
    process = await trio.lowlevel.open_process(
        [
            *(sys.executable, "-W", "error", str(HERE / "disconnecting_server.py")),
            *(str(certificate.cert), str(certificate.key), str(seed)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"},
    )
    assert process.stdin is not None
    server = Server(process)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.read)
        try:
            yield server
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure = error
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            assert await process.wait() == 0, "it has failed by itself"
    if failure is not None:
        raise failure


async def test_every_event_once_through_a_thousand_disconnects() -> None:
    seen: list[list[int]] = [[] for _ in range(SOURCES)]
    ca_file = development_certificate(certificates()).ca

    async def read(source: EventSource, numbers: list[int]) -> None:
        async with source:
            async for message in source:
                assert message.data == f"event {message.last_event_id}"
                numbers.append(int(message.last_event_id))

    with trio.fail_after(DEADLINE_SECONDS):
        async with disconnecting(seed=5) as server:
            url = f"https://127.0.0.1:{await server.wait_port()}/events"
            client = Client(ca_file=ca_file, limits=LIMITS)
            async with client, trio.open_nursery() as nursery:
                for numbers in seen:
                    nursery.start_soon(read, client.events(url), numbers)
                await server.wait_disconnects(DISCONNECTS)
                nursery.cancel_scope.cancel()
    for numbers in seen:
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) > DISCONNECTS / 10, "it was no standstill"
    assert server.disconnects.keys() == KINDS
    assert min(server.disconnects.values()) > DISCONNECTS / 20
