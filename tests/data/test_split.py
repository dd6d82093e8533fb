"""Splits: what a target may see, and what it may not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.history import requests_before_events
from penchant.data.split import RULES, add_split, load_split, nearest_quantiles
from penchant.data.store import Store
from penchant.data.writer import write_store
from penchant.errors import ConfigError, StoreError
from tests.factories import make_store

TEMPORAL = [name for name, rule in RULES.items() if rule["quantiles"]]


def store_of(histories: list[list[tuple[int, int]]], out: Path, has_time: bool = True) -> Store:
    """A Store of users with (item, time in ms) events, given in any order."""
    rows = [
        (user, item, at, row) for user, history in enumerate(histories, 1) for row, (item, at) in enumerate(history)
    ]
    rows.sort(key=lambda r: (r[0], r[2], r[3]))
    user, item, at, _ = (np.array(x, dtype=np.int64) for x in zip(*rows, strict=True))
    num_items = int(item.max())
    zeros = np.zeros(len(rows), np.int64)
    return write_store(
        out,
        name="made-up",
        items=pa.table(
            {
                "item": np.arange(1, num_items + 1),
                "item_id": [f"i{i}" for i in range(1, num_items + 1)],
                "category": np.zeros(num_items, np.int32),
            }
        ),
        users=pa.table(
            {"user": np.arange(1, len(histories) + 1), "user_id": [f"u{u}" for u in range(1, len(histories) + 1)]}
        ),
        events=pa.table(
            {
                "user": user,
                "item": item,
                "query": zeros,
                "action": ["click"] * len(rows),
                "ts_ms": at,
                "request": zeros,
                "row": np.arange(len(rows)),
            }
        ),
        has_time=has_time,
    )


histories = st.lists(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 12)), min_size=1, max_size=8), min_size=1, max_size=6
)


@pytest.mark.parametrize("name", RULES)
def test_windows_partition_every_users_events(store: Store, name: str) -> None:
    split = load_split(store, name)
    rows = np.concatenate([split.events(w) for w in split.windows])
    assert np.array_equal(np.sort(rows), np.arange(store.num_events))


@pytest.mark.parametrize("name", RULES)
def test_history_is_what_the_user_did_before_the_target(store: Store, name: str) -> None:
    split = load_split(store, name)
    targets = split.targets("test")
    requests = requests_before_events(store, targets, max_len=1000)
    for row, event in enumerate(targets):
        user = store.event_user[event]
        expected = store.event_item[store.user_indptr[user] : event]
        assert requests.history[row][requests.mask[row]].tolist() == expected.tolist()
        assert len(expected) > 0


@settings(deadline=None, max_examples=15)
@given(histories)
def test_a_global_cut_divides_all_users_at_one_time(tmp_path_factory: pytest.TempPathFactory, histories: list) -> None:
    store = store_of(histories, tmp_path_factory.mktemp("split") / "store")
    times = np.asarray(store.event_ts_ms)
    for name in TEMPORAL:
        split = load_split(store, name)
        assert split.cuts_ms is not None
        edges = [-(2**62), *split.cuts_ms, 2**62]
        for w, window in enumerate(split.windows):
            expected = np.flatnonzero((times >= edges[w]) & (times < edges[w + 1]))
            assert np.array_equal(split.events(window), expected)
            counts = np.bincount(np.asarray(store.event_item)[expected], minlength=store.num_items + 1)
            assert np.array_equal(split.item_counts(store, window), counts)


@settings(deadline=None, max_examples=15)
@given(histories)
def test_targets_match_a_loop_over_users(tmp_path_factory: pytest.TempPathFactory, histories: list) -> None:
    store = store_of(histories, tmp_path_factory.mktemp("split") / "store")
    for name, rule in RULES.items():
        split = load_split(store, name)
        for w, window in enumerate(split.windows[1:], 1):
            targets, cold = [], 0
            for user in range(1, store.num_users + 1):
                mine = list(range(store.user_indptr[user], store.user_indptr[user + 1]))
                inside = [e for e in split.events(window) if e in mine]
                before = [e for v in split.windows[:w] for e in split.events(v) if e in mine]
                cold += bool(inside and not before)
                if inside and before:
                    targets += inside if rule["target"] == "successive" else inside[-1:]
            assert split.targets(window).tolist() == targets
            assert split.cold_users(window) == cold


def test_loo_holds_out_the_last_two_in_stable_order(tmp_path: Path) -> None:
    store = store_of([[(1, 5), (2, 5), (3, 5), (4, 1)], [(1, 0), (2, 1)], [(3, 0), (3, 0), (3, 0)]], tmp_path / "s")
    split = load_split(store, "loo")
    items = np.asarray(store.event_item)
    assert items[split.targets("test")].tolist() == [3, 3]
    assert items[split.targets("valid")].tolist() == [2, 3]
    assert items[split.events("train")].tolist() == [4, 1, 1, 2, 3]  # two events are too few to hold any out


@pytest.mark.parametrize("name", TEMPORAL)
def test_nothing_after_the_cut_is_in_a_statistic(name: str, store: Store, tmp_path: Path) -> None:
    """The same log with another future: what is known at the cut is the same, to the last count and history."""
    split = load_split(store, name)
    events = store.table("events")
    future = events["ts_ms"].to_numpy() >= split.cut_ms(split.windows[1])
    items = np.where(future, 1 + events["item"].to_numpy() % store.num_items, events["item"].to_numpy())
    changed = events.set_column(1, "item", pa.array(items, pa.int32()))
    other = write_store(
        tmp_path / "other", name="x", items=store.table("items"), users=store.table("users"), events=changed,
        impressions=store.table("impressions"), queries=store.table("queries"),
    )  # fmt: skip
    again = load_split(other, name)
    assert again.cuts_ms == split.cuts_ms
    assert np.array_equal(again.item_counts(other), split.item_counts(store))
    assert not np.array_equal(again.item_counts(other, "test"), split.item_counts(store, "test"))
    train = split.events("train")
    old, new = requests_before_events(store, train, 50), requests_before_events(other, train, 50)
    assert old.history.tolist() == new.history.tolist()


def test_no_model_that_feeds_another_saw_its_window(store: Store) -> None:
    """Channels learn before the first cut, rankers between the first and the second, of events and of impressions."""
    split = load_split(store, "funnel")
    times = np.asarray(store.event_ts_ms)
    windows = [times[split.events(w)] for w in split.windows]
    shown = [np.asarray(store.request_ts_ms)[split.requests(store, w)] for w in split.windows]
    for earlier, later in zip(range(3), range(1, 4), strict=True):
        assert windows[earlier].max() < min(windows[later].min(), shown[later].min())
        assert shown[earlier].max() < min(windows[later].min(), shown[later].min())
    assert sum(map(len, shown)) == store.num_requests
    assert load_split(store, "temporal-last").cuts_ms == load_split(store, "temporal-successive").cuts_ms
    assert split.cuts_ms is not None
    assert split.cuts_ms[1:] == load_split(store, "temporal-last").cuts_ms


@pytest.mark.parametrize("name", ["loo", "temporal-successive", "temporal-last"])
def test_once_all_is_chosen_the_valid_events_may_be_learned_and_the_test_stays(store: Store, name: str) -> None:
    split = load_split(store, name)
    both = split.with_valid_in_train()
    learned = np.union1d(split.events("train"), split.events("valid"))
    assert np.array_equal(both.events("train"), learned)
    assert not len(both.events("valid"))
    assert np.array_equal(both.targets("test"), split.targets("test"))
    assert not np.intersect1d(both.events("train"), both.events("test")).size
    if split.cuts_ms is not None:
        assert both.cut_ms("valid") == split.cut_ms("test")


def test_a_split_whose_stages_feed_each_other_keeps_its_windows(store: Store) -> None:
    with pytest.raises(ConfigError, match="windows train, rank, valid, test"):
        load_split(store, "funnel").with_valid_in_train()


def test_cuts_are_quantiles_of_event_time(store: Store) -> None:
    times = np.sort(np.asarray(store.event_ts_ms))
    cuts = load_split(store, "funnel").cuts_ms
    assert cuts is not None
    for cut, share in zip(cuts, (0.7, 0.8, 0.9), strict=True):
        assert abs((times < cut).mean() - share) < 0.01
        assert cut in times


def test_a_split_belongs_to_one_store(tmp_path: Path) -> None:
    one, other = make_store(tmp_path / "one"), make_store(tmp_path / "other", seed=1)
    assert load_split(one, "loo").fingerprint != load_split(other, "loo").fingerprint
    shutil.copy(other.path / "splits" / "loo.json", one.path / "splits" / "loo.json")
    with pytest.raises(StoreError, match=r"loo\.json: was made for another Store or was edited"):
        load_split(one, "loo")
    path = one.path / "splits" / "funnel.json"
    definition = json.loads(path.read_text())
    path.write_text(json.dumps({**definition, "cuts_ms": [c + 1 for c in definition["cuts_ms"]]}))
    with pytest.raises(StoreError, match="was edited"):
        load_split(one, "funnel")


def test_what_a_split_cannot_say_is_an_error(store: Store) -> None:
    with pytest.raises(
        StoreError, match=r"no split 'random'; there are: funnel, loo, temporal-last, temporal-successive"
    ):
        load_split(store, "random")
    with pytest.raises(StoreError, match="has no window 'rank', it has train, valid, test"):
        load_split(store, "loo").events("rank")
    with pytest.raises(StoreError, match="cuts by order, not by time"):
        load_split(store, "loo").requests(store, "test")


def test_data_without_times_has_the_split_by_order_alone(tmp_path: Path) -> None:
    store = store_of([[(1, 1), (2, 2), (3, 3)]], tmp_path / "s", has_time=False)
    assert [p.name for p in (store.path / "splits").iterdir()] == ["loo.json"]


def test_ends_outside_a_users_events_are_refused(tmp_path: Path) -> None:
    store = store_of([[(1, 1), (2, 2), (3, 3)], [(1, 1)]], tmp_path / "s")
    good = np.array([[0, 0, 0], [1, 2, 3], [4, 4, 4]])
    split = add_split(store, "mine", ("train", "valid", "test"), good)
    assert split.targets("test").tolist() == [2]
    for wrong in ([1, 2, 4], [2, 1, 3], [-1, 2, 3]):
        ends = good.copy()
        ends[1] = wrong
        with pytest.raises(StoreError, match="a window ends before it starts, or outside its user's events"):
            add_split(store, "wrong", ("train", "valid", "test"), ends)
    (store.path / "splits" / "mine.npy").write_bytes((store.path / "splits" / "mine.npy").read_bytes()[:-1] + b"\x01")
    with pytest.raises(StoreError, match=r"mine\.npy: its bytes are not those that were written\. Give --split"):
        load_split(store, "mine")
    (store.path / "splits" / "mine.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(StoreError, match=r"mine\.npy: missing or damaged .*Give --split the file that 'mine'"):
        load_split(store, "mine")
    (store.path / "splits" / "mine.npy").unlink()
    with pytest.raises(StoreError, match=r"mine\.npy: missing or damaged"):
        load_split(store, "mine")
    assert add_split(store, "mine", ("train", "valid", "test"), good).fingerprint == split.fingerprint


def test_a_split_of_ones_own_never_takes_a_rules_name(store: Store) -> None:
    before = (store.path / "splits" / "funnel.json").read_bytes()
    split = load_split(store, "funnel")
    with pytest.raises(StoreError, match=r"'funnel' is the name of .* by rule\. Rename the split's file"):
        add_split(store, "funnel", split.windows, split.ends)
    assert (store.path / "splits" / "funnel.json").read_bytes() == before


def test_an_equal_split_is_not_written_again_and_a_failed_write_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of([[(1, 1), (2, 2), (3, 3)]], tmp_path / "s")
    windows, ends = ("train", "valid", "test"), np.array([[0, 0, 0], [1, 2, 3]])
    old = add_split(store, "mine", windows, ends)

    def fail(file: IO[bytes], array: np.ndarray) -> None:
        file.write(array.tobytes()[:5])
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    assert add_split(store, "mine", windows, ends).fingerprint == old.fingerprint
    for changed in ((windows, ends - [[0, 0, 0], [0, 1, 0]], "successive"), (windows, ends, "last")):
        with pytest.raises(OSError, match="disk full"):
            add_split(store, "mine", *changed)
    assert load_split(store, "mine").fingerprint == old.fingerprint
    assert sorted(p.name for p in (store.path / "splits").glob("mine*")) == ["mine.json", "mine.npy"]


@given(
    st.lists(st.integers(-(2**45), 2**45) | st.sampled_from([7, 8]), min_size=1, max_size=60),
    st.lists(st.floats(0, 1), min_size=1, max_size=3),
    st.none() | st.integers(-9, 9),
    st.integers(1, 9),
)
def test_quantiles_by_blocks_are_numpys(
    values: list[int], quantiles: list[float], since: int | None, block: int
) -> None:
    array = np.array(values, dtype=np.int64)
    kept = array if since is None else array[array >= since]
    expected = np.quantile(kept, quantiles, method="nearest").tolist() if len(kept) else []
    assert nearest_quantiles(array, quantiles, since, block) == expected


def test_ranks_are_rounded_as_numpy_rounds_them() -> None:
    for n in range(1, 3000):
        expected = np.quantile(np.arange(n), (0.7, 0.8, 0.9), method="nearest")
        assert [round(q * (n - 1)) for q in (0.7, 0.8, 0.9)] == expected.tolist()
