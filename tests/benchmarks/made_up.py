"""Made-up results, with everything that a run may give: for tests only, never in the project."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from benchmarks.model import Case, Latency, ProtocolName, Result, Verdict
from benchmarks.results import Store

# How dear each server is in these tests, in no relation to the real ones.
COST = {"h2sse": 1.0, "hypercorn": 60.0, "granian": 24.0, "node": 9.0, "go": 21.0}
INSTALL = "apt-get install nginx libnginx-mod-nchan"
FACTS = {
    "command": "python -m benchmarks --full",
    "commit": "0123abcd",
    "cpu": "A processor | with a bar",
    "versions": {"h2sse": "0.1.0", "node": "v18.20.4"},
    "cores": 2,
}
_GRIDS: dict[ProtocolName, list[Case]] = {
    "h2": [
        {"grid": "1 x 100", "size": 100, "rate": 20},
        {"grid": "1 x 5,000", "size": 100, "rate": 5},
        {"grid": "1 x 5,000", "size": 1024, "rate": 1},
        {"grid": "1,000 x 5", "size": 100, "rate": 5},
    ],
    "http/1.1": [
        {"grid": "100 x 1", "size": 100, "rate": 20},
        {"grid": "5,000 x 1", "size": 100, "rate": 5},
    ],
}
PROTOCOLS: tuple[ProtocolName, ...] = ("h2", "http/1.1")


def latency(cost: float) -> Latency:
    """A tail that grows with the cost: 25,000 deliveries."""
    counts: Counter[int] = Counter()
    for behind in range(25_000, 0, -25):
        counts[round(300 * cost + 40 * cost * math.log(25_000 / behind))] += 25
    return Latency(counts=counts)


def result(
    scenario: str,
    server: str,
    protocol: ProtocolName,
    case: Case,
    round: int = 1,  # noqa: A002  # as Result's
    **figures: float,
) -> Result:
    return Result(
        scenario=scenario,
        server=server,
        protocol=protocol,
        case=case,
        round=round,
        verdict=Verdict.OK,
        figures=figures,
    )


def fault(
    scenario: str,
    server: str,
    protocol: ProtocolName,
    case: Case,
    verdict: Verdict,
    why: str,
    round: int = 1,  # noqa: A002  # as Result's
) -> Result:
    return Result(
        scenario=scenario,
        server=server,
        protocol=protocol,
        case=case,
        round=round,
        verdict=verdict,
        why=why,
    )


def everything() -> Iterator[Result]:
    """Three rounds of all scenarios; one server fails, one is absent, one round is invalid."""
    for number in (1, 2, 3):
        noise = (1.0, 1.04, 0.97)[number - 1]
        yield from _browser(number)
        for server, cost in COST.items():
            for protocol in PROTOCOLS:
                yield from _fanout(server, protocol, number, cost, noise)
                yield from _ramp(server, protocol, number, cost, noise)
                case: Case = {"connections": 1_000, "streams": 5_000}
                yield result(
                    "open", server, protocol, case, number,
                    streams_per_s=9_000 * noise if server == "h2sse" else 20_000 / noise,
                    handshakes_per_s=800 * noise,
                    first_event_p50_ms=100 * noise * cost,
                    cpu_us_per_tab=100 * noise * cost,
                )  # fmt: skip
                case = {"connections": 400, "tabs": 2_000}
                yield result(
                    "storm", server, protocol, case, number,
                    all_back_s=1.0 * noise, current_again_s=1.2 * noise * cost ** 0.5,
                    lost=0, doubled=0, cpu_s=0.5 * noise * cost,
                )  # fmt: skip
                case = {"tabs": 200, "stalled": 100}
                yield result(
                    "stall", server, protocol, case, number,
                    p99_ms=10 * noise * cost, p99_ms_without=9 * noise * cost,
                    memory_growth_mb=25 * noise / cost, stalled_ended=100,
                )  # fmt: skip
    for protocol in PROTOCOLS:
        for case in _GRIDS[protocol]:
            yield fault("fanout", "nchan", protocol, case, Verdict.ABSENT, INSTALL, 0)
        for shape in _SHAPES[protocol]:
            yield fault("ramp", "nchan", protocol, {"shape": shape}, Verdict.ABSENT, INSTALL, 0)


_SHAPES: dict[ProtocolName, list[str]] = {
    "h2": ["all tabs on one connection", "5 tabs a browser"],
    "http/1.1": ["one browser, 6 connections", "a connection a tab"],
}


def _browser(number: int) -> Iterator[Result]:
    ladder: list[tuple[ProtocolName, int, int]] = [("http/1.1", 0, 6), ("h2", 100, 100)]
    for protocol, limit, tabs in ladder:
        case: Case = {"browser": "chromium", "limit": limit, "sources_per_tab": 1}
        yield Result(
            scenario="browser", server="h2sse", protocol=protocol, case=case, round=number,
            verdict=Verdict.OK,
            figures={"tabs_receiving": tabs, "tabs_opened": tabs + 1, "streams_receiving": tabs},
            notes={"page_load": "hangs", "broke_first": f"tab {tabs + 1} received nothing",
                   "browser_version": "Chromium 1.2.3"},
        )  # fmt: skip
    if number == 1:
        case = {"browser": "firefox", "limit": 100, "sources_per_tab": 1}
        yield fault(
            "browser", "h2sse", "h2", case, Verdict.ABSENT, "apt-get install firefox-esr", 0
        )


def _fanout(
    server: str, protocol: ProtocolName, number: int, cost: float, noise: float
) -> Iterator[Result]:
    for case in _GRIDS[protocol]:
        if server == "hypercorn" and case["grid"] == "1 x 5,000":
            why = "connection dropped\nafter 1,000 streams: 'priority' | tree is full"
            yield fault("fanout", server, protocol, case, Verdict.FAILED, why, number)
            continue
        if server == "go" and protocol == "h2" and number == 2:
            why = "a client process used 74% of a core"
            yield fault("fanout", server, protocol, case, Verdict.INVALID, why, number)
            continue
        dear = cost * noise * (0.6 if case["grid"] == "1 x 5,000" else 3.7)
        if protocol == "http/1.1" and server == "node":
            dear /= 12  # so that another is better
        yield Result(
            scenario="fanout", server=server, protocol=protocol, case=case, round=number,
            verdict=Verdict.OK,
            figures={
                "cpu_us_per_event": dear, "p50_ms": dear, "p99_ms": 3 * dear, "p999_ms": 4 * dear,
                "max_ms": 5 * dear, "kb_per_tab": 0.8 + 0.3 * cost, "socket_kb_per_tab": 0.7,
                "bytes_per_event": 140 + cost, "records_per_event": 0.01 * cost,
                "client_cpu": 0.2, "lost": 0, "doubled": 0, "misordered": 0,
            },
            latency=latency(dear),
        )  # fmt: skip


def _ramp(
    server: str, protocol: ProtocolName, number: int, cost: float, noise: float
) -> Iterator[Result]:
    for shape in _SHAPES[protocol]:
        figures: dict[str, float] = {"limit": 50_000, "p99_ms": 100 * noise}
        notes = {"broke_first": "nothing up to 50,000 tabs"}
        if shape.startswith("one browser"):
            figures |= {"tabs_sustained": 6, "tabs_failed": 7}
            notes = {"broke_first": "tab 7 has no connection"}
        elif server == "h2sse" and protocol == "h2":
            figures["tabs_sustained"] = 50_000
        else:
            figures["tabs_sustained"] = round(40_000 / cost**0.5 * noise)
            figures["tabs_failed"] = figures["tabs_sustained"] * 1.2
            notes = {"broke_first": "p99 latency 812 ms"}
        yield Result(
            scenario="ramp", server=server, protocol=protocol, case={"shape": shape}, round=number,
            verdict=Verdict.OK, figures=figures, notes=notes,
        )  # fmt: skip


def filled(store: Store) -> Store:
    """The store, with everything in it."""
    store.begin(FACTS)
    for each in everything():
        store.append(each)
    return store
