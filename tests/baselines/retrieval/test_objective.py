"""What models of several vectors a user learn by: the target's choice among them, and two interests told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from penchant.baselines.retrieval.comirec import ComiRecDR, ComiRecDRConfig, ComiRecSA, ComiRecSAConfig
from penchant.baselines.retrieval.mind import MIND, MINDConfig
from penchant.baselines.retrieval.objective import (
    PrefixSoftmaxConfig,
    PrefixSoftmaxObjective,
    SoftmaxConfig,
    SoftmaxObjective,
    attended,
    nearest,
)
from penchant.baselines.retrieval.youtube_dnn import YouTubeDNN, YouTubeDNNConfig
from penchant.data.prefix_batch import PrefixBatch
from penchant.errors import ConfigError
from penchant.losses import full_softmax
from penchant.models import Sizes
from tests.checkerboard import requests_of

VECTORS = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]], [[-1.0, 0.0], [-3.0, 1.0], [0.5, 0.5]]])
REAL = torch.tensor([[True, True, False], [True, True, True]])
LABELS = torch.tensor([[1.0, 1.0], [1.0, 0.0]])


def test_the_nearest_interest_is_that_of_the_largest_product() -> None:
    assert nearest(VECTORS, REAL, LABELS).tolist() == [[0.0, 2.0], [0.5, 0.5]]


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_label_aware_attention_is_that_of_the_loop(power: float) -> None:
    found = attended(VECTORS, REAL, LABELS, power)
    for row in range(2):
        there = [k for k in range(3) if REAL[row, k]]
        products = [float(VECTORS[row, k] @ LABELS[row]) for k in there]
        weights = np.exp([np.sign(x) * abs(x) ** power for x in products])
        expected = sum(w * VECTORS[row, k].numpy() for w, k in zip(weights / weights.sum(), there, strict=True))
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-5)


def test_the_larger_the_power_the_nearer_to_the_nearest() -> None:
    gaps = [float((attended(2 * VECTORS, REAL, LABELS, p) - nearest(2 * VECTORS, REAL, LABELS)).norm()) for p in (1, 2)]
    assert gaps[1] < gaps[0]


@pytest.mark.parametrize("power", [0.5, float("inf"), float("nan")])
def test_impossible_powers_are_refused(power: float) -> None:
    with pytest.raises(ConfigError, match="power"):
        PrefixSoftmaxConfig(power=power)


def test_one_vector_is_trained_by_the_softmax_alone() -> None:
    torch.manual_seed(0)
    model = YouTubeDNN(YouTubeDNNConfig(width=8, dropout=0.0), Sizes(num_items=6))
    batch = PrefixBatch(requests_of([1, 2], [3]).history, torch.tensor([4, 6]))
    objective = PrefixSoftmaxObjective(PrefixSoftmaxConfig(power=2.0), torch.ones(7, dtype=torch.int64))
    expected = full_softmax(model.user_vectors(requests_of([1, 2], [3])), model.item_vectors(), batch.targets)
    torch.testing.assert_close(objective(model, batch)["softmax"], expected)


@pytest.mark.parametrize("power", [None, 2.0])
def test_padding_of_the_batch_changes_no_loss(power: float | None) -> None:
    torch.manual_seed(0)
    model = ComiRecSA(ComiRecSAConfig(width=8, interests=3, dropout=0.0), Sizes(num_items=6))
    objective = PrefixSoftmaxObjective(PrefixSoftmaxConfig(power=power), torch.ones(7, dtype=torch.int64))
    losses = [
        objective(model, PrefixBatch(requests_of([1, 2], [3], padding=n).history, torch.tensor([4, 6])))["softmax"]
        for n in (0, 5)
    ]
    torch.testing.assert_close(*losses)


def test_past_the_bound_the_sample_is_that_of_the_sequence_models() -> None:
    torch.manual_seed(0)
    model = MIND(MINDConfig(width=8), Sizes(num_items=50)).eval()
    counts, history = torch.arange(51), requests_of([1, 2], [3, 9, 7]).history
    config: dict[str, Any] = {"full_up_to_items": 10, "num_sampled": 20}
    batch = PrefixBatch(history, torch.tensor([4, 6]))
    torch.manual_seed(3)
    found = PrefixSoftmaxObjective(PrefixSoftmaxConfig(**config), counts)(model, batch)["sampled_softmax"]
    torch.manual_seed(3)
    hidden = nearest(*model.interests(history), model.embed_items(batch.targets))
    expected = SoftmaxObjective(SoftmaxConfig(**config), counts).terms(model, hidden, batch.targets)["sampled_softmax"]
    torch.testing.assert_close(found, expected)


GROUPS, MEMBERS = 6, 4


def two_interests(rows: int, pairs: list[tuple[int, int]], seed: int) -> tuple[PrefixBatch, torch.Tensor]:
    """Histories of six actions from two groups of items each, mixed, and the next from either; and the two groups."""
    rng = np.random.default_rng(seed)
    groups = np.array(pairs)[rng.integers(0, len(pairs), rows)]
    of_either = np.tile([0, 0, 0, 1, 1, 1], (rows, 1))
    which = np.concatenate([rng.permuted(of_either, axis=1), rng.integers(0, 2, (rows, 1))], axis=1)
    items = 1 + np.take_along_axis(groups, which, 1) * MEMBERS + rng.integers(0, MEMBERS, which.shape)
    return PrefixBatch(torch.from_numpy(items[:, :-1]), torch.from_numpy(items[:, -1])), torch.from_numpy(groups)


@pytest.mark.parametrize(
    ("cls", "config", "power"),
    [
        (MIND, MINDConfig(width=16, interests=2, dropout=0.0), 2.0),
        (ComiRecSA, ComiRecSAConfig(width=16, interests=2, inner=32, dropout=0.0), None),
        (ComiRecDR, ComiRecDRConfig(width=16, interests=2, dropout=0.0), None),
    ],
)
def test_two_interests_of_a_user_are_told_apart(cls: Any, config: Any, power: float | None) -> None:
    every = [(a, b) for a in range(GROUPS) for b in range(a)]
    torch.manual_seed(0)
    model = cls(config, Sizes(num_items=GROUPS * MEMBERS)).train()
    objective = PrefixSoftmaxObjective(PrefixSoftmaxConfig(power=power), torch.ones(25, dtype=torch.int64))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for step in range(160):
        batch, _ = two_interests(64, every[::2], step)
        loss = objective(model, batch)["softmax"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert found_of(model, every[::2])[0] > 0.9
    if cls is not ComiRecDR:  # each of its interests has a map of its own: pairs that nobody had stay strange to it
        found, apart = found_of(model, every[1::2])
        assert found > 0.9
        assert apart > 0.8


@torch.no_grad()
def found_of(model: Any, pairs: list[tuple[int, int]]) -> tuple[float, float]:
    """Among the best eight items, the share from the user's two groups; and users with an interest in each of them."""
    batch, groups = two_interests(200, pairs, seed=1000)
    requests = requests_of(*batch.history.tolist())
    vectors, _ = model.eval().interest_vectors(requests)
    best = (model.score_items(requests).topk(2 * MEMBERS).indices - 1) // MEMBERS
    own = (vectors @ model.item_vectors()[1:].T).argmax(2) // MEMBERS
    share = (best[..., None] == groups[:, None]).any(2).float().mean()
    return float(share), float((own.sort(1).values == groups.sort(1).values).all(1).float().mean())
