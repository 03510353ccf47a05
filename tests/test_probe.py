"""The prober itself: what it reads, how it reports, and that nothing makes it hang or fall over."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import trio
from client_support import scripted
from support import certificates, frame, serving
from trio.testing import MockClock

import h2sse
from h2sse.errors import ConfigError
from h2sse.probe import CHECKS, Options, frames_at_most, probe, selected
from h2sse.probe.checks.resume import _judge, compare
from h2sse.probe.connection import Stream
from h2sse.probe.lab import Lab, _publication
from h2sse.probe.reading import Reading
from h2sse.probe.report import Report, line
from h2sse.probe.verdict import Check, Finding, Result, Verdict, check, passed
from h2sse.tls import development_certificate

DOCS = Path(__file__).parent.parent / "docs" / "probe.md"


def options(**more: object) -> Options:
    given = {"url": "https://127.0.0.1:1/events"} | more
    return Options(**given)  # type: ignore[arg-type]  # a test's own mixture


# -- reading


def test_blocks_are_the_same_however_the_bytes_are_cut() -> None:
    stream = (
        "\ufeff: hi\n\nid: 1\r\ndata: a\r\rdata:b\ndata\n\nretry: 5\n\n:\n\nid:2\ndata: é\n\nrest"
    )
    data = stream.encode()
    for size in range(3, len(data) + 1):
        reading = Reading()
        for at in range(0, len(data), size):
            reading.feed(data[at : at + size], 0)
        lines = [[each.decode() for each in block.lines] for block in reading.blocks]
        assert lines == [
            [": hi"],
            ["id: 1", "data: a"],
            ["data:b", "data"],
            ["retry: 5"],
            [":"],
            ["id:2", "data: é"],
        ], size
        assert [(each.id, each.data) for each in reading.events] == [
            ("1", "a"),
            (None, "b\n"),
            ("2", "é"),
        ]
        assert len(reading.comments) == 2


def test_an_event_begins_with_itself_not_with_a_comment_before_it() -> None:
    reading = Reading()
    reading.feed(b":\n", 1)
    reading.feed(b"data: a\n", 5)
    reading.feed(b"\n", 6)
    (block,) = reading.blocks
    assert (block.began_at, block.ended_at) == (5, 6)
    assert reading.comments == [1]


@pytest.mark.parametrize(
    ("body", "place", "greeting", "news"),
    [
        ("", None, "", ""),
        ("retry: 1\n\nid: 4\ndata: a\n\n", None, "", "a"),
        ("id: 4\n\nid: 5\ndata: a\n\n", "4", "", "a"),
        ("id: 4\n\nid: 4\ndata: a\n\nid: 4\ndata: b\n\nid: 5\ndata: c\n\n", "4", "ab", "c"),
        ("id: 4\n\ndata: a\n\nid: 4\ndata: b\n\ndata: c\n\n", "4", "ab", "c"),
        ("id: 4\n\ndata: a\n\nid: 5\ndata: b\n\n", "4", "", "ab"),
    ],
)
def test_a_greeting_is_told_from_what_happens_next(
    body: str, place: str | None, greeting: str, news: str
) -> None:
    reading = Reading()
    reading.feed(body.encode(), 0)
    assert reading.place == place
    assert "".join(each.data for each in reading.greeting) == greeting
    assert "".join(each.data for each in reading.news) == news


# -- resuming


@pytest.mark.parametrize(
    ("got", "fault"),
    [
        ("bcd", None),
        ("bc", None),
        ("bcde", None),
        ("cd", "1 of 3 events were not replayed"),
        ("bbcd", "the event 'b' came twice"),
        ("abcd", "the event 'a' came, which the client had already"),
        ("bdc", "1 of 3 events were not replayed"),
    ],
)
def test_what_is_missing_doubled_or_out_of_order(got: str, fault: str | None) -> None:
    assert compare([(c, "") for c in "bcd"], [(c, "") for c in got]) == fault


@pytest.mark.parametrize(
    ("body", "fault", "later"),
    [
        ("id:b\n\nid:c\ndata\n\nid:d\ndata\n\n", None, True),
        ("id:d\n\n", None, True),
        ("id:a\n\nid:b\ndata\n\nid:c\ndata\n\n", None, False),
        ("id:b\n\nid:d\ndata\n\n", "2 of 3 events were not replayed", False),
        ("id:x\n\nid:c\ndata\n\nid:d\ndata\n\n", None, True),
        ("id:x\n\nid:b\ndata\n\nid:c\ndata\n\n", None, False),
        ("id:x\n\nid:b\ndata\n\nid:d\ndata\n\n", "1 of 3 events were not replayed", False),
        ("id:a\n\nid:c\ndata\n\n", "1 of 3 events were not replayed", False),
        ("id:c\ndata\n\nid:c\n\n", "1 of 3 events were not replayed", False),
    ],
)
def test_a_stream_may_say_that_it_begins_later(body: str, fault: str | None, later: bool) -> None:
    stream = Stream(1, 0, 0)
    stream.body.feed(body.encode(), 0)
    assert _judge("a", [(each, "") for each in "bcd"], stream) == (fault, later)


@pytest.mark.parametrize(("greeted", "fault"), [(True, False), (False, True)])
def test_only_a_greeting_is_told_again(greeted: bool, fault: bool) -> None:
    stream = Stream(1, 0, 0)
    stream.body.feed(b"id: a\n\nid: a\n" + b"data\n\nid: b\ndata\n\n", 0)
    found, later = _judge("a", [("b", "")], stream, greeted=greeted)
    assert (found is not None, later) == (fault, False)


def test_publications_are_json_forms_or_the_data_alone() -> None:
    data = 'a"\nb&'
    kind, body = _publication('{"data": "{n}"}', data)
    assert (kind, json.loads(body)) == ("application/json", {"data": data})
    assert _publication("topic=a&data={n}", data) == (
        "application/x-www-form-urlencoded",
        "topic=a&data=a%22%0Ab%26",
    )
    assert _publication("{n}", data) == ("text/plain; charset=utf-8", data)


# -- what may be asked


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"url": "http://localhost/"}, "only https://"),
        ({"publish_url": "https://localhost/"}, "go together"),
        ({"publish_url": "https://localhost/", "publish_body": "x"}, "{n}"),
        ({"publish_url": "ftp://localhost/", "publish_body": "{n}"}, "--publish-url"),
        ({"headers": (("connection", "close"),)}, "connection"),
        ({"patience_seconds": 0}, "patience_seconds"),
        ({"url": "https://push.example/", "intrusive": True}, "--host push.example"),
    ],
)
def test_bad_options(given: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        options(**given)


def test_the_rough_checks_are_asked_for_twice_away_from_home() -> None:
    assert not any(each.intrusive for each in selected(options()))
    for url in ("https://localhost/", "https://127.0.0.2/", "https://[::1]/"):
        assert len(selected(options(url=url, intrusive=True))) == len(CHECKS)
    url = "https://push.example/"
    asked = options(url=url, intrusive=True, confirmed_host="push.example")
    assert len(selected(asked)) == len(CHECKS)
    with pytest.raises(ConfigError, match="--intrusive"):
        selected(options(only=("burst",)))


def test_the_rough_checks_are_the_last() -> None:
    """What one does to a server is no other check's concern."""
    rough = [each.intrusive for each in selected(options(intrusive=True))]
    assert True in rough
    assert rough == sorted(rough)


def test_checks_are_chosen_by_name_and_by_group() -> None:
    names = [each.name for each in selected(options(only=("tls", "resume"), skip=("long-id",)))]
    assert names[:2] == ["tls", "resume"]
    assert "empty-id" in names
    assert "long-id" not in names
    with pytest.raises(ConfigError, match="no check 'nothing'"):
        selected(options(skip=("nothing",)))


# -- what happens stays in the check


async def report_of(port: int, **more: object) -> Report:
    ca = development_certificate(certificates()).ca
    return await probe(options(url=f"https://127.0.0.1:{port}/", ca_file=ca, **more))


async def test_nobody_there() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    report = await report_of(port)
    assert {each.check.name for each in report.results if each.verdict is Verdict.FAIL} == {"tls"}
    assert {each.verdict for each in report.results} == {Verdict.FAIL, Verdict.CANNOT_TELL}
    assert report.exit_code == 1


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="HTTP/1.1"),
        pytest.param(frame(4, 0, 0) + frame(1, 4, 1, b"\xff" * 20), id="no HPACK"),
        pytest.param(frame(4, 0, 0) + frame(0, 8, 1, b"\xff"), id="padding"),
        pytest.param(frame(4, 0, 0, b"odd") + frame(7, 0, 0, b"short"), id="cut frames"),
        pytest.param(b"\xff\xff\xff\0\0\0\0\0\1" * 10, id="endless frame"),
        pytest.param(frame(4, 0, 0) + frame(1, 4, 1, b"\x08\x01x"), id="odd status"),
    ],
)
@pytest.mark.parametrize("stays", [True, False], ids=["stays", "goes"])
async def test_a_server_that_talks_nonsense(
    words: bytes, stays: bool, jumping_clock: MockClock
) -> None:
    async with scripted("h2", settings=None) as server, trio.open_nursery() as nursery:

        async def babble() -> None:
            while True:
                stream = await server.stream()
                await stream.send_all(words) if words else None
                if not stays:
                    await trio.aclose_forcefully(stream)

        nursery.start_soon(babble)
        report = await report_of(server.port, patience_seconds=1, quiet_seconds=5)
        nursery.cancel_scope.cancel()
    assert len(report.results) == len(selected(options()))
    assert not [r for r in report.results if "check itself" in r.finding.seen], report.results
    assert report.exit_code == 1


async def test_a_check_that_hangs_fails_or_goes_too_far_ends_itself_alone(
    jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def made(name: str, frames: int = 10) -> object:
        return check(name, "own", clause="", does="", notice="", mend="", frames=frames)

    async def hangs(lab: Lab) -> Finding:
        await trio.sleep_forever()
        raise AssertionError

    async def breaks(lab: Lab) -> Finding:
        raise KeyError("a mistake")

    async def greedy(lab: Lab) -> Finding:
        async with lab.connect() as peer:
            while True:
                await peer.ping()

    async def fine(lab: Lab) -> Finding:
        return passed("it came to that")

    own: list[Check] = [made(each.__name__)(each) for each in (hangs, breaks, greedy, fine)]  # type: ignore[operator]  # made() gives a decorator
    monkeypatch.setattr("h2sse.probe.CHECKS", tuple(own))
    app = h2sse.App()
    async with serving(app) as served:
        report = await probe(
            options(url=f"https://127.0.0.1:{served.address[1]}/", ca_file=served.ca)
        )
    seen = {each.check.name: each for each in report.results}
    assert seen["hangs"].finding.seen == "it was not done within 40 s"
    assert "KeyError" in seen["breaks"].finding.seen
    assert "a mistake" in caplog.text
    assert seen["greedy"].finding.seen == "it would have taken more than 10 frames"
    assert seen["greedy"].frames_sent <= 11
    assert seen["fine"].verdict is Verdict.PASS
    assert frames_at_most(own) == 40


async def test_a_quiet_endpoint_without_publishing(jumping_clock: MockClock) -> None:
    """Nothing to see is no fault."""
    app = h2sse.App()
    async with serving(app) as served:
        url = f"https://127.0.0.1:{served.address[1]}/events?topic=quiet"
        report = await probe(options(url=url, ca_file=served.ca, skip=("http2",)))
    assert report.exit_code == 0, [r.finding for r in report.results if r.verdict.value == "fail"]
    unclear = {each.check.name for each in report.results if each.verdict is Verdict.CANNOT_TELL}
    assert {"resume", "resume-race", "prompt", "multi-line", "ids"} <= unclear


# -- the report


def result(verdict: Verdict, seen: str = "seen") -> Result:
    return Result(CHECKS[0], Finding(verdict, seen), 3, 0.5)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([], 0),
        ([Verdict.PASS, Verdict.CANNOT_TELL], 0),
        ([Verdict.PASS, Verdict.WARN], 3),
        ([Verdict.FAIL, Verdict.WARN, Verdict.PASS], 1),
    ],
)
def test_the_worst_verdict_is_the_exit_code(verdicts: list[Verdict], code: int) -> None:
    assert Report(url="u", results=[result(each) for each in verdicts]).exit_code == code


def test_a_report_for_people_and_for_programs() -> None:
    report = Report(url="https://x/", results=[result(Verdict.FAIL), result(Verdict.PASS)])
    text = report.summary(width=80, colour=False)
    for part in ("tls (RFC 9113 9.2)", "users", "mend", "1 pass, 1 fail; 6 frames sent"):
        assert part in text
    whole = json.loads(report.json())
    assert whole["worst"] == "fail"
    first = whole["results"][0]
    assert (first["check"], first["verdict"], first["seen"]) == ("tls", "fail", "seen")
    assert first["mend"] == CHECKS[0].mend


def test_a_server_cannot_write_to_the_terminal() -> None:
    hostile = result(Verdict.FAIL, "\x1b]0;owned\x07\n\u202e\x9b")
    rows = line(hostile, width=80, colour=True)
    assert rows.count("\x1b") == 2  # our own colour
    assert Report(url="u", results=[hostile]).summary(width=80, colour=False).isascii()


# -- the page


def described(each: Check) -> str:
    """A check, as docs/probe.md has it."""
    marks = ["rough"] * each.intrusive
    return (
        f"### {each.name}\n\n"
        f"*{'; '.join([each.clause, *marks])}.* {each.does}\n\n"
        f"- Users: {each.notice}\n"
        f"- Mend: {each.mend}\n"
    )


def test_the_page_describes_each_check() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert re.findall(r"^### (.+)$", page, re.MULTILINE) == [each.name for each in CHECKS]
    for each in CHECKS:
        assert described(each) in page
    assert len({each.name for each in CHECKS}) == len(CHECKS)
