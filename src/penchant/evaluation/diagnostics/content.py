"""What item vectors still say of their items: categories of their neighbours, the frozen text vectors read off them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from penchant.evaluation.diagnostics.vectors import normalised

_ROWS = 512  # items compared with all others at once


def category_purity(
    vectors: Float[np.ndarray, "N D"], categories: Int[np.ndarray, " N"], neighbours: int = 10
) -> float:
    """Share of an item's nearest neighbours by cosine that are of its category, mean over items that have one.

    Args:
        categories: 0 = none: neither asked nor a neighbour.

    Returns: NaN where fewer than two items have a category.
    """
    known = categories > 0
    unit, own = normalised(vectors[known]).astype(np.float32), categories[known]
    k = min(neighbours, len(own) - 1)
    if k < 1:
        return float("nan")
    pure = 0
    for start in range(0, len(own), _ROWS):
        cosines = unit[start : start + _ROWS] @ unit.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        pure += int((own[near] == own[start : start + _ROWS, None]).sum())
    return pure / (k * len(own))


def chance_purity(categories: Int[np.ndarray, " N"]) -> float:
    """The same of neighbours drawn at random."""
    counts = np.bincount(categories[categories > 0])
    n = counts.sum()
    return float((counts * (counts - 1)).sum() / (n * (n - 1))) if n > 1 else float("nan")


def ridge_r2(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"], *, strength: float = 1.0, seed: int = 0
) -> float:
    """How much of y a ridge regression reads off x, on a fifth of the rows it did not learn from.

    1 - sum (y - f(x))^2 / sum (y - mean)^2 over those rows and all columns, the mean that of the rows it learned from:
    1 = all, 0 = nothing, below = worse than the mean. Columns of x are standardised. NaN of fewer than ten rows.

    Args:
        strength: of the penalty on the squared weights, whose columns have variance 1.
        seed: draws the fifth.
    """
    n = len(x)
    if n < 10:
        return float("nan")
    order = np.random.default_rng(seed).permutation(n)
    held, learn = order[: n // 5], order[n // 5 :]
    x, y = x.astype(np.float64), y.astype(np.float64)
    x = (x - x[learn].mean(0)) / np.maximum(x[learn].std(0), 1e-9)
    mean = y[learn].mean(0)
    gram = x[learn].T @ x[learn] + strength * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x[learn].T @ (y[learn] - mean))
    left = np.square(y[held] - mean - x[held] @ weights).sum()
    whole = np.square(y[held] - mean).sum()
    return float(1 - left / whole) if whole else float("nan")
