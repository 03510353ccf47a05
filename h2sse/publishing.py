"""The body of POST /publish, form or JSON, to what is to be published.

Every field is checked before anything is published, and each fault names its field and what is
allowed there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from .errors import BadRequest
from .sse import MAX_RETRY_MS, Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import Limits
    from .wire import Request

__all__ = ["Publication", "check_id", "check_topics", "read_publication"]

_FIELDS = ("topic", "data", "event", "id", "retry")

# An id comes back as a header field (RFC 9110 5.5): no control bytes, no blanks at its ends, and
# short enough for one.
_ID_BYTES = 1024
_BAD_ID = re.compile(r"[\x00-\x1f\x7f]|\A[ ]|[ ]\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@final
@dataclass(frozen=True, slots=True)
class Publication:
    """An event, and the topics it goes to."""

    topics: tuple[str, ...]
    event: Event


def read_publication(request: Request, limits: Limits) -> Publication:
    """Read a publish request.  Raises BadRequest, whose `field` is the faulty one."""
    match request.content_type:
        case "application/json":
            values = _from_json(request.json())
        case "application/x-www-form-urlencoded":
            values = _from_form(request.form())
        case _:
            raise BadRequest(
                "content-type",
                "must be application/json or application/x-www-form-urlencoded",
                status=415,
            )
    for name in values:
        if name not in _FIELDS:
            raise BadRequest(name, f"is not a field; there are {', '.join(_FIELDS)}")
    topics = check_topics(_topics(values), limits)
    if "data" not in values:
        raise BadRequest("data", "is missing; it may be empty")
    event = _text(values, "event") or None
    if event is not None and ("\r" in event or "\n" in event):
        raise BadRequest("event", "must be one line, without CR or LF")
    event_id = _text(values, "id")
    if event_id is not None:
        check_id(event_id)
    data = _text(values, "data")
    assert data is not None
    if _bytes_as_event(data) > limits.event_bytes:
        raise BadRequest(
            "data", f"is over {limits.event_bytes} bytes as an event, 6 more a line", status=413
        )
    return Publication(topics, Event(data=data, event=event, id=event_id, retry=_retry(values)))


def _bytes_as_event(data: str) -> int:
    """How long `Event(data=data).encode()` is, without making it."""
    both = data.count("\r\n") if "\r" in data else 0
    lines = data.count("\n") + data.count("\r") - both + 1
    return len(data.encode()) - both + len("data: ") * lines + len("\n\n")


def check_topics(topics: Sequence[str], limits: Limits) -> tuple[str, ...]:
    """The topics of a request, each once.  Raises BadRequest."""
    if not topics:
        raise BadRequest("topic", "is missing; name at least one", status=400)
    unique = tuple(dict.fromkeys(topics))
    if len(unique) > limits.topics_per_request:
        raise BadRequest("topic", f"at most {limits.topics_per_request} topics a request")
    for topic in unique:
        _check_utf8("topic", topic)
        if not topic or _CONTROL.search(topic) or len(topic.encode()) > limits.topic_bytes:
            raise BadRequest(
                "topic", f"must be 1 to {limits.topic_bytes} bytes of UTF-8 without control bytes"
            )
    return unique


def _from_json(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadRequest("body", "must be a JSON object", status=400)
    return body


def _from_form(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name == "topic":
            values.setdefault("topic", []).append(value)
        elif name in values:
            raise BadRequest(name, "stands twice; only topic may")
        else:
            values[name] = value
    return values


def _topics(values: dict[str, Any]) -> list[str]:
    topics = values.get("topic", [])
    topics = [topics] if isinstance(topics, str) else topics
    if not isinstance(topics, list) or not all(isinstance(each, str) for each in topics):
        raise BadRequest("topic", "must be a string or a list of strings")
    return topics


def _text(values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is None and name != "data":
        return None
    if not isinstance(value, str):
        raise BadRequest(name, "must be a string; encode anything else, as JSON for one")
    _check_utf8(name, value)
    return value


def _check_utf8(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRequest(name, "holds a lone surrogate, which has no UTF-8 form") from None


def check_id(value: str) -> None:
    """Whether a tab could come back with this event id.  Raises BadRequest."""
    _check_utf8("id", value)
    if not value:
        raise BadRequest("id", "must not be empty; leave it out to have one assigned")
    if _BAD_ID.search(value) or len(value.encode()) > _ID_BYTES:
        raise BadRequest(
            "id", f"must be 1 to {_ID_BYTES} bytes, without control bytes or blanks at its ends"
        )


def _retry(values: dict[str, Any]) -> int | None:
    value = values.get("retry")
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if type(value) is not int or not 0 < value <= MAX_RETRY_MS:
        raise BadRequest("retry", f"must be a whole number of ms, 1 to {MAX_RETRY_MS}")
    return value
