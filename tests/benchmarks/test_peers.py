"""Each server that is installed does what the harness asks of all; clients are curl and h2."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import h2.connection
import h2.events
import h2.settings
import pytest
import trio

from benchmarks import servers
from benchmarks.model import ProtocolName
from benchmarks.peers import PEERS, Peer
from benchmarks.peers import go as go_peer
from benchmarks.peers.peer import debian_version, find, package_version, said
from benchmarks.servers import Server, ServerFailed, serving

# Twenty times what the slowest answer takes on a machine that does other things.
PATIENCE_SECONDS = 30

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="apt install curl")

BOTH = [(name, protocol) for name, peer in PEERS.items() for protocol in peer.protocols]
# Those that a tab can come back to with a Last-Event-ID.
REMEMBERING = ("h2sse", "hypercorn", "granian", "nchan")
FLAGS: dict[ProtocolName, str] = {"h2": "--http2", "http/1.1": "--http1.1"}
VERSIONS: dict[ProtocolName, str] = {"h2": "2", "http/1.1": "1.1"}
DATA = "een & ander: 1+1=2, 100 %; \N{LATIN SMALL LETTER E WITH ACUTE}"


def installed(name: str) -> Peer:
    peer = PEERS[name]
    if peer.version() is None:
        pytest.skip(peer.install)
    return peer


@final
@dataclass
class Events:
    """An event stream as it comes."""

    source: trio.abc.ReceiveStream
    text: str = ""
    _raw: bytearray = field(default_factory=bytearray)

    async def read_until(self, done: Callable[[str], bool]) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            while not done(self.text):
                data = await self.source.receive_some()
                assert data, f"the stream ended after {self.text!r}"
                self._raw += data
                self.text = self._raw.decode(errors="replace")


@final
@dataclass(frozen=True)
class Curl:
    """curl, over one protocol, against one server."""

    server: Server
    protocol: ProtocolName

    def _command(self, path: str, *options: str) -> list[str]:
        url = f"https://{self.server.host}:{self.server.port}{path}"
        common = ("curl", "--silent", "--show-error", "--cacert", str(self.server.cafile))
        return [*common, FLAGS[self.protocol], *options, url]

    async def ask(self, path: str, *options: str) -> str:
        """The protocol's version and the status that came, "2 200"."""
        write = ("--output", "/dev/null", "--write-out", "%{http_version} %{http_code}")
        command = self._command(path, *write, *options)
        with trio.fail_after(PATIENCE_SECONDS):
            done = await trio.run_process(command, capture_stdout=True)
        return done.stdout.decode()

    async def publish(self, data: str) -> None:
        peer = self.server.peer
        if peer.publish_form:
            body = ("--data", "topic=bench", "--data-urlencode", f"data={data}")
        else:
            body = ("--header", "content-type: text/plain", "--data-binary", data)
        answer = await self.ask(peer.publish_path, *body)
        assert re.fullmatch(rf"{re.escape(VERSIONS[self.protocol])} 2\d\d", answer)

    @asynccontextmanager
    async def events(self, last_event_id: str = "") -> AsyncIterator[Events]:
        """A stream whose first bytes have come."""
        fields = ["--header", "accept: text/event-stream"]  # as browsers send it
        if last_event_id:
            fields += ["--header", f"last-event-id: {last_event_id}"]
        command = self._command(self.server.peer.events_path, "--no-buffer", *fields)
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        async with process.stdout:
            try:
                events = Events(process.stdout)
                await events.read_until(bool)
                yield events
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


@needs_curl
@pytest.mark.parametrize(("name", "protocol"), BOTH)
async def test_an_event_arrives(name: str, protocol: ProtocolName) -> None:
    async with serving(installed(name), protocol) as server:
        # Of HTTP/2 servers, the publisher asks over HTTP/1.1.
        spoken: list[ProtocolName] = ["h2", "http/1.1"] if protocol == "h2" else ["http/1.1"]
        for each in spoken:
            curl = Curl(server, each)
            assert await curl.ask("/") == f"{VERSIONS[each]} 200"
            async with curl.events() as events:
                for number in range(3):
                    await curl.publish(f"{number} {DATA}")
                ends = f"data: 2 {DATA}\n\n"
                await events.read_until(lambda text, ends=ends: text.endswith(ends))  # type: ignore[misc]  # mypy cannot type a lambda's default
                came = [line for line in events.text.splitlines() if line.startswith("data")]
                assert came == [f"data: {number} {DATA}" for number in range(3)]
        assert (await Curl(server, "h2").ask("/"))[:2] == ("2 " if protocol == "h2" else "1.")
        usage = server.usage()
        assert usage.pss_bytes > 1_000_000
        assert usage.processes >= 1
        assert server.alive, server.output


@needs_curl
@pytest.mark.parametrize("name", REMEMBERING)
async def test_a_tab_that_comes_back_gets_what_it_missed(name: str) -> None:
    async with serving(installed(name), "h2") as server:
        curl = Curl(server, "h2")
        async with curl.events() as events:
            await curl.publish("seen")
            await events.read_until(lambda text: text.endswith("data: seen\n\n"))
            *_, last = re.findall(r"^id: ?(.+)$", events.text, re.MULTILINE)
        await curl.publish("missed")
        async with curl.events(last) as events:
            await curl.publish("new")
            await events.read_until(lambda text: text.endswith("data: new\n\n"))
        assert re.findall(r"^data: (.+)$", events.text, re.MULTILINE) == ["missed", "new"]


# 1,500 tabs: above every default, and more than Hypercorn takes, which is for the benchmark to say.
TABS = 1_500


@pytest.mark.parametrize("name", [name for name in PEERS if name != "hypercorn"])
async def test_all_tabs_can_share_a_connection(name: str) -> None:
    peer = installed(name)
    async with serving(peer, "h2", max_streams=TABS) as server:
        answered: set[int] = set()
        machine = h2.connection.H2Connection()
        machine.initiate_connection()
        machine.increment_flow_control_window(2**24)
        async with await servers._connect(server, ["h2"]) as stream:

            async def read_until(done: Callable[[], bool]) -> None:
                with trio.fail_after(PATIENCE_SECONDS):
                    while not done():
                        await stream.send_all(machine.data_to_send())
                        data = await stream.receive_some()
                        assert data, server.output
                        for event in machine.receive_data(data):
                            assert not isinstance(event, h2.events.ConnectionTerminated)
                            if isinstance(event, h2.events.ResponseReceived):
                                assert event.headers[0] == (b":status", b"200")
                            if isinstance(event, h2.events.DataReceived):
                                assert event.stream_id is not None
                                answered.add(event.stream_id)

            offered = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
            await read_until(lambda: offered in machine.remote_settings)
            assert machine.remote_settings[offered] == TABS
            for number in range(TABS):
                fields = [
                    (":method", "GET"),
                    (":scheme", "https"),
                    (":authority", f"{server.host}:{server.port}"),
                    (":path", peer.events_path),
                    ("accept", "text/event-stream"),
                ]
                machine.send_headers(2 * number + 1, fields, end_stream=True)
                # Not all at once: a server that waits to write would wait for us to read.
                if number % 100 == 99:
                    await read_until(lambda opened=number + 1: len(answered) == opened)  # type: ignore[misc]  # see above
        assert len(answered) == TABS
        assert server.alive


# -- what is installed, and what is not


def test_the_table_is_by_name() -> None:
    assert list(PEERS) == ["h2sse", "hypercorn", "granian", "node", "nchan", "go"]
    assert all(peer.name == name for name, peer in PEERS.items())
    assert len({peer.title for peer in PEERS.values()}) == len(PEERS)


@pytest.mark.parametrize(
    ("name", "package"), [("node", "nodejs"), ("nchan", "libnginx-mod-nchan"), ("go", "golang-go")]
)
def test_what_is_not_installed_is_absent(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    peer = PEERS[name]
    assert peer.version() is None
    assert peer.install.startswith("apt install ")
    assert package in peer.install.split()


def test_a_package_that_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert package_version("h2") is not None
    assert package_version("h2sse-of-nobody") is None
    monkeypatch.setattr("sys.path", [])
    for name in ("hypercorn", "granian"):
        assert PEERS[name].version() is None
        assert PEERS[name].install == "uv sync --group bench"


def test_a_program_in_sbin_is_found_from_bin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("bin", "sbin"):
        (tmp_path / folder).mkdir()
    program = tmp_path / "sbin" / "nginx"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find("nginx") == str(program)
    assert find("node") is None


@pytest.mark.parametrize(
    ("full", "upstream"),
    [("1:1.3.6+dfsg-2", "1.3.6"), ("1.22.1-9+deb12u11", "1.22.1"), ("1:0.7.0", "0.7.0"), ("", "")],
)
def test_debian_versions(full: str, upstream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.peer.said", lambda *_: full)
    assert debian_version("some-package") == upstream


# -- Go is built


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """Go, as if it were asked for the first time; its standard library need not be built again."""
    peer = installed("go")
    monkeypatch.setenv("GOCACHE", said("go", "env", "GOCACHE"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return peer


@pytest.mark.usefixtures("go")
def test_go_is_built_once(tmp_path: Path) -> None:
    built = go_peer._built()
    made = built.stat()
    assert go_peer._built() == built
    assert built.stat().st_mtime_ns == made.st_mtime_ns
    assert list((tmp_path / "h2sse-benchmarks").iterdir()) == [built], "no half builds"


async def test_go_that_does_not_compile_is_a_failure(
    go: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "broken.go"
    source.write_text("package main\n\nfunc main() { nonsense }\n")
    monkeypatch.setattr(go_peer, "_SOURCE", source)
    with pytest.raises(ServerFailed, match=r"Go net/http cannot be built:\n(.*\n)*.*nonsense"):
        async with serving(go, "h2"):
            pass
