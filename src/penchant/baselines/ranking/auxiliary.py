"""What UniSRec, LRD and DIMO learn beside clicks: train-only, never saved with the model.

Each is called as `objective(model, batch)` and gives named terms, each times its weight, whose sum is the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.baselines.ranking.dimo import DIMO, View
from penchant.baselines.ranking.lrd import LRD
from penchant.baselines.ranking.objective import listwise_loss, pointwise_loss
from penchant.baselines.ranking.unisrec import UniSRec
from penchant.errors import ConfigError, at_least
from penchant.training.impressions import RankBatch


@dataclass(frozen=True, kw_only=True)
class UniSRecObjectiveConfig:
    """How much UniSRec's contrastive loss counts."""

    contrast: float = 0.1
    """Weight of the sequence-item loss; 0 = without."""
    temperature: float = 0.07
    """Of its cosines."""

    def __post_init__(self) -> None:
        _check_weights(self, "contrast")
        _check_temperature(self.temperature)


class UniSRecObjective(nn.Module):
    """click + contrast * sequence-item loss (Eq. 8): a history's content tells the clicked item's among the batch's.

    Asked is the sum of the history's adapted vectors, of each clicked candidate; see `in_batch_contrast`.

    Deviates: a loss beside clicks, where the paper pre-trains with it on other domains; the history's mean (the cosine
    does not tell it from the sum) in place of a transformer's last state.
    """

    def __init__(self, config: UniSRecObjectiveConfig, listwise: bool = False) -> None:
        super().__init__()
        self.config, self.listwise = config, listwise

    def forward(self, model: UniSRec, batch: RankBatch) -> dict[str, Tensor]:
        """{"click" or "target", "contrast"}."""
        inputs = batch.inputs
        candidates, history = model.adapted(inputs.items), model.adapted(inputs.requests.history)
        terms = _of_clicks(model.logits(inputs, candidates, history), batch, self.listwise)
        if self.config.contrast:
            known = model.content.has(inputs.items) & model.content.has(inputs.requests.history).any(1)[:, None]
            row, place = _clicked(batch, known)
            asked, told, items = history.sum(1)[row], candidates[row, place], inputs.items[row, place]
            loss = in_batch_contrast(asked, told, items, self.config.temperature)
            terms["contrast"] = self.config.contrast * loss
        return terms


@dataclass(frozen=True, kw_only=True)
class LRDObjectiveConfig:
    """How much LRD's reconstruction counts."""

    reconstruct: float = 0.1
    """Weight of the self-supervised loss; 0 = without."""
    entropy: float = 0.1
    """Of q within it: how much relations are kept from all being the same one too early."""
    temperature: float = 0.1
    """Of the decoder's cosines."""
    pairs: int = 256
    """Pairs of a batch that are reconstructed, drawn anew each time; bounds memory and time."""

    def __post_init__(self) -> None:
        _check_weights(self, "reconstruct", "entropy")
        _check_temperature(self.temperature)
        at_least(1, self, "pairs")


class LRDObjective(nn.Module):
    """click + reconstruct * mean over pairs of [-E_q log p(i | s, r) - E_q log p(s | i, r) - entropy * H(q)].

    Pairs are (clicked candidate, action of its history), two different items. The decoder tells one from the other and
    the relation:

        p(i | s, r) = softmax over i' of cos(e_i', e_s * (1 + M E_r)) / temperature

    e are the model's own embeddings, which so learn what related items are; i' the items of the pairs but s, which
    would be nearest to itself. It is the negative lower bound of a discrete variational auto-encoder with uniform
    prior, where `entropy` is 1.

    Deviates: a softmax over the batch's items in place of sampled negatives; cosines, as embeddings are short at first;
    M, so that the relation vectors need not mean the same in the decoder and in the ranker.

    Args:
        width: of the model's embeddings and relation vectors.
    """

    def __init__(self, config: LRDObjectiveConfig, width: int, listwise: bool = False) -> None:
        super().__init__()
        self.config, self.listwise = config, listwise
        self.decoder = nn.Linear(width, width, bias=False) if config.reconstruct else None

    def forward(self, model: LRD, batch: RankBatch) -> dict[str, Tensor]:
        """{"click" or "target", "reconstruct"}."""
        q = model.encoder(model.content, batch.inputs)
        terms = _of_clicks(model.logits(batch.inputs, q), batch, self.listwise)
        if self.decoder is not None:
            terms["reconstruct"] = self.config.reconstruct * self._reconstruction(model, batch, q, self.decoder)
        return terms

    def _reconstruction(
        self, model: LRD, batch: RankBatch, q: Float[Tensor, "B K R S"], decoder: nn.Linear
    ) -> Float[Tensor, ""]:
        inputs = batch.inputs
        items, history = inputs.items, inputs.requests.history
        known = model.content.has(items)[..., None] & model.content.has(history)[:, None]
        paired = known & (items[..., None] != history[:, None]) & _is_click(batch)[..., None]
        row, place, action = paired.nonzero(as_tuple=True)
        if len(row) > self.config.pairs:
            drawn = torch.randperm(len(row), device=row.device)[: self.config.pairs]
            row, place, action = row[drawn], place[drawn], action[drawn]
        if not len(row):
            return q.sum() * 0.0
        distinct, of_pair = torch.stack([items[row, place], history[row, action]]).unique(return_inverse=True)
        vectors = model.body.embed(distinct)
        relations = 1 + decoder(model.relation.weight)
        shares = q[row, place, :, action]
        told = self._told(vectors, of_pair[1], of_pair[0], relations, shares)
        told = told + self._told(vectors, of_pair[0], of_pair[1], relations, shares)
        return -(told + self.config.entropy * torch.special.entr(shares).sum(1)).mean()

    def _told(
        self,
        vectors: Float[Tensor, "U D"],
        given: Int[Tensor, " P"],
        wanted: Int[Tensor, " P"],
        relations: Float[Tensor, "R D"],
        q: Float[Tensor, "P R"],
    ) -> Float[Tensor, " P"]:
        """E_q log p(wanted | given, r), each a row of `vectors`."""
        asked = F.normalize(vectors[given][:, None] * relations, dim=-1)
        itself = (given[:, None] == torch.arange(len(vectors), device=given.device))[:, None]
        cosines = (asked @ F.normalize(vectors, dim=-1).T).masked_fill(itself, -torch.inf)
        logs = (cosines / self.config.temperature).log_softmax(-1)
        right = logs.gather(2, wanted[:, None, None].expand(-1, len(relations), 1))[..., 0]
        return (q * right).sum(1)


@dataclass(frozen=True, kw_only=True)
class DIMOObjectiveConfig:
    """How much each of DIMO's losses counts; 0 = without it."""

    cooccurrence: float = 0.1
    """Of ids: a history tells the clicked item's id among the batch's."""
    similarity: float = 0.1
    """Of content: cosines in the common space are those of the frozen vectors."""
    disentangle: float = 0.1
    """Of each interest: nearer to its own view's history than to the other's."""
    temperature: float = 0.1
    """Of the co-occurrence's cosines."""

    def __post_init__(self) -> None:
        _check_weights(self, "cooccurrence", "similarity", "disentangle")
        _check_temperature(self.temperature)


class DIMOObjective(nn.Module):
    """click + the three losses that keep the views apart, each by its weight.

    cooccurrence: `in_batch_contrast` of the history's ids, summed, and the clicked item's
    similarity: mean over known pairs of (cos(g, g_s) - (2 r - 1))^2, r the mean over the modalities that both have
    disentangle: mean over candidates of softplus(cos(v_id, p_mo) - cos(v_id, p_id)) and the same of v_mo, p the
        proxies, which are the sums of each view's history

    Deviates: co-occurrence is learned from clicks after histories, where the paper convolves a graph of the whole
    catalogue's; content is kept alike in place of an alignment of texts with their own pictures; proxies are the
    history's sums; without the paper's counterfactual sessions.
    """

    def __init__(self, config: DIMOObjectiveConfig, listwise: bool = False) -> None:
        super().__init__()
        self.config, self.listwise = config, listwise

    def forward(self, model: DIMO, batch: RankBatch) -> dict[str, Tensor]:
        """{"click" or "target", "cooccurrence", "similarity", "disentangle"}."""
        by_id, by_content = model.views(batch.inputs)
        terms = _of_clicks(model.logits(batch.inputs, by_id, by_content), batch, self.listwise)
        if self.config.cooccurrence:
            terms["cooccurrence"] = self.config.cooccurrence * self._cooccurrence(batch, by_id)
        if self.config.similarity:
            terms["similarity"] = self.config.similarity * _similarity(model, batch, by_content)
        if self.config.disentangle:
            known = model.content.has(batch.inputs.requests.history).any(1)[:, None]
            terms["disentangle"] = self.config.disentangle * _disentangled(by_id, by_content, batch.mask & known)
        return terms

    def _cooccurrence(self, batch: RankBatch, by_id: View) -> Float[Tensor, ""]:
        inputs = batch.inputs
        row, place = _clicked(batch, (inputs.requests.lengths > 0)[:, None])
        asked, told = by_id.history.sum(1)[row], by_id.candidates[row, place]
        return in_batch_contrast(asked, told, inputs.items[row, place], self.config.temperature)


def in_batch_contrast(
    asked: Float[Tensor, "N D"], told: Float[Tensor, "N D"], items: Int[Tensor, " N"], temperature: float
) -> Float[Tensor, ""]:
    """Cross-entropy of each row's own among all rows' `told`, by cosine / temperature; mean in nats, 0 without rows.

    Rows of the same item are no negatives to each other.
    """
    if not len(items):
        return told.sum() * 0.0
    logits = F.normalize(asked, dim=1) @ F.normalize(told, dim=1).T / temperature
    rows = torch.arange(len(items), device=items.device)
    same = (items[:, None] == items) & (rows[:, None] != rows)
    return F.cross_entropy(logits.masked_fill(same, -torch.inf), rows)


def _similarity(model: DIMO, batch: RankBatch, by_content: View) -> Float[Tensor, ""]:
    similar = model.content(batch.inputs.requests.history, batch.inputs.items)
    known = similar.known.any(2) & batch.mask[..., None]
    target = 2 * (similar.r.sum(2) / similar.known.sum(2).clamp(min=1))[known] - 1
    cosines = F.normalize(by_content.candidates, dim=2) @ F.normalize(by_content.history, dim=2).mT
    return _mean((cosines[known] - target).square())


def _disentangled(by_id: View, by_content: View, kept: Bool[Tensor, "B K"]) -> Float[Tensor, ""]:
    proxies = [view.history.sum(1, keepdim=True).expand_as(view.interest)[kept] for view in (by_id, by_content)]
    losses = []
    for view, own, other in ((by_id, *proxies), (by_content, *reversed(proxies))):
        interest = view.interest[kept]
        nearer = F.cosine_similarity(interest, own, dim=1) - F.cosine_similarity(interest, other, dim=1)
        losses.append(F.softplus(-nearer))
    return _mean(torch.stack(losses).sum(0))


def _of_clicks(logits: Float[Tensor, "B K"], batch: RankBatch, listwise: bool) -> dict[str, Tensor]:
    return {"target": listwise_loss(logits, batch)} if listwise else {"click": pointwise_loss(logits, batch)}


def _is_click(batch: RankBatch) -> Bool[Tensor, "B K"]:
    return (batch.labels > 0) & batch.mask


def _clicked(batch: RankBatch, kept: Bool[Tensor, "B _"]) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Rows and places of the clicked candidates that are `kept`, [B, K] or [B, 1]."""
    row, place = (_is_click(batch) & kept).nonzero(as_tuple=True)
    return row, place


def _mean(x: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """0 without any."""
    return x.sum() / max(len(x), 1)


def _check_weights(config: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise ConfigError(f"{name} is {getattr(config, name)}", fix=f"Set {name} to 0 or more.")


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ConfigError(f"temperature is {temperature}", fix="Set temperature to above 0.")
