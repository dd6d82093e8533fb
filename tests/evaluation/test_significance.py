"""The bootstrap: right about made-up differences, clustered, paired, reproducible."""

from __future__ import annotations

import numpy as np
import pytest

from penchant.evaluation.significance import Difference, paired_bootstrap, resample_users


def test_a_resample_draws_as_many_users_as_there_are() -> None:
    counts = np.concatenate(list(resample_users(37, 50, seed=0)))
    assert counts.shape == (50, 37)
    assert (counts.sum(1) == 37).all()
    assert np.array_equal(counts, np.concatenate(list(resample_users(37, 50, seed=0))))


def test_draws_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resample_users(101, 30, seed=4)))
    monkeypatch.setattr("penchant.evaluation.significance._CELLS", 101 * 7)
    assert np.array_equal(np.concatenate(list(resample_users(101, 30, seed=4))), whole)


def test_interval_covers_the_true_difference_about_95_times_in_100() -> None:
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        weights = rng.integers(1, 20, 120)
        hard = rng.normal(size=120)  # shared by both models: pairing cancels it
        a = hard + 0.3 + rng.normal(size=120)
        b = hard + rng.normal(size=120)
        found = paired_bootstrap(a, b, weights, resamples=300, seed=trial)
        covered += found.low <= 0.3 <= found.high
    assert 180 <= covered <= 198


def test_users_are_drawn_whole() -> None:
    # Two users with many equal targets each say no more than two users.
    few = paired_bootstrap(np.array([1.0, 0.0]), np.zeros(2), np.array([1, 1]))
    many = paired_bootstrap(np.array([1.0, 0.0]), np.zeros(2), np.array([1000, 1000]))
    assert few == many
    assert (many.low, many.high) == (0.0, 1.0)


def test_value_is_the_difference_of_weighted_means() -> None:
    found = paired_bootstrap(np.array([1.0, 0.0]), np.array([0.0, 0.5]), np.array([3, 1]))
    assert found.value == pytest.approx(3 / 4 - 0.5 / 4)


def test_equal_models_give_an_interval_of_zero_and_no_verdict() -> None:
    a = np.random.default_rng(0).random(50)
    found = paired_bootstrap(a, a, np.ones(50))
    assert found == Difference(0.0, 0.0, 0.0)
    assert found.verdict() == "not decidable"


@pytest.mark.parametrize(
    ("low", "high", "higher", "lower"),
    [
        (0.1, 0.3, "held", "not held"),
        (-0.3, -0.1, "not held", "held"),
        (-0.1, 0.2, "not decidable", "not decidable"),
    ],
)
def test_verdict_is_the_side_of_zero_the_whole_interval_is_on(low: float, high: float, higher: str, lower: str) -> None:
    found = Difference((low + high) / 2, low, high)
    assert found.verdict("higher") == higher
    assert found.verdict("lower") == lower


def test_users_without_weight_have_no_mean() -> None:
    with pytest.raises(ValueError, match="weight"):
        paired_bootstrap(np.ones(2), np.ones(2), np.zeros(2))
