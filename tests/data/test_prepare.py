"""From raw rows to a Store: order, numbering, refusals, units of time, and what a kill leaves behind."""

from __future__ import annotations

import fcntl
import io
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from penchant.data import writer
from penchant.data.prepare import prepare
from penchant.data.sources.table import from_tables
from penchant.data.store import Store
from penchant.errors import DataError, StoreError

QUIET = Console(quiet=True)
DAY = 1_704_067_200  # 2024-01-01, in seconds


def log(users: list, items: list, times: list | pa.Array) -> pa.Table:
    return pa.table({"user_id": users, "item_id": items, "timestamp": times})


rows = st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abcde"), st.integers(0, 3)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=8)
@given(rows)
def test_ties_keep_the_order_of_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]]
) -> None:
    users, items, ages = (list(x) for x in zip(*rows, strict=True))
    out = tmp_path_factory.mktemp("ties") / "store"
    store = prepare(from_tables(log(users, items, [DAY + a for a in ages])), out, console=QUIET)
    for number, user in enumerate(store.user_ids[1:], 1):
        expected = [i for u, i, _ in sorted(rows, key=lambda r: r[2]) if u == user]  # Python's sort is stable
        start, stop = store.user_indptr[number], store.user_indptr[number + 1]
        assert [store.item_ids[i] for i in store.event_item[start:stop]] == expected
    assert store.user_ids[1:] == list(dict.fromkeys(users))  # numbered as they first occur
    assert store.item_ids[1:] == list(dict.fromkeys(items))


@settings(deadline=None, max_examples=4)
@given(rows, st.randoms(use_true_random=False))
def test_a_store_does_not_depend_on_how_users_are_interleaved(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]], random
) -> None:
    """Each user's rows in their order, users mixed anew: the same events, so the same arrays once ids are the same."""
    queues = {u: [r for r in rows if r[0] == u] for u, *_ in rows}
    mixed = []
    while queues:
        user = random.choice(sorted(queues))
        mixed.append(queues[user].pop(0))
        if not queues[user]:
            del queues[user]
    catalogue, people = pa.table({"item_id": list("abcde")}), pa.table({"user_id": list("uvw")})
    stores = []
    for order in (rows, mixed):
        users, items, ages = (list(x) for x in zip(*order, strict=True))
        raw = from_tables(log(users, items, [DAY + a for a in ages]), catalogue, users=people)
        stores.append(prepare(raw, tmp_path_factory.mktemp("mixed") / "store", console=QUIET))
    assert stores[0].fingerprint == stores[1].fingerprint


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        ([DAY, DAY + 1], "seconds"),
        ([float(DAY), DAY + 1.0], "seconds"),
        ([DAY * 1000, DAY * 1000 + 1000], "milliseconds"),
        ([DAY * 10**6, (DAY + 1) * 10**6], "microseconds"),
        ([DAY * 10**9, (DAY + 1) * 10**9], "nanoseconds"),
        ([str(DAY), f"{DAY + 1}.0"], "seconds"),
        (["2024-01-01", "2024-01-01T00:00:01"], "ISO 8601 text"),
        (["2024-01-01T02:00:00+02:00", "2023-12-31 19:00:01-05"], "ISO 8601 text"),
        (["2024-01-01T00:00:00.000Z", "2024-01-01 00:00:01.000"], "ISO 8601 text"),
        (["20240101", "2024-01-01 02:00:01 +0200"], "ISO 8601 text"),
        (["2024-01-01T00", "2023-12-31T22:00:01 -02"], "ISO 8601 text"),
        (["2024-01-01 02+02", "2024-01-01T01:00:01.000 +01:00"], "ISO 8601 text"),
        (pa.array([DAY * 1000, DAY * 1000 + 1000], pa.timestamp("ms")), "timestamps"),
        (pa.array([DAY * 10**9, (DAY + 1) * 10**9], pa.timestamp("ns", tz="Asia/Tokyo")), "timestamps"),
    ],
)
def test_every_usual_kind_of_time_is_understood(times: list, unit: str, tmp_path: Path) -> None:
    raw = from_tables(log(["u", "u"], ["a", "b"], times))
    store = prepare(raw, tmp_path / "store", console=QUIET)
    assert store.event_ts_ms.tolist() == [DAY * 1000, (DAY + 1) * 1000]
    assert any(note.startswith(f"Times of events were read as {unit}") for note in store.manifest["notes"])


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.float64()])
def test_numbers_may_be_days(kind: pa.DataType, tmp_path: Path) -> None:
    days = pa.array([20240101, 20240102, 20240230]).cast(kind)
    store = prepare(from_tables(log(["u"] * 3, list("abc"), days)), tmp_path / "store", console=QUIET)
    assert store.event_ts_ms.tolist() == [DAY * 1000, (DAY + 86_400) * 1000]
    assert [r["count"] for r in store.manifest["refused"]] == [1]  # the 30th of February


@pytest.mark.parametrize("bad", [0.0, -1.0, 5e9, 1e30, float("nan"), float("inf"), float("-inf")])
def test_absurd_times_are_refused(bad: float, tmp_path: Path) -> None:
    store = prepare(from_tables(log(["u"] * 3, list("abc"), [DAY, DAY + 1, bad])), tmp_path / "store", console=QUIET)
    assert store.num_events == 2
    (refused,) = store.manifest["refused"]
    assert refused["reason"] in ("time is before 1990 or after 2100", "time is missing")
    assert refused["samples"][0].startswith("events row 3: time = ")


def test_categories_are_dense_and_none_is_zero(tmp_path: Path) -> None:
    items = pa.table({"item_id": list("abcd"), "category": ["tools", None, "art", "tools"]})
    store = prepare(from_tables(log(["u"], ["a"], [DAY]), items), tmp_path / "store", console=QUIET)
    assert store.item_category.tolist() == [0, 2, 0, 1, 2]
    assert store.num_categories == 2
    assert store.table("items")["category_path"].to_pylist() == ["tools", None, "art", "tools"]


def test_refused_rows_are_fatal_if_asked(tmp_path: Path) -> None:
    raw = from_tables(log(["u", "u", None], ["a", "b", "c"], [DAY, 5, DAY]))
    with pytest.raises(
        DataError,
        match=r"events row 3: user_id = None: user_id is missing \(2 rows refused in all, and --strict is set\)\.",
    ):
        prepare(raw, tmp_path / "store", strict=True, console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_strict_also_minds_the_catalogue(tmp_path: Path) -> None:
    items = pa.table({"item_id": ["a", "a"]})
    with pytest.raises(DataError, match=r"items row 2: item_id = 'a': item_id is listed twice"):
        prepare(from_tables(log(["u"], ["a"], [DAY]), items), tmp_path / "store", strict=True, console=QUIET)


@pytest.mark.parametrize("table", [log([], [], []), log(["u"], ["a"], [5])])
def test_nothing_usable_is_an_error_and_no_store(table: pa.Table, tmp_path: Path) -> None:
    table = table.set_column(0, "user_id", table["user_id"].cast(pa.string()))
    with pytest.raises(DataError, match="no usable event"):
        prepare(from_tables(table), tmp_path / "store", console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_the_summary_says_what_there_is_and_what_was_refused(tmp_path: Path) -> None:
    said = io.StringIO()
    raw = from_tables(log(["u", "u", "v", "v"], list("abab"), [DAY, DAY + 1, DAY + 86400, 5]), name="shop [a]")
    prepare(raw, tmp_path / "store", console=Console(file=said, width=100))
    text = said.getvalue()
    for expected in ("shop [a]", "2024-01-01 to 2024-01-02", "refused 1: time is before 1990 or after 2100",
                     "events row 4: time = '5'", "note Times of events were read as seconds."):  # fmt: skip
        assert expected in text
    rows = {
        line.split("│")[1].strip(): line.split("│")[2].strip() for line in text.splitlines() if line.count("│") == 3
    }
    assert rows["users"] == "2"
    assert rows["events"] == "3"
    assert rows["rows refused"] == "1"
    assert rows["events a user"] == "min 1, quartiles 1 / 1 / 2, max 2"


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_events_that_were_logged_twice_are_counted_and_kept(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BATCH", batch)
    said = io.StringIO()
    users, items = list("uuuuuvvw"), list("ababaaba")
    raw = from_tables(log(users, items, [DAY] * 4 + [DAY + 1] + [DAY] * 3))
    store = prepare(raw, tmp_path / "store", console=Console(file=said, width=200))
    assert store.num_events == 8
    assert store.manifest["repeated_events"] == 2
    assert "note 2 events repeat user, item and time of an earlier one" in said.getvalue()


def test_where_nothing_is_repeated_nothing_is_said(tmp_path: Path) -> None:
    said = io.StringIO()
    raw = from_tables(log(list("uuv"), list("aba"), [DAY] * 3))
    prepare(raw, tmp_path / "store", console=Console(file=said, width=200))
    assert "repeat" not in said.getvalue()


def test_an_existing_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(StoreError, match=r"store: already exists\. Choose another --out"):
        prepare(from_tables(log(["u"], ["a"], [DAY])), tmp_path / "store", console=QUIET)
    assert list((tmp_path / "store").iterdir()) == []


def test_the_folder_one_stands_in_is_no_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(StoreError, match=r"^\.: already exists\. Choose another --out"):
        prepare(from_tables(log(["u"], ["a"], [DAY])), ".", console=QUIET)


def test_two_cannot_prepare_the_same_folder_at_once(tmp_path: Path) -> None:
    with (tmp_path / "store.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"store: another process is at work on it\. Wait"):
            prepare(from_tables(log(["u"], ["a"], [DAY])), tmp_path / "store", console=QUIET)
    store = prepare(from_tables(log(["u"], ["a"], [DAY])), tmp_path / "store", console=QUIET)  # a lock left by the dead
    assert store.num_events == 1
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


KILLED = """
import sys, time
from pathlib import Path
import pyarrow as pa
from penchant.data import writer
from penchant.data.prepare import prepare
from penchant.data.sources.table import from_tables

def stall(*_, **__):
    print("here", flush=True)
    time.sleep(60)

stage, out = sys.argv[1:]
if stage == "write":
    writer.fingerprint = stall  # all files are there, the manifest is not
else:
    writer.define_splits = stall
times = list(range(1704067200, 1704067209))
events = pa.table({"user_id": ["u"] * 9, "item_id": list("abcdefghi"), "timestamp": times})
prepare(from_tables(events), Path(out))
"""


@pytest.mark.parametrize("stage", ["write", "splits"])
def test_a_killed_prepare_leaves_no_store_and_the_next_one_cleans_up(stage: str, tmp_path: Path) -> None:
    out = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", KILLED, stage, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    assert any(p.name.startswith("store.tmp-") for p in tmp_path.iterdir())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    with pytest.raises(StoreError, match="no Store here"):
        Store(out)
    store = prepare(from_tables(log(["u"], ["a"], [DAY])), out, console=QUIET)
    store.verify()
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_an_interrupted_prepare_cleans_up_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Store) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "define_splits", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(from_tables(log(["u"], ["a"], [DAY])), tmp_path / "store", console=QUIET)
    assert list(tmp_path.iterdir()) == []
