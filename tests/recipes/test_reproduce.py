"""Tables of results: what is missing is known before it is run, and a finished row is never run twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from penchant.data.output import alone
from penchant.data.split import load_split
from penchant.errors import ConfigError, DivergedError, RunError, StoreError
from penchant.evaluation.results import find_results
from penchant.recipes import controls, reproduce, rows
from penchant.recipes.reproduce import (
    Missing,
    choose,
    missing,
    outdated,
    run_row,
    same_config,
    show,
)
from penchant.recipes.rows import TRIED, ResultTable, Row, choose_rate, with_rate
from penchant.recipes.runs import SequenceRun
from penchant.recipes.tables import PREPARE, tables
from penchant.training.loop import FitResult
from tests.factories import make_store

ROWS = (
    Row(name="popularity", run=controls.popularity(), data="made-up", split="loo", minutes=1.0),
    Row(name="markov", run=controls.markov(), data="made-up", split="temporal-last", minutes=2.0),
)
TABLE = ResultTable(paper="controls", name="small", rows=ROWS, seeds=3)


def test_rows_run_once_and_results_carry_their_provenance(tmp_path: Path) -> None:
    store = make_store(tmp_path / "stores" / "made-up")
    results = tmp_path / "results"
    left = list(missing([TABLE], results, (), (), None))
    assert [(m.row.name, m.seed) for m in left] == [("popularity", 0), ("markov", 0)]  # counts know no seed
    for item in left:
        run_row(item, tmp_path / "stores", tmp_path / "runs", results)
    assert list(missing([TABLE], results, (), (), None)) == []
    assert list(outdated([TABLE], tmp_path / "stores", results)) == []
    shutil.rmtree(store.path)
    make_store(store.path, seed=1)
    (told,) = outdated([TABLE], tmp_path / "stores", results)
    assert "in small: markov (made-up), popularity (made-up)." in told
    for result in find_results(results):
        assert result.data_fingerprint == store.fingerprint
        assert result.config["kind"] == result.row
        assert result.metrics["HR@10"] is not None
        assert "HR@10 unseen" in result.metrics


def test_a_row_that_another_table_has_is_taken_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "stores" / "made-up")
    folders = tmp_path / "stores", tmp_path / "runs", tmp_path / "results"
    known = {
        "small": TABLE,
        "again": replace(TABLE, paper="t2diff", name="again", rows=(replace(ROWS[1], name="chain", trials=5), ROWS[0])),
        "choosing": replace(TABLE, name="choosing", window="valid"),
    }
    monkeypatch.setattr(reproduce, "tables", lambda: known)
    first = run_row(Missing(TABLE, ROWS[1], 0), *folders)
    chain = run_row(Missing(known["again"], known["again"].rows[0], 0), *folders)
    assert (chain.metrics, chain.cpu_seconds) == (first.metrics, first.cpu_seconds)
    assert (chain.paper, chain.table, chain.row) == ("t2diff", "again", "chain")
    assert (first.trials, chain.trials) == (1, 5)  # what a table tried is its own
    assert not (tmp_path / "runs" / "t2diff" / "again").exists()
    assert chain.path(folders[2]).with_suffix(".parquet").is_file()
    run_row(Missing(known["again"], ROWS[0], 0), *folders)  # of another configuration: run
    assert (tmp_path / "runs" / "t2diff" / "again" / "popularity.made-up.loo.s0").is_dir()
    chosen_by = run_row(Missing(known["choosing"], ROWS[1], 0), *folders)
    assert (chosen_by.window, first.window) == ("valid", "test")
    assert chosen_by.metrics != first.metrics, "judged on another window, so not taken from there"


def test_a_result_of_the_same_data_by_another_name_is_written_under_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Stores with and without pictures, which no fingerprint tells apart."""
    other = replace(TABLE, name="other", rows=tuple(replace(row, data="again") for row in ROWS), seeds=1)
    monkeypatch.setattr(reproduce, "tables", lambda: {"small": TABLE, "other": other})
    for name in ("made-up", "again"):
        make_store(tmp_path / "stores" / name)
    places = tmp_path / "stores", tmp_path / "runs", tmp_path / "results"
    first = run_row(Missing(TABLE, ROWS[0], 0), *places)
    again = run_row(Missing(other, other.rows[0], 0), *places)
    assert (again.data, again.metrics) == ("again", first.metrics)
    assert not (tmp_path / "runs" / "controls" / "other").exists(), "it was run once more"
    assert [m.row.name for m in missing([other], tmp_path / "results", (), (), None)] == ["markov"]


def test_seeds_that_chose_are_not_tested_with(tmp_path: Path) -> None:
    row = Row(name="two-tower", run=controls.two_tower(), data="made-up", split="loo", minutes=1.0)
    tested = ResultTable(paper="controls", name="small", rows=(row, *ROWS), seeds=2, first_seed=1)
    left = [(m.row.name, m.seed) for m in missing([tested], tmp_path, (), (), None)]
    assert left == [("two-tower", 1), ("two-tower", 2), ("popularity", 1), ("markov", 1)]


def test_a_row_that_another_process_is_at_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "stores" / "made-up")
    row = tmp_path / "runs" / "controls" / "small" / "popularity.made-up.loo.s0"
    with (
        alone(row, RunError),
        pytest.raises(RunError, match=r"loo\.s0: another process is at work"),
    ):
        run_row(Missing(TABLE, ROWS[0], 0), tmp_path / "stores", tmp_path / "runs", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_missing_rows_can_be_narrowed(tmp_path: Path) -> None:
    assert [m.row.name for m in missing([TABLE], tmp_path, ("markov",), (), None)] == ["markov"]
    assert list(missing([TABLE], tmp_path, (), ("elsewhere",), None)) == []


def test_absent_store_is_named_with_the_way_to_make_it(tmp_path: Path) -> None:
    item = next(iter(missing(choose("controls-ranking"), tmp_path, (), (), 1)))
    with pytest.raises(StoreError, match=r"ml-1m-liked.*penchant prepare movielens"):
        run_row(item, tmp_path / "stores", tmp_path / "runs", tmp_path / "results")


def test_unknown_table_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="controls-calibration"):
        choose("karma-table9")
    assert {t.name for t in choose("controls")} == {t.name for t in tables().values() if t.paper == "controls"}
    assert [t.name for t in choose("karma-table1")] == ["table1"]


def test_what_is_left_is_summed_up(tmp_path: Path) -> None:
    console = Console(record=True, width=120)
    show(list(missing([TABLE], tmp_path, (), (), None)), tmp_path, console)
    assert "2 left, about 3 minutes" in console.export_text()


def one_row(rates: tuple[float, ...]) -> tuple[Missing, SequenceRun]:
    run = controls.two_tower()
    run = replace(run, train=replace(run.train, epochs=80.0, tensorboard=False))
    row = Row(name="two-tower", run=run, rates=rates, data="made-up", split="temporal-successive", minutes=1.0)
    return Missing(ResultTable(paper="controls", name="small", rows=(row,), seeds=1), row, 0), run


def test_the_rate_that_validates_best_is_run_at_full_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "stores" / "made-up")
    item, run = one_row((0.01, 0.1, 1.0))
    folders = tmp_path / "stores", tmp_path / "runs", tmp_path / "results"
    result = run_row(item, *folders)
    (note,) = (n for n in result.notes if n.startswith(TRIED))
    pairs = (part.split(": ") for part in note.split("train.optim.lr ")[1].rstrip(".").split("; "))
    reached = {float(rate): float(best) for rate, best in pairs}
    assert result.trials == len(reached) >= 3
    assert reached[result.config["train"]["optim"]["lr"]] == max(reached.values()) > min(reached.values())
    assert result.config["train"]["epochs"] == 80.0
    runs = tmp_path / "runs" / "controls" / "small"
    assert len(list(runs.glob("*.try*"))) >= len(reached)
    shutil.rmtree(tmp_path / "runs")
    other = run_row(replace(item, seed=1), *folders)
    assert not list(runs.glob("*.try*"))  # what one seed chose is not chosen again
    assert other.config["train"] == result.config["train"] | {"seed": 1}
    assert (note in other.notes, other.trials) == (True, result.trials)
    # In another table it is another's choice.
    monkeypatch.setattr(reproduce, "tables", lambda: {"small": item.table})
    assert isinstance(item.row, Row)
    fixed = replace(item.row, rates=(), run=with_rate(run, result.config["train"]["optim"]["lr"]))
    taken = run_row(Missing(replace(item.table, name="again"), fixed, 0), *folders)
    assert (taken.trials, [n for n in taken.notes if n.startswith(TRIED)]) == (1, [])


@pytest.mark.parametrize(
    ("scores", "tried", "chosen"),
    [
        ({0.5: 1.0, 1.0: 3.0, 2.0: 2.0}, 3, 1.0),
        ({0.5: 1.0, 1.0: 2.0, 2.0: 3.0, 4.0: 2.5}, 4, 2.0),
        ({0.5: 1.0, 1.0: 2.0, 2.0: 3.0, 4.0: 4.0, 8.0: 5.0, 16.0: 6.0}, 5, 8.0),
        ({0.125: 1.0, 0.25: 3.5, 0.5: 3.0, 1.0: 2.0, 2.0: 1.0}, 5, 0.25),
        ({0.5: 1.0, 1.0: 2.0, 2.0: 3.0, 4.0: None}, 4, 2.0),
    ],
)
def test_rates_go_on_while_the_best_is_at_an_end(
    scores: dict[float, float | None], tried: int, chosen: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "store")
    item, run = one_row((0.5, 1.0, 2.0))
    rate, asked = run.train.optim.lr, list[float]()

    def train(of: SequenceRun, *_: object) -> FitResult:
        asked.append(of.train.optim.lr / rate)
        best = next(value for factor, value in scores.items() if factor == pytest.approx(asked[-1]))
        if best is None:
            raise DivergedError("the loss is not finite", fix="Lower it.")
        assert of.train.epochs == 20.0
        return FitResult(1, 1, best, {}, 0.0, 0.0)

    monkeypatch.setattr(rows, "train_run", train)
    assert isinstance(item.row, Row)
    got = choose_rate(item.row.run, item.row.rates, store, load_split(store, "temporal-successive"), tmp_path / "run")
    assert (got.trials, len(asked)) == (tried, tried)
    assert got.run == with_rate(run, rate * chosen)


def test_an_older_result_without_a_later_setting_is_the_same_run() -> None:
    run = controls.sasrec()
    config = json.loads(json.dumps(asdict(run)))
    assert same_config(run, config)
    del config["model"]["gated"]
    assert same_config(run, config)
    assert not same_config(controls.esasrec(), config)  # gated, which was not the default
    assert not same_config(run, config | {"unknown": 1})
    assert not same_config(replace(run, train=replace(run.train, seed=5)), config)


def test_the_page_on_data_tells_how_the_stores_of_the_results_are_made() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "data.md").read_text().replace("\\\n", " ").split())
    for name, how in PREPARE.items():
        for command in how.split(", then "):
            assert command.format(store=f"stores/{name}") in page
