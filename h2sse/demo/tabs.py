"""`/tabs`: how many streams a browser can hold, over HTTP/2 and over HTTP/1.1, side by side.

Each stream is first told what it runs on (`hello`), then moves with every `tick`.  `flash` is what
its page's Publish button sends.
"""

from __future__ import annotations

import json
import re

import trio

import h2sse

from . import pages

__all__ = ["TICK_SECONDS", "add", "add_page"]

# Fast enough to be seen moving, slow enough for 600 tiles on a phone.
TICK_SECONDS = 0.5


def add(app: h2sse.App) -> None:
    # The page comes from one of the two listeners and reads from both: one of them is another
    # origin to it.
    @app.stream("/tabs/events", cors_origins=("*",))
    def events(request: h2sse.Request) -> h2sse.Subscribe:
        hello = {
            "connection": request.connection,
            "stream": request.stream,
            "protocol": request.protocol,
            "limit": request.max_concurrent_streams,
        }
        greeting = [h2sse.Event(event="hello", data=json.dumps(hello))]
        return h2sse.Subscribe("tabs", greeting=greeting, replay=False)

    @app.post("/tabs/publish")
    def publish(_: h2sse.Request) -> h2sse.Response:
        event = app.publish("tabs", h2sse.Event(event="flash"))
        return h2sse.Response.json({"id": event.id, "tabs": len(app.tabs("tabs"))})

    @app.background
    async def tick() -> None:
        while True:
            app.publish("tabs", h2sse.Event(event="tick"))
            await trio.sleep(TICK_SECONDS)


def add_page(app: h2sse.App, http2_url: str, http1_url: str) -> None:
    """Mount the page, which may connect to these two origins and no other."""
    http2, http1 = _reachable(http2_url), _reachable(http1_url)
    html = pages.read("tabs").replace("{http2}", http2).replace("{http1}", http1)
    app.page("/tabs/", html.encode(), connect=(http2, http1))


def _reachable(url: str) -> str:
    """The origin with a * for its host, where only the browser knows by what name it came.

    That is so for a server on every address; and a Content-Security-Policy has no way to write an
    IPv6 address (CSP 3, 2.3.1).
    """
    return re.sub(r"//(0\.0\.0\.0|\[.*\])(?=:|\Z)", "//*", url)
