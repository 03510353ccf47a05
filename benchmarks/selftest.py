"""Does the harness see what is wrong?  A server with known faults must be found out.

`python -m benchmarks selftest`.  The dummy server delays every event by a known time and loses,
doubles and swaps known events of one tab; what the load client reports is set beside that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import trio
import trustme

from benchmarks.load import Load, Publisher
from benchmarks.load.dummy import Faults, serve
from benchmarks.model import ProtocolName, Reception, Shape

__all__ = ["Check", "check", "selftest"]

_TABS = 20
# The dummy answers a publish after its delay, so the timetable must leave it the time.
_EVENTS, _RATE = 40, 10.0
# Whoever must come late does; how much later is the machine's doing, within reason.
_LATE_AT_MOST_SECONDS = 0.1

_FAULTS = (
    Faults(),
    Faults(delay_seconds=0.06),
    Faults(lose=10),
    Faults(double=7),
    Faults(swap=6),
    Faults(delay_seconds=0.04, lose=10, double=7),
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was wrong on purpose, and what was reported."""

    protocol: ProtocolName
    faults: Faults
    reception: Reception

    @property
    def expected(self) -> tuple[int, int, int]:
        """Events of the one tab that were lost, doubled, misordered."""
        faults, numbers = self.faults, range(1, _EVENTS + 1)
        lost = {n for n in numbers if faults.lose and n % faults.lose == 0}
        doubled = {n for n in numbers if faults.double and n % faults.double == 0} - lost
        swapped = {n for n in numbers[:-1] if faults.swap and n % faults.swap == 0}
        return len(lost), len(doubled), len(swapped - lost - doubled)

    @property
    def reported(self) -> tuple[int, int, int]:
        return self.reception.lost, self.reception.doubled, self.reception.misordered

    @property
    def seconds(self) -> float:
        """The median latency."""
        return self.reception.latency.percentile(50) / 1e6

    @property
    def counts_hold(self) -> bool:
        """Whether every fault was reported and nothing else; the delay is not looked at."""
        return self.expected == self.reported

    @property
    def delay_holds(self) -> bool:
        """Whether the delay was reported, and little more than it."""
        return 0 <= self.seconds - self.faults.delay_seconds <= _LATE_AT_MOST_SECONDS


async def selftest() -> bool:
    """Run all checks and print each; whether all hold."""
    print("lost, doubled, misordered, and the median latency: as made, and as reported")
    print(f"{'':12} {'made':>24} {'reported':>28}")
    all_hold = True
    for protocol in ("h2", "http/1.1"):
        for each in await check(protocol, _FAULTS):
            holds = each.counts_hold and each.delay_holds
            all_hold = all_hold and holds
            made = f"{_told(each.expected)} {each.faults.delay_seconds * 1e3:7.1f} ms"
            reported = f"{_told(each.reported)} {each.seconds * 1e3:7.1f} ms"
            print(
                f"{protocol:12} {made:>24} {reported:>28}  {'' if holds else 'NOT SEEN'}".rstrip()
            )
    print("the harness sees what is wrong" if all_hold else "the harness is not to be trusted")
    return all_hold


def _told(counts: Sequence[int]) -> str:
    return " ".join(f"{count:2}" for count in counts)


async def check(protocol: ProtocolName, every: Sequence[Faults]) -> list[Check]:
    """Measure a dummy server with each of these faults."""
    checks = []
    with tempfile.TemporaryDirectory(prefix="h2sse-selftest-") as folder:
        cert, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
        leaf = trustme.CA().issue_cert("localhost", "127.0.0.1")
        leaf.private_key_pem.write_to_path(key)
        leaf.cert_chain_pems[0].write_to_path(cert)
        for faults in every:
            async with trio.open_nursery() as nursery:
                port: int = await nursery.start(partial(serve, faults, cert, key))
                reception = await _measure(port, protocol)
                nursery.cancel_scope.cancel()
            checks.append(Check(protocol=protocol, faults=faults, reception=reception))
    return checks


async def _measure(port: int, protocol: ProtocolName) -> Reception:
    per_connection = 5 if protocol == "h2" else 1
    shape = Shape(
        protocol=protocol,
        connections=_TABS // per_connection,
        tabs_per_connection=per_connection,
    )
    async with (
        Load.against("127.0.0.1", port, protocol) as load,
        Publisher.to("127.0.0.1", port, "/publish", form=True) as publisher,
    ):
        await load.open(shape)
        await load.begin()
        return await load.finish(await publisher.publish(_EVENTS, _RATE))
