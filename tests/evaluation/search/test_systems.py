"""Each system scores what it says: words, sentences, a model's order of the matches, a model without its user."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from penchant.data.history import Requests, requests_before_events
from penchant.data.store import Store
from penchant.errors import StoreError
from penchant.evaluation.search import systems
from penchant.evaluation.search.systems import Lexical, Sentence, WithinMatches, WithoutUser, sentence_of
from penchant.evaluation.search.targets import Matcher
from penchant.index.lexical import SEARCH_POOL, LexicalIndex
from tests.evaluation.models import walker
from tests.factories import make_store

QUERIES = ("red wool", "thing", "", "qqq", "silk")


@pytest.fixture(scope="module")
def matcher(searched: Store) -> Matcher:
    return Matcher(searched)


@pytest.fixture
def requests(searched: Store) -> Requests:
    return replace(requests_before_events(searched, np.array([30, 60, 90, 120, 150]), 20), queries=QUERIES)


def test_the_matches_are_those_of_the_text_search(searched: Store, matcher: Matcher, requests: Requests) -> None:
    items = searched.table("items")
    index = LexicalIndex(*(items[name].to_pylist() for name in ("title", "category_path", "text")))
    scores = Lexical(matcher).score_items(requests)
    for row, query in enumerate(QUERIES):
        found = index.search(query, SEARCH_POOL)
        assert torch.nonzero(scores[row] > -torch.inf)[:, 0].tolist() == sorted(found.items.tolist())
        np.testing.assert_allclose(scores[row, torch.from_numpy(found.items)].numpy(), found.scores, rtol=1e-6)
    assert (scores[[2, 3]] == -torch.inf).all()
    assert (scores[:, 0] == -torch.inf).all()


def test_a_sentence_is_compared_by_its_angle_and_encoded_once(requests: Requests) -> None:
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[len(text), text.count("i"), 1] for text in texts], dtype=np.float32)

    vectors = np.array([[0, 0, 0], [5, 0, 0], [0, 0, 0.5], [3, 4, 0]], dtype=np.float16)
    system = Sentence(vectors, encode)
    scores = system.user_vectors(requests) @ system.item_vectors().T
    for row, query in enumerate(QUERIES):
        mine = np.array([len(query), query.count("i"), 1.0])
        expected = [0, *(v @ mine / np.linalg.norm(v) / np.linalg.norm(mine) for v in vectors[1:].astype(float))]
        np.testing.assert_allclose(scores[row].numpy(), expected if query else [0] * 4, atol=1e-6)
    system.user_vectors(requests)
    assert sorted(asked) == sorted({q for q in QUERIES if q})


def test_a_query_is_encoded_by_what_encoded_the_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = make_store(tmp_path / "store", searches=True)
    with pytest.raises(StoreError, match="penchant encode"):
        sentence_of(made_up)
    folder = made_up.path / "vectors" / "text"
    folder.mkdir(parents=True)
    np.save(folder / "values.npy", np.ones((made_up.num_items + 1, 3), np.float16))
    np.save(folder / "present.npy", np.ones(made_up.num_items + 1, bool))
    told = {"fingerprint": "f", "encoder": "mine", "encoder_fingerprint": "e1"}
    (folder / "manifest.json").write_text(json.dumps(told))

    def load(name: str, *, device: str) -> SimpleNamespace:
        assert (name, device) == ("mine", "cpu")
        return SimpleNamespace(fingerprint=now, encode=lambda texts: np.ones((len(texts), 3), np.float32))

    monkeypatch.setattr(systems, "load_text_encoder", load)
    now = "e2"
    with pytest.raises(StoreError, match=r"made by another 'mine'.*--text mine"):
        sentence_of(made_up, "cpu")
    now = "e1"
    assert sentence_of(made_up, "cpu").num_items == made_up.num_items


def test_matches_come_in_the_model_s_order_or_in_the_text_s_where_it_has_none(
    searched: Store, matcher: Matcher, requests: Requests
) -> None:
    model = walker(searched.num_items, whole=False).eval()
    scores = WithinMatches(model, matcher).eval().score_items(requests)
    whole = model.user_vectors(requests) @ model.item_vectors().T
    lexical = matcher.scores(QUERIES)
    matching = lexical > -torch.inf
    assert torch.equal(scores[matching], whole[matching])
    assert (scores[~matching] == -torch.inf).all()
    unknown = WithinMatches(model, matcher).eval().score_items(requests.last(0))
    assert torch.equal(unknown, lexical)


class Asker(nn.Module):
    """Remembers what it was asked."""

    num_items = 3

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        self.asked = requests
        return torch.ones(len(requests), 2)

    def item_vectors(self) -> Float[Tensor, "I D"]:
        return torch.eye(4, 2)


def test_without_the_user_only_the_query_and_the_time_are_left(requests: Requests) -> None:
    model = Asker()
    alone = WithoutUser(model)
    assert torch.equal(alone.user_vectors(requests), torch.ones(5, 2))
    assert model.asked.queries == QUERIES
    assert torch.equal(model.asked.times_ms, requests.times_ms)
    assert not model.asked.users.any()
    assert requests.users.any()
    for seen in (model.asked.history, model.asked.history_times_ms, model.asked.history_queries):
        assert seen is not None
        assert seen.shape == (5, 0)
    assert torch.equal(alone.item_vectors(), model.item_vectors())


def test_requests_without_queries_are_the_programmers_mistake(matcher: Matcher, requests: Requests) -> None:
    with pytest.raises(ValueError, match="requests without queries"):
        Lexical(matcher).score_items(replace(requests, queries=None))
