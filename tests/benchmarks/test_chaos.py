"""The chaos: its judge finds each fault, what tabs note is kept, and what is planned happens."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from benchmarks.attacks import ATTACKS
from benchmarks.chaos.journal import Journal, Note, What, begin, read
from benchmarks.chaos.judge import FAULTS, Judge, Published, Verdict
from benchmarks.chaos.plan import Act, Kind, plan
from benchmarks.chaos.report import report
from benchmarks.chaos.run import Chaos, chaos
from benchmarks.chaos.tabs import _reset

ROOT = Path(__file__).parents[2]


# -- the judge


def event(number: int, event_id: str | None, *topics: str, quiet: bool = False) -> Published:
    return Published(number=number, topics=frozenset(topics or ("a",)), id=event_id, quiet=quiet)


# Two runs of the server, and a third.  Number 4 was never answered.
PUBLISHED = (
    event(1, "x-1", "a", "b"),
    event(2, "x-2"),
    event(3, "x-3", "b"),
    event(4, None),
    event(5, "x-5", quiet=True),
    event(6, "y-1"),
    event(7, "y-2", "a", "b"),
    event(8, "z-1"),
)


def note(what: What, event_id: str, detail: str) -> Note:
    return Note(17, event_id, what, detail)


def saw(event_id: str, number: int) -> Note:
    return note("saw", event_id, f"{number} 830")


def told(event_id: str, last: str, reason: str = "unknown") -> Note:
    return note("told", event_id, f"{last} {reason}")


BEGUN = note("begun", "x-1", "a")
X2, X5, Y1, Y2, Z1 = saw("x-2", 2), saw("x-5", 5), saw("y-1", 6), saw("y-2", 7), saw("z-1", 8)
# What a tab of "a" must have seen, with the server restarted twice.
WHOLE = (X2, X5, told("y-0", "x-5"), Y1, Y2, told("z-0", "y-2"), Z1)


def verdict(*notes: Note, begun: Note = BEGUN) -> Verdict:
    judge = Judge(PUBLISHED)
    judge.tab([begun, *notes])
    return judge.verdict


def test_what_is_whole_has_no_fault() -> None:
    made = verdict(*WHOLE)
    assert (made.tabs, made.delivered, made.gaps, made.told) == (1, 5, 2, 0)
    assert not made.faults, made.words
    assert made.microseconds == {830: 1}  # that of the quiet one


def test_a_tab_of_two_topics_sees_an_event_of_both_once() -> None:
    begun = note("begun", "x-1", "b,a")
    made = verdict(X2, saw("x-3", 3), *WHOLE[1:], begun=begun)
    assert made.delivered == 6
    assert not made.faults


def test_what_was_not_answered_may_have_come_or_not() -> None:
    made = verdict(X2, saw("x-4", 4), *WHOLE[1:])
    assert made.delivered == 6
    assert not made.faults


@pytest.mark.parametrize(
    ("notes", "missed"),
    [
        ((X2, told("y-0", "x-2"), *WHOLE[3:]), 1),
        ((told("y-0", "x-1"), *WHOLE[3:]), 2),
        # It never came to the second run.
        ((X2, told("z-0", "x-2"), Z1), 3),
    ],
)
def test_across_a_restart_what_is_missing_was_told(notes: Sequence[Note], missed: int) -> None:
    made = verdict(*notes)
    assert made.told == missed
    assert not made.faults, made.words


@pytest.mark.parametrize(
    ("notes", "faults"),
    [
        # Of the run that it came from, of the one it went to, and at the end.
        ((WHOLE[1], *WHOLE[2:]), {"lost": 1}),
        ((*WHOLE[:3], Y2, *WHOLE[5:]), {"lost": 1}),
        ((X2, X5, told("y-1", "x-5"), Y2, *WHOLE[5:]), {"lost": 1}),
        (WHOLE[:-1], {"lost": 1}),
        (WHOLE[:2], {"lost": 3}),
        ((), {"lost": 5}),
        ((X2, X2, *WHOLE[1:]), {"doubled": 1}),
        ((*WHOLE[:4], X2, *WHOLE[4:]), {"doubled": 1}),
        ((X5, X2, *WHOLE[2:]), {"misordered": 1, "unexplained": 1}),
        ((*WHOLE[:3], Y2, Y1, told("z-0", "y-1"), Z1), {"misordered": 1}),
        # Nothing is missing, but nobody said so.
        ((X2, X5, *WHOLE[3:]), {"untold": 1}),
        ((X2, *WHOLE[3:]), {"untold": 1, "lost": 1}),
        ((X2, told("x-2", "x-2"), *WHOLE[1:]), {"unexplained": 1}),
        ((X2, told("x-4", "x-2", "pruned"), *WHOLE[1:]), {"unexplained": 1}),
        ((X2, told("x-4", "x-2", "pruned"), *WHOLE[2:]), {"unexplained": 2, "lost": 1}),
        ((X2, X5, told("y-0", "x-2"), *WHOLE[3:]), {"unexplained": 1}),
        ((*WHOLE[:3], told("y-0", "y-0"), *WHOLE[3:]), {"unexplained": 1}),
        # Another event's number, another topic's event, one that nobody sent, an id of no run.
        ((X2, saw("x-3", 5), X5, *WHOLE[2:]), {"altered": 1}),
        ((X2, saw("x-3", 3), X5, *WHOLE[2:]), {"altered": 1}),
        ((X2, saw("x-3", 9), X5, *WHOLE[2:]), {"altered": 1}),
        ((X2, saw("w-3", 5), X5, *WHOLE[2:]), {"altered": 1}),
        ((X2, note("damaged", "x-5", "5 3"), *WHOLE[2:]), {"altered": 1, "lost": 1}),
        ((X2, note("failed", "x-2", "answered 503"), *WHOLE[1:]), {"failed": 1}),
    ],
)
def test_each_fault_is_found(notes: Sequence[Note], faults: dict[str, int]) -> None:
    made = verdict(*notes)
    assert made.faults == faults, made.words
    assert len(made.words) == sum(faults.values())
    record = Chaos(tabs=1, processes=1, seconds=1, seed=0, verdict=made)
    assert not record.held
    text = report(record, {})
    assert "**It did not hold.**" in text
    for fault, count in faults.items():
        assert f"| **{fault}** ({FAULTS[fault]}) | **{count}** |" in text


def test_each_fault_has_a_case() -> None:
    (cases,) = test_each_fault_is_found.pytestmark  # type: ignore[attr-defined] # pytest's
    assert {fault for _, faults in cases.args[1] for fault in faults} == set(FAULTS)


def test_a_tab_without_notes_is_missed() -> None:
    assert not Chaos(tabs=2, processes=1, seconds=1, seed=0, verdict=verdict(*WHOLE)).held
    assert Chaos(tabs=1, processes=1, seconds=1, seed=0, verdict=verdict(*WHOLE)).held


# -- the journal


def test_a_torn_line_was_not_noted(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    begin(file, [BEGUN])
    Journal(file).add(X2)
    with file.open("ab") as torn:
        torn.write(X5.line[:-1])
    assert list(read(file)) == [BEGUN, X2]
    Journal(file).add(X5)
    assert list(read(file)) == [BEGUN, X2, X5]
    judge = Judge(PUBLISHED[:5])
    judge.files([file])
    assert judge.verdict.delivered == 2
    assert not judge.verdict.faults


def test_notes_outlive_their_process(tmp_path: Path) -> None:
    """Killed at once: what it noted is there, whole lines alone, and as much as it says."""
    file = tmp_path / "journal"
    begin(file, [BEGUN])
    code = (
        "import os, pathlib, sys\n"
        "from benchmarks.chaos.journal import Journal, Note\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "for number in range(1, 1 << 30):\n"
        "    journal.add(Note(17, f'x-{number}', 'saw', f'{number} 0'))\n"
        "    os.write(1, b'\\n')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(1_000)]
        process.kill()
        said += process.stdout.readlines()
    Journal(file)
    _, *notes = read(file)
    assert [each.detail for each in notes] == [f"{at} 0" for at in range(1, len(notes) + 1)]
    assert len(notes) - len(said) in (0, 1)


# -- the plan


def test_the_plan_is_the_seed_s() -> None:
    acts = plan(600, 7, 4)
    assert acts == plan(600, 7, 4)
    assert acts != plan(600, 8, 4)
    assert [act.at for act in acts] == sorted(act.at for act in acts)
    assert {act.kind for act in acts} == set(Kind)
    assert {act.process for act in acts} == set(range(4))
    assert {act.name for act in acts} - {""} <= set(ATTACKS)
    for kind in (Kind.TERMINATE, Kind.CRASH):
        assert sum(1 for act in acts if act.kind is kind) == 1
    assert not [act for act in acts if act.at % 60 > 50 and act.kind is not Kind.CRASH]


# -- the run


def test_a_reset_is_one_for_both_ends() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as ours,
        listener.accept()[0] as theirs,
    ):
        _reset(ours.fileno())
        for end in (theirs, ours):
            with pytest.raises(ConnectionResetError):
                end.recv(1)


def act(at: float, kind: Kind, process: int, seconds: float = 0.0, name: str = "") -> Act:
    which = (0, 7, 13)
    return Act(at=at, kind=kind, process=process, which=which, seconds=seconds, name=name)


# Tabs come back soon, so that it takes seconds.
SOON = "retry_ms = 200\n"


async def test_a_short_one_holds(tmp_path: Path) -> None:
    """A real server, real tabs in real processes, and some of all that may happen to them."""
    config = tmp_path / "server.toml"
    config.write_text(SOON)
    record = Chaos(tabs=44, processes=2, seconds=3.5, seed=1)
    acts = [
        act(0.1, Kind.OVERRUN, 1, 1.2),
        act(0.2, Kind.STALL, 0, 0.5),
        act(0.3, Kind.RESET, 0),
        act(0.4, Kind.CANCEL, 0),
        act(0.5, Kind.ATTACK, 0, 0.5, "PING"),
        act(1.0, Kind.LEAVE, 0, 0.1),
        act(1.2, Kind.KILL, 0, 0.1),
        act(1.5, Kind.TERMINATE, 0),
        act(3.4, Kind.CRASH, 0),
    ]
    await chaos(record, acts, ("--config", str(config)))
    text = report(record, {})
    assert record.held, text
    assert record.acts == {each.kind: each.count for each in acts}
    assert record.attacks["PING"] >= 20
    made = record.verdict
    assert made.tabs == 44
    # A tab that was on its way back may have missed the run in between.
    assert 44 <= made.gaps <= 88
    assert made.delivered > 44 * 2
    last = record.samples[-1]
    assert last.overflows, "no tab of the heavy topic was ended at its bound"
    assert text.startswith("# Chaos\n\nEvery one of 44 tabs saw every acknowledged event once")


async def test_a_server_that_forgets_is_found(tmp_path: Path) -> None:
    """Tabs that come back find too little, and are told so, but no restart is to blame."""
    config = tmp_path / "server.toml"
    config.write_text(f"{SOON}[limits]\nhistory_events = 1\n")
    record = Chaos(tabs=44, processes=1, seconds=2, seed=1)
    await chaos(record, [act(0.1, Kind.KILL, 0, 1.0)], ("--config", str(config)))
    assert not record.held
    assert not record.broken
    assert record.verdict.tabs == 44
    assert set(record.verdict.faults) == {"lost", "unexplained"}


async def test_interrupted_it_says_what_it_knows(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(SOON)
    record = Chaos(tabs=10, processes=1, seconds=3_600, seed=1)
    acts = [act(0.1, Kind.CANCEL, 0), act(3_000, Kind.CRASH, 0)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chaos, record, acts, ("--config", str(config)))
        while not record.acts:  # noqa: ASYNC110
            await trio.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
    text = report(record, {})
    assert record.held, text
    assert record.acts == {Kind.CANCEL: 3}
    assert re.search(r"--minutes 60 --tabs 10 --seed 1` interrupted after \d+ s\n", text)
