"""What rankers and pre-rankers are trained with. Export leaves it behind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penchant.training.impressions import RankBatch


def pointwise(model: nn.Module, batch: RankBatch) -> dict[str, Tensor]:
    """Binary cross-entropy of click and no click, mean over the real impressions, in nats.

    Returns: {"click"}.
    """
    real = batch.mask
    return {"click": F.binary_cross_entropy_with_logits(model(batch.inputs)[real], batch.labels[real])}


def listwise(model: nn.Module, batch: RankBatch) -> dict[str, Tensor]:
    """Softmax cross-entropy of the one clicked item among its request's candidates, mean over requests, in nats.

    Returns: {"target"}.
    Raises:
        ValueError: a request has no clicked candidate, or more than one.
    """
    clicked = batch.labels * batch.mask
    if not (clicked.sum(1) == 1).all():
        raise ValueError("listwise needs exactly one clicked candidate in each request")
    logits = model(batch.inputs).masked_fill(~batch.mask, -torch.inf)
    return {"target": F.cross_entropy(logits, clicked.argmax(1))}
