"""The client over real sockets and real TLS, against h2sse and against servers that misbehave.

Time is `jumping_clock`'s: a reconnection takes a moment, and what came without a jump waited for no
timer.  tests/test_client_source.py has the algorithm alone,
tests/test_client_disconnects.py a thousand disconnects.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from socket import SO_LINGER, SOL_SOCKET

import pytest
import trio
from client_support import OK, PATIENCE_SECONDS, Asked, Peer, Reader, Scripted, scripted
from support import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    PING,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    certificates,
    frame,
    ping,
    reset,
    serving,
    settings_frame,
)
from trio.testing import MockClock, wait_all_tasks_blocked

import h2sse
from h2sse.client import Client, ClientLimits, EventSource, ReadyState, SourceFailed

PROTOCOL_ERROR, REFUSED_STREAM, CANCEL = 1, 7, 8


async def opened(server: Scripted, nursery: trio.Nursery) -> tuple[Reader, Peer, Asked]:
    """A reader whose stream is open, and has had an event with id 7."""
    reader = Reader(server.source())
    nursery.start_soon(reader.run)
    peer = await server.accept()
    asked = await peer.asked()
    await peer.answer(asked, body=b"retry: 2000\nid: 7\ndata: first\n\n")
    await reader.heard("first")
    return reader, peer, asked


def state(source: EventSource) -> ReadyState:
    """As it is now; mypy takes an attribute to stay what it was found to be."""
    return source.ready_state


async def again(peer: Peer, reader: Reader, *, after: float) -> None:
    """The next request: with the id, after the reconnection time, or at once; it is served."""
    asked = await peer.asked()
    waited = asked.at - after
    assert 2 <= waited <= 2.6
    assert asked["last-event-id"] == b"7"
    await peer.answer(asked, body=b"data: second\n\n")
    await reader.heard("first", "second")


# -- against h2sse itself


@pytest.mark.parametrize("http1", [False, True])
async def test_events_arrive(jumping_clock: MockClock, http1: bool) -> None:
    app = h2sse.App()
    async with serving(app) as served:
        url = f"https://127.0.0.1:{served.address[1]}/events?topic=a"
        async with EventSource(url, ca_file=served.ca, http1=http1) as source:
            assert source.ready_state is source.CONNECTING
            await source.wait_open()
            assert source.ready_state is EventSource.OPEN
            for n in range(3):
                app.publish("a", h2sse.Event(data=f"é\n{n}", event="e"))
            seen = [await anext(source) for _ in range(3)]
            assert [(each.event, each.data) for each in seen] == [
                ("e", "é\n0"),
                ("e", "é\n1"),
                ("e", "é\n2"),
            ]
            assert source.last_event_id == seen[-1].last_event_id
            (protocol,) = served.server.statistics().connections
            assert protocol == ("http/1.1" if http1 else "h2")


async def test_a_thousand_sources_share_a_connection(jumping_clock: MockClock) -> None:
    app = h2sse.App()
    limits = h2sse.Limits(max_concurrent_streams=1_000)
    async with serving(app, limits=limits) as served:
        url = f"https://127.0.0.1:{served.address[1]}/events?topic=a"
        async with Client(ca_file=served.ca) as client:
            sources = [client.events(url) for _ in range(1_000)]
            async with trio.open_nursery() as opening:
                for source in sources:
                    opening.start_soon(source.wait_open)
            app.publish("a", h2sse.Event(data="x"))
            assert {(await anext(source)).data for source in sources} == {"x"}
            assert served.server.statistics().accepted == 1
            for source in sources:
                source.close()


async def test_a_restart_is_survived(
    jumping_clock: MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="h2sse.client")
    app = h2sse.App()
    async with serving(app) as served:
        port = served.address[1]
        reader = Reader(EventSource(f"https://127.0.0.1:{port}/events?topic=a", ca_file=served.ca))
        nursery.start_soon(reader.run)
        await wait_all_tasks_blocked(0.02)
        app.publish("a", h2sse.Event(data="x"))
        await reader.heard("x")
        await served.listening.aclose()
    app.publish("a", h2sse.Event(data="missed"))
    tls = h2sse.Tls(directory=certificates())
    await nursery.start(h2sse.serve, app, h2sse.Config(host="127.0.0.1", port=port, tls=tls))
    await reader.heard("x", "missed")
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert "the server ended the stream; again in" in told
    assert told.count(": open") == 2


# -- requests


async def test_b1_b55_b56_the_first_request(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server:
        headers = (("Authorization", "Bearer x"),)
        reader = Reader(server.source("/a?b", headers=headers, last_event_id="é"))
        nursery.start_soon(reader.run)
        peer = await server.accept()
        asked = await peer.asked()
        assert peer.frames[0].kind == SETTINGS
        assert peer.frames[0].settings[2] == 0, "no push"
        assert asked.ended
        assert asked.fields[:4] == [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", f"127.0.0.1:{server.port}".encode()),
            (b":path", b"/a?b"),
        ]
        assert asked["accept"] == b"text/event-stream"
        assert asked["last-event-id"] == "é".encode()
        assert asked["authorization"] == b"Bearer x"
        await peer.read_until(lambda: any(each.is_ack for each in peer.frames))  # SETTINGS
        assert DATA not in {each.kind for each in peer.frames}


async def test_b10_open_with_the_head(jumping_clock: MockClock, nursery: trio.Nursery) -> None:
    async with scripted() as server, server.source() as source:
        nursery.start_soon(source.wait_open)
        peer = await server.accept()
        asked = await peer.asked()
        assert state(source) is ReadyState.CONNECTING
        await peer.answer(asked)
        await wait_all_tasks_blocked(0.02)
        assert state(source) is ReadyState.OPEN


# -- answers


async def test_b11_204_ends_the_iteration(jumping_clock: MockClock, nursery: trio.Nursery) -> None:
    async with scripted() as server:
        reader, peer, asked = await opened(server, nursery)
        await peer.data(asked, b"", ends=True)
        await peer.answer(await peer.asked(), 204, (), ends=True)
        assert await reader.end() is None
        assert reader.source.ready_state is ReadyState.CLOSED
        await peer.closed()
        assert len(peer.requests) == 2
        assert server.accepted == 1


@pytest.mark.parametrize("http1", [False, True])
async def test_b12_other_statuses_raise(
    jumping_clock: MockClock, nursery: trio.Nursery, http1: bool
) -> None:
    async with scripted() as server:
        reader = Reader(server.source(http1=http1))
        nursery.start_soon(reader.run)
        if http1:
            peer1 = await server.accept1()
            await peer1.asked()
            await peer1.send(b"HTTP/1.1 503 No\r\nretry-after: 1\r\ncontent-length: 9\r\n\r\n")
            await peer1.closed()
        else:
            peer = await server.accept()
            asked = await peer.asked()
            await peer.answer(asked, 503, (*OK, ("retry-after", "1")), b"data: x\n\n")
            assert await peer.reset_of(asked) == CANCEL
        failure = await reader.end()
        assert failure is not None
        assert (failure.status, failure.url) == (503, server.url())
        assert reader.messages == []
        assert server.accepted == 1


async def test_failed_once_it_has_nothing_more_to_say(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server, server.source() as source:

        async def serve() -> None:
            peer = await server.accept()
            await peer.answer(await peer.asked(), 200, (("content-type", "text/html"),))
            await peer.closed()

        nursery.start_soon(serve)
        with pytest.raises(SourceFailed, match="Content-Type is text/html"):
            await source.wait_open()
        with pytest.raises(StopAsyncIteration):
            await anext(source)


async def test_b16_b20_a_redirect_to_another_origin(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as first, scripted() as second:
        reader = Reader(first.source(headers=(("authorization", "x"),), last_event_id="7"))
        nursery.start_soon(reader.run)
        peer = await first.accept()
        asked = await peer.asked()
        await peer.answer(asked, 307, (("location", second.url("/there")),), b"not read")
        assert await peer.reset_of(asked) == CANCEL
        other = await second.accept()
        asked = await other.asked()
        assert (asked[":method"], asked[":path"]) == (b"GET", b"/there")
        assert asked["last-event-id"] == b"7"
        assert "authorization" not in asked
        await other.answer(asked, body=b"data: x\n\n")
        await reader.heard("x")
        assert reader.source.url == first.url()
        assert reader.source.current_url == second.url("/there")
        await other.data(asked, b"", ends=True)
        assert (await other.asked())[":path"] == b"/there"  # B19


async def test_b17_a_loop_of_redirects_ends(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server:
        reader = Reader(server.source())
        nursery.start_soon(reader.run)
        peer = await server.accept()
        for _ in range(21):
            await peer.answer(await peer.asked(), 302, (("location", "/events"),), ends=True)
        failure = await reader.end()
        assert failure is not None
        assert "redirects" in str(failure)
        assert len(peer.requests) == 21


async def test_b23_interim_responses_and_trailers_do_no_harm(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server:
        reader = Reader(server.source())
        nursery.start_soon(reader.run)
        peer = await server.accept()
        asked = await peer.asked()
        await peer.send(peer.section(asked, (":status", "103"), ("link", "</a>")))
        await peer.send(peer.section(asked, (":status", "100")))
        await peer.answer(asked, body=b"retry: 100\ndata: x\n\n")
        await reader.heard("x")
        await peer.send(peer.section(asked, ("x-checksum", "1"), flags=END_STREAM))
        await peer.answer(await peer.asked(), body=b"data: y\n\n")
        await reader.heard("x", "y")


# -- drops


async def test_b21_a_closed_port_is_tried_again(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server:
        reader = Reader(server.source())
        port = server.port
    nursery.start_soon(reader.run)
    await trio.sleep(60)
    assert not reader.over
    async with scripted(port=port) as server:
        peer = await server.accept()
        await peer.answer(await peer.asked(), body=b"data: x\n\n")
        await reader.heard("x")


async def test_b26_the_end_of_a_stream_is_a_drop(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server:
        reader, peer, asked = await opened(server, nursery)
        now = trio.current_time()
        await peer.data(asked, b"data: unfinished", ends=True)
        await again(peer, reader, after=now)
        assert server.accepted == 1


async def test_b26_an_empty_stream_is_a_drop(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server:
        reader = Reader(server.source())
        nursery.start_soon(reader.run)
        peer = await server.accept()
        await peer.answer(await peer.asked(), ends=True)
        await peer.answer(await peer.asked(), body=b"data: x\n\n")
        await reader.heard("x")


@pytest.mark.parametrize("code", [0, 1, 2, 3, 5, 7, 8, 11, 999])
async def test_b68_a_reset_after_the_head_is_a_drop(
    jumping_clock: MockClock, nursery: trio.Nursery, code: int
) -> None:
    async with scripted() as server:
        reader, peer, asked = await opened(server, nursery)
        now = trio.current_time()
        await peer.send(reset(asked.stream, code))
        await again(peer, reader, after=now)
        assert server.accepted == 1


@pytest.mark.parametrize("code", [1, 2, 8, 11])
async def test_b69_other_resets_before_the_head_wait(
    jumping_clock: MockClock, nursery: trio.Nursery, code: int
) -> None:
    async with scripted() as server:
        reader = Reader(server.source())
        nursery.start_soon(reader.run)
        peer = await server.accept()
        asked = await peer.asked()
        await peer.send(reset(asked.stream, code))
        assert (await peer.asked()).at - asked.at >= 3


async def test_b69_a_refused_stream_is_asked_for_again_at_once(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server:
        reader = Reader(server.source())
        nursery.start_soon(reader.run)
        peer = await server.accept()
        times = []
        for _ in range(5):
            asked = await peer.asked()
            times.append(asked.at)
            await peer.send(reset(asked.stream, REFUSED_STREAM))
        waits = [b - a for a, b in pairwise(times)]
        assert max(waits[:3]) < 0.5
        assert waits[3] >= 3, "but not for ever"
        assert server.accepted == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_b82_a_lost_connection_is_a_drop(
    jumping_clock: MockClock, nursery: trio.Nursery, how: str
) -> None:
    async with scripted() as server:
        reader, peer, asked = await opened(server, nursery)
        await peer.data(asked, b"id: 8\ndata: cut")
        now = trio.current_time()
        if how == "rst":
            linger = struct.pack("ii", 1, 0)
            peer.transport.transport_stream.setsockopt(SOL_SOCKET, SO_LINGER, linger)
        await peer.kill()
        await again(await server.accept(), reader, after=now)


async def test_a_server_that_accepts_and_says_nothing(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server:
        reader = Reader(server.source())
        nursery.start_soon(reader.run)
        silent = await server.accept()
        first = await silent.asked()
        assert await silent.reset_of(first) == CANCEL
        assert trio.current_time() - first.at >= 30
        await silent.closed()  # not even the PING was answered
        peer = await server.accept()
        await peer.answer(await peer.asked(), body=b"data: x\n\n")
        await reader.heard("x")


async def test_a_server_without_tls_is_tried_again(
    jumping_clock: MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="h2sse.client")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with scripted() as server, listener:
        server.port = listener.socket.getsockname()[1]
        nursery.start_soon(Reader(server.source()).run)
        for _ in range(2):
            plain = await listener.accept()
            await plain.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await plain.aclose()
        await wait_all_tasks_blocked(0.02)
        assert "no TLS with" in caplog.text


# -- GOAWAY


async def test_b80_b81_goaway_lets_streams_go_on(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server:
        reader, peer, asked = await opened(server, nursery)
        await peer.goaway(2**31 - 1)
        await peer.data(asked, b"data: still here\n\n")
        await reader.heard("first", "still here")
        await peer.goaway(asked.stream)
        await peer.data(asked, b"data: and here\n\n", ends=True)
        await reader.heard("first", "still here", "and here")
        await peer.closed()  # nothing is left on it
        other = await server.accept()
        assert (await other.asked())["last-event-id"] == b"7"


async def test_b81_streams_above_the_last_id_go_elsewhere_at_once(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server, server.client() as client:
        readers = [Reader(client.events(server.url(f"/{n}"))) for n in range(2)]
        nursery.start_soon(readers[0].run)
        peer = await server.accept()
        first = await peer.asked()
        await peer.answer(first, body=b"data: a\n\n")
        nursery.start_soon(readers[1].run)
        above = await peer.asked()
        await peer.goaway(first.stream)
        other = await server.accept()
        asked = await other.asked()
        assert asked[":path"] == b"/1"
        assert asked.at - above.at < 0.5
        await other.answer(asked, body=b"data: b\n\n")
        await readers[1].heard("b")
        await peer.data(first, b"data: c\n\n")
        await readers[0].heard("a", "c")
        await peer.data(first, b"", ends=True)
        assert (await other.asked())[":path"] == b"/0"
        await peer.closed()


# -- malformed responses


# What the server sends on a stream that was asked for.
Bad = Callable[[Peer, Asked], bytes]

MALFORMED: dict[str, tuple[tuple[str, str], ...]] = {
    "no status": OK,
    "status last": (*OK, (":status", "200")),
    "two": ((":status", "200"), (":status", "200"), *OK),
    "two digits": ((":status", "20"), *OK),
    "letters": ((":status", "2o0"), *OK),
    "101": ((":status", "101"), *OK),
    "pseudo": ((":status", "200"), (":path", "/"), *OK),
    "upper case": ((":status", "200"), ("X-Upper", "1"), *OK),
    "blank": ((":status", "200"), ("x", " 1"), *OK),
    "line break": ((":status", "200"), ("x", "1\r\ny: 2"), *OK),
    "connection": ((":status", "200"), ("connection", "close"), *OK),
    "keep-alive": ((":status", "200"), ("keep-alive", "1"), *OK),
    "upgrade": ((":status", "200"), ("upgrade", "h2c"), *OK),
    "transfer-encoding": ((":status", "200"), ("transfer-encoding", "chunked"), *OK),
    "lengths": ((":status", "200"), ("content-length", "1"), ("content-length", "2"), *OK),
    "length": ((":status", "200"), ("content-length", "-1"), *OK),
}


@pytest.mark.parametrize("section", MALFORMED.values(), ids=MALFORMED)
async def test_b57_b60_a_malformed_response_ends_its_stream_alone(
    jumping_clock: MockClock, nursery: trio.Nursery, section: tuple[tuple[str, str], ...]
) -> None:
    async with scripted() as server:
        await malformed(server, nursery, lambda peer, asked: peer.section(asked, *section))


async def malformed(server: Scripted, nursery: trio.Nursery, bad: Bad) -> None:
    """Two streams: what one gets is `bad`, the other and the connection live on."""
    async with server.client() as client:
        readers = [Reader(client.events(server.url(f"/{n}"))) for n in range(2)]
        nursery.start_soon(readers[0].run)
        peer = await server.accept()
        good = await peer.asked()
        await peer.answer(good, body=b"data: a\n\n")
        nursery.start_soon(readers[1].run)
        asked = await peer.asked()
        await peer.send(bad(peer, asked))
        assert await peer.reset_of(asked) == PROTOCOL_ERROR
        await peer.data(good, b"data: b\n\n")
        await readers[0].heard("a", "b")
        # What the standard does after a network error: it comes back.
        asked = await peer.asked()
        assert asked[":path"] == b"/1"
        await peer.answer(asked, body=b"data: c\n\n")
        await readers[1].until(lambda: "c" in readers[1].data)
        assert server.accepted == 1


BODIES: dict[str, Bad] = {
    "data before the head": lambda _, a: frame(DATA, 0, a.stream, b"data: x\n\n"),
    "more than content-length": lambda p, a: (
        p.head(a, 200, (*OK, ("content-length", "2"))) + frame(DATA, 0, a.stream, b"xyz")
    ),
    "trailers without an end": lambda p, a: p.head(a) + p.section(a, ("x", "1")),
    "a second head": lambda p, a: p.head(a) + p.head(a, flags=END_STREAM),
    "the end of an interim response": lambda p, a: p.head(a, 103, (), END_STREAM),
}


@pytest.mark.parametrize("bad", BODIES.values(), ids=BODIES)
async def test_b60_what_is_out_of_order_ends_its_stream_alone(
    jumping_clock: MockClock, nursery: trio.Nursery, bad: Bad
) -> None:
    async with scripted() as server:
        await malformed(server, nursery, bad)


FAULTS: dict[str, Bad] = {
    "a huge frame": lambda _p, _a: b"\xff\xff\xff\0\0\0\0\0\1",
    "hpack": lambda _, a: frame(HEADERS, END_HEADERS, a.stream, b"\xff\xff\xff\xff\xff"),
    "an idle stream": lambda _, a: frame(DATA, 0, a.stream + 2, b"x"),
    "push": lambda _, a: frame(PUSH_PROMISE, END_HEADERS, a.stream, b"\0\0\0\2"),
    "an interrupted section": lambda _, a: frame(HEADERS, 0, a.stream) + ping(b"12345678"),
    "an endless section": lambda _, a: (
        frame(HEADERS, 0, a.stream) + frame(CONTINUATION, 0, a.stream) * 9
    ),
    "a window that overflows": lambda _p, _a: frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
    "padding": lambda p, a: p.head(a) + frame(DATA, 8, a.stream, b"\xff"),
    "a short goaway": lambda _p, _a: frame(GOAWAY, 0, 0, b"\0\0\0\0"),
}


@pytest.mark.parametrize("bad", FAULTS.values(), ids=FAULTS)
async def test_a_connection_error_is_a_drop(
    jumping_clock: MockClock, nursery: trio.Nursery, bad: Bad
) -> None:
    async with scripted() as server:
        reader = Reader(server.source())
        nursery.start_soon(reader.run)
        peer = await server.accept()
        await peer.send(bad(peer, await peer.asked()))
        assert (await peer.frame(GOAWAY)).code != 0
        peer = await server.accept()
        await peer.answer(await peer.asked(), body=b"data: x\n\n")
        await reader.heard("x")


async def test_b83_unknown_frames_and_settings_are_ignored(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted(settings={0x1A1A: 7, 9: 1}) as server:
        reader, peer, asked = await opened(server, nursery)
        for kind in (0x10, 0xFA, 2):
            for stream in (0, asked.stream):
                await peer.send(frame(kind, 0xFF, stream, b"12345"))
        await peer.send(settings_frame({0x2A2A: 1}))
        await peer.data(asked, b"data: x\n\n")
        await reader.heard("first", "x")
        assert server.accepted == 1


# -- limits and windows


async def test_b64_at_the_limit_sources_queue(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    two = {MAX_CONCURRENT_STREAMS: 2}
    async with scripted(settings=two) as server, server.client() as client:
        readers = [Reader(client.events(server.url(f"/{n}"))) for n in range(5)]
        nursery.start_soon(readers[0].run)
        peer = await server.accept()
        asked = [await peer.asked()]
        await peer.answer(asked[0], body=b"data: x\n\n")
        await readers[0].heard("x")  # and SETTINGS are known
        for reader in readers[1:]:
            nursery.start_soon(reader.run)
            await wait_all_tasks_blocked(0.02)
        asked.append(await peer.asked())
        await peer.answer(asked[1])
        await trio.sleep(35)  # longer than a response may take: they only wait
        await peer.send(frame(PING, ACK, 0, b"h2sse?\0\0"))
        assert [each.source.ready_state for each in readers[2:]] == [ReadyState.CONNECTING] * 3
        readers[0].source.close()
        assert await peer.reset_of(asked[0]) == CANCEL
        asked.append(await peer.asked())
        readers[3].source.close()  # gives up its place
        assert await readers[3].end() is None
        await peer.answer(asked[2], 204, (), ends=True)
        asked.append(await peer.asked())
        assert [each[":path"] for each in asked] == [b"/0", b"/1", b"/2", b"/4"]
        await peer.send(settings_frame({MAX_CONCURRENT_STREAMS: 3}))
        extra = Reader(client.events(server.url("/5")))
        nursery.start_soon(extra.run)
        assert (await peer.asked())[":path"] == b"/5"
        assert server.accepted == 1


async def test_b66_close_cancels_the_stream_alone(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server, server.client() as client:
        readers = [Reader(client.events(server.url(f"/{n}"))) for n in range(3)]
        asked = []
        nursery.start_soon(readers[0].run)
        peer = await server.accept()
        asked.append(await peer.asked())
        await peer.answer(asked[0], body=b"data: x\n\n")
        await readers[0].heard("x")
        for reader in readers[1:]:
            nursery.start_soon(reader.run)
            asked.append(await peer.asked())
        await readers[0].source.aclose()
        await readers[1].source.aclose()  # before its head
        await readers[1].source.aclose()
        assert [await peer.reset_of(each) for each in asked[:2]] == [CANCEL, CANCEL]
        assert [await each.end() for each in readers[:2]] == [None, None]
        # DATA that was on its way does no harm.
        await peer.data(asked[0], b"data: late\n\n")
        await peer.send(peer.head(asked[1]), reset(asked[1].stream))
        await peer.answer(asked[2], body=b"data: y\n\n")
        await readers[2].heard("y")
        resets = [each for each in peer.frames if each.kind == RST_STREAM]
        assert len(resets) == 2


async def test_b31_close_ends_a_wait_too(jumping_clock: MockClock, nursery: trio.Nursery) -> None:
    async with scripted() as server:
        reader, peer, asked = await opened(server, nursery)
        await peer.data(asked, b"", ends=True)
        await wait_all_tasks_blocked(0.02)
        assert state(reader.source) is ReadyState.CONNECTING
        reader.source.close()
        assert state(reader.source) is ReadyState.CLOSED
        assert await reader.end() is None
        await peer.closed()
        assert len(peer.requests) == 1
        assert (await peer.frame(GOAWAY)).code == 0


@pytest.mark.parametrize("http1", [False, True])
async def test_b77_windows_are_given_back_without_end(
    jumping_clock: MockClock, nursery: trio.Nursery, http1: bool
) -> None:
    app = h2sse.App()
    async with serving(app) as served:
        url = f"https://127.0.0.1:{served.address[1]}/events?topic=a"
        async with EventSource(url, ca_file=served.ca, http1=http1) as source:
            await source.wait_open()
            text = "x" * 100_000
            for _ in range(100):
                app.publish("a", h2sse.Event(data=text))
                assert (await anext(source)).data == text
            assert served.server.statistics().requests == 1, "not even once cut off"


async def test_b77_a_slow_reader_stalls_its_own_stream_only(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    limits = ClientLimits(stream_window_bytes=10_000, connection_window_bytes=65_535)
    event = b"data: " + b"x" * 992 + b"\n\n"  # 1,000 bytes
    async with scripted() as server, server.client(limits=limits) as client:
        slow = Reader(client.events(server.url("/slow")), count=1)
        fast = Reader(client.events(server.url("/fast")))
        nursery.start_soon(slow.run)
        peer = await server.accept()
        streams = [await peer.asked()]
        nursery.start_soon(fast.run)
        streams.append(await peer.asked())
        assert peer.frames[0].settings[INITIAL_WINDOW_SIZE] == 10_000
        await peer.answer(streams[0], body=event)
        await slow.heard("x" * 992)
        await peer.send(*[frame(DATA, 0, streams[0].stream, event)] * 9)
        await peer.answer(streams[1])
        given: set[int] = set()
        for n in range(1, 200):  # 20 times its own window, 3 times the connection's
            await peer.data(streams[1], event)
            await fast.heard(*["x" * 992] * n)
            peer.frames.clear()
            await peer.send(ping(n.to_bytes(8, "big")))
            await peer.frame(PING, ack=True)
            given |= {each.stream for each in peer.frames if each.kind == WINDOW_UPDATE}
        assert given == {0, streams[1].stream}
        slow.count = None
        slow.more.set()
        await slow.until(lambda: len(slow.messages) == 10)
        await peer.read_until(
            lambda: any(
                f.kind == WINDOW_UPDATE and f.stream == streams[0].stream for f in peer.frames
            )
        )


async def test_b72_more_than_the_window_is_a_connection_error(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    limits = ClientLimits(stream_window_bytes=10_000)
    async with scripted() as server:
        reader = Reader(server.source(limits=limits), count=1)
        nursery.start_soon(reader.run)
        peer = await server.accept()
        asked = await peer.asked()
        await peer.answer(asked, body=b"data: x\n\n")
        await reader.heard("x")
        await peer.data(asked, b":" * 9_991)
        await peer.send(ping(b"all well"))
        await peer.frame(PING, ack=True)
        await peer.data(asked, b":")
        assert (await peer.frame(GOAWAY)).code == 3


async def test_padding_is_given_back_too(jumping_clock: MockClock, nursery: trio.Nursery) -> None:
    limits = ClientLimits(stream_window_bytes=10_000)
    async with scripted() as server:
        reader = Reader(server.source(limits=limits))
        nursery.start_soon(reader.run)
        peer = await server.accept()
        asked = await peer.asked()
        await peer.answer(asked)
        for _ in range(20):
            await peer.send(frame(DATA, 8, asked.stream, b"\xff" + bytes(255)))

        def given() -> int:
            updates = [f for f in peer.frames if f.kind == WINDOW_UPDATE]
            mine = [f for f in updates if f.stream == asked.stream]
            return sum(int.from_bytes(each.payload, "big") for each in mine)

        await peer.read_until(lambda: given() >= 20 * 256)
        assert given() == 20 * 256


async def test_data_on_a_closed_stream_gives_the_connection_its_window_back(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server, server.client() as client:
        keep = Reader(client.events(server.url("/keep")))
        nursery.start_soon(keep.run)
        peer = await server.accept()
        kept = await peer.asked()
        await peer.answer(kept, body=b"data: x\n\n")
        await keep.heard("x")
        gone = Reader(client.events(server.url("/gone")))
        nursery.start_soon(gone.run)
        asked = await peer.asked()
        gone.source.close()
        assert await peer.reset_of(asked) == CANCEL
        peer.frames.clear()
        await peer.data(asked, b"x" * 10_000)
        update = await peer.frame(WINDOW_UPDATE)
        assert (update.stream, int.from_bytes(update.payload, "big")) == (0, 10_000)


# -- liveness


async def test_b79_a_ping_is_answered(jumping_clock: MockClock, nursery: trio.Nursery) -> None:
    async with scripted() as server:
        _, peer, _ = await opened(server, nursery)
        await peer.send(ping(b"any data"))
        assert (await peer.frame(PING, ack=True)).payload == b"any data"


async def test_a_quiet_server_is_asked_for_a_sign_of_life(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server:
        reader, peer, asked = await opened(server, nursery)
        began = trio.current_time()
        for _ in range(3):
            peer.frames.clear()
            asks = await peer.frame(PING)
            await peer.send(frame(PING, ACK, 0, asks.payload))
        assert 90 <= trio.current_time() - began < 95
        await peer.data(asked, b"data: x\n\n")
        await reader.heard("first", "x")
        peer.frames.clear()
        await peer.closed()  # it was not answered any more
        assert 40 <= trio.current_time() - began - 90 < 45
        assert (await (await server.accept()).asked())["last-event-id"] == b"7"


async def test_an_unused_connection_is_closed(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server, server.client() as client:
        reader = Reader(client.events(server.url()))
        nursery.start_soon(reader.run)
        peer = await server.accept()
        await peer.answer(await peer.asked(), 204, (), ends=True)
        await reader.end()
        began = trio.current_time()
        await peer.closed()
        assert 60 <= trio.current_time() - began < 65
        assert (await peer.frame(GOAWAY)).code == 0


async def test_a_flood_of_pings_is_not_answered_without_bound(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The peer asks and never reads: the client stops reading, and gives it up."""
    async with scripted() as server:
        reader, peer, _ = await opened(server, nursery)
        flood = ping(b"any data") * 10_000
        with suppress(trio.BrokenResourceError):
            while True:
                await peer.transport.send_all(flood)
        peer = await server.accept()
        await peer.answer(await peer.asked(), body=b"data: x\n\n")
        await reader.heard("first", "x")


# -- HTTP/1.1


BODY = b"retry: 100\ndata: x\n\n"
HTTP1 = {
    "chunked": (
        b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY),
        b"0\r\n\r\n",
    ),
    "content-length": (b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY), b""),
    "until the end": (b"connection: close\r\n\r\n" + BODY, None),
    "cut": (b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY), None),
    "not http": (b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY), b"zzz\r\n"),
}


@pytest.mark.parametrize(("start", "end"), HTTP1.values(), ids=HTTP1)
@pytest.mark.parametrize("by", ["alpn", "option", "nothing"])
async def test_http1(
    jumping_clock: MockClock, nursery: trio.Nursery, start: bytes, end: bytes | None, by: str
) -> None:
    protocols = {"alpn": ("http/1.1",), "option": ("h2", "http/1.1"), "nothing": ("x",)}[by]
    async with scripted(*protocols) as server:
        reader = Reader(server.source("/a?b", http1=by == "option", last_event_id="é\x0b"))
        nursery.start_soon(reader.run)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        for n in range(2):
            peer = await server.accept1()
            asked = await peer.asked()
            assert asked[""] == b"GET /a?b HTTP/1.1"
            assert asked["host"] == f"127.0.0.1:{server.port}".encode()
            assert asked["last-event-id"] == "é\x0b".encode()
            await peer.send(b"HTTP/1.1 103 Early\r\n\r\n" + head + start)
            await reader.heard(*["x"] * (n + 1))
            if end is None:
                await peer.kill()
            else:
                await peer.send(end)
                await peer.closed()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 101 No\r\nupgrade: x\r\n\r\n", b"SSH-2.0\r\n\r\n", b"x" * 100_000]
)
async def test_http1_without_a_response_is_a_drop(
    jumping_clock: MockClock, nursery: trio.Nursery, answer: bytes
) -> None:
    async with scripted("http/1.1") as server:
        reader = Reader(server.source())
        nursery.start_soon(reader.run)
        peer = await server.accept1()
        await peer.asked()
        if answer:
            await peer.send(answer)
            await peer.closed()
        else:
            await peer.kill()
        peer = await server.accept1()
        await peer.asked()
        assert not reader.over


async def test_http1_deadlines_and_close(jumping_clock: MockClock, nursery: trio.Nursery) -> None:
    async with scripted("http/1.1") as server:
        reader = Reader(server.source())
        nursery.start_soon(reader.run)
        peer = await server.accept1()
        await peer.asked()
        began = trio.current_time()
        await peer.closed()
        assert 30 <= trio.current_time() - began < 35
        peer = await server.accept1()
        await peer.asked()
        reader.source.close()
        assert await reader.end() is None
        await peer.closed()


async def test_http1_sources_have_a_connection_each(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted("http/1.1") as server:
        async with server.client() as client:
            readers = [Reader(client.events(server.url(f"/{n}"))) for n in range(3)]
            for reader in readers:
                nursery.start_soon(reader.run)
            for _ in readers:
                peer = await server.accept1()
                line = (await peer.asked())[""]
                await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
                await peer.send(b"data: " + line + b"\n\n")
            for n, reader in enumerate(readers):
                await reader.heard(f"GET /{n} HTTP/1.1")
        assert [await reader.end() for reader in readers] == [None] * 3
        assert {reader.source.ready_state for reader in readers} == {ReadyState.CLOSED}
        assert server.accepted == 3


# -- trust and use


async def test_a_certificate_that_is_not_trusted_is_fatal(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server, EventSource(server.url()) as source:
        with pytest.raises(SourceFailed, match="certificate is not trusted") as caught:
            await anext(source)
        assert caught.value.status == 0
        assert source.ready_state is ReadyState.CLOSED


async def test_sources_that_fail_together_fail_by_their_own_names(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server, Client() as client:
        readers = [Reader(client.events(server.url(f"/{n}"))) for n in range(2)]
        for reader in readers:
            nursery.start_soon(reader.run)
        failures = [await reader.end() for reader in readers]
        assert [each and each.url for each in failures] == [server.url("/0"), server.url("/1")]


async def test_without_verification_any_certificate_is_taken(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with scripted() as server:
        for source in (
            EventSource(server.url(), verify=False),
            EventSource(server.url(), verify=False, http1=True),
        ):
            reader = Reader(source)
            nursery.start_soon(reader.run)
            if reader.source._http1:
                peer1 = await server.accept1()
                await peer1.asked()
                await peer1.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            else:
                peer = await server.accept()
                await peer.answer(await peer.asked(), 204, (), ends=True)
            assert await reader.end() is None


async def test_bad_ca_files_are_told(jumping_clock: MockClock) -> None:
    for file in ("/nowhere.pem", __file__):
        with pytest.raises(h2sse.ConfigError, match=r"^ca_file: "):
            async with Client(ca_file=file):
                raise AssertionError("never entered")


async def test_reading_can_be_cancelled_and_go_on(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Whatever it was in the middle of; every event once."""
    async with scripted() as server:
        seen: list[str] = []

        async def serve() -> None:
            while True:
                peer = await server.accept()
                await trio.sleep(0.3)
                asked = await peer.asked()
                await trio.sleep(0.3)
                last = int(asked["last-event-id"]) if "last-event-id" in asked else 0
                await peer.answer(asked)
                for n in range(last + 1, last + 6):
                    await peer.data(asked, b"retry: 300\nid: %d\nda" % n)
                    await trio.sleep(0.1)
                    await peer.data(asked, b"ta: %d\n\n" % n)
                await peer.kill()

        nursery.start_soon(serve)
        async with server.source() as source:
            with trio.fail_after(PATIENCE_SECONDS):
                while len(seen) < 30:
                    with trio.move_on_after(0.07):
                        async for message in source:
                            seen.append(message.data)  # noqa: PERF401 - it is cut short
        assert seen == [str(n) for n in range(1, len(seen) + 1)]


async def test_what_is_raised_inside_comes_out_as_it_is(jumping_clock: MockClock) -> None:
    with pytest.raises(KeyError):
        async with Client() as client, client.events("https://localhost/"):
            raise KeyError
    with pytest.raises(h2sse.LocalError, match="once only"):
        async with client:
            pass


async def test_a_source_needs_its_block_and_one_reader(
    jumping_clock: MockClock, nursery: trio.Nursery
) -> None:
    source = EventSource("https://localhost/")
    with pytest.raises(h2sse.LocalError, match="block only"):
        await anext(source)
    with pytest.raises(h2sse.LocalError, match="the client's"):
        EventSource("https://localhost/", ca_file="x", client=Client())
    with pytest.raises(h2sse.LocalError, match="the client's"):
        EventSource("https://localhost/", verify=False, client=Client())
    async with scripted() as server:
        reader, _, _ = await opened(server, nursery)
        await wait_all_tasks_blocked(0.02)
        with pytest.raises(trio.BusyResourceError):
            await anext(reader.source)
