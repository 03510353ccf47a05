"""The demo's services, over real TLS sockets, asked in the ways that the articles' pages ask."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import h11
import pytest
import trio

import h2sse
from h2sse.demo import Demo, facts, trace
from h2sse.trace import Taps, TraceRecord

if TYPE_CHECKING:
    from pathlib import Path

PAGES = ("/", "/tabs/", "/theme/", "/clock/", "/timestamps/", "/facts/", "/people/", "/trace/")
FRIEND = "https://app.example"  # the origin on the allow-list
STRANGER = "https://elsewhere.example"
HTTP1_URL = "https://localhost:8444"
FORM = "application/x-www-form-urlencoded"


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Tab:
    """An event stream that is being read."""

    fields: dict[str, str]
    receive: Any
    parser: h2sse.Parser = field(default_factory=h2sse.Parser)
    waiting: list[h2sse.Message] = field(default_factory=list)

    async def next(self) -> h2sse.Message:
        with trio.fail_after(5):
            while not self.waiting:
                event = await self.receive()
                assert isinstance(event, h11.Data), f"the stream ended: {event}"
                self.waiting += self.parser.feed(bytes(event.data))
        return self.waiting.pop(0)

    async def json(self, event: str) -> Any:
        """The data of the next event, which is to be of this type."""
        message = await self.next()
        assert message.event == event
        return json.loads(message.data)


class Site:
    """The demo on a port of its own, and an HTTP/1.1 client with a connection for each request."""

    def __init__(self, demo: Demo, listening: h2sse.Listening, certs: Path) -> None:
        self.demo = demo
        self.app = demo.app
        self.url = listening.url
        self.port = listening.port
        self.context = ssl.create_default_context(cafile=certs / "ca.pem")
        self.context.set_alpn_protocols(["http/1.1"])

    async def ask(self, method: str, path: str, body: bytes = b"", **fields: str) -> Answer:
        with trio.fail_after(5):
            async with self._exchange(method, path, body, fields) as (answer, receive):
                while isinstance(event := await receive(), h11.Data):
                    answer.body += event.data
                return answer

    async def post(self, path: str, body: str = "", kind: str = "", **fields: str) -> Answer:
        if kind:
            fields["content_type"] = kind
        return await self.ask("POST", path, body.encode(), **fields)

    @asynccontextmanager
    async def tab(self, path: str, **fields: str) -> AsyncIterator[Tab]:
        fields["accept"] = "text/event-stream"
        async with self._exchange("GET", path, b"", fields) as (answer, receive):
            assert answer.status == 200
            assert answer.fields["content-type"] == "text/event-stream"
            yield Tab(answer.fields, receive)

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, body: bytes, fields: dict[str, str]
    ) -> AsyncIterator[tuple[Answer, Any]]:
        headers = [("host", self.url.removeprefix("https://")), ("content-length", str(len(body)))]
        headers += [(name.replace("_", "-"), value) for name, value in fields.items()]
        http = h11.Connection(h11.CLIENT)
        stream = await trio.open_ssl_over_tcp_stream(
            "localhost", self.port, ssl_context=self.context, https_compatible=True
        )

        async def receive() -> object:
            while (event := http.next_event()) is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some()))
            return event

        async with stream:
            for event in (
                h11.Request(method=method, target=path, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                await stream.send_all(http.send(event) or b"")
            response = await receive()
            assert isinstance(response, h11.Response)
            found = {name.decode(): value.decode() for name, value in response.headers}
            yield Answer(response.status_code, found), receive


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certs")


@pytest.fixture
async def site(nursery: trio.Nursery, certs: Path) -> Site:
    demo = Demo()
    config = h2sse.Config(port=0, cors_origins=(FRIEND,), tls=h2sse.Tls(directory=certs))
    taps = Taps(time.time)
    taps.listeners.append(demo.traced)
    listening = cast("h2sse.Listening", await nursery.start(h2sse.serve, demo.app, config, taps))
    demo.listening(listening.url, HTTP1_URL)
    return Site(demo, listening, certs)


# -- /theme


async def test_theme_tells_a_tab_the_state_and_then_every_change(site: Site) -> None:
    async with site.tab("/theme/events") as one, site.tab("/theme/events") as two:
        for tab in (one, two):
            assert await tab.json("theme-change") == {"theme": "light"}
        answer = await site.post("/theme/change-theme", '{"theme": "dark"}', "application/json")
        assert answer.json() == {"theme": "dark"}
        for tab in (one, two):
            assert await tab.json("theme-change") == {"theme": "dark"}
    async with site.tab("/theme/events") as late:
        assert await late.json("theme-change") == {"theme": "dark"}


async def test_theme_tells_a_tab_that_comes_back_the_newest_only(site: Site) -> None:
    async with site.tab("/theme/events") as tab:
        await tab.next()
        last = tab.parser.last_event_id
    for _ in range(3):
        await site.post("/theme/change-theme")
    async with site.tab("/theme/events", last_event_id=last) as tab:
        assert await tab.json("theme-change") == {"theme": "dark"}
        await site.post("/theme/change-theme")
        assert await tab.json("theme-change") == {"theme": "light"}


async def test_theme_without_a_body_is_the_other_one(site: Site) -> None:
    # The article's fetch(url, {method: "post", data: ...}) sends none.
    assert (await site.post("/theme/change-theme")).json() == {"theme": "dark"}
    assert (await site.post("/theme/change-theme")).json() == {"theme": "light"}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('{"theme": "dark"}', "application/json"),
        ('{"theme": "dark"}', "text/plain;charset=UTF-8"),  # fetch with a string
        ('{"theme": "dark"}', FORM),  # curl -d
        ('{"theme": "dark"}', ""),
        ("theme=dark", FORM),
    ],
)
async def test_theme_takes_json_whatever_it_is_called_and_forms(
    site: Site, body: str, kind: str
) -> None:
    answer = await site.post("/theme/change-theme", body, kind)
    assert (answer.status, answer.json()) == (200, {"theme": "dark"})


@pytest.mark.parametrize(
    ("body", "kind", "status", "field"),
    [
        ('{"theme": 7}', "", 422, "theme"),
        ('{"theme": ""}', "", 422, "theme"),
        ('{"theme": "dark blue"}', "", 422, "theme"),
        (json.dumps({"theme": "x" * 33}), "", 422, "theme"),
        ('{"theme": "dark", "size": 1}', "", 422, "size"),
        ("theme=dark&size=1", FORM, 422, "size"),
        ("theme=dark&theme=light", FORM, 422, "theme"),
        ("[]", FORM, 422, "body"),
        ("dark", "text/plain", 400, "body"),
    ],
)
async def test_theme_refuses_what_is_none_and_says_which_field(
    site: Site, body: str, kind: str, status: int, field: str
) -> None:
    answer = await site.post("/theme/change-theme", body, kind)
    assert (answer.status, answer.json()["field"]) == (status, field)
    async with site.tab("/theme/events") as tab:
        assert await tab.json("theme-change") == {"theme": "light"}


# -- /clock


async def test_clock_tells_the_time_every_second_with_id_and_retry(site: Site) -> None:
    async with site.tab("/clock/stream") as tab:
        assert (await tab.next()).event == "zone"
        messages = [await tab.next() for _ in range(3)]
    assert {message.event for message in messages} == {"message"}
    assert len({message.last_event_id for message in messages}) == 3
    assert all(message.last_event_id for message in messages)
    assert tab.parser.reconnection_time is not None
    assert 2_000 <= tab.parser.reconnection_time <= 4_000
    first, *_, last = (datetime.fromisoformat(message.data) for message in messages)
    assert last - first == timedelta(seconds=2)


async def test_clock_tells_its_zone_first(site: Site) -> None:
    async with site.tab("/clock/stream") as tab:
        name, offset = (await tab.next()).data.split("\n")
    assert name
    assert re.fullmatch(r"UTC[+-]\d\d:\d\d", offset)


async def test_clock_is_for_listed_origins_with_credentials(site: Site) -> None:
    async with site.tab("/clock/stream", origin=FRIEND, cookie="a=b") as tab:
        assert tab.fields["access-control-allow-origin"] == FRIEND
        assert tab.fields["access-control-allow-credentials"] == "true"
        assert tab.fields["vary"] == "origin"
    async with site.tab("/clock/stream", origin=STRANGER) as tab:
        assert "access-control-allow-origin" not in tab.fields


# -- /timestamps


async def test_timestamps_are_whole_events_as_javascript_writes_them(site: Site) -> None:
    async with site.tab("/timestamps/events", origin=STRANGER) as tab:
        assert tab.fields["access-control-allow-origin"] == "*"
        for _ in range(2):
            message = await tab.next()
            assert message.event == "message"
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", message.data)


async def test_timestamps_hold_nothing_for_a_tab_that_closed(site: Site) -> None:
    left = trio.Event()

    @site.app.presence("timestamps")
    def came_or_went(presence: h2sse.Presence) -> None:
        if not presence.joined:
            left.set()

    async with site.tab("/timestamps/events") as tab:
        await tab.next()
        assert len(site.app.tabs("timestamps")) == 1
    with trio.fail_after(1):
        await left.wait()
    assert not site.app.tabs("timestamps")


# -- /facts


async def test_facts_are_all_told_on_joining_and_then_each_new_one(site: Site) -> None:
    old, new = {"info": "Honey never spoils.", "source": "é"}, {"info": "Venus turns backwards."}
    async with site.tab("/facts/events") as early:
        assert await early.json("message") == []
        answer = await site.post("/facts/fact", json.dumps(old), "application/json")
        assert answer.json() == {"r0": 0, "r1": ""}
        assert await early.json("message") == old
        async with site.tab("/facts/events") as late:
            assert await late.json("message") == [old]
            await site.post("/facts/fact", "info=Venus+turns+backwards.", FORM)
            for tab in (early, late):
                assert await tab.json("message") == new


async def test_facts_tell_a_tab_that_comes_back_what_it_missed(site: Site) -> None:
    async with site.tab("/facts/events") as tab:
        await tab.next()
        last = tab.parser.last_event_id
    for number in range(3):
        await site.post("/facts/fact", json.dumps({"n": number}))
    async with site.tab("/facts/events", last_event_id=last) as tab:
        assert [await tab.json("message") for _ in range(3)] == [{"n": n} for n in range(3)]


async def test_facts_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "MAX_FACTS", 2)
    for number in range(4):
        await site.post("/facts/fact", json.dumps({"n": number}))
    async with site.tab("/facts/events") as tab:
        assert await tab.json("message") == [{"n": 2}, {"n": 3}]
    long = json.dumps({"info": "x" * facts.MAX_FACT_BYTES})
    assert (await site.post("/facts/fact", long)).status == 413


@pytest.mark.parametrize("body", ["", "[1]", "{}", '"x"'])
async def test_facts_are_objects(site: Site, body: str) -> None:
    answer = await site.post("/facts/fact", body, "application/json")
    assert (answer.status, answer.json()["field"]) == (422, "body")


@pytest.mark.parametrize("body", ['{"n": NaN}', '{"n": 1e999}', r'{"n": "\ud800"}'])
async def test_facts_can_be_read_by_every_browser(site: Site, body: str) -> None:
    answer = await site.post("/facts/fact", body)
    assert 400 <= answer.status < 500
    assert answer.json()["field"] == "body"
    async with site.tab("/facts/events") as tab:
        assert await tab.json("message") == []


# -- /people


async def test_people_hear_who_comes_and_goes(site: Site) -> None:
    async with site.tab("/people/connect") as one:
        assert await one.json("people") == [{"name": "lzc", "age": 20}]
        [first] = await one.json("client")
        async with site.tab("/people/connect") as two:
            await two.json("people")
            [_, second] = await two.json("client")
            assert await one.json("client") == [first, second]
        assert await one.json("client") == [first]


@pytest.mark.parametrize(
    ("body", "kind", "person"),
    [
        ("name=lzc2&age=22", FORM, {"name": "lzc2", "age": "22"}),  # querystring.stringify
        ('{"name": "lzc2", "age": 22}', "application/json", {"name": "lzc2", "age": 22}),
    ],
)
async def test_people_see_the_list_when_it_changes(
    site: Site, body: str, kind: str, person: dict[str, object]
) -> None:
    async with site.tab("/people/connect") as tab:
        await tab.json("people")
        await tab.json("client")
        answer = await site.post("/people/addPerson", body, kind, origin=STRANGER)
        assert (answer.status, answer.json()) == (200, person)
        assert answer.fields["access-control-allow-origin"] == "*"
        assert await tab.json("message") == [{"name": "lzc", "age": 20}, person]


async def test_people_have_names(site: Site) -> None:
    answer = await site.post("/people/addPerson", "age=22", FORM)
    assert (answer.status, answer.json()["field"]) == (422, "name")


# -- /trace


async def rows_of(tab: Tab, *types: str) -> list[dict[str, Any]]:
    """Rows of the trace, until each of these types has been seen."""
    rows: list[dict[str, Any]] = []
    while not {each["type"] for each in rows} >= {*types}:
        rows += (await tab.json("rows"))["rows"]
    return rows


async def test_the_trace_shows_what_passes_beside_it(site: Site) -> None:
    async with site.tab("/trace/events") as viewer:
        assert await viewer.json("here") == {"connection": 1, "protocol": "http/1.1"}
        async with site.tab("/theme/events", cookie="secret") as tab:
            await tab.next()
        rows = await rows_of(viewer, "CLOSE")
    shown = [each for each in rows if each["connection"] == 2]
    assert [each["type"] for each in shown][:4] == ["OPEN", "REQUEST", "RESPONSE", "CHUNK"]
    assert all(each["path"] == "/theme/events" for each in shown if "stream" in each)
    assert "secret" not in json.dumps(rows)


async def test_the_trace_does_not_show_itself(site: Site) -> None:
    async with site.tab("/trace/events") as one, site.tab("/trace/events") as two:
        await one.json("here")
        await two.json("here")
        # Both are told of this tab, each over a connection of its own.
        async with site.tab("/theme/events") as tab:
            await tab.next()
        rows = await rows_of(one, "CLOSE")
        own = {each["type"] for each in rows if each.get("path") == trace.PATH}
        assert own <= {"REQUEST", "RESPONSE"}  # of the second viewer, not what it is sent


def record(kind: str, path: str = "", connection: int = 1) -> TraceRecord:
    return TraceRecord(
        time=0.0,
        connection=connection,
        direction="out",
        type=kind,
        meaning="",
        path=path,
        details=(("peer", "127.0.0.1"),),
    )


async def test_the_trace_is_bounded_and_leaves_itself_out(site: Site) -> None:
    async with site.tab("/trace/events") as viewer:
        await viewer.json("here")
        site.demo.traced([record("OPEN", connection=99)])
        # Of several viewers on one connection: nothing to show, so nothing is sent.
        site.demo.traced([record("WRITE", connection=99), *[record("DATA", trace.PATH, 99)] * 2])
        site.demo.traced([record("DATA", "/x", 99)] * (trace.MAX_ROWS + 7))
        found: Any = {"rows": []}
        while not any(each["connection"] == 99 for each in found["rows"]):
            found = await viewer.json("rows")
    assert len(found["rows"]) == trace.MAX_ROWS
    shown = [each["type"] for each in found["rows"] if each["connection"] == 99]
    assert {*shown} == {"OPEN", "DATA"}
    assert len(shown) + found["more"] == 1 + trace.MAX_ROWS + 7
    assert found["own"] >= 2


async def test_the_trace_is_for_its_own_address_only(site: Site) -> None:
    async with site.tab("/trace/events") as viewer:
        await viewer.json("here")
        stranger = TraceRecord(
            time=0.0,
            connection=99,
            direction="",
            type="OPEN",
            meaning="",
            details=(("peer", "192.0.2.7"),),
        )
        site.demo.traced([stranger])
        site.demo.traced([record("DATA", "/private", 99)])
        async with site.tab("/theme/events"):
            pass
        rows = await rows_of(viewer, "CLOSE")
    assert 99 not in {each["connection"] for each in rows}


# -- all of them


@pytest.mark.parametrize(
    "path",
    ["/theme/events", "/timestamps/events", "/facts/events", "/people/connect", "/tabs/events"],
)
async def test_streams_can_be_read_from_any_origin(site: Site, path: str) -> None:
    async with site.tab(path, origin=STRANGER) as tab:
        assert tab.fields["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["/theme/change-theme", "/facts/fact", "/people/addPerson"])
async def test_posts_with_json_pass_the_preflight(site: Site, path: str) -> None:
    answer = await site.ask(
        "OPTIONS",
        path,
        origin=STRANGER,
        access_control_request_method="POST",
        access_control_request_headers="content-type",
    )
    assert answer.status == 204
    assert answer.fields["access-control-allow-origin"] == "*"
    assert "POST" in answer.fields["access-control-allow-methods"]
    assert "content-type" in answer.fields["access-control-allow-headers"]


async def test_tabs_are_told_what_they_run_on_and_then_move(site: Site) -> None:
    async with site.tab("/tabs/events") as one, site.tab("/tabs/events") as two:
        for tab, number in ((one, 1), (two, 2)):
            hello = await tab.json("hello")
            assert hello == {
                "connection": number,
                "stream": 1,
                "protocol": "http/1.1",
                "limit": None,
            }
            assert (await tab.next()).event == "tick"
        answer = await site.post("/tabs/publish", origin=site.url)
        assert answer.json()["tabs"] == 2
        for tab in (one, two):
            while (message := await tab.next()).event == "tick":
                pass
            assert (message.event, message.last_event_id) == ("flash", answer.json()["id"])


@pytest.mark.parametrize("path", PAGES)
async def test_pages_are_whole_and_strict(site: Site, path: str) -> None:
    page = await site.ask("GET", path)
    html = page.body.decode()
    policy = page.fields["content-security-policy"]
    assert page.status == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    # What the policy would block: handlers and styles in attributes, and other origins.
    assert not re.search(r'\s(on\w+|style)=|(src|href)="(?![/#])', html)
    for link in re.findall(r'(?:src|href)="(/[^"]*)"', html):
        assert (await site.ask("GET", link)).status == 200, link
    assert "<!-- header -->" not in html
    assert html.count('aria-current="page"') == (path != "/")


async def test_the_tabs_page_may_connect_to_both_listeners_only(site: Site) -> None:
    page = await site.ask("GET", "/tabs/")
    policy = page.fields["content-security-policy"]
    assert f"connect-src 'self' {site.url} {HTTP1_URL};" in policy
    assert f'data-origin="{HTTP1_URL}"'.encode() in page.body


async def test_the_tabs_page_works_under_whatever_name_it_is_reached(site: Site) -> None:
    site.demo.listening("https://0.0.0.0:8443", "https://[::1]:8444")
    page = await site.ask("GET", "/tabs/")
    policy = page.fields["content-security-policy"]
    assert "connect-src 'self' https://*:8443 https://*:8444;" in policy
