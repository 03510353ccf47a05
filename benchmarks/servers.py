"""A server under test: started fresh, waited for, measured from outside, ended.

Each server is a session of processes (setsid): a master, its workers and whatever they start are
found by the session, not by who is whose parent, so that one whose parent died is counted and ended
too.  What it uses is read from /proc, never asked of it.  Linux only, for that.

A server gets its own folder, a port that was free a moment ago, the harness's one certificate
(ECDSA P-256, so that a handshake costs all the same), and an environment without what could tune it
(NODE_OPTIONS, GOGC, H2SSE_...).  Its stdout and stderr are its log, of which the end is kept.
"""

from __future__ import annotations

import atexit
import itertools
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import final

import trio
import trustme

from .model import ProtocolName, Usage
from .peers import Peer, Setup

__all__ = [
    "Server",
    "ServerFailed",
    "allow_descriptors",
    "make_certificate",
    "serving",
    "start",
]

HOST = "127.0.0.1"

# From its start until it answers.  Python with all of h2sse takes one; a machine under load, five.
START_SECONDS = 30.0
# One question to a server that may still be starting.
ASK_SECONDS = 5.0
# Between two such questions.
AGAIN_SECONDS = 0.02
# From SIGTERM to SIGKILL.  Streams that are still open are the client's to lose.
END_SECONDS = 5.0
# Others on this machine take ports too, and between our choice and its use any may.
PORT_ATTEMPTS = 5

# Of a log; thousands of connections that break off may each have written a line.
_LOG_BYTES = 16 * 1024
_LOG_LINES = 20

# Servers are modules here, and import others (`python -m h2sse`).
_ROOT = Path(__file__).parents[1]
_TICK = os.sysconf("SC_CLK_TCK")
# clock_getcpuclockid(3): what glibc makes of a process number.
_CPUCLOCK_SCHED = 2
_ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH")

_SOCKSTAT = Path("/proc/net/sockstat")

# EADDRINUSE, as libc, Node, Rust and h2sse put it.
_PORT_TAKEN = re.compile(
    r"address (is )?already in use|EADDRINUSE|port \d+ .* is taken", re.IGNORECASE
)

# What no server has a reason to log.
_ERROR = re.compile(r"Traceback|ERROR")

_TEMPORARY = "h2sse-benchmark-"
_LOCAL = re.compile(
    # A virtual environment may lie in the project's folder, so it comes first.
    f"(?:{re.escape(sys.prefix)}|{re.escape(str(_ROOT))}"
    rf"|{re.escape(tempfile.gettempdir())}/{_TEMPORARY}\w+)/"
)


class ServerFailed(Exception):
    """A server did not start, or does not do what it must; says why, with the end of its log."""


class _PortTaken(ServerFailed):
    pass


@final
class Server:
    """A running server.  `cafile` is what its certificate is checked with."""

    def __init__(
        self, peer: Peer, setup: Setup, process: trio.Process, log: Path, cafile: Path
    ) -> None:
        self.peer = peer
        self.protocol: ProtocolName = setup.protocol
        self.host = setup.host
        self.port = setup.port
        self.pid = process.pid
        self.cafile = cafile
        self._process = process
        self._log: Path | None = log
        self._output = self._error = ""

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def ending(self) -> str:
        """How it ended: "exited with 1", "killed by SIGKILL"; "" while it runs."""
        code = self._process.poll()
        if code is None:
            return ""
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"

    @property
    def output(self) -> str:
        """The last lines of its log, also after its end."""
        return self._output if self._log is None else _last_lines(self._log)

    @property
    def error(self) -> str:
        """The lines of its log from the first error on, as many as `output`; "" without one."""
        return self._error if self._log is None else _first_error(self._log)

    def usage(self) -> Usage:
        """What all its processes have used until now.

        CPU time is that of all threads, and of children that have ended.  A process that ends
        while this reads is left out.  `socket_bytes` is the whole machine's: nothing else should
        keep connections busy.
        """
        processes = list(_processes(self.pid))
        return Usage(
            user_seconds=sum(each.user_seconds for each in processes),
            system_seconds=sum(each.system_seconds for each in processes),
            pss_bytes=sum(_pss(each.pid) for each in processes),
            socket_bytes=_socket_bytes(),
            descriptors=sum(_descriptors(each.pid) for each in processes),
            processes=len(processes),
        )

    async def _end(self) -> None:
        """SIGTERM, SIGKILL to what is left after a grace.  The log's end stays."""
        if self.alive:
            self._process.terminate()
        with trio.move_on_after(END_SECONDS):
            await self._process.wait()
        for each in _processes(self.pid):
            await _kill(each.pid)
        await self._process.wait()
        self._output, self._error, self._log = self.output, self.error, None


@asynccontextmanager
async def serving(
    peer: Peer, protocol: ProtocolName, *, max_streams: int = 100_000
) -> AsyncIterator[Server]:
    """A fresh server that has answered a request; it is ended with the block.

    Raises ServerFailed if it cannot be started, ends, or does not answer in half a minute.
    """
    allow_descriptors()
    certificate = make_certificate()
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY) as folder:
        server = await _started(peer, protocol, max_streams, certificate, Path(folder))
        try:
            yield server
        finally:
            with trio.CancelScope(shield=True):
                await server._end()


async def _started(
    peer: Peer, protocol: ProtocolName, max_streams: int, certificate: _Certificate, folder: Path
) -> Server:
    for attempt in range(1, PORT_ATTEMPTS + 1):
        own = folder / str(attempt)
        own.mkdir()
        setup = Setup(
            protocol=protocol,
            host=HOST,
            port=_free_port(),
            cert=certificate.cert,
            key=certificate.key,
            folder=own,
            max_streams=max_streams,
        )
        try:
            return await start(peer, setup, folder / f"{attempt}.log", certificate.ca)
        except _PortTaken:
            if attempt == PORT_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


async def start(peer: Peer, setup: Setup, log: Path, cafile: Path) -> Server:
    try:
        # In a thread: it may compile.
        command = await trio.to_thread.run_sync(peer.command, setup)
        with log.open("wb") as output:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,
            )
    except subprocess.CalledProcessError as error:
        raise ServerFailed(f"{peer.title} cannot be built:\n{error.stderr or error}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerFailed(f"{peer.title} cannot be started: {error}") from error
    server = Server(peer, setup, process, log, cafile)
    try:
        await _wait_answering(server)
    except BaseException:
        with trio.CancelScope(shield=True):
            await server._end()
        raise
    return server


# -- is it there?


async def _wait_answering(server: Server) -> None:
    """Return once it answers as it must.  Raises ServerFailed if it does not, or has ended."""
    wrong: str | None = None
    last: Exception | None = None

    async def give_up_at_its_end() -> None:
        # Another's server may be at this port then, and never say a word.
        await server._process.wait()
        nursery.cancel_scope.cancel()

    with trio.move_on_after(START_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up_at_its_end)
            while wrong is None:
                try:
                    with trio.fail_after(ASK_SECONDS):
                        wrong = await _ask(server)
                except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                    last = error
                    await trio.sleep(AGAIN_SECONDS)
            nursery.cancel_scope.cancel()

    failure: type[ServerFailed] = ServerFailed
    if server.ending:
        what = f"{server.ending} before it answered"
        if _PORT_TAKEN.search(server.output):
            failure = _PortTaken
    elif wrong is None:
        why = (last and last.__cause__) or last
        what = f"did not answer within {START_SECONDS:g} s ({why!r})"
    elif wrong:
        what = wrong
    else:
        return
    raise failure(f"{server.peer.title} {what}\n{server.output}".rstrip())


async def _ask(server: Server) -> str:
    """One request as the publisher will make it, after a handshake as a browser does.

    Returns what is wrong with the answer, "" if nothing is.  Raises OSError, BrokenResourceError or
    TooSlowError while there is none.
    """
    async with await _connect(server, ["h2", "http/1.1"]) as stream:
        chosen = stream.selected_alpn_protocol()
        if chosen != server.protocol:
            return f"chose {chosen} by ALPN, not {server.protocol}"
    async with await _connect(server, ["http/1.1"]) as stream:
        request = f"GET / HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n"
        await stream.send_all(request.encode())
        answer = bytearray()
        # To its end, so that nothing of this is left when the measuring begins.
        async for data in stream:
            answer += data
        if answer.startswith(b"HTTP/1.1 200"):
            return ""
        status = bytes(answer.partition(b"\r\n")[0]).decode("latin-1")
        return f"answers GET / with {status!r}"


async def _connect(server: Server, protocols: list[str]) -> trio.SSLStream[trio.SocketStream]:
    context = ssl.create_default_context(cafile=server.cafile)
    context.set_alpn_protocols(protocols)
    transport = await trio.open_tcp_stream(server.host, server.port)
    # Many servers close without close_notify, in HTTP/1.1 too.
    stream = trio.SSLStream(transport, context, server_hostname=server.host, https_compatible=True)
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(transport)
        raise
    return stream


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def allow_descriptors() -> None:
    """Each connection is one; servers inherit our limit, and not all raise it themselves."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Certificate:
    ca: Path
    cert: Path
    key: Path


@cache
def make_certificate() -> _Certificate:
    """One for all servers of a run; its files are removed when the harness ends."""
    folder = tempfile.TemporaryDirectory(prefix=_TEMPORARY)
    atexit.register(folder.cleanup)
    ca, cert, key = (Path(folder.name) / name for name in ("ca.pem", "cert.pem", "key.pem"))
    authority = trustme.CA()  # its keys are ECDSA P-256
    leaf = authority.issue_cert("localhost", HOST)
    authority.cert_pem.write_to_path(ca)
    leaf.private_key_pem.write_to_path(key)
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(cert, append=True)
    return _Certificate(ca=ca, cert=cert, key=key)


# -- what /proc says


@final
@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    user_seconds: float
    system_seconds: float


def _processes(session: int) -> Iterator[_Process]:
    """The living processes of a session."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        # It may go at any moment; its clock says so with EINVAL, which is an OSError of no name.
        with suppress(OSError):
            # proc_pid_stat(5).  The name, in parentheses, may hold anything; the state follows.
            text = (folder / "stat").read_text(errors="replace")
            state, *fields = text.rpartition(")")[2].split()
            numbers = list(map(int, fields[:14]))
            if numbers[2] == session and state not in "ZX":
                user, system, *children = (ticks / _TICK for ticks in numbers[10:14])
                # A tick is 10 ms, which is 10,000 events; the process's own clock is exact.
                whole = time.clock_gettime(~int(folder.name) << 3 | _CPUCLOCK_SCHED)
                share = user / (user + system) if user + system else 1.0
                yield _Process(
                    pid=int(folder.name),
                    user_seconds=whole * share + children[0],
                    system_seconds=whole * (1 - share) + children[1],
                )


async def _kill(pid: int) -> None:
    """End a process at once, and return when it has ended."""
    try:
        # Not by its number, which may be another's by then.
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        await trio.lowlevel.wait_readable(process)
    finally:
        os.close(process)


def _pss(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _descriptors(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return 0


def _socket_bytes() -> int:
    """What TCP's buffers of all sockets take.

    sockstat counts pages, and each core keeps up to a megabyte to itself before it does: this is
    for thousands of connections.
    """
    found = re.search(r"^TCP: .* mem (\d+)$", _SOCKSTAT.read_text(), re.MULTILINE)
    return int(found[1]) * resource.getpagesize() if found else 0


def _last_lines(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return _published(lines[-_LOG_LINES:])


def _first_error(log: Path) -> str:
    with log.open(encoding="utf-8", errors="replace") as file:
        found = itertools.dropwhile(lambda line: not _ERROR.search(line), file)
        return _published([line.rstrip("\n") for line in itertools.islice(found, _LOG_LINES)])


def _published(lines: list[str]) -> str:
    # Reports are published: where things lie on this machine is nobody's business.
    return _LOCAL.sub("", "\n".join(lines))
