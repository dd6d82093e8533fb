"""What sequence models are trained with that need more than the next item against the catalogue.

Each objective is for the model of its name. Where a paper's loss is a sample of negatives, `loss` chooses between it
("published") and a softmax over the catalogue, the default: the loss is most of what sets published baselines apart.
All draws come from torch's own generator, which checkpoints keep: a run that was cut draws on as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.baselines.retrieval.bert4rec import BERT4Rec
from penchant.baselines.retrieval.caser import Caser
from penchant.baselines.retrieval.contrast_vae import ContrastVAE
from penchant.baselines.retrieval.dat import DAT
from penchant.baselines.retrieval.diffurec import DiffuRec
from penchant.baselines.retrieval.objective import SoftmaxConfig, SoftmaxObjective
from penchant.baselines.retrieval.stosa import STOSA, wasserstein
from penchant.data.batch import SequenceBatch
from penchant.errors import ConfigError
from penchant.losses import sampled_binary, two_view_infonce
from penchant.training.loop import Objective

Loss = Literal["softmax", "published"]
Terms = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class CaserObjectiveConfig:
    """Caser: binary cross-entropy against sampled negatives as published, or the next item against the catalogue."""

    loss: Loss = "softmax"
    negatives: int = 3
    """Of each target of the published loss."""
    ahead: int = 3
    """T: the next so many items are targets of the published loss, which so learns to skip some."""
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)

    def __post_init__(self) -> None:
        _check(self, from_one=("negatives", "ahead"))


class CaserObjective:
    """Section 3.4: -log s(y_i) of each of the next T items, -log(1 - s(y_j)) of each of its negatives.

    Deviates: a mean over targets, so that no weight depends on the batch; negatives are uniform over all other items.
    """

    def __init__(self, config: CaserObjectiveConfig, counts: Tensor) -> None:
        self.config = config
        self.softmax = SoftmaxObjective(config.softmax, counts)

    def __call__(self, model: Caser, batch: SequenceBatch) -> Terms:
        """{"softmax"} or {"binary"}."""
        if self.config.loss == "softmax":
            return self.softmax(model, batch)
        shifts = range(min(self.config.ahead, batch.targets.shape[1]))
        ahead = torch.stack([F.pad(batch.targets[:, n:], (0, n)) for n in shifts], dim=-1)
        hidden = model.hidden(batch.history)[:, :, None].expand(*ahead.shape, -1)[ahead > 0]
        targets = ahead[ahead > 0]
        wrong = _others(targets, self.config.negatives, model.num_items)
        right = model.embed_items(targets)
        return {"binary": sampled_binary(hidden, right, model.embed_items(wrong.flatten()).view(*wrong.shape, -1))}


@dataclass(frozen=True, kw_only=True)
class ClozeConfig:
    """BERT4Rec's cloze task."""

    masked: float = 0.2
    """rho: chance of each item to be masked; the paper's for ML-1M."""
    newest_only: float = 0.1
    """Share of the pieces of which only the newest item is masked, as when serving."""
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)

    def __post_init__(self) -> None:
        _check(self, shares=("masked", "newest_only"))


class ClozeObjective:
    """Eq. 8: mean of -log P(item | the piece with its masks) over the masked items.

    Deviates: a piece is masked anew each time it comes, not from ten copies; one without a mask gets one at its newest.
    """

    def __init__(self, config: ClozeConfig, counts: Tensor) -> None:
        self.config = config
        self.softmax = SoftmaxObjective(config.softmax, counts)

    def __call__(self, model: BERT4Rec, batch: SequenceBatch) -> Terms:
        """{"softmax"}; the mean is over masked items."""
        sequence = torch.cat([batch.history[:, :1], batch.targets], dim=1)
        masked = self.masks(sequence)
        hidden = model.filled_in(sequence, masked, (sequence > 0).sum(1))
        return self.softmax.terms(model, hidden, sequence[masked])

    def masks(self, sequence: Int[Tensor, "B S"]) -> Bool[Tensor, "B S"]:
        """Which items are masked; at least one of each piece."""
        real = sequence > 0
        masked = (torch.rand(sequence.shape) < self.config.masked).to(real.device) & real
        newest = torch.arange(sequence.shape[1], device=real.device) == real.sum(1, keepdim=True) - 1
        alone = (torch.rand(len(sequence)) < self.config.newest_only).to(real.device) | ~masked.any(1)
        return torch.where(alone[:, None], newest, masked)


@dataclass(frozen=True, kw_only=True)
class STOSAObjectiveConfig:
    """STOSA: BPR on distances with the PVN penalty as published, or the next item against the catalogue."""

    loss: Loss = "softmax"
    penalty: float = 0.1
    """lambda of the published loss's penalty."""
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)

    def __post_init__(self) -> None:
        _check(self, from_zero=("penalty",))


class STOSAObjective:
    """Mean of -log s(W(u, j) - W(u, i)) + lambda max(W(u, i) - W(i, j), 0) for target i, a negative j, W =
    W2^2: the target is nearer to the user than the negative is, and than the negative is to the target.
    """

    def __init__(self, config: STOSAObjectiveConfig, counts: Tensor) -> None:
        self.config = config
        self.softmax = SoftmaxObjective(config.softmax, counts)

    def __call__(self, model: STOSA, batch: SequenceBatch) -> Terms:
        """{"softmax"} or {"bpr", "pvn"}."""
        if self.config.loss == "softmax":
            return self.softmax(model, batch)
        mean, std = (x[batch.mask] for x in model.states(batch.history))
        targets = batch.targets[batch.mask]
        right = model.gaussians(targets)
        wrong = model.gaussians(_others(targets, 1, model.num_items)[:, 0])
        near, far = wasserstein(mean, std, *right), wasserstein(mean, std, *wrong)
        apart = (near - wasserstein(*right, *wrong)).relu()
        return {"bpr": F.softplus(near - far).mean(), "pvn": self.config.penalty * apart.mean()}


@dataclass(frozen=True, kw_only=True)
class ContrastVAEObjectiveConfig:
    """The ContrastELBO, with one sampled negative as published, or with the next item against the catalogue."""

    loss: Loss = "softmax"
    kl: float = 0.2
    """Largest weight of the KL terms; it rises by 1 / `anneal` a batch."""
    anneal: int = 10_000
    contrast: float = 0.6
    """lambda, of the contrast between the views."""
    temperature: float = 0.5
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)

    def __post_init__(self) -> None:
        _check(self, from_one=("anneal",), from_zero=("kl", "contrast"))
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}", fix="Set temperature above 0.")


class ContrastVAEObjective(nn.Module):
    """The ContrastELBO: both views' next items and KL from N(0, I), and InfoNCE between their z, summed over positions.

    Deviates: batches are made by targets, so that the contrast has as many negatives as a batch has pieces.
    """

    batches: Tensor

    def __init__(self, config: ContrastVAEObjectiveConfig, counts: Tensor) -> None:
        super().__init__()
        self.config = config
        self.softmax = SoftmaxObjective(config.softmax, counts)
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))  # a checkpoint keeps how far the KL is

    def forward(self, model: ContrastVAE, batch: SequenceBatch) -> Terms:
        """{"softmax" or "binary", "kl", "contrast"}; the first two are sums over the views."""
        self.batches += 1
        views = [model.view(batch.history) for _ in range(2)]
        targets = batch.targets[batch.mask]
        each = [self._next_item(model, view.hidden[batch.mask], targets) for view in views]
        terms = {name: each[0][name] + each[1][name] for name in each[0]}
        means, log_variances = (torch.cat([view[n][batch.mask] for view in views]) for n in range(2))
        terms["kl"] = 2 * from_standard(means, log_variances).mean() * self.weight()
        first, second = ((view.z * batch.mask[..., None]).sum(1) for view in views)
        terms["contrast"] = self.config.contrast * two_view_infonce(first, second, self.config.temperature)
        return terms

    def _next_item(self, model: ContrastVAE, hidden: Float[Tensor, "N D"], targets: Int[Tensor, " N"]) -> Terms:
        if self.config.loss == "softmax":
            return self.softmax.terms(model, hidden, targets)
        wrong = model.embed_items(_others(targets, 1, model.num_items)[:, 0])
        return {"binary": sampled_binary(hidden, model.embed_items(targets), wrong[:, None])}

    def weight(self) -> float:
        """Of the KL terms at this batch."""
        return min(self.config.kl, int(self.batches) / self.config.anneal)


def from_standard(mean: Float[Tensor, "N D"], log_variance: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """KL(N(mean, variance) || N(0, I)) in nats, diagonal."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2


@dataclass(frozen=True, kw_only=True)
class DiffuRecObjectiveConfig:
    """DiffuRec's cross-entropy, at some positions of each piece."""

    positions: int = 4
    """Of each piece, the newest and so many less one drawn at random: each costs a pass over the history before it."""
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)

    def __post_init__(self) -> None:
        _check(self, from_one=("positions",))


class DiffuRecObjective:
    """Training: the target noised at a random step, estimated from the history and it, against the catalogue."""

    def __init__(self, config: DiffuRecObjectiveConfig, counts: Tensor) -> None:
        self.config = config
        self.softmax = SoftmaxObjective(config.softmax, counts)

    def __call__(self, model: DiffuRec, batch: SequenceBatch) -> Terms:
        """{"softmax"}."""
        history, lengths, targets = self.cut(batch)
        shape = (len(targets), model.config.width)
        noise, steps = torch.randn(shape), torch.randint(1, model.config.steps + 1, shape[:1])
        weight = model.config.uncertainty * (1 + torch.randn(*history.shape, shape[1]))
        noise, steps, weight = (x.to(targets.device) for x in (noise, steps, weight))
        x = model.noised(model.vectors(targets), steps, noise)
        guess = model.estimate(model.embedded(history), lengths, x, steps, weight)
        return self.softmax.terms(model, guess, targets)

    def cut(self, batch: SequenceBatch) -> tuple[Int[Tensor, "N S"], Int[Tensor, " N"], Int[Tensor, " N"]]:
        """Histories up to the positions learned, their lengths, and the items that followed."""
        longest = batch.mask.sum(1, keepdim=True)
        drawn = torch.rand(len(longest), self.config.positions - 1).to(longest.device)
        lengths = torch.cat([longest, 1 + (drawn * longest).long().clamp(max=longest - 1)], dim=1)
        targets = batch.targets.gather(1, lengths - 1)
        inside = torch.arange(batch.history.shape[1], device=lengths.device) < lengths[..., None]
        return (batch.history[:, None] * inside).flatten(0, 1), lengths.flatten(), targets.flatten()


@dataclass(frozen=True, kw_only=True)
class DATObjectiveConfig:
    """DAT: the loss of the product, and what makes the augmented vectors mimic and the categories align."""

    loss: Loss = "softmax"
    negatives: int = 4
    """Of each target of the published loss."""
    mimic_user: float = 0.5
    """lambda_1: a user's augmented vector follows the items chosen."""
    mimic_item: float = 0.5
    """lambda_2: an item's augmented vector follows the users who chose it."""
    align: float = 1.0
    """lambda_3, of the category alignment loss."""
    strangers: float = 0.1
    """Share of the pieces whose user is hidden, so that users nobody has seen are served as well as they can be."""
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)

    def __post_init__(self) -> None:
        _check(self, from_one=("negatives",), from_zero=("mimic_user", "mimic_item", "align"), shares=("strangers",))


class DATObjective:
    """L = L_p + lambda_1 L_u + lambda_2 L_v + lambda_3 L_CA.

    L_u = mean |a_u - p_i|^2, L_v = mean |a_i - p_u|^2 over what was chosen; p has no gradient there.
    L_CA = sum over categories of |C(largest) - C(category)|^2, Frobenius, C the covariance of p_i.

    Deviates: the published L_p's logits are divided by the temperature, as a bare cosine cannot fit a binary label; L_u
    and L_v are means over what was chosen, L_u over that of users with a vector.
    """

    def __init__(self, config: DATObjectiveConfig, counts: Tensor) -> None:
        self.config = config
        self.softmax = SoftmaxObjective(config.softmax, counts)

    def __call__(self, model: DAT, batch: SequenceBatch) -> Terms:
        """{"softmax" or "binary", "mimic_user", "mimic_item", "align"}: those that have a weight."""
        config, targets = self.config, batch.targets[batch.mask]
        users = batch.history.new_zeros(len(batch.history)) if batch.users is None else model.known(batch.users)
        users = users * (torch.rand(len(users)) >= config.strangers).to(users.device)
        read = model.directions(batch.history, users)[batch.mask]
        chosen = model.embed_items(targets)
        if config.loss == "softmax":
            terms = self.softmax.terms(model, read * model.scale, targets)
        else:
            wrong = _others(targets, config.negatives, model.num_items)
            others = model.embed_items(wrong.flatten()).view(*wrong.shape, -1)
            terms = {"binary": sampled_binary(read * model.scale, chosen, others)}
        if config.mimic_user:
            owners = users[:, None].expand_as(batch.targets)[batch.mask]
            known = owners > 0
            gap = mimicry(model.augmented_users(owners), chosen)
            terms["mimic_user"] = config.mimic_user * (gap * known).sum() / known.sum().clamp(min=1)
        if config.mimic_item:
            terms["mimic_item"] = config.mimic_item * mimicry(model.augmented_items(targets), read).mean()
        if config.align:
            terms["align"] = config.align * misalignment(chosen, model.item_category[targets])
        return terms


def mimicry(augmented: Float[Tensor, "N D"], other: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """|a - p|^2, from which a learns and p does not."""
    return (augmented - other.detach()).square().sum(-1)


def misalignment(vectors: Float[Tensor, "N D"], categories: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """Sum over categories of the squared Frobenius distance between their items' covariance and the largest one's.

    A category of fewer than two items has no covariance; neither has category 0, which is none.
    """
    order = categories.argsort(stable=True)
    _, counts = torch.unique_consecutive(categories[order], return_counts=True)
    groups = vectors[order].split(counts.tolist())
    groups = [g for g, c in zip(groups, categories[order][counts.cumsum(0) - 1], strict=True) if c > 0 and len(g) > 1]
    if not groups:
        return vectors.new_zeros(())
    covariances = torch.stack([g.T.cov() for g in groups])
    largest = max(range(len(groups)), key=lambda i: len(groups[i]))
    return (covariances - covariances[largest]).square().sum()


SequenceObjectiveConfig = (
    SoftmaxConfig
    | CaserObjectiveConfig
    | ClozeConfig
    | STOSAObjectiveConfig
    | ContrastVAEObjectiveConfig
    | DiffuRecObjectiveConfig
    | DATObjectiveConfig
)
"""What a model of sequences learns: the next item alone, or what the model of the name needs."""


def sequence_objective(config: SequenceObjectiveConfig, counts: Int[Tensor, " I"]) -> Objective:
    """The objective of a config.

    Args:
        counts: how often each item occurs in the train window.
    """
    match config:
        case SoftmaxConfig():
            return SoftmaxObjective(config, counts)
        case CaserObjectiveConfig():
            return CaserObjective(config, counts)
        case ClozeConfig():
            return ClozeObjective(config, counts)
        case STOSAObjectiveConfig():
            return STOSAObjective(config, counts)
        case ContrastVAEObjectiveConfig():
            return ContrastVAEObjective(config, counts)
        case DiffuRecObjectiveConfig():
            return DiffuRecObjective(config, counts)
        case DATObjectiveConfig():
            return DATObjective(config, counts)


def _others(targets: Int[Tensor, " N"], count: int, num_items: int) -> Int[Tensor, "N K"]:
    """Items other than each target, uniform."""
    drawn = torch.randint(1, max(num_items, 2), (len(targets), count)).to(targets.device)
    return drawn + (drawn >= targets[:, None])


def _check(
    config: object, from_one: tuple[str, ...] = (), from_zero: tuple[str, ...] = (), shares: tuple[str, ...] = ()
) -> None:
    """Refuse a config whose fields are out of range."""
    allowed = [(from_one, 1, float("inf"), "1 or more"), (from_zero, 0, float("inf"), "0 or more")]
    for names, low, high, needed in (*allowed, (shares, 0, 1, "0 to 1")):
        for name in names:
            if not low <= getattr(config, name) <= high:
                raise ConfigError(f"{name} is {getattr(config, name)}", fix=f"Set {name} to {needed}.")
