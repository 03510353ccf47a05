"""A process of tabs: `python -m benchmarks.chaos.tabs HOST PORT CAFILE JOURNAL`.

Its tabs are those of the journal, and each resumes from its last id there.  They are event sources
of `h2sse.client`, some to a connection.  Commands, JSON lines on stdin, break things from this side
(`plan.Kind` says what); the process ends with its stdin, or is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import final
from urllib.parse import urlencode

import trio

from h2sse.client import Client, ClientLimits, SourceFailed
from h2sse.sse import Message

from .journal import Journal, Note, read

__all__ = ["HEAVY", "main"]

# The topic that can be too much for a tab that does not read.
HEAVY = "heavy"
_TABS_A_CONNECTION = 25
# Of a stream.  Small, so that a tab that does not read is behind after few events; and on one
# connection in so many smaller than many an event, which then comes in pieces.
_WINDOW_BYTES, _NARROW_BYTES = 32 * 1024, 1024
_NARROW_SHARE = 4
# One tab in so many has an HTTP/1.1 connection to itself.
_HTTP1_SHARE = 50
# Before a source that was ended for good, which is noted, is replaced.
_AGAIN_SECONDS = 1.0
# The type of the event that tells of a gap (docs/behaviour.md B52): written out here, because the
# measure must not share the server's constants.
_GAP = "history-gap"


@final
class _Tab:
    def __init__(self, number: int, topics: Sequence[str]) -> None:
        self.number = number
        self.topics = topics
        self.place = ""
        self.stalled_until = 0.0
        self.scope: trio.CancelScope | None = None


@final
class _Sockets(trio.abc.SocketFactory):
    """Remembers all sockets that are open, to reset them under their users."""

    def __init__(self) -> None:
        self._made: list[trio.socket.SocketType] = []

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,  # noqa: A002 - trio's name for it
        proto: int = 0,
    ) -> trio.socket.SocketType:
        made = trio.socket.from_stdlib_socket(socket.socket(family, type, proto))
        self._made = [*self.open, made]
        return made

    @property
    def open(self) -> list[trio.socket.SocketType]:
        return [each for each in self._made if each.fileno() >= 0]


_libc = ctypes.CDLL(None, use_errno=True)


def _reset(fileno: int) -> None:
    """End a TCP connection for both ends with RST, and leave its descriptor open.

    connect(2): an address of AF_UNSPEC dissolves the association.  Linux tells the peer by RST, and
    our reader by ECONNRESET; SO_LINGER would do it to the peer alone.
    """
    _libc.connect(fileno, bytes(16), 16)


@final
class _Connection:
    """Some tabs that share a `Client`."""

    def __init__(
        self, origin: str, cafile: str, window: int, journal: Journal, tabs: Sequence[_Tab]
    ) -> None:
        self._origin = origin
        self._cafile = cafile
        self._window = window
        self._journal = journal
        self._tabs = tabs
        self._away = 0.0
        self._scope: trio.CancelScope | None = None

    async def run(self) -> None:
        while True:
            with trio.CancelScope() as self._scope:
                limits = ClientLimits(stream_window_bytes=self._window)
                async with (
                    Client(ca_file=self._cafile, limits=limits) as client,
                    trio.open_nursery() as nursery,
                ):
                    for tab in self._tabs:
                        nursery.start_soon(self._hold, client, tab)
            await trio.sleep(self._away)

    def leave(self, seconds: float) -> None:
        """Close in order, and come back after that time."""
        if self._scope is not None:
            self._away = seconds
            self._scope.cancel()

    async def _hold(self, client: Client, tab: _Tab) -> None:
        query = urlencode([("topic", topic) for topic in tab.topics])
        url = f"{self._origin}/events?{query}"
        http1 = tab.number % _HTTP1_SHARE == 0
        while True:
            with trio.CancelScope() as tab.scope:
                async with client.events(url, last_event_id=tab.place, http1=http1) as source:
                    why = "answered 204"
                    try:
                        async for message in source:
                            self._note(tab, message)
                            if tab.stalled_until > trio.current_time():
                                await trio.sleep_until(tab.stalled_until)
                    except SourceFailed as error:
                        why = error.reason
                self._journal.add(Note(tab.number, tab.place, "failed", why))
                await trio.sleep(_AGAIN_SECONDS)

    def _note(self, tab: _Tab, message: Message) -> None:
        tab.place = message.last_event_id
        if message.event == _GAP:
            told = json.loads(message.data)
            note = Note(tab.number, tab.place, "told", f"{told['lastEventId']} {told['reason']}")
        else:
            number, published, size, *_ = message.data.split(" ", 3)
            if len(message.data) == int(size):
                microseconds = (time.monotonic_ns() - int(published)) // 1000
                note = Note(tab.number, tab.place, "saw", f"{number} {microseconds}")
            else:
                note = Note(tab.number, tab.place, "damaged", f"{number} {len(message.data)}")
        self._journal.add(note)


async def _main(host: str, port: str, cafile: str, file: Path) -> None:
    sockets = _Sockets()
    trio.socket.set_custom_socket_factory(sockets)
    journal = Journal(file)
    found: dict[int, _Tab] = {}
    for note in read(file):
        if note.what == "begun":
            found[note.tab] = _Tab(note.tab, note.detail.split(","))
        found[note.tab].place = note.id
    tabs = list(found.values())
    connections = [
        _Connection(
            f"https://{host}:{port}",
            cafile,
            _WINDOW_BYTES if number % _NARROW_SHARE else _NARROW_BYTES,
            journal,
            tabs[at : at + _TABS_A_CONNECTION],
        )
        for number, at in enumerate(range(0, len(tabs), _TABS_A_CONNECTION))
    ]

    def obey(kind: str, which: Sequence[int], seconds: float) -> None:
        until = trio.current_time() + seconds
        match kind:
            case "RESET":
                for each in which:
                    if there := sockets.open:
                        _reset(there[each % len(there)].fileno())
            case "CANCEL":
                for each in which:
                    if scope := tabs[each % len(tabs)].scope:
                        scope.cancel()
            case "LEAVE":
                for each in which:
                    connections[each % len(connections)].leave(seconds)
            case "STALL":
                for each in which:
                    tabs[each % len(tabs)].stalled_until = until
            case "OVERRUN":
                for tab in tabs:
                    if HEAVY in tab.topics:
                        tab.stalled_until = until
            case _:
                raise ValueError(kind)

    async with trio.open_nursery() as nursery:
        for connection in connections:
            nursery.start_soon(connection.run)
        rest = b""
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            async for data in stdin:
                *lines, rest = (rest + bytes(data)).split(b"\n")
                for line in lines:
                    obey(**json.loads(line))
        nursery.cancel_scope.cancel()


def main(arguments: list[str]) -> None:
    """Hold tabs until stdin ends."""
    # Ctrl-C is the runner's: it closes our stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, port, cafile, file = arguments
    trio.run(_main, host, port, cafile, Path(file))


if __name__ == "__main__":
    main(sys.argv[1:])
