"""Writes seeds/: what fuzzing begins with, and what test_fuzz.py plays.

    python tests/fuzz/make_seeds.py

Each is a script (playing.py).  What a fuzzer found is not made here: it is kept in seeds/*/found-*.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from playing import EVERYTHING, Action, Script, Step

FOLDER: Final = Path(__file__).parent / "seeds"

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 4, 5


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    entries = (name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in pairs)
    return frame(SETTINGS, 0, 0, b"".join(entries))


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def reset(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def literal(name: bytes, value: bytes, kind: int = 0x40) -> bytes:
    """A field with its name spelt out (RFC 7541 6.2); 0x40 enters it into the table."""
    return bytes((kind, len(name))) + name + bytes((len(value),)) + value


# RFC 7541 A: :method GET, :method POST, :scheme https, :authority.
GET, POST, HTTPS, AUTHORITY = b"\x82", b"\x83", b"\x87", b"\x41\x01a"


def path(text: bytes) -> bytes:
    """Without an index: the decoder's memo answers for it the next time."""
    return bytes((0x04, len(text))) + text


def section(text: bytes, method: bytes = GET, more: bytes = b"") -> bytes:
    return method + HTTPS + AUTHORITY + path(text) + more


def request(stream: int, text: bytes, method: bytes = GET, more: bytes = b"") -> bytes:
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, section(text, method, more))


BEGIN = PREFACE + settings()
ACKNOWLEDGED = frame(SETTINGS, ACK)


def script(*parts: bytes | tuple[int, int]) -> bytes:
    """The peer's bytes, with an action (and its argument) after those that stand before it."""
    steps: list[Step] = []
    peer = b""
    pending = 0
    for part in parts:
        if isinstance(part, bytes):
            peer += part
            pending += len(part)
            continue
        while pending >= EVERYTHING:
            steps.append(Step(EVERYTHING - 1))
            pending -= EVERYTHING - 1
        steps.append(Step(pending, *part))
        pending = 0
    return Script(tuple(steps), peer).write()


NOW = (Action.REST, 0)


def http2() -> Iterator[tuple[str, bytes]]:
    yield "nothing", b""
    yield "preface", script(PREFACE, NOW)
    yield "preface-broken", script(PREFACE[:20] + b"XX\r\n" + settings(), NOW)
    yield "settings-missing", script(PREFACE + request(1, b"/t"), NOW)
    yield "text", script(BEGIN + ACKNOWLEDGED + request(1, b"/t"), NOW, request(3, b"/n"), NOW)
    yield (
        "events",
        script(
            BEGIN + request(1, b"/e") + request(3, b"/e"),
            *(NOW, (Action.PUBLISH, 3), (Action.PUBLISH_ALL, 9)),
            request(5, b"/e"),
            *((Action.PUBLISH, 0), (Action.FINISH, 0), (Action.PUBLISH, 6)),
            reset(5),
            *((Action.PUBLISH, 9), (Action.DRAIN, 0)),
            frame(PING, ACK, 0, b"h2ssebye"),
            (Action.FINISH, 0),
        ),
    )
    yield (
        "replay",
        script(
            BEGIN + request(1, b"/r") + request(3, b"/r"),
            *(NOW, (Action.PUBLISH_LARGE, 3), (Action.SEND, 4), (Action.BURST, 15)),
            window(0, 100_000) + window(1, 50_000),
            *(NOW, (Action.FINISH, 1)),
        ),
    )
    for name, letter in (("end", b"/e"), ("drop-oldest", b"/o"), ("latest", b"/l")):
        lane = "eol".index(letter[1:].decode())
        yield (
            f"behind-{name}",
            script(
                PREFACE + settings((INITIAL_WINDOW_SIZE, 40)),
                request(1, letter) + window(1, 60) + request(3, letter),
                *((Action.PUBLISH, lane), (Action.BURST, 12 + lane), (Action.PUBLISH, lane + 3)),
                window(1, 3_000),
                *((Action.BURST, 12 + lane), (Action.WAIT, 7), (Action.PUBLISH, lane + 6)),
                window(3, 30_000) + window(1, 30_000),
                *(NOW, (Action.PUBLISH, lane + 3)),
            ),
        )
        yield (
            f"blocked-{name}",
            script(
                BEGIN + request(1, letter) + request(3, letter),
                *(NOW, (Action.BLOCK, 0), (Action.BURST, 12 + lane), (Action.PUBLISH_LARGE, lane)),
                frame(PING, 0, 0, b"12345678"),
                *((Action.WRITE_ONE, 0), (Action.BURST, 15 - lane), (Action.WRITE_ONE, 0)),
                *((Action.SHED, 0), (Action.BLOCK, 0), (Action.PUBLISH, lane)),
            ),
        )
    yield (
        "windows",
        script(
            PREFACE + settings((INITIAL_WINDOW_SIZE, 0)) + request(1, b"/b") + request(3, b"/e"),
            NOW,
            settings((INITIAL_WINDOW_SIZE, 1_000)),
            (Action.PUBLISH, 9),
            settings((INITIAL_WINDOW_SIZE, 10)) + window(1, 5_000),
            (Action.PUBLISH, 3),
            window(3, 2_000) + settings((INITIAL_WINDOW_SIZE, 70_000)),
            NOW,
            window(1, 0) + window(3, 2**31 - 1) + window(0, 2**31 - 1),
            NOW,
        ),
    )
    yield (
        "window-of-the-connection",
        script(
            BEGIN + request(1, b"/b") + request(3, b"/b") + request(5, b"/e"),
            (Action.PUBLISH_ALL, 2),
            window(0, 9_000),
            (Action.PUBLISH_ALL, 2),
            window(0, 9_000),
            NOW,
        ),
    )
    yield (
        "window-updates-late",
        script(
            BEGIN + request(1, b"/t"),
            NOW,
            window(1, 10) + window(1, 2**31 - 1) + window(1, 1) + window(3, 1),
            NOW,
        ),
    )
    yield (
        "body",
        script(
            BEGIN + frame(HEADERS, END_HEADERS, 1, section(b"/t", POST)),
            NOW,
            frame(DATA, 0, 1, b"x" * 40) + frame(DATA, PADDED | END_STREAM, 1, b"\x03yyyyyy\0\0\0"),
            NOW,
        ),
    )
    length = literal(b"content-length", b"4", 0)
    expect = literal(b"expect", b"100-continue", 0)
    yield (
        "body-announced",
        script(
            BEGIN + frame(HEADERS, END_HEADERS, 1, section(b"/t", POST, length + expect)),
            NOW,
            frame(DATA, END_STREAM, 1, b"body"),
            NOW,
            frame(HEADERS, END_HEADERS, 3, section(b"/t", POST, length)),
            frame(DATA, END_STREAM, 3, b"too long a body"),
            NOW,
            frame(HEADERS, END_HEADERS | END_STREAM, 5, section(b"/t", POST, length)),
            NOW,
        ),
    )
    yield (
        "bodies",
        script(
            BEGIN,
            *(frame(HEADERS, END_HEADERS, n, section(b"/t", POST)) for n in (1, 3, 5)),
            *(frame(DATA, 0, n, b"z" * 200) for n in (1, 3, 5)),
            NOW,
            frame(DATA, 0, 1, b"z" * 100),
            (Action.WAIT, 6),
        ),
    )
    yield (
        "trailers",
        script(
            BEGIN + frame(HEADERS, END_HEADERS, 1, section(b"/t", POST)),
            frame(DATA, 0, 1, b"x" * 40),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, literal(b"a", b"b")),
            NOW,
            frame(HEADERS, END_HEADERS, 3, section(b"/t", POST)),
            frame(HEADERS, END_HEADERS, 3, literal(b":path", b"b")),
            NOW,
        ),
    )
    head = section(b"/late", GET, literal(b"last-event-id", b"x" * 30))
    yield (
        "continuation",
        script(
            BEGIN + frame(HEADERS, END_STREAM, 1, head[:5]) + frame(CONTINUATION, 0, 1, head[5:20]),
            NOW,
            frame(CONTINUATION, END_HEADERS, 1, head[20:]),
            *((Action.RESPOND, 3),),
            frame(HEADERS, END_STREAM, 3) + frame(CONTINUATION, 0, 3) * 5,
            NOW,
        ),
    )
    yield (
        "continuation-interrupted",
        script(BEGIN + frame(HEADERS, END_STREAM, 1, head[:5]) + frame(PING, 0, 0, bytes(8)), NOW),
    )
    yield (
        "padded",
        script(
            BEGIN,
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | PADDED | WITH_PRIORITY,
                1,
                b"\x04\0\0\0\0\xff" + section(b"/t") + bytes(4),
            ),
            NOW,
            frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 3, b"\xff" + section(b"/t")),
            NOW,
        ),
    )
    yield (
        "priority",
        script(
            BEGIN + frame(PRIORITY, 0, 3, b"\0\0\0\1\x10") + request(1, b"/e"),
            frame(PRIORITY, 0, 1, b"\x80\0\0\0\xff"),
            NOW,
            frame(PRIORITY, 0, 1, b"\0\0\0\1\x10") + frame(PRIORITY, 0, 1, b"\0\0"),
            NOW,
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | WITH_PRIORITY,
                5,
                b"\0\0\0\5\x10" + section(b"/t"),
            ),
            frame(PRIORITY, 0, 0, b"\0\0\0\1\x10"),
            NOW,
        ),
    )
    yield (
        "resets",
        script(
            BEGIN,
            *(request(n, b"/e") + reset(n) for n in range(1, 9, 2)),
            NOW,
            *(request(n, b"/t") + reset(n) for n in range(9, 40, 2)),
            NOW,
        ),
    )
    yield "resets-of-nothing", script(BEGIN + request(5, b"/e") + reset(3), NOW, reset(7), NOW)
    yield (
        "surplus",
        script(
            BEGIN + b"".join(request(n, b"/e") for n in range(1, 17, 2)),
            *((Action.PUBLISH, 3), (Action.FINISH, 2)),
            request(17, b"/late"),
            *((Action.OPEN, 4), (Action.PUBLISH, 3)),
        ),
    )
    yield (
        "late",
        script(
            BEGIN + request(1, b"/x") + request(3, b"/y") + request(5, b"/z"),
            *((Action.OPEN, 4), (Action.OPEN, 0), (Action.RESPOND, 9), (Action.PUBLISH_ALL, 2)),
            reset(1),
            (Action.PUBLISH_ALL, 2),
        ),
    )
    yield (
        "goaway",
        script(BEGIN + request(1, b"/e") + frame(GOAWAY, 0, 0, bytes(8)) + request(3, b"/t"), NOW),
    )
    yield (
        "drain",
        script(
            BEGIN + request(1, b"/e") + request(3, b"/late"),
            (Action.DRAIN, 0),
            request(5, b"/t"),
            NOW,
            frame(PING, ACK, 0, b"h2ssebye") + request(7, b"/t"),
            *((Action.RESPOND, 2), (Action.FINISH, 0), (Action.CLOSE, 0)),
        ),
    )
    yield "end-of-file", script(BEGIN + request(1, b"/b"), (Action.END_OF_FILE, 0))
    yield (
        "pings",
        script(
            BEGIN + frame(PING, 0, 0, b"12345678") + request(1, b"/e"),
            *((Action.WAIT, 5),),
            frame(PING, ACK, 0, b"h2sse up"),
            *((Action.WAIT, 5),),
            frame(PING, 0, 0, b"12345678") * 50,
            NOW,
        ),
    )
    yield (
        "settings",
        script(
            PREFACE + settings((INITIAL_WINDOW_SIZE, 9), (77, 1), (INITIAL_WINDOW_SIZE, 90)),
            request(1, b"/e"),
            NOW,
            settings((HEADER_TABLE_SIZE, 0)) + request(3, b"/n"),
            NOW,
            settings((HEADER_TABLE_SIZE, 2**32 - 1)) + request(5, b"/n"),
            NOW,
            settings((MAX_FRAME_SIZE, 1)) + settings((INITIAL_WINDOW_SIZE, 2**31)),
            NOW,
        ),
    )
    yield "settings-many", script(BEGIN + settings((8, 1)) * 12, NOW)
    yield "settings-acknowledged-twice", script(BEGIN + ACKNOWLEDGED * 2, NOW)
    yield "frame-too-long", script(BEGIN + b"\x00\x40\x01\x00\x00\x00\x00\x00\x01" + b"x" * 90, NOW)
    yield (
        "strange-frames",
        script(
            BEGIN + frame(0xBE, 0xFF, 9, b"?") + frame(16, 0, 0, b"\0\0\0\1u=3") + frame(10, 1, 1),
            frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2"),
            NOW,
        ),
    )
    yield from once_faults()
    yield from hpack_edges()


def once_faults() -> Iterator[tuple[str, bytes]]:
    """What fuzzing has found, written small."""
    yield (
        # The GOAWAY that ends the connection named a later stream than the one before.
        "goaway-rises",
        script(
            BEGIN + request(1, b"/e"),
            (Action.DRAIN, 0),
            frame(PING, ACK, 0, b"h2ssebye") + request(3, b"/t"),
            (Action.CLOSE, 0),
        ),
    )
    yield (
        # An answer to a PING that was never sent drew the last word.
        "last-word-made-up",
        script(
            BEGIN + request(1, b"/e") + frame(PING, ACK, 0, b"h2ssebye") * 2 + request(3, b"/t"),
            (Action.DRAIN, 0),
            frame(PING, ACK, 0, b"h2ssebye") * 2,
            NOW,
        ),
    )
    yield "reset-of-an-idle-stream", script(BEGIN + request(1, b"/e") + reset(5), NOW)
    yield (
        # RST_STREAM of a stream that is idle, for want of a check that it is the client's.
        "priority-of-our-stream",
        script(BEGIN + request(5, b"/e") + frame(PRIORITY, 0, 2, b"\0\0\0\2\x10"), NOW),
    )
    yield (
        # hpack forgot to tell of the table's new size.
        "table-size-twice",
        script(
            BEGIN + request(1, b"/n"),
            NOW,
            settings((HEADER_TABLE_SIZE, 0)) * 2 + request(3, b"/n"),
            NOW,
        ),
    )
    yield (
        # hpack told of a size in between, which was over the last that the client allowed.
        "table-size-in-between",
        script(
            BEGIN + request(1, b"/n"),
            NOW,
            settings((HEADER_TABLE_SIZE, 234)) + settings((HEADER_TABLE_SIZE, 0)),
            request(3, b"/n"),
            NOW,
        ),
    )


def hpack_edges() -> Iterator[tuple[str, bytes]]:
    """Header blocks that decoders have tripped over (RFC 7541)."""
    one_field = literal(b"a", b"b")
    blocks = {
        "table-reused": section(b"/t", GET, one_field),
        "index-0": b"\x80",
        "index-past-the-table": b"\xff\xff\x7f",
        "integer-without-end": b"\xff" + b"\x80" * 60,
        "size-update": b"\x20\x3f\xe1\x1f" + section(b"/t"),
        "size-update-too-large": b"\x3f\xe1\xff\x7f" + section(b"/t"),
        "size-updates": b"\x20" * 3 + section(b"/t"),
        "size-update-late": section(b"/t") + b"\x20",
        "huffman-eos": b"\x00\x84\xff\xff\xff\xff\x00" + section(b"/t"),
        "huffman-padding": section(b"/t") + b"\x00\x01a\x81\x00",
        "string-cut": b"\x00\x7fabc",
        "never-indexed": section(b"/t", GET, literal(b"cookie", b"c=1", 0x10) * 2),
        "bomb": literal(b"a", b"x" * 100) + b"\xbe" * 80,
        "empty": b"",
        "upper-case": section(b"/t", GET, literal(b"A", b"b")),
        "control-bytes": section(b"/t", GET, literal(b"a", b"b\r\nc: d")),
        "too-many-fields": section(b"/t", GET, literal(b"a", b"b", 0) * 13),
        "too-large": section(b"/t", GET, literal(b"a", b"b" * 120, 0) * 5),
        "path-of-utf-8": section("/e\u00e9".encode()),
        "path-missing": GET + HTTPS + AUTHORITY,
        "path-twice": section(b"/t", GET, path(b"/n")),
        "head": literal(b":method", b"HEAD") + HTTPS + AUTHORITY + path(b"/b"),
        "connect": literal(b":method", b"CONNECT", 0) + AUTHORITY,
        "options": literal(b":method", b"OPTIONS", 0) + HTTPS + AUTHORITY + path(b"*"),
    }
    for name, block in blocks.items():
        asked = frame(HEADERS, END_STREAM | END_HEADERS, 1, block)
        again = frame(HEADERS, END_STREAM | END_HEADERS, 3, section(b"/t", GET, b"\xbe"))
        yield f"hpack-{name}", script(BEGIN + asked, NOW, again, NOW)


def http1() -> Iterator[tuple[str, bytes]]:
    host = b"Host: a\r\n"

    def get(text: bytes, more: bytes = b"") -> bytes:
        return b"GET " + text + b" HTTP/1.1\r\n" + host + more + b"\r\n"

    def post(more: bytes, body: bytes) -> bytes:
        return b"POST /t HTTP/1.1\r\n" + host + more + b"\r\n" + body

    chunked = b"Transfer-Encoding: chunked\r\n"
    yield "text", script(get(b"/t"), NOW, get(b"/n"), NOW)
    yield "pipelined", script(get(b"/t") + get(b"/b") + get(b"/n") + get(b"/e"), NOW)
    yield "pipelined-flood", script(get(b"/x") + get(b"/t") * 20, (Action.RESPOND, 3))
    yield (
        "events",
        script(
            get(b"/e"),
            *((Action.PUBLISH, 3), (Action.BLOCK, 0), (Action.BURST, 3), (Action.WRITE_ONE, 0)),
            get(b"/t"),
            *((Action.PUBLISH, 9), (Action.BLOCK, 0), (Action.FINISH, 0)),
        ),
    )
    yield (
        "replay",
        script(get(b"/r"), (Action.PUBLISH, 3), (Action.SEND, 6), (Action.PUBLISH_LARGE, 6)),
    )
    for lane, letter in enumerate((b"/e", b"/o", b"/l")):
        yield (
            f"behind-{letter[1:].decode()}",
            script(
                get(letter),
                *((Action.BLOCK, 0), (Action.BURST, 12 + lane), (Action.WRITE_ONE, 0)),
                *((Action.BURST, 12 + lane), (Action.PUBLISH_LARGE, lane), (Action.WRITE_ONE, 0)),
                *((Action.SEND, 2), (Action.BLOCK, 0), (Action.PUBLISH, lane), (Action.SHED, 0)),
            ),
        )
    yield (
        "http-1.0",
        script(b"GET /e HTTP/1.0\r\n\r\n", (Action.PUBLISH, 3), (Action.FINISH, 0)),
    )
    yield "length", script(post(b"Content-Length: 5\r\n", b"hello") + get(b"/t"), NOW)
    yield "chunks", script(post(chunked, b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nx: y\r\n\r\n"), NOW)
    yield (
        "expect",
        script(post(b"Expect: 100-continue\r\nContent-Length: 2\r\n", b""), NOW, b"ok", NOW),
    )
    yield "head", script(b"HEAD /b HTTP/1.1\r\nHost: a\r\n\r\n", NOW, get(b"/t"), NOW)
    yield "late", script(get(b"/x"), (Action.OPEN, 4), (Action.DRAIN, 0), (Action.CLOSE, 0))
    yield "drain", script(get(b"/x") + get(b"/t"), (Action.DRAIN, 0), (Action.RESPOND, 1))
    yield "slow-head", script(b"GET / HT", (Action.WAIT, 4), b"TP/1.1\r\n", (Action.WAIT, 4))
    yield "slow-body", script(post(b"Content-Length: 9\r\n", b"hel"), (Action.WAIT, 6))
    yield "idle", script(get(b"/t"), (Action.WAIT, 7))
    yield "end-of-file", script(get(b"/e"), (Action.PUBLISH, 3), (Action.END_OF_FILE, 0))
    heads = {
        "length-twice": post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"ab"),
        "length-and-chunks": post(b"Content-Length: 3\r\n" + chunked, b"0\r\n\r\n"),
        "length-odd": post(b"Content-Length: +3\r\n", b"abc"),
        "chunk-odd": post(chunked, b"0x1\r\na\r\n0\r\n\r\n"),
        "chunk-bare-lf": post(chunked, b"1\na\r\n0\r\n\r\n"),
        "chunk-extension-bare-cr": post(chunked, b"1;a\r=b\r\na\r\n0\r\n\r\n"),
        "trailer-bare-lf": post(chunked, b"1\r\na\r\n0\r\n\n"),
        "chunks-tiny": post(chunked, b"1;" + b"x" * 90 + b"\r\na\r\n"),
        "coding-odd": post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
        "bare-lf": b"GET /t HTTP/1.1\nHost: a\n\n",
        "bare-cr": get(b"/t", b"a: b\rc\r\n"),
        "folded": get(b"/t", b"a: b\r\n c\r\n"),
        "blank-before-colon": get(b"/t", b"a : b\r\n"),
        "host-missing": b"GET /t HTTP/1.1\r\n\r\n",
        "host-twice": get(b"/t", host),
        "absolute": get(b"https://a/t?b=c"),
        "options": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "connect": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        "utf-8": get("/t\u00e9".encode()),
        "upgrade": get(b"/t", b"Connection: upgrade\r\nUpgrade: h2c\r\n"),
        "close": get(b"/t", b"Connection: close\r\n") + get(b"/t"),
        "too-large": get(b"/t", b"a: " + b"b" * 600 + b"\r\n"),
        "too-many-fields": get(b"/t", b"a: b\r\n" * 14),
        "line-too-long": get(b"/" + b"t" * 600),
        "blank-lines": b"\r\n\r\n" + get(b"/t"),
        "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "http-2": PREFACE + settings(),
        "body-too-large": post(b"Content-Length: 300\r\n", b"x" * 300),
    }
    for name, data in heads.items():
        yield name, script(data, NOW, get(b"/t"), NOW)


def parser() -> Iterator[tuple[str, bytes]]:
    """The first byte says how the rest, an event stream, is cut."""
    streams = {
        "events": b"retry: 1000\nid: 1\n\nevent: a\ndata: x\ndata: y\nid: 2\n\n:\n\ndata\n\n",
        "line-ends": b"data: a\r\rdata: b\r\n\r\ndata: c\n\ndata: d\r\n\n",
        "bom": b"\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n",
        "bad-utf-8": b"data: \xff\xc3\n\ndata: \xe2\x82\n\xac\n\n",
        "nul-in-id": b"id: a\0b\ndata: x\n\nid\ndata: y\n\n",
        "retry": b"retry: 1\xd9\xa3\n\nretry: " + b"9" * 40 + b"\n\nretry: 007\n\n",
        "unfinished": b"data: x\n\ndata: y\nid: 7",
    }
    for name, stream in streams.items():
        yield name, b"\x03" + stream


def every() -> dict[str, list[tuple[str, bytes]]]:
    """All of them, by the target they are for."""
    return {"http2": list(http2()), "http1": list(http1()), "parser": list(parser())}


if __name__ == "__main__":
    for kind, seeds in every().items():
        (FOLDER / kind).mkdir(parents=True, exist_ok=True)
        for name, data in seeds:
            (FOLDER / kind / name).write_bytes(data)
