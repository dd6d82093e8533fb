"""Overlap of terms and GAUC of vectors, each against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.history import Requests, requests_before_times
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.evaluation.diagnostics.meaning import item_terms, js_at, shown_gauc, terms_of
from tests.factories import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("meaning") / "store")


def test_terms_are_words_without_the_common_ones_and_pairs_where_there_are_no_spaces() -> None:
    assert terms_of("The Return of the King (2003), the return") == {"return", "king", "2003"}
    assert terms_of("羊毛围巾 wool") == {"羊毛", "毛围", "围巾", "wool"}
    assert terms_of("of the_and -- ") == set()


def test_an_items_terms_are_those_of_title_and_category(store: Store) -> None:
    terms = item_terms(store)
    table = store.table("items", ["title", "category_path"]).to_pylist()
    said = [terms_of(f"{row['title']} {row['category_path']}") for row in table]
    left, numbers = set().union(*said), np.unique(terms[terms > 0])
    for number in numbers:
        # A number is a word that exactly the items with that number say.
        told = (terms[1:] == number).any(1).tolist()
        left.remove(next(word for word in sorted(left) if [word in words for words in said] == told))
    assert not left
    assert [(row > 0).sum() for row in terms[1:]] == [len(words) for words in said]
    assert not terms[0].any()


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 7))
def test_js_is_the_mean_jaccard_overlap(seed: int, targets: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    sets = [set()] + [set((1 + rng.permutation(9)[: rng.integers(0, 5)]).tolist()) for _ in range(12)]
    terms = np.zeros((13, 5), dtype=np.int32)
    for item, row in enumerate(sets):
        terms[item, : len(row)] = sorted(row)
    lists = np.stack([rng.permutation(13)[:depth] for _ in range(targets)]).astype(np.int32)
    wanted = rng.integers(1, 13, targets).astype(np.int32)
    whole, others = js_at(lists, wanted, terms)
    for row, target in enumerate(wanted):
        overlap = [len(sets[target] & sets[i]) / max(len(sets[target] | sets[i]), 1) if i else 0.0 for i in lists[row]]
        rest = [o for o, i in zip(overlap, lists[row], strict=True) if i and i != target]
        assert whole[row] == pytest.approx(np.mean(overlap))
        assert others[row] == pytest.approx(np.mean(rest) if rest else 0.0)


class Liking:
    """h and e are such that h . e_i is a fixed random number of (user's last action, item)."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        torch.manual_seed(0)
        self.table = torch.randn(num_items + 1, 6)
        self.queries: list[str] = []

    def item_vectors(self) -> torch.Tensor:
        return self.table

    def user_vectors(self, requests: Requests) -> torch.Tensor:
        last = requests.history.gather(1, (requests.lengths - 1).clamp(min=0)[:, None])[:, 0]
        return self.table[last].roll(1, 1) * (requests.lengths > 0)[:, None]


class Module(torch.nn.Module):
    def __init__(self, inner: Liking) -> None:
        super().__init__()
        self.item_vectors, self.user_vectors = inner.item_vectors, inner.user_vectors


@pytest.mark.parametrize("most", [10_000, 7])
def test_gauc_of_vectors_is_that_of_dot_products_request_by_request(store: Store, most: int) -> None:
    split, model = load_split(store, "temporal-successive"), Liking(store.num_items)
    found = shown_gauc(Module(model), store, split, "test", max_len=50, requests=most)
    groups = found.groups[found.impressions > 0]
    aucs, weights = [], []
    for request in groups:
        rows = np.arange(int(store.request_indptr[request - 1]), int(store.request_indptr[request]))
        user, at = (np.array([array[request]]) for array in (store.request_user, store.request_ts_ms))
        vector = model.user_vectors(requests_before_times(store, user.astype(np.int64), at, 50))[0]
        scores = [float(vector @ model.table[i]) for i in store.impression_item[rows]]
        labels = store.impression_label[rows] > 0
        pairs = [
            np.sign(a - b) / 2 + 0.5
            for a, x in zip(scores, labels, strict=True)
            if x
            for b, y in zip(scores, labels, strict=True)
            if not y
        ]
        aucs.append(np.mean(pairs))
        weights.append(len(rows))
    assert len(groups) == min(most, len(groups)) > 0
    assert found.value == pytest.approx(np.average(aucs, weights=weights), abs=1e-5)
