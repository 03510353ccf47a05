"""Form and JSON to Python, however hostile, at a bounded cost.

A body comes from anyone and is taken in whole, in one turn of the event loop, while all tabs wait.
The standard library is not made for that: a mebibyte of percent signs takes urllib 0.8 s and
185 MiB, one of `[],[],[]` takes json 30 MiB.  So escapes are decoded by binascii, which takes a
fiftieth, and JSON of more values than anyone means is refused before it is read.
"""

from __future__ import annotations

import json
import re
from binascii import a2b_qp
from collections import Counter
from string import hexdigits
from typing import Any, Final

from .errors import BadRequest

__all__ = ["MAX_FORM_FIELDS", "MAX_JSON_VALUES", "read_form", "read_json"]

# More query parameters or form fields than any of ours needs, few enough to be cheap.
MAX_FORM_FIELDS: Final = 100
# Percent signs that begin no escape are taken as they stand (URL Standard 1.3), as from one who
# types "100 %"; not by the thousands.
_MAX_STRAYS: Final = 1000
# A value takes up to 300 bytes and a microsecond.
MAX_JSON_VALUES: Final = 10_000

_STRAY = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# Every hex digit is 0 here: counting takes a third of the time of looking for what is none.
_AS_ZEROS = bytes(ord("0") if chr(each) in hexdigits else each for each in range(256))
# Up to what another value follows: before it stand two strings at most, a key and a value.  No byte
# is looked at twice, whatever is given.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_TO_NEXT = re.compile(rb'(?:[^"\[{,]*+%b){0,2}+[^"\[{,]*+[\[{,]' % _STRING, re.DOTALL)


def read_form(encoded: bytes, where: str) -> list[tuple[str, str]]:
    """The fields of application/x-www-form-urlencoded, in order (URL Standard 5.1).

    Raises BadRequest (400), which names `where` they stood: "query" or "body".
    """
    if encoded.count(b"&") >= MAX_FORM_FIELDS:
        raise BadRequest(where, f"at most {MAX_FORM_FIELDS} fields are read", status=400)
    fields = [field.partition(b"=") for field in encoded.split(b"&") if field]
    try:
        return [(_decoded(name, where), _decoded(value, where)) for name, _, value in fields]
    except UnicodeDecodeError:
        raise BadRequest(where, "percent-encoded bytes must be UTF-8", status=400) from None


def _decoded(encoded: bytes, where: str) -> str:
    encoded = encoded.replace(b"+", b" ")
    if b"%" not in encoded:
        return encoded.decode()
    zeros = encoded.translate(_AS_ZEROS)
    strays = zeros.count(b"%") - zeros.count(b"%00")
    if strays >= _MAX_STRAYS:
        raise BadRequest(where, "holds % where no two hex digits follow; write %25", status=400)
    if strays:
        encoded = _STRAY.sub(b"%25", encoded)
    # Quoted-printable (RFC 2045 6.7) is the same but for its sign.
    return a2b_qp(encoded.replace(b"=", b"%3D").replace(b"%", b"=")).decode()


def read_json(body: bytes) -> Any:
    """The value of a JSON text (RFC 8259).

    Raises BadRequest (400) if it is none, is not UTF-8, says a key twice or has over
    `MAX_JSON_VALUES` values.
    """
    if sum(map(body.count, (b"[", b"{", b","))) > MAX_JSON_VALUES and _has_too_many(body):
        raise BadRequest("body", f"at most {MAX_JSON_VALUES} values are read", status=400)
    try:
        return json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest("body", f"is not valid JSON in UTF-8: {error}", status=400) from None


def _has_too_many(body: bytes) -> bool:
    """Whether there are more values than are read: each has its comma or bracket."""
    at = 0
    for _ in range(MAX_JSON_VALUES + 1):
        found = _TO_NEXT.match(body, at)
        if found is None:
            return False
        at = found.end()
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Which of two values was meant?  Better to ask than to guess.
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} stands twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is Python's, not JSON's")
