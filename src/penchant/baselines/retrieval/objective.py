"""What the retrieval models are trained with: a softmax over the catalogue.

Causal models learn a target at every position of every history, models that read a history as a whole the one target
that follows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.data.batch import SequenceBatch
from penchant.data.prefix_batch import PrefixBatch
from penchant.data.sampling import NegativeSampler
from penchant.errors import ConfigError, at_least
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

    def __post_init__(self) -> None:
        at_least(0, self, "full_up_to_items")
        at_least(1, self, "num_sampled")


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


@dataclass(frozen=True, kw_only=True)
class PrefixSoftmaxConfig(SoftmaxConfig):
    """The same for models of one or more vectors a user, of which the target chooses."""

    power: float | None = None
    """p of MIND's label-aware attention, from 1: the larger, the more the vector nearest to the target counts. None is
    its limit, the nearest alone, which is how ComiRec learns."""

    def __post_init__(self) -> None:
        if self.power is not None and not 1 <= self.power < float("inf"):
            raise ConfigError(f"power is {self.power}", fix="Set power to 1 or more, or None for the nearest alone.")


class PrefixSoftmaxObjective:
    """Next item against the catalogue, one target per history.

    Args:
        counts: [I] how often each item occurs in the train window: what the sample is drawn by.
    """

    def __init__(self, config: PrefixSoftmaxConfig, counts: Tensor) -> None:
        self.power = config.power
        self.softmax = SoftmaxObjective(config, counts)

    def __call__(self, model: Any, batch: PrefixBatch) -> dict[str, Tensor]:
        """{"softmax": mean cross-entropy in nats}. `model` has interests, item_vectors and embed_items."""
        vectors, real = model.interests(batch.history)
        if vectors.shape[1] == 1:
            return self.softmax.terms(model, vectors[:, 0], batch.targets)
        labels = model.embed_items(batch.targets)
        chosen = nearest(vectors, real, labels) if self.power is None else attended(vectors, real, labels, self.power)
        return self.softmax.terms(model, chosen, batch.targets)


def nearest(
    vectors: Float[Tensor, "B K D"], real: Bool[Tensor, "B K"], labels: Float[Tensor, "B D"]
) -> Float[Tensor, "B D"]:
    """The user's vector with the largest product with its target's: v_k, k = argmax_k v_k . e (ComiRec, section 3.2).

    Args:
        real: which vectors there are; at least one a row.
    """
    products = (vectors @ labels[..., None])[..., 0].masked_fill(~real, -torch.inf)
    return vectors[torch.arange(len(vectors), device=vectors.device), products.argmax(1)]


def attended(
    vectors: Float[Tensor, "B K D"], real: Bool[Tensor, "B K"], labels: Float[Tensor, "B D"], power: float
) -> Float[Tensor, "B D"]:
    """MIND's label-aware attention (section 3.4): sum_k softmax_k((v_k . e)^p) v_k.

    Deviates: x^p is sign(x) |x|^p, so that a vector that points away from the target never counts as a near one.
    """
    products = (vectors @ labels[..., None])[..., 0]
    sharpened = products.sign() * products.abs() ** power
    weights = sharpened.masked_fill(~real, -torch.inf).softmax(1)
    return (weights[..., None] * vectors).sum(1)
