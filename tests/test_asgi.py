"""`ASGI` as a server calls it, on trio and on asyncio, without the server.

`Host` runs the lifespan, `Exchange` is one request as a server holds it: it keeps what the
application sends and asserts that ASGI allows it.  With its `gate` shut, `send` waits, as it does
for a client that does not read.
"""

from __future__ import annotations

import functools
import inspect
import json
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, final

import anyio
import anyio.abc
import pytest
import trio
from anyio import wait_all_tasks_blocked
from hypothesis import given
from hypothesis import strategies as st
from support import PATIENCE_SECONDS, serving
from trio.testing import MockClock

import h2sse
import h2sse.asgi_exchange
from h2sse.asgi import ASGI
from h2sse.history import Entry
from h2sse.hub import PAGE_BYTES
from h2sse.ledger import OVER_TOTAL
from h2sse.overflow import GAP_EVENT, OverflowName
from h2sse.sse import HEARTBEAT

Fields: TypeAlias = Sequence[tuple[str, str]]

EVENTS = "/events?topic=a"
BACKENDS = pytest.mark.parametrize("backend", ["trio", "asyncio"])


# -- a server, as far as ASGI shows one


def data_of(entry: Entry) -> str:
    """What a tab reads of it."""
    (message,) = h2sse.Parser().feed(entry.payload)
    return message.data


@final
class Exchange:
    """One request and what came of it."""

    def __init__(self, method: str, target: str, *fields: tuple[str, str], **scope: object) -> None:
        path, _, query = target.partition("?")
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"localhost:8443")]
            + [(name.encode(), value.encode()) for name, value in fields],
            "client": ("192.0.2.1", 40_000),
            "server": ("192.0.2.2", 8443),
        } | scope
        self.pieces: deque[bytes] = deque([b""])  # the body, as it comes
        self.whole = True  # no more pieces will come
        self.sent: list[dict[str, Any]] = []
        self.messages: list[h2sse.Message] = []
        self.patience_seconds = PATIENCE_SECONDS
        self.over = False  # the application has returned
        self.gate: anyio.Event | None = None
        self.fault: Exception | None = None  # what `send` and `receive` raise from now on
        self._parser = h2sse.Parser()
        self._left = anyio.Event()
        self._changed = anyio.Event()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def fields(self) -> dict[str, str]:
        joined: dict[str, str] = {}
        for raw_name, raw_value in self.sent[0]["headers"]:
            name, value = raw_name.decode(), raw_value.decode()
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return joined

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def data(self) -> list[str]:
        return [message.data for message in self.messages]

    @property
    def ended(self) -> bool:
        """The answer is whole."""
        return len(self.sent) > 1 and not self.sent[-1]["more_body"]

    def leave(self) -> None:
        """The client goes."""
        self._left.set()

    def shut(self) -> None:
        """The client reads no more."""
        self.gate = anyio.Event()

    def open(self) -> None:
        """The client reads on."""
        assert self.gate is not None
        self.gate.set()

    async def run(self, application: ASGI) -> None:
        """What the server's task for the request does."""
        try:
            await application(self.scope, self._receive, self._send)
        finally:
            self.over = True
            self._changed.set()

    async def until(self, done: Callable[[], object]) -> None:
        """Wait for something of this request to come."""
        with anyio.fail_after(self.patience_seconds):
            while not done():
                self._changed = anyio.Event()
                await self._changed.wait()

    async def heard(self, count: int) -> None:
        """Wait until so many events have come."""
        await self.until(lambda: len(self.messages) >= count)

    async def finished(self) -> None:
        """Wait until the application has returned."""
        await self.until(lambda: self.over)

    async def _receive(self) -> Mapping[str, Any]:
        await anyio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault
        if self.pieces:
            piece = self.pieces.popleft()
            more = bool(self.pieces) or not self.whole
            return {"type": "http.request", "body": piece, "more_body": more}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault
        if not self.sent:
            assert message["type"] == "http.response.start"
            for name, value in message["headers"]:
                assert type(name) is type(value) is bytes
                assert name == name.lower()
                assert name not in (b"connection", b"transfer-encoding")
        else:
            assert message["type"] == "http.response.body"
            assert not self.ended
            assert type(message["body"]) is bytes
            assert len(message["body"]) <= 64 * 1024
        self.sent.append(message)
        if len(self.sent) > 1:
            self.messages += self._parser.feed(message["body"])
        self._changed.set()
        if self.gate is not None:
            await self.gate.wait()


@final
class Host:
    """An application whose lifespan has begun."""

    def __init__(self, application: ASGI, group: anyio.abc.TaskGroup) -> None:
        self.application = application
        self.app = application.app
        self._group = group

    def start(self, exchange: Exchange) -> Exchange:
        """Begin a request in a task of its own."""
        self._group.start_soon(exchange.run, self.application)
        return exchange

    async def fetch(
        self, method: str, target: str, *fields: tuple[str, str], body: bytes = b"", **scope: object
    ) -> Exchange:
        """Ask, and wait until the application has returned."""
        exchange = Exchange(method, target, *fields, **scope)
        exchange.pieces = deque([body])
        self.start(exchange)
        await exchange.finished()
        return exchange

    async def listen(
        self, target: str = EVENTS, *fields: tuple[str, str], **scope: object
    ) -> Exchange:
        """Open an event stream, and wait for its first bytes."""
        exchange = self.start(Exchange("GET", target, *fields, **scope))
        await exchange.until(lambda: exchange.body)
        assert exchange.status == 200
        return exchange

    def publish(self, data: str, topic: str = "a") -> str:
        """The id of a new event."""
        event_id = self.app.publish(topic, h2sse.Event(data=data)).id
        assert event_id is not None
        return event_id


@asynccontextmanager
async def lifespan(application: ASGI) -> AsyncIterator[list[str]]:
    """Startup, then shutdown; what the application said to it."""
    said: list[str] = []
    changed = anyio.Event()
    shutdown = anyio.Event()
    asked = iter(("lifespan.startup", "lifespan.shutdown"))

    async def receive() -> Mapping[str, Any]:
        kind = next(asked)
        if kind == "lifespan.shutdown":
            await shutdown.wait()
        return {"type": kind}

    async def send(message: Mapping[str, Any]) -> None:
        said.append(message["type"])
        changed.set()

    async def run() -> None:
        await application({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await changed.wait()
        yield said
        shutdown.set()


@asynccontextmanager
async def hosted(app: h2sse.App | None = None, **settings: Any) -> AsyncIterator[Host]:
    """An application for the block; then all clients leave, unless the shutdown has ended them."""
    application = ASGI(app or h2sse.App(), h2sse.Config(**settings))
    async with anyio.create_task_group() as group, lifespan(application) as said:
        assert said == ["lifespan.startup.complete"]
        yield Host(application, group)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert application.app.servers == []
    assert application.app.hub.statistics().tabs == 0


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on trio, and again on asyncio."""

    def run(backend: str, **arguments: object) -> None:
        # In a thread of its own: whoever drove a browser here before (playwright) may have left a
        # loop of asyncio running in this one.
        task = functools.partial(test, **arguments)
        with ThreadPoolExecutor(1) as threads:
            threads.submit(anyio.run, task, backend=backend).result()

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    # What pytest reads to find the fixtures: those of the test, and the backend.
    backend = inspect.Parameter("backend", inspect.Parameter.KEYWORD_ONLY)
    wanted = [*inspect.signature(test).parameters.values(), backend]
    run.__signature__ = inspect.Signature(wanted)  # type: ignore[attr-defined]  # of any function
    marks = [*getattr(test, "pytestmark", []), BACKENDS.mark]
    run.pytestmark = marks  # type: ignore[attr-defined]  # as pytest.mark itself sets it
    return run


# -- streams


@on_both_loops
async def test_a_tab_is_greeted_at_once_and_hears_every_event() -> None:
    async with hosted() as host:
        tabs = [await host.listen() for _ in range(3)]
        assert [each.fields["content-type"] for each in tabs] == ["text/event-stream"] * 3
        assert all(each.body.startswith(b"retry: ") for each in tabs)
        ids = [host.publish(f"{n}") for n in range(5)]
        for each in tabs:
            await each.heard(5)
            assert each.messages == [
                h2sse.Message("message", f"{n}", event_id) for n, event_id in enumerate(ids)
            ]
            assert not each.over


@on_both_loops
async def test_events_published_together_leave_together() -> None:
    async with hosted() as host:
        tab = await host.listen()
        for n in range(5):
            host.publish(f"{n}")
        await tab.until(lambda: tab.messages)
        assert tab.data == ["0", "1", "2", "3", "4"]


@on_both_loops
async def test_a_client_that_leaves_is_noticed_at_once() -> None:
    app = h2sse.App()
    came_and_went = []
    app.presence("a")(lambda presence: came_and_went.append(presence.joined))
    async with hosted(app) as host:
        stays, goes = await host.listen(), await host.listen()
        goes.leave()
        await goes.finished()
        assert came_and_went == [True, True, False]
        assert len(app.tabs("a")) == 1
        host.publish("1")
        await stays.until(lambda: stays.data == ["1"])
        assert not goes.messages


@on_both_loops
async def test_a_client_may_leave_while_nothing_is_taken() -> None:
    async with hosted() as host:
        tab = await host.listen()
        tab.shut()
        host.publish("1")
        host.publish("2")
        await wait_all_tasks_blocked()
        tab.leave()
        await tab.finished()
        assert host.app.hub.statistics().tabs == 0
        assert not tab.ended


@pytest.mark.parametrize("fault", [OSError("gone"), RuntimeError("ASGI flow error")])
@on_both_loops
async def test_what_the_server_raises_ends_the_request_quietly(fault: Exception) -> None:
    async with hosted() as host:
        tab, other = await host.listen(), await host.listen()
        tab.fault = fault
        host.publish("1")
        await tab.finished()
        await other.until(lambda: other.data == ["1"])
        assert len(host.app.tabs("a")) == 1
        (reason,) = host.application.statistics().reasons
        assert type(fault).__name__ in reason


@on_both_loops
async def test_a_server_that_cancels_leaves_no_tab() -> None:
    async with hosted() as host:
        tab = Exchange("GET", EVENTS)
        async with anyio.create_task_group() as group:
            group.start_soon(tab.run, host.application)
            await tab.until(lambda: tab.body)
            group.cancel_scope.cancel()
        assert host.app.tabs("a") == ()
        assert host.application.statistics().connections == {}


def test_a_greeting_and_a_retry_are_the_handlers() -> None:
    async def scenario() -> None:
        app = h2sse.App()
        greeting = [h2sse.Event(data="welcome")]
        app.stream("/own")(
            lambda _: h2sse.Subscribe("a", greeting=greeting, retry=7, fields=[(b"x-own", b"1")])
        )
        async with hosted(app, cors_origins=("https://app.example",)) as host:
            tab = await host.listen("/own", ("origin", "https://app.example"))
            assert tab.body.startswith(b"retry: 7\n")
            assert tab.data == ["welcome"]
            assert tab.fields["x-own"] == "1"
            assert tab.fields["access-control-allow-origin"] == "https://app.example"

    anyio.run(scenario, backend="trio")


async def test_reconnection_times_are_spread() -> None:
    async with hosted(retry_ms=1000, retry_spread=0.5) as host:
        firsts = [(await host.listen()).body.split(b"\n")[0] for _ in range(20)]
    times = [int(first.removeprefix(b"retry: ")) for first in firsts]
    assert all(500 <= each <= 1500 for each in times)
    assert len(set(times)) > 1


# -- resuming


@on_both_loops
async def test_a_long_history_is_read_page_by_page_as_it_is_taken() -> None:
    async with hosted() as host:
        first = host.publish("0")
        for n in range(1, 500):
            host.publish(f"{n} " + "x" * 1000)
        tab = Exchange("GET", EVENTS, ("last-event-id", first))
        tab.shut()
        host.start(tab)
        await tab.until(lambda: tab.sent)
        (exchange,) = host.application.exchanges
        most = 0
        while len(tab.messages) < 500:
            # One message at a time, with an event now and then while it waits.
            await wait_all_tasks_blocked()
            most = max(most, exchange._backlog)
            if len(tab.messages) % 3 == 0:
                host.publish("between")
            gate = tab.gate
            tab.shut()
            assert gate is not None
            gate.set()
        tab.open()
        last = host.publish("last")
        await tab.until(lambda: tab.messages[-1].last_event_id == last)
        assert most <= PAGE_BYTES + 2000
        every = host.app.hub.history.after({"a"}, 1, 10**9)[0]
        assert tab.data == [data_of(entry) for entry in every]
        assert host.app.hub.statistics().gaps == 0


async def test_an_id_nobody_knows_is_told_as_a_gap() -> None:
    async with hosted() as host:
        tab = await host.listen(EVENTS, ("last-event-id", "stranger-5"))
        assert GAP_EVENT in tab.fields
        assert [message.event for message in tab.messages] == [GAP_EVENT]
        assert json.loads(tab.data[0])["lastEventId"] == "stranger-5"


@given(
    st.lists(st.sampled_from(["publish", "read", "come", "come back", "leave"]), max_size=60),
    st.integers(0, 3000),
)
def test_nothing_is_lost_or_doubled_however_they_read(steps: list[str], size: int) -> None:
    async def scenario() -> None:
        limits = h2sse.Limits(tab_backlog_bytes=8_000)
        async with hosted(limits=limits) as host:
            begin = host.publish("first")
            seen: list[list[tuple[str, str]]] = []  # what each tab heard, over its connections
            open_tabs: dict[int, Exchange] = {}

            def take(number: int) -> None:
                tab = open_tabs[number]
                seen[number] += [(each.last_event_id, each.data) for each in tab.messages]
                tab.messages.clear()

            async def come(number: int) -> None:
                last = seen[number][-1][0] if seen[number] else begin
                tab = Exchange("GET", EVENTS, ("last-event-id", last))
                tab.shut()
                open_tabs[number] = host.start(tab)
                await tab.until(lambda: tab.sent)

            for turn, step in enumerate(steps):
                number = turn % len(seen) if seen else 0
                match step:
                    case "publish":
                        host.publish(f"{turn} " + "x" * size)
                    case "come":
                        seen.append([])
                        await come(len(seen) - 1)
                    case "read" if seen:
                        tab = open_tabs[number]
                        gate = tab.gate
                        tab.shut()
                        assert gate is not None
                        gate.set()
                        await wait_all_tasks_blocked()
                        take(number)
                    case "leave" | "come back" if seen:
                        open_tabs[number].leave()
                        await wait_all_tasks_blocked()
                        take(number)
                        await come(number)
                    case _:
                        pass
            last = host.publish("last")
            every = host.app.hub.history.after({"a"}, 1, 10**9)[0]
            for number in range(len(seen)):
                while not seen[number] or seen[number][-1][0] != last:
                    tab = open_tabs[number]
                    tab.gate, gate = None, tab.gate
                    assert gate is not None
                    gate.set()
                    await wait_all_tasks_blocked()
                    take(number)
                    if tab.over and (not seen[number] or seen[number][-1][0] != last):
                        assert tab.ended
                        await come(number)
            for heard in seen:
                assert heard == [(entry.id, data_of(entry)) for entry in every]
            for tab in open_tabs.values():
                tab.leave()

    trio.run(scenario)


async def test_a_fault_amid_a_publishing_is_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The publisher and the others go on; the tab that failed comes back by its id."""
    async with hosted() as host:
        tabs = [await host.listen() for _ in range(3)]
        host.publish("1")
        for each in tabs:
            await each.heard(1)
        (_, failing, _) = host.application.exchanges
        offer = h2sse.asgi_exchange.Exchange.offer

        def offer_fails(self: h2sse.asgi_exchange.Exchange, payload: bytes) -> None:
            if self is failing:
                raise OSError
            offer(self, payload)

        monkeypatch.setattr(h2sse.asgi_exchange.Exchange, "offer", offer_fails)
        host.publish("2")
        await tabs[1].finished()
        assert tabs[1].ended
        for each in (tabs[0], tabs[2]):
            await each.heard(2)
        assert len(host.app.tabs("a")) == 2
        back = await host.listen(EVENTS, ("last-event-id", tabs[1].messages[-1].last_event_id))
        await back.until(lambda: back.data == ["2"])
    assert len([each for each in caplog.records if each.levelname == "ERROR"]) == 1


# -- bounds


async def test_a_tab_at_its_bound_is_ended_well_and_resumes(autojump_clock: MockClock) -> None:
    async with hosted(limits=h2sse.Limits(tab_backlog_bytes=10_000)) as host:
        slow, fast = await host.listen(), await host.listen()
        slow.shut()
        for n in range(100):
            host.publish(f"{n} " + "x" * 1000)
            await fast.heard(n + 1)
        assert host.application.statistics().overflowed == 1
        (exchange, _) = host.application.exchanges
        assert exchange._waiting == []
        await trio.sleep(1.5)
        assert len(host.app.tabs("a")) == 1
        slow.open()
        await slow.finished()
        assert slow.ended
        back = await host.listen(EVENTS, ("last-event-id", slow.messages[-1].last_event_id))
        await back.until(lambda: slow.data + back.data == fast.data)


@pytest.mark.parametrize("overflow", ["drop-oldest", "latest"])
async def test_a_slow_tab_of_a_lossy_topic_stays(overflow: OverflowName) -> None:
    async with hosted(limits=h2sse.Limits(tab_backlog_bytes=100_000)) as host:
        host.app.topic("a", overflow=overflow)
        slow = await host.listen()
        host.publish("first")
        await slow.heard(1)
        slow.shut()
        for n in range(1_000):
            host.publish(f"{n} " + "x" * 1_000)
        await wait_all_tasks_blocked()
        (exchange,) = host.application.exchanges
        assert exchange._backlog <= 100_000
        assert host.app.ledger.total == exchange._backlog
        slow.open()
        await slow.until(lambda: slow.data[-1].startswith("999 "))
        events = [each for each in slow.messages[1:] if each.event != GAP_EVENT]
        marks = [json.loads(each.data) for each in slow.messages if each.event == GAP_EVENT]
        lost = host.app.ledger.lost[overflow]
        assert lost > 800
        assert len(events) + lost == 1_000
        assert sum(mark["dropped"] for mark in marks) == (lost if overflow == "drop-oldest" else 0)
        await wait_all_tasks_blocked()
        assert host.app.ledger.total == 0


async def test_backlogs_together_are_bounded() -> None:
    limits = h2sse.Limits(total_backlog_bytes=50_000)
    async with hosted(limits=limits) as host:
        little, much = await host.listen(), await host.listen()
        for n in range(40):
            host.publish(f"{n} " + "x" * 1_000)
            if n == 20:
                much.shut()
            if n == 30:
                little.shut()
            await wait_all_tasks_blocked()
        for n in range(30):
            host.publish(f"{n} " + "x" * 1_000)
            host.app.ledger.relieve(50_000)  # as the next who wakes, or the second
            assert host.app.ledger.total <= 50_000
        much.open()
        await much.finished()
        assert host.application.statistics().reasons == {OVER_TOTAL: 1}
        little.open()
        await little.heard(70)


async def test_a_client_that_takes_nothing_is_given_up(autojump_clock: MockClock) -> None:
    async with hosted(limits=h2sse.Limits(stall_seconds=10, linger_seconds=2)) as host:
        tab = await host.listen()
        tab.shut()
        host.publish("1")
        began = trio.current_time()
        tab.patience_seconds = 20
        await tab.finished()
        assert 10 <= trio.current_time() - began <= 15
        assert host.app.tabs("a") == ()
        counts = host.application.statistics()
        assert counts.resets_sent == 1
        assert counts.reasons == {"took nothing for stall_seconds": 1}


async def test_an_answer_that_nobody_takes_is_given_up(autojump_clock: MockClock) -> None:
    app = h2sse.App()
    app.get("/big")(lambda _: h2sse.Response(body=b"x" * 200_000))
    async with hosted(app, limits=h2sse.Limits(stall_seconds=10)) as host:
        reads, stalls = Exchange("GET", "/big"), Exchange("GET", "/big")
        stalls.shut()
        host.start(reads)
        host.start(stalls)
        await reads.finished()
        assert reads.body == b"x" * 200_000
        stalls.patience_seconds = 20
        await stalls.finished()
        assert not stalls.ended


async def test_heartbeats_fill_the_quiet(autojump_clock: MockClock) -> None:
    async with hosted(heartbeat_seconds=15) as host:
        tab = await host.listen()
        first = tab.body
        await trio.sleep(10)
        host.publish("1")
        await trio.sleep(14)
        assert tab.body.count(HEARTBEAT) == 0
        await trio.sleep(32)
        assert tab.body.endswith(b"data: 1\n\n" + HEARTBEAT * 3)
        assert tab.body.startswith(first)


# -- bodies


def upload(*pieces: bytes, whole: bool = True, length: int | None = None) -> Exchange:
    """A publication whose body comes in these pieces."""
    kind = ("content-type", "application/x-www-form-urlencoded")
    fields = [kind] if length is None else [kind, ("content-length", str(length))]
    exchange = Exchange("POST", "/publish", *fields)
    exchange.pieces = deque(pieces)
    exchange.whole = whole
    return exchange


@on_both_loops
async def test_a_body_in_pieces_is_one_body() -> None:
    async with hosted() as host:
        tab = await host.listen()
        post = host.start(upload(b"topic=a", b"&dat", b"", b"a=h%C3%A9"))
        await post.finished()
        await tab.until(lambda: tab.data == ["hé"])
        assert json.loads(post.body) == {"id": tab.messages[0].last_event_id, "topics": ["a"]}
        assert post.fields["content-length"] == str(len(post.body))


@pytest.mark.parametrize("declared", [True, False])
@on_both_loops
async def test_a_body_over_its_bound_is_413_and_is_read_on(declared: bool) -> None:
    async with hosted(limits=h2sse.Limits(body_bytes=1000)) as host:
        post = upload(*[b"x" * 400] * 20, length=8000 if declared else None)
        host.start(post)
        await post.finished()
        assert post.status == 413
        assert post.ended
        assert "1000" in json.loads(post.body)["detail"]
        assert not post.pieces, "a server that queues them would have waited for ever"
        assert host.app.hub.statistics().published == 0
        fits = host.start(upload(b"topic=a&data=", b"x" * 987, length=1000))
        await fits.finished()
        assert fits.status == 200


@on_both_loops
async def test_a_client_may_leave_while_it_is_refused() -> None:
    async with hosted(limits=h2sse.Limits(body_bytes=1000)) as host:
        post = upload(b"x" * 2000, whole=False)
        post.shut()
        host.start(post)
        await wait_all_tasks_blocked()
        post.leave()
        await post.finished()
        assert post.status == 413
        assert not post.ended


async def test_a_body_that_does_not_come_is_408(autojump_clock: MockClock) -> None:
    async with hosted(limits=h2sse.Limits(body_seconds=30, linger_seconds=2)) as host:
        post = host.start(upload(b"topic=a", whole=False))
        await trio.sleep(29)
        assert post.sent == []
        await trio.sleep(2)
        assert post.status == 408
        await trio.sleep(2)
        assert post.over
        assert post.ended


@on_both_loops
async def test_a_client_that_leaves_amid_its_body_has_asked_nothing() -> None:
    app = h2sse.App()
    called = []

    @app.post("/own")
    def own(request: h2sse.Request) -> h2sse.Response:
        called.append(request)
        return h2sse.Response()

    async with hosted(app) as host:
        post = Exchange("POST", "/own")
        post.whole = False
        host.start(post)
        await wait_all_tasks_blocked()
        post.leave()
        await post.finished()
        assert post.sent == []
    assert called == []


# -- handlers


@on_both_loops
async def test_a_handler_that_fails_costs_its_own_request(caplog: pytest.LogCaptureFixture) -> None:
    app = h2sse.App()

    async def fails(_: h2sse.Request) -> h2sse.Response:
        await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError

    def refuses(_: h2sse.Request) -> h2sse.Response:
        raise h2sse.BadRequest("colour", "is not known")

    def greets() -> Sequence[h2sse.Event]:
        raise ZeroDivisionError

    app.get("/fails")(fails)
    app.get("/refuses")(refuses)
    app.get("/nothing")(lambda _: None)  # type: ignore[type-var]  # that is the point
    app.stream("/greets")(lambda _: h2sse.Subscribe("a", greeting=greets))
    async with hosted(app) as host:
        tab = await host.listen()
        paths = ("/fails", "/refuses", "/nothing", "/greets")
        answers = [await host.fetch("GET", path) for path in paths]
        assert [each.status for each in answers] == [500, 422, 500, 500]
        for each in answers:
            assert each.fields["content-type"] == "application/problem+json"
            assert json.loads(each.body)["status"] == each.status
        assert json.loads(answers[1].body)["field"] == "colour"
        assert not tab.over
    logged = [record.getMessage() for record in caplog.records if record.exc_info]
    assert [each.split()[4] for each in logged] == ["/fails", "/nothing", "/greets"]


async def test_a_handler_that_takes_too_long_is_a_504(autojump_clock: MockClock) -> None:
    app = h2sse.App()
    ended = []

    @app.get("/slow")
    async def slow(_: h2sse.Request) -> h2sse.Response:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with hosted(app, limits=h2sse.Limits(handler_seconds=5)) as host:
        began = trio.current_time()
        exchange = host.start(Exchange("GET", "/slow"))
        await trio.sleep(6)
        assert exchange.status == 504
        assert exchange.ended
        assert ended == [began + 5]


@on_both_loops
async def test_a_handler_whose_client_left_is_cancelled() -> None:
    app = h2sse.App()
    ended = []

    @app.stream("/slow")
    async def slow(_: h2sse.Request) -> h2sse.Subscribe:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)
        raise AssertionError

    async with hosted(app) as host:
        exchange = host.start(Exchange("GET", "/slow"))
        await wait_all_tasks_blocked()
        exchange.leave()
        await exchange.finished()
        assert exchange.sent == []
    assert ended == [True]


@on_both_loops
async def test_a_handler_may_wait_before_it_subscribes() -> None:
    app = h2sse.App()

    @app.stream("/own")
    async def own(_: h2sse.Request) -> h2sse.Subscribe:
        await anyio.lowlevel.checkpoint()
        return h2sse.Subscribe("a")

    async with hosted(app) as host:
        tab = await host.listen("/own")
        host.publish("1")
        await tab.until(lambda: tab.data == ["1"])
        tab.leave()
        await tab.finished()
        assert app.tabs("a") == ()


# -- the same answers as the native server's

REQUESTS: list[tuple[str, str, list[tuple[str, str]], bytes | None]] = [
    ("GET", "/", [], None),
    ("GET", "/healthz", [], None),
    ("HEAD", "/healthz", [], None),
    ("HEAD", EVENTS, [("origin", "https://app.example")], None),
    ("GET", "/events", [], None),
    ("GET", "/events?topic=%ff", [], None),
    ("GET", EVENTS, [("accept", "text/html")], None),
    ("GET", "/nowhere", [("origin", "https://app.example")], None),
    ("GET", "/%C3%A9t%C3%A9?a=b", [], None),
    ("GET", "/healthz/", [], None),
    ("DELETE", "/publish", [], None),
    ("GET", "/publish", [], None),
    ("OPTIONS", "/publish", [], None),
    (
        "OPTIONS",
        "/publish",
        [("origin", "https://app.example"), ("access-control-request-method", "POST")],
        None,
    ),
    ("OPTIONS", "/events", [("origin", "https://evil.example")], None),
    ("POST", "/publish", [("content-type", "text/plain")], b"x"),
    ("POST", "/publish", [("origin", "https://evil.example")], b"topic=a&data=x"),
    ("POST", "/publish", [("content-type", "application/json")], b'{"topic": "a"'),
    ("POST", "/publish", [("content-type", "application/json")], b'{"topic": ["a"], "data": 1}'),
    ("POST", "/publish", [("content-type", "application/x-www-form-urlencoded")], b"data=x"),
]


async def test_answers_are_those_of_the_native_server() -> None:
    origins = ("https://app.example",)
    async with (
        serving(h2sse.App(), cors_origins=origins) as served,
        served.client() as client,
        hosted(cors_origins=origins) as host,
    ):
        for method, target, fields, body in REQUESTS:
            native = await client.fetch(target, *fields, method=method, body=body)
            ours = await host.fetch(
                method,
                target,
                *fields,
                body=body or b"",
                headers=[(b"host", client.authority.encode())]
                + [(name.encode(), value.encode()) for name, value in fields],
            )
            assert ours.ended
            assert ours.status == native.status, (method, target)
            assert ours.fields == native.fields, (method, target)
            assert ours.body == bytes(native.body), (method, target)


# -- what a server may hand over


async def asked(**scope: object) -> h2sse.Request | int:
    """The request as a handler sees it, or the status without one."""
    app = h2sse.App(builtin=False)
    seen: list[h2sse.Request] = []

    def handler(request: h2sse.Request) -> h2sse.Response:
        seen.append(request)
        return h2sse.Response()

    for path in ("/", "/a%2Fb/%C3%A9", "/a/b/%C3%A9"):
        app.get(path)(handler)
    async with hosted(app) as host:
        exchange = Exchange("GET", "/")
        exchange.scope |= scope
        for name in [name for name, value in scope.items() if value is ...]:
            del exchange.scope[name]
        host.start(exchange)
        await exchange.finished()
    return seen[0] if seen else exchange.status


ETE = {"path": "/a/b/é", "raw_path": b"/a%2Fb/%C3%A9"}


@pytest.mark.parametrize(
    ("scope", "path", "query"),
    [
        (ETE, "/a%2Fb/%C3%A9", ""),
        (ETE | {"raw_path": None}, "/a/b/%C3%A9", ""),
        (ETE | {"raw_path": ...}, "/a/b/%C3%A9", ""),
        (ETE | {"raw_path": b"/a%2Fb/%C3%A9?x=1", "query_string": b"x=1"}, "/a%2Fb/%C3%A9", "x=1"),
        ({"raw_path": b"https://h/a%2Fb/%C3%A9"}, "/a%2Fb/%C3%A9", ""),
        ({"raw_path": b"https://h", "query_string": ...}, "/", ""),
        ({"raw_path": b"/sse/a/b/%C3%A9", "root_path": "/sse"}, "/a/b/%C3%A9", ""),
        ({"raw_path": b"/a/b/%C3%A9", "root_path": "/sse"}, "/a/b/%C3%A9", ""),
        ({"raw_path": b"/sse", "root_path": "/sse/"}, "/", ""),
        ({"query_string": b"q=%20&r=\xc3\xa9"}, "/", "q=%20&r=é"),
    ],
)
async def test_a_path_is_as_it_was_written(scope: dict[str, object], path: str, query: str) -> None:
    request = await asked(**scope)
    assert isinstance(request, h2sse.Request)
    assert (request.path, request.query) == (path, query)


@pytest.mark.parametrize(
    ("version", "protocol"),
    [("2", "h2"), ("3", "h2"), ("1.1", "http/1.1"), ("1.0", "http/1.1"), (..., "http/1.1")],
)
async def test_protocols(version: object, protocol: str) -> None:
    request = await asked(http_version=version)
    assert isinstance(request, h2sse.Request)
    assert request.protocol == protocol


async def test_fields_are_in_lower_case_and_the_connections_own_are_left_out() -> None:
    headers = [
        (b"Host", b"example.org"),
        (b"Connection", b"keep-alive, x"),
        (b"TE", b"gzip"),
        (b"transfer-encoding", b"chunked"),
        (b"X-Own", b"1"),
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
    ]
    request = await asked(http_version="1.1", headers=headers)
    assert isinstance(request, h2sse.Request)
    assert request.authority == "example.org"
    own = ((b"host", b"example.org"), (b"x-own", b"1"), (b"cookie", b"a=1; b=2"))
    assert tuple(request.fields) == own


@pytest.mark.parametrize("client", [None, ..., ["192.0.2.9", 0], ("192.0.2.9", 5), ("unix", None)])
async def test_a_client_may_be_missing(client: object) -> None:
    request = await asked(client=client)
    assert isinstance(request, h2sse.Request)
    assert request.connection == 1
    assert request.peer == ("" if client in (None, ...) else client[0])  # type: ignore[index]


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({"headers": []}, 200),
        ({"headers": [(b"host", b"")]}, 200),
        ({"headers": [(b"host", b"a b")]}, 400),
        ({"headers": [(b"host", b"a"), (b"host", b"b")]}, 400),
        ({"headers": [(b"host", b"a"), (b"bad name", b"b")]}, 400),
        ({"headers": [(b"host", b"a"), (b"content-length", b"-1")]}, 400),
        ({"headers": [(b"host", b"a"), (b"x", b"y" * 20_000)]}, 431),
        ({"headers": [(b"host", b"a")] * 1 + [(b"x", b"y")] * 101}, 431),
        ({"raw_path": b"no slash"}, 400),
        ({"raw_path": b"/a b"}, 400),
        ({"raw_path": b"/\xff"}, 400),
        ({"query_string": b"\xff"}, 400),
        ({"method": "G T"}, 400),
        ({"method": "CONNECT"}, 400),
    ],
)
async def test_what_cannot_be_a_request_is_refused(scope: dict[str, object], status: int) -> None:
    answer = await asked(**scope)
    if status == 200:
        assert isinstance(answer, h2sse.Request)
        assert answer.authority == "localhost"
    else:
        assert answer == status


async def test_tabs_of_one_connection_show_the_same_number() -> None:
    async with hosted() as host:
        for client in (("192.0.2.1", 1), ("192.0.2.1", 1), ("192.0.2.1", 2), None, None):
            await host.listen(client=client)
        numbers = [tab.connection for tab in host.app.tabs("a")]
        assert numbers == [1, 1, 2, 3, 4]
        counts = host.application.statistics()
        assert counts.connections == {"h2": 4}
        assert counts.tabs == {"h2": 5}
        assert counts.accepted == 4


# -- life


@on_both_loops
async def test_a_shutdown_ends_every_stream_well() -> None:
    async with hosted() as host:
        tabs = [await host.listen() for _ in range(3)]
        host.publish("the last")
    for each in tabs:
        assert each.data == ["the last"]
        assert each.ended
        assert each.over


@on_both_loops
async def test_whoever_comes_while_it_drains_is_told_to_come_back() -> None:
    async with hosted(retry_ms=1000, retry_spread=0) as host:
        tab = await host.listen()
        await host.application.drain()
        assert tab.ended
        last = host.publish("1")
        late = await host.fetch("GET", EVENTS, ("last-event-id", last))
        assert late.status == 200
        assert late.fields["content-type"] == "text/event-stream"
        assert late.body == b"retry: 1000\n\n"
        assert late.ended
        assert (await host.fetch("GET", "/healthz")).status == 200
        await host.application.drain()


async def test_a_drain_does_not_wait_for_those_who_take_nothing(autojump_clock: MockClock) -> None:
    limits = h2sse.Limits(drain_seconds=5, stall_seconds=60)
    application = ASGI(h2sse.App(), h2sse.Config(limits=limits))
    tab = Exchange("GET", EVENTS)
    async with trio.open_nursery() as nursery:
        async with application.serving():
            nursery.start_soon(tab.run, application)
            await tab.until(lambda: tab.body)
            tab.shut()
            application.app.publish("a", h2sse.Event(data="1"))
            await wait_all_tasks_blocked()
            began = trio.current_time()
        assert trio.current_time() - began == 5
        tab.leave()


@on_both_loops
async def test_backgrounds_run_once_for_as_long_as_the_app_is_served() -> None:
    app = h2sse.App()
    running: list[int] = []

    @app.background
    async def task() -> None:
        running.append(1)
        try:
            await anyio.sleep_forever()
        finally:
            running.pop()

    first, second = ASGI(app), ASGI(app)
    async with second.serving():
        async with first.serving():
            await wait_all_tasks_blocked()
            assert running == [1]
            assert app.servers == [second, first]
        assert running == [1]
        assert app.servers == [second]
    assert running == []
    async with first.serving(), second.serving():
        await wait_all_tasks_blocked()
        assert running == [1]
    assert running == []


async def test_a_second_server_takes_over_what_the_first_ran() -> None:
    app = h2sse.App()
    begun = []

    @app.background
    async def task() -> None:
        begun.append(1)
        await trio.sleep_forever()

    first, second = ASGI(app), ASGI(app)
    async with trio.open_nursery() as nursery:
        until = trio.Event()

        async def serve_first(task_status: trio.TaskStatus[None]) -> None:
            async with first.serving():
                task_status.started()
                await until.wait()

        await nursery.start(serve_first)
        async with second.serving():
            await wait_all_tasks_blocked()
            assert begun == [1]
            until.set()
            await wait_all_tasks_blocked()
            assert begun == [1, 1]
            assert app.servers == [second]


@on_both_loops
async def test_a_background_that_fails_ends_the_serving(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = h2sse.App()
    fail = anyio.Event()

    @app.background
    async def task() -> None:
        await fail.wait()
        raise ZeroDivisionError

    application = ASGI(app)
    tab, late = Exchange("GET", EVENTS), Exchange("GET", EVENTS)

    async def live(group: anyio.abc.TaskGroup) -> None:
        async with lifespan(application):
            group.start_soon(tab.run, application)
            await tab.until(lambda: tab.body)
            fail.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        with pytest.raises(ExceptionGroup) as caught:
            await live(group)
        assert caught.group_contains(ZeroDivisionError)
        await tab.finished()
        assert tab.ended
        await late.run(application)
        assert late.status == 503
    assert "is served no more" in caplog.text


async def test_it_is_served_once_at_a_time() -> None:
    async with hosted() as host:
        async with lifespan(host.application) as said:
            assert said == ["lifespan.startup.failed"]
        with pytest.raises(h2sse.LocalError, match="already"):
            async with host.application.serving():
                pass
        assert (await host.fetch("GET", "/healthz")).status == 200


async def test_without_a_lifespan_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange("GET", EVENTS)
    await exchange.run(ASGI(h2sse.App()))
    assert exchange.status == 503
    assert "lifespan" in json.loads(exchange.body)["detail"]
    assert "lifespan" in caplog.text


async def test_only_http_is_served() -> None:
    application = ASGI(h2sse.App())
    sent: list[Mapping[str, Any]] = []

    async def receive() -> Mapping[str, Any]:
        raise AssertionError

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    await application({"type": "websocket"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
    with pytest.raises(h2sse.LocalError, match="mqtt"):
        await application({"type": "mqtt"}, receive, send)


@on_both_loops
async def test_metrics_count_what_is_served() -> None:
    async with hosted() as host:
        tabs = [await host.listen(), await host.listen(http_version="1.1")]
        host.publish("1")
        for each in tabs:
            await each.heard(1)
        text = (await host.fetch("GET", "/metrics")).body.decode()
        assert 'h2sse_tabs{protocol="h2"} 1.0' in text
        assert 'h2sse_tabs{protocol="http/1.1"} 1.0' in text
        assert "h2sse_requests_total 3.0" in text
        assert "h2sse_publish_latency_seconds_count 1.0" in text
        assert f"h2sse_bytes_sent_total {sum(len(each.body) for each in tabs)}" in text


def test_without_anyio_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['anyio'] = None; import h2sse.asgi"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("pip install 'h2sse[asgi]'")


def test_it_is_a_hypercorn_application() -> None:
    """As far as types say."""
    from hypercorn.typing import ASGIFramework

    application: ASGIFramework = ASGI(h2sse.App())
    assert callable(application)
