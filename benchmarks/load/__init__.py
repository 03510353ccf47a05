"""The load client: simulated tabs and a publisher, in processes of their own.

driver.py     what scenarios use, in the runner (trio): `Load`, `Publisher`
child.py      a process, its commands and answers; `ClientFailed`
messages.py   those answers
worker.py     a client process: epoll, TLS, the commands
http2.py      a connection of tabs, sans-IO: bytes in, tab progress out
http1.py      the same over HTTP/1.1
events.py     an event stream's text: sequence numbers and when they were due
sequences.py  each tab's progress: lost, doubled, misordered, latency
publisher.py  the process that publishes on a timetable
dummy.py      a small server with known faults, which the client must report
"""

from __future__ import annotations

from .child import ClientFailed
from .driver import Load, Publisher

__all__ = ["ClientFailed", "Load", "Publisher"]
