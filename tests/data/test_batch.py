"""Training batches: every target once an epoch, each after its own history, the same for the same step and seed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from penchant.data.batch import SequenceBatches, SequenceDataConfig, Unclicked
from penchant.data.prepare import prepare
from penchant.data.sources.table import from_tables
from penchant.data.split import add_split, load_split
from penchant.data.store import Store
from penchant.errors import ConfigError
from tests.data.test_split import store_of


def _pairs(batches: SequenceBatches, epoch: int) -> Counter[tuple[int, int]]:
    """Every (action, next action) pair an epoch trains."""
    pairs: Counter[tuple[int, int]] = Counter()
    for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
        batch = batches.batch(step)
        pairs.update(zip(batch.history[batch.mask].tolist(), batch.targets[batch.mask].tolist(), strict=True))
        assert batch.num_targets
        assert torch.equal(batch.mask, batch.history > 0)
        assert batch.history.shape[1] <= batches.config.max_len
    return pairs


@settings(deadline=None, max_examples=20)
@given(max_len=st.integers(1, 40), batch_targets=st.integers(1, 400), epoch=st.integers(0, 3))
def test_every_transition_of_the_window_trains_once_an_epoch(
    store: Store, max_len: int, batch_targets: int, epoch: int
) -> None:
    split = load_split(store, "temporal-successive")
    batches = SequenceBatches(store, split, SequenceDataConfig(max_len=max_len, batch_targets=batch_targets), seed=3)
    expected: Counter[tuple[int, int]] = Counter()
    for start, stop in zip(split.starts("train"), split.stops("train"), strict=True):
        items = store.event_item[start:stop].tolist()
        expected.update(pairwise(items))
    assert _pairs(batches, epoch) == expected


def test_batches_depend_on_step_and_seed_alone(store: Store) -> None:
    split = load_split(store, "loo")
    config = SequenceDataConfig(max_len=10, batch_targets=100)
    a, b, other = (SequenceBatches(store, split, config, seed) for seed in (1, 1, 2))
    late = a.batch(2 * a.steps_per_epoch + 1)
    a.batch(0)
    again = b.batch(2 * b.steps_per_epoch + 1)
    assert torch.equal(late.history, again.history)
    assert not torch.equal(late.history, other.batch(2 * other.steps_per_epoch + 1).history)


def test_newest_only_keeps_the_last_actions(store: Store) -> None:
    split = load_split(store, "loo")
    batches = SequenceBatches(store, split, SequenceDataConfig(max_len=5, newest_only=True), seed=0)
    lengths = split.stops("train") - split.starts("train")
    assert batches.num_targets == np.minimum(lengths[lengths >= 2] - 1, 5).sum()


def test_little_is_padding(store: Store) -> None:
    split = load_split(store, "loo")
    batches = SequenceBatches(store, split, SequenceDataConfig(max_len=40, batch_targets=100), seed=0)
    masks = [batches.batch(s).mask for s in range(batches.steps_per_epoch)]
    assert sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks) > 0.85


def test_what_was_shown_with_a_target_and_not_clicked_comes_along(tmp_path: Path) -> None:
    day = 1_700_000_000
    events = pa.table(
        {
            "user_id": ["u"] * 4,
            "item_id": ["a", "b", "c", "d"],
            "timestamp": [day, day + 10, day + 20, day + 30],
            "request_id": ["r1", "r2", None, "r4"],
        }
    )
    shown = {"r1": ("ax", "a"), "r2": ("xbyz", "b"), "r4": ("d", "d")}
    rows = [(r, item, n + 1, int(item == it)) for r, (items, it) in shown.items() for n, item in enumerate(items)]
    impressions = pa.table(
        {
            "user_id": ["u"] * len(rows),
            "request_id": [row[0] for row in rows],
            "item_id": [row[1] for row in rows],
            "position": [row[2] for row in rows],
            "label": [row[3] for row in rows],
            "timestamp": [day + 10 * (int(row[0][1]) - 1) for row in rows],
        }
    )
    store = prepare(from_tables(events, impressions=impressions), tmp_path / "store", console=Console(quiet=True))
    ids = np.array(store.item_ids)
    told = Unclicked(store, 2).of(np.array([[0, 1], [2, 3], [-1, 1]]))
    assert [["".join(ids[one]) for one in row] for row in told] == [["x", "yz"], ["", ""], ["", "yz"]]
    everything = np.arange(4)[:, None]
    split = add_split(store, "whole", ("train", "valid"), np.array([[0, 0], [4, 4]]))
    batch = SequenceBatches(store, split, SequenceDataConfig(shown=2), seed=0).batch(0)
    assert batch.shown is not None
    np.testing.assert_array_equal(batch.shown[0].numpy(), Unclicked(store, 2).of(everything)[1:, 0])
    assert SequenceBatches(store, split, SequenceDataConfig(), seed=0).batch(0).shown is None


@settings(deadline=None, max_examples=20)
@given(max_len=st.integers(1, 40), batch_targets=st.integers(1, 400), shown=st.integers(0, 2))
def test_every_target_brings_its_query_and_every_action_its_own(
    searched: Store, max_len: int, batch_targets: int, shown: int
) -> None:
    split = load_split(searched, "temporal-successive")
    config = SequenceDataConfig(max_len=max_len, batch_targets=batch_targets, shown=shown, queries=True)
    batches = SequenceBatches(searched, split, config, seed=3)
    told: Counter[tuple[int, ...]] = Counter()
    for step in range(batches.steps_per_epoch):
        batch = batches.batch(step).to(torch.device("cpu"))
        assert batch.queries is not None
        assert batch.history_queries is not None
        assert (batch.shown is not None) == bool(shown)
        assert not batch.queries[~batch.mask].any()
        assert not batch.history_queries[~batch.mask].any()
        columns = (batch.history_queries, batch.history, batch.queries, batch.targets)
        told.update(zip(*(column[batch.mask].tolist() for column in columns), strict=True))
    expected: Counter[tuple[int, ...]] = Counter()
    for start, stop in zip(split.starts("train"), split.stops("train"), strict=True):
        for at in range(start, stop - 1):
            pair = [(int(searched.event_query[e]), int(searched.event_item[e])) for e in (at, at + 1)]
            expected[(*pair[0], *pair[1])] += 1
    assert told == expected


def test_queries_come_only_where_asked_for_and_change_nothing_else(searched: Store) -> None:
    split = load_split(searched, "loo")
    with_, without = (
        SequenceBatches(searched, split, SequenceDataConfig(max_len=10, queries=queries), seed=1).batch(1)
        for queries in (True, False)
    )
    assert without.queries is None
    assert without.history_queries is None
    assert torch.equal(with_.history, without.history)
    assert torch.equal(with_.targets, without.targets)


def test_a_smaller_shop_is_the_same_for_every_seed(store: Store) -> None:
    split = load_split(store, "temporal-successive")
    users: list[set[int]] = []
    for seed in (0, 1):
        batches = SequenceBatches(store, split, SequenceDataConfig(batch_targets=100, users_share=0.25), seed)
        found = [batches.batch(step).users for step in range(batches.steps_per_epoch)]
        users.append({user for some in found if some is not None for user in some.tolist()})
    assert users[0] == users[1]
    everybody = len(SequenceBatches(store, split, SequenceDataConfig(), 0).starts)
    assert len(users[0]) == round(0.25 * everybody)
    for share in (0.0, 1.5):
        with pytest.raises(ConfigError, match="users_share is"):
            SequenceDataConfig(users_share=share)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_len is 0"):
        SequenceDataConfig(max_len=0)


@pytest.mark.parametrize("batch_targets", [1, 7])
def test_pieces_that_fill_their_batches_exactly_leave_none_empty(tmp_path: Path, batch_targets: int) -> None:
    store = store_of([[(1 + at % 5, at) for at in range(10)]] * 55, tmp_path / "s", has_time=False)
    config = SequenceDataConfig(max_len=7, batch_targets=batch_targets)
    batches = SequenceBatches(store, load_split(store, "loo"), config, seed=0)
    assert batches.steps_per_epoch == 55
    assert [batches.batch(step).num_targets for step in range(55)] == [7] * 55
