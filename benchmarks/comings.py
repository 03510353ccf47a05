"""Connections and streams that come and go, by the thousand: the client side of `churn.py`.

`WAYS` are how a connection comes and goes: ended well or reset, amid the handshake or before it,
over HTTP/2 and HTTP/1.1, with tabs and without.  A `Stayer` is one that stays, for the rest of the
streams, in rounds: tabs that are closed, answers, publishings, errors, resets.  Sockets block and
frames are joined by hand, so that two processes keep a server busy.

`python -m benchmarks.comings HOST PORT CAFILE PLACE` is such a process: for each line of stdin,
with how many connections and streams are to come, it says in a line how they went, when all have
gone.  Nothing but this machine is called upon.
"""

from __future__ import annotations

import ipaddress
import json
import random
import socket
import ssl
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeAlias, final

import hpack

__all__ = ["WAYS", "Client", "Comings", "Stayer"]

# RFC 9113 6.
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_CANCEL = (8).to_bytes(4, "big")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DEFAULT_WINDOW, _MAX_WINDOW = 65_535, 2**31 - 1
# What the server has for streams at once (SETTINGS_MAX_CONCURRENT_STREAMS), and then some.
_STREAMS_AT_ONCE = 256
_SURPLUS = 300

# Far above what anything on loopback takes, so that only a fault runs into it.
_PATIENCE_SECONDS = 30.0
_READ_BYTES = 64 * 1024
# A port that was closed first stays taken for a minute (TIME_WAIT), at its address.
_ADDRESSES = 64
# RST instead of FIN (socket(7), SO_LINGER).
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_IP_BIND_ADDRESS_NO_PORT = 24  # ip(7); Python has no name for it

_TABS = 8
_EVENTS = 4  # topics that are published to
_HISTORY_EVENTS = 1_000  # what each of them remembers


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


_HELLO: Final = (
    _PREFACE
    + _frame(_SETTINGS, 0, 0)
    + _frame(_WINDOW_UPDATE, 0, 0, (_MAX_WINDOW - _DEFAULT_WINDOW).to_bytes(4, "big"))
)


@final
class Http2:
    """A connection that frames by hand and reads no further than to the answer of its PING."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self._encoder = hpack.Encoder()
        self._blocks: dict[tuple[str, str], bytes] = {}
        self._next = 1
        self._pings = 0
        self._said = [_HELLO]

    def request(self, path: str, *, method: str = "GET", body: bytes = b"") -> int:
        """Queue a request; its stream."""
        stream, self._next = self._next, self._next + 2
        fields = [
            (":method", method),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", path),
        ]
        if body:
            fields.append(("content-type", "application/x-www-form-urlencoded"))
        # A second one of the same stands in the table whole, and so does each after it.
        block = self._blocks.get((method, path))
        if block is None:
            before = self._encoder.header_table.dynamic_entries
            newest = before[0] if before else None
            block = self._encoder.encode(fields)
            after = self._encoder.header_table.dynamic_entries
            if (after[0] if after else None) is newest:
                self._blocks[method, path] = block
            else:
                self._blocks.clear()
        flags = _END_HEADERS | (0 if body else _END_STREAM)
        self.say(_frame(_HEADERS, flags, stream, block))
        if body:
            self.say(_frame(_DATA, _END_STREAM, stream, body))
        return stream

    def cancel(self, *streams: int) -> None:
        """Queue their resets, as `EventSource.close()` sends them."""
        self.say(*(_frame(_RST_STREAM, 0, stream, _CANCEL) for stream in streams))

    def say(self, *data: bytes) -> None:
        """Queue bytes."""
        self._said += data

    def send(self) -> None:
        """Send what is queued."""
        self.sock.sendall(b"".join(self._said))
        self._said.clear()

    def exchange(self) -> None:
        """Send what is queued, and read until all of it has been acted on."""
        self._pings += 1
        mark = self._pings.to_bytes(8, "big")
        self.say(_frame(_PING, 0, 0, mark))
        self.send()
        answer = _frame(_PING, _ACK, 0, mark)
        seen = b""
        while answer not in seen:
            data = self.sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the server has closed")
            seen = seen[-len(answer) :] + data


@final
class Client:
    """Makes connections to one server."""

    def __init__(self, host: str, port: int, cafile: str, place: int) -> None:
        self._server = (host, port)
        self._place = place  # apart from other clients'
        self._chance = random.Random(place)
        self._made = 0
        self._contexts = {
            protocol: ssl.create_default_context(cafile=cafile) for protocol in ("h2", "http/1.1")
        }
        for protocol, context in self._contexts.items():
            context.set_alpn_protocols([protocol])
        self._sessions: dict[str, ssl.SSLSession | None] = {}

    def own_path(self, number: int) -> str:
        """The path of a topic that nobody else listens to."""
        return f"/events?topic=own-{self._place}-{number}"

    def sometimes(self) -> bool:
        """By chance, half of the time: what goes by turns would go with the turns of the ways."""
        return self._chance.random() < 0.5

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """TCP alone."""
        self._made += 1
        with socket.socket() as sock:
            sock.settimeout(_PATIENCE_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            own = 2 + self._place * _ADDRESSES + self._made % _ADDRESSES
            # The port is chosen by `connect`, so that it may be in use for another server's.
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.0.{own}", 0))
            sock.connect(self._server)
            yield sock

    @contextmanager
    def secure(self, protocol: str = "h2") -> Iterator[ssl.SSLSocket]:
        """TLS; half of the connections resume the session of an earlier one."""
        context = self._contexts[protocol]
        with self.connected() as plain:
            session = self._sessions.get(protocol) if self.sometimes() else None
            with context.wrap_socket(
                plain, server_hostname=self._server[0], session=session
            ) as sock:
                yield sock
                if (made := sock.session) is not None and made.has_ticket:
                    self._sessions[protocol] = made

    def hello(self) -> bytes:
        """A whole ClientHello."""
        out = ssl.MemoryBIO()
        maker = self._contexts["h2"].wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
        try:
            maker.do_handshake()
        except ssl.SSLWantReadError:
            return out.read()
        raise AssertionError("unreachable")


def _reset(sock: socket.socket) -> None:
    """From here on, closing it resets the connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


# -- the lives of a connection.  Each returns how its streams are to end; how many there were, the
# server counts too (churn.py).

_Ends: TypeAlias = dict[str, int]
_NONE: Final[_Ends] = {}


def _says_nothing(client: Client, _: int) -> _Ends:
    with client.connected():
        return _NONE


def _half_a_hello(client: Client, number: int) -> _Ends:
    with client.connected() as sock:
        said = client.hello()
        sock.sendall(said[: 1 + number % len(said)])
        return _NONE


def _amid_the_handshake(client: Client, _: int) -> _Ends:
    with client.connected() as sock:
        sock.sendall(client.hello())
        sock.recv(_READ_BYTES)
        return _NONE


def _amid_the_handshake_by_reset(client: Client, _: int) -> _Ends:
    with client.connected() as sock:
        sock.sendall(client.hello())
        if client.sometimes():
            sock.recv(_READ_BYTES)
        _reset(sock)
        return _NONE


def _without_tls(client: Client, _: int) -> _Ends:
    with client.connected() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        _read_to_end(sock)
        return _NONE


def _handshake_alone(client: Client, _: int) -> _Ends:
    with client.secure():
        return _NONE


def _without_streams(client: Client, _: int) -> _Ends:
    with client.secure() as sock:
        Http2(sock).exchange()
        _leave(sock)
        return _NONE


def _against_the_rules(client: Client, _: int) -> _Ends:
    with client.secure() as sock:
        http2 = Http2(sock)
        http2.request("/events?topic=rules")
        http2.say(_frame(_DATA, 0, 0, b"of no stream"))
        http2.send()
        _read_to_end(sock)
        return {"ended with their connection": 1}


def _tabs(sock: ssl.SSLSocket, path: str) -> tuple[Http2, list[int]]:
    http2 = Http2(sock)
    streams = [http2.request(path) for _ in range(_TABS)]
    http2.exchange()
    return http2, streams


def _tabs_that_close(client: Client, number: int) -> _Ends:
    with client.secure() as sock:
        http2, streams = _tabs(sock, client.own_path(number))
        http2.cancel(*streams)
        http2.exchange()
        _leave(sock)
        return {"closed by the tab": _TABS}


def _tabs_left_open(client: Client, number: int) -> _Ends:
    with client.secure() as sock:
        _tabs(sock, client.own_path(number))
        _leave(sock)
        return {"ended with their connection": _TABS}


def _tabs_and_goaway(client: Client, number: int) -> _Ends:
    with client.secure() as sock:
        http2, _ = _tabs(sock, client.own_path(number))
        http2.say(_frame(_GOAWAY, 0, 0, bytes(8)))
        http2.exchange()
        return {"ended with their connection": _TABS}


def _tabs_and_reset(client: Client, number: int) -> _Ends:
    with client.secure() as sock:
        _tabs(sock, client.own_path(number))
        _reset(sock)
        return {"ended with their connection": _TABS}


def _tabs_and_close_notify(client: Client, number: int) -> _Ends:
    with client.secure() as sock:
        _tabs(sock, client.own_path(number))
        sock.settimeout(0.0)
        with suppress(ssl.SSLError):
            sock.unwrap()  # the server's is not waited for
        return {"ended with their connection": _TABS}


def _requests_unanswered(client: Client, number: int) -> _Ends:
    with client.secure() as sock:
        http2 = Http2(sock)
        streams = [http2.request(client.own_path(number)) for _ in range(_TABS)]
        http2.cancel(*streams[: _TABS // 2])
        http2.exchange()
        _reset(sock)
        return {"reset before the answer": _TABS // 2, "ended with their connection": _TABS // 2}


def _surplus(client: Client, number: int) -> _Ends:
    with client.secure() as sock:
        http2 = Http2(sock)
        for _ in range(_SURPLUS):
            http2.request(client.own_path(number))
        http2.exchange()
        return {
            "ended with their connection": _STREAMS_AT_ONCE,
            "refused": _SURPLUS - _STREAMS_AT_ONCE,
        }


def _http1(sock: ssl.SSLSocket, path: str, until: bytes) -> None:
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    seen = b""
    while until not in seen:
        data = sock.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the server has closed")
        seen += data


def _http1_answers(client: Client, _: int) -> _Ends:
    with client.secure("http/1.1") as sock:
        _http1(sock, "/healthz", b"\r\n\r\n")
        _http1(sock, "/nowhere", b"404 ")
        _leave(sock)
        return {"answered": 1, "answered with an error": 1}


def _http1_tab(client: Client, number: int) -> _Ends:
    with client.secure("http/1.1") as sock:
        _http1(sock, client.own_path(number), b"retry: ")
        if client.sometimes():
            _reset(sock)
        else:
            _leave(sock)
        return {"ended with their connection": 1}


def _http1_half_a_head(client: Client, _: int) -> _Ends:
    with client.secure("http/1.1") as sock:
        sock.sendall(b"GET /events?topic=never HTTP/1.1\r\nHost: lo")
        return _NONE


def _http1_publish(client: Client, number: int) -> _Ends:
    with client.secure("http/1.1") as sock:
        body = _event(number)
        sock.sendall(
            b"POST /publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        _read_to_end(sock)
        return {"publishings": 1}


def _event(number: int) -> bytes:
    return b"topic=shared-%d&data=event+%09d+%b" % (number % _EVENTS, number, b"x" * 80)


def _leave(sock: socket.socket) -> None:
    """FIN: what is unread would make a reset of `close`."""
    sock.shutdown(socket.SHUT_WR)
    _read_to_end(sock)


def _read_to_end(sock: socket.socket) -> None:
    with suppress(ConnectionResetError):  # its last word has come before
        while sock.recv(_READ_BYTES):
            pass


_Way: TypeAlias = Callable[[Client, int], _Ends]

# In turns; the more common, the more often.
WAYS: Final[dict[str, _Way]] = {
    "h2, tabs that close": _tabs_that_close,
    "nothing said": _says_nothing,
    "h2, tabs, FIN": _tabs_left_open,
    "h2, no stream": _without_streams,
    "http/1.1, two answers": _http1_answers,
    "h2, tabs, RST": _tabs_and_reset,
    "half a ClientHello": _half_a_hello,
    "http/1.1, a tab, FIN or RST": _http1_tab,
    "h2, tabs, GOAWAY": _tabs_and_goaway,
    "amid the handshake, FIN": _amid_the_handshake,
    "h2, tabs, close_notify": _tabs_and_close_notify,
    "http/1.1, a publishing": _http1_publish,
    "h2, requests, RST at once": _requests_unanswered,
    "amid the handshake, RST": _amid_the_handshake_by_reset,
    "h2, a broken rule": _against_the_rules,
    "http/1.1, half a head": _http1_half_a_head,
    "handshake alone": _handshake_alone,
    "HTTP without TLS": _without_tls,
}
_SURPLUS_WAY: Final = "h2, more tabs than allowed"
# Of so many connections one is such: it alone has the streams of forty.
_SURPLUS_EVERY, _SURPLUS_AT = 400, 40


# -- the streams of a connection that stays


@final
class Stayer:
    """Rounds of streams, each opened when all of the last one are over."""

    def __init__(self, client: Client) -> None:
        self._opened = client.secure()  # left by `close`
        self._http2 = Http2(self._opened.__enter__())
        self._events = 0

    def round(self) -> _Ends:
        """Tabs hear what is published meanwhile, and close; the others are answered, or not."""
        http2 = self._http2
        tabs = [http2.request(f"/events?topic=shared-{place % _EVENTS}") for place in range(40)]
        for _ in range(8):
            self._publish()
        for _ in range(8):
            http2.request("/healthz")
        for _ in range(4):
            http2.request("/events")  # of no topic
        http2.request("/nowhere", method="HEAD")
        http2.cancel(http2.request("/events?topic=unheard"))
        http2.exchange()
        http2.cancel(*tabs)
        http2.exchange()
        return {
            "closed by the tab": len(tabs),
            "publishings": 8,
            "answered": 8,
            "answered with an error": 5,
            "reset before the answer": 1,
        }

    def fill(self) -> None:
        """Publish until the histories are full: what they hold is meant to stay."""
        http2 = self._http2
        for _ in range(_HISTORY_EVENTS // 50):
            for _ in range(_EVENTS * 50):
                self._publish()
            http2.exchange()

    def _publish(self) -> None:
        self._http2.request("/publish", method="POST", body=_event(self._events))
        self._events += 1

    def close(self) -> None:
        self._opened.__exit__(None, None, None)


# -- the process


@final
class Comings:
    """So many connections and streams at a time, and how they went."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stayer = Stayer(client)
        self._number = 0
        self.ways: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()

    def fill(self) -> None:
        """Let the server have what is to stay."""
        self._stayer.fill()

    def come(self, connections: int, streams: int) -> None:
        """At least as many streams; those of the one that stays come between the connections.

        Raises OSError if the server does not do its part.
        """
        self.ways.clear()
        self.ends.clear()
        ways = list(WAYS)
        for done in range(1, connections + 1):
            number, self._number = self._number, self._number + 1
            name = (
                _SURPLUS_WAY if number % _SURPLUS_EVERY == _SURPLUS_AT else ways[number % len(ways)]
            )
            try:
                ends = WAYS.get(name, _surplus)(self._client, number)
            except OSError as error:
                raise OSError(f"{name}: {error}") from error
            self.ways[name] += 1
            self.ends.update(ends)
            while self.ends.total() * connections < streams * done:
                self.ends.update(self._stayer.round())

    def close(self) -> None:
        self._stayer.close()


def _main() -> None:
    host, port, cafile, place = sys.argv[1:]
    if not ipaddress.ip_address(host).is_loopback:
        sys.exit(f"{host} is not this machine, and nothing else is called upon")
    comings = Comings(Client(host, int(port), cafile, int(place)))
    comings.fill()
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        try:
            comings.come(**json.loads(line))
        except OSError as error:
            sys.exit(f"{error}")
        print(json.dumps({"ways": comings.ways, "ends": comings.ends}), flush=True)
    comings.close()


if __name__ == "__main__":
    _main()
