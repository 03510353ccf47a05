"""Each scenario, small, against h2sse itself: it comes to its end and reports what it promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from benchmarks import scenarios
from benchmarks.model import Case, Latency, Opened, ProtocolName, Reception, Verdict
from benchmarks.peers import PEERS
from benchmarks.peers.peer import Peer, Setup
from benchmarks.scenarios import (
    Contender,
    Outcome,
    Scale,
    Scenario,
    fanout,
    judge,
    ramp,
    stall,
    storm,
    unopened,
)
from benchmarks.scenarios.fanout import FANOUT, carried_rate
from benchmarks.scenarios.open import OPEN
from benchmarks.scenarios.ramp import RAMP
from benchmarks.scenarios.stall import STALL
from benchmarks.scenarios.storm import STORM


class Narrow(Peer):
    """h2sse, with 24 streams a connection."""

    name = title = "narrow"
    install = ""

    def version(self) -> str:
        return "1"

    def command(self, setup: Setup) -> list[str]:
        return PEERS["h2sse"].command(replace(setup, max_streams=24))


PROTOCOLS = pytest.mark.parametrize("protocol", ["h2", "http/1.1"])


async def measured(scenario: Scenario, protocol: ProtocolName, case: Case) -> Outcome:
    told: list[str] = []
    contender = Contender(PEERS["h2sse"], protocol)
    outcome = await scenario.run(contender, case, Scale.QUICK, told.append)
    assert told
    # On a busy machine a client may be too slow; that is what INVALID is for, not for faults.
    assert outcome.verdict in (Verdict.OK, Verdict.INVALID), outcome.why
    return outcome


@PROTOCOLS
async def test_fanout(protocol: ProtocolName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "_WARMING_EVENTS", 3)
    monkeypatch.setitem(fanout._MEASURED_SECONDS, Scale.QUICK, 1.2)
    grid = "2 x 5" if protocol == "h2" else "10 x 1"
    outcome = await measured(FANOUT, protocol, {"grid": grid, "size": 100, "rate": 5})
    figures = outcome.figures
    assert figures["cpu_us_per_event"] > 0
    assert figures["bytes_per_event"] > 100  # the data, its field name, framing and TLS
    assert (figures["lost"], figures["doubled"], figures["misordered"]) == (0, 0, 0)
    assert outcome.latency is not None
    assert outcome.latency.total == 10 * 6  # tabs, and 1.2 seconds of events
    assert not outcome.figures["overloaded"]


@PROTOCOLS
async def test_open(protocol: ProtocolName) -> None:
    connections = 2 if protocol == "h2" else 10
    outcome = await measured(OPEN, protocol, {"connections": connections, "streams": 10})
    assert outcome.figures["streams_per_s"] > 0
    assert outcome.figures["handshakes_per_s"] > 0
    assert outcome.figures["first_event_max_ms"] >= outcome.figures["first_event_p50_ms"] > 0


@PROTOCOLS
async def test_storm(protocol: ProtocolName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "_RATE", 40.0)
    connections = 2 if protocol == "h2" else 10
    outcome = await measured(STORM, protocol, {"connections": connections, "tabs": 10})
    assert (outcome.figures["lost"], outcome.figures["doubled"]) == (0, 0)
    assert outcome.figures["current_again_s"] > 0


@PROTOCOLS
async def test_stall(protocol: ProtocolName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stall._SECONDS, Scale.QUICK, 0.5)
    outcome = await measured(STALL, protocol, {"tabs": 10, "stalled": 5})
    assert outcome.figures["lost"] == 0
    assert outcome.figures["stalled_ended"] <= 5
    assert outcome.notes["what_happened"]


@pytest.fixture
def any_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ramp of a single event that a busy machine does not end: only tabs and events count."""
    monkeypatch.setattr(ramp, "_EVENTS", 1)
    monkeypatch.setattr(ramp, "OPEN_SECONDS", 60.0)
    monkeypatch.setattr(ramp, "P99_SECONDS", 60.0)
    monkeypatch.setattr(scenarios, "MAX_CLIENT_CPU", 2.0)


@PROTOCOLS
@pytest.mark.usefixtures("any_pace")
async def test_ramp_up_to_its_limit(
    protocol: ProtocolName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ramp._LIMITS, (Scale.QUICK, protocol), 20)
    monkeypatch.setitem(ramp._START, Scale.QUICK, 10)
    (case,) = RAMP.cases(Scale.QUICK, protocol)
    outcome = await measured(RAMP, protocol, case)
    assert outcome.figures["tabs_sustained"] == 20
    assert outcome.notes["tried"] == "10, 20", outcome.notes["broke_first"]
    assert outcome.notes["broke_first"] == "nothing up to 20 tabs"


@pytest.mark.usefixtures("any_pace")
async def test_a_later_round_begins_where_the_first_one_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ramp._LIMITS, (Scale.QUICK, "h2"), 40)
    monkeypatch.setitem(ramp._START, Scale.QUICK, 10)
    monkeypatch.setitem(ramp._PRECISION, Scale.QUICK, 0.25)
    contender = Contender(Narrow(), "h2")
    scenario = ramp._Ramp()
    (case,) = scenario.cases(Scale.QUICK, "h2")
    first = await scenario.run(contender, case, Scale.QUICK, lambda _: None)
    again = await scenario.run(contender, case, Scale.QUICK, lambda _: None)
    assert first.notes["tried"] == "10, 20, 40, 30, 25", first.notes["broke_first"]
    assert again.notes["tried"] == "20, 25", again.notes["broke_first"]
    for outcome in (first, again):
        assert outcome.figures["tabs_sustained"] == 20
        assert outcome.figures["tabs_failed"] == 25
        assert "stream limit 24" in outcome.notes["broke_first"]


@pytest.mark.parametrize(
    ("rate", "seconds", "carried"), [(5.0, 0.1, 5.0), (5.0, 0.4, 5.0), (5.0, 0.5, 1.0)]
)
def test_a_rate_that_cannot_be_carried_is_lowered(
    rate: float, seconds: float, carried: float
) -> None:
    assert carried_rate(rate, seconds) == carried


async def test_an_overloaded_server_has_a_cost_and_no_latency(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fanout, "carried_rate", lambda rate, _: min(rate, 20.0))
    case: Case = {"grid": "2 x 5", "size": 100, "rate": 100}
    outcome = await measured(FANOUT, "h2", case)
    assert outcome.figures["overloaded"]
    assert outcome.figures["cpu_us_per_event"] > 0
    assert outcome.latency is None
    assert outcome.notes["overload"].startswith("one event took ")


def test_every_scale_has_cases_for_both_protocols() -> None:
    for scenario in (FANOUT, OPEN, RAMP, STALL, STORM):
        for scale in Scale:
            assert scenario.cases(scale, "h2")
            assert scenario.cases(scale, "http/1.1")


def received(
    *,
    lost: int = 0,
    doubled: int = 0,
    client_cpu: float = 0.1,
    ended: Mapping[str, int] | None = None,
) -> Reception:
    return Reception(
        expected=10,
        delivered=10 - lost,
        lost=lost,
        doubled=doubled,
        misordered=0,
        latency=Latency(counts={5: 10}),
        bytes=1,
        records=1,
        client_cpu=client_cpu,
        client_cpu_seconds=0.1,
        ended=ended or {},
    )


def test_judging() -> None:
    assert judge(received(), 10) == (Verdict.OK, "")
    assert judge(received(lost=1_000, doubled=2), 10) == (Verdict.FAILED, "1,000 lost, 2 doubled")
    ended = received(ended={"GOAWAY NO_ERROR": 3})
    assert judge(ended, 10) == (Verdict.FAILED, "3 tabs ended: GOAWAY NO_ERROR")


def test_tabs_that_ended_before_are_not_forgotten() -> None:
    verdict, why = judge(received(), 15)
    assert (verdict, why) == (Verdict.FAILED, "5 not even waited for: tabs had ended")


def test_a_client_that_is_too_slow_makes_a_result_invalid_and_never_a_servers_fault() -> None:
    verdict, why = judge(received(client_cpu=0.71, lost=5), 10)
    assert verdict is Verdict.INVALID
    assert why == "a client process used 71% of a core; 5 lost"
    assert judge(received(client_cpu=0.70), 10)[0] is Verdict.OK


def test_what_did_not_open_is_told_with_its_reasons() -> None:
    whole = Opened(tabs=5, connections=1, connect_seconds=0.1, open_seconds=0.1)
    assert unopened(whole, 5) == ""
    part = replace(whole, tabs=3, failures={"stream limit 3": 1_200, "reset": 1})
    assert unopened(part, 5) == "3 of 5 tabs open (1 reset, 1,200 stream limit 3)"
