"""Pseudo-queries of category paths; the documents' example of a source."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from penchant.data.prepare import prepare
from penchant.data.sources.raw import category_queries, query_words
from penchant.data.sources.table import Table, from_tables, read
from penchant.errors import DataError
from tests.markdown import Document

QUIET = Console(quiet=True)
DAY = 1_704_067_200  # 2024-01-01, in seconds
EVENTS = pa.table({"user_id": ["u", "u", "v", "v"], "item_id": ["a", "b", "c", "d"], "time": [DAY] * 4})


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("Hair Care > Styling Products > Creams, Gels & Lotions", "hair care styling products creams gels lotions"),
        ("Women's > Women's > women's Eau_de Parfum", "women's eau de parfum"),
        ("Shoes > Shoes for Shoes", "shoes for shoes"),  # only a word that follows itself
        ("Été > Chapeaux 2024", "été chapeaux 2024"),
        (" > & ", None),
    ],
)
def test_a_path_becomes_its_words(path: str, query: str | None) -> None:
    assert query_words(path) == query


@given(st.text())
def test_a_query_is_made_of_itself(path: str) -> None:
    query = query_words(path)
    if query is not None:
        assert query_words(query) == query
        assert query.split(" ") == query.split()


def test_every_event_gets_the_query_of_its_item(tmp_path: Path) -> None:
    items = pa.table({"item_id": ["a", "b", "b", "c"], "categories": ["Wear > Hats", "Tea", "Coffee", None]})
    raw = from_tables(EVENTS, items)
    category_queries(raw)
    store = prepare(raw, tmp_path / "store", console=QUIET)
    texts = ["", *store.table("queries")["text"].to_pylist()]
    assert [texts[q] for q in store.table("events")["query"].to_pylist()] == ["wear hats", "tea", "", ""]
    assert any("1 of 4 items have no category" in note for note in store.manifest["notes"])


def test_category_alone_is_a_path_of_one_level() -> None:
    raw = from_tables(EVENTS, pa.table({"item_id": ["a"], "category": ["Tea pots"]}))
    category_queries(raw)
    rows = raw.work.rows(f"SELECT item_id, query FROM {raw.events} ORDER BY row")
    assert rows == [("a", "tea pots"), ("b", None), ("c", None), ("d", None)]


SHOWN = pa.table({"request_id": ["r"], "item_id": ["a"], "label": [1], "user_id": ["u"]})


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "no item has a category"),
        ({"items": pa.table({"item_id": ["a"], "category": pa.nulls(1, pa.string())})}, "no item has a category"),
        ({"events": EVENTS.append_column("query", EVENTS["item_id"])}, "the events have queries of their own"),
        ({"impressions": SHOWN}, "impressions were given"),
    ],
)
def test_without_categories_or_beside_what_was_really_asked_it_is_refused(
    tables: dict[str, pa.Table], message: str
) -> None:
    with pytest.raises(DataError, match=f"--category-queries: {message}"):
        category_queries(from_tables(**{"events": EVENTS, **tables}))


def test_a_table_has_the_option(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"user,item,time\nu,a,{DAY}\n")
    (tmp_path / "items.csv").write_text("item,categories\na,Wear > Hats\n")
    options = Table(events=tmp_path / "log.csv", items=tmp_path / "items.csv", category_queries=True)
    store = prepare(read(options), tmp_path / "store", console=QUIET)
    assert store.table("queries")["text"].to_pylist() == ["wear hats"]


def test_the_documents_example_of_a_source_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Document.read(Path(__file__).parents[3] / "docs" / "data.md")
    (code,) = [code for language, code in page.blocks if language == "python"]
    (tmp_path / "loans.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    source = import_module("loans")
    (tmp_path / "loans.txt").write_text("ann;7;A1;2024-05-01\nbob;7\nbob;8;B2;2024-05-02\n")
    store = prepare(source.read(source.Loans(tmp_path / "loans.txt")), tmp_path / "store", console=QUIET)
    assert store.item_ids == ["", "7", "8"]
    assert store.table("items")["category_path"].to_pylist() == ["A1", "B2"]
    assert store.table("events")["action"].to_pylist() == ["borrow", "borrow"]
    assert store.manifest["refused"][0]["samples"] == ["loans.txt line 2: 'bob;7'"]
