"""The ladder: its climb in a made-up browser, its channel to a real WebSocket, real browsers."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from benchmarks.browser import absent, climb, ladder
from benchmarks.browser.climb import Climb, OutOfMemory, Top
from benchmarks.browser.driver import BrowserFailed, Channel, Refused, connected, launched
from benchmarks.browser.site import ServerFailed, ServerSaw, site
from benchmarks.model import Result, Verdict

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_websocket import WebSocketRequest

    from benchmarks.browser import BrowserName
    from benchmarks.model import ProtocolName

DEADLINE = 5.0

HAS_WEBSOCKET = importlib.util.find_spec("trio_websocket") is not None
if HAS_WEBSOCKET:
    import trio_websocket

needs_websocket = pytest.mark.skipif(not HAS_WEBSOCKET, reason="needs trio-websocket")

Command = Mapping[str, object]


@dataclass
class Tab:
    sources: int
    loaded: float | None = None
    newest: list[int] = field(default_factory=list)  # of the streams that are open


class Browser:
    """A browser whose tabs have `streams` between them, for pages and events alike, and its server.

    A page needs one to load, `load_seconds` after the one before it.  Past the first `hearing`
    tabs none receives, though its streams are open.
    """

    version = "Made Up/1"

    def __init__(self, streams: int, *, hearing: int = 1_000, load_seconds: float = 0) -> None:
        self.streams = streams
        self.hearing = hearing
        self.load_seconds = load_seconds
        self.free_at = 0.0
        self.tabs: dict[str, Tab] = {}
        self.opened = 0
        self.used = 0

    def advance(self) -> None:
        """Give out what streams there are, in the order the tabs came."""
        now = trio.current_time()
        for tab in self.tabs.values():
            if self.used == self.streams:
                return
            if tab.loaded is None and now >= self.free_at:
                tab.loaded, self.free_at = 12.4, now + self.load_seconds
            if tab.loaded is not None:
                more = min(tab.sources - len(tab.newest), self.streams - self.used)
                tab.newest += [0] * more
                self.used += more

    async def open(self, url: str) -> str:
        self.opened += 1
        name = str(self.opened)
        self.tabs[name] = Tab(int(url.partition("?sources=")[2]))
        await trio.lowlevel.checkpoint()
        return name

    async def evaluate(self, tab: str, expression: str) -> str | None:
        await trio.lowlevel.checkpoint()
        self.advance()
        seen = self.tabs[tab]
        if seen.loaded is None:
            return None
        newest = seen.newest + [0] * (seen.sources - len(seen.newest))
        return json.dumps({"loaded": seen.loaded, "open": len(seen.newest), "newest": newest})

    async def close(self, tab: str) -> None:
        await trio.lowlevel.checkpoint()
        self.used -= len(self.tabs.pop(tab).newest)

    async def publish(self, number: int) -> ServerSaw:
        await trio.lowlevel.checkpoint()
        self.advance()
        for tab in itertools.islice(self.tabs.values(), self.hearing):
            tab.newest = [number] * len(tab.newest)
        return ServerSaw(streams=self.used, connections=1, protocols=("h2",))


async def climbed(
    browser: Browser, *, sources: int = 1, most: int = 300, told: list[int] | None = None
) -> Top:
    told = [] if told is None else told
    climbing = Climb(
        browser,
        "https://localhost/tab",
        browser.publish,
        sources=sources,
        deadline=DEADLINE,
        progress=told.append,
    )
    return await climbing.run(most)


# -- the climb


@pytest.mark.parametrize("streams", [1, 2, 6, 7, 64, 100, 256])
async def test_it_finds_the_limit(streams: int, autojump_clock: MockClock) -> None:
    told: list[int] = []
    top = await climbed(Browser(streams), told=told)
    assert top.tabs_receiving == top.streams_receiving == streams
    assert top.tabs_opened == streams + 1
    assert top.broke_first == f"tab {streams + 1}: its page did not load"
    assert top.page_load == "hangs"
    assert told == sorted(told)
    assert told[-1] == streams


@pytest.mark.parametrize(
    ("streams", "sources", "tabs", "broke_first"),
    [
        (6, 3, 2, "tab 3: its page did not load"),
        (100, 3, 33, "tab 34: 1 of its 3 streams opened"),
        (256, 5, 51, "tab 52: 1 of its 5 streams opened"),
        (6, 7, 0, "tab 1: 6 of its 7 streams opened"),
    ],
)
async def test_a_tab_receives_if_all_its_streams_do(
    streams: int, sources: int, tabs: int, broke_first: str, autojump_clock: MockClock
) -> None:
    top = await climbed(Browser(streams), sources=sources)
    assert (top.tabs_receiving, top.streams_receiving) == (tabs, streams)
    assert top.broke_first == broke_first
    assert top.page_load == "hangs"


@pytest.mark.parametrize("most", [1, 5, 64, 100])
async def test_without_a_limit_it_ends_at_the_most(most: int, autojump_clock: MockClock) -> None:
    browser = Browser(1_000)
    top = await climbed(browser, most=most)
    assert top.tabs_receiving == top.tabs_opened == most
    assert browser.opened == most + 1  # the last is the page load
    assert top.broke_first == f"nothing, up to {most} tabs"
    assert top.page_load == "loads in 12 ms"


async def test_a_limit_at_the_most_shows_in_the_page_load(autojump_clock: MockClock) -> None:
    top = await climbed(Browser(100), most=100)
    assert top.tabs_receiving == 100
    assert top.page_load == "hangs"


async def test_an_open_stream_that_receives_nothing_breaks_its_tab(
    autojump_clock: MockClock,
) -> None:
    top = await climbed(Browser(1_000, hearing=10), sources=2)
    assert top.tabs_receiving == 10
    assert top.broke_first == "tab 11: 0 of 2 events came"
    assert top.page_load == "loads in 12 ms"


async def test_a_slow_machine_is_not_taken_for_a_limit(autojump_clock: MockClock) -> None:
    top = await climbed(Browser(1_000, load_seconds=DEADLINE - 1), most=16)
    assert top.tabs_receiving == 16


async def test_it_stops_before_the_machine_runs_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(climb, "MIN_FREE_BYTES", 2**62)
    with pytest.raises(OutOfMemory, match="at 0 tabs"):
        await climbed(Browser(1))


# -- absent


@pytest.mark.parametrize("browser", ["chromium", "firefox"])
async def test_an_absent_browser_is_a_result(
    browser: BrowserName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    result = await ladder(browser, protocol="http/1.1", limit=100, progress=print)
    assert result.verdict is Verdict.ABSENT
    assert result.why == absent(browser)
    assert result.why.startswith("apt-get install")
    assert result.case == {"browser": browser, "limit": 0, "sources_per_tab": 1}
    assert not result.figures


# -- a browser's process and channel


async def test_what_a_browser_announces_is_given_on() -> None:
    async with launched(("sh", "-c", "echo ' listening on ws://x' >&2; sleep 60"), "on ") as url:
        assert url == "ws://x"


async def test_a_browser_that_does_not_start_says_why() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with launched(("sh", "-c", "echo no display >&2"), "listening on "):
            pass
    assert caught.group_contains(BrowserFailed, match="no display")


async def answer_two_at_a_time(request: WebSocketRequest) -> None:
    """A browser's end: it answers in pairs, the later command first, with events in between."""
    socket = await request.accept()
    try:
        while True:
            pair = [json.loads(await socket.get_message()) for _ in range(2)]
            for command in reversed(pair):
                await socket.send_message(json.dumps({"method": "Something.happened"}))
                fault = {"error": "no such thing", "message": "none is there"}
                good = {"result": command["params"]}
                answer = fault if command["method"] == "refuse" else good
                await socket.send_message(json.dumps({"id": command["id"], **answer}))
            if pair[0]["method"] == "leave":
                await socket.aclose()
    except trio_websocket.ConnectionClosed:
        pass


@asynccontextmanager
async def channel() -> AsyncIterator[Channel]:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(trio_websocket.serve_websocket, ssl_context=None),
            *(answer_two_at_a_time, "127.0.0.1", 0),
        )
        async with connected(f"ws://127.0.0.1:{server.port}/") as channel:
            yield channel
        nursery.cancel_scope.cancel()


@needs_websocket
async def test_answers_find_their_commands_in_any_order() -> None:
    answers: dict[int, Command] = {}

    async def call(number: int) -> None:
        answers[number] = await talk.call("echo", {"number": number})

    async with channel() as talk, trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(call, number)
    assert answers == {number: {"number": number} for number in range(10)}


@needs_websocket
async def test_a_refused_command_is_told_from_a_browser_that_went_away() -> None:
    async with channel() as talk:
        await talk.tell("echo", {})
        with pytest.raises(Refused, match="refuse: none is there"):
            await talk.call("refuse")
        await talk.tell("leave", {})
        assert await talk.call("echo", {"last": 1}) == {"last": 1}
        with pytest.raises(BrowserFailed, match=r"the browser (has gone|went) away"):
            await talk.call("echo")


# -- the server


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_the_server_says_where_it_is_and_what_it_sees(protocol: ProtocolName) -> None:
    async with site(protocol, 10) as (url, publish):
        assert url.startswith("https://localhost:")
        assert await publish(1) == ServerSaw(streams=0, connections=0, protocols=())


async def test_a_server_that_cannot_serve_says_why() -> None:
    with pytest.raises(ServerFailed, match="max_concurrent_streams must be"):
        async with site("h2", -1):
            pass


# -- real browsers


async def climbed_for_real(
    browser: BrowserName, protocol: ProtocolName, limit: int, sources: int = 1
) -> Result:
    if command := absent(browser):
        if os.environ.get("CI") == "true":
            pytest.fail(f"needs {browser}: {command}")
        pytest.skip(f"needs {browser}: {command}")
    told: list[int] = []
    result = await ladder(
        browser,
        protocol=protocol,
        limit=limit,
        sources_per_tab=sources,
        most=20,
        deadline=2,
        progress=told.append,
    )
    assert result.verdict is Verdict.OK, result.why
    assert told[-1] == result.figures["tabs_receiving"]
    return result


@pytest.mark.browser
async def test_chromium_over_http1_has_six() -> None:
    result = await climbed_for_real("chromium", "http/1.1", 0)
    assert result.figures["tabs_receiving"] == 6
    assert result.notes["broke_first"] == "tab 7: its page did not load"
    assert result.notes["page_load"] == "hangs"
    assert result.notes["server_saw"] == "6 streams on 6 connections"
    assert "/" in result.notes["browser_version"]


@pytest.mark.browser
@pytest.mark.parametrize("browser", ["chromium", "firefox"])
async def test_over_http2_the_servers_limit_is_the_browsers(browser: BrowserName) -> None:
    result = await climbed_for_real(browser, "h2", 10, sources=3)
    assert result.figures["tabs_receiving"] == 3
    assert result.figures["streams_receiving"] == 10
    assert result.notes["broke_first"] == "tab 4: 1 of its 3 streams opened"
    assert result.notes["page_load"] == "hangs"
    assert result.notes["server_saw"] == "10 streams on 1 connection"


@pytest.mark.browser
async def test_below_the_limit_pages_load_on() -> None:
    result = await climbed_for_real("chromium", "h2", 100)
    assert result.figures["tabs_receiving"] == 20
    assert result.notes["broke_first"] == "nothing, up to 20 tabs"
    assert result.notes["page_load"].startswith("loads in ")
