"""Exact search against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from penchant.index import exact
from penchant.index.base import Index
from penchant.index.exact import ExactIndex, best_items


def oracle(scores: np.ndarray, k: int) -> tuple[list[list[int]], list[list[float]]]:
    """Sort by (-score, item), leave out column 0 and -inf, pad."""
    all_items, all_scores = [], []
    for row in scores:
        best = sorted((-s, i) for i, s in enumerate(row.tolist()) if i and s > -np.inf)[:k]
        all_items.append([i for _, i in best] + [0] * (k - len(best)))
        all_scores.append([-s + 0.0 for s, _ in best] + [-np.inf] * (k - len(best)))
    return all_items, all_scores


shapes = st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(1, 3), st.integers(1, 25))


@given(shapes, st.integers(0, 2**31), st.sampled_from([1, 7, 2**21]), st.sampled_from([1, 2, 256]), st.booleans())
@settings(deadline=None, max_examples=100)
def test_the_index_equals_a_full_sort_of_what_the_filters_leave(
    shape: tuple[int, int, int, int], seed: int, block_scores: int, block_queries: int, filtered: bool
) -> None:
    batch, items, width, k = shape
    rng = np.random.default_rng(seed)
    # Few whole numbers: products are exact, and ties (also of 0.0 with -0.0) are the rule.
    vectors = rng.integers(-2, 3, (items + 1, width)).astype(np.float32)
    query = rng.integers(-2, 3, (batch, width)).astype(np.float32)
    exclude = rng.integers(0, items + 4, (batch, rng.integers(0, 9)))  # some are of no item
    available = rng.random(items + 1) < 0.6
    filters = (torch.from_numpy(exclude), torch.from_numpy(available)) if filtered else (None, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "BLOCK_SCORES", block_scores)
        patch.setattr(exact, "BLOCK_QUERIES", block_queries)
        index = ExactIndex(torch.from_numpy(vectors))
        found, scores = index.search(torch.from_numpy(query), k, exclude=filters[0], available=filters[1])
    full = query @ vectors.T
    if filtered:
        full[:, ~available] = -np.inf
        for row, seen in zip(full, exclude, strict=True):
            row[seen[seen <= items]] = -np.inf
    expected = oracle(full, k)
    assert found.shape == scores.shape == (batch, k)
    assert found.tolist() == expected[0]
    assert scores.tolist() == expected[1]


@given(st.integers(0, 2**31), st.integers(1, 30))
@settings(deadline=None, max_examples=30)
def test_real_vectors_find_what_numpy_finds(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, query = rng.normal(size=(21, 5)).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    found, scores = ExactIndex(torch.from_numpy(vectors)).search(torch.from_numpy(query), k)
    full = query @ vectors.T
    expected = oracle(full, k)
    assert found.tolist() == expected[0]
    np.testing.assert_allclose(scores.numpy(), expected[1], rtol=1e-5, atol=1e-6)


@given(
    st.lists(
        st.lists(st.sampled_from([-np.inf, -3e38, -1.5, -1e-45, -0.0, 0.0, 1e-45, 1.0, 3e38]), min_size=6, max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 8),
)
@settings(deadline=None, max_examples=80)
def test_best_items_sorts_every_kind_of_number(rows: list[list[float]], k: int) -> None:
    scores = torch.tensor(rows)
    found, values = best_items(scores, k)
    expected = oracle(scores.numpy(), k)
    assert found.tolist() == expected[0]
    assert values.tolist() == expected[1]


def test_row_0_is_never_returned_whatever_it_holds() -> None:
    vectors = torch.tensor([[float("nan")], [1.0], [2.0]])
    items, scores = ExactIndex(vectors).search(torch.tensor([[1.0], [-1.0]]), 5)
    assert items.tolist() == [[2, 1, 0, 0, 0], [1, 2, 0, 0, 0]]
    assert scores[0].tolist() == [2.0, 1.0] + [-float("inf")] * 3


def test_it_says_that_it_is_exact() -> None:
    index: Index = ExactIndex(torch.zeros(4, 3))
    assert index.is_exact
    assert (index.num_items, index.width) == (3, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_vectors_and_queries_that_cannot_be_compared_are_refused(value: float) -> None:
    vectors = torch.ones(5, 2)
    index = ExactIndex(vectors.clone())
    vectors[3, 1] = value
    with pytest.raises(ValueError, match="row 2 of 4 has NaN"):
        ExactIndex(vectors)
    with pytest.raises(ValueError, match="query row 1 of 2"):
        index.search(torch.tensor([[1.0, 1.0], [value, 0.0]]), 2)


def test_a_score_that_is_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        best_items(torch.tensor([[0.0, 1.0, float("nan")]]), 1)


def test_misuse_is_refused() -> None:
    index = ExactIndex(torch.ones(3, 2))
    with pytest.raises(ValueError, match="width 3"):
        index.search(torch.ones(1, 3), 1)
    with pytest.raises(ValueError, match="k 0"):
        index.search(torch.ones(1, 2), 0)
    with pytest.raises(ValueError, match="row 0"):
        ExactIndex(torch.ones(0, 2))
    with pytest.raises(ValueError, match="available has 2 flags, the index 2 items and row 0"):
        index.search(torch.ones(1, 2), 1, available=torch.ones(2, dtype=torch.bool))
    with pytest.raises(TypeCheckError):
        index.search(torch.ones(2), 1)
