"""One request and what comes back, whichever protocol carries it.

`Head`, `Data`, `Ended` and `Lost` are what a wire (http1.py, http2.py) says of a stream, in this
order; an `Exchange` (connection.py) is the same for one reader who waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, final

from h2sse.wire import Fields

__all__ = ["Data", "Ended", "Exchange", "Head", "Lost", "NetworkError", "StreamEvent"]


@final
@dataclass(frozen=True, slots=True)
class Head:
    """The header section of a final response, well formed."""

    stream: int
    status: int
    fields: Fields


@final
@dataclass(frozen=True, slots=True)
class Data:
    """Some of the body."""

    stream: int
    data: bytes


@final
@dataclass(frozen=True, slots=True)
class Ended:
    """The body is whole."""

    stream: int


@final
@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing more will come, and the response was not whole.

    `unprocessed`: the server has certainly not acted on the request (RFC 9113 8.7).
    """

    stream: int
    reason: str
    unprocessed: bool = False


StreamEvent: TypeAlias = Head | Data | Ended | Lost


@final
class NetworkError(Exception):
    """What Fetch calls a network error: no response, or no more of it.  Never leaves the client."""

    def __init__(self, reason: str, *, unprocessed: bool = False) -> None:
        super().__init__(reason)
        self.unprocessed = unprocessed


class Exchange(Protocol):
    """One request on its way.  A single task reads it; `cancel` may come from any."""

    async def wait_head(self) -> Head:
        """The response's head.  Raises NetworkError, also when it takes too long."""

    async def receive(self) -> bytes:
        """More of the body.  Raises NetworkError at its end, for whatever reason it ends.

        Asking for more says that what was received before has been read: its window is given back.
        """

    def cancel(self) -> None:
        """Be done with it: RST_STREAM with CANCEL, or the end of an HTTP/1.1 connection."""
