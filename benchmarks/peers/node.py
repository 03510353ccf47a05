"""Node's http2 module, by node.js beside this file, which says how and why."""

from __future__ import annotations

from typing import final

from .peer import HERE, Peer, Setup, find, said

__all__ = ["Node"]

_PROGRAM = HERE / "node.js"


@final
class Node(Peer):
    name = "node"
    title = "Node http2"
    install = "apt install nodejs"
    stated = (
        "A small application of its own, without ids or history; answers a publish when every"
        " stream has been written to."
    )

    def version(self) -> str | None:
        program = find("node")
        return (program and said(program, "--version").removeprefix("v")) or None

    def command(self, setup: Setup) -> list[str]:
        options = (setup.protocol, setup.host, setup.port, setup.cert, setup.key, setup.max_streams)
        return [find("node") or "node", str(_PROGRAM), *map(str, options)]
