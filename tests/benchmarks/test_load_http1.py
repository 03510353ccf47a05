"""A simulated tab over HTTP/1.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.http1 import Http1, Memory
from benchmarks.load.sequences import Tab, Tabs, Tally

NOW = 1_000_000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(text: bytes) -> bytes:
    return b"%x;ext=1\r\n%b\r\n" % (len(text), text)


def event(sequence: int) -> bytes:
    return f"id: e{sequence}\ndata: {sequence} {NOW - 5000} xx\n\n".encode()


def asked(memory: Memory | None = None) -> Http1:
    tabs = Tabs()
    wire = Http1(tabs, memory or Memory(), "localhost", "/events")
    wire.ask(list(tabs.add(1)), b"", NOW)
    return wire


@given(st.lists(st.integers(1, 200)), st.integers(0, 3))
def test_however_it_is_cut(cuts: list[int], joined: int) -> None:
    texts = [b"retry: 1\n\n", event(1), event(2) + event(3), event(4)[:9], event(4)[9:], b":\n\n"]
    stream = b"HTTP/1.1 103 Early\r\n\r\n" * joined + HEAD + b"".join(map(chunk, texts))
    stream += b"0\r\n\r\n"
    wire = asked()
    at = 0
    for end in sorted({*(cut for cut in cuts if cut < len(stream)), len(stream)}):
        wire.receive(stream[at:end], NOW)
        if wire._tabs.states[0] == Tab.OPEN and not wire._tabs.counted[0]:
            wire._tabs.counted[0] = True
        at = end
    wire._tabs.counted[0] = True
    assert wire._tabs.tally(1, 4) == Tally(4, 4, 0, 0, 0)
    assert wire._tabs.last_id(0) == b"e4"
    assert wire._tabs.ends == {"end of stream": 1}


def test_equal_reads_are_read_once() -> None:
    memory = Memory()
    wires = [asked(memory) for _ in range(3)]
    for wire in wires:
        wire.receive(HEAD, NOW)
        wire.receive(chunk(event(1)), NOW)
        assert wire._tabs.latency == {5: 1}
    assert list(memory.reads) == [chunk(event(1))]


def test_a_body_without_chunks() -> None:
    wire = asked()
    wire.receive(b"HTTP/1.1 200 OK\r\n\r\n" + event(1)[:5], NOW)
    wire.receive(event(1)[5:], NOW)
    assert wire._tabs.delivered == 1
    wire.closed("closed")
    assert wire._tabs.ends == {"closed": 1}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 503 No\r\n\r\n", "status 503"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP/1.1"),
        (b"x" * 70_000, "endless header section"),
    ],
)
def test_other_answers(answer: bytes, reason: str) -> None:
    wire = asked()
    wire.receive(answer, NOW)
    assert wire.over == reason
    assert wire._tabs.failures == {reason: 1}


@pytest.mark.parametrize("junk", [b"3\r\nabcde", b"nothing that is a chunk"])
def test_what_is_no_chunk_ends_the_tab(junk: bytes) -> None:
    wire = asked()
    wire.receive(HEAD, NOW)
    wire.receive(junk, NOW)
    assert wire.over is not None
    assert wire._tabs.ends == {wire.over: 1}


def test_the_last_id_goes_along() -> None:
    wire = asked()
    wire._tabs.saw_id(0, b"e7")
    again = Http1(wire._tabs, Memory(), "localhost:1", "/events?topic=a")
    again.ask([0], b"other", NOW)
    assert again.output.startswith(b"GET /events?topic=a HTTP/1.1\r\nHost: localhost:1\r\n")
    assert again.output.endswith(b"\r\nLast-Event-ID: e7\r\n\r\n")


def test_no_answer() -> None:
    wire = asked()
    wire.give_up("no answer in 1 s")
    assert wire.over == "no answer in 1 s"
    assert wire._tabs.failures == {"no answer in 1 s": 1}
