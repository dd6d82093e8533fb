"""SimTier: a histogram of how alike the candidate and the past actions are, beside DIN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from penchant.baselines.ranking.content import (
    ContentRankerConfig,
    ItemContent,
    actions_since,
    interest_counts,
    interest_distribution,
)
from penchant.baselines.ranking.din import ActivationUnit
from penchant.baselines.ranking.parts import RankerBody
from penchant.errors import at_least
from penchant.funnel.features import RankInputs
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class SimTierConfig(ContentRankerConfig):
    """DIN's sizes, the content, and how finely similarities are counted."""

    tiers: int = 10
    """N: parts of [0, 1]."""
    slices: int = 1
    """Parts of the history, from the most recent, that are counted each by itself; with more than one, the cells are
    those of DMAE's Eq. 10."""
    cells: Literal["log", "share"] = "log"
    """log: log(1 + actions) of each cell; share: of the known actions, so that they are P of DMAE's Eq. 10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "tiers", "slices")


class SimTier(nn.Module):
    """Sheng et al., "Enhancing Taobao Display Advertising with Multimodal Representations", CIKM 2024: SimTier.

    t^m_n = log(1 + |{s : r^m_s in ((n - 1) / N, n / N]}|), the first tier with 0, over the actions that are known
    logit = MLP([v, e, v * e, features, t^1, .., t^M]), v that of `DIN`

    As published with one modality; with more, their histograms side by side. A candidate of which nothing is known gets
    zeros, and so is scored by DIN alone.

    Deviates: r = (cos + 1) / 2, calibrated as the content's config says, in tiers of [0, 1], where the paper cuts the
    cosine's [-1, 1]; the counts' logarithm, as the last network reads them beside values of order 1; `slices`, which
    the paper has not, is our control for DMAE: the distribution that DMAE has its encoder tell, read as it is.
    """

    kind = "simtier"
    Config = SimTierConfig

    def __init__(self, config: SimTierConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        self.body = RankerBody(config, sizes, further=len(config.modalities) * config.slices * config.tiers)
        self.unit = ActivationUnit(config.width + config.category_width, config.attention)
        self.content = ItemContent(config, sizes.num_items)

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        """Logits; what an empty slot gets means nothing."""
        candidates, history = self.body.embed(inputs.items), self.body.embed(inputs.requests.history)
        pooled = self.unit(history, candidates, inputs.requests.mask) @ history
        return self.body(pooled, candidates, inputs, self.histograms(inputs))

    def histograms(self, inputs: RankInputs) -> Float[Tensor, "B K f"]:
        """The cells of each modality side by side, slices from the most recent, tiers from the least alike."""
        similar, ago = self.content(inputs.requests.history, inputs.items), actions_since(inputs.requests)
        slices, bins = self.config.slices, self.config.tiers
        of_modality = zip(similar.r.unbind(2), similar.known.unbind(2), strict=True)
        if self.config.cells == "share":
            return torch.cat([interest_distribution(*of, ago, slices=slices, bins=bins) for of in of_modality], dim=2)
        return torch.cat([interest_counts(*of, ago, slices=slices, bins=bins) for of in of_modality], dim=2).log1p()
