"""Who may import whom.  `docs/architecture.md` says why."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import h2sse

ROOT = Path(h2sse.__file__).parent

# Imports go upwards in this table, or stay in their row.
LAYERS: dict[str, set[str]] = {
    "vocabulary": {"errors", "config", "sse", "bodies", "wire", "client.limits", "client.exchange"},
    "core": {
        *("client.source", "client.http1", "client.http2"),
        *(
            "fields",
            "flow",
            "lane",
            "machine",
            "http1",
            "http1_requests",
            "http1_answers",
            "http2",
            "http2_requests",
            "screen",
            "hello",
        ),
        *("trace", "trace.record", "trace.events", "trace.http1", "trace.http2"),
        *(
            "guard",
            "frames",
            "liveness",
            "patience",
            "history",
            "overflow",
            "ledger",
            "uploads",
            "hub",
            "publishing",
            "app",
            "outcomes",
            "pages",
            "metering",
            "metrics",
        ),
    },
    "shell": {
        "client",
        "client.connection",
        "binding",
        "tls",
        "connection",
        "intake",
        "unison",
        "server",
        "handshake",
        "full_socket",
        "tls_socket",
        "turns",
        "streams",
        "asgi",
        "asgi_exchange",
        "asgi_requests",
    },
    "edge": {
        *("__init__", "__main__", "cli", "commands", "post", "settings", "terminal"),
        *("trace.output", "demo", "demo.bodies", "demo.pages", "demo.trace"),
        *("demo.clock", "demo.facts", "demo.people", "demo.tabs", "demo.theme", "demo.timestamps"),
        *("listen", "probe", "probe.connection", "probe.http1", "probe.lab", "probe.reading"),
        *("probe.report", "probe.verdict", "probe.checks", "probe.checks.access"),
        *("probe.checks.ends", "probe.checks.events", "probe.checks.http1"),
        *("probe.checks.opening", "probe.checks.resume", "probe.checks.rough"),
        "probe.checks.streams",
    },
}

# Everything that is not in the standard library, and the only modules that know of it.
PACKAGES: dict[str, set[str]] = {
    "h2": {"client.http2", "http2", "http2_requests", "machine", "flow", "screen"},
    "hpack": {"client.http2", "machine", "trace.http2", "probe.connection"},
    "h11": {"client.http1", "http1_answers", "http1_requests", "probe.http1"},
    "trio": LAYERS["shell"] | LAYERS["edge"],
    "anyio": {"asgi", "asgi_exchange", "asgi_requests"},
    "prometheus_client": {"metrics"},
    "trustme": {"tls"},
    "cryptography": {"tls"},
}
FOR_TYPES_ONLY = {("flow", "h2")}

# A wire knows bytes, not events; the hub knows events, not bytes.  Not even through others.
WIRES = {
    *(
        "http1",
        "http1_answers",
        "http1_requests",
        "http2",
        "http2_requests",
        "screen",
        "machine",
        "flow",
        "lane",
        "fields",
    ),
    *("client.http1", "client.http2"),
}
EVENTS = {"sse", "history", "overflow", "hub", "publishing", "app"}
STRANGERS: dict[str, set[str]] = {
    **dict.fromkeys(WIRES, EVENTS),
    **dict.fromkeys(EVENTS - {"app"}, WIRES | {"app"}),
}

# One event loop, one thread.
NEVER = {"asyncio", "threading", "concurrent", "multiprocessing"}
# What the vocabulary and the core do without; the app holds the clock and hands it on.
NOT_SANS_IO = {"socket", "ssl", "select", "selectors", "signal", "subprocess"}
CLOCK = "app"


class Import(NamedTuple):
    """`module` imports `target`: one of ours by its name in `LAYERS`, or a package from outside."""

    module: str
    target: str
    ours: bool
    for_types: bool


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(module: str) -> list[Import]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    typing = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for statement in branch.body
        for node in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            # `from . import wire` names a module, `from . import App` what is in one.
            deeper = [f"{base}.{alias.name}" for alias in node.names]
            targets = [each if ours(each) in MODULES else base for each in deeper]
        else:
            continue
        for target in targets:
            name = ours(target)
            outside = target.partition(".")[0]
            found.append(Import(module, name or outside, name is not None, node in typing))
    return found


def absolute(module: str, node: ast.ImportFrom) -> str:
    package = ["h2sse", *module.split(".")]
    if MODULES[module].name != "__init__.py" or module == "__init__":
        package.pop()
    above = package[: len(package) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def ours(target: str) -> str | None:
    """The name in `LAYERS` of "h2sse.wire" and the like, None for what is not ours."""
    first, _, rest = target.partition(".")
    return (rest or "__init__") if first == "h2sse" else None


IMPORTS = {module: imports_of(module) for module in MODULES}
EVERY = [each for found in IMPORTS.values() for each in found]


def reached_from(module: str) -> set[str]:
    """What a module imports of ours, and what that imports, and so on; types too."""
    reached: set[str] = set()
    ahead = [module]
    while ahead:
        targets = {each.target for each in IMPORTS[ahead.pop()] if each.ours}
        ahead += targets - reached
        reached |= targets
    return reached


def test_every_module_has_its_layer() -> None:
    placed = [module for layer in LAYERS.values() for module in layer]
    assert sorted(placed) == sorted(MODULES)


def test_imports_go_down() -> None:
    depth = {module: n for n, layer in enumerate(LAYERS.values()) for module in layer}
    upwards = [each for each in EVERY if each.ours and depth[each.target] > depth[each.module]]
    assert upwards == []


def test_packages_stay_where_they_are_known() -> None:
    outside = [each for each in EVERY if not each.ours]
    strays = [
        each
        for each in outside
        if each.target not in sys.stdlib_module_names
        and each.module not in PACKAGES.get(each.target, ())
    ]
    assert strays == []
    # A row that nothing needs any more is to go.
    assert {each.target for each in outside} >= PACKAGES.keys()
    for module, package in FOR_TYPES_ONLY:
        found = [each for each in IMPORTS[module] if each.target == package]
        assert found
        assert all(each.for_types for each in found)


def test_one_loop_and_one_thread() -> None:
    assert [each for each in EVERY if each.target in NEVER] == []


def test_the_core_does_no_io_and_holds_no_clock() -> None:
    inner = LAYERS["vocabulary"] | LAYERS["core"]
    assert [e for e in EVERY if e.module in inner and e.target in NOT_SANS_IO] == []
    assert {e.module for e in EVERY if e.module in inner and e.target == "time"} <= {CLOCK}


@pytest.mark.parametrize("module", sorted(STRANGERS))
def test_strangers_never_meet(module: str) -> None:
    assert reached_from(module) & STRANGERS[module] == set()


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] == "demo"])
def test_the_demo_is_written_on_the_public_names_alone(module: str) -> None:
    inside = {"demo", *(name for name in MODULES if name.startswith("demo."))}
    for each in IMPORTS[module]:
        if each.ours:
            assert each.target in inside | {"__init__"}
        else:
            assert each.target in {"trio", *sys.stdlib_module_names}
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "h2sse"
    }
    assert used <= set(h2sse.__all__)
    assert not any(
        node.module == "h2sse" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    )
