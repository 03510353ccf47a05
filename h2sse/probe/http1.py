"""A connection of the prober that speaks HTTP/1.1: one request, its head as it stood, its body.

The head is kept as written, doubled fields and all; h11 reads the body, and judges both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

import h11
import trio

from .connection import Tls
from .reading import Reading
from .verdict import Lost, Silent

__all__ = ["Http1"]

_HEAD_BYTES: Final = 64 * 1024
_READ_BYTES: Final = 64 * 1024


@final
class Http1:
    """Send `ask`, then read with `until`; whatever the peer sends ends in Lost at worst."""

    def __init__(
        self, transport: Tls, *, authority: str, patience: float, spend: Callable[[int], None]
    ) -> None:
        self._transport = transport
        self._authority = authority
        self._patience = patience
        self._spend = spend
        self._machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
        self._received = bytearray()
        self.status = 0
        self.fields: list[tuple[str, str]] = []  # names as they were written
        self.body = Reading()
        self.ended = False

    async def ask(self, path: str, *fields: tuple[str, str], method: str = "GET") -> None:
        """Send a request without a body."""
        self._spend(1)
        request = h11.Request(
            method=method, target=path, headers=[("host", self._authority), *fields]
        )
        data = self._machine.send(request)
        assert data is not None
        self._machine.send(h11.EndOfMessage())
        await self._send(data)

    async def post(self, path: str, body: bytes, *fields: tuple[str, str]) -> None:
        """Send a request with a body."""
        self._spend(1)
        headers = [("host", self._authority), ("content-length", str(len(body))), *fields]
        head = self._machine.send(h11.Request(method="POST", target=path, headers=headers))
        data = self._machine.send(h11.Data(body))
        assert head is not None
        assert data is not None
        self._machine.send(h11.EndOfMessage())
        await self._send(head + data)

    async def _send(self, data: bytes) -> None:
        try:
            with trio.fail_after(self._patience):
                await self._transport.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Lost("the connection was closed") from None
        except trio.TooSlowError:
            raise Lost("nothing was read of what we sent") from None

    def values(self, name: str) -> list[str]:
        """The values of a field, whatever the case of its name."""
        return [value for each, value in self.fields if each.lower() == name]

    @property
    def is_event_stream(self) -> bool:
        kind = ",".join(self.values("content-type")).rpartition(",")[2]
        return self.status == 200 and kind.partition(";")[0].strip().lower() == "text/event-stream"

    async def until(self, done: Callable[[], object], what: str) -> None:
        """Read until `done()`.  Raises Silent, naming `what`, and Lost."""
        with trio.move_on_after(self._patience):
            while not done():
                await self._read()
            return
        if not done():
            raise Silent(f"no {what} within {self._patience:g} s")

    async def _read(self) -> None:
        try:
            data = bytes(await self._transport.receive_some(_READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not self.status:
            self._received += data
            head, end, _ = bytes(self._received).partition(b"\r\n\r\n")
            if end:
                self._head(head)
        try:
            self._machine.receive_data(data)
            while True:
                event = self._machine.next_event()
                match event:
                    case h11.Data(data=body):
                        self.body.feed(bytes(body), trio.current_time())
                    case h11.EndOfMessage():
                        self.ended = True
                        return
                    case h11.Response() | h11.InformationalResponse():
                        pass
                    case h11.ConnectionClosed():
                        raise Lost("the connection was closed")
                    case _:
                        break
        except h11.RemoteProtocolError as error:
            if not data:
                raise Lost("the connection was closed") from None
            raise Lost(f"a malformed response: {error}") from None
        if not data:
            raise Lost("the connection was closed")

    def _head(self, head: bytes) -> None:
        line, *lines = head.decode("latin-1").split("\r\n")
        words = line.split(" ", 2)
        if len(words) > 1 and words[1].isdigit():
            self.status = int(words[1])
        for each in lines:
            name, _, value = each.partition(":")
            self.fields.append((name, value.strip(" \t")))
