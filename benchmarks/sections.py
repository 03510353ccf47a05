"""What the report says of each scenario: what was asked, and which figures stand in which table.

Words and choices only.  A figure that no result has is left out by the report, so that a section
may name more than a run measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

from .model import Case, ProtocolName
from .results import PROTOCOLS, Record, Row, server_title

__all__ = ["SECTIONS", "Column", "Section", "Table", "headline_cases"]


@final
@dataclass(frozen=True, slots=True)
class Column:
    """A figure (or, with `note`, a note) of a result.

    `better` says which way; without it no ratio is given.  `latency` is withheld from servers that
    did not carry the whole load.  `phrase` names the figure in a sentence.
    """

    key: str
    heading: str
    better: Literal["more", "less"] | None = None
    latency: bool = False
    note: bool = False
    phrase: str = ""


@final
@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: tuple[Column, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A scenario's part of the report.

    Where one server is measured in many ways (`a_row_a_case`), rows are cases; else rows are
    servers and cases are columns.
    """

    name: str
    title: str
    asked: str
    label: Callable[[Case], str]
    tables: tuple[Table, ...]
    pictures: tuple[str, ...] = ()
    a_row_a_case: bool = False
    row_heading: str = "server"

    def row_label(self, row: Row) -> str:
        return f"{self.label(row.case)}, {PROTOCOLS[row.protocol]}"

    def absent_label(self, row: Row) -> str:
        """What is not there: a server, or where a browser is measured, that."""
        browser = row.case.get("browser")
        return server_title(row.server) if browser is None else str(browser).capitalize()


def _browser(case: Case) -> str:
    limit = f", stream limit {case['limit']:,}" if case["limit"] else ""
    sources = int(case["sources_per_tab"])
    each = f"{sources} EventSource{'s' if sources > 1 else ''} a tab"
    return f"{str(case['browser']).capitalize()}{limit}, {each}"


def _grid(case: Case) -> str:
    size = int(case["size"])
    bytes_ = f"{size // 1024} KB" if size % 1024 == 0 else f"{size} B"
    return f"{case['grid']}, {bytes_}, {case['rate']:g}/s"


def _spread_over(case: Case, total: str) -> str:
    return (
        f"{case[total]:,} on {case['connections']:,} connection{'s' * (case['connections'] != 1)}"
    )


SECTIONS = (
    Section(
        name="browser",
        title="Real browsers: how many tabs receive",
        asked=(
            "A headless browser opens tab after tab in one profile, each with its own native"
            " `EventSource`, until one receives nothing within the deadline. It shows what the"
            " browser allows, whatever the server could do: connections to a host over HTTP/1.1,"
            " streams on a connection over HTTP/2, where the server announces a limit of its own."
            " Then a plain page is loaded, with all those streams still open."
        ),
        label=_browser,
        a_row_a_case=True,
        row_heading="browser",
        tables=(
            Table(
                "",
                (
                    Column("tabs_receiving", "tabs that receive"),
                    Column("streams_receiving", "streams that receive"),
                    Column("tabs_opened", "tabs opened"),
                    Column("broke_first", "then", note=True),
                    Column("page_load", "a page meanwhile", note=True),
                    Column("browser_version", "version", note=True),
                ),
            ),
        ),
    ),
    Section(
        name="ramp",
        title="How many tabs a server sustains",
        asked=(
            "Simulated tabs are doubled, then bisected, until the service level breaks: every tab"
            " open within 10 s of asking, every event delivered to every tab once and in order,"
            " p99 delivery latency at most 250 ms at one event a second. A plus says that the"
            " search ended at its own limit or the load client's, not the server's."
        ),
        label=lambda case: str(case["shape"]),
        tables=(
            Table(
                "Tabs sustained",
                (Column("tabs_sustained", "tabs", "more", phrase="tabs sustained"),),
            ),
            Table("What broke first", (Column("broke_first", "broke first", note=True),)),
        ),
        pictures=("tabs",),
    ),
    Section(
        name="fanout",
        title="What an event costs, and when it arrives",
        asked=(
            "A fixed number of tabs (connections x tabs on each), events on a fixed timetable."
            " Counted are the server's CPU for each event delivered to a tab, latency from the"
            " instant the publisher meant to send (so that a stall is not hidden), memory of an"
            " open tab in the server's processes and in the kernel's socket buffers (of both ends),"
            " and what goes over the wire. Latency stands only where a server carried the whole"
            " load in every round; one that cannot carry the rate gets fewer events, one after"
            " another, so that what they cost is known all the same."
        ),
        label=_grid,
        tables=(
            Table(
                "Server CPU, µs for each delivered event",
                (Column("cpu_us_per_event", "CPU", "less", phrase="CPU for each delivered event"),),
            ),
            Table(
                "Latency, memory and wire",
                (
                    Column("p50_ms", "p50 ms", latency=True),
                    Column("p99_ms", "p99 ms", "less", latency=True, phrase="p99 latency"),
                    Column("p999_ms", "p99.9 ms", latency=True),
                    Column("max_ms", "max ms", latency=True),
                    Column("kb_per_tab", "KB a tab", "less", phrase="memory a tab"),
                    Column("socket_kb_per_tab", "socket KB a tab"),
                    Column("bytes_per_event", "bytes an event", "less", phrase="bytes an event"),
                    Column("records_per_event", "TLS records an event"),
                    Column("client_cpu", "busiest client, of a core"),
                    Column("overload", "overloaded", note=True),
                ),
            ),
        ),
        pictures=("cpu", "latency", "memory"),
    ),
    Section(
        name="open",
        title="Opening tabs",
        asked=(
            "All connections shake hands, then all tabs ask at once: streams and TLS handshakes a"
            " second, the server's CPU for each tab, and the time from a tab's request to the first"
            " bytes of its stream."
        ),
        label=lambda case: _spread_over(case, "streams"),
        tables=(
            Table(
                "Opening",
                (
                    Column("streams_per_s", "tabs a second", "more", phrase="tabs opened a second"),
                    Column(
                        "handshakes_per_s",
                        "handshakes a second",
                        "more",
                        phrase="TLS handshakes a second",
                    ),
                    Column(
                        "first_event_p50_ms",
                        "first bytes, p50 ms",
                        "less",
                        latency=True,
                        phrase="median time to a stream's first bytes",
                    ),
                    Column("first_event_p99_ms", "first bytes, p99 ms", latency=True),
                    Column(
                        "cpu_us_per_tab", "CPU µs a tab", "less", phrase="CPU for each tab opened"
                    ),
                ),
            ),
        ),
    ),
    Section(
        name="storm",
        title="All come back at once",
        asked=(
            "Every connection is cut at once, as a change of network does, and every tab comes back"
            " with its Last-Event-ID while 10 events a second go on: the time until all are current"
            " again, what was lost or doubled, and the server's CPU for it."
        ),
        label=lambda case: _spread_over(case, "tabs"),
        tables=(
            Table(
                "Coming back",
                (
                    Column("all_back_s", "all back, s"),
                    Column(
                        "current_again_s",
                        "all current again, s",
                        "less",
                        latency=True,
                        phrase="time until all tabs are current again",
                    ),
                    Column("cpu_s", "CPU, s", "less", phrase="CPU for all tabs to come back"),
                ),
            ),
        ),
    ),
    Section(
        name="stall",
        title="Some tabs stop reading",
        asked=(
            "Half of the tabs stop reading while large events go on; over HTTP/2 each connection"
            " has tabs of both kinds. Latency is that of the tabs that still read, beside a run in"
            " which all do; memory is what the server's processes and socket buffers grew by."
        ),
        label=lambda case: f"{case['stalled']:,} of {case['tabs']:,} tabs stalled",
        tables=(
            Table(
                "The others, and memory",
                (
                    Column(
                        "p99_ms",
                        "p99 of the others, ms",
                        "less",
                        latency=True,
                        phrase="p99 latency of the others",
                    ),
                    Column("p99_ms_without", "p99 with none stalled, ms", latency=True),
                    Column(
                        "memory_growth_mb",
                        "memory grew by, MB",
                        "less",
                        phrase="memory that stalled tabs cost",
                    ),
                    Column("stalled_ended", "stalled tabs ended"),
                    Column("what_happened", "what happened", note=True),
                ),
            ),
        ),
    ),
)


def headline_cases(record: Record) -> list[tuple[ProtocolName, Case]]:
    """The fan-outs of the headline: of each protocol those with the most tabs, smallest events."""
    chosen: list[tuple[ProtocolName, Case]] = []
    for protocol in PROTOCOLS:
        cases = [row.case for row in record.of("fanout", protocol)]
        if cases:
            best = max((_tabs(case), -int(case["size"])) for case in cases)
            for case in cases:
                weight = (_tabs(case), -int(case["size"]))
                if weight == best and (protocol, case) not in chosen:
                    chosen.append((protocol, case))
    return chosen


def _tabs(case: Case) -> int:
    connections, tabs = str(case["grid"]).replace(",", "").split(" x ")
    return int(connections) * int(tabs)
