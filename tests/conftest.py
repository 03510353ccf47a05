"""Fixtures that all test modules share."""

from __future__ import annotations

import gc
import os
import signal
import sys

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


def pytest_configure(config: pytest.Config) -> None:
    """Processes that tests start are to be as those of users are, whose output is buffered.

    Where no bytecode is to lie beside the sources, it is kept in pytest's own folder: without any,
    each of hundreds of processes would compile anew what it imports.
    """
    os.environ.pop("PYTHONUNBUFFERED", None)
    if sys.dont_write_bytecode and config.pluginmanager.has_plugin("cacheprovider"):
        folder = config.cache.mkdir("bytecode")
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
        sys.dont_write_bytecode = False
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_finish() -> None:
    """What is there now stays: garbage is collected, as many tests ask, without a look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def jumping_clock() -> MockClock:
    """Time for tests over real sockets: it stands still while anything moves, and then jumps.

    So a minute of heartbeats takes a moment, and what came without a jump waited for no timer.
    Client and server must be in the test's own loop.
    """
    return MockClock(autojump_threshold=_IDLE_SECONDS)
