"""An embedding model whose vectors are known, for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from penchant.data.history import Requests
from penchant.funnel.similarity import Similarity


class Summed:
    """The user is the sum of the history's vectors; remembers for how many requests it was asked each time.

    Item 5 has a zero vector; item 0, which nobody may read, has none at all.
    """

    def __init__(self, num_items: int = 12) -> None:
        self.num_items = num_items
        self.table = torch.randn(num_items + 1, 6, generator=torch.Generator().manual_seed(0))
        self.table[0] = torch.nan
        self.table[5] = 0.0
        self.asked: list[int] = []

    def user_vectors(self, requests: Requests) -> Tensor:
        self.asked.append(len(requests))
        return torch.where(requests.history[..., None] > 0, self.table[requests.history], 0.0).sum(1)

    def item_vectors(self) -> Tensor:
        return self.table

    def similarity(self) -> Similarity:
        return Similarity("summed", self, self.table)
