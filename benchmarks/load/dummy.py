"""A small server with known faults: `python -m benchmarks.load.dummy --cert FILE --key FILE`.

What it does wrong is what the load client must report, to the event.  It speaks HTTP/1.1 and
HTTP/2 (the h2 library) over TLS, answers `GET /events` with an event stream and `POST /publish`
once every tab has been given the event, and need not be fast.

The faults happen to one tab, the first to open (and, once that has gone, the next one that opens):
`--lose N` leaves out every Nth event, `--double N` sends every Nth twice, `--swap N` sends every
Nth only after the one that follows it.  `--delay-ms` holds every event back, for all tabs.  An
event's number is how many were published before it, plus one.
"""

from __future__ import annotations

import argparse
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, final
from urllib.parse import parse_qs

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import trio

__all__ = ["Dummy", "Faults", "serve"]

_Stream: TypeAlias = "trio.SSLStream[trio.SocketStream]"
_READ_BYTES = 64 * 1024
_OPENING = b"retry: 3000\n\n"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What to do wrong; 0 is never."""

    delay_seconds: float = 0.0
    lose: int = 0
    double: int = 0
    swap: int = 0

    def of(self, number: int, held: bytes, payload: bytes) -> tuple[bytes, bytes]:
        """What the victim is sent for an event, and what is held back until the next."""
        if self.lose and number % self.lose == 0:
            return held, b""
        if self.double and number % self.double == 0:
            return payload * 2 + held, b""
        if self.swap and number % self.swap == 0:
            return held, payload
        return payload + held, b""


@final
class Dummy:
    """The tabs: what writes to each one."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._tabs: list[Callable[[bytes], None]] = []
        self._victim: Callable[[bytes], None] | None = None
        self._published = 0
        self._held = b""

    def join(self, tab: Callable[[bytes], None]) -> None:
        """A tab has opened; `tab` queues bytes for it."""
        self._tabs.append(tab)
        if self._victim is None:
            self._victim, self._held = tab, b""

    def leave(self, tab: Callable[[bytes], None]) -> None:
        """A tab has gone."""
        self._tabs.remove(tab)
        if self._victim is tab:
            self._victim = None

    async def publish(self, form: bytes) -> None:
        """Give an event to every tab."""
        (data,) = parse_qs(form.decode())["data"]
        self._published += 1
        payload = f"id: {self._published}\ndata: {data}\n\n".encode()
        await trio.sleep(self._faults.delay_seconds)
        faulty, self._held = self._faults.of(self._published, self._held, payload)
        for tab in self._tabs:
            tab(faulty if tab is self._victim else payload)


async def _write(stream: _Stream, outgoing: trio.MemoryReceiveChannel[bytes]) -> None:
    async for data in outgoing:
        await stream.send_all(data)


async def _http2(dummy: Dummy, stream: _Stream, write: Callable[[bytes], None]) -> None:
    machine = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    machine.local_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 1_000
    machine.initiate_connection()
    tabs: dict[int, Callable[[bytes], None]] = {}
    paths: dict[int, str] = {}
    bodies: dict[int, bytes] = {}

    def send(number: int, payload: bytes) -> None:
        machine.send_data(number, payload)
        write(machine.data_to_send())

    def leave(number: int) -> None:
        if tab := tabs.pop(number, None):
            dummy.leave(tab)

    try:
        while True:
            write(machine.data_to_send())
            for event in machine.receive_data(await stream.receive_some(_READ_BYTES)):
                match event:
                    case h2.events.RequestReceived():
                        path = paths[event.stream_id] = str(dict(event.headers)[b":path"], "ascii")
                        if path.startswith("/events"):
                            fields = [(":status", "200"), ("content-type", "text/event-stream")]
                            machine.send_headers(event.stream_id, fields)
                            machine.send_data(event.stream_id, _OPENING)
                            tabs[event.stream_id] = partial(send, event.stream_id)
                            dummy.join(tabs[event.stream_id])
                    case h2.events.DataReceived():
                        bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
                        machine.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                    case h2.events.StreamEnded() if event.stream_id not in tabs:
                        if paths.pop(event.stream_id) == "/publish":
                            await dummy.publish(bodies.pop(event.stream_id))
                        machine.send_headers(event.stream_id, [(":status", "204")], end_stream=True)
                    case h2.events.StreamReset():
                        leave(event.stream_id)
                    case h2.events.ConnectionTerminated():
                        return
                    case _:
                        pass
    finally:
        for number in list(tabs):
            leave(number)


async def _http1(dummy: Dummy, stream: _Stream, write: Callable[[bytes], None]) -> None:
    def send(payload: bytes) -> None:
        write(b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b"")

    async def more() -> bytes:
        data = await stream.receive_some(_READ_BYTES)
        if not data:
            raise trio.BrokenResourceError
        return bytes(data)

    rest = b""
    while True:
        while b"\r\n\r\n" not in rest:
            rest += await more()
        head, _, rest = rest.partition(b"\r\n\r\n")
        request, *lines = head.split(b"\r\n")
        parted = (line.partition(b": ") for line in lines)
        fields = {name.lower(): value for name, _, value in parted}
        size = int(fields.get(b"content-length", b"0"))
        while len(rest) < size:
            rest += await more()
        body, rest = rest[:size], rest[size:]
        if request.startswith(b"GET /events"):
            write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
            write(b"Transfer-Encoding: chunked\r\n\r\n")
            send(_OPENING)
            dummy.join(send)
            try:
                while True:
                    await more()
            finally:
                dummy.leave(send)
        if request.startswith(b"POST /publish"):
            await dummy.publish(body)
        write(b"HTTP/1.1 204 No Content\r\n\r\n")


async def _handle(dummy: Dummy, stream: _Stream) -> None:
    # Unbounded: what the clients of a measurement are sent is bounded by the measurement.
    write, outgoing = trio.open_memory_channel[bytes](2**30)
    try:
        async with stream, trio.open_nursery() as nursery:
            await stream.do_handshake()
            nursery.start_soon(_write, stream, outgoing)
            protocol = _http2 if stream.selected_alpn_protocol() == "h2" else _http1
            await protocol(dummy, stream, write.send_nowait)
            nursery.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError, h2.exceptions.ProtocolError):
        pass  # the client has gone


async def serve(
    faults: Faults,
    cert: Path,
    key: Path,
    port: int = 0,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on 127.0.0.1, and start with the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    dummy = Dummy(faults)

    async def handle(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await _handle(dummy, tls)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, listeners)
        task_status.started(listeners[0].socket.getsockname()[1])


def main() -> None:
    """Serve until interrupted; the port is the first line of output, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.dummy")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--lose", type=int, default=0, metavar="N")
    parser.add_argument("--double", type=int, default=0, metavar="N")
    parser.add_argument("--swap", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    faults = Faults(
        delay_seconds=arguments.delay_ms / 1000,
        lose=arguments.lose,
        double=arguments.double,
        swap=arguments.swap,
    )

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            serving = partial(serve, faults, arguments.cert, arguments.key, arguments.port)
            port: int = await nursery.start(serving)
            print(json.dumps({"port": port}), flush=True)

    try:
        trio.run(run)
    except* KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
