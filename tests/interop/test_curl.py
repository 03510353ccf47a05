"""curl over HTTP/2, 1.1 and 1.0."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from support import Served

import h2sse

from .conftest import find, wait_for_tabs

if TYPE_CHECKING:
    from .conftest import Tool

pytestmark = pytest.mark.interop

each_version = pytest.mark.parametrize("version", ["--http2", "--http1.1", "--http1.0"])

STATUS = "%{stderr}%{http_code} %{http_version} %{num_connects}\n"


# -- streams


@each_version
async def test_an_event_arrives_while_the_stream_is_open(
    served: Served, curl: Tool, version: str
) -> None:
    url = f"{served.listening.url}/events?topic=news"
    async with curl.start(version, url) as running:
        await running.read_until(lambda text: text.startswith("retry: ") and "\n\n" in text)
        (tab,) = served.app.tabs("news")
        assert tab.protocol == ("h2" if version == "--http2" else "http/1.1")
        for number in range(3):
            event = served.app.publish("news", h2sse.Event(event="tick", data=f"één {number}"))
            block = f"event: tick\nid: {event.id}\ndata: één {number}\n\n"
            await running.read_until(lambda text, block=block: text.endswith(block))  # type: ignore[misc]  # mypy cannot type a lambda's default
        running.process.kill()
        await wait_for_tabs(served, "news", 0)


@each_version
async def test_a_stream_ends_well_when_the_server_does(
    served: Served, curl: Tool, version: str
) -> None:
    url = f"{served.listening.url}/events?topic=news"
    async with curl.start(version, url) as running:
        await running.read_until(bool)
        served.app.publish("news", h2sse.Event(data="the last"))
        await served.listening.aclose()
        # Not 18 (a body that breaks off), 56 (a reset) or 92 (an HTTP/2 stream error).
        assert await running.wait() == 0, running.text
        # What follows the event is when to come back.
        assert re.search(r"data: the last\n\nretry: \d+\n\n\Z", running.text)


@each_version
async def test_resuming_gives_what_was_missed_and_goes_on(
    served: Served, curl: Tool, version: str
) -> None:
    first, *_ = [served.app.publish("news", h2sse.Event(data=f"{n}")) for n in range(3)]
    url = f"{served.listening.url}/events?topic=news"
    async with curl.start(version, "-H", f"Last-Event-ID: {first.id}", url) as running:
        await running.read_until(lambda text: "data: 2\n\n" in text)
        served.app.publish("news", h2sse.Event(data="3"))
        await running.read_until(lambda text: "data: 3\n\n" in text)
    data = [message.data for message in h2sse.Parser().feed(running.text.encode())]
    assert data == ["1", "2", "3"]


async def test_parallel_streams_share_one_connection(served: Served, curl: Tool) -> None:
    topics = [f"t{n}" for n in range(20)]
    urls = [f"{served.listening.url}/events?topic={topic}" for topic in topics]
    async with curl.start("--http2", "--parallel", *urls) as running:
        await running.read_until(lambda text: text.count("retry: ") == len(topics))
        tabs = [tab for topic in topics for tab in served.app.tabs(topic)]
        assert len(tabs) == len(topics)
        assert len({tab.connection for tab in tabs}) == 1
        served.app.publish(topics, h2sse.Event(data="to all"))
        await running.read_until(lambda text: text.count("data: to all\n\n") == len(topics))


# -- requests


@each_version
async def test_head_of_a_stream_is_its_fields_and_ends(
    served: Served, curl: Tool, version: str
) -> None:
    url = f"{served.listening.url}/events?topic=news"
    done = await curl.run(version, "--head", "-w", STATUS, url)
    assert done.code == 0, done.err
    assert done.err.startswith("200 ")
    assert "content-type: text/event-stream\r\n" in done.out
    assert "content-length" not in done.out


@each_version
async def test_options_says_what_may_be_asked(served: Served, curl: Tool, version: str) -> None:
    url = f"{served.listening.url}/publish"
    plain = await curl.run(version, "-i", "-X", "OPTIONS", url)
    assert plain.out.splitlines()[0].split()[1] == "204", plain
    assert "allow: POST, OPTIONS\r\n" in plain.out
    origin = ("-H", "Origin: https://app.example")
    asks = ("-H", "Access-Control-Request-Method: POST")
    preflight = await curl.run(version, "-i", "-X", "OPTIONS", *origin, *asks, url)
    assert "access-control-allow-origin: https://app.example\r\n" in preflight.out
    assert "access-control-allow-methods: POST, OPTIONS\r\n" in preflight.out


@each_version
async def test_publishing_a_form_and_json(served: Served, curl: Tool, version: str) -> None:
    url = f"{served.listening.url}/publish"
    before = served.app.publish("news", h2sse.Event(data="before"))
    form = ("-d", "topic=news", "--data-urlencode", "data=a&b=ü 1\n2")
    first = await curl.run(version, *form, url)
    body = json.dumps({"topic": ["news"], "data": "😀", "event": "smile"})
    kind = ("-H", "Content-Type: application/json")
    second = await curl.run(version, *kind, "--data-binary", "@-", url, stdin=body.encode())
    ids = [json.loads(each.out)["id"] for each in (first, second)]
    async with served.client() as client:
        tab = await client.listen("/events?topic=news", ("last-event-id", str(before.id)))
        await client.heard(2, tab)
    assert tab.messages == [
        h2sse.Message("message", "a&b=ü 1\n2", ids[0]),
        h2sse.Message("smile", "😀", ids[1]),
    ]


@each_version
async def test_a_body_up_to_the_limit_and_over_it(
    served: Served, curl: Tool, version: str, tmp_path: Path
) -> None:
    limit = served.app.limits.body_bytes
    head = b"topic=big&data="
    upload = tmp_path / "body"
    # It would send the body after a second without an answer too; a minute is over the deadline.
    waits = ("-H", "Expect: 100-continue", "--expect100-timeout", "60")
    # HTTP/1.0 knows no interim responses, so curl must not ask for one.
    options = (version, "-w", STATUS, *(waits if version != "--http1.0" else ()))
    command = (*options, "--data-binary", f"@{upload}", f"{served.listening.url}/publish")
    upload.write_bytes(head + b"x" * (limit - len(head)))
    fits = await curl.run(*command)
    assert fits.err.startswith("200 "), fits
    assert json.loads(fits.out)["topics"] == ["big"]
    upload.write_bytes(head + b"x" * (limit - len(head) + 1))
    over = await curl.run(*command)
    assert over.err.startswith("413 "), over
    assert str(limit) in json.loads(over.out)["detail"]
    assert served.app.hub.statistics().published == 1


async def test_requests_after_each_other_keep_the_connection(served: Served, curl: Tool) -> None:
    url = f"{served.listening.url}/healthz"
    for version, spoken in (("--http2", "2"), ("--http1.1", "1.1")):
        done = await curl.run(version, "-w", STATUS, url, url, url)
        assert done.err.splitlines() == [f"200 {spoken} 1", f"200 {spoken} 0", f"200 {spoken} 0"]


async def test_the_certificate_is_verified(served: Served, curl: Tool) -> None:
    port = served.listening.port
    for host in ("localhost", "127.0.0.1"):
        url = f"https://{host}:{port}/healthz"
        trusting = await curl.run("--resolve", f"localhost:{port}:127.0.0.1", url)
        assert json.loads(trusting.out) == {"status": "ok"}, trusting
    stranger = await curl.run("--connect-to", "::127.0.0.1:", f"https://example.org:{port}/healthz")
    assert stranger.code == 60, stranger
    done = await trio.run_process(
        [find("curl", "curl"), "-q", "-sS", f"{served.listening.url}/healthz"],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 60, done
