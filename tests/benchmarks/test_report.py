"""The report says what the results say: in its documents, and of made-up results, line by line."""

from __future__ import annotations

import re
from pathlib import Path

import made_up
import pytest

from benchmarks.model import Case, ProtocolName, Result, Verdict
from benchmarks.report import NO_RESULTS, comparisons, filled, regions, report, write
from benchmarks.results import BASE, Record, Store
from benchmarks.sections import SECTIONS, headline_cases

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "full"
DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "benchmarks.md"]

GRID: Case = {"grid": "1 x 10", "size": 100, "rate": 5}
RAMP: Case = {"shape": "all tabs on one connection"}


def record(folder: Path, *results: Result) -> Record:
    store = Store(folder)
    store.begin(made_up.FACTS)
    for each in results:
        store.append(each)
    return store.load()


def fanout(server: str, number: int = 1, protocol: ProtocolName = "h2", **figures: float) -> Result:
    return made_up.result("fanout", server, protocol, GRID, number, **figures)


def line(text: str, start: str) -> list[str]:
    """The cells of the one row that starts so."""
    (row,) = [row for row in text.splitlines() if row.startswith(f"| {start}")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return made_up.filled(Store(tmp_path_factory.mktemp("everything"))).load()


# The documents


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_say_what_the_results_say(document: Path) -> None:
    text = document.read_text()
    pictures = "docs" if document.parent == ROOT else "."
    assert filled(text, regions(Store(RESULTS).load(), pictures)) == text


def test_every_part_of_the_report_has_its_region() -> None:
    readme, page = (
        re.findall(r"<!-- benchmarks:(\w+) -->", each.read_text()) for each in DOCUMENTS
    )
    assert readme == ["headline"]
    assert sorted(page) == sorted(regions(Record()))


def test_the_pictures_are_of_the_results() -> None:
    of_results = Store(RESULTS).load()
    for picture in (ROOT / "docs").glob("benchmarks-*.svg"):
        assert f"results {of_results.digest}" in picture.read_text(), picture.name


def test_figures_stand_in_regions_only() -> None:
    """The page's own words have no measured figure: nothing with a unit that results have."""
    words = re.sub(
        r"<!-- benchmarks:.*?<!-- /benchmarks -->", "", DOCUMENTS[1].read_text(), flags=re.DOTALL
    )
    assert not re.findall(r"\d+(?:\.\d+)? (?:µs|us|ms|tabs|KB)\b", words)


# Regions


def test_a_region_is_filled_and_the_rest_is_left() -> None:
    text = "a\n<!-- benchmarks:ramp -->\nold\n<!-- /benchmarks -->\nb\n"
    once = filled(text, {"ramp": "new"})
    assert once == "a\n<!-- benchmarks:ramp -->\n\nnew\n\n<!-- /benchmarks -->\nb\n"
    assert filled(once, {"ramp": "new"}) == once
    assert filled("no regions", {}) == "no regions"


def test_contents_are_taken_as_they_are() -> None:
    text = "<!-- benchmarks:ramp -->\n<!-- /benchmarks -->"
    assert "\\1 \\g<2>" in filled(text, {"ramp": "\\1 \\g<2>"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!-- benchmarks:ramp -->\n", "not closed"),
        ("<!-- benchmarks:ramp -->\n<!-- benchmarks:open -->\n<!-- /benchmarks -->", "not closed"),
        ("<!-- /benchmarks -->", "not closed"),
        ("<!-- benchmarks:rump -->\n<!-- /benchmarks -->", "no such region: rump"),
    ],
)
def test_a_region_that_is_wrong_is_told(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        filled(text, {"ramp": "", "open": ""})


def test_before_the_first_run_it_says_how_to_make_one() -> None:
    assert set(regions(Record()).values()) == {NO_RESULTS}
    assert NO_RESULTS in report(Record())


# Tables


def test_a_cell_has_median_range_and_ratio(tmp_path: Path) -> None:
    """The machine slows down from round to round, for both: the ratio does not see it."""
    results = [
        fanout(server, number, cpu_us_per_event=cost * slow)
        for number, slow in ((1, 1.0), (2, 1.3), (3, 1.6))
        for server, cost in ((BASE, 2.0), ("node", 5.0))
    ]
    text = report(record(tmp_path, *results))
    assert "2.6 (2.0–3.2)" in text
    assert "6.5 (5.0–8.0), 2.5×" in text


def test_a_ratio_is_to_the_same_protocol(tmp_path: Path) -> None:
    text = report(
        record(
            tmp_path,
            fanout(BASE, cpu_us_per_event=1.0),
            fanout(BASE, protocol="http/1.1", cpu_us_per_event=10.0),
            fanout("node", cpu_us_per_event=20.0),
            fanout("node", protocol="http/1.1", cpu_us_per_event=20.0),
        )
    )
    assert line(text, "Node http2, HTTP/2")[1] == "20, 20×"
    assert line(text, "Node http2, HTTP/1.1")[1] == "20, 2×"


def test_rounds_that_disagree_show_it(tmp_path: Path) -> None:
    results = [
        each
        for number, cpu in ((1, 0.9), (2, 1.05), (3, 1.2))
        for each in (
            fanout(BASE, number, cpu_us_per_event=1.0),
            fanout("go", number, cpu_us_per_event=cpu),
        )
    ]
    text = report(record(tmp_path, *results))
    assert "1.1× (0.9–1.2)" in text or "1× (0.9–1.2)" in text
    assert "no other server did better than h2sse in every round" in text


@pytest.mark.parametrize("fault", ["lost", "doubled", "misordered"])
def test_who_lost_events_has_no_latency(tmp_path: Path, fault: str) -> None:
    """It was quick with what it delivered; that is no merit."""
    made = record(
        tmp_path,
        fanout(BASE, p99_ms=100.0, kb_per_tab=2.0),
        fanout("go", 1, "h2", p99_ms=1.0, kb_per_tab=8.0, **{fault: 1.0}),
    )
    text = regions(made)["fanout"]
    assert line(text, "Go net/http")[1:] == ["–", "8, 4×"]
    assert "Better than" not in text


def test_where_h2sse_lost_events_nobody_is_compared_with_it(tmp_path: Path) -> None:
    made = record(tmp_path, fanout(BASE, p99_ms=1.0, lost=5), fanout("go", p99_ms=100.0))
    text = regions(made)["fanout"]
    assert line(text, "**h2sse**")[1] == "–"
    assert line(text, "Go net/http")[1] == "100"
    assert not [c for s in SECTIONS for c in comparisons(made, s)]


def test_what_failed_is_told_and_not_averaged(tmp_path: Path) -> None:
    made = record(
        tmp_path,
        *(fanout(BASE, n, cpu_us_per_event=1.0) for n in (1, 2)),
        fanout("go", 1, cpu_us_per_event=3.0),
        made_up.fault("fanout", "go", "h2", GRID, Verdict.INVALID, "client at 74%", 2),
        made_up.fault("fanout", "node", "h2", GRID, Verdict.FAILED, "it | died\nat <once>"),
        made_up.fault("fanout", "nchan", "h2", GRID, Verdict.ABSENT, "apt-get install x", 0),
    )
    text = regions(made)["fanout"]
    assert line(text, "Go net/http")[1] == "3, 3× [1 of 2]"
    assert line(text, "Node http2")[1] == "failed"
    assert line(text, "nginx + nchan")[1] == "not installed"
    case = "1 x 10, 100 B, 5/s"
    assert f"- Go net/http, HTTP/2 ({case}): invalid in 1 of 2 rounds: client at 74%" in text
    assert f"- Node http2, HTTP/2 ({case}): failed: it \\| died at &lt;once>" in text
    assert "- nginx + nchan: not installed; it comes with `apt-get install x`" in text


def test_many_different_reasons_are_counted(tmp_path: Path) -> None:
    faults = [
        made_up.fault("fanout", "go", "h2", GRID, Verdict.FAILED, f"{n} lost", n) for n in (1, 2, 3)
    ]
    text = report(record(tmp_path, fanout(BASE, cpu_us_per_event=1.0), *faults))
    assert "failed in 3 of 3 rounds: 1 lost (and 2 other reasons)" in text


def test_an_absent_browser_is_called_that(everything: Record) -> None:
    text = regions(everything)["browser"]
    assert "- Firefox: not installed; it comes with `apt-get install firefox-esr`" in text
    assert "h2sse: not installed" not in text


def test_only_a_bound_has_a_ratio_that_is_one(tmp_path: Path) -> None:
    def ramp(server: str, **figures: float) -> Result:
        return made_up.result("ramp", server, "h2", RAMP, 1, **figures)

    text = report(
        record(
            tmp_path,
            ramp(BASE, tabs_sustained=8_000),
            ramp("node", tabs_sustained=8_000),
            ramp("go", tabs_sustained=2_000, tabs_failed=2_400),
        )
    )
    section = text[text.index("**Tabs sustained") :]
    assert line(section, "**h2sse**")[1] == "8,000+"
    assert line(section, "Node http2")[1] == "8,000+"
    assert line(section, "Go net/http")[1] == "2,000, ≤0.25×"


def test_h2sse_at_its_limit_can_be_beaten_by_a_bound(tmp_path: Path) -> None:
    text = report(
        record(
            tmp_path,
            made_up.result("ramp", BASE, "h2", RAMP, tabs_sustained=500, tabs_failed=600),
            made_up.result("ramp", "node", "h2", RAMP, tabs_sustained=8_000),
        )
    )
    assert (
        "- tabs sustained (HTTP/2, all tabs on one connection): Node http2 at ≥16× h2sse's" in text
    )


# Saying who wins


@pytest.mark.parametrize(("theirs", "loses"), [(0.5, True), (2.0, False)])
def test_where_h2sse_loses_is_said(tmp_path: Path, theirs: float, loses: bool) -> None:
    made = record(
        tmp_path, fanout(BASE, cpu_us_per_event=1.0), fanout("go", cpu_us_per_event=theirs)
    )
    said = "CPU for each delivered event (HTTP/2, 1 x 10, 100 B, 5/s): Go net/http at 0.5× h2sse's"
    contents = regions(made)
    assert (said in contents["fanout"]) is loses
    assert (said in contents["headline"]) is loses
    assert ("another server did better" in contents["headline"]) is loses
    assert ("did another server do better" in contents["headline"]) is not loses


def test_h2sse_s_own_failure_is_in_the_headline(tmp_path: Path) -> None:
    """There is no ratio to a figure that is not there, but it was no draw."""
    bad = made_up.fault("fanout", BASE, "h2", GRID, Verdict.FAILED, "12 lost")
    text = regions(record(tmp_path, bad, fanout("go", cpu_us_per_event=2.0)))["headline"]
    assert "h2sse itself failed, in one round at least: fanout (HTTP/2, 1 x 10" in text
    assert line(text, "**h2sse**")[1] == "failed"
    assert "in none of" not in text.lower()


def test_one_bad_round_is_not_a_loss(tmp_path: Path) -> None:
    costs = {BASE: (1.0, 1.0, 3.0), "go": (2.0, 2.0, 2.0)}
    made = record(
        tmp_path,
        *(
            fanout(server, number, cpu_us_per_event=cpu)
            for server, each in costs.items()
            for number, cpu in enumerate(each, start=1)
        ),
    )
    (compared,) = [c for s in SECTIONS for c in comparisons(made, s)]
    assert not compared.better
    assert compared.text == "2× (0.67–2)"


def test_the_headline_is_of_the_most_tabs_and_the_smallest_events(everything: Record) -> None:
    cases = [
        (protocol, case["grid"], case["size"]) for protocol, case in headline_cases(everything)
    ]
    assert cases == [
        ("h2", "1 x 5,000", 100),
        ("h2", "1,000 x 5", 100),
        ("http/1.1", "5,000 x 1", 100),
    ]


def test_the_headline_has_two_pictures_and_the_figures(everything: Record) -> None:
    text = regions(everything, "docs")["headline"]
    pictures = re.findall(r"!\[([^]]+)\]\(([^)]+)\)", text)
    assert [path for _, path in pictures] == ["docs/benchmarks-tabs.svg", "docs/benchmarks-cpu.svg"]
    assert line(text, "**h2sse**")[1:] == [
        *("50,000+", "50,000+", "6", "40,000 (39,000–42,000)"),
        *("0.60 (0.58–0.62)", "3.7 (3.6–3.8)", "3.7 (3.6–3.8)"),
    ]
    assert line(text, "nginx + nchan")[1:] == ["not installed"] * 7
    assert "over HTTP/2 at least 50,000 with all tabs on one connection" in text
    assert "3.7 µs over HTTP/1.1, 5,000 x 1 (the others: 0.75× (Node http2) to 60×" in text


def test_without_h2sse_nothing_is_claimed_of_it(tmp_path: Path) -> None:
    text = report(record(tmp_path, fanout("go", cpu_us_per_event=2.0)))
    assert "×" not in text
    assert "h2sse took" not in text
    assert line(text[text.index("**Server CPU") :], "Go net/http")[1] == "2"


# The whole


def test_every_row_of_a_table_has_every_column(everything: Record) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", report(everything), re.MULTILINE)
    assert len(tables) > 10
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table


def test_every_scenario_has_its_chapter(everything: Record) -> None:
    text = report(everything)
    for section in SECTIONS:
        assert f"## {section.title}\n\n{section.asked}\n" in text
        assert f"--scenario {section.name}`" in text


def test_facts_are_there_once_a_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, commit in enumerate(("aaaa", "bbbb", "cccc"), start=1):
        store.begin({"commit": commit, "dirty": number == 1, "none": None}, ["fanout"])
        if number != 2:
            store.append(
                made_up.result("fanout", BASE, "h2", {**GRID, "rate": number}, cpu_us_per_event=1)
            )
    text = regions(store.load())["facts"]
    assert text.startswith("**Run 1**\n\n- scenarios: fanout\n- commit: `aaaa`\n- dirty: yes\n\n")
    assert "**Run 3**" in text
    assert "bbbb" not in text  # nothing here is of that run
    assert "none" not in text


def test_it_is_the_same_whenever_it_is_written(everything: Record) -> None:
    assert report(everything) == report(everything)


def test_writing_fills_the_project(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name, region in (("README.md", "headline"), ("docs/benchmarks.md", "ramp")):
        text = f"# Title\n\n<!-- benchmarks:{region} -->\n<!-- /benchmarks -->\n"
        (tmp_path / name).write_text(text)
    store = made_up.filled(Store(tmp_path / "results"))
    text = write(store, store.folder, root=tmp_path)
    assert (store.folder / "report.md").read_text() == text
    for document in ("README.md", "docs/benchmarks.md", "results/report.md"):
        written = (tmp_path / document).read_text()
        links = re.findall(r"\]\(([^)]+)\)", written)
        assert links
        for link in links:
            assert ((tmp_path / document).parent / link).exists(), link
    assert NO_RESULTS not in (tmp_path / "README.md").read_text()
