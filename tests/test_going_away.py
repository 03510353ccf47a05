"""How a server, and an old connection, goes away: nobody is left waiting, nobody comes at once."""

from __future__ import annotations

import errno
import functools
import logging
import re
import signal
import socket
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import final

import pytest
import trio
from process_support import Process, running
from support import (
    ACK,
    GOAWAY,
    MAX_WINDOW,
    PATIENCE_SECONDS,
    PING,
    RawClient,
    Served,
    Stream,
    certificates,
    frame,
    serving,
)
from trio.testing import MockClock

import h2sse

EVENTS = "/events?topic=a"
NO_ERROR, REFUSED_STREAM = 0, 7


def retry(tab: Stream) -> float:
    """The reconnection time that a tab was told last, in seconds."""
    return int(re.findall(rb"^retry: (\d+)$", tab.body, re.MULTILINE)[-1]) / 1000


async def follow(client: RawClient) -> None:
    """Read to the end, answering PING as a client must (RFC 9113 6.7), then close too."""
    seen = 0
    while not client.at_end:
        await client.read_until(lambda: client.at_end or len(client.frames) > seen)  # noqa: B023
        new, seen = client.frames[seen:], len(client.frames)
        for each in new:
            if each.kind == PING and not each.is_ack:
                await client.send(frame(PING, ACK, 0, each.payload))
    await trio.aclose_forcefully(client.transport)


# -- when tabs come back


async def test_tabs_that_end_together_come_back_apart() -> None:
    """No second has more than its share of them, give or take chance."""
    limits = h2sse.Limits(returns_per_second=10, drain_seconds=0.2)
    async with (
        trio.open_nursery() as nursery,
        serving(h2sse.App(), limits=limits, retry_ms=1_000) as served,
        served.client() as client,
    ):
        tabs = [await client.listen(EVENTS) for _ in range(200)]
        nursery.start_soon(served.listening.aclose)
        await follow(client)
        assert all(tab.ended and tab.reset is None for tab in tabs)
        seconds = Counter(int(retry(tab)) for tab in tabs)
        assert max(seconds.values()) < 40
        assert max(seconds) >= 15


async def test_a_few_tabs_come_back_as_soon_as_ever() -> None:
    """They are told the usual time again, not more."""
    async with (
        trio.open_nursery() as nursery,
        serving(h2sse.App(), retry_ms=1_000, retry_spread=0.1) as served,
        served.client() as client,
    ):
        tab = await client.listen(EVENTS)
        nursery.start_soon(served.listening.aclose)
        await follow(client)
        assert 0.9 <= retry(tab) <= 1.2


@pytest.mark.parametrize(
    ("drain_seconds", "lasts", "latest"),
    [(30.0, (9, 11), 1.3), (4.0, (1, 3), 9.5)],
    ids=["there is time", "there is little time"],
)
async def test_streams_end_one_after_another(
    jumping_clock: MockClock, drain_seconds: float, lasts: tuple[float, float], latest: float
) -> None:
    """Over the time there is; for the rest of it tabs are told to wait."""
    limits = h2sse.Limits(returns_per_second=2, drain_seconds=drain_seconds, linger_seconds=1)
    async with (
        trio.open_nursery() as nursery,
        serving(h2sse.App(), limits=limits, retry_ms=100) as served,
        AsyncExitStack() as stack,
    ):
        tabs: list[Stream] = []
        ended: list[float] = []

        async def follow_one(client: RawClient) -> None:
            client.patience_seconds = 100
            await follow(client)
            ended.append(trio.current_time() - began)

        for _ in range(21):
            client = await stack.enter_async_context(served.client())
            tabs.append(await client.listen(EVENTS))
            nursery.start_soon(follow_one, client)
        began = trio.current_time()
        await served.listening.aclose()
        assert lasts[0] <= max(ended) <= lasts[1]
        assert all(tab.ended and tab.reset is None for tab in tabs)
        assert latest - 2 <= max(map(retry, tabs)) + 1 <= latest + 2
        # Together: as many as there are places, each at its own.
        back = sorted(at + retry(tab) for at, tab in zip(ended, tabs, strict=True))
        assert 8 <= back[-1] - back[0] <= 12


# -- who comes meanwhile


async def test_a_handshake_under_way_is_finished_and_told(jumping_clock: MockClock) -> None:
    """Its requests are refused, so that the browser sends them again, and elsewhere."""
    async with serving(h2sse.App()) as served:
        stream = await trio.open_ssl_over_tcp_stream(
            *served.address, https_compatible=True, ssl_context=served.context("h2")
        )
        with trio.fail_after(PATIENCE_SECONDS):
            while not served.server.connections:  # noqa: ASYNC110
                await trio.sleep(0.001)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(served.listening.aclose)
                await trio.testing.wait_all_tasks_blocked()
                await stream.do_handshake()
                client = RawClient(stream, "localhost")
                await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(4, 0, 0))
                late = await client.fetch(EVENTS)
                assert (late.reset, late.sections) == (REFUSED_STREAM, [])
                assert client.frames[1].last_stream == MAX_WINDOW
                await follow(client)


async def test_who_has_connected_is_not_reset(jumping_clock: MockClock) -> None:
    """Closing a listener resets those it has not accepted, so they are accepted first."""
    async with serving(h2sse.App()) as served:
        # Without a turn of the loop in between, so that the server sees none of them before.
        waiting = [socket.create_connection(served.address) for _ in range(150)]
        served.listening._server.stop.set()
        for sock in waiting:
            stream = trio.SSLStream(
                trio.SocketStream(trio.socket.from_stdlib_socket(sock)),
                served.context("h2"),
                server_hostname="127.0.0.1",
                https_compatible=True,
            )
            with trio.fail_after(PATIENCE_SECONDS):
                await stream.do_handshake()
                client = RawClient(stream, "localhost")
                assert (await client.read_frame(GOAWAY)).code == NO_ERROR
            await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_a_stream_that_opens_late_is_answered_and_ended(protocol: str) -> None:
    """Never a 5xx, after which an EventSource would stay closed for good."""
    app = h2sse.App()
    asked, answer = trio.Event(), trio.Event()

    @app.stream("/slow")
    async def slow(_: h2sse.Request) -> h2sse.Subscribe:
        asked.set()
        await answer.wait()
        return h2sse.Subscribe("a")

    async with serving(app) as served, trio.open_nursery() as nursery:
        stream = await served.secure(protocol)
        text = b""
        if protocol == "h2":
            client = RawClient(stream, "localhost")
            await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(4, 0, 0))
            tab = await client.open_stream("/slow")
        else:
            await stream.send_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with trio.fail_after(PATIENCE_SECONDS):
            await asked.wait()
        nursery.start_soon(served.listening.aclose)
        await trio.testing.wait_all_tasks_blocked()
        answer.set()
        with trio.fail_after(PATIENCE_SECONDS):
            if protocol == "h2":
                await follow(client)
                assert (tab.status, tab.ended) == (200, True)
                assert tab.body.count(b"retry: ") == 2
            else:
                async for data in stream:
                    text += data
                assert text.startswith(b"HTTP/1.1 200 OK\r\n")
                assert text.count(b"retry: ") == 2
                assert text.endswith(b"0\r\n\r\n")
                await trio.aclose_forcefully(stream)


async def test_a_handler_that_does_not_end_is_no_5xx(jumping_clock: MockClock) -> None:
    """At the end of the drain time its connection closes without an answer."""
    app = h2sse.App()
    asked = trio.Event()

    @app.stream("/never")
    async def never(_: h2sse.Request) -> h2sse.Subscribe:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    async with serving(app) as served, served.client() as client:
        client.patience_seconds = 60
        tab = await client.open_stream("/never")
        await asked.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.listening.aclose)
            await follow(client)
        assert tab.sections == []


# -- the age of a connection


def age(seconds: float) -> h2sse.Limits:
    return h2sse.Limits(connection_age_seconds=seconds, linger_seconds=1)


async def test_an_old_connection_ends_as_if_the_server_went(
    jumping_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """GOAWAY, a round trip, GOAWAY with the last id, END_STREAM; new connections go on."""
    caplog.set_level(logging.INFO, "h2sse.server")
    app = h2sse.App()
    async with serving(app, limits=age(10)) as served, served.client() as client:
        client.patience_seconds = 60
        began = trio.current_time()
        tab = await client.listen(EVENTS)
        app.publish("a", h2sse.Event(data="x"))
        goaway = await client.read_frame(GOAWAY)
        assert 9 <= trio.current_time() - began <= 12.5
        assert (goaway.code, goaway.last_stream) == (NO_ERROR, MAX_WINDOW)
        assert not tab.ended
        async with served.client() as young:
            other = await young.listen(EVENTS)
            await follow(client)
            lasts = [each.last_stream for each in client.frames if each.kind == GOAWAY]
            assert set(lasts[1:]) == {tab.id}
            assert (tab.ended, tab.reset, tab.data) == (True, None, ["x"])
            assert retry(tab) < 5
            app.publish("a", h2sse.Event(data="y"))
            await young.heard(1, other)
            reasons = dict(served.server.statistics().reasons)
            assert reasons == {"older than connection_age_seconds": 1}
    (line,) = [each for each in caplog.records if "older than" in each.getMessage()]
    assert line.levelno == logging.INFO


async def test_an_old_connection_that_answers_nothing_ends_too(jumping_clock: MockClock) -> None:
    """The round trip has an end."""
    async with serving(h2sse.App(), limits=age(10)) as served, served.client() as client:
        client.patience_seconds = 60
        began = trio.current_time()
        tab = await client.listen(EVENTS)
        await client.read_to_end()
        assert tab.ended
        assert 10 <= trio.current_time() - began <= 16


async def test_an_old_http1_stream_ends_too(jumping_clock: MockClock) -> None:
    """To its last chunk, with the time to come back."""
    async with serving(h2sse.App(), limits=age(10)) as served:
        stream = await served.secure("http/1.1")
        await stream.send_all(b"GET /events?topic=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        text = b""
        async for data in stream:
            text += data
        assert text.count(b"retry: ") == 2
        assert text.endswith(b"0\r\n\r\n")
        await trio.aclose_forcefully(stream)


async def test_an_old_connection_finishes_its_answers(jumping_clock: MockClock) -> None:
    """A handler that takes its time is waited for, within `handler_seconds`."""
    app = h2sse.App()

    @app.get("/slow")
    async def slow(_: h2sse.Request) -> h2sse.Response:
        await trio.sleep(20)
        return h2sse.Response.text("well")

    async with serving(app, limits=age(10)) as served, served.client() as client:
        client.patience_seconds = 60
        answer = await client.open_stream("/slow")
        await follow(client)
        assert (answer.status, bytes(answer.body), answer.ended) == (200, b"well", True)


async def test_connections_made_together_do_not_age_together() -> None:
    """Or else their clients would for ever come back together."""
    async with serving(h2sse.App(), limits=age(1_000)) as served, AsyncExitStack() as stack:
        for _ in range(20):
            client = await stack.enter_async_context(served.client())
            await client.settle()
        ages = [each._deadline for each in served.server.connections]
        assert max(ages) - min(ages) > 20
        now = trio.current_time()
        assert all(890 <= each - now <= 1_101 for each in ages)


# -- two at one port


async def test_a_port_can_be_shared_if_both_say_so() -> None:
    """By default a second server is told that the port is taken."""

    def config(port: int, *, reuse_port: bool) -> h2sse.Config:
        tls = h2sse.Tls(directory=certificates())
        return h2sse.Config(host="127.0.0.1", port=port, reuse_port=reuse_port, tls=tls)

    async with trio.open_nursery() as nursery:
        one: h2sse.Listening = await nursery.start(
            h2sse.serve, h2sse.App(), config(0, reuse_port=True)
        )
        two: h2sse.Listening = await nursery.start(
            h2sse.serve, h2sse.App(), config(one.port, reuse_port=True)
        )
        assert two.port == one.port
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as inner:
                await inner.start(h2sse.serve, h2sse.App(), config(one.port, reuse_port=False))
        assert caught.group_contains(OSError, match=str(errno.EADDRINUSE))
        nursery.cancel_scope.cancel()


@final
class Publisher:
    """One that numbers its events, one POST at a time, and repeats what was not acknowledged."""

    def __init__(self, process: Process) -> None:
        self.acknowledged: list[int] = []
        self.unsure: set[int] = set()  # sent without an answer at first: perhaps published twice
        self.stop = False
        self._process = process
        self._stream: trio.SSLStream[trio.SocketStream] | None = None

    async def run(self) -> None:
        number = 0
        try:
            while not self.stop:
                number += 1
                while not await self._publish(number):  # noqa: ASYNC110
                    await trio.sleep(0.01)
                self.acknowledged.append(number)
                await trio.sleep(0.005)
        finally:
            await self._hang_up()

    async def _hang_up(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await trio.aclose_forcefully(stream)

    async def _publish(self, number: int) -> bool:
        body = f"topic=a&data={number}".encode()
        try:
            if self._stream is None:
                self._stream = await self._process.secure("http/1.1")
            await self._stream.send_all(
                b"POST /publish HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/x-www-form-urlencoded\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            answer = await self._stream.receive_some()
        except (OSError, trio.BrokenResourceError):
            answer = b""
        if answer:
            assert answer.startswith(b"HTTP/1.1 200"), answer
            return True
        self.unsure.add(number)
        await self._hang_up()
        return False


async def test_two_processes_are_rolled_over_under_load() -> None:
    """Memory histories: each tab sees all events in order, and is told that the server changed.

    A new process starts, the old one is sent SIGTERM; its tabs come back to the new one, which
    does not know their ids, says so in-band, and sends all that it remembers.
    """
    settings = {"H2SSE_RETRY_MS": "300", "H2SSE_REUSE_PORT": "true"}
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(running("--reuse-port", **settings))
        clients = [await stack.enter_async_context(h2sse.Client(ca_file=old.ca)) for _ in range(3)]
        heard: list[list[h2sse.Message]] = []
        nursery = await stack.enter_async_context(trio.open_nursery())

        async def listen(source: h2sse.EventSource, messages: list[h2sse.Message]) -> None:
            async with source:
                async for message in source:
                    messages.append(message)  # noqa: PERF401 - looked at meanwhile

        sources = [
            clients[number % 3].events(old.url(EVENTS), http1=number % 10 == 9)
            for number in range(30)
        ]
        for source in sources:
            heard.append([])
            nursery.start_soon(listen, source, heard[-1])
        await old.until(lambda: all(each.ready_state is each.OPEN for each in sources))
        publisher = Publisher(old)
        nursery.start_soon(publisher.run)
        await old.until(lambda: all(len(each) >= 20 for each in heard))

        new = await stack.enter_async_context(
            running("--reuse-port", **settings | {"H2SSE_PORT": str(old.port)})
        )
        before = len(publisher.acknowledged)
        await new.until(lambda: len(publisher.acknowledged) > before + 20)
        old.signal(signal.SIGTERM)
        assert await old.end() == 0
        after = len(publisher.acknowledged)
        await new.until(lambda: len(publisher.acknowledged) > after + 20)
        publisher.stop = True
        await trio.lowlevel.checkpoint()
        last = functools.partial(max, publisher.acknowledged)
        await new.until(lambda: all(each[-1].data == str(last()) for each in heard))
        nursery.cancel_scope.cancel()

    for messages in heard:
        gaps = [each.data for each in messages if each.event == "history-gap"]
        assert len(gaps) == 1
        assert '"reason": "unknown"' in gaps[0]
        numbers = [int(each.data) for each in messages if each.event == "message"]
        once = list(dict.fromkeys(numbers))
        # A publisher that got no answer has to say it again: it may then have been said twice.
        assert {each for each in numbers if numbers.count(each) > 1} <= publisher.unsure
        assert once == sorted(once)
        assert set(publisher.acknowledged) <= set(numbers)
    assert new.log == old.log == ""


def test_the_deployment_guide_names_settings_that_exist() -> None:
    """Each `H2SSE_...` and each --flag of docs/deployment.md."""
    from h2sse.cli import _FLAGS
    from h2sse.settings import FILE_VARIABLE, SETTINGS

    guide = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text()
    variables = {each.variable for each in SETTINGS.values()} | {FILE_VARIABLE}
    assert set(re.findall(r"\bH2SSE_[A-Z_]+\b", guide)) <= variables
    assert set(re.findall(r"h2sse serve.*?(--[a-z-]+)", guide)) <= {*_FLAGS.values(), "--config"}
    names = {path.rpartition(".")[2] for path in SETTINGS}
    assert set(re.findall(r"`(\w+_(?:seconds|second|bytes|ms|port))`", guide)) <= names


def nothing_is_left(served: Served) -> bool:
    return not (served.app.hub.statistics().tabs or served.server.connections)
