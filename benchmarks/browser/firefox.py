"""Firefox, driven over WebDriver BiDi, which it speaks itself: geckodriver is not needed.

With --remote-debugging-port Firefox applies its own preferences for automation: no updates, no
telemetry, no first-run pages.  Those given here, all in `_PREFERENCES`, add to that; none is about
connections or streams: those limits are what the ladder looks for.  Tabs of one site share a few
content processes by default.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

import trio

from .driver import Browser, Channel, Refused, at, connected, launched

__all__ = ["INSTALL", "executable", "firefox"]

INSTALL = "apt-get install firefox-esr"

_PREFERENCES = """\
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("browser.tabs.unloadOnLowMemory", false);
"""


def executable() -> str | None:
    """Debian's Firefox ESR, or any."""
    return shutil.which("firefox-esr") or shutil.which("firefox")


@asynccontextmanager
async def firefox() -> AsyncIterator[Browser]:
    """Headless, with a fresh profile.  Raises BrowserFailed if it does not start."""
    with tempfile.TemporaryDirectory(prefix="firefox-", ignore_cleanup_errors=True) as profile:
        await trio.Path(profile, "user.js").write_text(_PREFERENCES)
        command = [
            *(executable() or "firefox", "--headless", "--no-remote", "--profile", profile),
            *("--remote-debugging-port", "0", "about:blank"),
        ]
        async with (
            launched(command, "WebDriver BiDi listening on ") as url,
            connected(f"{url}/session") as channel,
        ):
            capabilities = {"alwaysMatch": {"acceptInsecureCerts": True}}  # the development CA's
            session = await channel.call("session.new", {"capabilities": capabilities})
            yield _Firefox(channel, f"Firefox/{at(session, 'capabilities', 'browserVersion')}")


@final
class _Firefox:
    def __init__(self, channel: Channel, version: str) -> None:
        self._channel = channel
        self.version = version

    async def open(self, url: str) -> str:
        created = await self._channel.call(
            "browsingContext.create", {"type": "tab", "background": True}
        )
        tab = at(created, "context")
        # Even with "none" the answer waits for the server's, which may be what never comes.
        await self._channel.tell(
            "browsingContext.navigate", {"context": tab, "url": url, "wait": "none"}
        )
        return tab

    async def evaluate(self, tab: str, expression: str) -> str | None:
        try:
            answer = await self._channel.call(
                "script.evaluate",
                {"expression": expression, "target": {"context": tab}, "awaitPromise": False},
            )
        except Refused:
            return None
        return at(answer, "result", "value") or None

    async def close(self, tab: str) -> None:
        await self._channel.call("browsingContext.close", {"context": tab})
