"""The demo in a thread, and Chromium: what the tests and the screenshot stand on."""

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from playwright.sync_api import Browser, expect, sync_playwright

import h2sse
from h2sse.demo import Demo

if TYPE_CHECKING:
    from pathlib import Path

# A page of another origin that the clock is open to; nothing listens there.
FRIEND = "https://app.example"


@dataclass(frozen=True)
class Site:
    """Where the demo is, and a look at what it holds."""

    http2: str
    http1: str
    app: h2sse.App
    token: trio.lowlevel.TrioToken

    def tabs(self, topic: str) -> list[h2sse.Tab]:
        """The tabs that the server knows, whatever the browser thinks."""
        return list(trio.from_thread.run_sync(self.app.tabs, topic, trio_token=self.token))


@contextmanager
def site(certs: Path, *, ports: tuple[int, int] = (0, 0)) -> Iterator[Site]:
    """Serve the demo, over HTTP/2 on one port and over HTTP/1.1 on another."""
    started: queue.SimpleQueue[tuple[Site, trio.CancelScope] | BaseException] = queue.SimpleQueue()

    async def serve() -> None:
        demo = Demo()
        tls = h2sse.Tls(directory=certs)
        async with trio.open_nursery() as nursery:
            http2, http1 = [
                await nursery.start(
                    h2sse.serve,
                    demo.app,
                    h2sse.Config(port=port, http1=http1, cors_origins=(FRIEND,), tls=tls),
                )
                for port, http1 in zip(ports, (False, True), strict=True)
            ]
            demo.listening(http2.url, http1.url)
            token = trio.lowlevel.current_trio_token()
            started.put((Site(http2.url, http1.url, demo.app, token), nursery.cancel_scope))

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as error:  # noqa: BLE001 - it is raised in the other thread
            started.put(error)

    thread = threading.Thread(target=run, name="demo")
    thread.start()
    try:
        begun = started.get()
        if isinstance(begun, BaseException):
            raise begun
        running, scope = begun
        yield running
        trio.from_thread.run_sync(scope.cancel, trio_token=running.token)
    finally:
        thread.join()
    if not started.empty() and isinstance(error := started.get(), BaseException):
        raise error


def executable() -> str | None:
    """Debian's Chromium, or a like one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def wanting() -> str:
    """What Chromium cannot be started for the want of; "" if it can."""
    if executable() is None:
        return "needs Chromium: apt-get install chromium"
    # Its driver is a Node that links to what a small system may not have.
    driver = subprocess.run(
        [sys.executable, "-m", "playwright", "--version"],
        check=False,
        capture_output=True,
        text=True,
    )
    if driver.returncode:
        return f"needs what playwright needs (apt-get install libatomic1?): {driver.stderr}"
    return ""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium that takes any certificate."""
    arguments = [
        "--no-sandbox",  # root, as in a container, can have none
        # Not the context's ignore_https_errors: with that each request is first refused, and
        # makes a connection in vain.
        "--ignore-certificate-errors",
    ]
    expect.set_options(timeout=20_000)  # ms; a busy machine needs more than the usual 5 s
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()
