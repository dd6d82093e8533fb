"""One integer for each (score, item), so that sorting integers is sorting by score, then by smaller item.

The high half is the float's bits, made to sort as integers do; the low half counts items downwards.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

EMPTY = -(2**63)
"""Sorts after every pair; it decodes to no item."""

_ITEM_BITS = 32
_LOW = 2**_ITEM_BITS - 1
_SIGN_FLIP = 0x7FFFFFFF


def encoded(scores: Float[Tensor, "*N"], items: Int[Tensor, "*M"]) -> Int[Tensor, "*N"]:
    """The keys of float32 scores and of items below 2**32, which are as many or broadcast."""
    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0 turns -0.0, which equals 0.0, into it
    return (torch.where(bits < 0, bits ^ _SIGN_FLIP, bits) << _ITEM_BITS) + (_LOW - items)


def decoded(keys: Int[Tensor, "*N"]) -> tuple[Int[Tensor, "*N"], Float[Tensor, "*N"]]:
    """Items and scores; item 0 and -inf where a score is -inf."""
    high = keys >> _ITEM_BITS
    scores = torch.where(high < 0, high ^ _SIGN_FLIP, high).int().view(torch.float32)
    found = (keys != EMPTY) & (scores > -torch.inf)
    return torch.where(found, _LOW - (keys & _LOW), 0), torch.where(found, scores, -torch.inf)


def best_pairs(
    scores: Float[Tensor, "B N"], items: Int[Tensor, " N"], k: int
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """The k best scores of each row (all, where there are fewer) and their items, sorted but for ties.

    Of items that tie for the last place the smaller are taken. A score of NaN comes first, for `sorted_keys` to refuse.

    Args:
        items: of the columns.
    """
    scores, k = scores.float(), min(k, scores.shape[1])
    values, place = scores.topk(k, dim=1)
    chosen = items[place]
    if k < scores.shape[1]:
        # `topk` takes any of those that tie for the last place: such rows are done again with keys of all items.
        last = values[:, -1:]
        tied = (scores >= last).sum(1, keepdim=True) > k
        if bool(tied.any()):
            rows = (tied & (last > -torch.inf) & ~values[:, :1].isnan())[:, 0]
            chosen[rows], values[rows] = decoded(encoded(scores[rows], items).topk(k, dim=1).values)
    return values, chosen


def sorted_keys(scores: Float[Tensor, "B K"], items: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
    """Their keys, best first; a score of -inf is no find.

    Raises:
        ValueError: a score is NaN.
    """
    if bool(scores.isnan().any()):
        raise ValueError("a score is NaN")
    return encoded(scores, items).sort(dim=1, descending=True).values


def best_keys(scores: Float[Tensor, "B N"], items: Int[Tensor, " N"], k: int) -> Int[Tensor, "B K"]:
    """Keys of the k best of each row (of all, where there are fewer), best first; a score of -inf is no find.

    Args:
        items: of the columns.
    Raises:
        ValueError: a score is NaN.
    """
    return sorted_keys(*best_pairs(scores, items, k))
