"""Splits: what a target may see, and what it may not."""

from __future__ import annotations

import numpy as np
import pytest

from penchant.data.history import requests_before_events
from penchant.data.split import RULES, load_split
from penchant.data.store import Store


@pytest.mark.parametrize("name", RULES)
def test_windows_partition_every_users_events(store: Store, name: str) -> None:
    split = load_split(store, name)
    rows = np.concatenate([split.events(w) for w in split.windows])
    assert np.array_equal(np.sort(rows), np.arange(store.num_events))


@pytest.mark.parametrize("name", RULES)
def test_history_is_what_the_user_did_before_the_target(store: Store, name: str) -> None:
    split = load_split(store, name)
    targets = split.targets("test")
    requests = requests_before_events(store, targets, max_len=1000)
    for row, event in enumerate(targets):
        user = store.event_user[event]
        expected = store.event_item[store.user_indptr[user] : event]
        assert requests.history[row][requests.mask[row]].tolist() == expected.tolist()
        assert len(expected) > 0
