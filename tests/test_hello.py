"""ClientHellos of real OpenSSL, whole, cut and broken."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2sse.hello import (
    HELLO_BYTES,
    HELLO_RECORDS,
    PLAIN_HTTP_ANSWER,
    Hello,
    NeedMore,
    NotHello,
    Offer,
    PlainHttp,
    offered_protocols,
)


def client_context(*, ca: Path | None = None, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by default
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def hello_of(*alpn: str, context: ssl.SSLContext | None = None) -> bytes:
    """The ClientHello that OpenSSL sends."""
    context = context or client_context(alpn=alpn)
    outgoing = ssl.MemoryBIO()
    end = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        end.do_handshake()
    return outgoing.read()


def recut(hello: bytes, sizes: list[int]) -> bytes:
    """The same handshake message over records of these sizes, the last taking what remains."""
    rest, records = hello[5:], []
    for size in sizes:
        if size < len(rest):
            records.append(rest[:size])
            rest = rest[size:]
    records.append(rest)
    return b"".join(hello[:3] + len(each).to_bytes(2) + each for each in records)


LARGE = tuple(f"protocol-{n:03}-{'x' * 200}" for n in range(60))
HELLOS = {
    "browser": ("h2", "http/1.1"),
    "one": ("http/1.1",),
    "none": (),
    "large": LARGE,  # 13 KB: many segments, one record
}


@pytest.mark.parametrize("alpn", HELLOS.values(), ids=HELLOS)
@pytest.mark.parametrize("sizes", [[], [1], [1, 2, 3], [100] * 60], ids=str)
def test_a_hello_tells_its_offer_once_it_is_whole(alpn: tuple[str, ...], sizes: list[int]) -> None:
    hello = recut(hello_of(*alpn), sizes)
    expected = Hello(tuple(name.encode() for name in alpn))
    assert offered_protocols(hello) == expected
    assert offered_protocols(hello + b"and what follows") == expected
    step = 1 if len(hello) < 2000 else 37
    for end in (*range(0, len(hello), step), len(hello) - 1):
        assert offered_protocols(hello[:end]) == NeedMore()


def test_a_tls_1_2_hello() -> None:
    context = client_context(alpn=("h2",))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert offered_protocols(hello_of(context=context)) == Hello((b"h2",))


def test_a_hello_without_extensions() -> None:
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    message = b"\1" + len(body).to_bytes(3) + body
    assert offered_protocols(b"\x16\3\1" + len(message).to_bytes(2) + message) == Hello()


def test_a_hello_past_the_bounds_is_left_to_openssl() -> None:
    large = hello_of(*(f"protocol-{n:03}-{'x' * 200}" for n in range(100)))
    assert len(large) > HELLO_BYTES
    # Its length says so at once: no need to wait for all of it.
    assert offered_protocols(large[:8]) == NeedMore()
    assert offered_protocols(large[:9]) == offered_protocols(large) == Hello()
    # Small, but so finely cut that it is too large to peek at, or too long to read.
    finely = recut(hello_of(*LARGE), [300] * 100)
    assert offered_protocols(finely) == Hello(tuple(name.encode() for name in LARGE))
    cut = recut(hello_of("h2"), [1] * (HELLO_RECORDS - 1))
    assert offered_protocols(cut[:-1]) == NeedMore()
    assert offered_protocols(cut) == Hello((b"h2",))
    assert offered_protocols(recut(hello_of("h2"), [1] * HELLO_RECORDS)) == Hello()
    padded = b"\x16\3\1\x40\0" + b"\1\0\x3f\xfc" + bytes(HELLO_BYTES)
    assert offered_protocols(padded[: HELLO_BYTES - 1]) == NeedMore()
    assert offered_protocols(padded[:HELLO_BYTES]) == offered_protocols(padded) == Hello()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\2",  # no SSL 3 or TLS
        b"\x16\3\1\0\0",  # an empty record
        b"\x16\3\1\x40\1",  # a record above 2^14
        b"\x16\3\1\0\5\2",  # a ServerHello
        b"\x16\3\1\0\1\1\x15",  # an alert amid the hello
        b"\x15\3\1\0\2\2\x28",  # an alert
        b"\x80\x2e\1\3\1",  # an SSL 2 hello
        b"SSH-2.0-x",
        b"GETTING",
        b"get / HTTP/1.1",
        b"\0",
        b"\x16\3\1\0\4\1\0\0\0",  # a hello of no bytes
    ],
)
def test_what_is_no_hello(data: bytes) -> None:
    assert offered_protocols(data) == NotHello()


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST "]
)
def test_plain_http_is_told_so(start: bytes) -> None:
    method = start.index(b" ") + 1
    for end in range(len(start) + 1):
        expected = NeedMore() if end < method else PlainHttp()
        assert offered_protocols(start[:end]) == expected
    head, _, body = PLAIN_HTTP_ANSWER.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert f"content-length: {len(body)}".encode() in head.split(b"\r\n")
    assert b"https" in body


def test_no_byte_at_all_may_become_anything() -> None:
    assert offered_protocols(b"") == NeedMore()


# A busy machine is no failure.
unhurried = settings(deadline=None)

names = st.lists(st.binary(min_size=1, max_size=255), max_size=5)
extensions = st.lists(
    st.tuples(st.integers(0, 65535).filter(lambda kind: kind != 16), st.binary(max_size=50)),
    max_size=4,
)


@unhurried
@given(
    session=st.binary(max_size=32),
    suites=st.binary(min_size=2, max_size=100),
    before=extensions,
    protocols=names,
    after=extensions,
    sizes=st.lists(st.integers(1, 400), max_size=10),
    data=st.data(),
)
def test_any_hello_however_cut(
    session: bytes,
    suites: bytes,
    before: list[tuple[int, bytes]],
    protocols: list[bytes],
    after: list[tuple[int, bytes]],
    sizes: list[int],
    data: st.DataObject,
) -> None:
    def vector(content: bytes, width: int) -> bytes:
        return len(content).to_bytes(width) + content

    offer = [(16, vector(b"".join(vector(name, 1) for name in protocols), 2))] if protocols else []
    body = (
        b"\3\3"
        + bytes(32)
        + vector(session, 1)
        + vector(suites, 2)
        + vector(b"\0", 1)
        + vector(
            b"".join(
                kind.to_bytes(2) + vector(content, 2) for kind, content in (*before, *offer, *after)
            ),
            2,
        )
    )
    hello = recut(b"\x16\3\1??\1" + vector(body, 3), sizes)
    assert offered_protocols(hello) == Hello(tuple(protocols))
    assert offered_protocols(hello[: data.draw(st.integers(0, len(hello) - 1))]) == NeedMore()


def check_that_decisions_stand(data: bytes) -> None:
    decided: Offer = NeedMore()
    for end in range(len(data) + 1):
        offer = offered_protocols(data[:end])
        if decided != NeedMore():
            assert offer == decided
        decided = offer


@unhurried
@given(st.binary(max_size=80), st.sampled_from([b"", b"\x16\3\1", b"\x16\3\1\0\x40\1\0\0\x3c"]))
def test_any_bytes_are_decided_once(data: bytes, start: bytes) -> None:
    check_that_decisions_stand(start + data)


REAL = hello_of("h2", "http/1.1")


@unhurried
@given(st.integers(0, len(REAL) - 1), st.integers(0, 255))
def test_a_damaged_hello_is_decided_once(at: int, byte: int) -> None:
    check_that_decisions_stand(REAL[:at] + bytes((byte,)) + REAL[at + 1 :])


def test_a_hello_accepts_what_it_offers() -> None:
    both = ("h2", "http/1.1")
    assert Hello((b"\x0a\x0a", b"h2")).accepts(both)
    assert Hello((b"http/1.1",)).accepts(both)
    assert not Hello((b"spdy/3", b"http/1.0")).accepts(both)
    assert not Hello((b"h2",)).accepts(("http/1.1",))
    # Without ALPN there is nothing to refuse: it speaks HTTP/1.1.
    assert Hello().accepts(both)
