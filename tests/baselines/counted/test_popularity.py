"""Popularity counts the train window and nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penchant.baselines.counted.popularity import DAY_MS, Popularity, PopularityConfig, recent_rows
from penchant.data.split import RULES, load_split
from penchant.data.store import Store
from penchant.data.writer import write_store
from penchant.errors import ConfigError
from penchant.models import Sizes
from tests.checkerboard import requests_of


def fitted(store: Store, split_name: str, window_days: float | None = None) -> Popularity:
    model = Popularity(PopularityConfig(window_days=window_days), Sizes(num_items=store.num_items))
    model.fit(store, load_split(store, split_name))
    return model


@pytest.mark.parametrize("name", RULES)
def test_counts_are_those_of_the_train_window(store: Store, name: str) -> None:
    split = load_split(store, name)
    expected: Counter[int] = Counter()
    for user in range(1, store.num_users + 1):
        for row in range(split.starts("train")[user], split.stops("train")[user]):
            expected[int(store.event_item[row])] += 1
    counts = fitted(store, name).counts.tolist()
    assert counts == [expected[i] for i in range(store.num_items + 1)]


@pytest.mark.parametrize("days", [0.5, 7.0, 30.0])
def test_recent_means_the_days_before_the_cut(store: Store, days: float) -> None:
    split = load_split(store, "temporal-successive")
    assert split.cuts_ms is not None
    times = np.array(store.event_ts_ms)
    expected = np.flatnonzero((times < split.cuts_ms[0]) & (times >= split.cuts_ms[0] - days * DAY_MS))
    rows = recent_rows(store, split, days)
    assert rows.tolist() == expected.tolist()
    assert 0 < len(rows) < len(split.events("train"))


def test_without_a_cut_the_window_ends_at_the_latest_train_event(store: Store) -> None:
    split = load_split(store, "loo")
    train = split.events("train")
    latest = store.event_ts_ms[train].max()
    rows = recent_rows(store, split, 5.0)
    assert rows.tolist() == [r for r in train if store.event_ts_ms[r] > latest - 5.0 * DAY_MS]
    assert 0 < len(rows) < len(train)


def test_a_window_longer_than_the_log_counts_everything(store: Store) -> None:
    assert fitted(store, "funnel", 10_000.0).counts.tolist() == fitted(store, "funnel").counts.tolist()


def test_without_times_recent_means_each_users_last_events(tmp_path: Path) -> None:
    def ints(values: list[int], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind)

    store = write_store(
        tmp_path / "ordered",
        name="ordered",
        has_time=False,
        items=pa.table({"item": ints([1, 2, 3, 4, 5], pa.int32()), "item_id": list("abcde"), "category": [0] * 5}),
        users=pa.table({"user": ints([1, 2], pa.int32()), "user_id": ["u", "v"]}),
        events=pa.table(
            {
                "user": ints([1] * 5 + [2] * 2, pa.int32()),
                "item": ints([1, 2, 3, 4, 5, 4, 4], pa.int32()),
                "query": ints([0] * 7, pa.int32()),
                "action": ["click"] * 7,
                "ts_ms": ints([0] * 7, pa.int64()),
                "request": ints([0] * 7, pa.int64()),
                "row": ints(list(range(7)), pa.int64()),
            }
        ),
    )
    # User 1 trains on items 1, 2, 3 (4 and 5 are held out), user 2, too short to hold anything out, on 4, 4.
    assert fitted(store, "loo", 1.0).counts.tolist() == [0, 0, 0, 1, 1, 0]
    assert fitted(store, "loo", 2.0).counts.tolist() == [0, 0, 1, 1, 2, 0]
    assert fitted(store, "loo").counts.tolist() == [0, 1, 1, 1, 2, 0]


def test_everybody_gets_the_same_scores(store: Store) -> None:
    scores = fitted(store, "loo").score_items(requests_of([], [1, 2]))
    assert scores[0].equal(scores[1])
    assert scores[0, 0] == -float("inf")


@pytest.mark.parametrize("days", [0.0, -3.0, float("nan")])
def test_a_window_without_days_is_refused(days: float) -> None:
    with pytest.raises(ConfigError, match="window_days"):
        PopularityConfig(window_days=days)
