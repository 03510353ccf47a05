"""The publishing process: `python -m benchmarks.load.publisher HOST PORT PATH TOPIC SIZE [CAFILE]`.

Events are due on a fixed timetable, and carry the instant they were due: a server that makes the
publisher wait delays all that follow, and their latency says so.  Without TOPIC the body is the
data itself; with it, a form.

One connection, one request at a time: two POSTs under way at once may reach any server's
application in either order, and an order that the publisher did not give cannot be checked.  So an
event that is due while the last is unanswered goes out the moment the answer is there, and one that
gets none in `ANSWER_SECONDS` is given up with its connection.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import final
from urllib.parse import urlencode

from .messages import Sent

__all__ = ["ANSWER_SECONDS", "GIVE_UP_SECONDS", "main"]

ANSWER_SECONDS = 5.0
# A server that makes the publisher so late does not carry the load, and never will.
GIVE_UP_SECONDS = 30.0


@final
class _Publisher:
    def __init__(
        self, host: str, port: int, path: str, topic: str, size: int, cafile: str | None
    ) -> None:
        context = ssl.create_default_context(cafile=cafile)
        if cafile is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        self._connection = http.client.HTTPSConnection(
            host, port, timeout=ANSWER_SECONDS, context=context
        )
        self._path = path
        self._topic = topic
        self._size = size
        self._sequence = 0
        self._type = "application/x-www-form-urlencoded" if topic else "text/plain"

    def publish(self, count: int, rate: float) -> Sent:
        """`count` events, `rate` a second."""
        first = self._sequence + 1
        failures: Counter[str] = Counter()
        late: list[int] = []
        acknowledged = 0
        # A new connection's handshake, or one that the server has closed, is not the first event's.
        self._connect(failures)
        start = free = time.monotonic_ns()
        for number in range(count):
            due = start + int(number * 1e9 / rate)
            while (wait := due - time.monotonic_ns()) > 0:
                time.sleep(wait / 1e9)
            if wait < -GIVE_UP_SECONDS * 1e9:
                failures[f"given up, {GIVE_UP_SECONDS:g} s behind"] = count - number
                break
            late.append(time.monotonic_ns() - max(due, free))
            self._sequence += 1
            reason = self._post(f"{self._sequence} {due} ".ljust(self._size, "x"))
            if reason is None:
                acknowledged += 1
            else:
                failures[reason] += 1
            free = time.monotonic_ns()
        late.sort()
        return Sent(
            sent=self._sequence - first + 1,
            acknowledged=acknowledged,
            first_sequence=first,
            last_sequence=self._sequence,
            late_p99_seconds=late[int(len(late) * 0.99)] / 1e9 if late else 0.0,
            failures=dict(failures),
        )

    def _connect(self, failures: Counter[str]) -> None:
        try:
            self._connection.close()
            self._connection.connect()
        except OSError as error:
            failures[f"connect: {error.strerror or error}"] += 1

    def _post(self, data: str) -> str | None:
        """Publish; why it failed, or None."""
        body = urlencode({"topic": self._topic, "data": data}) if self._topic else data
        try:
            self._connection.request(
                "POST", self._path, body.encode(), {"Content-Type": self._type}
            )
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # the next request connects again
            if isinstance(error, socket.timeout):
                return f"no answer in {ANSWER_SECONDS:g} s"
            return f"{type(error).__name__}: {error}"
        return None if 200 <= answer.status < 300 else f"status {answer.status}"


def main(arguments: list[str]) -> None:
    """Run a publishing process until its stdin ends."""
    # Ctrl-C is the runner's: it closes our stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    host, port, path, topic, size, *cafile = arguments
    publisher = _Publisher(host, int(port), path, topic, int(size), cafile[0] if cafile else None)
    for line in sys.stdin:
        command = json.loads(line)
        sent = publisher.publish(command["count"], command["rate"])
        print(json.dumps({"number": command["number"], "answer": asdict(sent)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
