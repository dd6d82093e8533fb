"""Batches of one category: what a target may see, cut from the Store as a loop over whole histories would cut it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.category_batch import (
    CategoryBatches,
    CategoryDataConfig,
    CategoryOrder,
    TargetBatches,
    TargetDataConfig,
    targets_after_history,
)
from penchant.data.history import HistoryParts
from penchant.data.split import Split, load_split
from penchant.data.store import Store
from penchant.errors import ConfigError, StoreError
from tests.data.test_split import store_of
from tests.factories import make_store

PARTS = HistoryParts(max_len=20, short_len=4, max_subsequence=5)
EVERYTHING = CategoryDataConfig(batch=10**6, negatives=3)


def category_of(store: Store, event: int) -> int:
    return int(store.item_category[store.event_item[event]])


def earlier_of(store: Store, event: int, parts: HistoryParts) -> list[int]:
    """Event rows of the subsequence, the slow way."""
    user = int(np.searchsorted(store.user_indptr, event, side="right")) - 1
    before = list(range(int(store.user_indptr[user]), event))[-parts.max_len :]
    long = before if parts.overlap else before[: max(len(before) - parts.short_len, 0)]
    if parts.half == "newest":
        long = long[len(long) // 2 :]
    elif parts.half == "oldest":
        long = long[: (len(long) + 1) // 2]
    return [e for e in long if category_of(store, e) == category_of(store, event)][-parts.max_subsequence :]


def recent_of(store: Store, event: int, parts: HistoryParts) -> list[int]:
    user = int(np.searchsorted(store.user_indptr, event, side="right")) - 1
    return list(range(int(store.user_indptr[user]), event))[-parts.short_len :]


@settings(deadline=None, max_examples=30)
@given(
    max_len=st.integers(1, 40),
    short_len=st.integers(1, 12),
    max_subsequence=st.integers(1, 12),
    overlap=st.booleans(),
    half=st.sampled_from(["none", "newest", "oldest"]),
    seed=st.integers(0, 99),
)
def test_every_row_is_what_a_loop_over_whole_histories_cuts(
    store: Store, max_len: int, short_len: int, max_subsequence: int, overlap: bool, half: Any, seed: int
) -> None:
    parts = HistoryParts(
        max_len=max_len, short_len=short_len, max_subsequence=max_subsequence, overlap=overlap, half=half
    )
    split = load_split(store, "loo")
    batches = CategoryBatches(store, split, CategoryDataConfig(batch=40), parts, seed)
    events = np.random.default_rng(seed).choice(batches.targets, 30).astype(np.int64)
    batch = batches.of_events(events, np.array([1, 2]), 0)
    for row, event in enumerate(events.tolist()):
        earlier, recent = earlier_of(store, event, parts), recent_of(store, event, parts)
        for got, times, rows in (
            (batch.subsequence, batch.subsequence_times_ms, earlier),
            (batch.requests.history, batch.requests.history_times_ms, recent),
        ):
            assert got[row].tolist() == [*store.event_item[rows], *[0] * (got.shape[1] - len(rows))]
            assert times[row].tolist() == [*store.event_ts_ms[rows], *[0] * (got.shape[1] - len(rows))]
        assert batch.targets[row] == store.event_item[event]
        assert batch.categories[row] == category_of(store, event)
        assert batch.requests.times_ms[row] == store.event_ts_ms[event]
        assert event not in earlier
        assert event not in recent
        assert overlap or not set(earlier) & set(recent)


def test_the_target_and_what_comes_after_it_are_never_read(tmp_path: Path) -> None:
    """Every event of an item of its own, so that an item names its event."""
    store = store_of([[(10 * u + i + 1, i) for i in range(10)] for u in range(4)], tmp_path / "s")
    store = with_categories(store, np.ones(store.num_items))
    split = load_split(store, "loo")
    batches = CategoryBatches(store, split, CategoryDataConfig(batch=5), replace(PARTS, short_len=2), seed=0)
    for step in range(20):
        batch = batches.batch(step)
        for target, recent, earlier in zip(
            batch.targets.tolist(), batch.requests.history.tolist(), batch.subsequence.tolist(), strict=True
        ):
            read = [i for i in (*earlier, *recent) if i]
            assert read == list(range(target - len(read), target))


def with_categories(store: Store, categories: np.ndarray) -> Store:
    """The same Store with other categories; its hash is no longer right, which nobody asks here."""
    array = store.path / "arrays" / "item_category.npy"
    np.save(array, np.concatenate([[0], categories]).astype(np.int32))
    opened = Store.__new__(Store)
    opened.path, opened.manifest = store.path, dict(store.manifest)
    opened.manifest["counts"] = {**store.manifest["counts"], "categories": int(categories.max())}
    return opened


@pytest.mark.parametrize("grouping", ["category", "random"])
def test_batches_of_one_category_leak_none(store: Store, grouping: Any) -> None:
    split = load_split(store, "temporal-successive")
    config = CategoryDataConfig(batch=16, negatives=6, grouping=grouping)
    batches = CategoryBatches(store, split, config, PARTS, seed=0)
    shared = []
    for step in range(30):
        batch = batches.batch(step)
        of = torch.cat([batch.targets, batch.negatives])
        same = set(store.item_category[of.numpy()].tolist()) == {batch.category}
        shared.append(same)
        assert len(set(batch.negatives.tolist())) == len(batch.negatives) == 6
        assert set(store.item_category[batch.subsequence.numpy()].ravel().tolist()) <= {0, *batch.categories.tolist()}
    assert all(shared) == (grouping == "category")
    assert any(shared) == (grouping == "category")


def test_a_category_is_drawn_by_its_targets_to_the_power(store: Store) -> None:
    split = load_split(store, "loo")
    batches = CategoryBatches(store, split, CategoryDataConfig(batch=2, power=0.75), PARTS, seed=0)
    counts = np.bincount(store.item_category[store.event_item[batches.targets]], minlength=store.num_categories + 1)
    expected = counts**0.75 / (counts**0.75).sum()
    drawn = np.bincount([batches.batch(i).category for i in range(3000)], minlength=len(counts)) / 3000
    assert np.abs(drawn - expected).max() < 0.03
    uniform = CategoryBatches(store, split, CategoryDataConfig(batch=2, power=0.0), PARTS, seed=0)
    drawn = np.bincount([uniform.batch(i).category for i in range(2000)], minlength=len(counts)) / 2000
    assert np.abs(drawn[1:] - 1 / store.num_categories).max() < 0.03


def test_all_targets_of_a_small_category_come_once_and_its_whole_catalogue_with_them(store: Store) -> None:
    split = load_split(store, "loo")
    batches = CategoryBatches(store, split, replace(EVERYTHING, negatives=10**6), PARTS, seed=0)
    whole = targets_after_history(store, split, "train")
    seen: dict[int, int] = {}
    for step in range(60):
        batch = batches.batch(step)
        seen[batch.category] = batch.num_targets
        assert sorted(batch.negatives.tolist()) == np.flatnonzero(store.item_category == batch.category).tolist()
    assert sum(seen.values()) == len(whole)
    assert batches.steps_per_epoch == 1


def test_items_without_a_category_are_no_targets_but_are_read(store: Store, tmp_path: Path) -> None:
    copy = make_store(tmp_path / "copy")
    categories = store.item_category[1:].copy()
    categories[::2] = 0
    copy = with_categories(copy, categories)
    batches = CategoryBatches(copy, load_split(store, "loo"), CategoryDataConfig(batch=64), PARTS, seed=0)
    read = set()
    for step in range(10):
        batch = batches.batch(step)
        assert batch.category > 0
        assert bool((batch.categories == batch.category).all())
        read |= set(copy.item_category[batch.requests.history[batch.requests.mask].numpy()].tolist())
        assert set(copy.item_category[batch.subsequence.numpy()].ravel().tolist()) <= {0, batch.category}
    assert 0 in read
    nothing = with_categories(copy, np.zeros(copy.num_items))
    for make in (
        lambda: CategoryBatches(nothing, load_split(store, "loo"), CategoryDataConfig(), PARTS, 0),
        lambda: TargetBatches(nothing, load_split(store, "loo"), TargetDataConfig(), 20, 0),
    ):
        with pytest.raises(StoreError, match="has a category"):
            make()


def test_an_empty_subsequence_keeps_its_target(store: Store) -> None:
    """Recent parts longer than any history leave nothing earlier."""
    batches = CategoryBatches(
        store, load_split(store, "loo"), CategoryDataConfig(batch=8), replace(PARTS, short_len=1000), seed=0
    )
    batch = batches.batch(0)
    assert batch.subsequence.shape == (8, 0)
    assert batch.num_targets == 8


@pytest.mark.parametrize("grouping", ["category", "random"])
def test_batches_depend_on_step_and_seed_alone(store: Store, grouping: Any) -> None:
    split = load_split(store, "loo")
    config = CategoryDataConfig(batch=12, negatives=4, grouping=grouping)
    a, b, other = (CategoryBatches(store, split, config, PARTS, seed) for seed in (1, 1, 2))
    late = a.batch(7)
    a.batch(0)
    for name in ("targets", "negatives", "subsequence", "categories"):
        assert torch.equal(getattr(late, name), getattr(b.batch(7), name))
    assert not torch.equal(late.negatives, other.batch(7).negatives) or late.category != other.batch(7).category
    x, y = (TargetBatches(store, split, TargetDataConfig(batch=8), 30, 3) for _ in range(2))
    late = x.batch(21)
    x.batch(2)
    assert torch.equal(late.requests.history, y.batch(21).requests.history)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), events=st.lists(st.integers(0, 10**6), min_size=1, max_size=12))
def test_the_order_finds_what_came_before_between_any_two_rows(store: Store, seed: int, events: list[int]) -> None:
    order = CategoryOrder(store)
    rows = np.array(events) % store.num_events
    user = np.searchsorted(store.user_indptr, rows, side="right") - 1
    rng = np.random.default_rng(seed)
    first = store.user_indptr[user]
    low, high = (first + rng.integers(0, 40, len(rows)) for _ in range(2))
    high = np.minimum(high, rows)
    starts, stops = order.before(rows, low, high)
    for row, a, b, begin, end in zip(rows, low, high, starts, stops, strict=True):
        expected = [e for e in range(a, b) if category_of(store, e) == category_of(store, row)]
        assert order.events[begin:end].tolist() == expected


def test_events_of_like_history_length_go_together_and_come_once(store: Store) -> None:
    split = load_split(store, "temporal-successive")
    batches = TargetBatches(store, split, TargetDataConfig(batch=8), 1000, seed=0)
    spans, seen = [], []
    for step in range(16):
        batch = batches.batch(step)
        lengths = batch.requests.lengths
        spans.append((int(lengths.min()), int(lengths.max())))
        seen += [tuple(row) for row in torch.cat([batch.requests.users[:, None], lengths[:, None]], 1).tolist()]
        last = [np.asarray(store.event_item[store.user_indptr[u] + n]).item() for u, n in seen[-8:]]
        assert batch.categories.tolist() == store.item_category[last].tolist()
    assert len(set(seen)) == len(seen) == 128
    spans.sort()
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_few_targets_still_make_batches(tmp_path: Path) -> None:
    store = with_categories(store_of([[(1, 1), (2, 2), (1, 3), (2, 4)]] * 2, tmp_path / "s"), np.array([1, 2]))
    split = load_split(store, "loo")
    batches = TargetBatches(store, split, TargetDataConfig(batch=4), 10, seed=0)
    assert {batches.batch(step).num_targets for step in range(32)} == {1}
    # One item alone in its category: nothing to tell it from.
    batch = CategoryBatches(store, split, CategoryDataConfig(), PARTS, seed=0).batch(0)
    assert set(batch.targets.tolist()) == set(batch.negatives.tolist())


def test_only_the_newest_targets_of_each_user(store: Store) -> None:
    split = load_split(store, "loo")
    events = targets_after_history(store, split, "train", 3)
    stops = split.stops("train")
    assert len(events)
    assert (events >= stops[store.event_user[events]] - 3).all()
    assert (events > store.user_indptr[store.event_user[events]]).all()
    everything = targets_after_history(store, split, "train")
    starts = store.user_indptr[:-1]
    assert len(everything) == np.maximum(stops - starts - 1, 0).sum()


def test_no_event_outside_the_train_window_is_a_target(store: Store) -> None:
    split: Split = load_split(store, "temporal-successive")
    batches = CategoryBatches(store, split, EVERYTHING, PARTS, seed=0)
    assert set(batches.targets.tolist()) <= set(split.events("train").tolist())


def test_whole_histories_are_not_copied(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the mapped events only the rows of the two parts and the targets are read."""
    batches = CategoryBatches(store, load_split(store, "loo"), CategoryDataConfig(batch=8), PARTS, seed=0)
    read: list[int] = []

    class Counted(np.ndarray):
        def __getitem__(self, key: Any) -> Any:
            read.append(np.size(key) if not isinstance(key, slice) else len(self))
            return np.asarray(self)[key]

    monkeypatch.setattr(store, "event_item", np.asarray(store.event_item).view(Counted))
    batches.batch(3)
    assert sum(read) <= 8 * (1 + PARTS.short_len + PARTS.max_subsequence)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (CategoryDataConfig, "batch", 0),
        (CategoryDataConfig, "negatives", -1),
        (CategoryDataConfig, "newest", -1),
        (CategoryDataConfig, "power", -0.5),
        (TargetDataConfig, "batch", 0),
        (TargetDataConfig, "newest", -1),
        (HistoryParts, "short_len", 0),
        (HistoryParts, "max_len", 0),
        (HistoryParts, "max_subsequence", 0),
    ],
)
def test_impossible_settings_are_refused(config: Any, field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{field} is"):
        config(**{field: value})
