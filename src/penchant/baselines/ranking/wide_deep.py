"""Wide & Deep: a linear model beside a network, and no behaviour sequence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.baselines.ranking.parts import FieldEmbedding, FirstOrder, ItemEmbedding, RankerConfig
from penchant.funnel.features import Features, FeatureScale, RankInputs
from penchant.layers import MLP, Dropout
from penchant.models import Sizes

CROSSES = 262_139
"""Weights of crossed categories at most; more pairs share them. Prime, so that pairs that meet have nothing else in
common."""


class CategoryCross(nn.Module):
    """One weight of each (category of the last action, category of the candidate); 0 where one of them is none."""

    def __init__(self, num_categories: int) -> None:
        super().__init__()
        self.num_categories = num_categories
        self.rows = max(min(num_categories**2, CROSSES), 1)
        self.table = nn.Embedding(self.rows + 1, 1, padding_idx=0)
        nn.init.zeros_(self.table.weight)

    def forward(self, last: Int[Tensor, "B 1"], candidates: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        row = 1 + ((last - 1) * self.num_categories + candidates - 1) % self.rows
        return self.table(torch.where((last > 0) & (candidates > 0), row, 0))[..., 0]


class WideDeep(nn.Module):
    """Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016.

    logit = w . [x, phi(x)] + MLP([e, features]) + b        [Eq. 3]

    x is the item, its category and the dense features. phi(x), the cross-product transformations of Eq. 1, is here the
    pair (category of the last action, category of the candidate), as the paper crosses installed and shown apps; item
    and category against the whole history are dense features already (`seen`, `category_share`). But for these, no
    part reads the history.

    Deviates: one optimizer for both parts, where the paper has FTRL with L1 for the wide and AdaGrad for the deep one;
    dense features standardised, not spread to [0, 1] by quantiles, and read by both parts; the last network is that of
    `DIN`, not of three ReLU layers; no user embedding.
    """

    kind = "wide_deep"
    Config = RankerConfig

    def __init__(self, config: RankerConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        self.embed = ItemEmbedding(config, sizes)
        self.scale = FeatureScale(sizes.num_features)
        self.dropout = Dropout(config.embedding_dropout)
        self.first_order = FirstOrder(sizes)
        self.cross = CategoryCross(sizes.num_categories)
        self.fields = FieldEmbedding(sizes, config.field_width)
        width = config.width + config.category_width + sizes.num_features + len(sizes.code_columns) * config.field_width
        self.mlp = MLP(width, config.hidden, config.hidden_second, 1, dropout=config.dropout)

    def fit_inputs(self, features: Features, batches: list[RankInputs]) -> None:
        """Fill the buffers: the items' categories, and the features' mean and std over some training batches."""
        self.embed.category_of.copy_(features.item_category)
        self.scale.fit(batches)

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        """Logits; what an empty slot gets means nothing."""
        features, categories = self.scale(inputs.features), self.embed.category_of[inputs.items]
        # A column of padding in front: without a history, the last action is item 0.
        last = F.pad(inputs.requests.history, (1, 0)).gather(1, inputs.requests.lengths[:, None])
        wide = self.first_order(inputs, categories, features)
        wide = wide + self.cross(self.embed.category_of[last], categories)
        read = [self.dropout(self.embed(inputs.items)), features, self.fields(inputs).flatten(2)]
        deep = self.mlp(torch.cat(read, dim=2))[..., 0]
        return wide + deep
