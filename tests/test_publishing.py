"""POST /publish: what each field may be, and what is said of one that may not."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2sse.app import Announce, App, Call, Reply
from h2sse.config import Limits
from h2sse.errors import BadRequest
from h2sse.publishing import Publication, check_topics, read_publication
from h2sse.sse import MAX_RETRY_MS, Event
from h2sse.wire import Request

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
LIMITS = Limits(topics_per_request=3, topic_bytes=8)


def post(body: bytes, content_type: str | None = JSON) -> Request:
    fields = [(b"content-type", content_type.encode())] if content_type is not None else []
    return Request(stream=1, method="POST", path="/publish", fields=fields, body=body)


def as_json(value: object) -> Request:
    return post(json.dumps(value).encode())


def as_form(*pairs: tuple[str, str]) -> Request:
    return post(urlencode(pairs).encode(), FORM)


def read(request: Request) -> Publication:
    return read_publication(request, LIMITS)


# -- what is taken


@pytest.mark.parametrize(
    ("fields", "event"),
    [
        ({"data": "x"}, Event(data="x")),
        ({"data": ""}, Event(data="")),
        ({"data": "a\r\nb\0\u2028"}, Event(data="a\r\nb\0\u2028")),
        ({"data": " x", "event": "é 1"}, Event(data=" x", event="é 1")),
        ({"data": "x", "event": ""}, Event(data="x")),
        ({"data": "x", "id": "a b-é😀"}, Event(data="x", id="a b-é😀")),
        ({"data": "x", "id": "é" * 512}, Event(data="x", id="é" * 512)),
        ({"data": "x", "retry": "1"}, Event(data="x", retry=1)),
        ({"data": "x", "retry": "007"}, Event(data="x", retry=7)),
        ({"data": "x", "retry": str(MAX_RETRY_MS)}, Event(data="x", retry=MAX_RETRY_MS)),
        ({"data": "x", "retry": ""}, Event(data="x")),
    ],
)
def test_good_fields(fields: dict[str, str], event: Event) -> None:
    """Form and JSON alike."""
    expected = Publication(("a",), event)
    assert read(as_form(("topic", "a"), *fields.items())) == expected
    assert read(as_json({"topic": "a", **fields})) == expected


def test_json_may_say_numbers_and_nothing() -> None:
    fields = {"topic": "a", "data": "x", "event": None, "id": None, "retry": None}
    assert read(as_json(fields)).event == Event(data="x")
    assert read(as_json(fields | {"retry": 5})).event == Event(data="x", retry=5)


def test_topics_are_one_or_several_each_once() -> None:
    assert read(as_form(("topic", "b"), ("data", ""), ("topic", "a"))).topics == ("b", "a")
    assert read(as_json({"topic": ["b", "a"], "data": ""})).topics == ("b", "a")
    assert read(as_json({"topic": ["a", "b"] * 9, "data": ""})).topics == ("a", "b")
    assert read(as_json({"topic": "é 😀", "data": ""})).topics == ("é 😀",)
    assert check_topics(["12345678", "éééé"], LIMITS) == ("12345678", "éééé")


@pytest.mark.parametrize(
    "content_type",
    [
        JSON,
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        "application/json ;",
    ],
)
def test_parameters_of_the_content_type_change_nothing(content_type: str) -> None:
    body = '{"topic": "a", "data": "é"}'.encode()
    assert read(post(body, content_type)).event == Event(data="é")
    content_type = content_type.lower().replace("json", "x-www-form-urlencoded")
    assert read(post(b"topic=a&data=%C3%A9", content_type)).event == Event(data="é")


# -- what is not


def refused(request: Request) -> BadRequest:
    """Why a request publishes nothing, checked against what its sender is answered."""
    app = App(limits=LIMITS)
    call = app.decide(request, ())
    assert isinstance(call, Call)
    with pytest.raises(BadRequest) as caught:
        call.handler(request)
    assert app.hub.history.last_sequence == 0
    answer = app.refuse(caught.value, ())
    assert isinstance(answer, Reply)
    body = json.loads(answer.response.body.decode())
    assert 400 <= answer.response.status == body["status"] < 500
    assert body["detail"].startswith(f"{body['field']}: ")
    return caught.value


GOOD = {"topic": "a", "data": "x"}
BAD_RETRIES: tuple[object, ...] = (
    *(0, -1, MAX_RETRY_MS + 1, 10**30, 1.0, 1.5, True, False, [], {}),
    *("0", "-1", "+1", "1.0", "1e3", " 1", "1_0", "x", "١", "²", "9" * 30, "\ud800"),
)
BAD_FIELDS: list[tuple[str, object, int, str]] = [
    ("topic", "", 422, "1 to 8 bytes"),
    ("topic", [], 400, "is missing"),
    ("topic", None, 422, "a string or a list of strings"),
    ("topic", 5, 422, "a string or a list of strings"),
    ("topic", ["a", 5], 422, "a string or a list of strings"),
    ("topic", [["a"]], 422, "a string or a list of strings"),
    ("topic", {"a": 1}, 422, "a string or a list of strings"),
    ("topic", ["a", ""], 422, "1 to 8 bytes"),
    ("topic", "123456789", 422, "1 to 8 bytes"),
    ("topic", "éééé1", 422, "1 to 8 bytes"),
    ("topic", "a\n", 422, "without control bytes"),
    ("topic", "\0", 422, "without control bytes"),
    ("topic", "a\x7f", 422, "without control bytes"),
    ("topic", "a\ud800", 422, "lone surrogate"),
    ("topic", ["a", "b", "c", "d"], 422, "at most 3 topics"),
    ("data", None, 422, "must be a string"),
    ("data", 5, 422, "must be a string"),
    ("data", True, 422, "must be a string"),
    ("data", {"a": 1}, 422, "encode anything else"),
    ("data", ["x"], 422, "encode anything else"),
    ("data", "\ud800", 422, "lone surrogate"),
    ("event", 5, 422, "must be a string"),
    ("event", "a\nb", 422, "one line, without CR or LF"),
    ("event", "a\r", 422, "one line, without CR or LF"),
    ("event", "\udfff", 422, "lone surrogate"),
    ("id", 5, 422, "must be a string"),
    ("id", "", 422, "leave it out to have one assigned"),
    ("id", "a\0b", 422, "without control bytes"),
    ("id", "a\rb", 422, "without control bytes"),
    ("id", "a\n", 422, "without control bytes"),
    ("id", "a\tb", 422, "without control bytes"),
    ("id", " a", 422, "blanks at its ends"),
    ("id", "a ", 422, "blanks at its ends"),
    ("id", " ", 422, "blanks at its ends"),
    ("id", "x" * 1025, 422, "1 to 1024 bytes"),
    ("id", "é" * 513, 422, "1 to 1024 bytes"),
    ("id", "a\udc80", 422, "lone surrogate"),
    *(("retry", retry, 422, f"a whole number of ms, 1 to {MAX_RETRY_MS}") for retry in BAD_RETRIES),
    ("name", "x", 422, "is not a field; there are topic, data, event, id, retry"),
    ("Data", "x", 422, "is not a field"),
    ("", "x", 422, "is not a field"),
    ("é\n", "x", 422, "is not a field"),
    ("\ud800", "x", 422, "is not a field"),
]


@pytest.mark.parametrize(("name", "value", "status", "detail"), BAD_FIELDS)
def test_bad_fields(name: str, value: object, status: int, detail: str) -> None:
    why = refused(as_json(GOOD | {name: value}))
    assert (why.field, why.status) == (name, status)
    assert detail in why.detail
    if isinstance(value, str) and (name + value).isprintable():
        same = refused(as_form(*(GOOD | {name: value}).items()))
        assert (same.field, same.status, same.detail) == (name, status, why.detail)


@given(st.text("ab\r\né😀"))
def test_data_is_as_large_as_its_event(data: str) -> None:
    request = as_json({"topic": "a", "data": data})
    size = len(Event(data=data).encode())
    assert read_publication(request, Limits(event_bytes=size)).event.data == data
    with pytest.raises(BadRequest, match=f"over {size - 1} bytes") as caught:
        read_publication(request, Limits(event_bytes=size - 1))
    assert (caught.value.field, caught.value.status) == ("data", 413)


@pytest.mark.parametrize("name", ["topic", "data"])
def test_what_must_be_there(name: str) -> None:
    rest = {key: value for key, value in GOOD.items() if key != name}
    for request in (as_json(rest), as_form(*rest.items())):
        why = refused(request)
        assert why.field == name
        assert "is missing" in why.detail


@pytest.mark.parametrize("name", ["data", "event", "id", "retry"])
def test_a_field_that_stands_twice(name: str) -> None:
    why = refused(as_form(("topic", "a"), (name, "1"), (name, "1"), ("data", "")))
    assert (why.field, why.status, why.detail) == (name, 422, "stands twice; only topic may")
    why = refused(
        post(b'{"topic": "a", "data": "", "%s": "1", "%s": "1"}' % ((name.encode(),) * 2))
    )
    assert (why.field, why.status) == ("body", 400)
    assert f"'{name}' stands twice" in why.detail or "'data' stands twice" in why.detail


@pytest.mark.parametrize(
    ("body", "content_type", "field", "status"),
    [
        (b"", JSON, "body", 400),
        (b"null", JSON, "body", 400),
        (b'["topic"]', JSON, "body", 400),
        (b'"topic=a&data=x"', JSON, "body", 400),
        (b'{"topic": "a", "data": "x"', JSON, "body", 400),
        (b'{"topic": "a", "data": "\xff"}', JSON, "body", 400),
        (b'{"topic": "a", "data": "\xed\xa0\x80"}', JSON, "body", 400),
        (b'{"topic": "a", "data": "a\nb"}', JSON, "body", 400),
        ('{"topic": "a", "data": "é"}'.encode("utf-16"), JSON, "body", 400),
        (b'{"topic": "a", "data": ' + b"[" * 50_000, JSON, "body", 400),
        (b"topic=a&data=%ff", FORM, "body", 400),
        (b"topic=a&%C3=x", FORM, "body", 400),
        (b"topic=a&data=%ED%A0%80", FORM, "body", 400),
        ("topic=a&data=é".encode(), FORM, "body", 400),
        (b"topic=a&data=x" + b"&topic=a" * 100, FORM, "body", 400),
        (b"topic=a&topic=b&topic=c&topic=d&data=x", FORM, "topic", 422),
        (b"", FORM, "topic", 400),
        (b'{"topic": "a", "data": "x"}', FORM, '{"topic": "a", "data": "x"}', 422),
        (b"topic=a&data=x", "text/plain", "content-type", 415),
        (b"topic=a&data=x", "multipart/form-data; boundary=x", "content-type", 415),
        (b"topic=a&data=x", "application/jsonp", "content-type", 415),
        (b"topic=a&data=x", "", "content-type", 415),
        (b"topic=a&data=x", None, "content-type", 415),
    ],
)
def test_bad_bodies(body: bytes, content_type: str | None, field: str, status: int) -> None:
    why = refused(post(body, content_type))
    assert (why.field, why.status) == (field, status)


VALUES = st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=[]))


@given(
    st.fixed_dictionaries(
        {"topic": VALUES | st.lists(VALUES, max_size=4), "data": VALUES},
        optional={"event": VALUES, "id": VALUES, "retry": VALUES, "other": VALUES},
    )
)
def test_whatever_is_taken_can_be_sent(fields: dict[str, object]) -> None:
    fault = None
    try:
        publication = read(as_json(fields))
    except BadRequest as why:
        fault = why.field
    if fault is not None:
        assert fault in fields
        return
    app = App(limits=LIMITS)
    decision = app.conclude(as_json(fields), publication, ())
    assert isinstance(decision, Announce)
    assert app.announce(decision.publication).payload.endswith(b"\n\n")


# -- the library's own way in


@pytest.mark.parametrize("topic", ["", "a\n", "\0", "123456789", "\ud800"])
def test_a_bad_topic_is_a_bad_request_there_too(topic: str) -> None:
    app = App(limits=LIMITS)
    for topics in (topic, ["a", topic]):
        with pytest.raises(BadRequest) as caught:
            app.publish(topics, Event(data="x"))
        assert caught.value.field == "topic"
    with pytest.raises(BadRequest, match="is missing"):
        app.publish([], Event(data="x"))
    assert app.hub.history.last_sequence == 0


@pytest.mark.parametrize("event_id", ["", " a", "a ", "a\tb", "a\x7f", "x" * 1025])
def test_an_id_that_no_tab_could_come_back_with_is_a_bad_request_there_too(event_id: str) -> None:
    app = App(limits=LIMITS)
    with pytest.raises(BadRequest) as caught:
        app.publish("a", Event(data="x", id=event_id))
    assert caught.value.field == "id"
    assert app.hub.history.last_sequence == 0
