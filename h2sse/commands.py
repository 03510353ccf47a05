"""What `h2sse serve`, `demo` and `certs` do, once it is settled what was asked.

A server runs until SIGINT or SIGTERM, then lets its streams end; a second signal does not wait.
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from .errors import CommandError, ConfigError
from .terminal import cause, say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    import trio

    from . import App, Listening
    from .config import Config
    from .trace import Listener, Taps
    from .trace.output import TraceOutput

    _Greet = Callable[[Sequence[Listening]], str]

__all__ = ["certs", "demo", "serve"]

# What has gone in cycles all the same, as errors with a traceback may, takes memory until then.
_COLLECT_SECONDS = 3600.0
# The most that CPython takes for a threshold.
_NEVER = 2**31 - 1

# How often freed memory is given back, at the most, and for which share of the time: a call that
# finds nothing takes 0.1 to 1 ms, one that finds 60 MiB 5, a heap in 50,000 pieces 30 each time.
# Once a second that was felt: amid 5,000 tabs that do not read p99 went from 25 to 70 ms.
_TRIM_SECONDS = 60.0
_TRIM_SHARE = 0.001
# Larger blocks are mapped one by one and go back as soon as they are freed: what large bodies are
# read into, at four bytes a character for one emoji among them.  glibc would raise this to the
# largest block ever freed, and keep such blocks.  An upload of a mebibyte takes a millisecond more.
_MAPPED_BYTES = 256 * 1024
_M_MMAP_THRESHOLD = -3  # malloc.h

# What the demo prints; h2sse/demo mounts them.
_DEMO_PAGES = {
    "/": "what there is",
    "/tabs/": "tabs by the hundred, HTTP/2 beside HTTP/1.1",
    "/theme/": "light or dark, in all tabs at once",
    "/clock/": "the server's time, every second",
    "/timestamps/": "the same, and a button to close the stream",
    "/facts/": "a list that all tabs add to",
    "/people/": "who is connected, and who they are",
    "/trace/": "the frames on the wire, as they pass",
}


def serve(config: Config, trace: TraceOutput | None = None) -> None:
    """`h2sse serve`: topics for browsers, until a signal."""
    import trio

    from . import App

    def greet(listening: Sequence[Listening]) -> str:
        url = listening[0].url
        ca = _ca(config)
        curl = f"curl --cacert {shlex.quote(str(ca))}" if ca else "curl"
        protocols = "HTTP/1.1" if config.http1 else "HTTP/2 and HTTP/1.1"
        return f"""\
h2sse serves {url} ({protocols})

  subscribe   {curl} -N '{url}/events?topic=news'
  publish     {curl} {url}/publish -d topic=news -d data=hello
"""

    app = App(limits=config.limits, topics=config.topics)
    with _tracing(app, trace) as taps:
        _allow_open_files()
        trio.run(_serve, app, [(config, "--port")], taps, _announcement(config, greet))


def demo(config: Config, http1_port: int | None, trace: TraceOutput | None = None) -> None:
    """`h2sse demo`: the demo pages on two ports.  Raises ConfigError for a port that cannot be."""
    if config.http1:
        raise ConfigError("http1 cannot be set for the demo: it shows both protocols")
    if http1_port is None:
        http1_port = config.port and config.port + 1
    if not 0 <= http1_port <= 65535:
        raise ConfigError(f"--http1-port must be 0 to 65535, not {http1_port}")

    import trio

    from .demo import Demo

    pages = Demo(config.limits)

    def greet(listening: Sequence[Listening]) -> str:
        http2, http1 = (each.url for each in listening)
        pages.listening(http2, http1)  # so that the tabs page finds both
        found = "".join(f"  {http2}{path:13} {text}\n" for path, text in _DEMO_PAGES.items())
        return f"h2sse serves {http2} (HTTP/2) and {http1} (HTTP/1.1 only)\n\n{found}"

    beside = replace(config, port=http1_port, http1=True)
    listeners = [(config, "--port"), (beside, "--http1-port")]
    with _tracing(pages.app, trace, pages.traced) as taps:
        _allow_open_files()
        trio.run(_serve, pages.app, listeners, taps, _announcement(config, greet))


@contextlib.contextmanager
def _tracing(app: App, output: TraceOutput | None, *listeners: Listener) -> Iterator[Taps | None]:
    """What the connections of a server are to tell of their bytes; None if nobody listens."""
    if output is None and not listeners:
        yield None
        return
    import time

    from .trace import Taps

    taps = Taps(time.time)
    taps.listeners += listeners
    if output is None:
        yield taps
        return
    taps.listeners.append(output.write)
    app.background(output.run)
    try:
        yield taps
    finally:
        output.finish()


def _announcement(config: Config, greet: _Greet) -> Callable[[Sequence[Listening]], None]:
    """Say the greeting once we listen, and how to trust a development CA that is new by then."""
    ca = _ca(config)
    before = _content(ca)

    def announce(listening: Sequence[Listening]) -> None:
        text = greet(listening)
        if ca and _content(ca) != before:
            from .tls import how_to_trust

            text += f"\n{how_to_trust(ca)}"
        say(text.rstrip())

    return announce


async def _serve(
    app: App,
    listeners: Sequence[tuple[Config, str]],
    taps: Taps | None,
    announce: Callable[[Sequence[Listening]], None],
) -> None:
    """Serve until SIGINT or SIGTERM, then let the streams end; a second signal does not wait.

    Each listener comes with the flag that would move it to another port.
    """
    import logging
    import signal

    import trio

    log = logging.getLogger(__name__)
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, signals, stop, nursery.cancel_scope)
            listening = [await _listen(nursery, app, taps, *each) for each in listeners]
            nursery.start_soon(_collect_garbage)
            nursery.start_soon(_trim_memory)
            announce(listening)
            for each in listening:
                log.info("listening for %s at %s", each.url, each.addresses)
            await stop.wait()
            log.info("ending all streams; another signal ends them at once")
            async with trio.open_nursery() as closing:
                for each in listening:
                    closing.start_soon(each.aclose)
            nursery.cancel_scope.cancel()


async def _collect_garbage() -> None:
    """Look rarely at all there is: every tab waits for that, 0.1 s with 2,000 connections.

    Python itself would, each time there is a quarter more of it.  But connections that go leave
    nothing to the collector (tests/test_garbage.py), and those that come are here to stay.
    """
    import gc

    import trio

    # What has been imported is, too.
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    while True:
        await trio.sleep(_COLLECT_SECONDS)
        gc.collect()


async def _trim_memory() -> None:
    """Give what was freed back to the system.

    glibc does so at the end of its heap only: one small block that stays there, of a tab that came
    last, keeps all that an attack took before it.  In a thread it would hold the loop just as long,
    by the heap's lock.
    """
    import time

    import trio

    found = _glibc()
    if found is None:
        return
    mallopt, malloc_trim = found
    mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    pause = _TRIM_SECONDS
    while True:
        await trio.sleep(pause)
        began = time.perf_counter()
        malloc_trim(0)
        pause = max(_TRIM_SECONDS, (time.perf_counter() - began) / _TRIM_SHARE)


def _glibc() -> tuple[Callable[[int, int], int], Callable[[int], int]] | None:
    """Its `mallopt` and `malloc_trim`; None where there is another C library."""
    import ctypes

    try:
        library = ctypes.CDLL(None)
        return library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # musl and macOS; Windows has no CDLL(None)
        return None


async def _watch(
    signals: AsyncIterator[int], stop: trio.Event, cancel_scope: trio.CancelScope
) -> None:
    async for _ in signals:
        if stop.is_set():
            cancel_scope.cancel()
        stop.set()


async def _listen(
    nursery: trio.Nursery, app: App, taps: Taps | None, config: Config, port_flag: str
) -> Listening:
    from . import Listening
    from . import serve as listen

    try:
        listening = await nursery.start(listen, app, config, taps)
    except* (OSError, UnicodeError) as group:
        raise CommandError(_why_not_listening(cause(group), config, port_flag)) from group
    assert isinstance(listening, Listening)
    return listening


def _why_not_listening(error: BaseException, config: Config, port_flag: str) -> str:
    import errno
    import socket

    host, port = config.host, config.port
    if isinstance(error, socket.gaierror | UnicodeError):
        why = getattr(error, "strerror", None) or error
        return f"{host} has no address ({why}); choose another with --host"
    assert isinstance(error, OSError)
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"port {port} on {host} is taken; stop what listens there"
                f" or choose another with {port_flag}"
            )
        case errno.EACCES if 0 < port < 1024:
            return (
                f"port {port} on {host} is not permitted: those under 1024 are root's;"
                f" choose another with {port_flag}"
            )
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine; choose another with --host"
        case _:
            return f"cannot listen at {host}, port {port}: {error.strerror or error}"


def _allow_open_files() -> None:
    """Raise the soft limit of open files to the hard one: each connection is a file."""
    try:
        import resource
    except ImportError:  # Windows knows no such limit
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS says "infinity" and does not mean it.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# -- certificates


def certs(directory: Path) -> None:
    """`h2sse certs`: make or renew the development certificate, and say how to trust it."""

    from .tls import development_certificate, how_to_trust

    files = development_certificate(directory)
    state = "made just now" if files.made else "still good"
    lines = (
        (files.ca, "the development CA, to be trusted"),
        (files.cert, f"certificate for localhost, until {files.not_after:%Y-%m-%d}; {state}"),
        (files.key, "its private key"),
    )
    width = max(len(str(path)) for path, _ in lines)
    for path, text in lines:
        say(f"{path!s:{width}}  {text}")
    say(f"\n{how_to_trust(files.ca)}")


def _ca(config: Config) -> Path | None:
    """Where the development CA is, if it is in use."""
    return None if config.tls.cert else config.tls.directory / "ca.pem"


def _content(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError:
        return None
