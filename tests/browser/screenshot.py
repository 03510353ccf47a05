"""Draws the tabs page with twenty tabs on each side.

python -m tests.browser.screenshot docs/tabs.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect

from . import running


def main(file: str) -> None:
    with (
        tempfile.TemporaryDirectory() as certs,
        running.site(Path(certs), ports=(8443, 8444)) as site,
        running.chromium() as browser,
    ):
        page = browser.new_page(
            viewport={"width": 1280, "height": 760},
            device_scale_factor=2,
            reduced_motion="reduce",
        )
        page.goto(f"{site.http2}/tabs/")
        page.click("[data-open='20']")
        expect(page.locator("#http2 [data-count=rate]")).to_have_text("40")
        expect(page.locator("#http1 [data-count=rate]")).to_have_text("12")
        page.click("#publish")
        expect(page.locator("#published")).to_contain_text("20 of 20")
        page.mouse.move(0, 0)
        # Nothing is to be caught half-way.
        page.evaluate("Promise.all(document.getAnimations().map((each) => each.finished))")
        page.screenshot(path=file)


if __name__ == "__main__":
    main(sys.argv[1])
