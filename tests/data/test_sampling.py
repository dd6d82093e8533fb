"""Negatives: drawn as often as stated, and never what does not exist."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.sampling import NegativeSampler


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shares(sampler: NegativeSampler, items: int, n: int) -> np.ndarray:
    return np.bincount(sampler.sample(n, seeded()).numpy(), minlength=items + 1) / n


COUNTS = torch.tensor([7, 0, 9, 3, 0, 80, 3, 1])


@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0])
def test_popularity_is_drawn_as_often_as_stated(alpha: float) -> None:
    sampler = NegativeSampler.by_popularity(COUNTS, alpha)
    expected = np.array([0.0, *[(c + 1) ** alpha for c in COUNTS[1:].tolist()]])
    expected /= expected.sum()
    np.testing.assert_allclose(sampler.log_q(torch.arange(1, 8)).exp(), expected[1:], rtol=1e-5)
    # Five standard deviations of a share over 200,000 draws.
    assert np.abs(shares(sampler, 7, 200_000) - expected).max() < 5 * 0.5 / np.sqrt(200_000)


@given(st.lists(st.sampled_from([0.0, 1e-9, 1.0, 1e6]), min_size=2, max_size=12), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_only_items_with_a_weight_are_drawn(weights: list[float], seed: int) -> None:
    if not any(weights[1:]):
        with pytest.raises(ValueError, match="above 0"):
            NegativeSampler(torch.tensor(weights))
        return
    sampler = NegativeSampler(torch.tensor(weights))
    drawn = sampler.sample(500, seeded(seed))
    possible = {i for i, w in enumerate(weights) if i and w}
    assert set(drawn.tolist()) <= possible
    assert torch.isfinite(sampler.log_q(drawn)).all()
    assert sampler.log_q(torch.tensor([0])).item() == -float("inf")
    assert sampler.log_q(torch.arange(len(weights))).exp().sum().item() == pytest.approx(1.0, rel=1e-5)


def test_the_same_generator_draws_the_same() -> None:
    sampler = NegativeSampler.by_popularity(COUNTS, 0.75)
    assert torch.equal(sampler.sample(50, seeded(3)), sampler.sample(50, seeded(3)))
    assert not torch.equal(sampler.sample(50, seeded(3)), sampler.sample(50, seeded(4)))


@pytest.mark.parametrize("weights", [[0.0, -1.0, 2.0], [0.0, float("nan"), 1.0], [0.0, float("inf")], [5.0], []])
def test_weights_that_are_no_distribution_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        NegativeSampler(torch.tensor(weights))
