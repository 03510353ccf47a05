"""`/theme`: what one tab sets, all tabs show.

The idea of "Synchronising data with EventSource": the state lives on the server, a tab that joins
is told it, and whoever changes it changes it everywhere.  Only the newest state matters, so a tab
that comes back is told that one and not every change it missed (`replay=False`).
"""

from __future__ import annotations

import json
import re

import h2sse

from . import bodies, pages

__all__ = ["add"]

_NAME = re.compile(r"[\w-]{1,32}", re.ASCII)


def add(app: h2sse.App) -> None:
    state = {"theme": "light"}

    def change() -> h2sse.Event:
        return h2sse.Event(event="theme-change", data=json.dumps(state))

    @app.stream("/theme/events", cors_origins=("*",))
    def events(_: h2sse.Request) -> h2sse.Subscribe:
        return h2sse.Subscribe("theme", greeting=lambda: [change()], replay=False)

    @app.post("/theme/change-theme", cors_origins=("*",))
    def change_theme(request: h2sse.Request) -> h2sse.Response:
        state["theme"] = _wanted(bodies.fields(request), state["theme"])
        app.publish("theme", change())
        return h2sse.Response.json(state)

    pages.add_page(app, "theme")


def _wanted(fields: dict[str, object], now: str) -> str:
    """The theme asked for.  No fields ask for the other one.

    The article's own page sends none: it passes `data` to `fetch`, which knows only `body`.
    """
    if not fields:
        return "dark" if now == "light" else "light"
    for name in fields.keys() - {"theme"}:
        raise h2sse.BadRequest(name, "is not known; only theme can be set")
    theme = fields["theme"]
    if not isinstance(theme, str) or not _NAME.fullmatch(theme):
        raise h2sse.BadRequest("theme", 'must be a name such as "light" or "dark"')
    return theme
