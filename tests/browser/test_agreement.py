"""Chromium on every row of agreement_table.py; tests/test_client_agreement.py has our client."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio
from agreement import DEADLINE_SECONDS, Outcome, Site, differences, serving
from agreement_table import ROWS
from playwright.sync_api import TimeoutError as TooSlow

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

# What it sees of each row, in the words of agreement.py.
LENS = """urls => {
  const shown = id => /^\\w+$/.test(id) ? id : JSON.stringify(id);
  window.seen = urls.map((url, number) => {
    const seen = [], source = new EventSource(url);
    const message = event => {
      const type = event.type === "message" ? "" : `${event.type} `;
      const id = event.lastEventId ? ` #${shown(event.lastEventId)}` : "";
      seen.push(type + JSON.stringify(event.data) + id);
      fetch(`/heard/${number}/`);
    };
    source.onopen = () => seen.push("open");
    source.onerror = () => seen.push(["again", "open", "closed"][source.readyState]);
    source.onmessage = message;
    source.addEventListener("tick", message);
    return seen;
  });
}"""
OVER = "numbers => numbers.every(number => window.seen[number].at(-1) === 'closed')"


@pytest.fixture
def scripted() -> Iterator[Site]:
    """The server of the table, in a thread: the browser has this one."""
    started: queue.SimpleQueue[tuple[Site, trio.lowlevel.TrioToken, trio.CancelScope]]
    started = queue.SimpleQueue()

    async def serve() -> None:
        with trio.CancelScope() as scope:
            async with serving(ROWS) as site:
                started.put((site, trio.lowlevel.current_trio_token(), scope))
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    site, token, scope = started.get(timeout=20)
    try:
        yield site
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=token)
        thread.join()


def test_chromium_does_as_the_table_says(browser: Browser, scripted: Site) -> None:
    numbers = range(len(ROWS))
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(scripted.page)
        page.evaluate(LENS, [scripted.url("chromium", number) for number in numbers])
        ending = [number for number in numbers if ROWS[number].ends("chromium")]
        with suppress(TooSlow):  # what is missing says more
            page.wait_for_function(OVER, arg=ending, timeout=1_000 * DEADLINE_SECONDS)
        seen = page.evaluate("window.seen")
    found = {n: Outcome(tuple(seen[n]), scripted.asked("chromium", n)) for n in numbers}
    assert differences(ROWS, "chromium", found) == []
