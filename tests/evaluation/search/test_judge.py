"""Search is judged as a plain loop would: in the whole catalogue, and among what matches the query's words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.history import requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import RunError, StoreError
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.evaluation.results import read_per_user, read_result, write_result
from penchant.evaluation.search.judge import SearchResult, evaluate_search
from penchant.evaluation.search.systems import Lexical, WithinMatches
from penchant.evaluation.search.targets import SearchTargets, search_targets
from penchant.evaluation.significance import paired_bootstrap
from tests.evaluation.models import Fixed, walker
from tests.evaluation.rows import result as row_of


@pytest.fixture(scope="module")
def targets(searched: Store) -> SearchTargets:
    return search_targets(searched, load_split(searched, "temporal-successive"))


@pytest.fixture(scope="module")
def judged(searched: Store, targets: SearchTargets) -> SearchResult:
    return evaluate_search(walker(searched.num_items, whole=True), targets)


def place(scores: dict[int, float], item: int) -> float:
    """1-based, average of ties; inf where the item is not among them."""
    if item not in scores:
        return float("inf")
    higher = sum(score > scores[item] for score in scores.values())
    return higher + (sum(score == scores[item] for score in scores.values()) + 1) / 2


def test_targets_are_the_window_s_clicks_that_came_from_a_query(searched: Store, targets: SearchTargets) -> None:
    window = load_split(searched, "temporal-successive").targets("test")
    assert targets.events.tolist() == [e for e in window if searched.event_query[e]]
    assert 0 < len(targets.events) < len(window)


def test_ranks_are_those_of_a_loop(searched: Store, targets: SearchTargets, judged: SearchResult) -> None:
    model = walker(searched.num_items, whole=True).eval()
    requests = requests_before_events(searched, targets.events, 50)
    assert requests.queries is not None
    with torch.no_grad():
        scores = (model.user_vectors(requests) @ model.item_vectors().T).tolist()
    for t, text in enumerate(requests.queries):
        item = int(searched.event_item[targets.events[t]])
        every = {i: scores[t][i] for i in range(1, searched.num_items + 1)}
        matching = targets.matcher.of(text).items.tolist()
        assert judged.ranks[t] == place(every, item)
        assert judged.match_ranks[t] == place({i: every[i] for i in matching}, item)
        assert judged.outside[t] == (item not in matching)
        best = sorted(every, key=lambda i: (-every[i], i))[:10]
        assert judged.lists[t].tolist() == best
    assert all(f"HR@{k}" in judged.values for k in (5, 10, 20, 50, 100))


def test_the_whole_catalogue_is_ranked_as_everywhere(searched: Store, targets: SearchTargets) -> None:
    model = walker(searched.num_items, whole=False)
    everywhere = evaluate_retrieval(model, searched, targets.split)
    at = np.isin(everywhere.events, targets.events)
    np.testing.assert_array_equal(evaluate_search(model, targets).ranks, everywhere.ranks[at])


@settings(deadline=None, max_examples=10)
@given(memory_mb=st.floats(0.01, 1), batch_size=st.integers(1, 300))
def test_memory_and_batches_change_nothing(
    searched: Store, targets: SearchTargets, judged: SearchResult, memory_mb: float, batch_size: int
) -> None:
    model = walker(searched.num_items, whole=True)
    again = evaluate_search(model, targets, memory_mb=memory_mb, batch_size=batch_size)
    for name in ("ranks", "match_ranks", "outside", "lists"):
        np.testing.assert_array_equal(getattr(again, name), getattr(judged, name))


def test_what_is_not_scored_is_a_miss_and_a_target_outside_the_matches_is_counted(
    searched: Store, targets: SearchTargets
) -> None:
    nothing = torch.full((searched.num_items + 1,), -torch.inf)
    silent = evaluate_search(Fixed(nothing), targets)
    assert silent.metrics()["HR@100"] == silent.metrics()["HR@100 matches"] == 0
    assert silent.metrics()["Unanswered"] == 1
    assert not silent.lists.any()
    assert "got no answer" in silent.notes[0]
    found = evaluate_search(Lexical(targets.matcher), targets)
    assert np.isinf(found.match_ranks[found.outside]).all()
    np.testing.assert_array_equal(found.ranks, found.match_ranks)
    assert found.metrics()["Outside matches"] == found.outside.mean()


def test_slices_are_by_how_often_the_query_was_typed_and_the_item_clicked(
    searched: Store, targets: SearchTargets, judged: SearchResult
) -> None:
    train = targets.split.events("train")
    typed = set(np.asarray(searched.event_query[train]).tolist())
    new = ~np.isin(searched.event_query[targets.events], list(typed))
    slices = judged.slices()
    assert slices["query"].get("unseen", {"targets": 0})["targets"] == new.sum()
    assert sum(of["targets"] for of in slices["query"].values()) == len(targets.events)
    clicked = set(np.asarray(searched.event_item[train]).tolist())
    cold = ~np.isin(searched.event_item[targets.events], list(clicked))
    assert slices["item"].get("cold", {"targets": 0})["targets"] == cold.sum()
    head = slices["query"]["head"]
    counts = np.bincount(searched.event_query[train], minlength=searched.num_queries + 1)
    common = {int(q) for q in np.argsort(-counts[1:], kind="stable")[:1] + 1}
    assert head["targets"] >= np.isin(searched.event_query[targets.events], list(common)).sum() > 0
    assert 0 < head["HR@10"] < 1


def test_users_values_are_written_and_compared_in_pairs(
    searched: Store, targets: SearchTargets, judged: SearchResult, tmp_path: Path
) -> None:
    other = evaluate_search(Lexical(targets.matcher), targets)
    for row, result in (("walker", judged), ("lexical", other)):
        described = row_of(row=row, metrics=dict(result.metrics()), slices=result.slices())
        path = write_result(tmp_path, described, result.per_user())
        assert read_result(path).metrics == result.metrics()
        kept = read_per_user(tmp_path, described)
        assert kept is not None
        assert kept.column_names[:4] == ["user", "weight", "HR@10", "NDCG@10"]
        for metric in ("HR@10 matches", "MRR@10"):
            mean = np.average(kept[metric].to_numpy(), weights=kept["weight"].to_numpy())
            assert mean == pytest.approx(result.metrics()[metric], rel=1e-5)
    a, b = other.per_user(), judged.per_user()
    assert a["user"].equals(b["user"])
    columns = (a["HR@10"], b["HR@10"], a["weight"])
    gain = paired_bootstrap(*(column.to_numpy() for column in columns))
    assert gain.value == pytest.approx(other.metrics()["HR@10"] - judged.metrics()["HR@10"], abs=1e-6)
    assert gain.low < gain.value < gain.high


def test_a_subsample_is_drawn_at_random_and_always_the_same(searched: Store) -> None:
    split = load_split(searched, "temporal-successive")
    one, same = (search_targets(searched, split, "valid", targets=20) for _ in range(2))
    assert len(one.events) == 20
    assert one.events.tolist() == same.events.tolist() != search_targets(searched, split, "valid").events[:20].tolist()
    assert "A random 20 of" in one.notes[0]
    assert one.notes[0] in evaluate_search(Lexical(one.matcher), one).notes


def test_a_store_without_searches_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=r"no target of window 'test' .* came from a query.*penchant prepare bazaar"):
        search_targets(store, load_split(store, "temporal-successive"))


def test_scores_that_are_no_numbers_are_refused(searched: Store, targets: SearchTargets) -> None:
    broken = torch.zeros(searched.num_items + 1)
    broken[3] = torch.nan
    with pytest.raises(RunError, match="scores that are not numbers"):
        evaluate_search(Fixed(broken), targets)


def test_popularity_within_the_matches_is_judged_among_them_alone(searched: Store, targets: SearchTargets) -> None:
    counts = torch.from_numpy(targets.split.item_counts(searched)).float()
    found = evaluate_search(WithinMatches(Fixed(counts), targets.matcher), targets)
    whole = evaluate_search(Fixed(counts), targets)
    np.testing.assert_array_equal(found.match_ranks, whole.match_ranks)
    np.testing.assert_array_equal(found.ranks, whole.match_ranks)
    assert not (found.ranks == whole.ranks).all()
