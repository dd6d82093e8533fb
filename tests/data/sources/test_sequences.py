"""Sequences: a line a user, with gaps, ids and metadata; the real Beauty and Yelp where they are at hand."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from penchant.data.prepare import prepare
from penchant.data.sources.sequences import Sequences, read
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import DataError

QUIET = Console(quiet=True)


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def store_of(folder: Path, lines: str, **options: Any) -> Store:
    folder.mkdir(exist_ok=True)
    path = write(folder / "sequences.txt", lines)
    for key in ("gaps", "ids", "items"):
        if key in options:
            options[key] = write(folder / f"{key}.json", options[key])
    return prepare(read(Sequences(path, **options)), folder / "store", console=QUIET)


def histories(store: Store) -> dict[str, list[str]]:
    ends = store.user_indptr
    return {
        user: [store.item_ids[i] for i in store.event_item[ends[u] : ends[u + 1]]]
        for u, user in enumerate(store.user_ids[1:], 1)
    }


def refused(store: Store) -> dict[str, list[str]]:
    return {r["reason"]: r["samples"] for r in store.manifest["refused"]}


words = st.text("abc19-é", min_size=1, max_size=3)


@settings(deadline=None, max_examples=6)
@given(st.dictionaries(words, st.lists(words, min_size=1, max_size=5), min_size=1, max_size=6))
def test_every_line_is_a_users_history(tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, list[str]]) -> None:
    text = "\n\n".join(f" {user}\t{'  '.join(items)} " for user, items in wanted.items())
    store = store_of(tmp_path_factory.mktemp("lines"), text)
    assert histories(store) == wanted
    assert store.manifest["refused"] == []


def test_there_is_an_order_and_no_time(tmp_path: Path) -> None:
    store = store_of(tmp_path / "shop", "1 5 6 7\n2 6 5 6 9\n")
    assert store.name == "shop"
    assert not store.has_time
    assert [p.stem for p in store.path.glob("splits/*.json")] == ["loo"]
    split = load_split(store, "loo")
    assert [store.item_ids[i] for i in store.event_item[split.targets("test")]] == ["7", "9"]


def test_a_user_twice_and_a_user_without_items_are_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, "1 5 6\n2\n1 7 8 9\n3 5\n")
    assert histories(store) == {"1": ["5", "6"], "3": ["5"]}
    assert refused(store) == {
        "a user without items": ["sequences.txt line 2: user_id = '2'"],
        "a user is listed twice": ["sequences.txt line 3: user_id = '1'"],
    }


def test_gaps_become_time_since_a_users_first_event(tmp_path: Path) -> None:
    store = store_of(tmp_path, "1 5 6 7\n2 6 5\n", gaps="2  6 5\t99 0\n1 5 6 7\t0 86400 60\n")
    assert store.event_ts_ms.tolist() == [0, 86_400_000, 86_460_000, 0, 0]
    assert not store.has_time
    assert store.manifest["refused"] == []
    assert [p.stem for p in store.path.glob("splits/*.json")] == ["loo"]


def test_gaps_of_another_log_are_refused_user_by_user(tmp_path: Path) -> None:
    lines = "1 5 6\n2 5 6\n3 5 6\n4 5 6\n5 5 6\n6 5 6\n"
    gaps = "1 5 6\t0 1\n2 5 7\t0 1\n3 5 6\t0\n4 5 6\t0 -1\n5 5 6\t0 soon\n"
    store = store_of(tmp_path, lines, gaps=gaps)
    assert store.user_ids == ["", "1"]
    assert refused(store) == {
        "a user without gaps for these items": [f"sequences.txt line {n}: user_id = '{n}'" for n in (2, 6)],
        "gaps are not one number of seconds an item": [
            "sequences.txt line 3: gaps = '[0]'",
            "sequences.txt line 4: gaps = '[0, -1]'",
            "sequences.txt line 5: gaps = '[0, NULL]'",
        ],
    }


@pytest.mark.parametrize(
    ("ids", "users"),
    [
        ({"5": "B5", "6": "B6"}, ["", "1", "2"]),
        ({"id2item": {"5": "B5", "6": "B6"}, "id2user": {"1": "A1"}}, ["", "A1"]),
    ],
)
def test_the_shops_own_ids_take_the_place_of_numbers(ids: dict, users: list[str], tmp_path: Path) -> None:
    store = store_of(tmp_path, "1 5 6 x\n2 6\n", ids=ids, items={"B6": ["Tea"], "B5": ["Cups"]})
    assert store.user_ids == users
    assert store.item_ids == ["", "B6", "B5"]
    assert refused(store)["item is not in ids.json"] == ["sequences.txt line 1: item = 'x'"]
    if len(users) == 2:
        assert refused(store)["user is not in ids.json"] == ["sequences.txt line 2: user = '2'"]


def test_category_words_become_a_path_and_text(tmp_path: Path) -> None:
    items = {
        "1": ["Tea", "Green"],
        "2": ["L&#39;Or", "Tea", "Black"],
        "3": ["Tea", "Tea"],  # a word again is no brand
        "4": [],
    }
    store = store_of(tmp_path, "u 1 2 3 4 5\n", items=items, brand_first=True, category_queries=True)
    table = store.table("items")
    assert table["category_path"].to_pylist() == ["Tea > Green", "Tea > Black", "Tea > Tea", None, None]
    assert table["text"].to_pylist() == ["Tea, Green", "L'Or, Tea, Black", "Tea, Tea", None, None]
    assert table["brand"].to_pylist() == [None, "L'Or", None, None, None]
    assert store.table("queries")["text"].to_pylist() == ["tea", "tea black", "tea green"]
    assert any("1 items of the logs are not in the catalogue (the first: '5')" in n for n in store.manifest["notes"])


def test_keys_may_count_from_zero(tmp_path: Path) -> None:
    items = {"0": {"title": "One", "description": "D"}, "1": {"title": "Two", "categories": ["A", "B"]}}
    store = store_of(tmp_path, "u 1 2\n", items=items, first_key=0)
    table = store.table("items")
    assert store.item_ids == ["", "1", "2"]
    assert table["title"].to_pylist() == ["One", "Two"]
    assert table["text"].to_pylist() == ["D", None]
    assert table["category_path"].to_pylist() == [None, "A > B"]


def test_tags_are_ordered_by_how_common_they_are_and_small_combinations_folded(tmp_path: Path) -> None:
    tags = ["Food, Tea"] * 10 + ["Tea, Food"] * 10 + ["Food"] * 5 + ["Tea, Food, Cups", "Bikes", ""]
    items = {str(i): {"title": "x", "tags": t} for i, t in enumerate(tags)}
    store = store_of(tmp_path, "u 1\n", items=items, tags="tags")
    paths = store.table("items")["category_path"].to_pylist()
    assert paths == ["Food > Tea"] * 20 + ["Food"] * 5 + ["Food > Tea > Cups", "Bikes", None]
    category = np.asarray(store.item_category)[1:].tolist()
    assert category == [3] * 20 + [2] * 5 + [3, 1, 0]  # Bikes, Food, Food > Tea


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"items": {"1": 7}}, r"items\.json: item '1' is 7\. An item is a list of category words"),
        ({"items": ["a"]}, r"items\.json: holds a JSON list"),
        ({"items": "{"}, r"items\.json: cannot be read as JSON"),
        ({"items": {"a": []}, "first_key": 0}, r"items\.json: key 'a' is no whole number"),
        ({"items": {"1": {"a": 1}}, "tags": "b"}, r"--tags: no item has 'b'\. .*items\.json has: a\."),
        ({"ids": {"1": 7}}, r"ids\.json: does not give every item an id as text"),
        ({"ids": {"1": "B"}, "first_key": 0}, r"--first-key: --ids says what each item is called"),
        ({"category_queries": True}, r"--category-queries: no item has a category"),
    ],
)
def test_a_file_that_is_not_what_its_option_says_is_one_line(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as error:
        store_of(tmp_path, "1 1\n", **options)
    assert "\n" not in str(error.value)


@pytest.mark.real_data
def test_the_real_beauty_is_read_whole(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "beauty"
    options = Sequences(
        folder / "sequences.txt.xz",
        gaps=folder / "time_gaps.txt.xz",
        ids=folder / "datamaps.json.xz",
        items=folder / "categories_by_asin.json.xz",
        brand_first=True,
        category_queries=True,
    )
    store = prepare(read(options), tmp_path / "store", console=QUIET)
    assert (store.name, store.num_users, store.num_items, store.num_events) == ("beauty", 22_363, 12_101, 198_502)
    assert store.manifest["refused"] == []
    with lzma.open(folder / "time_gaps.txt.xz", "rt") as file:
        gaps = [[int(g) for g in line.split("\t")[1].split()] for line in file]
    assert np.diff(store.event_ts_ms)[: len(gaps[0]) - 1].tolist() == [1000 * g for g in gaps[0][1:]]
    assert int(np.asarray(store.event_ts_ms)[store.user_indptr[2:] - 1].sum()) == 1000 * sum(sum(g[1:]) for g in gaps)
    assert store.table("items")["category_path"].null_count == 0


@pytest.mark.real_data
def test_the_real_yelp_is_read_whole(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "yelp"
    options = Sequences(folder / "sequences.txt.xz", items=folder / "items.json.xz", first_key=0, tags="description")
    store = prepare(read(options), tmp_path / "store", console=QUIET)
    assert (store.name, store.num_users, store.num_items, store.num_events) == ("yelp", 30_431, 20_033, 316_354)
    assert store.manifest["refused"] == []
    assert store.table("items")["title"].null_count == 0
