"""The climb: ever more tabs, until one no longer receives.

A *step* opens tabs, waits until all their streams are open, publishes a fresh number, and asks
every tab which numbers it has.  Steps double while all goes well.  When one fails, its tabs that
receive are kept and the others closed; from there it goes one tab at a time, as a user would, and
the first tab that does not receive ends the climb.  So a limit costs two failing steps wherever it
lies, and none has to be known beforehand.

A step has failed when nothing more has happened for `deadline` seconds (no page loaded, no stream
opened, no event arrived): a slow machine is not taken for a limit.

Over HTTP/1.1 a tab may fail to load at all, since its page is one request more to the same server.
Whether it does is part of the answer: `page_load`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import psutil  # type: ignore[import-untyped] # it comes without types
import trio

if TYPE_CHECKING:
    from .driver import Browser
    from .site import Publish, ServerSaw

__all__ = ["Climb", "OutOfMemory", "Top"]

# Between two looks at the tabs.
LOOK_SECONDS = 0.05
# Tabs being opened at a time: more only queue inside the browser.
OPENING_AT_ONCE = 8
# Less than this free, and the machine's limit would be taken for the browser's.
MIN_FREE_BYTES = 1024**3

_LOOK = "typeof look === 'function' ? look() : null"


class OutOfMemory(Exception):
    """The machine cannot hold more tabs."""


@final
@dataclass(frozen=True, slots=True)
class _Seen:
    """What a tab has: `loaded` is when its page's script ran, in ms since it was asked for."""

    loaded: float | None = None
    open: int = 0
    newest: tuple[int, ...] = ()

    def received(self, number: int) -> int:
        """How many of its streams have received that number."""
        return sum(each >= number for each in self.newest)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """Where a climb ended."""

    tabs_receiving: int
    tabs_opened: int
    streams_receiving: int
    page_load: str
    broke_first: str
    saw: ServerSaw


@final
class Climb:
    """One browser, one server, ever more tabs of `sources` streams each.

    `url` is the page's, `progress` is told after each step how many tabs receive.
    """

    def __init__(
        self,
        browser: Browser,
        url: str,
        publish: Publish,
        *,
        sources: int,
        deadline: float,
        progress: Callable[[int], None],
    ) -> None:
        self._browser = browser
        self._url = f"{url}?sources={sources}"
        self._publish = publish
        self._sources = sources
        self._deadline = deadline
        self._progress = progress
        self._tabs: list[str] = []
        self._number = 0

    async def run(self, most: int) -> Top:
        """Climb to `most` tabs at the most.  Raises OutOfMemory, BrowserFailed, ServerFailed."""
        doubling = True
        while True:
            size = min(len(self._tabs) or 1 if doubling else 1, most - len(self._tabs))
            seen, saw = await self._step(size)
            receiving = [tab for tab in self._tabs if self._receives(seen[tab])]
            self._progress(len(receiving))
            failed = len(receiving) < len(self._tabs)
            if (failed and size == 1) or len(receiving) == most:
                break
            if failed:
                doubling = False
                await self._close([tab for tab in self._tabs if tab not in receiving])
                self._tabs = receiving
        return Top(
            tabs_receiving=len(receiving),
            tabs_opened=len(self._tabs),
            streams_receiving=sum(seen[tab].received(self._number) for tab in self._tabs),
            page_load=await self._page_load(seen[self._tabs[-1]] if failed else _Seen(loaded=0)),
            broke_first=self._broke_first(seen),
            saw=saw,
        )

    def _receives(self, seen: _Seen) -> bool:
        return seen.received(self._number) == self._sources

    def _broke_first(self, seen: dict[str, _Seen]) -> str:
        for place, tab in enumerate(self._tabs, 1):
            each = seen[tab]
            if self._receives(each):
                continue
            if each.loaded is None:
                return f"tab {place}: its page did not load"
            if each.open < self._sources:
                return f"tab {place}: {each.open} of its {self._sources} streams opened"
            return f"tab {place}: {each.received(self._number)} of {self._sources} events came"
        return f"nothing, up to {len(self._tabs)} tabs"

    async def _page_load(self, last: _Seen) -> str:
        """Whether one more page of the server loads now; if the last tab's did not, none does."""
        if last.loaded is not None:
            tab = await self._browser.open(self._url)
            last = (await self._until([tab], lambda seen: int(seen.loaded is not None), 1))[tab]
        return "hangs" if last.loaded is None else f"loads in {last.loaded:.0f} ms"

    # -- one step

    async def _step(self, size: int) -> tuple[dict[str, _Seen], ServerSaw]:
        if psutil.virtual_memory().available < MIN_FREE_BYTES:
            raise OutOfMemory(f"less than 1 GiB of memory was left at {len(self._tabs)} tabs")
        new = await self._open(size)
        self._tabs += new
        each = self._sources
        # A page counts too, so that one which loads slowly is waited for.
        await self._until(new, lambda seen: seen.open + (seen.loaded is not None), each + 1)
        self._number += 1
        saw = await self._publish(self._number)
        # A stream that is not open cannot receive, and has been waited for.
        await self._until(
            self._tabs, lambda seen: each - seen.open + seen.received(self._number), each
        )
        return await self._look(self._tabs), saw

    async def _open(self, size: int) -> list[str]:
        opened: list[str] = []
        room = trio.CapacityLimiter(OPENING_AT_ONCE)

        async def open_one() -> None:
            async with room:
                opened.append(await self._browser.open(self._url))

        async with trio.open_nursery() as nursery:
            for _ in range(size):
                nursery.start_soon(open_one)
        return opened

    async def _close(self, tabs: Sequence[str]) -> None:
        async with trio.open_nursery() as nursery:
            for tab in tabs:
                nursery.start_soon(self._browser.close, tab)

    async def _until(
        self, tabs: Sequence[str], score: Callable[[_Seen], int], each: int
    ) -> dict[str, _Seen]:
        """Look until every tab scores `each`, or no score has risen for `deadline` seconds."""
        seen: dict[str, _Seen] = {}
        waiting = list(tabs)
        best, risen = -1, trio.current_time()
        while True:
            seen |= await self._look(waiting)
            total = sum(map(score, seen.values()))
            if total > best:
                best, risen = total, trio.current_time()
            waiting = [tab for tab in waiting if score(seen[tab]) < each]
            if not waiting or trio.current_time() - risen >= self._deadline:
                return seen
            await trio.sleep(LOOK_SECONDS)

    async def _look(self, tabs: Sequence[str]) -> dict[str, _Seen]:
        seen: dict[str, _Seen] = {}

        async def look_at(tab: str) -> None:
            text = await self._browser.evaluate(tab, _LOOK)
            if text is None:
                seen[tab] = _Seen()
            else:
                found = json.loads(text)
                seen[tab] = _Seen(found["loaded"], found["open"], tuple(found["newest"]))

        async with trio.open_nursery() as nursery:
            for tab in tabs:
                nursery.start_soon(look_at, tab)
        return seen
