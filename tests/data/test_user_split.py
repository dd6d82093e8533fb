"""A user's own split file: matched row by row to the Store, or refused in one line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penchant.data.split import RULES, load_split
from penchant.data.store import Store
from penchant.data.user_split import read_split
from penchant.errors import DataError
from tests.data.test_split import store_of
from tests.factories import make_store

# User 1 bought item 2 twice at the same time; user 2 has two events at one time.
HISTORIES = [[(1, 10), (2, 20), (2, 20), (3, 30)], [(1, 5), (2, 5), (3, 40)]]
MS = 1_704_067_200_000
ROWS = [
    ("u1", "i1", 10, "train"),
    ("u1", "i2", 20, "train"),
    ("u1", "i2", 20, "valid"),
    ("u1", "i3", 30, "test"),
    ("u2", "i1", 5, "train"),
    ("u2", "i2", 5, "train"),
    ("u2", "i3", 40, "test"),
]


def shop(tmp_path: Path, has_time: bool = True) -> Store:
    return store_of([[(i, MS + at) for i, at in h] for h in HISTORIES], tmp_path / "store", has_time)


def write(tmp_path: Path, rows: list[tuple], header: tuple = ("user_id", "item_id", "timestamp", "window")) -> Path:
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *[(u, i, MS + at, w) for u, i, at, w in rows]])
    return tmp_path / "mine.csv"


@pytest.mark.parametrize("name", RULES)
def test_a_split_written_out_and_read_back_is_the_same(name: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    split = load_split(store, name)
    window = np.empty(store.num_events, dtype=object)
    for w in split.windows:
        window[split.events(w)] = w
    # By time, users mixed; equal rows are told apart by their order alone, so it is kept.
    order = np.lexsort((np.arange(store.num_events), np.asarray(store.event_ts_ms)))
    table = pa.table(
        {
            "user_id": [store.user_ids[store.event_user[e]] for e in order],
            "item_id": [store.item_ids[store.event_item[e]] for e in order],
            "timestamp": np.asarray(store.event_ts_ms)[order],
            "window": window[order].tolist(),
        }
    )
    pq.write_table(table, tmp_path / "mine.parquet")
    mine = read_split(store, tmp_path / "mine.parquet", target=RULES[name]["target"])
    assert mine.windows == split.windows
    assert np.array_equal(mine.ends[1:], split.ends[1:])
    assert np.array_equal(mine.targets("test"), split.targets("test"))
    assert load_split(store, "mine").fingerprint == mine.fingerprint


def test_rows_may_come_in_any_order_of_users(tmp_path: Path) -> None:
    split = read_split(shop(tmp_path), write(tmp_path, ROWS[4:] + ROWS[:4]), name="own")
    assert split.name == "own"
    assert split.ends.tolist() == [[0, 0, 0], [2, 3, 4], [6, 6, 7]]
    assert split.targets("test").tolist() == [3, 6]


def test_text_may_be_written_as_bytes(tmp_path: Path) -> None:
    users, items, times, windows = zip(*ROWS, strict=True)
    text = {"user_id": users, "item_id": items, "window": windows}
    text["timestamp"] = tuple(str(MS + at) for at in times)
    table = pa.table({key: pa.array(values).cast(pa.binary()) for key, values in text.items()})
    pq.write_table(table, tmp_path / "mine.parquet")
    assert read_split(shop(tmp_path), tmp_path / "mine.parquet").ends.tolist() == [[0, 0, 0], [2, 3, 4], [6, 6, 7]]


def test_events_after_the_last_listed_one_are_in_no_window(tmp_path: Path) -> None:
    split = read_split(shop(tmp_path), write(tmp_path, ROWS[:3]))
    assert split.ends.tolist() == [[0, 0, 0], [2, 3, 3], [4, 4, 4]]


def test_a_store_without_times_needs_no_timestamp(tmp_path: Path) -> None:
    store = shop(tmp_path, has_time=False)
    (tmp_path / "mine.csv").write_text("user_id,item_id,window\n" + "".join(f"{u},{i},{w}\n" for u, i, _, w in ROWS))
    assert read_split(store, tmp_path / "mine.csv").ends.tolist() == [[0, 0, 0], [2, 3, 4], [6, 6, 7]]


@pytest.mark.parametrize(
    ("row", "new", "message"),
    [
        (3, ("u1", "i3", 31, "test"), r"mine\.csv line 5: 'u1, i3, \d+' is no event of the Store\. Make the file from"),
        (3, ("u9", "i3", 30, "test"), r"mine\.csv line 5: 'u9, i3, \d+' is no event of the Store"),
        (3, ("u1", "i2", 20, "test"), r"mine\.csv line 5: 'u1, i2, \d+' is no event of the Store"),  # a third time
        (3, ("u1", "i3", 30, "tset"), r"mine\.csv line 5: 'tset' is not a window\. Windows are train, valid, test"),
        (
            3,
            ("u1", "i3", 30, "train"),
            r"mine\.csv: user 'u1', item 'i3': its window comes before that of an earlier event",
        ),
        (2, ("u2", "i3", 40, "test"), r"mine\.csv line 8: 'u2, i3, \d+' is no event of the Store"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: int, new: tuple, message: str, tmp_path: Path) -> None:
    rows = [*ROWS[:row], new, *ROWS[row + 1 :]]
    store = shop(tmp_path)
    with pytest.raises(DataError, match=message):
        read_split(store, write(tmp_path, rows))
    assert not (store.path / "splits" / "mine.json").exists()


def test_an_event_left_out_in_the_middle_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"user 'u1', item 'i2': an event before this one has no window"):
        read_split(shop(tmp_path), write(tmp_path, ROWS[1:]))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"mine\.csv: no column window; the columns are: user_id, item_id, timestamp, part"
    ):
        read_split(shop(tmp_path), write(tmp_path, ROWS, ("user_id", "item_id", "timestamp", "part")))
    with pytest.raises(
        DataError, match=r"mine\.csv: no column timestamp; the columns are: user_id, item_id, x, window"
    ):
        read_split(shop(tmp_path / "b"), write(tmp_path, ROWS, ("user_id", "item_id", "x", "window")))
