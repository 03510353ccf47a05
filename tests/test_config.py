from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest

from h2sse.config import Config, Limits, Tls
from h2sse.errors import ConfigError

LIMITS = [each.name for each in fields(Limits)]
WHOLE = [each.name for each in fields(Limits) if each.type == "int"]


def test_defaults_are_valid() -> None:
    assert Config() == Config(tls=Tls(), limits=Limits())


def test_errors_are_value_errors() -> None:
    # So that a caller who knows nothing of our tree catches them all the same.
    with pytest.raises(ValueError, match="port"):
        Config(port=-1)


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("bad", [0, -1, 2**31, math.nan, math.inf, True, "1", None])
def test_limits_are_numbers_above_zero(name: str, bad: object) -> None:
    with pytest.raises(ConfigError, match=rf"^limits\.{name} must be a .*number above 0, not "):
        Limits(**{name: bad})  # type: ignore[arg-type] # the point of it


@pytest.mark.parametrize("name", WHOLE)
def test_whole_limits_take_no_fraction(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^limits\.{name} must be a whole number above 0"):
        Limits(**{name: 1.5})  # type: ignore[arg-type] # the point of it


@pytest.mark.parametrize("name", LIMITS)
def test_limits_take_the_least_and_the_most(name: str) -> None:
    least: Any = 1 if name in WHOLE else 0.001
    for value in (least, 2**31 - 1):
        assert getattr(Limits(**{name: value}), name) == value


def test_every_limit_names_its_unit() -> None:
    units = (
        *("seconds", "bytes", "fields", "frames", "entries", "events", "topics", "streams"),
        *("resets", "connections", "per_second", "per_minute"),
    )
    counts = {"topics_per_request", "connections_per_address", "stream_id"}
    assert [name for name in LIMITS if not name.endswith(units) and name not in counts] == []


def test_cert_and_key_go_together() -> None:
    pair = Tls(cert=Path("a.pem"), key=Path("b.pem"))
    assert (pair.cert, pair.key) == (Path("a.pem"), Path("b.pem"))
    with pytest.raises(ConfigError, match=r"^tls\.key is missing"):
        Tls(cert=Path("a.pem"))
    with pytest.raises(ConfigError, match=r"^tls\.cert is missing"):
        Tls(key=Path("b.pem"))


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("port", [0, 1, 65535]),
        ("heartbeat_seconds", [0.1, 15, 2**31 - 1]),
        ("retry_ms", [1, 3_600_000]),
        ("retry_spread", [0, 0.5, 0.999]),
        ("host", ["localhost", "::", "192.0.2.1"]),
    ],
)
def test_edges_that_hold(name: str, good: list[Any]) -> None:
    for value in good:
        assert getattr(Config(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("port", [-1, 65536, True, 80.0, "80"]),
        ("heartbeat_seconds", [0, -1, 2**31, math.nan, math.inf]),
        ("retry_ms", [0, -1, 3_600_001, True, 1.5]),
        ("retry_spread", [-0.1, 1, math.nan]),
        ("host", [""]),
    ],
)
def test_edges_that_do_not(name: str, bad: list[Any]) -> None:
    for value in bad:
        with pytest.raises(ConfigError, match=f"^{name} must "):
            Config(**{name: value})


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://app.example",
        "https://app.example:8443",
        "http://localhost:3000",
        "http://127.0.0.1",
        "http://[::1]:8080",
    ],
)
def test_origins(origin: str) -> None:
    assert Config(cors_origins=(origin,)).cors_origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "app.example",
        "//app.example",
        "https://",
        "https://app.example/",
        "https://app.example/path",
        "https://app.example?query",
        "https://app.example#fragment",
        "https://user@app.example",
        "https://app.example:port",
        "https://app.example:70000",
        "https://[::1",
        "HTTPS://app.example",
        "https://App.example",
        "ftp://app.example",
        " https://app.example",
        "https://app.exa\nmple",
    ],
)
def test_what_no_browser_would_send_is_no_origin(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"^cors_origins: .* is not an origin") as caught:
        Config(cors_origins=("https://app.example", origin))
    assert "\n" not in str(caught.value)


def test_values_are_frozen() -> None:
    config = Config()
    for value, name in ((config, "port"), (config.tls, "cert"), (config.limits, "body_bytes")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 1)


def test_a_changed_copy_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"^port must "):
        replace(Config(), port=65536)
