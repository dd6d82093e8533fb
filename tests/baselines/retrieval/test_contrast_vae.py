"""ContrastVAE: the terms of its bound against loops, what is drawn in training and what is served."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from penchant.baselines.retrieval import auxiliary
from penchant.baselines.retrieval.auxiliary import (
    ContrastVAEObjective,
    ContrastVAEObjectiveConfig,
    from_standard,
)
from penchant.baselines.retrieval.contrast_vae import ContrastVAE, ContrastVAEConfig, View
from penchant.data.batch import SequenceBatch
from penchant.errors import ConfigError
from penchant.layers import Dropout
from penchant.losses import two_view_infonce
from penchant.models import Sizes
from tests.checkerboard import requests_of

BATCH = SequenceBatch(torch.tensor([[1, 2], [5, 0], [3, 4]]), torch.tensor([[2, 3], [6, 0], [4, 7]]))


@pytest.fixture
def model() -> ContrastVAE:
    torch.manual_seed(1)
    return ContrastVAE(ContrastVAEConfig(width=4, max_len=5), Sizes(num_items=9)).eval()


def test_kl_is_the_integral_of_its_definition() -> None:
    mean, log_variance = 0.7, -0.4
    std = math.exp(log_variance / 2)
    z = np.linspace(mean - 12 * std, mean + 12 * std, 20_001)
    posterior = np.exp(-(((z - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
    prior = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    expected = (posterior * np.log(posterior / prior)).sum() * (z[1] - z[0])
    both = from_standard(torch.tensor([[mean, 0.0]]), torch.tensor([[log_variance, 0.0]]))
    assert float(both[0]) == pytest.approx(expected, rel=1e-5)


def test_infonce_by_a_loop_over_pairs() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 5))
    rows = [*first, *second]

    def near(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(a @ b / np.linalg.norm(a) / np.linalg.norm(b) / 0.5)

    losses = []
    for i, row in enumerate(rows):
        others = sum(near(row, other) for j, other in enumerate(rows) if j != i)
        losses.append(-math.log(near(row, rows[(i + 3) % 6]) / others))
    found = two_view_infonce(torch.from_numpy(first), torch.from_numpy(second), 0.5)
    assert float(found) == pytest.approx(np.mean(losses))
    assert float(two_view_infonce(torch.ones(1, 3), torch.ones(1, 3), 0.5)) == pytest.approx(0.0, abs=1e-6)


def test_z_is_drawn_around_the_mean_in_training_and_is_the_mean_when_served(model: ContrastVAE) -> None:
    history = requests_of([1, 2, 3]).history
    served = model.view(history)
    assert torch.equal(served.z, served.mean)
    model.train()
    for part in model.modules():
        if isinstance(part, Dropout):
            part.rate = 0.0
    torch.manual_seed(0)
    drawn = torch.stack([model.view(history).z.detach() for _ in range(4000)])
    std = (served.log_variance / 2).exp()
    torch.testing.assert_close(drawn.mean(0), served.mean, rtol=0, atol=0.15)
    torch.testing.assert_close(drawn.std(0), std, rtol=0.05, atol=0.0)


@pytest.mark.parametrize("loss", ["softmax", "published"])
def test_the_objective_is_the_contrast_elbo_of_two_views(
    model: ContrastVAE, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    torch.manual_seed(0)
    views = [View(*torch.randn(4, 3, 2, 4).unbind()) for _ in range(2)]
    waiting = iter(views)
    monkeypatch.setattr(model, "view", lambda history: next(waiting))
    monkeypatch.setattr(auxiliary, "_others", lambda targets, *_: targets[:, None] % 9 + 1)
    config = ContrastVAEObjectiveConfig(loss=loss, kl=0.2, anneal=10, contrast=0.3)  # pyright: ignore[reportArgumentType]
    objective = ContrastVAEObjective(config, torch.ones(10).long())
    objective.batches.fill_(0)
    found = {name: float(value.detach()) for name, value in objective(model, BATCH).items()}
    items = model.items.weight.detach().double().numpy()
    next_item = kl = 0.0
    for view in views:
        mean, log_variance, _, hidden = (x.double().numpy() for x in view)
        for row, t in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1)):
            target = int(BATCH.targets[row, t])
            scores = items @ hidden[row, t]
            if loss == "softmax":
                next_item -= scores[target] - math.log(np.exp(scores[1:]).sum())
            else:
                next_item += math.log1p(math.exp(-scores[target])) + math.log1p(math.exp(scores[target % 9 + 1]))
            kl += (mean[row, t] ** 2 + np.exp(log_variance[row, t]) - 1 - log_variance[row, t]).sum() / 2
    sums = [torch.stack([v.z[0].sum(0), v.z[1, 0], v.z[2].sum(0)]) for v in views]
    assert found.pop("kl") == pytest.approx(0.1 * kl / 5, rel=1e-5)  # the first of ten batches of annealing
    assert found.pop("contrast") == pytest.approx(0.3 * float(two_view_infonce(sums[0], sums[1], 0.5)), rel=1e-5)
    assert found == {{"softmax": "softmax", "published": "binary"}[loss]: pytest.approx(next_item / 5, rel=1e-5)}


def test_the_weight_of_kl_rises_and_is_kept_in_the_state(model: ContrastVAE) -> None:
    objective = ContrastVAEObjective(ContrastVAEObjectiveConfig(kl=0.3, anneal=10), torch.ones(10).long())
    weights = []
    for _ in range(5):
        objective(model, BATCH)
        weights.append(objective.weight())
    assert weights == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])
    assert int(objective.state_dict()["batches"]) == 5


def test_views_differ_by_dropout_and_noise_alone(model: ContrastVAE) -> None:
    history = requests_of([1, 2, 3]).history

    def pair() -> tuple[Tensor, Tensor]:
        return model.view(history).mean, model.view(history).mean

    assert torch.equal(*pair())
    model.train()
    assert not torch.equal(*pair())


@pytest.mark.parametrize("config", [{"width": 0}, {"heads": 3}, {"blocks": 0}, {"dropout": 1.0}])
def test_impossible_sizes_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        ContrastVAEConfig(**config)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("config", [{"kl": -1.0}, {"anneal": 0}, {"contrast": -0.1}, {"temperature": 0.0}])
def test_impossible_losses_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        ContrastVAEObjectiveConfig(**config)  # pyright: ignore[reportArgumentType]
