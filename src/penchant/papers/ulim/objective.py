"""ULIM's losses: sampled softmax of both vectors within a category (Eq. 1 to 3), and PGIN's cross-entropy.

Train-only: nothing that serves imports this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.data.category_batch import CategoryBatch, TargetBatch
from penchant.data.sampling import NegativeSampler
from penchant.errors import ConfigError, at_least
from penchant.losses import sampled_softmax
from penchant.papers.ulim.categories import PGIN, Prediction
from penchant.papers.ulim.model import ULIM

EPSILON = 1e-9
"""Added to a probability before its logarithm (U19)."""


@dataclass(frozen=True, kw_only=True)
class ULIMObjectiveConfig:
    """Weights of the losses, and their negatives."""

    alpha: float = 1.0
    """Weight of L_l; 0 = it is not made."""
    beta: float = 1.0
    """Weight of L_s; 0 = it is not made."""
    short_negatives: Literal["mixed", "category"] = "mixed"
    """mixed = of the category and of the whole catalogue, which the short-term vector is to search; category = those of
    L_l, as printed."""
    corpus_negatives: int = 2048
    """Drawn from the whole catalogue for L_s by popularity^0.75, with replacement; all of it where it has no more."""
    log_q: bool = True
    """Whether a negative's logit is lowered by the log of its probability to be one."""
    empty: Literal["masked", "learned"] = "masked"
    """Targets without an earlier action in their category: left out of L_l, or what the null token learns from."""

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix=f"Set {name} to 0 or more.")
        if not self.alpha and not self.beta:
            raise ConfigError("alpha and beta are 0, so nothing is learned", fix="Set one of them above 0.")
        at_least(1, self, "corpus_negatives")


class ULIMObjective:
    """L = alpha L_l + beta L_s (Eq. 1).

    L_l = mean -log exp(v^(l) . e_i) / sum_j exp(v^(l) . e_j),  j in the batch's items of the category (Eq. 2)
    L_s = the same of v^(s), j also in the whole catalogue (Eq. 3)

    Deviates: the sums hold the positive, without which they have no lower bound (U1); means instead of sums; logits of
    negatives corrected by how likely they are to be there (`log_q`); L_s over more than the category (U2), as its
    vector is served over more. Equal items are one candidate, so that no target is its own negative.

    Args:
        counts: [I] how often each item occurs in the train window.
        item_category: [I] of a Store.
    """

    def __init__(
        self, config: ULIMObjectiveConfig, counts: Int[Tensor, " I"], item_category: Int[Tensor, " I"]
    ) -> None:
        self.config, self.num_items = config, len(counts) - 1
        self.sampler = NegativeSampler.by_popularity(counts, 0.75)
        self.category = of = item_category.long()
        self.share = counts / counts.sum().clamp(min=1)
        within = torch.zeros(int(of.max()) + 1).index_add(0, of, counts.float())
        self.share_in_category = counts / within[of].clamp(min=1)
        self.sizes = torch.bincount(of[1:], minlength=len(within))

    def __call__(self, model: ULIM, batch: CategoryBatch) -> dict[str, Tensor]:
        """{"long": alpha L_l, "short": beta L_s} in nats, without those of weight 0."""
        pooled, long, empty = read(model, batch)
        items = self.candidates(batch)
        absent, vectors = self.absent(items, batch), model.embed_items(items)
        terms: dict[str, Tensor] = {}
        if self.config.alpha:
            rows = torch.ones_like(empty) if self.config.empty == "learned" else ~empty
            index = torch.searchsorted(items, batch.targets[rows])
            # Where all are empty: zero, and a gradient of zero.
            loss = long.sum() * 0
            if bool(rows.any()):
                loss = sampled_softmax(long[rows], vectors, self._log_inclusion(absent, long), index)
            terms["long"] = self.config.alpha * loss
        if self.config.beta:
            short = model.short_vectors(pooled)
            if self.config.short_negatives == "mixed":
                items, absent = self.with_corpus(items, batch)
                vectors = model.embed_items(items)
            index = torch.searchsorted(items, batch.targets)
            loss = sampled_softmax(short, vectors, self._log_inclusion(absent, short), index)
            terms["short"] = self.config.beta * loss
        return terms

    def candidates(self, batch: CategoryBatch) -> Int[Tensor, " C"]:
        """The batch's targets and negatives, each once, ascending."""
        return torch.unique(torch.cat([batch.targets, batch.negatives]))

    def absent(self, items: Int[Tensor, " C"], batch: CategoryBatch) -> Float[Tensor, " C"]:
        """The probability that each is none of the candidates of a batch of this category; 1 for other categories'."""
        known, category = items.cpu(), batch.category
        share = self.share_in_category if category else self.share
        size = int(self.sizes[category]) if category else self.num_items
        drawn = min(1.0, len(batch.negatives) / max(size, 1))
        absent = (1 - drawn) * torch.exp(-len(batch.targets) * share[known])
        return (absent.where(self.category[known] == category, 1.0) if category else absent).to(items.device)

    def with_corpus(
        self, items: Int[Tensor, " C"], batch: CategoryBatch
    ) -> tuple[Int[Tensor, " C2"], Float[Tensor, " C2"]]:
        """Those and some of the whole catalogue; and the probability that each is none of them."""
        draws = self.config.corpus_negatives
        if draws >= self.num_items:
            whole = torch.arange(1, self.num_items + 1, device=items.device)
            return whole, torch.zeros(len(whole), device=items.device)
        drawn = self.sampler.sample(draws, torch.default_generator).to(items.device)
        both = torch.unique(torch.cat([items, drawn]))
        missed = torch.exp(-draws * self.sampler.log_q(both.cpu()).exp())
        return both, missed.to(items.device) * self.absent(both, batch)

    def _log_inclusion(self, absent: Float[Tensor, " C"], like: Tensor) -> Float[Tensor, " C"]:
        """log P(an item is a candidate)."""
        inclusion = torch.log1p(-absent) if self.config.log_q else torch.zeros_like(absent)
        return inclusion.clamp(min=math.log(EPSILON)).to(like)


def read(model: ULIM, batch: CategoryBatch) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"], Bool[Tensor, " B"]]:
    """The short-term pool, v^(l) of each target's category, and where its subsequence is empty."""
    pooled = model.pooled(batch.requests)
    row, column = batch.subsequence.nonzero(as_tuple=True)
    items, then = batch.subsequence[row, column], batch.subsequence_times_ms[row, column]
    now = batch.requests.times_ms[row]
    long = model.long_vectors(pooled, batch.categories[:, None], items, now, then, row)[:, 0]
    return pooled, long, ~(batch.subsequence > 0).any(1)


def pgin_losses(prediction: Prediction, categories: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """-log(y-hat_c + 1e-9), in nats: cross-entropy on the mixture (U19)."""
    return -(prediction.probs.gather(1, categories[:, None])[:, 0] + EPSILON).log()


class PGINObjective:
    """Cross-entropy over the true category labels."""

    def __call__(self, model: PGIN, batch: TargetBatch) -> dict[str, Tensor]:
        """{"category": nats}."""
        return {"category": pgin_losses(model(batch.requests), batch.categories).mean()}
