"""What rankers and pre-rankers are trained with. Export leaves it behind."""

from __future__ import annotations

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
    """Binary cross-entropy of click and no click, mean over the real impressions, in nats."""
    real = batch.mask
    return F.binary_cross_entropy_with_logits(logits[real], batch.labels[real])


def listwise_loss(logits: Float[Tensor, "B K"], batch: RankBatch) -> Float[Tensor, ""]:
    """Softmax cross-entropy of the one clicked item among its request's candidates, mean over requests, in nats.

    Raises:
        ValueError: a request has no clicked candidate, or more than one.
    """
    clicked = batch.labels * batch.mask
    if not (clicked.sum(1) == 1).all():
        raise ValueError("listwise needs exactly one clicked candidate in each request")
    return F.cross_entropy(logits.masked_fill(~batch.mask, -torch.inf), clicked.argmax(1))
