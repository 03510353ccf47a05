"""What a module gives to others: all of it in `__all__`, and all of it described."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import h2sse

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(h2sse.__file__).parent
# The library; the demo's services are described by their modules.
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.glob("*.py")}
NAMES = sorted(MODULES.keys() - {"__init__", "__main__"})


def load(module: str) -> ModuleType:
    return importlib.import_module(f"h2sse.{module}")


def exported(module: str) -> list[str]:
    names = load(module).__all__
    assert isinstance(names, list)
    return names


def made_in(module: str) -> set[str]:
    """The names that a module defines, or gives to what it imports."""
    names: set[str] = set()
    for node in MODULES[module].body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.Assign(targets=targets):
                names |= {each.id for each in targets if isinstance(each, ast.Name)}
            case ast.AnnAssign(target=ast.Name(name)):
                names.add(name)
            case ast.ImportFrom(names=aliases):
                names |= {each.asname for each in aliases if each.asname is not None}
            case _:
                pass
    return names


def used_elsewhere(module: str) -> set[str]:
    """The names that other modules import from this one, or read as its attributes."""
    used: set[str] = set()
    for tree in MODULES.values():
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        used |= {a.name for node in imports if node.module == module for a in node.names}
        if any(node.module is None and module in (a.name for a in node.names) for node in imports):
            used |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == module
            }
    return used


def rank(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as ruff sorts them (RUF022)."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("module", NAMES)
def test_all_is_exact_and_sorted(module: str) -> None:
    names, made, used = exported(module), made_in(module), used_elsewhere(module)
    assert names == sorted(set(names), key=rank)
    assert sorted(set(names) - made) == [], "not made here"
    assert sorted(used & made - set(names)) == [], "used elsewhere, but not in __all__"
    assert [name for name in names if not hasattr(load(module), name)] == []


def test_the_public_names_are_those_of_their_modules() -> None:
    """The package loads them when first asked for; each is the very one that its module gives."""
    homes = {
        alias.name: node.module
        for node in ast.walk(MODULES["__init__"])
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module is not None
        for alias in node.names
    }
    assert h2sse.__all__ == sorted(homes, key=rank)
    for name, module in homes.items():
        assert name in exported(module)
        assert getattr(h2sse, name) is getattr(sys.modules[f"h2sse.{module}"], name)
    assert set(h2sse.__all__) <= set(dir(h2sse))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = h2sse.nothing  # type: ignore[attr-defined]  # that there is none is the point


# -- descriptions


def public(names: set[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def members(kind: type) -> set[str]:
    """Methods and attributes, those that are only declared too."""
    return public({*dir(kind), *inspect.get_annotations(kind)})


def protocols() -> list[type]:
    every = [each for module in NAMES for each in vars(load(module)).values()]
    return [
        each for each in every if getattr(each, "_is_protocol", False) and inspect.isclass(each)
    ]


def silent(kind: type) -> list[str]:
    """The methods of a class that nothing describes: neither it, nor what it inherits from, nor a
    Protocol of ours that it keeps."""
    ours = [each for each in protocols() if each.__module__.startswith("h2sse.")]
    kept = [members(each) for each in ours if each is not kind and members(each) <= members(kind)]
    return [
        f"{kind.__name__}.{name}"
        for name, value in vars(kind).items()
        if public({name})
        and (inspect.isroutine(value) or hasattr(value, "__get__"))
        and not inspect.ismemberdescriptor(value)
        and not inspect.getdoc(getattr(kind, name))
        and not any(name in each for each in kept)
    ]


@pytest.mark.parametrize("module", [*NAMES, "__init__", "__main__"])
def test_whatever_is_public_is_described(module: str) -> None:
    tree = MODULES[module]
    assert ast.get_docstring(tree)
    nothing_said = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and public({node.name})
        # Not `__doc__`: a dataclass makes itself one.
        and not ast.get_docstring(node)
    ]
    if module in NAMES:
        for kind in vars(load(module)).values():
            if inspect.isclass(kind) and kind.__module__ == f"h2sse.{module}":
                nothing_said += silent(kind) if public({kind.__name__}) else []
    assert nothing_said == []
