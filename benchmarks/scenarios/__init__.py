"""What servers are asked to do: one module a scenario, one shape for all of them.

A scenario says which cases it has at a scale and which of them a contender can be asked, and
measures one contender in one case, on a fresh server, in one round.  It gives an `Outcome`; the
runner interleaves contenders, repeats rounds, and makes `Result`s of what comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, final

from benchmarks.model import Case, Latency, Opened, ProtocolName, Published, Reception, Verdict
from benchmarks.peers import Peer

__all__ = [
    "MAX_CLIENT_CPU",
    "THREE_ROUNDS",
    "Contender",
    "Outcome",
    "Scale",
    "Scenario",
    "Tell",
    "judge",
    "unopened",
    "unpublished",
    "workers_for",
]

# Past this a client process may be what is measured: it reads late, and calls it latency.
MAX_CLIENT_CPU = 0.7

# One client process keeps up with a connection of any number of tabs; many connections take two.
_MANY_CONNECTIONS = 1_000

Tell = Callable[[str], None]


class Scale(Enum):
    """How much is measured: `QUICK` within 5 minutes in all, `FULL` as long as it takes."""

    QUICK = "quick"
    FULL = "full"


# Fewer say nothing of the spread.
THREE_ROUNDS: Mapping[Scale, int] = {Scale.QUICK: 3, Scale.FULL: 3}


@final
@dataclass(frozen=True, slots=True)
class Contender:
    """A server in one of its protocols."""

    peer: Peer
    protocol: ProtocolName

    @property
    def title(self) -> str:
        return f"{self.peer.title} {'HTTP/2' if self.protocol == 'h2' else 'HTTP/1.1'}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a scenario found: the part of a `Result` that is not the runner's."""

    verdict: Verdict = Verdict.OK
    why: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    latency: Latency | None = None


class Scenario(Protocol):
    """See the module's docstring.

    `servers` are the only ones it is for, () for all; `rounds` is how often each is measured.
    """

    name: str
    about: str
    servers: tuple[str, ...]
    rounds: Mapping[Scale, int]

    def cases(self, scale: Scale, protocol: ProtocolName) -> Sequence[Case]:
        """The cases a contender of this protocol is asked."""

    async def run(self, contender: Contender, case: Case, scale: Scale, tell: Tell) -> Outcome:
        """Measure once.  Raises ServerFailed if the server did not start or died."""


def workers_for(connections: int) -> int:
    """How many client processes to use."""
    return 1 if connections < _MANY_CONNECTIONS else 2


def unopened(opened: Opened, asked: int) -> str:
    """Why not all tabs opened; "" if they did."""
    if opened.tabs == asked:
        return ""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(opened.failures.items()))
    return f"{opened.tabs:,} of {asked:,} tabs open" + (f" ({reasons})" if reasons else "")


def unpublished(published: Published) -> str:
    """Why not all events were published; "" if they were."""
    if not published.failures:
        return ""
    reasons = ", ".join(f"{count} {what}" for what, count in sorted(published.failures.items()))
    return f"publishing failed: {reasons}"


def judge(reception: Reception, expected: int) -> tuple[Verdict, str]:
    """Whether all `expected` deliveries came, each once and in order, and the client kept up."""
    faults = []
    if reception.expected < expected:
        # Tabs that had ended before: the load client counts those that were open.
        faults.append(f"{expected - reception.expected:,} not even waited for: tabs had ended")
    faults += [
        f"{count:,} {what}"
        for what, count in (
            ("lost", reception.lost),
            ("doubled", reception.doubled),
            ("misordered", reception.misordered),
        )
        if count
    ]
    faults += [f"{count:,} tabs ended: {why}" for why, count in sorted(reception.ended.items())]
    if reception.client_cpu > MAX_CLIENT_CPU:
        # Before the server is blamed: a client that is too slow loses its tabs as well.
        share = f"a client process used {reception.client_cpu:.0%} of a core"
        return Verdict.INVALID, "; ".join((share, *faults))
    if faults:
        return Verdict.FAILED, ", ".join(faults)
    return Verdict.OK, ""
