"""Fixtures that all test modules share."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings
from trio.testing import MockClock

# What loopback, which delivers within the call that sends, never takes.
_IDLE_SECONDS = 0.01

# A loaded machine is no failure: the 200 ms an example may take by default are real time.
settings.register_profile("h2sse", deadline=None, print_blob=True)
settings.load_profile("h2sse")

# What a shell runs in the background ignores SIGINT, and all that it starts does too; ours are to
# be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def jumping_clock() -> MockClock:
    """Time for tests over real sockets: it stands still while anything moves, and then jumps.

    So a minute of heartbeats takes a moment, and what came without a jump waited for no timer.
    Client and server must be in the test's own loop.
    """
    return MockClock(autojump_threshold=_IDLE_SECONDS)
