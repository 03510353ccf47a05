"""The load client's processes against real servers: a faulty one, and h2sse."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from support import certificates, serving

import h2sse
from benchmarks.load import ClientFailed, Load, Publisher
from benchmarks.load import publisher as load_publisher
from benchmarks.load.dummy import Faults, serve
from benchmarks.model import ProtocolName, Published, Reception, Shape
from h2sse.tls import development_certificate

HOST = "127.0.0.1"
PROTOCOLS: tuple[ProtocolName, ...] = ("h2", "http/1.1")
BOTH = pytest.mark.parametrize("protocol", PROTOCOLS)


def shape(protocol: ProtocolName, tabs: int = 12) -> Shape:
    """Two connections of six tabs each, or a dozen of one."""
    if protocol == "http/1.1":
        return Shape(protocol=protocol, connections=tabs)
    return Shape(protocol=protocol, connections=2, tabs_per_connection=tabs // 2)


@asynccontextmanager
async def dummy(faults: Faults) -> AsyncIterator[int]:
    """The port of a faulty server in the test's own loop."""
    pair = development_certificate(certificates())
    async with trio.open_nursery() as nursery:
        port: int = await nursery.start(partial(serve, faults, pair.cert, pair.key))
        yield port
        nursery.cancel_scope.cancel()


async def run(faults: Faults, protocol: ProtocolName) -> tuple[Published, Reception]:
    """Ten events to a dozen tabs of a faulty server."""
    async with (
        dummy(faults) as port,
        Load.against(HOST, port, protocol) as load,
        Publisher.to(HOST, port, "/publish", form=True, size=100) as publisher,
    ):
        opened = await load.open(shape(protocol))
        assert (opened.tabs, opened.failures) == (12, {})
        await load.begin()
        published = await publisher.publish(10, 200)
        return published, await load.finish(published, patience=0.5)


# -- known faults


@BOTH
async def test_a_faultless_run(protocol: ProtocolName) -> None:
    published, received = await run(Faults(), protocol)
    assert (published.sent, published.acknowledged, published.failures) == (10, 10, {})
    assert (published.first_sequence, published.last_sequence) == (1, 10)
    assert (received.expected, received.delivered) == (120, 120)
    assert (received.lost, received.doubled, received.misordered) == (0, 0, 0)
    assert received.latency.total == 120
    assert received.bytes > 120 * 100
    assert 0 < received.records <= 120
    assert received.ended == {}


@BOTH
@pytest.mark.parametrize("lose", [3, 5])  # of ten: some amid them, and the last one too
async def test_a_loss_is_reported(protocol: ProtocolName, lose: int) -> None:
    _, received = await run(Faults(lose=lose), protocol)
    assert (received.delivered, received.lost) == (120 - 10 // lose, 10 // lose)
    assert (received.doubled, received.misordered) == (0, 0)


@BOTH
async def test_a_double_is_reported(protocol: ProtocolName) -> None:
    _, received = await run(Faults(double=4), protocol)
    assert (received.delivered, received.lost, received.doubled) == (120, 0, 2)


@BOTH
async def test_a_swap_is_reported(protocol: ProtocolName) -> None:
    _, received = await run(Faults(swap=3), protocol)
    assert (received.delivered, received.lost) == (120, 0)
    assert (received.doubled, received.misordered) == (0, 3)


@BOTH
async def test_a_delay_is_reported(protocol: ProtocolName) -> None:
    _, received = await run(Faults(delay_seconds=0.05), protocol)
    # No event comes earlier, and each waits for those before it: the timetable is 5 ms a step.
    assert min(received.latency.counts) >= 50_000
    assert received.latency.worst >= 10 * 50_000 - 9 * 5_000


# -- h2sse


@BOTH
async def test_all_drop_and_come_back(protocol: ProtocolName) -> None:
    """What was published meanwhile comes by Last-Event-ID, once and in order."""
    async with (
        serving(h2sse.App()) as served,
        Load.against(*served.address, protocol, cafile=served.ca) as load,
        Publisher.to(*served.address, "/publish", form=True, cafile=served.ca) as publisher,
    ):
        await load.open(shape(protocol))
        await load.begin()
        before = await publisher.publish(3, 100)
        assert (await load.finish(before)).delivered == 36
        await load.drop()
        assert await load.progress() == (0, 36)
        meanwhile = await publisher.publish(4, 100)
        opened = await load.reopen(spread_seconds=0.05)
        assert (opened.tabs, opened.failures) == (12, {})
        after = await publisher.publish(3, 100)
        assert (meanwhile.first_sequence, after.last_sequence) == (4, 10)
        whole = Published(
            sent=10, acknowledged=10, first_sequence=1, last_sequence=10, late_p99_seconds=0
        )
        received = await load.finish(whole)
        assert (received.expected, received.delivered, received.lost) == (120, 120, 0)
        assert (received.doubled, received.misordered, received.ended) == (0, 0, {})


async def test_a_server_that_makes_the_publisher_late_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load_publisher, "GIVE_UP_SECONDS", 0.2)
    app = h2sse.App()

    @app.post("/slow")
    async def slow(_: h2sse.Request) -> h2sse.Response:
        await trio.sleep(0.3)
        return h2sse.Response()

    async with serving(app) as served:
        host, port = served.address
        publisher = load_publisher._Publisher(host, port, "/slow", "a", 100, None)
        sent = await trio.to_thread.run_sync(publisher.publish, 50, 1000)
        # Its connection would hold the server up.
        publisher._connection.close()
    assert sent.sent == sent.acknowledged == sent.last_sequence < 50
    assert sent.failures == {"given up, 0.2 s behind": 50 - sent.sent}


async def test_tabs_on_top_of_others() -> None:
    async with (
        serving(h2sse.App()) as served,
        Load.against(*served.address, "h2", processes=2) as load,
        Publisher.to(*served.address, "/publish", form=True) as publisher,
    ):
        opened = await load.open(Shape(protocol="h2", connections=3, tabs_per_connection=2))
        assert (opened.tabs, opened.connections) == (6, 3)
        assert opened.connect_seconds > 0
        assert opened.open_seconds > 0
        p50, p99, worst = opened.first_byte_seconds
        assert 0 < p50 <= p99 <= worst
        assert (await load.grow(30)).tabs == 30
        opened = await load.open(Shape(protocol="h2", connections=1, tabs_per_connection=200))
        assert (opened.tabs, opened.connections) == (200, 1)
        assert await load.progress() == (236, 0)
        await load.begin()
        published = await publisher.publish(20, 1000)
        received = await load.finish(published)
        assert (received.delivered, received.lost) == (236 * 20, 0)


async def test_the_stream_limit_is_the_reason() -> None:
    limits = h2sse.Limits(max_concurrent_streams=5)
    async with (
        serving(h2sse.App(), limits=limits) as served,
        Load.against(*served.address, "h2") as load,
    ):
        opened = await load.open(Shape(protocol="h2", connections=2, tabs_per_connection=8))
        assert (opened.tabs, opened.failures) == (10, {"stream limit 5": 6})


@BOTH
async def test_stalled_tabs_hold_nobody_up(protocol: ProtocolName) -> None:
    """They are ended at their bound, and the others get all."""
    limits = h2sse.Limits(tab_backlog_bytes=4096)
    async with (
        serving(h2sse.App(), limits=limits) as served,
        Load.against(*served.address, protocol) as load,
        Publisher.to(*served.address, "/publish", form=True, size=4000) as publisher,
    ):
        assert (await load.open(shape(protocol), stalled=2)).tabs == 12
        await load.begin()
        published = await publisher.publish(50, 1000)
        received = await load.finish(published)
        assert (received.expected, received.lost) == (500, 0)
        if protocol == "h2":  # over HTTP/1.1 the kernel's buffers hold more than this
            assert received.ended == {"stalled: end of stream": 2}


@BOTH
async def test_a_server_that_goes_is_the_reason(protocol: ProtocolName) -> None:
    async with serving(h2sse.App()) as served:
        async with Load.against(*served.address, protocol) as load:
            await load.open(shape(protocol))
            await load.begin()
            await served.listening.aclose()
            nothing = Published(
                sent=1, acknowledged=1, first_sequence=1, last_sequence=1, late_p99_seconds=0
            )
            received = await load.finish(nothing)
        assert (received.lost, received.ended) == (12, {"end of stream": 12})
        async with Load.against(*served.address, protocol) as load:
            opened = await load.open(shape(protocol))
        assert (opened.tabs, opened.failures) == (0, {"connect: Connection refused": 12})


# -- publishing


async def test_what_is_refused_is_counted() -> None:
    async with (
        serving(h2sse.App()) as served,
        Publisher.to(*served.address, "/nowhere", form=False) as publisher,
    ):
        published = await publisher.publish(3, 1000)
    assert (published.sent, published.acknowledged) == (3, 0)
    assert published.failures == {"status 404": 3}


# -- processes


async def test_a_dead_client_is_an_error() -> None:
    async with serving(h2sse.App()) as served, Load.against(*served.address, "h2") as load:
        await load.open(Shape(protocol="h2", connections=1))
        os.kill(load.pids[0], signal.SIGKILL)
        with pytest.raises(ClientFailed, match="worker 0: ended with -9"):
            await load.begin()
        with pytest.raises(ClientFailed):
            await load.progress()


async def test_a_client_that_fails_says_how() -> None:
    with pytest.raises(ClientFailed, match=r"ended with 1:\n(.|\n)*Name or service not known"):
        async with Load.against("no such host", 1, "h2") as load:
            await load.progress()


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    pids: list[int] = []

    async def fail() -> None:
        async with Load.against(HOST, 1, "h2") as load:
            pids.extend(load.pids)
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


async def test_shapes_are_of_the_protocol() -> None:
    async with Load.against(HOST, 1, "http/1.1") as load:
        with pytest.raises(ValueError, match="these clients speak http"):
            await load.open(Shape(protocol="h2", connections=1))
        with pytest.raises(ValueError, match="one event stream"):
            await load.grow(1)
