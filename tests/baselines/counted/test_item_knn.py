"""Item-kNN against sets of users."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penchant.baselines.counted import item_knn
from penchant.baselines.counted.item_knn import ItemKNN, ItemKNNConfig
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.models import Sizes
from tests.checkerboard import requests_of


def fitted(store: Store, config: ItemKNNConfig) -> ItemKNN:
    model = ItemKNN(config, Sizes(num_items=store.num_items))
    model.fit(store, load_split(store, "loo"))
    return model


def loop(store: Store, shrink: float, max_user_events: int) -> np.ndarray:
    """sim(i, j) from sets."""
    split = load_split(store, "loo")
    users: list[set[int]] = [set() for _ in range(store.num_items + 1)]
    for user in range(1, store.num_users + 1):
        events = store.event_item[split.starts("train")[user] : split.stops("train")[user]]
        for item in events[-max_user_events:].tolist():
            users[item].add(user)
    out = np.zeros((len(users), len(users)))
    for i, of_i in enumerate(users):
        for j, of_j in enumerate(users):
            if i != j and of_i & of_j:
                out[i, j] = len(of_i & of_j) / (np.sqrt(len(of_i) * len(of_j)) + shrink)
    return out


@pytest.mark.parametrize("block_pairs", [1, 500, 2**23])
def test_neighbours_are_the_most_similar_whatever_the_block(
    store: Store, monkeypatch: pytest.MonkeyPatch, block_pairs: int
) -> None:
    monkeypatch.setattr(item_knn, "BLOCK_PAIRS", block_pairs)
    model = fitted(store, ItemKNNConfig(neighbours=7, shrink=3.0, max_user_events=12))
    expected = loop(store, 3.0, 12)
    for i in range(1, store.num_items + 1):
        order = np.lexsort((np.arange(expected.shape[1]), -expected[i].astype(np.float32)))
        order = [j for j in order[:7] if expected[i, j] > 0]
        assert model.neighbours[i][model.neighbours[i] > 0].tolist() == order
        np.testing.assert_allclose(model.similarities[i, : len(order)], expected[i, order], rtol=1e-6)


def test_recent_actions_weigh_more(store: Store) -> None:
    config = ItemKNNConfig(neighbours=80, shrink=1.0, max_len=3, decay=0.5)
    similar = loop(store, 1.0, 1000)
    history = [4, 12, 9, 12, 60]  # the first two are beyond max_len
    expected = 0.25 * similar[9] + 0.5 * similar[12] + similar[60]
    scores = fitted(store, config).score_items(requests_of(history, [1], padding=2))[0].numpy()
    assert np.isneginf(scores[expected == 0]).all()
    np.testing.assert_allclose(scores[expected > 0], expected[expected > 0], rtol=1e-5)


def test_an_item_is_no_neighbour_of_itself(store: Store) -> None:
    neighbours = fitted(store, ItemKNNConfig()).neighbours
    assert not (neighbours == torch.arange(len(neighbours))[:, None])[1:].any()


@pytest.mark.parametrize(
    "config", [{"neighbours": 0}, {"shrink": -1.0}, {"decay": 0.0}, {"decay": 1.5}, {"max_len": 0}]
)
def test_impossible_settings_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        ItemKNNConfig(**config)  # pyright: ignore[reportArgumentType]
