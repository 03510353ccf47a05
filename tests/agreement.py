"""One server, one script a row, and what a client makes of it: the lens for Chromium and for ours.

A `Row` says what the server answers to its first request, its second and so on; to those after them
it answers 204, which ends every event source.  What a client saw is told in the same few words,
whoever it was (`Outcome`):

    open                the `open` event
    "x" #7              a message, with its last event ID; its type stands first if it has one
    again               the `error` event with CONNECTING: the client will come back
    closed              the `error` event with CLOSED: it will not

and `asked` are the Last-Event-IDs of the requests that the server saw, "-" where there was none,
behind the path where it was not the row's own.

Nothing here is timed.  A row is over when the client is CLOSED; one after which it shall not come
back has kept to that when all the others are over.  What is to happen after a message waits until
the client has `heard` it: browsers drop what they have not read when a stream is reset.

agreement_table.py has the rows; tests/test_client_agreement.py holds our client to them, and
tests/browser/test_agreement.py Chromium.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeAlias, final

import trio
from client_support import Asked, Peer
from support import ACK, END_STREAM, MAX_CONCURRENT_STREAMS, PING, certificates, frame

from h2sse.client import Client, ClientLimits, EventSource, SourceFailed
from h2sse.tls import development_certificate

__all__ = [
    "DEADLINE_SECONDS",
    "EVENT_STREAM",
    "ROWS_BEGIN",
    "ROWS_END",
    "Fields",
    "Lens",
    "Outcome",
    "Row",
    "Site",
    "Step",
    "Turn",
    "answer",
    "differences",
    "heard",
    "observe",
    "serving",
    "table",
]

Lens: TypeAlias = Literal["chromium", "h2sse"]
Step: TypeAlias = Callable[["Turn"], Awaitable[None]]
Fields: TypeAlias = tuple[tuple[str, str], ...]

EVENT_STREAM: Fields = (("content-type", "text/event-stream"),)

# Between these docs/client.md has the table.
ROWS_BEGIN = "<!-- rows: python tests/agreement.py -->"
ROWS_END = "<!-- end of rows -->"

# How long all rows together may take on a loaded machine; Chromium's slowest wait 3 s twice.
DEADLINE_SECONDS = 120
# More than there are rows, so that none waits for another (Chromium itself stops at 256).
STREAMS = 1_000

_PAGE = b"<!doctype html><link rel=icon href=data:,>"


@final
@dataclass(frozen=True, slots=True)
class Turn:
    """A request that is to be answered; `heard` is set once its client has had a message."""

    peer: Peer
    asked: Asked
    heard: trio.Event


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client saw of a row, and the server of the client."""

    seen: tuple[str, ...]
    asked: tuple[str, ...]

    @classmethod
    def of(cls, seen: str, asked: str) -> Outcome:
        """As it is read."""
        return cls(tuple(seen.split(", ")), tuple(asked.split(", ")))

    def __str__(self) -> str:
        return f"{', '.join(self.seen)} | {', '.join(self.asked)}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a server does, and what comes of it.

    Both clients come to `outcome`, unless it has a `reason` why ours comes to `ours`.  Chromium, of
    several processes, may come to something `or_else`.  A row of which a connection dies has one of
    its `own`.
    """

    group: str
    name: str
    script: tuple[Step, ...]
    outcome: Outcome
    ours: Outcome | None = None
    reason: str = ""
    or_else: Outcome | None = None
    own: bool = False

    def expected(self, lens: Lens) -> Outcome:
        return self.ours if self.ours is not None and lens == "h2sse" else self.outcome

    def ends(self, lens: Lens) -> bool:
        """Whether the client is CLOSED at the end, or still waits."""
        return self.expected(lens).seen[-1] == "closed"


# -- the server


def answer(
    status: int | str | None = 200,
    fields: Fields = EVENT_STREAM,
    body: bytes = b"",
    *ends: Step,
    ended: bool = False,
) -> Step:
    """A response, and what follows it; `ended` puts END_STREAM on its last frame.

    In a field's value "{here}" is the request's URL, "{password}" that with one, and "{other}" that
    of another origin.
    """

    async def step(turn: Turn) -> None:
        peer, asked = turn.peer, turn.asked
        place = asked[":authority"].decode() + asked[":path"].decode()
        urls = {
            "{here}": f"https://{place}",
            "{password}": f"https://me:secret@{place}",
            "{other}": f"https://{place.replace('127.0.0.1', 'localhost')}",
        }
        section = [("access-control-allow-origin", "*")]
        for name, value in fields:
            for mark, url in urls.items():
                value = value.replace(mark, url)
            section.append((name, value))
        if status is not None:
            section.insert(0, (":status", str(status)))
        flags = END_STREAM if ended and not body else 0
        await peer.send(peer.section(asked, *section, flags=flags))
        if body:
            await peer.data(asked, body, ends=ended)
        for end in ends:
            await end(turn)

    return step


async def heard(turn: Turn) -> None:
    """Nothing, until the client has had a message of the row."""
    await turn.heard.wait()


_FINISHED = answer(204, (), ended=True)


@final
class Site:
    """Where the rows are, and who asked for them."""

    def __init__(self, rows: Sequence[Row], ports: Mapping[int, int]) -> None:
        self.rows = rows
        self._ports = ports  # of the rows with one of their own; 0 is everyone's
        self._asked: dict[tuple[str, int], list[str]] = {}
        self._heard: defaultdict[tuple[str, int], trio.Event] = defaultdict(trio.Event)

    @property
    def page(self) -> str:
        """A page of the rows' origin."""
        return f"https://127.0.0.1:{self._ports[-1]}/"

    def url(self, lens: Lens, number: int) -> str:
        port = self._ports.get(number, self._ports[-1])
        return f"https://127.0.0.1:{port}/{lens}/{number}/"

    def asked(self, lens: Lens, number: int) -> tuple[str, ...]:
        return tuple(self._asked.get((lens, number), ()))

    def heard(self, lens: str, number: int) -> None:
        """A client has had a message of a row."""
        self._heard[lens, number].set()

    async def serve(self, peer: Peer) -> None:
        """One connection."""
        await peer.start({MAX_CONCURRENT_STREAMS: STREAMS})
        while True:
            await peer.read_until(lambda: peer.requests or peer.at_end or _pings(peer))
            for each in _pings(peer):
                await peer.send(frame(PING, ACK, 0, each))
            peer.frames.clear()
            if peer.at_end:
                return
            requests, peer.requests = peer.requests, []
            for asked in requests:
                await self._answer(peer, asked)

    async def _answer(self, peer: Peer, asked: Asked) -> None:
        path = asked[":path"].decode()
        found = re.fullmatch(r"/(chromium|h2sse|heard)/(\d+)/(.*)", path)
        if not found:
            html = (("content-type", "text/html"),)
            await peer.answer(asked, 200, html, _PAGE, ends=True)
            return
        number = int(found[2])
        if found[1] == "heard":
            self.heard("chromium", number)
            await peer.answer(asked, 204, (), ends=True)
            return
        earlier = self._asked.setdefault((found[1], number), [])
        last = shown(asked["last-event-id"].decode()) if "last-event-id" in asked else "-"
        script = self.rows[number].script
        step = script[len(earlier)] if len(earlier) < len(script) else _FINISHED
        earlier.append(f"{found[3]} {last}".lstrip())
        await step(Turn(peer, asked, self._heard[found[1], number]))


def shown(id_: str) -> str:
    """An ID, in quotes unless it is plain; the page of Chromium's does the same."""
    return id_ if re.fullmatch(r"\w+", id_, re.ASCII) else json.dumps(id_, ensure_ascii=False)


def _pings(peer: Peer) -> list[bytes]:
    return [each.payload for each in peer.frames if each.kind == PING and not each.is_ack]


@asynccontextmanager
async def serving(rows: Sequence[Row]) -> AsyncIterator[Site]:
    """The server, for as long as the block takes."""
    certificate = development_certificate(certificates())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    context.set_alpn_protocols(["h2"])
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:

        async def take(transport: trio.SocketStream) -> None:
            stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
            try:
                await stream.do_handshake()
                if stream.selected_alpn_protocol() == "h2":
                    await site.serve(Peer(stream))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it is closed: by the script, or by the client
            await trio.aclose_forcefully(stream)

        ports = {}
        for number in (-1, *(n for n, row in enumerate(rows) if row.own)):
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            ports[number] = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, take, [listener])
        site = Site(rows, ports)
        try:
            yield site
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


# -- our client


@final
class _Drops(logging.Handler):
    """Takes down `open` and `again`: that a source was dropped is told to the log alone."""

    def __init__(self, seen: Mapping[int, list[str]]) -> None:
        super().__init__(logging.INFO)
        self._seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        found = re.match(
            r"https://[^/]*/h2sse/(\d+)/.*: (open$|.*; again in )", record.getMessage()
        )
        if found:
            self._seen[int(found[1])].append("open" if found[2] == "open" else "again")


async def observe(site: Site) -> dict[int, Outcome]:
    """What our client makes of all rows at once."""
    seen: dict[int, list[str]] = {number: [] for number in range(len(site.rows))}
    ended = 0
    over = trio.Event()
    expected = sum(row.ends("h2sse") for row in site.rows)

    async def read(number: int, source: EventSource) -> None:
        nonlocal ended
        try:
            async with source:
                async for message in source:
                    type_ = "" if message.event == "message" else f"{message.event} "
                    id_ = f" #{shown(message.last_event_id)}" if message.last_event_id else ""
                    data = json.dumps(message.data, ensure_ascii=False)
                    seen[number].append(f"{type_}{data}{id_}")
                    site.heard("h2sse", number)
        except SourceFailed:
            pass
        seen[number].append("closed")
        if site.rows[number].ends("h2sse"):
            ended += 1
            if ended == expected:
                over.set()

    log = logging.getLogger("h2sse.client")
    handler, level = _Drops(seen), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    ca_file = development_certificate(certificates()).ca
    # No row says how long it waits: Chromium's 3 s are for Chromium.
    limits = ClientLimits(retry_seconds=0.3, min_retry_seconds=0.001)
    try:
        with trio.fail_after(DEADLINE_SECONDS):
            async with (
                Client(ca_file=ca_file, limits=limits) as client,
                trio.open_nursery() as all_,
            ):
                for number in seen:
                    all_.start_soon(read, number, client.events(site.url("h2sse", number)))
                await over.wait()
                all_.cancel_scope.cancel()
    except trio.TooSlowError:
        pass  # what is missing says more
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    return {n: Outcome(tuple(events), site.asked("h2sse", n)) for n, events in seen.items()}


# -- for people


def differences(rows: Sequence[Row], lens: Lens, found: Mapping[int, Outcome]) -> list[str]:
    """The rows of which it saw something else than the table says."""
    return [
        f"{row.group}: {row.name}: expected {row.expected(lens)}, found {found[number]}"
        for number, row in enumerate(rows)
        if found[number] != row.expected(lens)
        and (lens == "h2sse" or row.or_else is None or found[number] != row.or_else)
    ]


def table(rows: Sequence[Row]) -> str:
    """In Markdown; what differs in its name alone is one line."""
    agreed: dict[tuple[str, Outcome], list[str]] = {}
    differing: dict[tuple[str, Outcome, Outcome, str], list[str]] = {}
    for row in rows:
        if row.ours is None:
            agreed.setdefault((row.group, row.outcome), []).append(row.name)
        else:
            key = (row.group, row.outcome, row.ours, row.reason)
            differing.setdefault(key, []).append(row.name)
    lines = ["| the server | both see | and ask with |", "| --- | --- | --- |"]
    for (group, outcome), names in agreed.items():
        lines.append(f"| *{group}*: {_names(names)} | {_cells(outcome)} |")
    lines += ["", "| the server | Chromium | our client | why |", "| --- | --- | --- | --- |"]
    for (group, outcome, ours, reason), names in differing.items():
        both = f"{_brief(outcome)} | {_brief(ours)}"
        lines.append(f"| *{group}*: {_names(names)} | {both} | {reason} |")
    return "\n".join(lines)


def _names(names: Sequence[str]) -> str:
    """Names that differ in one number alone are one."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        parts = re.fullmatch(r"([^\d`]*)(\d+)(\D*)", name)
        before, number, after = parts.groups() if parts else (name, "", "")
        found.setdefault((before, after), []).append(number)
    return "; ".join(b + ", ".join(numbers) + a for (b, a), numbers in found.items())


def _cells(outcome: Outcome) -> str:
    return f"`{_shorter(outcome.seen)}` | `{_shorter(outcome.asked)}`"


def _brief(outcome: Outcome) -> str:
    return f"`{_shorter(outcome.seen)}` after {len(outcome.asked)} requests".replace(
        " 1 requests", " 1 request"
    )


def _shorter(words: Sequence[str]) -> str:
    """What comes many times in a row is counted."""
    found = []
    for word, run in groupby(words):
        count = len(list(run))
        found += [f"{count} x {word}"] if count > 3 else [word] * count
    return ", ".join(each if len(each) < 100 else f"{each[:20]}..." for each in found)


def _write(page: Path) -> None:
    from agreement_table import ROWS

    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(ROWS_BEGIN)
    _, _, after = rest.partition(ROWS_END)
    page.write_text(f"{before}{ROWS_BEGIN}\n\n{table(ROWS)}\n\n{ROWS_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    _write(Path(__file__).parents[1] / "docs" / "client.md")
