"""A server that can go and come back on its port, as it is shipped."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

import trio

from benchmarks.model import Usage
from benchmarks.peers.peer import Peer, Setup
from benchmarks.servers import (
    HOST,
    Server,
    ServerFailed,
    allow_descriptors,
    make_certificate,
    start,
)
from h2sse import __version__

__all__ = ["Standing", "standing"]

# `drain_seconds` (5), `linger_seconds` (2), and a loaded machine.
_STOP_SECONDS = 30.0
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PORT_ATTEMPTS = 100


@final
class _AsShipped(Peer):
    """h2sse with its own limits and its own history, which are what is tried here."""

    name = "h2sse"
    title = "h2sse"
    install = "uv sync"

    def __init__(self, options: Sequence[str]) -> None:
        self._options = options

    def version(self) -> str:
        return __version__

    def command(self, setup: Setup) -> list[str]:
        return [
            *(sys.executable, "-m", "h2sse", "serve"),
            *("--host", setup.host, "--port", str(setup.port)),
            *("--cert", str(setup.cert), "--key", str(setup.key)),
            *self._options,
        ]


@final
@dataclass(slots=True)
class Standing:
    """The server there is now.  `cafile` is what its certificate is checked with."""

    host: str
    port: int
    cafile: Path
    faults: list[str]  # what its runs did that they must not
    _peer: Peer
    _setup: Setup
    _server: Server | None = None
    _runs: int = 0
    _going: bool = False

    @property
    def usage(self) -> Usage | None:
        """What it uses; None while there is none, or it goes."""
        server = self._server
        if server is None or self._going or not server.alive:
            return None
        return server.usage()

    @property
    def fell(self) -> bool:
        """Whether it has ended, and nobody asked it to."""
        return self._server is not None and not self._going and not self._server.alive

    @property
    def _log(self) -> Path:
        return self._setup.folder / f"{self._runs}.log"

    async def restart(self, number: int) -> None:
        """End it by a signal and start it anew.  Raises ServerFailed."""
        server = self._server
        assert server is not None
        self._going = True
        os.kill(server.pid, number)
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_STOP_SECONDS):
                await server._process.wait()
            wanted = "exited with 0" if number == signal.SIGTERM else "killed by SIGKILL"
            if server.ending != wanted:
                ending = server.ending or "stayed"
                self.faults.append(f"after {signal.Signals(number).name} the server {ending}")
            await self._end()
            await self._begin()
        self._going = False

    async def _begin(self) -> None:
        self._runs += 1
        self._server = await start(self._peer, self._setup, self._log, self.cafile)

    async def _end(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            if server.ending and not self._going:
                self.faults.append(f"the server {server.ending}")
            await server._end()
            if server.error:
                self.faults.append(f"the log of run {self._runs} has an error:\n{server.error}")


@asynccontextmanager
async def standing(options: Sequence[str], faults: list[str]) -> AsyncIterator[Standing]:
    """`h2sse serve` with these options, ended with the block.  Raises ServerFailed.

    `faults` is where it says what runs of it did that they must not.
    """
    allow_descriptors()
    certificate = make_certificate()
    with tempfile.TemporaryDirectory(prefix="h2sse-benchmark-") as folder:
        setup = Setup(
            protocol="h2",
            host=HOST,
            port=_steady_port(),
            cert=certificate.cert,
            key=certificate.key,
            folder=Path(folder),
            max_streams=0,
        )
        made = Standing(HOST, setup.port, certificate.ca, faults, _AsShipped(options), setup)
        await made._begin()
        try:
            yield made
        finally:
            with trio.CancelScope(shield=True):
                await made._end()


def _steady_port() -> int:
    """A free port that no outgoing connection is given.

    Else one that asks for it while nobody listens could be given that very port, connect to itself
    (RFC 9293 3.5, simultaneous open), and keep the server from coming back.
    """
    first = int(_PORT_RANGE.read_text().split()[0])
    for _ in range(_PORT_ATTEMPTS):
        port = random.randrange(first // 2, first)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise ServerFailed(f"no free port below {first}")
