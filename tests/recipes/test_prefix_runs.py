"""Runs of models that read a history as a whole: seeds, a kill and going on, long histories, and what is refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from penchant.baselines.retrieval.mind import MIND
from penchant.baselines.retrieval.objective import PrefixSoftmaxObjective
from penchant.data.prefix_batch import PrefixBatches
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.models import build_model, sizes_of
from penchant.recipes import controls
from penchant.recipes.named import recipe_of
from penchant.recipes.runs import PrefixRun, load_run, train_run
from penchant.training.loop import fit

NAMES = ("youtube_dnn", "mind", "comirec_sa", "comirec_dr")


def small(name: str, seed: int = 0) -> PrefixRun:
    """A run of a few steps on short histories."""
    run = recipe_of(name)
    assert isinstance(run, PrefixRun)
    train = replace(run.train, epochs=1.0, seed=seed, tensorboard=False, device="cpu")
    data = replace(run.data, batch_targets=128, max_len=8)
    return replace(run, model=replace(run.model, max_len=8), data=data, train=train)


def test_same_seed_same_weights_other_seed_other_weights(store: Store, tmp_path: Path) -> None:
    split = load_split(store, "loo")
    kept = []
    for n, seed in enumerate((1, 1, 2)):
        train_run(small("mind", seed), store, split, tmp_path / str(n))
        kept.append(load_run(tmp_path / str(n), device="cpu").model.state_dict())
    first, again, other = kept
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["items.weight"], other["items.weight"])
    assert not torch.equal(first["first_logits"], other["first_logits"])


def test_a_killed_run_goes_on_to_the_very_same_weights(store: Store, tmp_path: Path) -> None:
    split, run = load_split(store, "loo"), small("mind")
    counts = torch.from_numpy(split.item_counts(store))
    train = replace(run.train, checkpoint_every_s=0.0)

    def trained(folder: str, stop: int | None) -> MIND:
        torch.manual_seed(run.train.seed)
        model = build_model(run.kind, asdict(run.model), sizes_of(store))
        objective, batches = PrefixSoftmaxObjective(run.objective, counts), PrefixBatches(store, split, run.data, 0)
        fit(model, objective, batches, train, tmp_path / folder, should_stop=lambda step: step == stop)
        return model

    whole = trained("whole", None)
    trained("killed", 3)
    torch.rand(7)  # another process is at another place of its random numbers
    again = trained("killed", None)
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", NAMES)
def test_long_runs_read_longer_histories_and_take_as_many_targets_a_step(name: str) -> None:
    run = recipe_of(name)
    assert isinstance(run, PrefixRun)
    longer = controls.long(run, 1000)
    assert (longer.model.max_len, longer.data.max_len) == (1000, 1000)
    assert longer.data.batch_targets * longer.train.accumulate == run.data.batch_targets * run.train.accumulate
    assert replace(longer, model=run.model, data=run.data, train=run.train) == run


@pytest.mark.parametrize("name", ["youtube_dnn", "comirec_sa"])
def test_a_long_run_trains(store: Store, tmp_path: Path, name: str) -> None:
    run = controls.long(small(name), 30)
    train_run(run, store, load_split(store, "loo"), tmp_path)
    assert load_run(tmp_path, device="cpu").model.config.max_len == 30


def test_histories_of_another_length_than_the_model_reads_are_refused(store: Store, tmp_path: Path) -> None:
    run = recipe_of("mind")
    assert isinstance(run, PrefixRun)
    with pytest.raises(ConfigError, match=r"data\.max_len is 60, model\.max_len 50"):
        train_run(replace(run, data=replace(run.data, max_len=60)), store, load_split(store, "loo"), tmp_path)
