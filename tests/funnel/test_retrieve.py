"""Channels: batching, empty histories, and leaving out what was seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from penchant.data.history import Requests
from penchant.funnel import retrieve
from penchant.funnel.retrieve import EmbeddingRetriever, ScoreRetriever, retriever
from penchant.funnel.stages import Retriever
from penchant.index.exact import ExactIndex
from tests.checkerboard import requests_of

NUM_ITEMS = 12


class Vectors:
    """Sum of the history's vectors."""

    num_items = NUM_ITEMS

    def __init__(self, seed: int) -> None:
        # Whole numbers, so that sums are exact whatever the batch, and ties occur.
        self.table = torch.from_numpy(np.random.default_rng(seed).integers(-3, 4, (NUM_ITEMS + 1, 4))).float()
        self.table[0] = 0.0
        self.largest_batch = 0

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        self.largest_batch = max(self.largest_batch, len(requests))
        return self.table[requests.history].sum(1)

    def item_vectors(self) -> Float[Tensor, "I D"]:
        return self.table


class Scores(Vectors):
    """The same scores without vectors' rule that a zero vector says nothing; every third item has none."""

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        scores = self.user_vectors(requests) @ self.table.T
        scores[:, ::3] = -torch.inf
        return scores


def expected(scores: np.ndarray, history: list[int], k: int, exclude_seen: bool) -> list[int]:
    ranked = sorted((-s, i) for i, s in enumerate(scores.tolist()) if i and s > -np.inf)
    items = [i for _, i in ranked if not (exclude_seen and i in history)][:k]
    return items + [0] * (k - len(items))


histories = st.lists(st.lists(st.integers(1, NUM_ITEMS), max_size=9), max_size=7)


@given(histories, st.integers(1, 15), st.booleans(), st.sampled_from([1, 3, 256]), st.integers(0, 50), st.booleans())
@settings(deadline=None, max_examples=80)
def test_lists_are_the_best_unseen_items(
    rows: list[list[int]], k: int, exclude_seen: bool, block: int, seed: int, by_scores: bool
) -> None:
    model = Scores(seed) if by_scores else Vectors(seed)
    requests = requests_of(*rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieve, "BLOCK_REQUESTS", block)
        found = retriever("x", model, exclude_seen=exclude_seen).retrieve(requests, k)
    vectors = model.user_vectors(requests)
    scores = model.score_items(requests) if isinstance(model, Scores) else vectors @ model.table.T
    wanted = [expected(s, h, k, exclude_seen) for s, h in zip(scores.numpy(), rows, strict=True)]
    if not by_scores:
        wanted = [w if v.any() else [0] * k for w, v in zip(wanted, vectors, strict=True)]
    assert found.items.tolist() == wanted
    assert found.channels == ("x",)
    for row, items in enumerate(wanted):
        real = sum(i > 0 for i in items)
        assert found.ranks[row, :, 0].tolist() == [*range(1, real + 1)] + [0] * (k - real)
        assert found.scores[row, :real].tolist() == scores[row, items[:real]].tolist()


def test_lists_are_not_short_when_the_best_were_all_seen() -> None:
    model = Vectors(0)
    requests = requests_of([5] * 8, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    found = retriever("x", model, exclude_seen=True).retrieve(requests, 2)
    assert found.mask.all()
    assert set(found.items[1].tolist()) == {11, 12}


def test_a_model_never_sees_more_requests_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieve, "BLOCK_REQUESTS", 2)
    model = Vectors(0)
    assert retriever("x", model).retrieve(requests_of(*[[1]] * 5), 3).items.shape == (5, 3)
    assert model.largest_batch == 2
    monkeypatch.setattr(retrieve, "BLOCK_REQUESTS", 256)
    monkeypatch.setattr(retrieve, "BLOCK_SCORES", 3 * (NUM_ITEMS + 1))
    model = Scores(0)
    retriever("x", model).retrieve(requests_of(*[[1]] * 5), 3)
    assert model.largest_batch == 3


def test_queries_stay_with_their_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieve, "BLOCK_REQUESTS", 2)
    seen: list[tuple[str, ...]] = []

    class Listening(Vectors):
        def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
            assert requests.queries is not None
            seen.append(requests.queries)
            return super().user_vectors(requests)

    plain = requests_of([1], [2], [3])
    requests = Requests(plain.users, plain.times_ms, plain.history, plain.history_times_ms, ("a", "b", "c"))
    retriever("x", Listening(0)).retrieve(requests, 1)
    assert seen == [("a", "b"), ("c",)]


def test_the_kind_of_channel_follows_from_the_model() -> None:
    made: Retriever = retriever("x", Vectors(0))
    assert isinstance(made, EmbeddingRetriever)
    assert isinstance(retriever("x", Scores(0)), ScoreRetriever)
    with pytest.raises(ValueError, match="neither"):
        retriever("x", object())


def test_an_index_of_another_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match="index of 3"):
        EmbeddingRetriever("x", Vectors(0), ExactIndex(torch.ones(4, 4)))


def test_a_vector_that_is_no_number_finds_nothing_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Vectors):
        def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
            vectors = super().user_vectors(requests)
            vectors[1, 2] = torch.nan
            return vectors

    model, rows = Broken(0), requests_of([1, 2], [3], [4, 5, 6])
    found = retriever("x", model).retrieve(rows, 4)
    assert found.items[1].tolist() == [0] * 4
    whole = retriever("x", Vectors(0)).retrieve(rows, 4)
    assert found.items[[0, 2]].tolist() == whole.items[[0, 2]].tolist()
    assert "1 of 3 vectors have NaN" in caplog.text
