"""The browser ladder: how many real tabs receive, in a real browser.

One browser with one fresh profile opens tab after tab of a page that holds native `EventSource`s,
all of one origin, until a tab no longer receives (`climb.py`).  What a tab has is read through the
browser's automation channel (`driver.py`), never over the network, where streams have run out.  No
expected answer is written anywhere here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import trio

from benchmarks.model import ProtocolName, Result, Verdict

from . import chromium, firefox
from .climb import Climb, OutOfMemory, Top
from .driver import BrowserFailed
from .site import ServerFailed, site

if TYPE_CHECKING:
    from .driver import Browser

__all__ = ["BrowserName", "absent", "ladder"]

BrowserName: TypeAlias = Literal["chromium", "firefox"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    executable: Callable[[], str | None]
    install: str
    start: Callable[[], AbstractAsyncContextManager[Browser]]


_KINDS: Mapping[BrowserName, _Kind] = {
    "chromium": _Kind(
        executable=chromium.executable, install=chromium.INSTALL, start=chromium.chromium
    ),
    "firefox": _Kind(executable=firefox.executable, install=firefox.INSTALL, start=firefox.firefox),
}

# The server's own default, where there are no streams to limit.
_UNUSED_LIMIT = 256


def absent(browser: BrowserName) -> str | None:
    """The command that installs what is missing; None if nothing is."""
    if _KINDS[browser].executable() is None:
        return _KINDS[browser].install
    if importlib.util.find_spec("trio_websocket") is None:
        return "pip install trio-websocket"
    return None


async def ladder(
    browser: BrowserName,
    *,
    protocol: ProtocolName,
    limit: int,
    sources_per_tab: int = 1,
    most: int = 300,
    deadline: float = 5.0,
    progress: Callable[[int], None],
) -> Result:
    """Open tabs of `sources_per_tab` event streams each until one no longer receives.

    A fresh server allows `limit` streams a connection (over HTTP/1.1 there is none).  A tab
    receives if all its streams do; it does not once nothing has come for `deadline` seconds.
    `most` tabs are tried, and `progress` is told how many receive.
    """
    verdict, why = Verdict.OK, ""
    figures: dict[str, float] = {}
    notes: dict[str, str] = {}
    if command := absent(browser):
        verdict, why = Verdict.ABSENT, command
    else:
        try:
            async with (
                site(protocol, limit or _UNUSED_LIMIT) as (url, publish),
                _KINDS[browser].start() as started,
            ):
                notes["browser_version"] = started.version
                climb = Climb(
                    started,
                    f"{url}/tab",
                    publish,
                    sources=sources_per_tab,
                    deadline=deadline,
                    progress=progress,
                )
                began = trio.current_time()
                top = await climb.run(most)
                figures["seconds"] = trio.current_time() - began
        except* ServerFailed as group:
            verdict, why = Verdict.FAILED, _first(group)
        except* (BrowserFailed, OutOfMemory) as group:
            verdict, why = Verdict.INVALID, _first(group)
        else:
            verdict, why = _judged(top, protocol)
            figures |= _figures(top)
            notes |= _notes(top)
    return Result(
        scenario="browser",
        server="h2sse",
        protocol=protocol,
        case={
            "browser": browser,
            "limit": limit if protocol == "h2" else 0,
            "sources_per_tab": sources_per_tab,
        },
        round=1,
        verdict=verdict,
        why=why,
        figures=figures,
        notes=notes,
    )


def _judged(top: Top, protocol: ProtocolName) -> tuple[Verdict, str]:
    if top.streams_receiving == 0:
        return Verdict.FAILED, f"no stream receives; {top.broke_first}"
    if top.saw.protocols != (protocol,):
        return Verdict.INVALID, f"the browser spoke {' and '.join(top.saw.protocols)}"
    return Verdict.OK, ""


def _figures(top: Top) -> Mapping[str, float]:
    return {
        "tabs_receiving": top.tabs_receiving,
        "tabs_opened": top.tabs_opened,
        "streams_receiving": top.streams_receiving,
    }


def _notes(top: Top) -> Mapping[str, str]:
    streams, connections = top.saw.streams, top.saw.connections
    saw = f"{streams} stream{'s' * (streams != 1)}"
    saw += f" on {connections} connection{'s' * (connections != 1)}"
    return {"page_load": top.page_load, "broke_first": top.broke_first, "server_saw": saw}


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
