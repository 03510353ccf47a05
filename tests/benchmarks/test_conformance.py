"""The page of verdicts, the servers that are not there, and one short run of a real one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import final

import pytest

import benchmarks.__main__ as command
from benchmarks import conformance
from benchmarks.conformance import SUBJECTS, Column, Subject, page, probed
from benchmarks.peers import PEERS, Peer, Setup
from h2sse.probe import CHECKS
from h2sse.probe.verdict import Check, Finding, Result, Verdict

DAY = datetime(2026, 11, 21, tzinfo=UTC)
BY_NAME = {each.name: each for each in CHECKS}


def column(title: str, odd: Mapping[str, tuple[Verdict, str]], **more: str) -> Column:
    """All pass, but for the odd ones."""
    results = [
        Result(each, Finding(*odd.get(each.name, (Verdict.PASS, "fine"))), 1, 0.1)
        for each in CHECKS
    ]
    return Column(title=title, version="1.2", results=results, **more)


@final
class SomePeer(Peer):
    name = "some"
    title = "Some"
    install = "install some"

    def __init__(self, version: str | None, command: list[str]) -> None:
        self._version = version
        self._command = command

    def version(self) -> str | None:
        return self._version

    def command(self, setup: Setup) -> list[str]:
        return self._command


def rows(text: str, start: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_a_row_a_check_and_a_column_a_server() -> None:
    text = page(
        [
            column("One", {}),
            column("Two", {"prompt": (Verdict.FAIL, "neither"), "retry": (Verdict.WARN, "none")}),
        ],
        DAY,
    )
    assert "2026-11-21" in text
    for check in CHECKS:
        (row,) = rows(text, f"[{check.name}](probe.md#{check.name})")
        assert row[1] == check.clause
        wanted = {"prompt": "**✗ fail**", "retry": "! warn"}.get(check.name, "✓ pass")
        assert row[2:] == ["✓ pass", wanted]
    assert rows(text, "One") == [["One", "1.2", str(len(CHECKS)), "0", "0", "0"]]
    assert rows(text, "Two") == [["Two", "1.2", str(len(CHECKS) - 2), "1", "1", "0"]]


def test_a_fault_is_told_in_the_probe_s_words_with_what_users_notice() -> None:
    odd = {
        "retry": (Verdict.WARN, "none: each browser waits"),
        "prompt": (Verdict.FAIL, "of *two* events, | neither"),
        "ends": (Verdict.CANNOT_TELL, "no stream was ended"),
    }
    text = " ".join(page([column("One", odd)], DAY).partition("## What was found")[2].split())
    fault = (
        f"- **prompt**, fail: of \\*two\\* events, \\| neither. *Users:* {BY_NAME['prompt'].notice}"
    )
    warning = f"- **retry**, warn: none: each browser waits. *Users:* {BY_NAME['retry'].notice}"
    for part in (fault, warning):
        assert " ".join(part.split()) in text
    assert text.index("**prompt**") < text.index("**retry**")
    assert "cannot tell: ends (no stream was ended)" in text
    assert "No fault" not in text


def test_of_a_rough_check_only_its_name_is_told() -> None:
    rough = [each.name for each in CHECKS if each.intrusive]
    assert rough
    for verdict in (Verdict.FAIL, Verdict.WARN, Verdict.CANNOT_TELL):
        secret = dict.fromkeys(rough, (verdict, "after 1,234 of them it fell"))
        text = page([column("One", secret)], DAY)
        assert "1,234" not in text
        for name in rough:
            assert name in text.partition("## What was found")[2]


def test_who_has_no_fault_is_told_so() -> None:
    text = page([column("One", {"ends": (Verdict.CANNOT_TELL, "nothing ended")})], DAY)
    assert "No fault, and nothing to warn of." in text


def test_a_server_that_is_not_there_has_no_column_and_a_command() -> None:
    text = page([column("One", {}), Column(title="Two", absent="apt install two")], DAY)
    assert rows(text, "Two") == [["Two", "absent: `apt install two`", *"––––"]]
    assert "`apt install two` installs it" in text
    assert rows(text, "check") == [["check", "clause", "One"]] * len({e.group for e in CHECKS})


def test_a_run_that_was_not_finished_says_so() -> None:
    half = Column(
        title="One", results=column("", {}).results[:5], failure="stopped after 9 s\x1b[2J"
    )
    text = page([half], DAY)
    assert "not probed as it should be" in text
    assert "stopped after 9 s" in text
    assert "\x1b" not in text
    assert "No fault" not in text
    assert rows(text, "[ends]")[0][2] == "· not made"


def test_every_group_of_checks_has_a_heading() -> None:
    assert set(conformance._GROUPS) == {each.group for each in CHECKS}


# -- probing


async def test_who_is_absent_is_not_started() -> None:
    absent = await probed(Subject("some", "Some", SomePeer(None, ["false"])))
    assert (absent.absent, absent.results) == ("install some", ())


async def test_nginx_may_be_what_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "_nginx_version", lambda: "")
    subject = Subject("some", "Some", SomePeer("1", ["false"]), "")
    assert (await probed(subject)).absent == "apt install nginx"


async def test_a_server_that_does_not_start_is_a_failure_of_its_own() -> None:
    column = await probed(Subject("some", "Some", SomePeer("1", ["false"])))
    assert "exited with 1" in column.failure
    assert not column.results


def of(*names: str) -> list[Check]:
    return [BY_NAME[name] for name in names]


async def test_a_real_run() -> None:
    column = await probed(SUBJECTS["h2sse"], of("alpn", "prompt", "burst"))
    assert not column.failure
    assert [each.check.name for each in column.results] == ["alpn", "prompt", "burst"]
    assert {each.verdict for each in column.results} == {Verdict.PASS}, column.results
    assert column.version == PEERS["h2sse"].version()


async def test_a_run_ends_in_time() -> None:
    column = await probed(SUBJECTS["h2sse"], of("heartbeat"), seconds=2)
    assert column.failure == "stopped after 2 s"


async def test_a_probe_that_fails_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(options: object, tell: object) -> None:
        assert callable(tell)
        seen = "the check itself failed: KeyError()"
        tell(Result(BY_NAME["alpn"], Finding(Verdict.CANNOT_TELL, seen), 0, 0))

    monkeypatch.setattr(conformance, "probe", fails)
    column = await probed(SUBJECTS["h2sse"], of("alpn"))
    assert column.failure.startswith("the probe made a mistake: alpn")


# -- the command


async def _made_up(subjects: list[Subject]) -> list[Column]:
    return [column(each.title, {}) for each in subjects]


def test_the_command_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(conformance, "every", _made_up)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    assert command.main(["conformance"]) == 0
    written = (tmp_path / "docs" / "conformance.md").read_text(encoding="utf-8")
    for subject in SUBJECTS.values():
        assert f"### {subject.title}\n" in written
    # One server's page would lose the others: it is shown, unless it has a place of its own.
    capsys.readouterr()
    assert command.main(["conformance", "--server", "go"]) == 0
    assert capsys.readouterr().out.count("### ") == 1
    assert (tmp_path / "docs" / "conformance.md").read_text(encoding="utf-8") == written
    assert command.main(["conformance", "--server", "go", "--out", str(tmp_path / "go.md")]) == 0
    assert "### Go net/http\n" in (tmp_path / "go.md").read_text(encoding="utf-8")


def test_the_command_knows_its_servers(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["conformance", "--server", "nobody"]) == 2
    assert "nginx-h2sse" in capsys.readouterr().err


def test_a_failure_is_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failed(subjects: list[Subject]) -> list[Column]:
        return [column(each.title, {}, failure="stopped") for each in subjects]

    monkeypatch.setattr(conformance, "every", failed)
    assert command.main(["conformance", "--out", str(tmp_path / "page.md")]) == 1
