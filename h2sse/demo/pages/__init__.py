"""The pages: HTML as it stands beside this module, under one header, with one style sheet."""

from __future__ import annotations

from pathlib import Path

import h2sse

__all__ = ["add", "add_page", "read"]

_HERE = Path(__file__).parent


def add(app: h2sse.App) -> None:
    """Mount the start page and what all pages share."""
    app.page("/", read("index").encode())
    _add_file(app, "icon.svg", "image/svg+xml")
    _add_file(app, "demo.css", "text/css")
    _add_file(app, "demo.js", "text/javascript")
    _add_file(app, "tabs.js", "text/javascript")
    _add_file(app, "trace.js", "text/javascript")


def add_page(app: h2sse.App, name: str) -> None:
    """Mount `<name>.html` at `/<name>/`."""
    app.page(f"/{name}/", read(name).encode())


def read(name: str) -> str:
    """The page `<name>.html`, with the header that marks it as the current one."""
    header = (_HERE / "header.html").read_text("utf-8")
    here = f'href="/{name}/"'
    page = (_HERE / f"{name}.html").read_text("utf-8")
    return page.replace("<!-- header -->", header.replace(here, f'{here} aria-current="page"'))


def _add_file(app: h2sse.App, name: str, kind: str) -> None:
    response = h2sse.Response.text(
        (_HERE / name).read_text("utf-8"),
        content_type=f"{kind}; charset=utf-8",
        fields=((b"cache-control", b"no-cache"),),
    )

    @app.get(f"/{name}")
    def send(_: h2sse.Request) -> h2sse.Response:
        return response
