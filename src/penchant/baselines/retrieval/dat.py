"""DAT: a two-tower whose towers each read a guess of what the other will say. Yu et al., "A dual augmented two-tower
model for online large-scale recommendation", DLP-KDD 2021.

Each user and each item has an augmented vector, an input of its own tower, that is trained to mimic the other tower's
output for what the user chose, and for who chose the item (`auxiliary.py`: the adaptive-mimic mechanism). With its
category alignment loss it is the strongest baseline of T2Diff's Table 2.

Deviates: the papers state no features: the towers are those of `two_tower.py` (mean and last of the history, id and
category of the item, a learned temperature), with the augmented vectors beside, so that the two differ in nothing else.
A user nobody has trained on has the augmented vector 0, which some pieces are trained with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.baselines.retrieval.two_tower import MAX_SCALE, TwoTowerConfig
from penchant.data.history import Requests
from penchant.layers import MLP, Dropout, item_embedding, last_hidden
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class DATConfig(TwoTowerConfig):
    """Sizes of both towers, and of the table of users."""

    num_users: int = 0
    """Users with a vector of their own, 1 to num_users; a run sets it to the Store's."""


class DAT(nn.Module):
    """score(u, t, i) = p_u . p_i / temperature; p_u = User[mean of x up to t; x_t; a_u], p_i = Item[x_i; a_i].

    x_i = id + category embedding, p of length 1, a the augmented vectors.
    """

    kind: ClassVar[str] = "dat"
    Config: ClassVar[type] = DATConfig
    item_category: Tensor

    def __init__(self, config: DATConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        self.items = item_embedding(sizes.num_items, config.width)
        self.categories = item_embedding(sizes.num_categories, config.width)
        self.register_buffer("item_category", torch.zeros(sizes.num_items + 1, dtype=torch.int64))
        self.augmented_users = item_embedding(config.num_users, config.width)
        self.augmented_items = item_embedding(sizes.num_items, config.width)
        self.dropout = Dropout(config.dropout)
        self.user_tower = MLP(3 * config.width, config.inner, config.width, dropout=config.dropout)
        self.item_tower = MLP(2 * config.width, config.inner, config.width, dropout=config.dropout)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def set_categories(self, item_category: Int[Tensor, " I"]) -> None:
        """Tell the item tower each item's category (a Store's `item_category`); before that all have none."""
        self.item_category.copy_(item_category)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """1 / temperature."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def known(self, users: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The users that have a vector of their own; 0 for others."""
        return torch.where(users <= self.config.num_users, users, 0)

    def directions(self, history: Int[Tensor, "B S"], users: Int[Tensor, " B"] | None = None) -> Float[Tensor, "B S D"]:
        """p_u after each action, right-padded with what nobody should read; users nobody knows if None."""
        x = self._inputs(history)
        count = (history > 0).cumsum(1).clamp(min=1)[..., None]
        users = history.new_zeros(len(history)) if users is None else self.known(users)
        guess = self.augmented_users(users)[:, None].expand_as(x)
        return F.normalize(self.user_tower(self.dropout(torch.cat([x.cumsum(1) / count, x, guess], dim=-1))), dim=-1)

    def hidden(self, history: Int[Tensor, "B S"], users: Int[Tensor, " B"] | None = None) -> Float[Tensor, "B S D"]:
        """p_u / temperature after each action."""
        return self.directions(history, users) * self.scale

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """p_u / temperature after the last action; zero without any."""
        requests = requests.last(self.config.max_len)
        if not requests.history.shape[1]:
            return self.items.weight.new_zeros(len(requests), self.config.width)
        return last_hidden(self.hidden(requests.history, requests.users), requests.lengths)

    def item_vectors(self) -> Float[Tensor, "I D"]:
        """p_i; row 0 is zero."""
        vectors = self.embed_items(torch.arange(self.num_items + 1, device=self.item_category.device))
        return vectors * (torch.arange(len(vectors), device=vectors.device) > 0)[:, None]

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """p_i of some items."""
        return F.normalize(
            self.item_tower(torch.cat([self._inputs(items), self.augmented_items(items)], dim=-1)), dim=-1
        )

    def _inputs(self, items: Tensor) -> Tensor:
        """x; zero at padding."""
        return self.items(items) + self.categories(self.item_category[items])
