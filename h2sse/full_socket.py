"""A socket that takes no more: who waits for it, and whether its peer takes what is in it."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, final

import trio

from .liveness import Pace

if TYPE_CHECKING:
    from .config import Limits

__all__ = ["FullSocket"]

# `tcpi_bytes_acked` of Linux's struct tcp_info (tcp(7)), there since 4.1.
_BYTES_ACKED = slice(120, 128)


@final
class FullSocket:
    """From when a socket is full until it has drained, when `drained` is set.

    `waits` is how many bytes wait for it now, and `now` in seconds of a clock that only goes
    forward.
    """

    __slots__ = ("_acknowledged", "_limits", "_pace", "_sock", "drained")

    def __init__(self, sock: socket.socket, limits: Limits, now: float, waits: int) -> None:
        self.drained = trio.Event()
        self._sock = sock
        self._limits = limits
        self._pace = Pace(limits, now, waits)
        self._acknowledged = _acknowledged(sock)

    def moved(self, now: float, waits: int) -> None:
        """It can be written to again, if only a little."""
        if self._acknowledged is None:
            # Nothing tells how much the peer took: that it took some must do.
            self._pace = Pace(self._limits, now, waits)

    def stands_still(self, now: float, waits: int) -> bool:
        """Whether the peer has taken too little for too long."""
        before, acknowledged = self._acknowledged, _acknowledged(self._sock)
        if before is not None and acknowledged is not None:
            self._acknowledged = acknowledged
            self._pace.took(acknowledged - before, now, waits)
        return self._pace.stands_still(now)


def _acknowledged(sock: socket.socket) -> int | None:
    """Bytes that the peer's kernel has taken; None where ours does not tell.

    What our own has taken says little: it makes room by large pieces, at 2 KB/s once a minute.
    """
    if sys.platform != "linux":
        return None
    found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop)
    # Something has been: the handshake.
    return int.from_bytes(found[_BYTES_ACKED], sys.byteorder) or None
