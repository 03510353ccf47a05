"""Listening sockets: one port, at every address that a host's name has here."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

import trio

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import Config

__all__ = ["BACKLOG", "bind", "url_host"]

# Connections that wait to be accepted; the kernel has a bound of its own (net.core.somaxconn).
BACKLOG = 4096
_FREE_PORT_TRIES = 20
_NO_SUCH_ADDRESS = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))


def url_host(host: str) -> str:
    """A host as it stands in a URL (RFC 3986 3.2.2)."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - every address, this machine's among them
        return "localhost"
    return f"[{host}]" if ":" in host else host


async def bind(config: Config) -> list[socket.socket]:
    """Listen at every address of the host, on one port.

    Raises ConfigError if it has none here, OSError if the port is not to be had.
    """
    found = await trio.socket.getaddrinfo(
        config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    families = dict.fromkeys((family, address) for family, _, _, _, address in found)
    for last in (False,) * _FREE_PORT_TRIES + (True,):
        try:
            return _bind_all(config, list(families))
        except OSError as error:
            # A port that is free at one address of a name may be taken at another.
            if config.port or error.errno != errno.EADDRINUSE or last:
                raise
    raise AssertionError("the last try returns or raises")


def _bind_all(config: Config, addresses: Sequence[tuple[int, Any]]) -> list[socket.socket]:
    port = config.port
    with contextlib.ExitStack() as opened:
        sockets: list[socket.socket] = []
        for family, address in addresses:
            try:
                # Every address of a name gets the same port, also when it is chosen for us.
                sock = _bind_one(
                    family, (address[0], port, *address[2:]), reuse_port=config.reuse_port
                )
            except OSError as error:
                # "localhost" may name ::1 on a machine without IPv6.
                if error.errno in _NO_SUCH_ADDRESS and len(addresses) > 1:
                    continue
                raise
            sockets.append(opened.enter_context(sock))
            port = sock.getsockname()[1]
        if not sockets:
            raise ConfigError(f"host {config.host!r} has no address on this machine")
        opened.pop_all()
        return sockets


def _bind_one(family: int, address: tuple[Any, ...], *, reuse_port: bool) -> socket.socket:
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):  # Windows
        raise ConfigError("reuse_port: this system has no SO_REUSEPORT")
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
