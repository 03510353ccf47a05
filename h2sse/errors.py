"""One exception tree; each error says whose fault it is and what to answer.

`LocalError`: our caller broke the contract.  `RemoteError`: the peer did; it carries the HTTP
`status` and, over HTTP/2, the error `code` to answer with.
"""

from __future__ import annotations

from typing import final

__all__ = ["BadRequest", "CommandError", "ConfigError", "H2sseError", "LocalError", "RemoteError"]


class H2sseError(Exception):
    """The root: catch this to catch everything that is ours."""


class LocalError(H2sseError):
    """The caller asked for something that cannot be."""


@final
class ConfigError(LocalError, ValueError):
    """A setting is wrong.  The message is one line that names the setting and what to do."""


@final
class CommandError(H2sseError):
    """What a command was to do, the world refused; the message is the line to print."""


class RemoteError(H2sseError):
    """The peer broke a rule; `status` (HTTP) and `code` (RFC 9113 7) say how to answer it."""

    def __init__(self, message: str, *, status: int = 400, code: int = 1) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@final
class BadRequest(RemoteError):
    """A request that is answered with a 4xx whose body names the faulty field."""

    def __init__(self, field: str, detail: str, *, status: int = 422) -> None:
        super().__init__(f"{field}: {detail}", status=status)
        self.field = field
        self.detail = detail
