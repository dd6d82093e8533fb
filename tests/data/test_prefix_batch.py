"""Batches of single targets: each after what was done strictly before it, once an epoch, the same for step and seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.prefix_batch import PrefixBatches, PrefixDataConfig
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError, StoreError
from tests.data.test_split import store_of


def _told(batches: PrefixBatches, epoch: int) -> Counter[tuple[tuple[int, ...], int]]:
    """Every (history, target) of an epoch."""
    told: Counter[tuple[tuple[int, ...], int]] = Counter()
    for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
        batch = batches.batch(step).to(torch.device("cpu"))
        assert 0 < batch.num_targets <= batches.config.batch_targets
        lengths = (batch.history > 0).sum(1)
        assert lengths.min() >= 1
        assert lengths.max() == batch.history.shape[1] <= batches.config.max_len
        rows = zip(batch.history.tolist(), lengths.tolist(), batch.targets.tolist(), strict=True)
        told.update((tuple(history[:n]), target) for history, n, target in rows)
    return told


def _expected(store: Store, max_len: int) -> Counter[tuple[tuple[int, ...], int]]:
    split = load_split(store, "temporal-successive")
    expected: Counter[tuple[tuple[int, ...], int]] = Counter()
    for start, stop in zip(split.starts("train"), split.stops("train"), strict=True):
        items = store.event_item[start:stop].tolist()
        expected.update((tuple(items[max(0, at - max_len) : at]), items[at]) for at in range(1, len(items)))
    return expected


@settings(deadline=None, max_examples=20)
@given(max_len=st.integers(1, 40), batch_targets=st.integers(1, 400), epoch=st.integers(0, 3))
def test_every_target_of_the_window_comes_once_an_epoch_after_what_preceded_it(
    store: Store, max_len: int, batch_targets: int, epoch: int
) -> None:
    config = PrefixDataConfig(max_len=max_len, batch_targets=batch_targets)
    batches = PrefixBatches(store, load_split(store, "temporal-successive"), config, seed=3)
    expected = _expected(store, max_len)
    assert _told(batches, epoch) == expected
    assert batches.num_targets == expected.total()


@settings(deadline=None, max_examples=20)
@given(bound=st.integers(1, 40), epoch=st.integers(0, 3))
def test_with_a_bound_each_user_gives_so_many_different_targets(store: Store, bound: int, epoch: int) -> None:
    split = load_split(store, "temporal-successive")
    batches = PrefixBatches(store, split, PrefixDataConfig(max_len=40, targets_per_user=bound), seed=0)
    told = _told(batches, epoch)
    known = np.maximum(split.stops("train") - split.starts("train") - 1, 0)
    assert told.total() == batches.num_targets == np.minimum(known, bound).sum()
    assert not told - _expected(store, 40)  # none twice, unless the log has it twice


def test_with_a_bound_every_target_is_as_likely(tmp_path: Path) -> None:
    store = store_of([[(1 + at, at) for at in range(9)]], tmp_path / "s", has_time=False)
    split = load_split(store, "loo")  # six targets: the items 2 to 7
    batches = PrefixBatches(store, split, PrefixDataConfig(targets_per_user=4), seed=0)
    counts = np.bincount([t for step in range(600) for t in batches.batch(step).targets.tolist()], minlength=8)
    assert batches.steps_per_epoch == 1
    assert counts[:2].sum() == 0
    np.testing.assert_allclose(counts[2:] / 600, 4 / 6, atol=0.06)


def test_batches_depend_on_step_and_seed_alone(store: Store) -> None:
    split = load_split(store, "loo")
    config = PrefixDataConfig(max_len=10, batch_targets=50, targets_per_user=7)
    a, b, other = (PrefixBatches(store, split, config, seed) for seed in (1, 1, 2))
    step = 2 * a.steps_per_epoch + 1
    late = a.batch(step)
    a.batch(0)
    again = b.batch(step)
    assert torch.equal(late.history, again.history)
    assert torch.equal(late.targets, again.targets)
    assert not torch.equal(late.history, other.batch(step).history)
    assert torch.equal(a.batch(step).history, late.history)


def test_little_is_padding(store: Store) -> None:
    batches = PrefixBatches(store, load_split(store, "loo"), PrefixDataConfig(max_len=40, batch_targets=64), seed=0)
    masks = [batches.batch(s).history > 0 for s in range(batches.steps_per_epoch)]
    assert sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks) > 0.85


@pytest.mark.parametrize("field", ["max_len", "batch_targets", "targets_per_user"])
def test_impossible_sizes_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} is -1"):
        PrefixDataConfig(**{field: -1})


def test_a_window_without_a_second_event_of_anybody_is_refused(tmp_path: Path) -> None:
    store = store_of([[(1, 0)], [(2, 1)]], tmp_path / "s", has_time=False)
    with pytest.raises(StoreError, match="nothing can be learned"):
        PrefixBatches(store, load_split(store, "loo"), PrefixDataConfig(), seed=0)
