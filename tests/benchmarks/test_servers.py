"""Starting, waiting for, measuring and ending a server, with small servers made for it."""

from __future__ import annotations

import os
import re
import resource
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import pytest
import trio

from benchmarks import servers
from benchmarks.model import ProtocolName
from benchmarks.peers import PEERS, Peer, Setup
from benchmarks.servers import Server, ServerFailed, serving

# What each burns before the server listens, and what its child holds.
BURN_SECONDS = 0.2
HELD_BYTES = 50_000_000

BURN = """\
import time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
# Deaf to SIGTERM; what it holds is written to, so that it is there.
CHILD = f"""\
{BURN}
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = b"x" * {HELD_BYTES}
burn({BURN_SECONDS})
print("ready", flush=True)
sys.stdin.read()
"""
# An HTTPS server that speaks HTTP/1.1 and nothing else.
ANSWER = """\
import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(STATUS)
        self.end_headers()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERT, KEY)
context.set_alpn_protocols(["http/1.1"])
server = http.server.ThreadingHTTPServer((HOST, PORT), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
Handler.protocol_version = "HTTP/1.1"
server.serve_forever()
"""
# One child has ended, a thread too; one child lives.
FAMILY = f"""\
{BURN}
import subprocess, sys, threading
subprocess.run([sys.executable, "-c", {BURN + f"burn({BURN_SECONDS})"!r}], check=True)
thread = threading.Thread(target=burn, args=({BURN_SECONDS},))
thread.start()
thread.join()
pipe = subprocess.PIPE
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=pipe, stdout=pipe)
child.stdout.readline()
"""


@final
@dataclass
class Made(Peer):
    """A server that is a few lines of Python."""

    program: str
    name = "made"
    title = "A made server"
    install = "none"
    status: int = 200
    setups: list[Setup] = field(default_factory=list)

    def version(self) -> str:
        return "1"

    def command(self, setup: Setup) -> list[str]:
        self.setups.append(setup)
        names = {
            "HOST": setup.host,
            "PORT": setup.port,
            "CERT": str(setup.cert),
            "KEY": str(setup.key),
            "STATUS": self.status,
        }
        program = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + self.program
        return [sys.executable, "-c", program]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For servers that never answer."""
    monkeypatch.setattr(servers, "START_SECONDS", 0.5)
    monkeypatch.setattr(servers, "END_SECONDS", 0.5)


async def fails(peer: Peer, protocol: ProtocolName = "http/1.1") -> str:
    with pytest.raises(ServerFailed) as failed:
        async with serving(peer, protocol):
            pass
    return str(failed.value)


# -- start


async def test_an_error_is_found_however_long_ago_it_was_logged() -> None:
    log = "print('fine\\nERROR one\\nof two lines')\nprint('later\\n' * 100_000, flush=True)\n"
    async with serving(Made(log + ANSWER), "http/1.1") as server:
        assert server.error.splitlines()[:3] == ["ERROR one", "of two lines", "later"]
        assert len(server.error.splitlines()) == 20
        assert "ERROR" not in server.output
    assert server.error.startswith("ERROR one\n")


async def test_a_server_is_there_and_then_gone() -> None:
    peer = Made("print('here I am', flush=True)\n" + ANSWER)
    async with serving(peer, "http/1.1", max_streams=7) as server:
        (setup,) = peer.setups
        assert (server.peer, server.protocol) == (peer, "http/1.1")
        assert (server.host, server.port) == (setup.host, setup.port)
        assert setup.max_streams == 7
        assert not any(setup.folder.iterdir())
        assert server.alive
        assert not server.ending
        assert "here I am" in server.output
        assert not server.error
        (await trio.open_tcp_stream(server.host, server.port)).socket.close()
    assert not server.alive
    assert server.ending == "killed by SIGTERM"
    assert "here I am" in server.output
    assert not setup.folder.exists()
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream(server.host, server.port)


async def test_all_servers_have_one_certificate() -> None:
    peer = Made(ANSWER)
    for _ in range(2):
        async with serving(peer, "http/1.1"):
            pass
    first, second = peer.setups
    assert (first.cert, first.key) == (second.cert, second.key)


async def test_what_would_tune_a_server_does_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_OPTIONS", "--max-old-space-size=100")
    monkeypatch.setenv("GOGC", "off")
    show = "import os, resource\nprint(sorted(os.environ))\n"
    show += "print('limits', *resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)\n"
    async with serving(Made(show + ANSWER), "http/1.1") as server:
        names, limits, *_ = server.output.splitlines()
    assert "PATH" in names
    assert "NODE_OPTIONS" not in names
    assert "GOGC" not in names
    _, soft, hard = limits.split()
    assert soft == hard


# -- failures


async def test_one_that_dies_at_its_start_leaves_its_last_words() -> None:
    many = "for n in range(5000): print('line', n, flush=True)\n"
    said = await fails(Made(many + "raise SystemExit('no such option: --fast')"))
    assert said.startswith("A made server exited with 1 before it answered")
    assert said.endswith("no such option: --fast")
    assert "line 4999" in said
    assert "line 4900" not in said, "only the end"


async def test_one_that_is_killed_is_said_to_be() -> None:
    said = await fails(Made("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"))
    assert said == "A made server killed by SIGSEGV before it answered"


@pytest.mark.usefixtures("impatient")
async def test_one_that_never_answers_is_not_waited_for_without_end() -> None:
    said = await fails(Made("import time\nprint('asleep', flush=True)\ntime.sleep(600)"))
    assert "did not answer within 0.5 s" in said
    assert said.endswith("asleep")


async def test_one_of_another_protocol_is_not_measured() -> None:
    said = await fails(Made(ANSWER), "h2")
    assert said.startswith("A made server chose http/1.1 by ALPN, not h2")


async def test_one_that_answers_with_an_error_is_not_measured() -> None:
    said = await fails(Made(ANSWER, status=503))
    assert "answers GET / with 'HTTP/1.1 503 Service Unavailable'" in said


async def test_what_is_not_there_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    said = await fails(PEERS["node"], "h2")
    assert said.startswith("Node http2 cannot be started: ")


async def test_a_log_does_not_say_where_things_lie() -> None:
    paths = f"{__file__!r}, {pytest.__file__!r}, CERT"
    async with serving(Made(f"print({paths}, flush=True)\n" + ANSWER), "http/1.1") as server:
        ours, python, cert, *_ = server.output.split()
    assert ours == "tests/benchmarks/test_servers.py"
    assert python.startswith("lib")
    assert cert == "cert.pem"


@dataclass
class Robbed(Peer):
    """A server whose port is taken the first time, between its choice and its use."""

    peer: Peer
    taken: socket.socket | None = None
    attempts: int = 0

    def __post_init__(self) -> None:
        self.name, self.title, self.install = self.peer.name, self.peer.title, self.peer.install

    def version(self) -> str | None:
        return self.peer.version()

    def command(self, setup: Setup) -> list[str]:
        self.attempts += 1
        if self.taken is None:
            self.taken = socket.socket()
            self.taken.bind((setup.host, setup.port))
            self.taken.listen()
        return self.peer.command(setup)


@pytest.mark.parametrize("name", PEERS)
async def test_a_port_that_was_taken_is_no_failure(name: str) -> None:
    peer = Robbed(PEERS[name])
    if peer.version() is None:
        pytest.skip(peer.install)
    try:
        async with serving(peer, "h2") as server:
            assert peer.taken is not None
            assert server.port != peer.taken.getsockname()[1]
            assert peer.attempts == 2
    finally:
        if peer.taken is not None:
            peer.taken.close()


# -- what it uses, and its end


@asynccontextmanager
async def family() -> AsyncIterator[Server]:
    async with serving(Made(FAMILY + ANSWER), "http/1.1") as server:
        yield server


async def test_usage_is_that_of_threads_and_children_too() -> None:
    async with family() as server:
        usage = server.usage()
        connection = await trio.open_tcp_stream(server.host, server.port)
        async with connection:
            later = server.usage()
    # An ended child, a thread, a living child; the kernel counts in ticks of 10 ms.
    assert usage.cpu_seconds > 3 * BURN_SECONDS - 0.05
    assert usage.cpu_seconds == usage.user_seconds + usage.system_seconds
    assert usage.processes == 2
    assert HELD_BYTES < usage.pss_bytes < 4 * HELD_BYTES
    assert usage.descriptors >= 2 * 3
    assert later.cpu_seconds >= usage.cpu_seconds


async def test_memory_of_sockets_is_what_the_kernel_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(Made(ANSWER), "http/1.1") as server:
        real = servers._SOCKSTAT.read_text()
        told = tmp_path / "sockstat"
        told.write_text(re.sub(r"(TCP: .* mem) \d+", r"\1 1234", real))
        monkeypatch.setattr(servers, "_SOCKSTAT", told)
        assert server.usage().socket_bytes == 1234 * resource.getpagesize()


async def test_a_connection_is_a_descriptor() -> None:
    async with serving(PEERS["h2sse"], "h2") as server:
        before = server.usage().descriptors
        async with await servers._connect(server, ["h2"]):
            assert server.usage().descriptors == before + 1


async def test_children_that_do_not_listen_end_with_their_server() -> None:
    async with family() as server:
        pids = {each.pid for each in servers._processes(server.pid)}
    assert len(pids) == 2
    assert not list(servers._processes(server.pid))
    assert not any(map(is_alive, pids))


async def test_a_server_ends_with_a_block_that_is_cancelled() -> None:
    with trio.CancelScope() as scope:
        async with serving(Made(ANSWER), "http/1.1") as server:
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert not server.alive


async def test_one_that_dies_while_it_is_measured_is_seen() -> None:
    async with serving(Made(ANSWER), "http/1.1") as server:
        os.kill(server.pid, 9)
        await server._process.wait()
        assert not server.alive
        assert server.ending == "killed by SIGKILL"
        assert server.usage().processes == 0


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
