"""Is a difference real? Paired bootstrap clustered by user: whole users are drawn, with all that is theirs.

Both models are judged on the same draws, so what makes a user easy or hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Num

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
    low, high = np.quantile(np.concatenate(drawn), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Difference(float(gain.sum() / weight.sum()), float(low), float(high))


def resample_users(users: int, resamples: int, seed: int) -> Iterator[Float[np.ndarray, "R U"]]:
    """How often each user is drawn in each resample, some resamples at a time; the blocks do not change the draws."""
    rng = np.random.default_rng(seed)
    step = max(_CELLS // max(users, 1), 1)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, users, size=(rows, users)) + np.arange(rows)[:, None] * users
        yield np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float64)
