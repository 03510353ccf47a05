"""Pictures show what is there, name what is not, and are the same for the same results."""

from __future__ import annotations

import re
from pathlib import Path

import made_up
import pytest

from benchmarks import plots
from benchmarks.model import Case, Verdict
from benchmarks.results import BASE, SERVERS, Record, Store

FILES = [
    f"benchmarks-{name}.{ending}"
    for name in ("cpu", "latency", "memory", "tabs")
    for ending in ("png", "svg")
]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return made_up.filled(Store(tmp_path_factory.mktemp("everything"))).load()


@pytest.fixture(scope="module")
def drawn(everything: Record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    plots.draw(everything, folder)
    return folder


def shown(record: Record, name: str) -> plots.Chart:
    chart = plots.chart(record, name)
    assert chart is not None
    return chart


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert plots.titles(Record()) == {}
    assert plots.draw(Record(), tmp_path) == []


def test_nothing_is_drawn_where_nobody_has_a_figure(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin({})
    case: Case = {"grid": "1 x 10", "size": 100, "rate": 5}
    store.append(made_up.fault("fanout", BASE, "h2", case, Verdict.FAILED, "it died"))
    assert plots.titles(store.load()) == {}


def test_each_picture_is_there_as_png_and_svg(drawn: Path) -> None:
    assert sorted(path.name for path in drawn.iterdir()) == FILES


def test_a_picture_is_of_its_results(everything: Record, drawn: Path) -> None:
    for path in drawn.iterdir():
        assert f"results {everything.digest}".encode() in path.read_bytes(), path.name


def test_pictures_are_the_same_for_the_same_results(
    everything: Record, drawn: Path, tmp_path: Path
) -> None:
    for path in plots.draw(everything, tmp_path):
        assert path.read_bytes() == (drawn / path.name).read_bytes(), path.name


def test_pictures_hold_no_date_and_are_as_wide_as_readme(drawn: Path) -> None:
    for path in drawn.glob("*.svg"):
        text = path.read_text()
        assert "dc:date" not in text
        width = re.search(r'<svg [^>]*width="([\d.]+)pt"', text)
        assert width is not None
        assert float(width[1]) == 576  # 800 pixels at 100 a inch


def test_nothing_is_cut_off(everything: Record) -> None:
    """Every word of every picture is on it, and no two are on top of each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    for name in plots.titles(everything):
        figure = plots._figure(shown(everything, name))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]  # as matplotlib has it
        renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]  # as above
        boxes: dict[str, Bbox] = {}
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            if not text.get_text().strip() or not text.get_visible():
                continue
            box = text.get_window_extent(renderer)
            assert figure.bbox.x0 <= box.x0, text
            assert box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0, text
            assert box.y1 <= figure.bbox.y1, text
            for other, there in boxes.items():
                assert not there.padded(-1).overlaps(box.padded(-1)), (text.get_text(), other)
            boxes[f"{text.get_text()} {len(boxes)}"] = box


def test_servers_stand_in_one_order_in_every_panel(everything: Record) -> None:
    for name in ("tabs", "cpu", "memory"):
        for panel in shown(everything, name).panels:
            servers = [mark.server for mark in panel.marks]
            assert servers == [each for each in SERVERS if each in servers]


def test_every_server_has_a_colour_of_its_own() -> None:
    colours = [plots._COLOURS[server] for server in SERVERS]
    assert len(set(colours)) == len(colours)


def test_what_is_missing_says_why(everything: Record) -> None:
    panel = shown(everything, "cpu").panels[0]
    texts = {mark.server: mark.text for mark in panel.marks if mark.spread is None}
    assert texts == {
        "hypercorn": "failed: connection dropped after 1,000 streams: 'priority' | tree is full",
        "nchan": "not installed",
    }


def test_latency_is_drawn_of_those_who_carried_the_load(everything: Record) -> None:
    first = shown(everything, "latency").panels[0]
    assert [curve.server for curve in first.curves] == [BASE, "granian", "node"]
    assert "Go net/http: invalid: a client process used 74% of a core" in first.missing
    assert "Hypercorn (trio): failed" in first.missing


def test_titles_say_what_is_seen(everything: Record) -> None:
    assert plots.titles(everything) == {
        "tabs": "Tabs sustained: h2sse 50,000+ over HTTP/2 and 40,000 over HTTP/1.1",
        "cpu": "Server CPU for each delivered event: h2sse 0.60 / 3.7 / 3.7 µs",
        "latency": "Delivery latency: h2sse 1.8 / 11.1 / 11.1 ms (p99)",
        "memory": "Memory of an open tab: h2sse 1.8 / 1.8 / 1.8 KB",
    }


@pytest.mark.parametrize(
    ("heights", "apart"),
    [
        ([], []),
        ([0.5], [0.5]),
        ([0.1, 0.5], [0.1, 0.5]),
        ([0.5, 0.5], [0.5, 0.6]),
        ([0.95, 1.0], [0.9, 1.0]),
        ([0.98, 0.99, 1.0], [0.8, 0.9, 1.0]),
    ],
)
def test_names_are_moved_apart(heights: list[float], apart: list[float]) -> None:
    assert plots._apart(heights, 0.1) == pytest.approx(apart)
