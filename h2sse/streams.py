"""The requests of one connection, and what became of each: an answer, a call, a tab.

A request is decided on (app.py) and answered at once, unless its handler is to be awaited, which
takes a task with a deadline, or it is an event stream, which takes a place in the hub.  Both are
kept by stream, so that whatever ends a stream (its client, its wire, we) ends what stands behind
it; the connection, which reads and writes, knows neither.
"""

from __future__ import annotations

import inspect
import logging
import random
from typing import TYPE_CHECKING, assert_never, final

import trio

from .app import STREAM_FIELDS, Announce, Call, Reply, Stream
from .hub import Subscribe, spread
from .outcomes import announced, called, failed, too_late
from .overflow import GAP_EVENT
from .sse import MAX_RETRY_MS, opening

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .app import Decision
    from .connection import Connection
    from .hub import Tab
    from .server import Server
    from .wire import Fields, Request, Wire

__all__ = ["Streams"]

logger = logging.getLogger(__name__)


@final
class Streams:
    """Those of one connection, which is handed in each time: kept here, the two would be a cycle,
    and its memory would wait for the collector.
    """

    __slots__ = ("_calls", "_server", "_tabs")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._tabs: dict[int, Tab] = {}
        self._calls: dict[int, trio.CancelScope] = {}

    @property
    def tabs(self) -> int:
        """How many event streams are open."""
        return len(self._tabs)

    @property
    def calls(self) -> int:
        """How many handlers are awaited."""
        return len(self._calls)

    # -- in

    def serve(self, connection: Connection, request: Request) -> None:
        """A whole request has come."""
        app = self._server.app
        decision = app.decide(request, self._server.config.cors_origins)
        if isinstance(decision, Call):
            self._call(connection, request, decision)
        else:
            self._carry_out(connection, request, decision)
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "%s %s %s over %s, connection %d stream %d",
                connection.peer,
                request.method,
                request.path,
                request.protocol,
                connection.number,
                request.stream,
            )

    def drained(self, stream: int) -> None:
        """All that its tab was sent is on its way."""
        tab = self._tabs.get(stream)
        if tab is not None:
            app = self._server.app
            app.hub.resume(tab, app.clock())

    def _call(self, connection: Connection, request: Request, call: Call) -> None:
        outcome = called(self._server.app, request, call)
        if inspect.isawaitable(outcome):
            self._calls[request.stream] = trio.CancelScope()
            self._server.spawn(connection, self._await, connection, request, outcome, call.fields)
        else:
            self._carry_out(connection, request, outcome)

    async def _await(
        self,
        connection: Connection,
        request: Request,
        outcome: Awaitable[Decision],
        fields: Fields,
    ) -> None:
        limits = self._server.limits
        scope = self._calls[request.stream]
        scope.deadline = trio.current_time() + limits.handler_seconds
        decision = too_late(limits, fields)
        with scope:
            decision = await outcome
        if self._calls.pop(request.stream, None) is None:
            return  # the client has left meanwhile
        self._carry_out(connection, request, decision)
        connection.answered()

    def _carry_out(self, connection: Connection, request: Request, decision: Decision) -> None:
        match decision:
            case Reply(response):
                assert connection.wire is not None
                connection.wire.respond(request.stream, response, head=request.method == "HEAD")
            case Announce():
                self._carry_out(connection, request, announced(self._server.app, decision))
            case Stream(subscribe, last_event_id, fields):
                self._open(connection, request, subscribe, last_event_id, fields)
            case Call():
                raise AssertionError("a call's conclusion is never a call")
            case _:
                assert_never(decision)

    def _open(
        self,
        connection: Connection,
        request: Request,
        subscribe: Subscribe,
        last_event_id: str,
        fields: Fields,
    ) -> None:
        wire, stream = connection.wire, request.stream
        assert wire is not None
        app, config = self._server.app, self._server.config
        now = app.clock()
        retry = subscribe.retry or spread(config.retry_ms, config.retry_spread)
        try:
            joining = app.hub.join(
                connection, stream, subscribe, last_event_id=last_event_id, retry=retry, now=now
            )
        except Exception as error:  # noqa: BLE001 - the greeting is the application's
            self._carry_out(connection, request, failed(app, request, error, fields))
            return
        all_fields = (*STREAM_FIELDS, *subscribe.fields, *fields)
        if joining.gap is not None:
            all_fields += ((GAP_EVENT.encode(), joining.gap.encode()),)
        wire.open(stream, all_fields, joining.first)
        self._tabs[stream] = joining.tab
        app.hub.resume(joining.tab, now)
        app.hub.arrive(joining.tab)

    # -- out

    def leave(self, stream: int) -> None:
        """The stream is over: its handler is cancelled, its tab leaves the hub."""
        scope = self._calls.pop(stream, None)
        if scope is not None:
            scope.cancel()
        tab = self._tabs.pop(stream, None)
        if tab is not None:
            self._server.app.hub.leave(tab)

    def leave_all(self) -> None:
        """All are over."""
        for stream in [*self._tabs, *self._calls]:
            self.leave(stream)

    def end_tabs(self, wire: Wire, later: float) -> None:
        """End the event streams well.

        Their tabs are told to come back `later` seconds after their usual time, and apart.
        """
        config = self._server.config
        span = len(self._tabs) / self._server.limits.returns_per_second
        for stream in list(self._tabs):
            wait = later + span * random.random()  # noqa: S311 - not a secret
            retry = spread(config.retry_ms, config.retry_spread) + round(1000 * wait)
            wire.send(stream, opening(retry=min(retry, MAX_RETRY_MS)))
            self.leave(stream)
            wire.finish(stream)
