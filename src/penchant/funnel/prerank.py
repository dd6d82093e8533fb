"""The pre-ranker: a light two-tower that cuts the merged list down to what a ranker can afford.

The item's side is a table that can be computed before any request; what depends on the pair is one small network on
the dense features, among them what the channels said.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.funnel.features import REQUEST_FEATURES, Features, FeatureScale, RankInputs
from penchant.layers import MLP, Dropout, item_embedding
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class LightTwoTowerConfig:
    width: int = 32
    hidden: int = 64
    """Inner width of the request's tower."""
    feature_hidden: int = 32
    """Inner width of the network on the dense features."""
    recent: int = 20
    """Actions of the history that are averaged."""
    dropout: float = 0.1


class LightTwoTower(nn.Module):
    """score = <u(request), v(item)> + f(features)

    u = MLP([mean of v over the last `recent` actions, the request's features]); v = item + category embedding.
    """

    kind = "light_two_tower"
    Config = LightTwoTowerConfig
    item_category: Tensor

    def __init__(self, config: LightTwoTowerConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        self.item = item_embedding(sizes.num_items, config.width)
        self.category = item_embedding(sizes.num_categories, config.width)
        self.register_buffer("item_category", torch.zeros(sizes.num_items + 1, dtype=torch.int64))
        self.scale = FeatureScale(sizes.num_features)
        self.tower = MLP(config.width + len(REQUEST_FEATURES), config.hidden, config.width, dropout=config.dropout)
        self.pair = MLP(sizes.num_features, config.feature_hidden, 1)
        self.dropout = Dropout(config.dropout)

    def fit_inputs(self, features: Features, batches: list[RankInputs]) -> None:
        """Fill the buffers: the items' categories, and the features' mean and std over some training batches."""
        self.item_category.copy_(features.item_category)
        self.scale.fit(batches)

    def vectors(self, items: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        """v of these items; zero for 0."""
        return self.item(items) + self.category(self.item_category[items])

    def user_vectors(self, requests: Requests, features: Float[Tensor, "B f"]) -> Float[Tensor, "B D"]:
        """u of each request.

        Args:
            features: the scaled `REQUEST_FEATURES`.
        """
        requests = requests.last(self.config.recent)
        # Padding has the zero vector, so the sum needs no mask.
        mean = self.vectors(requests.history).sum(1) / requests.lengths.clamp(min=1)[:, None]
        return self.tower(torch.cat([self.dropout(mean), features], dim=1))

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        features = self.scale(inputs.features)
        of_request = features[:, :1, : len(REQUEST_FEATURES)].sum(1)  # a sum of one, or of none where K = 0
        user = self.user_vectors(inputs.requests, of_request)
        return (self.vectors(inputs.items) @ user[..., None])[..., 0] + self.pair(features)[..., 0]
