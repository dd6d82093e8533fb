"""A server's event log behind the shop's own log: nothing lost, nothing twice, places named."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import penchant
from penchant.data.prepare import prepare
from penchant.data.sources import served
from penchant.data.sources.table import Table, from_tables, read
from penchant.data.store import Store
from penchant.errors import DataError
from penchant.serve.events import Event, EventLog

QUIET = Console(quiet=True)
START = 1_714_566_600_000  # 2024-05-01 12:30, in milliseconds


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def logged(path: Path, *events: tuple[str, str, str, int]) -> Path:
    log = EventLog(path)
    log.append([Event(*event) for event in events])
    log.close()
    return path


def rows(store: Store) -> list[tuple[str, str, str, int]]:
    events = store.table("events", ["user", "item", "action", "ts_ms"]).to_pylist()
    return [(store.user_ids[e["user"]], store.item_ids[e["item"]], e["action"], e["ts_ms"]) for e in events]


@pytest.mark.parametrize("at", ["1714566600", "1714566600000", "2024-05-01 12:30", "2024-05-01T14:30:00+02:00"])
def test_what_was_served_follows_whatever_the_own_times_are_written_as(at: str, tmp_path: Path) -> None:
    own = write(tmp_path / "clicks.csv", f"user,item,time\nada,a,{at}\nbob,a,{at}\n")
    log = logged(
        tmp_path / "log",
        ("ada", "b", "buy", START + 1),
        ("ada", "a", "click", START),  # the shop has it too
        ("eve", "b", "click", START + 1),
    )
    raw = read(Table(events=own, served=log))
    assert "log: 3 events that a server logged; 1 of them are in the other log too and count once." in raw.notes
    store = prepare(raw, tmp_path / "store", console=QUIET)
    assert rows(store) == [
        ("ada", "a", "click", START),
        ("ada", "b", "buy", START + 1),
        ("bob", "a", "click", START),
        ("eve", "b", "click", START + 1),
    ]
    assert sum("Times of events were read as" in note for note in store.manifest["notes"]) == 1


def test_without_times_it_comes_after_all_of_the_shops_own(tmp_path: Path) -> None:
    own = write(tmp_path / "clicks.csv", "user,item\nada,a\nbob,a\nada,b\n")
    log = logged(tmp_path / "log", ("ada", "a", "click", START), ("ada", "b", "click", 5), ("bob", "b", "click", 7))
    store = prepare(read(Table(events=own, served=log)), tmp_path / "store", console=QUIET)
    assert [row[:2] for row in rows(store)] == [
        *(("ada", item) for item in ("a", "b", "b", "a")),
        *(("bob", item) for item in ("a", "b")),
    ]


def test_bad_rows_of_both_keep_their_places(tmp_path: Path) -> None:
    own = write(tmp_path / "clicks.csv", "user,item,time\nada,a,2024-05-01\n,a,2024-05-01\nbob,b,01/05/2024\n")
    log = logged(tmp_path / "log", ("ada", "b", "click", 12), ("ada", "b", "click", START))
    store = prepare(read(Table(events=own, served=log)), tmp_path / "store", console=QUIET)
    assert [row[:2] for row in rows(store)] == [("ada", "a"), ("ada", "b")]
    samples = [sample for refused in store.manifest["refused"] for sample in refused["samples"]]
    assert samples == [
        "clicks.csv line 3: user_id = None",
        "clicks.csv line 4: time = '01/05/2024'",
        "log event 1: time = '12'",
    ]


def test_a_live_log_of_several_blocks_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, also what is still in the write-ahead log."""
    monkeypatch.setattr(served, "BLOCK", 3)
    log = EventLog(tmp_path / "log")
    log.append([Event("ada", f"p{i}", "click", START + i) for i in range(10)])
    own = pd.DataFrame({"user_id": ["ada"], "item_id": ["p0"], "timestamp": [START - 1]})
    store = penchant.prepare(own, out=tmp_path / "store", served=tmp_path / "log")
    log.close()
    assert [row[1] for row in rows(store)] == ["p0", *(f"p{i}" for i in range(10))]


def test_requests_and_queries_of_the_own_log_stay(tmp_path: Path) -> None:
    own = write(tmp_path / "clicks.csv", f"user,item,time,query,request_id\nada,a,{START},red tea,r1\n")
    shown = write(tmp_path / "shown.csv", "request_id,item,label\nr1,a,1\nr1,b,0\n")
    log = logged(tmp_path / "log", ("ada", "b", "buy", START + 1))
    store = prepare(read(Table(events=own, impressions=shown, served=log)), tmp_path / "store", console=QUIET)
    events = store.table("events", ["action", "query", "request"]).to_pylist()
    assert events == [{"action": "click", "query": 1, "request": 1}, {"action": "buy", "query": 0, "request": 0}]


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_each_event_of_either_log_is_kept_once(data: st.DataObject) -> None:
    event = st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 3).map(lambda s: START + s))
    own, theirs = data.draw(st.lists(event, min_size=1, max_size=6)), data.draw(st.lists(event, max_size=6))
    with TemporaryDirectory() as folder:
        log = logged(Path(folder, "log"), *((user, item, "click", ms) for user, item, ms in theirs))
        raw = from_tables(pd.DataFrame(own, columns=["user_id", "item_id", "timestamp"]), served=log)
    found = Counter(raw.work.rows(f"SELECT user_id, item_id, ms FROM {raw.events}"))
    raw.work.close()
    assert found == Counter(own) + Counter(e for e in theirs if e not in own)


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    own = write(tmp_path / "clicks.csv", f"user,item,time\nada,a,{START}\n")
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as other:
        other.execute("CREATE TABLE orders (id)")
    for name, problem in (
        ("missing", "no such file"),
        ("clicks.csv", r"is no event log \(file is not a database\)"),
        ("shop.db", r"is no event log \(no such table: event\)"),
    ):
        with pytest.raises(DataError, match=rf"{name}: {problem}.*BUNDLE\.events\.sqlite"):
            read(Table(events=own, served=tmp_path / name))
    assert not (tmp_path / "missing").exists()
