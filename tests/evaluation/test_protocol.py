"""Full-catalogue evaluation against a plain loop, and what must not change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from penchant.data.history import requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import RunError, StoreError
from penchant.evaluation.protocol import RetrievalResult, evaluate_retrieval
from penchant.index.exact import best_items
from tests.evaluation.models import Fixed, Walker, walker


def by_loop(model: Walker, store: Store, events: np.ndarray, max_len: int) -> list[tuple[float, float, list[int]]]:
    """Rank, rank among the unseen, and the best items of each target, one at a time."""
    out = []
    vectors = model.vectors.detach().double().numpy()
    for event in events:
        user = store.event_user[event]
        seen = store.event_item[store.user_indptr[user] : event].tolist()
        target = int(store.event_item[event])
        u = vectors[seen[-max_len:]].sum(0)
        scores = {item: float(u @ vectors[item]) for item in range(1, store.num_items + 1)}
        places = []
        for left_out in (set(), set(seen) - {target}):
            others = [s for item, s in scores.items() if item != target and item not in left_out]
            higher = sum(s > scores[target] for s in others)
            same = sum(s == scores[target] for s in others)
            places.append(1 + higher + same / 2 if u.any() else np.inf)
        best = sorted(scores, key=lambda i: (-scores[i], i)) if u.any() else [0] * store.num_items
        out.append((*places, best))
    return out


@pytest.mark.parametrize("split_name", ["temporal-successive", "loo"])
def test_ranks_and_lists_are_those_of_a_plain_loop(store: Store, split_name: str) -> None:
    model, split = walker(store.num_items, whole=True), load_split(store, split_name)
    found = evaluate_retrieval(model, store, split, max_len=5, ks=(5, 10, 1000), filter_seen=True)
    loop = by_loop(model, store, split.targets("test"), 5)
    assert np.array_equal(found.events, split.targets("test"))
    assert found.ranks.tolist() == [rank for rank, _, _ in loop]
    assert found.unseen_ranks is not None
    assert found.unseen_ranks.tolist() == [rank for _, rank, _ in loop]
    assert found.lists.tolist() == [best[:10] for _, _, best in loop]
    assert (found.ranks % 1 == 0.5).any()  # ties did occur


def same(a: RetrievalResult, b: RetrievalResult) -> bool:
    names = ("ranks", "unseen_ranks", "lists", "list_scores", "events", "items")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("memory_mb", [0.005, 0.05, 0.1])
def test_memory_setting_changes_nothing(store: Store, whole: bool, memory_mb: float) -> None:
    model, split = walker(store.num_items, whole=whole), load_split(store, "temporal-successive")
    reference = evaluate_retrieval(model, store, split, filter_seen=True)
    assert same(evaluate_retrieval(model, store, split, filter_seen=True, memory_mb=memory_mb), reference)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing(store: Store, batch_size: int) -> None:
    model, split = walker(store.num_items, whole=True), load_split(store, "temporal-successive")
    reference = evaluate_retrieval(model, store, split, filter_seen=True)
    model.batches.clear()
    assert same(evaluate_retrieval(model, store, split, filter_seen=True, batch_size=batch_size), reference)
    assert max(model.batches) == min(batch_size, len(reference.ranks))


def test_memory_setting_bounds_the_scores_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int] = []

    def spy(scores: torch.Tensor, k: int) -> Any:
        blocks.append(scores.numel())
        return best_items(scores, k)

    monkeypatch.setattr("penchant.evaluation.protocol.best_items", spy)
    model, split = walker(store.num_items, whole=False), load_split(store, "loo")
    evaluate_retrieval(model, store, split, ks=(5,), targets=40)
    assert blocks == [40 * (store.num_items + 1)]
    blocks.clear()
    evaluate_retrieval(model, store, split, ks=(5,), targets=40, memory_mb=0.02)
    assert max(blocks) * 48 <= 0.02e6


def test_popularity_ranks_by_count_with_ties_shared_and_padding_never_counts(store: Store) -> None:
    split = load_split(store, "loo")
    counts = split.item_counts(store)
    scores = torch.from_numpy(counts).float()
    scores[0] = 1e9  # a padding column that would win everywhere
    found = evaluate_retrieval(Fixed(scores), store, split, ks=(10,), memory_mb=0.01)
    for item, rank in zip(found.items, found.ranks, strict=True):
        others = np.delete(counts[1:], item - 1)
        assert rank == 1 + (others > counts[item]).sum() + (others == counts[item]).sum() / 2
    assert found.lists[0].tolist() == sorted(range(1, store.num_items + 1), key=lambda i: (-counts[i], i))[:10]
    assert found.metrics()["Coverage@10"] == 10 / store.num_items


def test_an_item_the_model_cannot_score_has_no_rank_and_no_place(store: Store) -> None:
    split = load_split(store, "loo")
    targets = store.event_item[split.targets("test")]
    scores = torch.zeros(store.num_items + 1)
    scores[int(targets[0])] = -torch.inf
    found = evaluate_retrieval(Fixed(scores), store, split, ks=(100,))
    lost = targets == targets[0]
    assert np.isinf(found.ranks[lost]).all()
    assert np.isfinite(found.ranks[~lost]).all()
    assert found.lists[0, -1] == 0
    assert targets[0] not in found.lists


def test_a_request_with_a_zero_vector_is_lost_and_counted(store: Store) -> None:
    split = load_split(store, "loo")
    model = walker(store.num_items, whole=False)
    last = requests_before_events(store, split.targets("test"), 1).history[:, 0]
    with torch.no_grad():
        model.vectors[last[0]] = 0
    found = evaluate_retrieval(model, store, split, max_len=1)
    lost = (last == last[0]).numpy()
    assert np.array_equal(np.isinf(found.ranks), lost)
    assert found.unanswered == lost.sum()
    assert not found.lists[lost].any()
    assert f"{lost.sum()} of" in found.notes[0]


def test_items_of_equal_vectors_share_their_rank(store: Store) -> None:
    split = load_split(store, "loo")
    model = walker(store.num_items, whole=False)
    with torch.no_grad():
        model.vectors[1:] = model.vectors[1]
    found = evaluate_retrieval(model, store, split, memory_mb=0.01)
    assert (found.ranks == (store.num_items + 1) / 2).all()
    assert found.metrics()["HR@10"] == 0.0


def test_scores_that_are_no_numbers_are_refused(store: Store) -> None:
    scores = torch.zeros(store.num_items + 1)
    scores[5] = torch.nan
    with pytest.raises(RunError, match="not numbers"):
        evaluate_retrieval(Fixed(scores), store, load_split(store, "loo"))


def test_a_subsample_is_seeded_and_stated(store: Store) -> None:
    model, split = walker(store.num_items, whole=True), load_split(store, "temporal-successive")
    whole = evaluate_retrieval(model, store, split)
    part = evaluate_retrieval(model, store, split, targets=30, seed=1)
    again = evaluate_retrieval(model, store, split, targets=30, seed=1)
    other = evaluate_retrieval(model, store, split, targets=30, seed=2)
    assert np.array_equal(part.events, again.events)
    assert not np.array_equal(part.events, other.events)
    assert np.array_equal(part.ranks, whole.ranks[np.isin(whole.events, part.events)])
    assert part.notes == (f"A random 30 of {len(whole.events)} targets were judged (seed 1).",)


def test_cold_targets_are_those_of_items_that_nobody_clicked_in_the_train_window(store: Store) -> None:
    model, split = walker(store.num_items, whole=True), load_split(store, "temporal-successive")
    late = int(store.event_item[split.targets("test")[0]])
    ends = split.ends.copy()
    for user in range(1, store.num_users + 1):  # each train window ends where `late` comes first
        start = store.user_indptr[user]
        found = np.flatnonzero(store.event_item[start : ends[user, 0]] == late)
        ends[user, 0] = start + found[0] if len(found) else ends[user, 0]
    split = replace(split, ends=ends)
    cold = evaluate_retrieval(model, store, split, cold=True)
    known = set(store.event_item[split.events("train")].tolist())
    assert cold.events.tolist() == [e for e in split.targets("test") if int(store.event_item[e]) not in known]
    assert late in cold.items
    assert cold.notes == ("Only targets whose item nobody clicked in the train window were judged.",)
    whole = evaluate_retrieval(model, store, split)
    assert np.array_equal(cold.ranks, whole.ranks[np.isin(whole.events, cold.events)])


def test_a_window_without_cold_targets_says_so(store: Store) -> None:
    model, split = walker(store.num_items, whole=True), load_split(store, "loo").with_valid_in_train()
    known = np.unique(store.event_item[split.events("train")])
    ends = split.ends.copy()
    ends[:, 2] = np.where(np.isin(store.event_item[split.stops("test") - 1], known), ends[:, 2], ends[:, 1])
    with pytest.raises(StoreError, match="no cold targets"):
        evaluate_retrieval(model, store, replace(split, ends=ends), cold=True)


def test_per_user_means_weighted_by_targets_are_the_metrics(store: Store) -> None:
    model, split = walker(store.num_items, whole=True), load_split(store, "temporal-successive")
    found = evaluate_retrieval(model, store, split, ks=(5, 20), filter_seen=True)
    table, all_of_it = found.per_user(), found.metrics()
    weight = table["weight"].to_numpy()
    assert weight.sum() == len(found.events)
    for name in ("HR@5", "NDCG@20", "MRR@20", "HR@20 unseen"):
        assert np.average(table[name].to_numpy(), weights=weight) == pytest.approx(all_of_it[name], abs=1e-6)
    assert all_of_it["Recall@5"] == all_of_it["HR@5"]


def test_slices_add_up_to_the_whole(store: Store) -> None:
    model, split = walker(store.num_items, whole=True), load_split(store, "temporal-successive")
    found = evaluate_retrieval(model, store, split, ks=(10,))
    slices = found.slices()
    assert set(slices) == {"item", "history"}  # no event of this market had a query
    for group in slices.values():
        assert sum(part["targets"] for part in group.values()) == len(found.events)
        total = sum(part["targets"] * part["HR@10"] for part in group.values())
        assert total / len(found.events) == pytest.approx(found.metrics()["HR@10"])


def test_queries_are_sliced_by_their_training_count(store: Store) -> None:
    model, split = walker(store.num_items, whole=True), load_split(store, "loo")
    found = evaluate_retrieval(model, store, split)
    queries = np.arange(len(found.events)) % 3
    searched = replace(found, queries=queries, query_counts=np.array([0, 9, 0]))
    by_query = searched.slices()["query"]
    assert {name: part["targets"] for name, part in by_query.items()} == {
        "head": int((queries == 1).sum()),
        "cold": int((queries == 2).sum()),
    }


def test_the_models_mode_is_put_back(store: Store) -> None:
    model = walker(store.num_items, whole=True).train()
    found = evaluate_retrieval(model, store, load_split(store, "loo"))
    assert model.training
    assert len(found.ranks)


def test_a_window_without_targets_is_a_clear_error(store: Store) -> None:
    split = load_split(store, "loo")
    with pytest.raises(StoreError, match="no targets in window 'train'"):
        evaluate_retrieval(walker(store.num_items, whole=True), store, split, "train")
