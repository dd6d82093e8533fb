"""The light two-tower: what it computes, and that training it is worth it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penchant.baselines.ranking.objective import listwise
from penchant.data.history import requests_before_events
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.funnel.features import REQUEST_FEATURES, Features
from penchant.funnel.prerank import LightTwoTower, LightTwoTowerConfig
from penchant.funnel.rank import ModelScorer
from penchant.funnel.stages import Candidates
from penchant.models import Sizes
from penchant.training.candidates import CandidateArrays, CandidateBatches
from tests.funnel.test_features import NUM_ITEMS, candidates_of, requests_of, some_features


def test_the_score_is_a_dot_product_of_two_towers_plus_the_features_part() -> None:
    torch.manual_seed(0)
    features = some_features()
    sizes = Sizes(num_items=NUM_ITEMS, num_categories=3, num_features=len(features.names))
    model = LightTwoTower(LightTwoTowerConfig(width=4, recent=2), sizes).eval()
    inputs = features(requests_of([[1, 2, 3], []], [[9, 5, 2], []]), candidates_of([[3, 9], [7, 2]]))
    model.fit_inputs(features, [inputs])
    table = model.vectors(torch.arange(NUM_ITEMS + 1))  # can be computed before any request
    got, scaled = model(inputs), model.scale(inputs.features)
    for b, history in enumerate([[2, 3], []]):  # the last two
        mean = sum((table[i] for i in history), torch.zeros(4)) / max(len(history), 1)
        user = model.tower(torch.cat([mean, scaled[b, 0, : len(REQUEST_FEATURES)]]))
        for k, item in enumerate(inputs.items[b]):
            expected = user @ table[item] + model.pair(scaled[b, k])[0]
            assert got[b, k].item() == pytest.approx(expected.item(), abs=1e-5)
    assert not table[0].any()


def some_candidates(store: Store, events: np.ndarray, seed: int) -> Candidates:
    """Each request's target among 29 other items, in an order and with provenance that say nothing."""
    rng, targets = np.random.default_rng(seed), target(store, events)
    catalogue = np.arange(1, store.num_items + 1)
    items = np.stack([rng.permutation(np.setdiff1d(catalogue, t))[:30] for t in targets])
    items[np.arange(len(events)), rng.integers(0, 30, len(events))] = targets
    item = torch.from_numpy(items)
    return Candidates.of_channel("random", item, torch.zeros(item.shape))


def target(store: Store, events: np.ndarray) -> np.ndarray:
    return store.event_item[events].astype(np.int64)


def test_a_trained_pre_ranker_keeps_more_targets_than_chance(store: Store) -> None:
    split = load_split(store, "funnel")
    features = Features.fit(store, split, channels=("random",))
    events = np.sort(np.concatenate([split.events("train"), split.events("rank")]))
    arrays = CandidateArrays.collect(events, [some_candidates(store, events, 0)])
    batches = CandidateBatches(store, features, arrays, cells=3000)
    torch.manual_seed(0)
    sizes = Sizes(num_items=store.num_items, num_categories=store.num_categories, num_features=len(features.names))
    model = LightTwoTower(LightTwoTowerConfig(), sizes)
    model.fit_inputs(features, [batches.batch(step).inputs for step in range(5)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(4 * batches.steps_per_epoch):
        loss = listwise(model, batches.batch(step))["target"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    judged = split.targets("test")
    scored = ModelScorer(model, features).score(
        requests_before_events(store, judged, 50), some_candidates(store, judged, 1)
    )
    kept = (scored.top(6).items.numpy() == target(store, judged)[:, None]).any(1).mean()
    assert kept > 0.4  # chance is 6 in 30
