"""Losses against plain NumPy."""

from __future__ import annotations

import numpy as np
import torch
from torch.autograd import gradcheck

import penchant.losses
from penchant.losses import full_softmax, sampled_softmax


def _softmax_loss(hidden: np.ndarray, items: np.ndarray, targets: np.ndarray) -> float:
    total = 0.0
    for h, t in zip(hidden, targets, strict=True):
        logits = items[1:] @ h
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - items[t] @ h
    return total / len(hidden)


def test_full_softmax_is_cross_entropy_without_padding() -> None:
    rng = np.random.default_rng(0)
    hidden, items = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(11, 3)).astype(np.float32)
    items[0] = 100.0  # what padding holds must not matter
    targets = rng.integers(1, 11, 7)
    loss = full_softmax(torch.from_numpy(hidden), torch.from_numpy(items), torch.from_numpy(targets))
    assert abs(float(loss) - _softmax_loss(hidden, items, targets)) < 1e-5


def test_full_softmax_gradient_in_chunks_is_exact() -> None:
    torch.manual_seed(0)
    chunk, penchant.losses.CHUNK_ELEMENTS = penchant.losses.CHUNK_ELEMENTS, 25  # two rows at once
    try:
        hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
        items = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
        targets = torch.tensor([1, 8, 3, 3, 5])
        assert gradcheck(lambda h, e: 2.5 * full_softmax(h, e, targets), (hidden, items))
    finally:
        penchant.losses.CHUNK_ELEMENTS = chunk


def test_sampled_softmax_of_the_whole_catalogue_is_the_full_one() -> None:
    torch.manual_seed(0)
    hidden, items = torch.randn(6, 4), torch.randn(10, 4)
    targets = torch.randint(1, 10, (6,))
    sampled = sampled_softmax(hidden, items[1:], torch.zeros(9), targets - 1)
    torch.testing.assert_close(sampled, full_softmax(hidden, items, targets))


def test_sampled_softmax_estimates_the_full_partition_without_bias() -> None:
    rng = np.random.default_rng(1)
    hidden = torch.from_numpy(rng.normal(size=(1, 4)).astype(np.float32))
    items = torch.from_numpy(rng.normal(size=(30, 4)).astype(np.float32))
    include = torch.from_numpy(rng.uniform(0.2, 0.9, size=30).astype(np.float32))
    target = 7
    partitions = []
    for _ in range(4000):
        chosen = torch.from_numpy(rng.random(30).astype(np.float32)) < include
        chosen[target] = True
        index = int(chosen[:target].sum())
        loss = sampled_softmax(hidden, items[chosen], include[chosen].log(), torch.tensor([index]))
        partitions.append(float((loss + hidden[0] @ items[target]).exp()))
    exact = float((items @ hidden[0]).exp().sum())
    assert abs(np.mean(partitions) / exact - 1) < 0.03
