"""The HTML Standard's algorithm on its own: answers in, decisions and times out."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import fields
from pathlib import Path

import pytest

from h2sse import ConfigError, Message
from h2sse.client.exchange import Head, NetworkError
from h2sse.client.limits import ClientLimits
from h2sse.client.source import (
    Failed,
    Finished,
    Opened,
    ReadyState,
    Redirected,
    Source,
    SourceFailed,
    Verdict,
    read_headers,
    read_url,
)

URL = "https://a.example/events?topic=a"
TYPE = (b"content-type", b"text/event-stream")


def source(url: str = URL, *, dice: float = 0.0, **settings: object) -> Source:
    return Source(url, dice=lambda: dice, **settings)  # type: ignore[arg-type]  # settings are many


def answer(asked: Source, status: int = 200, *fields: tuple[bytes, bytes]) -> Verdict:
    return asked.answer(Head(1, status, fields))


def opened(**settings: object) -> Source:
    found = source(**settings)  # type: ignore[arg-type]  # as above
    assert answer(found, 200, TYPE) == Opened()
    return found


def taken(found: Source) -> list[str]:
    messages = []
    while (message := found.take()) is not None:
        messages.append(message.data)
    return messages


def last_event_ids(found: Source) -> list[bytes]:
    return [value for name, value in found.request() if name == b"last-event-id"]


# -- URLs and headers


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("https://a.example", "a.example", "/"),
        ("https://A.Example:443/x?y#z", "a.example", "/x?y"),
        ("https://a.example:8443/é b?é=\"'", "a.example:8443", "/%C3%A9%20b?%C3%A9=%22%27"),
        ("https://[::1]:8443/%20", "[::1]:8443", "/%20"),
        ("https://bücher.example/", "xn--bcher-kva.example", "/"),
        ("https://127.0.0.1/?a=/:@?", "127.0.0.1", "/?a=/:@?"),
    ],
)
def test_urls(url: str, authority: str, path: str) -> None:
    target = read_url(url)
    assert (target.authority, target.path) == (authority, path)
    assert read_url(target.url) == target


@pytest.mark.parametrize(
    "url", ["https://[", "https://", "https://a b/", "https://a:0/", "https://a:x/", "/events", ""]
)
def test_b7_a_bad_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^url "):
        Source(url)


@pytest.mark.parametrize("url", ["ftp://x/", "data:text/event-stream,data:x", "wss://x/"])
def test_b9_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="not an absolute https:// URL"):
        Source(url)


def test_plain_http_and_passwords_are_refused() -> None:
    with pytest.raises(ConfigError, match="in the clear"):
        Source("http://localhost/")
    with pytest.raises(ConfigError, match="belong into headers"):
        Source("https://me:secret@localhost/")


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"a b": "x"}, "not a field name"),
        ({"": "x"}, "not a field name"),
        ({":path": "x"}, "not a field name"),
        ({"Host": "x"}, "set by the client itself"),
        ({"Last-Event-ID": "x"}, "set by the client itself"),
        ({"Transfer-Encoding": "x"}, "set by the client itself"),
        ({"x": "a\r\nb: c"}, "control characters"),
        ({"x": "\ud800"}, "no UTF-8 form"),
    ],
)
def test_bad_headers_are_refused(headers: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read_headers(headers)


def test_headers_are_sent_in_lower_case() -> None:
    found = source(headers={"Authorization": " Bearer é\t"})
    assert (b"authorization", "Bearer é".encode()) in found.request()


@pytest.mark.parametrize("bad", ["a\n", "\r", "\0", "\ud800"])
def test_a_last_event_id_that_no_stream_can_give_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match=r"^last_event_id"):
        Source(URL, last_event_id=bad)


# -- requests


def test_b2_b3_accept_and_cache_fields() -> None:
    assert set(source().request()) == {
        (b"accept", b"text/event-stream"),
        (b"cache-control", b"no-cache"),
        (b"pragma", b"no-cache"),
    }


def test_b4_no_last_event_id_while_it_is_empty() -> None:
    found = opened()
    assert last_event_ids(found) == []
    found.receive(b"id:7\n\n")
    assert last_event_ids(found) == [b"7"]
    found.drop(0)
    answer(found, 200, TYPE)
    found.receive(b"id\n\n")
    assert last_event_ids(found) == []


def test_b5_last_event_id_is_utf8() -> None:
    found = opened()
    found.receive("id: é€😀\n\n".encode())
    assert last_event_ids(found) == [bytes.fromhex("c3a9e282acf09f9880")]
    assert last_event_ids(source(last_event_id="é")) == ["é".encode()]


@pytest.mark.parametrize(("id_", "sent"), [(" i ", b"i"), ("\ti \t", b"i"), (" \t", b"")])
def test_b6_last_event_id_is_trimmed(id_: str, sent: bytes) -> None:
    assert last_event_ids(source(last_event_id=id_)) == [sent]
    assert source(last_event_id=id_).last_event_id == id_


# -- answers


STATUSES = (200, 201, 203, 205, 206, 210, 299, 300, 304, 305, 400, 401, 404, 429, 500, 503, 599)


@pytest.mark.parametrize("status", STATUSES[1:])
@pytest.mark.parametrize("again", [False, True])
def test_b12_b32_other_statuses_end_it(status: int, again: bool) -> None:
    found = source()
    if again:
        answer(found, 200, TYPE)
        found.drop(0)
    verdict = answer(found, status, TYPE, (b"retry-after", b"1"))
    assert isinstance(verdict, Failed)
    assert verdict.error.status == status
    assert verdict.error.url == URL
    assert str(status) in str(verdict.error)
    assert found.state is ReadyState.CLOSED


def test_b11_204_ends_it_in_peace() -> None:
    found = source()
    assert answer(found, 204) == Finished()
    assert found.state is ReadyState.CLOSED


@pytest.mark.parametrize(
    "values",
    [
        ["text/event-stream"],
        ["TEXT/EVENT-STREAM"],
        ["text/event-stream;charset=utf-8"],
        ["text/event-stream ;"],
        ["text/event-stream;foo=bar"],
        ["text/event-stream;charset=windows-1252"],  # B14
        ['text/event-stream;x=", text/html"'],
        ["text/html, text/event-stream"],  # B15
        ["text/html", "text/event-stream"],
        ["text/event-stream, not a type"],
        ["text/event-stream, */*"],
        ["text/event-stream,"],
    ],
)
def test_b13_b14_b15_types_that_open(values: list[str]) -> None:
    found = source()
    given = [(b"content-type", value.encode()) for value in values]
    assert answer(found, 200, *given) == Opened()
    assert found.state is ReadyState.OPEN


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["text/plain"],
        ["text/event-streams"],
        ["text/event-stream x"],
        ["text /event-stream"],
        ["text/event-stream, text/html"],  # B15
        ["text/event-stream", "text/html;a=b"],
        ['x="text/event-stream"'],
    ],
)
def test_b13_b15_types_that_fail(values: list[str]) -> None:
    found = source()
    given = [(b"content-type", value.encode()) for value in values]
    verdict = answer(found, 200, *given)
    assert isinstance(verdict, Failed)
    assert "Content-Type" in str(verdict.error)
    assert found.state is ReadyState.CLOSED


# -- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/b", "https://a.example/b"),
        ("b?c#d", "https://a.example/b?c"),
        ("?c", "https://a.example/events?c"),
        ("//b.example", "https://b.example/"),
        ("https://b.example:8443/é", "https://b.example:8443/%C3%A9"),
    ],
)
def test_b16_redirects_are_followed(status: int, location: str, url: str) -> None:
    found = source(last_event_id="7")
    before = set(found.request())
    assert answer(found, status, (b"location", location.encode())) == Redirected()
    assert found.target.url == url
    assert found.state is ReadyState.CONNECTING
    assert set(found.request()) == before


def test_b8_b19_the_url_stays_and_the_target_does_not() -> None:
    found = source()
    answer(found, 302, (b"location", b"/b"))
    answer(found, 200, TYPE)
    found.drop(0)
    assert found.url == URL
    assert found.target.url == "https://a.example/b"


def test_b17_redirects_are_bounded() -> None:
    found = source()
    for _ in range(20):
        assert answer(found, 302, (b"location", b"/b")) == Redirected()
    verdict = answer(found, 302, (b"location", b"/b"))
    assert isinstance(verdict, Failed)
    assert "more than 20 redirects" in str(verdict.error)


def test_b17_a_stream_starts_the_count_anew() -> None:
    found = source()
    for _ in range(5):
        for _ in range(20):
            answer(found, 302, (b"location", b"/b"))
        assert answer(found, 200, TYPE) == Opened()
        found.drop(0)


@pytest.mark.parametrize(
    "locations",
    [[], ["/a", "/b"], ["http://a.example/"], ["ftp://x/"], ["https://["], ["https://me@b/"]],
)
def test_b18_redirects_that_lead_nowhere_fail(locations: list[str]) -> None:
    found = source()
    given = [(b"location", each.encode()) for each in locations]
    assert isinstance(answer(found, 302, *given), Failed)
    assert found.state is ReadyState.CLOSED


def test_credentials_stay_with_their_origin() -> None:
    found = source(headers={"authorization": "x", "cookie": "y", "x-z": "z"})
    answer(found, 302, (b"location", b"https://b.example/"))
    sent = {name for name, _ in found.request()}
    assert b"x-z" in sent
    assert not sent & {b"authorization", b"cookie"}
    answer(found, 302, (b"location", b"https://a.example/"))
    assert {name for name, _ in found.request()} >= {b"authorization", b"cookie"}


# -- reconnection


def test_b27_the_first_reconnection_time() -> None:
    found = opened()
    assert found.reconnection_time == 3
    assert found.drop(100) == 103
    assert found.state is ReadyState.CONNECTING


def test_b28_retry_counts_from_its_line_on_and_lasts() -> None:
    found = opened()
    found.receive(b"retry:200\n")
    assert found.reconnection_time == 0.2
    assert found.drop(10) == pytest.approx(10.2)
    answer(found, 200, TYPE)
    assert found.drop(20) == pytest.approx(20.2)


def test_b29_retry_0_is_not_a_loop() -> None:
    found = opened()
    found.receive(b"retry:0\n")
    assert found.reconnection_time == 0
    assert found.drop(0) == pytest.approx(0.1)


def test_a_retry_beyond_a_day_is_a_day() -> None:
    found = opened()
    found.receive(b"retry:999999999999\n")
    assert found.reconnection_time == 86_400


def test_b30_further_waits_grow_and_are_bounded() -> None:
    """The worst of each wait; never less than the reconnection time."""
    found = opened(dice=1.0)
    waits = [found.drop(0) for _ in range(10)]
    assert waits[:6] == [3.75, 3.75, 4.5, 6, 9, 15]
    assert waits[-1] == 63
    lucky = opened(dice=0.0)
    assert [lucky.drop(0) for _ in range(10)] == [3] * 10


def test_b30_an_open_stream_forgets_failures() -> None:
    found = opened(dice=1.0)
    for _ in range(10):
        found.drop(0)
    answer(found, 200, TYPE)
    assert found.drop(0) == 3.75


def test_b69_what_was_not_processed_is_asked_again_at_once_but_not_for_ever() -> None:
    found = source()
    assert [found.drop(0, unprocessed=True) for _ in range(5)] == [0, 0, 0, 3, 3]
    answer(found, 200, TYPE)
    found.drop(0)
    assert found.drop(0, unprocessed=True) == 0


# -- the stream


def test_b33_an_unfinished_event_and_its_id_are_dropped() -> None:
    found = opened()
    found.receive(b"id:1\ndata:a\n\nid:2\ndata:b\n")
    assert taken(found) == ["a"]
    found.drop(0)
    assert last_event_ids(found) == [b"1"]
    answer(found, 200, TYPE)
    found.receive(b"\n\ndata:c\n\n")
    assert taken(found) == ["c"]


def test_b34_an_id_without_data_counts() -> None:
    found = opened()
    found.receive(b"id:9\n\n")
    assert last_event_ids(found) == [b"9"]
    assert found.last_event_id == "9"


def test_b35_the_id_is_kept_over_connections() -> None:
    found = opened()
    found.receive(b"id:7\n\n")
    found.drop(0)
    answer(found, 200, TYPE)
    found.receive(b"data:x\n\n")
    assert found.take() == Message("message", "x", "7")
    assert last_event_ids(found) == [b"7"]


def test_b36_types_and_ids() -> None:
    found = opened()
    found.receive(b"event:e\nid:1\ndata:x\n\ndata:y\n\n")
    assert [found.take(), found.take()] == [Message("e", "x", "1"), Message("message", "y", "1")]


def test_the_last_event_id_is_that_of_what_was_taken() -> None:
    found = opened()
    found.receive(b"id:1\ndata:a\n\nid:2\ndata:b\n\nid:3\n\n")
    assert found.last_event_id == ""
    found.take()
    assert found.last_event_id == "1"
    found.take()
    assert found.last_event_id == "3"


def test_b31_close_drops_what_was_not_taken() -> None:
    found = opened()
    found.receive(b"data:a\n\ndata:b\n\n")
    found.take()
    found.close()
    assert found.take() is None
    assert found.state is ReadyState.CLOSED


@pytest.mark.parametrize(
    ("chunk", "what"),
    [(b"x" * 100, "line of more than 1000 bytes"), (b"data\n" * 20, "more than 500 characters")],
)
def test_what_never_ends_is_bounded(chunk: bytes, what: str) -> None:
    found = opened(limits=ClientLimits(line_bytes=1000, event_chars=500))
    found.receive(b"data:a\n\n")
    for _ in range(26):
        found.receive(chunk)
    assert found.take() == Message("message", "a", "")
    with pytest.raises(SourceFailed, match=what):
        found.take()
    assert found.state is ReadyState.CLOSED


def test_comments_without_end_are_no_event() -> None:
    found = opened(limits=ClientLimits(line_bytes=100, event_chars=100))
    for _ in range(1000):
        found.receive(b": still here\n")
    found.receive(b"data:a\n\n")
    assert taken(found) == ["a"]


# -- content codings


def gzipped(data: bytes) -> bytes:
    machine = zlib.compressobj(wbits=31)
    return machine.compress(data) + machine.flush(zlib.Z_SYNC_FLUSH)


def test_b22_content_encoding_is_undone_as_it_comes() -> None:
    found = source()
    assert answer(found, 200, TYPE, (b"content-encoding", b"GZIP")) == Opened()
    machine = zlib.compressobj(wbits=31)
    for text in (b"data:a\n\n", b"data:b\n\n"):
        found.receive(machine.compress(text) + machine.flush(zlib.Z_SYNC_FLUSH))
        assert taken(found) == [text[5:6].decode()]


def test_b22_zlib_and_members_that_follow() -> None:
    found = source()
    answer(found, 200, TYPE, (b"content-encoding", b"deflate"))
    found.receive(zlib.compress(b"data:a\n\n"))
    assert taken(found) == ["a"]
    found.drop(0)
    answer(found, 200, TYPE, (b"content-encoding", b"gzip"))
    for byte in gzip.compress(b"data:b\n\n") + gzip.compress(b"data:c\n\n"):
        found.receive(bytes((byte,)))
    assert taken(found) == ["b", "c"]


def test_b22_a_bomb_comes_in_pieces() -> None:
    found = source()
    answer(found, 200, TYPE, (b"content-encoding", b"gzip"))
    found.receive(gzipped(b"data:" + b"x" * 1000 + b"\n\n" + b"data:x\n\n" * 1_000_000))
    assert found.take() is not None
    assert len(found._messages) < 10_000


def test_b22_broken_and_unknown_codings() -> None:
    found = source()
    answer(found, 200, TYPE, (b"content-encoding", b"gzip"))
    found.receive(b"data: x\n\n")
    with pytest.raises(NetworkError, match="content coding"):
        found.take()
    assert isinstance(answer(source(), 200, TYPE, (b"content-encoding", b"br")), Failed)


def test_limits_check_themselves() -> None:
    with pytest.raises(ConfigError, match=r"^limits\.redirects must be a whole number above 0"):
        ClientLimits(redirects=0)
    with pytest.raises(ConfigError, match="65535 or more"):
        ClientLimits(connection_window_bytes=1000)


def test_every_limit_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "client.md").read_text()
    assert [each.name for each in fields(ClientLimits) if f"`{each.name}`" not in page] == []
