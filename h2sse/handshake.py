"""TLS on a raw, non-blocking socket: how a connection begins, and how it is ended to be read.

    admitted -> (TlsSocket) -> shake_hands -> ... -> part

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
from typing import TYPE_CHECKING, final

import trio

from . import hello

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from .tls_socket import TlsSocket

__all__ = ["AT_ONCE", "HandshakeTurns", "admitted", "part", "shake_hands"]

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


@final
class HandshakeTurns:
    """What handshakes are taken in turns by; first come, first served.

    A step takes up to 0.5 ms: a thousand that could be done at once would hold up who has come
    already, and every tab, for half a second.  Who has begun does not wait for those that begin:
    its first request has come with its last word.
    """

    __slots__ = ("begin", "go_on")

    def __init__(self) -> None:
        self.begin = trio.Semaphore(AT_ONCE)
        self.go_on = trio.Semaphore(AT_ONCE)


async def shake_hands(
    sock: socket.socket, tls: TlsSocket, turns: HandshakeTurns, begun: Callable[[], object]
) -> None:
    """Do the handshake, a step a turn; `begun` is called at the first, which may be long in coming.

    Raises OSError (`ssl.SSLError` too) if it fails.
    """
    turn = turns.begin
    while True:
        async with turn:
            if sock.fileno() < 0:
                raise trio.ClosedResourceError
            if turn is turns.begin:
                begun()
            try:
                tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                wait = trio.lowlevel.wait_readable
            except ssl.SSLWantWriteError:
                wait = trio.lowlevel.wait_writable
        turn = turns.go_on
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
