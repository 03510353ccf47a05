"""What the application's handlers come to: a decision to carry out, whatever they do.

A handler may answer at once or be awaited, raise what it likes, or never end; each request gets an
answer all the same, a fault is one line in the log with its traceback, and nothing of it reaches
who asked.  The server of our own and the ASGI one do with decisions what they do, and share this.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING

from .app import Reply
from .errors import BadRequest
from .wire import Response, problem

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .app import Announce, App, Call, Decision
    from .config import Limits
    from .wire import Fields, Request

__all__ = ["announced", "called", "failed", "too_late"]

logger = logging.getLogger(__name__)


def called(app: App, request: Request, call: Call) -> Decision | Awaitable[Decision]:
    """Run a handler: what it comes to, or what to await for that.  Neither raises."""
    try:
        result = call.handler(request)
        if inspect.isawaitable(result):
            return _awaited(app, request, result, call.fields)
        return app.conclude(request, result, call.fields)
    except Exception as error:  # noqa: BLE001 - one request's fault, answered there
        return failed(app, request, error, call.fields)


async def _awaited(
    app: App, request: Request, result: Awaitable[object], fields: Fields
) -> Decision:
    try:
        return app.conclude(request, await result, fields)
    except Exception as error:  # noqa: BLE001 - one request's fault, answered there
        return failed(app, request, error, fields)


def too_late(limits: Limits, fields: Fields) -> Decision:
    """For a handler that was given up on."""
    return Reply(problem(504, f"the handler took over {limits.handler_seconds} s", fields=fields))


def failed(app: App, request: Request, error: Exception, fields: Fields) -> Decision:
    """For what the application has raised on a request."""
    if isinstance(error, BadRequest):
        return app.refuse(error, fields)
    logger.error("the handler of %s %s failed", request.method, request.path, exc_info=error)
    return Reply(problem(500, "the handler failed; the server's log says how", fields=fields))


def announced(app: App, announce: Announce) -> Decision:
    """Publish, and the answer to who asked for it."""
    publication, fields = announce.publication, announce.fields
    try:
        entry = app.announce(publication)
    except BadRequest as error:
        return app.refuse(error, fields)
    body = {"id": entry.id, "topics": list(publication.topics)}
    return Reply(Response.json(body, fields=fields))
