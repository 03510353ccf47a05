"""A report: results as a table for people, as JSON for programs, and as an exit code."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from h2sse.terminal import printable

from .verdict import Result, Verdict

__all__ = ["Report"]

_COLOURS: Final = {
    Verdict.PASS: "32",
    Verdict.WARN: "33",
    Verdict.FAIL: "1;31",
    Verdict.CANNOT_TELL: "2",
}
# 2 is for what the user did wrong, as in every command.
_EXIT_CODES: Final = {
    Verdict.PASS: 0,
    Verdict.CANNOT_TELL: 0,
    Verdict.FAIL: 1,
    Verdict.WARN: 3,
}
_VERDICT_WIDTH: Final = max(len(each.value) for each in Verdict)
_LEAST_WIDTH: Final = 40


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was probed, and what came of it; `left_out` counts the rough checks not asked for."""

    url: str
    results: Sequence[Result]
    left_out: int = 0

    @property
    def worst(self) -> Verdict:
        """A fault above a warning, a warning above all else."""
        verdicts = {each.verdict for each in self.results}
        for verdict in (Verdict.FAIL, Verdict.WARN, Verdict.PASS):
            if verdict in verdicts:
                return verdict
        return Verdict.CANNOT_TELL

    @property
    def exit_code(self) -> int:
        """0 without a fault, 1 with one, 3 if there are warnings only."""
        return _EXIT_CODES[self.worst]

    def json(self) -> str:
        """One object; its fields are those of the table, and `notice` and `mend` of each check."""
        results = [
            {
                "check": each.check.name,
                "group": each.check.group,
                "clause": each.check.clause,
                "verdict": each.verdict.value,
                "did": each.check.does,
                "seen": each.finding.seen,
                "notice": each.check.notice,
                "mend": each.check.mend,
                "frames": each.frames_sent,
                "seconds": round(each.took_seconds, 3),
            }
            for each in self.results
        ]
        whole = {"url": self.url, "worst": self.worst.value, "results": results}
        return json.dumps(whole, indent=2)

    def summary(self, *, width: int, colour: bool) -> str:
        """What is wrong and how to mend it, and the counts."""
        lines: list[str] = []
        for result in self.results:
            if result.verdict in (Verdict.FAIL, Verdict.WARN):
                check = result.check
                lines += ["", _painted(f"{check.name} ({check.clause})", result.verdict, colour)]
                for label, text in (
                    ("done", check.does),
                    ("seen", result.finding.seen),
                    ("users", check.notice),
                    ("mend", check.mend),
                ):
                    lines += _wrapped(f"  {label:6} ", text, width)
        counts = Counter(each.verdict for each in self.results)
        said = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict]]
        frames = sum(each.frames_sent for each in self.results)
        lines += ["", f"{', '.join(said) or 'no checks'}; {frames} frames sent"]
        if self.left_out:
            lines.append(f"{self.left_out} rough checks were left out; --intrusive makes them, too")
        return "\n".join(lines)


def line(result: Result, *, width: int, colour: bool) -> str:
    """A row of the table, as soon as it is known."""
    name = result.check.name
    verdict = result.verdict.value.ljust(_VERDICT_WIDTH)
    start = f"{verdict}  {name:17} "
    lines = _wrapped(start, result.finding.seen, width)
    painted = _painted(verdict, result.verdict, colour)
    return "\n".join([painted + lines[0][_VERDICT_WIDTH:], *lines[1:]])


def _wrapped(start: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        printable(text) or "-",
        max(width, len(start) + _LEAST_WIDTH),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        drop_whitespace=True,
    )


def _painted(text: str, verdict: Verdict, colour: bool) -> str:
    return f"\x1b[{_COLOURS[verdict]}m{text}\x1b[0m" if colour else text
