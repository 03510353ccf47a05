"""What can be set, with the reason beside each default.

Three frozen values: `Limits` (every bound there is), `Tls` (where certificates come from) and
`Config` (the rest, and those two).  They check themselves when made, so whatever holds one may
trust it; a bad value raises `ConfigError`, one line that names the setting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import final

from .errors import ConfigError

__all__ = ["Config", "Limits", "Tls", "Topics"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound, each with its unit in its name.  None may be 0 or less."""

    # -- how long we wait for a peer, in seconds.  Checked once a second.

    # The TLS handshake: two round trips and a signature.  Go gives 10 s as well.  What a peer waits
    # for its turn, when thousands come at once, does not count.
    handshake_seconds: float = 10
    # From the first byte of a connection or request until its header section is whole.
    request_seconds: float = 10
    # From the header section until the body is whole; the largest at 13 KB/s.
    body_seconds: float = 30
    # A connection without requests or streams.  Chromium pings after 10 s, Firefox after 58 s.
    idle_seconds: float = 60
    # A peer that stands still though something waits for it: window closed, socket full.  It moves
    # when in that time it takes so many bytes, or all that waited: by a byte now and then it would
    # hold the rest for ever.  Go's client gives its window back by as little, others by far more
    # at once; a phone on 2G takes it in two seconds.  Not longer, as a socket is full only when
    # some 100 KB wait in it: by then whoever reads nothing has held it for a while already.
    stall_seconds: float = 30
    stall_bytes: int = 4 * 1024
    # An HTTP/2 connection with streams and no input: then it is sent a PING.  A heartbeat goes out
    # every 15 s, and nothing comes back for it; 10,000 idle connections cost 2 % of a core so.
    probe_seconds: float = 20
    # For the PING's answer, or anything else: a phone that changes networks takes some seconds.
    probe_answer_seconds: float = 20
    # What HTTP/1.1 has instead, TCP_USER_TIMEOUT: bytes (the heartbeats) that nobody acknowledges,
    # or a receive window of zero.  Three retransmissions and more fit into it.
    unacknowledged_seconds: float = 30
    # A handler of the application.
    handler_seconds: float = 30
    # After SIGTERM: for streams to end and responses to go out.
    drain_seconds: float = 5
    # Tabs we end all at once are told reconnection times of which so many fall into each second: a
    # handshake costs a millisecond, a stream 0.1 ms, and half of a core is left for who is there.
    returns_per_second: float = 500
    # Then a connection ends as if the server went, give or take a tenth; its tabs come back and
    # resume.  So none stays for ever with an old certificate, or where a balancer put it long ago.
    connection_age_seconds: float = 86_400
    # After the last word: for the peer to read it before its unread input would reset the socket.
    linger_seconds: float = 2

    # -- what a peer may ask for

    # TLS records that carry no data (key updates, RFC 8446 4.6.3), at a stretch.  Nobody has a use
    # for 2,400 of them; Go bears 16 records.  One with data may take a quarter of this.
    tls_idle_bytes: int = 64 * 1024
    # Decoded names and values and 32 bytes a field (RFC 9113 6.5.2); hyper's bound.
    header_list_bytes: int = 16 * 1024
    # Browsers send some 20; cookie crumbs (RFC 9113 8.2.3) count each.
    header_fields: int = 100
    # CONTINUATION frames a header section; nghttp2's bound.  16 KiB fit into one HEADERS frame.
    continuation_frames: int = 8
    # An encoded header section.  Up to 64 KiB decoded are answered with 431; no encoder makes more
    # of less, but a flood of empty pieces and table-size updates would.
    header_block_bytes: int = 64 * 1024
    # One character outside the BMP, an emoji, makes Python take four bytes for each of a text, and
    # JSON is there twice: 4 MiB for a moment.  With a backlog and a history that are full to their
    # bounds that is just below the 10 MiB that one connection is to cost at the most.
    body_bytes: int = 384 * 1024
    # A published event on its streams.  Each line of its data has its own `data: ` there, so that a
    # body of line breaks would grow sevenfold.
    event_bytes: int = 2 * 1024 * 1024
    # All unfinished bodies of a connection together.
    connection_body_bytes: int = 1024 * 1024
    # The same for all connections together, 170 bodies at their bound.  Past this those begun first
    # are refused: a publisher's takes milliseconds, one held to fill the memory `body_seconds`.
    total_body_bytes: int = 64 * 1024 * 1024
    # Topics in one request; a page that needs more wants one topic for all of them.
    topics_per_request: int = 32
    # A topic's name, in UTF-8.
    topic_bytes: int = 256
    # SETTINGS_MAX_CONCURRENT_STREAMS.  Chromium uses 256 at the most, whatever is advertised.
    max_concurrent_streams: int = 256
    # After this stream a connection is told to go (GOAWAY), keeps its streams and gets no new ones:
    # half of the ids there are, so that a client is never at the end of them (RFC 9113 5.1.1).
    stream_id: int = 2**30

    # -- how often, of frames that cost us more than their sender: so many at once, and then so many
    # a second.  Past that the connection ends.  guard.py says which frame counts as what.

    # Requests given up before their answer is out, by either side, 75 us each.  EventSource.close()
    # of an open tab is none of these: Chromium closes 500 a second, and none counts.
    resets: int = 500
    resets_per_second: float = 100
    # Frames that carry next to nothing (PING, PRIORITY, WINDOW_UPDATE, short DATA, unknown ones),
    # 2 to 25 us each.  Each request earns four, each 32 bytes of DATA we sent one WINDOW_UPDATE.
    # Firefox may reprioritise 256 tabs at a time.
    small_frames: int = 1_000
    small_frames_per_second: float = 100
    # SETTINGS frames: each moves the windows of all streams.  Browsers send one or two in all.
    settings_frames: int = 20
    settings_frames_per_minute: float = 10
    # Entries of one SETTINGS frame.  There are eight; clients that send eleven have been met.
    settings_entries: int = 32

    # -- how many connections

    # Connections in all.  An idle one costs about 40 KB.
    connections: int = 20_000
    # Connections from one client address, loopback excepted: proxies and load tests live there.
    # A browser opens one or two (or six, HTTP/1.1); this allows an office behind one address.
    connections_per_address: int = 1_000

    # -- what may wait for a peer

    # Unsent events of a tab: at 200 bytes an event, more than a minute of 20 events/s.  Past this
    # the tab is ended, and its EventSource reconnects and resumes: slow readers cost themselves.
    tab_backlog_bytes: int = 256 * 1024
    # The same for all tabs of a connection together, counted as if none were shared: an event of
    # 160 bytes for 25,000 that stand still, sixteen tabs at their bound.
    connection_backlog_bytes: int = 4 * 1024 * 1024
    # The same for all connections of an app together; past this the largest backlogs end first.  A
    # thousand tabs at their bound; a tenth of that in truth where they wait for the same events.
    total_backlog_bytes: int = 256 * 1024 * 1024
    # Answers to a peer that sends but does not read (PING and SETTINGS floods): past this we stop
    # reading from it.
    unsent_control_bytes: int = 256 * 1024

    # What the kernel may hold of a connection beyond what is on its way (TCP_NOTSENT_LOWAT): else
    # 4 MB of backlog would stand before the answer to a PING, and in memory.
    unsent_kernel_bytes: int = 128 * 1024

    # -- what a topic remembers, so that tabs can resume

    history_events: int = 1_000
    # As Python keeps them: 256 an event more than it has on the wire.
    history_bytes: int = 2 * 1024 * 1024
    history_seconds: float = 3_600
    # Topics that remember at all; past this one is forgotten.  First those that no tab has listened
    # to, then the one published to longest ago.
    history_topics: int = 10_000
    # Topics that no tab has listened to, together: nobody is there to resume.  What is published
    # just before the first tab comes, half an hour of an event a second, fits.
    history_unheard_bytes: int = 1024 * 1024
    # All topics together; past this, likewise.  7,500 events of 160 bytes.  Whoever may
    # publish can fill it, from one connection, which is to cost less than 10 MiB: where only your
    # own code publishes, give it what you have.
    history_total_bytes: int = 3 * 1024 * 1024

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            kind = int if each.type == "int" else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < 2**31:
                what = "a whole number" if kind is int else "a number"
                raise ConfigError(f"limits.{each.name} must be {what} above 0, not {value!r}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Where the certificate comes from.

    `cert` and `key` are PEM files (the chain, leaf first, and its key).  With neither, a
    development CA and certificate are kept in `directory`.
    """

    cert: Path | None = None
    key: Path | None = None
    directory: Path = Path("certs")

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            missing, given = ("key", "cert") if self.key is None else ("cert", "key")
            raise ConfigError(f"tls.{missing} is missing: {given} and {missing} go together")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Topics whose slow readers lose events rather than their stream; `*` ends a prefix.

    Of those of `drop_oldest` the oldest events that wait make room, and a tab is told so in-band;
    of those of `latest` the newest event of each name is kept.
    """

    drop_oldest: tuple[str, ...] = ()
    latest: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, topics in (("drop_oldest", self.drop_oldest), ("latest", self.latest)):
            if not all(topics):
                raise ConfigError(f"topics.{name} must not list an empty name; `*` is all topics")
        if twice := sorted(set(self.drop_oldest) & set(self.latest)):
            raise ConfigError(f"topics.latest and topics.drop_oldest both list {twice[0]!r}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One listener.

    `port` 0 takes a free one.  With `reuse_port` (SO_REUSEPORT) several processes of one user may
    listen at one port, each for a share of the connections.  `http1` serves HTTP/1.1 only.
    `cors_origins` are the origins whose pages may read and publish, each like
    "https://app.example"; "*" allows all, without credentials.  `heartbeat_seconds` is how long a
    stream may be quiet (HTML 9.2.7 suggests 15).
    Each tab is told a reconnection time drawn from `retry_ms` +- `retry_spread` (a fraction), so
    that tabs which were dropped together do not come back together.
    """

    host: str = "localhost"
    port: int = 8443
    reuse_port: bool = False
    http1: bool = False
    cors_origins: tuple[str, ...] = ()
    heartbeat_seconds: float = 15
    retry_ms: int = 3_000
    retry_spread: float = 0.3
    tls: Tls = field(default_factory=Tls)
    topics: Topics = field(default_factory=Topics)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("host must not be empty; '::' listens on every address")
        if type(self.port) is not int or not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be 0 to 65535, not {self.port!r}")
        if not _is_number(self.heartbeat_seconds) or not 0 < self.heartbeat_seconds < 2**31:
            raise ConfigError(f"heartbeat_seconds must be above 0, not {self.heartbeat_seconds!r}")
        if type(self.retry_ms) is not int or not 0 < self.retry_ms <= 3_600_000:
            raise ConfigError(f"retry_ms must be 1 to 3600000, not {self.retry_ms!r}")
        if not _is_number(self.retry_spread) or not 0 <= self.retry_spread < 1:
            raise ConfigError(f"retry_spread must be 0 to below 1, not {self.retry_spread!r}")
        for origin in self.cors_origins:
            _check_origin(origin)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# What a browser sends as Origin: no default port, hosts in punycode.
_ORIGIN = re.compile(
    r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
).fullmatch
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _check_origin(origin: str) -> None:
    if origin == "*":
        return
    scheme = origin.partition(":")[0]
    found = _ORIGIN(origin)
    port = int(found["port"] or 0) if found else 0
    if not found or port == _DEFAULT_PORTS[scheme] or port > 65535:
        raise ConfigError(
            f"cors_origins: {origin!r} is not an origin as browsers send it; write it like"
            " https://app.example:8443, in lower case, without path, slash or default port"
        )
