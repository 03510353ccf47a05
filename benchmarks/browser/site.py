"""The ladder's server as the ladder sees it: where it is, and one question to ask of it."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, TypeAlias, final

import trio

from .driver import ended

if TYPE_CHECKING:
    from benchmarks.model import ProtocolName

__all__ = ["Publish", "ServerFailed", "ServerSaw", "site"]

# To make a development CA, or to publish one event, on a busy machine.
ANSWER_SECONDS = 30

# Of what it said on stderr, the end.
MAX_SAID = 300

_SERVER = (sys.executable, "-m", "benchmarks.browser.server")
_ROOT = Path(__file__).parents[2]


class ServerFailed(Exception):
    """The server did not start, or went away."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSaw:
    """The event streams that were open at the server when it published."""

    streams: int
    connections: int
    protocols: tuple[str, ...]


# Publishes a number; returns what the server saw then.
Publish: TypeAlias = Callable[[int], Awaitable[ServerSaw]]


@asynccontextmanager
async def site(protocol: ProtocolName, max_streams: int) -> AsyncIterator[tuple[str, Publish]]:
    """A fresh server in a process of its own: its URL, and how to publish there.

    That goes over its stdin, so that the ladder holds no connection to it either.
    """
    with TemporaryDirectory(prefix="ladder-") as directory, TemporaryFile() as log:
        process = await trio.lowlevel.open_process(
            [*_SERVER, protocol, str(max_streams), directory],
            stdin=PIPE,
            stdout=PIPE,
            stderr=log,
            cwd=_ROOT,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        async def answer() -> str:
            line = b""
            with trio.move_on_after(ANSWER_SECONDS):
                while not line.endswith(b"\n") and (more := await answers.receive_some()):
                    line += more
            if not line.endswith(b"\n"):
                log.seek(0)
                said = log.read().decode(errors="replace").strip()
                raise ServerFailed(f"h2sse did not answer; it said {said[-MAX_SAID:]!r}")
            return line.decode().strip()

        async def publish(number: int) -> ServerSaw:
            with suppress(trio.BrokenResourceError):  # it has ended, and so will not answer
                await asked.send_all(b"%d\n" % number)
            saw = json.loads(await answer())
            return ServerSaw(
                streams=saw["streams"],
                connections=saw["connections"],
                protocols=tuple(saw["protocols"]),
            )

        try:
            yield await answer(), publish
        finally:
            with trio.CancelScope(shield=True):
                await ended(process)
