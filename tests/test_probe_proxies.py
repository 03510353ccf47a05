"""The prober and the proxy that most stand behind: a real nginx in front of a real h2sse.

What is wrong here is a middle box's doing, which is to be recognised as such; what it leaves as it
is must not be accused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from benchmarks.conformance import Subject, options, started
from benchmarks.peers import PEERS
from benchmarks.peers.peer import find
from h2sse.probe import CHECKS, probe
from h2sse.probe.verdict import Finding, Verdict

pytestmark = pytest.mark.skipif(find("nginx") is None, reason="nginx is not installed")

# As a server has it that does not ask nginx for the opposite.
BUFFERS = "proxy_ignore_headers X-Accel-Buffering;"
GZIP = "gzip on; gzip_types text/event-stream;"


async def found(directives: str, names: Iterable[str]) -> dict[str, Finding]:
    subject = Subject("nginx", "nginx before h2sse", PEERS["h2sse"], directives)
    checks = [each for each in CHECKS if each.name in names]
    async with started(subject) as server:
        quick = replace(options(subject, server, checks), patience_seconds=2, quiet_seconds=5)
        report = await probe(quick)
    return {each.check.name: each.finding for each in report.results}


async def test_a_proxy_that_buffers_is_recognised() -> None:
    names = ("alpn", "status", "head-at-once", "cors", "prompt", "ids", "cancelled-streams")
    seen = await found(BUFFERS, names)
    faults = {name for name, finding in seen.items() if finding.verdict is Verdict.FAIL}
    assert faults == {"head-at-once"}, seen
    assert "a buffer has to fill first" in seen["head-at-once"].seen
    assert seen["alpn"].verdict is Verdict.PASS
    assert seen["prompt"].verdict is Verdict.CANNOT_TELL
    assert seen["cancelled-streams"].verdict is Verdict.CANNOT_TELL


async def test_a_proxy_that_compresses_is_recognised() -> None:
    seen = await found(GZIP, ("head-at-once", "prompt", "compression", "whole"))
    assert seen["compression"].verdict is Verdict.WARN
    assert "gzip" in seen["compression"].seen
    others = {name: each for name, each in seen.items() if name != "compression"}
    assert {each.verdict for each in others.values()} == {Verdict.PASS}, others


async def test_a_proxy_that_is_asked_not_to_buffer_passes() -> None:
    """nginx with its defaults: `x-accel-buffering: no` is all it takes."""
    heavy = {
        "heartbeat",
        "cancelled-streams",
        "surplus-stream",
        "many-streams",
        "http1-connections",
    }
    names = [each.name for each in CHECKS if not each.intrusive and each.name not in heavy]
    seen = await found("", names)
    odd = {name: each for name, each in seen.items() if each.verdict is not Verdict.PASS}
    assert odd == {}
