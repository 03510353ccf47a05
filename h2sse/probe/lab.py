"""What a check works with: connections to the endpoint, events when it needs them, and a budget."""

from __future__ import annotations

import ipaddress
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final
from urllib.parse import quote_plus

import trio

from h2sse.client.source import Target, read_headers, read_url
from h2sse.errors import ConfigError

from .connection import Connection, Ending, Stream, Tls
from .http1 import Http1
from .reading import Block
from .verdict import Fault, Lost, Silent, Unclear, charged

__all__ = ["Lab", "Options", "Unreachable"]

# What stands for the text of an event in `publish_body`.
PLACE: Final = "{n}"

_OWN_CA: Final = Path("certs/ca.pem")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is probed, and how.

    `patience_seconds` is how long any single answer may take, `quiet_seconds` how long a stream is
    watched for a sign of life.  `publish_body` holds `{n}`, in the place of an event's data.
    `origin` is one whose pages should be able to read the endpoint.  `intrusive` allows the rough
    checks; for a host that is not loopback, `confirmed_host` must name it again.

    Raises ConfigError.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    ca_file: Path | None = None
    insecure: bool = False
    patience_seconds: float = 5
    quiet_seconds: float = 35
    publish_url: str | None = None
    publish_body: str | None = None
    origin: str | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    intrusive: bool = False
    confirmed_host: str | None = None
    churn_streams: int = 10_000

    def __post_init__(self) -> None:
        try:
            target = read_url(self.url)
        except ValueError as error:
            raise ConfigError(f"url {self.url!r}: {error}") from None
        read_headers(self.headers)
        if (self.publish_url is None) != (self.publish_body is None):
            raise ConfigError("--publish-url and --publish-body go together")
        if self.publish_body is not None and PLACE not in self.publish_body:
            raise ConfigError(f"--publish-body must hold {PLACE}, in the place of an event's data")
        if self.publish_url is not None:
            try:
                read_url(self.publish_url)
            except ValueError as error:
                raise ConfigError(f"--publish-url {self.publish_url!r}: {error}") from None
        for name in ("patience_seconds", "quiet_seconds"):
            if not 0 < getattr(self, name) < 86_400:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.intrusive and not _is_loopback(target.host) and self.confirmed_host != target.host:
            raise ConfigError(
                f"--intrusive sends what may harm a server; if {target.host} is yours to test,"
                f" name it again with --host {target.host}"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Unreachable(Exception):
    """There is no TLS connection to the endpoint; the message is why."""


@final
class Lab:
    """Connections to one endpoint; `sent` counts frames up to `allowed`, which a check sets."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.target = read_url(options.url)
        self.patience = options.patience_seconds
        self.endings: list[Ending] = []
        self.pushed = False
        self.sent = 0
        self.allowed = 0
        self._context = _context(options)
        self._token = secrets.token_hex(4)
        self._published = 0
        self._fields = tuple((n.decode(), v.decode()) for n, v in read_headers(options.headers))

    # -- connections

    def spend(self, frames: int) -> None:
        """Account for frames that are about to be sent."""
        self.sent += frames
        if self.sent > self.allowed:
            raise Unclear(f"it would have taken more than {self.allowed} frames")

    async def dial(self, *protocols: str, target: Target | None = None) -> Tls:
        """A TLS connection that offers these protocols.  Raises Unreachable."""
        target = target or self.target
        where = target.authority
        try:
            with trio.fail_after(self.patience):
                transport = await trio.open_tcp_stream(target.host, target.port)
        except (OSError, trio.TooSlowError) as error:
            raise Unreachable(f"no connection to {where}: {_why(error)}") from None
        context = self._context
        context.set_alpn_protocols(protocols)
        stream = trio.SSLStream(
            transport, context, server_hostname=target.host, https_compatible=True
        )
        try:
            with trio.fail_after(self.patience):
                await stream.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                reason = f"its certificate is not trusted: {error.__cause__.verify_message}"
                raise Unreachable(reason) from None
            if isinstance(error, trio.BrokenResourceError | trio.TooSlowError):
                raise Unreachable(f"no TLS with {where}: {_why(error)}") from None
            raise
        return stream

    @asynccontextmanager
    async def connect(
        self,
        settings: Mapping[int, int] | None = None,
        *,
        hello: bytes = b"",
        target: Target | None = None,
    ) -> AsyncIterator[Connection]:
        """An HTTP/2 connection whose preface is sent, and closed after the block."""
        try:
            stream = await self.dial("h2", target=target)
        except Unreachable as error:
            raise Unclear(str(error)) from None
        try:
            if stream.selected_alpn_protocol() != "h2":
                raise Unclear("it does not speak HTTP/2")
            connection = self._connection(stream, target)
            await connection.start(settings, hello)
            try:
                yield connection
            finally:
                self.pushed = self.pushed or connection.pushed
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    def _connection(self, stream: Tls, target: Target | None) -> Connection:
        return Connection(
            stream,
            authority=(target or self.target).authority,
            patience=self.patience,
            spend=self.spend,
            note=self.endings.append,
        )

    @asynccontextmanager
    async def http1(self) -> AsyncIterator[Http1]:
        """An HTTP/1.1 connection, closed after the block."""
        try:
            stream = await self.dial("http/1.1")
        except Unreachable as error:
            raise Unclear(f"it does not speak HTTP/1.1: {error}") from None
        try:
            yield self.http1_over(stream)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    def http1_over(self, stream: Tls, target: Target | None = None) -> Http1:
        """HTTP/1.1 over a connection that is there."""
        return Http1(
            stream,
            authority=(target or self.target).authority,
            patience=self.patience,
            spend=self.spend,
        )

    @asynccontextmanager
    async def listening(
        self, settings: Mapping[int, int] | None = None
    ) -> AsyncIterator[tuple[Connection, Stream]]:
        """A connection, and the event stream that is open on it.  Raises Unclear if it is none."""
        async with self.connect(settings) as peer:
            if settings is not None:
                await peer.until(lambda: peer.settings_acks, "acknowledgement of SETTINGS")
            yield peer, await self.listen(peer)

    @asynccontextmanager
    async def bystander(self) -> AsyncIterator[tuple[Connection, Stream]]:
        """The same, for a block after which both must live: what it does harms itself at most."""
        async with self.listening() as (peer, beside):
            with charged("the connection, and every stream on it, is lost"):
                yield peer, beside
                await peer.alive()
            if beside.over:
                raise Fault(f"the stream beside it was ended: {beside}")

    # -- requests

    def path(self, **parameters: str) -> str:
        """The endpoint's path, with these query parameters behind its own."""
        path = self.target.path
        for name, value in parameters.items():
            path += f"{'&' if '?' in path else '?'}{name}={quote_plus(value)}"
        return path

    def fields(self, *more: tuple[str, str | bytes]) -> tuple[tuple[str, str | bytes], ...]:
        """The request's fields, as an EventSource and the user have them, with `more`."""
        return (("accept", "text/event-stream"), *self._fields, *more)

    def fields1(self, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        """The same, for HTTP/1.1."""
        return (("accept", "text/event-stream"), *self._fields, *more)

    async def listen(
        self, connection: Connection, *fields: tuple[str, str | bytes], path: str | None = None
    ) -> Stream:
        """Open the endpoint on a connection and wait for its head.

        Raises Unclear if that is not an event stream's.
        """
        stream = await connection.open(path or self.target.path, *self.fields(*fields))
        await self.answered(connection, stream)
        return stream

    async def ask(
        self, connection: Connection, *fields: tuple[str, str | bytes], what: str = "response"
    ) -> Stream:
        """Open the endpoint and wait for any answer.  Raises Silent, naming `what`, and Lost."""
        stream = await connection.open(self.target.path, *self.fields(*fields))
        await connection.until(lambda: stream.answered, what)
        return stream

    async def answered(self, connection: Connection, *streams: Stream) -> None:
        """Wait for the heads of event streams.  Raises Unclear if one is none."""
        await connection.until(lambda: all(each.answered for each in streams), "response")
        for stream in streams:
            if not stream.is_event_stream:
                kind = ", ".join(stream.values("content-type"))
                raise Unclear(f"it is no event stream: {stream} {kind}".rstrip())

    # -- events

    @property
    def publishes(self) -> bool:
        """Whether events can be had at a known moment."""
        return self.options.publish_url is not None

    async def publish(self, text: str = "") -> str:
        """Publish an event, and return its data: a word of its own and then `text`.

        Raises Unclear if it is refused.
        """
        url, body = self.options.publish_url, self.options.publish_body
        assert url is not None
        assert body is not None
        self._published += 1
        data = f"probe-{self._token}-{self._published}{text}"
        kind, payload = _publication(body, data)
        try:
            status = await self._post(url, payload.encode(), kind)
        except (Silent, Lost, Unreachable) as error:
            raise Unclear(f"publishing failed: {error}") from None
        if not 200 <= status < 300:
            raise Unclear(f"publishing was answered with {status}")
        return data

    async def _post(self, url: str, body: bytes, kind: str) -> int:
        fields = [("content-type", kind)]
        target = read_url(url)
        if target.origin == self.target.origin:
            fields += self._fields
        stream = await self.dial("h2", "http/1.1", target=target)
        try:
            if stream.selected_alpn_protocol() == "h2":
                connection = self._connection(stream, target)
                await connection.start()
                posted = await connection.open(target.path, *fields, method="POST", body=body)
                await connection.until(lambda: posted.answered, "answer to a publication")
                return posted.status
            http1 = self.http1_over(stream, target)
            await http1.post(target.path, body, *fields)
            await http1.until(lambda: http1.status, "answer to a publication")
            return http1.status
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def events(self, connection: Connection, *streams: Stream, count: int = 1) -> list[Block]:
        """Wait until each stream has so many more events; published if they can be.

        Returns those of the first.  Raises Unclear if none come.
        """
        starts = {stream: len(stream.body.events) for stream in streams}
        published = [await self.publish() for _ in range(count)] if self.publishes else []

        def all_here() -> bool:
            for stream, start in starts.items():
                events = stream.body.events[start:]
                if published:
                    text = "\0".join(each.data for each in events)
                    if not all(each in text for each in published):
                        return False
                elif len(events) < count:
                    return False
            return True

        try:
            await connection.until(all_here, "event", None if published else count * self.patience)
        except Silent:
            hint = "" if published else "; name a --publish-url, and it can be told"
            raise Unclear(f"no {count} events within {self.patience:g} s{hint}") from None
        return streams[0].body.events[starts[streams[0]] :]

    async def news(self, connection: Connection, stream: Stream, count: int) -> list[Block]:
        """Wait for so many more events, a greeting not counted, and return as many, the last."""
        await self.events(connection, stream, count=count)
        short = count - len(stream.body.news)
        if short > 0:
            await self.events(connection, stream, count=short)
        return stream.body.news[-count:]


def _publication(body: str, data: str) -> tuple[str, str]:
    """Content-Type and body, with the event's data in its place."""
    try:
        json.loads(body)
    except ValueError:
        if "=" in body.partition(PLACE)[0] and not set(body) & set(" \n"):
            return "application/x-www-form-urlencoded", body.replace(PLACE, quote_plus(data))
        return "text/plain; charset=utf-8", body.replace(PLACE, data)
    return "application/json", body.replace(PLACE, json.dumps(data)[1:-1])


def _context(options: Options) -> ssl.SSLContext:
    file = options.ca_file
    try:
        context = ssl.create_default_context(cafile=file)
        if file is None and _OWN_CA.exists():
            file = _OWN_CA
            context.load_verify_locations(file)
    except ssl.SSLError:
        raise ConfigError(f"{file} holds no certificate in PEM form; see --ca-file") from None
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; see --ca-file") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _why(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return "it took too long"
    cause = error.__cause__ or error
    return str(getattr(cause, "strerror", None) or cause) or repr(cause)
