"""What a page posts, as a dict: the articles' clients send it in four ways."""

from __future__ import annotations

import json

import h2sse

__all__ = ["fields"]


def fields(request: h2sse.Request) -> dict[str, object]:
    """The body as names and values: a JSON object or a form, {} when it is empty.

    JSON is taken whatever Content-Type says: `fetch` with a string body sends text/plain, `curl -d`
    calls it a form.  Raises BadRequest when the body is neither, or names a field twice.
    """
    body = request.body.strip()
    if not body:
        return {}
    if request.content_type == "application/x-www-form-urlencoded" and body[:1] not in b"{[":
        pairs = request.form()
        found: dict[str, object] = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise h2sse.BadRequest(twice, "is given twice")
        return found
    value = request.json()
    if not isinstance(value, dict):
        raise h2sse.BadRequest("body", "must be a JSON object or a form")
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        # Python reads it; JSON.parse would not, in every tab that is told.
        raise h2sse.BadRequest("body", "holds NaN, Infinity or a lone surrogate") from None
    return value
