"""Is a difference real? Paired bootstrap clustered by user: whole users are drawn, with all that is theirs.

Both models are judged on the same draws, so what makes a user easy or hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Num, Shaped

RESAMPLES = 1000
LEVEL = 0.95

_CELLS = 2**22  # draws held at once

Verdict = Literal["held", "not held", "not decidable"]


@dataclass(frozen=True)
class Difference:
    """A metric's difference (a minus b) and its 95 % interval."""

    value: float
    low: float
    high: float

    def verdict(self, claim: Literal["higher", "lower"] = "higher") -> Verdict:
        """Held where the whole interval is on the claim's side of zero, not held on the other, else not decidable."""
        low, high = (self.low, self.high) if claim == "higher" else (-self.high, -self.low)
        return "held" if low > 0 else "not held" if high < 0 else "not decidable"


def paired_bootstrap(
    a: Float[np.ndarray, " U"],
    b: Float[np.ndarray, " U"],
    weights: Num[np.ndarray, " U"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Difference of two weighted means over users: a metric that is a mean over targets, requests or impressions.

    Args:
        a, b: each user's mean.
        weights: how many targets (impressions) each user's mean is of, the same for both.

    Raises:
        ValueError: no user has weight.
    """
    if not (weights > 0).any():
        raise ValueError("no user has any weight")
    weight = weights.astype(np.float64)
    gain = (a.astype(np.float64) - b) * weight
    drawn = []
    for times in resample_users(len(weight), resamples, seed):
        total = times @ weight
        drawn.append((times @ gain)[total > 0] / total[total > 0])
    return _difference(gain.sum() / weight.sum(), np.concatenate(drawn))


def paired_bootstrap_auc(
    labels: Shaped[np.ndarray, " N"],
    a: Float[np.ndarray, " N"],
    b: Float[np.ndarray, " N"],
    users: Int[np.ndarray, " N"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Difference of two AUCs, exactly: the scores are sorted once, a resample only re-weights the rows.

    A resample that draws only one class says nothing and is left out.

    Raises:
        ValueError: only one class.
    """
    _, user = np.unique(users, return_inverse=True)
    auc_a, auc_b = _weighted_auc(labels, a), _weighted_auc(labels, b)
    once = np.ones(len(labels))
    value = auc_a(once) - auc_b(once)
    if np.isnan(value):
        raise ValueError("labels of one class have no AUC")
    drawn = np.array(
        [
            auc_a(weight) - auc_b(weight)
            for block in resample_users(int(user.max()) + 1, resamples, seed)
            for weight in (times[user] for times in block)
        ]
    )
    return _difference(value, drawn[~np.isnan(drawn)])


def resample_users(users: int, resamples: int, seed: int) -> Iterator[Float[np.ndarray, "R U"]]:
    """How often each user is drawn in each resample, some resamples at a time; the blocks do not change the draws."""
    rng = np.random.default_rng(seed)
    step = max(_CELLS // max(users, 1), 1)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, users, size=(rows, users)) + np.arange(rows)[:, None] * users
        yield np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float64)


def _weighted_auc(labels: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], float]:
    """AUC as a function of the rows' weights; NaN where a class has no weight."""
    order = np.argsort(scores, kind="stable")
    positive = labels[order].astype(bool)
    sorted_scores = scores[order]
    first = np.flatnonzero(np.concatenate([[True], sorted_scores[1:] != sorted_scores[:-1]]))

    def auc(weight: np.ndarray) -> float:
        w = weight[order]
        of_positive = np.add.reduceat(np.where(positive, w, 0.0), first)
        of_negative = np.add.reduceat(np.where(positive, 0.0, w), first)
        pairs = of_positive.sum() * of_negative.sum()
        below = np.cumsum(of_negative) - of_negative / 2
        return float((of_positive * below).sum() / pairs) if pairs else float("nan")

    return auc


def _difference(value: float, drawn: np.ndarray) -> Difference:
    low, high = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Difference(float(value), float(low), float(high))
