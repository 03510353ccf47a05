"""What passes on a connection, in words: the bytes of both directions in, `TraceRecord`s out.

A `Tracer` follows one connection beside its Wire and shares nothing with it, so that it also shows
where the Wire is wrong.  It is sans-IO (`now` is an argument), keeps a bounded amount whatever a
peer sends, and never raises for it: what it cannot read it says so of.

`Taps` is what a server, or a `Client`, is given while something listens: each connection gets a
`Tap`, which hands the records of every read and write on.  Where nothing listens there is none, and
a connection pays one comparison a read and a write.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias, final

from .http1 import Http1Trace
from .http2 import Http2Trace
from .record import TraceRecord

if TYPE_CHECKING:
    from h2sse.wire import ProtocolName

__all__ = ["Listener", "Tap", "Taps", "TraceRecord", "Tracer"]

logger = logging.getLogger(__name__)

Listener: TypeAlias = Callable[[Sequence[TraceRecord]], object]


@final
class Tracer:
    """One connection's trace.

    `number` stands in each record; `client` says that ours is the client's end, so that what is
    sent are requests.  Credentials are left out of the records unless `secrets`.
    """

    __slots__ = ("_began", "_bytes", "_http", "_number", "_protocol")

    def __init__(
        self,
        number: int,
        protocol: ProtocolName,
        *,
        client: bool = False,
        secrets: bool = False,
    ) -> None:
        kind = Http2Trace if protocol == "h2" else Http1Trace
        self._http: Http1Trace | Http2Trace = kind(number, client=client, secrets=secrets)
        self._number = number
        self._protocol = protocol
        self._began = 0.0
        self._bytes = [0, 0]

    @property
    def held(self) -> int:
        """Bytes kept for what is not whole yet."""
        return self._http.held

    def begin(self, peer: str, now: float) -> Sequence[TraceRecord]:
        """The connection stands, with this address at its other end."""
        self._began = now
        name = "HTTP/2" if self._protocol == "h2" else "HTTP/1.1"
        details = (("protocol", self._protocol), ("peer", peer))
        return [self._own(now, "OPEN", f"{name} over TLS with {peer}", details)]

    def received(self, data: bytes, now: float) -> Sequence[TraceRecord]:
        """Bytes came from the peer (b"" at its end of file)."""
        self._bytes[0] += len(data)
        return self._http.take("in", data, now)

    def sent(self, data: bytes, now: float) -> Sequence[TraceRecord]:
        """Bytes went to the peer, in one TLS write."""
        self._bytes[1] += len(data)
        return self._http.take("out", data, now)

    def end(self, now: float) -> Sequence[TraceRecord]:
        """The connection is over."""
        received, sent = self._bytes
        seconds = round(max(0.0, now - self._began), 3)
        details = (("seconds", seconds), ("received", received), ("sent", sent))
        text = f"after {seconds} s; {received} bytes received, {sent} sent"
        return [*self._http.end(), self._own(now, "CLOSE", text, details)]

    def _own(
        self, now: float, kind: str, meaning: str, details: tuple[tuple[str, object], ...]
    ) -> TraceRecord:
        return TraceRecord(
            time=now,
            connection=self._number,
            direction="",
            type=kind,
            meaning=meaning,
            details=details,
        )


@final
class Taps:
    """Those who listen, and a tap for each new connection.  `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.listeners: list[Listener] = []

    def begin(self, number: int, peer: str, protocol: ProtocolName, *, client: bool = False) -> Tap:
        """A connection has chosen its protocol; nothing has passed on it yet.

        `client` says that ours is the client's end.
        """
        return Tap(self, number, peer, protocol, client=client)


@final
class Tap:
    """What a connection tells of its bytes.  Neither a tracer's fault nor a listener's is its."""

    __slots__ = ("_taps", "_tracer")

    def __init__(
        self, taps: Taps, number: int, peer: str, protocol: ProtocolName, *, client: bool
    ) -> None:
        self._taps = taps
        self._tracer: Tracer | None = Tracer(number, protocol, client=client)
        self._tell(self._tracer.begin(peer, taps.clock()))

    def received(self, data: bytes) -> None:
        """These bytes were read (b"" at the end of file)."""
        self._follow(Tracer.received, data)

    def sent(self, data: bytes) -> None:
        """These bytes were written at once."""
        self._follow(Tracer.sent, data)

    def end(self) -> None:
        """The socket is closed.  Safe to call twice."""
        if self._tracer is not None:
            tracer, self._tracer = self._tracer, None
            self._tell(tracer.end(self._taps.clock()))

    def _follow(
        self, take: Callable[[Tracer, bytes, float], Sequence[TraceRecord]], data: bytes
    ) -> None:
        if self._tracer is None:
            return
        try:
            records = take(self._tracer, data, self._taps.clock())
        except Exception:
            self._tracer = None
            logger.exception("the trace of a connection failed and ends here")
        else:
            self._tell(records)

    def _tell(self, records: Sequence[TraceRecord]) -> None:
        if not records:
            return
        for listener in self._taps.listeners:
            try:
                listener(records)
            except Exception:
                logger.exception("a listener of the trace failed")
