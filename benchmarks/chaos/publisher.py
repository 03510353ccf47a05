"""A publisher that keeps what it was promised.

Each event has a number, and its data says it, when it was sent, and how long it is.  An answer of
200 names the id: from then on the event is the server's to deliver.  Without one the event may have
been published or not, and it is not sent again under its number: who publishes again must count
with two (docs/deployment.md).
"""

from __future__ import annotations

import http.client
import json
import random
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import trio

from benchmarks.servers import ServerFailed

from .judge import Published
from .tabs import HEAVY

__all__ = ["ALL_TOPICS", "TOPICS", "Publisher"]

# "a" is the one that attackers ask for, too (benchmarks/attacks.py).
TOPICS = ("a", "b", "c", "d", "e", "f", "g", "h")
ALL_TOPICS = (*TOPICS, HEAVY)

_RATE = 8.0
_SMALL_BYTES, _LARGE_BYTES = 120, 1024
_LARGE_SHARE = 0.2
_TWO_TOPICS_SHARE = 0.2
# More than a stream's window and `tab_backlog_bytes` (256 KiB) together.
_BURST_EVENTS, _BURST_BYTES = 48, 8 * 1024
_ANSWER_SECONDS = 10.0
# For an event that must be acknowledged: a server that is attacked, and then restarted, is slow.
_PATIENCE_SECONDS = 60.0
_AGAIN_SECONDS = 0.1


@final
class Publisher:
    """One connection, one request at a time.  `quiet` says whether nothing else is going on."""

    def __init__(
        self,
        host: str,
        port: int,
        cafile: Path,
        chance: random.Random,
        quiet: Callable[[], bool],
    ) -> None:
        self._published: dict[int, Published] = {}
        self._connection = http.client.HTTPSConnection(
            host,
            port,
            timeout=_ANSWER_SECONDS,
            context=ssl.create_default_context(cafile=cafile),
        )
        self._chance = chance
        self._quiet = quiet
        self._turn = trio.Lock()

    @property
    def published(self) -> Sequence[Published]:
        """All that was sent."""
        return list(self._published.values())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    async def run(self) -> None:
        """For ever, on the timetable: an event that is late delays none that follow."""
        chance = self._chance
        due = trio.current_time()
        while True:
            await trio.sleep_until(due)
            due = max(due + 1 / _RATE, trio.current_time())
            count = 2 if chance.random() < _TWO_TOPICS_SHARE else 1
            size = _LARGE_BYTES if chance.random() < _LARGE_SHARE else _SMALL_BYTES
            await self.publish(chance.sample(ALL_TOPICS, count), size)

    async def burst(self) -> None:
        """More than a tab that does not read may let wait."""
        for _ in range(_BURST_EVENTS):
            await self.publish([HEAVY], _BURST_BYTES)

    async def publish_surely(self) -> Published:
        """An event to all topics, acknowledged.  Raises ServerFailed."""
        with trio.move_on_after(_PATIENCE_SECONDS):
            while True:
                event = await self.publish(ALL_TOPICS, _SMALL_BYTES)
                if event.id is not None:
                    return event
                await trio.sleep(_AGAIN_SECONDS)
        raise ServerFailed(f"no event was acknowledged in {_PATIENCE_SECONDS:g} s")

    async def publish(self, topics: Sequence[str], size: int) -> Published:
        """One event, and what came of it."""
        async with self._turn:
            number = len(self._published) + 1
            event = Published(number=number, topics=frozenset(topics), id=None, quiet=self._quiet())
            self._published[number] = event
            data = f"{number} {time.monotonic_ns()} {size} ".ljust(size, "x")
            body = json.dumps({"topic": list(topics), "data": data})
            event_id = await trio.to_thread.run_sync(self._post, body.encode())
            event = self._published[number] = replace(event, id=event_id)
        return event

    def _post(self, body: bytes) -> str | None:
        connection = self._connection
        try:
            connection.request("POST", "/publish", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request connects again
            return None
        return str(json.loads(answer)["id"]) if response.status == 200 else None
