"""The command `h2sse`: serve, demo, certs and publish.

What a user did wrong is one line on stderr and the exit code 2; what the world refuses (a port that
is taken, a server that does not answer) is one line and 1.  `serve` and `demo` end with 0 on SIGINT
and SIGTERM, after their streams did.

Each command imports what it needs when it runs, so that `--help` costs no server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, final

from .errors import CommandError, ConfigError
from .settings import FILE_VARIABLE, SETTINGS, Given, defaults_as_toml, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import trio

    from . import App, Listening
    from .config import Config

    _Greet = Callable[[Sequence[Listening]], str]

__all__ = ["main"]

# The flags that are settings too; the others are the commands' own.
_FLAGS = {
    "host": "--host",
    "port": "--port",
    "http1": "--http1",
    "cors_origins": "--cors-origin",
    "tls.cert": "--cert",
    "tls.key": "--key",
    "tls.directory": "--directory",
    "limits.max_concurrent_streams": "--max-concurrent-streams",
}

# What the demo prints; h2sse/demo mounts them.
_DEMO_PAGES = {
    "/": "what there is",
    "/tabs/": "tabs by the hundred, HTTP/2 beside HTTP/1.1",
    "/theme/": "light or dark, in all tabs at once",
    "/clock/": "the server's time, every second",
    "/timestamps/": "the same, and a button to close the stream",
    "/facts/": "a list that all tabs add to",
    "/people/": "who is connected, and who they are",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    verbose = 0
    try:
        arguments = _arguments(argv)
        if arguments.version:
            from . import __version__

            _say(f"h2sse {__version__}")
            return 0
        if arguments.run is None:
            _parser().print_help()
            return 2
        verbose = arguments.verbose
        _log(verbose)
        arguments.run(arguments)
    except (Exception, BaseExceptionGroup, KeyboardInterrupt) as error:  # noqa: BLE001 - no traceback is an answer
        return _ended_by(error, verbose)
    return 0


def _ended_by(error: BaseException, verbose: int) -> int:
    """Say what happened in one line; returns the exit code."""
    cause = _cause(error)
    match cause:
        case KeyboardInterrupt():
            return 130
        case ConfigError():
            line, code = str(cause), 2
        case CommandError():
            line, code = str(cause), 1
        case _:
            line, code = f"unexpected {type(cause).__name__}: {cause}", 1
            if verbose > 1:
                import traceback

                traceback.print_exception(error)
            else:
                line += "; run with -vv for the traceback"
    print("h2sse:", " ".join(line.splitlines()), file=sys.stderr)  # noqa: T201
    return code


def _cause(error: BaseException) -> BaseException:
    """The error itself, out of the groups that nurseries make."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _say(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:
        # Whoever read our stdout has left (`h2sse serve | head -1`); that ends no server.  What is
        # still in the buffer must go somewhere at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _log(verbose: int) -> None:
    """Send log lines to stderr: warnings, with -v what happens, with -vv every detail."""
    import logging

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            record.short = record.name.removeprefix("h2sse.")
            return super().format(record)

    handler = logging.StreamHandler()
    handler.setFormatter(
        Formatter(
            "{asctime}.{msecs:03.0f} {levelname:7} {short}: {message}",
            datefmt="%H:%M:%S",
            style="{",
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logging.getLogger("h2sse").setLevel(levels[min(verbose, 2)])


# -- the arguments


@final
class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for.  Raises ConfigError; SystemExit after `--help`."""
    arguments, rest = _parser().parse_known_args(argv)
    if arguments.run is _publish_command and arguments.data is None:
        # `publish TOPIC --id 1 DATA`: Python 3.11's argparse has no place for DATA there, as it
        # takes an optional one to be absent once a flag follows.
        match rest:
            case ["--", data]:
                arguments.data, rest = data, []
            case [data] if data == "-" or not data.startswith("-"):
                arguments.data, rest = data, []
    if rest:
        arguments.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _format(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="h2sse",
        description="Server-Sent Events over HTTP/2: one event, every tab, one connection.",
        epilog="""\
examples:
  h2sse demo                       look at it: small live pages, and tabs by the hundred
  h2sse serve                      a server for your topics, at https://localhost:8443
  h2sse publish news 'It works'    one event to every tab that listens to the topic news

`h2sse COMMAND --help` tells more of each.""",
        formatter_class=_format,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.set_defaults(run=None, parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)

    def command(
        name: str,
        run: Callable[[argparse.Namespace], None],
        *,
        help: str,  # noqa: A002 - argparse's name
        description: str,
        epilog: str,
    ) -> _Parser:
        made = commands.add_parser(
            name,
            help=help,
            description=description,
            epilog=epilog,
            formatter_class=_format,
            allow_abbrev=False,
        )
        made.set_defaults(run=run, parser=made)
        made.add_argument(
            "-v",
            "--verbose",
            action="count",
            default=0,
            help="say on stderr what happens; -vv: every detail, and tracebacks",
        )
        return made

    _add_serve(
        command(
            "serve",
            _serve_command,
            help="serve topics to browsers",
            description="Serve topics: GET /events?topic=NAME subscribes, POST /publish publishes.",
            epilog=f"""\
examples:
  h2sse serve
  h2sse serve --cors-origin https://app.example --cors-origin https://www.app.example
  h2sse serve --host :: --port 443 --cert fullchain.pem --key privkey.pem
  H2SSE_LIMITS_TAB_BACKLOG_BYTES=65536 h2sse serve --config server.toml

A flag overrides the environment, which overrides FILE.toml, which overrides the defaults.
These can be set in FILE.toml, here with their defaults, and in the environment, where body_bytes
of [limits] is H2SSE_LIMITS_BODY_BYTES:

{_indented(defaults_as_toml())}""",
        )
    )
    _add_demo(
        command(
            "demo",
            _demo_command,
            help="serve the demo pages, over HTTP/2 and HTTP/1.1 side by side",
            description="Serve the demo pages on two ports: HTTP/2, and beside it HTTP/1.1 only,\n"
            "where a browser's seventh tab hangs.",
            epilog="""\
examples:
  h2sse demo
  h2sse demo --port 9000 --http1-port 9100
  h2sse demo --max-concurrent-streams 20    see the 21st tab wait

All else that `h2sse serve --help` lists can be set here too.""",
        )
    )
    certs = command(
        "certs",
        _certs_command,
        help="make the development certificate, or renew it",
        description="Make a development CA and a certificate for localhost, or renew what ends\n"
        "soon, and say how to trust them.  `serve` and `demo` do the same when they start.",
        epilog="""\
examples:
  h2sse certs
  h2sse certs --directory ~/.config/h2sse""",
    )
    _add_setting(certs, "tls.directory", "DIR", "where they are kept")
    _add_publish(
        command(
            "publish",
            _publish_command,
            help="publish one event through a running server",
            description="Publish one event through a running server, and print the id it got.",
            epilog="""\
examples:
  h2sse publish news 'It works'
  h2sse publish prices --event tick --id 42 '{"EUR": 1.08}'
  date | h2sse publish clock
  h2sse publish news hello --url https://push.example""",
        )
    )
    return parser


def _add_setting(
    group: argparse._ActionsContainer, path: str, metavar: str | None, text: str
) -> None:
    """A flag that overrides a setting."""
    setting = SETTINGS[path]
    default = setting.default
    shown = "none" if default in (None, ()) else "off" if default is False else str(default)
    text = f"{text} (default: {shown}; {setting.variable})"
    flag = _FLAGS[path]
    if metavar is None:
        group.add_argument(
            flag, dest=path, action="store_true", default=argparse.SUPPRESS, help=text
        )
    else:
        group.add_argument(
            flag,
            dest=path,
            metavar=metavar,
            action="append" if isinstance(default, tuple) else "store",
            default=argparse.SUPPRESS,
            help=text,
        )


def _add_serve(parser: _Parser) -> None:
    listener = parser.add_argument_group("listener")
    _add_setting(listener, "host", "HOST", "name or address to listen at; :: is every address")
    _add_setting(listener, "port", "PORT", "port to listen at; 0 takes a free one")
    _add_setting(listener, "http1", None, "serve HTTP/1.1 only")
    _add_common(parser)


def _add_demo(parser: _Parser) -> None:
    listeners = parser.add_argument_group("listeners")
    _add_setting(listeners, "host", "HOST", "name or address to listen at; :: is every address")
    _add_setting(listeners, "port", "PORT", "port of the HTTP/2 listener; 0 takes free ones")
    listeners.add_argument(
        "--http1-port",
        type=int,
        metavar="PORT",
        help="port of the HTTP/1.1 listener (default: the one after --port)",
    )
    _add_common(parser)


def _add_common(parser: _Parser) -> None:
    tls = parser.add_argument_group(
        "certificate", "Without one, a development CA and certificate are made in certs/."
    )
    _add_setting(tls, "tls.cert", "FILE", "PEM file of the certificate and its chain")
    _add_setting(tls, "tls.key", "FILE", "PEM file of its private key")
    clients = parser.add_argument_group("clients")
    _add_setting(
        clients,
        "cors_origins",
        "ORIGIN",
        "origin whose pages may read and publish, '*' for all; may be repeated",
    )
    _add_setting(
        clients, "limits.max_concurrent_streams", "N", "tabs and requests at a time a connection"
    )
    parser.add_argument_group("settings").add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help=f"read settings from this file (default: none; {FILE_VARIABLE})",
    )


def _add_publish(parser: _Parser) -> None:
    parser.add_argument("topic", metavar="TOPIC", help="the topic to publish to")
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="the event's data; - or nothing: all of stdin, without its last line end",
    )
    event = parser.add_argument_group("event")
    event.add_argument(
        "--event", metavar="TYPE", help="type, for addEventListener (default: message)"
    )
    event.add_argument("--id", help="id of your own (default: the server gives one)")
    event.add_argument(
        "--retry", type=int, metavar="MS", help="reconnection time for every tab (default: none)"
    )
    server = parser.add_argument_group("server")
    server.add_argument(
        "--url",
        default="https://localhost:8443",
        help="where it serves (default: %(default)s)",
    )
    server.add_argument(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="trust the CA in this PEM file only (default: the system's, and certs/ca.pem)",
    )
    server.add_argument(
        "--insecure", action="store_true", help="do not check the certificate (default: off)"
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def _config(arguments: argparse.Namespace) -> Config:
    given = vars(arguments)
    return load(
        file=given.get("config"),
        environment=os.environ,
        flags={path: Given(given[path], flag) for path, flag in _FLAGS.items() if path in given},
    )


# -- serve and demo


def _serve_command(arguments: argparse.Namespace) -> None:
    config = _config(arguments)

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

    _allow_open_files()
    trio.run(_serve, App(limits=config.limits), [(config, "--port")], _announcement(config, greet))


def _demo_command(arguments: argparse.Namespace) -> None:
    config = _config(arguments)
    if config.http1:
        raise ConfigError("http1 cannot be set for the demo: it shows both protocols")
    http1_port: int | None = arguments.http1_port
    if http1_port is None:
        http1_port = config.port and config.port + 1
    if not 0 <= http1_port <= 65535:
        raise ConfigError(f"--http1-port must be 0 to 65535, not {http1_port}")

    import trio

    from .demo import Demo

    demo = Demo(config.limits)

    def greet(listening: Sequence[Listening]) -> str:
        http2, http1 = (each.url for each in listening)
        demo.listening(http2, http1)  # so that the tabs page finds both
        pages = "".join(f"  {http2}{path:13} {text}\n" for path, text in _DEMO_PAGES.items())
        return f"h2sse serves {http2} (HTTP/2) and {http1} (HTTP/1.1 only)\n\n{pages}"

    _allow_open_files()
    beside = replace(config, port=http1_port, http1=True)
    listeners = [(config, "--port"), (beside, "--http1-port")]
    trio.run(_serve, demo.app, listeners, _announcement(config, greet))


def _announcement(config: Config, greet: _Greet) -> Callable[[Sequence[Listening]], None]:
    """Say the greeting once we listen, and how to trust a development CA that is new by then."""
    ca = _ca(config)
    before = _content(ca)

    def announce(listening: Sequence[Listening]) -> None:
        text = greet(listening)
        if ca and _content(ca) != before:
            from .tls import how_to_trust

            text += f"\n{how_to_trust(ca)}"
        _say(text.rstrip())

    return announce


async def _serve(
    app: App,
    listeners: Sequence[tuple[Config, str]],
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
            listening = [await _listen(nursery, app, *each) for each in listeners]
            announce(listening)
            for each in listening:
                log.info("listening for %s at %s", each.url, each.addresses)
            await stop.wait()
            log.info("ending all streams; another signal ends them at once")
            async with trio.open_nursery() as closing:
                for each in listening:
                    closing.start_soon(each.aclose)
            nursery.cancel_scope.cancel()


async def _watch(
    signals: AsyncIterator[int], stop: trio.Event, cancel_scope: trio.CancelScope
) -> None:
    async for _ in signals:
        if stop.is_set():
            cancel_scope.cancel()
        stop.set()


async def _listen(nursery: trio.Nursery, app: App, config: Config, port_flag: str) -> Listening:
    from . import Listening, serve

    try:
        listening = await nursery.start(serve, app, config)
    except* (OSError, UnicodeError) as group:
        raise CommandError(_why_not_listening(_cause(group), config, port_flag)) from group
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


def _certs_command(arguments: argparse.Namespace) -> None:
    directory = _config(arguments).tls.directory

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
        _say(f"{path!s:{width}}  {text}")
    _say(f"\n{how_to_trust(files.ca)}")


def _ca(config: Config) -> Path | None:
    """Where the development CA is, if it is in use."""
    return None if config.tls.cert else config.tls.directory / "ca.pem"


def _content(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError:
        return None


# -- publish


def _publish_command(arguments: argparse.Namespace) -> None:
    from .post import publish

    _say(publish(arguments))
