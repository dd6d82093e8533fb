"""DMAE's train-only half: IDDU, which has every modality's similarity distribution told from its encoded sequence.

Eq. 10 to 13, 16 and 17. Learned beside the model and never saved with it.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from penchant.baselines.ranking.content import interest_distribution
from penchant.baselines.ranking.objective import listwise_loss, pointwise_loss
from penchant.errors import ConfigError, at_least
from penchant.layers import MLP
from penchant.papers.dmae.model import DMAE, Interests, masked_mean
from penchant.training.impressions import RankBatch

log = logging.getLogger(__name__)

Q = Literal["softmax", "row_softmax", "generalised_kl", "cells", "earth_mover", "literal"]


@dataclass(frozen=True, kw_only=True)
class DMAEObjectiveConfig:
    """How much IDDU counts, and what it tells."""

    decode: float = 0.3
    """lambda_dec of Eq. 17; 0 = without IDDU."""
    slices: int = 10
    """l: parts of the history, from the most recent, of equally many actions."""
    bins: int = 10
    """n: parts of [0, 1]."""
    q: Q = "softmax"
    """softmax: over all cells, so that Q is a distribution; row_softmax: over each slice's; generalised_kl: printed
    cells, with the terms whose minimum is Q = P; cells: each by its own binary cross-entropy; earth_mover: the distance
    along the bins of each slice; literal: Eq. 12 and 13 as printed, which teach nothing."""
    masked: float = 0.3
    """Share of the actions that Eq. 11 leaves out, drawn anew each time."""
    hidden: int = 64
    """Inner width of Eq. 12's MLP."""

    def __post_init__(self) -> None:
        if not 0 <= self.decode < math.inf:
            raise ConfigError(f"decode is {self.decode}", fix="Set decode to 0 or more.")
        if not 0 <= self.masked < 1:
            raise ConfigError(f"masked is {self.masked}", fix="Set masked to 0 or more, and below 1.")
        at_least(1, self, "slices", "bins", "hidden")


class DMAEObjective(nn.Module):
    """L + decode * sum over modalities of D(P || Q) (Eq. 17), as named terms.

    Deviates: Q is a softmax over the cells. As printed, each cell is a sigmoid of its own, and KL falls with every q
    that has p > 0, so that Q = 1 everywhere is its optimum, -H(P), which the biases reach alone: `literal` is that, and
    says so in the log. P is divided by the actions that are known, not by T, so that a short history's P sums to 1 too.

    Args:
        modalities, width: M and d of the model.
        listwise: learn the one clicked item of a list (a funnel's ranker), not each impression by itself.
    """

    def __init__(
        self, config: DMAEObjectiveConfig, modalities: tuple[str, ...], width: int, listwise: bool = False
    ) -> None:
        super().__init__()
        self.config, self.modalities, self.listwise = config, modalities, listwise
        cells = config.slices * config.bins
        count = len(modalities) if config.decode else 0
        self.decoders = nn.ModuleList(MLP(width, config.hidden, cells) for _ in range(count))
        if config.q == "literal" and config.decode:
            log.warning(
                "q is 'literal': Eq. 12 and 13 as printed have their optimum at q = 1 in every cell, whatever the "
                "history is; once the biases are there, this loss teaches the encoder nothing."
            )

    def forward(self, model: DMAE, batch: RankBatch) -> dict[str, Tensor]:
        """{"click" or "target", "decode_text", ..}: real impressions alone count."""
        interests = model.interests(batch.inputs)
        logits = model.logits(batch.inputs, interests)
        terms = {"target": listwise_loss(logits, batch)} if self.listwise else {"click": pointwise_loss(logits, batch)}
        for m, (name, decoder) in enumerate(zip(self.modalities, self.decoders, strict=False)):
            told = self.told(interests, m, batch.mask)
            terms[f"decode_{name}"] = self.config.decode * self._distance(decoder(told.pooled), told.p)
        return terms

    def told(self, interests: Interests, m: int, real: Bool[Tensor, "B K"]) -> Told:
        """What one modality's decoder reads, and what it should tell, of the candidates with anything known."""
        config, similarities = self.config, interests.similarities
        known = (similarities.known[:, :, m] & real[..., None]).flatten(0, 1)
        r, all_known = similarities.r[:, :, m], similarities.known[:, :, m]
        p = interest_distribution(r, all_known, interests.ago, slices=config.slices, bins=config.bins)
        has = known.any(1)
        kept = known[has]
        if self.training and config.masked:
            kept = kept & (torch.rand(kept.shape, device=kept.device) >= config.masked)
        pooled = masked_mean(interests.sequences[m][has], kept)
        some = kept.any(1)  # all that was known may have been masked
        return Told(pooled[some], p.flatten(0, 1)[has][some])

    def _distance(self, x: Float[Tensor, "N c"], p: Float[Tensor, "N c"]) -> Float[Tensor, ""]:
        return decoding_distance(x, p, self.config).mean() if len(x) else x.sum() * 0.0


@dataclass(frozen=True)
class Told:
    """M(r) of Eq. 11, and P of Eq. 10, of the candidates that have one."""

    pooled: Float[Tensor, "N d"]
    p: Float[Tensor, "N c"]


def decoding_distance(
    x: Float[Tensor, "N c"], p: Float[Tensor, "N c"], config: DMAEObjectiveConfig
) -> Float[Tensor, " N"]:
    """D(P || Q) of Eq. 13, Q made of the decoder's output x; 0 log 0 = 0, in nats."""
    entropy = torch.special.entr(p).sum(1)
    rows = (config.slices, config.bins)
    match config.q:
        case "softmax":
            return -(p * x.log_softmax(1)).sum(1) - entropy
        case "row_softmax":
            # P = (share of the slice) x (distribution in the slice): only the second is told.
            of_slice = p.unflatten(1, rows).sum(2)
            within = x.unflatten(1, rows).log_softmax(2).flatten(1)
            return -(p * within).sum(1) - entropy + torch.special.entr(of_slice).sum(1)
        case "literal":
            return -(p * F.logsigmoid(x)).sum(1) - entropy
        case "generalised_kl":
            return -(p * F.logsigmoid(x)).sum(1) - entropy + (x.sigmoid() - p).sum(1)
        case "cells":
            return F.binary_cross_entropy_with_logits(x, p, reduction="none").sum(1) - _binary_entropy(p).sum(1)
        case "earth_mover":
            q = x.softmax(1)
            return (p - q).unflatten(1, rows).cumsum(2).abs().sum((1, 2)) / config.bins


def _binary_entropy(p: Float[Tensor, "N c"]) -> Float[Tensor, "N c"]:
    return torch.special.entr(p) + torch.special.entr(1 - p)
