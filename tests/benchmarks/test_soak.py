"""The soak: what it holds against whom, that it ends well, and that each of its attacks is one."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from support import ACK, PING, RawClient, frame, serving
from trio.testing import MockClock

import benchmarks.soak
import h2sse
from benchmarks.attacks import ATTACKS, _attack, _attack_once
from benchmarks.soak import Bounds, Soak, Window, main

MIB = 1024 * 1024
ROOT = Path(__file__).parents[2]


def window(phase: benchmarks.soak.Phase = "before", attack: str = "") -> Window:
    return Window(
        phase=phase,
        attack=attack,
        seconds=5.0,
        p50_ms=1.0,
        p99_ms=10.0,
        worst_ms=20.0,
        delivered=1_000,
        wrong=0,
        pss_bytes=50 * MIB,
        peak_bytes=60 * MIB,
        descriptors=100,
        connections=90,
        tabs=900,
    )


def record(*windows: Window) -> Soak:
    return Soak(Bounds(), 900, list(windows))


BEFORE, DURING, AFTER = window(), window("during", "PING"), window("after")


def test_what_holds_is_no_violation() -> None:
    made = record(BEFORE, DURING, AFTER)
    made.attacks = {"PING": 70}
    assert list(made.violations()) == []
    report = made.report()
    assert "| 5 | during | PING | 1.0 | 10.0 | 20.0 | 0 | 50.0 | 60.0 | 100 | 90 | 900 |" in report
    assert "| none | 0 | 10.0 | 0.0 |" in report
    assert "| PING | 70 | 10.0 | 10.0 |" in report
    assert report.endswith("\nAll bounds held.")


@pytest.mark.parametrize(
    ("changed", "violation"),
    [
        (replace(DURING, p99_ms=51.0), "p99 51.0 ms at 5 s (PING), over 50"),
        (replace(DURING, wrong=1), "1 events lost, doubled or out of order at 5 s (PING)"),
        (replace(DURING, peak_bytes=251 * MIB), "memory grew by 201 MiB at 5 s (PING)"),
        (replace(AFTER, pss_bytes=67 * MIB), "memory drifted by 17.0 MiB"),
        (replace(AFTER, descriptors=106), "6 descriptors are left over"),
        (replace(AFTER, tabs=899), "899 tabs after, 900 before"),
    ],
)
def test_what_does_not_hold_is_said(changed: Window, violation: str) -> None:
    made = record(BEFORE, DURING, changed if changed.phase == "after" else AFTER)
    if changed.phase == "during":
        made.windows[1] = changed
    assert list(made.violations()) == [violation]
    assert made.report().endswith(f"\n- {violation}\n\nNot all bounds held.")


def test_what_broke_is_a_violation() -> None:
    made = record(BEFORE)
    made.broken.append("the server killed by SIGKILL")
    assert list(made.violations()) == made.broken


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.soak, "WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(benchmarks.soak, "_SETTLE_SECONDS", 1.0)


def test_a_short_one_holds(short: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A real server, real tabs that come and go, and a real attack; a loaded machine is slow."""
    file = tmp_path / "report.md"
    code = main(
        [
            *("--minutes", "0.1", "--tabs", "50", "--attack", "PING"),
            *("--p99-ms", "60000", "--report", str(file)),
        ]
    )
    report = file.read_text()
    assert code == 0, report
    assert report in capfd.readouterr().out
    assert re.search(r"^\| \d+ \| during \| PING \|", report, re.MULTILINE)
    for phase in ("before", "after"):
        assert re.search(rf"^\| \d+ \| {phase} \|  \|.* 50 \|$", report, re.MULTILINE)
    (taken,) = re.findall(r"^\| PING \| (\d+) \|", report, re.MULTILINE)
    assert int(taken) >= 20


def test_interrupted_it_says_what_it_knows() -> None:
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.soak", "--minutes", "60", "--tabs", "20"),
            *("--attack", "none", "--p99-ms", "60000"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert re.search(r"before .* MiB", process.stdout.readline())
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            assert re.search(r"^\| \d+ \| before \|", rest, re.MULTILINE)
            assert rest.endswith("\nAll bounds held.\n")
            assert process.wait() == 0
        finally:
            process.kill()


def test_a_server_that_cannot_start_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        benchmarks.soak._AsShipped, "command", lambda *_: [sys.executable, "-c", "exit(3)"]
    )
    assert main(["--minutes", "1"]) == 1
    assert "exited with 3 before it answered" in capfd.readouterr().out


# -- the attacks

# What the server promises of connections that do nothing.
HOLD_SECONDS = 75


@pytest.mark.parametrize("name", [name for name, each in ATTACKS.items() if not each.leaves])
async def test_each_attack_is_ended(name: str, jumping_clock: MockClock) -> None:
    """Within its time, with the limits as they are; a tab of somebody else's hears on."""
    app = h2sse.App()
    async with serving(app) as served, served.client() as client:
        tab = await client.listen("/events?topic=b")
        before = list(served.server.connections)

        async def over() -> None:
            while not served.server.statistics().accepted > 1:  # noqa: ASYNC110
                await trio.sleep(0.01)
            while list(served.server.connections) != before:  # noqa: ASYNC110
                await trio.sleep(1)
            nursery.cancel_scope.cancel()

        with trio.fail_after(HOLD_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_once, name, served.address)
                nursery.start_soon(_answer_pings, client)
                await over()
        assert not app.tabs("a")
        app.publish("b", h2sse.Event(data="x"))
        await client.heard(1, tab)


async def _once(name: str, address: tuple[str, int]) -> None:
    try:
        await _attack_once(ATTACKS[name], *address)
    except* (OSError, trio.BrokenResourceError):
        pass


async def _answer_pings(client: RawClient) -> None:
    client.patience_seconds = 1_000
    while True:
        asked = await client.read_frame(PING)
        await client.send(frame(PING, ACK, 0, asked.payload))


@pytest.mark.parametrize("name", [name for name, each in ATTACKS.items() if each.leaves])
async def test_what_leaves_by_itself_comes_back(name: str) -> None:
    """And leaves nothing behind."""
    async with serving(h2sse.App()) as served:
        counts: Counter[str] = Counter()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                host, port = served.address
                nursery.start_soon(_attack, ATTACKS[name], host, port, counts)
                while counts["connections"] < 3:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            while served.server.connections:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert not served.app.hub.statistics().tabs


def test_nothing_but_this_machine_is_attacked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.attacks", "203.0.113.1", "443", "PING", "1"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nothing else is attacked" in done.stderr
