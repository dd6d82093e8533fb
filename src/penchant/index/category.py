"""Exact search inside categories and in the whole corpus, in one call.

Items are sorted by category, so that a category is one contiguous block of vectors and searching it one small product.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.index.base import Index, check_query, check_vectors
from penchant.index.exact import BLOCK_SCORES, ExactIndex
from penchant.index.keys import best_pairs, decoded, sorted_keys


@dataclass(frozen=True)
class Found:
    """The lists of B requests, best first; item 0 and score -inf in empty slots, which come last.

    Attributes:
        items, scores: of each category asked for.
        filled: how many items those lists have: fewer than K says that the category has no more (or is not known).
        short_items, short_scores, short_filled: the same of the whole corpus, L = `k_short`.
        log_mass: log of the sum of exp(score) over all items of a category, found, excluded or neither; -inf where
            there is none. None where it was not asked for.
        searched: columns of categories searched before the deadline: the lists of those after are empty.
    """

    items: Int[Tensor, "B C K"]
    scores: Float[Tensor, "B C K"]
    filled: Int[Tensor, "B C"]
    short_items: Int[Tensor, "B L"]
    short_scores: Float[Tensor, "B L"]
    short_filled: Int[Tensor, " B"]
    log_mass: Float[Tensor, "B C"] | None
    searched: int


@dataclass(frozen=True)
class _Rows:
    """Item vectors with their items and categories, row by row."""

    items: Int[Tensor, " N"]
    vectors: Float[Tensor, "N D"]
    categories: Int[Tensor, " N"]

    def taken(self, rows: Tensor | slice) -> _Rows:
        return _Rows(self.items[rows], self.vectors[rows], self.categories[rows])


class CategoryIndex(Index):
    """Searches the whole corpus, or the blocks of given categories.

    A category's list is exact; the whole corpus is searched by `whole`. The vectors are held twice where that is exact
    (once in blocks, once by item), and once beside what `whole` keeps otherwise.

    Args:
        vectors: float32 [I, D], row 0 padding; not copied by an exact `whole`.
        categories: of each item, from 1; 0 = none: such an item is found in the whole corpus alone.
        whole: makes the index of the whole corpus from vectors [I, D].

    Raises:
        ValueError: a vector with NaN or infinity (row 0 excepted), no row 0, not one category an item, or one below 0.
    """

    def __init__(
        self,
        vectors: Float[Tensor, "I D"],
        categories: Int[Tensor, " I"],
        whole: Callable[[Tensor], Index] = ExactIndex,
    ) -> None:
        if not len(vectors):
            raise ValueError("item vectors need at least row 0 (padding)")
        if len(categories) != len(vectors):
            raise ValueError(f"{len(vectors)} rows of vectors need as many categories, got {len(categories)}")
        check_vectors(vectors[1:], "item vectors after row 0:")
        _check_categories(categories[1:])
        vectors = vectors.detach()
        # By category and then by item.
        rows = categories[1:].argsort(stable=True) + 1
        self._blocks = _Rows(rows, vectors[rows], categories[rows])
        self._whole = whole(vectors)
        self.num_items, self.width = len(rows), vectors.shape[1]
        self.is_exact = self._whole.is_exact

    @torch.no_grad()
    def search(
        self,
        query: Float[Tensor, "B D"],
        k: int,
        *,
        exclude: Int[Tensor, "B S"] | None = None,
        available: Bool[Tensor, " I"] | None = None,
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The whole corpus: see `Index.search`."""
        return self._whole.search(query, k, exclude=exclude, available=available)

    @torch.no_grad()
    def search_all(
        self,
        short: Float[Tensor, "B D"],
        interests: Float[Tensor, "B C D"],
        categories: Int[Tensor, "B C"],
        k_short: int,
        k_each: int,
        *,
        exclude: Int[Tensor, "B S"] | None = None,
        deadline: float | None = None,
        with_mass: bool = False,
    ) -> Found:
        """`search` for `short`, and the best items of each category under the interest beside it; equal scores, the
        smaller item first.

        A category below 1 (padding), or one that no item has, gets an empty list. A category may come twice.

        Args:
            exclude: see `Index.search`.
            deadline: a `time.perf_counter()`. The corpus and the first category are always searched, then category by
                category until it has passed: give the likeliest first. None searches all, in fewer and larger products.
            with_mass: take each category's `log_mass` too.
        Returns: always `k_short` and `k_each` places; item 0 and score -inf where there are fewer items.
        Raises:
            ValueError: a vector of another width, or one with NaN or infinity (an interest's row is that of
                [B * C, D]); a number of places below 1; filters of another size.
        """
        check_query(interests.flatten(0, 1), k_each, self.width)
        short_items, short_scores = self._whole.search(short, k_short, exclude=exclude)
        asked = categories.shape[1]
        step = asked if deadline is None else 1
        parts, searched = [], 0
        while not parts or (searched < asked and time.perf_counter() < (deadline or 0.0)):
            columns = slice(searched, searched + step)
            of = interests[:, columns], categories[:, columns]
            parts.append(self._within(*of, k_each, exclude, with_mass))
            searched = min(searched + step, asked)
        if searched < asked:
            rest = slice(searched, asked)
            parts.append(self._within(interests[:, rest], torch.zeros_like(categories[:, rest]), k_each, exclude))
        items, scores, mass = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        filled, short_filled = (items > 0).sum(2), (short_items > 0).sum(1)
        told = mass if with_mass else None
        return Found(items, scores, filled, short_items, short_scores, short_filled, told, searched)

    def _within(
        self, query: Tensor, categories: Tensor, k: int, exclude: Tensor | None, with_mass: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Items, scores and log mass (-inf if not `with_mass`) of each pair of request and category."""
        batch, width = categories.shape
        queries = query.flatten(0, 1)
        scores = torch.full((batch * width, k), -torch.inf)
        items = torch.zeros(batch * width, k, dtype=torch.int64)
        mass = torch.full((batch * width,), -torch.inf)
        # Requests that ask for the same category are answered by one product.
        wanted, order = categories.flatten().sort()
        names, counts = wanted.unique_consecutive(return_counts=True)
        starts = torch.searchsorted(self._blocks.categories, names).tolist()
        ends = torch.searchsorted(self._blocks.categories, names, right=True).tolist()
        for category, pairs, start, end in zip(names.tolist(), order.split(counts.tolist()), starts, ends, strict=True):
            if category < 1:
                continue
            block = self._blocks.taken(slice(start, end))
            for some in pairs.split(max(1, BLOCK_SCORES // max(end - start, 1))):
                of = queries[some] @ block.vectors.T
                if with_mass:
                    mass[some] = of.logsumexp(1)
                best, found = _best(block, of, k, None if exclude is None else exclude[some // width])
                scores[some, : best.shape[1]], items[some, : best.shape[1]] = best, found
        items, scores = decoded(sorted_keys(scores, items))
        return items.view(batch, width, k), scores.view(batch, width, k), mass.view(batch, width)


def _best(rows: _Rows, scores: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
    """`best_pairs` of each query among rows that are sorted by item; `scores` are its to change."""
    if exclude is not None and len(rows.items):
        place = torch.searchsorted(rows.items, exclude.contiguous()).clamp_(max=len(rows.items) - 1)
        row, column = (rows.items[place] == exclude).nonzero(as_tuple=True)
        scores[row, place[row, column]] = -torch.inf
    return best_pairs(scores, rows.items, k)


def _check_categories(categories: Tensor) -> None:
    below = (categories < 0).nonzero()
    if len(below):
        raise ValueError(f"category {int(categories[below[0, 0]])} in row {int(below[0, 0])}: they start at 0 (none)")
