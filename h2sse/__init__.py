"""Server-Sent Events over HTTP/2: one event, every tab, one connection.

    app = h2sse.App()
    listening = await nursery.start(h2sse.serve, app)
    app.publish("news", h2sse.Event(data="hello"))

`App` holds routes and the hub, `serve` puts it on a port, `Event` is what is published, and
`Subscribe` what a stream handler returns.  `Parser` reads an event stream.
"""

from .app import App
from .config import Config, Limits, Tls
from .errors import BadRequest, ConfigError, H2sseError, LocalError, RemoteError
from .hub import Presence, Subscribe, Tab
from .server import Listening, serve
from .sse import Event, Message, Parser
from .wire import Request, Response

__all__ = [
    "App",
    "BadRequest",
    "Config",
    "ConfigError",
    "Event",
    "H2sseError",
    "Limits",
    "Listening",
    "LocalError",
    "Message",
    "Parser",
    "Presence",
    "RemoteError",
    "Request",
    "Response",
    "Subscribe",
    "Tab",
    "Tls",
    "serve",
]

__version__ = "0.1.0"
