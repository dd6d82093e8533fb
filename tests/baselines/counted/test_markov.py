"""The Markov chain against a loop over every user's events."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from penchant.baselines.counted.markov import Markov, MarkovConfig
from penchant.data.history import requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.models import Sizes
from tests.checkerboard import requests_of


def fitted(store: Store, split_name: str, **config: float) -> Markov:
    model = Markov(MarkovConfig(**config), Sizes(num_items=store.num_items))  # pyright: ignore[reportArgumentType]
    model.fit(store, load_split(store, split_name))
    return model


def loop(store: Store, split_name: str, neighbours: int, w: float) -> np.ndarray:
    """P(j | i) as the class docstring says it, row 0 = popularity."""
    split = load_split(store, split_name)
    items = store.num_items + 1
    follows, popular, total = Counter[tuple[int, int]](), np.zeros(items), 0
    for user in range(1, store.num_users + 1):
        events = store.event_item[split.starts("train")[user] : split.stops("train")[user]].tolist()
        follows.update(pairwise(events))
        for item in events:
            popular[item] += 1
            total += 1
    popular /= total
    out = np.zeros((items, items))
    for i in range(items):
        row = sorted(((-n, j) for (before, j), n in follows.items() if before == i))
        all_of_i = -sum(n for n, _ in row)
        out[i] = w * popular / (all_of_i + w)
        for n, j in row[:neighbours]:
            out[i, j] += -n / (all_of_i + w)
    return out


@pytest.mark.parametrize(("split_name", "neighbours", "w"), [("loo", 80, 20.0), ("temporal-last", 3, 0.5)])
def test_scores_are_smoothed_transition_shares(store: Store, split_name: str, neighbours: int, w: float) -> None:
    model = fitted(store, split_name, neighbours=neighbours, smoothing=w)
    expected = loop(store, split_name, neighbours, w)
    last = list(range(1, store.num_items + 1))
    scores = model.score_items(requests_of([], *[[7, i] for i in last])).numpy()
    assert np.isneginf(scores[:, 0]).all()
    np.testing.assert_allclose(scores[:, 1:], expected[:, 1:], rtol=1e-5, atol=1e-7)


def test_with_every_successor_kept_scores_sum_to_one(store: Store) -> None:
    scores = fitted(store, "loo", neighbours=80).score_items(requests_of([], [1], [2]))
    assert scores[:, 1:].sum(1).tolist() == pytest.approx([1.0] * 3)


def test_the_next_item_is_found_where_order_can_be_learned(store: Store) -> None:
    model = fitted(store, "loo", neighbours=10)
    targets = load_split(store, "loo").targets("test")
    wanted = torch.from_numpy(store.event_item[targets].astype(np.int64))[:, None]
    scores = model.score_items(requests_before_events(store, targets, 50))
    hit = (scores > scores.gather(1, wanted)).sum(1) < 10
    assert hit.float().mean() > 0.4  # 10 of 80 items by chance: 0.125


@pytest.mark.parametrize("config", [{"neighbours": 0}, {"smoothing": 0.0}])
def test_impossible_sizes_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        MarkovConfig(**config)  # pyright: ignore[reportArgumentType]
