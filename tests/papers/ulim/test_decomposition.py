"""The parts of a hit rate add up to what the judge counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from penchant.data.history import requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.models import Sizes
from penchant.papers.ulim.decomposition import CATEGORY_KS, decompose
from penchant.papers.ulim.model import ULIM, ULIMConfig
from tests.papers.ulim.made import SMALL

KS = (1, 5, 20, 80)


def model_for(store: Store, **changes: Any) -> ULIM:
    torch.manual_seed(1)
    config = ULIMConfig(**{**SMALL, "num_searched": 2, **changes})
    model = ULIM(config, Sizes(num_items=store.num_items, num_categories=store.num_categories))
    model.set_categories(torch.from_numpy(store.item_category.astype(np.int64)))
    return model.eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channels": "short"},
        {"channels": "long"},
        {"merge": "factorised"},
        {"merge": "raw"},
        {"categories": "last"},
        {"categories": "frequency", "num_searched": 9},
    ],
)
def test_the_parts_are_the_hit_rate_of_the_judge(store: Store, changes: dict[str, Any]) -> None:
    split, model = load_split(store, "temporal-successive"), model_for(store, **changes)
    parts = decompose(model, store, split, "test", KS, targets=60)
    judged = evaluate_retrieval(model, store, split, "test", ks=KS, max_len=model.config.max_len, targets=60)
    for n in KS:
        long, alone = parts.values[f"HR@{n} long"], parts.values[f"HR@{n} short alone"]
        assert np.array_equal(long + alone, judged.values[f"HR@{n}"])
        assert (long <= parts.values["category"]).all()
        assert (parts.values["category"] >= 0).all()
    if model.config.channels == "short":
        assert not parts.values["category"].any()
        assert not any(parts.values[f"HR@{n} long"].any() for n in KS)
    if model.config.channels == "long":
        assert not any(parts.values[f"HR@{n} short alone"].any() for n in KS)
    assert len(parts.notes()) == len(KS) + 1


@torch.no_grad()
def test_the_oracle_searches_the_targets_category_alone(store: Store) -> None:
    split, model = load_split(store, "temporal-successive"), model_for(store, channels="long")
    parts = decompose(model, store, split, "test", KS)
    events = split.targets("test")
    for at in range(0, len(events), 7):
        requests = requests_before_events(store, events[[at]], model.config.max_len)
        item = int(store.event_item[events[at]])
        category = int(store.item_category[item])
        vector = model.toward(requests, torch.tensor([[category]]), torch.ones(1, 1)).vectors[0, 1]
        own = torch.from_numpy(np.flatnonzero(store.item_category == category))
        scores = model.item_vectors()[own] @ vector
        place = 1 + int((scores > scores[own == item]).sum())
        for n in KS:
            assert parts.values[f"HR@{n} oracle"][at] == (place <= n)


def test_category_hits_grow_with_k_and_history_is_counted(store: Store) -> None:
    split, model = load_split(store, "temporal-successive"), model_for(store)
    parts = decompose(model, store, split, "test", (5,))
    for name in ("category", "frequency", "last"):
        means = [parts.values[f"{name} HR@{k}"].mean() for k in CATEGORY_KS]
        assert means == sorted(means)
    assert np.array_equal(parts.values["category HR@2"], parts.values["category"])
    events = split.targets("test")
    for at in range(0, len(events), 11):
        user = int(store.event_user[events[at]])
        rows = np.arange(int(store.user_indptr[user]), int(events[at]))[-model.config.max_len :]
        same = store.item_category[store.event_item[rows]] == store.item_category[store.event_item[events[at]]]
        earlier = same[: max(len(rows) - model.config.short_len, 0)].sum()
        assert parts.lengths[at] == min(earlier, model.config.max_subsequence)
        assert parts.values["empty"][at] == (earlier == 0)
        assert parts.values["unvisited"][at] == (not same.any())
        assert parts.values["repeated"][at] == (store.event_item[events[at]] in store.event_item[rows])


def test_lengths_beyond_the_ordered_places_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="ordered down to place"):
        decompose(model_for(store), store, load_split(store, "loo"), "test", (5000,))
