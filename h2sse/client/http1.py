"""The client's side of an HTTP/1.1 connection: one request, and what comes back; sans-IO.

h11 reads chunked, content-length and close-delimited bodies.  A connection serves one request: an
event stream has no end after which another could follow.
"""

from __future__ import annotations

from typing import final

import h11

from h2sse.wire import Fields

from .exchange import Data, Ended, Head, Lost, StreamEvent
from .limits import ClientLimits

__all__ = ["STREAM", "Http1"]

# The only one there is.
STREAM = 1

_LAST_EVENT_ID = b"last-event-id"


@final
class Http1:
    """Send `request(...)`, then feed `receive` until an event says that all is over."""

    def __init__(self, limits: ClientLimits) -> None:
        self._machine = h11.Connection(
            h11.CLIENT, max_incomplete_event_size=limits.header_list_bytes
        )

    def request(self, authority: str, path: str, fields: Fields) -> bytes:
        """The bytes of a GET."""
        # An id may hold control characters, which browsers send as they are and h11 refuses.
        ids = [each for each in fields if each[0] == _LAST_EVENT_ID]
        plain = [each for each in fields if each[0] != _LAST_EVENT_ID]
        request = h11.Request(
            method="GET",
            target=path.encode(),
            headers=[(b"host", authority.encode()), *plain],
        )
        machine = self._machine
        head = machine.send(request)
        assert head is not None
        machine.send(h11.EndOfMessage())
        lines = b"".join(b"%s: %s\r\n" % each for each in ids)
        return head.removesuffix(b"\r\n") + lines + b"\r\n"

    def receive(self, data: bytes) -> list[StreamEvent]:
        """What the server's bytes mean; b"" when it has closed.  Never raises for what it sends."""
        machine = self._machine
        events: list[StreamEvent] = []
        try:
            machine.receive_data(data)
            while True:
                event = machine.next_event()
                match event:
                    case h11.Response(status_code=status, headers=headers):
                        events.append(Head(STREAM, status, tuple(headers)))
                    case h11.Data(data=body):
                        events.append(Data(STREAM, bytes(body)))
                    case h11.EndOfMessage():
                        events.append(Ended(STREAM))
                        return events
                    case h11.InformationalResponse(status_code=101):
                        events.append(Lost(STREAM, "switches protocols, unasked"))
                        return events
                    case h11.InformationalResponse():
                        pass
                    case h11.ConnectionClosed():
                        events.append(Lost(STREAM, "the server closed the connection"))
                        return events
                    case _:  # NEED_DATA, or PAUSED after the end
                        return events
        except h11.RemoteProtocolError as error:
            closed = "the server closed the connection"
            events.append(Lost(STREAM, f"malformed response: {error}" if data else closed))
            return events
