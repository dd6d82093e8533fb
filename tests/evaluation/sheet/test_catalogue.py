"""Spreads, categories, queries and impressions are those of plain loops."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.data.store import Store
from penchant.evaluation.sheet.catalogue import (
    actions,
    categories,
    category_names,
    content,
    impressions,
    queries,
    spread,
)
from tests.evaluation.sheet.stores import small_store


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_a_spread_is_that_of_its_definition(counts: list[int]) -> None:
    found = spread(np.array(counts))
    some = sorted((count for count in counts if count), reverse=True)
    n = len(some)
    assert (found.total, found.different, found.never) == (sum(some), n, len(counts) - n)
    if some:
        differences = sum(abs(a - b) for a in some for b in some)
        assert found.gini == pytest.approx(differences / (2 * n * sum(some)))
        assert found.top10 == pytest.approx(sum(some[: math.ceil(n / 10)]) / sum(some))
        assert found.curve[0] == (1, some[0])
        assert found.curve[-1] == (n, some[-1])
        assert all(some[rank - 1] == count for rank, count in found.curve)


def test_content_is_what_the_table_holds(store: Store) -> None:
    table = store.table("items").to_pylist()
    assert content(store) == {
        "title": sum(bool(row["title"]) for row in table),
        "text": sum(bool(row["text"]) for row in table),
        "picture": sum(row["image"] is not None for row in table),
    }


def test_categories_are_named_by_their_path_and_weighed_by_events(store: Store) -> None:
    counts = np.bincount(store.event_item, minlength=store.num_items + 1)
    found = categories(store, counts, category_names(store))
    assert found is not None
    weights = Counter(f"all > kind {store.item_category[item]}" for item in store.event_item.tolist())
    shares = [n / store.num_events for n in weights.values()]
    assert {name: share for name, share, _ in found.top} == pytest.approx(
        {name: n / store.num_events for name, n in weights.items()}
    )
    assert found.entropy == pytest.approx(-sum(share * math.log2(share) for share in shares))
    assert sum(share for _, _, share in found.top) == pytest.approx(1)
    assert found.items_without == 0


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store", [(1, 1, 0), (1, 2, 1)], num_items=2)
    assert categories(store, np.array([0, 1, 1]), category_names(store)) is None
    assert queries(store, np.array([2])) is None
    assert impressions(store) is None
    assert content(store) == {"title": 0, "text": 0, "picture": 0}


def test_impressions_are_counted_as_by_a_loop(store: Store) -> None:
    found = impressions(store)
    table = store.table("impressions").to_pylist()
    shown = Counter(row["position"] for row in table)
    clicked = Counter(row["position"] for row in table if row["label"])
    assert found is not None
    assert found.positions == tuple((p, shown[p], pytest.approx(clicked[p] / shown[p])) for p in sorted(shown))
    assert found.sources == {"synthetic": sum(1 - row["label"] for row in table)}
    assert found.clicked == pytest.approx(clicked.total() / len(table))
    assert found.lengths == (10, 10, 10, 10, 10)
    assert found.without_click == found.anonymous == 0


def test_uses_of_a_query_are_events_and_requests(store: Store) -> None:
    found = queries(store, np.array([5, 7]))
    asked = int((store.request_query[1:] == 1).sum())
    assert found is not None
    assert found.top == (("red thing", 7 + asked),)
    assert found.words == 2


def test_actions_are_counted(store: Store) -> None:
    assert actions(store) == {"click": store.num_events}
