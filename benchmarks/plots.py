"""Pictures of the results: what is compared in one place, what is not there with the reason.

A picture is first a value (a `Chart` of panels), made from results without matplotlib, then drawn.
Servers keep their place and colour everywhere, and names stand at what they name instead of in a
legend.  Where values span decades the axis is logarithmic and says so; there are dots rather than
bars on it, for a bar's length would lie.  Files are the same bytes for the same results.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from .model import Case, ProtocolName, Verdict
from .results import BASE, PROTOCOLS, SERVERS, Record, Row, server_title
from .sections import headline_cases
from .statistics import Spread, curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Chart", "Curve", "Mark", "Panel", "chart", "draw", "file", "titles"]

# Okabe and Ito's palette, whose colours are told apart without red and green.
_COLOURS = {
    "h2sse": "#0072B2",
    "hypercorn": "#D55E00",
    "granian": "#B8860B",
    "node": "#009E73",
    "nchan": "#CC79A7",
    "go": "#666666",
}
_OTHER = "#999999"
_INK, _FAINT, _GRID = "#222222", "#6b6b6b", "#e4e4e4"

# 800 pixels: the width that README shows.
_WIDTH_INCHES = 8.0
_SCREEN_DPI = 100
_PNG_DPI = 200
_ROW_INCHES = 0.29
_CURVES_INCHES = 2.3
# Inches around the panels, and between them.
_LEFT, _RIGHT, _TOP, _BOTTOM = 1.3, 0.15, 0.75, 0.55
_ACROSS, _DOWN = 0.25, 0.62
# Room at the right of a panel of curves for their names.
_NAMES = 1.2
# How wide a character is, on average: of a reason in print of 7 points, of a bold figure of 9.
_REASON_INCHES, _FIGURE_INCHES = 0.054, 0.088

_SMALL = 8

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _FAINT,
    "axes.titlesize": 9.5,
    "xtick.color": _FAINT,
    "ytick.color": _INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "h2sse",
    "figure.facecolor": "white",
}


@final
@dataclass(frozen=True, slots=True)
class Mark:
    """A server's figure in a panel; without one, the reason."""

    server: str
    spread: Spread | None
    text: str
    more: float = 0.0  # stacked behind it, in a chart of bars


@final
@dataclass(frozen=True, slots=True)
class Curve:
    """A server's latency: (n, ms), one delivery in n took so long or longer."""

    server: str
    points: Sequence[tuple[float, float]]


@final
@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    marks: Sequence[Mark] = ()
    curves: Sequence[Curve] = ()
    missing: str = ""  # who has no curve, and why


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    name: str
    kind: Literal["dots", "bars", "curves"]
    title: str
    axis: str
    note: str
    panels: Sequence[Panel]
    columns: int


def file(name: str) -> str:
    """The file of a picture, without its ending."""
    return f"benchmarks-{name}"


def titles(record: Record) -> dict[str, str]:
    """The pictures that there are results for, by name."""
    made = ((name, chart(record, name)) for name in _CHARTS)
    return {name: each.title for name, each in made if each is not None}


def chart(record: Record, name: str) -> Chart | None:
    """What a picture shows; None if there is nothing to show."""
    return _CHARTS[name](record)


def draw(record: Record, folder: Path) -> list[Path]:
    """Draw every picture that there are results for, as SVG and PNG."""
    # matplotlib takes a second to import, and only this needs it.
    import matplotlib as mpl

    written = []
    for name in _CHARTS:
        each = chart(record, name)
        if each is None:
            continue
        with mpl.rc_context():
            # Not as whoever runs it likes their pictures.
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]  # a literal for every key
            figure = _figure(each)
            for ending in ("svg", "png"):
                path = folder / f"{file(name)}.{ending}"
                told: dict[str, Any] = {"Description": f"results {record.digest}"}
                told |= {"Date": None, "Creator": None} if ending == "svg" else {"Software": None}
                figure.savefig(path, dpi=_PNG_DPI, metadata=told)
                written.append(path)
    return written


# What is shown


def _tabs(record: Record) -> Chart | None:
    panels = []
    best: dict[str, str] = {}
    for protocol, name in PROTOCOLS.items():
        rows = record.of("ramp", protocol)
        for shape in dict.fromkeys(str(row.case["shape"]) for row in rows):
            some = [row for row in rows if row.case["shape"] == shape]
            panels.append(Panel(f"{name}, {shape}", _marks(some, "tabs_sustained")))
        ours = [row for row in rows if row.server == BASE and row.values("tabs_sustained")]
        if ours:
            top = max(ours, key=lambda row: _median(row, "tabs_sustained"))
            best[name] = _middle(top, "tabs_sustained")
    if not any(mark.spread for panel in panels for mark in panel.marks):
        return None
    said = " and ".join(f"{tabs} over {name}" for name, tabs in best.items())
    return Chart(
        name="tabs",
        kind="dots",
        title=f"Tabs sustained: h2sse {said}" if said else "Tabs sustained",
        axis="tabs, logarithmic scale",
        note=(
            "All open within 10 s, each event once and in order, p99 latency ≤ 250 ms. Line: range"
            " of rounds. +: the server was not the limit."
        ),
        panels=panels,
        columns=2,
    )


def _cpu(record: Record) -> Chart | None:
    panels = []
    ours = []
    for protocol, case in headline_cases(record):
        rows = record.of("fanout", protocol, case)
        panels.append(Panel(_where(protocol, case), _marks(rows, "cpu_us_per_event")))
        ours += [
            _middle(row, "cpu_us_per_event")
            for row in rows
            if row.server == BASE and row.values("cpu_us_per_event")
        ]
    if not any(mark.spread for panel in panels for mark in panel.marks):
        return None
    return Chart(
        name="cpu",
        kind="dots",
        title=_titled("Server CPU for each delivered event", ours, "µs"),
        axis="µs, logarithmic scale",
        note="Connections x tabs on each. Dot: median; line: range of rounds. Less is better.",
        panels=panels,
        columns=len(panels),
    )


def _memory(record: Record) -> Chart | None:
    panels, ours = [], []
    for protocol, case in headline_cases(record):
        marks = []
        for row in record.of("fanout", protocol, case):
            server, kernel = row.spread("kb_per_tab"), row.spread("socket_kb_per_tab")
            if server is None or kernel is None:
                marks.append(Mark(row.server, None, _reason(row)))
                continue
            text = f"{_short(server.median)} + {_short(kernel.median)}"
            marks.append(Mark(row.server, server, text, kernel.median))
            if row.server == BASE:
                ours.append(_short(server.median + kernel.median))
        panels.append(Panel(_where(protocol, case), marks))
    if not any(mark.spread for panel in panels for mark in panel.marks):
        return None
    return Chart(
        name="memory",
        kind="bars",
        title=_titled("Memory of an open tab", ours, "KB"),
        axis="KB a tab",
        note=(
            "Connections x tabs on each. Server processes + kernel socket buffers of both ends"
            " (pale); medians. Less is better."
        ),
        panels=panels,
        columns=len(panels),
    )


def _latency(record: Record) -> Chart | None:
    panels, ours = [], []
    for protocol, case in headline_cases(record):
        curves, missing = [], []
        for row in record.of("fanout", protocol, case):
            if (latency := row.latency) is None:
                missing.append(f"{server_title(row.server)}: {_reason(row) or 'lost events'}")
                continue
            points = [(n, us / 1e3) for n, us in curve(latency)]
            curves.append(Curve(row.server, points))
            if row.server == BASE and row.values("p99_ms"):
                ours.append(_middle(row, "p99_ms"))
        panels.append(Panel(_where(protocol, case), curves=curves, missing="\n".join(missing)))
    if not any(panel.curves for panel in panels):
        return None
    return Chart(
        name="latency",
        kind="curves",
        title=_titled("Delivery latency", ours, "ms (p99)"),
        axis="percentile of deliveries",
        note=(
            "Connections x tabs on each; from the instant an event was due; all rounds together."
            " Percentiles across, both scales logarithmic."
        ),
        panels=panels,
        columns=min(2, len(panels)),
    )


_CHARTS: dict[str, Callable[[Record], Chart | None]] = {
    "tabs": _tabs,
    "cpu": _cpu,
    "latency": _latency,
    "memory": _memory,
}


def _where(protocol: ProtocolName, case: Case) -> str:
    return f"{PROTOCOLS[protocol]}, {case['grid']}"


def _titled(text: str, ours: Sequence[str], unit: str) -> str:
    """With h2sse's figures, panel by panel."""
    return f"{text}: h2sse {' / '.join(ours)} {unit}" if ours else text


def _short(value: float) -> str:
    """Two significant digits, whole above that."""
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _marks(rows: Sequence[Row], figure: str) -> list[Mark]:
    return [Mark(row.server, row.spread(figure), _middle(row, figure)) for row in rows]


def _median(row: Row, figure: str) -> float:
    spread = row.spread(figure)
    return spread.median if spread is not None else 0.0


def _middle(row: Row, figure: str) -> str:
    """The median as text, or why there is none."""
    return row.text(figure).split(" ")[0] or _reason(row)


def _reason(row: Row) -> str:
    if row.verdict is Verdict.ABSENT:
        return "not installed"
    verdict, why, _ = row.troubles[0] if row.troubles else (row.verdict, "", 0)
    return "" if verdict is Verdict.OK else f"{verdict.value}: {' '.join(why.split())}"


# Drawing


def _figure(chart: Chart) -> Figure:
    from matplotlib.figure import Figure

    servers = _servers(chart)
    names = _NAMES if chart.kind == "curves" else 0.0
    left = 0.6 if chart.kind == "curves" else _LEFT
    columns = chart.columns
    rows = math.ceil(len(chart.panels) / columns)
    high = _CURVES_INCHES if chart.kind == "curves" else _ROW_INCHES * len(servers)
    wide = (_WIDTH_INCHES - left - _RIGHT - (columns - 1) * _ACROSS - columns * names) / columns
    height = _TOP + rows * high + (rows - 1) * _DOWN + _BOTTOM
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_SCREEN_DPI)
    low, top = _limits(chart, high if chart.kind == "curves" else wide)
    for number, panel in enumerate(chart.panels):
        row, column = divmod(number, columns)
        x = left + column * (wide + names + _ACROSS)
        y = height - _TOP - (row + 1) * high - row * _DOWN
        axes = figure.add_axes((x / _WIDTH_INCHES, y / height, wide / _WIDTH_INCHES, high / height))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(panel.title, loc="left", color=_INK, pad=5)
        axes.tick_params(length=0, labelsize=_SMALL)
        if chart.kind == "curves":
            _draw_curves(axes, panel, low, top, named=column == 0)
        else:
            _draw_marks(axes, chart, panel, servers, low, top, named=column == 0, inches=wide)
    figure.text(0.012, 1 - 0.26 / height, chart.title, fontsize=12, weight="bold", va="center")
    figure.text(0.012, 0.13 / height, chart.note, fontsize=7.5, color=_FAINT, va="center")
    return figure


def _servers(chart: Chart) -> list[str]:
    seen = {mark.server for panel in chart.panels for mark in panel.marks}
    return [*(name for name in SERVERS if name in seen), *sorted(seen - set(SERVERS))]


def _limits(chart: Chart, inches: float) -> tuple[float, float]:
    """The axis of the figures, the same for all panels, with room for what is written there."""
    if chart.kind == "curves":
        values = [ms for panel in chart.panels for each in panel.curves for _, ms in each.points]
        room = 0.08 * max(len(panel.missing.splitlines()) for panel in chart.panels)
    else:
        marks = [mark for panel in chart.panels for mark in panel.marks]
        spreads = [(mark.spread, mark.more) for mark in marks if mark.spread is not None]
        values = [spread.most + more for spread, more in spreads]
        values += [spread.least for spread, _ in spreads]
        longest = max(len(mark.text) for mark in marks if mark.spread is not None)
        room = (0.2 + longest * _FIGURE_INCHES) / inches
    if chart.kind == "bars":
        return 0.0, max(values) / (1 - room)
    positive = [value for value in values if value > 0] or [1.0]
    low, top = min(positive) / 1.6, max(positive) * 1.1
    return low, top * (top / low) ** (room / (1 - room))


def _draw_marks(
    axes: Axes,
    chart: Chart,
    panel: Panel,
    servers: Sequence[str],
    low: float,
    top: float,
    *,
    named: bool,
    inches: float,
) -> None:
    bars = chart.kind == "bars"
    if not bars:
        axes.set_xscale("log")
    axes.set_xlim(low, top)
    # None at the far right, where its name would be cut off.
    if bars:
        axes.set_xticks([each for each in axes.get_xticks() if each < 0.93 * top])
    else:
        axes.set_xticks([each for each in _decades(low, top) if _share(each, low, top) < 0.9])
    axes.set_ylim(len(servers) - 0.5, -0.5)
    axes.set_yticks(range(len(servers)), [server_title(name) if named else "" for name in servers])
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(chart.axis, fontsize=_SMALL, labelpad=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.minorticks_off()
    for label, name in zip(axes.get_yticklabels(), servers, strict=True):
        label.set_fontsize(9)
        label.set_fontweight("bold" if name == BASE else "normal")
    marks = {mark.server: mark for mark in panel.marks}
    for y, server in enumerate(servers):
        mark = marks.get(server)
        colour, ours = _COLOURS.get(server, _OTHER), server == BASE
        weight = "bold" if ours else "normal"
        if mark is None or mark.spread is None:
            reason = mark.text if mark is not None else "not measured"
            axes.text(
                0.01,
                y,
                _wrapped(reason, int(inches / _REASON_INCHES), lines=2),
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=7,
                style="italic",
                color=_FAINT,
                linespacing=1.1,
            )
            continue
        spread = mark.spread
        if bars:
            axes.barh(y, max(0.0, spread.median), height=0.6, color=colour)
            axes.barh(
                y, mark.more, left=max(0.0, spread.median), height=0.6, color=colour, alpha=0.35
            )
            end = max(0.0, spread.median) + mark.more
        elif spread.median > 0:
            axes.plot(
                [max(low, spread.least), spread.most], [y, y], color=colour, linewidth=2, alpha=0.5
            )
            axes.plot([spread.median], [y], "o", color=colour, markersize=8 if ours else 6)
            end = spread.most
        else:
            end = low
        axes.annotate(
            mark.text,
            (end, y),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9 if ours else _SMALL,
            weight=weight,
        )


def _draw_curves(axes: Axes, panel: Panel, low: float, top: float, *, named: bool) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(low, top)
    last = max((n for each in panel.curves for n, _ in each.points), default=1e4)
    nines = [(2, "50 %"), (10, "90 %"), (100, "99 %"), (1e3, "99.9 %"), (1e4, "99.99 %")]
    shown = [each for each in nines if each[0] <= last]
    axes.set_xlim(1, max(last, 2))
    axes.set_xticks([n for n, _ in shown], [text for _, text in shown])
    decades = _decades(low, top)
    axes.set_yticks(decades, [f"{each:,.10g} ms" if named else "" for each in decades])
    axes.minorticks_off()
    axes.grid(color=_GRID, linewidth=0.8)
    ends = []
    for each in panel.curves:
        ours = each.server == BASE
        colour = _COLOURS.get(each.server, _OTHER)
        n, ms = zip(*each.points, strict=True)
        axes.plot(n, ms, color=colour, linewidth=2.6 if ours else 1.5, zorder=3 if ours else 2)
        ends.append((_share(ms[-1], low, top), each.server))
    ends.sort()
    for height, (_, server) in zip(_apart([at for at, _ in ends], 0.085), ends, strict=True):
        axes.text(
            1.02,
            height,
            server_title(server),
            transform=axes.transAxes,
            va="center",
            fontsize=_SMALL,
            color=_COLOURS.get(server, _OTHER),
            weight="bold" if server == BASE else "normal",
        )
    axes.text(
        0.02,
        0.97,
        "\n".join(_wrapped(line, 48, lines=1) for line in panel.missing.split("\n")),
        transform=axes.transAxes,
        va="top",
        fontsize=7,
        style="italic",
        color=_FAINT,
        linespacing=1.3,
    )


def _decades(low: float, top: float) -> list[float]:
    """The powers of ten from `low` to `top`."""
    return [10.0**n for n in range(math.ceil(math.log10(low)), math.floor(math.log10(top)) + 1)]


def _share(value: float, low: float, top: float) -> float:
    """Where a value stands on a logarithmic axis, from 0 to 1."""
    return math.log(value / low) / math.log(top / low) if value > 0 else 0.0


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights, moved as far as it takes for names not to overlap, and kept within 0 to 1."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    for i in reversed(range(len(placed))):
        above = placed[i + 1] if i + 1 < len(placed) else 1.0 + gap
        placed[i] = min(placed[i], above - gap)
    return placed


def _wrapped(text: str, width: int, lines: int) -> str:
    """In so many lines at most; what is left out is shown to be."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
