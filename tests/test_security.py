"""`docs/security.md`: each row has its test and its attack, and each figure was measured."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.attacks import ATTACKS
from benchmarks.soak_record import felt, load
from benchmarks.soak_report import DOCUMENT, HEADING, RESULTS, Row, filled, page, rows

ROOT = Path(__file__).parents[1]
TEXT = DOCUMENT.read_text()
# Tables of attacks, and that of faults; where their tests are, unless a file is named.
FILES = {"attack": "test_hostile.py", "fault": "test_never_stop.py"}


def kind(row: Row) -> str:
    (found,) = set(FILES) & set(row.cells)
    return found


def name(row: Row) -> str:
    return row.cells[kind(row)][:40]


ROWS = rows(TEXT)


def test_there_are_rows() -> None:
    """Each table of attacks or faults has the column."""
    tables = re.findall(r"^\| (attack|fault) \|.*$", TEXT, re.MULTILINE)
    assert Counter(tables) == {"attack": 4, "fault": 1}
    assert {kind(row) for row in ROWS} == set(FILES)
    bodies = re.findall(r"^\| (?:attack|fault) \|.*\n\|[ -|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert len(ROWS) == sum(each.count("\n") for each in bodies)


# -- what honest tabs feel


def test_the_document_says_what_was_measured() -> None:
    """`python -m benchmarks.soak report` would change nothing."""
    runs = load(RESULTS)
    assert filled(TEXT, runs) == TEXT
    assert RESULTS.with_suffix(".md").read_text() == page(runs)


def test_every_attack_was_measured() -> None:
    assert set(felt(load(RESULTS))) == set(ATTACKS)


def test_every_attack_is_in_one_row() -> None:
    named = Counter(attack for row in ROWS for attack in row.attacks)
    assert named == Counter(dict.fromkeys(ATTACKS, 1))


def test_rows_without_an_attack_have_words() -> None:
    """And no figure: those are of attacks."""
    for told in (row.cells[HEADING] for row in ROWS if not row.attacks):
        assert told
        assert not re.search(r"\d", told)


# -- tests


def named_in(text: str, file: str) -> Iterator[tuple[str, str]]:
    """The tests that a text names, as file and name: `[id]` alone is another of the one before."""
    test = ""
    for named in re.findall(r"`([^`]+)`", text):
        if found := re.fullmatch(r"(?:(test_\w+\.py)::)?(test_\w+)(\[.+\])?", named):
            test = f"{found[1] or file}::{found[2]}"
            yield found[1] or file, test + (found[3] or "")
        elif found := re.fullmatch(r"\[.+\]", named):
            assert test, f"{named} follows no test"
            yield test.partition("::")[0], test + named
        elif found := re.fullmatch(r"test_\w+\.py", named):
            yield named, named
        else:
            test = ""


NAMED = {name(row): list(named_in(row.cells["test"], FILES[kind(row)])) for row in ROWS}
SENTENCES = "".join(line for line in TEXT.splitlines(keepends=True) if not line.startswith("|"))
NAMED["sentences"] = [
    (file, test) for file, test in named_in(SENTENCES, FILES["attack"]) if file != test
]


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """All tests of the files named, as pytest has them: with and without their parameters."""
    files = sorted({file for named in NAMED.values() for file, _ in named})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=True,
    )
    ids = {line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line}
    return (
        ids | {each.partition("[")[0] for each in ids} | {each.partition("::")[0] for each in ids}
    )


@pytest.mark.parametrize("where", NAMED)
def test_what_is_named_is_a_test(where: str, collected: set[str]) -> None:
    named = NAMED[where]
    assert named
    assert not [test for _, test in named if test not in collected]
