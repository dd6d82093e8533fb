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


def test_columns_that_are_missed_are_noted_where_others_may_be_meant(tmp_path: Path) -> None:
    events = write(tmp_path / "log.csv", f"user,item,time,art\nu,a,{DAY},kauf\n")
    items = write(tmp_path / "items.csv", "item,warengruppe,bezeichnung\na,Brot,Fein\n")
    columns = "(it has: item, warengruppe, bezeichnung)"
    fix = "If one of them is meant, map it: --columns"
    missed = [
        f"log.csv has no action column (it has: user, item, time, art): every event is a click. {fix} action=COLUMN.",
        f"items.csv has no title column {columns}: ids are shown instead. {fix} title=COLUMN.",
        f"items.csv has no category column {columns}: no ULIM, and no features of categories. {fix} category=COLUMN.",
    ]
    assert [note for note in read(Table(events=events, items=items)).notes if "has no" in note] == missed
    mapped = ("title=bezeichnung", "category=warengruppe", "action=art")
    assert not [n for n in read(Table(events=events, items=items, columns=mapped)).notes if "has no" in n]
    plain = write(tmp_path / "plain.csv", f"user,item,time\nu,a,{DAY}\n")  # nothing there that could be meant
    assert not [n for n in read(Table(events=plain)).notes if "has no" in n]


def test_a_column_that_is_almost_numbers_is_noted(tmp_path: Path) -> None:
    rows = ["a;5,50 €;Brot;x1;007", "b;n/a;3 Käse;x2;12", "c;;Wein;x3;3", "d;12;Öl;4;4", "e;-3,5;;x5;"]
    items = write(tmp_path / "items.csv", "item;preis;sorte;regal;code\n" + "".join(f"{row}\n" for row in rows))
    notes = read(Table(events=write(tmp_path / "log.csv", f"user,item,time\nu,a,{DAY}\n"), items=items)).notes
    assert [n for n in notes if "as text" in n] == [
        "items.csv: kept as text: preis (the first that is no number: '5,50 €'); code (the first that is no number: "
        "'007'). Numbers are written as 12.50, and left empty where there are none."
    ]


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


@pytest.mark.parametrize("times", ["", "time"])
def test_a_request_is_of_one_user_and_takes_what_is_missing_from_their_event(times: str, tmp_path: Path) -> None:
    log = f"user,item,time,request,query\nada,a,{DAY},1,red\nbob,b,{DAY + 5},1,blue\nbob,b,{DAY + 9},2,\n"
    rows = [
        ("ada", "a", 1, 1),
        ("ada", "b", 0, 1),
        ("bob", "a", 0, 1),
        ("bob", "b", 1, 1),
        ("", "b", 1, 2),
        ("", "a", 1, 1),
    ]
    at = {"ada": DAY, "bob": DAY + 5, "": DAY + 9}
    shown = f"user,item,label,request{',time' if times else ''}\n" + "".join(
        f"{user},{item},{label},{request}{f',{at[user]}' if times else ''}\n" for user, item, label, request in rows
    )
    events, shown = write(tmp_path / "log.csv", log), write(tmp_path / "shown.csv", shown)
    store = store_of(read(Table(events=events, impressions=shown)), tmp_path)
    asked = [
        (store.user_ids[user], ts // 1000 - DAY, store.query_texts[query])
        for user, ts, query in zip(store.request_user, store.request_ts_ms, store.request_query, strict=True)
    ][1:]
    both = [("ada", 0, "red"), ("bob", 5, "blue"), ("bob", 9, "")]
    assert asked == (
        [*both, ("", 9, "")] if times else both
    )  # two users have a request 1: whose the last row is, none knows
    assert store.table("events")["request"].to_pylist() == [1, 2, 3]
    assert [r["samples"] for r in store.manifest["refused"]] == ([] if times else [["shown.csv line 7"]])


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


def as_bytes(*texts: str | None) -> pa.Array:
    return pa.array([text and text.encode() for text in texts], pa.binary())


@pytest.mark.parametrize("file", [True, False])
def test_text_that_a_file_calls_bytes_is_text(file: bool, tmp_path: Path) -> None:
    log = {
        "user_id": as_bytes("Zoë ", "null", "bob"),
        "item_id": as_bytes("ä", "ä", "b"),
        "time": as_bytes("2024-01-01", "2024-01-01", "2024-01-02"),
        "action": as_bytes("kauf", None, "größe"),
        "query": as_bytes("lámpara", "", "red"),
    }
    items = {
        "item_id": as_bytes("ä", "b"),
        "title": as_bytes("Lámpara", None),
        "categories": pa.array([[b"Haus", "Gärten".encode()], None], pa.list_(pa.binary())),
        "image": pa.array([png(), None]),
        "maker": as_bytes("Müller", ""),
        "hash": pa.array([b"\xff\x00", b"a"]),
    }
    shown = {"request": as_bytes("é"), "item": as_bytes("b"), "clicked": as_bytes("1"), "time": as_bytes("2024-01-02")}
    tables = {"events": pa.table(log), "items": pa.table(items), "impressions": pa.table(shown)}
    if file:
        for name, table in tables.items():
            pq.write_table(table, tmp_path / name)
        raw = read(Table(**{name: tmp_path / name for name in tables}))  # pyright: ignore[reportArgumentType]
    else:
        raw = from_tables(**tables)
    store = store_of(raw, tmp_path)
    assert store.user_ids == ["", "Zoë", "bob"]
    assert store.item_ids == ["", "ä", "b"]
    assert store.query_texts == ["", "lámpara", "red"]
    assert store.table("events")["action"].to_pylist() == ["kauf", "größe"]
    assert store.event_ts_ms.tolist() == [DAY * 1000, (DAY + 86400) * 1000]
    assert store.impression_label.tolist() == [1]
    first, second = store.table("items").to_pylist()
    assert (first["title"], second["title"], first["category_path"]) == ("Lámpara", None, "Haus > Gärten")
    assert (first["image"], first["maker"], first["hash"]) == (png(), "Müller", b"\xff\x00")
    assert [r["reason"] for r in store.manifest["refused"]] == ["user_id is missing"]


def test_bytes_that_are_no_utf8_are_escaped_and_noted(tmp_path: Path) -> None:
    events = pa.table({"user": pa.array([b"\xe4", b"\xf6", b"u"]), "item": ["a"] * 3, "time": [DAY] * 3})
    items = pa.table({"item": ["a", "b"], "title": pa.array([b"Lamp", b"L\xe1mpara"])})
    store = store_of(from_tables(events, items), tmp_path)
    assert store.user_ids == ["", "\\xE4", "\\xF6", "u"]
    assert store.table("items")["title"].to_pylist() == ["Lamp", "L\\xE1mpara"]
    notes = store.manifest["notes"]
    assert "2 values of user are not UTF-8 (the first: events row 1); they were escaped: \\xFF." in notes
    assert "1 values of title are not UTF-8 (the first: items row 2); they were escaped: \\xFF." in notes


def test_levels_come_from_lists_without_their_gaps_and_titles_are_left_alone(tmp_path: Path) -> None:
    rows = [
        {"item": "a", "title": "[2024]", "categories": ["A", None, "B"]},
        {"item": "b", "title": '["x"]', "categories": [None]},
    ]
    events = pa.table({"user": ["u"], "item": ["a"], "time": [DAY]})
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(events, tmp_path / "log.parquet")
    lines = read(Table(events=tmp_path / "log.parquet", items=tmp_path / "items.jsonl"))
    for name, raw in (("lines", lines), ("tables", from_tables(events, pa.Table.from_pylist(rows)))):
        items = prepare(raw, tmp_path / name, console=QUIET).table("items")
        assert items["title"].to_pylist() == ["[2024]", '["x"]']
        assert items["category_path"].to_pylist() == ["A > B", None]


FURTHER = {
    "decimal": (["19.90", "1e-05", "NaN", ".5"], [19.9, 1e-05, None, 0.5]),
    "ean": (["4006381333931", "5", "", ""], [4006381333931, 5, None, None]),
    "infinite": (["1", "inf", "1e999", "3"], ["1", "inf", "1e999", "3"]),
    "long": (["1234567890123456789", "1", "", ""], ["1234567890123456789", "1", None, None]),
    "nothing": (["", "", "", ""], [None] * 4),
    "sign": (["+49", "12", "", "3"], ["+49", "12", None, "3"]),
    "whole": (["12", "-3", "", "0"], [12, -3, None, 0]),
    "words": (["1", "n/a", "", "3"], ["1", "n/a", None, "3"]),
    "zeros": (["007", "12", "", "3"], ["007", "12", None, "3"]),
}
"""Column -> its values in a file of text, and what is kept."""


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl"])
def test_further_columns_of_text_are_numbers_if_every_value_is_one(name: str, tmp_path: Path) -> None:
    columns = {"item_id": list("abcd"), **{key: given for key, (given, _) in FURTHER.items()}}
    table = pd.DataFrame(columns)
    if name == "items.csv":
        table.to_csv(tmp_path / name, index=False)
    else:
        table.to_json(tmp_path / name, orient="records", lines=True)
    events = write(tmp_path / "log.csv", f"user,item,time\nu,a,{DAY}\n")
    store = store_of(read(Table(events=events, items=tmp_path / name)), tmp_path)
    kept = store.table("items").to_pydict()
    for key, (_, expected) in FURTHER.items():
        assert [None if value == "" else value for value in kept[key]] == expected
    assert f"{name}: took decimal, ean, whole as numbers." in store.manifest["notes"]


def test_json_lines_with_lists_and_compression(tmp_path: Path) -> None:
    items = [{"asin": "a", "title": 'Say "hi"', "categories": ["X", "Y"], "price": 3.5}, {"asin": "b"}]
    (tmp_path / "items.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, items)).encode()))
    events = write(tmp_path / "log.jsonl", json.dumps({"uid": 7, "asin": "a", "ts": DAY * 1000}) + "\n")
    store = store_of(read(Table(events=events, items=tmp_path / "items.jsonl.gz")), tmp_path)
    first = store.table("items").to_pylist()[0]
    assert (first["title"], first["category_path"], first["price"]) == ('Say "hi"', "X > Y", 3.5)
    assert store.user_ids == ["", "7"]
    assert store.event_ts_ms.tolist() == [DAY * 1000]


def test_users_without_events_are_left_out_and_said(tmp_path: Path) -> None:
    events = write(tmp_path / "log.csv", f"user,item,time\nv,a,{DAY}\nu,a,{DAY}\nw,a,{DAY}\n")
    users = write(tmp_path / "users.csv", "user_id,age\nu,30\nx,40\nv,50\nu,60\n")
    store = store_of(read(Table(events=events, users=users)), tmp_path)
    assert store.table("users").to_pylist() == [
        {"user": 1, "user_id": "u", "age": 30},
        {"user": 2, "user_id": "v", "age": 50},
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


@pytest.mark.parametrize("kind", ["object", pd.StringDtype("python")])
def test_half_letters_of_pandas_are_escaped_and_counted(kind: Any, tmp_path: Path) -> None:
    users = pd.Series(["\ud800", "\udcff", None, "u"], dtype=kind)
    events = pd.DataFrame({"user": users, "item": ["a"] * 4, "time": [DAY] * 4})
    store = store_of(from_tables(events), tmp_path)
    assert store.user_ids == ["", "\\ud800", "\\udcff", "u"]
    assert any(note.startswith("events: 2 values have half a letter") for note in store.manifest["notes"])
    assert [r["count"] for r in store.manifest["refused"]] == [1]
    assert users.tolist()[0] == "\ud800"  # the user's own table is left alone


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
