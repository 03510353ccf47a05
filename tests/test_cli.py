"""The command line, as a user meets it: real processes, real sockets, real TLS."""

from __future__ import annotations

import errno
import http.client
import http.server
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import pytest
import trustme

from h2sse.cli import _arguments, _ended_by
from h2sse.commands import _why_not_listening
from h2sse.config import Config
from h2sse.errors import ConfigError
from h2sse.settings import SETTINGS
from h2sse.tls import development_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
# How long any step of a process may take on a loaded machine, before the test says it hangs.
DEADLINE_SECONDS = 30

COMMANDS = ("serve", "demo", "certs", "publish", "listen", "probe")


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("H2SSE_")}
    # NO_COLOR: argparse paints its help from Python 3.14 on.
    ours = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "NO_COLOR": "1", "COLUMNS": "100"}
    return kept | ours | more


def h2sse(
    *arguments: str | bytes, cwd: Path, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "h2sse", *arguments],
        cwd=cwd,
        env=_environment(**environment),
        input=stdin,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def complaint(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on stderr of a command that failed, and said nothing else."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("h2sse: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("h2sse: ").rstrip("\n")


@final
class Process:
    """A command that runs, with its output up to the lines awaited."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.said = ""

    def line(self, pattern: str) -> re.Match[str]:
        """Read stdout until a line matches."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.said += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no {pattern!r} in {self.said!r}; stderr: {self.end()[1]}")

    def end(self, *signals: signal.Signals) -> tuple[int, str]:
        """The exit code and stderr, after these signals."""
        for number in signals:
            self.popen.send_signal(number)
        rest, errors = self.popen.communicate(timeout=DEADLINE_SECONDS)
        self.said += rest
        return self.popen.returncode, errors


@contextmanager
def running(*arguments: str, cwd: Path, **environment: str) -> Iterator[Process]:
    with subprocess.Popen(
        [sys.executable, "-m", "h2sse", *arguments],
        cwd=cwd,
        env=_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as popen:
        # A process that hangs is killed, which ends every read of its output.
        timer = threading.Timer(DEADLINE_SECONDS, popen.kill)
        timer.start()
        try:
            yield Process(popen)
        finally:
            timer.cancel()
            popen.kill()


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with certs/ in it, as after the first start."""
    directory = tmp_path_factory.mktemp("certified")
    development_certificate(directory / "certs")
    return directory


# -- help, version, usage


def test_alone_it_prints_its_help(tmp_path: Path) -> None:
    alone, helped = h2sse(cwd=tmp_path), h2sse("--help", cwd=tmp_path)
    assert (alone.returncode, helped.returncode) == (2, 0)
    assert alone.stdout == helped.stdout
    assert alone.stderr == helped.stderr == ""
    assert all(f"\n    {command} " in helped.stdout for command in COMMANDS)
    examples = helped.stdout.partition("examples:\n")[2]
    assert re.findall(r"^  h2sse (\w+)", examples, re.MULTILINE) == ["demo", "serve", "publish"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(tmp_path: Path, command: str) -> None:
    helped = h2sse(command, "--help", cwd=tmp_path)
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith(f"usage: h2sse {command}")
    assert "\nexamples:\n" in helped.stdout
    assert max(map(len, helped.stdout.splitlines())) <= 100


@pytest.mark.parametrize("command", ["serve", "demo", "certs"])
def test_help_gives_default_and_variable_of_each_setting(tmp_path: Path, command: str) -> None:
    shown = " ".join(h2sse(command, "--help", cwd=tmp_path).stdout.split())
    named = re.findall(r"\(default: ([^;)]+); (H2SSE_\w+)\)", shown)
    known = {setting.variable for setting in SETTINGS.values()} | {"H2SSE_CONFIG"}
    assert {variable for _, variable in named} <= known
    if command == "certs":
        assert named == [("certs", "H2SSE_TLS_DIRECTORY")]
    else:
        assert ("8443", "H2SSE_PORT") in named
        assert ("256", "H2SSE_LIMITS_MAX_CONCURRENT_STREAMS") in named


def test_serve_help_names_every_setting(tmp_path: Path) -> None:
    shown = h2sse("serve", "--help", cwd=tmp_path).stdout
    names = {path.split(".")[-1] for path in SETTINGS}
    assert {name for name in names if f"  {name} = " not in shown} - {"cert", "key"} == set()


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_examples_in_help_are_right(tmp_path: Path, command: str) -> None:
    shown = h2sse(*command.split(), "--help", cwd=tmp_path).stdout
    epilog = shown.partition("examples:")[2].replace("\\\n", "")  # as a shell joins lines
    examples = re.findall(r"^  .*?\bh2sse (.*?)(?:   \w.*)?$", epilog, re.MULTILINE)
    assert examples
    for example in examples:
        assert _arguments(shlex.split(example)).run


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_no_server(tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "h2sse", *command.split(), "--help"],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "h2sse.cli" in loaded
    costly = {"trio", "h2", "h11", "ssl", "asyncio", "trustme", "cryptography"}
    assert loaded & {*costly, "prometheus_client", "logging", "http.client"} == set()


def test_version(tmp_path: Path) -> None:
    done = h2sse("--version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done.stdout == f"h2sse {project['version']}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frob"], r"argument COMMAND: invalid choice: 'frob' .*; see `h2sse --help`"),
        (["serve", "x"], r"unrecognized arguments: x; see `h2sse serve --help`"),
        (["--verbos"], r"unrecognized arguments: --verbos; see `h2sse --help`"),
        (["publish", "t", "x", "y"], r"unrecognized arguments: y; see `h2sse publish --help`"),
        (["publish", "t", "--x"], r"unrecognized arguments: --x; see `h2sse publish --help`"),
        # No abbreviations: --http1 is a flag of serve, and would be --http1-port here.
        (["demo", "--http1"], r"unrecognized arguments: --http1; see `h2sse demo --help`"),
        (["serve", "--port"], r"argument --port: expected one argument; see `h2sse serve --help`"),
        (["publish"], r"the following arguments are required: TOPIC; see `h2sse publish --help`"),
        (["serve", "--port", "http"], r'--port must be a whole number, not "http"'),
        (["serve", "--port", "65536"], r"--port must be 0 to 65535, not 65536"),
        (["demo", "--port", "65535"], r"--http1-port must be 0 to 65535, not 65536"),
        (["demo", "--http1-port", "x"], r"argument --http1-port: invalid int value: 'x'; .*"),
        (["serve", "--host", ""], r"--host must not be empty; .*"),
        (["serve", "--cors-origin", "app.example"], r"--cors-origin: 'app.example' is not an .*"),
        (
            ["serve", "--max-concurrent-streams", "0"],
            r"--max-concurrent-streams must be a whole number above 0, not 0",
        ),
        (["serve", "--cert", "a.pem"], r"--cert: tls.key is missing: cert and key go together"),
        (["demo", "--key", "a.pem"], r"--key: tls.cert is missing: key and cert go together"),
        (["serve", "--config", "no.toml"], r"cannot read no.toml: No such file or directory"),
        (["serve", "--trace", "."], r"cannot write the trace to \.: Is a directory"),
        (
            ["demo", "--trace", "a", "--trace-json", "b"],
            r"argument --trace-json: not allowed with argument --trace; see `h2sse demo --help`",
        ),
        (["publish", "t", "x", "--retry", "0"], r"retry must be 1 to 86400000 ms: 0"),
        (["publish", "t", "x", "--id", "a\nb"], r"id must be one line, .*: 'a\\nb'"),
        (["publish", "t", b"\xff"], r"data holds a lone surrogate: .*"),
        (
            ["publish", "t", "x", "--url", "http://a"],
            r"--url must be like https://localhost:8443, not http://a",
        ),
        (["publish", "t", "x", "--url", "https://[::1"], r"--url https://\[::1 is not a URL: .*"),
        (["publish", "t", "x", "--url", "https://a:b"], r"--url https://a:b is not a URL: .*"),
        (["publish", "t", "x", "--ca-file", "no.pem"], r"cannot read no.pem: No such file .*"),
    ],
)
def test_what_the_user_did_wrong(
    tmp_path: Path, arguments: list[str | bytes], message: str
) -> None:
    assert re.fullmatch(message, complaint(h2sse(*arguments, cwd=tmp_path), 2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "data"),
    [
        ("publish t d", "d"),
        ("publish t d --id 1", "d"),
        ("publish t --id 1 d", "d"),
        ("publish --id 1 t d", "d"),
        ("publish --id 1 t --event e d", "d"),
        ("publish --id 1 t --event e -- -5", "-5"),
        ("publish --id 1 t -- -5", "-5"),
        ("publish t --id 1 -", "-"),
        ("publish t -", "-"),
        ("publish t --id 1", None),
        ("publish t", None),
    ],
)
def test_data_may_stand_anywhere_after_its_topic(line: str, data: str | None) -> None:
    arguments = _arguments(line.split())
    assert (arguments.topic, arguments.data) == ("t", data)


def test_stdin_that_is_not_text(tmp_path: Path) -> None:
    done = h2sse("publish", "t", stdin=b"ok\xff", cwd=tmp_path)
    assert complaint(done, 2) == "stdin is not UTF-8: invalid start byte at byte 2"


def test_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")
    done = h2sse("publish", "t", "x", "--ca-file", "ca.pem", cwd=tmp_path)
    assert complaint(done, 2) == "ca.pem holds no certificate in PEM form; see --ca-file"


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_mistakes_in_the_toml_file(tmp_path: Path, command: str) -> None:
    file = tmp_path / "server.toml"
    for toml, message in (
        (
            "[limits]\ntab_backlog_byte = 1\n",
            (
                "limits.tab_backlog_byte in server.toml is not a setting;"
                " did you mean tab_backlog_bytes?"
            ),
        ),
        ("port = 70000\n", "port in server.toml must be 0 to 65535, not 70000"),
        ('port = "http"\n', 'port in server.toml must be a whole number, not "http"'),
        (
            "port = 1\nport =\n",
            "server.toml is not valid TOML: Invalid value (at line 2, column 7)",
        ),
    ):
        file.write_text(toml)
        assert complaint(h2sse(command, "--config", "server.toml", cwd=tmp_path), 2) == message
        assert complaint(h2sse(command, cwd=tmp_path, H2SSE_CONFIG="server.toml"), 2) == message


def test_mistakes_in_the_environment(tmp_path: Path) -> None:
    assert complaint(h2sse("serve", cwd=tmp_path, H2SSE_PROT="1"), 2) == (
        "the environment variable H2SSE_PROT is not a setting; did you mean H2SSE_PORT?"
    )
    assert complaint(h2sse("demo", cwd=tmp_path, H2SSE_HTTP1="true"), 2) == (
        "http1 cannot be set for the demo: it shows both protocols"
    )


# -- certs


def test_certs(tmp_path: Path) -> None:
    made = h2sse("certs", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    files = [line.split()[0] for line in made.stdout.splitlines()[:3]]
    assert files == [f"certs/{name}.pem" for name in ("ca", "localhost", "localhost-key")]
    assert "made just now" in made.stdout
    assert "--cacert certs/ca.pem" in made.stdout
    contents = [(tmp_path / file).read_bytes() for file in files]
    again = h2sse("certs", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "still good" in again.stdout
    assert [(tmp_path / file).read_bytes() for file in files] == contents


def test_certs_elsewhere(tmp_path: Path) -> None:
    assert h2sse("certs", "--directory", "a", cwd=tmp_path).returncode == 0
    assert h2sse("certs", cwd=tmp_path, H2SSE_TLS_DIRECTORY="b").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
    assert all((tmp_path / name / "ca.pem").exists() for name in "ab")


def test_certs_where_they_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "certs").write_text("")
    assert "certs" in complaint(h2sse("certs", cwd=tmp_path), 2)


# -- publish, against servers of our own making


@final
class Answering(http.server.BaseHTTPRequestHandler):
    """Answers every POST with what the test has put here, and keeps what came."""

    answer: ClassVar[tuple[int, str, bytes]]
    received: ClassVar[list[tuple[str, str, object]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((self.path, self.headers["content-type"], json.loads(body)))
        status, kind, content = self.answer
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@final
class Peer(http.server.HTTPServer):
    """An HTTPS server whose clients may hang up in the handshake."""

    def handle_error(self, *_: object) -> None:
        pass


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[str]:
    """The URL of a server that `Answering` speaks for; its CA is in tmp_path/ca.pem."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    Answering.received = []
    with Peer(("localhost", 0), Answering) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"https://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


JSON = "application/json"


def test_publish_prints_the_id(tmp_path: Path, answering: str) -> None:
    Answering.answer = (200, JSON, b'{"id":"7-1"}')
    trusted = ("--url", answering, "--ca-file", "ca.pem")
    plain = h2sse("publish", "news", "hé\nllo", *trusted, cwd=tmp_path)
    full = h2sse(
        *("publish", "news", "x", "--event", "tick", "--id", "é", "--retry", "5"),
        *("--url", f"{answering}/below/", "--ca-file", "ca.pem"),
        cwd=tmp_path,
    )
    for done in (plain, full):
        assert (done.returncode, done.stdout, done.stderr) == (0, "7-1\n", "")
    assert Answering.received == [
        ("/publish", JSON, {"topic": "news", "data": "hé\nllo"}),
        (
            "/below/publish",
            JSON,
            {"topic": "news", "data": "x", "event": "tick", "id": "é", "retry": 5},
        ),
    ]


@pytest.mark.parametrize(
    ("dash", "stdin", "data"),
    [
        ([], b"hello\n", "hello"),
        (["-"], b"hello\r\n", "hello"),
        ([], "h\u00e9".encode(), "h\u00e9"),
        (["-"], b"a\nb\n\n", "a\nb\n"),
        ([], b"", ""),
    ],
)
def test_publish_reads_stdin(
    tmp_path: Path, answering: str, dash: list[str], stdin: bytes, data: str
) -> None:
    Answering.answer = (200, JSON, b'{"id":"1"}')
    trusted = ("--url", answering, "--ca-file", "ca.pem")
    done = h2sse("publish", "news", *dash, *trusted, cwd=tmp_path, stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    assert Answering.received[0][2] == {"topic": "news", "data": data}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            (
                422,
                "application/problem+json",
                b'{"title":"Unprocessable","status":422,"detail":"is too long","field":"topic"}',
            ),
            "URL refuses the event (422): topic: is too long",
        ),
        (
            (503, "application/problem+json", b'{"title":"Draining","status":503}'),
            "URL refuses the event (503): Draining",
        ),
        ((404, "text/html", b"<p>"), "URL/publish is not h2sse: it answers 404 Not Found"),
        ((200, JSON, b"[]"), "URL/publish is not h2sse: it answers 200 OK"),
        ((200, JSON, b"{}"), "URL/publish is not h2sse: it answers 200 OK"),
        ((500, JSON, b"7"), "URL/publish is not h2sse: it answers 500 Internal Server Error"),
        ((500, JSON, b"\xff"), "URL/publish is not h2sse: it answers 500 Internal Server Error"),
    ],
)
def test_publish_is_refused(
    tmp_path: Path, answering: str, answer: tuple[int, str, bytes], message: str
) -> None:
    Answering.answer = answer
    done = h2sse("publish", "t", "x", "--url", answering, "--ca-file", "ca.pem", cwd=tmp_path)
    assert complaint(done, 1) == message.replace("URL", answering)


def test_publish_trusts_whom_it_is_told_to(tmp_path: Path, answering: str) -> None:
    Answering.answer = (200, JSON, b'{"id":"1"}')
    publish = ("publish", "t", "x", "--url", answering)
    refused = complaint(h2sse(*publish, cwd=tmp_path), 1)
    assert refused.startswith(f"the certificate of {answering} is not trusted (")
    assert "--ca-file" in refused
    assert "--insecure" in refused
    assert Answering.received == []
    assert h2sse(*publish, "--insecure", cwd=tmp_path).stdout == "1\n"
    # certs/ca.pem is trusted without being named.
    (tmp_path / "certs").mkdir()
    (tmp_path / "ca.pem").rename(tmp_path / "certs" / "ca.pem")
    assert h2sse(*publish, cwd=tmp_path).stdout == "1\n"
    # A CA that is named is the only one.
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    done = h2sse(*publish, "--ca-file", "other.pem", cwd=tmp_path)
    assert complaint(done, 1) == refused


def test_publish_checks_the_name(tmp_path: Path, answering: str) -> None:
    url = answering.replace("localhost", "127.0.0.1")
    done = h2sse("publish", "t", "x", "--url", url, "--ca-file", "ca.pem", cwd=tmp_path)
    assert "not valid for '127.0.0.1'" in complaint(done, 1)


def test_publish_where_nothing_listens(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"https://localhost:{port}"
    assert complaint(h2sse("publish", "t", "x", "--url", url, cwd=tmp_path), 1) == (
        f"nothing listens at {url}: start it with `h2sse serve`"
    )


def test_publish_to_a_name_that_cannot_be(tmp_path: Path) -> None:
    # A label holds 63 bytes: no resolver is asked.
    done = h2sse("publish", "t", "x", "--url", f"https://{'a' * 64}.example", cwd=tmp_path)
    assert complaint(done, 1).startswith(f"{'a' * 64}.example has no address (")


@pytest.mark.parametrize(
    ("speech", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no TLS with URL: .*"),
        (b"", "no TLS with URL: .*|no connection to URL: .*"),
    ],
)
def test_publish_to_what_speaks_no_tls(tmp_path: Path, speech: bytes, message: str) -> None:
    with socket.create_server(("localhost", 0)) as listener:
        url = f"https://localhost:{listener.getsockname()[1]}"

        def speak() -> None:
            with listener.accept()[0] as client:
                client.recv(65536)
                client.sendall(speech)

        thread = threading.Thread(target=speak)
        thread.start()
        done = h2sse("publish", "t", "x", "--url", url, cwd=tmp_path)
        thread.join()
    assert re.fullmatch(message.replace("URL", url), complaint(done, 1))


def test_interrupted_elsewhere_it_ends_quietly(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as listener:
        url = f"https://localhost:{listener.getsockname()[1]}"
        publish = ("publish", "t", "x", "--url", url)
        # The ssl module leaves its socket to the garbage collector when it is interrupted.
        lenient = {"PYTHONWARNINGS": "ignore::ResourceWarning"}
        # Once it has said ClientHello it waits for us.
        with (
            running(*publish, cwd=tmp_path, **lenient) as process,
            listener.accept()[0] as connection,
        ):
            assert connection.recv(1)
            assert process.end(signal.SIGINT) == (130, "")
            assert process.said == ""


# -- errors and log lines


def test_errors_come_out_of_their_groups(capsys: pytest.CaptureFixture[str]) -> None:
    group = BaseExceptionGroup("", [ExceptionGroup("", [ConfigError("it is wrong")])])
    assert _ended_by(group, 0) == 2
    assert capsys.readouterr().err == "h2sse: it is wrong\n"
    assert _ended_by(BaseExceptionGroup("", [KeyboardInterrupt()]), 0) == 130
    assert capsys.readouterr().err == ""


def test_what_was_not_expected_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    error = RuntimeError("two\nlines")
    assert _ended_by(error, 1) == 1
    assert capsys.readouterr().err == (
        "h2sse: unexpected RuntimeError: two lines; run with -vv for the traceback\n"
    )
    try:
        raise error
    except RuntimeError:
        assert _ended_by(error, 2) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):\n")
    assert shown.endswith("h2sse: unexpected RuntimeError: two lines\n")


def test_log_lines(tmp_path: Path) -> None:
    script = """\
import logging, sys
from h2sse.terminal import log_to_stderr
log_to_stderr(int(sys.argv[1]))
for name in ("h2sse.server", "hpack.hpack"):
    log = logging.getLogger(name)
    log.debug("d")
    log.info("i %d", 1)
    log.warning("w")
"""
    lines = []
    for verbose in ("0", "1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-c", script, verbose],
            cwd=tmp_path,
            env=_environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE_SECONDS,
        )
        assert done.stdout == ""
        lines.append([re.sub(r"\d", "0", each) for each in done.stderr.splitlines()])
    debug, info, warning, foreign = (
        "00:00:00.000 DEBUG   server: d",
        "00:00:00.000 INFO    server: i 0",
        "00:00:00.000 WARNING server: w",
        "00:00:00.000 WARNING hpack.hpack: w",
    )
    assert lines == [
        [warning, foreign],
        [info, warning, foreign],
        [debug, info, warning, foreign],
        [debug, info, warning, foreign],
    ]


# -- serve


SERVES = r"^h2sse serves (https://localhost:(\d+)) \((.*)\)$"


def client(url: str, directory: Path, *alpn: str) -> ssl.SSLSocket:
    """A TLS connection to `url` that trusts the CA in directory/certs."""
    context = ssl.create_default_context(cafile=directory / "certs" / "ca.pem")
    context.set_alpn_protocols(alpn or ("http/1.1",))
    port = int(url.rpartition(":")[2])
    plain = socket.create_connection(("localhost", port), timeout=DEADLINE_SECONDS)
    return context.wrap_socket(plain, server_hostname="localhost")


@contextmanager
def fetched(url: str, directory: Path, path: str) -> Iterator[http.client.HTTPResponse]:
    """The response to GET path, over HTTP/1.1."""
    with client(url, directory) as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(request.encode())
        with http.client.HTTPResponse(connection, method="GET") as response:
            response.begin()
            yield response


def test_serve_says_how_to_use_it(tmp_path: Path) -> None:
    with running("serve", "--port", "0", cwd=tmp_path) as process:
        url, port, protocols = process.line(SERVES).groups()
        assert port != "0"
        assert protocols == "HTTP/2 and HTTP/1.1"
        subscribe = process.line(r"^  subscribe   (curl .*)$")[1]
        publish = process.line(r"^  publish     (curl .*)$")[1]
        # A CA that was not there before has to be made known.
        process.line(r"curl --cacert certs/ca.pem https://localhost")
        if shutil.which("curl"):
            with subprocess.Popen(
                shlex.split(subscribe), cwd=tmp_path, stdout=subprocess.PIPE, text=True
            ) as tab:
                assert tab.stdout is not None
                assert tab.stdout.readline().startswith("retry: ")
                done = subprocess.run(
                    shlex.split(publish), cwd=tmp_path, capture_output=True, check=True
                )
                event_id = json.loads(done.stdout)["id"]
                said = iter(tab.stdout.readline, "data: hello\n")
                assert f"id: {event_id}\n" in list(said)
                tab.kill()
        assert process.end(signal.SIGTERM) == (0, "")
    with running("serve", "--port", port, cwd=tmp_path) as process:
        assert process.line(SERVES)[1] == url
        assert process.end(signal.SIGTERM) == (0, "")
        assert "certutil" not in process.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_streams_well(certified: Path, number: signal.Signals) -> None:
    with running("serve", "--port", "0", cwd=certified) as process:
        url = process.line(SERVES)[1]
        with fetched(url, certified, "/events?topic=news") as stream:
            assert stream.status == 200
            assert stream.readline().startswith(b"retry: ")
            process.popen.send_signal(number)
            # To the last chunk: http.client raises IncompleteRead at anything else.
            stream.read()
        assert process.end() == (0, "")


def test_a_second_signal_does_not_wait(certified: Path) -> None:
    # A body that does not come keeps the connection from draining.
    patience = {"H2SSE_LIMITS_DRAIN_SECONDS": "600", "H2SSE_LIMITS_BODY_SECONDS": "600"}
    with running("serve", "--port", "0", "-v", cwd=certified, **patience) as process:
        url = process.line(SERVES)[1]
        with client(url, certified) as tab:
            tab.sendall(
                b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
                b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
            )
            assert tab.recv(65536).startswith(b"HTTP/1.1 100 ")
            process.popen.send_signal(signal.SIGTERM)
            assert process.popen.stderr is not None
            assert any("ending all streams" in line for line in process.popen.stderr)
            code, errors = process.end(signal.SIGTERM)
            assert (code, "Traceback" in errors) == (0, False)


def test_published_events_arrive(certified: Path) -> None:
    with running("serve", "--port", "0", cwd=certified) as process:
        url = process.line(SERVES)[1]
        with fetched(url, certified, "/events?topic=news") as stream:
            assert stream.readline().startswith(b"retry: ")
            flags = ("--url", url, "--event", "tick")
            done = h2sse("publish", "news", "h\u00e9\nllo", *flags, cwd=certified)
            assert (done.returncode, done.stderr) == (0, "")
            said = iter(lambda: stream.readline().decode().rstrip("\n"), "data: llo")
            block = list(said)[-3:]
            assert block == ["event: tick", f"id: {done.stdout.rstrip()}", "data: h\u00e9"]
        assert process.end(signal.SIGTERM) == (0, "")


def test_a_refusal_names_the_field(certified: Path) -> None:
    with running("serve", "--port", "0", cwd=certified) as process:
        url = process.line(SERVES)[1]
        topic = "x" * (Config().limits.topic_bytes + 1)
        done = h2sse("publish", topic, "x", "--url", url, cwd=certified)
        assert re.match(rf"{url} refuses the event \(4\d\d\): topic: ", complaint(done, 1))
        assert process.end(signal.SIGTERM) == (0, "")


def test_settings_reach_the_server(certified: Path, tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(
        f"port = 0\nhttp1 = true\n[tls]\ndirectory = '{certified / 'certs'}'\n"
    )
    with running("serve", "--config", "server.toml", cwd=tmp_path) as process:
        url, _, protocols = process.line(SERVES).groups()
        assert protocols == "HTTP/1.1"
        with client(url, certified, "h2", "http/1.1") as connection:
            assert connection.selected_alpn_protocol() == "http/1.1"
        assert process.end(signal.SIGTERM) == (0, "")
    # A flag is given and its environment too: the flag counts.
    origins = {"H2SSE_CORS_ORIGINS": "https://b.example", "H2SSE_PORT": "1"}
    flags = ("--port", "0", "--cors-origin", "https://a.example")
    with running("serve", *flags, cwd=certified, **origins) as process:
        url = process.line(SERVES)[1]
        for origin, allowed in (("https://a.example", True), ("https://b.example", False)):
            with client(url, certified) as connection:
                request = f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n"
                connection.sendall(request.encode())
                with http.client.HTTPResponse(connection) as response:
                    response.begin()
                    assert (response.getheader("access-control-allow-origin") == origin) == allowed
        assert process.end(signal.SIGTERM) == (0, "")


def test_own_certificate(certified: Path, tmp_path: Path) -> None:
    pair = [str(certified / "certs" / name) for name in ("localhost.pem", "localhost-key.pem")]
    flags = ("--port", "0", "--cert", pair[0], "--key", pair[1])
    with running("serve", *flags, cwd=tmp_path) as process:
        url = process.line(SERVES)[1]
        process.line(r"^  subscribe   curl -N ")
        client(url, certified).close()
        assert process.end(signal.SIGTERM) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_certificates_that_do_not_do(tmp_path: Path, command: str) -> None:
    flags = (command, "--port", "0", "--cert", "no.pem", "--key", "no-key.pem")
    assert "no.pem" in complaint(h2sse(*flags, cwd=tmp_path), 2)
    (tmp_path / "no.pem").write_text("hello")
    (tmp_path / "no-key.pem").write_text("hello")
    assert "no.pem" in complaint(h2sse(*flags, cwd=tmp_path), 2)


def test_port_taken(certified: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = h2sse("serve", "--host", "127.0.0.1", "--port", port, cwd=certified)
        assert complaint(done, 1) == (
            f"port {port} on 127.0.0.1 is taken;"
            " stop what listens there or choose another with --port"
        )
        flags = ("--host", "127.0.0.1", "--port", "0", "--http1-port", port)
        assert complaint(h2sse("demo", *flags, cwd=certified), 1) == (
            f"port {port} on 127.0.0.1 is taken;"
            " stop what listens there or choose another with --http1-port"
        )


def test_hosts_that_do_not_do(certified: Path) -> None:
    # RFC 5737: this address is no one's.
    assert complaint(h2sse("serve", "--host", "192.0.2.1", "--port", "0", cwd=certified), 1) == (
        "192.0.2.1 is not an address of this machine; choose another with --host"
    )
    host = "a" * 64  # no name has a label as long: no resolver is asked
    message = complaint(h2sse("serve", "--host", host, "--port", "0", cwd=certified), 1)
    assert re.fullmatch(rf"{host} has no address \(.*\); choose another with --host", message)


def test_ports_under_1024_without_permission() -> None:
    # What bind() says depends on who runs the tests, and on the kernel's settings.
    refusal = PermissionError(errno.EACCES, "Permission denied")
    assert _why_not_listening(refusal, Config(port=443), "--port") == (
        "port 443 on localhost is not permitted: those under 1024 are root's;"
        " choose another with --port"
    )
    assert _why_not_listening(refusal, Config(port=8443), "--port") == (
        "cannot listen at localhost, port 8443: Permission denied"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads another process's limits")
def test_open_files_are_allowed_as_many_as_can_be(certified: Path) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = min(256, hard)
    resource_before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))  # which the process inherits
    try:
        with running("serve", "--port", "0", cwd=certified) as process:
            process.line(SERVES)
            limits = resource.prlimit(process.popen.pid, resource.RLIMIT_NOFILE)
            assert limits == (hard, hard)
            assert process.end(signal.SIGTERM) == (0, "")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, resource_before)


def test_verbose_says_what_happens(certified: Path) -> None:
    with running("serve", "--port", "0", "-v", cwd=certified) as process:
        url = process.line(SERVES)[1]
        with fetched(url, certified, "/healthz") as response:
            assert response.status == 200
        code, errors = process.end(signal.SIGTERM)
    assert code == 0
    lines = errors.splitlines()
    assert lines
    shape = re.compile(r"\d\d:\d\d:\d\d\.\d{3} (INFO   |WARNING) [a-z0-9_.]+: \S.*")
    assert [line for line in lines if not shape.fullmatch(line)] == []


def test_a_reader_of_stdout_that_leaves_ends_nothing(certified: Path) -> None:
    with running("serve", "--port", "0", "-v", cwd=certified) as process:
        assert process.popen.stdout is not None
        process.popen.stdout.close()
        assert process.popen.stderr is not None
        # It says in the log that it listens, or it ends, which ends the lines.
        lines = iter(process.popen.stderr.readline, "")
        assert any("https://localhost:" in line for line in lines)
        process.popen.send_signal(signal.SIGTERM)
        rest = process.popen.stderr.read()
        assert process.popen.wait(DEADLINE_SECONDS) == 0
        assert "BrokenPipe" not in rest


# -- demo

DEMO = (
    r"^h2sse serves (https://localhost:\d+) \(HTTP/2\) and (https://localhost:\d+) \(HTTP/1.1 only"
)


def test_demo_serves_its_pages_over_both(certified: Path) -> None:
    with running("demo", "--port", "0", cwd=certified) as process:
        urls = process.line(DEMO).groups()
        assert len(set(urls)) == 2
        process.line(r"/trace/")
        pages = re.findall(rf"^  {urls[0]}(/\S*)", process.said, re.MULTILINE)
        assert set(pages) > {
            "/",
            "/tabs/",
            "/theme/",
            "/clock/",
            "/timestamps/",
            "/facts/",
            "/trace/",
        }
        for url, protocol in zip(urls, ("h2", "http/1.1"), strict=True):
            with client(url, certified, "h2", "http/1.1") as connection:
                assert connection.selected_alpn_protocol() == protocol
            for path in pages:
                with fetched(url, certified, path) as response:
                    assert response.status == 200, path
                    assert response.getheader("content-type") == "text/html; charset=utf-8"
        with fetched(urls[0], certified, "/tabs/") as response:
            # The tabs page knows where HTTP/1.1 is, and may connect there.
            assert urls[1] in str(response.getheader("content-security-policy"))
            assert urls[1].encode() in response.read()
        assert process.end(signal.SIGTERM) == (0, "")


def test_demo_takes_the_next_port(certified: Path) -> None:
    # Two neighbours that are free now; should one be taken meanwhile, the next pair is tried.
    for _ in range(10):
        with socket.create_server(("localhost", 0)) as probe:
            port = probe.getsockname()[1]
        with running("demo", "--port", str(port), cwd=certified) as process:
            try:
                http2, http1 = process.line(DEMO).groups()
            except AssertionError as error:
                if "is taken" in str(error):
                    continue
                raise
            assert http2 == f"https://localhost:{port}"
            assert http1 == f"https://localhost:{port + 1}"
            assert process.end(signal.SIGINT) == (0, "")
            return
    pytest.fail("no two free ports in a row")


# -- trace


def test_trace_is_on_stderr_one_line_a_frame(certified: Path) -> None:
    with running("serve", "--port", "0", "--trace", cwd=certified) as process:
        url = process.line(SERVES)[1]
        with client(url, certified) as connection:
            connection.sendall(
                b"GET /healthz?token=abc HTTP/1.1\r\nHost: a\r\nCookie: b=abc\r\n"
                b"X: \x1b[2J\r\nConnection: close\r\n\r\n"
            )
            while connection.recv(65536):
                pass
        code, errors = process.end(signal.SIGTERM)
    lines = errors.splitlines()
    assert code == 0
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{6} c1   (<-|->|--) ", line) for line in lines)
    types = [line.split()[3 if "--" in line else 4] for line in lines]
    assert types == ["OPEN", "REQUEST", "RESPONSE", *["BODY"] * (len(lines) - 4), "CLOSE"]
    assert "abc" not in errors
    assert "\x1b" not in errors


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_trace_as_json_into_a_file(certified: Path, tmp_path: Path, command: str) -> None:
    file = tmp_path / "trace.jsonl"
    flags = ("--port", "0", "--trace-json", str(file))
    with running(command, *flags, cwd=certified) as process:
        url = process.line(r"^h2sse serves (https://localhost:\d+) ")[1]
        with fetched(url, certified, "/healthz") as response:
            assert response.status == 200
        assert process.end(signal.SIGTERM) == (0, "")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["type"] for each in records[:3]] == ["OPEN", "REQUEST", "RESPONSE"]
    assert records[1]["target"] == "/healthz"
    assert records[-1]["type"] == "CLOSE"


def test_a_trace_that_nobody_reads_ends_nothing(certified: Path) -> None:
    with running("serve", "--port", "0", "--trace", cwd=certified) as process:
        url = process.line(SERVES)[1]
        assert process.popen.stderr is not None
        process.popen.stderr.close()
        for _ in range(3):
            with fetched(url, certified, "/healthz") as response:
                assert response.status == 200
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(DEADLINE_SECONDS) == 0
