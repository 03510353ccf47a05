"""What the documents say runs, and is true."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import ssl
import subprocess
import sys
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from h2sse import Config, Limits, Tls
from h2sse.settings import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_example_is_short() -> None:
    (example,) = blocks("python")
    assert len(example.splitlines()) <= 25


def test_the_example_serves(tmp_path: Path) -> None:
    """As printed, but for the port: subscribe, set, and see the greeting and the change."""
    (example,) = blocks("python")
    changed = example.replace("(h2sse.serve, app)", "(h2sse.serve, app, h2sse.Config(port=0))")
    changed = changed.replace("listening.url)", "listening.url, flush=True)")
    assert changed != example
    script = tmp_path / "example.py"
    script.write_text(changed)
    server = subprocess.Popen(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        url = server.stdout.readline().removeprefix("listening at ").strip()
        assert url.startswith("https://localhost:")
        context = ssl.create_default_context(cafile=tmp_path / "certs" / "ca.pem")
        host = url.removeprefix("https://")
        with (
            closing(HTTPSConnection(host, context=context, timeout=20)) as listener,
            closing(HTTPSConnection(host, context=context, timeout=20)) as publisher,
        ):
            listener.request("GET", "/theme")
            lines = iter(listener.getresponse().readline, b"")
            assert b'data: {"theme": "light"}\n' in lines
            publisher.request("POST", "/theme/set", b'{"theme": "dark"}')
            assert json.load(publisher.getresponse()) == {"theme": "dark"}
            assert b'data: {"theme": "dark"}\n' in lines
    finally:
        server.kill()
        server.communicate()


def commands() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [
        shlex.split(part)
        for line in lines
        if line.startswith("$ ")
        for part in line.removeprefix("$ ").split("&&")
    ]


def test_the_commands_exist() -> None:
    h2sse = [words[2:] for words in commands() if words[:2] == ["uv", "run"]]
    assert ["h2sse", "demo"] in h2sse
    assert ["h2sse", "serve"] in h2sse
    assert ["pytest"] in h2sse
    for name, *arguments in h2sse:
        if name == "h2sse":
            run = [sys.executable, "-m", "h2sse", *arguments, "--help"]
            assert subprocess.run(run, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), target


def shown(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def test_every_limit_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \| .+ \|$", CONFIGURATION, re.MULTILINE))
    limits = {each.name: shown(each.default) for each in dataclasses.fields(Limits)}
    assert {name: rows.get(name) for name in limits} == limits


def test_every_setting_is_documented() -> None:
    for each in dataclasses.fields(Config):
        if each.name not in ("tls", "limits"):
            assert f"`{each.name}`" in CONFIGURATION
    for each in dataclasses.fields(Tls):
        assert f"`tls.{each.name}`" in CONFIGURATION


def test_the_toml_example_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", CONFIGURATION, re.DOTALL | re.MULTILINE)
    file = tmp_path / "server.toml"
    file.write_text(example)
    config = load(file=file, environment={})
    assert config.limits.max_concurrent_streams == 256
    assert config.tls.cert == tmp_path / "fullchain.pem"


def test_the_changelog_has_an_unreleased_section() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
