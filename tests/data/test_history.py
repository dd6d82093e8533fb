"""Histories: nothing at or after the moment of a request, oldest first, padded on the right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.history import Requests, gather_ragged, requests_before_events, requests_before_times
from penchant.data.store import Store


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
