"""The live trace in a real browser, beside the tabs that it describes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import trio
from playwright.sync_api import expect

import h2sse
from h2sse.demo import Demo
from h2sse.trace import Taps

from .running import Site

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import BrowserContext

pytestmark = pytest.mark.browser


@pytest.fixture
def site(certs: Path) -> Iterator[Site]:
    """The demo with its trace connected, as `h2sse demo` serves it."""
    started: queue.SimpleQueue[tuple[Site, trio.CancelScope]] = queue.SimpleQueue()

    async def serve() -> None:
        demo = Demo()
        taps = Taps(time.time)
        taps.listeners.append(demo.traced)
        tls = h2sse.Tls(directory=certs)
        async with trio.open_nursery() as nursery:
            http2, http1 = [
                await nursery.start(
                    h2sse.serve, demo.app, h2sse.Config(port=0, http1=http1, tls=tls), taps
                )
                for http1 in (False, True)
            ]
            demo.listening(http2.url, http1.url)
            token = trio.lowlevel.current_trio_token()
            started.put((Site(http2.url, http1.url, demo.app, token), nursery.cancel_scope))

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    running, scope = started.get(timeout=20)
    try:
        yield running
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=running.token)
        thread.join()


def test_one_write_carries_the_event_of_all_tabs(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    page.goto(f"{site.http2}/trace/")
    page.click("[data-open='5']")
    expect(page.locator("#tiles .tile[data-state=streaming]")).to_have_count(5)
    expect(page.locator("#verdict")).to_contain_text("5 tabs on 1 connection")
    page.click("#publish")
    flash = page.locator("#rows li[data-type=DATA]", has_text="event flash")
    expect(flash.locator(".chip")).to_have_count(5)
    # The same streams, by the same names, as the tiles.
    tiles = page.locator("#tiles .tile").all_inner_texts()
    assert sorted(flash.locator(".chip").all_inner_texts()) == sorted(tiles)
    expect(page.locator("#verdict")).to_contain_text("one write of 5 frames")
    page.click("[data-close='1']")
    reset = page.locator("#rows li[data-type=RST_STREAM]", has_text="CANCEL")
    expect(reset.locator(".chip")).to_have_text([tiles[-1]])
    # The trace is not in the trace, but for the request it came by.
    expect(page.locator("#rows li[data-type=DATA]", has_text="/trace/events")).to_have_count(0)


def test_it_is_readable_on_a_phone(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{site.http2}/trace/")
    page.click("[data-open='20']")
    expect(page.locator("#rows li[data-type=DATA] .chip").nth(19)).to_be_attached()
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wider) == 0


def test_a_pause_holds_the_rows_still(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    page.goto(f"{site.http2}/trace/")
    page.click("[data-open='1']")
    expect(page.locator("#rows li[data-type=DATA]").nth(1)).to_be_attached()
    page.click("#pause")
    first = page.locator("#rows li").first.inner_text()
    tile = page.locator("#tiles .tile")
    for beat in ("a", "b", "a"):
        expect(tile).to_have_attribute("data-tick", beat)
    assert page.locator("#rows li").first.inner_text() == first
    page.click("#pause")
    expect(page.locator("#rows li").first).not_to_have_text(first)
