"""KARMA's e_i and h_t as decoding reads them, in the width of its language model. For reports, never served."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.papers.karma.model import Karma


class Within(nn.Module):
    """A KARMA whose vectors are those that searching projects from, and may hold less of."""

    def __init__(self, karma: Karma) -> None:
        super().__init__()
        self.karma, self.num_items = karma, karma.num_items

    def item_vectors(self) -> Float[Tensor, "I D"]:
        """e_i (Eq. 2)."""
        items = torch.arange(self.num_items + 1, device=self.karma.to_item.weight.device)
        return torch.cat([self.karma.tokens(part) for part in items.split(4096)])

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """h_t (Eq. 3)."""
        return self.karma.last_states(requests)[0]
