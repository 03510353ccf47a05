"""One queue for many connections: tabs over HTTP/1.1 that are owed nothing get the same bytes.

Over HTTP/1.1 an event stream is all that its connection has to say.  So those that listen to the
same topics, and have been written all there was, differ in nothing: what is published next is
queued once, framed once, and all that is left to do for each is the write.  To the hub they are one
sink.  For five thousand of them that takes a seventh off what an event costs.

    alone --written to, and nothing waits--> in unison
    in unison --its socket is full, it is to end, or more waits than a piece--> alone

A connection that goes alone takes along what it has not been written yet, in its order, and has its
own queue again, with the bounds and the policy that go with it (http1.py).  In unison no more than
a piece waits, and that only until the next turn of `Server.flush`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from .http1 import PIECE_BYTES, chunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .connection import Connection
    from .hub import Group
    from .server import Server
    from .wire import Overflow

__all__ = ["FLUSH_SLICE", "Batch", "Part", "Unison"]

# So many connections are written to before others have a turn.  A write takes 15 to 30 us.
FLUSH_SLICE = 128


@final
class Batch:
    """What is to be written next to those who were in unison when it was made up."""

    __slots__ = ("data", "members", "number", "payloads")

    def __init__(
        self, number: int, members: Sequence[Connection], payloads: Sequence[bytes]
    ) -> None:
        self.number = number
        self.members = members
        self.payloads = payloads
        self.data = b"".join(map(chunk, payloads))


@final
class Part:
    """The lane of those who listen to the same topics.

    Each connection knows the last batch it has `heard`, of those made up while it is in unison.
    """

    __slots__ = ("_batches", "_made", "_members", "_next", "_unison", "_waits")

    def __init__(self, unison: Unison) -> None:
        self._unison = unison
        self._members: dict[Connection, None] = {}
        self._next: list[bytes] = []  # payloads of the next batch
        self._waits = 0  # their bytes, at most PIECE_BYTES
        self._made = 0  # batches so far
        self._batches: list[Batch] = []  # which not all have heard

    def offer(self, payload: bytes) -> None:
        """Queue one payload for all, or, if that is too much to be queued here, for each."""
        if not self._next:
            self._unison.to_write.append(self)
        self._waits += len(payload)
        self._next.append(payload)
        if self._waits > PIECE_BYTES:
            for connection in self.members:
                connection.go_alone()

    @property
    def members(self) -> Sequence[Connection]:
        """Who is in unison now."""
        return tuple(self._members)

    def add(self, connection: Connection) -> int:
        """The connection has been written all that was offered so far: the batch it has heard."""
        self._make_up()
        self._members[connection] = None
        return self._made

    def remove(self, connection: Connection, heard: int) -> list[bytes]:
        """It is no longer in unison: the payloads that it has not been written."""
        del self._members[connection]
        owed = [each for batch in self._batches if batch.number > heard for each in batch.payloads]
        return owed + self._next

    def begin(self) -> Sequence[Batch]:
        """The batches to be written next, in their order; `end` is to follow for each."""
        self._make_up()
        return tuple(self._batches)

    def end(self) -> None:
        """All have heard the first of them."""
        self._batches.pop(0)

    def _make_up(self) -> None:
        if self._next:
            self._made += 1
            self._batches.append(Batch(self._made, self.members, self._next))
            self._next = []
            self._waits = 0


@final
class Unison:
    """All connections of a server that are in unison, for the hub one who speaks to their tabs."""

    __slots__ = ("_server", "groups", "to_write")

    number: Final = 0
    peer: Final = "many peers"

    def __init__(self, server: Server) -> None:
        self.groups: dict[frozenset[str], Group] = {}
        self.to_write: list[Part] = []
        self._server = server

    def lane(self, overflow: Overflow | None = None) -> Part:  # noqa: ARG002 - nothing overflows
        """A new part."""
        return Part(self)

    def offered(self) -> None:
        """See `hub.Speaker`."""
        self._server.flushing.set()

    def abort(self) -> None:
        """See `hub.Speaker`."""
        for group in self.groups.values():
            assert isinstance(group.lane, Part)
            for connection in group.lane.members:
                connection.abort()

    async def flush(self) -> None:
        """Write what is queued now."""
        parts, self.to_write = self.to_write, []
        room = FLUSH_SLICE
        for part in parts:
            for batch in part.begin():
                for start in range(0, len(batch.members), FLUSH_SLICE):
                    connections = batch.members[start : start + FLUSH_SLICE]
                    for connection in connections:
                        try:
                            connection.hear(part, batch)
                        except Exception as error:  # noqa: BLE001 - it stays that connection's
                            self._server.failed(connection, error)
                    room -= len(connections)
                    if room <= 0:
                        await trio.lowlevel.checkpoint()
                        room = FLUSH_SLICE
                part.end()
