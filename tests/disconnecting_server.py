"""A server that ends nothing well: `python disconnecting_server.py CERT KEY SEED`.

This process starts another, which serves until SIGKILL ends it, and then the next, on the same
port.  On stdout it says which port that is, and of each disconnect its kind, just before it makes
it; the end of its stdin ends it.

A stream carries the next few events after Last-Event-ID, numbered from 1, and is broken off after
any byte of them.  What ends is drawn by lot: the stream alone (END_STREAM, RST_STREAM), its
connection and all that is open there (TCP, GOAWAY), or the process.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import struct
import sys
from functools import partial
from itertools import count
from typing import final

import trio
from client_support import Asked, Peer
from support import DATA, frame, reset

# How often each; "hold" leaves a stream open, for what then ends its connection.
KINDS = {
    "reset": 1,
    "close": 1,
    "goaway": 1,
    "kill": 1,
    "rst_stream": 2,
    "end_stream": 2,
    "hold": 3,
}
# Streams of a connection that are left open; one source must go on.
HELD = 2
# For the client to close a connection that it was told to leave; it does so at once.
LINGER_SECONDS = 1.0


def say(line: str) -> None:
    """One write, so that nothing waits in a buffer when the process is killed."""
    os.write(1, f"{line}\n".encode())


@final
class Connection:
    """One connection, whose streams are answered in turn."""

    def __init__(self, peer: Peer, dice: random.Random) -> None:
        self._peer = peer
        self._dice = dice
        self._open: list[Asked] = []

    async def serve(self) -> None:
        """Answer until it is over."""
        peer = self._peer
        while True:
            await peer.read_until(lambda: peer.requests or peer.at_end)
            if peer.at_end or not await self._answer(peer.requests.pop(0)):
                return

    async def _answer(self, asked: Asked) -> bool:
        """Some of the events, and an end; whether the connection goes on."""
        dice, peer = self._dice, self._peer
        last = int(asked["last-event-id"]) if "last-event-id" in asked else 0
        events = [b"id: %d\ndata: event %d\n\n" % (n, n) for n in range(last + 1, last + 5)]
        body = b"".join(events)
        body = body[: dice.randrange(len(body) + 1)]
        (kind,) = dice.choices(tuple(KINDS), tuple(KINDS.values()))
        match kind:
            case "hold" if len(self._open) < HELD:
                await peer.answer(asked, body=body)
                self._open.append(asked)
            case "hold" | "end_stream":
                say("end_stream")
                await peer.answer(asked, body=body, ends=True)
            case "rst_stream":
                say(kind)
                if dice.randrange(4):  # else before there is an answer
                    await peer.answer(asked, body=body)
                await peer.send(reset(asked.stream, dice.choice((*range(14), 999))))
            case "goaway":
                say(kind)
                await self._goaway(asked, body)
                return False
            case _:
                await self._break_off(asked, body, kind)
                return False
        return True

    async def _goaway(self, asked: Asked, body: bytes) -> None:
        """Go away as servers do, with what came before kept or with all of it dropped."""
        dice, peer = self._dice, self._peer
        if dice.randrange(2):
            await peer.goaway(2**31 - 1)
        await peer.answer(asked, body=body)
        if dice.randrange(2):
            await peer.goaway(asked.stream, dice.choice((0, 0, 2, 11)))
            for each in (*self._open, asked):
                await peer.data(each, b"", ends=True)
        else:
            await peer.goaway(0)
        with trio.move_on_after(LINGER_SECONDS):
            await peer.read_until(lambda: peer.at_end)

    async def _break_off(self, asked: Asked, body: bytes, kind: str) -> None:
        """Within a frame, too."""
        data = self._peer.head(asked) + frame(DATA, 0, asked.stream, body)
        await self._peer.send(data[: self._dice.randrange(len(data) + 1)])
        say(kind)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "reset":
            linger = struct.pack("ii", 1, 0)
            self._peer.transport.transport_stream.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )


async def serve(port: int, context: ssl.SSLContext, dice: random.Random) -> None:
    """Until killed, or nobody needs it any more."""

    async def take(transport: trio.SocketStream) -> None:
        stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
            peer = Peer(stream)
            await peer.start({})
            await Connection(peer, dice).serve()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has closed it first
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_tcp, take, port, host="127.0.0.1"))
        await trio.lowlevel.wait_readable(0)  # its end: nothing is ever said there
        nursery.cancel_scope.cancel()


def main(cert: str, key: str, seed: str) -> None:
    """Start servers, one after another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["h2"])
    # Bound, but not listening: nobody else is given the port between two lives.
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        say(f"port {port}")
        for life in count():
            child = os.fork()
            if not child:
                trio.run(serve, port, context, random.Random(f"{seed} {life}"))
                return
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            if code != -signal.SIGKILL:
                sys.exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
