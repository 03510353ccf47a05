"""The prober against faulty servers: each fault is found by the check that is meant for it.

The server is h2sse, over real TLS, and between it and the prober stands a `Fault`: it passes each
frame on as it is, both ways, but for the one thing that it does wrong.  So whatever else the prober
says of it would be a false alarm, and is a failure here.
"""

from __future__ import annotations

import gzip
import os
import re
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar, final

import hpack
import pytest
import trio
import trustme
from support import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    Served,
    _split,
    certificates,
    frame,
    reset,
    serving,
    settings_frame,
    window_update,
)
from trio.testing import MockClock

import h2sse
from h2sse.probe import CHECKS, Options, probe
from h2sse.probe.report import Report
from h2sse.probe.verdict import Verdict
from h2sse.tls import development_certificate

ORIGIN = "https://app.example"
PASS, WARN, FAIL, CANNOT_TELL = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.CANNOT_TELL

Fields = list[tuple[bytes, bytes]]
Tls = trio.SSLStream[trio.SocketStream]


# -- between prober and server


class Fault:
    """Passes all on.  One is made for each connection; `passes` says how many are open."""

    check: ClassVar[str]
    verdict: ClassVar[Verdict] = FAIL
    also: ClassVar[frozenset[str]] = frozenset()  # what cannot but find it, too
    only: ClassVar[tuple[str, ...]] = ()
    intrusive: ClassVar[bool] = False
    protocols: ClassVar[tuple[str, ...]] = ("h2", "http/1.1")
    refuses: ClassVar[bytes] = b"h2sse-probe"  # a hello with this has no protocol in common
    limits: ClassVar[h2sse.Limits] = h2sse.Limits()
    ticks: ClassVar[bool] = False  # events come by themselves, and the prober cannot publish
    told_origin: ClassVar[str | None] = ORIGIN  # of --origin
    http1_open: ClassVar[int] = 0

    def __init__(self, link: Link) -> None:
        self.link = link
        self.requests: dict[int, Fields] = {}
        self.open: set[int] = set()

    def value(self, stream: int, name: bytes) -> bytes | None:
        """A field of a stream's request."""
        return dict(self.requests.get(stream, [])).get(name)

    async def request(self, stream: int, fields: Fields) -> Fields | None:
        """A request's fields, as the server shall see them; None: it shall not."""
        return fields

    async def client(self, each: Frame) -> list[bytes]:
        """Any other frame of the client's."""
        return [frame(each.kind, each.flags, each.stream, each.payload)]

    async def response(self, stream: int, fields: Fields) -> Fields:
        return fields

    async def server(self, each: Frame) -> list[bytes]:
        """Any other frame of the server's."""
        return [frame(each.kind, each.flags, each.stream, each.payload)]

    def http1(self, data: bytes) -> bytes:
        """What an HTTP/1.1 server says."""
        return data

    async def go_away(self) -> None:
        await self.link.to_client(frame(GOAWAY, 0, 0, bytes(4) + (1).to_bytes(4, "big")))
        await self.link.close()


@final
class Link:
    """A connection on each side."""

    def __init__(self, kind: type[Fault], client: Tls, server: Tls) -> None:
        self._client, self._server = client, server
        self.fault = kind(self)
        self._writing = trio.Lock()
        self._decoders = (hpack.Decoder(), hpack.Decoder())
        self._encoders = (hpack.Encoder(), hpack.Encoder())

    async def to_client(self, *frames: bytes) -> None:
        async with self._writing:
            await self._client.send_all(b"".join(frames))

    async def close(self) -> None:
        """End it so that what was said before is read."""
        with suppress(trio.BrokenResourceError):
            await self._client.transport_stream.send_eof()
        await trio.aclose_forcefully(self._server)

    async def run(self) -> None:
        http1 = self._client.selected_alpn_protocol() != "h2"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._requests1 if http1 else self._requests)
                await (self._responses1 if http1 else self._responses)()
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # either end has had enough
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._client)
                await trio.aclose_forcefully(self._server)

    async def _requests1(self) -> None:
        while data := await self._client.receive_some(65536):
            await self._server.send_all(data)
        await trio.aclose_forcefully(self._server)

    async def _responses1(self) -> None:
        while data := await self._server.receive_some(65536):
            await self._client.send_all(self.fault.http1(bytes(data)))

    async def _requests(self) -> None:
        buffer = bytearray()
        begun = False
        while data := await self._client.receive_some(65536):
            buffer += data
            if not begun and len(buffer) >= len(PREFACE):
                begun = True
                await self._server.send_all(PREFACE)
                del buffer[: len(PREFACE)]
            out = []
            for each in _split(buffer) if begun else ():
                out += await self._request(each)
            if out:
                await self._server.send_all(b"".join(out))
        await trio.aclose_forcefully(self._server)

    async def _request(self, each: Frame) -> list[bytes]:
        fault = self.fault
        if each.kind == RST_STREAM:
            fault.open.discard(each.stream)
        if each.kind != HEADERS:
            return await fault.client(each)
        start = 5 if each.flags & 0x20 else 0
        fields: Fields = list(self._decoders[0].decode(each.payload[start:], raw=True))
        fault.requests[each.stream] = fields
        fault.open.add(each.stream)
        changed = await fault.request(each.stream, fields)
        if changed is None:
            return []
        block = each.payload[:start] + self._encoders[0].encode(changed)
        return [frame(HEADERS, each.flags, each.stream, block)]

    async def _responses(self) -> None:
        buffer = bytearray()
        fault = self.fault
        while data := await self._server.receive_some(65536):
            buffer += data
            for each in _split(buffer):
                if each.ends or each.kind == RST_STREAM:
                    fault.open.discard(each.stream)
                if each.kind == HEADERS:
                    fields: Fields = list(self._decoders[1].decode(each.payload, raw=True))
                    changed = await fault.response(each.stream, fields)
                    block = self._encoders[1].encode(changed)
                    await self.to_client(frame(HEADERS, each.flags, each.stream, block))
                else:
                    await self.to_client(*await fault.server(each))
        await trio.aclose_forcefully(self._client)


@asynccontextmanager
async def between(served: Served, kind: type[Fault]) -> AsyncIterator[int]:
    """The port at which the server has that fault."""
    certificate = development_certificate(certificates())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    context.set_alpn_protocols(kind.protocols)

    async def take(transport: trio.SocketStream) -> None:
        hello = await transport.socket.recv(4096, socket.MSG_PEEK)
        if kind.refuses in hello:
            return
        stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the prober does not trust it
        chosen = stream.selected_alpn_protocol() or "http/1.1"
        await Link(kind, stream, await served.secure(chosen)).run()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, take, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def probed(kind: type[Fault], **more: object) -> Report:
    app = h2sse.App()
    if kind.ticks:

        @app.background
        async def tick() -> None:
            while True:
                app.publish("p", h2sse.Event(data="it is\na second later"))
                await trio.sleep(1)

    async with (
        serving(app, cors_origins=(ORIGIN,), limits=kind.limits) as served,
        between(served, kind) as port,
    ):
        options: dict[str, object] = {
            "url": f"https://127.0.0.1:{port}/events?topic=p",
            "ca_file": served.ca,
            "origin": kind.told_origin,
            "only": kind.only,
            "intrusive": kind.intrusive,
            "churn_streams": 400,
        }
        if not kind.ticks:
            options["publish_url"] = f"https://127.0.0.1:{served.address[1]}/publish"
            options["publish_body"] = '{"topic": "p", "data": "{n}"}'
        return await probe(Options(**(options | more)))  # type: ignore[arg-type]  # a test's own mixture


# -- the faults, in the order of the checks


class OnlyHttp1(Fault):
    check = "alpn"
    protocols = ("http/1.1",)


class NoProtocolInCommon(Fault):
    check = "alpn-mismatch"
    verdict = WARN
    refuses = b"nothing that is ever said"


class SettingsLate(Fault):
    check = "settings"
    first = True

    async def server(self, each: Frame) -> list[bytes]:
        late = [window_update(0, 1)] if self.first else []
        self.first = False
        return late + await super().server(each)


class FewStreams(Fault):
    check = "stream-limit"
    limits = h2sse.Limits(max_concurrent_streams=10)
    # Twenty, for a PING among them, are more than there may be.


class Unavailable(Fault):
    check = "status"

    async def response(self, stream: int, fields: Fields) -> Fields:
        return [(b":status", b"503"), *fields[1:]]


class PlainText(Fault):
    check = "content-type"

    async def response(self, stream: int, fields: Fields) -> Fields:
        return [(n, b"text/plain" if n == b"content-type" else v) for n, v in fields]


class UpperCase(Fault):
    check = "lower-case-names"

    async def response(self, stream: int, fields: Fields) -> Fields:
        return [(n.title() if n == b"cache-control" else n, v) for n, v in fields]


class KeepAlive(Fault):
    check = "connection-fields"

    async def response(self, stream: int, fields: Fields) -> Fields:
        return [*fields, (b"connection", b"keep-alive")]


class ContentLength(Fault):
    check = "content-length"

    async def response(self, stream: int, fields: Fields) -> Fields:
        length = [(b"content-length", b"1000000")] * ((b":status", b"200") in fields)
        return [*fields, *length]


class Cached(Fault):
    check = "cache-control"

    async def response(self, stream: int, fields: Fields) -> Fields:
        return [each for each in fields if each[0] != b"cache-control"]


class LateHead(Fault):
    check = "head-at-once"
    first = True

    async def response(self, stream: int, fields: Fields) -> Fields:
        if self.first:
            self.first = False
            await trio.sleep(2)
        return fields


class LateFirstByte(Fault):
    check = "byte-at-once"
    also = frozenset({"prompt", "ping"})  # all of the connection waits
    first = True

    async def server(self, each: Frame) -> list[bytes]:
        if each.kind == DATA and self.first:
            self.first = False
            await trio.sleep(2)
        return await super().server(each)


class NeedsAccept(Fault):
    check = "no-accept"

    async def request(self, stream: int, fields: Fields) -> Fields | None:
        if b"accept" not in dict(fields) and (b":method", b"GET") in fields:
            fields = [(n, b"/nothing" if n == b":path" else v) for n, v in fields]
        return fields


class _Answers500(Fault):
    """To certain requests."""

    def wrong(self, stream: int) -> bool:
        raise NotImplementedError

    async def response(self, stream: int, fields: Fields) -> Fields:
        return [(b":status", b"500"), *fields[1:]] if self.wrong(stream) else fields


class BreaksOnAccept(_Answers500):
    check = "not-acceptable"

    def wrong(self, stream: int) -> bool:
        return self.value(stream, b"accept") == b"image/png"


class HeadIsGet(Fault):
    check = "head"

    async def request(self, stream: int, fields: Fields) -> Fields | None:
        return [(n, b"GET" if v == b"HEAD" else v) for n, v in fields]


class BreaksOnOptions(_Answers500):
    check = "options"
    also = frozenset({"preflight"})

    def wrong(self, stream: int) -> bool:
        return self.value(stream, b":method") == b"OPTIONS"


class AnyMethodIsGet(Fault):
    check = "unknown-method"

    async def request(self, stream: int, fields: Fields) -> Fields | None:
        return [(n, b"GET" if v == b"PROBE" else v) for n, v in fields]


class _Without(Fault):
    """A field that is missing."""

    missing: ClassVar[bytes]

    async def response(self, stream: int, fields: Fields) -> Fields:
        return [each for each in fields if each[0] != self.missing]


class NoCors(_Without):
    check = "cors"
    missing = b"access-control-allow-origin"


class AnyOrigin(Fault):
    check = "cors-credentials"

    async def response(self, stream: int, fields: Fields) -> Fields:
        origin = self.value(stream, b"origin") or b""
        if origin.endswith(b".invalid"):
            fields = [
                *fields,
                (b"access-control-allow-origin", origin),
                (b"access-control-allow-credentials", b"true"),
            ]
        return fields


class NoVary(_Without):
    check = "cors-vary"
    missing = b"vary"


class VaryWhereAllowed(Fault):
    """And nowhere else, of what a cache may keep."""

    check = "cors-vary"

    async def response(self, stream: int, fields: Fields) -> Fields:
        allowed = b"access-control-allow-origin" in dict(fields)
        kept = [(n, v.replace(b"no-store", b"no-cache")) for n, v in fields]
        return [each for each in kept if allowed or each[0] != b"vary"]


class EchoesItself(Fault):
    """The one origin that is allowed is its own, which nobody told the prober of."""

    check = "cors-vary"
    told_origin = None

    async def response(self, stream: int, fields: Fields) -> Fields:
        origin = self.value(stream, b"origin") or b""
        if origin.startswith(b"https://127."):
            fields = [each for each in fields if each[0] != b"vary"]
            fields.append((b"access-control-allow-origin", origin))
            fields.append((b"access-control-allow-headers", b"last-event-id"))
        return fields


class PreflightForAll(Fault):
    """What is asked then, is not for all."""

    check = "preflight"
    verdict = WARN
    told_origin = None

    async def response(self, stream: int, fields: Fields) -> Fields:
        if self.value(stream, b":method") == b"OPTIONS":
            fields = [*fields, (b"access-control-allow-origin", b"*")]
        return fields


class NoPreflight(_Without):
    check = "preflight"
    missing = b"access-control-allow-headers"


class _Body(Fault):
    """A fault in what is sent."""

    events = 0

    def changed(self, stream: int, body: bytes) -> bytes:
        raise NotImplementedError

    async def server(self, each: Frame) -> list[bytes]:
        if each.kind != DATA:
            return await super().server(each)
        self.events += b"\ndata: " in each.payload
        return [frame(DATA, each.flags, each.stream, self.changed(each.stream, each.payload))]


class StrayLine(_Body):
    """An unknown field, which is ignored (HTML 9.2.6): at worst it was meant to be data."""

    check = "well-formed"
    verdict = WARN

    def changed(self, stream: int, body: bytes) -> bytes:
        # What fills a frame stays as it is.
        small = b"\ndata: " in body and len(body) < 1000
        return body.replace(b"id: ", b"oops\nid: ", 1) if small else body


class StrayLineOfItsOwn(StrayLine):
    check = "well-formed"
    ticks = True


class _Retry(_Body):
    """A reconnection time that is none (HTML 9.2.6), nor one for all streams."""

    check = "well-formed"
    also = frozenset({"retry", "retry-spread"})
    said: ClassVar[bytes]

    def changed(self, stream: int, body: bytes) -> bytes:
        return re.sub(rb"retry: \d+", b"retry:" + self.said, body)


class RetryInWords(_Retry):
    check = "well-formed"
    said = b" soon"


class RetryAfterTwoSpaces(_Retry):
    """Of which one is the value's."""

    check = "well-formed"
    said = b"  3000"


class NotUtf8(_Body):
    check = "well-formed"

    def changed(self, stream: int, body: bytes) -> bytes:
        return body.replace(b"\ndata: ", b"\ndata: \xff", 1)


class BareLf(_Body):
    check = "multi-line"

    def changed(self, stream: int, body: bytes) -> bytes:
        head, data, rest = body.partition(b"\ndata: ")
        return head + data + rest.replace(b"\ndata: ", b"\n")


class BareLfOfItsOwn(BareLf):
    """Nothing tells the rest of the data from an unknown field."""

    check = "well-formed"
    verdict = WARN
    ticks = True


class InPieces(Fault):
    check = "whole"
    first = True

    async def server(self, each: Frame) -> list[bytes]:
        if each.kind == DATA and b"\ndata: " in each.payload and self.first:
            self.first = False
            await self.link.to_client(frame(DATA, 0, each.stream, each.payload[:-1]))
            await trio.sleep(0.6)
            return [frame(DATA, 0, each.stream, each.payload[-1:])]
        return await super().server(each)


class HeldBack(Fault):
    """A buffer that is sent when the next event fills it."""

    check = "prompt"

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.held: dict[int, bytes] = {}

    async def server(self, each: Frame) -> list[bytes]:
        if each.kind == DATA and b"\ndata: " in each.payload:
            before = self.held.pop(each.stream, b"")
            if not before:
                self.held[each.stream] = each.payload
                return []
            return [frame(DATA, 0, each.stream, before + each.payload)]
        return await super().server(each)


class HoldsTheEnd(HeldBack):
    """A buffer that passes on small events, and fills with a large one."""

    async def server(self, each: Frame) -> list[bytes]:
        if each.kind == DATA and each.payload.endswith(b"xxxx\n\n"):
            return []
        return await Fault.server(self, each)


class Compressed(Fault):
    check = "compression"

    async def response(self, stream: int, fields: Fields) -> Fields:
        if self.value(stream, b"accept-encoding"):
            fields = [*fields, (b"content-encoding", b"gzip")]
        return fields

    async def server(self, each: Frame) -> list[bytes]:
        if each.kind == DATA and self.value(each.stream, b"accept-encoding"):
            head = gzip.compress(b"")[:10]
            return [frame(DATA, 0, each.stream, head)]
        return await super().server(each)


class NoHeartbeat(Fault):
    check = "heartbeat"

    async def server(self, each: Frame) -> list[bytes]:
        if each.kind == DATA and each.payload == b":\n\n":
            return []
        return await super().server(each)


class RetryZero(_Body):
    check = "retry"

    def changed(self, stream: int, body: bytes) -> bytes:
        return re.sub(rb"retry: \d+", b"retry: 0000", body) if stream == 1 else body


class NoRetry(_Body):
    check = "retry"
    verdict = WARN

    def changed(self, stream: int, body: bytes) -> bytes:
        return body.replace(b"retry:", b":etry:")


class OneRetry(_Body):
    check = "retry-spread"
    verdict = WARN

    def changed(self, stream: int, body: bytes) -> bytes:
        return re.sub(rb"retry: \d+", b"retry: 3000", body)


def _no_id(body: bytes) -> bytes:
    """Of the same length: a comment stands in its place."""
    return re.sub(rb"(?m)^id: ", b":d: ", body)


class SomeIds(_Body):
    check = "ids"

    def changed(self, stream: int, body: bytes) -> bytes:
        has_event = b"\ndata: " in body
        return _no_id(body) if has_event and self.events % 2 else body


class NoIds(_Body):
    check = "ids"
    verdict = WARN

    def changed(self, stream: int, body: bytes) -> bytes:
        return _no_id(body)


class _Resumed(Fault):
    """A fault in the first event of a stream that resumes."""

    check = "resume"
    also = frozenset({"resume-race"})

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.done: set[int] = set()

    def changed(self, event: bytes) -> bytes:
        raise NotImplementedError

    async def server(self, each: Frame) -> list[bytes]:
        resumes = self.value(each.stream, b"last-event-id")
        if each.kind == DATA and resumes and each.stream not in self.done:
            at = each.payload.find(b"id: ")
            if at >= 0 and b"\ndata: " in each.payload:
                self.done.add(each.stream)
                event, end, rest = each.payload[at:].partition(b"\n\n")
                body = each.payload[:at] + self.changed(event + end) + rest
                return [frame(DATA, each.flags, each.stream, body)]
        return await super().server(each)


class LosesOne(_Resumed):
    def changed(self, event: bytes) -> bytes:
        return b""


class DoublesOne(_Resumed):
    def changed(self, event: bytes) -> bytes:
        return event + event


class IgnoresIds(Fault):
    check = "resume"
    also = frozenset({"resume-race"})

    async def request(self, stream: int, fields: Fields) -> Fields | None:
        return [each for each in fields if each[0] != b"last-event-id"]

    async def server(self, each: Frame) -> list[bytes]:
        if each.kind == DATA and b"retry: " in each.payload:
            # h2sse says where a stream begins that resumes from nowhere.
            body = re.sub(rb"\nid: [^\n]*", b"", each.payload)
            return [frame(DATA, each.flags, each.stream, body)]
        return await super().server(each)


class LosesInTheRace(Fault):
    check = "resume-race"

    async def server(self, each: Frame) -> list[bytes]:
        resumed = [n for n in self.requests if self.value(n, b"last-event-id")]
        if each.kind == DATA and each.stream in resumed[4:] and b"\ndata: " in each.payload:
            return 2 * await super().server(each)
        return await super().server(each)


class DoublesWhatIsDue(LosesInTheRace):
    """In the race that the prober runs with the server's own events."""

    check = "resume-race"
    ticks = True


class LosesWhatIsDue(Fault):
    """The first event that is not replayed."""

    check = "resume-race"
    ticks = True

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.came: Counter[int] = Counter()

    async def server(self, each: Frame) -> list[bytes]:
        resumed = [n for n in self.requests if self.value(n, b"last-event-id")]
        if each.kind == DATA and each.stream in resumed[4:]:
            self.came[each.stream] += b"\ndata: " in each.payload
            if self.came[each.stream] == 2:
                return []
        return await super().server(each)


class NeverLive(LosesWhatIsDue):
    """Replays, and no more."""

    check = "resume-race"

    async def server(self, each: Frame) -> list[bytes]:
        frames = await super().server(each)
        return frames if self.came[each.stream] < 2 else []


class NoParameter(Fault):
    check = "id-parameter"
    verdict = WARN

    async def request(self, stream: int, fields: Fields) -> Fields | None:
        return [(n, v.partition(b"&last")[0]) for n, v in fields]


class OtherParameter(Fault):
    check = "id-parameter"
    verdict = PASS

    async def request(self, stream: int, fields: Fields) -> Fields | None:
        return [(n, v.partition(b"&lastEventId")[0]) for n, v in fields]


class _BreaksOnId(_Answers500):
    ids: ClassVar[str]

    def wrong(self, stream: int) -> bool:
        value = self.value(stream, b"last-event-id")
        return value is not None and re.fullmatch(self.ids, value.decode()) is not None


class UnknownId(_BreaksOnId):
    check = "unknown-id"
    ids = "h2sse-probe-never.*"


class EmptyId(_BreaksOnId):
    check = "empty-id"
    ids = ""


class NonAsciiId(_BreaksOnId):
    check = "non-ascii-id"
    ids = "é.*"


class LongId(_BreaksOnId):
    check = "long-id"
    ids = "9{1000}"


class _GoesAway(Fault):
    """Where a request, or another frame, is not to its liking."""

    def dislikes(self, fields: dict[bytes, bytes]) -> bool:
        return False

    def dislikes_frame(self, each: Frame) -> bool:
        return False

    async def request(self, stream: int, fields: Fields) -> Fields | None:
        if self.dislikes(dict(fields)):
            await self.go_away()
            return None
        return fields

    async def client(self, each: Frame) -> list[bytes]:
        if self.dislikes_frame(each):
            await self.go_away()
            return []
        return await super().client(each)


class DislikesBlanks(_GoesAway):
    check = "blank-edged-id"

    def dislikes(self, fields: dict[bytes, bytes]) -> bool:
        return fields.get(b"last-event-id", b"").endswith(b"\t")


class DislikesFirefox(_GoesAway):
    check = "browser-requests"

    def dislikes(self, fields: dict[bytes, bytes]) -> bool:
        return b"te" in fields


class Fifty(Fault):
    check = "many-streams"

    async def request(self, stream: int, fields: Fields) -> Fields | None:
        if len(self.open) > 50:
            self.open.discard(stream)
            await self.link.to_client(reset(stream, 7))
            return None
        return fields


class DislikesSurplus(_GoesAway):
    check = "surplus-stream"
    limits = h2sse.Limits(max_concurrent_streams=100)

    def dislikes(self, fields: dict[bytes, bytes]) -> bool:
        return len(self.open) > 100


class KeepsCancelled(Fault):
    check = "cancelled-streams"
    limits = h2sse.Limits(max_concurrent_streams=100)

    async def client(self, each: Frame) -> list[bytes]:
        return [] if each.kind == RST_STREAM else await super().client(each)


class ForgetsWindows(Fault):
    check = "window-kept"

    async def client(self, each: Frame) -> list[bytes]:
        if each.kind == SETTINGS and each.settings.get(INITIAL_WINDOW_SIZE) == 5:
            return [settings_frame({2: 0})]
        return await super().client(each)


class StallsNeighbours(Fault):
    check = "stalled-neighbour"
    stalls = False

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.given: set[int] = set()

    async def client(self, each: Frame) -> list[bytes]:
        if each.kind == SETTINGS and each.settings.get(INITIAL_WINDOW_SIZE) == 0:
            self.stalls = not self.requests
        if each.kind == WINDOW_UPDATE:
            self.given.add(each.stream)
        return await super().client(each)

    async def server(self, each: Frame) -> list[bytes]:
        if each.kind == DATA and self.stalls and self.open - self.given:
            return []
        return await super().server(each)


class NeverBelowZero(Fault):
    check = "negative-window"

    async def client(self, each: Frame) -> list[bytes]:
        lowered = each.kind == SETTINGS and each.settings.get(INITIAL_WINDOW_SIZE) == 0
        if lowered and self.requests:
            await self.link.to_client(frame(SETTINGS, ACK, 0))
            return []
        return await super().client(each)


class LargeFrames(Fault):
    check = "frame-size"

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.held: dict[int, bytes] = {}

    async def server(self, each: Frame) -> list[bytes]:
        if each.kind != DATA:
            return await super().server(each)
        body = self.held.pop(each.stream, b"") + each.payload
        if len(each.payload) == 16_384:
            self.held[each.stream] = body
            return []
        return [frame(DATA, each.flags, each.stream, body)]


class LatePong(Fault):
    check = "ping"

    async def server(self, each: Frame) -> list[bytes]:
        if each.kind == PING and each.flags & ACK and len(self.open) in range(10, 30):
            await trio.sleep(1.5)
        return await super().server(each)


class DislikesTheUnknown(_GoesAway):
    check = "unknown-frames"

    def dislikes_frame(self, each: Frame) -> bool:
        return each.kind > 9


class DislikesUpperCase(_GoesAway):
    check = "malformed-request"

    def dislikes(self, fields: dict[bytes, bytes]) -> bool:
        return any(name != name.lower() for name in fields)


class DislikesPriorities(_GoesAway):
    check = "priority-chain"
    intrusive = True
    only = ("http2",)
    priorities = 0

    def dislikes_frame(self, each: Frame) -> bool:
        self.priorities += each.kind == PRIORITY
        return self.priorities > 100


class Wears(_GoesAway):
    """Out, in the long run."""

    check = "churn"
    intrusive = True
    only = ("http2",)
    also = frozenset({"burst"})

    def dislikes(self, fields: dict[bytes, bytes]) -> bool:
        return len(self.requests) > 300


class TakesAnyBurst(Fault):
    check = "burst"
    verdict = WARN
    intrusive = True
    only = ("http2",)

    async def request(self, stream: int, fields: Fields) -> Fields | None:
        return None if len(self.requests) > 410 else fields

    async def client(self, each: Frame) -> list[bytes]:
        if each.kind == RST_STREAM and len(self.requests) > 410:
            return []
        return await super().client(each)


class Http1Breaks(Fault):
    check = "http1"

    def http1(self, data: bytes) -> bytes:
        return data.replace(b"HTTP/1.1 200", b"HTTP/1.1 500")


class OnlyHttp2(Fault):
    check = "http1"
    protocols = ("h2",)
    refuses = b"\0\x09\x08http/1.1"  # where it is all that is offered
    also = frozenset({"alpn-mismatch"})
    verdict = WARN


class NotChunked(Fault):
    check = "http1-framing"

    def http1(self, data: bytes) -> bytes:
        return re.sub(rb"(?i)transfer-encoding: chunked", b"content-length: 99999", data)


class Doubled(Fault):
    check = "http1-fields"

    def http1(self, data: bytes) -> bytes:
        return re.sub(rb"(?i)(cache-control: [^\r]*\r\n)", rb"\1\1", data)


class FewConnections(Fault):
    check = "http1-connections"
    taken: ClassVar[Counter[str]] = Counter()

    def http1(self, data: bytes) -> bytes:
        self.taken["connections"] += data.startswith(b"HTTP/1.1 200")
        # The other three checks take one each.
        if self.taken["connections"] > 7:
            return data.replace(b"HTTP/1.1 200", b"HTTP/1.1 503")
        return data


class Pushes(Fault):
    check = "no-push"
    only = ("no-push",)

    async def response(self, stream: int, fields: Fields) -> Fields:
        await self.link.to_client(frame(PUSH_PROMISE, END_HEADERS, stream, b"\0\0\0\x02\x82"))
        return fields


class WantsHttp1(Fault):
    """Says so, after the first comment of a quiet stream."""

    check = "ends"

    async def server(self, each: Frame) -> list[bytes]:
        frames = await super().server(each)
        if each.kind == DATA and each.payload == b":\n\n":
            frames.append(reset(each.stream, 13))
        return frames


class EndsPlainly(Fault):
    check = "ends"
    verdict = PASS

    async def server(self, each: Frame) -> list[bytes]:
        frames = await super().server(each)
        if each.kind == DATA and each.payload == b":\n\n":
            frames.append(frame(DATA, END_STREAM, each.stream))
        return frames


class NeverEnds(Fault):
    """What has a body."""

    check = "ends"

    async def server(self, each: Frame) -> list[bytes]:
        flags = each.flags & ~END_STREAM if each.kind == DATA else each.flags
        return [frame(each.kind, flags, each.stream, each.payload)]


class EndsWithReset(NeverEnds):
    check = "ends"

    async def server(self, each: Frame) -> list[bytes]:
        ended = each.kind == DATA and each.ends
        return [*await super().server(each), *([reset(each.stream, 2)] if ended else [])]


class LengthOfNothing(Fault):
    """And nothing has one (RFC 9110 8.6)."""

    check = "ends"

    async def response(self, stream: int, fields: Fields) -> Fields:
        if dict(fields)[b":status"] == b"204":
            fields = [*fields, (b"content-length", b"0")]
        return fields


FAULTS = [
    found
    for found in list(globals().values())
    if isinstance(found, type) and issubclass(found, Fault) and "check" in vars(found)
]
FAULTS += [LosesOne, DoublesOne, HoldsTheEnd]
FAULTS = [each for each in FAULTS if not each.__name__.startswith("_")]

# Hundreds of streams each: only where they are meant.
HEAVY = {"surplus-stream", "cancelled-streams", "many-streams"}


# All other checks beside each fault take minutes; they are of interest when a check has changed.
FULL = bool(os.environ.get("H2SSE_FULL"))


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
async def test_a_fault_is_found_by_its_check_alone(
    kind: type[Fault], jumping_clock: MockClock
) -> None:
    if kind is FewConnections:
        FewConnections.taken.clear()
    group = next(each.group for each in CHECKS if each.name == kind.check)
    only = kind.only or (() if FULL else (group, *(["heartbeat"] if group == "end" else [])))
    skip = () if kind.only else tuple(HEAVY - {kind.check})
    report = await probed(kind, only=only, skip=skip)
    found = {each.check.name: each.finding for each in report.results}
    assert found[kind.check].verdict is kind.verdict, found[kind.check]
    others = {
        name: finding
        for name, finding in found.items()
        if name != kind.check
        and name not in kind.also
        and finding.verdict not in (PASS, CANNOT_TELL)
    }
    assert others == {}
    assert not [each for each in found.values() if "check itself" in each.seen]


def test_there_is_a_fault_for_each_check() -> None:
    assert {each.name for each in CHECKS} - {each.check for each in FAULTS} == {"tls"}


async def test_a_certificate_that_nobody_trusts(jumping_clock: MockClock, tmp_path: Path) -> None:
    stranger = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    report = await probed(Fault, ca_file=stranger)
    first, *others = report.results
    assert (first.check.name, first.verdict) == ("tls", FAIL)
    assert "not trusted" in first.finding.seen
    assert {each.verdict for each in others} == {CANNOT_TELL}


class Ticks(Fault):
    ticks = True
    told_origin = None


@pytest.mark.parametrize("kind", [Fault, Ticks])
async def test_h2sse_passes(kind: type[Fault], jumping_clock: MockClock) -> None:
    """All checks, the rough ones too, and through the same link without a fault."""
    report = await probed(kind, intrusive=True)
    assert {e.check.name: e.finding for e in report.results if e.verdict is not PASS} == {}
    assert len(report.results) == len(CHECKS)


@pytest.mark.parametrize("greeted", [False, True])
async def test_a_stream_that_says_it_replays_nothing_passes(greeted: bool) -> None:
    """As `h2sse demo` has it: what was missed is of no use, and the client is told where it is.

    How things stand it may be told, too, each time that it comes.
    """
    app = h2sse.App()

    @app.stream("/now")
    def now(_: h2sse.Request) -> h2sse.Subscribe:
        greeting = [h2sse.Event(data="how things"), h2sse.Event(data="stand")]
        return h2sse.Subscribe("p", greeting=greeting * greeted, replay=False)

    async with serving(app) as served:
        base = f"https://127.0.0.1:{served.address[1]}"
        report = await probe(
            Options(
                url=f"{base}/now",
                ca_file=served.ca,
                publish_url=f"{base}/publish",
                publish_body='{"topic": "p", "data": "{n}"}',
                only=("resume", "ids"),
            )
        )
    assert {each.verdict for each in report.results} == {PASS}, report.results
    seen = {each.check.name: each.finding.seen for each in report.results}
    assert "that is said" in seen["resume-race"]
