"""How commands speak: what they were asked for on stdout, all else on stderr."""

from __future__ import annotations

import os
import sys
from typing import TextIO

__all__ = ["cause", "log_to_stderr", "printable", "say"]


def say(text: str) -> None:
    """Print a line, or several, at once."""
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:
        _let_go(sys.stdout)  # `h2sse serve | head -1`; that ends no server


def _let_go(stream: TextIO) -> None:
    # Whoever read it has left.  What is still in the buffer must go somewhere at exit, or else
    # Python exits with 120.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def log_to_stderr(verbose: int) -> None:
    """Send log lines to stderr: warnings, with -v what happens, with -vv every detail."""
    import logging

    class Handler(logging.StreamHandler[TextIO]):
        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
            if isinstance(sys.exception(), BrokenPipeError):
                _let_go(self.stream)
            else:
                super().handleError(record)

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            record.short = record.name.removeprefix("h2sse.")
            return super().format(record)

    handler = Handler()
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


def cause(error: BaseException) -> BaseException:
    """The error itself, out of the groups that nurseries make."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def printable(text: str) -> str:
    """A peer's text without what a terminal would obey, such as a line's end or a colour."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
