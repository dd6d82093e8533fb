"""A plain two-tower: the "regular two-tower" that T2Diff's online test replaces, and the shape of Covington et al.,
"Deep neural networks for YouTube recommendations", RecSys 2016, that ULIM compares with.

Deviates: the papers state no sizes; averaged actions plus the last one, item vectors from a tower of their own, cosine
with a learned temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.errors import ConfigError
from penchant.layers import MLP, Dropout, check_sizes, item_embedding
from penchant.models import Sizes

MAX_SCALE = 100.0
"""Largest 1 / temperature, so that a few frequent items cannot sharpen the softmax without end."""


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Sizes of both towers."""

    width: int = 64
    """Width of item embeddings and of both towers' vectors."""
    inner: int = 128
    """Width of both towers' inner layer."""
    dropout: float = 0.2
    temperature: float = 0.05
    """The learned temperature's first value."""
    max_len: int = 50
    """Actions read, the latest ones."""

    def __post_init__(self) -> None:
        check_sizes(self, "width", "inner", "max_len")
        if not self.temperature >= 1 / MAX_SCALE:
            raise ConfigError(f"temperature is {self.temperature}", fix=f"Set temperature to {1 / MAX_SCALE} or more.")


class TwoTower(nn.Module):
    """score(t, i) = cos(User[mean of x up to t; x_t], Item[x_i]) / temperature, x_i = id + category embedding.

    The item vectors have length 1, the user vectors length 1 / temperature, so that their product is a logit.
    """

    kind: ClassVar[str] = "two_tower"
    Config: ClassVar[type] = TwoTowerConfig
    item_category: Tensor

    def __init__(self, config: TwoTowerConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        self.items = item_embedding(sizes.num_items, config.width)
        self.categories = item_embedding(sizes.num_categories, config.width)
        self.register_buffer("item_category", torch.zeros(sizes.num_items + 1, dtype=torch.int64))
        self.dropout = Dropout(config.dropout)
        self.user_tower = MLP(2 * config.width, config.inner, config.width, dropout=config.dropout)
        self.item_tower = MLP(config.width, config.inner, config.width, dropout=config.dropout)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def set_categories(self, item_category: Int[Tensor, " I"]) -> None:
        """Tell the item tower each item's category (a Store's `item_category`); before that all have none."""
        self.item_category.copy_(item_category)

    def hidden(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """The user's vector after each action, right-padded with what nobody should read."""
        x = self._inputs(history)
        count = (history > 0).cumsum(1).clamp(min=1)[..., None]
        return self._user(x.cumsum(1) / count, x)

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """The vector after the last action; zero without any."""
        requests = requests.last(self.config.max_len)
        history, lengths = requests.history, requests.lengths
        if not history.shape[1]:
            return self.items.weight.new_zeros(len(requests), self.config.width)
        x = self._inputs(history)
        known = (lengths > 0)[:, None]
        newest = x[torch.arange(len(x), device=x.device), (lengths - 1).clamp(min=0)]
        return self._user(x.sum(1) / lengths.clamp(min=1)[:, None], newest) * known

    def item_vectors(self) -> Float[Tensor, "I D"]:
        """Vectors of length 1; row 0 is zero."""
        vectors = self.embed_items(torch.arange(self.num_items + 1, device=self.item_category.device))
        return vectors * (torch.arange(len(vectors), device=vectors.device) > 0)[:, None]

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, as the sampled softmax needs them."""
        return F.normalize(self.item_tower(self._inputs(items)), dim=-1)

    def _inputs(self, items: Tensor) -> Tensor:
        """x; zero at padding."""
        return self.items(items) + self.categories(self.item_category[items])

    def _user(self, mean: Tensor, newest: Tensor) -> Tensor:
        vectors = self.user_tower(self.dropout(torch.cat([mean, newest], dim=-1)))
        return F.normalize(vectors, dim=-1) * self.log_scale.exp().clamp(max=MAX_SCALE)
