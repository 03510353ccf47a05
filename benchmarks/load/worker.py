"""A client process: `python -m benchmarks.load.worker HOST PORT PROTOCOL PATH NUMBER [CAFILE]`.

One epoll loop over non-blocking TLS sockets, without trio: a task switch an event would cost more
than the event.  Commands come as lines on stdin and are generators that the loop steps, so that
several may be under way (`progress` during `finish`).  The process ends with its stdin.

CPython's SSL_read returns at most one TLS record, which holds at most 16 KiB (RFC 8446 5.1).  So
each non-empty read of that size is one record, and they are counted so.  Nothing decrypted is left
behind after it, and OpenSSL without read-ahead takes no more from the socket than that record, so a
level-triggered epoll says when there is more.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import signal
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import asdict
from enum import Enum, auto
from time import monotonic_ns
from typing import TypeAlias, final

from . import http1, http2
from .http1 import Http1
from .http2 import Http2
from .messages import Answer, Asked, Done, Finished, Progress
from .sequences import Tab, Tabs

__all__ = ["main"]

RECORD_BYTES = 16_384
# Records read from one connection before they are looked at, all at once: the vector operations
# cost the same for more.  The last one's time is that of all, 0.1 ms late for the first.
TURN_RECORDS = 8
# What one TLS write is given: after a full socket OpenSSL must be given the same bytes again.
WRITE_BYTES = 64 * 1024
# Handshakes under way: enough to keep a server busy, too few to overflow its backlog, which would
# cost a second's SYN retransmission.
HANDSHAKES = 64
# Below h2sse's default of 1,000 an address, and far below the 28,000 ephemeral ports of one.
CONNECTIONS_PER_ADDRESS = 900
# How often waiting commands look again, and how often the looks that cost something are made.
STEP_SECONDS = 0.005
LOOK_NS = 50_000_000
# What is lacking once all have seen the last event comes soon, if it is only late.
GRACE_NS = 1_000_000_000

# linux/in.h; Python names it from 3.12 on.  The port is then chosen when the destination is known.
_IP_BIND_ADDRESS_NO_PORT = 24
# struct tcp_info, linux/tcp.h: tcpi_bytes_received.
_BYTES_RECEIVED = slice(128, 136)

_READ, _WRITE = select.EPOLLIN | select.EPOLLRDHUP, select.EPOLLOUT

Task: TypeAlias = Generator[None, None, Answer]


class _Phase(Enum):
    CONNECTING = auto()
    HANDSHAKE = auto()
    UP = auto()
    CLOSED = auto()


@final
class _Connection:
    """A socket, its TLS, and the tabs on it."""

    def __init__(self, worker: _Worker, tabs: list[int], stalled: bool) -> None:
        self.worker = worker
        self.tabs = tabs
        self.stalled = stalled  # has tabs that do
        self.wire: Http2 | Http1 = worker.wire(stalled)
        self.phase = _Phase.CONNECTING
        self.number = -1
        self._sock: socket.socket | None = None
        self._tls: ssl.SSLSocket | None = None
        self._pending = b""
        self._mask = _WRITE

    # -- coming up

    def connect(self) -> None:
        """Begin to connect; `phase` says what came of it."""
        worker = self.worker
        try:
            self._sock = sock = socket.socket(
                worker.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
            )
        except OSError as error:
            self._failed(error)
            return
        self.number = sock.fileno()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source := worker.source():
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            with contextlib.suppress(BlockingIOError):
                sock.connect(worker.address)
        except OSError as error:
            self._failed(error)
            return
        worker.connections_by_number[self.number] = self
        worker.epoll.register(self.number, self._mask)

    def _failed(self, error: OSError) -> None:
        match error.errno:
            case errno.EMFILE | errno.ENFILE:
                reason = "client out of descriptors"
            case errno.EADDRNOTAVAIL | errno.EADDRINUSE:
                reason = "client out of ports"
            case _:
                reason = f"connect: {error.strerror or error}"
        self._lost(reason)

    def _connected(self) -> None:
        assert self._sock is not None
        if code := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._failed(OSError(code, os.strerror(code)))
            return
        context, host = self.worker.context, self.worker.host
        try:
            self._tls = context.wrap_socket(
                self._sock, server_hostname=host, do_handshake_on_connect=False
            )
        except OSError as error:
            self._failed(error)
            return
        self._sock = self._tls
        self.phase = _Phase.HANDSHAKE
        self._shake()

    def _shake(self) -> None:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._want(_READ)
            return
        except ssl.SSLWantWriteError:
            self._want(_WRITE)
            return
        except OSError as error:
            self._lost(f"TLS: {getattr(error, 'reason', None) or error.strerror or error}")
            return
        chosen = self._tls.selected_alpn_protocol()
        if isinstance(self.wire, Http2) and chosen != "h2":
            self._lost(f"ALPN chose {chosen}")
            return
        self.phase = _Phase.UP
        self._want(_READ)
        self.flush()

    # -- up

    def happened(self, mask: int) -> None:
        """What epoll said."""
        match self.phase:
            case _Phase.UP:
                if mask & _WRITE:
                    self.flush()
                if mask & ~_WRITE:
                    self._read()
            case _Phase.CONNECTING:
                self._connected()
            case _Phase.HANDSHAKE:
                self._shake()
            case _Phase.CLOSED:
                pass

    def _read(self) -> None:
        tls, wire, worker = self._tls, self.wire, self.worker
        assert tls is not None
        if self.stalled and isinstance(wire, Http1) and wire.answered:
            self._lost("closed")  # its epoll mask is empty: only the end of the socket wakes it
            return
        reason = None
        reads: list[bytes] = []
        while len(reads) < TURN_RECORDS:
            try:
                data = tls.read(RECORD_BYTES)
            except ssl.SSLWantReadError:
                break
            except OSError as error:
                reason = f"closed: {error.strerror or error}"
                break
            if not data:
                reason = "closed"
                break
            reads.append(data)
            if len(data) < RECORD_BYTES:
                break
        if reads:
            worker.records += len(reads)
            wire.receive(reads[0] if len(reads) == 1 else b"".join(reads), monotonic_ns())
            if wire.output:
                self.flush()
        reason = wire.over or reason
        if reason is not None:
            self._lost(reason)
            return
        if self.stalled and isinstance(wire, Http1) and wire.answered:
            self._want(select.EPOLLRDHUP)

    def flush(self) -> None:
        """Write what waits, as far as the socket takes it."""
        tls, output = self._tls, self.wire.output
        if tls is None or self.phase is not _Phase.UP:
            return
        while output or self._pending:
            if not self._pending:
                self._pending = bytes(output[:WRITE_BYTES])
                del output[:WRITE_BYTES]
            try:
                self._pending = self._pending[tls.send(self._pending) :]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._want(_READ | _WRITE)
                return
            except OSError as error:
                self._lost(f"closed: {error.strerror or error}")
                return
        if self._mask & _WRITE:
            self._want(_READ)

    def _want(self, mask: int) -> None:
        if mask != self._mask:
            self._mask = mask
            self.worker.epoll.modify(self.number, mask)

    @property
    def is_settled(self) -> bool:
        """Ready for requests, or failed."""
        return self.phase is _Phase.CLOSED or self.was_up

    @property
    def was_up(self) -> bool:
        """Whether it has come as far as to be ready for requests."""
        return (
            self.wire.ready and self._tls is not None and self.phase in (_Phase.UP, _Phase.CLOSED)
        )

    # -- going

    @property
    def wire_bytes(self) -> int:
        """What came over TCP so far."""
        if self._sock is None or self.phase is _Phase.CLOSED:
            return 0
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.stop)
        return int.from_bytes(info[_BYTES_RECEIVED], sys.byteorder)

    def give_up(self, reason: str) -> None:
        """Wait no more for what has not come."""
        if self.phase is _Phase.UP and self.wire.ready:
            self.wire.give_up(reason)
            self.flush()
        elif self.phase is not _Phase.CLOSED:
            self._lost(f"connect: {reason}")

    def _lost(self, reason: str) -> None:
        self.wire.closed(reason)
        for tab in self.tabs:
            if self.worker.tabs.states[tab] == Tab.NEW:
                self.worker.tabs.ended(tab, reason)
        self.close()

    def close(self) -> None:
        """Close the socket, without a word."""
        if self.phase is _Phase.CLOSED:
            return
        self.worker.closed_bytes += self.wire_bytes
        self.phase = _Phase.CLOSED
        self.worker.connections_by_number.pop(self.number, None)
        if self._sock is not None:
            self._sock.close()  # epoll forgets it


@final
class _Worker:
    """The loop and what it works on."""

    def __init__(
        self, host: str, port: int, protocol: str, path: str, number: int, cafile: str | None
    ) -> None:
        self.host = host
        self.tabs = Tabs()
        self.epoll = select.epoll()
        self.connections: list[_Connection] = []
        self.connections_by_number: dict[int, _Connection] = {}
        self.records = 0
        self.closed_bytes = 0
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.family, self.address = found[0], found[4]
        self.context = ssl.create_default_context(cafile=cafile)
        if cafile is None:
            self.context.check_hostname = False
            self.context.verify_mode = ssl.CERT_NONE
        self.context.set_alpn_protocols([protocol])
        self._number = number
        self._made = 0
        self._protocol = protocol
        self._path = path
        self._authority = f"{host}:{port}"
        self._memory1, self._memory2 = http1.Memory(), http2.Memory()
        self._tasks: dict[int, Task] = {}
        self._input = b""
        self._began = (time.process_time(), monotonic_ns())
        self._flowed = self._began
        self._base_bytes = 0
        self._connected = (0, 0, 0)  # how many, from when to when
        self._commands: dict[str, Callable[..., Task]] = {
            "connect": self._connect,
            "open": self._open,
            "grow": self._grow,
            "begin": self._begin,
            "finish": self._finish,
            "drop": self._drop,
            "reopen": self._reopen,
            "progress": self._progress,
        }

    def wire(self, stalled: bool) -> Http2 | Http1:
        """The protocol of a new connection."""
        if self._protocol == "h2":
            return Http2(self.tabs, self._memory2, self._authority, self._path, stalls=stalled)
        return Http1(self.tabs, self._memory1, self._authority, self._path)

    def source(self) -> str | None:
        """The address that the next connection comes from: on loopback, several."""
        if self.family != socket.AF_INET or not str(self.address[0]).startswith("127."):
            return None
        block = self._made // CONNECTIONS_PER_ADDRESS
        self._made += 1
        return f"127.0.{1 + self._number % 250}.{1 + block % 250}"

    # -- the loop

    def run(self) -> None:
        """Until stdin ends."""
        os.set_blocking(0, False)
        self.epoll.register(0, select.EPOLLIN)
        by_number = self.connections_by_number
        while True:
            delivered = self.tabs.delivered
            for number, mask in self.epoll.poll(STEP_SECONDS if self._tasks else -1, 1024):
                if connection := by_number.get(number):
                    connection.happened(mask)
                elif number == 0 and not self._hear():
                    return
            if self.tabs.delivered != delivered:
                self._flowed = (time.process_time(), monotonic_ns())
            for task in list(self._tasks):
                self._step(task)

    def _hear(self) -> bool:
        data = os.read(0, 1 << 20)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            number, name = command.pop("number"), command.pop("do")
            self._tasks[number] = self._commands[name](**command)
        return bool(data)

    def _step(self, number: int) -> None:
        try:
            next(self._tasks[number])
        except StopIteration as stop:
            del self._tasks[number]
            print(json.dumps({"number": number, "answer": asdict(stop.value)}), flush=True)

    # -- commands

    def _make(self, plan: list[tuple[int, int]]) -> list[_Connection]:
        """Connections, each of some tabs of which the first few are to stall."""
        made = []
        for tabs, stalled in plan:
            new = self.tabs.add(tabs)
            self.tabs.stalls[new.start : new.start + stalled] = True
            made.append(_Connection(self, list(new), stalled > 0))
        self.connections += made
        return made

    def _connect(self, plan: list[tuple[int, int]], limit: float) -> Task:
        """Connections that do not ask for anything yet."""
        yield from self._raise(self._make(plan), limit, None)
        return Done()

    def _open(
        self,
        plan: list[tuple[int, int]],
        connect_limit: float,
        limit: float,
        last_event_id: str,
    ) -> Task:
        """The tabs of all connections that are up; those of `plan` as soon as each is up."""
        began = monotonic_ns()
        last_id = last_event_id.encode()
        self._request(self.connections, last_id)
        yield from self._raise(self._make(plan), connect_limit, last_id)
        return (yield from self._answers(began, limit))

    def _raise(
        self, made: list[_Connection], limit: float, last_id: bytes | None, spread: float = 0.0
    ) -> Generator[None, None, None]:
        """Bring connections up, a few at a time, their beginnings spread over some time.

        With a `last_id` (which may be empty) each asks for its tabs as soon as it is up.
        """
        if not made:
            return
        queue = deque(made)
        under_way: list[_Connection] = []
        began = ended = monotonic_ns()
        while queue or under_way:
            now = monotonic_ns()
            if now > began + int((limit + spread) * 1e9):
                for connection in (*queue, *under_way):
                    connection.give_up(f"not up in {limit:g} s")
                break
            while queue and len(under_way) < HANDSHAKES:
                if now < began + int((1 - len(queue) / len(made)) * spread * 1e9):
                    break
                connection = queue.popleft()
                connection.connect()
                under_way.append(connection)
            yield
            settled = [each for each in under_way if each.is_settled]
            if settled:
                ended = monotonic_ns()
                under_way = [each for each in under_way if not each.is_settled]
                if last_id is not None:
                    self._request(settled, last_id)
        self._connected = (sum(each.was_up for each in made), began, ended)

    def _request(self, connections: list[_Connection], last_id: bytes) -> None:
        """Ask for all tabs that were not asked for yet."""
        for connection in connections:
            tabs = [each for each in connection.tabs if self.tabs.states[each] == Tab.NEW]
            if tabs and connection.phase is _Phase.UP:
                connection.wire.ask(tabs, last_id, monotonic_ns())
                connection.flush()

    def _answers(self, since: int, limit: float) -> Generator[None, None, Asked]:
        """Wait until each tab that was asked for is open or failed."""
        tabs = self.tabs
        began, look = monotonic_ns(), 0
        while monotonic_ns() < began + int(limit * 1e9):
            if monotonic_ns() > look:
                if not (tabs.state == Tab.ASKED).any():
                    break
                look = monotonic_ns() + LOOK_NS // 10
            yield
        else:
            for connection in self.connections:
                connection.give_up(f"no answer in {limit:g} s")
        now_open = (tabs.opened_at >= since) & (tabs.asked_at >= since)
        opened_at, asked_at = tabs.opened_at[now_open], tabs.asked_at[now_open]
        failures, tabs.failures = dict(tabs.failures), type(tabs.failures)()
        self.connections = [each for each in self.connections if each.phase is _Phase.UP]
        (connections, connect_began, connect_ended), self._connected = self._connected, (0, 0, 0)
        return Asked(
            connections=connections,
            connect_began=connect_began,
            connect_ended=connect_ended,
            standing=len(self.connections),
            began=int(asked_at.min(initial=began)),
            ended=int(opened_at.max(initial=began)),
            waits=((opened_at - asked_at) // 1000).tolist(),
            failures=failures,
        )

    def _grow(self, tabs: int, limit: float) -> Task:
        """More tabs on the connections that are up, evenly."""
        up = [each for each in self.connections if each.phase is _Phase.UP]
        began = monotonic_ns()
        for number, connection in enumerate(up):
            share = tabs * (number + 1) // len(up) - tabs * number // len(up)
            connection.tabs += self.tabs.add(share)
        if not up:
            for tab in self.tabs.add(tabs):
                self.tabs.ended(tab, "no connection")
        self._request(up, b"")
        return (yield from self._answers(began, limit))

    def _begin(self) -> Task:
        self.tabs.begin()
        self.records = 0
        self._base_bytes = self._wire_bytes()
        self._began = self._flowed = (time.process_time(), monotonic_ns())
        return Done()
        yield

    def _finish(self, first: int, last: int, patience: float, limit: float) -> Task:
        """Wait for what the living tabs lack, while anything comes; then the counts."""
        tabs = self.tabs
        began = monotonic_ns()
        seen, moved, look = tabs.delivered, began, 0
        while (now := monotonic_ns()) < began + int(limit * 1e9):
            if tabs.delivered != seen:
                seen, moved = tabs.delivered, now
            if now >= look:
                behind, lacking = tabs.waiting(first, last)
                if not lacking or now - moved > patience * 1e9:
                    break
                if not behind and now - moved > min(patience * 1e9, GRACE_NS):
                    break
                look = monotonic_ns() + LOOK_NS
            yield
        tally = tabs.tally(first, last)
        return Finished(
            **asdict(tally),
            latency=sorted(tabs.latency.items()),
            bytes=self._wire_bytes() - self._base_bytes,
            records=self.records,
            cpu_seconds=self._flowed[0] - self._began[0],
            seconds=(self._flowed[1] - self._began[1]) / 1e9,
            ended=dict(tabs.ends),
        )

    def _wire_bytes(self) -> int:
        return self.closed_bytes + sum(each.wire_bytes for each in self.connections)

    def _drop(self) -> Task:
        for connection in self.connections:
            self.tabs.drop(connection.tabs)
            connection.close()
        return Done()
        yield

    def _reopen(self, connect_limit: float, limit: float, spread: float) -> Task:
        """The dropped tabs again, each where it was, on as many connections."""
        made = []
        for connection in self.connections:
            mine = [each for each in connection.tabs if self.tabs.states[each] == Tab.DROPPED]
            if mine:
                self.tabs.state[mine] = Tab.NEW
                made.append(_Connection(self, mine, connection.stalled))
        self.connections = made
        began = monotonic_ns()
        yield from self._raise(made, connect_limit, b"", spread)
        return (yield from self._answers(began, limit))

    def _progress(self) -> Task:
        return Progress(self.tabs.open, self.tabs.delivered)
        yield


def main(arguments: list[str]) -> None:
    """Run a client process."""
    # Ctrl-C is the runner's: it closes our stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, port, protocol, path, number, *cafile = arguments
    _Worker(host, int(port), protocol, path, int(number), cafile[0] if cafile else None).run()


if __name__ == "__main__":
    main(sys.argv[1:])
