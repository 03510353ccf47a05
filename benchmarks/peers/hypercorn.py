"""Hypercorn with its trio worker, hosting h2sse's own application (application.py).

One worker, as it runs by default.  Its configuration file raises what would close connections under
load: the backlog (100), the requests a connection may make (1,000), and the seconds for a handshake
(60) and without a request (5).  The access log is off, also by default.  Its `priority` tree holds
1,000 streams a connection at most; that is its own, and stays.
"""

from __future__ import annotations

import json
import sys
from typing import final

from .peer import Peer, Setup, package_version

__all__ = ["Hypercorn"]


@final
class Hypercorn(Peer):
    name = "hypercorn"
    title = "Hypercorn (trio)"
    install = "uv sync --group bench"
    stated = "Hosts h2sse's application by ASGI: ids, history and the publish path are the same."

    def version(self) -> str | None:
        return package_version("hypercorn")

    def command(self, setup: Setup) -> list[str]:
        alpn = ["http/1.1"] if setup.protocol == "http/1.1" else ["h2", "http/1.1"]
        settings = {
            "bind": [f"{setup.host}:{setup.port}"],
            "certfile": str(setup.cert),
            "keyfile": str(setup.key),
            "worker_class": "trio",
            "workers": 1,
            "alpn_protocols": alpn,
            "h2_max_concurrent_streams": setup.max_streams,
            "backlog": 4096,
            "keep_alive_max_requests": 1_000_000_000,
            "keep_alive_timeout": 3600,
            "ssl_handshake_timeout": 600,
        }
        config = setup.folder / "hypercorn.toml"
        # JSON's strings, numbers and arrays are TOML's too.
        config.write_text("".join(f"{name} = {json.dumps(settings[name])}\n" for name in settings))
        application = "benchmarks.peers.application:application"
        return [sys.executable, "-m", "hypercorn", "--config", str(config), application]
