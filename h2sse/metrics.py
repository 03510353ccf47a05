"""Statistics to Prometheus text, made anew for a scrape: nothing is counted twice.

That takes some ms, and all tabs wait: whoever scrapes without end has the same text for a while.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.registry import Collector

from .metering import Histogram
from .overflow import LOSSY

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from .app import App

__all__ = ["CONTENT_TYPE", "Scrapes", "render"]

# A text is given out for so many times what it took to make: a twentieth of the time goes there.
_REST: Final = 20


@final
class _Snapshot(Collector):
    def __init__(self, app: App) -> None:
        self._app = app

    def collect(self) -> Iterator[Metric]:
        app = self._app
        hub = app.hub.statistics()
        connections: Counter[str] = Counter()
        tabs: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        totals: Counter[str] = Counter()
        lost = Counter(app.ledger.lost)
        round_trips = Histogram()
        body_bytes = 0
        for server in app.servers:
            counts = server.statistics()
            connections.update(counts.connections)
            tabs.update(counts.tabs)
            reasons.update(counts.reasons)
            for name, _, _ in _TOTALS:
                totals[name] += getattr(counts, name)
            lost.update(counts.lost)
            round_trips.add(counts.round_trips)
            body_bytes += counts.unfinished_body_bytes

        yield _by_protocol("h2sse_connections", "Connections open now.", connections)
        yield _by_protocol("h2sse_tabs", "Event streams open now.", tabs)
        yield GaugeMetricFamily("h2sse_topics", "Topics with tabs now.", value=hub.topics)
        yield CounterMetricFamily("h2sse_events_published", "Events.", value=hub.published)
        yield CounterMetricFamily(
            "h2sse_events_delivered", "Events times the tabs they were for.", value=hub.delivered
        )
        yield CounterMetricFamily(
            "h2sse_tabs_resumed", "Tabs that came back with an id we knew.", value=hub.resumed
        )
        yield CounterMetricFamily(
            "h2sse_history_gaps", "Tabs told that they may have missed events.", value=hub.gaps
        )
        for name, metric, text in _TOTALS:
            yield CounterMetricFamily(metric, text, value=totals[name])
        dropped = CounterMetricFamily(
            "h2sse_events_dropped",
            "Events times the tabs that were behind and did not get them, by overflow policy.",
            labels=["overflow"],
        )
        for overflow in LOSSY:
            dropped.add_metric([overflow], lost[overflow])
        yield dropped
        yield GaugeMetricFamily(
            "h2sse_backlog_bytes", "What waits for those who are behind.", value=app.ledger.total
        )
        yield GaugeMetricFamily(
            "h2sse_backlog_connections", "Connections that are behind.", value=app.ledger.holders
        )
        yield GaugeMetricFamily(
            "h2sse_backlog_largest_bytes",
            "What waits for the one of them that is most behind.",
            value=app.ledger.largest,
        )
        yield GaugeMetricFamily(
            "h2sse_unfinished_body_bytes",
            "What has come of request bodies that are not whole yet.",
            value=body_bytes,
        )
        ended = CounterMetricFamily(
            "h2sse_ended", "Streams and connections we ended, by reason.", labels=["reason"]
        )
        for reason, count in sorted(reasons.items()):
            ended.add_metric([reason], count)
        yield ended
        yield _durations(
            "h2sse_publish_latency_seconds",
            "From publishing until written to every socket.",
            app.latency,
        )
        yield _durations(
            "h2sse_round_trip_seconds",
            "To an HTTP/2 client and back, by the PING that one is sent when it is silent.",
            round_trips,
        )


_TOTALS = (
    ("accepted", "h2sse_connections_accepted", "Connections accepted."),
    ("refused_connections", "h2sse_connections_refused", "Connections over a bound."),
    ("requests", "h2sse_requests", "Requests."),
    ("bytes_sent", "h2sse_bytes_sent", "Bytes given to TLS."),
    ("bytes_received", "h2sse_bytes_received", "Bytes taken from TLS."),
    ("resets_received", "h2sse_resets_received", "Streams reset by clients."),
    ("resets_sent", "h2sse_resets_sent", "Streams reset by us."),
    ("refused_streams", "h2sse_streams_refused", "Streams over the limit, or while draining."),
    ("overflowed", "h2sse_overflows", "Tabs ended because they fell behind their bound."),
)


def _by_protocol(name: str, text: str, counts: Counter[str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["protocol"])
    for protocol in ("h2", "http/1.1"):
        family.add_metric([protocol], counts[protocol])
    return family


def _durations(name: str, text: str, counts: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    family.add_metric([], counts.cumulative(), counts.total)
    return family


@final
class Scrapes:
    """What those who scrape an app are given."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._text = b""
        self._until = app.clock()

    def text(self) -> bytes:
        """What was counted now, or a moment ago."""
        began = self._app.clock()
        if began >= self._until:
            self._text = render(self._app)
            took = self._app.clock() - began
            self._until = began + _REST * took
        return self._text


def render(app: App) -> bytes:
    """The metrics of an app and of every server it is on."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(app))
    return generate_latest(registry)
