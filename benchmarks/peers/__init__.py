"""The servers compared: for each, what runs it, and why it is set up so.

A module here is one server: `command` says how it is started for a `Setup`, and what stands beside
the module (node.js, go.go, nchan.conf.in, application.py) is the server's own side in its own
language.  Each gets what its documentation recommends for long streams of small events: one worker,
TCP_NODELAY, keep-alive, and limits high enough that nothing is refused by configuration.  Nothing
else is tuned, for or against.

All speak the same dialect: `GET /events?topic=bench` is an event stream whose first bytes come at
once, `POST /publish` sends an event to all of them, and `GET /` answers.  `Peer.stated` says where
one differs.  `benchmarks/servers.py` starts them.
"""

from __future__ import annotations

from .go import Go
from .granian import Granian
from .h2sse import H2sse
from .hypercorn import Hypercorn
from .nchan import Nchan
from .node import Node
from .peer import Peer, Setup

__all__ = ["PEERS", "Peer", "Setup"]

PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (H2sse(), Hypercorn(), Granian(), Node(), Nchan(), Go())
}
