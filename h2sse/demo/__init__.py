"""`h2sse demo`: five small push services, and two pages that look at how they travel.

Every module here but `pages` and `bodies` is one service, `add(app)`, written on the public API
alone: they are as much examples to copy from as things to click on.
"""

from __future__ import annotations

import h2sse

from . import clock, facts, pages, people, tabs, theme, timestamps, trace

__all__ = ["Demo"]


class Demo:
    """All services in one app, for two listeners: HTTP/2 on one port, HTTP/1.1 only on the next.

    Serve `app` on both, then call `listening`, or the tabs page does not know where to connect.
    `traced` is what the trace page lives on: it is to be told what passes on the connections.
    """

    def __init__(self, limits: h2sse.Limits | None = None) -> None:
        self.app = h2sse.App(limits=limits)
        pages.add(self.app)
        for service in (tabs, theme, clock, timestamps, facts, people):
            service.add(self.app)
        self.traced = trace.add(self.app)

    def listening(self, http2_url: str, http1_url: str) -> None:
        """Say where both listeners are, as in "https://localhost:8443"."""
        tabs.add_page(self.app, http2_url, http1_url)
