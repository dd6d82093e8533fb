"""ULIM's vectors: what each reads, what serving and training share, and what the catalogue is scored by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.category_batch import CategoryBatches, CategoryDataConfig
from penchant.data.history import requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.funnel.interests import merge_interests
from penchant.funnel.retrieve import CategoryRetriever, retriever
from penchant.index.category import CategoryIndex
from penchant.models import Sizes
from penchant.papers.ulim.model import DEPTH, ULIM, ULIMConfig
from penchant.papers.ulim.objective import read
from tests.papers.ulim.made import CATEGORY, NUM_CATEGORIES, NUM_ITEMS, SMALL, histories, made

LENGTHS = [0, 1, 3, 4, 9, 12, 16]


def one_vector(model: ULIM, requests: Any, category: int) -> torch.Tensor:
    """v^(l) of one request and category, the long way round."""
    history = requests.history[0].tolist()[-model.config.max_len :]
    times = requests.history_times_ms[0].tolist()[-model.config.max_len :]
    cut = len(history) if model.config.overlap else max(len(history) - model.config.short_len, 0)
    own = [s for s in range(cut) if int(CATEGORY[history[s]]) == category][-model.config.max_subsequence :]
    ask = model.pooled(requests)[0]
    if model.config.query == "category":
        ask = ask + model.category_query.weight[category]
    if own:
        items = torch.tensor([history[s] for s in own])
        then = torch.tensor([times[s] for s in own])
        x = model.actions(items, CATEGORY[items], requests.times_ms.expand(len(own)), then)
        if model.config.attention == "target":
            attended = model.long(ask[None], x, torch.zeros(len(own)).long())[0]
        else:
            attended = model.long(x[None], torch.ones(1, len(own)).bool())[0]
    else:
        attended = model.null + ask
    vector = attended + model.long_head(attended)
    return vector / vector.norm() * model.log_scales[1].exp()


@torch.no_grad()
@pytest.mark.parametrize(
    "changes", [{}, {"overlap": True}, {"query": "short"}, {"attention": "self"}, {"max_subsequence": 1}]
)
def test_each_interest_reads_its_own_subsequence(changes: dict[str, Any]) -> None:
    model = made(**changes)
    requests = histories(LENGTHS[1:])
    found = model.interests(requests, 4)
    assert found.vectors.shape == (len(requests), 5, 8)
    assert not found.categories[:, 0].any()
    probs = model.category_probs(requests)
    for row in range(len(requests)):
        alone = requests.rows(slice(row, row + 1)).last(20)
        for k in range(1, 5):
            category = int(found.categories[row, k])
            assert float(found.weights[row, k]) == float(probs[row, category])
            torch.testing.assert_close(found.vectors[row, k], one_vector(model, alone, category), rtol=1e-4, atol=1e-4)
        assert found.categories[row, 1:].tolist() == probs[row].topk(4).indices.tolist()
        torch.testing.assert_close(found.vectors[row, 0], model.user_vectors(alone)[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_without_a_history_there_is_no_interest() -> None:
    model = made()
    found = model.interests(histories([0, 5], padding=2), 3)
    assert not found.vectors[0].any()
    assert not found.categories[0].any()
    assert found.vectors[1].any()
    assert torch.isneginf(model.score_items(histories([0, 0]))).all()
    assert model.score_items(histories([])).shape == (0, NUM_ITEMS + 1)


@torch.no_grad()
def test_more_categories_than_there_are_leave_empty_places() -> None:
    model, requests = made(), histories([9, 4])
    found = model.interests(requests, 9)
    assert found.categories.shape == found.weights.shape == (2, 10)
    assert not found.categories[:, NUM_CATEGORIES + 1 :].any()
    assert not found.vectors[:, NUM_CATEGORIES + 1 :].any()
    few = model.interests(requests, NUM_CATEGORIES)
    assert torch.equal(found.vectors[:, : NUM_CATEGORIES + 1], few.vectors)
    wide = made(num_searched=9).score_items(requests)
    assert torch.equal(wide, made(num_searched=NUM_CATEGORIES).score_items(requests))


@torch.no_grad()
def test_an_unseen_category_is_answered_by_the_null_token_and_the_query() -> None:
    model, requests = made(), histories([5])
    absent = next(c for c in range(1, 6) if c not in CATEGORY[requests.history].tolist()[0])
    vector = model.toward(requests, torch.tensor([[absent]]), torch.ones(1, 1)).vectors[0, 1]
    torch.testing.assert_close(vector, one_vector(model, requests, absent), rtol=1e-4, atol=1e-4)
    assert vector.any()
    model.null.add_(1.0)
    assert not torch.equal(model.toward(requests, torch.tensor([[absent]]), torch.ones(1, 1)).vectors[0, 1], vector)


@torch.no_grad()
def test_training_and_serving_make_the_same_vectors_of_one_request(store: Store) -> None:
    split = load_split(store, "temporal-successive")
    for changes in ({}, {"half": "newest"}, {"half": "oldest"}, {"overlap": True}, {"max_len": 6}):
        torch.manual_seed(0)
        config = ULIMConfig(**{**SMALL, **changes})
        model = ULIM(config, Sizes(num_items=store.num_items, num_categories=store.num_categories)).eval()
        model.set_categories(torch.from_numpy(store.item_category.astype(np.int64)))
        batches = CategoryBatches(store, split, CategoryDataConfig(), config, 0)
        events = np.random.default_rng(0).choice(batches.targets, 40).astype(np.int64)
        batch = batches.of_events(events, np.array([1]), 0)
        assert bool((batch.subsequence > 0).any())
        pooled, long, empty = read(model, batch)
        served = model.toward(
            requests_before_events(store, events, config.max_len), batch.categories[:, None], torch.ones(40, 1)
        )
        torch.testing.assert_close(served.vectors[:, 0], model.short_vectors(pooled), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(served.vectors[:, 1], long, rtol=1e-5, atol=1e-5)
        assert 0 < int(empty.sum()) < 40


@settings(deadline=None, max_examples=25)
@given(
    how=st.sampled_from(["quota", "factorised", "raw"]),
    channels=st.sampled_from(["both", "short", "long"]),
    searched=st.integers(1, 7),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_the_catalogue_is_scored_in_the_order_of_the_merged_list(
    how: Any, channels: Any, searched: int, seed: int
) -> None:
    model = made(seed, merge=how, channels=channels, num_searched=searched)
    requests = histories([1, 6, 14], seed)
    scores = model.score_items(requests)
    interests = model.interests(requests, 0 if channels == "short" else searched)
    lists = model.lists_of(interests, model.item_vectors())
    merged = merge_interests(lists, NUM_ITEMS, how, model.short_share)
    for row in range(3):
        found = [i for i in merged.items[row].tolist() if i]
        order = scores[row].argsort(descending=True, stable=True).tolist()
        assert order[: len(found)] == found
        finite = int(torch.isfinite(scores[row]).sum())
        assert finite == (len(found) if channels == "long" else NUM_ITEMS)
        assert len(set(scores[row, found].tolist())) == len(found)
    assert torch.isneginf(scores[:, 0]).all()


@settings(deadline=None, max_examples=25)
@given(
    how=st.sampled_from(["quota", "factorised", "raw"]),
    channels=st.sampled_from(["both", "short", "long"]),
    exclude_seen=st.booleans(),
    k=st.integers(1, NUM_ITEMS),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_as_a_channel_it_finds_what_the_scored_catalogue_begins_with(
    how: Any, channels: Any, exclude_seen: bool, k: int, seed: int
) -> None:
    model = made(seed, merge=how, channels=channels)
    requests = histories([0, 2, 6, 14], seed)
    found = retriever("ulim", model, exclude_seen=exclude_seen).retrieve(requests, k)
    assert not found.items[0].any()
    if exclude_seen:
        for items, history in zip(found.items, requests.history, strict=True):
            assert not set(items[items > 0].tolist()) & set(history.tolist())
    else:
        scores = model.score_items(requests)
        for items, scored in zip(found.items[1:].tolist(), scores[1:], strict=True):
            listed = [i for i in items if i]
            assert listed == scored.argsort(descending=True, stable=True)[: len(listed)].tolist()
            assert len(listed) == min(k, int(torch.isfinite(scored).sum())) or channels != "long"


@torch.no_grad()
def test_a_channel_past_its_deadline_answers_from_the_likeliest_category() -> None:
    model, requests = made(), histories([9, 14])
    channel = retriever("ulim", model)
    assert isinstance(channel, CategoryRetriever)
    in_time = channel.retrieve(requests, 6)
    channel.deadline_ms = 0.0
    late = channel.retrieve(requests, 6)
    assert torch.equal(late.items, retriever("ulim", made(num_searched=1)).retrieve(requests, 6).items)
    assert not torch.equal(late.items, in_time.items)


@torch.no_grad()
def test_as_a_channel_vectors_that_are_no_numbers_find_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """One broken category leaves the others and the short-term vector; all broken, an empty list for others to fill."""
    model, requests = made(), histories([9, 14])
    named = int(model.searches(requests).categories[0, 1])
    model.category_query.weight[named] = torch.nan
    found = retriever("ulim", model).retrieve(requests, NUM_ITEMS)
    assert (found.items[0] > 0).any()
    assert "have NaN or infinity" in caplog.text
    model.log_scales.fill_(torch.nan)
    assert not retriever("ulim", model).retrieve(requests, 6).items.any()


def test_an_index_of_another_catalogue_is_refused() -> None:
    model = made()
    index = CategoryIndex(torch.ones(NUM_ITEMS + 2, model.config.width), torch.ones(NUM_ITEMS + 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="'ulim': model of"):
        CategoryRetriever("ulim", model, index)


@torch.no_grad()
def test_a_long_vector_retrieves_from_its_category_alone() -> None:
    model = made()
    interests = model.interests(histories([9, 14]), 3)
    vectors = model.item_vectors()
    lists = model.lists_of(interests, vectors)
    assert lists.log_mass is not None
    for row in range(2):
        for k in range(3):
            category = int(interests.categories[row, k + 1])
            own = [i for i in range(1, NUM_ITEMS + 1) if int(CATEGORY[i]) == category]
            found = [i for i in lists.items[row, k].tolist() if i]
            score = {i: float(interests.vectors[row, k + 1] @ vectors[i]) for i in own}
            assert found == sorted(own, key=lambda i: -score[i])
            mass = np.log(sum(np.exp(s) for s in score.values()))
            assert float(lists.log_mass[row, k]) == pytest.approx(mass, rel=1e-5)


@torch.no_grad()
def test_what_is_beyond_the_ordered_places_follows_by_the_short_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = made(), histories([9])
    whole = model.score_items(requests)
    monkeypatch.setattr("penchant.papers.ulim.model.DEPTH", 6)
    few = model.score_items(requests)
    order = [scores[0].argsort(descending=True).tolist() for scores in (whole, few)]
    assert order[0][:6] == order[1][:6]
    short = (model.user_vectors(requests) @ model.item_vectors().T)[0]
    rest = order[1][6:-1]
    assert rest == sorted(rest, key=lambda i: -float(short[i]))
    assert DEPTH >= 2000


@torch.no_grad()
def test_the_right_category_can_be_given() -> None:
    model, requests = made(), histories([9])
    found = model.toward(requests, torch.tensor([[4, 0, 2]]), torch.tensor([[0.7, 0.0, 0.3]]))
    assert found.categories.tolist() == [[0, 4, 0, 2]]
    assert not found.vectors[0, 2].any()
    assert torch.equal(found.weights, torch.tensor([[1.0, 0.7, 0.0, 0.3]]))
    alone = model.toward(requests, torch.tensor([[2]]), torch.ones(1, 1))
    torch.testing.assert_close(alone.vectors[0, 1], found.vectors[0, 3])


@torch.no_grad()
@pytest.mark.parametrize("attention", ["target", "self"])
def test_a_row_depends_on_neither_padding_nor_company(attention: Any) -> None:
    model = made(attention=attention)
    whole = model.interests(histories(LENGTHS, padding=5), 3)
    for row in range(len(LENGTHS)):
        alone = model.interests(histories(LENGTHS).rows(slice(row, row + 1)).last(16), 3)
        assert torch.equal(alone.categories[0], whole.categories[row])
        torch.testing.assert_close(alone.vectors[0], whole.vectors[row], rtol=1e-4, atol=1e-5)


def test_l_l_teaches_the_short_term_encoder_unless_stopped() -> None:
    """U3: the query is its pool."""
    requests = histories([12])
    category = int(CATEGORY[requests.history[0, 0]])
    for stop in (False, True):
        model = made(stop_query=stop)
        model.toward(requests, torch.tensor([[category]]), torch.ones(1, 1)).vectors[:, 1].sum().backward()
        taught = model.short.qkv.weight.grad is not None and bool(model.short.qkv.weight.grad.any())
        assert taught is not stop
        assert model.actions.items.weight.grad is not None
        assert all(p.grad is None for p in model.pgin.parameters())


@torch.no_grad()
def test_the_same_seed_gives_the_same_model() -> None:
    requests = histories([9])
    assert torch.equal(made(3).score_items(requests), made(3).score_items(requests))
    assert not torch.equal(made(3).user_vectors(requests), made(4).user_vectors(requests))


@torch.no_grad()
def test_items_have_length_one_and_padding_none() -> None:
    vectors = made().item_vectors()
    assert not vectors[0].any()
    torch.testing.assert_close(vectors[1:].norm(dim=1), torch.ones(NUM_ITEMS))


def test_impossible_settings_are_refused() -> None:
    impossible: dict[str, Any] = {"num_searched": 0, "short_share": 1.5, "temperature": 0.0, "short_len": 0}
    for field, value in impossible.items():
        with pytest.raises(ConfigError, match=f"{field} is"):
            ULIMConfig(**{field: value})
    with pytest.raises(ConfigError, match="no item has a category"):
        ULIM(ULIMConfig(), Sizes(num_items=3))
