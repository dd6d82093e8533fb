"""Histories: nothing at or after the moment of a request, oldest first, padded on the right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.history import Requests, gather_ragged, requests_before_events, requests_before_times
from penchant.data.store import Store
from tests.data.test_split import store_of


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_event_at_or_after_the_time_is_in_a_history(store: Store, data: st.DataObject) -> None:
    users = data.draw(st.lists(st.integers(0, store.num_users), min_size=1, max_size=8))
    events = data.draw(st.lists(st.integers(0, store.num_events - 1), min_size=len(users), max_size=len(users)))
    # Times of real events, and a step beside them: ties are where a leak would be.
    steps = data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=len(users), max_size=len(users)))
    times = np.asarray(store.event_ts_ms)[events] + steps
    max_len = data.draw(st.integers(1, 50))
    requests = requests_before_times(store, np.array(users), times, max_len)
    for row, (user, time) in enumerate(zip(users, times, strict=True)):
        mine = (store.event_user == user) & (np.asarray(store.event_ts_ms) < time)
        expected = np.asarray(store.event_item)[mine][-max_len:]
        kept = requests.mask[row]
        assert requests.history[row][kept].tolist() == expected.tolist()
        assert (requests.history_times_ms[row][kept] < int(time)).all()
        assert kept.tolist() == [True] * len(expected) + [False] * (kept.numel() - len(expected))
        assert not requests.history_times_ms[row][~kept].any()


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_before_an_event_is_what_stands_before_it(store: Store, data: st.DataObject) -> None:
    events = np.array(data.draw(st.lists(st.integers(0, store.num_events - 1), min_size=1, max_size=10)))
    max_len = data.draw(st.integers(1, 50))
    requests = requests_before_events(store, events, max_len)
    for row, event in enumerate(events):
        user = int(store.event_user[event])
        expected = store.event_item[store.user_indptr[user] : event][-max_len:]
        assert requests.history[row][requests.mask[row]].tolist() == expected.tolist()
        assert requests.users[row] == user
        assert requests.times_ms[row] == store.event_ts_ms[event]


def test_a_user_without_history_has_an_empty_one(store: Store) -> None:
    requests = requests_before_times(store, np.array([0, 1]), np.array([2**60, 0]), 10)
    assert requests.history.shape == (2, 0)
    assert requests.lengths.tolist() == [0, 0]
    assert requests_before_times(store, np.array([], np.int64), np.array([], np.int64), 10).history.shape == (0, 0)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_queries_are_the_event_s_own_and_those_of_what_came_before(searched: Store, data: st.DataObject) -> None:
    events = np.array(data.draw(st.lists(st.integers(0, searched.num_events - 1), min_size=1, max_size=10)))
    max_len = data.draw(st.integers(1, 50))
    requests = requests_before_events(searched, events, max_len)
    assert requests.queries is not None
    assert requests.history_queries is not None
    texts = ["", *searched.table("queries")["text"].to_pylist()]
    asked = searched.table("events")["query"].to_pylist()
    for row, event in enumerate(events.tolist()):
        assert requests.queries[row] == texts[asked[event]]
        mine = [e for e in range(event) if searched.event_user[e] == searched.event_user[event]][-max_len:]
        padding = requests.history.shape[1] - len(mine)
        assert requests.history_queries[row].tolist() == [asked[e] for e in mine] + [0] * padding


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_before_a_time_no_query_at_or_after_it_is_known(searched: Store, data: st.DataObject) -> None:
    events = data.draw(st.lists(st.integers(0, searched.num_events - 1), min_size=1, max_size=8))
    users = [int(searched.event_user[e]) for e in events]
    times = np.asarray(searched.event_ts_ms)[events] + data.draw(st.integers(-1, 1))
    typed = tuple(f"query {e}" for e in events)
    requests = requests_before_times(searched, np.array(users), times, 30, typed)
    assert requests.queries == typed
    assert requests.history_queries is not None
    for row, (user, time) in enumerate(zip(users, times, strict=True)):
        mine = (searched.event_user == user) & (np.asarray(searched.event_ts_ms) < time)
        expected = np.asarray(searched.event_query)[mine][-30:].tolist()
        assert requests.history_queries[row].tolist() == expected + [0] * (requests.history.shape[1] - len(expected))
    assert requests_before_times(searched, np.array(users), times, 30).queries is None


def test_queries_keep_to_their_requests(searched: Store) -> None:
    events = np.arange(0, searched.num_events, 17)
    whole = requests_before_events(searched, events, 1000)
    for cut in (whole.last(3), whole.last(3).to("cpu")):
        direct = requests_before_events(searched, events, 3)
        assert cut.queries == direct.queries
        assert cut.history_queries is not None
        assert direct.history_queries is not None
        assert torch.equal(cut.history_queries, direct.history_queries)
    for some in (whole.rows(torch.tensor([1, 4])), whole.rows(slice(1, 5, 3))):
        assert whole.history_queries is not None
        assert some.history_queries is not None
        assert torch.equal(some.history_queries, whole.history_queries[[1, 4]])


def test_a_store_without_queries_has_none(tmp_path: Path) -> None:
    quiet = store_of([[(1, 0), (2, 1), (1, 2)]], tmp_path / "s")
    for requests in (
        requests_before_events(quiet, np.array([2]), 5),
        requests_before_times(quiet, np.array([1]), np.array([2]), 5),
    ):
        assert requests.queries is None
        assert requests.history_queries is None
        assert requests.last(1).rows(slice(0, 1)).to("cpu").history_queries is None


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 15))
def test_ragged_rows_match_a_loop(lengths: list[int], max_len: int) -> None:
    ends = np.cumsum(lengths)
    starts = ends - lengths
    values = np.arange(1, ends[-1] + 1)
    rows = [values[s:e][-max_len:] for s, e in zip(starts, ends, strict=True)]
    width = max(len(r) for r in rows)
    expected = np.stack([np.pad(r, (0, width - len(r))) for r in rows])
    assert np.array_equal(gather_ragged(values, starts, ends, max_len), expected)


@pytest.mark.parametrize("max_len", [1, 3, 100])
def test_last_keeps_the_newest_and_no_more_padding_than_needed(store: Store, max_len: int) -> None:
    events = np.arange(0, store.num_events, 17)
    cut = requests_before_events(store, events, 1000).last(max_len)
    direct = requests_before_events(store, events, max_len)
    assert torch.equal(cut.history, direct.history)
    assert torch.equal(cut.history_times_ms, direct.history_times_ms)


def test_one_request_is_a_batch_of_one() -> None:
    one = Requests(torch.tensor([1]), torch.tensor([5]), torch.tensor([[7, 8, 0]]), torch.tensor([[1, 2, 0]]))
    assert len(one) == 1
    assert one.lengths.tolist() == [2]
    assert one.last(1).history.tolist() == [[8]]
    assert one.to("cpu").history.tolist() == [[7, 8, 0]]
