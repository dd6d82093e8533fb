"""Purity of neighbours and what a ridge reads, each against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.evaluation.diagnostics.content import category_purity, chance_purity, ridge_r2

quick = settings(deadline=None, max_examples=40)


@quick
@given(st.integers(0, 2**31), st.integers(2, 20), st.integers(1, 5))
def test_purity_is_that_of_the_nearest_by_cosine(seed: int, n: int, neighbours: int) -> None:
    rng = np.random.default_rng(seed)
    x, categories = rng.normal(size=(n, 6)), rng.integers(0, 4, n)
    known = np.flatnonzero(categories)
    cosine = {(i, j): x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for i in known for j in known}
    pure = []
    for i in known:
        near = sorted((j for j in known if j != i), key=lambda j: -cosine[i, j])[:neighbours]
        pure += [categories[j] == categories[i] for j in near]
    found = category_purity(x, categories, neighbours)
    assert found == pytest.approx(np.mean(pure)) if pure else np.isnan(found)


@quick
@given(st.lists(st.integers(0, 3), min_size=0, max_size=15))
def test_chance_is_that_of_a_random_other_item(categories: list[int]) -> None:
    known = [c for c in categories if c]
    pairs = [a == b for i, a in enumerate(known) for j, b in enumerate(known) if i != j]
    found = chance_purity(np.array(categories, dtype=np.int64))
    assert found == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found)


def test_what_is_linear_is_read_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(400, 8)), rng.normal(size=(400, 3))
    linear = x @ rng.normal(size=(8, 3)) + 5
    assert ridge_r2(x, linear) > 0.99
    assert ridge_r2(x, noise) < 0.1
    assert np.isnan(ridge_r2(x[:5], noise[:5]))
    assert ridge_r2(np.zeros((400, 8)), linear) == pytest.approx(0.0, abs=0.05)  # collapsed vectors say nothing


def test_a_ridge_is_judged_by_rows_it_did_not_learn_from() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(60, 2)) + rng.normal(size=(60, 1))
    order = np.random.default_rng(7).permutation(60)
    held, learn = order[:12], order[12:]
    scaled = (x - x[learn].mean(0)) / x[learn].std(0)
    mean = y[learn].mean(0)
    # The same as least squares with rows that say "every weight is zero", each weighing the strength.
    rows = np.concatenate([scaled[learn], np.sqrt(3.0) * np.eye(5)])
    weights = np.linalg.lstsq(rows, np.concatenate([y[learn] - mean, np.zeros((5, 2))]), rcond=None)[0]
    left = ((y[held] - mean - scaled[held] @ weights) ** 2).sum()
    assert ridge_r2(x, y, strength=3.0, seed=7) == pytest.approx(1 - left / ((y[held] - mean) ** 2).sum())
