"""What the fuzzers ask, asked of their seeds and of changed ones; tests/fuzz/playing.py says what.

A fuzzer goes on from here with coverage to guide it: `python tests/fuzz/fuzz_http2.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import make_seeds
import pytest
from http1_target import http1_
from http2_target import Http2Reader, http2
from hypothesis import example, given
from hypothesis import strategies as st
from make_seeds import FOLDER, frame
from mutations import mutate
from parser_target import parser
from playing import Script, Step

from h2sse.flow import Outflow

TARGETS: dict[str, Callable[[bytes], None]] = {"http2": http2, "http1": http1_, "parser": parser}
SEEDS = {
    f"{kind}/{path.name}": path.read_bytes()
    for kind in TARGETS
    for path in sorted((FOLDER / kind).iterdir())
}
# Each of them some 4 ms.
MUTATIONS = 8


@pytest.mark.parametrize("name", SEEDS)
def test_a_seed(name: str) -> None:
    TARGETS[name.partition("/")[0]](SEEDS[name])


@pytest.mark.parametrize("name", [name for name in SEEDS if not name.startswith("parser/")])
def test_changed_seeds(name: str) -> None:
    """The same changes in every run, each on top of the one before."""
    random = Random(name)
    data = SEEDS[name]
    for _ in range(MUTATIONS):
        data = mutate(data, random)
        try:
            TARGETS[name.partition("/")[0]](data)
        except Exception as error:
            error.add_note(f"the input: {data!r}")
            raise


@given(st.binary(max_size=60))
@example(b"\x01data: x\r\r")
def test_any_event_stream(data: bytes) -> None:
    parser(data)


@given(st.lists(st.builds(Step, *[st.integers(0, n) for n in (255, 15, 15)]), max_size=9))
def test_a_script_is_read_as_it_was_written(steps: list[Step]) -> None:
    written = Script(tuple(steps), b"peer").write()
    assert Script.read(written) == Script(tuple(steps), b"peer")


def test_the_seeds_are_those_that_are_made() -> None:
    """What was found by a fuzzer, and is kept as it was, stands beside them."""
    made = {
        f"{kind}/{name}": data for kind, seeds in make_seeds.every().items() for name, data in seeds
    }
    assert made == {name: data for name, data in SEEDS.items() if "/found-" not in name}


# -- whether a reader would notice: each of these is one frame that a server may not send


OPENED = frame(make_seeds.HEADERS, make_seeds.END_HEADERS, 1, b"\x88")
BEFORE = frame(make_seeds.SETTINGS) + OPENED


@pytest.mark.parametrize(
    "wrong",
    {
        "no SETTINGS": OPENED,
        "DATA over the window": BEFORE + frame(make_seeds.DATA, 0, 1, b"x" * 16_384) * 4,
        "DATA before HEADERS": frame(make_seeds.SETTINGS) + frame(make_seeds.DATA, 0, 1, b"x"),
        "DATA after the end": BEFORE + frame(make_seeds.DATA, 1, 1) * 2,
        "DATA after RST_STREAM": BEFORE + make_seeds.reset(1) + frame(make_seeds.DATA, 0, 1),
        "HEADERS of an idle stream": BEFORE + frame(make_seeds.HEADERS, 4, 3, b"\x88"),
        "HEADERS twice": BEFORE + OPENED,
        "RST_STREAM of an idle stream": BEFORE + make_seeds.reset(3),
        "window that was not used": BEFORE + make_seeds.window(0, 1),
        "an answer to no PING": BEFORE + frame(make_seeds.PING, 1, 0, bytes(8)),
        "an answer to no SETTINGS": BEFORE + make_seeds.ACKNOWLEDGED * 2,
        "PUSH_PROMISE": BEFORE + frame(make_seeds.PUSH_PROMISE, 4, 1, bytes(4)),
        "half a frame": BEFORE + frame(make_seeds.DATA, 0, 1, b"x")[:-1],
    }.items(),
    ids=lambda each: each[0],
)
def test_the_reader_notices(wrong: tuple[str, bytes]) -> None:
    reader = Http2Reader()
    reader.said(make_seeds.BEGIN + make_seeds.request(1, b"/e"))
    with pytest.raises(AssertionError):
        reader.heard(wrong[1])


def test_the_player_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wire that forgets the connection's window, for one, is found out by its seed."""
    serve = Outflow.serve

    def forgets(self: Outflow, out: list[bytes], budget: int) -> int:
        self.flow.machine.outbound_flow_control_window += 1_000
        return serve(self, out, budget)

    monkeypatch.setattr(Outflow, "serve", forgets)
    with pytest.raises(AssertionError, match="over the connection's window"):
        http2(SEEDS["http2/window-of-the-connection"])
