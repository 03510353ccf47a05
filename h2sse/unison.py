"""One queue for many connections: those whose tabs listen to the same, and are owed nothing.

Such connections differ in nothing but their socket and, over HTTP/2, their stream ids and windows.
So what is published next is queued once for all of them, and all that is left to do for each is to
frame it (over HTTP/1.1 not even that: the bytes are the same) and to write it.  To the hub they are
one who speaks to all their tabs.  For five thousand over HTTP/1.1 that takes a seventh off what an
event costs, for a thousand connections of five tabs a quarter.

    alone --written to, and nothing waits--> in unison
    in unison --its socket or a window is full, its tabs change, or much waits--> alone

A connection that goes alone takes along what it has not been written yet, in its order, to its own
queue, with the bounds and the policy that go with it (lane.py, http1.py).  In unison no more than a
piece waits, and that only until the next turn of `Server.flush`.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final, final

import trio

from .flow import TAKE_BYTES
from .frames import FRAME_BYTES
from .http1 import PIECE_BYTES, Http1, chunk
from .lane import Lane, framed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .connection import Connection
    from .hub import Group
    from .lane import Framed
    from .server import Server
    from .tls_socket import TlsSocket
    from .wire import Overflow, ProtocolName

__all__ = ["FLUSH_BYTES", "FLUSH_SLICE", "Batch", "Member", "Part", "Unison"]

logger = logging.getLogger(__name__)

# So many connections are written to before others have a turn.  A write takes 15 to 30 us.
FLUSH_SLICE = 128
# At most this much output is written before others have a turn, some 5 ms of it, and no more is
# framed ahead of being written: what is framed is no longer shared.
FLUSH_BYTES = 1024 * 1024
_GONE: Final = sys.maxsize


@final
class Batch:
    """What is to be written next to those who were in unison when it was made up.

    `size` is the bytes of its `payloads`; `data` is what is written over HTTP/1.1, and over HTTP/2
    `frames` are what is framed for each.
    """

    __slots__ = ("data", "frames", "members", "number", "payloads", "size")

    def __init__(
        self,
        number: int,
        members: Sequence[Member],
        payloads: Sequence[bytes],
        protocol: ProtocolName,
    ) -> None:
        self.number = number
        self.members = members
        self.payloads = payloads
        self.size = sum(map(len, payloads))
        self.data = b""
        self.frames: Sequence[Framed] = ()
        if protocol == "h2":
            self.frames = [
                framed(payload[at : at + FRAME_BYTES])
                for payload in payloads
                for at in range(0, len(payload), FRAME_BYTES)
            ]
        else:
            self.data = b"".join(map(chunk, payloads))


@final
class Member:
    """A connection that is in unison, and what it takes to write to it."""

    __slots__ = ("_part", "connection", "data", "group", "heard", "lane", "tls")

    def __init__(
        self, part: Part, connection: Connection, group: Group, tls: TlsSocket, heard: int
    ) -> None:
        self._part = part
        self.connection = connection
        self.group = group
        self.lane = group.lane if isinstance(group.lane, Lane) else None
        self.tls = tls
        self.heard = heard  # the last batch that it has been given
        self.data = b""  # of that, what is to be written

    def leave(self) -> tuple[bytes, Sequence[bytes]]:
        """It is not in unison any more: what is to be written first, and what is owed after it."""
        data, owed = self.data, self._part.remove(self)
        self.data, self.heard = b"", _GONE
        return data, owed

    def go_alone(self) -> None:
        """What is next to be written cannot be, or not at once: the connection sees to it."""
        self.connection.go_alone()
        self.connection.flush()


@final
class Part:
    """The lane of those who listen to the same topics over the same protocol."""

    __slots__ = ("_batches", "_made", "_members", "_next", "_unison", "_waits")

    def __init__(self, unison: Unison) -> None:
        self._unison = unison
        self._members: dict[Member, None] = {}
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
            for member in self.members:
                member.connection.go_alone()

    @property
    def members(self) -> Sequence[Member]:
        """Who is in unison now."""
        return tuple(self._members)

    def add(self, connection: Connection, group: Group, tls: TlsSocket) -> Member:
        """One who has been written all that was offered so far."""
        self._make_up()
        member = Member(self, connection, group, tls, self._made)
        self._members[member] = None
        return member

    def remove(self, member: Member) -> Sequence[bytes]:
        """It is no longer in unison: the payloads that it has not been given."""
        del self._members[member]
        late = (batch.payloads for batch in self._batches if batch.number > member.heard)
        return [*(payload for payloads in late for payload in payloads), *self._next]

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
            batch = Batch(self._made, self.members, self._next, self._unison.protocol)
            self._batches.append(batch)
            self._next = []
            self._waits = 0


@final
class Unison:
    """All of a server's connections of one protocol that are in unison."""

    __slots__ = ("_server", "groups", "protocol", "to_write")

    number: Final = 0
    peer: Final = "many peers"

    def __init__(self, server: Server, protocol: ProtocolName) -> None:
        self.protocol = protocol
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
        groups, self.groups = self.groups, {}
        for group in groups.values():
            assert isinstance(group.lane, Part)
            for member in group.lane.members:
                member.connection.abort()

    def admits(self, lane: object) -> bool:
        """Whether all tabs of this lane, which has nothing waiting, can be spoken to as one."""
        if isinstance(lane, Lane):
            return lane.gather()
        return isinstance(lane, Http1) and lane.chunked

    async def flush(self) -> None:
        """Write what is queued now."""
        parts, self.to_write = self.to_write, []
        room = FLUSH_SLICE
        for part in parts:
            for batch in part.begin():
                for start in range(0, len(batch.members), FLUSH_SLICE):
                    members = batch.members[start : start + FLUSH_SLICE]
                    room -= len(members)
                    while members:
                        count = self._frame(members, batch)
                        self._write(members[:count])
                        members = members[count:]
                        if members:
                            await trio.lowlevel.checkpoint()
                    if room <= 0:
                        await trio.lowlevel.checkpoint()
                        room = FLUSH_SLICE
                part.end()

    def _frame(self, members: Sequence[Member], batch: Batch) -> int:
        """Frame before writing, as the server does; for how many of these there was room."""
        number, shared, frames, size = batch.number, batch.data, batch.frames, batch.size
        room = FLUSH_BYTES
        for done, member in enumerate(members, 1):
            if member.heard >= number:
                continue
            try:
                lane = member.lane
                if lane is None:
                    data = shared
                else:
                    assert not lane.apart  # who is would be passed over
                    data = lane.frame(frames, size, TAKE_BYTES)
                if data:
                    member.data = data
                    member.heard = number
                    room -= len(data)
                else:
                    member.go_alone()
                    room -= TAKE_BYTES
            except Exception as error:  # noqa: BLE001 - it stays that connection's
                self._server.failed(member.connection, error)
            if room <= 0:
                return done
        return len(members)

    def _write(self, members: Sequence[Member]) -> None:
        """Seal before sending: that keeps each at hand in the processor's caches."""
        sealed: list[Member] = []
        written = 0
        for member in members:
            data = member.data
            if data:
                member.data = b""
                try:
                    member.tls.seal(data)
                except Exception as error:  # noqa: BLE001 - it stays that connection's
                    self._failed(member, error)
                else:
                    sealed.append(member)
                    written += len(data)
        for member in sealed:
            try:
                if not member.tls.flush():
                    member.go_alone()
            except Exception as error:  # noqa: BLE001 - it stays that connection's
                self._failed(member, error)
        self._server.bytes_sent += written

    def _failed(self, member: Member, error: Exception) -> None:
        connection = member.connection
        if isinstance(error, OSError):
            logger.debug("connection %d: %s", connection.number, error)
            connection.abort()
        else:
            self._server.failed(connection, error)
