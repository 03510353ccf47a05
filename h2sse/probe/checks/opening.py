"""From the TLS handshake to the response's fields."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final

import trio

from h2sse.frames import ACK, SETTINGS
from h2sse.probe.connection import MAX_CONCURRENT_STREAMS, Connection, Stream
from h2sse.probe.lab import Lab, Unreachable
from h2sse.probe.verdict import (
    Fault,
    Finding,
    Lost,
    Silent,
    Unclear,
    charged,
    check,
    passed,
    warned,
)

__all__ = ["CHECKS"]

# RFC 9113 6.5.2: "it is recommended that this value be no smaller than 100".
_STREAMS: Final = 100
# Of a server that is up: far above a round trip, far below what a user would call "at once".
_PROMPT_SECONDS: Final = 1.0
# Events that fill nginx's buffers, 8 of 4 or 8 KiB as they come.
_FILLINGS: Final = 3
_LARGE: Final = 40_000
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)

connection = partial(check, group="connection")
response = partial(check, group="response")


@connection(
    "tls",
    clause="RFC 9113 9.2",
    does="Connects with TLS, and verifies the certificate unless told not to.",
    notice="Browsers refuse the page, or warn of it; an EventSource stays at CONNECTING for ever.",
    mend="Start the server; give it a certificate for its name, from an authority that is trusted,"
    " and TLS 1.2 or 1.3.",
    http2=False,
)
async def tls(lab: Lab) -> Finding:
    try:
        stream = await lab.dial("h2", "http/1.1")
    except Unreachable as error:
        raise Fault(str(error)) from None
    version, cipher = stream.version(), stream.cipher()
    await trio.aclose_forcefully(stream)
    if version not in ("TLSv1.2", "TLSv1.3"):
        raise Fault(f"{version} is too old for HTTP/2")
    unchecked = "; the certificate was not verified" if lab.options.insecure else ""
    return passed(f"{version}, {cipher[0] if cipher else None}{unchecked}")


@connection(
    "alpn",
    clause="RFC 9113 3.2, RFC 7301 3.2",
    does="Offers h2 and http/1.1 by ALPN.",
    notice="Browsers speak HTTP/1.1 and open six streams a host at most: the seventh tab hangs.",
    mend='Have the server, or what terminates TLS in front of it, choose "h2" by ALPN.',
    http2=False,
)
async def alpn(lab: Lab) -> Finding:
    try:
        stream = await lab.dial("h2", "http/1.1")
    except Unreachable as error:
        raise Unclear(str(error)) from None
    chosen = stream.selected_alpn_protocol()
    await trio.aclose_forcefully(stream)
    if chosen != "h2":
        raise Fault(f"it chose {chosen or 'no protocol'}")
    return passed("it chose h2")


@connection(
    "alpn-mismatch",
    clause="RFC 7301 3.2",
    does="Offers a protocol by ALPN that nobody speaks.",
    notice="A client with which the server has no protocol in common gets bytes that it cannot"
    " read, instead of an error that says so.",
    mend="Have the server end the handshake with the alert no_application_protocol.",
)
async def alpn_mismatch(lab: Lab) -> Finding:
    try:
        stream = await lab.dial("h2sse-probe")
    except Unreachable:
        return passed("it refused the handshake")
    await trio.aclose_forcefully(stream)
    return warned("it went on without a protocol in common")


@connection(
    "settings",
    clause="RFC 9113 3.4, 6.5.3",
    does="Sends its preface, and looks at the server's first frame and its acknowledgement.",
    notice="Clients close the connection with PROTOCOL_ERROR or SETTINGS_TIMEOUT.",
    mend="Send SETTINGS before any other frame, and acknowledge the client's at once.",
)
async def settings(lab: Lab) -> Finding:
    async with lab.connect() as peer:
        with charged():
            await peer.until(lambda: peer.first is not None, "frame")
            assert peer.first is not None
            kind, flags = peer.first
            if kind != SETTINGS or flags & ACK:
                raise Fault(f"the first frame is of type {kind}, not SETTINGS")
            await peer.until(lambda: peer.settings_acks, "acknowledgement of our SETTINGS")
        return passed("SETTINGS came first, and ours were acknowledged")


@connection(
    "stream-limit",
    clause="RFC 9113 6.5.2",
    does="Reads SETTINGS_MAX_CONCURRENT_STREAMS.",
    notice="Each tab is a stream: past the limit a tab hangs at CONNECTING, and so does every other"
    " request of the browser to this host.",
    mend="Advertise 100 or more, as the RFC recommends.",
)
async def stream_limit(lab: Lab) -> Finding:
    async with lab.connect() as peer:
        await peer.until(lambda: peer.first is not None, "SETTINGS")
        limit = peer.settings.get(MAX_CONCURRENT_STREAMS)
    if limit is None:
        return warned("it states no limit; browsers then assume 100")
    if limit < _STREAMS:
        raise Fault(f"{limit} streams a connection")
    return passed(f"{limit} streams a connection")


async def _asked(lab: Lab) -> Stream:
    """A request that was answered, and anything at all."""
    async with lab.connect() as peer:
        return await lab.ask(peer)


@response(
    "status",
    clause="HTML 9.2.3, RFC 9113 8.3.2",
    does="Asks as an EventSource does: GET, Accept text/event-stream.",
    notice="The EventSource fails: CLOSED, one error event, and it does not come back.",
    mend="Answer 200.  If the endpoint wants credentials or a parameter, give the probe --header"
    " and the whole URL.",
)
async def status(lab: Lab) -> Finding:
    try:
        stream = await _asked(lab)
    except Lost as error:
        raise Fault(str(error)) from None
    names = [name for name, _ in stream.fields]
    if names.count(b":status") > 1 or (names and names[0] != b":status"):
        raise Fault(":status is not the first field, or not the only pseudo-header field")
    if stream.status != 200:
        where = ", ".join(stream.values("location"))
        raise Fault(str(stream) + (f", to {where}" if where else ""))
    return passed("200")


@response(
    "content-type",
    clause="HTML 9.2.3, 9.2.6",
    does="Reads Content-Type of the response.",
    notice="The EventSource fails: CLOSED, one error event.  With a charset other than utf-8"
    " Chromium fails, too.",
    mend="Send `content-type: text/event-stream`, without charset or with `charset=utf-8`.",
)
async def content_type(lab: Lab) -> Finding:
    stream = await _asked(lab)
    if stream.status != 200:
        raise Unclear(str(stream))
    kinds = stream.values("content-type")
    if not stream.is_event_stream:
        raise Fault(f"Content-Type is {', '.join(kinds) or 'missing'}")
    parameters = kinds[-1].lower().replace(" ", "").replace('"', "").split(";")[1:]
    charsets = [each for each in parameters if each.startswith("charset=")]
    if any(each != "charset=utf-8" for each in charsets):
        raise Fault(f"Content-Type is {kinds[-1]}; an event stream is UTF-8 always")
    return passed(kinds[-1])


@response(
    "lower-case-names",
    clause="RFC 9113 8.2, 8.2.1",
    does="Looks at the field names as they stand on the wire.",
    notice="Chromium resets the stream; Firefox closes the connection, and with it every tab.",
    mend="Write field names in lower case; libraries for HTTP/2 do it by themselves.",
)
async def lower_case_names(lab: Lab) -> Finding:
    names = [name for name, _ in (await _asked(lab)).fields]
    upper = [name for name in names if name != name.lower()]
    if upper:
        raise Fault(f"field names {_listed(upper)}")
    return passed(f"{len(names)} names, all in lower case")


@response(
    "connection-fields",
    clause="RFC 9113 8.2.2",
    does="Looks for fields that HTTP/2 does not have.",
    notice="Safari drops the response, Chromium too if it is transfer-encoding.",
    mend="Leave out Connection, Keep-Alive, Proxy-Connection, Upgrade and Transfer-Encoding where"
    " HTTP/2 is spoken; a proxy is to strip them.",
)
async def connection_fields(lab: Lab) -> Finding:
    names = [name.lower() for name, _ in (await _asked(lab)).fields]
    found = [name for name in names if name in _CONNECTION_SPECIFIC]
    if found:
        raise Fault(f"the response has {_listed(found)}")
    return passed("none")


@response(
    "content-length",
    clause="RFC 9113 8.1.1",
    does="Looks for a Content-Length.",
    notice="Browsers stop reading after that many bytes; the stream is malformed.",
    mend="Send none: the body has no end that could be known.",
)
async def content_length(lab: Lab) -> Finding:
    lengths = (await _asked(lab)).values("content-length")
    if lengths:
        raise Fault(f"content-length: {', '.join(lengths)}")
    return passed("none")


@response(
    "cache-control",
    clause="RFC 9111 5.2.2",
    does="Reads Cache-Control.",
    notice="A cache, or a proxy that compresses, may hold events back or play an old stream again.",
    mend="Send `cache-control: no-store, no-transform`; behind nginx also `x-accel-buffering: no`.",
)
async def cache_control(lab: Lab) -> Finding:
    said = ", ".join((await _asked(lab)).values("cache-control")).lower()
    if not {"no-store", "no-cache"} & set(said.replace(" ", "").split(",")):
        raise Fault(f"cache-control is {said or 'missing'}: nothing forbids to store it")
    if "no-transform" not in said:
        return warned(f"{said}: a middle box may compress it, and hold events back")
    return passed(said)


@response(
    "head-at-once",
    clause="HTML 9.2.3",
    does="Measures how long the response's header section takes.",
    notice="The page shows that it is connecting; `open` comes with the first event, if ever.",
    mend="Send the header section when the request is in, not with the first event: flush it, and"
    " turn off buffering in what stands in front.",
)
async def head_at_once(lab: Lab) -> Finding:
    async with lab.connect() as peer:
        await peer.until(lambda: peer.first is not None, "SETTINGS")
        stream = await peer.open(lab.target.path, *lab.fields())
        with charged():
            try:
                await peer.until(lambda: stream.answered, "header section")
            except Silent as error:
                raise Fault(f"{error}{await _buffered(lab, peer, stream)}") from None
    assert stream.answered_at is not None, stream
    took = stream.answered_at - stream.opened_at
    if took > _PROMPT_SECONDS:
        raise Fault(f"the header section took {took:.1f} s")
    return passed(f"after {took * 1000:.0f} ms")


async def _buffered(lab: Lab, peer: Connection, stream: Stream) -> str:
    """Whether large events push it out, which a buffer on the way holds back."""
    if not lab.publishes:
        return ""
    with suppress(Unclear, Silent):
        for _ in range(_FILLINGS):
            await lab.publish("x" * _LARGE)
        await peer.until(lambda: stream.answered, "header section")
        size = _FILLINGS * _LARGE
        return f"; it came after {size:,} characters were published: a buffer has to fill first"
    return ""


@response(
    "byte-at-once",
    clause="HTML 9.2.3",
    does="Measures how long the first byte of the body takes.",
    notice="Firefox fires `open` at the first byte only: until then its pages wait.",
    mend="Begin the body with a comment or a `retry` line, flushed with the header section.",
)
async def byte_at_once(lab: Lab) -> Finding:
    async with lab.listening() as (peer, stream):
        with charged("after the header section"):
            await peer.until(lambda: stream.body.arrivals, "byte of the body")
    assert stream.answered_at is not None
    took = stream.body.arrivals[0] - stream.answered_at
    if took > _PROMPT_SECONDS:
        raise Fault(f"the first byte came {took:.1f} s after the header section")
    return passed(f"{took * 1000:.0f} ms after the header section")


def _listed(names: list[bytes]) -> str:
    return ", ".join(name.decode("utf-8", "replace") for name in names)


CHECKS = (
    tls,
    alpn,
    alpn_mismatch,
    settings,
    stream_limit,
    status,
    content_type,
    lower_case_names,
    connection_fields,
    content_length,
    cache_control,
    head_at_once,
    byte_at_once,
)
