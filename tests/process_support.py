"""`h2sse serve` in processes of its own, for tests of what only a process can show."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import final

import trio
from support import certificates

from h2sse.tls import development_certificate

__all__ = ["STEP_SECONDS", "Process", "running"]

ROOT = Path(__file__).parents[1]
# How long any step of a process may take on a loaded machine, before a test says that it hangs.
STEP_SECONDS = 60.0


@final
class Process:
    """A server that listens."""

    def __init__(self, process: trio.Process) -> None:
        self.pid = process.pid
        self.port = 0
        self.log = ""  # stderr until now
        self._process = process
        self._output = ""

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def ca(self) -> Path:
        """Whom to trust."""
        return development_certificate(certificates()).ca

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.port}{path}"

    async def secure(self, *protocols: str) -> trio.SSLStream[trio.SocketStream]:
        """A TLS connection to it."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.set_alpn_protocols(protocols)
        with trio.fail_after(STEP_SECONDS):
            stream = await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", self.port, https_compatible=True, ssl_context=context
            )
            try:
                await stream.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        return stream

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def end(self) -> int:
        """Wait for its end; the exit code."""
        with trio.fail_after(STEP_SECONDS):
            return await self._process.wait()

    async def until(self, done: Callable[[], object]) -> None:
        """Wait for what happens outside of this loop."""
        with trio.fail_after(STEP_SECONDS):
            while not done():  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def _read_log(self) -> None:
        assert self._process.stderr is not None
        async for data in self._process.stderr:
            self.log += data.decode()

    async def _read_output(self) -> None:
        assert self._process.stdout is not None
        async for data in self._process.stdout:
            self._output += data.decode()
            if found := re.search(r"^h2sse serves https://\S+:(\d+) ", self._output, re.MULTILINE):
                self.port = int(found[1])


@asynccontextmanager
async def running(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    """`h2sse serve` with these arguments and H2SSE_ settings, listening; killed with the block."""
    inherited = {name: value for name, value in os.environ.items() if "H2SSE_" not in name}
    defaults = {
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "H2SSE_HOST": "127.0.0.1",
        "H2SSE_PORT": "0",
        "H2SSE_TLS_DIRECTORY": str(certificates()),
    }
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "h2sse", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=inherited | defaults | environment,
    )
    made = Process(process)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made._read_log)
        nursery.start_soon(made._read_output)
        try:
            await made.until(lambda: made.port or not made.alive)
            assert made.port, made.log
            yield made
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure = error
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
