"""What rankers and pre-rankers are trained with. Export leaves it behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from penchant.training.impressions import RankBatch


def pointwise(model: nn.Module, batch: RankBatch) -> dict[str, Tensor]:
    """{"click": `pointwise_loss` of the model's logits}."""
    return {"click": pointwise_loss(model(batch.inputs), batch)}


def listwise(model: nn.Module, batch: RankBatch) -> dict[str, Tensor]:
    """{"target": `listwise_loss` of the model's logits}."""
    return {"target": listwise_loss(model(batch.inputs), batch)}


def pointwise_loss(logits: Float[Tensor, "B K"], batch: RankBatch) -> Float[Tensor, ""]:
    """Binary cross-entropy of click and no click, mean over the real impressions, in nats.

    Where the batch knows the chance that a place was looked at, a click there counts 1 / chance: in expectation that is
    the loss of everybody having looked (as Saito et al., WSDM 2020, have it for missing clicks).
    """
    real = batch.mask
    logits = logits if batch.offset is None else logits + batch.offset
    wanted = batch.labels if batch.chance is None else batch.labels / batch.chance
    return F.binary_cross_entropy_with_logits(logits[real], wanted[real])


class PositionEffect(nn.Module):
    """What each place adds to the logit, learned beside the model and left out when serving; unknown ones add nothing.

    Guo et al., "PAL", RecSys 2019, with a sum of logits in place of a product of chances.

    Args:
        learned: what is learned otherwise.
        most: the last place.
    """

    def __init__(self, learned: Callable[[Any, RankBatch], dict[str, Tensor]], most: int) -> None:
        super().__init__()
        self.learned = learned
        self.effect = nn.Embedding(most + 1, 1, padding_idx=0)
        nn.init.zeros_(self.effect.weight)

    def forward(self, model: nn.Module, batch: RankBatch) -> dict[str, Tensor]:
        """The terms of what is learned otherwise.

        Raises:
            ValueError: the batch does not know its places.
        """
        if batch.positions is None:
            raise ValueError("an effect of places needs batches that know them")
        return self.learned(model, replace(batch, offset=self.effect(batch.positions)[..., 0]))


def listwise_loss(logits: Float[Tensor, "B K"], batch: RankBatch) -> Float[Tensor, ""]:
    """Softmax cross-entropy of the one clicked item among its request's candidates, mean over requests, in nats.

    Raises:
        ValueError: a request has no clicked candidate, or more than one.
    """
    clicked = batch.labels * batch.mask
    if not (clicked.sum(1) == 1).all():
        raise ValueError("listwise needs exactly one clicked candidate in each request")
    return F.cross_entropy(logits.masked_fill(~batch.mask, -torch.inf), clicked.argmax(1))
