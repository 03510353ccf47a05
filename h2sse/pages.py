"""The built-in routes: events, publish, a page about this server, health and metrics."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from .wire import Request, Response

if TYPE_CHECKING:
    from .app import App
    from .metrics import Scrapes

__all__ = ["builtin_routes"]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>h2sse</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; font: 16px/1.6 system-ui, sans-serif; }
body { max-width: 42rem; margin: 3rem auto; padding: 0 1.25rem; }
code, pre { font: 0.9em/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; padding: 0.9rem 1rem; border-radius: 8px; background: #8881; }
</style>
</head>
<body>
<h1>h2sse</h1>
<p>This server sends events to any number of tabs over one HTTP/2 connection.</p>
<p>Listen, in a page:</p>
<pre>new EventSource("/events?topic=news").onmessage = (e) =&gt; console.log(e.data)</pre>
<p>or in a terminal:</p>
<pre>curl -N --cacert certs/ca.pem 'https://AUTHORITY/events?topic=news'</pre>
<p>Publish:</p>
<pre>curl --cacert certs/ca.pem -d topic=news -d data=hello https://AUTHORITY/publish</pre>
<p><a href="/healthz">/healthz</a> says that it is well, <a href="/metrics">/metrics</a> counts
(Prometheus).</p>
</body>
</html>
"""


def builtin_routes(app: App) -> Iterator[tuple[str, str, Callable[[Request], Any], bool]]:
    """Method, path, handler and whether it is a stream, of each."""
    from .app import page_fields

    def about(request: Request) -> Response:
        page = _PAGE.replace("AUTHORITY", html.escape(request.authority or "localhost:8443"))
        body = page.encode()
        return Response(fields=page_fields(body), body=body)

    def healthz(_: Request) -> Response:
        return Response.json({"status": "ok"}, fields=((b"cache-control", b"no-store"),))

    @cache
    def scrapes() -> Scrapes:
        from .metrics import Scrapes

        return Scrapes(app)

    def metrics(_: Request) -> Response:
        from .metrics import CONTENT_TYPE

        return Response(
            fields=((b"content-type", CONTENT_TYPE.encode()), (b"cache-control", b"no-store")),
            body=scrapes().text(),
        )

    yield "GET", "/events", app.subscribe, True
    yield "POST", "/publish", app.read_publication, False
    yield "GET", "/", about, False
    yield "GET", "/healthz", healthz, False
    yield "GET", "/metrics", metrics, False
