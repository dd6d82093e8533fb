"""Batches of impressions and of candidates: each once, with the past alone, the same for the same step and seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.baselines.ranking.din import DIN
from penchant.baselines.ranking.parts import RankerConfig
from penchant.data.history import requests_before_events, requests_before_times
from penchant.data.split import Split, load_split
from penchant.data.store import Store
from penchant.errors import RunError, StoreError
from penchant.funnel.features import SIMILARITY_FEATURES, Features
from penchant.funnel.stages import Candidates
from penchant.models import Sizes
from penchant.training.candidates import CandidateArrays, CandidateBatches
from penchant.training.impressions import BatchPlan, ImpressionBatches, RankBatch, ends_before, evaluate_impressions
from tests.funnel.embedders import Summed


@pytest.fixture(scope="module")
def split(store: Store) -> Split:
    return load_split(store, "funnel")


@pytest.fixture(scope="module")
def features(store: Store, split: Split) -> Features:
    return Features.fit(store, split, max_len=12)


def same(a: RankBatch, b: RankBatch) -> bool:
    return (
        torch.equal(a.inputs.items, b.inputs.items)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.inputs.features, b.inputs.features)
        and torch.equal(a.inputs.requests.history, b.inputs.requests.history)
    )


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60)), min_size=1, max_size=80),
    cells=st.integers(1, 200),
)
def test_an_epoch_holds_every_row_once_within_the_bound(sizes: list[tuple[int, int]], cells: int) -> None:
    widths, lengths = np.array(sizes).T
    plan = BatchPlan(widths, lengths, cells, seed=3)
    for epoch in range(2):
        batches = [plan.rows(epoch * plan.steps_per_epoch + i) for i in range(plan.steps_per_epoch)]
        assert sorted(np.concatenate(batches)) == list(range(len(sizes)))
        assert all(len(rows) == 1 or len(rows) * widths[rows].max() <= cells for rows in batches)
    assert sorted(np.concatenate(list(plan.in_order()))) == list(range(len(sizes)))


def test_epochs_differ_and_a_new_process_gets_the_same_steps(store: Store, split: Split, features: Features) -> None:
    def batches(seed: int = 0) -> ImpressionBatches:
        return ImpressionBatches(store, split, "train", features, cells=200, seed=seed)

    first = batches()
    steps = first.steps_per_epoch
    assert steps > 5
    forward = [first.batch(step) for step in range(2 * steps)]
    resumed = batches()  # asked out of order, from the second epoch back into the first
    assert all(same(resumed.batch(step), forward[step]) for step in (steps + 2, 1, steps + 3, 0))
    assert not all(same(a, b) for a, b in zip(forward[:steps], forward[steps:], strict=True))
    assert not all(same(batches(seed=1).batch(step), forward[step]) for step in range(steps))


@pytest.mark.parametrize("max_items", [64, 4])
def test_every_impression_comes_once_with_its_own_label(
    store: Store, split: Split, features: Features, max_items: int
) -> None:
    batches = ImpressionBatches(store, split, "valid", features, cells=100, max_items=max_items)
    got = []
    for batch, shown in batches.in_order():
        assert batch.inputs.items.shape == batch.labels.shape == batch.mask.shape == shown.shape
        assert batch.inputs.items.shape[1] <= max_items
        assert batch.mask.numel() <= 100
        np.testing.assert_array_equal(batch.mask.numpy(), shown >= 0)
        assert not batch.labels[~batch.mask].any()
        rows = shown[shown >= 0]
        np.testing.assert_array_equal(batch.inputs.items[batch.mask].numpy(), store.impression_item[rows])
        np.testing.assert_array_equal(batch.labels[batch.mask].numpy(), store.impression_label[rows])
        users = np.repeat(batch.inputs.requests.users.numpy()[:, None], shown.shape[1], axis=1)[shown >= 0]
        np.testing.assert_array_equal(users, store.request_user[np.searchsorted(store.request_indptr, rows, "right")])
        got.append(rows)
    requests = split.requests(store, "valid")
    expected = np.concatenate([np.arange(*store.request_indptr[r - 1 : r + 1]) for r in requests])
    assert sorted(np.concatenate(got)) == expected.tolist()


def test_histories_are_strictly_before_the_request(store: Store, split: Split, features: Features) -> None:
    for window in split.windows:
        for batch, _ in ImpressionBatches(store, split, window, features, cells=500).in_order():
            requests = batch.inputs.requests
            assert (requests.history_times_ms < requests.times_ms[:, None])[requests.mask].all()
            expected = requests_before_times(store, requests.users.numpy(), requests.times_ms.numpy(), 12)
            assert torch.equal(requests.history, expected.history)
            assert expected.history_queries is not None
            assert requests.history_queries is not None
            assert torch.equal(requests.history_queries, expected.history_queries)


def test_each_request_brings_what_was_typed(store: Store, split: Split, features: Features) -> None:
    batches = ImpressionBatches(store, split, "valid", features, cells=500)
    typed = [q for batch, _ in batches.in_order() for q in batch.inputs.requests.queries or ()]
    expected = [store.query_texts[store.request_query[r]] for r in split.requests(store, "valid")]
    assert sorted(typed) == sorted(expected)
    assert len(set(typed)) == 2


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_all_ends_at_once_are_the_ends_one_by_one(store: Store, seed: int) -> None:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, store.num_users + 1, 30)
    times = rng.choice(store.event_ts_ms, 30) + rng.integers(-1, 2, 30)
    expected = [
        store.user_indptr[u] + sum(store.event_ts_ms[store.user_indptr[u] : store.user_indptr[u + 1]] < t)
        for u, t in zip(users, times, strict=True)
    ]
    assert ends_before(store, users, times).tolist() == expected


def test_a_window_without_impressions_says_what_to_do(store: Store, split: Split, features: Features) -> None:
    with pytest.raises(StoreError, match="cuts by order"):
        ImpressionBatches(store, load_split(store, "loo"), "test", features)
    late = Split("late", split.windows, split.target, (2**61,) * 3, split.ends, split.user_indptr, "")
    with pytest.raises(StoreError, match="no impressions in window 'test'"):
        ImpressionBatches(store, late, "test", features)


def test_scores_of_impressions_come_in_the_stores_order_whatever_the_batches(
    store: Store, split: Split, features: Features
) -> None:
    torch.manual_seed(0)
    sizes = Sizes(num_items=store.num_items, num_categories=store.num_categories, num_features=len(features.names))
    model = DIN(RankerConfig(), sizes).train()
    large = evaluate_impressions(model, features, store, split, "test")
    small = evaluate_impressions(model, features, store, split, "test", cells=30)
    assert model.training
    np.testing.assert_allclose(large.scores, small.scores, atol=1e-5)
    requests = split.requests(store, "test")
    np.testing.assert_array_equal(large.requests, np.repeat(requests, 10))
    rows = np.concatenate([np.arange(*store.request_indptr[r - 1 : r + 1]) for r in requests])
    np.testing.assert_array_equal(large.labels, store.impression_label[rows])
    np.testing.assert_array_equal(large.users, store.request_user[large.requests])
    r = requests[3]
    shown = store.impression_item[store.request_indptr[r - 1] : store.request_indptr[r]]
    items = torch.tensor(shown.tolist())[None]
    at = requests_before_times(store, store.request_user[[r]], store.request_ts_ms[[r]], 99)
    with torch.no_grad():
        expected = model.eval()(features.of_items(at, items))[0]
    np.testing.assert_allclose(large.scores[30:40], expected.numpy(), atol=1e-5)


def some_candidates(store: Store, events: np.ndarray, k: int = 30, seed: int = 0) -> list[Candidates]:
    """Two channels' lists at random, in parts of different width; about two in three hold the target."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, rows in enumerate(np.array_split(events, 3)):
        width = k - i
        items = np.stack([rng.permutation(store.num_items)[:width] + 1 for _ in rows])
        for b, event in enumerate(rows):
            target = store.event_item[event]
            if rng.random() < 0.5 and target not in items[b]:
                items[b, rng.integers(width)] = target
        items[rng.random(len(rows)) < 0.3, -5:] = 0
        ranks = rng.integers(0, 50, (*items.shape, 2)) * (items > 0)[..., None]
        scores = rng.normal(size=ranks.shape) * (ranks > 0)
        item = torch.from_numpy(items)
        empty = torch.where(item > 0, 0.0, -torch.inf)
        tensors = torch.from_numpy(ranks), torch.from_numpy(scores).float()
        parts.append(Candidates(item, empty, ("a", "b"), *tensors))
    return parts


@pytest.fixture(scope="module")
def arrays(store: Store, split: Split) -> CandidateArrays:
    events = split.targets("rank")
    return CandidateArrays.collect(events, some_candidates(store, events))


@pytest.fixture(scope="module")
def channel_features(store: Store, split: Split) -> Features:
    similarity = Summed(store.num_items).similarity()
    return Features.fit(store, split, channels=("b", "a"), max_len=12, similarity=similarity)


def test_kept_candidates_are_the_ones_that_were_given(store: Store, arrays: CandidateArrays, tmp_path: Path) -> None:
    parts = some_candidates(store, arrays.events)
    arrays.save(tmp_path)
    loaded = CandidateArrays.load(tmp_path)
    assert isinstance(loaded.items, np.memmap)
    first = len(parts[0].items)
    got, given = loaded.candidates(np.arange(first, first + len(parts[1].items))), parts[1]
    assert got.channels == ("a", "b")
    assert torch.equal(got.items[:, :29], given.items)
    assert torch.equal(got.ranks[:, :29], given.ranks)
    assert torch.equal(got.channel_scores[:, :29], given.channel_scores)
    assert not got.items[:, 29:].any()
    assert torch.equal(got.rescored(got.scores).items, got.items)  # the scores say the order they came in


def test_candidates_that_do_not_fit_are_refused(store: Store, arrays: CandidateArrays, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="events"):
        CandidateArrays.collect(arrays.events[1:], some_candidates(store, arrays.events))
    with pytest.raises(RunError, match=str(tmp_path)):
        CandidateArrays.load(tmp_path)
    arrays.save(tmp_path)
    (tmp_path / "ranks.npy").write_bytes((tmp_path / "ranks.npy").read_bytes()[:999])
    with pytest.raises(RunError, match="damaged"):
        CandidateArrays.load(tmp_path)


def test_every_request_that_holds_its_target_trains_once_and_the_others_are_counted(
    store: Store, arrays: CandidateArrays, channel_features: Features
) -> None:
    batches = CandidateBatches(store, channel_features, arrays, cells=400)
    assert batches.num_missed == sum(
        store.event_item[e] not in items for e, items in zip(arrays.events, arrays.items, strict=True)
    )
    assert batches.num_missed > 0
    seen = []
    for step in range(batches.steps_per_epoch):
        batch = batches.batch(step)
        assert batch.mask.numel() <= 400
        assert (batch.labels.sum(1) == 1).all()
        requests = batch.inputs.requests
        for b in range(len(requests)):
            target = int(batch.inputs.items[b][batch.labels[b] == 1])
            seen.append((int(requests.users[b]), int(requests.times_ms[b]), target))
    users = store.event_user[arrays.events]
    expected = [
        (int(u), int(store.event_ts_ms[e]), int(store.event_item[e]))
        for u, e, items in zip(users, arrays.events, arrays.items, strict=True)
        if store.event_item[e] in items
    ]
    assert sorted(seen) == sorted(expected)


def test_training_computes_the_features_that_serving_computes(
    store: Store, arrays: CandidateArrays, channel_features: Features, tmp_path: Path
) -> None:
    batch = CandidateBatches(store, channel_features, arrays).batch(0)
    channel_features.save(tmp_path)
    serving = Features.load(tmp_path, {"summed": Summed(store.num_items).similarity()})
    exact = torch.tensor([not name.startswith("summed:") for name in serving.names])
    assert (~exact).sum() == len(SIMILARITY_FEATURES)
    by_event = {}
    for row, event in enumerate(arrays.events):
        key = (int(store.event_user[event]), int(store.event_ts_ms[event]), int(store.event_item[event]))
        by_event.setdefault(key, row)
    requests = batch.inputs.requests
    checked = 0
    for b in range(len(requests)):
        target = int(batch.inputs.items[b][batch.labels[b] == 1])
        row = by_event[(int(requests.users[b]), int(requests.times_ms[b]), target)]
        rows = np.array([row])
        served = serving(requests_before_events(store, arrays.events[rows], 99), arrays.candidates(rows))
        if not torch.equal(served.requests.history[0], requests.history[b][requests.mask[b]]):
            continue  # another event of the same user, item and time
        place = {int(item): k for k, item in enumerate(served.items[0]) if item}
        for k, item in enumerate(batch.inputs.items[b].tolist()):
            if item:
                ours, theirs = batch.inputs.features[b, k], served.features[0, place[item]]
                assert torch.equal(ours[exact], theirs[exact])
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # products of another shape round anew
                checked += 1
    assert checked > 100


def test_impressions_are_trained_on_with_the_features_they_are_served_with(
    store: Store, split: Split, features: Features, tmp_path: Path
) -> None:
    similar = replace(features, similarity=Summed(store.num_items).similarity())
    similar.save(tmp_path)
    serving = Features.load(tmp_path, {"summed": Summed(store.num_items).similarity()})
    batch = ImpressionBatches(store, split, "rank", similar).batch(0)
    inputs = batch.inputs
    assert inputs.features[inputs.mask][:, -len(SIMILARITY_FEATURES) :].any(0).all()
    for b in range(len(inputs.requests)):
        users, times = (of[b : b + 1].numpy() for of in (inputs.requests.users, inputs.requests.times_ms))
        served = serving.of_items(requests_before_times(store, users, times, 99), inputs.items[b : b + 1])
        torch.testing.assert_close(served.features[0], inputs.features[b], rtol=1e-5, atol=1e-5)


def test_candidate_batches_depend_on_step_and_seed_alone(
    store: Store, arrays: CandidateArrays, channel_features: Features
) -> None:
    def batches(seed: int = 0) -> CandidateBatches:
        return CandidateBatches(store, channel_features, arrays, cells=900, seed=seed)

    one = batches()
    steps = one.steps_per_epoch
    forward = [one.batch(step) for step in range(steps + 2)]
    assert all(same(batches().batch(step), forward[step]) for step in (steps + 1, 0, 2))
    assert not same(batches(seed=1).batch(0), forward[0])


def test_candidates_taken_apart_and_joined_are_the_same(arrays: CandidateArrays) -> None:
    half = np.arange(len(arrays.events)) % 2 == 0
    parts = [arrays.take(np.flatnonzero(half)), arrays.take(np.flatnonzero(~half))]
    narrow = replace(parts[1], **{n: getattr(parts[1], n)[:, :5] for n in ("items", "ranks", "channel_scores")})
    joined = CandidateArrays.joined([parts[0], narrow])
    assert np.array_equal(joined.events, np.concatenate([arrays.events[half], arrays.events[~half]]))
    assert np.array_equal(joined.items[: half.sum()], arrays.items[half])
    assert np.array_equal(joined.ranks[half.sum() :, :5], arrays.ranks[~half][:, :5])
    assert not joined.items[half.sum() :, 5:].any()
