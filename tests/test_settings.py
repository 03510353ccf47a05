from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from h2sse.config import Config, Limits, Tls, Topics
from h2sse.errors import ConfigError
from h2sse.settings import SETTINGS, Given, defaults_as_toml, load

PATHS = sorted(SETTINGS)
NUMBERS = [path for path in PATHS if type(SETTINGS[path].default) in (int, float)]


def _toml(value: object) -> str:
    """`value` as TOML: JSON, but for a few names."""
    match value:
        case float() if math.isnan(value):
            return "nan"
        case float() if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        case dict():
            inside = ", ".join(f"{_toml(str(key))} = {_toml(each)}" for key, each in value.items())
            return f"{{{inside}}}"
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def _file(directory: Path, *pairs: tuple[str, object]) -> Path:
    """A TOML file with these paths set."""
    file = directory / "server.toml"
    file.write_text("".join(f"{path} = {_toml(value)}\n" for path, value in pairs), "utf-8")
    return file


def _at(config: Config, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _other(path: str, step: int) -> tuple[Any, str]:
    """A value that is not the default, as TOML has it and as text; each step gives another."""
    match _at(Config(), path):
        case bool(value):
            return (not value, str(not value)) if step % 2 else (value, str(value))
        case int(value) | float(value):
            changed = value + step if value >= 1 else value / 2**step
            return changed, str(changed)
        case tuple():
            return [f"https://{step}.example", "*"], f"https://{step}.example, *"
        case _:
            return f"/at/{step}", f"/at/{step}"


def _set(path: str, step: int) -> list[tuple[str, Any, str]]:
    """What must be given so that `path` gets its value of this step."""
    together = ("tls.cert", "tls.key") if path in ("tls.cert", "tls.key") else (path,)
    return [(each, *_other(each, step)) for each in together]


def _expected(path: str, value: Any) -> object:
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if path.startswith("tls.") else value


def _flags(path: str, step: int) -> dict[str, Given]:
    return {each: Given(text, "--it") for each, _, text in _set(path, step)}


def _environment(path: str, step: int) -> dict[str, str]:
    return {SETTINGS[each].variable: text for each, _, text in _set(path, step)}


# -- what there is


def test_every_field_is_a_setting() -> None:
    plain = {each.name for each in fields(Config)} - {"tls", "topics", "limits"}
    tls = {f"tls.{each.name}" for each in fields(Tls)}
    topics = {f"topics.{each.name}" for each in fields(Topics)}
    limits = {f"limits.{each.name}" for each in fields(Limits)}
    assert SETTINGS.keys() == plain | tls | topics | limits


def test_nothing_given_is_the_default() -> None:
    assert load() == Config()
    assert load(environment={"HOME": "/", "PORT": "1", "h2sse_port": "1"}) == Config()


def test_variables_are_unlike_each_other() -> None:
    assert len({setting.variable for setting in SETTINGS.values()}) == len(SETTINGS)
    assert SETTINGS["limits.tab_backlog_bytes"].variable == "H2SSE_LIMITS_TAB_BACKLOG_BYTES"
    assert SETTINGS["tls.cert"].variable == "H2SSE_TLS_CERT"


def test_defaults_as_toml_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(defaults_as_toml())
    assert load(file=file) == Config(tls=Tls(directory=tmp_path / "certs"))


def test_defaults_as_toml_name_everything(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(defaults_as_toml().replace("# ", ""))
    pair = tmp_path / "FILE"
    tls = Tls(cert=pair, key=pair, directory=tmp_path / "certs")
    assert load(file=file) == Config(tls=tls)
    keys = [line.partition(" =")[0] for line in file.read_text().splitlines() if "=" in line]
    assert keys == [path.split(".")[-1] for path in SETTINGS]


# -- where it may be said


@pytest.mark.parametrize("path", PATHS)
def test_each_can_be_set_in_the_file(tmp_path: Path, path: str) -> None:
    config = load(file=_file(tmp_path, *((each, value) for each, value, _ in _set(path, 1))))
    assert _at(config, path) == _expected(path, _other(path, 1)[0]) != _at(Config(), path)


@pytest.mark.parametrize("path", PATHS)
def test_each_can_be_set_in_the_environment(path: str) -> None:
    config = load(environment=_environment(path, 1))
    assert _at(config, path) == _expected(path, _other(path, 1)[0]) != _at(Config(), path)


@pytest.mark.parametrize("path", PATHS)
def test_each_can_be_set_by_flag(path: str) -> None:
    config = load(flags=_flags(path, 1))
    assert _at(config, path) == _expected(path, _other(path, 1)[0]) != _at(Config(), path)


@pytest.mark.parametrize("path", PATHS)
def test_flag_over_environment_over_file(tmp_path: Path, path: str) -> None:
    file = _file(tmp_path, *((each, value) for each, value, _ in _set(path, 1)))
    second = load(file=file, environment=_environment(path, 2))
    assert _at(second, path) == _expected(path, _other(path, 2)[0])
    third = load(file=file, environment=_environment(path, 2), flags=_flags(path, 3))
    assert _at(third, path) == _expected(path, _other(path, 3)[0])


def test_places_add_up(tmp_path: Path) -> None:
    config = load(
        file=_file(tmp_path, ("tls.cert", "/cert.pem"), ("limits.body_bytes", 5)),
        environment={"H2SSE_TLS_KEY": "/key.pem", "H2SSE_LIMITS_TOPIC_BYTES": "6"},
        flags={"http1": Given(True, "--http1")},
    )
    assert config == Config(
        http1=True,
        tls=Tls(cert=Path("/cert.pem"), key=Path("/key.pem")),
        limits=Limits(body_bytes=5, topic_bytes=6),
    )


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    named = _file(tmp_path, ("port", 1))
    assert load(environment={"H2SSE_CONFIG": str(named)}).port == 1
    (tmp_path / "other").mkdir()
    flag = _file(tmp_path / "other", ("port", 2))
    assert load(file=flag, environment={"H2SSE_CONFIG": str(named)}).port == 2
    assert load(environment={"H2SSE_CONFIG": ""}) == Config()


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    values = (("tls.cert", "cert.pem"), ("tls.key", "/key.pem"), ("tls.directory", "../certs"))
    assert load(file=_file(tmp_path, *values)).tls == Tls(
        cert=tmp_path / "cert.pem", key=Path("/key.pem"), directory=tmp_path / "../certs"
    )


def test_paths_elsewhere_are_relative_to_where_we_are() -> None:
    given_twice = load(
        environment={"H2SSE_TLS_CERT": "cert.pem"}, flags={"tls.key": Given("key.pem", "--key")}
    )
    assert given_twice.tls == Tls(cert=Path("cert.pem"), key=Path("key.pem"))


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("http1", "true", True),
        ("http1", "1", True),
        ("http1", "True", True),
        ("http1", "false", False),
        ("http1", "0", False),
        ("cors_origins", "", ()),
        ("cors_origins", "*", ("*",)),
        ("cors_origins", "https://a.example,https://b.example", None),
        ("cors_origins", " https://a.example , https://b.example ", None),
        ("tls.cert", "", None),
        ("heartbeat_seconds", "0.5", 0.5),
        ("heartbeat_seconds", "20", 20),
    ],
)
def test_texts(path: str, text: str, value: object) -> None:
    if path == "cors_origins" and value is None:
        value = ("https://a.example", "https://b.example")
    assert _at(load(environment={SETTINGS[path].variable: text}), path) == value


def test_an_empty_text_takes_a_file_back(tmp_path: Path) -> None:
    file = _file(tmp_path, ("tls.cert", "cert.pem"), ("tls.key", "key.pem"))
    assert load(file=file, environment={"H2SSE_TLS_CERT": "", "H2SSE_TLS_KEY": ""}).tls == Tls()


# -- what is wrong


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            "[limits]\ntab_backlog_byte = 1",
            "limits.tab_backlog_byte in FILE is not a setting; did you mean tab_backlog_bytes?",
        ),
        ("prot = 1", "prot in FILE is not a setting; did you mean port?"),
        ("[limit]\nbody_bytes = 1", "limit in FILE is not a setting; did you mean limits?"),
        (
            "tab_backlog_bytes = 1",
            "tab_backlog_bytes in FILE is not a setting; did you mean limits.tab_backlog_bytes?",
        ),
        ("[tls]\nport = 1", "tls.port in FILE is not a setting; did you mean port?"),
        ("x = 1", "x in FILE is not a setting; `h2sse serve --help` lists what is"),
        ('"po\\nrt" = 1', "'po\\nrt' in FILE is not a setting; did you mean port?"),
        (
            '"limits.body_bytes" = 1',
            '"limits.body_bytes" in FILE is not a setting; did you mean limits.body_bytes?',
        ),
        ("port = 0x" + "f" * 10_000, "port in FILE must be a whole number, not so large a number"),
        ("limits = 1", "limits in FILE must be a table, written [limits], not 1"),
        ("[port]\na = 1", "port in FILE must be a whole number, not a table"),
        ('port = "8443"', 'port in FILE must be a whole number, not "8443"'),
        ("port = 8443.0", "port in FILE must be a whole number, not 8443.0"),
        ("port = true", "port in FILE must be a whole number, not true"),
        ("port = 65536", "port in FILE must be 0 to 65535, not 65536"),
        ("host = 1", "host in FILE must be one line of text, not 1"),
        ('host = "a\\nb"', "host in FILE must be one line of text, not 'a\\nb'"),
        ('host = ""', "host in FILE must not be empty; '::' listens on every address"),
        ("http1 = 1", "http1 in FILE must be true or false, not 1"),
        ("heartbeat_seconds = true", "heartbeat_seconds in FILE must be a number, not true"),
        ("heartbeat_seconds = nan", "heartbeat_seconds in FILE must be above 0, not nan"),
        (
            "retry_ms = 2024-01-01",
            "retry_ms in FILE must be a whole number, not 2024-01-01",
        ),
        ('cors_origins = "*"', 'cors_origins in FILE must be a list of texts, not "*"'),
        ('cors_origins = ["*", 1]', 'cors_origins in FILE must be a list of texts, not ["*", 1]'),
        (
            'cors_origins = ["https://a.example/"]',
            (
                "cors_origins in FILE: 'https://a.example/' is not an origin as browsers send it;"
                " write it like https://app.example:8443, in lower case, without path, slash or"
                " default port"
            ),
        ),
        ("tls.directory = 1", "tls.directory in FILE must be a path, not 1"),
        ('tls.directory = ""', 'tls.directory in FILE must be a path, not ""'),
        ('tls.cert = "a\\u0000b"', "tls.cert in FILE must be a path, not 'a\\x00b'"),
        (
            'tls.cert = "cert.pem"',
            "tls.cert in FILE: tls.key is missing: cert and key go together",
        ),
        (
            "[limits]\nbody_bytes = 0",
            "limits.body_bytes in FILE must be a whole number above 0, not 0",
        ),
        (
            "[limits]\nbody_bytes = 1.5",
            "limits.body_bytes in FILE must be a whole number, not 1.5",
        ),
        (
            "[limits]\nstall_seconds = inf",
            "limits.stall_seconds in FILE must be a number above 0, not inf",
        ),
        (
            "[limits]\nbody_bytes = 1" + "0" * 50,
            None,
        ),
        ("port =", None),
        ("port = 1\nport = 2", None),
        ("port = " + "9" * 5000, None),
        ("port = " + "[" * 100_000, None),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path: Path, toml: str, message: str | None) -> None:
    file = tmp_path / "server.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError) as caught:
        load(file=file)
    shown = str(caught.value)
    if message is not None:
        assert shown == message.replace("FILE", str(file))
    assert str(file) in shown
    assert "\n" not in shown
    assert len(shown) < len(str(file)) + 200


def test_a_syntax_error_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("port = 1\n\n[limits\n")
    with pytest.raises(ConfigError, match=r"server.toml is not valid TOML: .*line 3"):
        load(file=file)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cannot read .*none.toml: No such file"):
        load(file=tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"^cannot read .*: Is a directory"):
        load(file=tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"host = '\xff'")
    with pytest.raises(
        ConfigError, match=r"binary.toml is not UTF-8: invalid start byte at byte 8"
    ):
        load(file=binary)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "H2SSE_PROT",
            "1",
            "the environment variable H2SSE_PROT is not a setting; did you mean H2SSE_PORT?",
        ),
        ("H2SSE_", "1", None),
        (
            "H2SSE_TAB_BACKLOG_BYTES",
            "1",
            (
                "the environment variable H2SSE_TAB_BACKLOG_BYTES is not a setting;"
                " did you mean H2SSE_LIMITS_TAB_BACKLOG_BYTES?"
            ),
        ),
        ("H2SSE_PORT", "", 'H2SSE_PORT must be a whole number, not ""'),
        ("H2SSE_PORT", "http", 'H2SSE_PORT must be a whole number, not "http"'),
        ("H2SSE_PORT", "65536", "H2SSE_PORT must be 0 to 65535, not 65536"),
        ("H2SSE_HTTP1", "maybe", 'H2SSE_HTTP1 must be true or false, not "maybe"'),
        ("H2SSE_HEARTBEAT_SECONDS", "15s", 'H2SSE_HEARTBEAT_SECONDS must be a number, not "15s"'),
        ("H2SSE_TLS_DIRECTORY", "", 'H2SSE_TLS_DIRECTORY must be a path, not ""'),
        ("H2SSE_TLS_KEY", "k", "H2SSE_TLS_KEY: tls.cert is missing: key and cert go together"),
        (
            "H2SSE_LIMITS_CONNECTIONS",
            "-1",
            "H2SSE_LIMITS_CONNECTIONS must be a whole number above 0, not -1",
        ),
        ("H2SSE_CORS_ORIGINS", "app.example", None),
        ("H2SSE_CORS_ORIGINS", "*,", None),
        ("H2SSE_CONFIG", "/nowhere.toml", "cannot read /nowhere.toml: No such file or directory"),
    ],
)
def test_what_is_wrong_in_the_environment(name: str, text: str, message: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environment={name: text})
    if message is not None:
        assert str(caught.value) == message
    assert name in str(caught.value) or name == "H2SSE_CONFIG"


def test_what_is_wrong_with_a_flag() -> None:
    for path, value, message in (
        ("port", "x", '--port must be a whole number, not "x"'),
        ("port", "-1", "--port must be 0 to 65535, not -1"),
        ("limits.max_concurrent_streams", "0", None),
        ("cors_origins", ["x"], None),
    ):
        flag = f"--{path.split('.')[-1]}"
        with pytest.raises(ConfigError, match=f"^{flag}") as caught:
            load(flags={path: Given(value, flag)})
        assert message in (None, str(caught.value))


def test_the_place_named_is_the_one_that_counts(tmp_path: Path) -> None:
    # The file's port would do; the environment's is the one that is wrong, and is used.
    file = _file(tmp_path, ("port", 1), ("retry_ms", 1))
    with pytest.raises(ConfigError, match=r"^H2SSE_PORT must be 0 to 65535"):
        load(file=file, environment={"H2SSE_PORT": "70000"})


# -- whatever is given: a Config, or a ConfigError of one line

texts = st.text(max_size=20) | st.sampled_from(["*", "https://a.example", "/", "1", "true", "nan"])
values = st.recursive(
    st.booleans() | st.integers() | st.integers(1, 2**16) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
keys = st.sampled_from([*PATHS, "limits", "tls", "limits.x"]) | texts.map(_toml)


def _complaint(**places: Any) -> str:
    """The one line that is wrong with this, "" if nothing is."""
    try:
        config = load(**places)
    except ConfigError as error:
        message = str(error)
    else:
        return "" if replace(config) == config else "two readings"
    return message if message.isprintable() else f"not one line: {message!r}"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(keys, values), max_size=4, unique_by=lambda pair: pair[0]))
@example(pairs=[("port", 10**5000)])
def test_any_toml(tmp_path: Path, pairs: list[tuple[str, object]]) -> None:
    file = tmp_path / "server.toml"
    lines = [
        f"{key} = {hex(value) if type(value) is int and value > 2**64 else _toml(value)}"
        for key, value in pairs
    ]
    file.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
    complaint = _complaint(file=file)
    assert complaint == "" or str(file) in complaint


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=100))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "server.toml"
    file.write_bytes(content)
    complaint = _complaint(file=file)
    assert complaint == "" or str(file) in complaint


variables = st.sampled_from([setting.variable for setting in SETTINGS.values()])
# What the environment can hold: no NUL, and undecodable bytes as lone surrogates.
environment_texts = st.text(
    st.characters(exclude_categories=[], exclude_characters="\0"), max_size=20
)


@given(
    environment=st.dictionaries(
        variables | environment_texts.map("H2SSE_{}".format),
        environment_texts | st.integers().map(str) | st.floats().map(str),
        max_size=4,
    )
)
@example(environment={"H2SSE_PORT": "9" * 5000})
@example(environment={"H2SSE_HEARTBEAT_SECONDS": "1e999"})
def test_any_environment(environment: dict[str, str]) -> None:
    environment.pop("H2SSE_CONFIG", None)
    complaint = _complaint(environment=environment)
    assert complaint == "" or complaint.startswith(("H2SSE_", "the environment variable ")), (
        complaint
    )


@given(path=st.sampled_from(NUMBERS), number=st.floats() | st.integers())
def test_a_number_counts_as_the_dataclass_says(path: str, number: float) -> None:
    """No number that config.py refuses gets past, and none that it takes is refused."""
    table, _, name = path.rpartition(".")
    values: dict[str, Any] = {name: number}
    try:
        expected = Config(limits=Limits(**values)) if table else Config(**values)
    except ConfigError:
        expected = None
    given = {SETTINGS[path].variable: repr(number)}
    assert (_complaint(environment=given) == "") == (expected is not None)
    assert expected is None or load(environment=given) == expected
