"""What someone at a terminal sees of a run: how far it is, what it is at, and what came out."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from benchmarks.model import Result, Verdict
from benchmarks.peers import PEERS
from benchmarks.runner import Measurement

__all__ = ["Progress", "line"]

# What is told of a result in one line, by the first that it has.
_FIGURES = {
    "tabs_receiving": "{:,.0f} tabs receive",
    "tabs_sustained": "{:,.0f} tabs sustained",
    "cpu_us_per_event": "{:.2f} us an event",
    "streams_per_s": "{:,.0f} streams/s",
    "current_again_s": "current again after {:.2f} s",
    "memory_growth_mb": "memory grew by {:.1f} MB",
}
_STYLES = {
    Verdict.OK: "green",
    Verdict.FAILED: "red",
    Verdict.INVALID: "yellow",
    Verdict.ABSENT: "dim",
}


@final
class Progress:
    """A bar with a line for each result above it; plain lines where there is no terminal."""

    def __init__(self, turns: int, console: Console | None = None) -> None:
        self._bar = Bar(
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console or Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=turns)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begins(self, measurement: Measurement) -> Callable[[str], None]:
        where = f"{measurement.scenario.name}: {measurement.contender.title}"

        def tell(what: str) -> None:
            self._bar.update(self._task, description=f"{where} {what}")

        tell("starts")
        return tell

    def ended(self, result: Result) -> None:
        self._bar.console.print(
            line(result),
            style=_STYLES[result.verdict],
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        if result.verdict is not Verdict.ABSENT:
            self._bar.advance(self._task)


def line(result: Result) -> str:
    """A result in a line."""
    peer = PEERS.get(result.server)
    title = peer.title if peer is not None else result.server
    protocol = "HTTP/2" if result.protocol == "h2" else "HTTP/1.1"
    case = ", ".join(f"{key} {value}" for key, value in result.case.items())
    said = [
        form.format(result.figures[name])
        for name, form in _FIGURES.items()
        if name in result.figures
    ]
    if "p99_ms" in result.figures:
        said.append(f"p99 {result.figures['p99_ms']:.1f} ms")
    if result.verdict is not Verdict.OK:
        said.append(f"{result.verdict.value}: {result.why}")
    elif "broke_first" in result.notes:
        said.append(f"then {result.notes['broke_first']}")
    return f"{result.scenario:8} {title} {protocol}, {case}: {', '.join(said)}"
