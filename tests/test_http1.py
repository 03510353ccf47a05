"""`Http1` against a real h11 client, and against bytes that no client should send."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2sse.config import Limits
from h2sse.errors import LocalError
from h2sse.http1 import PIECE_BYTES, UNREAD_BYTES, Http1
from h2sse.wire import Drained, Gone, Overflowed, Request, Response, Wire, to_send

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from h2sse.wire import Lane, WireEvent

# No deadline: how long an example takes depends on what else the machine does.
patient = settings(deadline=None)

LIMITS = Limits()
GET = b"GET /events?topic=a HTTP/1.1\r\nHost: localhost:8443\r\nAccept: text/event-stream\r\n\r\n"
POST = b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n2;name=value\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"
)
EVENT_STREAM = ((b"content-type", b"text/event-stream"),)


def new(limits: Limits = LIMITS) -> Http1:
    return Http1(limits, connection=7, peer="192.0.2.1", now=100.0)


def output(wire: Http1) -> bytes:
    pieces = []
    while piece := wire.take_output():
        assert len(piece) <= PIECE_BYTES
        pieces.append(piece)
    return b"".join(pieces)


def requests(events: Iterable[WireEvent]) -> list[Request]:
    return [event for event in events if isinstance(event, Request)]


@dataclass
class Answer:
    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    whole: bool

    def field(self, name: bytes) -> bytes | None:
        return dict(self.fields).get(name)


class Client:
    """A real client state machine on a wire's other side."""

    def __init__(self, wire: Http1) -> None:
        self.wire = wire
        self.machine = h11.Connection(h11.CLIENT)

    def ask(
        self,
        target: str = "/",
        *,
        method: str = "GET",
        fields: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        now: float = 100.0,
    ) -> Sequence[WireEvent]:
        length = [("Content-Length", str(len(body)))] if body else []
        request = h11.Request(
            method=method, target=target, headers=[("Host", "a"), *length, *fields]
        )
        data = self.machine.send(request)
        if body:
            data += self.machine.send(h11.Data(data=body))
        data += self.machine.send(h11.EndOfMessage())
        return self.wire.receive(data, now)

    def read(self) -> Answer:
        """What came of the answer so far; when it is whole, ready to ask again."""
        self.machine.receive_data(output(self.wire))
        if self.wire.closed:
            self.machine.receive_data(b"")
        answer = Answer(0, [], b"", whole=False)
        while (event := self.machine.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                answer.status, answer.fields = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                answer.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                answer.whole = True
                break
        if not self.wire.closed and self.machine.our_state is h11.DONE:
            self.machine.start_next_cycle()
        return answer


def refusal(wire: Http1) -> int:
    """The status of the problem that the wire answered with before it closed."""
    assert wire.closed
    assert wire.open_streams == 0
    head, _, body = output(wire).partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert b"connection: close" in lines
    assert b"content-type: application/problem+json" in lines
    problem = json.loads(body)
    assert set(problem) == {"title", "status", "detail"}
    assert "bytearray" not in problem["detail"]
    assert lines[0].startswith(b"http/1.1 %d " % problem["status"])
    status = int(problem["status"])
    assert wire.statistics.by_reason == {problem["detail"]: 1}
    assert wire.statistics.refused == 1
    return status


def streaming(
    wire: Http1, *, first: bytes = b"retry: 3000\n\n", request: bytes = GET
) -> tuple[Http1, Lane]:
    """The wire with an event stream whose header section is out."""
    wire.receive(request, 100.0)
    wire.open(1, EVENT_STREAM, first)
    lane = wire.lane()
    wire.enter(1, lane)
    output(wire)
    assert wire.take_events() == (Drained(1),)
    return wire, lane


def test_it_is_a_wire() -> None:
    wire: Wire = new()
    assert wire.protocol == "http/1.1"
    assert wire.open_streams == 0
    assert not wire.closed
    assert wire.take_output() == b""


# -- requests


@pytest.mark.parametrize("cut", ["whole", "byte by byte", "with remainder"])
@pytest.mark.parametrize(
    ("data", "method", "path", "query", "authority", "body"),
    [
        (GET, "GET", "/events", "topic=a", "localhost:8443", b""),
        (POST, "POST", "/publish", "", "a", b"hello"),
        (CHUNKED, "POST", "/publish", "", "a", b"hello"),
        (b"\r\n\r\n" + POST, "POST", "/publish", "", "a", b"hello"),
        (b"GET / HTTP/1.0\r\n\r\n", "GET", "/", "", "", b""),
    ],
)
def test_request(
    cut: str, data: bytes, method: str, path: str, query: str, authority: str, body: bytes
) -> None:
    wire = new()
    events: list[WireEvent] = []
    match cut:
        case "whole":
            events += wire.receive(data, 100.0)
        case "byte by byte":
            for at in range(len(data)):
                assert events == []
                events += wire.receive(data[at : at + 1], 100.0)
        case _:
            events += wire.receive(data + b"GET /ne", 100.0)
    (request,) = requests(events)
    assert (request.stream, request.method) == (1, method)
    assert (request.path, request.query, request.authority) == (path, query, authority)
    assert request.body == body
    assert request.protocol == "http/1.1"
    assert (request.connection, request.peer) == (7, "192.0.2.1")
    assert request.max_concurrent_streams is None
    assert wire.open_streams == 1
    assert wire.statistics.requests == 1


def test_request_fields_are_lower_case_and_keep_their_bytes() -> None:
    (request,) = requests(
        new().receive(b"GET / HTTP/1.1\r\nHost: a\r\nLast-Event-ID: \xc3\xa9\x01 \r\n\r\n", 100.0)
    )
    assert request.fields == ((b"host", b"a"), (b"last-event-id", b"\xc3\xa9\x01"))
    assert request.header("Last-Event-ID") == "é\x01"


@pytest.mark.parametrize(
    ("line", "path", "query", "authority"),
    [
        (b"GET /a%20b?c=%C3%A9?d HTTP/1.1", "/a%20b", "c=%C3%A9?d", "h"),
        (b"GET //a HTTP/1.1", "//a", "", "h"),
        ("GET /é?t=é HTTP/1.1".encode(), "/é", "t=é", "h"),
        (b"GET https://x:1/a?b HTTP/1.1", "/a", "b", "x:1"),
        (b"GET HTTPS://x HTTP/1.1", "/", "", "x"),
        (b"GET https://x?b HTTP/1.1", "/", "b", "x"),
        (b"OPTIONS * HTTP/1.1", "*", "", "h"),
        (b"OPTIONS https://x HTTP/1.1", "*", "", "x"),
        (b"GET /?u=http://x HTTP/1.1", "/", "u=http://x", "h"),
        (b"GET / HTTP/1.2", "/", "", "h"),
    ],
)
def test_target(line: bytes, path: str, query: str, authority: str) -> None:
    (request,) = requests(new().receive(line + b"\r\nHost: h\r\n\r\n", 100.0))
    assert (request.path, request.query, request.authority) == (path, query, authority)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET * HTTP/1.1", 400),
        (b"GET a HTTP/1.1", 400),
        (b"GET /a#b HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET /\x7f HTTP/1.1", 400),
        (b"GET /\xff HTTP/1.1", 400),
        (b"GET https:///a HTTP/1.1", 400),
        (b"GET https://u@x/a HTTP/1.1", 400),
        (b"GET http://h/a HTTP/1.1", 421),
        (b"G(T / HTTP/1.1", 400),
        (b"G\xc3\x89T / HTTP/1.1", 400),
        (b"GET /", 400),
        (b"CONNECT h:443 HTTP/1.1", 501),
        (b"GET / HTTP/0.9", 505),
        (b"GET / HTTP/2.0", 505),
        (b"GET / http/1.1", 400),
        (b"\x16\x03\x01\x02", 400),
    ],
)
def test_request_line_refused(line: bytes, status: int) -> None:
    wire = new()
    assert wire.receive(line + b"\r\nHost: h\r\n\r\n", 100.0) == ()
    assert refusal(wire) == status


@pytest.mark.parametrize("host", [b"a.example:8443", b"[::1]:8443", b"[::1]", b"", b"a_b"])
def test_host(host: bytes) -> None:
    (request,) = requests(new().receive(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host, 100.0))
    assert request.authority == host.decode()


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a/b\r\n",
        b"Host: a, b\r\n",
        b"Host: u@a\r\n",
        b"Host: a:b\r\n",
        b"Host: \xc3\xa9\r\n",
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.2"])
def test_host_refused(fields: bytes, version: bytes) -> None:
    wire = new()
    assert wire.receive(b"GET / HTTP/%b\r\n%b\r\n" % (version, fields), 100.0) == ()
    assert refusal(wire) == 400


CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize("byte_by_byte", [False, True])
@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(CHUNKED_HEAD + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400, id="both lengths"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            400,
            id="two Content-Lengths",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\nab", 400, id="list"
        ),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", 400, id="sign"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
            id="other coding",
        ),
        pytest.param(
            CHUNKED_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", 501, id="two Transfer-Encodings"
        ),
        pytest.param(
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="1.0 chunked"
        ),
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", 400, id="bare LF"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, id="bare LF ends"),
        pytest.param(b"GET / HTTP/1.1\r\nA: b\nHost: a\r\n\r\n", 400, id="bare LF in a field"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n", 400, id="bare CR"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\0\r\n\r\n", 400, id="NUL"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, id="space before colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400, id="folded"),
        pytest.param(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, id="folded first"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nA\r\n\r\n", 400, id="no colon"),
        pytest.param(CHUNKED_HEAD + b"\r\n0x1\r\na\r\n0\r\n\r\n", 400, id="bad chunk size"),
        pytest.param(CHUNKED_HEAD + b"\r\n-1\r\n", 400, id="negative chunk size"),
        pytest.param(CHUNKED_HEAD + b"\r\n1\r\nab\r\n0\r\n\r\n", 400, id="bad chunk end"),
        pytest.param(CHUNKED_HEAD + b"\r\n1\na\r\n0\r\n\r\n", 400, id="bare LF in a chunk head"),
        pytest.param(CHUNKED_HEAD + b"\r\n1;a\nb\r\na\r\n0\r\n\r\n", 400, id="LF in an extension"),
        pytest.param(CHUNKED_HEAD + b"\r\n0\r\n\n", 400, id="bare LF ends a body"),
        pytest.param(CHUNKED_HEAD + b"\r\n0\r\nA: b\n\n", 400, id="bare LF ends a trailer"),
    ],
)
def test_smuggling_shapes_are_refused(data: bytes, status: int, byte_by_byte: bool) -> None:
    wire = new()
    events: list[WireEvent] = []
    for at in range(0, len(data), 1 if byte_by_byte else len(data)):
        events += wire.receive(data[at : at + (1 if byte_by_byte else len(data))], 100.0)
    # What follows is never taken for a request.
    events += wire.receive(GET, 100.0)
    assert events == []
    assert refusal(wire) == status


def test_what_cannot_become_a_request_is_refused_at_once() -> None:
    wire = new()
    wire.receive(b"\x16\x03\x01\x02\x00", 100.0)
    assert refusal(wire) == 400


def test_equal_content_lengths_are_one() -> None:
    # RFC 9112 6.3 allows it, and so does h11.
    (request,) = requests(
        new().receive(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", 100.0
        )
    )
    assert request.body == b"ab"


def test_refusal_of_head_has_no_body() -> None:
    for data in (b"HEAD a HTTP/1.1\r\nHost: a\r\n\r\n", b"HEAD / HTTP/1.1\r\n\r\n"):
        wire = new()
        wire.receive(data, 100.0)
        assert wire.closed
        assert output(wire).endswith(b"\r\n\r\n")


# -- bounds


def sized_head(size: int, fields: int) -> bytes:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * (fields - 2)
    return head + b"c: " + b"d" * (size - len(head) - 7) + b"\r\n\r\n"


@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_header_section_bound(byte_by_byte: bool) -> None:
    limits = Limits(header_list_bytes=1000)
    step = 1 if byte_by_byte else 2000
    for size, accepted in ((1000 - 4 * 28, True), (1001 - 4 * 28, False)):
        wire = new(limits)
        data = sized_head(size, fields=4)
        events = [e for at in range(0, size, step) for e in wire.receive(data[at : at + step], 1)]
        assert len(events) == accepted
        if not accepted:
            assert refusal(wire) == 431


def test_header_section_bound_holds_before_it_is_whole() -> None:
    limits = Limits(header_list_bytes=1000)
    wire = new(limits)
    wire.receive(b"GET / HTTP/1.1\r\nHost: a\r\na: " + b"b" * 900, 100.0)
    assert not wire.closed
    wire.receive(b"b" * 100, 100.0)
    assert refusal(wire) == 431
    wire = new(limits)
    wire.receive(b"GET /" + b"a" * 1000, 100.0)
    assert refusal(wire) == 414
    wire = new(limits)
    wire.receive(b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 100.0)
    assert refusal(wire) == 414


def test_header_fields_bound() -> None:
    limits = Limits(header_fields=5)
    assert requests(new(limits).receive(sized_head(100, fields=5), 100.0))
    wire = new(limits)
    assert not wire.receive(sized_head(100, fields=6), 100.0)
    assert refusal(wire) == 431


def test_body_bound() -> None:
    limits = Limits(body_bytes=5)
    for data in (POST, CHUNKED):
        (request,) = requests(new(limits).receive(data, 100.0))
        assert request.body == b"hello"
    limits = Limits(body_bytes=4)
    announced = CHUNKED.removesuffix(b"lo\r\n0\r\nTrailer: x\r\n\r\n")
    for data in (POST.removesuffix(b"hello"), announced):
        wire = new(limits)
        assert wire.receive(data, 100.0) == ()
        assert refusal(wire) == 413


def test_chunk_framing_is_bounded() -> None:
    wire = new(Limits(body_bytes=100_000))
    wire.receive(CHUNKED_HEAD + b"\r\n", 100.0)
    chunk = b"1;" + b"x" * 1000 + b"\r\na\r\n"
    sent = 0
    while not wire.closed:
        wire.receive(chunk, 100.0)
        sent += len(chunk)
    assert 100_000 < sent < 200_000
    assert refusal(wire) == 413


def test_long_trailers_are_bounded() -> None:
    wire = new()
    wire.receive(CHUNKED_HEAD + b"\r\n0\r\n", 100.0)
    wire.receive(b"a: " + b"b" * 20_000, 100.0)
    assert refusal(wire) == 431


# -- Expect: 100-continue

EXPECTING = POST.removesuffix(b"\r\nhello") + b"Expect: 100-continue\r\n\r\n"


def test_100_continue_is_sent_once_when_the_body_is_wanted() -> None:
    wire = new()
    assert wire.receive(EXPECTING, 100.0) == ()
    assert wire.open_streams == 1
    client = h11.Connection(h11.CLIENT)
    client.send(
        h11.Request(
            method="POST",
            target="/",
            headers=[("host", "a"), ("content-length", "5"), ("expect", "100-continue")],
        )
    )
    client.receive_data(output(wire))
    event = client.next_event()
    assert isinstance(event, h11.InformationalResponse)
    assert event.status_code == 100
    wire.receive(b"hel", 100.0)
    assert output(wire) == b""
    (request,) = requests(wire.receive(b"lo", 100.0))
    assert request.body == b"hello"


@pytest.mark.parametrize(
    "data",
    [
        EXPECTING + b"hel",
        GET.removesuffix(b"\r\n") + b"Expect: 100-continue\r\n\r\n",
        EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_100_continue_is_not_sent_where_no_one_waits(data: bytes) -> None:
    wire = new()
    wire.receive(data, 100.0)
    assert output(wire) == b""


def test_100_continue_is_not_sent_for_a_body_that_is_refused() -> None:
    wire = new(Limits(body_bytes=4))
    wire.receive(EXPECTING, 100.0)
    assert refusal(wire) == 413


# -- answers


def test_respond_and_ask_again() -> None:
    wire = new()
    client = Client(wire)
    for stream in (1, 2, 3):
        (request,) = requests(client.ask("/a", method="POST", body=b"b" * stream))
        assert (request.stream, request.body) == (stream, b"b" * stream)
        wire.respond(stream, Response.text(f"answer {stream}"))
        assert wire.open_streams == 0
        answer = client.read()
        assert answer.whole
        assert answer.status == 200
        assert answer.body == b"answer %d" % stream
        assert answer.field(b"content-length") == b"8"
        assert answer.field(b"connection") is None
        assert not wire.closed


def test_respond_writes_the_fields_as_given_and_its_own_framing() -> None:
    wire = new()
    wire.receive(GET, 100.0)
    ours = [(b"connection", b"x"), (b"content-length", b"9"), (b"keep-alive", b"x")]
    ours += [(b"transfer-encoding", b"gzip"), (b"upgrade", b"h2c")]
    wire.respond(1, Response(status=404, fields=(*ours, (b"x-a", b"B"), (b"x-a", b"c")), body=b"d"))
    assert output(wire) == (
        b"HTTP/1.1 404 Not Found\r\nx-a: B\r\nx-a: c\r\ncontent-length: 1\r\n\r\nd"
    )


def test_respond_to_head() -> None:
    wire = new()
    client = Client(wire)
    client.ask(method="HEAD")
    wire.respond(1, Response.text("hello"), head=True)
    answer = client.read()
    assert answer.whole
    assert answer.field(b"content-length") == b"5"
    assert answer.body == b""
    # An event stream is longer than nothing.
    client.ask(method="HEAD")
    wire.respond(2, Response(fields=EVENT_STREAM), head=True)
    answer = client.read()
    assert answer.whole
    assert answer.field(b"content-length") is None
    client.ask()
    wire.respond(3, Response())
    answer = client.read()
    assert answer.whole
    assert answer.field(b"content-length") == b"0"


@pytest.mark.parametrize("status", [204, 304])
def test_respond_without_content(status: int) -> None:
    wire = new()
    client = Client(wire)
    client.ask()
    wire.respond(1, Response(status=status, body=b"x"))
    answer = client.read()
    assert answer.whole
    assert (answer.status, answer.body) == (status, b"")
    assert answer.field(b"content-length") is None
    assert not wire.closed


def test_a_body_is_not_copied_until_it_is_cut() -> None:
    wire = new()
    wire.receive(GET, 100.0)
    body = bytes(PIECE_BYTES)
    wire.respond(1, Response(body=body))
    assert wire.take_output().endswith(b"\r\n\r\n")
    assert wire.take_output() is body
    assert wire.take_output() == b""


def test_a_large_body_comes_in_pieces() -> None:
    wire = new()
    client = Client(wire)
    client.ask()
    body = bytes(range(256)) * 1024
    wire.respond(1, Response(body=body + b"end"))
    assert client.read().body == body + b"end"


def test_unsent_counts_answers_and_not_payloads() -> None:
    wire = new()
    assert wire.unsent == 0
    wire.receive(GET + GET, 100.0)
    wire.respond(1, Response(body=bytes(PIECE_BYTES + 1)))
    size = wire.unsent
    assert size > PIECE_BYTES
    head = wire.take_output()
    assert wire.unsent == size - len(head)
    wire.take_output()
    assert wire.unsent == 1
    wire.take_output()
    wire.open(2, EVENT_STREAM, b":\n\n")
    wire.take_output()
    wire.send(2, bytes(2 * PIECE_BYTES))
    wire.take_output()
    assert wire.unsent == 0


def test_respond_refuses_a_field_that_cannot_be_sent_and_can_be_asked_again() -> None:
    wire = new()
    client = Client(wire)
    client.ask()
    for fields in (((b"a b", b"c"),), ((b"a", b" b"),)):
        with pytest.raises(ValueError, match="a field has"):
            Response(fields=fields)
        with pytest.raises(LocalError):
            wire.open(1, fields, b":\n\n")
    wire.respond(1, Response(status=500))
    assert client.read().status == 500


def test_only_the_stream_in_progress_is_answered() -> None:
    wire = new()
    wire.respond(0, Response())
    wire.respond(1, Response())
    wire.finish(1)
    wire.receive(GET, 100.0)
    wire.respond(2, Response())
    wire.open(2, EVENT_STREAM, b":\n\n")
    wire.send(1, b":\n\n")
    wire.enter(1, wire.lane())
    wire.finish(2)
    assert output(wire) == b""
    assert not wire.closed
    wire.respond(1, Response(status=204))
    assert output(wire) == b"HTTP/1.1 204 No Content\r\n\r\n"
    wire.respond(1, Response(status=204))
    wire.finish(1)
    assert output(wire) == b""
    assert not wire.closed


def test_a_client_that_says_close_is_answered_and_closed() -> None:
    wire = new()
    client = Client(wire)
    client.ask(fields=[("Connection", "close")])
    wire.respond(1, Response.text("a"))
    assert wire.closed
    answer = client.read()
    assert answer.whole
    assert answer.field(b"connection") == b"close"


def test_http_1_0_is_answered_and_closed() -> None:
    wire = new()
    wire.receive(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 100.0)
    wire.respond(1, Response.text("a"))
    assert wire.closed
    data = output(wire)
    assert b"\r\nConnection: close\r\n" in data
    assert data.endswith(b"content-length: 1\r\nConnection: close\r\n\r\na")


def test_an_upgrade_is_not_taken_up() -> None:
    wire = new()
    client = Client(wire)
    client.ask(fields=[("Connection", "upgrade"), ("Upgrade", "h2c")])
    wire.respond(1, Response.text("a"))
    assert client.read().body == b"a"
    assert requests(client.ask("/again"))


# -- pipelining


def test_early_requests_wait_for_their_turn() -> None:
    wire = new()
    (first,) = requests(wire.receive(GET + POST + CHUNKED + GET, 100.0))
    assert first.method == "GET"
    bodies = []
    for stream in (1, 2, 3):
        wire.respond(stream, Response.text(f"answer {stream}"))
        (request,) = requests(wire.take_events())
        assert request.stream == stream + 1
        bodies.append(request.body)
    assert bodies == [b"hello", b"hello", b""]
    wire.respond(4, Response.text("answer 4"))
    assert wire.take_events() == ()
    data = output(wire)
    assert [data.count(b"answer %d" % stream) for stream in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert data.index(b"answer 1") < data.index(b"answer 2") < data.index(b"answer 3")


def test_too_many_early_requests_are_dropped_with_notice() -> None:
    wire = new()
    wire.receive(GET, 100.0)
    wire.receive(b"x" * UNREAD_BYTES, 100.0)
    wire.respond(1, Response.text("a"))
    assert refusal_follows(output(wire), b"a")
    wire = new()
    client = Client(wire)
    client.ask()
    wire.receive(b"x" * UNREAD_BYTES, 100.0)
    for _ in range(10):
        wire.receive(b"x" * 8_000, 100.0)
        assert len(wire._unread) <= UNREAD_BYTES
    assert wire.open_streams == 1
    wire.respond(1, Response.text("a"))
    assert wire.closed
    answer = client.read()
    assert (answer.body, answer.field(b"connection")) == (b"a", b"close")


def refusal_follows(data: bytes, body: bytes) -> bool:
    first, _, second = data.partition(b"\r\n\r\n" + body + b"HTTP/1.1 ")
    return first.startswith(b"HTTP/1.1 200") and second.startswith(b"4")


def test_early_requests_wait_while_answers_are_not_taken() -> None:
    wire = new()
    body = bytes(PIECE_BYTES)
    wire.receive(GET * 100, 100.0)
    wire.respond(1, Response(body=body))
    assert wire.take_events() == ()
    assert wire.receive(GET, 100.0) == ()
    seen = 1
    while wire.take_output():
        for request in requests(wire.take_events()):
            seen += 1
            assert request.stream == seen
            wire.respond(request.stream, Response(body=body))
    assert seen == 101
    assert wire.open_streams == 0


def test_requests_of_one_that_does_not_read_are_bounded() -> None:
    wire = new()
    wire.receive(GET, 100.0)
    wire.respond(1, Response(body=bytes(2 * PIECE_BYTES)))
    for _ in range(UNREAD_BYTES // len(GET)):
        assert wire.receive(GET, 100.0) == ()
    assert not wire.closed
    wire.receive(GET, 100.0)
    assert wire.closed
    assert len(output(wire)) > 2 * PIECE_BYTES


SCRIPT = [
    GET,
    POST,
    b"\r\n" + CHUNKED,
    b"DELETE /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 300\r\n\r\n" + b"\r\n" * 150,
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HEAD /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
]


def run(chunks: Iterable[bytes]) -> tuple[list[Request], bytes]:
    """What a server that answers each request at once sees and says."""
    wire = new()
    seen: list[Request] = []
    said = b""
    for chunk in chunks:
        events = wire.receive(chunk, 100.0)
        while events:
            for request in requests(events):
                seen.append(request)
                text = Response.text(f"{request.path} {len(request.body)}")
                wire.respond(request.stream, text, head=request.method == "HEAD")
            events = wire.take_events()
        said += output(wire)
    assert wire.closed
    return seen, said


@patient
@given(cuts=st.lists(st.integers(0, len(b"".join(SCRIPT))), max_size=40))
def test_any_chunking_gives_the_same_requests(cuts: list[int]) -> None:
    script = b"".join(SCRIPT)
    edges = [0, *sorted(set(cuts) - {0, len(script)}), len(script)]
    chunks = [script[start:end] for start, end in itertools.pairwise(edges)]
    seen, said = run(chunks)
    assert (seen, said) == run(SCRIPT)
    assert [request.stream for request in seen] == list(range(1, len(SCRIPT) + 1))


# -- event streams


def test_event_stream() -> None:
    wire = new()
    client = Client(wire)
    client.ask("/events")
    wire.open(1, EVENT_STREAM, b"retry: 1\n\n")
    lane = wire.lane()
    wire.enter(1, lane)
    answer = client.read()
    assert (answer.status, answer.body) == (200, b"retry: 1\n\n")
    assert answer.field(b"content-type") == b"text/event-stream"
    assert answer.field(b"transfer-encoding") == b"chunked"
    assert answer.field(b"content-length") is None
    assert answer.field(b"connection") == b"close"
    wire.send(1, b"data: 1\n\n")
    lane.offer(b"data: 2\n\n")
    assert client.read().body == b"data: 1\n\ndata: 2\n\n"
    assert wire.open_streams == 1
    wire.take_events()
    wire.send(1, b"data: 3\n\n")
    wire.finish(1)
    wire.finish(1)
    assert wire.open_streams == 0
    assert wire.closed
    lane.offer(b"data: 4\n\n")
    wire.send(1, b"data: 4\n\n")
    answer = client.read()
    assert answer.whole
    assert answer.body == b"data: 3\n\n"
    assert wire.take_output() == b""
    assert wire.take_events() == ()


@patient
@given(payloads=st.lists(st.binary(max_size=20) | st.just(b"x" * 300), max_size=10))
def test_event_stream_equals_h11(payloads: list[bytes]) -> None:
    ours = new()
    ours.receive(GET, 100.0)
    ours.open(1, EVENT_STREAM, payloads[0] if payloads else b"")
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(GET)
    theirs.next_event()
    fields = [*EVENT_STREAM, (b"connection", b"close")]
    wanted = theirs.send(h11.Response(status_code=200, headers=fields, reason=b"OK"))
    for payload in payloads[1:]:
        ours.send(1, payload)
    for payload in payloads:
        wanted += theirs.send(h11.Data(data=payload))
    ours.finish(1)
    wanted += theirs.send(h11.EndOfMessage())
    assert output(ours) == wanted


CONNECTIONS = (
    b"close",
    b"Keep-Alive",
    b"x, Close",
    b"TE,, close",
    b"closed",
    b"x\r\nConnection: close",
)


def lines(answer: bytes) -> tuple[list[bytes], bytes]:
    """Status line and fields, in any order (RFC 9110 5.3), and the body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return sorted(head.lower().split(b"\r\n")), body


@patient
@given(
    st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS"]),
    st.sampled_from([b"1.0", b"1.1", b"1.2"]),
    st.none() | st.sampled_from(CONNECTIONS),
    st.sampled_from([b"", b"x", b"hello"]),
    st.booleans(),
    st.sampled_from([200, 201, 204, 304, 404]),
    st.binary(max_size=9),
    st.integers(1, 3),
)
def test_answers_equal_h11(
    method: bytes,
    version: bytes,
    connection: bytes | None,
    body: bytes,
    chunked: bool,
    status: int,
    answer: bytes,
    times: int,
) -> None:
    """As if one of its machines had followed the whole exchange."""
    head = [b"%b /%b HTTP/%b" % (method, b"x" * len(body), version), b"Host: a"]
    if connection is not None:
        head.append(b"Connection: " + connection)
    if chunked and version > b"1.0":
        head.append(b"Transfer-Encoding: chunked")
        body = b"".join(b"1\r\n%c\r\n" % each for each in body) + b"0\r\n\r\n"
    else:
        head.append(b"Content-Length: %d" % len(body))
    asked = b"\r\n".join([*head, b"", body])
    response = Response(status=status, fields=((b"x-field", b"value"),), body=answer)
    is_head = method == b"HEAD"
    ours, theirs = new(), h11.Connection(h11.SERVER)
    for _ in range(times):  # the second time all of it is known
        (request,) = requests(ours.receive(asked, 100.0))
        ours.respond(request.stream, response, head=is_head)
        theirs.receive_data(asked)
        events = [theirs.next_event()]
        while not isinstance(events[-1], h11.EndOfMessage):
            events.append(theirs.next_event())
        asks = events[0]
        assert isinstance(asks, h11.Request)
        assert request.fields == tuple(asks.headers)
        assert request.body == b"".join(each.data for each in events if isinstance(each, h11.Data))
        fields, sent = to_send(response, head=is_head)
        reason = HTTPStatus(status).phrase.encode()
        wanted = theirs.send(h11.Response(status_code=status, headers=fields, reason=reason))
        wanted += theirs.send(h11.Data(data=sent)) + theirs.send(h11.EndOfMessage())
        assert lines(output(ours)) == lines(wanted)
        assert ours.closed == (theirs.our_state is h11.MUST_CLOSE)
        if ours.closed:
            break
        theirs.start_next_cycle()


def test_http_1_0_stream_lasts_until_the_connection_ends() -> None:
    wire = new()
    wire.receive(b"GET / HTTP/1.0\r\n\r\n", 100.0)
    wire.open(1, EVENT_STREAM, b":\n\n")
    lane = wire.lane()
    wire.enter(1, lane)
    lane.offer(b"data: 1\n\n")
    wire.finish(1)
    assert wire.closed
    assert output(wire) == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nConnection: close\r\n\r\n"
        b":\n\ndata: 1\n\n"
    )


def test_open_drops_the_fields_that_are_ours() -> None:
    wire = new()
    client = Client(wire)
    client.ask()
    wire.open(1, [*EVENT_STREAM, (b"content-length", b"3"), (b"connection", b"keep-alive")], b"a")
    answer = client.read()
    assert answer.field(b"content-length") is None
    assert answer.field(b"connection") == b"close"
    assert answer.body == b"a"


def test_fan_out_shares_one_frame() -> None:
    wires, lanes = zip(*(streaming(new()) for _ in range(3)), strict=True)
    payload = b"data: %d\n\n" % 1
    for lane in lanes:
        lane.offer(payload)
    frames = [wire.take_output() for wire in wires]
    assert frames[0] == b"9\r\ndata: 1\n\n\r\n"
    assert frames[0] is frames[1]
    assert frames[1] is frames[2]
    # An equal payload is not the same, and a later one never answers for an earlier.
    lanes[0].offer(b"data: %d\n\n" % 2)
    lanes[0].offer(payload)
    assert wires[0].take_output() == b"9\r\ndata: 2\n\n\r\n9\r\ndata: 1\n\n\r\n"


def test_an_empty_payload_does_not_end_the_stream() -> None:
    wire, lane = streaming(new(), first=b"")
    lane.offer(b"")
    wire.send(1, b"")
    assert output(wire) == b""
    lane.offer(b"a")
    assert output(wire) == b"1\r\na\r\n"


def test_an_empty_lane_takes_offers() -> None:
    wire = new()
    wire.lane().offer(b"a")
    wire.receive(GET, 100.0)
    wire.enter(1, lane := wire.lane())
    lane.offer(b"a")
    assert output(wire) == b""


def test_input_after_an_event_stream_began_is_dropped() -> None:
    wire = new()
    wire.receive(GET + POST, 100.0)
    wire.open(1, EVENT_STREAM, b":\n\n")
    for _ in range(100):
        assert wire.receive(POST * 1000, 100.0) == ()
    assert not wire.closed
    wire.finish(1)
    assert wire.receive(POST, 100.0) == ()
    assert wire.take_events() == ()


def test_an_open_stream_is_small() -> None:
    request = GET + b"x" * 10_000
    streaming(new())
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        held = [streaming(new(), request=request) for _ in range(200)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(held) < 800


def test_a_body_is_held_once() -> None:
    wire = new()
    tracemalloc.start()
    try:
        (request,) = requests(wire.receive(POST.replace(b"5", b"300000") + bytes(299_995), 100.0))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(request.body) == 300_000
    assert held < 400_000


@patient
@given(
    program=st.lists(
        st.tuples(st.sampled_from(["send", "offer", "take"]), st.integers(1, 3 * PIECE_BYTES)),
        max_size=30,
    )
)
def test_every_payload_arrives_in_order_whatever_is_taken_when(
    program: list[tuple[str, int]],
) -> None:
    wire = new(Limits(tab_backlog_bytes=2**30))
    client = Client(wire)
    client.ask()
    wire.open(1, EVENT_STREAM, b"first")
    lane = wire.lane()
    wire.enter(1, lane)
    wanted = b"first"
    taken = b""
    last_sent = len(wanted)
    owed = 1
    for number, (verb, size) in enumerate(program):
        payload = (b"%d," % number).ljust(size, b".")
        match verb:
            case "send":
                wire.send(1, payload)
                wanted += payload
                last_sent = len(wanted)
                owed = 1
            case "offer":
                lane.offer(payload)
                wanted += payload
            case _:
                piece = wire.take_output()
                assert len(piece) <= PIECE_BYTES
                if piece:
                    client.machine.receive_data(piece)
                taken += read_data(client.machine)
                drained = wire.take_events().count(Drained(1))
                assert drained <= owed
                if drained:
                    assert len(taken) >= last_sent
                    owed = 0
    wire.finish(1)
    client.machine.receive_data(output(wire))
    assert taken + read_data(client.machine) == wanted
    assert client.machine.their_state in (h11.DONE, h11.MUST_CLOSE)


def read_data(machine: h11.Connection) -> bytes:
    found = b""
    while (event := machine.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        if isinstance(event, h11.Data):
            found += event.data
        elif isinstance(event, h11.EndOfMessage):
            break
    return found


# -- Drained and Overflowed


def test_drained_follows_what_was_sent_not_what_was_offered() -> None:
    wire, lane = streaming(new())
    lane.offer(b"a")
    output(wire)
    assert wire.take_events() == ()
    lane.offer(b"b")
    wire.send(1, b"c")
    lane.offer(bytes(PIECE_BYTES))
    assert wire.take_events() == ()
    assert wire.take_output() == b"1\r\nb\r\n1\r\nc\r\n"
    assert wire.take_events() == (Drained(1),)
    output(wire)
    assert wire.take_events() == ()


def test_drained_waits_for_the_last_byte() -> None:
    wire, _ = streaming(new())
    wire.send(1, bytes(2 * PIECE_BYTES))
    for _ in range(2):
        wire.take_output()
        assert wire.take_events() == ()
    wire.take_output()
    assert wire.take_events() == (Drained(1),)
    assert wire.take_output() == b""


def test_drained_waits_for_a_large_opening() -> None:
    wire = new()
    wire.receive(GET, 100.0)
    wire.open(1, EVENT_STREAM, bytes(PIECE_BYTES))
    wire.take_output()
    assert wire.take_events() == ()
    wire.take_output()
    assert wire.take_events() == (Drained(1),)


def test_drained_waits_for_what_was_sent_behind_the_opening() -> None:
    wire = new()
    wire.receive(GET, 100.0)
    wire.open(1, EVENT_STREAM, b":\n\n")
    wire.send(1, b"a")
    wire.take_output()
    assert wire.take_events() == ()
    wire.take_output()
    assert wire.take_events() == (Drained(1),)


def test_a_tab_over_its_backlog_is_ended_cleanly() -> None:
    wire = new(Limits(tab_backlog_bytes=1000))
    client = Client(wire)
    client.ask()
    wire.open(1, EVENT_STREAM, b"first")
    assert client.read().body == b"first"
    wire.take_events()
    lane = wire.lane()
    wire.enter(1, lane)
    # An empty queue takes anything, however large.
    lane.offer(b"a" * 2000)
    assert wire.take_events() == ()
    assert client.read().body == b"a" * 2000
    wire.take_events()
    lane.offer(b"b" * 500)
    lane.offer(b"c" * 470)
    assert wire.take_events() == ()
    lane.offer(b"d" * 20)
    assert wire.take_events() == (Overflowed(1),)
    assert wire.statistics.overflowed == 1
    assert wire.open_streams == 0
    assert wire.closed
    lane.offer(b"e")
    wire.send(1, b"e")
    answer = client.read()
    assert answer.whole
    assert answer.body == b""
    assert wire.take_events() == ()
    assert wire.statistics.overflowed == 1


def test_overflow_keeps_the_opening_and_the_payload_that_was_begun() -> None:
    wire = new(Limits(tab_backlog_bytes=1000))
    client = Client(wire)
    client.ask()
    wire.open(1, EVENT_STREAM, b"first")
    wire.lane().offer(b"a" * 1001)
    wire.lane().offer(b"b")
    assert wire.take_events() == (Overflowed(1),)
    answer = client.read()
    assert answer.whole
    assert answer.body == b"first"

    wire = new(Limits(tab_backlog_bytes=1000))
    client = Client(wire)
    client.ask()
    wire.open(1, EVENT_STREAM, b"first")
    client.read()
    wire.lane().offer(b"a" * 2 * PIECE_BYTES)
    wire.lane().offer(b"b")
    assert wire.closed
    answer = client.read()
    assert answer.whole
    assert answer.body == b""

    wire = new(Limits(tab_backlog_bytes=1000))
    client = Client(wire)
    client.ask()
    wire.open(1, EVENT_STREAM, b"first")
    client.read()
    wire.lane().offer(b"a" * 2 * PIECE_BYTES)
    client.machine.receive_data(wire.take_output())
    wire.lane().offer(b"b")
    assert wire.closed
    answer = client.read()
    assert answer.whole
    assert answer.body == b"a" * 2 * PIECE_BYTES


def test_overflow_behind_an_answer_that_was_begun() -> None:
    wire = new(Limits(tab_backlog_bytes=10))
    wire.receive(GET + GET, 100.0)
    wire.respond(1, Response(body=bytes(PIECE_BYTES + 1)))
    wire.take_output()
    wire.take_output()
    wire.open(2, EVENT_STREAM, b":\n\n")
    wire.lane().offer(b"a" * 20)
    wire.lane().offer(b"b")
    assert Overflowed(2) in wire.take_events()
    assert output(wire).endswith(b"\r\n3\r\n:\n\n\r\n0\r\n\r\n")


def test_overflow_over_http_1_0_ends_with_the_connection() -> None:
    wire, lane = streaming(new(Limits(tab_backlog_bytes=10)), request=b"GET / HTTP/1.0\r\n\r\n")
    lane.offer(b"a" * 11)
    lane.offer(b"b")
    assert wire.take_events() == (Overflowed(1),)
    assert wire.closed
    assert output(wire) == b""


# -- the end of file


EOF_SCRIPT = GET + EXPECTING + b"hello" + CHUNKED


@pytest.mark.parametrize("at", range(len(EOF_SCRIPT) + 1))
def test_end_of_file_at_every_point(at: int) -> None:
    wire = new()
    # The second request is answered; the others are not.
    events = list(wire.receive(EOF_SCRIPT[:at], 100.0))
    if at >= len(GET):
        wire.respond(1, Response.text("a"))
        events += wire.take_events()
    streams = [request.stream for request in requests(events)]
    pending = [stream for stream in streams if stream != 1]
    assert wire.receive(b"", 100.0) == tuple(Gone(stream) for stream in pending)
    assert wire.closed
    assert wire.open_streams == 0
    assert wire.receive(b"", 100.0) == ()
    assert wire.receive(GET, 100.0) == ()
    for stream in streams:
        wire.respond(stream, Response.text("late"))
        wire.open(stream, EVENT_STREAM, b"late")
        wire.finish(stream)
    assert b"late" not in output(wire)
    assert wire.take_events() == ()
    assert wire.expire(1e9) == ()


def test_end_of_file_ends_a_stream_and_drops_its_payloads() -> None:
    wire, lane = streaming(new())
    wire.send(1, b"a")
    assert wire.receive(b"", 100.0) == (Gone(1),)
    lane.offer(b"b")
    assert wire.closed
    assert output(wire) == b""
    assert wire.take_events() == ()


def test_end_of_file_leaves_answers_that_were_given() -> None:
    wire = new()
    wire.receive(GET, 100.0)
    wire.respond(1, Response.text("a"))
    assert wire.receive(b"", 100.0) == ()
    assert wire.closed
    assert output(wire).endswith(b"\r\n\r\na")


# -- deadlines

TIMES = Limits(request_seconds=10, body_seconds=30, idle_seconds=75)


def test_a_new_connection_without_a_request_is_closed_silently() -> None:
    wire = new(TIMES)
    wire.receive(b"\r\n", 105.0)
    assert wire.expire(109.9) == ()
    assert not wire.closed
    wire.expire(110.0)
    assert wire.closed
    assert output(wire) == b""


def test_a_slow_header_section_is_answered_408() -> None:
    wire = new(TIMES)
    wire.receive(GET[:-1], 105.0)
    wire.expire(109.9)
    assert not wire.closed
    wire.expire(110.0)
    assert refusal(wire) == 408
    assert wire.receive(GET[-1:], 111.0) == ()


def test_a_later_header_section_has_its_own_time() -> None:
    wire = new(TIMES)
    wire.receive(GET, 101.0)
    wire.expire(150.0)
    wire.respond(1, Response(status=204))
    output(wire)
    wire.receive(GET[:1], 200.0)
    wire.receive(GET[1:-1], 209.0)
    wire.expire(209.9)
    assert not wire.closed
    wire.expire(210.0)
    assert refusal(wire) == 408


def test_a_slow_body_is_answered_408() -> None:
    wire = new(TIMES)
    wire.receive(POST[:-2], 105.0)
    wire.receive(POST[-2:-1], 134.0)
    wire.expire(134.9)
    assert wire.open_streams == 1
    assert wire.expire(135.0) == ()
    assert refusal(wire) == 408


def test_an_idle_connection_is_closed_silently() -> None:
    wire = new(TIMES)
    wire.receive(GET, 105.0)
    wire.expire(110.0)
    wire.respond(1, Response(status=204))
    output(wire)
    wire.expire(184.9)
    assert not wire.closed
    wire.expire(185.0)
    assert wire.closed
    assert output(wire) == b""


def test_answers_and_streams_have_no_deadline_here() -> None:
    wire = new(TIMES)
    wire.receive(GET, 100.0)
    wire.expire(1e6)
    assert wire.open_streams == 1
    wire.open(1, EVENT_STREAM, b":\n\n")
    wire.expire(2e6)
    assert wire.open_streams == 1


# -- drain and close


def test_drain_is_the_last_word() -> None:
    wire, _ = streaming(new())
    assert not wire.last_word
    wire.drain()
    assert wire.last_word


def test_drain_closes_a_connection_without_a_request() -> None:
    for data in (b"", GET[:5]):
        wire = new()
        if data:
            wire.receive(data, 100.0)
        wire.drain()
        assert wire.closed
        assert output(wire) == b""
    wire = new()
    wire.receive(GET, 100.0)
    wire.respond(1, Response(status=204))
    wire.drain()
    assert wire.closed
    assert output(wire) == b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize("have", [len(POST), len(POST) - 1])
def test_drain_serves_the_request_in_progress_and_no_other(have: int) -> None:
    wire = new()
    events = list(wire.receive(POST[:have], 100.0))
    wire.drain()
    wire.drain()
    events += wire.receive(POST[have:] + GET, 100.0)
    (request,) = requests(events)
    assert request.body == b"hello"
    assert wire.open_streams == 1
    wire.respond(1, Response.text("a"))
    assert wire.take_events() == ()
    assert wire.closed
    assert output(wire).endswith(b"\r\ncontent-length: 1\r\nconnection: close\r\n\r\na")


def test_drain_drops_early_requests() -> None:
    wire = new()
    wire.receive(GET + GET, 100.0)
    wire.drain()
    wire.respond(1, Response.text("a"))
    assert wire.closed
    assert wire.take_events() == ()


def test_drain_leaves_a_stream_to_be_finished() -> None:
    wire, lane = streaming(new())
    wire.drain()
    lane.offer(b"a")
    assert wire.open_streams == 1
    wire.finish(1)
    assert wire.closed
    assert output(wire) == b"1\r\na\r\n0\r\n\r\n"


def test_close() -> None:
    wire, lane = streaming(new())
    lane.offer(b"a")
    wire.close()
    wire.close()
    assert wire.closed
    assert output(wire) == b"1\r\na\r\n0\r\n\r\n"
    for data in (b"", GET, GET[:5], POST[:-1]):
        wire = new()
        if data:
            wire.receive(data, 100.0)
        wire.close()
        assert wire.closed
        assert wire.open_streams == 0
        assert output(wire) == b""


def test_finish_of_an_unanswered_request_closes() -> None:
    wire = new()
    wire.receive(GET + GET, 100.0)
    wire.finish(1)
    assert wire.closed
    assert output(wire) == b""
    assert wire.take_events() == ()


# -- anything at all


@patient
@given(
    st.lists(
        st.sampled_from(
            [GET, POST, CHUNKED, EXPECTING, CHUNKED_HEAD, b"\r\n", b"\n", b"0\r\n\r\n", b"a", b""]
        )
        | st.binary(max_size=8),
        max_size=12,
    )
)
def test_nothing_a_peer_sends_raises(pieces: list[bytes]) -> None:
    wire = new()
    for now, piece in enumerate(pieces):
        events = wire.receive(piece, 100.0 + now)
        while events:
            for request in requests(events):
                wire.respond(request.stream, Response(status=204))
            events = wire.take_events()
        output(wire)
        assert wire.open_streams in (0, 1)
    assert wire.closed or b"" not in pieces
