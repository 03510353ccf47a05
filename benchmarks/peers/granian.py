"""Granian, Rust's hyper under an asyncio loop, hosting h2sse's own application (application.py).

One worker and one runtime thread, as it runs by default, and asyncio's own loop, so that what else
is installed makes no difference.  Raised: `--backpressure`, the requests served at a time, of which
each stream is one (by default as many as the backlog, 1,024), and the time for a request's headers,
to the most there is.
"""

from __future__ import annotations

import sys
from typing import final

from .peer import Peer, Setup, package_version

__all__ = ["Granian"]


@final
class Granian(Peer):
    name = "granian"
    title = "Granian"
    install = "uv sync --group bench"
    stated = "Hosts h2sse's application by ASGI: ids, history and the publish path are the same."

    def version(self) -> str | None:
        return package_version("granian")

    def command(self, setup: Setup) -> list[str]:
        return [
            *(sys.executable, "-m", "granian", "--interface", "asgi", "--loop", "asyncio"),
            *("--host", setup.host, "--port", str(setup.port), "--workers", "1"),
            *("--http", "1" if setup.protocol == "http/1.1" else "auto"),
            *("--http2-max-concurrent-streams", str(setup.max_streams)),
            *("--backlog", "4096", "--backpressure", "1000000"),
            *("--http1-header-read-timeout", "60000"),
            *("--ssl-certificate", str(setup.cert), "--ssl-keyfile", str(setup.key)),
            "benchmarks.peers.application:application",
        ]
