"""`python -m benchmarks conformance`: what `h2sse probe` says of h2sse, of others, and of proxies.

One server at a time is started as for a measurement, all with the same limit of streams, and probed
in full, the rough checks too: it is ours, and on loopback.  What comes of it is a page, made from
verdicts alone.  Of a rough check the page says who fails it, not what was seen: whoever runs such a
server should know, and nobody should read there how it is brought down.
"""

from __future__ import annotations

import os
import platform
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Final, final

import trio

import h2sse
from benchmarks.peers import PEERS, Peer, Setup
from benchmarks.peers.peer import find, said
from benchmarks.servers import Server, ServerFailed, serving
from h2sse.probe import CHECKS, Options, probe
from h2sse.probe.verdict import Check, Result, Verdict
from h2sse.terminal import printable

__all__ = ["SUBJECTS", "Column", "Subject", "every", "options", "page", "probed", "started"]

# What all are told to allow at once: as many as browsers need, fewer than the probe opens at most.
_STREAMS: Final = 128
# A subject takes one to five minutes.  Each check is bounded by itself, so only a mistake of the
# probe's meets this.
_RUN_SECONDS: Final = 1800.0

_COLUMNS: Final = 100

_MARKS: Final = {
    Verdict.PASS: "✓ pass",
    Verdict.WARN: "! warn",
    Verdict.FAIL: "**✗ fail**",
    Verdict.CANNOT_TELL: "· cannot tell",
}
_NOT_MADE: Final = "· not made"

# As docs/probe.md heads them.
_GROUPS: Final = {
    "connection": "Connection",
    "response": "The response",
    "access": "Who may ask, and how",
    "events": "Events",
    "resume": "Coming back",
    "http2": "HTTP/2",
    "http1": "HTTP/1.1",
    "end": "Ends",
}


# -- who is probed


@final
class HypercornAsyncio(Peer):
    """The Hypercorn of the benchmarks, with its other worker."""

    name = "hypercorn-asyncio"
    title = "Hypercorn (asyncio)"
    install = PEERS["hypercorn"].install

    def version(self) -> str | None:
        return PEERS["hypercorn"].version()

    def command(self, setup: Setup) -> list[str]:
        *command, application = PEERS["hypercorn"].command(setup)
        return [*command, "--worker-class", "asyncio", application]


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """What is probed: a server, or nginx in front of one if `nginx` is not None.

    `nginx` is what stands in its configuration beside `proxy_pass`; all else is its default.
    """

    name: str
    title: str
    server: Peer
    nginx: str | None = None

    @property
    def missing(self) -> str | None:
        """The command that installs what is not there; None if all is."""
        if self.server.version() is None:
            return self.server.install
        return _Nginx.install if self.nginx is not None and not _nginx_version() else None

    @property
    def version(self) -> str:
        parts = [self.server.version()]
        if self.nginx is not None:
            parts = [f"nginx {_nginx_version()}", f"{self.server.title} {parts[0]}"]
        return ", ".join(filter(None, parts))


_PLAIN: Final = (*PEERS.values(), HypercornAsyncio())
_ORDER: Final = ("h2sse", "hypercorn", "hypercorn-asyncio", "granian", "node", "nchan", "go")

SUBJECTS: Final[Mapping[str, Subject]] = {
    each.name: each
    for each in (
        *(
            Subject(peer.name, peer.title, peer)
            for peer in sorted(_PLAIN, key=lambda peer: _ORDER.index(peer.name))
        ),
        # h2sse asks nginx not to buffer (x-accel-buffering: no), Node's application does not.
        Subject("nginx-h2sse", "nginx before h2sse", PEERS["h2sse"], ""),
        Subject("nginx-node", "nginx before Node", PEERS["node"], ""),
        Subject(
            "nginx-gzip",
            "nginx with gzip before h2sse",
            PEERS["h2sse"],
            "gzip on; gzip_types text/event-stream;",
        ),
    )
}


@final
class _Nginx(Peer):
    """nginx before a server that runs."""

    install = "apt install nginx"

    def __init__(self, subject: Subject, upstream: Server) -> None:
        self.name, self.title = subject.name, subject.title
        self._more = subject.nginx
        self._upstream = upstream

    def version(self) -> str | None:
        return _nginx_version() or None

    def command(self, setup: Setup) -> list[str]:
        config = setup.folder / "nginx.conf"
        config.write_text(
            _NGINX.format(
                setup=setup,
                upstream=f"https://{self._upstream.host}:{self._upstream.port}",
                more=self._more,
                # Started by root, its worker would be nobody, who may not enter the folder.
                user="user root;" if os.geteuid() == 0 else "",
            )
        )
        program = find("nginx") or "nginx"
        return [program, "-p", str(setup.folder), "-c", str(config), "-e", "stderr"]


_NGINX: Final = """\
daemon off;
{user}
pid nginx.pid;
error_log stderr warn;
events {{ }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  ssl_certificate {setup.cert};
  ssl_certificate_key {setup.key};
  http2_max_concurrent_streams {setup.max_streams};
  server {{
    listen {setup.host}:{setup.port} ssl http2;
    location / {{
      proxy_pass {upstream};
      {more}
    }}
  }}
}}
"""


def _nginx_version() -> str:
    program = find("nginx")
    # "nginx version: nginx/1.22.1"
    return said(program, "-v").rpartition("/")[2] if program else ""


# -- probing


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What came of one subject.

    `absent` is the command that installs it, `failure` what was wrong with the run: verdicts may be
    missing then.
    """

    title: str
    version: str = ""
    results: Sequence[Result] = ()
    absent: str = ""
    failure: str = ""


@asynccontextmanager
async def started(subject: Subject) -> AsyncIterator[Server]:
    """A fresh server, with what stands in front of it.  Raises ServerFailed."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving(subject.server, "h2", max_streams=_STREAMS)
        )
        if subject.nginx is not None:
            nginx = _Nginx(subject, server)
            server = await stack.enter_async_context(serving(nginx, "h2", max_streams=_STREAMS))
        yield server


def options(subject: Subject, server: Server, checks: Sequence[Check]) -> Options:
    """What `h2sse probe` would be asked with for these checks."""
    peer = subject.server
    base = f"https://{server.host}:{server.port}"
    return Options(
        url=base + peer.events_path,
        ca_file=server.cafile,
        publish_url=base + peer.publish_path,
        publish_body="topic=bench&data={n}" if peer.publish_form else "{n}",
        intrusive=any(each.intrusive for each in checks),
        only=tuple(each.name for each in checks),
    )


async def probed(
    subject: Subject, checks: Sequence[Check] = CHECKS, *, seconds: float = _RUN_SECONDS
) -> Column:
    """Start, probe, end.  Whatever goes wrong is in the column.

    A rough check has a fresh server to itself: what one does to it is not blamed on the next.
    """
    if subject.missing is not None:
        return Column(title=subject.title, absent=subject.missing)
    mild = [each for each in checks if not each.intrusive]
    runs = [mild] * bool(mild) + [[each] for each in checks if each.intrusive]
    results: list[Result] = []
    failure = ""
    try:
        with trio.move_on_after(seconds) as scope:
            for run in runs:
                async with started(subject) as server:
                    await probe(options(subject, server, run), results.append)
                    if run is mild and server.ending:
                        failure = f"the server did not outlive the run: {server.ending}"
        if scope.cancelled_caught:
            failure = f"stopped after {seconds:g} s"
    except ServerFailed as error:
        failure = str(error).partition("\n")[0]
    for each in results:
        if "the check itself failed" in each.finding.seen:
            failure = f"the probe made a mistake: {each.check.name}, {each.finding.seen}"
    return Column(title=subject.title, version=subject.version, results=results, failure=failure)


async def every(subjects: Iterable[Subject]) -> list[Column]:
    """One after the other, told on stderr."""
    columns = []
    for subject in subjects:
        print(f"{subject.title} ...", end=" ", file=sys.stderr, flush=True)
        column = await probed(subject)
        print(column.absent or column.failure or _counted(column), file=sys.stderr)
        columns.append(column)
    return columns


def _counted(column: Column) -> str:
    counts = Counter(each.verdict for each in column.results)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)


# -- the page


def page(columns: Sequence[Column], day: datetime | None = None) -> str:
    """The page, in Markdown."""
    parts = [
        "# Conformance",
        _INTRODUCTION,
        _facts(day or datetime.now(UTC)),
        "## At a glance",
        "\n".join(_glance(columns)),
    ]
    shown = [each for each in columns if each.results]
    for group, checks in groupby(CHECKS, key=lambda check: check.group):
        parts += [f"## {_GROUPS[group]}", "\n".join(_table(shown, checks))]
    parts.append("## What was found")
    for column in columns:
        parts += [f"### {column.title}", "\n".join(_found(column))]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION: Final = """\
What [`h2sse probe`](probe.md) says of h2sse, of other servers that push events over HTTP/2, and of
nginx as a proxy in front of two of them. This page is written by `python -m benchmarks conformance`
from the verdicts; no mark in it was set by hand. A check's name leads to what it does, and how to
mend what it finds.

Each server has its own process, one worker, a limit of 128 streams a connection, and otherwise what
[the benchmarks](benchmarks.md) give it. Hypercorn and Granian host h2sse's own application by ASGI,
so ids and history are there; Node and Go run a small application, which has neither. So a verdict
is one of a server *with an application*: who sends an id, a `retry` or a heartbeat is the
application; who frames, bounds and ends streams is the server.

**pass**: seen to be right. **warn**: allowed, or a matter of practice. **fail**: a rule is broken,
or users lose events, streams or connections. **cannot tell**: what was to be judged did not come
about, or another fault was in the way. Of *rough* checks the page says only who fails them."""


def _facts(day: datetime) -> str:
    return _item(
        f"Probed on {day:%Y-%m-%d} with h2sse {h2sse.__version__} on"
        f" {platform.python_implementation()} {platform.python_version()}, {platform.system()}."
        " Again: `uv run python -m benchmarks conformance`, or one alone:"
        " `... conformance --server NAME`."
    )


def _glance(columns: Sequence[Column]) -> Iterator[str]:
    yield "| server | version | " + " | ".join(each.value for each in Verdict) + " |"
    yield "| --- | --- |" + " ---: |" * len(Verdict)
    for column in columns:
        counts = Counter(each.verdict for each in column.results)
        numbers = [str(counts[verdict]) if column.results else "–" for verdict in Verdict]
        version = f"absent: `{column.absent}`" if column.absent else column.version
        yield _row(column.title, version, *numbers)


def _table(columns: Sequence[Column], checks: Iterable[Check]) -> Iterator[str]:
    yield _row("check", "clause", *(each.title for each in columns))
    yield "|" + " --- |" * (2 + len(columns))
    for check in checks:
        marks = []
        for column in columns:
            verdicts = [each.verdict for each in column.results if each.check is check]
            marks.append(_MARKS[verdicts[0]] if verdicts else _NOT_MADE)
        name = f"[{check.name}](probe.md#{check.name})" + ", rough" * check.intrusive
        yield _row(name, check.clause, *marks)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _found(column: Column) -> Iterator[str]:
    """A line for each fault and warning, worst first, and one for what could not be told."""
    if column.absent:
        yield f"Not installed, so not probed; `{column.absent}` installs it."
        return
    if column.failure:
        yield _item(f"- **not probed as it should be**: {_plain(column.failure)}")
    for verdict in (Verdict.FAIL, Verdict.WARN):
        for result in column.results:
            if result.verdict is verdict:
                yield _item(_fault(result))
    counts = Counter(each.verdict for each in column.results)
    if not (column.failure or counts[Verdict.FAIL] or counts[Verdict.WARN]):
        yield "- No fault, and nothing to warn of."
    unclear: dict[str, list[str]] = {}
    for result in column.results:
        if result.verdict is Verdict.CANNOT_TELL:
            unclear.setdefault(_seen(result), []).append(result.check.name)
    if unclear:
        reasons = (f"{', '.join(names)} ({reason})" for reason, names in unclear.items())
        yield _item(f"- cannot tell: {'; '.join(reasons)}")


def _fault(result: Result) -> str:
    """What was seen, in the probe's words, and what users notice."""
    check = result.check
    return f"- **{check.name}**, {result.verdict.value}: {_seen(result)}. *Users:* {check.notice}"


def _seen(result: Result) -> str:
    return "rough" if result.check.intrusive else _plain(result.finding.seen)


def _plain(text: str) -> str:
    """A peer's words as text: none of Markdown's signs means anything."""
    return "".join(f"\\{c}" if c in "\\`*<>|[]#" else c for c in printable(text))


def _item(text: str) -> str:
    indent = "  " * text.startswith("- ")
    return textwrap.fill(
        text, _COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
