"""Recipes: every control trains, is judged, resumes, and refuses what is not its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from penchant.data.output import alone
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError, RunError
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.funnel.features import Features
from penchant.recipes import controls
from penchant.recipes.judge import judge_run, metrics_table
from penchant.recipes.named import recipe_of
from penchant.recipes.runs import CountRun, Run, SequenceRun, flat, load_run, train_run
from tests.factories import make_store


def short(run: Run, epochs: float = 2.0) -> Run:
    """The same run, small enough for a test."""
    if isinstance(run, CountRun):
        return run
    return replace(run, train=replace(run.train, epochs=epochs, tensorboard=False, device="cpu"))


@pytest.mark.parametrize("name", [r.__name__ for r in (*controls.RETRIEVAL, *controls.RANKING)])
def test_every_recipe_trains_and_is_judged(store: Store, tmp_path: Path, name: str) -> None:
    split = load_split(store, "temporal-successive")
    train_run(short(recipe_of(name)), store, split, tmp_path)
    verdict = judge_run(load_run(tmp_path, device="cpu"), tmp_path)
    metrics = verdict.metrics()
    assert 0 < metrics["AUC" if name in ("din", "mean_pooling") else "HR@50"] <= 1
    assert verdict.per_user().column_names[:2] == ["user", "weight"]
    assert metrics_table(verdict.result).row_count > 3
    verdict.write(tmp_path / "evaluation.json")
    assert json.loads((tmp_path / "evaluation.json").read_text())["split_fingerprint"] == split.fingerprint


def test_learned_control_beats_popularity_where_order_can_be_learned(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", num_users=200, num_items=60, seed=4)
    split = load_split(store, "loo")
    run = controls.gru4rec()
    run = replace(run, data=replace(run.data, batch_targets=500), train=replace(run.train, epochs=12.0))
    train_run(short(run, 12.0), store, split, tmp_path / "gru")
    train_run(controls.popularity(), store, split, tmp_path / "popularity")
    learned, popular = (
        evaluate_retrieval(load_run(tmp_path / k).model, store, split, ks=(10,)).metrics()["HR@10"]
        for k in ("gru", "popularity")
    )
    assert learned > popular + 0.1


def test_finished_run_is_not_trained_again(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "loo")
    run = short(controls.gru4rec())
    first = train_run(run, store, split, tmp_path)
    written = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert train_run(run, store, split, tmp_path) == first
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("name", ["popularity", "gru4rec", "din"])
def test_folder_that_another_process_trains_in_is_left_alone(store: Store, tmp_path: Path, name: str) -> None:
    split = load_split(store, "temporal-successive")
    with alone(tmp_path, RunError, inside=True):
        with pytest.raises(RunError, match=f"{tmp_path}: another process is at work on it"):
            train_run(short(recipe_of(name)), store, split, tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_folder_of_another_run_is_refused(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "loo")
    train_run(controls.popularity(), store, split, tmp_path)
    with pytest.raises(RunError, match=r"model\.window_days was None, now 30\.0"):
        train_run(controls.recent_popularity(), store, split, tmp_path)
    with pytest.raises(RunError, match=f"split was '{split.fingerprint}', now "):
        train_run(controls.popularity(), store, load_split(store, "temporal-last"), tmp_path)


def test_run_of_another_store_is_refused(store: Store, tmp_path: Path) -> None:
    train_run(controls.popularity(), store, load_split(store, "loo"), tmp_path / "run")
    other = make_store(tmp_path / "other", seed=9)
    with pytest.raises(RunError, match="another Store"):
        load_run(tmp_path / "run", other.path)
    with pytest.raises(RunError, match="no finished run"):
        load_run(tmp_path / "nothing")


def test_pieces_of_another_length_than_the_model_reads_are_refused(store: Store, tmp_path: Path) -> None:
    run = controls.sasrec()
    run = replace(run, data=replace(run.data, max_len=60))
    with pytest.raises(ConfigError, match=r"data\.max_len is 60, model\.max_len 50"):
        train_run(run, store, load_split(store, "loo"), tmp_path)


def test_same_seed_same_weights_other_seed_other_weights(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "loo")

    def weights(folder: str, seed: int) -> torch.Tensor:
        run = controls.two_tower()
        run = replace(run, train=replace(run.train, seed=seed, epochs=1.0, tensorboard=False))
        train_run(run, store, split, tmp_path / folder)
        return load_run(tmp_path / folder).model.items.weight

    first, again, other = weights("a", 1), weights("b", 1), weights("c", 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_catalogue_past_the_bound_is_sampled(store: Store, tmp_path: Path) -> None:
    run = controls.gru4rec()
    assert isinstance(run, SequenceRun)
    run = replace(
        run,
        objective=replace(run.objective, full_up_to_items=10, num_sampled=30),
        train=replace(run.train, epochs=3.0, tensorboard=False),
    )
    train_run(run, store, load_split(store, "loo"), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["sampled_softmax"] for line in lines if "sampled_softmax" in line]
    assert losses
    assert np.isfinite(losses).all()


def test_ranker_sees_no_statistic_of_the_clicks_it_learns_from(store: Store, tmp_path: Path) -> None:
    train_run(short(controls.din(), 0.2), store, load_split(store, "temporal-successive"), tmp_path)
    assert not Features.load(tmp_path).log_popularity.any()


def test_settings_are_shown_flat() -> None:
    assert flat({"a": [{"b": 1}, {"b": [2, 3]}], "c": "x"}) == {"a.0.b": 1, "a.1.b": [2, 3], "c": "x"}
