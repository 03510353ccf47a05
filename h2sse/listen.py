"""`h2sse listen`: events of one or several endpoints, as they come, for as long as they come.

Events go to stdout, a line (or more, if the data has more) each, or a JSON object each; what
happens to the connections goes to stderr.  A reader that is slow, or stopped, stops the servers by
their streams' windows; one that is gone ends it.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import trio

from .client import Client, EventSource, SourceFailed
from .client.source import read_url
from .errors import ConfigError
from .terminal import cause, printable
from .trace import Taps

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Sequence

    from .sse import Message
    from .trace.output import TraceOutput

__all__ = ["listen"]

_OWN_CA: Final = Path("certs/ca.pem")
_DIM, _TYPE, _PLAIN = "\x1b[2m", "\x1b[36m", "\x1b[0m"


def listen(arguments: argparse.Namespace, trace: TraceOutput | None = None) -> int:
    """Print events until there are enough, and what passes to `trace`; returns the exit code.

    0 after `--count`, a signal, or when nobody reads any more; 1 if an endpoint fails for good, or
    `--timeout` passes without enough.  Raises ConfigError.
    """
    urls: Sequence[str] = arguments.url
    count, timeout = arguments.count, arguments.timeout
    if count is not None and count < 1:
        raise ConfigError(f"--count must be 1 or more, not {count}")
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ConfigError(f"--timeout must be above 0, not {timeout}")
    taps = None
    if trace is not None:
        taps = Taps(time.time)
        taps.listeners.append(trace.write)
    client = Client(ca_file=_ca_file(arguments), verify=not arguments.insecure, taps=taps)
    sources = [
        client.events(
            url,
            headers=arguments.header,
            last_event_id=arguments.last_event_id,
            http1=arguments.http1,
        )
        for url in urls
    ]
    # That a connection is lost, and found again, is no secret here.
    log = logging.getLogger("h2sse.client")
    log.setLevel(min(log.getEffectiveLevel(), logging.INFO))
    output = _Output(json=arguments.json, numbered=len(urls) > 1)
    for number, url in enumerate(urls, 1):
        if len(urls) > 1:
            print(f"h2sse: {number} is {url}", file=sys.stderr)  # noqa: T201
    listening = _Listening(client, sources, output, count, trace)
    try:
        return trio.run(listening.run, timeout)
    except BaseExceptionGroup as group:
        raise cause(group) from None
    finally:
        if trace is not None:
            trace.finish()


def _ca_file(arguments: argparse.Namespace) -> Path | None:
    """The CA that is named, or the development one where only this machine is spoken to."""
    if arguments.ca_file is not None or arguments.insecure or not _OWN_CA.exists():
        file: Path | None = arguments.ca_file
        return file
    try:
        hosts = {read_url(url).host for url in arguments.url}
    except ValueError:
        return None  # the source will say what is wrong with it
    return _OWN_CA if all(map(_is_loopback, hosts)) else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@final
class _Listening:
    """All sources, and when to stop."""

    def __init__(
        self,
        client: Client,
        sources: Sequence[EventSource],
        output: _Output,
        count: int | None,
        trace: TraceOutput | None,
    ) -> None:
        self._client = client
        self._sources = sources
        self._output = output
        self._count = count
        self._trace = trace
        self._shown = 0
        self._failed = False
        self._code: int | None = None
        self._scope = trio.CancelScope()

    async def run(self, seconds: float | None) -> int:
        if seconds is not None:
            self._scope.deadline = trio.current_time() + seconds
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            # The scope is within the client's block: a server is told that we go.
            async with self._client:
                with self._scope:
                    await self._listen(signals)
        if self._code is not None:
            return self._code
        return 1 if self._failed or self._count is not None or not self._shown else 0

    async def _listen(self, signals: AsyncIterator[int]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, signals)
            if self._trace is not None:
                nursery.start_soon(self._trace.run)
            async with trio.open_nursery() as reading:
                for number, source in enumerate(self._sources, 1):
                    reading.start_soon(self._read, number, source)
            self._stop(1 if self._failed or self._count is not None else 0)

    def _stop(self, code: int) -> None:
        if self._code is None:
            self._code = code
        self._scope.cancel()

    async def _watch(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            self._stop(0)

    async def _read(self, number: int, source: EventSource) -> None:
        try:
            async with source:
                async for message in source:
                    await self._output.show(number, source.url, message)
                    self._shown += 1
                    if self._shown == self._count:
                        self._stop(0)
        except SourceFailed as error:
            self._failed = True
            print("h2sse:", printable(str(error)), file=sys.stderr)  # noqa: T201
        except BrokenPipeError:
            # Whoever read our stdout has left (`h2sse listen ... | head -1`): that is enough.
            self._stop(0)


# -- what it prints


@final
class _Output:
    """stdout, written to by a thread: a pager that does not read must not keep us from signals."""

    def __init__(self, *, json: bool, numbered: bool) -> None:
        self._json = json
        self._numbered = numbered
        self._fd = sys.stdout.fileno()
        self._terminal = os.isatty(self._fd)
        self._colour = (
            self._terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )
        self._turn = trio.Lock()

    async def show(self, number: int, url: str, message: Message) -> None:
        """Write one event, whole.  Raises BrokenPipeError."""
        now = datetime.now(UTC)
        if self._json:
            text = _as_json(now, url, message)
        else:
            text = _as_text(now.astimezone(), number if self._numbered else None, message)
            if self._terminal:
                text = "\n".join(map(printable, text.split("\n")))
            if self._colour:
                text = _coloured(text)
        data = (text + "\n").encode("utf-8", "backslashreplace")
        async with self._turn:
            await trio.to_thread.run_sync(_write, self._fd, data, abandon_on_cancel=True)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _as_json(now: datetime, url: str, message: Message) -> str:
    fields = {
        "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "url": url,
        "event": message.event,
        "id": message.last_event_id,
        "data": message.data,
    }
    text = json.dumps(fields, ensure_ascii=False)
    # Outside of strings all is ASCII, so this is JSON still, and nothing that a terminal obeys.
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text).replace(
        "\x7f", "\\u007f"
    )


def _as_text(now: datetime, number: int | None, message: Message) -> str:
    place = f"{number}  " if number is not None else ""
    id_ = f"  id={message.last_event_id}" if message.last_event_id else ""
    first, *more = message.data.split("\n")
    head = f"{now:%H:%M:%S}.{now.microsecond // 1000:03}  {place}{message.event}{id_}  {first}"
    return "\n".join((head, *(f"    {line}" for line in more)))


def _coloured(text: str) -> str:
    time, _, rest = text.partition("  ")
    head, gap, data = rest.partition("  ")
    return f"{_DIM}{time}{_PLAIN}  {_TYPE}{head}{_PLAIN}{gap}{data}"
