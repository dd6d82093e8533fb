"""Item-kNN: items that the same users chose, found from each of the latest actions. Sarwar et al., "Item-based
collaborative filtering recommendation algorithms", WWW 2001.

Deviates: binary actions instead of ratings; similarity shrunk towards 0 where few users back it; recent actions weigh
more.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
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

BLOCK_PAIRS = 2**23
"""Pairs of items counted at once by `fit`: some 400 MB at most."""


@dataclass(frozen=True, kw_only=True)
class ItemKNNConfig:
    """Sizes of the neighbourhoods, and how a history is read."""

    neighbours: int = 100
    """N, neighbours kept for each item."""
    shrink: float = 10.0
    """Users added to the cosine's denominator, so that one common user proves little."""
    max_len: int = 50
    """Actions read of a history, the latest ones."""
    decay: float = 0.7
    """Weight of an action in that of the next newer one."""
    max_user_events: int = 1000
    """Latest actions of a user that `fit` counts: it bounds the work, which grows with the square of it."""

    def __post_init__(self) -> None:
        if min(self.neighbours, self.max_len, self.max_user_events) < 1 or self.shrink < 0 or not 0 < self.decay <= 1:
            raise ConfigError(f"{self}", fix="Sizes from 1, shrink from 0, decay above 0 and at most 1.")


class ItemKNN(nn.Module):
    """score(j) = sum over actions h, newest first (a = 0, 1, ...), of decay^a sim(h, j).

    sim(i, j) = n_ij / (sqrt(n_i n_j) + shrink), n counting distinct users of the train window; i's N best neighbours
    (equal similarity, the smaller item) are kept. An item no action is a neighbour of is -inf, so an empty history's
    whole row is.
    """

    kind: ClassVar[str] = "item_knn"
    Config: ClassVar[type] = ItemKNNConfig
    neighbours: Tensor
    similarities: Tensor

    def __init__(self, config: ItemKNNConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        shape = (sizes.num_items + 1, config.neighbours)
        self.register_buffer("neighbours", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("similarities", torch.zeros(shape))

    def fit(self, store: Store, split: Split) -> None:
        """Count the users whom each pair of items has in common, a block of items at a time."""
        items = self.num_items + 1
        rows = split.events("train")
        user = store.event_user[rows].astype(np.int64)
        latest = rows >= split.stops("train")[user] - self.config.max_user_events
        pairs = np.unique(user[latest] * items + store.event_item[rows[latest]])
        user, item = np.divmod(pairs, items)
        users_of_item = np.bincount(item, minlength=items).astype(np.float64)
        everything = _matrix(user, item, (store.num_users + 1, items))
        by_item = np.argsort(item, kind="stable")
        user, item = user[by_item], item[by_item]
        work = np.bincount(user, minlength=store.num_users + 1)[user]
        for start, stop in _blocks(item, work, items):
            inside = slice(*np.searchsorted(item, [start, stop]))
            block = _matrix(item[inside] - start, user[inside], (stop - start, store.num_users + 1))
            with warnings.catch_warnings():
                # torch multiplies by way of CSR, which it calls beta; this product needs nothing but that.
                warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
                common = torch.sparse.mm(block, everything).coalesce()
            left, right = common.indices().numpy()
            both, left = common.values().numpy(), left + start
            similarity = both / (np.sqrt(users_of_item[left] * users_of_item[right]) + self.config.shrink)
            other = left != right
            found = strongest(
                left[other] - start, right[other], similarity[other], stop - start, self.config.neighbours
            )
            self.neighbours[start:stop] = torch.from_numpy(found[0])
            self.similarities[start:stop] = torch.from_numpy(found[1])

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        """Summed similarity to the latest actions; -inf where there is none."""
        requests = requests.last(self.config.max_len)
        history, lengths = requests.history, requests.lengths
        age = lengths[:, None] - 1 - torch.arange(history.shape[1], device=history.device)
        weight = self.config.decay ** age.clamp(min=0) * requests.mask
        scores = torch.zeros(len(requests), self.num_items + 1, device=history.device)
        found = self.neighbours[history].long().flatten(1)
        scores.scatter_add_(1, found, (self.similarities[history] * weight[..., None]).flatten(1))
        scores[scores <= 0] = -torch.inf
        scores[:, 0] = -torch.inf
        return scores


def _matrix(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """Sparse matrix of ones."""
    indices = torch.from_numpy(np.stack([rows, columns]))
    return torch.sparse_coo_tensor(indices, torch.ones(len(rows)), shape, check_invariants=True).coalesce()


def _blocks(item: np.ndarray, work: np.ndarray, items: int) -> Iterator[tuple[int, int]]:
    """Ranges of items whose summed work stays within `BLOCK_PAIRS` (one item alone may exceed it).

    Args:
        item: [n] ascending.
        work: [n] pairs that each entry leads to.
    """
    done = np.concatenate([[0], np.cumsum(np.bincount(item, work, minlength=items))])
    start = 0
    while start < items:
        stop = int(np.searchsorted(done, done[start] + BLOCK_PAIRS, side="right")) - 1
        stop = min(max(stop, start + 1), items)
        yield start, stop
        start = stop
