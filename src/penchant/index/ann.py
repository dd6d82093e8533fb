"""Approximate search of the whole corpus: the inverted lists of faiss.

The vectors are clustered (inverted file, "IVF-Flat"), and a query is compared exactly with those of the nearest
clusters alone. A million items of width 64 are searched some ten times faster than exactly; what is missed is measured
beside `ExactIndex`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.errors import ConfigError
from penchant.index.base import Index, check_filters, check_query, check_vectors
from penchant.index.keys import EMPTY, decoded, encoded

LIST_ITEMS = 256
"""Items of an inverted list on average, so that a million items have about 4,000 lists."""
PROBES = 64
"""Lists that a query is compared with."""
TRAIN_PER_LIST = 40
"""Vectors a list that the clusters are learned from: faiss warns below 39."""


class AnnIndex(Index):
    """faiss IVF-Flat under the dot product, in memory. Searching is safe from many threads; there is no adding.

    A list shorter than k (and than the catalogue) says that the lists compared hold too few items: more probes help.

    Args:
        vectors: float32 [I, D]; copied into faiss. The clusters are the same on every call.
        probes: lists that a query is compared with; more find more and take longer.

    Raises:
        ConfigError: faiss is not installed; the message says how to get it.
        ValueError: a vector with NaN or infinity (row 0 excepted), no row 0, or probes below 1.
    """

    is_exact = False

    def __init__(self, vectors: Float[Tensor, "I D"], probes: int = PROBES) -> None:
        if not len(vectors) or probes < 1:
            raise ValueError(f"{len(vectors)} rows, probes {probes}: at least row 0 (padding) and one probe are needed")
        check_vectors(vectors[1:], "item vectors after row 0:")
        self._faiss = _faiss()
        self.probes = probes
        self.num_items = len(vectors) - 1
        self.width = vectors.shape[1]
        lists = max(1, self.num_items // LIST_ITEMS)
        rows = vectors[1:].detach().float().cpu().contiguous().numpy()
        self._index: Any = self._faiss.IndexIVFFlat(
            self._faiss.IndexFlatIP(self.width), self.width, lists, self._faiss.METRIC_INNER_PRODUCT
        )
        clustering = self._index.cp
        clustering.spherical = True  # under the dot product a long centre would draw every vector
        clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, TRAIN_PER_LIST
        if self.num_items:
            self._index.train(rows)
            self._index.add(rows)  # numbered from 0: item - 1

    def search(
        self,
        query: Float[Tensor, "B D"],
        k: int,
        *,
        exclude: Int[Tensor, "B S"] | None = None,
        available: Bool[Tensor, " I"] | None = None,
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """See `Index.search`."""
        check_query(query, k, self.width)
        check_filters(len(query), self.num_items, exclude, available)
        if not self.num_items or not len(query):
            return query.new_zeros(len(query), k, dtype=torch.int64), query.new_full((len(query), k), -torch.inf)
        # Each excluded item takes one place at most of those compared, so that many more are enough.
        wanted = k + (0 if exclude is None else int((exclude > 0).sum(1).max()))
        selector = None
        if available is not None:
            selector = self._faiss.IDSelectorBitmap(np.packbits(available[1:].cpu().numpy(), bitorder="little"))
        # Given as an argument, not set afterwards: only then the selector lives as long as its use.
        parameters = self._faiss.SearchParametersIVF(nprobe=self.probes, sel=selector)
        rows = query.detach().float().cpu().contiguous().numpy()
        scores, found = self._index.search(rows, min(wanted, self.num_items), params=parameters)
        items = torch.from_numpy(found).to(query.device) + 1  # faiss says -1 where it has no more
        values = torch.where(items > 0, torch.from_numpy(scores).to(query.device), -torch.inf)
        if exclude is not None and exclude.shape[1]:
            values = values.masked_fill(_contains(exclude, items), -torch.inf)
        keys = encoded(values, items).sort(dim=1, descending=True).values[:, :k]
        return decoded(F.pad(keys, (0, k - keys.shape[1]), value=EMPTY))


def _contains(sets: Int[Tensor, "B S"], items: Int[Tensor, "B K"]) -> Bool[Tensor, "B K"]:
    """True where an item is in the same row's set; S is at least 1."""
    ordered = sets.sort(dim=1).values
    place = torch.searchsorted(ordered, items).clamp(max=sets.shape[1] - 1)
    return ordered.gather(1, place) == items


def _faiss() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module("faiss")
    except ImportError:
        raise ConfigError(
            "approximate search needs the package faiss-cpu", fix='Install it with: pip install "penchant[ann]"'
        ) from None
