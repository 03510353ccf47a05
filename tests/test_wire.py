"""Requests as handlers read them, and responses that can be sent as they are."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from h2sse.errors import BadRequest
from h2sse.wire import Request, Response, check_fields, problem


def asking(
    *fields: tuple[bytes, bytes], query: str = "", body: bytes = b"", path: str = "/"
) -> Request:
    return Request(stream=1, method="POST", path=path, query=query, fields=fields, body=body)


def fault(caught: pytest.ExceptionInfo[BadRequest]) -> tuple[int, str]:
    return caught.value.status, caught.value.field


# -- Request


def test_header_values_are_joined_and_decoded_as_what_they_are() -> None:
    request = asking(
        (b"accept", b"a"),
        (b"x", b"1"),
        (b"accept", b"b;q=0.5"),
        (b"last-event-id", "é€😀".encode()),
        (b"old", b"caf\xe9"),
        (b"empty", b""),
    )
    assert request.header("accept") == request.header("Accept") == "a, b;q=0.5"
    assert request.header("Last-Event-ID") == "é€😀"
    assert request.header("old") == "café"
    assert request.header("empty") == ""
    assert request.header("absent") is None


@pytest.mark.parametrize(
    ("value", "essence"),
    [
        (b"application/json", "application/json"),
        (b"Application/JSON;charset=utf-8", "application/json"),
        (b"application/json ; charset=utf-8", "application/json"),
        (b";", ""),
        (b"", ""),
    ],
)
def test_content_type_is_the_essence(value: bytes, essence: str) -> None:
    assert asking((b"content-type", value)).content_type == essence
    assert asking().content_type == ""


def test_parameters_keep_their_order_and_their_blanks() -> None:
    request = asking(query="topic=b&x=1&topic=a&topic=&y&topic=%C3%A9+%2B&&z=1=2")
    assert request.parameters("topic") == ["b", "a", "", "é +"]
    assert request.parameters("y") == [""]
    assert request.parameters("z") == ["1=2"]
    assert request.parameters("absent") == []


def test_query_form_and_json_are_read_and_say_where_they_are_wrong() -> None:
    request = asking(query="a=%ff", body=b"a=%ff&b")
    for read, where in (
        (lambda: request.query_pairs, "query"),
        (request.form, "body"),
        (request.json, "body"),
    ):
        with pytest.raises(BadRequest) as caught:
            read()
        assert fault(caught) == (400, where)
    assert asking(body=b"a=1").form() == [("a", "1")]
    assert asking(body=b"[1]").json() == [1]


def test_a_form_is_ascii() -> None:
    with pytest.raises(BadRequest, match="percent-encode the rest") as caught:
        asking(body="a=é".encode()).form()
    assert fault(caught) == (400, "body")


# -- Response


@pytest.mark.parametrize("status", [100, 101, 199, 600, 0, -1])
def test_a_status_is_a_final_one(status: int) -> None:
    with pytest.raises(ValueError, match="status must be 200 to 599"):
        Response(status=status)


GOOD_FIELDS = [
    (b"x", b""),
    (b"x-1_2.3", b"a b\tc"),
    (b"!#$%&'*+-.^_`|~09az", b"\x80\xff"),
    (b"last-event-id", "é€😀".encode()),
]
BAD_FIELDS = [
    *(
        (name, b"")
        for name in (b"", b"X", b"x y", b"x:", b":status", b"x\r", b"x\n", b"\xe9", b"x\0")
    ),
    *(
        (b"x", value)
        for value in (b"a\rb", b"a\nb", b"a\r\nset-cookie: b", b"\0", b"\x7f", b"a\x1f")
    ),
    *((b"x", value) for value in (b" a", b"a ", b"\ta", b"a\t", b" ", b"a\n")),
]


@pytest.mark.parametrize("pair", GOOD_FIELDS)
def test_fields_that_can_be_sent(pair: tuple[bytes, bytes]) -> None:
    check_fields([pair])
    assert Response(fields=[pair]).with_fields(pair).fields == (pair, pair)


@pytest.mark.parametrize("pair", BAD_FIELDS)
def test_fields_that_would_be_another_on_the_wire_are_refused(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="lower-case name"):
        check_fields([(b"good", b"one"), pair])
    with pytest.raises(ValueError, match="lower-case name"):
        Response(fields=[pair])
    with pytest.raises(ValueError, match="lower-case name"):
        Response().with_fields(pair)


def test_json_and_text_say_what_they_are() -> None:
    response = Response.json({"a": "é"}, status=201, fields=[(b"x", b"1")])
    assert response == Response(
        status=201,
        fields=((b"content-type", b"application/json"), (b"x", b"1")),
        body='{"a":"é"}\n'.encode(),
    )
    assert Response.text("é") == Response(
        fields=((b"content-type", b"text/plain; charset=utf-8"),), body="é".encode()
    )
    assert Response.text("a,b", content_type="text/csv").fields[0] == (b"content-type", b"text/csv")


def test_a_problem_follows_rfc_9457() -> None:
    response = problem(404, "nothing is at /é", fields=[(b"vary", b"origin")])
    assert response.status == 404
    assert dict(response.fields) == {
        b"content-type": b"application/problem+json",
        b"vary": b"origin",
    }
    assert json.loads(response.body) == {
        "title": "Not Found",
        "status": 404,
        "detail": "nothing is at /é",
    }
    assert json.loads(problem(422, "is bad", field="id").body)["field"] == "id"
    assert json.loads(problem(499, "unheard of").body)["title"] == ""


ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@given(ANY_TEXT, ANY_TEXT)
@example("", "\ud800")
def test_a_problem_can_tell_of_any_text(detail: str, field: str) -> None:
    # A peer has chosen it, lone surrogates perhaps.
    body = json.loads(problem(422, detail, field=field).body.decode())
    assert (body["status"], body.keys()) == (422, {"title", "status", "detail", "field"})
