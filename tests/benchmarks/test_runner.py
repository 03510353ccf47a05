"""The order of turns, what is absent, and that a contender's fault is a result and nothing more.

The servers and scenarios here are small ones made for the tests: what is tested is the runner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import pytest

from benchmarks.load import ClientFailed
from benchmarks.model import Case, ProtocolName, Result, Verdict
from benchmarks.peers.peer import Peer, Setup
from benchmarks.results import Store
from benchmarks.runner import Measurement, Plan, plan, run
from benchmarks.scenarios import Contender, Outcome, Scale, Tell
from benchmarks.servers import ServerFailed


@final
class SomePeer(Peer):
    def __init__(
        self,
        name: str,
        *,
        installed: bool = True,
        protocols: tuple[ProtocolName, ...] = ("h2", "http/1.1"),
    ) -> None:
        self.name = name
        self.title = name.title()
        self.install = f"install {name}"
        self.protocols = protocols
        self.installed = installed

    def version(self) -> str | None:
        return "1" if self.installed else None

    def command(self, setup: Setup) -> list[str]:
        raise NotImplementedError


@final
@dataclass
class SomeScenario:
    name: str = "some"
    about: str = "Something is asked."
    servers: tuple[str, ...] = ()
    rounds: Mapping[Scale, int] = field(default_factory=lambda: {Scale.QUICK: 2, Scale.FULL: 3})
    outcomes: Mapping[str, Outcome | BaseException] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def cases(self, scale: Scale, protocol: ProtocolName) -> Sequence[Case]:
        return [{"tabs": 5}] if protocol == "http/1.1" else [{"tabs": 1}, {"tabs": 2}]

    async def run(self, contender: Contender, case: Case, scale: Scale, tell: Tell) -> Outcome:
        tell("is asked")
        self.asked.append(f"{contender.peer.name} {contender.protocol} {case['tabs']}")
        outcome = self.outcomes.get(contender.peer.name, Outcome(figures={"seen": 1.0}))
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@final
class Watching:
    """A display that remembers."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.results: list[Result] = []

    def begins(self, measurement: Measurement) -> Callable[[str], None]:
        return self.told.append

    def ended(self, result: Result) -> None:
        self.results.append(result)


def described(made: Plan) -> list[str]:
    return [
        f"{turn.round} {turn.contender.peer.name} {turn.contender.protocol} {turn.case['tabs']}"
        for turn in made.measurements
    ]


def test_contenders_take_turns_within_a_round() -> None:
    made = plan([SomeScenario()], [SomePeer("a"), SomePeer("b")], Scale.QUICK)
    one_round = [
        *("a h2 1", "b h2 1", "a h2 2", "b h2 2"),
        *("a http/1.1 5", "b http/1.1 5"),
    ]
    assert described(made) == [f"{n} {turn}" for n in (1, 2) for turn in one_round]
    assert made.absent == ()


def test_rounds_are_the_scenarios_own_unless_said() -> None:
    assert len(plan([SomeScenario()], [SomePeer("a")], Scale.FULL).measurements) == 9
    assert len(plan([SomeScenario()], [SomePeer("a")], Scale.FULL, rounds=1).measurements) == 3


def test_a_scenario_for_some_servers_asks_no_others() -> None:
    made = plan([SomeScenario(servers=("b",))], [SomePeer("a"), SomePeer("b")], Scale.QUICK)
    assert {turn.contender.peer.name for turn in made.measurements} == {"b"}
    absent = plan([SomeScenario(servers=("b",))], [SomePeer("a", installed=False)], Scale.QUICK)
    assert absent == Plan(Scale.QUICK, (), ())


def test_a_protocol_it_does_not_speak_is_not_asked_of_a_server() -> None:
    made = plan([SomeScenario()], [SomePeer("a", protocols=("h2",))], Scale.QUICK, rounds=1)
    assert described(made) == ["1 a h2 1", "1 a h2 2"]


async def test_an_absent_server_is_listed_with_what_installs_it(tmp_path: Path) -> None:
    store, watching = Store(tmp_path), Watching()
    store.begin({}, ["some"])
    scenario = SomeScenario()
    peers = [SomePeer("gone", installed=False), SomePeer("here")]
    await run(plan([scenario], peers, Scale.QUICK), store, watching)
    assert not any(each.startswith("gone") for each in scenario.asked)
    absent = [row for row in store.load().rows if row.server == "gone"]
    assert [(row.protocol, row.verdict) for row in absent] == [
        ("h2", Verdict.ABSENT),
        ("h2", Verdict.ABSENT),
        ("http/1.1", Verdict.ABSENT),
    ]
    assert {why for row in absent for _, why, _ in row.troubles} == {"install gone"}


@pytest.mark.parametrize(
    ("fault", "verdict", "why"),
    [
        (ServerFailed("it ended with 1: no port"), Verdict.FAILED, "it ended with 1: no port"),
        (ClientFailed("a worker died"), Verdict.INVALID, "the load client: a worker died"),
    ],
)
async def test_a_fault_is_a_result_and_the_others_go_on(
    tmp_path: Path, fault: Exception, verdict: Verdict, why: str
) -> None:
    store, watching = Store(tmp_path), Watching()
    store.begin({}, ["some"])
    scenario = SomeScenario(outcomes={"a": fault})
    await run(
        plan([scenario], [SomePeer("a"), SomePeer("b")], Scale.QUICK, rounds=1), store, watching
    )
    by_server = {
        name: {(each.verdict, each.why) for each in watching.results if each.server == name}
        for name in ("a", "b")
    }
    assert by_server == {"a": {(verdict, why)}, "b": {(Verdict.OK, "")}}


async def test_what_is_finished_is_kept_when_the_run_is_ended(tmp_path: Path) -> None:
    store, watching = Store(tmp_path), Watching()
    store.begin({}, ["some"])
    scenario = SomeScenario(outcomes={"b": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        await run(plan([scenario], [SomePeer("a"), SomePeer("b")], Scale.QUICK), store, watching)
    kept = Store(tmp_path).load().rows
    assert [(row.server, dict(row.case)) for row in kept] == [("a", {"tabs": 1})]
