"""What every scenario stands on: a fresh server, the simulated tabs, and one who publishes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import final

from benchmarks.load import Load, Publisher
from benchmarks.servers import Server, serving

from . import Contender

__all__ = ["Stage", "stage"]


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """A contender's server, and the processes that load it."""

    server: Server
    load: Load
    publisher: Publisher


@asynccontextmanager
async def stage(
    contender: Contender, *, processes: int = 1, size: int = 100
) -> AsyncIterator[Stage]:
    """All three, ended with the block; `processes` hold the tabs, events have `size` bytes.

    Raises ServerFailed if the server does not start.
    """
    peer, protocol = contender.peer, contender.protocol
    async with (
        serving(peer, protocol) as server,
        Load.against(
            server.host, server.port, protocol, path=peer.events_path, processes=processes
        ) as load,
        Publisher.to(
            server.host, server.port, peer.publish_path, form=peer.publish_form, size=size
        ) as publisher,
    ):
        yield Stage(server, load, publisher)
