"""The checks, in the order in which they are made: what others rest on comes first."""

from __future__ import annotations

from typing import Final

from h2sse.probe.verdict import Check

from . import access, ends, events, http1, opening, resume, rough, streams

__all__ = ["CHECKS"]

CHECKS: Final[tuple[Check, ...]] = (
    *opening.CHECKS,
    *access.CHECKS,
    *events.CHECKS,
    *resume.CHECKS,
    *streams.CHECKS,
    *rough.CHECKS,
    *http1.CHECKS,
    *ends.CHECKS,
)
