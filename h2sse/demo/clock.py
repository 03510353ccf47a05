"""`/clock`: the time, every second.

The idea of the article "EventSource": a stream is an ordinary response that does not end, and the
browser comes back by itself when it does.  Other origins may read it, with cookies, if the server's
`cors_origins` name them.  A missed second is of no use to anyone, so none is replayed.

Each tab is first told the zone of that time, as a `zone` event of two lines: its name, and how far
it is from UTC.
"""

from __future__ import annotations

import time
from datetime import datetime

import trio

import h2sse

from . import pages

__all__ = ["add"]


def zone() -> h2sse.Event:
    now = datetime.now().astimezone()
    return h2sse.Event(event="zone", data=f"{now.tzname()}\nUTC{now.isoformat()[-6:]}")


def add(app: h2sse.App) -> None:
    @app.stream("/clock/stream")
    def stream(_: h2sse.Request) -> h2sse.Subscribe:
        return h2sse.Subscribe("clock", greeting=lambda: [zone()], replay=False)

    @app.background
    async def tick() -> None:
        while True:
            now = datetime.now()
            app.publish("clock", h2sse.Event(data=f"{now:%Y-%m-%d %H:%M:%S}"))
            # To the next full second, so that the clock neither drifts nor skips one.
            await trio.sleep(1 - time.time() % 1)

    pages.add_page(app, "clock")
