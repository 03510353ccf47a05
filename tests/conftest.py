"""Fixtures that all test modules share."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

# What loopback, which delivers within the call that sends, never takes.
_IDLE_SECONDS = 0.01


@pytest.fixture
def jumping_clock() -> MockClock:
    """Time for tests over real sockets: it stands still while anything moves, and then jumps.

    So a minute of heartbeats takes a moment, and what came without a jump waited for no timer.
    Client and server must be in the test's own loop.
    """
    return MockClock(autojump_threshold=_IDLE_SECONDS)
