"""Server-Sent Events over HTTP/2: one event, every tab, one connection.

    app = h2sse.App()
    listening = await nursery.start(h2sse.serve, app)
    app.publish("news", h2sse.Event(data="hello"))

`App` holds routes and the hub, `serve` puts it on a port, `Event` is what is published, and
`Subscribe` what a stream handler returns.  `EventSource` is the other end, `Client` many of it on
one connection; `Parser` reads an event stream that you have already.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import App
    from .client import Client, ClientLimits, EventSource, SourceFailed
    from .config import Config, Limits, Tls, Topics
    from .errors import BadRequest, ConfigError, H2sseError, LocalError, RemoteError
    from .hub import Presence, Subscribe, Tab
    from .server import Listening, serve
    from .sse import Event, Message, Parser
    from .wire import Request, Response

__all__ = [
    "App",
    "BadRequest",
    "Client",
    "ClientLimits",
    "Config",
    "ConfigError",
    "Event",
    "EventSource",
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
    "SourceFailed",
    "Subscribe",
    "Tab",
    "Tls",
    "Topics",
    "serve",
]

__version__ = "0.1.0"


# Loaded when first asked for (PEP 562): `h2sse --help` and `h2sse publish` need no server, and
# trio and h2 take a third of a second.
_HOMES = {
    "App": "app",
    "BadRequest": "errors",
    "Client": "client",
    "ClientLimits": "client",
    "Config": "config",
    "ConfigError": "errors",
    "Event": "sse",
    "EventSource": "client",
    "H2sseError": "errors",
    "Limits": "config",
    "Listening": "server",
    "LocalError": "errors",
    "Message": "sse",
    "Parser": "sse",
    "Presence": "hub",
    "RemoteError": "errors",
    "Request": "wire",
    "Response": "wire",
    "SourceFailed": "client",
    "Subscribe": "hub",
    "Tab": "hub",
    "Tls": "config",
    "Topics": "config",
    "serve": "server",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
