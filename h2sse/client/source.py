"""The HTML Standard's event source (9.2.2, 9.2.3), without the waiting.

A `Source` knows what to ask for, judges the answer, reads the stream and says when to come back.
What it decides are values: `answer` gives a `Verdict`, `due` is a time.  The shell (`EventSource`)
acts on them.  Where the standard leaves a choice, the comment at it says which we make.
"""

from __future__ import annotations

import random
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias, assert_never, final
from urllib.parse import quote, urljoin, urlsplit

from h2sse.errors import ConfigError, RemoteError
from h2sse.sse import MAX_RETRY_MS, Message, Parser
from h2sse.wire import Fields

from .exchange import Head, NetworkError
from .limits import ClientLimits

__all__ = [
    "Failed",
    "Finished",
    "Headers",
    "Opened",
    "ReadyState",
    "Redirected",
    "Source",
    "SourceFailed",
    "Target",
    "Verdict",
    "read_headers",
    "read_url",
]

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]


class ReadyState(IntEnum):
    """EventSource.readyState (HTML 9.2.2)."""

    CONNECTING = 0
    OPEN = 1
    CLOSED = 2


@final
class SourceFailed(RemoteError):
    """The server's answer ends an event source for good (HTML 9.2.3, "fail the connection").

    `url` is where it came from, `status` the answer's, or 0 when there was none.
    """

    def __init__(self, url: str, reason: str, *, status: int = 0) -> None:
        super().__init__(f"{url}: {reason}", status=status)
        self.url = url
        self.reason = reason


# -- where to


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An https URL, taken apart: `host` and `port` to connect to, `path` with its query."""

    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, int]:
        """Two targets with the same one may share a connection."""
        return self.host, self.port

    @property
    def authority(self) -> str:
        """As :authority and Host have it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL, put together again."""
        return f"https://{self.authority}{self.path}"


_HOST = re.compile(r"[0-9a-z._-]+|[0-9a-f:.]+").fullmatch
# What the URL Standard leaves as it is in a path and in a query; "%" begins an escape.
_IN_PATH = "!$%&'()*+,/:;=@[\\]|~"
_IN_QUERY = "!$%&()*+,/:;=?@[\\]^`{|}~"


def read_url(url: str) -> Target:
    """Raises ValueError, saying what is wrong, unless `url` is an absolute https URL."""
    parts = urlsplit(url)
    if parts.scheme == "http":
        raise ValueError("http:// would send everything in the clear; only https:// is spoken")
    if parts.scheme != "https":
        raise ValueError("not an absolute https:// URL")
    if "@" in parts.netloc:
        raise ValueError("names and passwords belong into headers, not into a URL")
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    if not _HOST(host):
        raise ValueError("the host is missing or malformed")
    port = 443 if parts.port is None else parts.port
    if not port:
        raise ValueError("port 0 cannot be connected to")
    path = quote(parts.path or "/", safe=_IN_PATH)
    query = f"?{quote(parts.query, safe=_IN_QUERY)}" if parts.query else ""
    return Target(host=host, port=port, path=path + query)


# -- what we send

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_OURS = frozenset(
    ("accept", "cache-control", "content-length", "host", "last-event-id", "pragma", "te")
)
_CONNECTION_SPECIFIC = frozenset(
    ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
)
# What was given for one origin and is no other's business (Fetch, HTTP-redirect fetch, step 13).
_CREDENTIALS = frozenset((b"authorization", b"cookie", b"proxy-authorization"))

# MAY in HTML 9.2.2, but every browser sends it; cache mode no-store is these two on the wire
# (Fetch, HTTP-network-or-cache fetch).
_ALWAYS: Final = (
    (b"accept", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"pragma", b"no-cache"),
)


def read_headers(headers: Headers) -> Fields:
    """Check headers that a user gives.  Raises ConfigError."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    fields = []
    for name, value in pairs:
        lower = name.lower()
        if not _NAME(lower):
            raise ConfigError(f"headers: {name!r} is not a field name")
        if lower in _OURS or lower in _CONNECTION_SPECIFIC:
            raise ConfigError(f"headers: {name} is set by the client itself")
        stripped = value.strip(" \t")
        if _CONTROLS(stripped):
            raise ConfigError(f"headers: the value of {name} has control characters")
        fields.append((lower.encode(), _utf8("headers", stripped)))
    return tuple(fields)


def _utf8(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{what}: {text!r} has no UTF-8 form") from None


# -- what came back


@final
@dataclass(frozen=True, slots=True)
class Opened:
    """The stream is open; its body follows."""


@final
@dataclass(frozen=True, slots=True)
class Redirected:
    """Ask again, at the source's new target."""


@final
@dataclass(frozen=True, slots=True)
class Finished:
    """204: the server wants the source to stop."""


@final
@dataclass(frozen=True, slots=True)
class Failed:
    """The source is closed for good, and this is why."""

    error: SourceFailed


Verdict: TypeAlias = Opened | Redirected | Finished | Failed

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - RFC 9110 5.6.2
_ESSENCE = re.compile(f"{_TOKEN}/{_TOKEN}").fullmatch
# Commas in quoted strings do not separate (Fetch, get, decode, and split).
_VALUE = re.compile(r'(?:[^",]|"(?:\\.|[^"\\])*"?)+')


def _values(fields: Fields, name: bytes) -> list[str]:
    return [value.decode("latin-1") for field, value in fields if field == name]


def _essence(fields: Fields) -> str | None:
    """Fetch, extract a MIME type: the last value that is one counts, its parameters do not."""
    found = None
    for value in _VALUE.findall(",".join(_values(fields, b"content-type"))):
        essence = value.partition(";")[0].strip(" \t\r\n")
        if _ESSENCE(essence) and essence != "*/*":
            found = essence.lower()
    return found


@final
class _Inflate:
    """Undoes gzip and zlib as bytes come, in bounded pieces, however much a few unpack to."""

    PIECE_BYTES = 64 * 1024

    def __init__(self) -> None:
        self._machine = zlib.decompressobj(wbits=47)  # 32 + 15: either format, by its head
        self._packed = b""

    def feed(self, data: bytes) -> None:
        self._packed += data

    def take(self) -> bytes:
        """The next piece; b"" when there is none without more input.  Raises NetworkError."""
        try:
            while True:
                piece = self._machine.decompress(self._packed, self.PIECE_BYTES)
                self._packed = self._machine.unconsumed_tail
                if self._machine.eof:  # RFC 1952 2.2: another member may follow
                    self._packed = self._machine.unused_data
                    self._machine = zlib.decompressobj(wbits=47)
                if piece or not self._packed:
                    return piece
        except zlib.error as error:
            raise NetworkError(f"the content coding is broken: {error}") from None


@final
class Source:
    """One event source; `now` is a time in seconds on any clock, `dice` gives 0 to below 1."""

    def __init__(
        self,
        url: str,
        *,
        headers: Headers = (),
        last_event_id: str = "",
        limits: ClientLimits | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        try:
            self.target = read_url(url)
        except ValueError as error:
            raise ConfigError(f"url {url!r}: {error}") from None
        if set(last_event_id) & set("\r\n\0"):
            raise ConfigError(f"last_event_id must be without CR, LF and NUL: {last_event_id!r}")
        _utf8("last_event_id", last_event_id)
        self.url = url
        self.state = ReadyState.CONNECTING
        self.due: float | None = None  # when to ask (again); None: at once
        self._limits = limits or ClientLimits()
        self._origin = self.target.origin
        self._fields = read_headers(headers)
        self._dice = dice
        self._retry_ms: int | None = None
        self._parser = Parser(last_event_id=last_event_id)
        self._inflate: _Inflate | None = None
        self._messages: deque[Message] = deque()
        self._delivered = last_event_id
        self._fault: SourceFailed | None = None
        self._redirects = 0
        self._failures = 0  # attempts in a row that did not open
        self._prompt = 0  # of them, those that were repeated at once

    @property
    def last_event_id(self) -> str:
        """The last event ID string, as of the last message that was taken."""
        # What is read but not taken counts only once nothing waits: who stores this and starts
        # anew from it must miss nothing.
        return self._delivered if self._messages else self._parser.last_event_id

    @property
    def reconnection_time(self) -> float:
        """In seconds: what the server said last, or our own."""
        return self._limits.retry_seconds if self._retry_ms is None else self._retry_ms / 1000

    def request(self) -> Fields:
        """The fields to ask `target` with, pseudo-header fields aside."""
        fields = [*_ALWAYS, *self._fields]
        if self.target.origin != self._origin:
            fields = [each for each in fields if each[0] not in _CREDENTIALS]
        last_event_id = self._parser.last_event_id
        if last_event_id:
            # A field value has no blanks at its ends (RFC 9113 8.2.1), an id may.
            fields.append((b"last-event-id", last_event_id.strip(" \t").encode()))
        return tuple(fields)

    def answer(self, head: Head) -> Verdict:
        """Judge a response (HTML 9.2.2 step 14); `state` and `target` follow from it."""
        assert self.state is ReadyState.CONNECTING
        verdict = self._judge(head)
        match verdict:
            case Opened():
                self.state = ReadyState.OPEN
                self._redirects = self._failures = self._prompt = 0
                self._parser = Parser(last_event_id=self._parser.last_event_id)
            case Finished() | Failed():
                self.close()
            case Redirected():
                self._redirects += 1
            case _:
                assert_never(verdict)
        return verdict

    def _judge(self, head: Head) -> Verdict:
        status, fields = head.status, head.fields
        if status in _REDIRECTS:
            return self._redirect(status, fields)
        if status == 204:
            return Finished()
        if status != 200:
            return self._failed(f"answered {status}; an event stream begins with 200", status)
        essence = _essence(fields)
        if essence != "text/event-stream":
            return self._failed(f"Content-Type is {essence}, not text/event-stream", status)
        codings = ",".join(_values(fields, b"content-encoding")).replace(" ", "").lower()
        self._inflate = None
        if codings in ("gzip", "x-gzip", "deflate"):
            self._inflate = _Inflate()
        elif codings not in ("", "identity"):
            return self._failed(f"Content-Encoding {codings!r}, for which we did not ask", status)
        return Opened()

    def _redirect(self, status: int, fields: Fields) -> Verdict:
        if self._redirects >= self._limits.redirects:
            # A network error in Fetch, after which HTML 9.2.2 lets us fail if trying is futile.
            return self._failed(f"more than {self._limits.redirects} redirects", status)
        locations = {value for name, value in fields if name == b"location"}
        if len(locations) != 1:
            return self._failed(f"answered {status} without one Location", status)
        location = locations.pop().decode(errors="replace")
        try:
            self.target = read_url(urljoin(self.target.url, location))
        except ValueError as error:
            return self._failed(f"redirects to {location!r}: {error}", status)
        return Redirected()

    def _failed(self, reason: str, status: int) -> Failed:
        return Failed(SourceFailed(self.target.url, reason, status=status))

    def receive(self, data: bytes) -> None:
        """Read more of the body."""
        if self._inflate is not None:
            self._inflate.feed(data)
        else:
            self._read(data)

    def take(self) -> Message | None:
        """The next message, None if more of the body is needed.

        Raises SourceFailed at a bound, with the source closed, and NetworkError if the content
        coding is broken; in both cases after the messages before it.
        """
        while not self._messages:
            if self._fault is not None:
                self.close()
                raise self._fault
            piece = self._inflate.take() if self._inflate is not None else b""
            if not piece:
                return None
            self._read(piece)
        message = self._messages.popleft()
        self._delivered = message.last_event_id
        return message

    def _read(self, data: bytes) -> None:
        parser = self._parser
        self._messages += parser.feed(data)
        if parser.reconnection_time is not None:
            self._retry_ms = min(parser.reconnection_time, MAX_RETRY_MS)
        if parser.unfinished_line_bytes > self._limits.line_bytes:
            what = f"a line of more than {self._limits.line_bytes} bytes"
        elif parser.unfinished_event_chars > self._limits.event_chars:
            what = f"an event of more than {self._limits.event_chars} characters"
        else:
            return
        # Coming back would only bring the same again.
        self._fault = SourceFailed(self.target.url, what, status=200)

    def drop(self, now: float, *, unprocessed: bool = False) -> float:
        """The connection is lost, or was none: when to ask again (HTML 9.2.3), also as `due`.

        After a stream that was open, that is in the reconnection time and up to a quarter more:
        clients that were dropped together shall not come back together.  What may be added doubles
        with each failed attempt, up to `backoff_seconds`.
        """
        assert self.state is not ReadyState.CLOSED, "nothing revives a source (HTML 9.2.3)"
        self._inflate = None
        self._redirects = 0
        limits = self._limits
        opened = self.state is ReadyState.OPEN
        self.state = ReadyState.CONNECTING
        if unprocessed and self._prompt < limits.prompt_retries:
            self._prompt += 1
            self.due = now
            return now
        wait = max(self.reconnection_time, limits.min_retry_seconds)
        more = min(limits.backoff_seconds, wait * 2 ** min(self._failures, 32) / 4)
        if not opened:
            self._failures += 1
        self.due = now + wait + more * self._dice()
        return self.due

    def close(self) -> None:
        """Closed for good; messages that were not taken are dropped (HTML 9.2.2)."""
        self.state = ReadyState.CLOSED
        self._messages.clear()
        self._inflate = None
