"""A write, however long, in few packets.

OpenSSL gives the kernel one TLS record of 16 KiB at a time.  Without Nagle's algorithm, which would
hold events back, each leaves at once: its last packet is short, and the client is woken for it.  So
the kernel is told that more follows.  Over loopback an event for 5,000 tabs of one connection takes
half the packets then, and is there a tenth sooner.
"""

from __future__ import annotations

import socket
from typing import Final

__all__ = ["RECORD_BYTES", "send"]

# What a TLS record holds (RFC 8446 5.1).
RECORD_BYTES: Final = 16 * 1024
# tcp(7): Linux alone has it.
_CORK: Final[int | None] = getattr(socket, "TCP_CORK", None)


def send(sock: socket.socket, data: bytes) -> None:
    """`sock.send`; raises what that raises."""
    if _CORK is None or len(data) <= RECORD_BYTES:
        sock.send(data)
        return
    sock.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
    try:
        sock.send(data)
    finally:
        # What is left leaves now, also when the socket is full.
        sock.setsockopt(socket.IPPROTO_TCP, _CORK, 0)
