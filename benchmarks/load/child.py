"""A process of the load client's, seen from the runner: commands down its stdin, answers back.

Each call has a deadline, and a process that dies fails every call under way with the end of what
it wrote to stderr: `ClientFailed`, never a hang.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar, final

import trio

from .messages import Answer

__all__ = ["Argument", "Child", "ClientFailed", "children"]

Argument: TypeAlias = str | int | float | bool | Sequence[Sequence[int]]
T = TypeVar("T", bound=Answer)

_ROOT = Path(__file__).parents[2]
# How long a process may take to end once its stdin has, and to answer past a command's own time.
GRACE_SECONDS = 10.0
# Of stderr, for the error that says how it ended.
LAST_WORDS_BYTES = 4096
_READ_BYTES = 1 << 20


class ClientFailed(Exception):
    """A process of the load client's died, broke down or did not answer."""


@final
@dataclass(slots=True, eq=False)
class _Call:
    done: trio.Event = field(default_factory=trio.Event)
    answer: Mapping[str, object] | None = None


@final
class Child:
    """One process.  Made by `children`."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._last_words = b""
        self._dead: str | None = None
        self._writing = trio.Lock()

    async def ask(
        self, kind: type[T], command: str, *, seconds: float = 0.0, **arguments: Argument
    ) -> T:
        """Give a command and return its answer, which may take `seconds` and a grace.

        Raises ClientFailed.
        """
        number = next(self._numbers)
        call = self._calls[number] = _Call()
        line = json.dumps({"number": number, "do": command, **arguments}) + "\n"
        try:
            with trio.move_on_after(seconds + GRACE_SECONDS):
                if self._dead is None:
                    assert self._process.stdin is not None
                    with contextlib.suppress(trio.BrokenResourceError):  # `_hear` says why
                        async with self._writing:
                            await self._process.stdin.send_all(line.encode())
                    await call.done.wait()
        finally:
            del self._calls[number]
        if call.answer is not None:
            return kind(**call.answer)  # type: ignore[arg-type] # checked by the other side
        why = self._dead or f"no answer to {command!r} in time"
        raise ClientFailed(f"{self.name}: {why}")

    async def _hear(self) -> None:
        """Hand each answer to its call, until the process is gone."""
        assert self._process.stdout is not None
        rest = b""
        while data := await self._process.stdout.receive_some(_READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                if call := self._calls.get(answer["number"]):
                    call.answer = answer["answer"]
                    call.done.set()
        code = await self._process.wait()
        words = self._last_words.decode(errors="replace").strip()
        self._dead = f"ended with {code}" + (f":\n{words}" if words else "")
        for call in self._calls.values():
            call.done.set()

    async def _hear_words(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.receive_some(_READ_BYTES):
            self._last_words = (self._last_words + data)[-LAST_WORDS_BYTES:]

    async def _end(self) -> None:
        assert self._process.stdin is not None
        with trio.CancelScope(shield=True):
            await self._process.stdin.aclose()
            with trio.move_on_after(GRACE_SECONDS):
                await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()


@asynccontextmanager
async def children(
    module: str, arguments: Sequence[Sequence[str]]
) -> AsyncIterator[tuple[Child, ...]]:
    """Processes of `python -m module`, one for each list of arguments, ended with the block.

    What the block raises comes out as it is, not in an exception group.
    """
    made: list[Child] = []
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            for number, each in enumerate(arguments):
                process = await trio.lowlevel.open_process(
                    [sys.executable, "-m", module, *each],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=_ROOT,
                )
                child = Child(f"{module.rpartition('.')[2]} {number}", process)
                made.append(child)
                nursery.start_soon(child._hear)
                nursery.start_soon(child._hear_words)
            yield tuple(made)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure = error
        async with trio.open_nursery() as ending:
            for child in made:
                ending.start_soon(child._end)
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
