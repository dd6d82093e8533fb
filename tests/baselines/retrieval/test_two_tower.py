"""The plain two-tower: its vectors, and what reaches them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penchant.baselines.retrieval.two_tower import MAX_SCALE, TwoTower, TwoTowerConfig
from penchant.errors import ConfigError
from penchant.models import Sizes
from tests.checkerboard import requests_of


@pytest.fixture
def model() -> TwoTower:
    torch.manual_seed(1)
    model = TwoTower(TwoTowerConfig(width=8, inner=12, max_len=4), Sizes(num_items=9, num_categories=3))
    model.set_categories(torch.tensor([0, 1, 1, 1, 2, 2, 2, 3, 3, 0]))
    return model.eval()


@torch.no_grad()
def test_user_vectors_read_the_mean_and_the_last_of_the_latest_actions(model: TwoTower) -> None:
    history = [9, 1, 5, 2, 2, 7]
    x = (model.items.weight + model.categories.weight[model.item_category]).numpy()
    latest = x[history[-4:]]
    given = torch.from_numpy(np.concatenate([latest.mean(0), latest[-1]]))
    expected = model.user_tower(given)
    expected = expected / expected.norm() / model.config.temperature
    torch.testing.assert_close(model.user_vectors(requests_of(history))[0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_every_position_is_the_vector_served_after_it(model: TwoTower) -> None:
    history = [3, 8, 8, 1]
    hidden = model.hidden(requests_of(history, padding=2).history)[0]
    for n in range(1, 5):
        torch.testing.assert_close(model.user_vectors(requests_of(history[:n]))[0], hidden[n - 1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_product_is_cosine_over_temperature(model: TwoTower) -> None:
    items = model.item_vectors()
    assert items.norm(dim=1).tolist() == pytest.approx([0.0] + [1.0] * 9, abs=1e-6)
    users = model.user_vectors(requests_of([1, 2], [5]))
    assert users.norm(dim=1).tolist() == pytest.approx([20.0, 20.0], rel=1e-5)
    model.log_scale.fill_(50.0)
    assert model.user_vectors(requests_of([1])).norm() == pytest.approx(MAX_SCALE, rel=1e-5)


@torch.no_grad()
def test_items_of_one_category_share_its_vector(model: TwoTower) -> None:
    before = model.item_vectors()
    model.categories.weight[2] += 1.0
    moved = ~torch.isclose(before, model.item_vectors()).all(1)
    assert moved.nonzero()[:, 0].tolist() == [4, 5, 6]


def test_gradients_reach_both_towers_and_no_padding(model: TwoTower) -> None:
    model.train()
    requests = requests_of([1, 4, 7], [2])
    (model.hidden(requests.history)[requests.mask] @ model.item_vectors().T).exp().sum().log().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for table in (model.items, model.categories):
        assert table.weight.grad is not None
        assert not table.weight.grad[0].any()


def test_without_categories_it_works_the_same() -> None:
    model = TwoTower(TwoTowerConfig(), Sizes(num_items=3))
    assert model.item_vectors().shape == (4, 64)


@pytest.mark.parametrize("config", [{"width": 0}, {"temperature": 0.0}, {"max_len": 0}])
def test_impossible_sizes_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        TwoTowerConfig(**config)  # pyright: ignore[reportArgumentType]
