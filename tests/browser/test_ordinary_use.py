"""What people do all day, in Chromium and in Firefox: no bound stands in their way.

The server is `h2sse demo` in a process of its own, with the limits it comes with.  Pages say
whether they were served; what the server held against them stands in its `/metrics` and its log.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, final
from urllib.request import urlopen

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from support import certificates

from benchmarks.browser import absent
from benchmarks.browser.chromium import chromium
from benchmarks.browser.driver import ended
from benchmarks.browser.firefox import firefox
from h2sse.tls import development_certificate

if TYPE_CHECKING:
    from benchmarks.browser import BrowserName
    from benchmarks.browser.driver import Browser

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
# How long any step may take on a loaded machine, before a test says that it hangs.
STEP_SECONDS = 60.0

# For what the server may have ended something that no browser misses.
HARMLESS = {
    # Chromium may send a page's request ahead of the RST_STREAM frames of the page before, so that
    # a full connection has a stream too many for a moment.  It is refused, and asked for again.
    "surplus stream",
    # Connections over HTTP/1.1 that a browser opened in reserve, and had no use for.
    "no request within request_seconds",
}


# -- the server


@final
@dataclass(frozen=True)
class Demo:
    """`h2sse demo`, as whoever runs it sees it."""

    url: str
    log: Path  # without -v: warnings alone

    async def complaints(self) -> list[str]:
        """What it held against anyone until now."""
        counts = await trio.to_thread.run_sync(self._counts)
        names = ("h2sse_connections_refused_total", "h2sse_overflows_total")
        refused = [name for name in names if counts[name]]
        reasons = {each for each in counts if not each.startswith("h2sse_")}
        return [*refused, *(reasons - HARMLESS), *self.log.read_text().splitlines()]

    def _counts(self) -> dict[str, float]:
        """The samples of `/metrics` by name, and those of what was ended by reason."""
        ca = development_certificate(certificates()).ca
        context = ssl.create_default_context(cafile=str(ca))
        url = f"{self.url}/metrics"
        with urlopen(url, timeout=STEP_SECONDS, context=context) as response:
            text = response.read().decode()
        return {
            sample.labels.get("reason", sample.name): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
async def demo(tmp_path: Path) -> AsyncIterator[Demo]:
    """The demo, listening."""
    inherited = {name: value for name, value in os.environ.items() if "H2SSE_" not in name}
    settings = {"PYTHONPATH": str(ROOT), "H2SSE_TLS_DIRECTORY": str(certificates())}
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-W", "error", "-m", "h2sse", "demo", "--port", "0"],
            stdout=PIPE,
            stderr=stderr,
            env=inherited | settings,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        said = b""
        with trio.fail_after(STEP_SECONDS):
            while not (found := re.match(rb"h2sse serves (\S+) ", said)):
                more = await process.stdout.receive_some()
                assert more, log.read_text()
                said += more
        yield Demo(found[1].decode(), log)
    finally:
        with trio.CancelScope(shield=True):
            await ended(process)


# -- a browser


@final
class Page:
    """A tab of a real browser, and what there is to see in it."""

    def __init__(self, browser: Browser, tab: str) -> None:
        self._browser = browser
        self._tab = tab

    async def run(self, script: str) -> None:
        """Run statements there, without waiting for what comes of them."""
        await self._browser.evaluate(self._tab, f"{{ {script}; }} ''")

    async def until(self, condition: str) -> None:
        """Wait until an expression is true there."""
        with trio.move_on_after(STEP_SECONDS):
            # Between two documents there is nothing to ask, which is no answer either.
            while not await self._browser.evaluate(self._tab, f"{condition} ? 'yes' : ''"):  # noqa: ASYNC110
                await trio.sleep(0.01)
            return
        shown = await self._browser.evaluate(self._tab, "location + document.body.innerText")
        pytest.fail(f"never came: {condition}\n{shown}")

    async def close(self) -> None:
        await self._browser.close(self._tab)


@final
class Tabs:
    """A browser with a fresh profile, at the demo."""

    def __init__(self, browser: Browser, demo: Demo) -> None:
        self._browser = browser
        self._demo = demo

    async def open(self, path: str) -> Page:
        """A tab that may still be loading."""
        return Page(self._browser, await self._browser.open(self._demo.url + path))


@pytest.fixture(params=["chromium", "firefox"])
async def tabs(demo: Demo, request: pytest.FixtureRequest) -> AsyncIterator[Tabs]:
    """Each browser; afterwards the server has nothing to complain of."""
    name: BrowserName = request.param
    if command := absent(name):
        if os.environ.get("CI") == "true":
            pytest.fail(f"needs {name}: {command}")
        pytest.skip(f"needs {name}: {command}")
    async with (chromium if name == "chromium" else firefox)() as browser:
        yield Tabs(browser, demo)
    assert await demo.complaints() == []


# -- what it does


async def test_what_people_do_all_day(tabs: Tabs) -> None:
    """In one browser: Firefox takes seconds to start."""
    await reload_and_go_back(tabs)
    await come_and_go(tabs)
    await open_and_close_300_streams_in_a_loop(tabs)
    # And it is ended with 256 of them open.


# A path, and what is true of its page once an event has come.
SERVED = {
    "/theme/": "document.querySelector('#theme').textContent === 'light'",
    "/people/": "document.querySelector('#clients li')",
}

# Opens 300 at once, closes all when so many have their first event, and begins again.
LOOP = """
  window.rounds = window.errors = 0;
  const round = enough => {
    let greeted = 0;
    const sources = Array.from({length: 300}, () => new EventSource("/tabs/events"));
    const over = () => {
      for (const each of sources) each.close();
      window.rounds += 1;
      if (window.rounds < 4) round([1, 100, 250, 1][window.rounds]);
    };
    for (const each of sources) {
      each.addEventListener("hello", () => { if (++greeted === enough) over(); });
      each.onerror = () => { window.errors += 1; };
    }
  };
  round(1)
"""


async def open_and_close_300_streams_in_a_loop(tabs: Tabs) -> None:
    page = await tabs.open("/tabs/")
    http2 = "document.querySelector('#http2')"
    await page.until("sides.length === 2")
    await page.run(LOOP)
    await page.until("window.rounds === 4")
    await page.until("window.errors === 0")
    await page.run("document.querySelector('[data-open=\"300\"]').click()")
    await page.until(f"{http2}.querySelectorAll('[data-state=moving]').length === 256")
    # Whichever connection it is: a browser tries several at first.
    full = "All 256 streams that the server allows on connection"
    await page.until(f"{http2}.querySelector('.verdict').textContent.startsWith('{full}')")


async def reload_and_go_back(tabs: Tabs) -> None:
    page = await tabs.open("/theme/")
    await page.until(SERVED["/theme/"])
    for _ in range(5):
        await page.run("window.old = true; location.reload()")
        await page.until(f"!window.old && {SERVED['/theme/']}")
    for _ in range(30):  # whatever of it is there by then
        await page.run("window.old = true; location.reload()")
    # Gone to before the last has come, the next page would take this one's place in the history.
    there = f"document.readyState === 'complete' && {SERVED['/theme/']}"
    await page.until(f"!window.old && {there}")
    await page.run("location = '/people/'")
    await page.until(SERVED["/people/"])
    for _ in range(3):
        for way, path in (("back", "/theme/"), ("forward", "/people/")):
            await page.run(f"history.{way}()")
            await page.until(f"location.pathname === '{path}' && {SERVED[path]}")
    await page.close()


async def come_and_go(tabs: Tabs) -> None:
    for _ in range(2):
        pages = [(path, await tabs.open(path)) for path in (*SERVED, *SERVED)]
        for path in SERVED:
            await (await tabs.open(path)).close()  # amid loading
        for path, page in pages:
            await page.until(SERVED[path])
        for _, page in pages:
            await page.close()
