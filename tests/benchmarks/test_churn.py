"""The churn: what it holds against whom, and a small one against a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import benchmarks.churn
from benchmarks.churn import Bounds, Churn, Reading, main
from benchmarks.comings import WAYS

MIB = 1024 * 1024
ROOT = Path(__file__).parents[2]
PARTS = range(1, 11)


def made(memory: Callable[[int], float]) -> Churn:
    """One that had so many MiB after each part, in tenths; the warm-up is the part 0."""
    parts = [("start", 0), ("warm", 0), *((f"{10 * part} %", part) for part in PARTS), ("end", 10)]
    readings = [
        Reading(
            at=at,
            seconds=60.0 * part,
            connections=10_000 * part,
            streams=100_000 * part,
            pss_bytes=20 * MIB,
            rss_bytes=round(memory(part) * MIB),
            descriptors=9 if at in ("start", "end") else 11,
            threads=1,
            gauges={"connections": 1 if at in ("start", "end") else 3, "tabs": 0},
        )
        for at, part in parts
    ]
    return Churn(
        Bounds(),
        readings,
        ways=Counter({"h2": 100_000}),
        ends=Counter({"answered": 1_000_000}),
        counted={"connections": 100_000, "requests": 1_000_000},
    )


@pytest.mark.parametrize(
    "memory",
    [
        lambda _: 30,
        lambda part: 30 - part / 10,  # what the allocator gives back
        lambda part: 30 + part % 2,  # its pools come and go
        lambda part: 30 if part < 3 else 33,  # a cache that is full now
    ],
)
def test_what_holds_is_no_violation(memory: Callable[[int], float]) -> None:
    churn = made(memory)
    assert list(churn.violations()) == []
    report = churn.report()
    assert report.startswith("100,000 connections and 1,000,000 streams came and went, ")
    assert f"| 20 % | 120 | 20,000 | 200,000 | 20.00 | {memory(2):.2f} | 11 | 1 | 3 | 0 |" in report
    assert report.endswith("\nAll bounds held.")


@pytest.mark.parametrize(
    ("memory", "violations"),
    [
        # 42 bytes of each connection stay.
        (
            lambda part: 30 + 0.42 * part,
            ["grew by 4.2 MiB", "rose by 2.1 MiB over the second half"],
        ),
        (lambda part: 30 + max(0, part - 5) / 2, ["rose by 2.5 MiB over the second half"]),
        (lambda part: 30 + 5 * (part > 2), ["grew by 5.0 MiB"]),
    ],
)
def test_what_stays_is_said(memory: Callable[[int], float], violations: list[str]) -> None:
    churn = made(memory)
    assert list(churn.violations()) == [f"memory {each}" for each in violations]
    assert churn.report().endswith(f"\n- memory {violations[-1]}\n\nNot all bounds held.")


@pytest.mark.parametrize(
    ("changed", "violation"),
    [
        ({"descriptors": 10}, "1 descriptors are left over"),
        ({"threads": 2}, "1 threads are left over"),
        ({"gauges": {"connections": 1, "tabs": 7}}, "tabs is 7 at the end, 0 at the start"),
    ],
)
def test_what_is_left_over_is_said(changed: dict[str, int], violation: str) -> None:
    churn = made(lambda _: 30)
    churn.readings[-1] = replace(churn.readings[-1], **changed)  # type: ignore[arg-type] # of each
    assert list(churn.violations()) == [violation]


def test_what_broke_is_a_violation() -> None:
    churn = made(lambda _: 30)
    churn.broken.append("the server killed by SIGKILL")
    churn.counted["connections"] = 99_999
    assert list(churn.violations()) == [
        "the server killed by SIGKILL",
        "the server counted 99,999 connections, not 100,000",
    ]


def test_half_of_one_is_a_violation() -> None:
    churn = made(lambda _: 30)
    del churn.readings[7:]
    assert list(churn.violations()) == ["it ended before all had come and gone"]
    assert "| 50 % | 300 |" in churn.report()
    assert "Over the second half" not in churn.report()


def test_a_small_one_holds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A real server, and each of the ways."""
    file = tmp_path / "report.md"
    code = main(["--connections", "100", "--streams", "1500", "--report", str(file)])
    report = file.read_text()
    assert code == 0, report
    assert report in capfd.readouterr().out
    (connections,) = re.findall(r"^\| end \| \d+ \| (\d+) \|", report, re.MULTILINE)
    assert connections == "100"
    for way in (*WAYS, "h2, more tabs than allowed"):
        assert re.search(rf"^\| {re.escape(way)} \| [1-9]", report, re.MULTILINE), way
    for end in ("closed by the tab", "publishings", "answered with an error"):
        assert re.search(rf"^\| {end} \| \d+ \|$", report, re.MULTILINE)
    counted = re.search(r"the server counted ([\d,]+) connections, ([\d,]+) requests", report)
    assert counted
    # One asks for /metrics after each part, and at the end.
    (streams,) = re.findall(r"^\| end \| \d+ \| \d+ \| ([\d,]+) \|", report, re.MULTILINE)
    assert int(counted[1].replace(",", "")) == 100 + 11
    assert int(counted[2].replace(",", "")) == int(streams.replace(",", "")) + 11


def test_a_server_that_cannot_start_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        benchmarks.churn._AsShipped, "command", lambda *_: [sys.executable, "-c", "exit(3)"]
    )
    assert main(["--connections", "100", "--streams", "100"]) == 1
    assert "exited with 3 before it answered" in capfd.readouterr().out


def test_a_client_that_fails_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks.churn, "_CLIENT", ("-c", "exit('no way')"))
    assert main(["--connections", "100", "--streams", "100"]) == 1
    assert "a client said 'no way'" in capfd.readouterr().out


def test_nothing_but_this_machine_is_called_upon() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.comings", "203.0.113.1", "443", "ca.pem", "0"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nothing else is called upon" in done.stderr
