"""First-order Markov chain: what came after the last item, for everybody. A strong control that costs seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from penchant.baselines.counted.neighbours import strongest
from penchant.data.history import Requests
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class MarkovConfig:
    """Sizes of the chain."""

    neighbours: int = 200
    """N, successors kept for each item; the rest are scored by popularity."""
    smoothing: float = 20.0
    """w, the weight of popularity, in transitions."""

    def __post_init__(self) -> None:
        if self.neighbours < 1 or not self.smoothing > 0:
            raise ConfigError(
                f"neighbours {self.neighbours}, smoothing {self.smoothing}", fix="Both must be above 0; 200 and 20 do."
            )


class Markov(nn.Module):
    """P(j | last item i) = (n_ij + w p_j) / (n_i + w): n counts transitions of the train window, p is popularity in it.

    n_ij is kept for the N most frequent successors of i (equal counts, the smaller item) and taken as 0 for the others,
    so the scores of a row sum to 1 at most. An item never followed, and an empty history, give p.
    """

    kind: ClassVar[str] = "markov"
    Config: ClassVar[type] = MarkovConfig
    successors: Tensor
    weights: Tensor
    backoff: Tensor
    popularity: Tensor

    def __init__(self, config: MarkovConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        items = sizes.num_items + 1
        self.register_buffer("successors", torch.zeros(items, config.neighbours, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(items, config.neighbours))  # n_ij / (n_i + w)
        self.register_buffer("backoff", torch.ones(items))  # w / (n_i + w); row 0 stays 1, for empty histories
        self.register_buffer("popularity", torch.zeros(items))

    def fit(self, store: Store, split: Split) -> None:
        """Count each user's transitions inside the train window."""
        items = self.num_items + 1
        rows = split.events("train")
        item, user = store.event_item[rows].astype(np.int64), store.event_user[rows]
        same = user[1:] == user[:-1]
        pairs, counts = np.unique(item[:-1][same] * items + item[1:][same], return_counts=True)
        before, after = np.divmod(pairs, items)
        total = np.bincount(before, counts, minlength=items) + self.config.smoothing
        successors, weights = strongest(before, after, counts / total[before], items, self.config.neighbours)
        self.successors.copy_(torch.from_numpy(successors))
        self.weights.copy_(torch.from_numpy(weights))
        self.backoff.copy_(torch.from_numpy(self.config.smoothing / total))
        self.popularity.copy_(torch.from_numpy(np.bincount(item, minlength=items) / max(len(item), 1)))

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        """P(item | last item); popularity where the history is empty."""
        history = requests.last(1).history
        last = history[:, 0] if history.shape[1] else history.new_zeros(len(requests))
        scores = self.backoff[last, None] * self.popularity
        scores.scatter_add_(1, self.successors[last].long(), self.weights[last])
        scores[:, 0] = -torch.inf
        return scores
