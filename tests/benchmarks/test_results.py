"""What is written is what is read, whatever ended the run."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.model import Latency, Result, Verdict
from benchmarks.results import BASE, Damaged, Record, Row, Store, server_title

CASE: dict[str, str | int | float] = {"grid": "1 x 10", "size": 100, "rate": 5}


def fanout(server: str, number: int, cpu: float, **more: float) -> Result:
    return made_up.result("fanout", server, "h2", CASE, number, cpu_us_per_event=cpu, **more)


def row(*results: Result) -> Row:
    first = results[0]
    rounds = {(1, each.round): each for each in results}
    return Row(first.scenario, first.server, first.protocol, first.case, rounds)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    store.begin(made_up.FACTS, ["fanout"])
    return store


def read(store: Store) -> list[Result]:
    return [each for row in Store(store.folder).load().rows for each in row.rounds.values()]


def test_nothing_is_there_before_the_first_run(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").load() == Record()
    assert not (tmp_path / "none").exists()


def test_results_come_back_as_they_were(store: Store) -> None:
    results = [each for each in made_up.everything() if each.latency is None]
    for each in results:
        store.append(each)
    key = lambda each: (each.scenario, each.server, each.protocol, str(each.case), each.round)  # noqa: E731
    assert sorted(read(store), key=key) == sorted(results, key=key)


def test_facts_come_back_with_what_the_run_was_of(store: Store) -> None:
    store.append(fanout(BASE, 1, 1.0))
    assert store.load().runs == {1: {"scenarios": ["fanout"], **made_up.FACTS}}


@given(counts=st.dictionaries(st.integers(0, 10**8), st.integers(1, 10**6), max_size=40))
def test_latency_comes_back_to_three_digits(
    tmp_path_factory: pytest.TempPathFactory, counts: dict[int, int]
) -> None:
    store = Store(tmp_path_factory.mktemp("latency"))
    store.begin({})
    written = Latency(counts=counts)
    store.append(
        Result(
            scenario="s", server="x", protocol="h2", case={}, round=1, verdict=Verdict.OK,
            latency=written,
        )
    )  # fmt: skip
    (result,) = read(store)
    assert result.latency is not None
    assert result.latency.total == written.total
    for percent in (1, 50, 99, 99.9, 100):
        assert math.isclose(
            result.latency.percentile(percent), written.percentile(percent), rel_tol=1e-3
        )


def test_a_latency_that_is_none_is_refused(store: Store) -> None:
    bad = fanout(BASE, 1, 1.0)
    bad = Result(
        scenario=bad.scenario, server=bad.server, protocol=bad.protocol, case=bad.case, round=1,
        verdict=Verdict.OK, latency=Latency(counts={-1: 1}),
    )  # fmt: skip
    with pytest.raises(ValueError, match="-1 us"):
        store.append(bad)


def test_a_result_is_on_disk_when_append_returns(store: Store) -> None:
    for number in (1, 2):
        store.append(fanout(BASE, number, 1.0))
        assert len(read(store)) == number


def test_a_run_begins_before_it_appends(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="begin"):
        Store(tmp_path).append(fanout(BASE, 1, 1.0))


def cut(store: Store) -> None:
    """As a run does that is killed while it writes."""
    store.append(fanout(BASE, 1, 1.0))
    store.append(fanout(BASE, 2, 2.0))
    file = store.folder / "results.jsonl"
    file.write_bytes(file.read_bytes()[:-20])


def test_a_damaged_last_line_is_left_out_and_told(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    cut(store)
    with caplog.at_level(logging.WARNING):
        assert [each.round for each in read(store)] == [1]
    assert "the last line is damaged" in caplog.text


def test_a_run_after_a_killed_one_starts_on_a_line_of_its_own(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    cut(store)
    store.begin({})
    store.append(fanout("go", 1, 9.0))
    assert "cut off" in caplog.text
    caplog.clear()
    assert [(each.server, each.round) for each in read(store)] == [(BASE, 1), ("go", 1)]
    assert not caplog.text


@pytest.mark.parametrize(
    "line", ["{", '"text"', "{}", '{"run": 1, "scenario": "x"}', '{"run": 1, "latency": null}']
)
def test_any_other_damage_names_its_line(store: Store, line: str) -> None:
    store.append(fanout(BASE, 1, 1.0))
    file = store.folder / "results.jsonl"
    whole = file.read_text()
    file.write_text(f"{whole}{line}\n{whole}")
    with pytest.raises(Damaged, match="line 2"):
        store.load()


def test_damaged_facts_are_told(store: Store) -> None:
    (store.folder / "machine.json").write_text("[")
    with pytest.raises(Damaged, match=r"machine\.json"):
        store.load()


def test_a_later_run_replaces_what_it_measured_and_leaves_the_rest(store: Store) -> None:
    for number in (1, 2, 3):
        store.append(fanout(BASE, number, 1.0))
        store.append(fanout("go", number, 9.0))
    store.begin({"commit": "later"})
    store.append(fanout("go", 1, 5.0))
    ours, theirs = store.load().of("fanout")
    assert set(ours.rounds) == {(1, 1), (1, 2), (1, 3)}
    assert theirs.values("cpu_us_per_event") == {(2, 1): 5.0}
    # Not the same minute, not the same commit: there is nothing to divide by.
    assert theirs.ratio("cpu_us_per_event", ours) is None


def test_being_absent_later_takes_nothing_away(store: Store) -> None:
    store.append(fanout("go", 1, 9.0))
    store.begin({})
    store.append(made_up.fault("fanout", "go", "h2", CASE, Verdict.ABSENT, "apt-get", 0))
    (row,) = store.load().rows
    assert row.verdict is Verdict.OK


def test_an_absent_one_that_came_is_measured(store: Store) -> None:
    store.append(made_up.fault("fanout", "go", "h2", CASE, Verdict.ABSENT, "apt-get", 0))
    store.begin({})
    store.append(fanout("go", 1, 9.0))
    (row,) = store.load().rows
    assert (row.verdict, row.troubles) == (Verdict.OK, [])


def test_rows_stand_in_a_fixed_order(store: Store) -> None:
    for server in ("zzz", "go", "node", BASE, "hypercorn"):
        store.append(fanout(server, 1, 1.0))
    servers = [row.server for row in store.load().rows]
    assert servers == [BASE, "hypercorn", "node", "go", "zzz"]
    assert server_title("zzz") == "zzz"


def test_only_rounds_that_are_ok_have_figures() -> None:
    bad = made_up.fault("fanout", "go", "h2", CASE, Verdict.INVALID, "the client was busy", 2)
    measured = row(fanout("go", 1, 1.0), bad, fanout("go", 3, 3.0))
    assert measured.values("cpu_us_per_event") == {(1, 1): 1.0, (1, 3): 3.0}
    assert measured.verdict is Verdict.OK
    assert measured.troubles == [(Verdict.INVALID, "the client was busy", 1)]
    assert row(bad).verdict is Verdict.INVALID
    assert row(bad).spread("cpu_us_per_event") is None


@pytest.mark.parametrize("fault", ["lost", "doubled", "misordered"])
def test_latency_is_only_compared_where_the_whole_load_was_carried(fault: str) -> None:
    assert row(fanout("go", 1, 1.0), fanout("go", 2, 1.0, lost=0)).same_load
    assert not row(fanout("go", 1, 1.0), fanout("go", 2, 1.0, **{fault: 1})).same_load


def test_a_bound_is_shown_as_one() -> None:
    def ramp(number: int, tabs: float, **more: float) -> Result:
        case = {"shape": "s"}
        return made_up.result("ramp", "go", "h2", case, number, tabs_sustained=tabs, **more)

    assert row(ramp(1, 800), ramp(2, 800), ramp(3, 800)).text("tabs_sustained") == "800+"
    some = row(ramp(1, 500, tabs_failed=600), ramp(2, 600, tabs_failed=700), ramp(3, 800))
    assert some.text("tabs_sustained") == "600 (500–800+)"
    assert row(ramp(1, 500, tabs_failed=600)).text("tabs_sustained") == "500"
    assert row(ramp(1, 500)).text("p99_ms") == ""


def test_the_digest_changes_with_any_figure(store: Store) -> None:
    store.append(fanout(BASE, 1, 1.0))
    before = store.load().digest
    assert store.load().digest == before
    store.append(fanout(BASE, 1, 1.001))
    assert store.load().digest != before


def test_lines_are_json_that_others_read(store: Store) -> None:
    store.append(fanout(BASE, 1, 1.0))
    (line,) = (store.folder / "results.jsonl").read_text().splitlines()
    fields = json.loads(line)
    assert (fields["run"], fields["server"], fields["verdict"]) == (1, BASE, "ok")
