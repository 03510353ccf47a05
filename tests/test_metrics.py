"""What GET /metrics promises, read by Prometheus' own parser."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import ACK, PING, frame, serving

from h2sse.app import App, Call, ServerStatistics
from h2sse.config import Limits
from h2sse.metering import Histogram
from h2sse.metrics import CONTENT_TYPE, Scrapes, render
from h2sse.sse import Event
from h2sse.wire import Request, Response

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from trio.testing import MockClock

Samples = dict[tuple[str, str], float]


def histogram(*seconds: float) -> Histogram:
    counted = Histogram()
    for each in seconds:
        counted.observe(each)
    return counted


class FakeServer:
    """Counts that are all different, so that none can stand for another."""

    def __init__(self, base: int) -> None:
        self._statistics = ServerStatistics(
            connections={"h2": base + 1, "http/1.1": base + 2},
            tabs={"h2": base + 3},
            accepted=base + 5,
            refused_connections=base + 6,
            requests=base + 7,
            bytes_sent=base + 8,
            bytes_received=base + 9,
            resets_received=base + 10,
            resets_sent=base + 11,
            refused_streams=base + 12,
            overflowed=base + 13,
            lost={"latest": base + 14},
            reasons={f'of {base} "\\\n': base, "of both": base},
            round_trips=histogram(base / 1_000, 0.002),
        )

    running = False

    def run_backgrounds(self) -> None:
        raise AssertionError("it is only counted")

    def statistics(self) -> ServerStatistics:
        return self._statistics


def families(app: App) -> dict[str, Metric]:
    return {each.name: each for each in text_string_to_metric_families(render(app).decode())}


def samples(app: App) -> Samples:
    """By name and the value of the one label."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in families(app).values()
        for sample in family.samples
    }


FAMILIES = {
    "h2sse_connections": "gauge",
    "h2sse_tabs": "gauge",
    "h2sse_topics": "gauge",
    "h2sse_events_published": "counter",
    "h2sse_events_delivered": "counter",
    "h2sse_tabs_resumed": "counter",
    "h2sse_history_gaps": "counter",
    "h2sse_connections_accepted": "counter",
    "h2sse_connections_refused": "counter",
    "h2sse_requests": "counter",
    "h2sse_bytes_sent": "counter",
    "h2sse_bytes_received": "counter",
    "h2sse_resets_received": "counter",
    "h2sse_resets_sent": "counter",
    "h2sse_streams_refused": "counter",
    "h2sse_overflows": "counter",
    "h2sse_events_dropped": "counter",
    "h2sse_backlog_bytes": "gauge",
    "h2sse_backlog_connections": "gauge",
    "h2sse_backlog_largest_bytes": "gauge",
    "h2sse_unfinished_body_bytes": "gauge",
    "h2sse_ended": "counter",
    "h2sse_publish_latency_seconds": "histogram",
    "h2sse_round_trip_seconds": "histogram",
}


def test_the_promised_families_are_there_from_the_start() -> None:
    found = families(App())
    assert {name: each.type for name, each in found.items()} == FAMILIES
    assert all(each.documentation for each in found.values())
    # A rate needs its zero.
    assert all(value == 0 for value in samples(App()).values())


def test_servers_are_added_up() -> None:
    app = App()
    app.servers += [FakeServer(100), FakeServer(2_000)]
    found = samples(app)
    for (name, label), by_one in {
        ("h2sse_connections", "h2"): 1,
        ("h2sse_connections", "http/1.1"): 2,
        ("h2sse_tabs", "h2"): 3,
        ("h2sse_connections_accepted_total", ""): 5,
        ("h2sse_connections_refused_total", ""): 6,
        ("h2sse_requests_total", ""): 7,
        ("h2sse_bytes_sent_total", ""): 8,
        ("h2sse_bytes_received_total", ""): 9,
        ("h2sse_resets_received_total", ""): 10,
        ("h2sse_resets_sent_total", ""): 11,
        ("h2sse_streams_refused_total", ""): 12,
        ("h2sse_overflows_total", ""): 13,
        ("h2sse_events_dropped_total", "latest"): 14,
        ("h2sse_ended_total", "of both"): 0,
    }.items():
        assert found[name, label] == 2_100 + 2 * by_one
    assert found["h2sse_tabs", "http/1.1"] == 0
    assert found["h2sse_events_dropped_total", "drop-oldest"] == 0
    assert found["h2sse_ended_total", 'of 100 "\\\n'] == 100
    # Nothing is counted that nobody can see.
    for each in fields(ServerStatistics):
        of_both = [getattr(server.statistics(), each.name) for server in app.servers]
        if isinstance(of_both[0], int):
            assert sum(of_both) in found.values(), each.name


def test_a_scrape_counts_nothing_twice() -> None:
    app = App()
    app.servers.append(FakeServer(100))
    app.publish("a", Event(data="x"))
    assert render(app) == render(app)
    assert samples(app)["h2sse_events_published_total", ""] == 1


def test_latency_is_a_histogram() -> None:
    app = App()
    for seconds in (0.0001, 0.0005, 0.0006, 0.3, 100.0):
        app.latency.observe(seconds)
    found = samples(app)
    name = "h2sse_publish_latency_seconds"
    buckets = {label: value for (each, label), value in found.items() if each == f"{name}_bucket"}
    assert list(map(float, buckets)) == [*Histogram.BOUNDS, math.inf]
    assert (buckets["0.0005"], buckets["0.001"], buckets["0.25"]) == (2, 3, 3)
    assert (buckets["0.5"], buckets["2.5"], buckets["+Inf"]) == (4, 4, 5)
    assert found[f"{name}_count", ""] == 5
    assert found[f"{name}_sum", ""] == pytest.approx(100.3012)


def test_round_trips_of_all_servers_are_one_histogram() -> None:
    app = App()
    app.servers += [FakeServer(100), FakeServer(2_000)]
    found = samples(app)
    name = "h2sse_round_trip_seconds"
    buckets = {label: value for (each, label), value in found.items() if each == f"{name}_bucket"}
    assert (buckets["0.001"], buckets["0.0025"], buckets["0.1"]) == (0, 2, 3)
    assert (buckets["1.0"], buckets["2.5"], buckets["+Inf"]) == (3, 4, 4)
    assert found[f"{name}_count", ""] == 4
    assert found[f"{name}_sum", ""] == pytest.approx(2.104)


async def test_a_round_trip_is_counted_when_the_answer_comes(jumping_clock: MockClock) -> None:
    """Also that of a connection which is gone when it is asked for."""
    limits = Limits(probe_seconds=3, probe_answer_seconds=2)
    app = App()
    async with serving(app, limits=limits) as served:
        for answered in (1, 2):
            async with served.client() as client:
                await client.listen("/events?topic=a")
                asked = await client.read_frame(PING)
                await client.send(frame(PING, ACK, 0, b"no asker"))
                await client.send(frame(PING, ACK, 0, asked.payload) * 2)
                await client.settle()
            assert samples(app)["h2sse_round_trip_seconds_count", ""] == answered
        before = served.server.statistics().round_trips
        served.server.round_trips.observe(1.0)
        assert served.server.statistics().round_trips.total == before.total + 1.0


def test_the_route_says_what_it_serves() -> None:
    app = App()
    request = Request(stream=1, method="GET", path="/metrics")
    call = app.decide(request, ())
    assert isinstance(call, Call)
    response = call.handler(request)
    assert isinstance(response, Response)
    assert dict(response.fields)[b"content-type"].decode() == CONTENT_TYPE
    assert CONTENT_TYPE.startswith("text/plain; version=")
    assert response.body == render(app)


def test_scrapes_without_end_take_a_twentieth_of_the_time() -> None:
    """Each reading of this clock takes a second, so that it takes one to make the text."""
    app = App()
    now = itertools.count()
    app.clock = lambda: next(now)
    scrapes = Scrapes(app)
    texts = []
    for _ in range(50):
        app.hub.publish(["a"], Event(data="x"), 0)
        texts.append(scrapes.text())
    assert b"h2sse_events_published_total 1.0" in texts[0]
    assert len(set(texts)) == 3
    assert texts == sorted(texts, key=texts.index)
