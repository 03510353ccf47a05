"""Chromium, driven over its DevTools protocol.

All flags it is started with are in `_arguments`, and none of them is about connections, streams or
sockets: those limits are what the ladder looks for.  Nor is any about background tabs, which all
of the ladder's are (`document.visibilityState` is "hidden"): what is throttled there is timers, and
the page has none; what is frozen has been there for minutes, longer than a ladder takes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

from .driver import Browser, Channel, Refused, at, connected, launched

__all__ = ["INSTALL", "chromium", "executable"]

INSTALL = "apt-get install chromium"


def executable() -> str | None:
    """Debian's Chromium, or a like one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def _arguments(profile: str) -> list[str]:
    arguments = [
        "--headless",
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",  # a free one
        "--ignore-certificate-errors",  # the development CA's
        # The tabs are pages of one site, so that they may share renderers, which have no
        # connections: those are the network service's, for the whole profile.  The ladder ends
        # at the same tab without this, having taken five times the memory and twice the time.
        "--renderer-process-limit=4",
        # Nothing to draw on, and often little shared memory in a container.
        "--disable-gpu",
        "--disable-dev-shm-usage",
        # No first-run pages, and no word to anyone but the server.
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-extensions",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
    ]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # root, as in a container, can have none
    return arguments


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Headless, with a fresh profile.  Raises BrowserFailed if it does not start."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [executable() or "chromium", *_arguments(profile), "about:blank"]
        async with (
            launched(command, "DevTools listening on ") as url,
            connected(url) as channel,
        ):
            yield _Chromium(channel, at(await channel.call("Browser.getVersion"), "product"))


@final
class _Chromium:
    def __init__(self, channel: Channel, version: str) -> None:
        self._channel = channel
        self.version = version
        self._sessions: dict[str, str] = {}

    async def open(self, url: str) -> str:
        target = await self._channel.call("Target.createTarget", {"url": url, "background": True})
        tab = at(target, "targetId")
        session = await self._channel.call(
            "Target.attachToTarget", {"targetId": tab, "flatten": True}
        )
        self._sessions[tab] = at(session, "sessionId")
        return tab

    async def evaluate(self, tab: str, expression: str) -> str | None:
        try:
            answer = await self._channel.call(
                "Runtime.evaluate",
                {"expression": expression, "returnByValue": True},
                sessionId=self._sessions[tab],
            )
        except Refused:
            return None
        return at(answer, "result", "value") or None

    async def close(self, tab: str) -> None:
        del self._sessions[tab]
        await self._channel.call("Target.closeTarget", {"targetId": tab})
