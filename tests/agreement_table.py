"""The rows on which Chromium and our client agree, and those on which ours differs, and why.

Outcomes are what was seen of Chromium 156; agreement.py says how to read them.
"""

from __future__ import annotations

import gzip
import socket
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Final

from agreement import EVENT_STREAM, Fields, Outcome, Row, Step, Turn, answer, heard
from client_support import Asked, Peer
from support import END_STREAM, frame, reset

__all__ = ["ROWS"]

ROWS: Final[list[Row]] = []

EVENT: Final = b"retry: 1\ndata: x\n\n"
WITH_ID: Final = b"retry: 1\nid: 7\ndata: x\n\n"
# Breaks off within the data of its second event.
CUT: Final = WITH_ID + b"id: 8\ndata: cu"

FAILS: Final = Outcome.of("closed", "-")
OPENS: Final = Outcome.of('open, "x", again, closed', "-, -")
# No response to the first request; the second opens.
RETRIES: Final = Outcome.of('again, open, "x", again, closed', "-, -, -")
# ... and nobody but the server has noticed.
RETRIES_UNSEEN: Final = Outcome.of('open, "x", again, closed', "-, -, -")
RESUMES: Final = Outcome.of('open, "x" #7, again, open, "x" #7, again, closed', "-, 7, 7")
# What was on its way is read to its end.
READS_ON: Final = Outcome.of(
    'open, "x" #7, "cut" #8, again, open, "x" #8, again, closed', "-, 8, 8"
)
STAYS: Final = Outcome.of("open, again", "-")
# A malformed response, after which there is only the 204.
IGNORED: Final = Outcome.of("again, closed", "-, -")


def row(
    group: str,
    name: str,
    outcome: Outcome,
    *script: Step,
    ours: Outcome | None = None,
    reason: str = "",
    or_else: Outcome | None = None,
) -> None:
    # Of what may end a connection each has its own, so that it ends no other row.
    own = group in ("Fields", "Ends")
    ROWS.append(
        Row(
            group=group,
            name=name,
            script=script,
            outcome=outcome,
            ours=ours,
            reason=reason,
            or_else=or_else,
            own=own,
        )
    )


def stream(body: bytes = EVENT, fields: Fields = EVENT_STREAM, *ends: Step) -> Step:
    """A 200 that ends after its body."""
    return answer(200, fields, body, *ends, ended=not ends)


def typed(value: str) -> Fields:
    return (("content-type", value),)


# -- statuses

_status = partial(row, "Status")

_status("200", OPENS, stream())
_status("103, then 200", OPENS, answer(103, (("link", "</a>"),), b"", stream()))
_status("204", FAILS, answer(204, (), ended=True))
for _code in (
    *(201, 202, 203, 205, 206, 226, 299, 300, 304, 305, 306, 400, 401, 402, 403, 404, 405, 406),
    *(408, 409, 410, 418, 425, 429, 451, 500, 501, 502, 503, 504, 511, 599, 600, 999),
):
    _status(str(_code), FAILS, answer(_code, EVENT_STREAM, EVENT, ended=True))
_status("503 with `retry-after`", FAILS, answer(503, (("retry-after", "0"),), ended=True))
for _code in (205, 404, 500, 503):
    _status(
        f"{_code} when it comes back",
        Outcome.of('open, "x" #7, again, closed', "-, 7"),
        stream(WITH_ID),
        answer(_code, EVENT_STREAM, EVENT, ended=True),
    )
_status(
    "407",
    IGNORED,
    answer(407, EVENT_STREAM, EVENT, ended=True),
    ours=FAILS,
    reason="HTML 9.2.2: a status like others, unless a proxy sends it",
)
_status(
    "421",
    Outcome.of("closed", "-, -"),
    *[answer(421, EVENT_STREAM, EVENT, ended=True)] * 2,
    ours=FAILS,
    reason="RFC 9110 15.5.20: another connection MAY be tried; ours is of this origin alone",
)

# -- redirects

_redirect = partial(row, "Redirect")


def location(status: int, *targets: str) -> Step:
    return answer(status, tuple(("location", each) for each in targets), ended=True)


for _code in (301, 302, 303, 307, 308):
    _redirect(
        f"{_code} to another path",
        Outcome.of('open, "x" #7, again, open, "x" #7, again, closed', "-, to -, to 7, to 7"),
        location(_code, "to"),
        stream(WITH_ID),
        stream(),
    )
_redirect(
    "to another origin",
    Outcome.of('open, "x" #7, again, open, "x" #7, again, closed', "-, to -, to 7, to 7"),
    location(302, "{other}to"),
    stream(WITH_ID),
    stream(),
)
for _name, _target in (("to the same path", "./"), ("to the same URL", "{here}")):
    _redirect(
        _name, Outcome.of('open, "x", again, closed', "-, -, -"), location(302, _target), stream()
    )
_redirect(
    "to another query",
    Outcome.of('open, "x", again, closed', "-, ?a=b -, ?a=b -"),
    location(302, "?a=b"),
    stream(),
)
for _name, _step in (
    ("to a fragment", location(302, "to#part")),
    ("two equal Locations", location(302, "to", "to")),
    ("with a body", answer(302, (("location", "to"), *EVENT_STREAM), EVENT, ended=True)),
    ("with a body that does not end", answer(302, (("location", "to"), *EVENT_STREAM), EVENT)),
):
    _redirect(_name, Outcome.of('open, "x", again, closed', "-, to -, to -"), _step, stream())
_redirect(
    "to `é b`",
    Outcome.of('open, "x", again, closed', "-, %C3%A9%20b -, %C3%A9%20b -"),
    location(302, "é b"),
    stream(),
)
_redirect(
    "20 in a row",
    Outcome.of('open, "x", again, closed', ", ".join(["-", *["to -"] * 21])),
    *[location(302, "to")] * 20,
    stream(),
)
_redirect(
    "20 in a row, when it comes back",
    Outcome.of('open, "x", again, open, "x", again, closed', ", ".join(["-", "-", *["to -"] * 21])),
    stream(),
    *[location(302, "to")] * 20,
    stream(),
)
_redirect(
    "307 when it comes back",
    Outcome.of('open, "x" #7, again, open, "x" #7, again, closed', "-, 7, to 7, to 7"),
    stream(WITH_ID),
    location(307, "to"),
    stream(),
)
_redirect("to a 204", Outcome.of("closed", "-, to -"), location(302, "to"))
_redirect(
    "to a 404", Outcome.of("closed", "-, to -"), location(302, "to"), answer(404, (), ended=True)
)
for _code in (300, 304, 305, 306):
    _redirect(f"{_code} with Location", FAILS, location(_code, "to"))
_redirect("no Location", FAILS, answer(302, EVENT_STREAM, EVENT, ended=True))
_redirect("to `ftp:`", FAILS, location(302, "ftp://127.0.0.1/"))
_redirect("to a URL with a password", FAILS, location(302, "{password}"))
_redirect(
    "empty Location",
    FAILS,
    location(302, ""),
    stream(),
    ours=Outcome.of('open, "x", again, closed', "-, -, -"),
    reason="Fetch, location URL: the empty URL is the request's own",
)
for _name, _targets in (
    ("two Locations", ("to", "fro")),
    ("to a malformed URL", ("https://[",)),
    ("to `data:`", ("data:text/event-stream,data:x%0A%0A",)),
    ("to `http:`", ("http://127.0.0.1/",)),
):
    _redirect(
        _name,
        IGNORED,
        location(302, *_targets),
        ours=FAILS,
        reason="HTML 9.2.2: may fail where trying again is futile; `http:` is never spoken",
    )
_redirect(
    "21 in a row",
    Outcome.of("again, closed", ", ".join(["-", *["to -"] * 20, "-"])),
    *[location(302, "to")] * 21,
    ours=Outcome.of("closed", ", ".join(["-", *["to -"] * 20])),
    reason="HTML 9.2.2: may fail where trying again is futile",
)

# -- MIME types

_type = partial(row, "Content-Type")

for _value in (
    "text/event-stream",
    "TEXT/Event-Stream",
    "text/event-stream;",
    "text/event-stream; charset=utf-8",
    "text/event-stream;charset=UTF-8",
    'text/event-stream;charset="utf-8"',
    "text/event-stream;charset=",
    "text/event-stream ; a=b",
    'text/event-stream;a="b,c"',
    "text/event-stream;charset=utf-8;charset=latin1",
    "text/html, text/event-stream",
    "text/event-stream, text/event-stream",
    "nonsense, text/event-stream",
    "text/event-stream, nonsense",
    "text/event-stream,",
    "text/event-stream, */*",
):
    _type(f"`{_value}`", OPENS, stream(EVENT, typed(_value)))
for _value in (
    *("text/html", "text/plain", "text/event-streams", "text/event-strea", "event-stream"),
    *("text/*", "*/*", "text/event-stream/x", "text/ event-stream", "application/json"),
    *("application/octet-stream", "multipart/x-mixed-replace", "text/event-stream, text/html"),
    'text/html;a=", text/event-stream"',
):
    _type(f"`{_value}`", FAILS, stream(EVENT, typed(_value)))
_type("none", FAILS, stream(EVENT, ()))
_type("empty", FAILS, stream(EVENT, typed("")))
_HTML: Final = typed("text/html")
_type("two fields, `text/event-stream` last", OPENS, stream(EVENT, _HTML + EVENT_STREAM))
_type("two fields, `text/event-stream` first", FAILS, stream(EVENT, EVENT_STREAM + _HTML))
_type("two fields, both `text/event-stream`", OPENS, stream(EVENT, EVENT_STREAM * 2))
_type("two fields, the last empty", OPENS, stream(EVENT, EVENT_STREAM + typed("")))
for _value in (
    "text/event-stream;charset=utf8",
    "text/event-stream;charset=windows-1252",
    "text/event-stream;charset=nonsense",
    "text/event-stream, text/event-stream;charset=latin1",
):
    _type(
        f"`{_value}`",
        FAILS,
        stream(EVENT, typed(_value)),
        ours=OPENS,
        reason="HTML 9.2.5: always UTF-8, whatever a parameter says",
    )
for _value in ("text/event-stream text/html", "text/event-stream(x)"):
    _type(
        f"`{_value}`",
        OPENS,
        stream(EVENT, typed(_value)),
        ours=FAILS,
        reason="MIME Sniffing, parse a MIME type, 8: no token, so no MIME type",
    )

# -- bodies

_body = partial(row, "Body")
_BOM: Final = b"\xef\xbb\xbf"


def coded(coding: str, body: bytes) -> Step:
    return stream(body, (*EVENT_STREAM, ("content-encoding", coding)))


for _name, _data in (
    ("a BOM at the start", _BOM + EVENT),
    ("two BOMs at the start", _BOM * 2 + b"data: y\n\n" + EVENT),
    ("a BOM at the start of a later line", EVENT + _BOM + b"data: y\n\n"),
    ("line ends CR", EVENT.replace(b"\n", b"\r")),
    ("line ends CRLF", EVENT.replace(b"\n", b"\r\n")),
    ("comments, and fields that nobody knows", b":\n: x\nfoo: bar\nDATA: y\n\n" + EVENT),
    ("an event that is not finished", EVENT + b"data: y\n"),
    ("a line that is not finished", EVENT + b"data: y"),
):
    _body(_name, OPENS, stream(_data))
_body("UTF-16", Outcome.of("open, again, closed", "-, -"), stream(EVENT.decode().encode("utf-16")))
for _name, _data, _seen in (
    ("lines of mixed ends", b"retry:1\rdata: a\r\ndata: b\n\r\n", r'"a\nb"'),
    ("bytes that are no UTF-8", b"retry: 1\ndata: \xff\xc3(\xe2\x82\n\n", '"\ufffd\ufffd(\ufffd"'),
    ("NUL in data", b"retry: 1\ndata: a\0b\n\n", r'"a\u0000b"'),
    ("data without a value", b"retry: 1\ndata\n\ndata:\ndata:\n\n", r'"", "\n"'),
    ("types", b"retry: 1\nevent: tick\ndata: x\n\nevent:\ndata: y\n\n", 'tick "x", "y"'),
    ("nothing", b"", ""),
    ("comments alone", b": x\n\n:\n", ""),
):
    _body(
        _name,
        Outcome.of(f"open, {_seen + ', ' if _seen else ''}again, closed", "-, -"),
        stream(_data),
    )
_body("gzip", OPENS, coded("gzip", gzip.compress(EVENT)))
_body("gzip, cut off", OPENS, coded("GZIP", gzip.compress(EVENT)[:-4]))
_body("gzip as `x-gzip`", OPENS, coded("x-gzip", gzip.compress(EVENT)))
_body("deflate", OPENS, coded("deflate", zlib.compress(EVENT)))
_body("no gzip, though it says so", Outcome.of("open, again, closed", "-, -"), coded("gzip", EVENT))
_body("`identity`", OPENS, coded("identity", EVENT))
for _name, _step in (
    ("a coding that nobody knows", coded("nonsense", EVENT)),
    ("gzip in gzip", coded("gzip, gzip", gzip.compress(gzip.compress(EVENT)))),
):
    _body(
        _name,
        OPENS,
        _step,
        ours=FAILS,
        reason="RFC 9110 12.5.3: we ask for no coding; better an error than no events",
    )
_body(
    "deflate without its frame",
    OPENS,
    coded("deflate", zlib.compress(EVENT)[2:-4]),
    ours=Outcome.of("open, again, closed", "-, -"),
    reason="RFC 9110 8.4.1.2: deflate is the zlib format",
)

# -- fields of the response

_field = partial(row, "Fields")


def with_field(name: str, value: str) -> Step:
    return stream(EVENT, (*EVENT_STREAM, (name, value)))


def with_status(status: str | None) -> Step:
    return answer(status, EVENT_STREAM, EVENT, ended=True)


for _name, _step in (
    ("content-length as it should be", with_field("content-length", str(len(EVENT)))),
    ("content-length too long", with_field("content-length", "300")),
    ("`content-disposition: attachment`", with_field("content-disposition", "attachment")),
    ("an empty value", with_field("x", "")),
):
    _field(_name, OPENS, _step)
for _name, _step in (
    ("a name in upper case", with_field("X-Upper", "x")),
    ("a name with a blank", with_field("a b", "x")),
    ("CR and LF in a value", with_field("x", "a\r\nb")),
    ("NUL in a value", with_field("x", "\0")),
    ("`transfer-encoding`", with_field("transfer-encoding", "chunked")),
    ("`:path`", with_field(":path", "/")),
    ("two `:status`", with_field(":status", "200")),
    ("no `:status`", with_status(None)),
    ("an empty `:status`", with_status("")),
    ("a `:status` of letters", with_status("abc")),
):
    _field(_name, IGNORED, _step)
_MALFORMED: Final = "RFC 9113 {}: malformed, so a network error"
for _name in ("connection", "keep-alive", "proxy-connection", "upgrade"):
    _field(
        f"`{_name}`",
        OPENS,
        with_field(_name, "x"),
        ours=IGNORED,
        reason=_MALFORMED.format("8.2.2"),
    )
for _value in ("text/event-stream ", "\ttext/event-stream"):
    _field(
        f"a blank at the {'end' if _value[-1] == ' ' else 'start'} of a value",
        OPENS,
        stream(EVENT, typed(_value)),
        ours=IGNORED,
        reason=_MALFORMED.format("8.2.1"),
    )
_field(
    "content-length too short",
    OPENS,
    with_field("content-length", "3"),
    ours=Outcome.of("open, again, closed", "-, -"),
    reason=_MALFORMED.format("8.1.1"),
)
for _name, _step in (
    (
        "two content-lengths",
        stream(EVENT, (*EVENT_STREAM, ("content-length", "1"), ("content-length", "2"))),
    ),
    ("content-length of letters", with_field("content-length", "x")),
):
    _field(_name, OPENS, _step, ours=IGNORED, reason="RFC 9110 8.6: not one number, so malformed")
for _value in ("20", "2000", "101"):
    _field(
        f"`:status: {_value}`",
        FAILS,
        with_status(_value),
        ours=IGNORED,
        reason=_MALFORMED.format("8.3.2, 8.6"),
    )

# -- the last event ID

_id = partial(row, "Last event ID")


def bodies(*each: bytes) -> list[Step]:
    return [stream(b"retry: 1\n" + body) for body in each]


for _name, _data, _seen, _asked in (
    ("`7`", b"id: 7\ndata: x\n\n", '"x" #7', "7"),
    ("twice in an event", b"id: 7\nid: 8\ndata: x\n\n", '"x" #8', "8"),
    ("of an event without data", b"id: 7\n\n", "", "7"),
    ("of an event that is not finished", b"id: 7\ndata: x\n\nid: 8\ndata: y\n", '"x" #7', "7"),
    ("of a block that is not finished", b"id: 7\n", "", "-"),
    ("with NUL", b"id: 7\ndata: x\n\nid: a\0b\ndata: y\n\n", '"x" #7, "y" #7', "7"),
    ("in upper case", b"id: 7\ndata: x\n\nID: 8\ndata: y\n\n", '"x" #7, "y" #7', "7"),
    ("`é€😀`", "id: é€😀\ndata: x\n\n".encode(), '"x" #"é€😀"', '"é€😀"'),
    ("`a:b: c`", b"id: a:b: c\ndata: x\n\n", '"x" #"a:b: c"', '"a:b: c"'),
    ("blanks around", b"id:  i \ndata: x\n\n", '"x" #" i "', "i"),
    ("tabs around", b"id: \ti\t\ndata: x\n\n", r'"x" #"\ti\t"', "i"),
    ("blanks alone", b"id:   \ndata: x\n\n", '"x" #"  "', '""'),
    (
        "control characters",
        b"id: \x01a\x02\ndata: x\n\n",
        r'"x" #"\u0001a\u0002"',
        r'"\u0001a\u0002"',
    ),
    ("a byte that is no UTF-8", b"id: \xff\ndata: x\n\n", '"x" #"\ufffd"', '"\ufffd"'),
    ("200 characters", b"id: " + b"i" * 200 + b"\ndata: x\n\n", f'"x" #{"i" * 200}', "i" * 200),
):
    _events = f"{_seen}, " if _seen else ""
    _id(_name, Outcome.of(f"open, {_events}again, closed", f"-, {_asked}"), *bodies(_data))
_id(
    "kept by a stream that has none",
    Outcome.of(
        'open, "x" #7, again, open, "y" #7, again, open, "z" #8, again, closed', "-, 7, 7, 8"
    ),
    *bodies(b"id: 7\ndata: x\n\n", b"data: y\n\n", b"id: 8\ndata: z\n\n"),
)
for _name, _data in (("`id`", b"id\n"), ("`id:`", b"id:\n")):
    _id(
        f"taken back by {_name}",
        Outcome.of('open, "x" #7, again, open, "y", again, closed', "-, 7, -"),
        *bodies(b"id: 7\ndata: x\n\n", _data + b"data: y\n\n"),
    )

# -- the reconnection time: ten minutes, unless the line after it counts

_retry = partial(row, "Reconnection time")
_COMES_BACK: Final = Outcome.of("open, again, closed", "-, -")
_FAR: Final = b"retry: 600000\n"

_retry("ten minutes", STAYS, stream(_FAR))
for _value in ("50", "0", "0050", "00000000000000000000001"):
    _retry(f"`{_value}`", _COMES_BACK, stream(_FAR + b"retry: %s\n" % _value.encode()))
for _value in ("abc", "-1", "+5", "5.5", "5 ", " 5", "0x10", "５", "1e2", "1,0"):
    _retry(f"`{_value}`", STAYS, stream(_FAR + b"retry: %s\n\n" % _value.encode()))
_retry("`50` on a line that is not finished", STAYS, stream(_FAR + b"retry: 50"))
for _name, _number in (
    *(("2^31 - 1", 2**31 - 1), ("2^31", 2**31), ("2^32 + 1", 2**32 + 1), ("2^53", 2**53)),
):
    _retry(f"`1`, then {_name}", STAYS, stream(b"retry: 1\nretry: %d\n" % _number))
for _name, _number in (("2^64 + 1", 2**64 + 1), ("10^30", 10**30)):
    _retry(f"`1`, then {_name}", _COMES_BACK, stream(b"retry: 1\nretry: %d\n" % _number))
_retry(
    "kept by a stream that says none",
    Outcome.of("open, again, open, again, closed", "-, -, -"),
    stream(b"retry: 1\n"),
    stream(b""),
)
_retry(
    "empty",
    _COMES_BACK,
    stream(_FAR + b"retry:\n"),
    ours=STAYS,
    reason="HTML 9.2.6: no digits, so ignored; Chromium goes back to its default",
)

# -- ends

_end = partial(row, "Ends")


def sends(make: Callable[[Peer, Asked], bytes]) -> Step:
    """Any frames."""

    async def step(turn: Turn) -> None:
        await turn.peer.send(make(turn.peer, turn.asked))

    return step


def resets(code: int) -> Step:
    return sends(lambda _, asked: reset(asked.stream, code))


def goes_away(last: int | None = None, code: int = 0) -> Step:
    """GOAWAY, with the stream itself as the last one unless another is given."""

    async def step(turn: Turn) -> None:
        await turn.peer.goaway(turn.asked.stream if last is None else last, code)

    return step


async def closes(turn: Turn) -> None:
    await turn.peer.kill()


async def breaks(turn: Turn) -> None:
    """A TCP reset."""
    transport = turn.peer.transport.transport_stream
    transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await turn.peer.kill()


async def and_closes(first: Step, turn: Turn) -> None:
    await first(turn)
    await closes(turn)


def cut(*ends: Step) -> tuple[Step, Step]:
    """A stream that breaks off, and one that goes on."""
    return stream(CUT, EVENT_STREAM, heard, *ends), stream()


async def rest(turn: Turn) -> None:
    """The end of what was cut, and of the stream."""
    await turn.peer.data(turn.asked, b"t\n\n", ends=True)


_end("END_STREAM", RESUMES, *cut(sends(lambda _, a: frame(0, END_STREAM, a.stream))))
_end("trailers", RESUMES, *cut(sends(lambda p, a: p.section(a, ("x", "1"), flags=END_STREAM))))
_end("END_STREAM, then RST_STREAM 0", READS_ON, *cut(rest, resets(0)))
for _code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 999):
    _end(f"RST_STREAM {_code}", RESUMES, *cut(resets(_code)))
_end("a second head", RESUMES, *cut(stream(b"")))
for _code in (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 999):
    _end(f"RST_STREAM {_code} before the head", RETRIES, resets(_code), stream())
_end("RST_STREAM 7 before the head", RETRIES_UNSEEN, resets(7), stream())
_end("DATA before the head", RETRIES, sends(lambda _, a: frame(0, 0, a.stream, EVENT)), stream())
_end(
    "RST_STREAM 7 after the head alone",
    Outcome.of('open, again, open, "x", again, closed', "-, -, -"),
    stream(b"", EVENT_STREAM, resets(7)),
    stream(),
    # Where the reset overtakes the head on its way to the page, it is as if there had been none.
    or_else=RETRIES_UNSEEN,
)
_end("the connection closed", RESUMES, *cut(closes))
_end("the connection closed before the head", RETRIES, closes, stream())
_end("the connection reset", RESUMES, *cut(breaks))
_end("the connection reset before the head", RETRIES, breaks, stream())
_end("GOAWAY, the stream goes on", READS_ON, *cut(goes_away(), rest))
_end("GOAWAY 2^31-1, the stream goes on", READS_ON, *cut(goes_away(2**31 - 1), rest))
_end("GOAWAY twice, the stream goes on", READS_ON, *cut(goes_away(2**31 - 1), goes_away(), rest))
_end("GOAWAY with code 2, the stream goes on", READS_ON, *cut(goes_away(None, 2), rest))
_end("GOAWAY, the connection closed", RESUMES, *cut(goes_away(), closes))
_end("GOAWAY below the stream", RESUMES, *cut(goes_away(0)))
_end("GOAWAY below the stream before the head", RETRIES_UNSEEN, goes_away(0), stream())
_end(
    "GOAWAY, the connection closed, before the head",
    RETRIES,
    partial(and_closes, goes_away()),
    stream(),
)
_end(
    "GOAWAY below the stream, the connection closed, before the head",
    RETRIES_UNSEEN,
    partial(and_closes, goes_away(0)),
    stream(),
)
_end(
    "GOAWAY below the stream with code 2 before the head",
    RETRIES,
    goes_away(0, 2),
    stream(),
    ours=RETRIES_UNSEEN,
    reason="RFC 9113 8.7: not processed, so safe to send again, whatever the code",
)
_end("HPACK out of step", RETRIES, sends(lambda _, a: frame(1, 4, a.stream, b"\xff" * 5)), stream())
_end(
    "a frame that is too large",
    RESUMES,
    *cut(sends(lambda _, a: b"\xff\xff\xff\0\0" + a.stream.to_bytes(4, "big"))),
)
_end("PUSH_PROMISE", RESUMES, *cut(sends(lambda _, a: frame(5, 4, a.stream, b"\0\0\0\2"))))
_end(
    "a frame of a type that nobody knows",
    READS_ON,
    *cut(sends(lambda _, a: frame(0xFA, 255, a.stream)), rest),
)
_end("empty DATA", READS_ON, *cut(sends(lambda _, a: frame(0, 0, a.stream) * 3), rest))
_end("padding", READS_ON, *cut(sends(lambda _, a: frame(0, 9, a.stream, b"\5t\n\n" + bytes(5)))))
