"""Who is measured when: rounds of all contenders, interleaved, each result kept at once.

Machines change their mind from minute to minute, so contenders take turns (A B C, A B C) and what
is compared are ratios within a round.  A contender's fault is its result and ends nothing; Ctrl-C
ends the run, and what is finished is on disk by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from benchmarks.load import ClientFailed
from benchmarks.model import Case, ProtocolName, Result, Verdict
from benchmarks.peers import Peer
from benchmarks.results import Store
from benchmarks.scenarios import Contender, Outcome, Scale, Scenario
from benchmarks.servers import ServerFailed

__all__ = ["Display", "Measurement", "Plan", "plan", "run"]

_PROTOCOLS: tuple[ProtocolName, ...] = ("h2", "http/1.1")


@final
@dataclass(frozen=True, slots=True)
class Measurement:
    """One turn of one contender."""

    scenario: Scenario
    contender: Contender
    case: Case
    round: int


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """The turns in their order, and the results that are known beforehand: what is absent."""

    scale: Scale
    measurements: tuple[Measurement, ...]
    absent: tuple[Result, ...]


class Display(Protocol):
    """Who watches the run."""

    def begins(self, measurement: Measurement) -> Callable[[str], None]:
        """A turn begins; the function is told what it is at."""

    def ended(self, result: Result) -> None:
        """A turn has ended."""


def plan(
    scenarios: Sequence[Scenario],
    peers: Sequence[Peer],
    scale: Scale,
    *,
    rounds: int | None = None,
) -> Plan:
    """Every case of every scenario for every contender, interleaved, `rounds` times.

    Without `rounds` it is as often as each scenario says.
    """
    absent = [peer for peer in peers if peer.version() is None]
    present = [peer for peer in peers if peer not in absent]
    contenders = [Contender(peer, protocol) for peer in present for protocol in peer.protocols]
    turns = tuple(
        Measurement(scenario, contender, case, number)
        for scenario in scenarios
        for number in range(1, (rounds or scenario.rounds[scale]) + 1)
        for contender, case in _one_round(scenario, contenders, scale)
    )
    missing = tuple(
        Result(
            scenario=scenario.name,
            server=peer.name,
            protocol=protocol,
            case=case,
            round=0,
            verdict=Verdict.ABSENT,
            why=peer.install,
        )
        for scenario in scenarios
        for peer in absent
        if _is_for(scenario, peer)
        for protocol in peer.protocols
        for case in scenario.cases(scale, protocol)
    )
    return Plan(scale, turns, missing)


def _one_round(
    scenario: Scenario, contenders: Sequence[Contender], scale: Scale
) -> Iterator[tuple[Contender, Case]]:
    # Those that are asked the same stand next to each other in time.
    for protocol in _PROTOCOLS:
        for case in scenario.cases(scale, protocol):
            for contender in contenders:
                if contender.protocol == protocol and _is_for(scenario, contender.peer):
                    yield contender, case


def _is_for(scenario: Scenario, peer: Peer) -> bool:
    return not scenario.servers or peer.name in scenario.servers


async def run(plan: Plan, store: Store, display: Display) -> None:
    """Measure all that is planned; each result is stored when it is known."""
    for result in plan.absent:
        store.append(result)
        display.ended(result)
    for turn in plan.measurements:
        result = await _measure(turn, plan.scale, display.begins(turn))
        store.append(result)
        display.ended(result)


async def _measure(turn: Measurement, scale: Scale, tell: Callable[[str], None]) -> Result:
    try:
        outcome = await turn.scenario.run(turn.contender, turn.case, scale, tell)
    except ServerFailed as error:
        outcome = Outcome(verdict=Verdict.FAILED, why=str(error))
    except ClientFailed as error:
        outcome = Outcome(verdict=Verdict.INVALID, why=f"the load client: {error}")
    return Result(
        scenario=turn.scenario.name,
        server=turn.contender.peer.name,
        protocol=turn.contender.protocol,
        case=turn.case,
        round=turn.round,
        verdict=outcome.verdict,
        why=outcome.why,
        figures=outcome.figures,
        notes=outcome.notes,
        latency=outcome.latency,
    )
