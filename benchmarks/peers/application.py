"""h2sse's hub and routes as an ASGI application, which Hypercorn and Granian host.

The same `h2sse.App` that `h2sse serve` puts on a port, so what differs is the server alone: who
parses HTTP, frames it, and writes.
"""

from __future__ import annotations

import h2sse
from h2sse.asgi import ASGI

__all__ = ["application"]

application = ASGI(h2sse.App())
