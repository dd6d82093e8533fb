"""Similarity: a plain loop's numbers for candidates alone, the same alone and in a batch, each request read once."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from penchant.baselines.counted.popularity import Popularity
from penchant.data.history import Requests
from penchant.funnel import similarity
from penchant.funnel.retrieve import retriever
from penchant.funnel.similarity import similarities
from penchant.models import Sizes
from tests.funnel.embedders import Summed
from tests.funnel.test_features import requests_of

HISTORIES = [[1, 2, 3, 4, 5, 6, 7], [], [5], [8, 8, 2]]
REQUESTS = requests_of(HISTORIES, [list(range(len(h), 0, -1)) for h in HISTORIES])
ITEMS = torch.tensor([[3, 9, 5, 0], [1, 2, 0, 0], [7, 5, 12, 1], [8, 0, 0, 0]])


def cosine(a: Tensor, b: Tensor) -> float:
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length else 0.0


@pytest.mark.parametrize("recent", [2, 50])
@pytest.mark.parametrize("block", [1, 2**20])
def test_numbers_are_those_of_a_plain_loop(recent: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "BLOCK", block)
    similar = Summed().similarity()
    cosines, scores = similar.cosines(REQUESTS, ITEMS, recent), similar.scores(REQUESTS, ITEMS)
    table = similar.vectors
    for b, history in enumerate(HISTORIES):
        user = sum((table[i] for i in history), torch.zeros(6))
        for k, item in enumerate(ITEMS[b].tolist()):
            expected = [0.0, 0.0, 0.0]
            if item and history:
                each = [cosine(table[item], table[i]) for i in history]
                expected = [max(each), float(np.mean(each)), max(each[-recent:])]
            assert cosines[b, k].tolist() == pytest.approx(expected, abs=1e-5)
            assert scores[b, k].item() == pytest.approx(float(user @ table[item]) if item else 0.0, abs=1e-5)


def test_a_request_has_the_same_vector_to_the_last_bit_alone_and_in_a_batch() -> None:
    together = Summed().similarity().user_vectors(REQUESTS)
    for b, history in enumerate(HISTORIES):
        alone = requests_of([history], [list(range(len(history), 0, -1))])
        assert torch.equal(Summed().similarity().user_vectors(alone)[0], together[b])


def test_each_request_is_read_once_and_by_itself() -> None:
    model = Summed()
    similar = model.similarity()
    first = similar.user_vectors(REQUESTS.rows(slice(0, 2)))
    similar.scores(REQUESTS, ITEMS)
    assert model.asked == [1] * 4
    assert torch.equal(similar.user_vectors(REQUESTS)[:2], first)
    others: dict[str, Any] = {
        "users": REQUESTS.users + 1,
        "times_ms": REQUESTS.times_ms + 1,
        "history": REQUESTS.history + 1,
        "history_times_ms": REQUESTS.history_times_ms + 1,
        "queries": ("a",) * 4,
        "history_queries": REQUESTS.history + 1,
    }
    assert set(others) == {of.name for of in fields(Requests)}
    one = REQUESTS.rows(slice(0, 1))
    for name, other in others.items():
        asked = len(model.asked)
        similar.user_vectors(replace(one, **{name: other[:1]}))
        assert len(model.asked) == asked + 1, f"{name} may make another vector"
    bounded = replace(similar, remembered=3, _known={})
    for _ in range(3):
        assert torch.equal(bounded.user_vectors(REQUESTS)[:2], first)
        assert len(bounded._known) <= 3


def test_no_request_and_no_candidate_are_no_special_cases() -> None:
    similar = Summed().similarity()
    for requests, items in ((REQUESTS, ITEMS[:, :0]), (requests_of([], []), ITEMS[:0])):
        assert similar.cosines(requests, items, 10).shape == (*items.shape, 3)
        assert similar.scores(requests, items).shape == items.shape


def test_channels_of_vectors_have_one_and_share_their_index_s_vectors() -> None:
    model = Summed()
    model.table[0] = 0.0
    sources = [retriever("vectors", model), retriever("counts", Popularity(Popularity.Config(), Sizes(num_items=3)))]
    found = similarities(sources)
    assert set(found) == {"vectors"}
    assert found["vectors"].vectors.data_ptr() == model.table.data_ptr()
