"""Exact search: every vector is compared. The oracle of every other index."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.index.base import Index, check_filters, check_query, check_vectors
from penchant.index.keys import EMPTY, best_keys, decoded

BLOCK_SCORES = 2**21
"""Scores held at once: 8 MB, and three times that where rows tie."""
BLOCK_QUERIES = 256


class ExactIndex(Index):
    """Compares a block of queries with a block of items at a time, keeping the best k so far.

    Args:
        vectors: float32 [I, D]; not copied.

    Raises:
        ValueError: a vector with NaN or infinity (row 0 excepted), or no row 0.
    """

    is_exact = True

    def __init__(self, vectors: Float[Tensor, "I D"]) -> None:
        if not len(vectors):
            raise ValueError("item vectors need at least row 0 (padding)")
        check_vectors(vectors[1:], "item vectors after row 0:")
        self.vectors = vectors.detach()
        self.num_items = len(vectors) - 1
        self.width = vectors.shape[1]

    @torch.no_grad()
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
        keys = []
        for start in range(0, len(query), BLOCK_QUERIES):
            rows = slice(start, start + BLOCK_QUERIES)
            keys.append(self._search(query[rows], k, None if exclude is None else exclude[rows], available))
        return decoded(torch.cat(keys) if keys else query.new_zeros(0, k, dtype=torch.int64))

    def _search(self, query: Tensor, k: int, exclude: Tensor | None, available: Tensor | None) -> Tensor:
        best = torch.full((len(query), k), EMPTY, dtype=torch.int64, device=query.device)
        block = max(BLOCK_SCORES // max(len(query), 1), 1)
        for start in range(1, self.num_items + 1, block):
            scores = query @ self.vectors[start : start + block].T
            items = torch.arange(start, start + scores.shape[1], device=query.device)
            if available is not None:
                scores.masked_fill_(~available[start : start + block], -torch.inf)
            if exclude is not None:
                row, place = ((exclude >= start) & (exclude <= items[-1])).nonzero(as_tuple=True)
                scores[row, exclude[row, place] - start] = -torch.inf
            best = torch.cat([best, best_keys(scores, items, k)], dim=1).topk(k, dim=1).values
        return best


def best_items(scores: Float[Tensor, "B I"], k: int) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
    """The k best columns after column 0, best first; equal scores, the smaller item first.

    Returns: always K = k columns; item 0 and score -inf where fewer items have a score above -inf.
    Raises:
        ValueError: a score is NaN.
    """
    keys = best_keys(scores[:, 1:], torch.arange(1, scores.shape[1], device=scores.device), k)
    return decoded(F.pad(keys, (0, k - keys.shape[1]), value=EMPTY))
