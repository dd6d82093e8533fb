"""The report: generated, reproducible to the byte, honest about what it cannot say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penchant.errors import RunError
from penchant.evaluation.report.page import report_is_current, write_report
from penchant.evaluation.results import write_result
from tests.evaluation.rows import per_user, result, write_row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of a control, a row above it, one below it, one like it, and one without per-user values."""
    results = tmp_path / "results"
    for seed in range(3):
        write_row(results, 0.30 + 0.01 * seed, row="control", seed=seed)
        write_row(results, 0.40 + 0.01 * seed, row="above", seed=seed)
    write_row(results, 0.20, row="below")
    write_row(results, 0.30, row="alike")
    write_result(results, result(row="lone"))
    describe(results, title="Retrieval on a made-up set", note="A note.", control="control", metrics=["HR@10"])
    return results


def describe(results: Path, **values: object) -> None:
    (results / "house" / "retrieval" / "table.json").write_text(json.dumps(values))


def lines_of(page: Path, row: str) -> list[str]:
    return [line for line in page.read_text().splitlines() if line.startswith(f"| {row} |")]


def test_rows_show_mean_and_spread_and_are_compared_with_the_control(folder: Path, tmp_path: Path) -> None:
    page = write_report(folder, tmp_path / "docs")
    text = page.read_text()
    assert "generated from the files in `results/` by `penchant report results`" in text
    assert "## Retrieval on a made-up set\n\nA note.\n" in text
    assert "Data `d1`, split `s1`, window test." in text
    assert "| above | 0.4100 ± 0.0100 | 3 | 4 | 100 | 12 |" in text
    assert "| below | 0.2000 | 1 | 4 | 100 | 12 |" in text
    value = lines_of(page, "above")[1]
    assert value.startswith("| above | +0.1000 [+0.09")
    assert value.endswith("] **held** |")
    assert lines_of(page, "below")[1].endswith("] **not held** |")
    assert lines_of(page, "alike")[1].endswith("] not decidable |")
    assert lines_of(page, "lone")[1] == "| lone | not decidable (no per-user values) |"
    assert "synthetic" not in text


def test_a_difference_is_of_the_seeds_that_both_rows_have(folder: Path, tmp_path: Path) -> None:
    """The control's mean moves with its seeds: one seed beside three would be compared with others' luck."""
    write_row(folder, 0.35, row="late", seed=2)  # where the control has 0.32
    write_row(folder, 0.35, row="strange", seed=7)
    page = write_report(folder, tmp_path / "docs")
    assert lines_of(page, "late")[1].startswith("| late | +0.0300 [")
    assert lines_of(page, "strange")[1] == "| strange | not decidable (no seed in common) |"


def test_a_note_of_every_row_is_told_once(folder: Path, tmp_path: Path) -> None:
    for row in ("one", "other"):
        write_result(folder, result(row=row, table="noted", notes=("Shared.", f"Of {row}.")), per_user(0.3))
    text = write_report(folder, tmp_path / "docs").read_text()
    assert "- Every row: Shared.\n- one: Of one.\n- other: Of other.\n" in text


def test_a_metric_may_have_weights_of_its_own(folder: Path, tmp_path: Path) -> None:
    """GAUC is of impressions, HR of targets: users without the one or the other do not count there."""
    for row, gain in (("control", 0.0), ("above", 0.02)):
        table = per_user(0.3 + gain)
        own = np.where(np.arange(len(table)) % 4 == 0, 0.0, 3.0).astype(np.float32)
        values = np.where(own > 0, table["HR@10"].to_numpy(), np.nan).astype(np.float32)
        table = table.append_column("GAUC request", pa.array(values))
        write_result(
            folder,
            result(row=row, seed=0, metrics={"GAUC request": 0.5}, table="shown"),
            table.append_column("GAUC request weight", pa.array(own)),
        )
    (folder / "house" / "shown" / "table.json").write_text(
        json.dumps({"control": "control", "metrics": ["GAUC request"]})
    )
    _, told = lines_of(write_report(folder, tmp_path / "docs"), "above")[-2:]
    assert told.startswith("| above | +0.0200 [")
    assert told.endswith("] **held** |")


def test_a_slice_is_a_column_of_which_no_difference_is_told(folder: Path, tmp_path: Path) -> None:
    cold = {"item": {"cold": {"HR@10": 0.125, "targets": 8}}}
    write_result(folder, result(row="sliced", slices=cold), per_user(0.25))
    write_result(folder, result(row="comma", metrics={"HR@10, in short": 0.5}), per_user(0.25))
    describe(folder, control="control", metrics=["HR@10", "HR@10, item=cold", "HR@10, in short"])
    page = write_report(folder, tmp_path / "docs")
    assert "| row | HR@10 | HR@10, item=cold | HR@10, in short | seeds |" in page.read_text()
    assert "| comma | – | – | 0.5000 | 1 |" in page.read_text()
    shown, *told = lines_of(page, "sliced")
    assert shown.startswith("| sliced | 0.2500 | 0.1250 | – | 1 |")
    (difference,) = told
    assert difference.count("held") == 1
    assert "\n| row | HR@10 |\n" in page.read_text()
    assert "| below | 0.2000 | – | – | 1 |" in page.read_text()  # it has no such slice


def test_rankers_reliability_is_a_picture(folder: Path, tmp_path: Path) -> None:
    bins = {"bin 01": {"predicted": 0.1, "observed": 0.2}, "bin 02": {"predicted": 0.6, "observed": 0.5}}
    write_result(folder, result(row="told", table="ranking", slices={"reliability": bins}), per_user(0.25))
    page = write_report(folder, tmp_path / "docs")
    (shown,) = [line for line in page.read_text().splitlines() if line.startswith("![Reliability")]
    picture = (tmp_path / "docs" / shown.partition("(")[2].rstrip(")")).read_text()
    assert "<svg" in picture
    assert "told" in picture
    assert report_is_current(folder, tmp_path / "docs")


def test_the_same_files_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    once, again = write_report(folder, tmp_path / "a").parent, write_report(folder, tmp_path / "b").parent
    write_report(folder, tmp_path / "b")
    files = sorted(p.relative_to(once) for p in once.rglob("*") if p.is_file())
    assert [str(f) for f in files] == ["results/house.retrieval.made-up.loo.svg", "results.md"]
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for file in files:
        assert (once / file).read_bytes() == (again / file).read_bytes()


def test_check_sees_a_new_result_an_edit_and_a_lost_figure(folder: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    assert not report_is_current(folder, docs)
    page = write_report(folder, docs)
    assert report_is_current(folder, docs)
    page.write_text(page.read_text().replace("0.4100", "0.4200"))
    assert not report_is_current(folder, docs)
    write_report(folder, docs)
    write_row(folder, 0.5, row="newer")
    assert not report_is_current(folder, docs)
    write_report(folder, docs)
    next((docs / "results").glob("*.svg")).unlink()
    assert not report_is_current(folder, docs)


def test_every_group_of_the_same_data_and_split_has_its_own_table_and_figure(folder: Path, tmp_path: Path) -> None:
    write_row(folder, 0.9, row="control", data="bazaar", data_fingerprint="d2", synthetic=True)
    write_row(folder, 0.9, row="control", seed=7, data_fingerprint="d3")
    page = write_report(folder, tmp_path / "docs")
    text = page.read_text()
    assert "### bazaar, split loo (synthetic data)" in text
    assert "### made-up, split loo\n" in text
    # Rows on another version of the data are never averaged with the others, nor compared with them.
    assert "| control | 0.3100 ± 0.0100 | 3 |" in text
    assert text.count("| control | 0.9000 | 1 |") == 2
    figures = sorted(p.name for p in (tmp_path / "docs" / "results").iterdir())
    assert figures == [f"house.retrieval.{n}.svg" for n in ("bazaar.loo", "made-up.loo.1", "made-up.loo")]
    assert all(f"](results/{name})" in text for name in figures)


def test_a_table_may_be_drawn_against_a_cost(folder: Path, tmp_path: Path) -> None:
    for row, seconds in {"quick": 0.5, "slow": 2500.0}.items():
        write_result(folder, result(row=row, metrics={"HR@10": 0.2, "CPU s": seconds}), per_user(0.2))
    describe(folder, metrics=["HR@10", "CPU s"], against="CPU s")
    page = write_report(folder, tmp_path / "docs")
    assert "![HR@10 against CPU s](results/house.retrieval.made-up.loo.svg)" in page.read_text()
    assert lines_of(page, "slow")[0].startswith("| slow | 0.2000 | 2,500 |")
    assert lines_of(page, "control")[0].startswith("| control | 0.3100 ± 0.0100 | – |")
    figure = (tmp_path / "docs" / "results" / "house.retrieval.made-up.loo.svg").read_text()
    assert "<!-- slow -->" in figure
    assert "<!-- control -->" not in figure  # what it cost is not known


def test_rows_of_growing_data_are_one_table_in_order_of_size_with_a_curve_a_metric(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for size, seconds in ((2_000_000, 30.0), (30_000, 1.5)):
        grown = {"data_fingerprint": f"d{size}", "metrics": {"Rows": float(size), "CPU s": seconds, "GB": 0.5}}
        write_result(results, result(row=f"{size}-rows", synthetic=True, **grown))
    describe(results, title="Growth", curve="Rows", metrics=["CPU s", "GB"])
    page = write_report(results, tmp_path / "docs")
    text = page.read_text()
    assert (
        "| row | Rows | CPU s | GB | data |\n| --- | ---: | ---: | ---: | ---: |\n"
        "| 30000-rows | 30,000 | 1.5000 | 0.5000 | `d30000` (synthetic) |\n"
        "| 2000000-rows | 2,000,000 | 30.0000 | 0.5000 | `d2000000` (synthetic) |\n"
    ) in text
    assert "![By Rows](results/house.retrieval.made-up.loo.svg)" in text
    figures = list((tmp_path / "docs" / "results").iterdir())
    assert [figure.name for figure in figures] == ["house.retrieval.made-up.loo.svg"]
    drawn = figures[0].read_text()
    assert "<!-- CPU s -->" in drawn
    assert "<!-- GB -->" in drawn


def test_an_old_figure_goes_with_its_rows(folder: Path, tmp_path: Path) -> None:
    write_row(folder, 0.9, row="control", data="bazaar")
    figures = write_report(folder, tmp_path / "docs").parent / "results"
    assert len(list(figures.iterdir())) == 2
    next(folder.rglob("control.bazaar.*.json")).unlink()
    write_report(folder, tmp_path / "docs")
    assert [p.name for p in figures.iterdir()] == ["house.retrieval.made-up.loo.svg"]


def test_less_is_better_and_ablations_turn_the_claim(folder: Path, tmp_path: Path) -> None:
    describe(folder, control="control", metrics=["HR@10"], lower_is_better=["HR@10"])
    assert lines_of(write_report(folder, tmp_path / "docs"), "below")[1].endswith("] **held** |")
    describe(folder, control="control", metrics=["HR@10"], claim="worse")
    page = write_report(folder, tmp_path / "docs")
    assert lines_of(page, "below")[1].endswith("] **held** |")
    assert lines_of(page, "above")[1].endswith("] **not held** |")


def test_curves_of_a_row_are_a_picture(folder: Path, tmp_path: Path) -> None:
    curves = {"over": "epochs", "panels": {"Recall@20": {"chain": [[0.5, 0.1], [1.0, 0.2]], "zero": [[0.5, 0.1]]}}}
    write_result(folder, result(row="told", table="leak", slices={"curves": curves}), per_user(0.25))
    page = write_report(folder, tmp_path / "docs")
    assert "![told, by epochs](results/house.leak.told.made-up.loo.curves.svg)" in page.read_text()
    assert "chain" in (page.parent / "results" / "house.leak.told.made-up.loo.curves.svg").read_text()


def test_differences_are_told_of_what_is_claimed(folder: Path, tmp_path: Path) -> None:
    describe(folder, control="control", metrics=["HR@10", "NDCG@10"])
    page = write_report(folder, tmp_path / "docs")
    assert "\n| row | HR@10 | NDCG@10 |\n" in page.read_text()
    assert lines_of(page, "below")[1].count("held") == 2
    describe(folder, control="control", metrics=["HR@10", "NDCG@10"], compared=["NDCG@10"])
    page = write_report(folder, tmp_path / "docs")
    assert "\n| row | NDCG@10 |\n" in page.read_text()
    assert lines_of(page, "below")[1].count("held") == 1


def test_the_page_begins_with_links_to_its_tables(folder: Path, tmp_path: Path) -> None:
    """Controls before others; anchors as GitHub makes them, also of two tables of one name."""
    describe(folder, title="KARMA's Table 1: what it's worth", control="control")
    for paper, table in (("controls", "beauty"), ("aside", "more")):
        write_result(folder, replace(result(row="one"), paper=paper, table=table))
        (folder / paper / table / "table.json").write_text(json.dumps({"title": "Two of a name"}))
    lines = write_report(folder, tmp_path / "docs").read_text().splitlines()
    contents = [line for line in lines if line.startswith("- **") and "](#" in line]
    assert contents == [
        "- **Controls**: [Two of a name](#two-of-a-name)",
        "- **aside**: [Two of a name](#two-of-a-name-1)",
        "- **house**: [KARMA's Table 1: what it's worth](#karmas-table-1-what-its-worth)",
    ]
    titles = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert titles == ["Two of a name", "Two of a name", "KARMA's Table 1: what it's worth"]


def test_rows_may_have_controls_of_their_own(folder: Path, tmp_path: Path) -> None:
    describe(folder, pairs={"above": "below", "alike": "control"}, metrics=["HR@10"])
    text = write_report(folder, tmp_path / "docs").read_text()
    assert "Difference to its control; the claim" in text
    assert "| above less below | +0.2" in text
    assert "| alike less control | " in text
    assert "below less" not in text
    describe(folder, control="below", pairs={"above": None}, metrics=["HR@10"])
    text = write_report(folder, tmp_path / "docs").read_text()
    assert "| alike less below | " in text
    assert "above less" not in text
    describe(folder, pairs={"above": 3})
    with pytest.raises(RunError, match="field 'pairs' cannot be"):
        write_report(folder, tmp_path / "docs")


def test_rows_judged_on_other_targets_are_not_compared(folder: Path, tmp_path: Path) -> None:
    write_result(folder, result(row="fewer"), per_user(0.3, users=50))
    nan = per_user(0.3)
    nan = nan.set_column(2, "HR@10", pa.array([float("nan")] * len(nan), pa.float32()))
    write_result(folder, result(row="undefined"), nan)
    page = write_report(folder, tmp_path / "docs")
    assert lines_of(page, "fewer")[1].endswith("not decidable (judged on other targets) |")
    assert lines_of(page, "undefined")[1].endswith("not decidable (undefined for a user) |")


def test_without_table_file_the_usual_metrics_that_all_rows_have_are_shown(tmp_path: Path) -> None:
    results = tmp_path / "results"
    write_row(results, 0.3, row="one", notes=("A random 5 of 9 targets were judged (seed 0).",))
    write_result(results, result(row="two", metrics={"HR@10": 0.1, "MRR@10": 0.1}))
    text = write_report(results, tmp_path / "docs").read_text()
    assert "## house: retrieval" in text
    assert "| row | HR@10 | seeds |" in text
    assert "- one: A random 5 of 9 targets were judged (seed 0)." in text
    assert "Difference" not in text.split("##", 1)[1]


def test_a_control_that_has_not_run_is_said(folder: Path, tmp_path: Path) -> None:
    describe(folder, control="popularity", metrics=["HR@10"])
    assert "The control `popularity` has not been run here" in write_report(folder, tmp_path / "docs").read_text()


def test_no_results_is_a_page_that_says_so(tmp_path: Path) -> None:
    assert "There are no result files yet." in write_report(tmp_path / "none", tmp_path / "docs").read_text()


@pytest.mark.parametrize(
    ("values", "message"),
    [({"titel": "x"}, "field 'titel'"), ({"claim": "best"}, "field 'claim'"), ({"metrics": ["a", 1]}, "'metrics'")],
)
def test_a_wrong_field_of_a_table_file_is_named(folder: Path, tmp_path: Path, values: dict, message: str) -> None:
    describe(folder, **values)
    with pytest.raises(RunError, match=rf"table\.json: .*{message}"):
        write_report(folder, tmp_path / "docs")
