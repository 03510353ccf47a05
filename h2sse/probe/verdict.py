"""What a check is, and what it can come to.

A check returns a `Finding`, or raises one of two exceptions, from any depth: `Fault`, which is the
verdict "fail", and `Unclear`, "cannot tell".  `Silent` and `Lost` are what a connection meets.
While a check sets its stage they mean that it cannot tell; what is tested stands in `charged`, and
there they are the fault that was looked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from .lab import Lab

__all__ = [
    "Check",
    "Fault",
    "Finding",
    "Lost",
    "Result",
    "Silent",
    "Unclear",
    "Verdict",
    "charged",
    "check",
    "passed",
    "warned",
]


class Verdict(Enum):
    """In the order of a report's summary."""

    PASS = "pass"  # noqa: S105 - a word of ours
    WARN = "warn"
    FAIL = "fail"
    CANNOT_TELL = "cannot tell"


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen, and what that means."""

    verdict: Verdict
    seen: str


def passed(seen: str) -> Finding:
    """As it should be."""
    return Finding(Verdict.PASS, seen)


def warned(seen: str) -> Finding:
    """Allowed, but users may notice."""
    return Finding(Verdict.WARN, seen)


class Fault(Exception):
    """The endpoint does what it must not; the message is what was seen."""


class Unclear(Exception):
    """What was to be judged did not come about; the message is why."""


class Silent(Exception):
    """What was waited for did not come in time."""


class Lost(Exception):
    """The connection is gone, or was said to be going."""


@contextmanager
def charged(before: str = "") -> Iterator[None]:
    """In this block silence, or the loss of the connection, is the fault."""
    try:
        yield
    except (Silent, Lost) as error:
        raise Fault(f"{before}: {error}" if before else str(error)) from None


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Check:
    """One question to an endpoint.

    `does` is what is done, `notice` what users notice where it fails, `mend` how to mend that.
    `frames` bounds what it may send, HTTP/1.1 requests counted as frames; `seconds` is what it may
    take beyond its waits for answers.
    """

    name: str
    group: str
    clause: str
    does: str
    notice: str
    mend: str
    run: Callable[[Lab], Awaitable[Finding]]
    frames: int
    seconds: float
    http2: bool
    intrusive: bool


def check(
    name: str,
    group: str,
    *,
    clause: str,
    does: str,
    notice: str,
    mend: str,
    frames: int = 100,
    seconds: float = 0,
    http2: bool = True,
    intrusive: bool = False,
) -> Callable[[Callable[[Lab], Awaitable[Finding]]], Check]:
    """Make a check of the function that carries it out."""

    def made(run: Callable[[Lab], Awaitable[Finding]]) -> Check:
        return Check(
            name=name,
            group=group,
            clause=clause,
            does=does,
            notice=notice,
            mend=mend,
            run=run,
            frames=frames,
            seconds=seconds,
            http2=http2,
            intrusive=intrusive,
        )

    return made


@final
@dataclass(frozen=True, slots=True)
class Result:
    """A check, and what it came to."""

    check: Check
    finding: Finding
    frames_sent: int
    took_seconds: float

    @property
    def verdict(self) -> Verdict:
        return self.finding.verdict
