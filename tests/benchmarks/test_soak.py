"""The soak: what it holds against whom, that it ends well, and that each of its attacks is one."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
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
from benchmarks.attacks import ATTACKS, FLOODS, _attack, _attack_once
from benchmarks.soak import main
from benchmarks.soak_record import MIB, Bounds, Phase, Setting, Soak, Window, felt, load, save
from benchmarks.soak_report import filled, report

ROOT = Path(__file__).parents[2]
SETTING = Setting(
    tabs=900,
    window_seconds=10.0,
    rate=20.0,
    attack_connections=20,
    attack_nice=10,
    facts={
        "h2sse": "1.2.3",
        "measured_at": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789abcdef",
        "dirty": False,
        "python": "CPython 3.99",
        "usable_cores": 2,
        "cpu": "an abacus",
    },
)


def window(phase: Phase = "before", attack: str = "") -> Window:
    return Window(
        phase=phase,
        attack=attack,
        seconds=5.0,
        events=200,
        samples=160_000,
        p50_ms=1.0,
        p99_ms=10.0,
        worst_ms=20.0,
        wrong=0,
        began_bytes=50 * MIB,
        pss_bytes=50 * MIB,
        peak_bytes=60 * MIB,
        descriptors=100,
        connections=90,
        tabs=900,
        server_cpu=0.5,
        client_cpu=0.1,
        attack_cpu=0.25 if attack else 0.0,
        attackers=70 if attack else 0,
    )


def record(*windows: Window) -> Soak:
    return Soak(setting=SETTING, windows=list(windows))


BEFORE, DURING, AFTER = window(), window("during", "PING"), window("after")


def test_what_holds_is_no_violation() -> None:
    made = record(BEFORE, DURING, AFTER)
    assert list(made.violations()) == []
    said = report(made)
    assert (
        "| 5 | during | PING | 1.0 | 10.0 | 20.0 | 0 | 50.0 | 60.0 | 100 | 90 | 900 "
        "| 50% | 10% | 25% |" in said
    )
    assert "| none | 0 | 10.0 |  |  |  |" in said
    assert "| PING | 70 | 10.0 | 10.0 | 50% | 25% |" in said
    assert said.endswith("\nAll bounds held.")


@pytest.mark.parametrize(
    ("changed", "violation"),
    [
        (replace(DURING, p99_ms=51.0), "p99 51.0 ms at 5 s (PING), over 50"),
        (replace(DURING, wrong=1), "1 events lost, doubled or out of order at 5 s (PING)"),
        (replace(DURING, peak_bytes=251 * MIB), "memory grew by 201 MiB at 5 s (PING)"),
        (replace(AFTER, pss_bytes=83 * MIB), "memory drifted by 33.0 MiB"),
        (replace(AFTER, descriptors=106), "6 descriptors are left over"),
        (replace(AFTER, tabs=899), "899 tabs after, 900 before"),
    ],
)
def test_what_does_not_hold_is_said(changed: Window, violation: str) -> None:
    made = record(BEFORE, DURING, changed if changed.phase == "after" else AFTER)
    if changed.phase == "during":
        made.windows[1] = changed
    assert list(made.violations()) == [violation]
    assert report(made).endswith(f"\n- {violation}\n\nNot all bounds held.")


@pytest.mark.parametrize("tabs", [(None, 900), (900, None), (None, None)])
def test_metrics_that_do_not_answer_tell_nothing_of_tabs(tabs: tuple[int | None, ...]) -> None:
    before, after = tabs
    made = record(replace(BEFORE, tabs=before), DURING, replace(AFTER, tabs=after))
    assert list(made.violations()) == []


def test_what_broke_is_a_violation() -> None:
    made = record(BEFORE)
    made.broken.append("the server killed by SIGKILL")
    assert list(made.violations()) == made.broken


# -- the file, and the document


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "new" / "soak.jsonl"
    assert load(file) == []
    made = record(BEFORE, DURING, AFTER)
    made.broken.append("the server killed by SIGKILL")
    save(file, made)
    assert load(file) == [made]


def test_a_later_run_stands_for_what_it_measured_again(tmp_path: Path) -> None:
    """And for no more; a run of which nothing stands is gone."""
    file = tmp_path / "soak.jsonl"
    first = record(BEFORE, DURING, window("during", "GOAWAY"))
    second = record(BEFORE, replace(DURING, p99_ms=5.0), replace(DURING, p99_ms=7.0))
    save(file, first)
    save(file, second)
    known = felt(load(file))
    assert {name: each.p99_ms for name, each in known.items()} == {"PING": 7.0, "GOAWAY": 10.0}
    assert known["PING"].attackers == 140
    third = record(BEFORE, DURING)
    save(file, third)
    assert load(file) == [first, third]


PAGE = """\
<!-- soak -->
Old words.
<!-- /soak -->

| attack | honest tabs feel | test |
| --- | --- | --- |
| one | `PING` 99 ms, `GOAWAY` 99 ms (+99 MiB) | `test_one` |
| two | `SETTINGS` | `test_two` |
| three | nothing `here` is one | `test_three` |

| another | table |
| --- | --- |
| `PING` | 99 ms |
"""


def test_a_document_is_filled() -> None:
    """Figures stand beside the names of attacks; all else is as it was."""
    quiet = replace(DURING, attack="GOAWAY", peak_bytes=53 * MIB, p99_ms=50.4)
    made = record(BEFORE, DURING, quiet)
    text = filled(PAGE, [made])
    assert filled(text, [made]) == text
    assert [each for each in text.splitlines() if each.startswith("|")] == [
        "| attack | honest tabs feel | test |",
        "| --- | --- | --- |",
        "| one | `PING` 10 ms (+10 MiB), `GOAWAY` **51 ms** | `test_one` |",
        "| two | `SETTINGS` not measured | `test_two` |",
        "| three | `here` not measured | `test_three` |",
        "| another | table |",
        "| --- | --- |",
        "| `PING` | 99 ms |",
    ]
    assert "Old words" not in text
    words = " ".join(text.split())
    assert "Measured on 2026-01-02, all attacks: 900 honest tabs, 20 events a second" in words
    assert "(commit 0123456)" in words
    assert "200 events or more, 160,000 deliveries. Without an attack p99 was 10 ms." in words


def test_a_document_has_one_bound() -> None:
    made = record(BEFORE, replace(DURING, p99_ms=60.0))
    made.bounds = Bounds(p99_ms=1_000.0)
    assert list(made.violations()) == []
    assert "`PING` **60 ms** (+10 MiB)" in filled(PAGE, [made])


def test_a_document_is_filled_from_several_runs() -> None:
    text = filled(PAGE, [record(BEFORE, DURING), record(BEFORE, replace(DURING, attack="GOAWAY"))])
    assert text.count("Measured on 2026-01-02, 1 attack:") == 2
    assert "`PING` 10 ms (+10 MiB), `GOAWAY` 10 ms (+10 MiB)" in text


# -- a run


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.soak, "WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(benchmarks.soak, "_SETTLE_SECONDS", 1.0)
    monkeypatch.setattr(benchmarks.soak, "_CALM_WINDOWS", 1)


def test_a_short_one_holds(
    short: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A real server, real tabs that come and go, and a real attack; a loaded machine is slow."""
    results, file = tmp_path / "soak.jsonl", tmp_path / "report.md"
    monkeypatch.setattr(benchmarks.soak_report, "RESULTS", results)
    code = main(
        [
            *("--tabs", "50", "--attack", "PING", "--rounds", "2", "--p99-ms", "60000"),
            *("--save", "--report", str(file)),
        ]
    )
    said = file.read_text()
    assert code == 0, said
    assert said in capfd.readouterr().out
    (run,) = load(results)
    assert said == f"{report(run)}\n"
    phases = [each.phase for each in run.windows]
    assert phases == ["before", "during", "during", "after"]
    for each in run.windows:
        assert each.samples == each.events * 40
        if each.phase == "during":
            assert each.attackers >= 20
            assert each.attack_cpu > 0
        else:
            assert each.tabs == 50


def test_a_time_is_kept(short: None, capfd: pytest.CaptureFixture[str]) -> None:
    """A fifth of it before, the same after, and attacks between."""
    arguments = ("--minutes", "0.1", "--tabs", "20", "--attack", "PING", "--attack", "GOAWAY")
    assert main([*arguments, "--p99-ms", "60000"]) == 0
    said = capfd.readouterr().out
    assert {"before", "during", "after"} == set(
        re.findall(r"^\| \d+ \| (\w+) ", said, re.MULTILINE)
    )


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


@pytest.mark.parametrize("tabs", ["0", "10", "25"])
def test_as_many_tabs_as_are_said(tabs: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No run is recorded as of more tabs, or less, than it had."""
    with pytest.raises(SystemExit):
        main(["--tabs", tabs])
    assert "10 on each connection" in capsys.readouterr().err


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

# Why each is ended, with the limits as they are; what it meets before is of no account.
REASONS = {name: reason for name, (_, reason) in FLOODS.items()} | {
    "PING, unread": "socket full for stall_seconds",
    "SETTINGS of 33 entries": "too many entries in SETTINGS",
    "unknown settings": "too many SETTINGS frames",
    "SETTINGS acknowledged": "SETTINGS acknowledged that we did not send",
    "surplus streams": "too many requests given up",
    "a frame of 16 MiB": "frame over SETTINGS_MAX_FRAME_SIZE",
    "CONTINUATION": "too many CONTINUATION frames",
    "CONTINUATION of 16 KiB": "header block too long",
    "header bomb": "DenialOfServiceError",
    "table-size updates": "CompressionError",
    "PING before SETTINGS": "the first frame is not SETTINGS",
    "invented names": "too many requests given up",
    "no TLS": "no TLS handshake within handshake_seconds",
    "a slow TLS hello": "no TLS handshake within handshake_seconds",
    "key updates": "TLS records without data",
    "no preface": "no whole frame within request_seconds",
    "no SETTINGS": "no whole frame within request_seconds",
    "half a frame": "no whole frame within request_seconds",
    "a section without end": "no whole frame within request_seconds",
    "no request": None,  # an idle connection may come to its end
    "no bodies": "no whole body within body_seconds",
    "a slow body": "no whole body within body_seconds",
    "no window": "window closed too long",
    "no connection window": "connection window closed too long",
    "no window for a replay": "window closed too long",
    "no reading": "socket full for stall_seconds",
    "a pulled cable": "no answer to a PING within probe_answer_seconds",
    "http/1.1: smuggling": "Content-Length beside Transfer-Encoding",
    "http/1.1: a long head": "the header section is over 16384 bytes",
    "http/1.1: a large body": f"the body is over {h2sse.Limits().body_bytes} bytes",
    "http/1.1: unfinished bodies": "the body took too long",
    "http/1.1: chunks of a byte": "the body's chunks are mostly framing",
    "http/1.1: a slow head": "the header section took too long",
    "http/1.1: a slow body": "the body took too long",
}

# The kernel has a clock of its own: test_hostile.py::test_a_pulled_cable_is_noticed waits for it.
BY_THE_KERNEL = "http/1.1: a pulled cable"
# It is answered for as long as it asks, unless 64 KiB come to wait, which is up to the machine:
# test_hostile.py::test_http1_early_requests_are_bounded sees to that.
ANSWERED = "http/1.1: early requests"
# What they hold is full of events, or not at all.
FULL = ("no connection window", "no reading")
STAYING = [
    name
    for name, each in ATTACKS.items()
    if not each.leaves and name not in (BY_THE_KERNEL, ANSWERED)
]


@pytest.mark.parametrize("name", STAYING)
async def test_each_attack_is_ended(name: str, jumping_clock: MockClock) -> None:
    """For what it is, within its time, by the limits as they are; another's tab hears on."""
    jumping_clock.rate = 1.0  # some keep us busy until a time is over
    app = h2sse.App()

    @app.background
    async def some_events() -> None:
        """Enough for a window or a socket to be full, and no more than a tab may lack."""
        for _ in range(20 * (name in FULL)):
            app.publish("a", h2sse.Event(data="x" * 1_000))
            await trio.sleep(0.5)

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
        reason, reasons = REASONS[name], served.server.statistics().reasons
        assert reason in reasons or (reason, reasons) == (None, {}), reasons
        app.publish("b", h2sse.Event(data="x"))
        await client.heard(1, tab)


async def _once(name: str, address: tuple[str, int]) -> None:
    try:
        await _attack_once(ATTACKS[name], *address, Counter())
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


def test_an_attack_is_nice_to_other_sessions() -> None:
    """And counts the connections that it made, not those that it tried to make."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]  # where nobody listens any more
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.attacks", "127.0.0.1", str(port), "PING", "2", "10"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(mine + 10, 19)
        group = Path(f"/proc/{process.pid}/autogroup")
        assert not group.exists() or group.read_text().endswith("nice 10\n")
        process.stdin.close()
        told = json.loads(process.stdout.read())
    assert told["connections"] == 0
    assert process.returncode == 0


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
