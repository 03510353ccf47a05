from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import final

import pytest
import trio
from support import Served, serving

import h2sse

# A process that starts, asks and ends takes a tenth of this on a busy machine.
TOOL_SECONDS = 30


@final
@dataclass(frozen=True)
class Ended:
    """What a process left behind."""

    code: int
    out: str
    err: str


@final
@dataclass
class Running:
    """A process that runs; `text` is what it has written so far, to stdout and stderr."""

    process: trio.Process
    text: str = ""
    _raw: bytearray = field(default_factory=bytearray)

    async def read_until(self, done: Callable[[str], bool]) -> None:
        """Read what it writes until `done(text)`, which it must come to before it ends."""
        assert self.process.stdout is not None
        with trio.fail_after(TOOL_SECONDS):
            while not done(self.text):
                data = await self.process.stdout.receive_some()
                assert data, f"it ended with {await self.process.wait()} after {self.text}"
                self._take(data)

    async def wait(self) -> int:
        """Read to its end; its exit code."""
        assert self.process.stdout is not None
        with trio.fail_after(TOOL_SECONDS):
            async for data in self.process.stdout:
                self._take(data)
            return await self.process.wait()

    def _take(self, data: bytes | bytearray) -> None:
        self._raw += data
        self.text = self._raw.decode(errors="replace")


@final
@dataclass(frozen=True)
class Tool:
    """A program and the arguments it always gets."""

    command: tuple[str, ...]

    async def run(self, *arguments: str, stdin: bytes = b"") -> Ended:
        """Run it to its end."""
        with trio.fail_after(TOOL_SECONDS):
            done = await trio.run_process(
                (*self.command, *arguments),
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    @asynccontextmanager
    async def start(self, *arguments: str) -> AsyncIterator[Running]:
        """Run it for as long as the block, at the most."""
        process = await trio.lowlevel.open_process(
            (*self.command, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        async with process.stdout:
            try:
                yield Running(process)
            finally:
                with trio.CancelScope(shield=True):
                    process.kill()
                    await process.wait()


def find(name: str, package: str) -> str:
    """The path of a program; skips the test without it, and fails it in CI."""
    path = shutil.which(name)
    if path is not None:
        return path
    reason = f"needs {name}: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


async def wait_for_tabs(served: Served, topic: str, count: int) -> None:
    """Wait until a topic has so many tabs."""
    changed = trio.Event()
    served.app.presence(topic)(lambda _: changed.set())
    with trio.fail_after(TOOL_SECONDS):
        while len(served.app.tabs(topic)) != count:
            await changed.wait()
            changed = trio.Event()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """The server of `h2sse serve`, as it comes."""
    async with serving(h2sse.App(), cors_origins=("https://app.example",)) as served:
        yield served


@pytest.fixture
def curl(served: Served) -> Tool:
    """curl, that trusts the server's CA: unbuffered, silent but for errors."""
    options = ("-q", "-sS", "-N", "--noproxy", "*", "--cacert", str(served.ca))
    return Tool((find("curl", "curl"), *options))


@pytest.fixture
def nghttp() -> Tool:
    return Tool((find("nghttp", "nghttp2-client"), "--no-verify-peer"))


@pytest.fixture
def h2load() -> Tool:
    return Tool((find("h2load", "nghttp2-client"),))
