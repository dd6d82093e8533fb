"""Merging the channels' lists into one, each item once, with its rank and score in every channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from penchant.funnel.stages import Candidates


def merge_quota(lists: Sequence[Candidates], quotas: Sequence[int], size: int) -> Candidates:
    """Each channel's first `quota` items, then what follows in their lists, until there are `size`.

    The quota's items come rank by rank (all first places, all second places, ...), the channels in the order given;
    then the leftovers in the same way, each channel going on where its quota ended. An item that several channels found
    stands at its first place in that order. Quotas that sum to more than `size` are cut rank by rank.

    Args:
        lists: one channel each, of the same requests.
        quotas: one for each list; 0 = leftovers only.
    Returns: `size` columns, empty slots last; the scores are 1 / place, which say the order and nothing else.
    Raises:
        ValueError: no lists, two of one name, a list of several channels, quotas that do not fit, size below 1.
    """
    _check(lists, size)
    if len(quotas) != len(lists) or min(quotas) < 0:
        raise ValueError(f"{len(lists)} channels need as many quotas from 0, got {list(quotas)}")
    items, ranks, channel_scores = _distinct(lists)
    longest = max(one.items.shape[1] for one in lists)
    # (phase, rank within the phase, channel) as one number, the smallest over the channels.
    first = torch.full_like(items, 2 * (longest + 1) * len(lists))
    for c, quota in enumerate(quotas):
        rank = ranks[..., c]
        turn = torch.where(rank <= quota, rank, longest + rank - quota) * len(lists) + c
        first = torch.where(rank > 0, torch.minimum(first, turn), first)
    order = first.argsort(dim=1)
    place = torch.arange(1, items.shape[1] + 1, device=items.device).expand_as(items)
    return _taken(lists, items, ranks, channel_scores, order, 1.0 / place, size)


def merge_rrf(lists: Sequence[Candidates], size: int, constant: float = 60.0) -> Candidates:
    """Reciprocal rank fusion: score = sum over the channels that found the item of 1 / (constant + rank).

    Cormack, Clarke, Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods",
    SIGIR 2009, whose constant is 60. Equal scores: the smaller item first.

    Args:
        lists: one channel each, of the same requests.
    Returns: `size` columns, empty slots last.
    Raises:
        ValueError: no lists, two of one name, a list of several channels, a constant of -1 or less, size below 1.
    """
    _check(lists, size)
    if constant <= -1:
        raise ValueError(f"the channels' ranks start at 1, so the constant must be above -1, got {constant}")
    items, ranks, channel_scores = _distinct(lists)
    # Double precision, one channel after the other: places far down differ by less than single precision can tell.
    scores = torch.zeros(items.shape, dtype=torch.float64, device=items.device)
    for c in range(len(lists)):
        scores += torch.where(ranks[..., c] > 0, 1.0 / (constant + ranks[..., c].double()), 0.0)
    order = scores.argsort(dim=1, descending=True, stable=True)
    return _taken(lists, items, ranks, channel_scores, order, scores.gather(1, order), size)


def _check(lists: Sequence[Candidates], size: int) -> None:
    names = [name for c in lists for name in c.channels]
    if not lists or len(set(names)) < len(names) or len(names) != len(lists) or size < 1:
        raise ValueError(f"lists of one channel each, all of different names, size from 1; got {names}, size {size}")


def _distinct(
    lists: Sequence[Candidates],
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T C"], Float[Tensor, "B T C"]]:
    """Every row's distinct items, ascending (0 after them), with rank and score in each channel (0 where not found).

    T is the summed length of the lists: memory is B * T * C.
    """
    found = torch.cat([c.items for c in lists], dim=1)
    last = torch.iinfo(found.dtype).max
    ordered, order = torch.where(found > 0, found, last).sort(dim=1)
    is_new = ordered != F.pad(ordered, (1, 0), value=0)[:, :-1]
    group = torch.empty_like(found).scatter_(1, order, is_new.long().cumsum(1) - 1)
    items = torch.zeros_like(found).scatter_(1, group, found)
    ranks = torch.stack([torch.zeros_like(found)] * len(lists), dim=2)
    scores = torch.zeros(ranks.shape, dtype=lists[0].channel_scores.dtype, device=found.device)
    start = 0
    for c, one in enumerate(lists):
        place = group[:, start : start + one.items.shape[1]]
        # Empty slots share a group; whatever is written there is 0.
        ranks[..., c].scatter_(1, place, one.ranks[..., 0])
        scores[..., c].scatter_(1, place, one.channel_scores[..., 0])
        start += one.items.shape[1]
    return items, ranks, scores


def _taken(
    lists: Sequence[Candidates],
    items: Int[Tensor, "B T"],
    ranks: Int[Tensor, "B T C"],
    channel_scores: Float[Tensor, "B T C"],
    order: Int[Tensor, "B T"],
    scores: Float[Tensor, "B T"],
    size: int,
) -> Candidates:
    """The first `size` of `order`, whose scores are given in that order."""
    order = order[:, :size]
    short = size - order.shape[1]
    deep = order[..., None].expand(-1, -1, len(lists))
    items = F.pad(items.gather(1, order), (0, short))
    scores = F.pad(scores[:, :size].float(), (0, short))
    return Candidates(
        items=items,
        scores=torch.where(items > 0, scores, -torch.inf),
        channels=tuple(c.channels[0] for c in lists),
        ranks=F.pad(ranks.gather(1, deep), (0, 0, 0, short)),
        channel_scores=F.pad(channel_scores.gather(1, deep), (0, 0, 0, short)),
    )
