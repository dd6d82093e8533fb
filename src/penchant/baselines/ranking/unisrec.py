"""UniSRec as a ranker: items are their ids and what a mixture of experts makes of their frozen text vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.baselines.ranking.content import ItemContent, VectorRankerConfig
from penchant.baselines.ranking.din import ActivationUnit
from penchant.baselines.ranking.parts import RankerBody
from penchant.errors import at_least
from penchant.funnel.features import RankInputs
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class UniSRecConfig(VectorRankerConfig):
    """DIN's sizes, the content, and the number of experts."""

    modalities: tuple[str, ...] = ("text",)
    """As published, the text; each further one has an adaptor of its own, and all are added."""
    experts: int = 8
    """G of Eq. 3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "experts")


class MixtureAdaptor(nn.Module):
    """sum_k g_k (x - b_k) W_k, g = softmax(x W_g): parametric whitening by several experts. Eq. 2 to 4.

    Deviates: without the noise on the gates, which is there for training alone.
    """

    def __init__(self, given: int, width: int, experts: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(experts, given))
        # Expert by expert, so that one product is enough; as small as the embeddings' entries.
        self.whiten = nn.Parameter(torch.randn(experts, given, width) * 0.05)
        self.gate = nn.Linear(given, experts, bias=False)
        nn.init.normal_(self.gate.weight, std=0.05)

    def forward(self, x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape D"]:
        experts, given, width = self.whiten.shape
        each = x @ self.whiten.transpose(0, 1).reshape(given, experts * width)
        each = each.unflatten(-1, (experts, width)) - (self.shift[:, None] @ self.whiten)[:, 0]
        return (self.gate(x).softmax(-1)[..., None, :] @ each)[..., 0, :]


class UniSRec(nn.Module):
    """Hou et al., "Towards Universal Sequence Representation Learning for Recommender Systems", KDD 2022, as a ranker.

    z = e + adaptor(x), of candidate and history: id and category, and the frozen text vector x     [Eq. 2 to 4, 11]
    v(z) = sum_s a(z_s, z) z_s                                                                      [DIN's Eq. 3]
    logit = MLP([v, z, v * z, features])

    An item without content is its id alone.

    Deviates: the paper retrieves with a transformer's last state; here DIN's unit and last network read the items, so
    that all rankers share the backbone. No pre-training on other domains: one data set, and ids from the beginning, as
    in the paper's transductive setting. Of its two contrastive losses, sequence and item is in `auxiliary.py`, sequence
    and sequence is left out. x is standardised before, and has length 1.
    """

    kind = "unisrec"
    Config = UniSRecConfig

    def __init__(self, config: UniSRecConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        width = config.width + config.category_width
        self.body = RankerBody(config, sizes)
        self.unit = ActivationUnit(width, config.attention)
        self.content = ItemContent(config, sizes.num_items)
        self.adaptors = nn.ModuleList(MixtureAdaptor(given, width, config.experts) for given in config.content_widths)

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        """Logits; what an empty slot gets means nothing."""
        history = inputs.requests.history
        return self.logits(inputs, self.adapted(inputs.items), self.adapted(history))

    def logits(
        self, inputs: RankInputs, candidates: Float[Tensor, "B K D"], history: Float[Tensor, "B S D"]
    ) -> Float[Tensor, "B K"]:
        """DIN on items that are id and content, the content as `adapted` gives it."""
        candidates = candidates + self.body.embed(inputs.items)
        history = history + self.body.embed(inputs.requests.history)
        pooled = self.unit(history, candidates, inputs.requests.mask) @ history
        return self.body(pooled, candidates, inputs)

    def adapted(self, items: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        """The adaptors' part of an item; zero where it has no content."""
        distinct, places = items.unique(return_inverse=True)
        parts = [
            adaptor(self.content.vectors(m, distinct)) * self.content.present[m][distinct][..., None]
            for m, adaptor in enumerate(self.adaptors)
        ]
        # As in ContentProjection: a lookup, for its gradient.
        return F.embedding(places, torch.stack(parts).sum(0))
