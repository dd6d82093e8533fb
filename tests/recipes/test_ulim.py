"""ULIM's run: two halves, each made once; what a kill costs; how its rows are judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from penchant.data.category_batch import CategoryDataConfig, TargetDataConfig
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import StoreError
from penchant.evaluation.protocol import subsample
from penchant.evaluation.results import find_results, read_per_user
from penchant.models import Sizes
from penchant.papers.ulim.categories import PGIN, PGINConfig
from penchant.papers.ulim.model import ULIMConfig
from penchant.recipes.judge import judge_run
from penchant.recipes.named import recipe_of
from penchant.recipes.reproduce import Missing, run_row
from penchant.recipes.rows import ResultTable, Row
from penchant.recipes.runs import load_run, train_run
from penchant.recipes.ulim import categories
from penchant.recipes.ulim import run as recipe
from penchant.recipes.ulim.categories import judge_categories, tell_categories
from penchant.recipes.ulim.run import UlimRun
from penchant.recipes.ulim.tables import tables
from penchant.training.loop import TrainConfig
from tests.factories import make_store


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


TRAIN = TrainConfig(epochs=1, evaluate_every=0.5, tensorboard=False, device="cpu", checkpoint_every_s=0.0)
RUN = UlimRun(
    model=ULIMConfig(width=8, inner=8, short_len=4, max_len=30, num_searched=3),
    data=CategoryDataConfig(batch=64, negatives=8),
    train=replace(TRAIN, metric="HR@10"),
    category_data=TargetDataConfig(batch=64),
    category_train=replace(TRAIN, metric="category HR@5"),
)


class CutError(Exception):
    pass


@pytest.mark.parametrize("stage", ["ulim, categories", "ulim, retrieval"])
def test_a_run_that_was_cut_in_either_half_goes_on_to_the_same_weights(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    split = load_split(store, "temporal-successive")
    train_run(RUN, store, split, tmp_path / "whole")
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "another"))
    fit = recipe.fit

    def cut(*args: Any, **options: Any) -> Any:
        if options["title"] == stage:
            fit(*args, **options, should_stop=lambda step: step == 3)
            raise CutError
        return fit(*args, **options)

    for half in (categories, recipe):
        monkeypatch.setattr(half, "fit", cut)
    with pytest.raises(CutError):
        train_run(RUN, store, split, tmp_path / "cut")
    for half in (categories, recipe):
        monkeypatch.setattr(half, "fit", fit)
    train_run(RUN, store, split, tmp_path / "cut")
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_what_only_serving_reads_trains_nothing_anew(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, steps = load_split(store, "temporal-successive"), list[int]()
    fit = recipe.fit
    for half in (categories, recipe):
        monkeypatch.setattr(half, "fit", lambda *a, **o: fit(*a, **o, should_stop=lambda n: bool(steps.append(n))))
    train_run(RUN, store, split, tmp_path / "a")
    trained = len(steps)
    assert trained > 4
    for i, changes in enumerate(({"num_searched": 1}, {"merge": "raw"}, {"categories": "last"}, {"short_share": 0.25})):
        changed = replace(RUN, model=replace(RUN.model, **changes))
        train_run(changed, store, split, tmp_path / f"b{i}")
        assert len(steps) == trained
        assert load_run(tmp_path / f"b{i}", device="cpu").model.config == changed.model
    halves = [load_file(tmp_path / name / "model.safetensors") for name in ("a", "b0")]
    assert all(torch.equal(halves[0][k], halves[1][k]) for k in halves[0])
    train_run(replace(RUN, objective=replace(RUN.objective, beta=0.5)), store, split, tmp_path / "c")
    assert trained < len(steps) < 2 * trained  # PGIN is there already
    train_run(replace(RUN, train=replace(RUN.train, seed=1)), store, split, tmp_path / "d")
    assert not torch.equal(
        load_file(tmp_path / "d" / "model.safetensors")["pgin.gate.weight"], halves[0]["pgin.gate.weight"]
    )


def test_neither_half_teaches_the_other(store: Store, tmp_path: Path, cache: Path) -> None:
    train_run(RUN, store, load_split(store, "temporal-successive"), tmp_path / "run")
    (pgin,) = (cache / "ulim").glob("categories-*/model.safetensors")
    (retrieval,) = (cache / "ulim").glob("retrieval-*/model.safetensors")
    whole, alone, encoders = (load_file(p) for p in (tmp_path / "run" / "model.safetensors", pgin, retrieval))
    assert all(torch.equal(whole[f"pgin.{k}"], v) for k, v in alone.items())
    assert all(torch.equal(whole[k], v) for k, v in encoders.items())
    logged = (tmp_path / "run" / "categories" / "metrics.jsonl").read_text()
    assert '"valid/P_poi"' in logged
    assert '"valid/outside"' in logged
    assert '"valid/HR@10"' in (tmp_path / "run" / "retrieval" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"attention": "self", "half": "oldest"}},
        {"model": {"channels": "short"}, "objective": {"alpha": 0.0}},
        {"model": {"channels": "long", "pointer": "linear", "raw_up_to": 5}, "objective": {"beta": 0.0}},
        {"data": {"grouping": "random", "newest": 3}, "objective": {"short_negatives": "category"}},
    ],
)
def test_every_ablation_trains_and_is_judged_in_parts(
    store: Store, tmp_path: Path, changes: dict[str, dict[str, Any]]
) -> None:
    split = load_split(store, "temporal-successive")
    run = replace(RUN, **{part: replace(getattr(RUN, part), **values) for part, values in changes.items()})
    train_run(run, store, split, tmp_path / "run")
    verdict = judge_run(load_run(tmp_path / "run", device="cpu"), tmp_path / "run", ks=(30,))
    metrics = verdict.metrics()
    assert metrics["HR@30"] == pytest.approx(metrics["HR@30 long"] + metrics["HR@30 short alone"])
    assert sum("with the category known" in note for note in verdict.notes()) == 1
    columns = verdict.per_user().column_names
    assert {"HR@30", "HR@30 long", "HR@30 oracle", "category HR@10"} <= set(columns[: columns.index("HR@5")])


def test_a_split_without_validation_trains_too(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "temporal-successive").with_valid_in_train()
    assert train_run(RUN, store, split, tmp_path / "run").best is None


def test_a_row_is_run_by_its_table_and_judged_at_the_tables_lengths(tmp_path: Path) -> None:
    make_store(tmp_path / "stores" / "made-up")
    row = Row(name="ulim", run=RUN, rates=(0.5, 1.0), data="made-up", split="temporal-successive", minutes=1)
    table = ResultTable(paper="ulim", name="table9", rows=(row,), seeds=1, targets=50, ks=(39, 60))
    run_row(Missing(table, row, 0), tmp_path / "stores", tmp_path / "runs", tmp_path / "results")
    (result,) = find_results(tmp_path / "results")
    assert {"HR@39", "HR@60", "HR@60 oracle", "frequency HR@5"} <= set(result.metrics)
    assert "HR@10 unseen" not in result.metrics  # a merged list without what was seen is not what is served
    assert 3 <= result.trials <= 4
    per_user = read_per_user(tmp_path / "results", result)
    assert per_user is not None
    mean = np.average(per_user["HR@60 long"].to_numpy(), weights=per_user["weight"].to_numpy())
    assert mean == pytest.approx(result.metrics["HR@60 long"], abs=1e-5)


def test_categories_are_judged_as_a_loop_would(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "temporal-successive")
    train_run(RUN, store, split, tmp_path / "run")
    model = load_run(tmp_path / "run", device="cpu").model
    with torch.no_grad():
        judged = judge_categories(model.pgin, store, split, "valid", None)
    events = split.targets("valid")
    outside = []
    for event in events.tolist():
        rows = np.arange(int(store.user_indptr[store.event_user[event]]), event)[-30:]
        categories = store.item_category[store.event_item[rows]]
        outside.append(store.item_category[store.event_item[event]] not in categories)
    assert judged["outside"] == pytest.approx(np.mean(outside))
    assert 0 < judged["category HR@1"] <= judged["category HR@5"] <= judged["category HR@20"] == 1.0
    assert 0 < judged["P_poi"] < 1


def test_every_answer_is_placed_as_a_loop_would(store: Store) -> None:
    """Equal shares share their places; a category that an answer does not have is behind all that it has."""
    split = load_split(store, "temporal-successive")
    torch.manual_seed(0)
    pgin = PGIN(PGINConfig(width=8, max_len=30), Sizes(num_items=store.num_items, num_categories=store.num_categories))
    pgin.set_categories(torch.from_numpy(store.item_category.astype(np.int64)))
    told = tell_categories(pgin, store, split, "test", 300)
    assert set(told.places) == {"pgin", "pointer", "generator", "frequency", "last"}
    events, _ = subsample(split.targets("test"), 300, seed=0)
    expected: list[tuple[int, float, float]] = []
    for event in events.tolist():
        user, mine = int(store.event_user[event]), int(store.item_category[store.event_item[event]])
        rows = np.arange(int(store.user_indptr[user]), event)[-30:]
        counts = np.bincount(store.item_category[store.event_item[rows]], minlength=store.num_categories + 1)[1:]
        own = counts[mine - 1]
        expected.append((user, float(own == 0), (counts > own).sum() + ((counts == own).sum() + 1) / 2))
    got = list(zip(told.users.tolist(), told.outside.tolist(), told.places["frequency"].tolist(), strict=True))
    assert sorted(got) == sorted(expected)
    for name, places in told.places.items():
        assert places.min() >= 1, name
        assert places.max() <= store.num_categories, name
    pointed, outside = told.places["pointer"], told.outside > 0
    assert outside.any()
    assert pointed[outside].min() > pointed[~outside].min()
    np.testing.assert_array_equal(told.hits("pgin", 3), told.places["pgin"] <= 3)


def test_targets_without_category_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pgin = PGIN(PGINConfig(width=8), Sizes(num_items=store.num_items, num_categories=1))
    without = Store(store.path)
    monkeypatch.setattr(without, "item_category", np.zeros_like(store.item_category))
    with pytest.raises(StoreError, match="has a category"):
        tell_categories(pgin, without, load_split(store, "temporal-successive"), "test", None)


def test_every_table_states_what_it_compares() -> None:
    known = {t.name: t for t in tables()}
    assert {"table1", "table2", "figure3", "forms", "table1-ml1m"} <= set(known)
    assert known["table1"].seeds == 3
    assert known["table1"].ks == (500, 1000, 2000)
    for table in known.values():
        configs = [json.dumps(repr(row.run)) for row in table.rows]
        assert len(set(configs)) == len(configs)
        assert len({row.name for row in table.rows}) == len(table.rows)
    assert recipe_of("ulim") == UlimRun()
