"""`/timestamps`: a timestamp every second, until the tab has had enough.

The idea of "Server push, the whole picture": `close()` in the page ends the stream, and with it all
that the server holds for the tab.  (The article's server forgets the blank line after `data`, so
its page never sees an event; `Event.encode` cannot.)
"""

from __future__ import annotations

from datetime import UTC, datetime

import trio

import h2sse

from . import pages

__all__ = ["add"]


def add(app: h2sse.App) -> None:
    @app.stream("/timestamps/events", cors_origins=("*",))
    def events(_: h2sse.Request) -> h2sse.Subscribe:
        return h2sse.Subscribe("timestamps", replay=False)

    @app.background
    async def tick() -> None:
        while True:
            await trio.sleep(1)
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            # As JavaScript's toISOString() writes it.
            app.publish("timestamps", h2sse.Event(data=now.replace("+00:00", "Z")))

    pages.add_page(app, "timestamps")
