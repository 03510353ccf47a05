"""Floods: what costs a stream at most when sent once, in numbers that cost the connection.

Each has the reason that the server gives for the connection's end.

`tests/test_hostile.py` sends each once, `benchmarks/attacks.py` without end.  What makes them takes
any connection that counts its streams and keeps its header table, so both have the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

__all__ = ["EVENTS", "FLOODS", "Asker", "Build", "malformed_requests"]

# The topic that honest tabs listen to, too.
EVENTS = "/events?topic=a"

# RFC 9113 6.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
MAX_WINDOW = 2**31 - 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Numbered(Protocol):
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
    ) -> tuple[Numbered, bytes]:
        """The next stream, and the bytes that would open it."""


Build: TypeAlias = Callable[[Asker], list[bytes]]


# -- frames


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def settings(values: Mapping[int, int]) -> bytes:
    pairs = (name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values.items())
    return frame(SETTINGS, 0, 0, b"".join(pairs))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def reset(stream: int) -> bytes:
    return frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big"))


def requests(asker: Asker, number: int, *fields: tuple[str, str]) -> list[tuple[int, bytes]]:
    """So many requests for events, as stream and bytes."""
    made = [asker.request(EVENTS, *fields) for _ in range(number)]
    return [(stream.id, data) for stream, data in made]


def body_without_end(asker: Asker) -> tuple[int, bytes]:
    """A POST whose body is to follow, as stream and bytes."""
    stream, data = asker.request("/publish", method="POST", body=b"")
    return stream.id, data[:4] + bytes((END_HEADERS,)) + data[5 : len(data) - 9]


# -- floods


def _rapid_resets(asker: Asker) -> list[bytes]:
    return [data + reset(stream) for stream, data in requests(asker, 60)]


def _rapid_resets_by_two(asker: Asker) -> list[bytes]:
    made = requests(asker, 60)
    return [data for _, data in made] + [reset(stream) for stream, _ in made]


def _resets_of_nothing(asker: Asker) -> list[bytes]:
    ((stream, data),) = requests(asker, 1)
    return [data, *[reset(stream)] * 110]


def malformed_requests(asker: Asker) -> list[bytes]:
    """Requests with a control byte in a value."""
    return [data for _, data in requests(asker, 60, ("x", "a\x01"))]


# RFC 9113 8.2 and 8.3, in the order of their text.
_MALFORMED = (
    ("Upper", "x"),
    ("a b", "x"),
    ("x", " y"),
    ("x", "a\nb"),
    ("connection", "close"),
    ("transfer-encoding", "chunked"),
    ("te", "gzip"),
    (":unknown", "x"),
    (":path", "/"),
    ("content-length", "x"),
)


def _malformed_fields(asker: Asker) -> list[bytes]:
    return [data for field in _MALFORMED * 6 for _, data in requests(asker, 1, field)]


def _bodies_of_another_length(asker: Asker) -> list[bytes]:
    made = (
        asker.request("/publish", ("content-length", "5"), method="POST", body=b"x")
        for _ in range(60)
    )
    return [data for _, data in made]


def _windows_that_overflow(asker: Asker) -> list[bytes]:
    return [data + window_update(stream, MAX_WINDOW) for stream, data in requests(asker, 60)]


def _windows_of_nothing(asker: Asker) -> list[bytes]:
    return [data + window_update(stream, 0) for stream, data in requests(asker, 60)]


def _data_after_the_end(asker: Asker) -> list[bytes]:
    return [data + frame(DATA, 0, stream, bytes(40)) for stream, data in requests(asker, 60)]


def _data_on_a_reset_stream(asker: Asker) -> list[bytes]:
    ((stream, data),) = requests(asker, 1)
    return [data, reset(stream), *[frame(DATA, 0, stream, bytes(40))] * 60]


def _sections_too_large(asker: Asker) -> list[bytes]:
    return [data for _, data in requests(asker, 6, *[("a", "b")] * 200)]


def _on_an_open_body(kind: int, payload: bytes, number: int) -> Build:
    def build(asker: Asker) -> list[bytes]:
        stream, opening = body_without_end(asker)
        return [opening, *[frame(kind, 0, stream, payload)] * number]

    return build


def _repeated(data: bytes, number: int) -> Build:
    return lambda _: [data] * number


FLOODS: dict[str, tuple[Build, str]] = {
    "PING": (_repeated(frame(PING, 0, 0, bytes(8)), 101), "too many PING frames"),  # CVE-2019-9512
    "PING answers": (_repeated(frame(PING, ACK, 0, bytes(8)), 101), "too many PING frames"),
    "PRIORITY": (  # CVE-2019-9513
        _repeated(frame(PRIORITY, 0, 1, bytes(5)), 101),
        "too many PRIORITY frames",
    ),
    "WINDOW_UPDATE": (_repeated(window_update(0, 1), 101), "too many WINDOW_UPDATE frames"),
    "RST_STREAM": (_resets_of_nothing, "too many RST_STREAM frames"),
    "GOAWAY": (_repeated(frame(GOAWAY, 0, 0, bytes(8)), 101), "too many GOAWAY frames"),
    "unknown frames": (_repeated(frame(0xBB, 0, 0), 101), "too many unknown frames"),
    # CVE-2019-9518.
    "empty DATA": (_on_an_open_body(DATA, b"", 110), "too many short DATA frames"),
    "DATA of a byte": (_on_an_open_body(DATA, b"x", 110), "too many short DATA frames"),
    "SETTINGS": (_repeated(settings({}), 6), "too many SETTINGS frames"),  # CVE-2019-9515
    "rapid resets": (_rapid_resets, "too many requests given up"),  # CVE-2023-44487
    "rapid resets, by two": (_rapid_resets_by_two, "too many requests given up"),
    # CVE-2025-8671, CVE-2019-9514: what makes us reset.
    "malformed requests": (malformed_requests, "too many requests given up"),
    "malformed fields": (_malformed_fields, "too many requests given up"),
    "bodies of another length": (_bodies_of_another_length, "too many requests given up"),
    "windows that overflow": (_windows_that_overflow, "too many requests given up"),
    "windows of nothing": (_windows_of_nothing, "too many requests given up"),
    "DATA after the end": (_data_after_the_end, "too many requests given up"),
    "DATA on a reset stream": (_data_on_a_reset_stream, "too many requests given up"),
    "sections too large": (_sections_too_large, "too many requests given up"),
}
