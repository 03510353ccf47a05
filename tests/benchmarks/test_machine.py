"""The facts kept beside figures."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import h2
import pytest

from benchmarks import machine
from benchmarks.machine import facts


def test_facts_are_json_and_say_what_matters() -> None:
    told = json.loads(json.dumps(facts()))
    assert told["cpu"]
    assert told["cores"] >= told["usable_cores"] >= 1
    assert told["memory_gib"] > 0
    assert told["kernel"].startswith(f"Linux {platform.release().split('-')[0]}")
    assert told["python"].endswith(platform.python_version())
    assert told["packages"]["h2"] == h2.__version__
    assert told["peers"]["h2sse"]
    assert told["descriptor_limit"] > 0
    assert None not in told["peers"].values()


def test_facts_name_no_host_no_user_and_no_path() -> None:
    text = json.dumps(facts())
    for name in (platform.node(), getpass.getuser(), str(Path.cwd()), str(Path.home())):
        assert not re.search(rf"\b{re.escape(name)}\b", text), name
    assert not re.search(r'["\s]/\w', text)


def test_without_proc_and_git_facts_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    monkeypatch.setattr(machine, "_read", lambda _: "")
    told = facts()
    assert told["cpu"] == platform.machine()
    assert told["memory_gib"] is told["congestion_control"] is None
    assert told["commit"] is told["dirty"] is None


@pytest.mark.skipif(shutil.which("git") is None, reason="apt install git")
def test_a_changed_checkout_is_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a hook, where git would otherwise be that of the repository committed to.
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(machine, "_ROOT", tmp_path)

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        command = ("git", *who, *arguments)
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    for name in ("h2sse/app.py", "benchmarks/model.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# one\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    assert facts()["commit"] == git("rev-parse", "HEAD")
    assert facts()["dirty"] is False

    # What the report writes, and what the measuring does not see.
    for name in ("benchmarks/results/run.jsonl", "benchmarks/README.md", "README.md", "other.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("new\n")
    assert facts()["dirty"] is False

    (tmp_path / "h2sse" / "app.py").write_text("# two\n")
    assert facts()["dirty"] is True
    git("checkout", "--quiet", "h2sse")
    assert facts()["dirty"] is False
    (tmp_path / "benchmarks" / "more.py").write_text("# untracked\n")
    assert facts()["dirty"] is True
