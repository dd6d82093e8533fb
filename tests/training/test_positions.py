"""Places that are looked at less: clicks made up by an examination model, and what each correction recovers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penchant.baselines.ranking.objective import PositionEffect, pointwise, pointwise_loss
from penchant.data.history import Requests
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import StoreError
from penchant.funnel.features import Features, RankInputs
from penchant.recipes import controls
from penchant.recipes.judge import judge_run
from penchant.recipes.runs import load_run, train_run
from penchant.training.impressions import LEAST_CHANCE, ImpressionBatches, RankBatch
from tests.factories import give_columns, make_store

TRUE = torch.tensor([0.0, 0.6, 0.6, 0.3, 0.3])
"""Chance of a click on an item that is looked at; items 1 and 3 are mostly shown on top, 2 and 4 mostly below."""
LOOKED = torch.tensor([1.0, 1.0, 0.5, 0.25])
"""At places 1, 2, 3."""


class ByItem(nn.Module):
    """A logit of each item, whatever the request."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Embedding(5, 1)
        nn.init.zeros_(self.logit.weight)

    def forward(self, inputs: RankInputs) -> Tensor:
        return self.logit(inputs.items)[..., 0]


def logged(count: int = 20_000) -> RankBatch:
    """One impression a request, its place drawn by a policy that prefers some items."""
    rng = np.random.default_rng(0)
    item = rng.integers(1, 5, size=count)
    high, low = (
        np.searchsorted(np.cumsum(share), rng.random(count)) + 1 for share in ((0.7, 0.2, 0.1), (0.1, 0.2, 0.7))
    )
    place = torch.from_numpy(np.where(item % 2 == 1, high, low))
    items = torch.from_numpy(item)
    clicked = torch.from_numpy(rng.random(count)) < TRUE[items] * LOOKED[place]
    empty = torch.zeros(count, 0, dtype=torch.int64)
    requests = Requests(torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64), empty, empty)
    inputs = RankInputs(requests, items[:, None], torch.zeros(count, 1, 0))
    return RankBatch(inputs, clicked.float()[:, None], LOOKED[place][:, None], place[:, None])


def fitted(batch: RankBatch, objective: Any) -> Tensor:
    """Chance of a click on each item, as the model has it at the end."""
    model = ByItem()
    learners = [*model.parameters(), *(objective.parameters() if isinstance(objective, nn.Module) else ())]
    optimizer = torch.optim.Adam(learners, lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        torch.stack(list(objective(model, batch).values())).sum().backward()
        optimizer.step()
    return model.logit.weight[:, 0].detach().sigmoid()


def test_ignored_places_make_an_item_shown_below_look_worse_than_it_is() -> None:
    found = fitted(replace(logged(), chance=None), pointwise)
    assert found[1] > found[2] + 0.15
    assert found[3] > found[4] + 0.05


def test_logged_chances_give_back_the_true_ones() -> None:
    torch.testing.assert_close(fitted(logged(), pointwise)[1:], TRUE[1:], atol=0.03, rtol=0)


def test_an_estimated_effect_makes_equal_items_equal_and_falls_with_the_place() -> None:
    torch.manual_seed(0)
    effect = PositionEffect(pointwise, 3)
    found = fitted(replace(logged(), chance=None), effect)
    assert abs(float(found[1] - found[2])) < 0.05
    assert abs(float(found[3] - found[4])) < 0.05
    assert found[1] > found[3] + 0.15
    learned = effect.effect.weight[:, 0].detach()
    assert learned[1] > learned[2] + 0.4 > learned[3] + 0.8
    assert float(learned[0]) == 0.0


def test_the_weighted_loss_is_its_formula() -> None:
    batch = logged(50)
    x = torch.randn(50, 1, generator=torch.Generator().manual_seed(3))
    assert batch.chance is not None
    share = (batch.labels / batch.chance).double()
    expected = share * -torch.nn.functional.logsigmoid(x.double())
    expected = expected + (1 - share) * -torch.nn.functional.logsigmoid(-x.double())
    assert float(pointwise_loss(x, batch)) == pytest.approx(float(expected.mean()), rel=1e-5)


@pytest.fixture
def placed(tmp_path: Path) -> Store:
    store = make_store(tmp_path / "store")
    position = store.table("impressions", ["position"])["position"].to_numpy()
    return give_columns(store, "impressions", {"propensity": [float(v) for v in 1 / position]})


def test_batches_carry_what_is_asked_for_and_no_more(placed: Store) -> None:
    split = load_split(placed, "temporal-successive")
    features = Features.fit(placed, split, None)
    plain, chance, place = (
        ImpressionBatches(placed, split, "train", features, positions=of).batch(0)
        for of in ("ignored", "propensity", "estimated")
    )
    assert plain.chance is None
    assert plain.positions is None
    assert place.positions is not None
    assert chance.chance is not None
    real = place.mask
    assert set(place.positions[real].tolist()) == set(range(1, 11))
    torch.testing.assert_close(chance.chance[real], (1 / place.positions[real]).clamp(min=LEAST_CHANCE).float())
    assert not place.positions[~real].any()


@pytest.mark.parametrize("positions", ["propensity", "estimated"])
def test_a_corrected_ranker_is_trained_and_served_without_places(placed: Store, tmp_path: Path, positions: Any) -> None:
    split = load_split(placed, "temporal-successive")
    run = controls.mean_pooling()
    train = replace(run.train, epochs=0.5, tensorboard=False, device="cpu")
    run = replace(run, data=replace(run.data, positions=positions), train=train)
    train_run(run, placed, split, tmp_path / "run")
    loaded = load_run(tmp_path / "run", device="cpu")
    assert not [name for name in loaded.model.state_dict() if "effect" in name]
    assert 0 < judge_run(loaded, tmp_path / "run").metrics()["AUC"] <= 1


def test_a_store_that_does_not_know_its_places_is_told_so(placed: Store, tmp_path: Path) -> None:
    split = load_split(placed, "temporal-successive")
    features = Features.fit(placed, split, None)
    plain = make_store(tmp_path / "plain")
    with pytest.raises(StoreError, match="do not know their propensity"):
        ImpressionBatches(plain, load_split(plain, split.name), "train", features, positions="propensity")
    count = placed.table("impressions", ["item"]).num_rows
    unknown = give_columns(make_store(tmp_path / "odd"), "impressions", {"propensity": [1.5] * count})
    with pytest.raises(StoreError, match=r"propensity 1\.5 is no chance"):
        ImpressionBatches(unknown, load_split(unknown, split.name), "train", features, positions="propensity")
