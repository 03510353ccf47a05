"""One Chromium for all tests; a server and a fresh profile for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from . import running

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if reason := running.wanting():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with running.chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certs")


@pytest.fixture
def site(certs: Path) -> Iterator[running.Site]:
    with running.site(certs) as site:
        yield site


@pytest.fixture
def problems() -> list[str]:
    """What pages have logged: a test takes out what it expects."""
    return []


@pytest.fixture
def context(browser: Browser, site: running.Site, problems: list[str]) -> Iterator[BrowserContext]:
    """A fresh profile.  No page in it may log an error, a violation of its policy for one."""

    def opened(page: Page) -> None:
        page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))

    with browser.new_context() as context:
        context.on("page", opened)
        context.on(
            "console",
            lambda message: (
                problems.append(f"{message.type}: {message.text}")
                if message.type in ("error", "warning")
                else None
            ),
        )
        yield context
    assert not problems
