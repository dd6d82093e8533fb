"""STOSA: distances, attention and blocks against loops; its scores are distances; its published loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from penchant.baselines.retrieval import auxiliary
from penchant.baselines.retrieval.auxiliary import STOSAObjective, STOSAObjectiveConfig
from penchant.baselines.retrieval.stosa import FLOOR, STOSA, StochasticBlock, STOSAConfig, positive, wasserstein
from penchant.data.batch import SequenceBatch
from penchant.errors import ConfigError
from penchant.models import Sizes
from tests.baselines.retrieval.test_bert4rec import linear, norm
from tests.checkerboard import requests_of

CONFIG = STOSAConfig(width=4, heads=2, blocks=1, max_len=5)


@pytest.fixture
def model() -> STOSA:
    torch.manual_seed(1)
    return STOSA(CONFIG, Sizes(num_items=9)).eval()


def distance(mean: np.ndarray, variance: np.ndarray, other: np.ndarray, other_variance: np.ndarray) -> float:
    """W2^2 from covariance matrices: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)."""
    root = np.diag(np.sqrt(variance))
    inner = root @ np.diag(other_variance) @ root
    trace = np.trace(np.diag(variance) + np.diag(other_variance) - 2 * np.sqrt(inner))
    return float(((mean - other) ** 2).sum() + trace)


def elu1(x: np.ndarray) -> np.ndarray:
    return np.maximum(np.where(x > 0, x, np.expm1(np.minimum(x, 0))) + 1, FLOOR)


def block_by_loops(block: StochasticBlock, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One row: each position's distances to what came before, one head and one key at a time."""
    length, width = mean.shape
    q, k, v = np.split(linear(mean, block.mean_qkv), 3, axis=-1)
    q_var, k_var, v_var = np.split(elu1(linear(variance, block.variance_qkv)), 3, axis=-1)
    size = width // block.heads
    mixed, mixed_var = np.zeros_like(mean), np.zeros_like(mean)
    for head in range(block.heads):
        p = slice(head * size, (head + 1) * size)
        for t in range(length):
            near = [-distance(q[t, p], q_var[t, p], k[s, p], k_var[s, p]) / math.sqrt(size) for s in range(t + 1)]
            weights = np.exp(near) / np.exp(near).sum()
            mixed[t, p] = sum(w * v[s, p] for s, w in enumerate(weights))
            mixed_var[t, p] = sum(w**2 * v_var[s, p] for s, w in enumerate(weights))
    mean = norm(mean + linear(mixed, block.mean_out), block.mean_norm)
    variance = norm(variance + linear(mixed_var, block.variance_out), block.variance_norm)
    out = []
    for x, forward in ((mean, block.mean_forward), (variance, block.variance_forward)):
        inner = linear(x, forward.inner)
        inner = np.where(inner > 0, inner, np.expm1(np.minimum(inner, 0)))
        out.append(norm(x + linear(inner, forward.outer), forward.norm))
    return out[0], elu1(out[1])


def test_the_distance_is_the_wasserstein_distance_of_diagonal_gaussians() -> None:
    rng = np.random.default_rng(0)
    mean, other = rng.normal(size=(2, 3, 4))
    variance, other_variance = rng.uniform(0.1, 2, (2, 3, 4))
    found = wasserstein(*(torch.from_numpy(x) for x in (mean, np.sqrt(variance), other, np.sqrt(other_variance))))
    expected = [distance(*row) for row in zip(mean, variance, other, other_variance, strict=True)]
    np.testing.assert_allclose(found, expected)


@torch.no_grad()
def test_states_are_stochastic_self_attention(model: STOSA) -> None:
    history = [3, 9, 9, 1]
    begun = [
        norm((half.items.weight[history] + half.positions.weight[:4]).numpy(), half.norm)
        for half in (model.means, model.variances)
    ]
    block = model.blocks[0]
    assert isinstance(block, StochasticBlock)
    mean, variance = block_by_loops(block, begun[0], elu1(begun[1]))
    found, std = model.states(requests_of(history).history)
    np.testing.assert_allclose(found[0], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(std[0].square(), variance, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_products_rank_by_negative_distance(model: STOSA) -> None:
    requests = requests_of([3, 1, 2], [7])
    mean, std = (x[[0, 1], requests.lengths - 1] for x in model.states(requests.history))
    means, stds = model.gaussians(torch.arange(1, 10))
    distances = np.array(
        [
            [distance(m, s**2, n, r**2) for n, r in zip(means.numpy(), stds.numpy(), strict=True)]
            for m, s in _rows(mean, std)
        ]
    )
    products = (model.user_vectors(requests) @ model.item_vectors().T)[:, 1:].numpy()
    own = (mean.square() + std.square()).sum(1, keepdim=True).numpy()
    np.testing.assert_allclose(products - own, -distances, rtol=1e-4, atol=1e-4)


def _rows(mean: torch.Tensor, std: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(mean.numpy(), std.numpy(), strict=True))


def test_variances_are_positive_and_their_roots_have_slopes() -> None:
    x = torch.tensor([-200.0, -20.0, 0.0, 3.0], requires_grad=True)
    roots = positive(x).sqrt()
    roots.sum().backward()
    assert roots.tolist() == pytest.approx([1e-3, 1e-3, 1.0, 2.0])
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@torch.no_grad()
def test_published_loss_is_bpr_on_distances_with_the_penalty(model: STOSA, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {2: 7, 3: 9, 6: 1}
    monkeypatch.setattr(auxiliary, "_others", lambda targets, *_: torch.tensor([[wrong[i]] for i in targets.tolist()]))
    batch = SequenceBatch(torch.tensor([[1, 2], [5, 0]]), torch.tensor([[2, 3], [6, 0]]))
    found = STOSAObjective(STOSAObjectiveConfig(loss="published", penalty=0.5), torch.ones(10).long())(model, batch)
    mean, std = (x.numpy() for x in model.states(batch.history))
    means, stds = (x.numpy() for x in model.gaussians(torch.arange(10)))
    bpr, pvn = [], []
    for row, t, i in ((0, 0, 2), (0, 1, 3), (1, 0, 6)):
        j = wrong[i]
        near = distance(mean[row, t], std[row, t] ** 2, means[i], stds[i] ** 2)
        far = distance(mean[row, t], std[row, t] ** 2, means[j], stds[j] ** 2)
        bpr.append(-math.log(1 / (1 + math.exp(near - far))))
        pvn.append(max(near - distance(means[i], stds[i] ** 2, means[j], stds[j] ** 2), 0))
    assert max(pvn) > 0
    assert float(found["bpr"]) == pytest.approx(np.mean(bpr), rel=1e-4)
    assert float(found["pvn"]) == pytest.approx(0.5 * np.mean(pvn), rel=1e-4)


@pytest.mark.parametrize("config", [{"width": 0}, {"heads": 3}, {"blocks": 0}, {"dropout": -0.1}])
def test_impossible_sizes_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        STOSAConfig(**config)  # pyright: ignore[reportArgumentType]


def test_an_impossible_penalty_is_refused() -> None:
    with pytest.raises(ConfigError, match="penalty"):
        STOSAObjectiveConfig(penalty=-1.0)
