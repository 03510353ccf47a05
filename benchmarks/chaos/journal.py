"""What tabs note, one line each in a file: `TAB ID WHAT DETAIL`.

The file is what a tab knows.  A line is one write of one process, and stays when that is killed; so
what was noted was delivered, and what was read but not noted was not: the next process resumes from
the last id of each tab here.  A process killed in the middle of a write leaves a torn line, which
counts as not noted and is cut off.

    17 5f0c-9 begun a,b              where a tab of these topics begins
    17 5f0c-12 saw 12 830            event number 12, 830 us after it was published
    17 5f0c-13 damaged 13 ...        data that is not what was published
    17 81aa-0 told 5f0c-13 unknown   a gap: what came after 5f0c-13 may be missing
    17 81aa-0 failed answered 503    the source ended for good, which no chaos may bring about
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, cast, final

__all__ = ["Journal", "Note", "What", "begin", "read"]

What: TypeAlias = Literal["begun", "saw", "damaged", "told", "failed"]


@final
class Note(NamedTuple):
    """One line.  `id` is the tab's last event ID from then on."""

    tab: int
    id: str
    what: What
    detail: str

    @property
    def line(self) -> bytes:
        """As it is written."""
        return f"{self.tab} {self.id} {self.what} {self.detail}\n".encode()


def begin(file: Path, notes: Iterable[Note]) -> None:
    """A new journal, with these lines."""
    file.write_bytes(b"".join(note.line for note in notes))


def read(file: Path) -> Iterator[Note]:
    """All whole lines."""
    with file.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            if line[-1] == "\n":
                tab, event_id, what, detail = line[:-1].split(" ", 3)
                yield Note(int(tab), event_id, cast(What, what), detail)


@final
class Journal:
    """A file to go on writing."""

    def __init__(self, file: Path) -> None:
        whole = file.read_bytes().rfind(b"\n") + 1
        os.truncate(file, whole)
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND)

    def add(self, note: Note) -> None:
        """Write one line, now."""
        line = note.line
        if os.write(self._file, line) != len(line):
            raise OSError("the disk is full")
