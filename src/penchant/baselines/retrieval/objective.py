"""What the sequence models are trained with: a softmax over the catalogue, at every position of every history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from penchant.data.batch import SequenceBatch
from penchant.data.sampling import NegativeSampler
from penchant.losses import full_softmax, sampled_softmax


@dataclass(frozen=True, kw_only=True)
class SoftmaxConfig:
    """Full up to a catalogue size, sampled beyond."""

    full_up_to_items: int = 30_000
    """Largest catalogue that is scored whole."""
    num_sampled: int = 8192
    """Negatives drawn by popularity beyond that, shared by the batch; the batch's other targets come on top."""
    alpha: float = 0.75
    """Power of the popularity they are drawn by; 0 = uniform."""


class SoftmaxObjective:
    """Next item against the catalogue, one target per position.

    Args:
        counts: [I] how often each item occurs in the train window: what the sample is drawn by.
    """

    def __init__(self, config: SoftmaxConfig, counts: Tensor) -> None:
        self.config = config
        self.sampler = NegativeSampler.by_popularity(counts, config.alpha)
        self.shares = counts / counts.sum().clamp(min=1)

    def __call__(self, model: Any, batch: SequenceBatch) -> dict[str, Tensor]:
        """{"softmax": mean cross-entropy in nats}. `model` has hidden, item_vectors and embed_items."""
        return self.terms(model, model.hidden(batch.history)[batch.mask], batch.targets[batch.mask])

    def terms(
        self, model: Any, hidden: Float[Tensor, "N D"], targets: Int[Tensor, " N"]
    ) -> dict[str, Float[Tensor, ""]]:
        """The same for users' vectors that are made already."""
        if model.num_items <= self.config.full_up_to_items:
            return {"softmax": full_softmax(hidden, model.item_vectors(), targets)}
        drawn = self.sampler.sample(self.config.num_sampled, torch.default_generator).to(targets.device)
        candidates, inverse = torch.unique(torch.cat([targets, drawn]), return_inverse=True)
        # Expected number of times an item is drawn, or is another position's target; in the sample if at least once.
        known = candidates.cpu()
        expected = self.config.num_sampled * self.sampler.log_q(known).exp() + len(targets) * self.shares[known]
        log_inclusion = torch.log(-torch.expm1(-expected)).to(hidden)
        index = inverse[: len(targets)]
        return {"sampled_softmax": sampled_softmax(hidden, model.embed_items(candidates), log_inclusion, index)}
