"""An `Http2` with its client's requests beside it, without sockets."""

from __future__ import annotations

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from h2sse.config import Limits
from h2sse.http2 import Http2
from h2sse.wire import Request

# What Chromium 156 sends with an EventSource.
_FIELDS = (
    (b":method", b"GET"),
    (b":authority", b"localhost:8443"),
    (b":scheme", b"https"),
    (b":path", b"/events?topic=news"),
    (b"sec-ch-ua-platform", b'"Linux"'),
    (b"cache-control", b"no-cache"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0.0.0"),
    (b"accept", b"text/event-stream"),
    (b"sec-fetch-site", b"same-origin"),
    (b"sec-fetch-mode", b"cors"),
    (b"sec-fetch-dest", b"empty"),
    (b"referer", b"https://localhost:8443/"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"accept-language", b"en-US,en;q=0.9"),
)
RESPONSE_FIELDS = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"))
FIRST = b"retry: 3000\nid: 0123456789-0\n\n"
LIMITS = Limits(max_concurrent_streams=1_000_000)


def opening_bytes(streams: int) -> bytes:
    """A client's preface, SETTINGS as Chromium's, and its requests."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
    client.remote_settings.acknowledge()
    client.initiate_connection()
    client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 6_291_456})
    client.increment_flow_control_window(2**30)
    for number in range(streams):
        stream = 2 * number + 1
        client.send_headers(stream, _FIELDS, end_stream=True)
        del client.streams[stream]  # it would count all of them for each
    return client.data_to_send()


def opened(data: bytes) -> tuple[Http2, list[int]]:
    """An `Http2` that has answered every request with an event stream."""
    wire = Http2(LIMITS)
    streams = []
    for event in wire.receive(data, 0.0):
        assert isinstance(event, Request)
        wire.open(event.stream, RESPONSE_FIELDS, FIRST)
        streams.append(event.stream)
    while wire.take_output():
        pass
    wire.take_events()
    return wire, streams
