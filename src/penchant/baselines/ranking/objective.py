"""What rankers and pre-rankers are trained with. Export leaves it behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from penchant.errors import ConfigError
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


class FurtherLabels(nn.Module):
    """Further labels beside the main one (cart, order): a head each on what the ranker's last layer reads. Train-only.

    Caruana, "Multitask Learning", 1997: hard sharing; the click alone ranks.

    Args:
        learned: what is learned otherwise.
        model: the ranker, whose last layer is shared.
        actions: names of the labels, in the batches' order.
        weight: of each label's binary cross-entropy.

    Raises:
        ConfigError: the ranker has no last network.
    """

    def __init__(
        self,
        learned: Callable[[Any, RankBatch], dict[str, Tensor]],
        model: nn.Module,
        actions: Sequence[str],
        weight: float,
    ) -> None:
        super().__init__()
        self.learned, self.actions, self.weight = learned, tuple(actions), weight
        self.heads = nn.Linear(_last_layer(model).in_features, len(self.actions))

    def forward(self, model: nn.Module, batch: RankBatch) -> dict[str, Tensor]:
        """The terms of what is learned otherwise, and one a label.

        Raises:
            ValueError: the batch has no further labels.
        """
        if batch.further is None:
            raise ValueError("further labels need batches that have them")
        read: list[Tensor] = []
        hook = _last_layer(model).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            terms = self.learned(model, batch)
        finally:
            hook.remove()
        real = batch.mask
        told = self.heads(read[0][real])
        for n, action in enumerate(self.actions):
            loss = F.binary_cross_entropy_with_logits(told[:, n], batch.further[real][:, n])
            terms[action] = self.weight * loss
        return terms


def _last_layer(model: Any) -> nn.Linear:
    """The last layer of a ranker's last network."""
    network = getattr(getattr(model, "body", model), "mlp", None)
    if network is None:
        what = f"{model.kind} has no last network for further labels to share"
        raise ConfigError(what, fix="Train it without actions, or another ranker.")
    return network[-1]


def listwise_loss(logits: Float[Tensor, "B K"], batch: RankBatch) -> Float[Tensor, ""]:
    """Softmax cross-entropy of the one clicked item among its request's candidates, mean over requests, in nats.

    Raises:
        ValueError: a request has no clicked candidate, or more than one.
    """
    clicked = batch.labels * batch.mask
    if not (clicked.sum(1) == 1).all():
        raise ValueError("listwise needs exactly one clicked candidate in each request")
    return F.cross_entropy(logits.masked_fill(~batch.mask, -torch.inf), clicked.argmax(1))
