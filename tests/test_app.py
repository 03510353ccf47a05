"""`App.decide` as a table, and what comes of it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from h2sse.app import STREAM_FIELDS, App, Call, Reply, Stream
from h2sse.config import Limits
from h2sse.errors import BadRequest, LocalError
from h2sse.hub import Presence, Subscribe
from h2sse.overflow import GAP_EVENT
from h2sse.sse import Event
from h2sse.wire import Request, Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from h2sse.app import Decision
    from h2sse.wire import Fields

HOME = "https://localhost:8443"
FRIEND = "https://app.example"
STRANGER = "https://evil.example"


def asking(method: str, path: str, *, query: str = "", **headers: str) -> Request:
    return Request(
        stream=1,
        method=method,
        path=path,
        query=query,
        authority="localhost:8443",
        fields=[(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()],
    )


def service() -> App:
    """The built-in routes, and one of each kind beside them."""
    app = App()

    @app.stream("/stream")
    def stream(_: Request) -> Subscribe:
        return Subscribe("a", fields=[(b"x-own", b"1")])

    @app.get("/form")
    def read(_: Request) -> Response:
        return Response.text("read")

    @app.post("/form")
    def write(_: Request) -> Response:
        return Response.text("written")

    return app


def answer(decision: Decision) -> Response:
    assert isinstance(decision, Reply)
    return decision.response


def status(decision: Decision) -> int:
    """200 for a handler that is to be asked."""
    return 200 if isinstance(decision, Call) else answer(decision).status


def names(fields: Fields, name: bytes) -> set[str]:
    """The members of a field that is a list."""
    value = dict(fields).get(name, b"").decode()
    return {each.strip() for each in value.split(",") if each}


# -- methods and paths


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/stream", {"GET", "HEAD", "OPTIONS"}),
        ("/form", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("/events", {"GET", "HEAD", "OPTIONS"}),
        ("/publish", {"POST", "OPTIONS"}),
        ("/", {"GET", "HEAD", "OPTIONS"}),
        ("/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("/metrics", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_methods(path: str, allow: set[str]) -> None:
    app = service()
    for method in ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "get", "X"):
        decision = app.decide(asking(method, path), ())
        if method == "OPTIONS":
            assert answer(decision).status == 204
            assert names(answer(decision).fields, b"allow") == allow
        elif method in allow:
            assert isinstance(decision, Call)
        else:
            # RFC 9110 15.5.6.
            assert answer(decision).status == 405
            assert names(answer(decision).fields, b"allow") == allow


def test_head_asks_the_handler_of_get() -> None:
    app = service()
    get, head = (app.decide(asking(method, "/form"), ()) for method in ("GET", "HEAD"))
    assert isinstance(get, Call)
    assert get == head


def test_what_is_nowhere_is_404() -> None:
    app = service()
    for path in ("/nowhere", "/form/", "//form", "/FORM", "/form%2f", "", "/é"):
        for method in ("GET", "POST", "OPTIONS"):
            response = answer(app.decide(asking(method, path), ("*",)))
            assert response.status == 404
            assert json.loads(response.body)["detail"] == f"nothing is at {path}"


def test_options_of_the_server_as_a_whole() -> None:
    response = answer(service().decide(asking("OPTIONS", "*"), ()))
    assert response.status == 204
    assert names(response.fields, b"allow") >= {"GET", "HEAD", "OPTIONS"}


def test_routes_of_ones_own_come_before_the_built_in() -> None:
    app = App()
    mine = Response.text("mine")
    app.get("/")(lambda _: mine)
    call = app.decide(asking("GET", "/"), ())
    assert isinstance(call, Call)
    assert call.handler(asking("GET", "/")) is mine
    assert status(app.decide(asking("GET", "/events"), ())) == 200
    bare = App(builtin=False)
    for path in ("/", "/events", "/publish", "/healthz", "/metrics"):
        assert status(bare.decide(asking("GET", path), ())) == 404


def test_a_route_is_registered_once_a_method() -> None:
    app = service()
    for register in (app.get, app.stream):
        for path in ("/form", "/stream"):
            with pytest.raises(LocalError, match=f"GET {path} is registered twice"):
                register(path)(lambda _: Response())
    with pytest.raises(LocalError, match="POST /form is registered twice"):
        app.post("/form")(lambda _: Response())
    for path in ("form", "", "https://localhost/form"):
        with pytest.raises(LocalError, match="begins with a slash"):
            app.get(path)


@pytest.mark.parametrize(
    ("accept", "good"),
    [
        (None, True),
        ("", True),
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("*/*", True),
        ("text/*", True),
        ("text/html, application/xml;q=0.9, */*;q=0.8", True),
        ("text/html,text/event-stream;q=0.1", True),
        ("text/event-stream;q=1.0;x=0", True),
        ("text/html", False),
        ("application/json, application/*", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream ; Q=0.000", False),
        ("text/html, */*;q=0.0", False),
        ("text/event-streams", False),
    ],
)
def test_a_stream_is_given_to_whoever_takes_one(accept: str | None, good: bool) -> None:
    app = service()
    headers = {} if accept is None else {"accept": accept}
    for method in ("GET", "HEAD"):
        for path in ("/stream", "/events"):
            decision = app.decide(asking(method, path, **headers), ())
            assert status(decision) == (200 if good else 406)
        # Other answers are small: whoever asks may look at them.
        assert status(app.decide(asking(method, "/form", **headers), ())) == 200


# -- CORS


ANY = {"access-control-allow-origin": "*", "access-control-expose-headers": GAP_EVENT}
VARY = {"vary": "origin"}


def named(origin: str) -> dict[str, str]:
    return {
        "access-control-allow-origin": origin,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": GAP_EVENT,
        **VARY,
    }


CORS = [
    # What is allowed, who asks, the fields of the answer.
    ((), None, {}),
    ((), STRANGER, {}),
    ((FRIEND,), FRIEND, named(FRIEND)),
    ((FRIEND,), STRANGER, VARY),
    ((FRIEND,), None, VARY),  # caches must keep the answers apart
    ((FRIEND,), FRIEND.upper(), VARY),
    ((FRIEND,), FRIEND + ":443", VARY),
    ((FRIEND,), FRIEND.replace("https", "http"), VARY),
    ((FRIEND,), FRIEND + ".evil.example", VARY),
    ((FRIEND,), f"{STRANGER}, {FRIEND}", VARY),
    ((FRIEND,), "null", VARY),
    ((HOME, FRIEND), FRIEND, named(FRIEND)),
    (("*",), STRANGER, ANY),
    (("*",), "null", ANY),
    (("*",), "*", ANY),
    (("*",), None, {}),
    # Those who are named may bring cookies, all others may read.
    (("*", FRIEND), FRIEND, named(FRIEND)),
    (("*", FRIEND), STRANGER, ANY | VARY),
    (("*", FRIEND), None, VARY),
]


@pytest.mark.parametrize(("allowed", "origin", "expected"), CORS)
def test_cors(allowed: Sequence[str], origin: str | None, expected: dict[str, str]) -> None:
    app = service()
    headers = {} if origin is None else {"origin": origin}
    request = asking("GET", "/stream", **headers)
    call = app.decide(request, allowed)
    assert isinstance(call, Call)
    fields = {name.decode(): value.decode() for name, value in call.fields}
    assert fields == expected
    # They are on every answer, whatever comes of the request, or a page could not read why.
    stream = app.conclude(request, call.handler(request), call.fields)
    assert isinstance(stream, Stream)
    assert stream.fields == call.fields
    for decision in (
        app.conclude(request, Response(), call.fields),
        app.refuse(BadRequest("id", "is bad"), call.fields),
        app.decide(asking("PUT", "/stream", **headers), allowed),
        app.decide(asking("GET", "/stream", accept="text/html", **headers), allowed),
        app.decide(asking("OPTIONS", "/stream", **headers), allowed),
    ):
        got = {name.decode(): value.decode() for name, value in answer(decision).fields}
        assert expected.items() <= got.items()
        assert "vary" in expected or "vary" not in got


def test_a_preflight_says_what_may_be_asked() -> None:
    app = service()
    wanted = {"access_control_request_method": "GET", "access_control_request_headers": "x"}
    response = answer(app.decide(asking("OPTIONS", "/form", origin=FRIEND, **wanted), (FRIEND,)))
    fields = response.fields
    assert (response.status, response.body) == (204, b"")
    assert names(fields, b"access-control-allow-methods") >= {"GET", "HEAD", "POST"}
    assert names(fields, b"access-control-allow-headers") >= {"last-event-id", "content-type"}
    assert 0 < int(dict(fields)[b"access-control-max-age"]) <= 7200
    refused = answer(app.decide(asking("OPTIONS", "/form", origin=STRANGER, **wanted), (FRIEND,)))
    assert not any(name.startswith(b"access-control") for name, _ in refused.fields)


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        ((), None, 200),  # no browser
        ((), HOME, 200),
        ((), STRANGER, 403),
        ((), "null", 403),
        ((), "https://localhost", 403),
        ((), "http://localhost:8443", 403),
        ((), "", 403),
        ((FRIEND,), FRIEND, 200),
        ((FRIEND,), HOME, 200),
        ((FRIEND,), STRANGER, 403),
        (("*",), STRANGER, 200),
        (("*",), "null", 200),
        (("*", FRIEND), STRANGER, 200),
    ],
)
def test_who_may_post(allowed: Sequence[str], origin: str | None, expected: int) -> None:
    app = service()
    headers = {} if origin is None else {"origin": origin}
    for path in ("/form", "/publish"):
        decision = app.decide(asking("POST", path, **headers), allowed)
        assert status(decision) == expected
        if expected == 403:
            body = json.loads(answer(decision).body)
            assert (body["field"], body["status"]) == ("origin", 403)
            assert "cors_origins" in body["detail"]
        # To read is another matter: the browser itself keeps the answer from the page.
        assert status(app.decide(asking("GET", "/form", **headers), allowed)) == 200


def test_a_route_may_have_origins_of_its_own() -> None:
    app = App()
    app.get("/public", cors_origins=["*"])(lambda _: Response())
    app.post("/closed", cors_origins=[])(lambda _: Response())
    public = app.decide(asking("GET", "/public", origin=STRANGER), (FRIEND,))
    assert isinstance(public, Call)
    assert dict(public.fields)[b"access-control-allow-origin"] == b"*"
    assert status(app.decide(asking("POST", "/closed", origin=FRIEND), (FRIEND,))) == 403


@pytest.mark.parametrize("first", ["GET", "POST"])
def test_who_may_read_need_not_be_let_write(first: str) -> None:
    app = App()
    for method in sorted(("GET", "POST"), key=first.__ne__):
        if method == "GET":
            app.stream("/both", cors_origins=["*"])(lambda _: Subscribe("a"))
        else:
            app.post("/both")(lambda _: Response())
    readable = app.decide(asking("GET", "/both", origin=STRANGER), ())
    assert isinstance(readable, Call)
    assert (b"access-control-allow-origin", b"*") in readable.fields
    assert status(app.decide(asking("POST", "/both", origin=STRANGER), ())) == 403
    assert status(app.decide(asking("POST", "/both", origin=HOME), ())) == 200
    for method, good in (("GET", True), ("HEAD", True), ("POST", False)):
        preflight = asking(
            "OPTIONS", "/both", origin=STRANGER, access_control_request_method=method
        )
        fields = answer(app.decide(preflight, ())).fields
        assert (b"access-control-allow-methods" in dict(fields)) is good


# -- what handlers return


def test_a_stream_says_where_its_tab_has_been() -> None:
    app = service()

    def place(query: str = "", **headers: str) -> str:
        request = asking("GET", "/stream", query=query, **headers)
        stream = app.conclude(request, Subscribe("a"), ())
        assert isinstance(stream, Stream)
        return stream.last_event_id

    both = "lastEventId=2&last_event_id=3"
    assert place() == ""
    # The header is newer: a reconnecting EventSource keeps the URL that it began with.
    assert place(both, last_event_id="1") == "1"
    assert place(both) == place("last_event_id=3&lastEventId=2") == "2"
    assert place("last_event_id=3") == "3"
    assert place("lastEventId=&last_event_id=3", last_event_id="") == "3"
    assert place("lastEventId=&lastEventId=4") == "4"
    assert place("lastEventId=%C3%A9+1") == "é 1"
    assert place(last_event_id="é€😀") == "é€😀"
    with pytest.raises(BadRequest, match="UTF-8"):
        place("lastEventId=%ff")


def test_what_a_handlers_result_comes_to() -> None:
    app = service()
    cors = ((b"vary", b"origin"),)
    get, head = asking("GET", "/stream"), asking("HEAD", "/stream")
    response = Response.text("x", fields=[(b"x", b"1")])
    assert app.conclude(get, response, cors) == Reply(response.with_fields(*cors))
    subscribe = Subscribe("a", fields=[(b"x-own", b"1")])
    assert app.conclude(get, subscribe, cors) == Stream(subscribe, "", cors)
    # HEAD: the fields of the stream, and no stream (RFC 9110 9.3.2).
    expected = Response(fields=(*STREAM_FIELDS, (b"x-own", b"1"), *cors))
    assert app.conclude(head, subscribe, cors) == Reply(expected)
    for wrong in (None, "text", b"bytes", {"a": 1}, Event(data="x"), [response]):
        with pytest.raises(
            TypeError, match=f"GET /stream must return .*, not {type(wrong).__name__}$"
        ):
            app.conclude(get, wrong, ())


def test_a_stream_is_neither_stored_nor_changed_on_its_way() -> None:
    fields = dict(STREAM_FIELDS)
    assert fields[b"content-type"] == b"text/event-stream"
    assert names(STREAM_FIELDS, b"cache-control") == {"no-store", "no-transform"}
    assert fields[b"x-accel-buffering"] == b"no"


def test_the_built_in_events_route() -> None:
    app = App(limits=Limits(topics_per_request=2))

    def subscribe(query: str) -> Subscribe:
        request = asking("GET", "/events", query=query)
        call = app.decide(request, ())
        assert isinstance(call, Call)
        result = call.handler(request)
        assert isinstance(result, Subscribe)
        return result

    assert subscribe("topic=a&topic=b&topic=a&x=1").topics == {"a", "b"}
    for query, code in (("", 400), ("topic=", 422), ("topic=a&topic=b&topic=c", 422)):
        with pytest.raises(BadRequest) as caught:
            subscribe(query)
        assert (caught.value.field, caught.value.status) == ("topic", code)


def test_publishing_is_timed_until_it_is_written() -> None:
    app = App()
    now = [100.0]
    app.clock = lambda: now[0]
    app.publish("a", Event(data="1"))
    now[0] += 0.5
    app.publish("a", Event(data="2"))
    app.flushed(99.0)  # what was written had been offered before
    assert sum(app.latency.counts) == 0
    now[0] += 0.5
    app.flushed(101.0)
    app.flushed(101.0)
    assert (sum(app.latency.counts), app.latency.total) == (1, 1.0)


def test_the_library_registers_what_runs_beside_the_routes() -> None:
    app = App()

    @app.background
    async def tick() -> None: ...

    @app.presence("a")
    def changed(presence: Presence) -> None: ...

    assert app.backgrounds == [tick]
    assert callable(changed)
    event = app.publish(["a", "b"], Event(data="x"))
    assert event.id == app.hub.history.id(1)
    assert app.tabs("a") == ()


# -- pages


def policy(app: App, path: str) -> dict[str, list[str]]:
    """A page's Content-Security-Policy."""
    request = asking("GET", path)
    call = app.decide(request, ())
    assert isinstance(call, Call)
    response = call.handler(request)
    assert isinstance(response, Response)
    fields = dict(response.fields)
    assert fields[b"content-type"] == b"text/html; charset=utf-8"
    assert fields[b"x-content-type-options"] == b"nosniff"
    directives = fields[b"content-security-policy"].decode().split("; ")
    return {name: sources for name, *sources in map(str.split, directives)}


def hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_a_page_allows_what_is_in_it_and_nothing_else(tmp_path: Path) -> None:
    html = (
        "<!doctype html><title>x</title><style>a{}</style><style></style>"
        "<script>\r\nlet é = 1;\r\n</script><script>one\rtwo</script>"
        "<script src=/x.js></script><body onload=alert(1)>"
    )
    path = tmp_path / "page.html"
    path.write_bytes(html.encode())
    app = App()
    app.page("/file", path, connect=[HOME, "https://*:8444"])
    app.page("/bytes", html.encode())
    expected = {
        "default-src": ["'none'"],
        # A browser's parser has made every line end an LF before it hashes (HTML 13.2.3.5).
        "script-src": ["'self'", hashed("\nlet é = 1;\n"), hashed("one\ntwo")],
        "style-src": ["'self'", hashed("a{}"), hashed("")],
        "connect-src": ["'self'", HOME, "https://*:8444"],
        "img-src": ["'self'", "data:"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
    assert policy(app, "/file") == expected
    assert policy(app, "/bytes") == expected | {"connect-src": ["'self'"]}
    path.unlink()  # it has been read
    assert policy(app, "/file") == expected


def test_the_built_in_page_allows_its_style() -> None:
    request = asking("GET", "/")
    app = App()
    call = app.decide(request, ())
    assert isinstance(call, Call)
    page = call.handler(request)
    assert isinstance(page, Response)
    html = page.body.decode()
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert policy(app, "/")["style-src"] == ["'self'", hashed(style)]
    assert "https://localhost:8443/publish" in html
    hostile = Request(stream=1, method="GET", path="/", authority="a'><script>")
    page = call.handler(hostile)
    assert isinstance(page, Response)
    assert b"<script>" not in page.body


def test_a_page_may_be_replaced_and_leaves_a_post_beside_it_alone() -> None:
    app = App()
    app.post("/form")(lambda _: Response())
    app.page("/form", b"<script>1</script>")
    app.page("/form", b"<script>2</script>")
    assert policy(app, "/form")["script-src"] == ["'self'", hashed("2")]
    assert status(app.decide(asking("POST", "/form"), ())) == 200
