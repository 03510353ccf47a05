"""h2sse, as a user would run it: `python -m h2sse serve`.

A configuration file raises the bounds that a load test meets before the machine's own: 20,000
connections, and 10 seconds for a first request, within which thousands of clients that begin at
once do not all come to it.  Descriptors it raises itself.
"""

from __future__ import annotations

import sys
from typing import final

from h2sse import __version__

from .peer import Peer, Setup

__all__ = ["H2sse"]

_CONFIG = """\
[limits]
connections = 1000000
handshake_seconds = 600
request_seconds = 600
idle_seconds = 600
"""


@final
class H2sse(Peer):
    name = "h2sse"
    title = "h2sse"
    install = "uv sync"
    stated = (
        "Gives each event an id and remembers the last 1,000 of a topic; answers a publish when the"
        " event waits in the queue of every stream."
    )

    def version(self) -> str:
        # Of the checkout, which is what runs.
        return __version__

    def command(self, setup: Setup) -> list[str]:
        config = setup.folder / "h2sse.toml"
        config.write_text(_CONFIG)
        return [
            *(sys.executable, "-m", "h2sse", "serve", "--config", str(config)),
            *("--host", setup.host, "--port", str(setup.port)),
            *("--cert", str(setup.cert), "--key", str(setup.key)),
            *("--max-concurrent-streams", str(setup.max_streams)),
            *(["--http1"] if setup.protocol == "http/1.1" else []),
        ]
