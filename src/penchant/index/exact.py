"""Exact search: every vector is compared. The oracle of every other index."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from penchant.index.base import Index, check_vectors

BLOCK_SCORES = 2**21
"""Scores held at once: 8 MB, and three times that where rows tie."""
BLOCK_QUERIES = 256

_ITEM_BITS = 32
_LOW = 2**_ITEM_BITS - 1
_SIGN_FLIP = 0x7FFFFFFF
_EMPTY = -(2**63)


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
    def search(self, query: Float[Tensor, "B D"], k: int) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """See `Index.search`."""
        if query.shape[1] != self.width or k < 1:
            raise ValueError(f"query of width {query.shape[1]}, k {k}: the index has width {self.width}, k starts at 1")
        check_vectors(query, "query")
        keys = [self._search(part, k) for part in query.split(BLOCK_QUERIES)]
        return _decode(torch.cat(keys) if keys else query.new_zeros(0, k, dtype=torch.int64))

    def _search(self, query: Tensor, k: int) -> Tensor:
        best = torch.full((len(query), k), _EMPTY, dtype=torch.int64, device=query.device)
        block = max(BLOCK_SCORES // max(len(query), 1), 1)
        for start in range(1, self.num_items + 1, block):
            keys = _best_keys(query @ self.vectors[start : start + block].T, start, k)
            best = torch.cat([best, keys], dim=1).topk(k, dim=1).values
        return best


def best_items(scores: Float[Tensor, "B I"], k: int) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
    """The k best columns after column 0, best first; equal scores, the smaller item first.

    Returns: always K = k columns; item 0 and score -inf where fewer items have a score above -inf.
    Raises:
        ValueError: a score is NaN.
    """
    keys = _best_keys(scores[:, 1:], 1, k)
    return _decode(F.pad(keys, (0, k - keys.shape[1]), value=_EMPTY))


def _best_keys(scores: Tensor, first_item: int, k: int) -> Tensor:
    """Keys of the k best of each row (of all, where there are fewer), best first."""
    scores, k = scores.float(), min(k, scores.shape[1])
    values, place = scores.topk(k, dim=1)
    keys = _keys(values, place + first_item)
    if k:
        if bool(values[:, 0].isnan().any()):  # `topk` puts NaN first
            raise ValueError("a score is NaN")
        # `topk` takes any of the items that tie for the last place: such rows are done again with keys of all items.
        tied = (scores >= values[:, -1:]).sum(1) > k
        if bool(tied.any()):
            items = torch.arange(first_item, first_item + scores.shape[1], device=scores.device)
            keys[tied] = _keys(scores[tied], items).topk(k, dim=1).values
    return keys.sort(dim=1, descending=True).values


def _keys(scores: Tensor, items: Tensor) -> Tensor:
    """One integer for each (score, item) that sorts by score, then by smaller item.

    The high half is the float's bits, made to sort as integers do; the low half counts items downwards.
    """
    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0 turns -0.0, which equals 0.0, into it
    return (torch.where(bits < 0, bits ^ _SIGN_FLIP, bits) << _ITEM_BITS) + (_LOW - items)


def _decode(keys: Tensor) -> tuple[Tensor, Tensor]:
    high = keys >> _ITEM_BITS
    scores = torch.where(high < 0, high ^ _SIGN_FLIP, high).int().view(torch.float32)
    found = (keys != _EMPTY) & (scores > -torch.inf)
    return torch.where(found, _LOW - (keys & _LOW), 0), torch.where(found, scores, -torch.inf)
