"""Caser: its convolutions against loops over windows, and its published loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penchant.baselines.retrieval import auxiliary
from penchant.baselines.retrieval.auxiliary import CaserObjective, CaserObjectiveConfig
from penchant.baselines.retrieval.caser import Caser, CaserConfig
from penchant.data.batch import SequenceBatch
from penchant.errors import ConfigError
from penchant.models import Sizes
from tests.checkerboard import requests_of

CONFIG = CaserConfig(width=3, window=4, horizontal=2, vertical=2, max_len=8)


@pytest.fixture
def model() -> Caser:
    torch.manual_seed(1)
    model = Caser(CONFIG, Sizes(num_items=9)).eval()
    torch.nn.init.normal_(model.bias)
    return model


def by_loops(model: Caser, window: list[int]) -> np.ndarray:
    """[z; 1] of a window of L items, 0 = nothing, as the paper has it: one filter, one place at a time."""
    image = model.items.weight.numpy()[window] * CONFIG.width**0.5  # [L, d]
    features = []
    for height, conv in enumerate(model.horizontal, 1):
        assert isinstance(conv, torch.nn.Conv1d)
        assert conv.bias is not None
        for kernel, bias in zip(conv.weight.numpy(), conv.bias.numpy(), strict=True):
            places = [
                max(0.0, float((kernel.T * image[s : s + height]).sum() + bias))
                for s in range(CONFIG.window - height + 1)
            ]
            features.append(max(places))
    for dimension in range(CONFIG.width):
        for kernel in model.vertical.weight.numpy()[:, 0]:
            features.append(float(sum(kernel[row] * image[row, dimension] for row in range(CONFIG.window))))
    z = model.dense.weight.numpy() @ np.array(features) + model.dense.bias.numpy()
    return np.append(np.maximum(z, 0), 1)


@torch.no_grad()
def test_every_position_is_the_convolution_of_its_own_window(model: Caser) -> None:
    history = [3, 9, 1, 1, 7, 2]
    hidden = model.hidden(requests_of(history, padding=2).history)[0]
    for t in range(1, len(history) + 1):
        window = [*[0] * CONFIG.window, *history[:t]][-CONFIG.window :]
        np.testing.assert_allclose(hidden[t - 1], by_loops(model, window), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_nothing_before_the_window_is_read(model: Caser) -> None:
    long, short = model.user_vectors(requests_of([5, 6, 7, 1, 2, 3, 4])), model.user_vectors(requests_of([1, 2, 3, 4]))
    torch.testing.assert_close(long, short)


@torch.no_grad()
def test_scores_are_products_of_rows_of_their_own_and_a_bias(model: Caser) -> None:
    z = model.user_vectors(requests_of([1, 2]))
    expected = model.scored.weight @ z[0, :-1] + model.bias
    torch.testing.assert_close((z @ model.item_vectors().T)[0], expected)


@torch.no_grad()
def test_published_loss_is_binary_over_the_next_items_and_negatives(
    model: Caser, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {2: [7, 8], 3: [1, 9], 4: [5, 5], 6: [1, 2]}
    monkeypatch.setattr(auxiliary, "_others", lambda targets, *_: torch.tensor([wrong[i] for i in targets.tolist()]))
    batch = SequenceBatch(torch.tensor([[1, 2, 3], [5, 0, 0]]), torch.tensor([[2, 3, 4], [6, 0, 0]]))
    objective = CaserObjective(CaserObjectiveConfig(loss="published", ahead=2, negatives=2), torch.ones(10).long())
    scores = (model.hidden(batch.history) @ model.item_vectors().T).double().numpy()
    losses = []
    for row, t, targets in ((0, 0, [2, 3]), (0, 1, [3, 4]), (0, 2, [4]), (1, 0, [6])):
        for i in targets:
            right = -np.log(1 / (1 + np.exp(-scores[row, t, i])))
            losses.append(right + sum(-np.log(1 - 1 / (1 + np.exp(-scores[row, t, j]))) for j in wrong[i]))
    assert float(objective(model, batch)["binary"]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_negatives_are_all_items_but_the_target() -> None:
    torch.manual_seed(0)
    targets = torch.tensor([1, 4, 2]).repeat(400)
    drawn = auxiliary._others(targets, 2, 4)
    for target in (1, 4, 2):
        assert set(drawn[targets == target].flatten().tolist()) == {1, 2, 3, 4} - {target}


@pytest.mark.parametrize("config", [{"window": 0}, {"horizontal": 0}, {"window": 9, "max_len": 8}, {"dropout": 1.0}])
def test_impossible_sizes_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        CaserConfig(**config)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("config", [{"negatives": 0}, {"ahead": 0}])
def test_impossible_losses_are_refused(config: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        CaserObjectiveConfig(**config)  # pyright: ignore[reportArgumentType]
