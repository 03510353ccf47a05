"""The harness is shown a server with known faults, and must find them."""

from __future__ import annotations

import pytest

from benchmarks import selftest
from benchmarks.load.dummy import Faults
from benchmarks.model import ProtocolName
from benchmarks.selftest import check


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_every_known_fault_is_reported_and_nothing_else(
    protocol: ProtocolName, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of which the last is not lost: for that one the client would be patient.
    monkeypatch.setattr(selftest, "_EVENTS", 23)
    monkeypatch.setattr(selftest, "_RATE", 30.0)
    delayed = Faults(delay_seconds=0.03, lose=10, double=7)
    checks = await check(protocol, [Faults(), delayed, Faults(swap=6)])
    assert [each.reported for each in checks] == [(0, 0, 0), (2, 3, 0), (0, 0, 3)]
    assert all(each.counts_hold for each in checks)
    # Never less than was waited; how much more is the machine's doing.
    assert checks[1].seconds >= 0.03
