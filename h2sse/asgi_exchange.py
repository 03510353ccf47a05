"""One ASGI request and its answer: what connection.py is to a connection.

If the answer is an event stream, the exchange is the hub's `Sink` and its `Lane`, and the request's
own task hands over what is offered to it; a second task waits in `receive` for the client to leave.
"""

from __future__ import annotations

import bisect
import inspect
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVarTuple, assert_never, final

import anyio
import anyio.lowlevel

from .app import STREAM_FIELDS, Announce, Call, Reply, Stream
from .asgi_requests import Left, Receive, Scope, read_request
from .errors import RemoteError
from .hub import spread
from .outcomes import announced, called, failed, too_late
from .overflow import GAP_EVENT
from .sse import HEARTBEAT, opening
from .wire import BEHIND, end_to_end, problem, to_send

if TYPE_CHECKING:
    from .app import Decision
    from .asgi import ASGI
    from .hub import Group, Tab
    from .wire import Fields, Lane, Overflow, ProtocolName, Request, Response

__all__ = ["Client", "Exchange", "Send"]

logger = logging.getLogger(__name__)

Send: TypeAlias = Callable[[Any], Awaitable[None]]
_Args = TypeVarTuple("_Args")

# A message to the server: it may wait `stall_seconds` with it, so this bounds how slow is stalled.
_PIECE_BYTES = 64 * 1024

_LEFT: Mapping[str, Any] = {"type": "http.disconnect"}
_END = {"type": "http.response.body", "body": b"", "more_body": False}


@final
@dataclass(slots=True, eq=False)
class Client:
    """A connection, as far as ASGI lets one guess: an address and port with requests open."""

    number: int
    protocol: ProtocolName
    requests: int = 0


@final
class Exchange:
    """One request and its answer; if that is an event stream, the hub's `Sink` and its `Lane`."""

    __slots__ = (
        "_backlog",
        "_begun",
        "_behind",
        "_blocked",
        "_bound",
        "_ending",
        "_gone",
        "_live",
        "_noted",
        "_overflow",
        "_receive",
        "_scope",
        "_send",
        "_sending",
        "_server",
        "_tab",
        "_waiting",
        "_woken",
        "groups",
        "number",
        "peer",
        "protocol",
        "streams",
    )

    def __init__(
        self, server: ASGI, client: Client, peer: str, receive: Receive, send: Send
    ) -> None:
        self.number = client.number
        self.protocol = client.protocol
        self.peer = peer
        self.groups: dict[frozenset[str], Group] = {}
        self.streams = False  # whether the answer is an event stream
        self._server = server
        self._receive = receive
        self._send = send
        self._scope: anyio.CancelScope | None = None
        self._tab: Tab | None = None
        self._gone = False  # the client has left: there is nobody to say anything to
        self._ending = False  # nothing more is taken to be sent
        self._live = False  # it has seen all that it missed
        self._behind = False  # it has not begun to hand over what is waiting
        self._sending = False
        self._blocked = 0  # ticks that one `send` has taken
        # Payloads for the stream, whether a part of the first has been sent, their bytes, and how
        # many they may be: past it the stream ends, or `_overflow` makes room.
        self._waiting: list[bytes] = []
        self._begun = False
        self._backlog = 0
        self._noted = False  # whether the ledger knows of them
        self._bound = server.limits.tab_backlog_bytes
        self._overflow: Overflow | None = None
        self._woken: anyio.Event | None = None

    # -- life

    async def run(self, scope: Scope) -> None:
        """Serve the request to its end.  Raises nothing but cancellation."""
        server = self._server
        try:
            # Cancelled when the client takes nothing of the answer.
            with anyio.CancelScope() as self._scope:
                await self._serve(scope)
        except Exception:
            logger.exception("a request over connection %d failed", self.number)
        finally:
            self._leave()
        if self.streams and not self._gone:
            # Servers may wait here until all that came before is out.
            with anyio.move_on_after(server.limits.linger_seconds):
                await self._say(_END)

    def tick(self) -> None:
        """A second has passed."""
        server = self._server
        if self._sending:
            self._blocked += 1
            assert self._scope is not None
            # It may be cancelled to no avail: Hypercorn shields its writing from that.
            stalls = self._blocked > server.limits.stall_seconds
            if stalls and not self._scope.cancel_called:
                server.counts["resets_sent"] += 1
                server.reasons["took nothing for stall_seconds"] += 1
                self._scope.cancel()
        server.app.ledger.relieve(server.limits.total_backlog_bytes)
        if self._ending:
            self._leave()  # at its bound, while its client takes nothing
        for group in self.groups.values():
            group.quiet += 1
            if group.quiet >= server.config.heartbeat_seconds:
                group.quiet = 0
                self.offer(HEARTBEAT)
                self.offered()

    def _leave(self) -> None:
        """The stream is over: its tab leaves the hub."""
        self._ending = True
        self._settle()
        if self._noted:
            self._noted = False
            self._server.app.ledger.note(self, 0)
        tab, self._tab = self._tab, None
        if tab is not None:
            self._server.app.hub.leave(tab)

    async def _watched(self, task: Callable[[*_Args], Awaitable[None]], *args: *_Args) -> None:
        """Do it unless the client leaves first."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, group.cancel_scope)
            await task(*args)
            group.cancel_scope.cancel()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        while (await self._hear())["type"] != "http.disconnect":
            await anyio.lowlevel.checkpoint()  # a server that repeats itself must not hold the loop
        if self.streams:
            self._server.counts["resets_received"] += 1
        self._gone = True
        self._leave()
        scope.cancel()

    # -- the server's two functions

    async def _hear(self) -> Mapping[str, Any]:
        try:
            return await self._receive()
        except Exception as error:  # noqa: BLE001 - servers raise what they like
            self._lost(error)
            return _LEFT

    async def _say(self, message: Mapping[str, object]) -> None:
        if self._gone:
            return
        self._blocked = 0
        self._sending = True
        try:
            await self._send(message)
        except Exception as error:  # noqa: BLE001 - an OSError by ASGI 2.4, before that anything
            self._gone = True
            self._lost(error)
        finally:
            self._sending = False

    def _lost(self, error: Exception) -> None:
        self._server.reasons[f"the ASGI server raised {type(error).__name__}"] += 1
        logger.debug("connection %d: the server takes no more", self.number, exc_info=error)

    # -- the request

    async def _serve(self, scope: Scope) -> None:
        server = self._server
        if not server.running:
            text = "the server has not begun this application's lifespan, or has ended it"
            logger.error("%s", text)
            await self._respond(problem(503, text), head=scope["method"] == "HEAD")
            return
        try:
            request = await read_request(
                scope,
                self._hear,
                server.limits,
                server.counts,
                protocol=self.protocol,
                connection=self.number,
                peer=self.peer,
            )
        except Left:
            return
        except RemoteError as error:
            await self._refuse(error, head=scope["method"] == "HEAD")
            return
        server.counts["requests"] += 1
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "%s %s %s over %s, connection %d",
                self.peer,
                request.method,
                request.path,
                request.protocol,
                self.number,
            )
        decision = server.app.decide(request, server.config.cors_origins)
        if isinstance(decision, Call):
            outcome = called(server.app, request, decision)
            if inspect.isawaitable(outcome):
                await self._watched(self._await, request, outcome, decision.fields)
                return
            decision = outcome
        if isinstance(decision, Stream):
            await self._watched(self._carry_out, request, decision)
        else:
            await self._carry_out(request, decision)

    async def _await(self, request: Request, outcome: Awaitable[Decision], fields: Fields) -> None:
        limits = self._server.limits
        decision = too_late(limits, fields)
        with anyio.move_on_after(limits.handler_seconds):
            decision = await outcome
        await self._carry_out(request, decision)

    async def _carry_out(self, request: Request, decision: Decision) -> None:
        match decision:
            case Reply(response):
                await self._respond(response, head=request.method == "HEAD")
            case Announce():
                await self._carry_out(request, announced(self._server.app, decision))
            case Stream():
                await self._stream(request, decision)
            case Call():
                raise AssertionError("a call's conclusion is never a call")
            case _:
                assert_never(decision)

    # -- answers

    async def _start(self, status: int, fields: Fields) -> None:
        headers = [(name, value) for name, value in fields]
        await self._say({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, data: bytes, *, more: bool) -> None:
        self._server.counts["bytes_sent"] += len(data)
        await self._say({"type": "http.response.body", "body": data, "more_body": more})

    async def _respond(self, response: Response, *, head: bool = False, more: bool = False) -> None:
        """Answer with a whole response; with `head`, its fields only; with `more`, not the end."""
        fields, body = to_send(response, head=head)
        await self._start(response.status, fields)
        while len(body) > _PIECE_BYTES:
            await self._body(body[:_PIECE_BYTES], more=True)
            body = body[_PIECE_BYTES:]
        await self._body(body, more=more)

    async def _refuse(self, error: RemoteError, *, head: bool) -> None:
        """Answer a request that could not be read, and read on: its client may still be sending.

        Servers queue the body for us, and some can say no more while that queue is full.
        """
        server = self._server
        server.counts["refused"] += 1
        server.reasons[str(error)] += 1
        async with anyio.create_task_group() as group:
            group.start_soon(self._discard, group.cancel_scope)
            await self._respond(problem(error.status, str(error)), head=head, more=True)
        await self._say(_END)

    async def _discard(self, scope: anyio.CancelScope) -> None:
        with anyio.move_on_after(self._server.limits.linger_seconds):
            while True:
                message = await self._hear()
                if message["type"] == "http.disconnect":
                    self._gone = True
                    scope.cancel()
                    return
                if not message.get("more_body", False):
                    return

    async def _stream(self, request: Request, stream: Stream) -> None:
        server, subscribe = self._server, stream.subscribe
        app, config = server.app, server.config
        now = app.clock()
        retry = subscribe.retry or spread(config.retry_ms, config.retry_spread)
        fields = end_to_end((*STREAM_FIELDS, *subscribe.fields, *stream.fields))
        if server.draining:
            # An EventSource comes back from a stream that ends, and from a 5xx it does not.
            server.counts["refused"] += 1
            self.streams = True
            await self._start(200, fields)
            await self._body(opening(retry=retry), more=True)
            return
        try:
            joining = app.hub.join(
                self, 0, subscribe, last_event_id=stream.last_event_id, retry=retry, now=now
            )
        except Exception as error:  # noqa: BLE001 - the greeting is the application's
            await self._carry_out(request, failed(app, request, error, stream.fields))
            return
        if joining.gap is not None:
            fields.append((GAP_EVENT.encode(), joining.gap.encode()))
        self._tab = joining.tab
        self.streams = True
        self.send(0, joining.first)
        app.hub.resume(joining.tab, now)
        app.hub.arrive(joining.tab)
        await self._start(200, fields)
        await self._feed(joining.tab)

    async def _feed(self, tab: Tab) -> None:
        """Hand over what is waiting, and wait for more, until the stream is to end."""
        app = self._server.app
        while not self._gone:
            if self._waiting:
                self._settle()
                app.ledger.relieve(self._server.limits.total_backlog_bytes)
                await self._body(self._take(), more=True)
            elif self._ending:
                break
            elif self._live:
                self._woken = anyio.Event()
                await self._woken.wait()
            else:
                # Not all servers wait in `send`, and a long history is not to hold the loop.
                await anyio.lowlevel.checkpoint()
                app.hub.resume(tab, app.clock())

    def _take(self) -> bytes:
        """The next `_PIECE_BYTES` at the most of what is waiting."""
        waiting = self._waiting
        if self._backlog <= _PIECE_BYTES:
            data = waiting[0] if len(waiting) == 1 else b"".join(waiting)
            waiting.clear()
            self._begun = False
        elif len(waiting[0]) > _PIECE_BYTES:
            data = waiting[0][:_PIECE_BYTES]
            waiting[0] = waiting[0][_PIECE_BYTES:]
            self._begun = True
        else:
            # Whole events, so that those behind them can still be let go of.
            sizes = itertools.accumulate(map(len, waiting))
            count = bisect.bisect_right(list(sizes), _PIECE_BYTES)
            data = b"".join(waiting[:count])
            del waiting[:count]
            self._begun = False
        self._backlog -= len(data)
        if self._backlog or self._noted:
            self._note()
        return data

    def _note(self) -> None:
        self._noted = self._backlog > 0
        self._server.app.ledger.note(self, self._backlog)

    def _settle(self) -> None:
        if self._behind:
            self._behind = False
            self._server.caught_up()

    # -- Sink, and its Lane

    def lane(self, overflow: Overflow | None = None) -> Lane:
        self._overflow = overflow
        if overflow is not None:
            self._bound = overflow.acts_from(0, self._server.limits.tab_backlog_bytes)
        return self

    def send(self, stream: int, payload: bytes) -> None:  # noqa: ARG002 - there is one
        if not self._ending:
            self._waiting.append(payload)
            self._backlog += len(payload)

    def enter(self, stream: int, lane: Lane) -> None:  # noqa: ARG002 - there is one of each
        self._live = True

    def offer(self, payload: bytes) -> None:
        if self._ending:
            return
        size = len(payload)
        if self._backlog and self._backlog + size > self._bound and not self._make_room(size):
            self._cut(BEHIND)
            return
        self._waiting.append(payload)
        self._backlog += size
        if self._sending:
            self._note()

    def _make_room(self, size: int) -> bool:
        overflow, bound = self._overflow, self._server.limits.tab_backlog_bytes
        if overflow is None:
            return False
        room = overflow.make_room(
            self._waiting, begun=int(self._begun), waits=self._backlog, size=size, bound=bound
        )
        if room is None:
            return False
        self._backlog = room.waits
        self._bound = overflow.acts_from(room.waits + size, bound)
        self._server.app.ledger.lost[overflow.name] += room.lost
        return True

    def _cut(self, reason: str) -> None:
        self._server.counts["overflowed"] += 1
        self._server.reasons[reason] += 1
        self.abort()

    def shed(self, reason: str) -> None:
        """End the stream, without what waits for it."""
        if not self._ending:
            self._cut(reason)

    def abort(self) -> None:
        # The hub is told by whoever wakes first, not here, amid its publishing.
        self._waiting.clear()
        self._backlog = 0
        self._ending = True
        self._note()
        self._wake()

    def offered(self) -> None:
        # Those in `send` still take an earlier event: nobody's latency waits for them.
        if not (self._behind or self._sending):
            self._behind = True
            self._server.fell_behind()
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.set()

    def finish(self) -> None:
        """End the stream well, after what is queued; no other answer."""
        self._ending = True
        self._wake()
