"""What the browsers have in common: a process that is told over a WebSocket what to do.

Chromium's DevTools protocol and Firefox's WebDriver BiDi are alike where it matters here: the
browser says on stderr where it listens, commands are numbered JSON objects, and answers come in any
order under the same numbers, so hundreds of tabs are asked at once.  What has no number is an
event; the ladder asks the tabs instead of following events.

Both are spoken directly, without playwright or geckodriver: then all that a browser is started with
is in sight, and waiting for it is trio's, to be cancelled.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING, Protocol, final
from urllib.parse import urlsplit

import trio

if TYPE_CHECKING:
    from trio_websocket import WebSocketConnection

__all__ = ["Browser", "BrowserFailed", "Channel", "Refused", "at", "connected", "ended", "launched"]

# Until the browser listens, and for each command: many times what a busy machine needs.
START_SECONDS = 60
ANSWER_SECONDS = 60
# From asking a browser to quit until it is killed; it has nothing worth saving.
QUIT_SECONDS = 5


class BrowserFailed(Exception):
    """The browser did not start, or went away; nothing is said about the server."""


class Refused(BrowserFailed):
    """The browser refused a command: the tab was between two documents, for one."""


class Browser(Protocol):
    """A browser with one fresh profile."""

    @property
    def version(self) -> str:
        """Name and version."""

    async def open(self, url: str) -> str:
        """Open a tab and send it to the URL, without waiting for it; returns the tab's name."""

    async def evaluate(self, tab: str, expression: str) -> str | None:
        """The string that a JavaScript expression gives there; None if it is none or fails."""

    async def close(self, tab: str) -> None:
        """Close a tab."""


@final
class _Call:
    """A command that waits for its answer."""

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.answer: Mapping[str, object] | None = None  # None once answered: it never will be


@final
class Channel:
    """Commands out, answers in."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._closed = False

    async def call(
        self, method: str, parameters: Mapping[str, object] | None = None, **beside: str
    ) -> Mapping[str, object]:
        """The result of one command; `beside` goes beside the method.

        Raises Refused if the browser says no, BrowserFailed if it says nothing.
        """
        number = next(self._numbers)
        call = self._calls[number] = _Call()
        command = {"id": number, "method": method, "params": dict(parameters or {}), **beside}
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await self._send(command)
                await call.answered.wait()
        except trio.TooSlowError:
            raise BrowserFailed(f"no answer to {method} in {ANSWER_SECONDS} s") from None
        finally:
            del self._calls[number]
        if call.answer is None:
            raise BrowserFailed(f"the browser went away during {method}")
        if "error" in call.answer:
            raise Refused(f"{method}: {call.answer.get('message') or call.answer['error']}")
        result = call.answer.get("result")
        return result if isinstance(result, dict) else {}

    async def tell(self, method: str, parameters: Mapping[str, object]) -> None:
        """Give a command without waiting for its answer, which may never come."""
        await self._send({"id": next(self._numbers), "method": method, "params": dict(parameters)})

    async def _send(self, command: Mapping[str, object]) -> None:
        from trio_websocket import ConnectionClosed

        try:
            if not self._closed:
                await self._socket.send_message(json.dumps(command))
                return
        except ConnectionClosed:
            pass
        raise BrowserFailed("the browser has gone away")

    async def listen(self) -> None:
        """Hand answers to who waits for them, until the browser goes away."""
        from trio_websocket import ConnectionClosed

        with suppress(ConnectionClosed):
            while True:
                answer = json.loads(await self._socket.get_message())
                if (call := self._calls.get(answer.get("id"))) is not None:
                    call.answer = answer
                    call.answered.set()
        self._closed = True
        for call in self._calls.values():
            call.answered.set()


def at(value: object, *path: str) -> str:
    """The string at a path of keys; "" if it is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Channel]:
    """A channel to a browser that listens there.  It is dropped, not closed: it may hang by then.

    Raises BrowserFailed if the browser does not answer.
    """
    from trio_websocket import HandshakeError, wrap_client_stream

    where = urlsplit(url)
    try:
        stream = await trio.open_tcp_stream(where.hostname or "", where.port or 0)
    except OSError as error:
        raise BrowserFailed(f"no channel to the browser: {error}") from error
    async with stream, trio.open_nursery() as nursery:
        try:
            with trio.fail_after(ANSWER_SECONDS):
                socket = await wrap_client_stream(nursery, stream, where.netloc, where.path)
        except (HandshakeError, trio.TooSlowError) as error:
            raise BrowserFailed(f"no channel to the browser: {error!r}") from error
        channel = Channel(socket)
        nursery.start_soon(channel.listen)
        yield channel
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def launched(command: Sequence[str], announcement: str) -> AsyncIterator[str]:
    """Start a browser; gives what its stderr says behind `announcement`, and ends it afterwards.

    It gets a process group of its own, so that its children end with it, and Ctrl-C in our
    terminal is ours to act on.
    """
    process = await trio.lowlevel.open_process(
        command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, start_new_session=True
    )
    assert process.stderr is not None
    said: deque[str] = deque(maxlen=20)
    try:
        async with trio.open_nursery() as nursery:
            found: list[str] = []
            announced = trio.Event()

            async def read(lines: trio.abc.ReceiveStream) -> None:
                # To its end: a browser whose stderr is full stands still.
                rest = b""
                async for chunk in lines:
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        said.append(line.decode(errors="replace").strip())
                        if not found and announcement in said[-1]:
                            found.append(said[-1].partition(announcement)[2].strip())
                            announced.set()
                announced.set()

            nursery.start_soon(read, process.stderr)
            with trio.move_on_after(START_SECONDS):
                await announced.wait()
            if not found:
                raise BrowserFailed(f"{command[0]} did not start: {' / '.join(said)}")
            yield found[0]
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await ended(process)


async def ended(process: trio.Process) -> None:
    """End a process of ours that leads its group: politely, then surely, its children too."""
    process.terminate()
    with trio.move_on_after(QUIT_SECONDS):
        await process.wait()
    with suppress(ProcessLookupError):  # no one is left
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            await stream.aclose()
