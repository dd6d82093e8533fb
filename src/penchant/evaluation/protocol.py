"""The one way a model is judged: retrieval by its target's rank among the whole catalogue, ranking by impressions.

Sampled metrics do not exist here. Scores, comparisons and top-k are computed block by block, so memory is bounded by a
setting that changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.data.history import gather_ragged, requests_before_events
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import RunError, StoreError
from penchant.evaluation import metrics
from penchant.evaluation.slices import history_slices, mean_of_slices, popularity_slices
from penchant.funnel.rank import judging
from penchant.funnel.stages import CatalogueScorer, Embedder
from penchant.index.exact import best_items

LIST_DEPTH = 100
"""Lists are kept this deep: what coverage, Gini, novelty and run files are made of."""

_ROWS = 256  # requests scored at once: a few MB of scores stay near the cache, and threads seldom wait for each other
_STEP = 16  # products of other numbers of rows or columns take other paths through BLAS, which round differently
_CELL_BYTES = 48  # most that one score costs: itself, its difference, and the keys of a row full of ties


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """Where each target was ranked, and the lists it was ranked in. T targets, in the Store's order.

    Attributes:
        ranks: 1-based among all items, average of ties; inf where the model did not score the target.
        unseen_ranks: the same without the items of the target's whole history (the target stays), if asked for.
        lists: the best items, best first, 0 = empty slot.
        list_scores: their scores; -inf in empty slots.
        unanswered: requests the model could say nothing about.
        notes: what a reader of the numbers must know, one line each.
    """

    ks: tuple[int, ...]
    num_items: int
    events: Int[np.ndarray, " T"]
    users: Int[np.ndarray, " T"]
    items: Int[np.ndarray, " T"]
    history_lengths: Int[np.ndarray, " T"]
    queries: Int[np.ndarray, " T"]
    ranks: Float[np.ndarray, " T"]
    unseen_ranks: Float[np.ndarray, " T"] | None
    lists: Int[np.ndarray, "T K"]
    list_scores: Float[np.ndarray, "T K"]
    item_counts: Int[np.ndarray, " I"]
    query_counts: Int[np.ndarray, " Q"]
    unanswered: int
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def values(self) -> dict[str, Float[np.ndarray, " T"]]:
        """Each target's value of every metric of ranks: "HR@10", ..., and "HR@10 unseen" where asked for."""
        columns = {"": self.ranks}
        if self.unseen_ranks is not None:
            columns[" unseen"] = self.unseen_ranks
        return {
            f"{name}@{k}{label}": of(ranks, k)
            for label, ranks in columns.items()
            for name, of in metrics.RANK_METRICS.items()
            for k in self.ks
        }

    def metrics(self) -> dict[str, float]:
        """Means over the targets, and coverage, Gini and novelty of the lists at each k they are deep enough for."""
        out = {name: float(value.mean()) for name, value in self.values.items()}
        for k in self.ks:
            if k <= self.lists.shape[1]:
                exposed = metrics.exposure(self.lists[:, :k], self.num_items)
                out[f"Coverage@{k}"] = metrics.coverage(exposed)
                out[f"Gini@{k}"] = metrics.gini(exposed)
                out[f"Novelty@{k}"] = metrics.novelty(exposed, self.item_counts)
        return out

    def per_user(self) -> pa.Table:
        """Columns `user`, `weight` (its targets) and the mean of each metric; Recall, equal to HR, is left out.

        The mean of a column weighted by `weight` is the metric.
        """
        values = {name: v for name, v in self.values.items() if not name.startswith("Recall")}
        return per_user_table(self.users, values)

    def slices(self) -> dict[str, dict[str, dict[str, float]]]:
        """Targets and means by popularity of the item, by history length, and of the query where there are queries."""
        by_item = {name: inside[self.items] for name, inside in popularity_slices(self.item_counts).items()}
        out = {
            "item": mean_of_slices(by_item, self.values),
            "history": mean_of_slices(history_slices(self.history_lengths), self.values),
        }
        if self.queries.any():
            by_query = {name: inside[self.queries] for name, inside in popularity_slices(self.query_counts).items()}
            out["query"] = mean_of_slices(by_query, self.values)
        return out


def evaluate_retrieval(
    model: CatalogueScorer | Embedder,
    store: Store,
    split: Split,
    window: str = "test",
    *,
    ks: Sequence[int] = (5, 10, 20, 50, 100),
    max_len: int = 50,
    memory_mb: float = 256,
    batch_size: int = 256,
    targets: int | None = None,
    seed: int = 0,
    filter_seen: bool = False,
    cold: bool = False,
) -> RetrievalResult:
    """Rank every target of a window among the whole catalogue.

    rank = 1 + #(items scored higher) + (#(items scored the same) - 1) / 2, over items 1..num_items, cold ones included.

    Args:
        max_len: actions of the history the model sees.
        memory_mb: bound of what scoring holds at once beside the model, in MB; changes no rank. A `CatalogueScorer`
            makes whole rows, so one row is its least; else 16 requests and 16 items are.
        batch_size: requests given to the model at once, of like history length so that padding is small.
        targets: judge a random subsample of this many targets, drawn with `seed`; None judges all.
        filter_seen: also rank with the items of the target's whole history left out, as a second column.
        cold: judge only targets whose item nobody clicked in the train window.

    Raises:
        StoreError: the window has no such targets.
        RunError: the model gives scores that are not numbers.
    """
    events = split.targets(window)
    if cold:
        events = events[split.item_counts(store)[store.event_item[events]] == 0]
    if not len(events):
        what = f"split {split.name!r} has no {'cold ' if cold else ''}targets in window {window!r}"
        fix = "Choose another --window or split: a target needs earlier actions of its user."
        raise StoreError(what, where=store.path, fix=fix)
    events, notes = subsample(events, targets, seed)
    if cold:
        notes = (*notes, "Only targets whose item nobody clicked in the train window were judged.")
    base = targets_of(store, split, events)
    order = np.argsort(base["history_lengths"], kind="stable")
    depth = min(max((k for k in ks if k <= LIST_DEPTH), default=LIST_DEPTH), store.num_items)
    lists = np.zeros((len(events), depth), dtype=np.int32)
    list_scores = np.full((len(events), depth), -np.inf, dtype=np.float32)
    ranks = np.full(len(events), np.inf)
    unseen_ranks = np.full(len(events), np.inf) if filter_seen else None
    unanswered = 0
    with judging(model) if isinstance(model, nn.Module) else torch.no_grad():
        scored = Scored(model, store.num_items, memory_mb)
        for start in range(0, len(events), scored.rows(batch_size)):
            batch = order[start : start + scored.rows(batch_size)]
            requests = requests_before_events(store, events[batch], max_len)
            for rows, blocks, answered in scored.blocks(requests.to(scored.device)):
                place = batch[rows]
                unanswered += int((~answered).sum())
                seen = _seen(store, events[place], base["users"][place], base["items"][place]) if filter_seen else None
                target = torch.from_numpy(base["items"][place].astype(np.int64)).to(scored.device)
                rank, unseen, best, best_scores = _judge(blocks, target, answered, depth, store.num_items, seen)
                ranks[place], lists[place], list_scores[place] = rank, best, best_scores
                if unseen_ranks is not None:
                    unseen_ranks[place] = unseen
    if unanswered:
        notes = (*notes, f"{unanswered:,} of {len(events):,} requests got no answer: rank infinite.")
    return RetrievalResult(
        ks=tuple(ks),
        num_items=store.num_items,
        events=events,
        **base,
        ranks=ranks,
        unseen_ranks=unseen_ranks,
        lists=lists,
        list_scores=list_scores,
        unanswered=unanswered,
        notes=notes,
    )


def targets_of(store: Store, split: Split, events: Int[np.ndarray, " T"]) -> dict[str, Any]:
    """What a `RetrievalResult` says of its targets, and the training counts its slices need."""
    users = np.searchsorted(store.user_indptr, events, side="right") - 1
    train = split.events("train")
    query_counts = np.bincount(store.event_query[train], minlength=store.num_queries + 1)
    return {
        "users": users,
        "items": np.asarray(store.event_item[events]),
        "history_lengths": events - store.user_indptr[users],
        "queries": np.asarray(store.event_query[events]),
        "item_counts": split.item_counts(store),
        "query_counts": query_counts,
    }


def per_user_table(users: Int[np.ndarray, " N"], values: dict[str, Float[np.ndarray, " N"]]) -> pa.Table:
    """One row a user: `user`, `weight` (its rows) and the mean of each column of values, as float32."""
    names, of = np.unique(users, return_inverse=True)
    rows = np.bincount(of)
    means = {name: (np.bincount(of, weights=v) / rows).astype(np.float32) for name, v in values.items()}
    return pa.table({"user": names.astype(np.int32), "weight": rows.astype(np.int32), **means})


def subsample(events: np.ndarray, targets: int | None, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """So many events drawn at random, in order, and a note that says so; all of them where there are no more."""
    if targets is None or targets >= len(events):
        return events, ()
    chosen = np.sort(np.random.default_rng(seed).choice(len(events), targets, replace=False))
    return events[chosen], (f"A random {targets:,} of {len(events):,} targets were judged (seed {seed}).",)


class Scored:
    """A model's scores in blocks of requests and items whose size keeps to the memory allowed."""

    def __init__(self, model: CatalogueScorer | Embedder, num_items: int, memory_mb: float) -> None:
        self._model: Any = model
        cells = max(int(memory_mb * 1e6 / _CELL_BYTES), 1)
        self._items: Tensor | None = None if hasattr(model, "score_items") else self._model.item_vectors().float()
        if self._items is None:
            self.device = _device(model)
            self._row_block = max(min(cells // (num_items + 1), _ROWS), 1)
        else:
            self.device = self._items.device
            self._row_block = max(min(cells // (num_items + 1), _ROWS) // _STEP, 1) * _STEP
            self._num_columns = len(self._items)
            self._items = _filled(self._items)
        self._item_block = max(cells // self._row_block // _STEP, 1) * _STEP

    def rows(self, batch_size: int) -> int:
        """Requests to give the model at once."""
        return min(batch_size, self._row_block) if self._items is None else batch_size

    def blocks(self, requests: Any) -> Iterator[tuple[slice, Callable[[], Iterator[tuple[int, Tensor]]], Tensor]]:
        """For some requests each: which; a way to go through (first item, scores) blocks; and which have an answer.

        The first column of each block is padding, or the last item of the block before: it is not to be counted.
        """
        if self._items is None:
            scores = self._model.score_items(requests).float()
            yield slice(0, len(requests)), lambda: iter([(0, scores)]), (scores[:, 1:] > -torch.inf).any(1)
            return
        vectors = self._model.user_vectors(requests).float()
        for start in range(0, len(vectors), self._row_block):
            part = vectors[start : start + self._row_block]
            yield slice(start, start + len(part)), self._products(_filled(part), len(part)), (part != 0).any(1)

    def _products(self, vectors: Tensor, rows: int) -> Callable[[], Iterator[tuple[int, Tensor]]]:
        items, block, count = self._items, self._item_block, self._num_columns
        assert items is not None
        if len(items) <= block:
            whole = (vectors @ items.T)[:rows, :count]
            return lambda: iter([(0, whole)])

        def again() -> Iterator[tuple[int, Tensor]]:
            # Made twice, once for the targets' scores and once to compare: cheaper than holding them.
            for first in range(0, count - 1, block - 1):
                part = _filled(items[first : first + block])
                yield first, (vectors @ part.T)[:rows, : count - first]

        return again


def _filled(vectors: Float[Tensor, "N D"]) -> Float[Tensor, "M D"]:
    """The vectors and as many zeros as make their number a multiple of `_STEP`."""
    return torch.cat([vectors, vectors.new_zeros(-len(vectors) % _STEP, vectors.shape[1])])


def _judge(
    blocks: Callable[[], Iterator[tuple[int, Tensor]]],
    target: Int[Tensor, " B"],
    answered: Bool[Tensor, " B"],
    depth: int,
    num_items: int,
    seen: tuple[Tensor, Tensor] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ranks, ranks among the unseen, and the best items with their scores, of one block of requests."""
    own = torch.full((len(target), 1), -torch.inf, device=target.device)
    for first, scores in blocks():
        inside = (target > first) & (target < first + scores.shape[1])
        own[inside, 0] = scores[inside, target[inside] - first]
    # Signs add up to #higher - #lower, and #higher + #same / 2 = (#higher - #lower + #all) / 2: one pass counts ties.
    signs, seen_signs = torch.zeros(2, len(target), dtype=torch.float64, device=target.device)
    best = target.new_zeros(len(target), 0)
    best_scores = own.new_zeros(len(target), 0)
    for first, scores in blocks():
        signs += (scores[:, 1:] - own).sign_().sum(1)
        if seen is not None:
            row, item = (x.to(target.device) for x in seen)
            here = (item > first) & (item < first + scores.shape[1])
            row, item = row[here], item[here]
            seen_signs.index_add_(0, row, (scores[row, item - first] - own[row, 0]).sign().double() + 1)
        try:
            more, more_scores = best_items(scores, min(depth, scores.shape[1] - 1))
        except ValueError as error:
            raise RunError(
                f"the model gives scores that are not numbers ({error})", fix="Its training diverged: train it again."
            ) from error
        both, both_items = torch.cat([best_scores, more_scores], 1), torch.cat([best, more + first * (more > 0)], 1)
        if best.shape[1]:
            # Stable: of equal scores the smaller items, which came first, stay first.
            both, at = both.sort(dim=1, descending=True, stable=True)
            both_items = both_items.gather(1, at)
        best, best_scores = both_items[:, :depth], both[:, :depth]
    rank = (signs + (num_items + 1)) / 2
    found = answered & (own[:, 0] > -torch.inf)
    inf = torch.full_like(rank, torch.inf)
    return (
        torch.where(found, rank, inf).cpu().numpy(),
        torch.where(found, rank - seen_signs / 2, inf).cpu().numpy(),
        torch.where(answered[:, None], best, 0).cpu().numpy(),
        torch.where(answered[:, None], best_scores, -torch.inf).cpu().numpy(),
    )


def _seen(store: Store, events: np.ndarray, users: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor]:
    """(row, item) of every item in each target's whole history, once each, without the target itself."""
    history = np.sort(gather_ragged(store.event_item, store.user_indptr[users], events, store.num_events), axis=1)
    keep = (history > 0) & (history != targets[:, None])
    keep[:, 1:] &= history[:, 1:] != history[:, :-1]
    row = np.nonzero(keep)[0]
    return torch.from_numpy(row), torch.from_numpy(history[keep].astype(np.int64))


def _device(model: object) -> torch.device:
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")
