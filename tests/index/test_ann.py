"""Approximate search beside exact search."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from penchant.errors import ConfigError
from penchant.index.ann import LIST_ITEMS, AnnIndex
from penchant.index.base import Index
from penchant.index.category import CategoryIndex
from penchant.index.exact import ExactIndex

ITEMS, WIDTH = 20 * LIST_ITEMS, 8


def clustered(rows: int, seed: int) -> torch.Tensor:
    """Vectors around 50 points, the same for every seed."""
    centres = np.random.default_rng(0).normal(size=(50, WIDTH))
    rng = np.random.default_rng(seed)
    found = centres[rng.integers(0, 50, rows)] + rng.normal(size=(rows, WIDTH)) / 3
    return torch.from_numpy(found.astype(np.float32))


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    return clustered(ITEMS + 1, seed=1)


@pytest.fixture(scope="module")
def ann(vectors: torch.Tensor) -> AnnIndex:
    pytest.importorskip("faiss", reason='faiss is not installed: pip install "penchant[ann]"')
    return AnnIndex(vectors, probes=6)


def recall(found: torch.Tensor, exact: torch.Tensor) -> float:
    return sum(len({*f} & {*e}) for f, e in zip(found.tolist(), exact.tolist(), strict=True)) / exact.numel()


def test_it_finds_most_of_what_exact_search_finds(ann: AnnIndex, vectors: torch.Tensor) -> None:
    query = clustered(32, seed=2)
    items, scores = ann.search(query, 50)
    assert recall(items, ExactIndex(vectors).search(query, 50)[0]) > 0.8
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    torch.testing.assert_close(scores, (query[:, None] * vectors[items]).sum(2))


def test_compared_with_every_list_it_is_exact_filters_and_ties_included(vectors: torch.Tensor) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(3)
    whole = torch.from_numpy(rng.integers(-2, 3, (600, 3)).astype(np.float32))  # two lists, and many equal vectors
    query = torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32))
    ann, exact = AnnIndex(whole, probes=2), ExactIndex(whole)
    exclude = torch.from_numpy(rng.integers(0, 600, (4, 40)))
    available = torch.from_numpy(rng.random(600) < 0.5)
    for seen in (None, exclude, exclude[:, :0]):
        for allowed in (None, available):
            # All of them, so that no tie is cut.
            found = ann.search(query, 599, exclude=seen, available=allowed)
            expected = exact.search(query, 599, exclude=seen, available=allowed)
            assert (found[0] > 0).sum(1).tolist() == (expected[0] > 0).sum(1).tolist()
            torch.testing.assert_close(found[1], expected[1])


def test_filters_leave_lists_full(ann: AnnIndex) -> None:
    query = clustered(3, seed=4)
    best, _ = ann.search(query, 30)
    seen, _ = ann.search(query, 30, exclude=best[:, :20])
    assert seen[:, :10].tolist() == best[:, 20:].tolist()
    assert (seen > 0).all()
    available = torch.ones(ITEMS + 1, dtype=torch.bool)
    available[best.flatten()] = False
    left, _ = ann.search(query, 30, available=available)
    assert (left > 0).all()
    assert not torch.isin(left, best).any()


def test_it_searches_the_whole_corpus_of_a_category_index(vectors: torch.Tensor) -> None:
    pytest.importorskip("faiss")
    categories = torch.arange(ITEMS + 1) % 7
    index: Index = CategoryIndex(vectors, categories, whole=AnnIndex, added_rows=2)
    assert not index.is_exact
    query = clustered(4, seed=5)
    index.remove(index.search(query, 10)[0].flatten().unique())
    index.add(torch.tensor([ITEMS + 1]), 100 * query[:1], torch.tensor([3]))
    kept = index.search(query, 10)
    assert kept[0][0, 0] == ITEMS + 1
    index.fold()
    assert recall(index.search(query, 10)[0], kept[0]) > 0.8


def test_many_threads_get_the_answers_of_one(ann: AnnIndex) -> None:
    queries = clustered(64, seed=6).split(1)
    available = torch.arange(ITEMS + 1) % 3 > 0
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda q: ann.search(q, 20, available=available)[0].tolist(), queries))
    assert found == [ann.search(q, 20, available=available)[0].tolist() for q in queries]


def test_building_twice_gives_the_same_answers(ann: AnnIndex, vectors: torch.Tensor) -> None:
    query = clustered(8, seed=7)
    assert torch.equal(AnnIndex(vectors, probes=6).search(query, 40)[0], ann.search(query, 40)[0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [1, 2, 30])
def test_small_catalogues_are_searched_without_a_word(rows: int, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    index = AnnIndex(clustered(rows, seed=8))
    items, scores = index.search(clustered(2, seed=9), 40)
    assert items.shape == scores.shape == (2, 40)
    assert (items > 0).sum(1).tolist() == [rows - 1] * 2
    assert index.search(clustered(0, seed=9), 3)[0].shape == (0, 3)
    assert capfd.readouterr() == ("", "")


def test_misuse_is_refused(ann: AnnIndex, vectors: torch.Tensor) -> None:
    bad = vectors.clone()
    bad[3, 1] = float("nan")
    with pytest.raises(ValueError, match="row 2 of"):
        AnnIndex(bad)
    with pytest.raises(ValueError, match="probes 0"):
        AnnIndex(vectors, probes=0)
    with pytest.raises(ValueError, match="query row 3 of 5"):
        ann.search(bad[:5], 3)
    with pytest.raises(ValueError, match="k 0"):
        ann.search(vectors[:1], 0)


def test_without_faiss_the_message_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"penchant\[ann\]"):
        AnnIndex(torch.ones(3, 2))
