"""browser: real tabs in a real browser, until one no longer receives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast, final

from benchmarks.browser import absent, ladder
from benchmarks.model import Case, ProtocolName, Verdict

from . import Contender, Outcome, Scale, Tell

__all__ = ["browser_scenario"]

BrowserName = Literal["chromium", "firefox"]


@final
class _Browser:
    name = "browser"
    about = (
        "Real tabs of a real browser, each with an EventSource of its own, over HTTP/1.1 and over"
        " HTTP/2 at several stream limits, until a tab no longer receives within the deadline."
    )
    servers: tuple[str, ...] = ("h2sse",)
    # A browser's limits are constants of its program.
    rounds: Mapping[Scale, int] = {Scale.QUICK: 1, Scale.FULL: 1}

    def __init__(self, browser: BrowserName) -> None:
        self._browser: BrowserName = browser

    def cases(self, scale: Scale, protocol: ProtocolName) -> Sequence[Case]:
        def case(limit: int, sources: int = 1) -> Case:
            return {"browser": self._browser, "limit": limit, "sources_per_tab": sources}

        if protocol == "http/1.1":
            return [case(0)] if scale is Scale.QUICK else [case(0), case(0, 3)]
        if scale is Scale.QUICK:
            return [case(100)]
        return [case(100), case(256), case(1_000), case(100, 5)]

    async def run(self, contender: Contender, case: Case, scale: Scale, tell: Tell) -> Outcome:
        if contender.peer.name != "h2sse":
            raise ValueError("the browser is what is measured here, and h2sse serves it")
        if command := absent(self._browser):
            return Outcome(verdict=Verdict.ABSENT, why=command)
        result = await ladder(
            self._browser,
            protocol=contender.protocol,
            limit=int(case["limit"]),
            sources_per_tab=int(case["sources_per_tab"]),
            progress=lambda tabs: tell(f"{tabs} tabs"),
        )
        return Outcome(
            verdict=result.verdict,
            why=result.why,
            figures=result.figures,
            notes=result.notes,
            latency=result.latency,
        )


def browser_scenario(browser: str) -> _Browser:
    """The scenario for "chromium" or "firefox"."""
    return _Browser(cast(BrowserName, browser))
