"""TLS on a raw, non-blocking socket: how a connection begins, and how it is ended to be read.

    admitted -> shake_hands -> (TlsSocket) -> ... -> part

`admitted` looks at the ClientHello without taking it, because two things can be said only before
OpenSSL has the socket: that this is no plain HTTP, in the clear, and that there is no protocol in
common (RFC 7301 3.2).  And whatever is said last is lost if input is left unread then: the kernel
would reset the connection.  So both ends of a connection's life read on for a while.

Handshakes cost more than anything else that a stranger can ask for, so they are taken in turns.
Nothing here has a deadline for them: `Connection.expire` closes the socket, and each wait
raises `trio.ClosedResourceError`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, final

import trio

from . import hello

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from .tls_socket import TlsSocket

__all__ = [
    "AT_ONCE",
    "Handshakes",
    "Line",
    "admitted",
    "has_left",
    "part",
    "shake_hands",
    "was_reset",
]

_DISCARDED_BYTES = 16 * 1024


async def admitted(sock: socket.socket, protocols: Collection[str], linger_seconds: float) -> bool:
    """Whether TLS can begin, for one of `protocols`.  If not, the peer has been told why."""
    offer = await _offer(sock)
    match offer:
        case hello.PlainHttp():
            await _refuse(sock, hello.PLAIN_HTTP_ANSWER, linger_seconds)
            return False
        case hello.Hello() if not offer.accepts(protocols):
            # RFC 7301 3.2.  CPython's ssl would go on without a protocol instead.
            await _refuse(sock, hello.NO_APPLICATION_PROTOCOL_ALERT, linger_seconds)
            return False
        case _:
            return True


async def _offer(sock: socket.socket) -> hello.Offer:
    """Look at the ClientHello without taking it."""
    seen = 0
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            data = sock.recv(hello.HELLO_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        offer = hello.offered_protocols(data)
        if not isinstance(offer, hello.NeedMore) or len(data) in (0, seen):
            if seen:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            return offer
        # The rest is on its way: do not wake for what has been seen.
        seen = len(data)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)


async def _refuse(sock: socket.socket, answer: bytes, linger_seconds: float) -> None:
    """Answer in the clear, without TLS, and see that it arrives."""
    with contextlib.suppress(BlockingIOError):  # an empty socket takes a few bytes
        sock.send(answer)
    sock.shutdown(socket.SHUT_WR)
    await _discard(sock, linger_seconds)


# So many steps are taken before others have a turn: some 2 ms.
AT_ONCE = 4
# So many who have left are let go of at each turn, at 0.1 ms.
_GONE_AT_ONCE = 16
_ESTABLISHED, _CLOSE = 1, 7  # of TCP_INFO (linux/tcp.h)


def has_left(sock: socket.socket) -> bool:
    """Whether its peer has closed or reset it, as far as the system tells."""
    return _state(sock) != _ESTABLISHED


def was_reset(sock: socket.socket) -> bool:
    """Whether its peer has reset it, as far as the system tells: nobody would read an answer."""
    return _state(sock) == _CLOSE


def _state(sock: socket.socket) -> int:
    if sock.fileno() < 0:
        return _CLOSE
    if sys.platform != "linux":  # elsewhere there is none, or its states have other numbers
        return _ESTABLISHED
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


@final
class _Place:
    """In a line."""

    __slots__ = ("left", "sock", "task")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.task = trio.lowlevel.current_task()
        self.left = False  # whether it has been passed over for that


@final
class Line:
    """Turns of which `AT_ONCE` are had at once; who has waited longest is next, or who came last.

    These two alternate: where a hundred come again as soon as they have been served, who comes but
    once waits for a few of them, not for all; and nobody waits more than twice as long as if first
    come were first served.

    Who has left meanwhile is passed over: a peer can come and go faster than it can be answered,
    and those who stay would wait for all of these.
    """

    __slots__ = ("_free", "_last_is_next", "_waiting")

    def __init__(self) -> None:
        self._free = AT_ONCE
        self._waiting: OrderedDict[_Place, None] = OrderedDict()
        self._last_is_next = False

    @contextlib.asynccontextmanager
    async def turn(self, sock: socket.socket) -> AsyncIterator[None]:
        """Wait for a turn, and have it.  Raises ConnectionResetError if the peer left before."""
        waits = not self._free
        if waits:
            await self._wait(sock)
        else:
            self._free -= 1
        try:
            if not waits:
                await trio.lowlevel.checkpoint()
            yield
        finally:
            self._pass_on()

    async def _wait(self, sock: socket.socket) -> None:
        place = _Place(sock)

        def give_up(_: object) -> trio.lowlevel.Abort:
            del self._waiting[place]
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting[place] = None
        await trio.lowlevel.wait_task_rescheduled(give_up)
        if place.left:
            raise ConnectionResetError("the peer has left before its turn to shake hands")

    def _pass_on(self) -> None:
        passed_over = 0
        while self._waiting:
            place, _ = self._waiting.popitem(last=self._last_is_next)
            place.left = passed_over < _GONE_AT_ONCE and has_left(place.sock)
            trio.lowlevel.reschedule(place.task)
            if not place.left:
                self._last_is_next = not self._last_is_next
                return
            passed_over += 1
        self._free += 1


@final
class Handshakes:
    """What handshakes are taken in turns by.

    A step takes up to 0.5 ms: a thousand that could be done at once would hold up who has come
    already, and every tab, for half a second.  Who has begun does not wait for those that begin:
    its first request has come with its last word.
    """

    __slots__ = ("begin", "go_on")

    def __init__(self) -> None:
        self.begin = Line()
        self.go_on = Line()


async def shake_hands(
    sock: socket.socket, turns: Handshakes, begin: Callable[[], TlsSocket]
) -> TlsSocket:
    """Do the handshake, a step a turn; `begin` is called at the first, which may be long in coming.

    Raises OSError (`ssl.SSLError` too) if it fails.
    """
    if has_left(sock):
        raise ConnectionResetError("the peer has left before the handshake")
    tls: TlsSocket | None = None
    line = turns.begin
    while True:
        async with line.turn(sock):
            if sock.fileno() < 0:
                raise trio.ClosedResourceError
            if tls is None:
                tls = begin()
            try:
                tls.do_handshake()
                return tls
            except ssl.SSLWantReadError:
                wait = trio.lowlevel.wait_readable
            except ssl.SSLWantWriteError:
                wait = trio.lowlevel.wait_writable
        line = turns.go_on
        await wait(sock)


async def part(sock: socket.socket, tls: TlsSocket, linger_seconds: float) -> None:
    """Say that this was all, and give the peer the time to read it."""
    tls.say_goodbye()
    sock.shutdown(socket.SHUT_WR)
    await _discard(sock, linger_seconds)


async def _discard(sock: socket.socket, linger_seconds: float) -> None:
    with trio.move_on_after(linger_seconds):
        while True:
            await trio.lowlevel.wait_readable(sock)
            with contextlib.suppress(BlockingIOError):
                if not sock.recv(_DISCARDED_BYTES):
                    return
