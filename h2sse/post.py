"""`h2sse publish`: one POST to a server, and what it answers in one line."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from .errors import CommandError, ConfigError
from .sse import Event

if TYPE_CHECKING:
    import argparse

__all__ = ["publish"]

# To connect, and for each read.  The server answers in milliseconds.
PUBLISH_SECONDS = 10


def publish(arguments: argparse.Namespace) -> str:
    """Publish what the command line says; the event's id.

    Raises ConfigError for what the user can mend there, CommandError for what the world refuses.
    """
    data = arguments.data
    try:
        if data in (None, "-"):
            data = sys.stdin.buffer.read().decode()
            data = data.removesuffix("\n").removesuffix("\r")
        Event(data=data, event=arguments.event, id=arguments.id, retry=arguments.retry)
    except UnicodeDecodeError as error:
        raise ConfigError(f"stdin is not UTF-8: {error.reason} at byte {error.start}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    fields = {
        "topic": arguments.topic,
        "data": data,
        "event": arguments.event,
        "id": arguments.id,
        "retry": arguments.retry,
    }
    body = json.dumps({name: value for name, value in fields.items() if value is not None})
    url = arguments.url.rstrip("/")
    status, reason, content = _post(url, body.encode(), _client_context(arguments))
    try:
        answer = json.loads(content)
        if status < 300:
            return str(answer["id"])
        field = f"{answer['field']}: " if answer.get("field") else ""
        detail = answer.get("detail") or answer["title"]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CommandError(f"{url}/publish is not h2sse: it answers {status} {reason}") from None
    raise CommandError(f"{url} refuses the event ({status}): {field}{detail}")


def _client_context(arguments: argparse.Namespace) -> ssl.SSLContext:
    own = Path("certs/ca.pem")
    file = arguments.ca_file
    try:
        context = ssl.create_default_context(cafile=file)
        if file is None and own.exists():
            file = own
            context.load_verify_locations(own)
    except ssl.SSLError:
        raise ConfigError(f"{file} holds no certificate in PEM form; see --ca-file") from None
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; see --ca-file") from None
    if arguments.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _post(url: str, body: bytes, context: ssl.SSLContext) -> tuple[int, str, bytes]:
    """POST JSON to `url`/publish: the status, its reason and the body.  Raises CommandError."""
    parts = _server(url)
    assert parts.hostname is not None
    connection = http.client.HTTPSConnection(
        parts.hostname, parts.port, timeout=PUBLISH_SECONDS, context=context
    )
    try:
        connection.request(
            "POST", f"{parts.path}/publish", body, {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        return response.status, response.reason, response.read()
    except ConnectionRefusedError:
        raise CommandError(f"nothing listens at {url}: start it with `h2sse serve`") from None
    except ssl.SSLCertVerificationError as error:
        raise CommandError(
            f"the certificate of {url} is not trusted ({error.verify_message}):"
            " name its CA with --ca-file, or do without the check with --insecure"
        ) from None
    except ssl.SSLError as error:
        raise CommandError(f"no TLS with {url}: {error.reason or error}") from None
    except TimeoutError:
        raise CommandError(f"{url} does not answer within {PUBLISH_SECONDS} s") from None
    except (socket.gaierror, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise CommandError(f"{parts.hostname} has no address ({why})") from None
    except http.client.HTTPException as error:
        raise CommandError(f"{url} does not speak HTTP/1.1: {error!r}") from None
    except OSError as error:
        raise CommandError(f"no connection to {url}: {error.strerror or error}") from None
    finally:
        connection.close()


def _server(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"--url {url} is not a URL: {error}") from None
    plain = parts.scheme == "https" and parts.hostname and url.isascii() and url.isprintable()
    if not plain or "@" in parts.netloc or parts.query or parts.fragment or " " in url:
        raise ConfigError(f"--url must be like https://localhost:8443, not {url}")
    return parts
