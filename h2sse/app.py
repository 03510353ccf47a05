"""Routes, and the decision on every request.

`App` is what a user of the library makes: a hub, its own routes beside the built-in ones, and
things that run while it is served.  It holds no socket: `serve` (server.py) puts it on one, or on
several.

`App.decide` is where policy lives: methods, CORS, who may post, what a body must be.  It gives a
value (`Reply`, `Stream`, `Announce`, `Call`) and does nothing; the connection acts on it.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, final

from .config import Limits, Topics
from .errors import BadRequest, LocalError
from .history import MemoryHistory
from .hub import Hub, Presence, Subscribe, Tab
from .ledger import Ledger
from .metering import Histogram
from .overflow import GAP_EVENT, OVERFLOWS, OverflowName
from .publishing import Publication, check_id, check_topics, read_publication
from .wire import Request, Response, problem

if TYPE_CHECKING:
    from .history import Entry
    from .sse import Event
    from .wire import Fields

__all__ = [
    "STREAM_FIELDS",
    "Announce",
    "App",
    "Call",
    "Decision",
    "Reply",
    "ServerStatistics",
    "Stream",
    "page_fields",
]

logger = logging.getLogger(__name__)

Result: TypeAlias = Response | Subscribe
Handler: TypeAlias = Callable[[Request], Result | Awaitable[Result]]
_H = TypeVar("_H", bound=Handler)
_B = TypeVar("_B", bound=Callable[[], Awaitable[None]])
_P = TypeVar("_P", bound=Callable[[Presence], object])

# A preflight answer is good for two hours, Chromium's own cap.
_PREFLIGHT_SECONDS = b"7200"

# Query parameters for clients that cannot set Last-Event-ID, such as EventSource's first request.
_RESUME_PARAMETERS = ("lastEventId", "last_event_id")


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """Answer with this response."""

    response: Response


@final
@dataclass(frozen=True, slots=True)
class Stream:
    """Answer with an event stream; `fields` are what CORS adds to it."""

    subscribe: Subscribe
    last_event_id: str
    fields: Fields


@final
@dataclass(frozen=True, slots=True)
class Announce:
    """Publish, then answer with the event's id."""

    publication: Publication
    fields: Fields


@final
@dataclass(frozen=True, slots=True)
class Call:
    """Ask the application's handler; then `App.conclude` its result."""

    handler: Handler
    fields: Fields


Decision: TypeAlias = Reply | Stream | Announce | Call


@final
@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A method of a path: its handler, who may call it from elsewhere, whether it streams."""

    handler: Handler
    cors_origins: tuple[str, ...] | None
    streams: bool


_Route: TypeAlias = dict[str, _Endpoint]


def _allow(route: _Route) -> str:
    methods = [*route, "OPTIONS"]
    if "GET" in route:
        methods.insert(methods.index("GET") + 1, "HEAD")
    return ", ".join(methods)


class Served(Protocol):
    """A server this app is on."""

    @property
    def running(self) -> bool:
        """Whether it may begin new tasks."""

    def run_backgrounds(self) -> None:
        """Take over what the app wants to run."""

    def statistics(self) -> ServerStatistics:
        """The counts of this instant."""


@final
@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """A snapshot of a server's counts; `reasons` says why connections and streams were ended."""

    connections: Mapping[str, int]
    tabs: Mapping[str, int]
    accepted: int
    refused_connections: int
    requests: int
    bytes_sent: int
    bytes_received: int
    resets_received: int
    resets_sent: int
    refused_streams: int
    overflowed: int
    reasons: Mapping[str, int]
    # Of request bodies that are not whole yet.
    unfinished_body_bytes: int = 0
    # Events times tabs that `drop-oldest` and `latest` let go of.
    lost: Mapping[str, int] = field(default_factory=dict)
    # Of PINGs over HTTP/2: seconds to the peer and back.
    round_trips: Histogram = field(default_factory=Histogram)


@final
class App:
    """A push service: a hub and its routes.

    With `builtin` (the default) it answers GET /events, POST /publish, GET /, /healthz and
    /metrics; a route of your own at one of these paths takes its place.  `limits` bounds the
    history and what requests may ask for; `topics` says what happens to slow readers of some.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        topics: Topics | None = None,
        builtin: bool = True,
    ) -> None:
        self.limits = limits if limits is not None else Limits()
        self.ledger = Ledger()
        self.clock: Callable[[], float] = time.monotonic
        self.servers: list[Served] = []
        self.latency = Histogram()
        # Counted over all servers of the app: the number tells one connection from any other.
        self.connection_numbers = itertools.count(1)
        self._oldest_offer: float | None = None
        self.hub = Hub(MemoryHistory(self.limits))
        self.backgrounds: list[Callable[[], Awaitable[None]]] = []
        self._routes: dict[str, _Route] = {}
        self._builtin: dict[str, _Route] = {}
        if topics is not None:
            for topic in topics.drop_oldest:
                self.topic(topic, overflow="drop-oldest")
            for topic in topics.latest:
                self.topic(topic, overflow="latest")
        if builtin:
            from .pages import builtin_routes

            for method, path, handler, streams in builtin_routes(self):
                self._builtin[path] = {method: _Endpoint(handler, None, streams)}

    # -- what an application says

    def publish(self, topics: str | Sequence[str], event: Event) -> Event:
        """Publish to one topic or several, from trio's thread; returns the event with its id.

        Never waits.  Raises BadRequest if a topic's name or the event's id cannot be.
        """
        names = (topics,) if isinstance(topics, str) else topics
        checked = check_topics(names, self.limits)
        if event.id is not None:
            check_id(event.id)
        return replace(event, id=self.announce(Publication(checked, event)).id)

    def topic(self, name: str, *, overflow: OverflowName) -> None:
        """Say what happens to a tab of this topic that reads more slowly than events come.

        "end" (the default) ends its stream at `tab_backlog_bytes`, and it resumes by id.
        "drop-oldest" lets go of the oldest events that wait and puts a "history-gap" event in their
        place.  "latest" keeps the newest of each event name.  A `name` that ends in `*` stands for
        all that begin so and have none longer.  A tab of several topics has the policy of them that
        loses least.  It holds for tabs that come from now on.  Raises LocalError for a policy that
        is none.
        """
        if overflow not in OVERFLOWS:
            raise LocalError(f"overflow must be one of {', '.join(OVERFLOWS)}: {overflow!r}")
        self.hub.overflows.choose(name, overflow)

    def tabs(self, topic: str) -> Sequence[Tab]:
        """The tabs of a topic that are open now, in the order they came."""
        return self.hub.tabs(topic)

    def get(self, path: str, *, cors_origins: Sequence[str] | None = None) -> Callable[[_H], _H]:
        """Register a handler of GET (and HEAD): Request to Response, sync or async."""
        return self._register("GET", path, cors_origins, streams=False)

    def post(self, path: str, *, cors_origins: Sequence[str] | None = None) -> Callable[[_H], _H]:
        """Register a handler of POST: Request to Response, sync or async.

        Pages of other origins may call it only if `cors_origins` (or the configuration) lists them.
        """
        return self._register("POST", path, cors_origins, streams=False)

    def stream(self, path: str, *, cors_origins: Sequence[str] | None = None) -> Callable[[_H], _H]:
        """Register an event stream: Request to Subscribe (or Response), sync or async."""
        return self._register("GET", path, cors_origins, streams=True)

    def page(self, path: str, html: Path | bytes, *, connect: Sequence[str] = ()) -> None:
        """Serve an HTML page with a strict Content-Security-Policy.

        Its inline scripts and styles are allowed by hash, files of this origin too, and nothing
        else; it may connect to this origin and those of `connect`.
        """
        body = html.read_bytes() if isinstance(html, Path) else html
        response = Response(fields=page_fields(body, connect), body=body)
        self._routes.get(path, {}).pop("GET", None)
        self.get(path)(lambda _: response)

    def presence(self, topic: str) -> Callable[[_P], _P]:
        """Register a callback after each coming to and going from a topic.  It must not wait."""

        def register(callback: _P) -> _P:
            self.hub.watch(topic, callback)
            return callback

        return register

    def background(self, task: _B) -> _B:
        """Register an async function that runs while the app is served."""
        self.backgrounds.append(task)
        return task

    def _register(
        self, method: str, path: str, cors_origins: Sequence[str] | None, *, streams: bool
    ) -> Callable[[_H], _H]:
        if not path.startswith("/"):
            raise LocalError(f"a path begins with a slash: {path!r}")
        origins = None if cors_origins is None else tuple(cors_origins)

        def register(handler: _H) -> _H:
            route = self._routes.setdefault(path, {})
            if method in route:
                raise LocalError(f"{method} {path} is registered twice")
            route[method] = _Endpoint(handler, origins, streams)
            return handler

        return register

    # -- what a server says

    def attach(self, server: Served) -> None:
        """A server begins to serve.  Of several the first one runs the backgrounds."""
        self.servers.append(server)
        if len(self.servers) == 1:
            server.run_backgrounds()

    def detach(self, server: Served) -> None:
        """A server has ended; another takes over what was to go on.  Safe to call twice."""
        if server not in self.servers:
            return
        was_first = self.servers[0] is server
        self.servers.remove(server)
        heir = next((each for each in self.servers if each.running), None)
        if was_first and heir is not None:
            self.servers.remove(heir)
            self.servers.insert(0, heir)
            heir.run_backgrounds()

    # -- what a connection asks

    def decide(self, request: Request, cors_origins: Sequence[str]) -> Decision:
        """What to do about a request.  Never raises, never waits, changes nothing."""
        route = self._routes.get(request.path) or self._builtin.get(request.path)
        if route is None:
            if request.path == "*":  # OPTIONS *: the server as a whole (RFC 9110 9.3.7)
                return Reply(Response(status=204, fields=((b"allow", b"GET, HEAD, OPTIONS"),)))
            return Reply(problem(404, f"nothing is at {request.path}"))
        method = request.method
        # A preflight asks for the method that is to follow.
        wanted = request.header("access-control-request-method") if method == "OPTIONS" else method
        endpoint = route.get("GET" if wanted in ("HEAD", None) else wanted)
        allowed = cors_origins
        if endpoint is not None and endpoint.cors_origins is not None:
            allowed = endpoint.cors_origins
        origin = request.header("origin")
        fields = _cors(origin, allowed)
        if method == "OPTIONS":
            return Reply(_preflight(_allow(route), origin if endpoint else None, fields))
        if endpoint is None:
            allow = (b"allow", _allow(route).encode())
            detail = f"{request.path} knows {_allow(route)}"
            return Reply(problem(405, detail, fields=(allow, *fields)))
        if method not in ("GET", "HEAD") and not _may_post(origin, allowed, request):
            # A page of any origin can make a browser send a form; CORS hides the answer only.
            return Reply(
                problem(
                    403,
                    f"pages of {origin} may not post here; list it in cors_origins",
                    field="origin",
                    fields=fields,
                )
            )
        if endpoint.streams and not _accepts_events(request.header("accept")):
            return Reply(problem(406, "this is text/event-stream", field="accept", fields=fields))
        return Call(endpoint.handler, fields)

    def conclude(self, request: Request, result: object, fields: Fields) -> Decision:
        """What a handler's result comes to.  Raises TypeError if it is none."""
        match result:
            case Response():
                return Reply(result.with_fields(*fields))
            case Subscribe():
                if request.method == "HEAD":
                    return Reply(Response(fields=(*STREAM_FIELDS, *result.fields, *fields)))
                return Stream(result, _last_event_id(request), fields)
            case Publication():
                return Announce(result, fields)
            case _:
                raise TypeError(
                    f"the handler of {request.method} {request.path} must return Response or"
                    f" Subscribe, not {type(result).__name__}"
                )

    def refuse(self, error: BadRequest, fields: Fields) -> Decision:
        """The answer to a request whose handler raised BadRequest."""
        return Reply(problem(error.status, str(error), field=error.field, fields=fields))

    def announce(self, publication: Publication) -> Entry:
        """Publish what has been checked.  Raises BadRequest (409) for an id that stands."""
        now = self.clock()
        entry = self.hub.publish(publication.topics, publication.event, now)
        if self._oldest_offer is None:
            self._oldest_offer = now
        return entry

    def flushed(self, began: float) -> None:
        """All that was offered before `began` has been written."""
        if self._oldest_offer is not None and self._oldest_offer <= began:
            self.latency.observe(self.clock() - self._oldest_offer)
            self._oldest_offer = None

    # -- the built-in routes

    def subscribe(self, request: Request) -> Subscribe:
        """GET /events?topic=a&topic=b"""
        return Subscribe(*check_topics(request.parameters("topic"), self.limits))

    def read_publication(self, request: Request) -> Publication:
        """POST /publish"""
        return read_publication(request, self.limits)


# B42, B50: no charset (Chromium takes utf-8 only), never stored, never buffered or compressed.
STREAM_FIELDS: Fields = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)


def _last_event_id(request: Request) -> str:
    # The header is newer: a reconnecting EventSource keeps the URL it began with.
    header = request.header("last-event-id")
    if header:
        return header
    for name in _RESUME_PARAMETERS:
        for value in request.parameters(name):
            if value:
                return value
    return ""


def _accepts_events(accept: str | None) -> bool:
    if not accept:
        return True  # RFC 9110 12.5.1: without it, anything goes
    for each in accept.lower().split(","):
        kind, _, parameters = each.partition(";")
        if kind.strip() in ("text/event-stream", "text/*", "*/*"):
            refused = re.search(r"(?:\A|;)\s*q\s*=\s*0(?:\.0*)?\s*(?:;|\Z)", parameters)
            if not refused:
                return True
    return False


def _cors(origin: str | None, allowed: Sequence[str]) -> Fields:
    if origin is not None and origin in allowed and origin != "*":
        return (
            (b"access-control-allow-origin", origin.encode()),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", GAP_EVENT.encode()),
            (b"vary", b"origin"),
        )
    if "*" in allowed:
        # The same for all, unless single origins are listed beside it.
        vary = ((b"vary", b"origin"),) if len(allowed) > 1 else ()
        if origin is None:
            return vary
        return (
            (b"access-control-allow-origin", b"*"),
            (b"access-control-expose-headers", GAP_EVENT.encode()),
            *vary,
        )
    return ((b"vary", b"origin"),) if allowed else ()


def _preflight(methods: str, origin: str | None, fields: Fields) -> Response:
    allow = methods.encode()
    if origin is None or not any(name == b"access-control-allow-origin" for name, _ in fields):
        return Response(status=204, fields=((b"allow", allow), *fields))
    return Response(
        status=204,
        fields=(
            (b"allow", allow),
            *fields,
            (b"access-control-allow-methods", allow),
            (b"access-control-allow-headers", b"last-event-id, content-type, cache-control"),
            (b"access-control-max-age", _PREFLIGHT_SECONDS),
        ),
    )


def _may_post(origin: str | None, allowed: Sequence[str], request: Request) -> bool:
    return (
        origin is None
        or "*" in allowed
        or origin in allowed
        or origin == f"https://{request.authority}".lower()
    )


def page_fields(html: bytes, connect: Sequence[str] = ()) -> Fields:
    """The header fields of an HTML page, a strict Content-Security-Policy among them."""
    return (
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", _policy(html, connect).encode()),
        (b"cache-control", b"no-cache"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    )


_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


def _policy(html: bytes, connect: Sequence[str]) -> str:
    hashes: dict[bytes, list[str]] = {b"script": ["'self'"], b"style": ["'self'"]}
    for kind, text in _INLINE.findall(html):
        # A browser hashes the text as it parsed it, that is with LF line ends (HTML 13.2.3.5).
        digest = hashlib.sha256(text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")).digest()
        hashes[kind].append(f"'sha256-{base64.b64encode(digest).decode()}'")
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(hashes[b'script'])}",
            f"style-src {' '.join(hashes[b'style'])}",
            " ".join(("connect-src 'self'", *connect)),
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )
