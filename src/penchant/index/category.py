"""Exact search inside categories and in the whole corpus, in one call, while items come and go.

Items are sorted by category, so that a category is one contiguous block of vectors and searching it one small product.
What is added lies beside the blocks, is searched exactly as well, and is folded into them when there is much of it.

Every search reads one snapshot that nothing changes any more; a write makes the next one and swaps it in. So readers
need no lock and see all of a write or nothing of it. One write runs at a time; others wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.index.base import Index, check_filters, check_query, check_vectors
from penchant.index.exact import BLOCK_SCORES, ExactIndex
from penchant.index.keys import best_pairs, decoded, encoded, sorted_keys

ADDED_ROWS = 8192
"""Added items beside the blocks. More make adding cheaper, and each search of the whole corpus compare more vectors."""

_REMOVED = -1  # the category that removed items are moved to, before all others


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


@dataclass(frozen=True)
class _Snapshot:
    """All that a search reads.

    Attributes:
        blocks: every item of the last fold, by category and then by item; the removed first.
        row_of: row in `blocks` of each item up to `whole.num_items`.
        gone: rows of `blocks` removed or replaced since; None = none.
        whole: of the items of `blocks`, the removed among them.
        available: False at items of `whole` that were removed or replaced; None = none.
        added: items added since, by item. No row of it is removed: it is left out instead.
        num_items: the largest item ever given.
    """

    blocks: _Rows
    row_of: Int[Tensor, " J"]
    gone: Bool[Tensor, " N"] | None
    whole: Index
    available: Bool[Tensor, " J"] | None
    added: _Rows
    num_items: int


class CategoryIndex(Index):
    """Searches the whole corpus, or the blocks of given categories.

    A category's list is exact; the whole corpus is searched by `whole`. The vectors are held twice where that is exact
    (once in blocks, once by item), and once beside what `whole` keeps otherwise.

    Args:
        vectors: float32 [I, D], row 0 padding; not copied by an exact `whole`.
        categories: of each item, from 1; 0 = none: such an item is found in the whole corpus alone.
        whole: makes the index of the whole corpus from vectors [I, D]; called again at every fold.
        added_rows: items added since the last fold from which on the next is made.

    Raises:
        ValueError: a vector with NaN or infinity (row 0 excepted), no row 0, not one category an item, or one below 0.
    """

    def __init__(
        self,
        vectors: Float[Tensor, "I D"],
        categories: Int[Tensor, " I"],
        whole: Callable[[Tensor], Index] = ExactIndex,
        added_rows: int = ADDED_ROWS,
    ) -> None:
        if not len(vectors):
            raise ValueError("item vectors need at least row 0 (padding)")
        if len(categories) != len(vectors):
            raise ValueError(f"{len(vectors)} rows of vectors need as many categories, got {len(categories)}")
        check_vectors(vectors[1:], "item vectors after row 0:")
        _check_categories(categories[1:])
        self._make_whole, self._added_rows = whole, added_rows
        self._writing = Lock()
        self._snapshot = self._folded(vectors.detach(), categories, None)
        self.num_items = self._snapshot.num_items
        self.width = vectors.shape[1]
        self.is_exact = self._snapshot.whole.is_exact

    def search(
        self,
        query: Float[Tensor, "B D"],
        k: int,
        *,
        exclude: Int[Tensor, "B S"] | None = None,
        available: Bool[Tensor, " I"] | None = None,
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The whole corpus: see `Index.search`. What was removed is not available, whatever `available` says.

        Items that were added after `available` was made, and so go beyond it, are not found.
        """
        snapshot = self._snapshot
        if available is not None:
            available = F.pad(available, (0, max(0, snapshot.num_items + 1 - len(available))))
        check_query(query, k, self.width)
        check_filters(len(query), snapshot.num_items, exclude, available)
        return _whole(snapshot, query, k, exclude, available)

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
        smaller item first. Both are of one and the same state of the index.

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
        snapshot = self._snapshot
        check_query(short, k_short, self.width)
        check_query(interests.flatten(0, 1), k_each, self.width)
        check_filters(len(short), snapshot.num_items, exclude, None)
        short_items, short_scores = _whole(snapshot, short, k_short, exclude, None)
        asked = categories.shape[1]
        step = asked if deadline is None else 1
        parts, searched = [], 0
        while not parts or (searched < asked and time.perf_counter() < (deadline or 0.0)):
            columns = slice(searched, searched + step)
            of = interests[:, columns], categories[:, columns]
            parts.append(_within(snapshot, *of, k_each, exclude, with_mass))
            searched = min(searched + step, asked)
        if searched < asked:
            rest = slice(searched, asked)
            parts.append(_within(snapshot, interests[:, rest], torch.zeros_like(categories[:, rest]), k_each, exclude))
        items, scores, mass = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        filled, short_filled = (items > 0).sum(2), (short_items > 0).sum(1)
        told = mass if with_mass else None
        return Found(items, scores, filled, short_items, short_scores, short_filled, told, searched)

    def add(self, items: Int[Tensor, " N"], vectors: Float[Tensor, "N D"], categories: Int[Tensor, " N"]) -> None:
        """Items come in, come back, or get another vector or category; all at once for every reader.

        A call after which more than `added_rows` wait folds them in: it takes as long as building the index.

        Args:
            items: each once; new ones are numbered on from `num_items`.
            categories: 0 = none.
        Raises:
            ValueError: a vector of another width, or with NaN or infinity; not one vector and category an item; a
                category below 0; an item twice, below 1, or such that a number before it was never given.
        """
        if vectors.shape[1] != self.width:
            raise ValueError(f"vectors of width {vectors.shape[1]}: the index has width {self.width}")
        if not len(items) == len(vectors) == len(categories):
            raise ValueError(f"{len(items)} items, {len(vectors)} vectors and {len(categories)} categories")
        check_vectors(vectors, "added vectors:")
        _check_categories(categories)
        with self._writing:
            now = self._snapshot
            num_items = _numbered_on(items, now.num_items)
            now = _without(now, items)
            added = _Rows(
                torch.cat([now.added.items, items]),
                torch.cat([now.added.vectors, vectors.detach()]),
                torch.cat([now.added.categories, categories]),
            )
            self._swap(replace(now, added=added.taken(added.items.argsort()), num_items=num_items))

    def remove(self, items: Int[Tensor, " N"]) -> None:
        """Items go out (of stock); `add` brings them back. One that is out already stays out.

        Raises:
            ValueError: an item below 1 or above `num_items`.
        """
        with self._writing:
            now = self._snapshot
            wrong = items[(items < 1) | (items > now.num_items)]
            if len(wrong):
                raise ValueError(f"item {int(wrong[0])} cannot be removed: items are 1 to {now.num_items}")
            self._swap(_without(now, items))

    def fold(self) -> None:
        """Build the blocks and the whole-corpus index anew, with what was added and without what was removed."""
        with self._writing:
            self._swap(self._refolded(self._snapshot))

    def _swap(self, snapshot: _Snapshot) -> None:
        if len(snapshot.added.items) > self._added_rows:
            snapshot = self._refolded(snapshot)
        self._snapshot, self.num_items = snapshot, snapshot.num_items

    def _refolded(self, now: _Snapshot) -> _Snapshot:
        vectors = now.blocks.vectors.new_zeros(now.num_items + 1, self.width)
        categories = torch.full((now.num_items + 1,), _REMOVED)
        vectors[now.blocks.items] = now.blocks.vectors
        categories[now.blocks.items] = now.blocks.categories
        if now.available is not None:
            categories[: len(now.available)][~now.available] = _REMOVED
        vectors[now.added.items] = now.added.vectors
        categories[now.added.items] = now.added.categories
        available = categories != _REMOVED
        return self._folded(vectors, categories, None if bool(available[1:].all()) else available)

    def _folded(self, vectors: Tensor, categories: Tensor, available: Tensor | None) -> _Snapshot:
        order = categories[1:].argsort(stable=True)
        row_of = torch.zeros_like(categories)
        row_of[order + 1] = torch.arange(len(order))
        by_item = _Rows(torch.arange(len(vectors)), vectors, categories)
        none = by_item.taken(slice(0, 0))
        return _Snapshot(by_item.taken(order + 1), row_of, None, self._make_whole(vectors), available, none, len(order))


@torch.no_grad()
def _whole(
    snapshot: _Snapshot, query: Tensor, k: int, exclude: Tensor | None, available: Tensor | None
) -> tuple[Tensor, Tensor]:
    allowed = snapshot.available
    if available is not None:
        old = available[: snapshot.whole.num_items + 1]
        allowed = old if allowed is None else old & allowed
    items, scores = snapshot.whole.search(query, k, exclude=exclude, available=allowed)
    added = snapshot.added
    if not len(added.items):
        return items, scores
    gone = None if available is None else ~available[added.items]
    best = _best(added, _scores(added, gone, query), k, exclude)
    keys = torch.cat([encoded(scores, items), sorted_keys(*best)], dim=1)
    return decoded(keys.topk(k, dim=1).values)


@torch.no_grad()
def _within(
    snapshot: _Snapshot, query: Tensor, categories: Tensor, k: int, exclude: Tensor | None, with_mass: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Items, scores and log mass (-inf if not `with_mass`) of each pair of request and category."""
    batch, width = categories.shape
    blocks, added, gone = snapshot.blocks, snapshot.added, snapshot.gone
    queries = query.flatten(0, 1)
    scores = torch.full((batch * width, k), -torch.inf)
    items = torch.zeros(batch * width, k, dtype=torch.int64)
    mass = torch.full((batch * width,), -torch.inf)
    # Requests that ask for the same category are answered by one product.
    wanted, order = categories.flatten().sort()
    names, counts = wanted.unique_consecutive(return_counts=True)
    starts = torch.searchsorted(blocks.categories, names).tolist()
    ends = torch.searchsorted(blocks.categories, names, right=True).tolist()
    for category, pairs, start, end in zip(names.tolist(), order.split(counts.tolist()), starts, ends, strict=True):
        if category < 1:
            continue
        block, out = blocks.taken(slice(start, end)), None if gone is None else gone[start:end]
        new = added.taken((added.categories == category).nonzero()[:, 0]) if len(added.items) else added
        for some in pairs.split(max(1, BLOCK_SCORES // max(end - start, 1))):
            seen = None if exclude is None else exclude[some // width]
            of = _scores(block, out, queries[some])
            if with_mass:
                mass[some] = of.logsumexp(1)
            best, found = _best(block, of, k, seen)
            if len(new.items):
                of = _scores(new, None, queries[some])
                if with_mass:
                    mass[some] = torch.logaddexp(mass[some], of.logsumexp(1))
                both = sorted_keys(best, found), sorted_keys(*_best(new, of, k, seen))
                found, best = decoded(torch.cat(both, dim=1).sort(dim=1, descending=True).values[:, :k])
            scores[some, : best.shape[1]], items[some, : best.shape[1]] = best, found
    items, scores = decoded(sorted_keys(scores, items))
    return items.view(batch, width, k), scores.view(batch, width, k), mass.view(batch, width)


def _scores(rows: _Rows, gone: Tensor | None, query: Tensor) -> Tensor:
    """Of each query, [B, N]; -inf where a row is gone."""
    scores = query @ rows.vectors.T
    return scores if gone is None else scores.masked_fill_(gone, -torch.inf)


def _best(rows: _Rows, scores: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
    """`best_pairs` of each query among rows that are sorted by item; `scores` are its to change."""
    if exclude is not None and len(rows.items):
        place = torch.searchsorted(rows.items, exclude.contiguous()).clamp_(max=len(rows.items) - 1)
        row, column = (rows.items[place] == exclude).nonzero(as_tuple=True)
        scores[row, place[row, column]] = -torch.inf
    return best_pairs(scores, rows.items, k)


def _without(now: _Snapshot, items: Tensor) -> _Snapshot:
    """The same, but for these items."""
    added = now.added.taken(~torch.isin(now.added.items, items))
    items = items[items <= now.whole.num_items]
    if not len(items):
        return replace(now, added=added)  # masks that leave nothing out would only cost
    gone = torch.zeros(len(now.blocks.items), dtype=torch.bool) if now.gone is None else now.gone.clone()
    available = torch.ones(len(now.row_of), dtype=torch.bool) if now.available is None else now.available.clone()
    gone[now.row_of[items]] = True
    available[items] = False
    return replace(now, gone=gone, available=available, added=added)


def _numbered_on(items: Tensor, num_items: int) -> int:
    """The largest item after these were added.

    Raises:
        ValueError: names the item that is there twice, below 1, or leaves a gap.
    """
    ordered = items.sort().values
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise ValueError(f"item {int(twice[0])} is added twice in one call")
    if len(ordered) and int(ordered[0]) < 1:
        raise ValueError(f"item {int(ordered[0])} cannot be added: items start at 1")
    new = ordered[ordered > num_items]
    gaps = new != torch.arange(num_items + 1, num_items + 1 + len(new))
    if bool(gaps.any()):
        item = int(new[gaps][0])
        raise ValueError(f"item {item} cannot be added before item {item - 1} was: the index has {num_items} items")
    return num_items + len(new)


def _check_categories(categories: Tensor) -> None:
    below = (categories < 0).nonzero()
    if len(below):
        raise ValueError(f"category {int(categories[below[0, 0]])} in row {int(below[0, 0])}: they start at 0 (none)")
