"""An event source: messages from any SSE endpoint, over HTTP/2 or HTTP/1.1, until you stop.

    async with h2sse.Client(ca_file="certs/ca.pem") as client:
        async with client.events("https://localhost:8443/events?topic=a") as source:
            async for message in source:
                ...

It is the HTML Standard's EventSource (9.2) on trio.  What the standard retries is retried, from the
last event ID on, and logged (`h2sse.client`); what it ends, ends: a 204 ends the iteration, and any
other answer that is no event stream raises `SourceFailed`.

The algorithm is source.py, the protocols http2.py and http1.py, all three sans-IO; connection.py
shares connections.  A source has no task of its own: it moves when its reader asks for a message,
so a reader that does not ask leaves its stream's window closed, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from os import PathLike
from types import TracebackType
from typing import assert_never, final

import trio

from h2sse.errors import LocalError
from h2sse.sse import Message
from h2sse.trace import Taps

from .connection import Pool
from .exchange import Exchange, Head, NetworkError
from .limits import ClientLimits
from .source import (
    Failed,
    Finished,
    Headers,
    Opened,
    ReadyState,
    Redirected,
    Source,
    SourceFailed,
    read_headers,
)

__all__ = ["Client", "ClientLimits", "EventSource", "ReadyState", "SourceFailed"]

logger = logging.getLogger(__name__)


@final
class Client:
    """A pool of connections: its sources to one origin share one HTTP/2 connection.

    `ca_file` holds the only authorities to trust (PEM); without it, the system's are.  With
    `verify=False` any certificate is taken: whoever stands in between can read and change all.
    `headers` go with every request; those of credentials only to the origin that a source was
    given.  `taps` are told of every byte (h2sse.trace).

    Raises ConfigError for a bad header or `ca_file`.
    """

    def __init__(
        self,
        *,
        ca_file: str | PathLike[str] | None = None,
        verify: bool = True,
        headers: Headers = (),
        limits: ClientLimits | None = None,
        taps: Taps | None = None,
    ) -> None:
        self.limits = limits or ClientLimits()
        self._ca_file = ca_file
        self._verify = verify
        self._taps = taps
        self._headers = _pairs(headers)
        read_headers(self._headers)
        self._running: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None
        self._pool: Pool | None = None
        self._sources: set[EventSource] = set()

    def events(
        self,
        url: str,
        *,
        headers: Headers = (),
        last_event_id: str = "",
        http1: bool = False,
    ) -> EventSource:
        """An event source over this client's connections; see `EventSource`."""
        return EventSource(
            url,
            headers=(*self._headers, *_pairs(headers)),
            last_event_id=last_event_id,
            http1=http1,
            client=self,
        )

    async def __aenter__(self) -> Client:
        if self._running is not None:
            raise LocalError("a Client can be entered once only")
        running = self._running = trio.open_nursery()
        self._nursery = await running.__aenter__()
        try:
            self._pool = Pool(
                self._nursery, self.limits, self._ca_file, verify=self._verify, taps=self._taps
            )
        except BaseException:
            await running.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._running is not None
        assert self._nursery is not None
        assert self._pool is not None
        for source in list(self._sources):
            source.close()
        with trio.CancelScope(shield=True):
            # Bounded by the connections' own write_seconds and linger_seconds.
            await self._pool.aclose()
        self._pool = None
        self._nursery.cancel_scope.cancel()
        # Not told of `error`, which the nursery would hand on in an exception group.
        await self._running.__aexit__(None, None, None)


@final
class EventSource:
    """Messages from `url`, across reconnections, each once and in order if the server gives ids.

    `headers` go with every request; `last_event_id` is where to begin; `http1` does without
    HTTP/2.  Without `client` it has one of its own, with `ca_file`, `verify` and `limits`.

    Read it with `async for`, in one task at a time.  Cancelling that task loses no message: reading
    can go on.  The iteration ends after a 204 or `close()`, and raises SourceFailed when the
    standard has the source fail: for a status other than 200, 204 and redirects, for a Content-Type
    other than text/event-stream, and where trying again would be futile.

    Raises ConfigError for a URL that is not https, or a bad header or last event ID.
    """

    CONNECTING = ReadyState.CONNECTING
    OPEN = ReadyState.OPEN
    CLOSED = ReadyState.CLOSED

    def __init__(
        self,
        url: str,
        *,
        headers: Headers = (),
        last_event_id: str = "",
        http1: bool = False,
        ca_file: str | PathLike[str] | None = None,
        verify: bool = True,
        limits: ClientLimits | None = None,
        client: Client | None = None,
    ) -> None:
        if client is not None and (ca_file is not None or not verify or limits is not None):
            raise LocalError("ca_file, verify and limits are the client's")
        self._client = client or Client(ca_file=ca_file, verify=verify, limits=limits)
        self._owns_client = client is None
        self._source = Source(
            url, headers=headers, last_event_id=last_event_id, limits=self._client.limits
        )
        self._http1 = http1
        self._exchange: Exchange | None = None
        self._step: trio.CancelScope | None = None

    @property
    def url(self) -> str:
        """As it was given, for ever (HTML 9.2.2)."""
        return self._source.url

    @property
    def current_url(self) -> str:
        """Where the next request goes: the end of the redirects so far."""
        return self._source.target.url

    @property
    def ready_state(self) -> ReadyState:
        """CONNECTING, also while it waits to reconnect; OPEN; CLOSED, for good."""
        return self._source.state

    @property
    def reconnection_time(self) -> float:
        """How long to wait before coming back, in seconds: what the server said last, else ours."""
        return self._source.reconnection_time

    @property
    def last_event_id(self) -> str:
        """Where to begin to miss nothing after the last message that was read."""
        return self._source.last_event_id

    async def __aenter__(self) -> EventSource:
        if self._owns_client:
            await self._client.__aenter__()
        self._client._sources.add(self)  # noqa: SLF001 - the two are one module's
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if self._owns_client:
            await self._client.__aexit__(kind, error, traceback)

    def close(self) -> None:
        """EventSource.close(): CLOSED at once, messages not read are dropped.

        Over HTTP/2 the stream is reset with CANCEL and the connection goes on.  Whoever waits for a
        message sees the iteration end.
        """
        self._source.close()
        self._client._sources.discard(self)  # noqa: SLF001 - as above
        self._abandon()
        if self._step is not None:
            self._step.cancel()

    async def aclose(self) -> None:
        """`close()`, as an async generator has it; the `async with` block does it, too."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> EventSource:
        return self

    async def __anext__(self) -> Message:
        source = self._source
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            if source.state is ReadyState.CLOSED:
                raise StopAsyncIteration
            try:
                message = source.take()
            except NetworkError as error:
                self._drop(error)
                continue
            except SourceFailed:
                self.close()
                raise
            if message is not None:
                return message
            await self._advance()

    async def wait_open(self) -> None:
        """Wait until the source is OPEN, or CLOSED by a 204.  Raises SourceFailed."""
        while self._source.state is ReadyState.CONNECTING:
            await self._advance()

    # -- one step

    @property
    def _closed(self) -> bool:
        # `close` comes from other tasks: it cancels the step, which may have what it waited for.
        return self._source.state is ReadyState.CLOSED

    async def _advance(self) -> None:
        """Ask, or be answered, or read, or be dropped; cancelled, it can be taken again."""
        if self._step is not None:
            raise trio.BusyResourceError("another task is reading this source")
        source = self._source
        with trio.CancelScope() as self._step:
            try:
                if self._exchange is None:
                    await self._ask()
                elif source.state is ReadyState.CONNECTING:
                    head = await self._exchange.wait_head()
                    if not self._closed:
                        self._answered(head)
                else:
                    source.receive(await self._exchange.receive())
            except NetworkError as error:
                if not self._closed:
                    self._drop(error)
            except SourceFailed:
                self.close()
                raise
            finally:
                self._step = None

    async def _ask(self) -> None:
        source, pool = self._source, self._client._pool  # noqa: SLF001 - as above
        if pool is None:
            raise LocalError("an event source works inside of its `async with` block only")
        if source.due is not None:
            await trio.sleep_until(source.due)
            source.due = None
        self._exchange = await pool.request(source.target, source.request(), http1=self._http1)
        if self._closed:
            self._abandon()

    def _answered(self, head: Head) -> None:
        verdict = self._source.answer(head)
        match verdict:
            case Opened():
                logger.info("%s: open", self.current_url)
            case Redirected():
                self._abandon()
                logger.info("redirected to %s by a %d", self.current_url, head.status)
            case Finished():
                logger.info("%s: answered 204, which ends the source", self.current_url)
                self.close()
            case Failed(error):
                raise error
            case _:
                assert_never(verdict)

    def _drop(self, error: NetworkError) -> None:
        self._abandon()
        now = trio.current_time()
        due = self._source.drop(now, unprocessed=error.unprocessed)
        if due > now:
            logger.info("%s: %s; again in %.1f s", self.current_url, error, due - now)
        else:
            logger.info("%s: %s; again at once", self.current_url, error)

    def _abandon(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()


def _pairs(headers: Headers) -> tuple[tuple[str, str], ...]:
    return tuple(headers.items() if isinstance(headers, Mapping) else headers)
