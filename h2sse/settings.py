"""A `Config` from all the places that may say something about it.

In rising order: the defaults, a TOML file, environment variables, flags.  Every setting has one
dotted path, from which its other names follow:

    limits.body_bytes    [limits] body_bytes = 65536    H2SSE_LIMITS_BODY_BYTES=65536

The paths and their types are read off the dataclasses of config.py, which also judge the values,
so a new field there needs nothing here.  What is wrong is one `ConfigError` that names the place it
was written in.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, final, get_type_hints

from .config import Config
from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["FILE_VARIABLE", "SETTINGS", "Given", "Setting", "defaults_as_toml", "load"]

PREFIX = "H2SSE_"
# Names the TOML file itself, where no flag does.
FILE_VARIABLE = "H2SSE_CONFIG"

T = TypeVar("T")


class Given(NamedTuple):
    """A value, and the place it was given in, as an error names it: `port in server.toml`."""

    value: object
    place: str


class _Kind(NamedTuple):
    """A type that settings may have: how it is asked for, read from text, and recognised."""

    expected: str
    from_text: Callable[[str], object]
    fits: Callable[[object], bool]


_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def _is_whole(value: object) -> bool:
    # TOML's own range; hexadecimal ones can be too long for Python to print.
    return type(value) is int and -(2**63) <= value < 2**63


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


# Every type a field of config.py may have.  A field of another type fails at import.
_KINDS: Mapping[object, _Kind] = {
    bool: _Kind("true or false", lambda text: _TRUTH[text.lower()], lambda v: type(v) is bool),
    int: _Kind("a whole number", int, _is_whole),
    float: _Kind("a number", float, lambda v: type(v) is float or _is_whole(v)),
    str: _Kind("one line of text", str, _is_text),
    tuple[str, ...]: _Kind(
        "a list of texts",
        lambda text: [each.strip() for each in text.split(",")] if text.strip() else [],
        lambda v: isinstance(v, list) and all(map(_is_text, v)),
    ),
    Path: _Kind("a path", str, _is_path),
    # An empty text takes back what a lower place has set.
    Path | None: _Kind("a path", lambda text: text or None, lambda v: v is None or _is_path(v)),
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One thing that can be set."""

    path: str
    kind: _Kind
    is_path: bool
    default: object

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + self.path.replace(".", "_").upper()

    def read(self, value: object, place: str, directory: Path = Path()) -> Given:
        """`value` as config.py wants it; paths are relative to `directory`.  Raises ConfigError."""
        if not self.kind.fits(value):
            raise ConfigError(f"{place} must be {self.kind.expected}, not {_shown(value)}")
        if isinstance(value, list):
            return Given(tuple(value), place)
        if self.is_path and isinstance(value, str):
            return Given(directory / value, place)
        return Given(value, place)

    def read_text(self, text: str, place: str) -> Given:
        """The same for `text` of the environment or of a flag."""
        try:
            value = self.kind.from_text(text)
        except (ValueError, KeyError):
            value = text  # which then does not fit
        return self.read(value, place)


def _walk(cls: type[Any], prefix: str = "") -> Iterator[Setting]:
    hints = get_type_hints(cls)
    defaults = cls()
    for field in fields(cls):
        path, hint = prefix + field.name, hints[field.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _walk(hint, f"{path}.")
        else:
            yield Setting(
                path=path,
                kind=_KINDS[hint],
                is_path=hint in (Path, Path | None),
                default=getattr(defaults, field.name),
            )


SETTINGS: Mapping[str, Setting] = {setting.path: setting for setting in _walk(Config)}


def load(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Given] | None = None,
) -> Config:
    """The configuration that `file`, then `environment`, then `flags` (by path) amount to.

    Texts among the flags are read as those of the environment are.  Without `file` the environment
    may name one (H2SSE_CONFIG).  Raises ConfigError.
    """
    environment = environment or {}
    if file is None and environment.get(FILE_VARIABLE):
        file = Path(environment[FILE_VARIABLE])
    given: dict[str, Given] = {}
    if file is not None:
        given.update(_from_file(file))
    given.update(_from_environment(environment))
    for path, (value, place) in (flags or {}).items():
        setting = SETTINGS[path]
        given[path] = (
            setting.read_text(value, place)
            if isinstance(value, str)
            else setting.read(value, place)
        )
    return _build(Config, given)


def defaults_as_toml() -> str:
    """A TOML file that sets everything to what it is anyway, to show what there is."""
    lines = []
    table = ""
    for path, setting in SETTINGS.items():
        *above, name = path.split(".")
        if above and above[0] != table:
            table = above[0]
            lines += ["", f"[{table}]"]
        if setting.default is None:
            lines.append(f'# {name} = "FILE"')
        else:
            lines.append(f"{name} = {_shown(setting.default)}")
    return "\n".join(lines)


# -- the TOML file


def _from_file(file: Path) -> Iterator[tuple[str, Given]]:
    try:
        with file.open("rb") as stream:
            table = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        # tomllib says "(at line 3, column 8)".  Numbers of thousands of digits, and arrays as
        # deep, are errors of Python's own.
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    return _from_table(table, file)


def _from_table(
    table: Mapping[str, object], file: Path, prefix: str = ""
) -> Iterator[tuple[str, Given]]:
    for name, value in table.items():
        path = prefix + name
        key = f'"{name}"' if "." in name else name
        place = f"{_shown_path(prefix + key)} in {file}"
        inside = f"{path}."
        if path in SETTINGS and "." not in name:
            yield path, SETTINGS[path].read(value, place, file.parent)
        elif not any(each.startswith(inside) for each in SETTINGS):
            raise ConfigError(f"{place} is not a setting{_hint(name, prefix)}")
        elif isinstance(value, dict):
            yield from _from_table(value, file, inside)
        else:
            raise ConfigError(f"{place} must be a table, written [{path}], not {_shown(value)}")


def _hint(name: str, prefix: str) -> str:
    """What was probably meant by `name`: a key of the same table, or its like in another one."""
    here = {path.removeprefix(prefix).split(".")[0] for path in SETTINGS if path.startswith(prefix)}
    anywhere = {path.split(".")[-1]: path for path in SETTINGS}
    for among in ({each: each for each in here}, anywhere):
        for close in difflib.get_close_matches(name, among, 1):
            return f"; did you mean {among[close]}?"
    return "; `h2sse serve --help` lists what is"


# -- the environment


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, Given]]:
    known = {setting.variable: setting for setting in SETTINGS.values()}
    for name, text in environment.items():
        if name in known:
            yield known[name].path, known[name].read_text(text, name)
        elif name.startswith(PREFIX) and name != FILE_VARIABLE:
            close = difflib.get_close_matches(name, (*known, FILE_VARIABLE), 1)
            hint = f"did you mean {close[0]}?" if close else "unset it"
            raise ConfigError(
                f"the environment variable {_shown_path(name)} is not a setting; {hint}"
            )


# -- the whole


def _build(cls: type[T], given: Mapping[str, Given], prefix: str = "") -> T:
    """`cls` from the settings under `prefix`.  Whatever it objects to is said of its place."""
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, hint in hints.items():
        path = prefix + name
        if path in given:
            values[name] = given[path].value
        elif is_dataclass(hint):
            assert isinstance(hint, type)
            values[name] = _build(hint, given, f"{path}.")
    try:
        return cls(**values)
    except ConfigError as error:
        message = str(error)
    for name, value in values.items():
        path = prefix + name
        if path in given and _objection(cls, name, value) == message:
            place = given[path].place
            if message.startswith(path):
                raise ConfigError(place + message.removeprefix(path))
            raise ConfigError(f"{place}: {message}")
    raise ConfigError(message)


def _objection(cls: type[Any], name: str, value: object) -> str | None:
    """What `cls` has against this value alone."""
    try:
        cls(**{name: value})
    except ConfigError as error:
        return str(error)
    return None


def _shown_path(path: str) -> str:
    return path if path.isprintable() else ascii(path)


def _shown(value: object) -> str:
    """`value` as TOML writes it, or nearly, cut to what fits into one line."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case list() | tuple():
            text = f"[{', '.join(map(_shown, value))}]"
        case str() | Path():
            text = ascii(str(value)) if not str(value).isprintable() else f'"{value}"'
        case int() if not _is_whole(value):
            return "so large a number"
        case _:
            text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
