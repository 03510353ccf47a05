"""`/facts`: all facts so far on joining, then each new one.

The idea of "Message push with SSE": a list that grows, told once and then by its additions.  A tab
that comes back is told only what it missed, so the article's page, which appends whatever comes,
has every fact once.
"""

from __future__ import annotations

import json
from collections import deque

import h2sse

from . import bodies, pages

__all__ = ["add"]

# A tab that joins is sent all of them at once: some 200 KB at the most.
MAX_FACTS = 1_000
MAX_FACT_BYTES = 2_000
MAX_BYTES = 200_000


def add(app: h2sse.App) -> None:
    facts: deque[str] = deque()  # each as JSON

    def all_facts() -> list[h2sse.Event]:
        return [h2sse.Event(data=f"[{','.join(facts)}]")]

    @app.stream("/facts/events", cors_origins=("*",))
    def events(_: h2sse.Request) -> h2sse.Subscribe:
        return h2sse.Subscribe("facts", greeting=all_facts)

    @app.post("/facts/fact", cors_origins=("*",))
    def fact(request: h2sse.Request) -> h2sse.Response:
        found = bodies.fields(request)
        if not found:
            raise h2sse.BadRequest("body", "must hold a fact: a JSON object or a form")
        new = json.dumps(found)
        if len(new) > MAX_FACT_BYTES:
            raise h2sse.BadRequest("body", f"is over {MAX_FACT_BYTES} bytes of JSON", status=413)
        facts.append(new)
        while len(facts) > MAX_FACTS or sum(map(len, facts)) > MAX_BYTES:
            facts.popleft()
        app.publish("facts", h2sse.Event(data=new))
        return h2sse.Response.json({"r0": 0, "r1": ""})

    pages.add_page(app, "facts")
