"""What a client bounds, with the reason beside each default."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import final

from h2sse.errors import ConfigError

__all__ = ["ClientLimits"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """Every bound of a `Client`, each with its unit in its name.  None may be 0 or less."""

    # -- how long we wait for a server, in seconds.  Past these the attempt has failed, and the
    # source tries again.

    # All addresses of a name, tried as RFC 8305 has it.
    connect_seconds: float = 10
    # TLS: two round trips and a signature; what our server gives, too.
    handshake_seconds: float = 10
    # From the request until the response's header section.  An event stream is answered before its
    # first event, so this is the time of an overloaded server, not of a quiet one.
    response_seconds: float = 30
    # One write of ours.  We send a few hundred bytes at a time: only a dead peer takes none.
    write_seconds: float = 10
    # A connection with streams on which nothing came for this long is asked for a sign of life.
    # Twice the 15 s at which servers send comments (HTML 9.2.7), so a healthy one is never asked.
    quiet_seconds: float = 30
    # ... and has this long to give it: a round trip, with all its queues full.
    ping_seconds: float = 10
    # A connection without streams is kept for the next source this long.
    idle_seconds: float = 60
    # After the last word: for the server to read it before our close would reset the connection.
    linger_seconds: float = 1

    # -- when we come back

    # Until the server says `retry` (HTML 9.2.3: "probably in the region of a few seconds").
    retry_seconds: float = 3
    # `retry: 0` is legal; a server that ends each stream at once would be asked without pause.
    min_retry_seconds: float = 0.1
    # The most that is ever added to the reconnection time after failed attempts.
    backoff_seconds: float = 60
    # Requests that the server certainly has not processed (RFC 9113 8.7) are sent again at once,
    # so often in a row; then they wait like others.
    prompt_retries: int = 3
    # Fetch, HTTP-redirect fetch, step 6.
    redirects: int = 20

    # -- what a server may send

    # A line that has not ended.  Four times what our server takes as an event.
    line_bytes: int = 4 * 1024 * 1024
    # The data of an event that has not ended, in characters.
    event_chars: int = 16 * 1024 * 1024
    # What may wait in a stream for its reader: 256 KiB a round trip of 50 ms are 5 MB/s.
    stream_window_bytes: int = 256 * 1024
    # All streams of a connection; it is given back on arrival, so nothing waits in it.
    connection_window_bytes: int = 4 * 1024 * 1024
    # Decoded names and values and 32 bytes a field (RFC 9113 6.5.2); half of it is common.
    header_list_bytes: int = 64 * 1024
    # CONTINUATION frames a header section; nghttp2's bound.
    continuation_frames: int = 8
    # Answers that a server has asked for (PING, SETTINGS) but does not read: past this we read no
    # more from it.
    unsent_bytes: int = 64 * 1024
    # Streams opened before the server has said its limit; RFC 9113 6.5.2 advises it to be no less.
    streams_until_told: int = 100

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            kind = int if each.type == "int" else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < 2**31:
                what = "a whole number" if kind is int else "a number"
                raise ConfigError(f"limits.{each.name} must be {what} above 0, not {value!r}")
        if self.connection_window_bytes < 65_535:
            # RFC 9113 6.9.2: it begins with that, and nothing can lower it.
            raise ConfigError("limits.connection_window_bytes must be 65535 or more")
