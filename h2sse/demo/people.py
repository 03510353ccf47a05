"""`/people`: who is connected, and a list that all of them see.

The idea of "Server Sent Event": the server knows its tabs, and tells all when one comes or goes, as
`client` events, beside the list itself, as events without a name.
"""

from __future__ import annotations

import json

import h2sse

from . import bodies, pages

__all__ = ["add"]

# The list goes to every tab whole, so it must stay small; the oldest entries leave.
MAX_PEOPLE = 100
MAX_PERSON_BYTES = 1_000


def add(app: h2sse.App) -> None:
    people: list[dict[str, object]] = [{"name": "lzc", "age": 20}]

    def greeting() -> list[h2sse.Event]:
        # Under a name of its own: the article's page takes an event without one for a change.
        return [h2sse.Event(event="people", data=json.dumps(people))]

    @app.stream("/people/connect", cors_origins=("*",))
    def connect(_: h2sse.Request) -> h2sse.Subscribe:
        return h2sse.Subscribe("people", greeting=greeting)

    @app.presence("people")
    def came_or_went(_: h2sse.Presence) -> None:
        ids = [tab.id for tab in app.tabs("people")]
        app.publish("people", h2sse.Event(event="client", data=json.dumps(ids)))

    @app.post("/people/addPerson", cors_origins=("*",))
    def add_person(request: h2sse.Request) -> h2sse.Response:
        person = bodies.fields(request)
        if not person.get("name"):
            raise h2sse.BadRequest("name", "is missing")
        if len(json.dumps(person)) > MAX_PERSON_BYTES:
            raise h2sse.BadRequest("body", f"is over {MAX_PERSON_BYTES} bytes", status=413)
        people.append(person)
        del people[:-MAX_PEOPLE]
        app.publish("people", h2sse.Event(data=json.dumps(people)))
        return h2sse.Response.json(person)

    pages.add_page(app, "people")
