"""One list of the K+1 that several interests have found: of the whole catalogue, and of each category searched.

ULIM searches the catalogue with a short-term vector and each of K categories with a long-term one (section 2.2.2), and
does not say how the lists become one. Scores of different lists are not comparable: each vector was trained among items
of its own category alone. Three ways, each a total order of all items found, so that the first N are the same whatever
number was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Merge = Literal["quota", "factorised", "raw"]


class Interests(NamedTuple):
    """A short-term vector and K long-term ones, all in one space with the items'; the likeliest category first.

    Attributes:
        vectors: zero where there is none.
        categories: what each may retrieve from: 0 = the whole catalogue in column 0, in others that there is none.
        weights: probability of each category; 1 in column 0.
    """

    vectors: Float[Tensor, "B K D"]
    categories: Int[Tensor, "B K"]
    weights: Float[Tensor, "B K"]


@dataclass(frozen=True)
class InterestLists:
    """What K+1 searches found, best first; item 0 = an empty slot, its score -inf.

    Attributes:
        short_items, short_scores: of the whole catalogue, N of them.
        items, scores: of each category, L of them; an item has one category, so it is in one of these lists at most.
        log_mass: log of the sum of exp(score) over all items of the category, found or not; -inf where there is none.
            "factorised" alone needs it.
        weights: probability that the category is the next one; in any unit.
    """

    short_items: Int[Tensor, "B N"]
    short_scores: Float[Tensor, "B N"]
    items: Int[Tensor, "B K L"]
    scores: Float[Tensor, "B K L"]
    log_mass: Float[Tensor, "B K"] | None
    weights: Float[Tensor, "B K"]


@dataclass(frozen=True)
class Merged:
    """Items best first, each once.

    Attributes:
        items: 0 = an empty slot (they come last).
        keys: what they are sorted by, ascending; inf in empty slots.
        source: the list an item came from first: 0 the short one, k the k-th category's.
    """

    items: Int[Tensor, "B T"]
    keys: Float[Tensor, "B T"]
    source: Int[Tensor, "B T"]


def interest_keys(
    lists: InterestLists, how: Merge = "quota", short_share: float = 0.5
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B K L"]]:
    """What the entries of the lists are to be sorted by, ascending; inf in empty slots. Float64.

    quota       (r - 1/2) / share of the list, r an entry's place in it: each next place of the merged list goes to the
                list that is furthest behind its share. Shares are `short_share`, and the rest by `weights` (U21).
    factorised  -log(weight) - log softmax of the score in its category: log p(c) + log p(i | c); the short list is put
                below.
    raw         -score.

    Deviates: nothing is printed. Largest remainders, list length by list length, may take a place back when the list
    grows; this is Sainte-Lague's rule, which cannot. An item that two lists found counts for both; an exhausted list
    leaves its places to the others, by their shares.

    Raises:
        ValueError: a share outside 0 to 1; "factorised" without the categories' mass.
    """
    if not 0 <= short_share <= 1:
        raise ValueError(f"short_share is {short_share}, a share is 0 to 1")
    found, short_found = lists.items > 0, lists.short_items > 0
    short_place = torch.arange(lists.short_items.shape[1], device=found.device).double().expand(lists.short_items.shape)
    if how == "raw":
        short, long = -lists.short_scores.double(), -lists.scores.double()
    elif how == "factorised":
        if lists.log_mass is None:
            raise ValueError("merging factorised lists needs their log_mass")
        log_p = lists.scores.double() - lists.log_mass.double()[..., None] + lists.weights.double().log()[..., None]
        long = -log_p
        below = torch.where(found & torch.isfinite(long), long, 0.0).flatten(1)
        short = torch.nn.functional.pad(below, (1, 0)).amax(1, keepdim=True) + 1 + short_place
    else:
        weights = lists.weights.double() * found.any(2)
        shares = (1 - short_share) * weights / weights.sum(1, keepdim=True).clamp(min=1e-300)
        place = torch.arange(lists.items.shape[2], device=found.device).double()
        # A share of 0 gives infinite keys: such a list has no place.
        short = (short_place + 0.5) / short_share if short_share else torch.full_like(short_place, torch.inf)
        long = (place + 0.5) / shares[..., None]
    return short.masked_fill(~short_found, torch.inf), long.masked_fill(~found, torch.inf)


def merge_interests(lists: InterestLists, size: int, how: Merge = "quota", short_share: float = 0.5) -> Merged:
    """The first `size` items by `interest_keys`; of equal keys the short list's first, then the more probable category.

    Returns: `size` columns, empty slots last.
    Raises:
        ValueError: see `interest_keys`; size below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}, it starts at 1")
    short, long = interest_keys(lists, how, short_share)
    count, lists_of = len(short), long.shape[1]
    keys = torch.cat([short, long.flatten(1)], 1)
    items = torch.cat([lists.short_items, lists.items.flatten(1)], 1)
    source = torch.arange(1, lists_of + 1, device=items.device).repeat_interleave(long.shape[2])
    source = torch.cat([source.new_zeros(short.shape[1]), source]).expand(count, -1)
    # An item is in two lists at most, so that twice as many entries hold `size` items if there are so many.
    order = keys.topk(min(2 * size, keys.shape[1]), dim=1, largest=False, sorted=False).indices.sort(dim=1).values
    keys, by_key = keys.gather(1, order).sort(dim=1, stable=True)
    order = order.gather(1, by_key)
    items, source = items.gather(1, order), source.gather(1, order)
    # The first entry of each item stays.
    sorted_items, by_item = items.sort(dim=1, stable=True)
    again = torch.zeros_like(items, dtype=torch.bool)
    again[:, 1:] = sorted_items[:, 1:] == sorted_items[:, :-1]
    keys = keys.masked_fill(again.scatter(1, by_item, again), torch.inf)
    keys, order = keys.sort(dim=1, stable=True)
    keys, order = _filled(keys, size, torch.inf), _filled(order, size, 0)
    found = keys < torch.inf
    if not items.shape[1]:
        return Merged(order, keys, order)
    return Merged(items.gather(1, order) * found, keys, source.gather(1, order) * found)


def _filled(x: Tensor, size: int, value: float) -> Tensor:
    """The first `size` columns, as many of `value` added as are missing."""
    return torch.nn.functional.pad(x[:, :size], (0, max(size - x.shape[1], 0)), value=value)
