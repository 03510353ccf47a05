"""What a browser may count on, line by line, over real sockets and real TLS.

B40 to B90 are the lines of the table of behaviours that bind a server.  The number in a test's name
is the line's, the docstring a sentence of its clause.  B57-B59, B71, B72, B78 and B88 are asserted
besides on every frame that any test here receives (`support.RawClient`).
"""

from __future__ import annotations

import gc
import itertools
import json
import random
import re
import ssl
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from support import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    RawClient,
    Served,
    Stream,
    frame,
    ping,
    reset,
    serving,
    settings_frame,
    window_update,
)
from trio.testing import MockClock, wait_all_tasks_blocked

import h2sse

EVENTS = "/events?topic=a"
JSON = ("content-type", "application/json")
ORIGIN, FRIEND, STRANGER = "https://app.example", "https://b.example:8444", "https://other.example"

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 3
FRAME_SIZE_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM = 6, 7, 11

KIB, MIB = 1024, 1024 * 1024
OPEN_WINDOWS = {INITIAL_WINDOW_SIZE: MAX_WINDOW}
OPEN_CONNECTION = window_update(0, MAX_WINDOW - DEFAULT_WINDOW)


def event(data: str = "x", **fields: Any) -> h2sse.Event:
    return h2sse.Event(data=data, **fields)


async def published(client: RawClient, **body: Any) -> Stream:
    """The answer to a publish request in JSON."""
    return await client.fetch("/publish", JSON, method="POST", body=json.dumps(body).encode())


async def still_served(client: RawClient) -> None:
    """The connection has come to no harm."""
    answer = await client.fetch("/healthz")
    assert (answer.status, answer.ended) == (200, True)


async def goaway(client: RawClient) -> int:
    """The code that the server ends this connection with."""
    await client.read_to_end()
    codes = [each.code for each in client.frames if each.kind == GOAWAY]
    assert len(codes) == 1
    return codes[0]


def nothing_is_left(served: Served) -> bool:
    hub, server = served.app.hub.statistics(), served.server.statistics()
    return not (hub.tabs or hub.topics or any(server.tabs.values()))


# -- Request and events: the lines before B40 that have a part for the server


async def test_b2_the_accept_field_may_be_missing() -> None:
    """The server must not answer 406 when Accept is missing."""
    async with serving(h2sse.App()) as served, served.client() as client:
        for fields in ((), (("accept", "text/event-stream"),), (("accept", "*/*"),)):
            await client.listen(EVENTS, *fields)


async def test_b5_last_event_id_is_utf8() -> None:
    """The server decodes Last-Event-ID as UTF-8, not Latin-1."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        app.publish("a", event("1", id="é€😀"))
        app.publish("a", event("2"))
        stream = await client.listen(EVENTS, ("last-event-id", "é€😀"))
        await client.heard(1, stream)
        assert stream.data == ["2"]


async def test_b29_reconnection_times_are_spread_and_never_0() -> None:
    """The server never sends `retry:0`, and gives a spread between clients."""
    eager = serving(h2sse.App(), retry_ms=1, retry_spread=0.9)
    async with eager as served, served.client() as client:
        assert await _retries(client) == {1, 2}
    async with serving(h2sse.App()) as served, served.client() as client:
        times = await _retries(client)
        assert min(times) >= 2_100
        assert max(times) <= 3_900
        assert len(times) > 10


async def _retries(client: RawClient) -> set[int]:
    found = set()
    for _ in range(50):
        time = (await client.listen(EVENTS)).parser.reconnection_time
        assert time is not None
        found.add(time)
    return found


async def test_b34_b35_every_event_carries_an_id_beside_its_data() -> None:
    """The server puts an id on every event, in the block that has its data."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        stream = await client.listen(EVENTS)
        ids = [app.publish("a", event(str(number))).id for number in range(3)]
        await client.heard(3, stream)
        assert [message.last_event_id for message in stream.messages] == ids
        assert len(set(ids)) == 3
        for block in bytes(stream.body).split(b"\n\n")[1:-1]:
            assert b"id: " in block
            assert b"data: " in block


# -- CORS


async def test_b40_an_echoed_origin_varies() -> None:
    """Echoing Origin needs `vary: origin`."""
    friendly = serving(h2sse.App(), cors_origins=(ORIGIN, FRIEND))
    async with friendly as served, served.client() as client:
        for origin, echoed in ((ORIGIN, ORIGIN), (FRIEND, FRIEND), (STRANGER, None)):
            stream = await client.listen(EVENTS, ("origin", origin))
            assert stream.fields.get("access-control-allow-origin") == echoed
            assert stream.fields["vary"] == "origin"
        # A cache must not give this one to a page of another origin either.
        assert (await client.listen(EVENTS)).fields["vary"] == "origin"


async def test_b41_a_preflight_allows_last_event_id() -> None:
    """Answer OPTIONS with `access-control-allow-headers: last-event-id`."""
    asked = (
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "last-event-id"),
    )
    async with serving(h2sse.App(), cors_origins=(ORIGIN,)) as served, served.client() as client:
        answer = await client.fetch(EVENTS, ("origin", ORIGIN), *asked, method="OPTIONS")
        assert answer.status == 204
        assert answer.fields["access-control-allow-origin"] == ORIGIN
        assert "last-event-id" in answer.fields["access-control-allow-headers"]
        assert "GET" in answer.fields["access-control-allow-methods"]
        answer = await client.fetch(EVENTS, ("origin", STRANGER), *asked, method="OPTIONS")
        assert not any(name.startswith("access-control") for name in answer.fields)


# -- Stream, server side


async def test_b42_an_event_stream_is_utf8() -> None:
    """`content-type: text/event-stream`, UTF-8 always."""
    text = "zażółć € 😀 \u2028 \x85"
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        stream = await client.listen(EVENTS)
        assert stream.fields["content-type"] == "text/event-stream"
        app.publish("a", event(text))
        await client.heard(1, stream)
        assert f"\ndata: {text}\n\n".encode() in stream.body


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"])
async def test_b43_data_cannot_start_a_field(line_end: str) -> None:
    """Data holding LF, CR or CRLF becomes one `data:` line per line."""
    text = line_end.join(("a", "event: x", "", "id: 1", ":", "retry: 1", ""))
    async with serving(h2sse.App()) as served, served.client() as client:
        stream = await client.listen(EVENTS)
        first = await published(client, topic="a", data=text)
        served.app.publish("a", event(text))
        await client.heard(2, stream)
        for message in stream.messages:
            assert message.event == "message"
            assert message.data == text.replace(line_end, "\n")
        assert stream.messages[0].last_event_id == json.loads(first.body)["id"]
        assert bytes(stream.body).count(b"retry: ") == 1 + 2  # ours, and the two in the data


BAD_FIELDS: list[tuple[str, Any]] = [
    ("event", "a\nb"),
    ("event", "a\rb"),
    ("id", "1\n2"),
    ("id", "1\r2"),
    ("id", "1\0"),
    ("retry", "5s"),
    ("retry", "-1"),
    ("retry", "٣"),  # a digit, but not one of ASCII's
    ("retry", -1),
    ("retry", 0),
    ("retry", 1.5),
    ("retry", True),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
async def test_b44_a_bad_field_is_refused(name: str, value: object) -> None:
    """Event or id with CR or LF, id with NUL, retry not of digits: refused, not written."""
    fields: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"^{name} must be"):
        event(**fields)
    async with serving(h2sse.App()) as served, served.client() as client:
        stream = await client.listen(EVENTS)
        before = bytes(stream.body)
        answer = await published(client, topic="a", data="x", **{name: value})
        assert answer.status == 422
        assert json.loads(answer.body)["field"] == name
        await client.settle()
        assert stream.body == before
        assert served.app.hub.statistics().published == 0


@pytest.mark.parametrize("retry", [-5, 0, True, "5\nid: 7"])
def test_b44_a_subscription_checks_its_reconnection_time(retry: Any) -> None:
    """Retry not of digits is refused by the API (and 0 never sent, B29)."""
    with pytest.raises(ValueError, match="retry"):
        h2sse.Subscribe("a", retry=retry)


async def test_b45_a_leading_space_is_kept() -> None:
    """Write a space after the colon, or a value starting with a space loses it."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        stream = await client.listen(EVENTS)
        app.publish("a", event(" x\n  y", event=" e", id="1"))
        await client.heard(1, stream)
        assert stream.messages == [h2sse.Message(" e", " x\n  y", "1")]


async def test_b46_empty_data_is_an_event() -> None:
    """Empty data is still one event; no data is none."""
    async with serving(h2sse.App()) as served, served.client() as client:
        stream = await client.listen(EVENTS)
        for data in ("", "\n", "\n\n"):
            assert (await published(client, topic="a", data=data)).status == 200
        await client.heard(3, stream)
        assert stream.data == ["", "\n", "\n\n"]
        answer = await published(client, topic="a")
        assert answer.status == 422
        assert json.loads(answer.body)["field"] == "data"
        await client.settle()
        assert len(stream.messages) == 3


async def test_b47_an_event_goes_out_whole_and_at_once(jumping_clock: MockClock) -> None:
    """One event goes out whole, at once, in the DATA frame of that moment."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        streams = [await client.listen(EVENTS) for _ in range(3)]
        now = trio.current_time()
        said = app.publish("a", event("line\nline"))
        await client.heard(1, *streams)
        for stream in streams:
            assert [each.payload for each in stream.data_frames[1:]] == [said.encode()]
        # Time jumps as soon as nothing moves: it did not, so nobody waited for a timer.
        assert trio.current_time() == now


async def test_b48_a_first_line_comes_with_the_headers(jumping_clock: MockClock) -> None:
    """HEADERS go out at once, and a first line with them."""
    async with serving(h2sse.App()) as served, served.client() as client:
        now = trio.current_time()
        stream = await client.open_stream(EVENTS)
        await client.answered(stream)
        assert bytes(stream.body).startswith(b"retry: ")
        assert bytes(stream.body).endswith(b"\n\n")
        assert stream.messages == []
        assert trio.current_time() == now


async def test_b49_a_quiet_stream_has_heartbeats(jumping_clock: MockClock) -> None:
    """A comment about every 15 s on a quiet stream."""
    async with serving(h2sse.App()) as served, served.client() as client:
        stream = await client.listen(EVENTS)
        first = bytes(stream.body)
        await trio.sleep(40)
        await client.settle()
        beats = bytes(stream.body).removeprefix(first)
        assert beats in (b":\n\n" * 2, b":\n\n" * 3)
        assert stream.messages == []


async def test_b49_a_busy_stream_needs_no_heartbeat(jumping_clock: MockClock) -> None:
    """The comment is for a quiet stream."""
    app = h2sse.App()
    async with serving(app, heartbeat_seconds=3) as served, served.client() as client:
        stream = await client.listen(EVENTS)
        for _ in range(10):
            await trio.sleep(1)
            app.publish("a", event())
        await client.heard(10, stream)
        assert b":\n\n" not in stream.body


async def test_b49_a_heartbeat_is_never_inside_an_event(jumping_clock: MockClock) -> None:
    """The comment stands in its own block, never inside another event's bytes."""
    app = h2sse.App()
    async with (
        serving(app, heartbeat_seconds=1) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: 100}) as client,
    ):
        stream = await client.listen(EVENTS)
        said = app.publish("a", event("x" * 500))
        await trio.sleep(5)
        await client.settle()
        assert len(stream.body) == 100
        await client.send(window_update(stream.id, 10_000))
        await client.read_until(lambda: stream.body.endswith(b":\n\n"))
        assert said.encode() in stream.body


async def test_b50_nobody_stores_or_holds_back_a_stream() -> None:
    """`cache-control: no-store`, `no-transform`, and `x-accel-buffering: no`."""
    async with serving(h2sse.App()) as served, served.client() as client:
        fields = (await client.listen(EVENTS)).fields
        assert set(fields["cache-control"].split(", ")) == {"no-store", "no-transform"}
        assert fields["x-accel-buffering"] == "no"


async def test_b51_a_stream_has_no_content_length() -> None:
    """No content-length on an endless body."""
    app = h2sse.App()

    @app.stream("/mine")
    def mine(_: h2sse.Request) -> h2sse.Subscribe:
        return h2sse.Subscribe("a", fields=((b"content-length", b"5"),))

    async with serving(app) as served, served.client() as client:
        for path in (EVENTS, "/mine"):
            assert "content-length" not in (await client.listen(path)).fields


async def test_b52_no_gap_and_no_double_over_many_reconnects() -> None:
    """Events after Last-Event-ID in order, none twice, none lost between replay and live."""
    app = h2sse.App()
    dice = random.Random(52)
    said: list[str] = []
    heard: list[str] = []

    def say() -> None:
        for _ in range(dice.randrange(4)):
            said.append(str(len(said)))
            app.publish("a", event(said[-1] + "\n" + "x" * dice.choice((0, 100, 40_000))))

    async with serving(app) as served, served.client() as client:
        await client.send(OPEN_CONNECTION)
        last_event_id = app.hub.history.id(0)
        for _ in range(200):
            say()
            stream = await client.open_stream(EVENTS, ("last-event-id", last_event_id))
            for _ in range(dice.randrange(4)):
                say()
                if dice.randrange(2):
                    await client.send(window_update(stream.id, 30_000))
                await client.settle()
            heard += _numbers(stream.messages)
            last_event_id = stream.parser.last_event_id or last_event_id
            await client.send(reset(stream.id))
            assert heard == said[: len(heard)]
        stream = await client.listen(EVENTS, ("last-event-id", last_event_id))
        await client.send(window_update(stream.id, 10 * MIB))
        await client.heard(len(said) - len(heard), stream)
        assert heard + _numbers(stream.messages) == said
        assert app.hub.statistics().resumed == 201
        assert app.hub.statistics().gaps == 0


def _numbers(messages: Sequence[h2sse.Message]) -> list[str]:
    return [message.data.partition("\n")[0] for message in messages]


ODD_IDS = {
    "unknown": b"nonsense",
    "a number": b"7",
    "an earlier run's": b"0123456789-1",
    "the epoch alone": b"EPOCH-",
    "not yet given": b"EPOCH-99",
    "negative": b"EPOCH--1",
    "not a digit of ASCII's": "EPOCH-²".encode(),
    "huge": b"EPOCH-" + b"9" * 5_000,
    "not UTF-8": b"\xff\xfe\xc3",
    "a field": b"a: b; c\tid:",
}


@pytest.mark.parametrize("odd", ODD_IDS)
async def test_b52_an_odd_id_is_told_of_a_gap(odd: str) -> None:
    """Unknown, empty or odd ids have a stated outcome, never a 500."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        app.publish("a", event("1"))
        epoch = app.hub.history.id(0).partition("-")[0].encode()
        odd_id = ODD_IDS[odd].replace(b"EPOCH", epoch)
        stream = await client.listen(EVENTS, ("last-event-id", odd_id))
        assert stream.fields["history-gap"] == "unknown"
        await client.heard(2, stream)
        told, kept = stream.messages
        assert told.event == "history-gap"
        assert json.loads(told.data)["reason"] == "unknown"
        # What is still there follows, and what is live.
        assert kept.data == "1"
        app.publish("a", event("2"))
        await client.heard(3, stream)
        assert stream.data[2] == "2"


async def test_b52_a_pruned_id_is_told_of_a_gap() -> None:
    """What can no longer be replayed is said, in-band and by a response field."""
    app = h2sse.App(limits=h2sse.Limits(history_events=3))
    async with serving(app) as served, served.client() as client:
        first, *_ = [app.publish("a", event(str(number))) for number in range(5)]
        assert first.id is not None
        stream = await client.listen(EVENTS, ("last-event-id", first.id))
        assert stream.fields["history-gap"] == "pruned"
        await client.heard(4, stream)
        told, *rest = stream.messages
        assert told.event == "history-gap"
        assert json.loads(told.data) == {"reason": "pruned", "lastEventId": first.id}
        assert [message.data for message in rest] == ["2", "3", "4"]
        # It resumes from what it was told, should it drop right there.
        stream = await client.listen(EVENTS, ("last-event-id", told.last_event_id))
        await client.heard(3, stream)
        assert stream.data == ["2", "3", "4"]


async def test_b52_an_empty_id_starts_afresh() -> None:
    """An empty id is none: live events only, and no gap."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        app.publish("a", event("1"))
        for fields in ((), (("last-event-id", ""),)):
            stream = await client.listen(EVENTS, *fields)
            app.publish("a", event("2"))
            await client.heard(1, stream)
            assert stream.data == ["2"]
            assert "history-gap" not in stream.fields


@pytest.mark.parametrize("name", ["lastEventId", "last_event_id"])
async def test_b52_an_id_in_the_query_resumes(name: str) -> None:
    """Clients that cannot set Last-Event-ID resume by a query parameter; the field is newer."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        one, two = (app.publish("a", event(data, id=data)) for data in ("1 é", "2"))
        app.publish("a", event("3"))
        stream = await client.listen(f"{EVENTS}&{name}=1%20%C3%A9")
        await client.heard(2, stream)
        assert stream.data == ["2", "3"]
        stream = await client.listen(f"{EVENTS}&{name}=1%20%C3%A9", ("last-event-id", "2"))
        await client.heard(1, stream)
        assert stream.data == ["3"]
        # A name that is not UTF-8 is the client's mistake.
        assert (await client.fetch(f"{EVENTS}&{name}=%ff")).status == 400
        stream = await client.listen(f"{EVENTS}&{name}=%0d%0aevent:%20x%00")
        assert stream.fields["history-gap"] == "unknown"
        await client.heard(1, stream)
        assert {message.event for message in stream.messages} <= {"history-gap", "message"}
    assert (one.id, two.id) == ("1 é", "2")


async def test_b53_a_handler_ends_a_client_for_good() -> None:
    """204 ends a client for good."""
    app = h2sse.App()
    app.stream("/over")(lambda _: h2sse.Response(status=204))
    async with serving(app) as served, served.client() as client:
        answer = await client.fetch("/over")
        assert answer.status == 204
        assert [each.kind for each in answer.frames] == [HEADERS]
        assert "content-length" not in answer.fields


async def test_b53_a_draining_server_refuses_streams_and_sends_no_5xx() -> None:
    """A 5xx during a restart ends a client: refuse the stream instead, and all come back."""
    app = h2sse.App()
    async with (
        trio.open_nursery() as nursery,
        serving(app) as served,
        served.client() as client,
    ):
        tabs = [await client.listen(EVENTS) for _ in range(5)]
        app.publish("a", event("1"))
        await client.heard(1, *tabs)
        last_event_id = tabs[0].messages[0].last_event_id
        nursery.start_soon(served.listening.aclose)
        await client.read_frame(GOAWAY)
        late = [await client.fetch(path) for path in (EVENTS, "/healthz", "/nowhere")]
        assert [(each.reset, each.sections) for each in late] == [(REFUSED_STREAM, [])] * 3
        with pytest.raises(OSError):  # noqa: PT011 - whatever the platform calls it
            await served.secure("h2")
        app.publish("a", event("2"))
        await _answer_drain(client)
        await client.read_to_end()
        assert all(tab.ended for tab in tabs)
    async with serving(app) as served, served.client() as client:
        for _ in range(5):
            tab = await client.listen(EVENTS, ("last-event-id", last_event_id))
            await client.heard(1, tab)
            assert tab.data == ["2"]


async def _answer_drain(client: RawClient) -> None:
    """Acknowledge the PING that stands between the two GOAWAYs."""
    asked = [each for each in client.frames if each.kind == PING and not each.is_ack]
    sent = asked[0] if asked else await client.read_frame(PING)
    await client.send(frame(PING, ACK, 0, sent.payload))


async def test_b54_head_gives_the_fields_alone() -> None:
    """HEAD: fields and END_STREAM only."""
    async with serving(h2sse.App()) as served, served.client() as client:
        for path in (EVENTS, "/", "/healthz"):
            head = await client.fetch(path, method="HEAD")
            assert [each.kind for each in head.frames] == [HEADERS]
            assert head.ended
            get = await client.open_stream(path)
            await client.answered(get)
            assert (head.status, head.fields) == (get.status, get.fields)
            await client.send(reset(get.id))
        await client.settle()
        assert nothing_is_left(served)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "get", "BREW"])
async def test_b54_other_methods_are_405(method: str) -> None:
    """Methods other than GET and HEAD: 405 with Allow."""
    async with serving(h2sse.App()) as served, served.client() as client:
        answer = await client.fetch(EVENTS, method=method, body=b"x")
        assert answer.status == 405
        assert answer.fields["allow"] == "GET, HEAD, OPTIONS"
        answer = await client.fetch("/publish")
        assert (answer.status, answer.fields["allow"]) == (405, "POST, OPTIONS")


# -- HTTP/2: connecting


@pytest.mark.parametrize(
    ("http1", "offer"), [(False, "spdy/3"), (False, "h2c"), (True, "h2")], ids=str
)
async def test_b55_no_common_protocol_is_an_alert(http1: bool, offer: str) -> None:
    """No common protocol: the alert no_application_protocol (120)."""
    async with serving(h2sse.App(), http1=http1) as served:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await served.secure(offer)
        assert "alert no application protocol" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("http1", "offer", "chosen"),
    [
        (False, ("h2", "http/1.1"), "h2"),
        (False, ("http/1.1", "h2"), "h2"),
        (False, ("http/1.1",), "http/1.1"),
        (True, ("h2", "http/1.1"), "http/1.1"),
    ],
)
async def test_b55_alpn_chooses(http1: bool, offer: tuple[str, ...], chosen: str) -> None:
    """ALPN `h2`; a client offering only http/1.1 is served so."""
    async with serving(h2sse.App(), http1=http1) as served:
        stream = await served.secure(*offer)
        assert stream.selected_alpn_protocol() == chosen
        if chosen == "http/1.1":
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
            with trio.fail_after(5):
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        await trio.aclose_forcefully(stream)


async def test_b55_tls_1_1_is_refused() -> None:
    """TLS 1.2 or later."""
    async with serving(h2sse.App()) as served:
        for version, works in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
            context = served.context("h2")
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = version
            host, port = served.address
            stream = trio.SSLStream(
                await trio.open_tcp_stream(host, port), context, server_hostname=host
            )
            if works:
                await stream.do_handshake()
                assert stream.selected_alpn_protocol() == "h2"
            else:
                with pytest.raises(trio.BrokenResourceError) as caught:
                    await stream.do_handshake()
                assert "alert protocol version" in str(caught.value.__cause__)
            await trio.aclose_forcefully(stream)


async def test_b56_settings_come_first_and_are_acknowledged() -> None:
    """SETTINGS is the first frame; every SETTINGS is acknowledged."""
    async with serving(h2sse.App()) as served, served.client() as client:
        await client.send(settings_frame({}), settings_frame({ENABLE_PUSH: 0}))
        await client.settle()
        assert client.frames[0].kind == SETTINGS
        assert [each.is_ack for each in client.frames if each.kind == SETTINGS] == [
            False,
            *[True] * 3,
        ]


@pytest.mark.parametrize(
    "first",
    [ping(b"too soon"), window_update(0, 1), frame(SETTINGS, ACK, 0), frame(0x10, 0, 0, b"a")],
)
async def test_b56_the_client_s_settings_come_first_too(first: bytes) -> None:
    """The preface is followed by SETTINGS; anything else is a connection error."""
    async with serving(h2sse.App()) as served, served.client(hello=PREFACE + first) as client:
        assert await goaway(client) == PROTOCOL_ERROR


# -- HTTP/2: responses


@pytest.mark.parametrize("status", [200, 201, 204, 301, 304, 404, 500, 599])
async def test_b57_one_status_before_all_fields(status: int) -> None:
    """One `:status`, before all fields; three digits."""
    app = h2sse.App()
    app.get("/it")(lambda _: h2sse.Response(status=status, fields=((b"etag", b'"1"'),)))
    async with serving(app) as served, served.client() as client:
        answer = await client.fetch("/it")
        assert answer.sections[0][0] == (b":status", b"%d" % status)
        assert answer.fields["etag"] == '"1"'


BAD_RESPONSE_FIELDS = [
    (b":status", b"200"),
    (b"X-Upper", b"1"),
    (b"a b", b"1"),
    (b"a:", b"1"),
    (b"", b"1"),
    (b"\xe9", b"1"),
    (b"x", b"1\r\nset-cookie: a=b"),
    (b"x", b"1\0"),
    (b"x", b" 1"),
    (b"x", b"1\t"),
]


@pytest.mark.parametrize("field", BAD_RESPONSE_FIELDS, ids=str)
def test_b58_a_bad_response_field_cannot_be_made(field: tuple[bytes, bytes]) -> None:
    """Field names in lower case, and only what RFC 9113 8.2.1 allows."""
    with pytest.raises(ValueError, match="field"):
        h2sse.Response(fields=(field,))


@pytest.mark.parametrize("field", BAD_RESPONSE_FIELDS, ids=str)
def test_b58_a_bad_stream_field_cannot_be_made(field: tuple[bytes, bytes]) -> None:
    """Field names in lower case, and only what RFC 9113 8.2.1 allows."""
    with pytest.raises(ValueError, match="field"):
        h2sse.Subscribe("a", fields=(field,))


async def test_b59_connection_specific_fields_are_left_out() -> None:
    """No connection, keep-alive, proxy-connection, upgrade, transfer-encoding."""
    specific = (
        (b"connection", b"keep-alive"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"upgrade", b"h2c"),
        (b"transfer-encoding", b"chunked"),
        (b"x-kept", b"1"),
    )
    app = h2sse.App()
    app.get("/page")(lambda _: h2sse.Response(fields=specific))
    app.stream("/stream")(lambda _: h2sse.Subscribe("a", fields=specific))
    async with serving(app) as served, served.client() as client:
        page = await client.fetch("/page")
        assert set(page.fields) == {"x-kept", "content-length"}
        stream = await client.listen("/stream")
        assert not set(stream.fields) & {name.decode() for name, _ in specific[:-1]}
        assert stream.fields["x-kept"] == "1"


# -- HTTP/2: requests

GET = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", EVENTS)]


def get(*extra: tuple[str, str], **changed: str | None) -> list[tuple[str, str]]:
    """A request's fields, some pseudo-header fields changed or left out (None)."""
    fields = [
        (name, value)
        for name, before in GET
        if (value := changed.get(name[1:], before)) is not None
    ]
    return [*fields, *extra]


MALFORMED = {
    "id with a trailing blank": get(("last-event-id", "7 ")),
    "id with a leading blank": get(("last-event-id", " 7")),
    "id that is a tab": get(("last-event-id", "\t")),
    "id with control bytes": get(("last-event-id", "a\x01\x7f")),
    "id with LF": get(("last-event-id", "1\n2")),
    "id with NUL": get(("last-event-id", "1\x00")),
    "upper-case name": get(("X-Upper", "1")),
    "name with a blank": get(("a b", "1")),
    "empty name": get(("", "1")),
    "connection": get(("connection", "close")),
    "transfer-encoding": get(("transfer-encoding", "chunked")),
    "upgrade": get(("upgrade", "websocket")),
    "te": get(("te", "gzip")),
    "no :path": get(path=None),
    "empty :path": get(path=""),
    ":path without a slash": get(path="events"),
    ":path with a fragment": get(path="/events#a"),
    ":path with a blank": get(path="/events a"),
    "no :method": get(method=None),
    ":method with a blank": get(method="GET /"),
    "no :scheme": get(scheme=None),
    "http": get(scheme="http"),
    "no authority": get(authority=None),
    "userinfo": get(authority="me@a"),
    "host differs": get(("host", "b")),
    ":method twice": [(":method", "GET"), *GET],
    "unknown pseudo-header field": [(":colour", "red"), *GET],
    ":status": [(":status", "200"), *GET],
    "pseudo-header field after others": [*GET[:3], ("accept", "*/*"), GET[3]],
    "content-length without a body": get(("content-length", "5")),
    "content-length twice": get(("content-length", "0"), ("content-length", "1")),
    "content-length of no number": get(("content-length", "-1")),
    "CONNECT with :path": get(method="CONNECT"),
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_b61_a_malformed_request_is_a_stream_error(what: str) -> None:
    """A malformed request is a *stream* error: the browser's other streams live on."""
    async with serving(h2sse.App()) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        stream = client.watch(Stream(client.next_stream))
        block = client.encode(*MALFORMED[what])
        await client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, block))
        await client.over(stream)
        assert (stream.reset, stream.sections) == (PROTOCOL_ERROR, [])
        served.app.publish("a", event("alive"))
        await client.heard(1, tab)
        # The tables of both sides agree still.
        await still_served(client)
        assert len(served.app.tabs("a")) == 1


@pytest.mark.parametrize(("length", "body"), [("5", b"1234"), ("5", b"123456"), ("0", b"1")])
async def test_b61_a_body_of_another_length_is_a_stream_error(length: str, body: bytes) -> None:
    """A request whose content-length is not that of its DATA is malformed."""
    async with serving(h2sse.App()) as served, served.client() as client:
        fields = (JSON, ("content-length", length))
        stream = await client.fetch("/publish", *fields, method="POST", body=body)
        assert (stream.reset, stream.sections) == (PROTOCOL_ERROR, [])
        await still_served(client)


async def test_b62_a_surplus_stream_is_refused_alone() -> None:
    """A stream over SETTINGS_MAX_CONCURRENT_STREAMS: REFUSED_STREAM for that stream only."""
    limits = h2sse.Limits(max_concurrent_streams=2)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        (one, first), (two, second), (three, third) = (client.request(EVENTS) for _ in range(3))
        await client.send(first, second, third)
        await client.read_until(lambda: one.body and two.body and three.over)
        assert (three.reset, three.sections) == (REFUSED_STREAM, [])
        served.app.publish("a", event())
        await client.heard(1, one, two)
        # One goes, one may come: also in one write.
        four, fourth = client.request(EVENTS)
        await client.send(reset(one.id), fourth)
        await client.begun(four)
        assert served.server.statistics().refused_streams == 1


@pytest.mark.parametrize(("limits", "advertised"), [
    (h2sse.Limits(), 256),
    (h2sse.Limits(max_concurrent_streams=5_000), 5_000),
])  # fmt: skip
async def test_b63_a_hundred_streams_or_more(limits: h2sse.Limits, advertised: int) -> None:
    """Advertise a limit of 100 or more."""
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        settings = await client.read_frame(SETTINGS)
        assert settings.settings[MAX_CONCURRENT_STREAMS] == advertised >= 100
        for _ in range(100):
            await client.listen(EVENTS)


async def test_b65_a_normal_end_is_end_stream() -> None:
    """A normal end is DATA (may be empty) with END_STREAM."""
    app = h2sse.App()
    app.get("/long")(lambda _: h2sse.Response.text("x" * 40_000))
    app.get("/none")(lambda _: h2sse.Response())
    async with (
        trio.open_nursery() as nursery,
        serving(app) as served,
        served.client() as client,
    ):
        long = await client.fetch("/long")
        assert [each.ends for each in long.frames] == [False, False, False, True]
        assert len(long.body) == 40_000
        none = await client.fetch("/none")
        assert none.frames[-1].ends
        tab = await client.listen(EVENTS)
        nursery.start_soon(served.listening.aclose)
        await _answer_drain(client)
        await client.read_to_end()
        assert tab.frames[-1].kind == DATA
        assert tab.frames[-1].ends
        assert tab.reset is None


# -- HTTP/2: streams that go


@pytest.mark.parametrize("window", [0, DEFAULT_WINDOW])
async def test_b67_a_reset_frees(window: int) -> None:
    """On RST_STREAM the producer stops and memory is freed, also while blocked on no window."""
    app = h2sse.App()
    left: list[h2sse.Presence] = []

    @app.presence("a")
    def changed(presence: h2sse.Presence) -> None:
        if not presence.joined:
            left.append(presence)

    async with (
        serving(app) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: window}) as client,
    ):
        tabs = [await client.open_stream(EVENTS) for _ in range(20)]
        await client.answered(*tabs)
        app.publish("a", event("x" * 1_000))
        await client.settle()
        assert app.hub.statistics().tabs == 20
        await client.send(*(reset(tab.id) for tab in tabs))
        await client.settle()
        assert len(left) == 20
        assert nothing_is_left(served)
        app.publish("a", event("unheard"))
        await client.settle()
        assert app.hub.statistics().delivered == 20
        assert served.server.statistics().resets_received == 20
        # An answer without a body needs no window.
        assert (await client.fetch("/healthz", method="HEAD")).status == 200


@pytest.mark.parametrize("window", [0, DEFAULT_WINDOW])
@pytest.mark.parametrize("graceful", [True, False], ids=["FIN", "RST"])
async def test_b67_a_lost_connection_frees(window: int, graceful: bool) -> None:
    """On a lost connection the producer stops and memory is freed within a moment."""
    app = h2sse.App()
    gone = trio.Event()

    @app.presence("a")
    def changed(presence: h2sse.Presence) -> None:
        if not app.tabs("a"):
            gone.set()

    async with serving(app) as served:
        async with served.client(settings={INITIAL_WINDOW_SIZE: window}) as client:
            tabs = [await client.open_stream(EVENTS) for _ in range(20)]
            await client.answered(*tabs)
            app.publish("a", event("x" * 1_000))
            if graceful:
                await client.settle()  # unread bytes would make it a reset
        with trio.fail_after(5):
            await gone.wait()
        assert nothing_is_left(served)


async def test_b67_a_thousand_streams_leave_nothing() -> None:
    """Open and cancel many streams, and count what is left."""
    app = h2sse.App()
    async with serving(app) as served:
        before: tuple[int, int] | None = None
        for _ in range(11):
            async with served.client() as client:
                for _ in range(10):
                    opened = [client.request(EVENTS) for _ in range(10)]
                    await client.send(*(data + reset(stream.id) for stream, data in opened))
                await client.settle()
                assert nothing_is_left(served)
                gc.collect()
                streams = sum(isinstance(each, h2sse.Tab) for each in gc.get_objects())
                tasks = trio.lowlevel.current_statistics().tasks_living
                assert (streams, tasks) == (before or (streams, tasks))
                before = (streams, tasks)
            await wait_all_tasks_blocked(0.01)


async def test_b67_a_reset_that_crosses_the_end_is_no_error() -> None:
    """RST_STREAM crossing our END_STREAM is no error."""
    async with serving(h2sse.App()) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        answer = await client.fetch("/healthz")
        await client.send(reset(answer.id), window_update(answer.id, 10), reset(answer.id))
        stream, data = client.request("/healthz")
        await client.send(data, reset(stream.id))
        await still_served(client)
        assert not any(each.kind in (GOAWAY, RST_STREAM) for each in client.frames)
        served.app.publish("a", event())
        await client.heard(1, tab)


async def test_b70_what_is_refused_no_handler_has_seen() -> None:
    """REFUSED_STREAM only if the application saw nothing."""
    app = h2sse.App()
    seen: list[int] = []

    @app.stream("/mine")
    def mine(request: h2sse.Request) -> h2sse.Subscribe:
        seen.append(request.stream)
        return h2sse.Subscribe("a")

    limits = h2sse.Limits(max_concurrent_streams=3)
    async with (
        trio.open_nursery() as nursery,
        serving(app, limits=limits) as served,
        served.client() as client,
    ):
        streams = [await client.open_stream("/mine") for _ in range(8)]
        await client.read_until(lambda: all(each.body or each.over for each in streams))
        nursery.start_soon(served.listening.aclose)
        await client.read_frame(GOAWAY)
        streams.append(await client.fetch("/mine"))
        refused = [each.id for each in streams if each.reset == REFUSED_STREAM]
        assert seen == [each.id for each in streams if each.id not in refused]
        assert len(refused) == 6


async def test_b71_http_1_1_required_is_never_sent() -> None:
    """Never HTTP_1_1_REQUIRED: Chromium would leave HTTP/2 for that host."""
    http1_ways = [
        get(("connection", "upgrade"), ("upgrade", "websocket")),
        get(("transfer-encoding", "chunked")),
        get(("upgrade", "h2c"), ("http2-settings", "")),
        [(":method", "CONNECT"), (":authority", "a:443")],
        get((":protocol", "websocket"), method="CONNECT"),
        get(("expect", "100-continue")),
        get(method="TRACE"),
        get(path="*", method="OPTIONS"),
    ]
    async with serving(h2sse.App()) as served, served.client() as client:
        for fields in http1_ways:
            stream = client.watch(Stream(client.next_stream))
            block = client.encode(*fields)
            await client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, block))
            await client.settle()
            assert stream.reset in (None, PROTOCOL_ERROR)
            assert stream.status in (None, 200, 204, 404, 405)
        await still_served(client)


# -- HTTP/2: windows


async def test_b72_a_stream_without_window_waits_and_the_rest_go_on() -> None:
    """Never more DATA than the smaller window; a stream without window waits, the rest go on."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        await client.send(OPEN_CONNECTION)
        stalled, *others = [await client.listen(EVENTS) for _ in range(4)]
        for other in others:
            await client.send(window_update(other.id, MIB))
        for number in range(100):
            app.publish("a", event(f"{number}" + "x" * 1_000))
            await client.heard(number + 1, *others)
        await client.settle()
        assert len(stalled.body) == DEFAULT_WINDOW  # not a byte less, either
        assert stalled.window == 0
        await client.send(window_update(stalled.id, MIB))
        await client.heard(100, stalled)
        assert stalled.messages == others[0].messages


async def test_b72_the_connection_s_window_holds_all() -> None:
    """Never more DATA than the smaller of stream and connection window."""
    app = h2sse.App()
    async with serving(app) as served, served.client(settings=OPEN_WINDOWS) as client:
        tabs = [await client.listen(EVENTS) for _ in range(3)]
        said = [app.publish("a", event("x" * 7_000)) for _ in range(10)]
        await client.settle()
        assert client.window == 0
        # Odd grants cut frames where no event ends; shares stay fair.
        for grant in (1, 2, 3, 10_000, 50_001, 7_019):
            await client.send(window_update(0, grant))
            await client.settle()
            assert client.window == 0
            sizes = [len(tab.body) for tab in tabs]
            assert max(sizes) - min(sizes) <= 2 * 16_384
        await client.send(window_update(0, 10 * MIB))
        await client.heard(10, *tabs)
        for tab in tabs:
            assert bytes(tab.body).endswith(b"".join(each.encode() for each in said))


async def test_b73_a_stalled_tab_is_ended_at_its_bound_and_resumes() -> None:
    """Bounded queue per client, with a stated rule when full: close, so that it resumes."""
    app = h2sse.App()
    limits = h2sse.Limits(tab_backlog_bytes=8_192)
    async with serving(app, limits=limits) as served, served.client() as client:
        await client.send(OPEN_CONNECTION)
        stalled, other = [await client.listen(EVENTS) for _ in range(2)]
        await client.send(window_update(other.id, MAX_WINDOW - DEFAULT_WINDOW))
        for number in range(1_000):
            app.publish("a", event(f"{number} " + "x" * 100))
            if number % 10 == 9:
                await client.heard(number + 1, other)
        assert other.data == [f"{number} " + "x" * 100 for number in range(1_000)]
        assert stalled.ended
        assert stalled.reset is None
        assert served.server.statistics().overflowed == 1
        assert len(app.tabs("a")) == 1
        # What it had is a beginning, what it resumes with is the rest.
        had = stalled.messages
        assert len(stalled.body) <= DEFAULT_WINDOW
        again = await client.listen(EVENTS, ("last-event-id", had[-1].last_event_id))
        await client.send(window_update(again.id, MIB))
        await client.read_until(lambda: len(had) + len(again.messages) == 1_000)
        assert had + again.messages == other.messages


async def test_b73_a_client_that_stops_reading_costs_its_bound_at_most(
    jumping_clock: MockClock,
) -> None:
    """One stalled reader: flat memory, others on time."""
    app = h2sse.App(limits=h2sse.Limits(history_events=10))
    limits = h2sse.Limits(tab_backlog_bytes=64 * KIB)
    async with (
        serving(app, limits=limits) as served,
        served.client(settings=OPEN_WINDOWS) as stalled,
        served.client(settings=OPEN_WINDOWS) as client,
    ):
        await stalled.send(OPEN_CONNECTION)
        await client.send(OPEN_CONNECTION)
        for _ in range(20):
            await stalled.listen(EVENTS)
        tab = await client.listen(EVENTS)
        count = 0

        async def say(times: int) -> None:
            nonlocal count
            for _ in range(times):
                app.publish("a", event("x" * 10_000))
                await client.heard(1, tab)
                count += len(tab.messages)
                del client.frames[1:], tab.frames[:], tab.messages[:], tab.body[:]

        with _traced() as held:
            await say(100)  # 20 MB: the kernel's buffers are full, and the bound is reached
            before = held()
            await say(200)
            assert held() - before < 64 * KIB
        assert count == 300
        # Within a moment they count as gone, though the client has not heard of it yet.
        await trio.sleep(2)
        assert len(app.tabs("a")) == 1
        assert served.server.statistics().overflowed == 20


@contextmanager
def _traced() -> Iterator[Callable[[], int]]:
    """How many bytes of Python objects have come to be held, and are still."""

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        yield held
    finally:
        tracemalloc.stop()


# What Chromium 156 and Firefox 153 send first: the preface, SETTINGS, WINDOW_UPDATE.
CHROMIUM = PREFACE + bytes.fromhex(
    "00001804000000000000010001000000020000000000040060000000060004000000000408000000000000ef0001"
)
FIREFOX = PREFACE + bytes.fromhex(
    "00001804000000000000010001000000020000000000040002000000050000400000000408000000000000bf0001"
)
FIREFOX_STREAM_UPDATE = 12_451_840


def test_b74_b75_the_bytes_say_what_the_lines_say() -> None:
    """Chromium: 6 MiB a stream, 15 MiB in all; Firefox: 128 KiB, 12 MiB."""
    chromium = settings_frame({1: 65536, 2: 0, 4: 6291456, 6: 262144}) + window_update(0, 15663105)
    firefox = settings_frame({1: 65536, 2: 0, 4: 131072, 5: 16384}) + window_update(0, 12517377)
    assert CHROMIUM.removeprefix(PREFACE) == chromium
    assert FIREFOX.removeprefix(PREFACE) == firefox


async def _twenty_mebibytes(
    served: Served, client: RawClient, stream: Stream, *, stream_window: int, window: int
) -> None:
    """Through one event stream, while the client gives back each window once half is used."""
    length = len(stream.body)
    for number in range(20):
        said = served.app.publish("a", event(f"{number}" + "x" * MIB)).encode()
        length += len(said)
        while len(stream.body) < length:
            have = len(stream.body)
            await client.read_until(lambda: len(stream.body) > have)  # noqa: B023 - called at once
            if stream.window < stream_window // 2:
                await client.send(window_update(stream.id, stream_window - stream.window))
            if client.window < window // 2:
                await client.send(window_update(0, window - client.window))
        assert stream.body.endswith(said)


async def test_b74_chromium_s_windows() -> None:
    """Windows as Chromium sets them (6 MiB, 15 MiB): 20 MiB pass through one stream."""
    async with serving(h2sse.App()) as served, served.client(hello=CHROMIUM) as client:
        stream = await client.listen(EVENTS, ("priority", "u=1, i"))
        assert stream.window <= 6 * MIB
        windows = {"stream_window": 6 * MIB, "window": 15 * MIB}
        await _twenty_mebibytes(served, client, stream, **windows)


async def test_b75_firefox_s_windows() -> None:
    """Windows as Firefox sets them (128 KiB, then 12 MiB): 20 MiB pass through one stream."""
    async with serving(h2sse.App()) as served, served.client(hello=FIREFOX) as client:
        client.next_stream = 3
        stream, data = client.request(EVENTS, ("te", "trailers"), ("priority", "u=4"))
        await client.send(data, window_update(stream.id, FIREFOX_STREAM_UPDATE))
        await client.begun(stream)
        windows = {"stream_window": 12 * MIB, "window": 12 * MIB}
        await _twenty_mebibytes(served, client, stream, **windows)


@pytest.mark.parametrize("tabs", [1, 5])
async def test_b76_a_lowered_initial_window_moves_open_streams_below_zero(tabs: int) -> None:
    """A new SETTINGS_INITIAL_WINDOW_SIZE moves all open streams' windows, also below zero."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        await client.send(OPEN_CONNECTION)
        streams = [await client.listen(EVENTS) for _ in range(tabs)]
        said = app.publish("a", event("x" * 200_000)).encode()
        await client.settle()
        assert {len(each.body) for each in streams} == {DEFAULT_WINDOW}
        await client.send(settings_frame({INITIAL_WINDOW_SIZE: 10}))
        await client.settle()
        assert {each.window for each in streams} == {10 - DEFAULT_WINDOW}
        one = streams[0]
        for increment, sent in ((DEFAULT_WINDOW - 11, 0), (1, 0), (1, 1), (7, 8)):
            await client.send(window_update(one.id, increment))
            await client.settle()
            assert len(one.body) == DEFAULT_WINDOW + sent
        # A stream that is opened now has ten bytes.
        new = await client.open_stream(EVENTS)
        await client.begun(new)
        await client.settle()
        assert len(new.body) == 10
        await client.send(settings_frame({INITIAL_WINDOW_SIZE: MIB}))
        await client.read_until(lambda: all(said in each.body for each in streams))
        last = app.publish("a", event("last")).encode()
        await client.read_until(lambda: all(each.body.endswith(last) for each in [*streams, new]))


async def test_b76_it_may_change_while_sending() -> None:
    """Lower it, and raise it, while sending."""
    app = h2sse.App()
    dice = random.Random(76)
    limits = h2sse.Limits(settings_frames=200)
    async with serving(app, limits=limits) as served, served.client() as client:
        await client.send(OPEN_CONNECTION)
        streams = [await client.listen(EVENTS) for _ in range(5)]
        said = []
        for _ in range(100):
            size = dice.choice((0, 1, 100, 5_000, 20_000))
            await client.send(settings_frame({INITIAL_WINDOW_SIZE: size}))
            said.append(app.publish("a", event("x" * dice.choice((1, 300, 2_000)))).encode())
            for each in streams:
                if dice.randrange(2):
                    await client.send(window_update(each.id, dice.randrange(1, 3_000)))
            if dice.randrange(3) == 0:
                await client.settle()
        await client.send(settings_frame({INITIAL_WINDOW_SIZE: 10 * MIB}))
        whole = b"".join(said)
        await client.read_until(lambda: all(each.body.endswith(whole) for each in streams))


@pytest.mark.parametrize("tabs", [1, 5])
async def test_b76_a_lowered_initial_window_holds_what_is_about_to_go(tabs: int) -> None:
    """It also moves the windows of streams that wait for the connection's window only."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        streams = [await client.listen(EVENTS) for _ in range(tabs)]
        said = app.publish("a", event("x" * 60_000)).encode()
        for _ in range(2):
            app.publish("a", event("x" * 30_000))
        await client.settle()
        assert client.window == 0
        sizes = [len(each.body) for each in streams]
        await client.send(settings_frame({INITIAL_WINDOW_SIZE: 0}), OPEN_CONNECTION)
        await client.settle()
        assert [len(each.body) for each in streams] == sizes
        await client.send(settings_frame({INITIAL_WINDOW_SIZE: MIB}))
        await client.heard(3, *streams)
        assert all(said in each.body for each in streams)


async def test_b76_a_change_up_to_the_maximum_is_legal() -> None:
    """Only a window *over* 2^31-1 is an error: what has been sent counts."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        streams = [await client.listen(EVENTS) for _ in range(2)]
        await client.send(*(window_update(each.id, MAX_WINDOW - each.window) for each in streams))
        app.publish("a", event("x" * 5_000))
        await client.heard(1, *streams)
        raised = DEFAULT_WINDOW + MAX_WINDOW - streams[0].window
        await client.send(settings_frame({INITIAL_WINDOW_SIZE: raised}))
        await client.settle()
        assert {each.window for each in streams} == {MAX_WINDOW}


@pytest.mark.parametrize("value", [2**31, 2**32 - 1])
async def test_b76_an_initial_window_over_the_maximum(value: int) -> None:
    """SETTINGS_INITIAL_WINDOW_SIZE over 2^31-1 is FLOW_CONTROL_ERROR."""
    async with serving(h2sse.App()) as served, served.client() as client:
        await client.listen(EVENTS)
        await client.send(settings_frame({INITIAL_WINDOW_SIZE: value}))
        assert await goaway(client) == FLOW_CONTROL_ERROR


@pytest.mark.parametrize("path", [EVENTS, "/long"])
async def test_b76_a_change_that_overflows_a_stream_s_window(path: str) -> None:
    """A change that drives any open stream's window over 2^31-1 is FLOW_CONTROL_ERROR."""
    app = h2sse.App()
    app.get("/long")(lambda _: h2sse.Response(body=bytes(MIB)))
    async with serving(app) as served, served.client() as client:
        stream = await client.open_stream(path)
        await client.settle()
        assert stream.body
        await client.send(window_update(stream.id, MAX_WINDOW - stream.window))
        await client.settle()
        await still_served(client) if path == EVENTS else None
        change = MAX_WINDOW - stream.window + 1
        await client.send(settings_frame({INITIAL_WINDOW_SIZE: DEFAULT_WINDOW + change}))
        assert await goaway(client) == FLOW_CONTROL_ERROR


async def test_b76_a_window_update_that_overflows() -> None:
    """Over 2^31-1 a stream's window is a stream error, the connection's a connection error."""
    async with serving(h2sse.App()) as served, served.client() as client:
        stream, other = await client.listen(EVENTS), await client.listen(EVENTS)
        await client.send(window_update(stream.id, MAX_WINDOW))
        await client.over(stream)
        assert stream.reset == FLOW_CONTROL_ERROR
        served.app.publish("a", event())
        await client.heard(1, other)
        await client.send(window_update(0, MAX_WINDOW))
        assert await goaway(client) == FLOW_CONTROL_ERROR


@pytest.mark.parametrize("size", [16_384, 65_536, 2**24 - 1])
async def test_b78_no_frame_over_the_peer_s_maximum(size: int) -> None:
    """DATA no longer than the peer's SETTINGS_MAX_FRAME_SIZE."""
    settings = OPEN_WINDOWS | {MAX_FRAME_SIZE: size}
    async with serving(h2sse.App()) as served, served.client(settings=settings) as client:
        await client.send(OPEN_CONNECTION)
        streams = [await client.listen(EVENTS) for _ in range(2)]
        said = served.app.publish("a", event("x" * MIB)).encode()
        await client.read_until(lambda: all(said in each.body for each in streams))
        for each in streams:
            sizes = [len(one.payload) for one in each.data_frames[1:]]
            assert max(sizes) <= size
            assert len(sizes) == -(-len(said) // 16_384)


async def test_b79_a_ping_is_answered_ahead_of_data() -> None:
    """PING answered with the same 8 bytes, ahead of data."""
    app = h2sse.App()
    app.get("/big")(lambda _: h2sse.Response(body=bytes(20 * MIB)))
    async with serving(app) as served, served.client(settings=OPEN_WINDOWS) as client:
        await client.send(OPEN_CONNECTION)
        stream = await client.open_stream("/big")
        await client.begun(stream)
        # Let it fill the kernel's buffers, which nothing can overtake.
        await wait_all_tasks_blocked(0.01)
        await client.send(ping(b"\0\1\2\3\xfc\xfd\xfe\xff"))
        answer = await client.read_frame(PING, ack=True)
        assert answer.payload == b"\0\1\2\3\xfc\xfd\xfe\xff"
        assert len(stream.body) < 12 * MIB
        await client.over(stream)
        assert len(stream.body) == 20 * MIB


# -- HTTP/2: going away


async def test_b80_a_shutdown_in_two_steps() -> None:
    """GOAWAY 2^31-1, a round trip, GOAWAY with the true last id, streams ended, close."""
    app = h2sse.App()
    async with (
        trio.open_nursery() as nursery,
        serving(app) as served,
        served.client() as client,
    ):
        tabs = [await client.listen(EVENTS) for _ in range(3)]
        start = len(client.frames)
        nursery.start_soon(served.listening.aclose)
        request = await client.read_frame(PING)
        # Streams are served on until the round trip is over.
        app.publish("a", event("still"))
        await client.heard(1, *tabs)
        refused = await client.fetch(EVENTS)
        assert refused.reset == REFUSED_STREAM
        await client.send(frame(PING, ACK, 0, request.payload))
        await client.read_to_end()
        frames = client.frames[start:]
        goaways = [each for each in frames if each.kind == GOAWAY]
        assert [each.code for each in goaways] == [NO_ERROR] * len(goaways)
        lasts = [each.last_stream for each in goaways]
        assert lasts[0] == MAX_WINDOW
        assert set(lasts[1:]) == {refused.id}
        assert [each.kind for each in frames[:2]] == [GOAWAY, PING]
        second = frames.index(goaways[1])
        ends = [frames.index(tab.frames[-1]) for tab in tabs]
        assert second < min(ends)
        assert all(tab.ended and tab.reset is None for tab in tabs)
        assert [tab.data for tab in tabs] == [["still"]] * 3


async def test_b80_a_client_that_answers_nothing_is_not_waited_for(
    jumping_clock: MockClock,
) -> None:
    """The round trip has an end: streams end and the connection closes within seconds."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        now = trio.current_time()
        await served.listening.aclose()
        assert trio.current_time() - now < 5
        await client.read_to_end()
        assert tab.ended


@pytest.mark.parametrize(("window", "size"), [(50, 100), (MAX_WINDOW, DEFAULT_WINDOW)])
async def test_b80_a_tab_that_does_not_read_is_ended_too(
    jumping_clock: MockClock, window: int, size: int
) -> None:
    """Streams end with END_STREAM also where a window is closed: an empty DATA needs none."""
    app = h2sse.App()
    async with (
        trio.open_nursery() as nursery,
        serving(app) as served,
        served.client(settings={INITIAL_WINDOW_SIZE: window}) as client,
    ):
        client.patience_seconds = 60
        tab = await client.listen(EVENTS)
        app.publish("a", event("x" * size))
        await client.settle()
        assert 0 in (tab.window, client.window)
        nursery.start_soon(served.listening.aclose)
        await _answer_drain(client)
        await client.read_to_end()
        assert tab.ended
        assert tab.reset is None


async def test_b80_an_answer_on_its_way_is_finished(jumping_clock: MockClock) -> None:
    """A request that was taken before the GOAWAY is answered in whole."""
    app = h2sse.App()
    go_on = trio.Event()

    @app.get("/slow")
    async def slow(_: h2sse.Request) -> h2sse.Response:
        await go_on.wait()
        return h2sse.Response.text("x" * 100_000)

    async with (
        trio.open_nursery() as nursery,
        serving(app) as served,
        served.client(settings=OPEN_WINDOWS) as client,
    ):
        await client.send(OPEN_CONNECTION)
        stream = await client.open_stream("/slow")
        await client.settle()
        nursery.start_soon(served.listening.aclose)
        await _answer_drain(client)
        await client.settle()
        go_on.set()
        await client.read_to_end()
        assert (stream.status, len(stream.body), stream.ended) == (200, 100_000, True)


async def test_b80_a_long_answer_is_finished_too() -> None:
    """What is on its way goes out in whole, also when the socket is full at the second GOAWAY."""
    app = h2sse.App()
    app.get("/big")(lambda _: h2sse.Response(body=bytes(20 * MIB)))
    async with (
        trio.open_nursery() as nursery,
        serving(app) as served,
        served.client(settings=OPEN_WINDOWS) as client,
    ):
        await client.send(OPEN_CONNECTION)
        tab = await client.listen(EVENTS)
        stream = await client.open_stream("/big")
        await wait_all_tasks_blocked(0.01)
        nursery.start_soon(served.listening.aclose)
        await _answer_drain(client)
        await wait_all_tasks_blocked(0.01)
        assert not stream.ended
        await client.read_to_end()
        assert (stream.status, len(stream.body), stream.ended) == (200, 20 * MIB, True)
        assert tab.ended


async def test_b80_after_a_client_s_goaway_its_streams_are_served_on() -> None:
    """A client that says GOAWAY opens nothing more, but reads its streams to their end."""
    async with serving(h2sse.App()) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        await client.send(frame(GOAWAY, 0, 0, bytes(8)))
        served.app.publish("a", event())
        await client.heard(1, tab)
        await client.settle()
        await client.send(reset(tab.id))
        await client.settle()
        assert nothing_is_left(served)


# -- HTTP/2: what is ignored, and what is odd but legal


async def test_b83_unknown_frames_flags_and_settings_are_ignored() -> None:
    """Unknown frame types, flags and settings are ignored."""
    async with serving(h2sse.App()) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        for kind, on in itertools.product((0x0A, 0x10, 0xFA, 0xFF), (0, tab.id, 2, 12_345)):
            await client.send(frame(kind, 0xFF, on, b"whatever"))
        await client.send(settings_frame({0x1A1A: 7, 0: 1, 0xFFFF: 2**32 - 1}))
        await client.send(frame(PING, 0xFE, 0, b"flagged!"), frame(SETTINGS, 0xFE, 0))
        stream, data = client.request("/healthz")
        # 0xd2 is every flag of HEADERS that has no meaning.
        await client.send(data[:4] + bytes((data[4] | 0xD2,)) + data[5:])
        await client.over(stream)
        assert stream.status == 200
        served.app.publish("a", event())
        await client.heard(1, tab)
        assert not any(each.kind in (GOAWAY, RST_STREAM) for each in client.frames)
        assert [each.payload for each in client.frames if each.kind == PING] == [b"flagged!"]


async def test_b83_but_not_amid_a_header_section() -> None:
    """Extension frames in the middle of a header section are a connection error."""
    async with serving(h2sse.App()) as served, served.client() as client:
        _, data = client.request("/healthz")
        await client.send(data[:4] + bytes((END_STREAM,)) + data[5:], frame(0xFA, 0, 0, b"a"))
        assert await goaway(client) == PROTOCOL_ERROR


async def test_b84_cookies_are_joined() -> None:
    """`cookie` may come in several fields: join with "; "."""
    app = h2sse.App()
    app.get("/cookie")(lambda request: h2sse.Response.text(request.header("cookie") or ""))
    async with serving(app) as served, served.client() as client:
        crumbs = [("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2"), ("cookie", "c=3; d=4")]
        answer = await client.fetch("/cookie", *crumbs)
        assert answer.body == b"a=1; b=2; c=3; d=4"


async def test_the_tables_agree_though_a_field_is_indexed_twice() -> None:
    """RFC 7541 2.3.2: the dynamic table may hold duplicate entries."""
    async with serving(h2sse.App()) as served, served.client() as client:
        # :method GET and :scheme https from the static table, :authority and :path as they are.
        request = b"\x82\x87\x01\x01a\x04\x08/healthz"
        literal = b"\x40\x01x\x011"  # x: 1, into the table, whatever is there already
        oldest = b"\xc2"  # after five of them, the first stands at 66
        for block in (*[request + literal] * 5, request + oldest):
            stream = client.watch(Stream(client.next_stream))
            await client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, block))
            await client.over(stream)
            assert stream.status == 200


async def test_the_tables_agree_though_the_client_resizes_its_own() -> None:
    """RFC 7541 4.2: after SETTINGS_HEADER_TABLE_SIZE the encoder says the size it uses."""
    async with serving(h2sse.App()) as served, served.client() as client:
        for sizes in ((4096,), (100,), (), (0,), (65_536,), (0, 4096), (50, 2**32 - 1), (), (1,)):
            await client.send(*(settings_frame({HEADER_TABLE_SIZE: size}) for size in sizes))
            for path in ("/healthz", "/", "/nowhere", EVENTS, "/", "/healthz"):
                stream = await client.open_stream(path)
                await client.begun(stream)
                assert stream.status == (404 if path == "/nowhere" else 200)


@pytest.mark.parametrize("first", [3, 15, 2**31 - 3])
async def test_b85_te_trailers_and_stream_numbers(first: int) -> None:
    """`te: trailers` is legal; stream numbers may start at 3."""
    async with serving(h2sse.App()) as served, served.client() as client:
        client.next_stream = first
        tab = await client.listen(EVENTS, ("te", "trailers"))
        assert tab.id == first
        served.app.publish("a", event())
        await client.heard(1, tab)


async def test_b86_priorities_are_ignored() -> None:
    """Priorities in fields, HEADERS and PRIORITY frames, bad ones too, are no error."""
    async with serving(h2sse.App()) as served, served.client() as client:
        tabs = [
            await client.listen(EVENTS, ("priority", value))
            for value in ("u=1, i", "u=4", "u=99", "u=-1", "i=?2", "???", "", "u=" * 500)
        ]
        for number in range(5):
            stream, data = client.request("/healthz")
            block = (number | 2**31).to_bytes(4, "big") + b"\xff" + data[9:]  # exclusive
            await client.send(frame(HEADERS, END_HEADERS | END_STREAM | 0x20, stream.id, block))
            await client.over(stream)
            assert stream.status == 200
        for stream_id in (tabs[0].id, stream.id, 101, 2):
            await client.send(frame(PRIORITY, 0, stream_id, bytes(4) + b"\0"))
        await still_served(client)
        served.app.publish("a", event())
        await client.heard(1, *tabs)
        assert not any(each.kind in (GOAWAY, RST_STREAM) for each in client.frames)


@pytest.mark.parametrize("kind", ["responses", "tabs", "stalled tabs"])
async def test_b86_a_page_is_not_starved_by_streams_with_data(kind: str) -> None:
    """A u=0 page request is not starved by 50 streams with data."""
    app = h2sse.App()
    app.get("/long")(lambda _: h2sse.Response(body=bytes(200_000)))
    app.get("/page")(lambda _: h2sse.Response(body=bytes(10_000)))
    path = "/long" if kind == "responses" else EVENTS
    async with serving(app) as served, served.client(settings=OPEN_WINDOWS) as client:
        busy = [await client.open_stream(path) for _ in range(50)]
        await client.settle()
        if kind != "responses":
            assert all(each.body for each in busy)
            if kind == "stalled tabs":
                await client.send(window_update(0, 1))
            app.publish("a", event("x" * 200_000))
            await client.settle()
        assert client.window == 0
        page = await client.open_stream("/page", ("priority", "u=0"))
        await client.settle()
        assert page.status == 200
        # One turn of everyone, of one full frame, is the most that it may wait.
        await client.send(window_update(0, 51 * 16_384))
        # Not `settle`: a PING's answer overtakes what a full socket holds back.
        await client.read_until(lambda: not client.window)
        assert page.ended
        assert not any(each.ended for each in busy)


async def test_b87_rfc_7540_priorities_are_settled_once() -> None:
    """SETTINGS_NO_RFC7540_PRIORITIES, if sent, is 1, in the first SETTINGS, and never changes."""
    async with serving(h2sse.App()) as served, served.client(settings={9: 1}) as client:
        tab = await client.listen(EVENTS)
        # PRIORITY_UPDATE, on stream 0 only, of a stream that is open, over, or to come.
        for stream in (tab.id, 2, 99):
            await client.send(frame(0x10, 0, 0, stream.to_bytes(4, "big") + b"u=0"))
        await still_served(client)
        sent = [each.settings for each in client.frames if each.kind == SETTINGS]
        assert [each[9] for each in sent if 9 in each] in ([], [1])
        assert 9 not in {name for each in sent[1:] for name in each}
        assert all(each.kind != 0x10 for each in client.frames)


@pytest.mark.parametrize("enabled", [0, 1])
async def test_b88_nothing_is_pushed(enabled: int) -> None:
    """No PUSH_PROMISE: both browsers send ENABLE_PUSH=0."""
    async with (
        serving(h2sse.App()) as served,
        served.client(settings={ENABLE_PUSH: enabled}) as client,
    ):
        for path in ("/", "/healthz"):
            await client.fetch(path)
        await client.listen(EVENTS)
        # RFC 9113 6.5.2: a server must not enable it either.
        assert client.frames[0].settings.get(ENABLE_PUSH, 0) == 0
        assert {each.kind for each in client.frames} <= {DATA, HEADERS, SETTINGS}
        assert all(each.stream % 2 for each in client.frames if each.stream)


# -- HTTP/2: hostile peers


async def test_b89_continuation_frames_are_bounded() -> None:
    """A header section takes a few CONTINUATION frames, not any number."""
    bound = h2sse.Limits().continuation_frames
    async with serving(h2sse.App()) as served:
        async with served.client() as client:
            stream, pieces = _in_pieces(client, bound)
            await client.send(*pieces)
            await client.over(stream)
            assert stream.status == 200
        async with served.client() as client:
            _, pieces = _in_pieces(client, bound + 1)
            # It is not the last frame that is one too many: the end need not come.
            await client.send(*pieces[:-1], frame(CONTINUATION, 0, 1, b""))
            assert await goaway(client) == ENHANCE_YOUR_CALM


def _in_pieces(client: RawClient, continuations: int) -> tuple[Stream, list[bytes]]:
    """A request in HEADERS and so many CONTINUATION frames."""
    stream, data = client.request("/healthz")
    block = data[9:]
    pieces = [frame(HEADERS, END_STREAM, stream.id, block[:1])]
    cuts = [1 + at * (len(block) - 1) // continuations for at in range(continuations + 1)]
    for start, end in itertools.pairwise(cuts):
        last = END_HEADERS if end == len(block) else 0
        pieces.append(frame(CONTINUATION, last, stream.id, block[start:end]))
    return stream, pieces


async def test_b89_unknown_settings_are_not_kept() -> None:
    """Settings that nobody knows cost nothing once they are acknowledged."""
    limits = h2sse.Limits(settings_entries=0x800, settings_frames=100)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        await client.settle()
        with _traced() as held:
            for start in range(0x1000, 0x9000, 0x800):
                names = range(start, start + 0x800)
                await client.send(settings_frame(dict.fromkeys(names, 1)))
            await client.settle()
            del client.frames[1:]
            kept = held()
        # h2 would keep each for ever: 32,768 of them are 14 MB.
        assert kept < MIB


async def test_b89_a_frame_too_long_is_refused_by_its_head() -> None:
    """A frame over SETTINGS_MAX_FRAME_SIZE ends the connection before its body has come."""
    async with serving(h2sse.App()) as served, served.client() as client:
        await client.send(b"\xff\xff\xff" + bytes((DATA, 0)) + bytes(4))
        assert await goaway(client) == FRAME_SIZE_ERROR


@pytest.mark.parametrize(
    ("limits", "fields", "status"),
    [
        (h2sse.Limits(header_list_bytes=2_000), [("x", "y" * 2_000)], 431),
        (h2sse.Limits(header_fields=20), [("x", "")] * 21, 431),
        (h2sse.Limits(header_fields=20), [("cookie", "a")] * 21, 431),
    ],
    ids=["bytes", "fields", "crumbs"],
)
async def test_b89_a_header_list_is_bounded(
    limits: h2sse.Limits, fields: list[tuple[str, str]], status: int
) -> None:
    """A header section over the bound is answered, and its connection lives."""
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        answer = await client.fetch("/healthz", *fields)
        assert answer.status == status
        await still_served(client)


async def test_b89_surplus_streams_do_not_pile_up() -> None:
    """A hundred streams over the limit, in one write, leave nothing behind."""
    limits = h2sse.Limits(max_concurrent_streams=1)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        for _ in range(5):
            opened = [client.request(EVENTS) for _ in range(20)]
            await client.send(*(data for _, data in opened))
            await client.over(*(stream for stream, _ in opened))
            assert {stream.reset for stream, _ in opened} == {REFUSED_STREAM}
        assert len(served.app.tabs("a")) == 1
        served.app.publish("a", event())
        await client.heard(1, tab)


async def test_b90_a_client_is_not_its_connection() -> None:
    """Chromium keeps two connections to one host: per-client state must not hang on one."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as second:
        async with served.client() as first:
            tabs = [await each.listen(EVENTS) for each in (first, second)]
            app.publish("a", event("1"))
            for each, tab in zip((first, second), tabs, strict=True):
                await each.heard(1, tab)
            assert tabs[0].messages == tabs[1].messages
            assert len({tab.connection for tab in app.tabs("a")}) == 2
            last_event_id = tabs[0].messages[0].last_event_id
        # What was lost on one connection is resumed on the other.
        app.publish("a", event("2"))
        resumed = await second.listen(EVENTS, ("last-event-id", last_event_id))
        await second.heard(1, resumed)
        assert resumed.data == ["2"]
        await second.heard(2, tabs[1])


# -- docs/behaviour.md, which is made of these lines

REFERENCE = (Path(__file__).parents[1] / "docs" / "behaviour.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^### .+?: (B\d+.*)\n\n((?:- .*\n(?:  .*\n)*)+)", REFERENCE, re.MULTILINE)


def test_the_reference_has_every_clause_once() -> None:
    headed = [number for title, _ in SECTIONS for number in re.findall(r"B(\d+)", title)]
    assert sorted(map(int, headed)) == list(range(1, 91))
    assert REFERENCE.count("\n### ") == len(SECTIONS)


def test_each_clause_is_told_from_all_sides() -> None:
    for title, text in SECTIONS:
        labels = re.findall(r"^- \*\*(\w+):\*\* \S", text, re.MULTILINE)
        assert labels == ["Standard", "Browsers", "h2sse", "Trace", "Tests"], title


def test_each_clause_links_to_its_tests_and_no_test_is_left_out() -> None:
    def tests(file: str) -> set[str]:
        text = (Path(__file__).parent / file).read_text(encoding="utf-8")
        return set(re.findall(r"^(?:async )?def (test_\w+)\(", text, re.MULTILINE))

    linked: dict[str, set[str]] = {}
    for title, text in SECTIONS:
        links = re.findall(r"\[`(test_\w+)`\]\(\.\./tests/([\w/]+\.py)\)", text)
        assert links, title
        for name, file in links:
            linked.setdefault(file, set()).add(name)
    for file, names in linked.items():
        assert names <= tests(file)
    for file in ("test_behaviours.py", "test_client.py", "test_client_source.py"):
        assert {name for name in tests(file) if re.match(r"test_b\d", name)} <= linked[file]
