"""Training batches by category: a target, the user's last actions, and all earlier ones of the target's category.

ULIM's training data (section 2.1.2), drawn from the mapped Store: one sort of all events by (user, category, time),
made once, turns the earlier actions of one user and category into a slice, so that of a history of thousands only the
rows of that category are read. Batches depend on the step and the seed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from penchant.data.history import HistoryParts, Requests, gather_ragged, requests_before_events
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import ConfigError, StoreError, at_least


class CategoryOrder:
    """All events sorted by (user, category of the item, place in the Store): 12 bytes an event, in memory.

    Attributes:
        events: int32 [E] (int64 where there are too many), event rows in that order.
        place: of each event, where it is in `events`.
        begin: of each event, where its user's events of its category begin in `events`.
    """

    def __init__(self, store: Store) -> None:
        number = np.int32 if store.num_events < 2**31 else np.int64
        category = store.item_category[store.event_item]
        key = store.event_user * np.int64(store.num_categories + 1) + category
        self.events = np.argsort(key, kind="stable").astype(number)
        self.place = np.empty(len(key), dtype=number)
        self.place[self.events] = np.arange(len(key), dtype=number)
        key = key[self.events]
        first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])[: len(key)])
        begin = np.repeat(first, np.diff(np.append(first, len(key)))).astype(number)
        self.begin = begin[self.place]

    def before(self, of: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slices of `events`: what the user of each event did before it in its category, in rows low to high.

        Args:
            of: event rows, int64 [B].
            low, high: event rows, int64 [B]; of the same user.
        """
        begin, place = self.begin[of].astype(np.int64), self.place[of].astype(np.int64)
        start = self._first_from(begin, place, low)
        return start, np.maximum(self._first_from(begin, place, high), start)

    def _first_from(self, low: np.ndarray, high: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The first place between low and high that holds `row` or a later one. One binary search for all at once."""
        while (unsure := low < high).any():
            middle = (low + high) // 2
            earlier = unsure & (self.events[np.where(unsure, middle, 0)] < row)
            low, high = np.where(earlier, middle + 1, low), np.where(unsure & ~earlier, middle, high)
        return low


@dataclass(frozen=True)
class CategoryBatch:
    """Targets, each with the recent actions before it and the earlier ones of its category; and negatives for all.

    Attributes:
        requests: who acts, when, and the recent part of the history.
        subsequence: earlier actions of the target's category, oldest first, 0 = padding at the end.
        subsequence_times_ms: when; 0 at padding.
        targets: items.
        categories: of the targets.
        negatives: distinct items shared by the batch.
        category: the one that all targets and negatives are of; 0 = of any.
    """

    requests: Requests
    subsequence: Int[Tensor, "B L"]
    subsequence_times_ms: Int[Tensor, "B L"]
    targets: Int[Tensor, " B"]
    categories: Int[Tensor, " B"]
    negatives: Int[Tensor, " N"]
    category: int

    @property
    def num_targets(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> CategoryBatch:
        return CategoryBatch(
            self.requests.to(device),
            *(
                x.to(device)
                for x in (self.subsequence, self.subsequence_times_ms, self.targets, self.categories, self.negatives)
            ),
            category=self.category,
        )


@dataclass(frozen=True, kw_only=True)
class CategoryDataConfig:
    """How events become batches of one category."""

    batch: int = 256
    """Targets of a batch, at most: all of a category that has fewer."""
    negatives: int = 512
    """Items of the category that top the batch up, drawn uniformly; the whole category where it has no more."""
    grouping: Literal["category", "random"] = "category"
    """random = targets and negatives of any category: a control, whose long-term vector knows the answer's category."""
    power: float = 0.75
    """A category is drawn by its number of targets to this power."""
    newest: int = 0
    """Of each user only so many targets, the newest of the window; 0 = all."""

    def __post_init__(self) -> None:
        at_least(1, self, "batch")
        at_least(0, self, "negatives", "newest")
        if not 0 <= self.power < math.inf:
            raise ConfigError(f"power is {self.power}", fix="Set power to 0 or more.")


class CategoryBatches:
    """The train window's events as batches whose targets and negatives share a category.

    - A target has an action before it. One whose item has no category is none.
    - The subsequence is strictly before the recent part, which is strictly before the target. It may be empty: the
      target stays, and its row is all padding.
    - A category with fewer targets than `batch` gives a smaller batch; one with a single item gives no negatives.
    - An epoch is as many batches as there are targets for; which they are is drawn, so one may come twice, or not.

    Raises:
        StoreError: the window has no such targets.
    """

    def __init__(
        self,
        store: Store,
        split: Split,
        config: CategoryDataConfig,
        parts: HistoryParts,
        seed: int,
        window: str = "train",
    ) -> None:
        self.store, self.config, self.parts, self.seed = store, config, parts, seed
        self.order = CategoryOrder(store)
        targets = targets_after_history(store, split, window, config.newest)
        of = store.item_category[store.event_item[targets]]
        targets, of = targets[of > 0], of[of > 0]
        if not len(targets):
            raise StoreError(
                f"no event in window {window!r} of split {split.name!r} has a category and an action before it",
                where=store.path,
                fix="ULIM needs items with categories: prepare the Store with them.",
            )
        by_category = np.argsort(of, kind="stable")
        self.targets = targets[by_category].astype(self.order.events.dtype)
        self.indptr = np.searchsorted(of[by_category], np.arange(store.num_categories + 2))
        weights = np.diff(self.indptr).astype(np.float64)
        weights[weights > 0] **= config.power  # 0 to the power of 0 is 1
        self._chance = np.cumsum(weights / weights.sum())
        self._items = np.argsort(store.item_category, kind="stable")
        self._items_of = np.searchsorted(store.item_category[self._items], np.arange(store.num_categories + 2))
        self.steps_per_epoch = max(1, len(targets) // config.batch)

    def batch(self, step: int) -> CategoryBatch:
        """The batch of a step, counted from 0 over all epochs."""
        rng = np.random.default_rng([self.seed, step])
        category, low, high = 0, 0, len(self.targets)
        catalogue = np.arange(1, self.store.num_items + 1)
        if self.config.grouping == "category":
            category = int(np.searchsorted(self._chance, rng.random() * self._chance[-1], side="right"))
            low, high = self.indptr[category : category + 2].tolist()
            catalogue = self._items[self._items_of[category] : self._items_of[category + 1]]
        events = self.targets[low + _some(rng, high - low, self.config.batch)].astype(np.int64)
        negatives = catalogue[_some(rng, len(catalogue), self.config.negatives)]
        return self.of_events(events, negatives, category)

    def of_events(self, events: np.ndarray, negatives: np.ndarray, category: int) -> CategoryBatch:
        """A batch of these targets, int64 [B] event rows, and negatives, int64 [N] items."""
        store = self.store
        requests = requests_before_events(store, events, self.parts.short_len)
        first = store.user_indptr[requests.users.numpy()]
        start, stop = (part.numpy() for part in self.parts.earlier(torch.from_numpy(events - first)))
        starts, stops = self.order.before(events, first + start, first + stop)
        rows = gather_ragged(self.order.events, starts, stops, self.parts.max_subsequence)
        real = np.arange(rows.shape[1]) < (stops - starts)[:, None]
        targets = store.event_item[events].astype(np.int64)
        return CategoryBatch(
            requests=requests,
            subsequence=torch.from_numpy(np.where(real, store.event_item[rows], 0).astype(np.int64)),
            subsequence_times_ms=torch.from_numpy(np.where(real, store.event_ts_ms[rows], 0).astype(np.int64)),
            targets=torch.from_numpy(targets),
            categories=torch.from_numpy(store.item_category[targets].astype(np.int64)),
            negatives=torch.from_numpy(negatives.astype(np.int64)),
            category=category,
        )


@dataclass(frozen=True)
class TargetBatch:
    """Whole histories, and the category of what followed: what predicts categories is trained with.

    Attributes:
        categories: of the targets, from 1.
    """

    requests: Requests
    categories: Int[Tensor, " B"]

    @property
    def num_targets(self) -> int:
        return len(self.categories)

    def to(self, device: torch.device | str) -> TargetBatch:
        return TargetBatch(self.requests.to(device), self.categories.to(device))


POOL = 16
"""Batches whose targets are drawn together, so that histories of like length go together."""


@dataclass(frozen=True, kw_only=True)
class TargetDataConfig:
    """How events become batches of whole histories."""

    batch: int = 128
    """Targets of a batch."""
    newest: int = 0
    """Of each user only so many targets, the newest of the window; 0 = all."""

    def __post_init__(self) -> None:
        at_least(1, self, "batch")
        at_least(0, self, "newest")


class TargetBatches:
    """Events of the train window, drawn at random, with all that their users did before, up to `max_len` actions.

    Of each 16 batches the targets are drawn together, without repetition, and sorted by the length of their histories.

    Raises:
        StoreError: no event of the window has a category and an action before it.
    """

    def __init__(self, store: Store, split: Split, config: TargetDataConfig, max_len: int, seed: int) -> None:
        self.store, self.config, self.max_len, self.seed = store, config, max_len, seed
        targets = targets_after_history(store, split, "train", config.newest)
        self.targets = targets[store.item_category[store.event_item[targets]] > 0]
        if not len(self.targets):
            raise StoreError(
                f"no event in window 'train' of split {split.name!r} has a category and an action before it",
                where=store.path,
                fix="ULIM needs items with categories: prepare the Store with them.",
            )
        self.steps_per_epoch = max(1, len(self.targets) // config.batch)

    def batch(self, step: int) -> TargetBatch:
        """The batch of a step, counted from 0 over all epochs."""
        pool, place = divmod(step, POOL)
        rng = np.random.default_rng([self.seed, pool])
        size = min(self.config.batch, max(1, len(self.targets) // POOL))
        drawn = self.targets[_some(rng, len(self.targets), POOL * size)]
        users = np.searchsorted(self.store.user_indptr, drawn, side="right") - 1
        drawn = drawn[np.argsort(drawn - self.store.user_indptr[users], kind="stable")]
        at = rng.permutation(POOL)[place] * size
        return targets_of_events(self.store, drawn[at : at + size] if at < len(drawn) else drawn[-size:], self.max_len)


def targets_of_events(store: Store, events: np.ndarray, max_len: int) -> TargetBatch:
    """A batch of these event rows, int64 [B], none of an item without category."""
    category = store.item_category[store.event_item[events]].astype(np.int64)
    return TargetBatch(requests_before_events(store, events, max_len), torch.from_numpy(category))


def targets_after_history(store: Store, split: Split, window: str, newest: int = 0) -> np.ndarray:
    """int64: the events of a window before which their user did something; of each user the `newest`, 0 = all."""
    events = split.events(window)
    users = store.event_user[events]
    keep = events > store.user_indptr[users]
    if newest:
        keep &= events >= split.stops(window)[users] - newest
    return events[keep]


def _some(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """At most so many of 0 .. count - 1, each once; all of them, in order, where there are no more."""
    return np.arange(count) if count <= most else rng.choice(count, most, replace=False, shuffle=False)
