"""The bench of collapse: rows of made-up diagnoses, and of runs that are counted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import collapse as bench
from penchant.data.split import load_split
from penchant.evaluation.diagnostics.attention import HeadNumbers, Reading
from penchant.evaluation.diagnostics.report import GROUPS, Diagnosis
from penchant.evaluation.results import find_results
from penchant.recipes.controls import popularity
from penchant.recipes.runs import train_run
from tests.factories import make_store


def run(name: str, readers: tuple[str, ...] = (), at: float = 0.0) -> Diagnosis:
    """With readings whose entropy is `at`, and more by 0.1 and 0.2 with other weights; by 1 in the item encoder."""
    readings = [
        Reading(reader, weights, ((HeadNumbers(at + 0.1 * n + i, 0.0, 0.0, 0.0, 0.0),),), {}, ())
        for i, reader in enumerate(bench.READERS)
        if reader in readers
        for n, weights in enumerate(("trained", "untouched", "random"))
    ]
    return Diagnosis(name=name, kind="karma", numbers={"rank": at, "js": 0.5}, readings=tuple(readings))


def test_what_reads_has_a_row_as_it_began_and_one_of_chance_of_the_first_run_that_has_it() -> None:
    both = ("decoder", "item encoder")
    columns = (run("sasrec"), run("action", ("decoder",), 3.0), run("read", both, 5.0), run("again", both, 7.0))
    rows = bench.rows_of(columns)
    assert list(rows)[:4] == ["sasrec", "action", "read", "again"]
    entropy = {row: {k.split(", ")[1]: v for k, v in of.items() if "entropy" in k} for row, of in rows.items()}
    assert entropy == {
        "sasrec": {},
        "action": {"decoder": 3.0},
        "read": {"decoder": 5.0, "item encoder": 6.0},
        "again": {"decoder": 7.0, "item encoder": 8.0},
        "decoder-as-it-began": {"decoder": 3.1},
        "decoder-random": {"decoder": 3.2},
        "item-encoder-as-it-began": {"item encoder": 6.1},
        "item-encoder-random": {"item encoder": 6.2},
    }
    assert rows["action"] | {"Effective rank, items": 3.0, "JS@50": 0.5} == rows["action"]


def test_names_are_safe_and_no_run_takes_anothers_place() -> None:
    names = ("table1/action", "table1-action", "decoder random", "a.b (2)", "frozen text vectors")
    rows = bench.rows_of([run(name, ("decoder",)) for name in names], "liked.")
    safe = ["liked-table1-action", "liked-table1-action-2", "liked-decoder-random", "liked-a-b-2"]
    reads = ["liked-decoder-as-it-began", "liked-decoder-random-2"]
    assert list(rows) == [*safe, "liked-frozen-text-vectors", *reads]


def test_every_column_is_a_number_of_a_diagnosis() -> None:
    known = {key for numbers in GROUPS.values() for key in numbers}
    assert set(bench.OF_VECTORS.values()) <= known
    assert {"js", "topics", "uniformity", "alignment", "stable", "top"} <= set(bench.OF_VECTORS.values())


def test_runs_that_are_counted_and_named_alike_are_rows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store")
    folders = [tmp_path / name / "popularity.made-up.s0" for name in ("one", "other")]
    for folder in folders:
        train_run(popularity(), store, load_split(store, "temporal-successive"), folder)
    monkeypatch.setattr(sys, "argv", ["collapse", *map(str, folders), "--results", str(tmp_path / "results")])
    bench.main()
    found = find_results(tmp_path / "results")
    assert [result.row for result in found] == ["one-popularity", "other-popularity"]
    assert all(result.config["kind"] == "popularity" and result.seed == 0 for result in found)
    assert all(0 < (result.metrics["HR@50"] or 0) < 1 for result in found)
