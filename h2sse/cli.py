"""The command `h2sse`: serve, demo, certs, publish, listen and probe.

What a user did wrong is one line on stderr and the exit code 2; what the world refuses (a port that
is taken, a server that does not answer) is one line and 1.  `serve` and `demo` end with 0 on SIGINT
and SIGTERM, after their streams did.

Each command imports what it needs when it runs, so that `--help` costs no server.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, final

from .errors import CommandError, ConfigError
from .settings import FILE_VARIABLE, SETTINGS, Given, defaults_as_toml, load
from .terminal import cause, log_to_stderr, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .config import Config
    from .trace.output import TraceOutput

__all__ = ["main"]

# The flags that are settings too; the others are the commands' own.
_FLAGS = {
    "host": "--host",
    "port": "--port",
    "reuse_port": "--reuse-port",
    "http1": "--http1",
    "cors_origins": "--cors-origin",
    "tls.cert": "--cert",
    "tls.key": "--key",
    "tls.directory": "--directory",
    "limits.max_concurrent_streams": "--max-concurrent-streams",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    verbose = 0
    try:
        arguments = _arguments(argv)
        if arguments.version:
            from . import __version__

            say(f"h2sse {__version__}")
            return 0
        if arguments.run is None:
            _parser().print_help()
            return 2
        verbose = arguments.verbose
        log_to_stderr(verbose)
        code = arguments.run(arguments)
    except (Exception, BaseExceptionGroup, KeyboardInterrupt) as error:  # noqa: BLE001 - no traceback is an answer
        return _ended_by(error, verbose)
    return code or 0


def _ended_by(error: BaseException, verbose: int) -> int:
    """Say what happened in one line; returns the exit code."""
    found = cause(error)
    match found:
        case KeyboardInterrupt():
            return 130
        case ConfigError():
            line, code = str(found), 2
        case CommandError():
            line, code = str(found), 1
        case _:
            line, code = f"unexpected {type(found).__name__}: {found}", 1
            if verbose > 1:
                import traceback

                traceback.print_exception(error)
            else:
                line += "; run with -vv for the traceback"
    print("h2sse:", " ".join(line.splitlines()), file=sys.stderr)  # noqa: T201
    return code


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
        run: Callable[[argparse.Namespace], int | None],
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
  h2sse serve --trace                       one line a frame, on stderr
  h2sse serve --trace-json frames.jsonl     the same as JSON lines, in a file

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
  h2sse demo --trace                        and see each frame, here or at /trace/

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
    _add_listen(
        command(
            "listen",
            _listen_command,
            help="print the events of any SSE endpoint",
            description="Print events as they come, and come back when the server is gone.\n"
            "0 after --count or a signal, 1 if the endpoint ends it or --timeout passes first.",
            epilog="""\
examples:
  h2sse listen 'https://localhost:8443/events?topic=news'
  h2sse listen --json --count 10 'https://localhost:8443/events?topic=news' | jq .data
  h2sse listen --header 'Authorization: Bearer ...' https://push.example/events
  h2sse listen --trace https://push.example/events       and see each frame""",
        )
    )
    _add_probe(
        command(
            "probe",
            _probe_command,
            help="check any SSE endpoint, and say what is wrong with it",
            description="Check what an SSE endpoint does on the wire, from outside.\n"
            "0 without a fault, 1 with one, 3 if there are warnings only.  See docs/probe.md.",
            epilog="""\
examples:
  h2sse probe https://localhost:8443/clock/stream
  h2sse probe 'https://localhost:8443/events?topic=probe' \\
      --publish-url https://localhost:8443/publish --publish-body 'topic=probe&data={n}'
  h2sse probe --only resume --json https://push.example/events""",
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
    _add_setting(listener, "reuse_port", None, "let other processes listen at the same port too")
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
    _add_trace(parser)
    parser.add_argument_group("settings").add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help=f"read settings from this file (default: none; {FILE_VARIABLE})",
    )


def _add_trace(parser: _Parser) -> None:
    trace = parser.add_argument_group(
        "trace", "What passes on every connection, one line a frame.  Credentials are left out."
    ).add_mutually_exclusive_group()
    for flag, what in (("--trace", "trace"), ("--trace-json", "trace, as JSON lines,")):
        trace.add_argument(
            flag,
            nargs="?",
            const="-",
            metavar="FILE",
            help=f"append a {what} to this file, without one to stderr (default: off)",
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


def _add_listen(parser: _Parser) -> None:
    parser.add_argument("url", metavar="URL", nargs="*", help="https:// URL of an event stream")
    parser.add_argument("--json", action="store_true", help="one JSON object a line (default: off)")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many events")
    parser.add_argument("--timeout", type=float, metavar="S", help="end after so many seconds")
    request = parser.add_argument_group("request")
    request.add_argument(
        "--last-event-id", default="", metavar="ID", help="begin after this one (default: none)"
    )
    request.add_argument("--http1", action="store_true", help="do without HTTP/2 (default: off)")
    _add_request(request)
    _add_trace(parser)


def _add_request(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="send this too, such as Authorization; may be repeated",
    )
    group.add_argument(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="trust the CA in this PEM file (default: the system's; here also certs/ca.pem)",
    )
    group.add_argument(
        "--insecure", action="store_true", help="do not check the certificate (default: off)"
    )


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:VALUE")
    return name.strip(), value.strip()


def _add_probe(parser: _Parser) -> None:
    parser.add_argument("url", metavar="URL", nargs="?", help="https:// URL of an event stream")
    parser.add_argument("--json", action="store_true", help="a report in JSON (default: a table)")
    checks = parser.add_argument_group("checks")
    checks.add_argument("--list", action="store_true", help="list the checks and exit")
    for flag, what in (("--only", "make only"), ("--skip", "leave out")):
        checks.add_argument(
            flag,
            action="append",
            default=[],
            metavar="NAME",
            help=f"{what} this check, or group of checks; may be repeated",
        )
    checks.add_argument(
        "--intrusive", action="store_true", help="make the rough checks too (default: off)"
    )
    checks.add_argument(
        "--host", metavar="HOST", help="the URL's host once more: for --intrusive, if not loopback"
    )
    checks.add_argument(
        "--timeout", type=float, default=5, metavar="S", help="for any answer (default: 5)"
    )
    checks.add_argument(
        "--quiet", type=float, default=35, metavar="S", help="to wait for a comment (default: 35)"
    )
    checks.add_argument(
        "--origin", metavar="ORIGIN", help="one whose pages should be able to read it"
    )
    publishing = parser.add_argument_group(
        "publishing", "For the checks that need an event at a known moment."
    )
    publishing.add_argument("--publish-url", metavar="URL", help="where to POST an event")
    publishing.add_argument(
        "--publish-body",
        metavar="BODY",
        help="what to POST, with {n} for the data: JSON, a form, or the data alone",
    )
    _add_request(parser.add_argument_group("request"))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def _config(arguments: argparse.Namespace) -> Config:
    given = vars(arguments)
    return load(
        file=given.get("config"),
        environment=os.environ,
        flags={path: Given(given[path], flag) for path, flag in _FLAGS.items() if path in given},
    )


def _trace(arguments: argparse.Namespace) -> TraceOutput | None:
    """Where a trace goes, if one is wanted.  Raises ConfigError."""
    wanted = arguments.trace_json or arguments.trace
    if wanted is None:
        return None
    from .trace.output import TraceOutput

    file = None if wanted == "-" else Path(wanted)
    return TraceOutput(file, json=arguments.trace_json is not None)


# -- the commands


def _serve_command(arguments: argparse.Namespace) -> None:
    config = _config(arguments)
    from .commands import serve

    serve(config, _trace(arguments))


def _demo_command(arguments: argparse.Namespace) -> None:
    config = _config(arguments)
    from .commands import demo

    demo(config, arguments.http1_port, _trace(arguments))


def _certs_command(arguments: argparse.Namespace) -> None:
    directory = _config(arguments).tls.directory
    from .commands import certs

    certs(directory)


def _publish_command(arguments: argparse.Namespace) -> None:
    from .post import publish

    say(publish(arguments))


def _listen_command(arguments: argparse.Namespace) -> int:
    for flag in ("trace", "trace_json"):
        file = getattr(arguments, flag)
        if file is not None and "://" in file:
            # `listen --trace URL`: argparse takes what follows for the FILE.
            arguments.url.insert(0, file)
            setattr(arguments, flag, "-")
    if not arguments.url:
        arguments.parser.error("the following arguments are required: URL")
    trace = _trace(arguments)
    from .listen import listen

    return listen(arguments, trace)


def _probe_command(arguments: argparse.Namespace) -> int:
    from .probe import Options, describe, run

    if arguments.list:
        say(describe())
        return 0
    if arguments.url is None:
        arguments.parser.error("the following arguments are required: URL")
    options = Options(
        url=arguments.url,
        headers=tuple(arguments.header),
        ca_file=arguments.ca_file,
        insecure=arguments.insecure,
        patience_seconds=arguments.timeout,
        quiet_seconds=arguments.quiet,
        publish_url=arguments.publish_url,
        publish_body=arguments.publish_body,
        origin=arguments.origin,
        only=tuple(arguments.only),
        skip=tuple(arguments.skip),
        intrusive=arguments.intrusive,
        confirmed_host=arguments.host,
    )
    return run(options, as_json=arguments.json)
