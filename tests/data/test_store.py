"""The Store: what is written is what is read, damage is named, and the same content has the same fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penchant.data.split import load_split
from penchant.data.store import ContentVectors, Store, cache_root, write_text
from penchant.data.writer import write_store
from penchant.errors import StoreError
from tests.factories import give_vectors, make_store


def tables(store: Store) -> dict[str, pa.Table]:
    return {k: store.table(k) for k in ("items", "users", "events", "impressions", "queries")}


def rewrite(store: Store, out: Path, **changed: pa.Table) -> Store:
    return write_store(out, name="again", **{**tables(store), **changed})


def test_arrays_say_what_the_tables_say(store: Store) -> None:
    events, shown = store.table("events"), store.table("impressions")
    assert np.array_equal(store.event_user, events["user"].to_numpy())
    assert np.array_equal(store.event_item, events["item"].to_numpy())
    assert np.array_equal(store.event_ts_ms, events["ts_ms"].to_numpy())
    assert np.array_equal(store.impression_item, shown["item"].to_numpy())
    for request in (1, store.num_requests):
        start, stop = store.request_indptr[request - 1 : request + 1]
        assert set(shown["request"].to_numpy()[start:stop]) == {request}
        assert store.request_user[request] == shown["user"][int(start)].as_py()
    assert store.num_items == store.table("items").num_rows
    assert store.item_ids[3] == "i3"
    assert store.user_ids[0] == ""


def test_queries_are_told_by_their_number(searched: Store) -> None:
    told = {row["query"]: row["text"] for row in searched.table("queries").to_pylist()}
    assert searched.query_texts == ["", *(told[q] for q in range(1, searched.num_queries + 1))]
    assert len(searched.query_texts) > 10


def test_the_same_content_has_the_same_fingerprint(store: Store, tmp_path: Path) -> None:
    assert make_store(tmp_path / "a").fingerprint == store.fingerprint
    assert make_store(tmp_path / "b", seed=1).fingerprint != store.fingerprint
    assert rewrite(store, tmp_path / "c").fingerprint == store.fingerprint  # its name is no content


@pytest.mark.parametrize(("table", "column"), [("items", "title"), ("users", "user_id"), ("queries", "text")])
def test_another_text_is_another_store(table: str, column: str, store: Store, tmp_path: Path) -> None:
    old = store.table(table)
    values = ["changed", *old[column].to_pylist()[1:]]
    new = old.set_column(old.column_names.index(column), column, pa.array(values, pa.string()))
    assert rewrite(store, tmp_path / "x", **{table: new}).fingerprint != store.fingerprint


def test_what_the_fingerprint_does_not_cover_is_what_the_docstring_says(store: Store, tmp_path: Path) -> None:
    """Results are filed under fingerprints: what they cover must not change by accident."""
    n = store.num_items
    items = store.table("items").drop_columns(["image", "category_path"]).append_column("brand", pa.array(["b"] * n))
    users = store.table("users").append_column("age", pa.array([30] * store.num_users))
    events = store.table("events").drop_columns(["action", "request"])
    events = events.append_column("action", pa.array(["other"] * store.num_events))
    events = events.append_column("request", pa.array([0] * store.num_events))
    shown = store.table("impressions").drop_columns(["position", "source"])
    shown = shown.append_column("position", pa.array([0] * len(shown)))
    shown = shown.append_column("source", pa.array(["random"] * len(shown)))
    changed = {"items": items, "users": users, "events": events, "impressions": shown}
    for name, table in changed.items():
        assert rewrite(store, tmp_path / name, **{name: table}).fingerprint == store.fingerprint


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    store.verify()
    file = store.path / "arrays" / "event_item.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"event_item\.npy: its bytes are not those that were written"):
        Store(store.path).verify()
    file.write_bytes(content[:-1])
    with pytest.raises(StoreError, match=r"event_item\.npy: missing or cut short"):
        Store(store.path)
    file.unlink()
    with pytest.raises(StoreError, match=r"event_item\.npy: missing or cut short"):
        Store(store.path)


@pytest.mark.parametrize("damage", [lambda content: content[:-40], lambda content: b"\xff" + content, lambda _: b"[]"])
def test_a_damaged_manifest_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    give_vectors(store)
    opens: dict[str, Callable[[], object]] = {
        "vectors/text/manifest.json": lambda: store.vectors("text"),
        "splits/loo.json": lambda: load_split(store, "loo"),
        "manifest.json": lambda: Store(store.path),
    }
    for name, opened in opens.items():
        file = store.path / name
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(StoreError, match=rf"{name}: damaged or cut short \(.*\)\. \w+ .*"):
            opened()


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    manifest = json.loads((store.path / "manifest.json").read_text())
    (store.path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(StoreError, match="Store format 99, this version reads 1"):
        Store(store.path)
    with pytest.raises(StoreError, match="no Store here"):
        Store(tmp_path)


def swap(table: pa.Table, rows: list[int]) -> pa.Table:
    order = np.arange(table.num_rows)
    order[rows] = order[rows[::-1]]
    return table.take(pa.array(order))


def test_unsorted_or_sparse_tables_are_the_programmers_mistake(store: Store, tmp_path: Path) -> None:
    first = int(store.user_indptr[1])
    for name, table, message in (
        ("events", swap(store.table("events"), [first, first + 1]), "not sorted by"),
        ("items", store.table("items").slice(1), "item must run 1"),
        ("users", store.table("users").slice(0, 5), "user or item is not in its table"),
        ("impressions", store.table("impressions").slice(10), "not grouped by request"),
        ("events", store.table("events").drop_columns(["action"]), "table events lacks column action"),
    ):
        with pytest.raises(ValueError, match=message):
            rewrite(store, tmp_path / "x", **{name: table})
        assert list(tmp_path.iterdir()) == []


def test_a_store_is_never_written_over(store: Store) -> None:
    with pytest.raises(StoreError, match="already exists"):
        rewrite(store, store.path)


def test_columns_of_the_sources_own_are_kept_last(store: Store, tmp_path: Path) -> None:
    items = store.table("items").add_column(0, "brand", pa.array(["b"] * store.num_items))
    again = rewrite(store, tmp_path / "x", items=items)
    assert again.table("items").column_names == [*store.table("items").column_names, "brand"]


def test_missing_vectors_say_how_to_make_them(store: Store) -> None:
    with pytest.raises(StoreError, match=r"no content vectors named 'smell', there are .*penchant encode"):
        store.vectors("smell")


def test_vectors_are_standardised_over_the_items_that_have_content() -> None:
    rng = np.random.default_rng(0)
    values = (100 + 3 * rng.standard_normal((50, 4))).astype(np.float16)
    values[:, 3] = 0.1  # all alike
    present = np.arange(50) % 5 > 0
    values[~present] = 0
    out = ContentVectors(values, present, "", "", "").standardised()
    known = values[present, :3].astype(np.float64)
    np.testing.assert_allclose(out[present, :3], (known - known.mean(0)) / known.std(0), rtol=1e-4, atol=1e-5)
    assert out.dtype == np.float32
    assert not out[~present].any()
    assert not out[:, 3].any()
    assert not ContentVectors(values, np.zeros(50, dtype=bool), "", "", "").standardised().any()


def test_the_cache_is_where_the_setting_says_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "here"))
    assert cache_root() == tmp_path / "here"
    monkeypatch.setenv("PENCHANT_CACHE", "~/there")
    assert cache_root() == Path.home() / "there"
    monkeypatch.delenv("PENCHANT_CACHE")
    assert cache_root() == Path.home() / ".cache" / "penchant"


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    write_text(path, "old – line\n")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new " * 100_000 + "\ud800")
    assert path.read_bytes() == "old – line\n".encode()
    assert list(tmp_path.iterdir()) == [path]
