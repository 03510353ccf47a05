"""What the request bodies that are not whole yet take together, and who gives way.

Each connection's are bounded (`connection_body_bytes`) and each body is due in time
(`body_seconds`), but thousands of connections could still fill the memory.  Past a bound on all of
them the body that was begun first is refused, then the next, until a part of the bound is free
again: a body that is sent as fast as the network goes is never among the first, where bodies are
held to fill the memory.
"""

from __future__ import annotations

from typing import Protocol, final

from .ledger import Tally

__all__ = ["OVER_TOTAL", "Uploads"]

# Why a body is refused for others' sake.
OVER_TOTAL = "bodies together at total_body_bytes"


class Uploader(Protocol):
    """A connection."""

    @property
    def body_due(self) -> float:
        """When the first of its bodies that are not whole is to be; infinity without any."""

    def refuse_body(self) -> None:
        """Refuse that one, and note what is left."""


@final
class Uploads(Tally[Uploader]):
    """The unfinished bodies of a server's connections."""

    def relieve(self, bound: int) -> None:
        """Refuse those begun first, if they have more than `bound` bytes in all."""
        self._lighten(bound, lambda each: each.body_due, lambda each: each.refuse_body())
