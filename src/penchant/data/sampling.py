"""Negatives drawn from the catalogue with known probabilities, which a sampled softmax corrects by (logQ)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class NegativeSampler:
    """Draws items with given probabilities, with replacement.

    Args:
        weights: [I], from 0, in any unit; entry 0 (padding) is ignored. Items of weight 0 are never drawn.

    Raises:
        ValueError: a negative weight, NaN or infinity, or no weight above 0.
    """

    def __init__(self, weights: Float[Tensor, " I"]) -> None:
        weights = weights.double().clone()  # summed in double precision: a million small weights must not drown
        weights[:1] = 0.0
        cumulative = weights.cumsum(0)
        if not len(weights) or bool((weights < 0).any()) or not 0 < float(cumulative[-1]) < float("inf"):
            raise ValueError("weights must be finite and from 0, with at least one item's above 0")
        self._cumulative = cumulative
        self._log_q = (weights / cumulative[-1]).log().float()
        self._last = int(weights.nonzero().max())

    @classmethod
    def by_popularity(cls, counts: Int[Tensor, " I"], alpha: float) -> NegativeSampler:
        """P(i) proportional to (counts_i + 1)^alpha: 1 as popular as in the data, 0 uniform; every item is possible."""
        return cls((counts.double() + 1.0) ** alpha)

    def sample(self, n: int, generator: torch.Generator) -> Int[Tensor, " N"]:
        """n items, drawn with replacement; the same state of the generator (of the weights' device) gives the same."""
        at = torch.rand(n, generator=generator, dtype=torch.float64, device=self._cumulative.device)
        drawn = torch.searchsorted(self._cumulative, at * self._cumulative[-1], right=True)
        return drawn.clamp(max=self._last)  # the product may round up to the whole sum

    def log_q(self, ids: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Log probability that one draw gives the item, in nats; -inf for one that is never drawn."""
        return self._log_q[ids]
