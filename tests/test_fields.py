"""Header sections, judged rule by rule (RFC 9113 8.2 and 8.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2sse.config import Limits
from h2sse.fields import FIELD_OVERHEAD_BYTES, Head, Malformed, TooLarge, read_head, read_trailers

LIMITS = Limits()

Pair = tuple[bytes, bytes]
GOOD: dict[bytes, bytes] = {
    b":method": b"GET",
    b":scheme": b"https",
    b":authority": b"localhost:8443",
    b":path": b"/events?topic=a",
}


def section(*fields: Pair, **pseudo: bytes | None) -> list[Pair]:
    """A good section with `fields`, and some of its pseudo-header fields changed or left out."""
    changed = GOOD | {b":" + name.encode(): value for name, value in pseudo.items()}
    return [*((name, value) for name, value in changed.items() if value is not None), *fields]


def head(*fields: Pair, **pseudo: bytes | None) -> Head:
    verdict = read_head(section(*fields, **pseudo), LIMITS)
    assert isinstance(verdict, Head), verdict
    return verdict


# -- good


def test_a_good_section() -> None:
    fields = ((b"accept", b"text/event-stream"), (b"x", b""), (b"last-event-id", "é€😀".encode()))
    assert head(*fields) == Head(
        method="GET",
        path="/events",
        query="topic=a",
        authority="localhost:8443",
        fields=fields,
        content_length=None,
        expects_continue=False,
    )


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", ""),
        (b"/?", "/", ""),
        (b"/a?b?c=/&d", "/a", "b?c=/&d"),
        (b"//a/../b;c", "//a/../b;c", ""),
        (b"/%C3%A9%00", "/%C3%A9%00", ""),
        ("/é?ü=€".encode(), "/é", "ü=€"),  # raw, as curl sends it
        (b"/\"<>\\^`{|}'", "/\"<>\\^`{|}'", ""),  # not in any grammar, but in real requests
    ],
)
def test_good_targets(target: bytes, path: str, query: str) -> None:
    verdict = head(path=target)
    assert (verdict.path, verdict.query) == (path, query)


@pytest.mark.parametrize(
    "method", [b"GET", b"HEAD", b"POST", b"get", b"M-SEARCH", b"!#$%&'*+.^_`|~9"]
)
def test_good_methods(method: bytes) -> None:
    assert head(method=method).method == method.decode()


@pytest.mark.parametrize(
    "authority", [b"localhost", b"LOCALHOST:8443", b"[::1]:8443", b"127.0.0.1", b"xn--e1a.example."]
)
def test_good_authorities(authority: bytes) -> None:
    assert head(authority=authority).authority == authority.decode()
    assert (
        head((b"host", authority.swapcase()), authority=authority).authority == authority.decode()
    )
    # RFC 9113 8.3.1: what came from HTTP/1.1 may have Host alone.
    assert head((b"host", authority), authority=None).authority == authority.decode()


def test_options_of_the_server_as_a_whole() -> None:
    verdict = head(method=b"OPTIONS", path=b"*")
    assert (verdict.method, verdict.path) == ("OPTIONS", "*")


def test_connect_has_an_authority_alone() -> None:
    verdict = head(method=b"CONNECT", scheme=None, path=None)
    assert (verdict.method, verdict.path, verdict.authority) == ("CONNECT", "", "localhost:8443")


@pytest.mark.parametrize("value", [b"a\tb", b"a  b", b"\x80\xff", b"", b"~", b',;="'])
def test_good_values(value: bytes) -> None:
    assert head((b"x", value)).fields == ((b"x", value),)


def test_cookie_crumbs_are_one_cookie() -> None:
    crumbs = [(b"cookie", b"a=1"), (b"x", b"1"), (b"cookie", b"b=2; c=3"), (b"cookie", b"d=4")]
    assert dict(head(*crumbs).fields) == {b"x": b"1", b"cookie": b"a=1; b=2; c=3; d=4"}
    assert len(head(*crumbs).fields) == 2


def test_fields_of_one_name_stay_apart_and_in_order() -> None:
    fields = ((b"x", b"1"), (b"y", b"2"), (b"x", b"1"))
    assert head(*fields).fields == fields


def test_content_length() -> None:
    assert head((b"content-length", b"0")).content_length == 0
    assert head((b"content-length", b"0012")).content_length == 12
    # RFC 9110 8.6: the same, said twice.
    assert head((b"content-length", b"5"), (b"content-length", b"5")).content_length == 5


def test_expectations() -> None:
    assert head((b"expect", b"100-Continue")).expects_continue
    assert not head((b"expect", b"200-ok")).expects_continue


def test_te_may_say_trailers() -> None:
    # Firefox does.
    assert head((b"te", b"trailers")).fields == ((b"te", b"trailers"),)


# -- malformed

X = (b"x", b"1")

MALFORMED: dict[str, tuple[list[Pair], str]] = {
    "nothing": ([], ":method"),
    "no method": (section(method=None), ":method"),
    "empty method": (section(method=b""), ":method"),
    "method of two words": (section(method=b"GET /"), ":method"),
    "method not ascii": (section(method="GÉT".encode()), ":method"),
    "method with a line end": (section(method=b"GET\n"), ":method"),
    "no scheme": (section(scheme=None), ":scheme"),
    "not https": (section(scheme=b"http"), ":scheme"),
    "no path": (section(path=None), ":path"),
    "empty path": (section(path=b""), ":path"),
    "path without slash": (section(path=b"events"), ":path"),
    "absolute form": (section(path=b"https://localhost/"), ":path"),
    "path with fragment": (section(path=b"/#a"), ":path"),
    "path with blank": (section(path=b"/a b"), ":path"),
    "path with nul": (section(path=b"/\0"), ":path"),
    "path with a line end": (section(path=b"/\n"), ":path"),
    "path with del": (section(path=b"/\x7f"), ":path"),
    "path not utf-8": (section(path=b"/\xe9"), ":path"),
    "star for get": (section(path=b"*"), ":path"),
    "star for options and more": (section(method=b"OPTIONS", path=b"*a"), ":path"),
    "no authority": (section(authority=None), ":authority"),
    "empty authority": (section(authority=b""), ":authority"),
    "authority with user": (section(authority=b"user@localhost"), ":authority"),
    "authority with slash": (section(authority=b"localhost/"), ":authority"),
    "authority with blank": (section(authority=b"local host"), ":authority"),
    "authority not ascii": (section(authority="é".encode()), ":authority"),
    "empty host": (section((b"host", b""), authority=None), ":authority"),
    "host differs": (section((b"host", b"localhost")), "host and :authority differ"),
    "two hosts": (section(*[(b"host", b"localhost:8443")] * 2), "host and :authority differ"),
    "connect with scheme": (section(method=b"CONNECT", path=None), "CONNECT"),
    "connect with path": (section(method=b"CONNECT", scheme=None), "CONNECT"),
    "extended connect": (section((b":protocol", b"websocket"), method=b"CONNECT"), "unknown"),
    "method twice": (section((b":method", b"GET")), "twice"),
    "path twice": (section((b":path", b"/")), "twice"),
    "a response's": (section((b":status", b"200")), "unknown"),
    "pseudo in upper case": (section((b":Path", b"/"), path=None), "unknown"),
    "only a colon": (section((b":", b"")), "unknown"),
    "pseudo after regular": ([X, *section()], "after a regular one"),
    "pseudo after cookie": ([(b"cookie", b"a=1"), *section()], "after a regular one"),
    "pseudo at the end": (section(X, (b":path", b"/"), path=None), "after a regular one"),
    "length of two minds": (
        section((b"content-length", b"5"), (b"content-length", b"6")),
        "content-length",
    ),
    **{
        f"length {value!r}": (section((b"content-length", value)), "content-length")
        for value in (b"", b"-1", b"+1", b"1, 1", b"0x1", b"1.0", "١".encode(), b"9" * 19, b"1_0")
    },
    **{
        f"name {name!r}": (section((name, b"1")), "field name")
        for name in (b"", b"X", b"xY", b"x y", b"x:", b"x\n", b"x\0", b"\xe9", b"x,", b'"x"')
    },
    **{
        f"value {value!r}": (section((b"x", value)), "a value")
        for value in (
            b" a",
            b"a ",
            b"\ta",
            b"a\t",
            b" ",
            b"a\nb",
            b"a\r\nb: c",
            b"\0",
            b"\x7f",
            b"a\n",
        )
    },
    # Firefox has sent these (behaviour seen: ids with control bytes and blanks).
    "odd last event id": (section((b"last-event-id", b"a\x01\x7f ")), "a value"),
    **{
        f"{name.decode()}": (section((name, b"x")), "connection-specific")
        for name in (
            *(b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding"),
            b"upgrade",
        )
    },
    **{
        f"te {value!r}": (section((b"te", value)), "te other than trailers")
        for value in (b"", b"gzip", b"trailers, gzip")
    },
}


@pytest.mark.parametrize(("fields", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(fields: list[Pair], reason: str) -> None:
    verdict = read_head(fields, LIMITS)
    assert isinstance(verdict, Malformed)
    assert reason in verdict.reason
    assert verdict.reason.isprintable()  # it goes to the log, and into the counts


NAMES = st.sampled_from([*GOOD, b":status", b"cookie", b"host", b"te", b"content-length", b"x"])
VALUES = st.sampled_from([*GOOD.values(), b"", b"*", b"CONNECT", b"OPTIONS"]) | st.binary(
    max_size=3
)


@given(st.lists(st.tuples(NAMES | st.binary(max_size=3), VALUES)))
def test_any_section_has_a_verdict(fields: list[Pair]) -> None:
    for verdict in (read_head(fields, LIMITS), read_head([*section(), *fields], LIMITS)):
        assert isinstance(verdict, Head | Malformed | TooLarge)


# -- too large


def test_a_section_has_so_many_fields() -> None:
    limits = Limits(header_fields=len(GOOD) + 2)
    assert isinstance(read_head(section(X, X), limits), Head)
    for crumb in (X, (b"cookie", b"a=1")):
        verdict = read_head(section(X, X, crumb), limits)
        assert verdict == TooLarge(f"more than {len(GOOD) + 2} header fields")


def test_a_section_has_so_many_bytes() -> None:
    fields = section((b"x", b"1"), (b"cookie", b"a=1"), (b"cookie", b"b=2"))
    size = sum(len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in fields)
    assert FIELD_OVERHEAD_BYTES == 32  # RFC 9113 6.5.2
    assert isinstance(read_head(fields, Limits(header_list_bytes=size)), Head)
    verdict = read_head(fields, Limits(header_list_bytes=size - 1))
    assert verdict == TooLarge(f"header fields of more than {size - 1} bytes")


def test_a_malformed_section_is_that_first() -> None:
    # 431 answers a request, and this is none (RFC 9113 8.1.1).
    fields = section(*[X] * 200, (b"x", b" "))
    assert isinstance(read_head(fields, LIMITS), Malformed)


# -- trailers


def test_trailers() -> None:
    assert read_trailers([]) is None
    assert read_trailers([X, (b"checksum", b"a b")]) is None
    for fields, reason in (
        ([(b":path", b"/")], "a pseudo-header field in trailers"),
        ([X, (b":status", b"200")], "a pseudo-header field in trailers"),
        ([(b"X", b"1")], "field name"),
        ([(b"x", b" ")], "a value"),
        ([(b"connection", b"close")], "connection-specific"),
    ):
        verdict = read_trailers(fields)
        assert isinstance(verdict, Malformed)
        assert reason in verdict.reason
