"""`serve` from outside: who may come in, who hears what, and how it goes away."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, final

import pytest
import trio
import trustme
from support import (
    ACK,
    DEFAULT_WINDOW,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    MAX_WINDOW,
    PATIENCE_SECONDS,
    PING,
    RawClient,
    Served,
    certificates,
    frame,
    reset,
    serving,
    window_update,
)
from trio.testing import MockClock

import h2sse
import h2sse.binding
import h2sse.server

EVENTS = "/events?topic=a"


async def until(done: Callable[[], object]) -> None:
    """Wait for what no event of trio's tells of."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not done():  # noqa: ASYNC110
            await trio.sleep(0.001)


@final
class TextClient:
    """An HTTP/1.1 connection, as the bytes that come."""

    def __init__(self, transport: trio.SSLStream[trio.SocketStream]) -> None:
        self.transport = transport
        self.text = ""
        self.at_end = False

    async def get(self, path: str, version: str = "1.1") -> None:
        """Send a request."""
        await self.transport.send_all(f"GET {path} HTTP/{version}\r\nHost: h\r\n\r\n".encode())

    async def read_until(self, done: Callable[[str], object]) -> str:
        """Read until `done(text)`; all that has come."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not done(self.text):
                assert not self.at_end, self.text
                data = await self.transport.receive_some()
                self.at_end = not data
                self.text += data.decode()
        return self.text

    async def read_to_end(self) -> str:
        """Read until the server's close_notify."""
        return await self.read_until(lambda _: self.at_end)


@asynccontextmanager
async def text_client(served: Served) -> AsyncIterator[TextClient]:
    transport = await served.secure("http/1.1")
    try:
        yield TextClient(transport)
    finally:
        await trio.aclose_forcefully(transport)


async def follow(client: RawClient) -> None:
    """Read to the end, answering PING as a client must (RFC 9113 6.7), then close too."""
    seen = 0

    def done() -> bool:
        return client.at_end or any(each.kind == PING for each in client.frames[seen:])

    while not client.at_end:
        await client.read_until(done)
        pings = [each for each in client.frames[seen:] if each.kind == PING and not each.is_ack]
        seen = len(client.frames)
        for each in pings:
            await client.send(frame(PING, ACK, 0, each.payload))
    await trio.aclose_forcefully(client.transport)


def config(*, host: str = "127.0.0.1", port: int = 0, tls: h2sse.Tls | None = None) -> h2sse.Config:
    tls = tls or h2sse.Tls(directory=certificates())
    return h2sse.Config(host=host, port=port, tls=tls)


# -- listening


@final
class Resolver(trio.abc.HostnameResolver):
    """Names that have the addresses we say."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - trio's name
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        found = []
        for each in self.addresses:
            found += socket.getaddrinfo(each, port, family, type, proto, flags)
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        return socket.getnameinfo(sockaddr, flags)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6 on loopback")


@needs_ipv6
async def test_a_name_listens_at_all_its_addresses_on_one_port() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver("::1", "127.0.0.1"))
    async with serving(h2sse.App(), host="localhost") as served:
        listening = served.listening
        assert listening.addresses == (("::1", listening.port), ("127.0.0.1", listening.port))
        assert listening.url == f"https://localhost:{listening.port}"
        for host, port in listening.addresses:
            stream = await trio.open_ssl_over_tcp_stream(
                host, port, https_compatible=True, ssl_context=served.context("h2")
            )
            await stream.do_handshake()
            await trio.aclose_forcefully(stream)


async def test_an_address_that_this_machine_has_not_is_passed_over() -> None:
    # TEST-NET-3 (RFC 5737): no machine has these.
    trio.socket.set_custom_hostname_resolver(Resolver("203.0.113.1", "127.0.0.1"))
    async with serving(h2sse.App(), host="localhost") as served:
        assert [host for host, _ in served.listening.addresses] == ["127.0.0.1"]
    trio.socket.set_custom_hostname_resolver(Resolver("203.0.113.1", "203.0.113.2"))
    with pytest.raises(h2sse.ConfigError, match="no address on this machine"):
        await h2sse.serve(h2sse.App(), config(host="elsewhere.example"))


@needs_ipv6
async def test_a_port_chosen_for_us_is_free_at_every_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trio.socket.set_custom_hostname_resolver(Resolver("::1", "127.0.0.1"))
    bind = socket.socket.bind
    others: list[socket.socket] = []

    def bind_beside_another(self: socket.socket, address: Any) -> None:
        """Another program holds the first port that is chosen, at another address."""
        bind(self, address)
        if not others and address[1] == 0:
            others.append(socket.create_server(("127.0.0.1", self.getsockname()[1])))

    monkeypatch.setattr(socket.socket, "bind", bind_beside_another)
    async with serving(h2sse.App(), host="localhost") as served:
        (other,) = others
        with other:
            assert len(served.listening.addresses) == 2
            assert served.listening.port != other.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "localhost"),
        pytest.param("::1", "[::1]", marks=needs_ipv6),
        pytest.param("::", "localhost", marks=needs_ipv6),
    ],
)
async def test_the_url_is_one_that_a_browser_takes(host: str, shown: str) -> None:
    async with serving(h2sse.App(), host=host) as served:
        assert served.listening.url == f"https://{shown}:{served.listening.port}"
        assert served.listening.port > 0


@needs_ipv6
async def test_a_port_that_is_taken_is_an_oserror_and_leaves_nothing() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver("::1", "127.0.0.1"))
    app = h2sse.App()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with trio.open_nursery() as nursery:
            with pytest.raises(OSError, match="in use") as caught:
                await nursery.start(h2sse.serve, app, config(host="localhost", port=port))
        assert caught.value.errno == errno.EADDRINUSE
        assert not app.servers
        # The other address was bound before; it is free again.
        socket.create_server(("::1", port), family=socket.AF_INET6).close()


async def test_the_port_is_free_as_soon_as_the_server_has_gone() -> None:
    async with serving(h2sse.App()) as served, served.client() as client:
        await client.listen(EVENTS)
    async with trio.open_nursery() as nursery:
        again = config(port=served.listening.port)
        await nursery.start(h2sse.serve, h2sse.App(), again)
        nursery.cancel_scope.cancel()


async def test_two_listeners_share_one_app() -> None:
    app = h2sse.App()
    async with serving(app) as first, serving(app, http1=True) as second:
        async with first.client() as client, text_client(second) as other:
            stream = await client.listen(EVENTS)
            await other.get(EVENTS)
            await other.read_until(lambda text: "retry: " in text)
            tabs = app.tabs("a")
            assert [tab.protocol for tab in tabs] == ["h2", "http/1.1"]
            assert len({tab.connection for tab in tabs}) == 2
            app.publish("a", h2sse.Event(data="to both"))
            await client.heard(1, stream)
            await other.read_until(lambda text: "data: to both\n\n" in text)
            assert [dict(server.statistics().tabs) for server in app.servers] == [
                {"h2": 1},
                {"http/1.1": 1},
            ]
        with pytest.raises(trio.BrokenResourceError) as caught:
            await second.secure("h2")
        assert "no application protocol" in str(caught.value.__cause__)


# -- how many may come in


@final
class Elsewhere(socket.socket):
    """A listener whose clients come from the address we say; loopback is exempt from one bound."""

    address = "192.0.2.7"

    def accept(self) -> tuple[socket.socket, Any]:
        sock, (_, port) = super().accept()
        return sock, (self.address, port)


async def refused(served: Served) -> bool:
    """Whether the next connection is closed before TLS."""
    before = served.server.statistics().refused_connections
    with pytest.raises((trio.BrokenResourceError, OSError)):
        await served.secure("h2")
    return served.server.statistics().refused_connections == before + 1


async def test_connections_are_bounded_in_all() -> None:
    limits = h2sse.Limits(connections=2)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as stays:
        tab = await stays.listen(EVENTS)
        async with served.client():
            assert await refused(served)
        await until(lambda: served.server.statistics().connections["h2"] == 1)
        async with served.client() as client:
            assert (await client.fetch("/healthz")).status == 200
        served.app.publish("a", h2sse.Event(data="x"))
        await stays.heard(1, tab)


async def test_connections_are_bounded_for_each_address(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = h2sse.binding.bind

    async def bind_elsewhere(config: h2sse.Config) -> list[socket.socket]:
        return [Elsewhere(fileno=each.detach()) for each in await bind(config)]

    monkeypatch.setattr(h2sse.binding, "bind", bind_elsewhere)
    limits = h2sse.Limits(connections_per_address=2)
    async with serving(h2sse.App(), limits=limits) as served, served.client() as client:
        await client.listen(EVENTS)
        assert served.app.tabs("a")[0].peer == "192.0.2.7"
        async with served.client():
            assert await refused(served)
            monkeypatch.setattr(Elsewhere, "address", "192.0.2.8")
            async with served.client() as other:
                assert (await other.fetch("/healthz")).status == 200
            monkeypatch.setattr(Elsewhere, "address", "192.0.2.7")
        await until(lambda: served.server.statistics().connections["h2"] == 1)
        async with served.client() as again:
            assert (await again.fetch("/healthz")).status == 200


async def test_loopback_is_exempt_from_the_bound_of_an_address() -> None:
    limits = h2sse.Limits(connections_per_address=1)
    async with serving(h2sse.App(), limits=limits) as served, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(served.client()) for _ in range(3)]
        for client in clients:
            assert (await client.fetch("/healthz")).status == 200


# Publishes all the time, and has a dozen descriptors left.
_FEW_DESCRIPTORS = """
import logging, os, resource, sys
from pathlib import Path
import trio, h2sse

logging.basicConfig(format="%(message)s")
app = h2sse.App()

@app.background
async def tell():
    while True:
        app.publish("a", h2sse.Event(data="tick"))
        await trio.sleep(0.02)

async def main():
    async with trio.open_nursery() as nursery:
        tls = h2sse.Tls(directory=Path(sys.argv[1]))
        config = h2sse.Config(host="127.0.0.1", port=0, tls=tls)
        listening = await nursery.start(h2sse.serve, app, config)
        allowed = len(os.listdir("/proc/self/fd")) + 12
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
        print(f"{listening.port} {allowed}", flush=True)

trio.run(main)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
async def test_running_out_of_descriptors_pauses_accepting() -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", _FEW_DESCRIPTORS, str(certificates())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    log = bytearray()

    async def read_log() -> None:
        assert process.stderr is not None
        async with process.stderr:
            async for data in process.stderr:
                log.extend(data)

    assert process.stdout is not None
    async with process.stdout, trio.open_nursery() as nursery:
        nursery.start_soon(read_log)
        try:
            with trio.fail_after(PATIENCE_SECONDS):
                port, allowed = map(int, (await process.stdout.receive_some()).split())
            for _ in range(2):
                told = log.count(b"accepting pauses")
                await _run_out(port, Path(f"/proc/{process.pid}/fd"), allowed)
                # Once while it lasts, and again the next time.
                await until(lambda told=told: log.count(b"accepting pauses") > told)  # type: ignore[misc]  # mypy cannot type a lambda's default
            assert process.returncode is None
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _run_out(port: int, descriptors: Path, allowed: int) -> None:
    """Take all descriptors there are, see that an open stream goes on, and give them back."""
    context = ssl.create_default_context(cafile=str(certificates() / "ca.pem"))

    async def connect() -> trio.SSLStream[trio.SocketStream]:
        with trio.fail_after(PATIENCE_SECONDS):
            stream = await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", port, https_compatible=True, ssl_context=context
            )
            await stream.do_handshake()
        return stream

    tab = TextClient(await connect())
    await tab.get(EVENTS)
    others = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(20)]
    await until(lambda: len(list(descriptors.iterdir())) == allowed)
    heard = tab.text.count("data: tick")
    await tab.read_until(lambda text: text.count("data: tick") >= heard + 10)
    for each in others:
        await each.aclose()
    await trio.aclose_forcefully(await connect())
    await trio.aclose_forcefully(tab.transport)


# -- going away


async def test_aclose_ends_every_stream_well(jumping_clock: MockClock) -> None:
    app = h2sse.App()
    stopped = trio.Event()

    @app.background
    async def tidy_up_late() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)
            stopped.set()

    # The second one's streams are as many as a browser with 300 tabs has.
    limits = h2sse.Limits(max_concurrent_streams=300)
    async with (
        serving(app, limits=limits) as served,
        served.client() as client,
        text_client(served) as chunked,
        text_client(served) as plain,
        text_client(served) as idle,
        trio.open_nursery() as nursery,
    ):
        requests = [client.request(EVENTS) for _ in range(300)]
        await client.send(*(data for _, data in requests))
        tabs = [tab for tab, _ in requests]
        await client.begun(*tabs)
        await chunked.get(EVENTS)
        await plain.get(EVENTS, version="1.0")
        await idle.get("/healthz")
        for each in (chunked, plain, idle):
            await each.read_until(lambda text: "\r\n\r\n" in text)
        app.publish("a", h2sse.Event(data="the last"))

        nursery.start_soon(follow, client)
        for each in (chunked, plain, idle):
            nursery.start_soon(_read_and_close, each)
        now = trio.current_time()
        await served.listening.aclose()
        assert trio.current_time() - now < 0.5  # no deadline was waited for
        assert stopped.is_set()
        assert not app.servers
        assert not app.tabs("a")

    (goaway, *_) = [at for at, each in enumerate(client.frames) if each.kind == GOAWAY]
    assert all(tab.ended and tab.reset is None for tab in tabs)
    assert min(client.frames.index(tab.frames[-1]) for tab in tabs) > goaway
    assert {tuple(tab.data) for tab in tabs} == {("the last",)}
    # What follows the event is when to come back.
    assert re.search(r"data: the last\n\n\r\n\w+\r\nretry: \d+\n\n\r\n0\r\n\r\n\Z", chunked.text)
    assert re.search(r"data: the last\n\nretry: \d+\n\n\Z", plain.text)
    assert idle.text.endswith('{"status":"ok"}\n')


async def _read_and_close(client: TextClient) -> None:
    await client.read_to_end()
    await trio.aclose_forcefully(client.transport)


async def test_the_round_trip_is_given_whoever_came_and_went_before() -> None:
    """A server that was empty once gives the next clients their time all the same."""
    async with serving(h2sse.App()) as served:
        async with served.client() as gone:
            await gone.fetch("/healthz")
        await until(lambda: not served.server.statistics().connections["h2"])
        async with served.client() as client, trio.open_nursery() as nursery:
            tab = await client.listen(EVENTS)
            nursery.start_soon(served.listening.aclose)
            request = await client.read_frame(PING)
            await trio.testing.wait_all_tasks_blocked()
            served.app.publish("a", h2sse.Event(data="on its way"))
            await client.heard(1, tab)
            await client.send(frame(PING, ACK, 0, request.payload))
            await client.read_to_end()
            assert tab.ended
            await trio.aclose_forcefully(client.transport)


async def test_aclose_returns_after_drain_seconds_whatever_hangs(
    jumping_clock: MockClock,
) -> None:
    app = h2sse.App()
    cancelled = trio.Event()

    @app.get("/never")
    async def never(_: h2sse.Request) -> h2sse.Response:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    limits = h2sse.Limits(drain_seconds=3)
    async with (
        serving(app, limits=limits) as served,
        served.client() as client,
        text_client(served) as other,
    ):
        await client.open_stream("/never")
        await other.get("/never")
        await client.settle()
        # No peer closes, none reads.
        now = trio.current_time()
        await served.listening.aclose()
        assert 3 <= trio.current_time() - now < 3.1
        assert cancelled.is_set()


async def test_aclose_is_safe_at_any_time() -> None:
    app = h2sse.App()
    async with serving(app) as served:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(served.listening.aclose)
        await served.listening.aclose()
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(*served.address)
    async with serving(app) as served:
        pass
    with trio.fail_after(PATIENCE_SECONDS):
        await served.listening.aclose()  # it has been cancelled before


async def test_a_cancelled_server_leaves_nothing() -> None:
    app = h2sse.App()
    left: list[int] = []
    app.presence("a")(lambda change: None if change.joined else left.append(change.tab.id))
    async with trio.open_nursery() as outer:
        async with serving(app) as served:
            client = await outer.start(_hold_open, served)
            stream = await client.listen(EVENTS)
        # `serving` has cancelled its nursery.
        await client.read_to_end()
        assert not stream.ended  # it was cut, not ended: the tab comes back
        outer.cancel_scope.cancel()
    assert len(left) == 1
    assert not app.servers
    assert (app.hub.statistics().tabs, app.hub.statistics().topics) == (0, 0)


async def _hold_open(
    served: Served, task_status: trio.TaskStatus[RawClient] = trio.TASK_STATUS_IGNORED
) -> None:
    async with served.client() as client:
        task_status.started(client)
        await trio.sleep_forever()


# -- handlers


Handler = Callable[[h2sse.Request], Any]


def raises(_: h2sse.Request) -> h2sse.Response:
    raise RuntimeError("the handler's own fault")


async def raises_late(_: h2sse.Request) -> h2sse.Response:
    await trio.lowlevel.checkpoint()
    raise RuntimeError("the handler's own fault")


def returns_nothing(_: h2sse.Request) -> Any:
    return None


def greets_badly(_: h2sse.Request) -> h2sse.Subscribe:
    def greeting() -> list[h2sse.Event]:
        raise RuntimeError("the greeting's own fault")

    return h2sse.Subscribe("a", greeting=greeting)


def answers_no_field(_: h2sse.Request) -> h2sse.Response:
    return h2sse.Response(fields=((b"not a name", b"x"),))


def streams_no_field(_: h2sse.Request) -> h2sse.Subscribe:
    return h2sse.Subscribe("a", fields=((b"not a name", b"x"),))


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
@pytest.mark.parametrize(
    "handler",
    [raises, raises_late, returns_nothing, greets_badly, answers_no_field, streams_no_field],
)
async def test_a_handler_that_fails_costs_its_own_request(
    handler: Handler, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = h2sse.App()
    app.stream("/fails")(handler)
    async with serving(app) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        if protocol == "h2":
            answer = await client.fetch("/fails")
            assert (answer.status, answer.ended) == (500, True)
        else:
            async with text_client(served) as other:
                await other.get("/fails")
                assert (await other.read_until(bool)).startswith("HTTP/1.1 500 ")
        app.publish("a", h2sse.Event(data="still here"))
        await client.heard(1, tab)
        assert app.hub.statistics().tabs == 1
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "GET /fails" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_a_handler_that_takes_too_long_is_a_504(
    protocol: str, jumping_clock: MockClock
) -> None:
    app = h2sse.App()
    cancelled = trio.Event()

    @app.get("/slow")
    async def slow(_: h2sse.Request) -> h2sse.Response:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(app, limits=h2sse.Limits(handler_seconds=3)) as served:
        now = trio.current_time()
        if protocol == "h2":
            async with served.client() as client:
                assert (await client.fetch("/slow")).status == 504
                assert (await client.fetch("/healthz")).status == 200
        else:
            async with text_client(served) as other:
                await other.get("/slow")
                assert (await other.read_until(bool)).startswith("HTTP/1.1 504 ")
        assert 3 <= trio.current_time() - now < 3.1
        assert cancelled.is_set()


async def by_reset(client: RawClient) -> None:
    """RST_STREAM, as `EventSource.close()` sends it."""
    await client.send(*(reset(stream) for stream in client.streams))


async def by_close(client: RawClient) -> None:
    """close_notify and FIN."""
    await client.settle()
    await client.transport.aclose()


async def by_fin(client: RawClient) -> None:
    """FIN without close_notify, as browsers leave."""
    await client.settle()
    await trio.aclose_forcefully(client.transport)


async def by_rst(client: RawClient) -> None:
    """A TCP reset."""
    await reset_connection(client.transport)


async def reset_connection(transport: trio.SSLStream[trio.SocketStream]) -> None:
    tcp = transport.transport_stream
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(tcp)


Leaving = Callable[[RawClient], Awaitable[None]]
each_way_to_leave = pytest.mark.parametrize("leave", [by_reset, by_close, by_fin, by_rst])


@pytest.fixture
def no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is noticed at once is not noticed by the tick."""
    monkeypatch.setattr(h2sse.server, "TICK_SECONDS", 3600)


@each_way_to_leave
async def test_a_handler_whose_client_left_is_cancelled(no_ticks: None, leave: Leaving) -> None:
    app = h2sse.App()
    came, cancelled = trio.Event(), trio.Event()

    @app.get("/slow")
    async def slow(_: h2sse.Request) -> h2sse.Response:
        came.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(app) as served, served.client() as client:
        await client.open_stream("/slow")
        with trio.fail_after(PATIENCE_SECONDS):
            await came.wait()
            await leave(client)
            await cancelled.wait()


async def test_a_handler_whose_http1_client_left_is_cancelled(no_ticks: None) -> None:
    app = h2sse.App()
    came, cancelled = trio.Event(), trio.Event()

    @app.get("/slow")
    async def slow(_: h2sse.Request) -> h2sse.Response:
        came.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(app) as served, text_client(served) as client:
        await client.get("/slow")
        with trio.fail_after(PATIENCE_SECONDS):
            await came.wait()
            await trio.aclose_forcefully(client.transport)
            await cancelled.wait()


@each_way_to_leave
async def test_a_handler_that_ends_after_its_client_left_opens_no_tab(leave: Leaving) -> None:
    app = h2sse.App()
    came, go_on, ended = trio.Event(), trio.Event(), trio.Event()

    @app.stream("/slow")
    async def slow(_: h2sse.Request) -> h2sse.Subscribe:
        came.set()
        with trio.CancelScope(shield=True):
            await go_on.wait()
        ended.set()
        return h2sse.Subscribe("a")

    async with serving(app) as served, served.client() as client:
        await client.open_stream("/slow")
        with trio.fail_after(PATIENCE_SECONDS):
            await came.wait()
        await leave(client)
        await until(lambda: not served.server.statistics().connections["h2"] or leave is by_reset)
        go_on.set()
        with trio.fail_after(PATIENCE_SECONDS):
            await ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert nothing_is_left(served)


async def test_a_handler_may_publish() -> None:
    app = h2sse.App()

    @app.post("/say")
    def say(request: h2sse.Request) -> h2sse.Response:
        return h2sse.Response.json(app.publish("a", h2sse.Event(data="sync")).id)

    @app.post("/say-late")
    async def say_late(request: h2sse.Request) -> h2sse.Response:
        await trio.lowlevel.checkpoint()
        return h2sse.Response.json(app.publish("a", h2sse.Event(data="async")).id)

    async with serving(app) as served, served.client() as client:
        tab = await client.listen(EVENTS)
        for path in ("/say", "/say-late"):
            assert (await client.fetch(path, method="POST", body=b"")).status == 200
        await client.heard(2, tab)
        assert tab.data == ["sync", "async"]


# -- coming and going


async def test_presence_tells_of_each_coming_and_going(caplog: pytest.LogCaptureFixture) -> None:
    app = h2sse.App()
    seen: list[tuple[bool, str, list[int]]] = []

    @app.presence("a")
    def changed(presence: h2sse.Presence) -> None:
        ids = [tab.id for tab in app.tabs(presence.topic)]
        assert (presence.tab.id in ids) == presence.joined
        seen.append((presence.joined, presence.tab.protocol, ids))
        app.publish("who", h2sse.Event(data=str(len(ids))))

    @app.presence("a")
    def fails(presence: h2sse.Presence) -> None:
        raise RuntimeError("the callback's own fault")

    async with serving(app) as served, served.client() as client:
        watcher = await client.listen("/events?topic=who")
        tab = await client.listen("/events?topic=a&topic=b")
        async with text_client(served) as other:
            await other.get(EVENTS)
            await client.heard(2, watcher)
        await client.heard(3, watcher)
        await client.send(reset(tab.id))
        await client.heard(4, watcher)
        assert watcher.data == ["1", "2", "1", "0"]
    first, second = seen[1][2]
    assert seen == [
        (True, "h2", [first]),
        (True, "http/1.1", [first, second]),
        (False, "http/1.1", [first]),
        (False, "h2", []),
    ]
    assert len([each for each in caplog.records if each.exc_info]) == 4


async def test_a_background_task_runs_once_for_as_long_as_the_app_is_served() -> None:
    app = h2sse.App()
    running = 0

    @app.background
    async def tick() -> None:
        nonlocal running
        running += 1
        try:
            await trio.sleep_forever()
        finally:
            running -= 1

    async with serving(app) as first, serving(app) as second:
        await trio.testing.wait_all_tasks_blocked()
        assert running == 1
        await first.listening.aclose()
        await until(lambda: running == 1)
        await trio.testing.wait_all_tasks_blocked()
        assert running == 1
        await second.listening.aclose()
        assert running == 0


def nothing_is_left(served: Served) -> bool:
    hub, server = served.app.hub.statistics(), served.server.statistics()
    return not (hub.tabs or hub.topics or any(server.tabs.values()))


@each_way_to_leave
async def test_http2_tabs_that_leave_are_noticed_at_once(no_ticks: None, leave: Leaving) -> None:
    async with serving(h2sse.App()) as served, served.client() as client:
        for topic in ("a", "a", "b"):
            await client.listen(f"/events?topic={topic}&topic=all")
        assert dict(served.server.statistics().tabs) == {"h2": 3}
        assert served.app.hub.statistics().topics == 3
        await leave(client)
        await until(lambda: nothing_is_left(served))
        connections = 1 if leave is by_reset else 0
        await until(lambda: served.server.statistics().connections["h2"] == connections)


async def test_a_client_that_leaves_while_its_socket_is_full_is_noticed_at_once(
    no_ticks: None,
) -> None:
    windows = {INITIAL_WINDOW_SIZE: MAX_WINDOW}
    async with serving(h2sse.App()) as served, served.client(settings=windows) as client:
        await client.send(window_update(0, MAX_WINDOW - DEFAULT_WINDOW))
        await client.listen(EVENTS)
        await fill_socket(served)
        assert len(served.app.tabs("a")) == 1
        # FIN, after which it may still read.
        await client.transport.transport_stream.send_eof()
        await until(lambda: nothing_is_left(served))


async def fill_socket(served: Served) -> None:
    """Publish until the kernel's buffers take no more."""
    written = -1
    while served.server.bytes_sent > written:
        written = served.server.bytes_sent
        served.app.publish("a", h2sse.Event(data="x" * 50_000))
        await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.mark.parametrize("way", ["close", "fin", "rst"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_http1_tabs_that_leave_are_noticed_at_once(
    no_ticks: None, way: str, version: str
) -> None:
    async with serving(h2sse.App()) as served, text_client(served) as client:
        await client.get(EVENTS, version)
        await client.read_until(lambda text: "retry: " in text)
        assert dict(served.server.statistics().tabs) == {"http/1.1": 1}
        match way:
            case "close":
                await client.transport.aclose()
            case "fin":
                await trio.aclose_forcefully(client.transport)
            case _:
                await reset_connection(client.transport)
        await until(lambda: nothing_is_left(served))
        await until(lambda: not served.server.statistics().connections["http/1.1"])


# -- the two that go round


async def test_events_published_together_leave_together() -> None:
    """In one TLS record, that is in one write."""
    async with serving(h2sse.App()) as served, served.client() as client:
        tabs = [await client.listen(EVENTS) for _ in range(3)]
        for number in range(5):
            served.app.publish("a", h2sse.Event(data=f"{number}"))
        record = await client.transport.receive_some()
        assert record.count(b"data: ") == len(tabs) * 5


async def test_a_changed_certificate_is_served_without_a_restart(
    jumping_clock: MockClock, tmp_path: Path
) -> None:
    authorities = [trustme.CA(), trustme.CA()]
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(authority: trustme.CA) -> None:
        leaf = authority.issue_cert("127.0.0.1")
        cert.write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())

    install(authorities[0])
    app = h2sse.App()
    async with trio.open_nursery() as nursery:
        listening: h2sse.Listening = await nursery.start(
            h2sse.serve, app, config(tls=h2sse.Tls(cert=cert, key=key))
        )
        ca = tmp_path / "ca.pem"
        authorities[0].cert_pem.write_to_path(ca)
        async with Served(app, listening, ca).client() as client:
            tab = await client.listen(EVENTS)
            install(authorities[1])
            await trio.sleep(10)  # of a clock that jumps; it is looked at every five seconds
            authorities[1].cert_pem.write_to_path(ca)
            async with Served(app, listening, ca).client() as again:
                assert (await again.fetch("/healthz")).status == 200
            app.publish("a", h2sse.Event(data="x"))
            await client.heard(1, tab)
        nursery.cancel_scope.cancel()
