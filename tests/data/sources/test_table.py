"""A user's own logs: columns guessed or mapped, content taken in, and nothing dropped in silence."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from penchant.data.prepare import prepare
from penchant.data.sources.raw import Raw
from penchant.data.sources.table import Table, from_tables, read
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import DataError, StoreError

QUIET = Console(quiet=True)
DAY = 1_704_067_200  # 2024-01-01, in seconds


def store_of(raw: Raw, tmp_path: Path) -> Store:
    return prepare(raw, tmp_path / "store", console=QUIET)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_obvious_names_are_guessed_and_said(tmp_path: Path) -> None:
    events = write(tmp_path / "log.csv", f"Customer,SKU,Event Time,Event-Type\nu,a,{DAY},buy\n")
    items = write(tmp_path / "items.csv", "sku,Product Name,description,categories,brand\na,Shoe,Red,Wear > Shoes,B\n")
    raw = read(Table(events=events, items=items))
    assert (
        "log.csv: took Customer as user_id, SKU as item_id, Event Time as timestamp, Event-Type as action." in raw.notes
    )
    store = store_of(raw, tmp_path)
    assert store.table("items").to_pylist() == [
        {
            "item": 1,
            "item_id": "a",
            "title": "Shoe",
            "text": "Red",
            "category": 1,
            "category_path": "Wear > Shoes",
            "image": None,
            "brand": "B",
        }
    ]
    assert store.table("events")["action"].to_pylist() == ["buy"]
    assert store.name == "log"
    assert store.manifest["notes"] == raw.notes


def test_mapped_columns_win_over_guesses(tmp_path: Path) -> None:
    events = write(tmp_path / "log.csv", f"user_id,account,item,when\nwrong,right,a,{DAY}\n")
    raw = read(Table(events=events, columns=("user_id=account", "timestamp=when")))
    assert store_of(raw, tmp_path).user_ids == ["", "right"]


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (
            "a,b,time",
            (),
            r"log\.csv: no column user_id; the columns are: a, b, time\. Say which it is: --columns user_id=",
        ),
        ("user,b,time", (), r"no column item_id; the columns are: user, b, time"),
        (
            "user,item,time",
            ("user_id=buyer",),
            r"--columns: no column 'buyer' for user_id\. The columns are: log\.csv: user",
        ),
        ("b,item,time", ("user_id=buyer",), r"no column user_id \(--columns says 'buyer'\)"),
        ("user,item,time", ("usr=user",), r"--columns: no field 'usr'\. Fields are: user_id, item_id"),
        ("user,item,time", ("user_id",), r"--columns: 'user_id' maps nothing\. Write user_id=customer"),
    ],
)
def test_a_missing_column_is_one_line_with_the_columns_there_are(
    header: str, columns: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    events = write(tmp_path / "log.csv", f"{header}\nu,a,{DAY}\n")
    with pytest.raises(DataError, match=message) as error:
        read(Table(events=events, columns=columns))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.csv: no such file"):
        read(Table(events=tmp_path / "log.csv"))


def test_headerless_files_are_mapped_by_number(tmp_path: Path) -> None:
    events = write(tmp_path / "log.csv", f"1,268,99,pv,{DAY}\n1,269,99,pv,{DAY + 5}\n1,270,99,p")
    raw = read(Table(events=events, header=False, columns=("user_id=1", "item_id=2", "action=4", "timestamp=5")))
    store = store_of(raw, tmp_path)
    assert store.item_ids == ["", "268", "269"]
    assert store.manifest["refused"][0]["samples"] == ["log.csv line 3: '1,270,99,p'"]


def test_bad_rows_are_refused_each_with_its_line(tmp_path: Path) -> None:
    rows = [
        "u,a,2024-01-01",
        ",a,2024-01-01",
        "u,NULL,2024-01-01",
        "u,a,",
        "u,a,soon",
        "u,a,1970-01-02",
        "u,a",
        "u,b,2024-01-01T00:00:00+01:00",
    ]
    store = store_of(read(Table(events=write(tmp_path / "log.csv", "user,item,time\n" + "\n".join(rows)))), tmp_path)
    assert {r["reason"]: r["samples"] for r in store.manifest["refused"]} == {
        "broken line: too few values": ["log.csv line 8: 'u,a'"],
        "user_id is missing": ["log.csv line 3: user_id = None"],
        "item_id is missing": ["log.csv line 4: item_id = None"],
        "time is missing": ["log.csv line 5: time = None"],
        "time is not understood": ["log.csv line 6: time = 'soon'"],
        "time is before 1990 or after 2100": ["log.csv line 7: time = '1970-01-02'"],
    }
    assert store.event_ts_ms.tolist() == [(DAY - 3600) * 1000, DAY * 1000]


def test_a_file_without_times_keeps_its_order_and_has_one_split(tmp_path: Path) -> None:
    store = store_of(read(Table(events=write(tmp_path / "log.csv", "user,item\nu,c\nv,a\nu,b\nu,a\n"))), tmp_path)
    assert not store.has_time
    assert [store.item_ids[i] for i in store.event_item] == ["c", "b", "a", "a"]
    assert load_split(store, "loo").targets("test").tolist() == [2]
    with pytest.raises(StoreError, match="this data has an order but no times"):
        load_split(store, "temporal-last")
    assert "log.csv has no time column (it has: user, item)" in store.manifest["notes"][-1] + store.manifest["notes"][1]


SHOWN = """request,product,clicked,position,query,time
r2,a,0,0,Red ,20
r1,b,1,1,shoe,10
r1,a,false,0,shoe,10
r2,c,maybe,1,Red ,20
r2,b,true,x,Red ,20
r3,a,1,0,,30
"""


def test_impressions_are_grouped_by_request_in_order_of_time(tmp_path: Path) -> None:
    times = SHOWN
    for at in ("10", "20", "30"):
        times = times.replace(f",{at}\n", f",{DAY + int(at)}\n")
    shown = write(tmp_path / "shown.csv", times)
    log = f"user,item,time,request\nu,b,{DAY + 11},r1\nv,a,{DAY + 31},r3\nu,a,{DAY + 99},\n"
    store = store_of(read(Table(events=write(tmp_path / "log.csv", log), impressions=shown)), tmp_path)
    rows = store.table("impressions").to_pylist()
    assert [(r["request"], r["position"], store.item_ids[r["item"]], r["label"]) for r in rows] == [
        (1, 1, "a", 0),
        (1, 2, "b", 1),
        (2, 1, "a", 0),
        (3, 1, "a", 1),
    ]
    assert [store.user_ids[u] for u in store.request_user] == ["", "u", "", "v"]  # told by the events; r2 is nobody's
    assert store.request_ts_ms[1:].tolist() == [(DAY + at) * 1000 for at in (10, 20, 30)]
    queries = store.table("queries").to_pylist()
    assert queries == [{"query": 1, "text": "Red"}, {"query": 2, "text": "shoe"}]
    assert store.request_query.tolist() == [0, 2, 1, 0]
    assert store.table("events")["request"].to_pylist() == [1, 0, 3]
    assert {r["reason"]: r["samples"] for r in store.manifest["refused"]} == {
        "label is not 0 or 1": ["shown.csv line 5: label = 'maybe'"],
        "position is not a number from 1": ["shown.csv line 6: position = 'x'"],
    }
    assert set(store.table("impressions")["source"].to_pylist()) == {"logged"}


def test_impressions_may_know_the_chance_that_they_were_looked_at(tmp_path: Path) -> None:
    chances = ["1", "0.25", "0", "1.5", "often", "", "nan"]
    rows = "".join(f"r1,{'abcdefg'[n]},0,{n + 1},{chance}\n" for n, chance in enumerate(chances))
    shown = write(tmp_path / "shown.csv", f"request,item,label,position,Propensity\n{rows}")
    log = write(tmp_path / "log.csv", f"user,item,time,request\nu,a,{DAY},r1\n")
    store = store_of(read(Table(events=log, impressions=shown)), tmp_path)
    found = store.table("impressions").to_pylist()
    assert [(store.item_ids[r["item"]], r["propensity"]) for r in found] == [("a", 1.0), ("b", 0.25)]
    (refused,) = store.manifest["refused"]
    assert (refused["reason"], refused["count"]) == ("propensity is no chance", 5)
    assert refused["samples"][0] == "shown.csv line 4: propensity = '0'"


def test_an_impression_without_any_time_is_refused(tmp_path: Path) -> None:
    shown = write(tmp_path / "shown.csv", "request,item,label\nr1,a,1\nr2,b,0\n")
    log = write(tmp_path / "log.csv", f"user,item,time,request\nu,a,{DAY},r1\n")
    store = store_of(read(Table(events=log, impressions=shown)), tmp_path)
    assert store.num_requests == 1
    assert store.request_ts_ms[1] == DAY * 1000
    assert store.manifest["refused"][0]["samples"] == ["shown.csv line 3"]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_image_paths_become_pictures_and_stay_in_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "a.png").write_bytes(png())
    (folder / "pictures" / "b.png").write_bytes(png()[:30])
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["pictures/a.png", "pictures/b.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "no.png",
             "https://x.org/a.png", ""]  # fmt: skip
    rows = "".join(f"i{n},{p}\n" for n, p in enumerate(paths))
    items = write(folder / "items.csv", "item_id,image\n" + rows)
    events = write(tmp_path / "log.csv", f"user,item,time\nu,i0,{DAY}\n")
    store = store_of(read(Table(events=events, items=items)), tmp_path)
    assert store.table("items")["image"].to_pylist() == [png(), *[None] * 7]
    refused = {r["reason"]: r for r in store.manifest["refused"]}
    assert refused["image is outside the items' folder"]["count"] == 3
    assert refused["image is outside the items' folder"]["samples"][0] == "items.csv line 4: image = '../secret.png'"
    assert refused["image cannot be decoded"]["samples"] == ["items.csv line 3: image = 'pictures/b.png'"]
    assert refused["image file is missing"]["count"] == 1
    assert refused["image is a web address, not a file"]["count"] == 1


def test_image_bytes_and_lists_of_categories_come_from_parquet(tmp_path: Path) -> None:
    items = pa.table(
        {
            "item_id": pa.array([1, 2, 3]),
            "image": pa.array([png(), b"no picture", None]),
            "categories": pa.array([["Home", "Garden"], ["Home"], None]),
            "item": ["x", "y", "z"],
        }
    )
    pq.write_table(items, tmp_path / "items.parquet")
    events = write(tmp_path / "log.csv", f"user,item,time\nu,2,{DAY}\n")
    store = store_of(read(Table(events=events, items=tmp_path / "items.parquet")), tmp_path)
    table = store.table("items")
    assert table["image"].to_pylist() == [png(), None, None]
    assert table["category_path"].to_pylist() == ["Home > Garden", "Home", None]
    assert store.item_category.tolist() == [0, 2, 1, 0]
    assert table["own_item"].to_pylist() == ["x", "y", "z"]  # a column of the user's does not pass for the Store's
    assert store.manifest["refused"][0]["samples"] == ["items.parquet row 2: image = '10 bytes'"]


def test_json_lines_with_lists_and_compression(tmp_path: Path) -> None:
    items = [{"asin": "a", "title": 'Say "hi"', "categories": ["X", "Y"], "price": 3.5}, {"asin": "b"}]
    (tmp_path / "items.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, items)).encode()))
    events = write(tmp_path / "log.jsonl", json.dumps({"uid": 7, "asin": "a", "ts": DAY * 1000}) + "\n")
    store = store_of(read(Table(events=events, items=tmp_path / "items.jsonl.gz")), tmp_path)
    first = store.table("items").to_pylist()[0]
    assert (first["title"], first["category_path"], first["price"]) == ('Say "hi"', "X > Y", "3.5")
    assert store.user_ids == ["", "7"]
    assert store.event_ts_ms.tolist() == [DAY * 1000]


def test_users_without_events_are_left_out_and_said(tmp_path: Path) -> None:
    events = write(tmp_path / "log.csv", f"user,item,time\nv,a,{DAY}\nu,a,{DAY}\nw,a,{DAY}\n")
    users = write(tmp_path / "users.csv", "user_id,age\nu,30\nx,40\nv,50\nu,60\n")
    store = store_of(read(Table(events=events, users=users)), tmp_path)
    assert store.table("users").to_pylist() == [
        {"user": 1, "user_id": "u", "age": "30"},
        {"user": 2, "user_id": "v", "age": "50"},
        {"user": 3, "user_id": "w", "age": None},
    ]
    assert "1 users of the logs are not in the users table; they have no profile." in store.manifest["notes"]
    assert "1 users of the users table did nothing and were left out." in store.manifest["notes"]
    assert store.manifest["refused"][0]["samples"] == ["users.csv line 5: user_id = 'u'"]


def test_items_unknown_to_the_catalogue_are_added_without_text(tmp_path: Path) -> None:
    events = write(tmp_path / "log.csv", f"user,item,time\nu,z,{DAY}\nu,b,{DAY + 1}\nu,y,{DAY + 2}\n")
    items = write(tmp_path / "items.csv", "item_id,title\na,A\nb,B\n")
    store = store_of(read(Table(events=events, items=items)), tmp_path)
    assert store.item_ids == ["", "a", "b", "z", "y"]
    assert store.table("items")["title"].to_pylist() == ["A", "B", None, None]
    assert any(
        n.startswith("2 items of the logs are not in the catalogue (the first: 'z')") for n in store.manifest["notes"]
    )


COLUMNS = {"who": [3, 1, 3], "item": ["a", "b", "c"], "at": [DAY + 2, DAY, DAY + 1]}


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_tables_in_memory_are_taken_as_they_are(make: Any, tmp_path: Path) -> None:
    items = make({"item_id": ["c", "a", "b"], "title": ["C", "A", None]})
    raw = from_tables(make(COLUMNS), items, columns={"user_id": "who", "timestamp": "at"}, name="shop")
    store = store_of(raw, tmp_path)
    assert store.user_ids == ["", "3", "1"]
    assert store.item_ids == ["", "c", "a", "b"]
    assert store.event_item.tolist() == [1, 2, 3]
    assert store.table("items").column_names[:3] == ["item", "item_id", "title"]
    assert len(store.table("items").column_names) == 7  # no index came along
    assert store.name == "shop"


def test_pandas_gaps_do_not_turn_ids_into_floats(tmp_path: Path) -> None:
    events = pd.DataFrame(
        {
            "user": [7, None, 8],
            "item": ["a", "a", None],
            "time": pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03"]),
        }
    )
    store = store_of(from_tables(events), tmp_path)
    assert store.user_ids == ["", "7"]
    assert store.event_ts_ms.tolist() == [DAY * 1000]
    assert {r["reason"]: r["samples"] for r in store.manifest["refused"]} == {
        "user_id is missing": ["events row 2: user_id = None"],
        "item_id is missing": ["events row 3: item_id = None"],
    }


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(DataError, match=r"events: is a dict\. Give a pandas, polars or Arrow table"):
        from_tables({"user": [1]})


@pytest.mark.real_data
def test_the_cut_last_line_of_the_taobao_head_is_reported(data_folder: Path, tmp_path: Path) -> None:
    columns = ("user_id=1", "item_id=2", "action=4", "timestamp=5")
    raw = read(Table(events=data_folder / "taobao/UserBehavior.csv.xz", header=False, columns=columns))
    store = store_of(raw, tmp_path)
    assert store.num_users == 815
    (refused,) = store.manifest["refused"]
    assert refused["samples"] == ["UserBehavior.csv.xz line 84476: '100370,1968385,1875258,pv'"]
