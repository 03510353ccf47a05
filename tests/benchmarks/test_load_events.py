"""An event stream's text, however it is cut, says what h2sse's own parser says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import h2sse
from benchmarks.load.events import Reader, join, read

LINES = st.sampled_from(
    (
        *("data: 1 100", "data: 2 200 xxx", "data:3 300", "data: x", "data", "data : 4 400"),
        *("id: 7", "id", "idx: 9", "event: a", ": comment", "retry: 5", "", ""),
    )
)
STAMP = re.compile(r"(\d+) (\d+)(?: .*)?", re.DOTALL)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from(("\n", "\r", "\r\n")))).map(
    lambda lines: "".join(line + end for line, end in lines).encode()
)


def in_pieces(text: bytes, cuts: list[int]) -> tuple[list[tuple[int, int]], bytes]:
    """What a tab makes of a stream that is cut at these places."""
    reader = Reader()
    stamps: list[tuple[int, int]] = []
    last_id = rest = b""
    ends = sorted({*(cut for cut in cuts if cut <= len(text)), len(text)})
    at = 0
    for end in ends:
        said = reader.read(join(rest, text[at:end]))
        stamps += said.stamps
        last_id = last_id if said.id is None else said.id
        rest, at = said.rest, end
    return stamps, last_id


def test_an_event_has_its_number_and_instant() -> None:
    said = read(b"id: 7\ndata: 12 3456 xxxx\n\n: beat\n\ndata: 13 99")
    assert said == (((12, 3456),), b"7", b"data: 13 99")


@pytest.mark.parametrize("data", ["12", "x 12 5", "12 5x", "-1 5", "gap"])
def test_what_is_not_the_publisher_s_has_no_stamp(data: str) -> None:
    assert read(f"data: {data}\n\n".encode()).stamps == ()


def test_a_cr_at_the_end_is_not_waited_on() -> None:
    stamps, _, rest = read(b"data: 1 2\r\r")
    assert stamps == ((1, 2),)
    assert join(rest, b"\ndata") == b"data"
    assert join(rest, b"data") == b"data"
    assert join(rest, b"") == b"\r"


@given(STREAMS, st.lists(st.integers(0, 60)))
def test_reads_as_h2sse_s_parser_does(text: bytes, cuts: list[int]) -> None:
    parser = h2sse.Parser()
    found = (STAMP.fullmatch(each.data) for each in parser.feed(text))
    expected = [(int(each[1]), int(each[2])) for each in found if each]
    assert in_pieces(text, cuts) == (expected, parser.last_event_id.encode())
