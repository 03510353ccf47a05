"""Where a trace is written: stderr or a file, without ever making the server wait.

Lines go into a bounded buffer, and a thread writes them: a write to a terminal that was stopped
with Ctrl-S, to a pager, or to a slow disk may take any time, and only that thread then waits.  Past
the bound lines are left out, and how many is said in their place.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

import trio

from h2sse.errors import ConfigError

from .record import TraceRecord

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TraceOutput"]

logger = logging.getLogger(__name__)

# What waits for the thread: a second of 5,000 frames, at 200 bytes a line.
_WAITING_BYTES: Final = 1024 * 1024
# After a write that failed: a full disk may have been cleared by then.
_PAUSE_SECONDS: Final = 5.0
# Nobody reads any more, and nobody will.
_NEVER_AGAIN: Final = frozenset((errno.EPIPE, errno.EBADF, errno.EIO))
# For the last lines, when the server has ended.
_LAST_SECONDS: Final = 1.0
# A pipe that is said to be ready takes so much at once (PIPE_BUF).
_READY_BYTES: Final = 4096


@final
class TraceOutput:
    """Lines, or JSON objects, of records: `write` them while `run` runs; `finish` at the end.

    `file` None is stderr.  A file is appended to, and readable by its owner only: it tells what was
    asked for.  Colour is for terminals, unless NO_COLOR is set (no-color.org).  Raises ConfigError
    if the file cannot be opened.
    """

    def __init__(self, file: Path | None = None, *, json: bool = False) -> None:
        self._json = json
        self._name = "stderr" if file is None else str(file)
        if file is None:
            self._fd = sys.stderr.fileno()
        else:
            try:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                self._fd = os.open(file, flags, 0o600)
            except OSError as error:
                raise ConfigError(f"cannot write the trace to {file}: {error.strerror}") from None
        self._colour = (
            not json
            and os.isatty(self._fd)
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._left_out = 0
        self._said = False  # whether a failure was said
        self._over = False  # whether nothing is written any more
        self._broken_off = False  # whether the last write ended within a line
        self._last = _Write(self._fd, b"")  # the thread's
        self._more = trio.Event()
        self._one_thread = trio.CapacityLimiter(1)

    def write(self, records: Sequence[TraceRecord]) -> None:
        """Take these records.  Never waits, never raises."""
        if self._over:
            return
        if self._waiting_bytes > _WAITING_BYTES:
            self._left_out += len(records)
            return
        if self._left_out:
            self._add(self._gap())
        for each in records:
            self._add(each.json() if self._json else each.line(colour=self._colour))
        self._more.set()

    def _gap(self) -> str:
        number, self._left_out = self._left_out, 0
        if self._json:
            return f'{{"type":"LEFT_OUT","records":{number}}}'
        return f"... {number} lines left out: they came faster than they could be written"

    def _add(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        self._waiting.append(data)
        self._waiting_bytes += len(data)

    def _take(self) -> bytes:
        data = b"".join(self._waiting)
        if self._broken_off:
            data = b"\n" + data
            self._broken_off = False
        self._waiting.clear()
        self._waiting_bytes = 0
        return data

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        while not self._over:
            await self._more.wait()
            self._more = trio.Event()
            while self._waiting:
                # Where it is cancelled here, what waits is left to `finish`; from here on the
                # thread has it.
                await trio.lowlevel.checkpoint_if_cancelled()
                await self._put(self._take())

    async def _put(self, data: bytes) -> None:
        self._last = write = _Write(self._fd, data)
        try:
            # At the end, a write that is stuck is left to its thread.
            await trio.to_thread.run_sync(write, abandon_on_cancel=True, limiter=self._one_thread)
        except Exception as error:  # noqa: BLE001 - no thread, no memory: the server's task goes on
            self._left_out += data.count(b"\n", write.written)
            self._broken_off = write.written > 0 and data[write.written - 1] != 0x0A
            await self._pause(error)

    async def _pause(self, error: Exception) -> None:
        self._over = isinstance(error, OSError) and error.errno in _NEVER_AGAIN
        if not self._said:
            self._said = True
            until = "ends" if self._over else "pauses until it can"
            logger.warning("cannot trace to %s: %s; the trace %s", self._name, error, until)
        if self._over:
            self._waiting.clear()
        else:
            # So that lines of now are not written after a hole without a word.
            self._left_out += len(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = _WAITING_BYTES + 1
            await trio.sleep(_PAUSE_SECONDS)
            self._waiting_bytes = 0

    def finish(self) -> None:
        """Write the last lines, as far as they are taken at once.  Call when `run` has ended."""
        deadline = time.monotonic() + _LAST_SECONDS
        while not self._last.over and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._over or not self._last.over:
            return
        if self._left_out:
            self._add(self._gap())
        data = self._take()
        try:
            while data and select.select((), (self._fd,), (), _LAST_SECONDS)[1]:
                data = data[os.write(self._fd, data[:_READY_BYTES]) :]
        except (OSError, ValueError) as error:
            if not self._said:
                logger.warning("cannot trace to %s: %s", self._name, error)
        self._over = True


@final
class _Write:
    """One write, for the thread; `written` says how far it came, also when it then failed."""

    def __init__(self, fd: int, data: bytes) -> None:
        self._fd = fd
        self._data = data
        self.written = 0
        self.over = not data

    def __call__(self) -> None:
        view = memoryview(self._data)
        try:
            while self.written < len(view):
                self.written += os.write(self._fd, view[self.written :])
        finally:
            self.over = True
