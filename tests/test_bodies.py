"""Forms and JSON: what they say, and what they may cost."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import h2sse
from h2sse.bodies import MAX_FORM_FIELDS, MAX_JSON_VALUES, read_form, read_json
from h2sse.errors import BadRequest

MEBIBYTE = 2**20


def fault(caught: pytest.ExceptionInfo[BadRequest]) -> tuple[int, str]:
    return caught.value.status, caught.value.field


# -- forms


@given(st.lists(st.tuples(st.text(), st.text()), max_size=MAX_FORM_FIELDS))
def test_what_a_browser_sends_is_read(fields: list[tuple[str, str]]) -> None:
    assert read_form(urlencode(fields).encode(), "body") == fields


@given(st.text("%%%40aAzé=&+;\r\n\t \0", max_size=40))
@example("a=100%&b=%&c=%4&d=%zz&e=%%41&f=%\r\n41&g==&h=%3D%26%2B%25")
def test_it_is_read_as_by_urllib(text: str) -> None:
    encoded = text.encode()
    try:
        expected = parse_qsl(text, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        with pytest.raises(BadRequest, match="must be UTF-8"):
            read_form(encoded, "body")
    else:
        assert read_form(encoded, "body") == expected


@pytest.mark.parametrize("encoded", [b"a=%ff", b"%C3=a", b"a=%ED%A0%80", b"a=\xff"])
def test_percent_encoded_bytes_must_be_utf_8(encoded: bytes) -> None:
    with pytest.raises(BadRequest, match="must be UTF-8") as caught:
        read_form(encoded, "query")
    assert fault(caught) == (400, "query")


def test_fields_are_counted() -> None:
    most = b"&".join([b"a=1"] * MAX_FORM_FIELDS)
    assert len(read_form(most, "body")) == MAX_FORM_FIELDS
    with pytest.raises(BadRequest, match=f"at most {MAX_FORM_FIELDS} fields") as caught:
        read_form(most + b"&a", "query")
    assert fault(caught) == (400, "query")


def test_a_slip_of_the_pen_is_read_and_thousands_are_not() -> None:
    assert read_form(b"a=100%" + b"%" * 998, "body") == [("a", "100" + "%" * 999)]
    with pytest.raises(BadRequest, match="write %25") as caught:
        read_form(b"a=100%" + b"%" * 999, "body")
    assert fault(caught) == (400, "body")


# -- JSON


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1,}', "property name|trailing comma"),
        (b'{"a": 1} x', "Extra data"),
        (b'"\xff"', "can't decode"),
        (b'"\xed\xa0\x80"', "can't decode"),
        ('"é"'.encode("utf-16"), "can't decode"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": 1, "b": 2, "a": 1}', "'a' stands twice"),
        (b'[{"x": {"\\ud800": 1, "\\ud800": 2}}]', "stands twice"),
        *((constant, "JSON") for constant in (b"NaN", b"[Infinity]", b'{"a": -Infinity}')),
        (b"[" * 5_000, "recursion"),
        (b"1" * 5_000, "digits"),
    ],
)
def test_what_is_not_json_says_why(body: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=why) as caught:
        read_json(body)
    assert fault(caught) == (400, "body")
    assert caught.value.detail.startswith("is not valid JSON in UTF-8: ")
    str(caught.value).encode()


def test_json_is_read() -> None:
    body = '{"a": [1, null, "é"], "b": {"a": "\\u00e9"}}'
    assert read_json(body.encode()) == {"a": [1, None, "é"], "b": {"a": "é"}}


@pytest.mark.parametrize(
    "most",
    [
        b"[" + b",".join([b"1"] * MAX_JSON_VALUES) + b"]",
        b"[" + b",".join([b"[]"] * (MAX_JSON_VALUES // 2)) + b"]",
        b"{" + b",".join(b'"%d": "%d"' % (n, n) for n in range(MAX_JSON_VALUES)) + b"}",
    ],
    ids=["numbers", "lists", "members"],
)
def test_values_are_counted(most: bytes) -> None:
    assert read_json(most) == json.loads(most)
    more = most[:-1] + b"," + most[1:]
    json.loads(more)
    with pytest.raises(BadRequest, match=f"at most {MAX_JSON_VALUES} values") as caught:
        read_json(more)
    assert fault(caught) == (400, "body")


@given(st.text('[{,"\\a').map(lambda text: text * MAX_JSON_VALUES))
def test_what_a_string_holds_is_not_counted(text: str) -> None:
    assert read_json(json.dumps({"data": text}).encode()) == {"data": text}


# -- what they cost


DEAR: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "escapes": (lambda body: read_form(body, "body"), b"%41"),
    "escapes apart": (lambda body: read_form(body, "body"), b"%41a"),
    "percent signs": (lambda body: read_form(body, "body"), b"%"),
    "percent signs apart": (lambda body: read_form(body, "body"), b"%z"),
    "equals signs": (lambda body: read_form(body, "body"), b"="),
    "fields": (lambda body: read_form(body, "body"), b"&"),
    "lists": (lambda body: read_json(b"[" + body), b"[],"),
    "dictionaries": (lambda body: read_json(b"[" + body), b'{"":0},'),
    "nested lists": (read_json, b"["),
    "members": (lambda body: read_json(b"{" + body), b'"":0,'),
    "strings": (lambda body: read_json(b"[" + body), b'"",'),
    "quotes": (read_json, b'"'),
    "escaped quotes without end": (lambda body: read_json(b'"' + body + b"," * 10_001), b'\\"'),
    "escaped quotes": (lambda body: read_json(b'"' + body + b'"' + b"," * 10_001), b'\\"'),
    "empty strings": (lambda body: read_json(body + b"," * 10_001), b'""'),
    "backslashes": (lambda body: read_json(body + b"," * 10_001), b"\\"),
    "a wide character in JSON": (
        lambda body: read_json(b'"\xf0\x9f\x98\x80' + body + b'"'),
        b"x",
    ),
    "a wide character in a form": (lambda body: read_form(b"%F0%9F%98%80" + body, "body"), b"x"),
}
BODY_BYTES = h2sse.Limits().body_bytes


@pytest.mark.parametrize("dear", DEAR)
def test_no_body_costs_much_more_than_it_weighs(dear: str) -> None:
    """With what stays of it in the history, less than 10 MiB."""
    read, piece = DEAR[dear]
    tracemalloc.start()
    try:
        body = piece * (BODY_BYTES // len(piece))
        with contextlib.suppress(BadRequest):  # no less good
            read(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MEBIBYTE
