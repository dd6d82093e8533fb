"""The oracle: its rates are those of the market, and nobody does better."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from penchant.bazaar.behaviour import draw_requests, react
from penchant.bazaar.oracle import judge, market_of, rates, replay
from penchant.bazaar.policies import ShopPolicy
from penchant.bazaar.source import Bazaar, read
from penchant.bazaar.world import World
from penchant.data.prepare import prepare
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import StoreError
from penchant.evaluation.metrics import auc, hr_at
from tests.factories import make_store

OPTIONS = Bazaar(size="tiny", actions=6_000, pictures=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(read(OPTIONS), tmp_path_factory.mktemp("bazaar") / "store", console=Console(quiet=True))


@pytest.mark.parametrize("kind", ["search", "category", "home"])
def test_the_rates_are_those_of_the_market(kind: str) -> None:
    config = OPTIONS.config()
    world = World(replace(config, knobs=replace(config.knobs, exploration=0.0)))
    market, rng = world.market, np.random.default_rng(0)
    many = draw_requests(market, rng, 30, np.arange(1, 101, dtype=np.int32), 0)
    is_kind = {"search": many.is_search, "category": many.category > 0}
    is_kind["home"] = ~is_kind["search"] & ~is_kind["category"]
    at = int(np.flatnonzero(is_kind[kind])[0])
    n = 4000
    same = many.take(np.full(n, at))
    log = react(market, rng, same, ShopPolicy(market).rank(same))
    found = np.bincount(log.items[log.reached > 0], minlength=len(market.catalogue) + 1) / n
    told = rates(market, many, at)["request"]
    assert told.sum() == pytest.approx(found.sum(), rel=0.06)
    assert np.corrcoef(told, found)[0, 1] > 0.98
    assert (np.abs(told - found) < 5 * np.sqrt(np.maximum(told, 1e-3) / n) + 0.15 * told).all()


def test_who_knows_more_ranks_better_and_popularity_ranks_worse_than_all(store: Store) -> None:
    split = load_split(store, "temporal-successive")
    judged = judge(store, split, targets=200)
    hits = {kind: hr_at(ranks, 10).mean() for kind, ranks in judged.ranks.items()}
    assert all(len(ranks) == 200 for ranks in judged.ranks.values())
    top = np.argsort(-split.item_counts(store)[1:])[:10] + 1
    popular = np.isin(store.event_item[split.targets("test")], top).mean()
    assert popular + 0.1 < hits["user"] < hits["session"] < hits["request"]
    assert 0.7 < auc(judged.labels, judged.attractions) < auc(judged.labels, judged.chances) < 0.95


def test_chances_are_calibrated(store: Store) -> None:
    judged = judge(store, load_split(store, "temporal-successive"), targets=1)
    spread = np.sqrt((judged.chances * (1 - judged.chances)).sum())
    assert abs(judged.labels.sum() - judged.chances.sum()) < 4 * spread


def test_a_window_lived_again_has_the_clicks_of_the_store(store: Store) -> None:
    split = load_split(store, "temporal-successive")
    times = np.concatenate([log.requests.ts_ms for log in replay(market_of(store), split, "test")])
    shown = store.request_ts_ms[split.requests(store, "test")]
    assert np.isin(shown, times).all()


def test_a_market_that_does_not_live_again_is_refused(store: Store) -> None:
    split = load_split(store, "temporal-successive")
    generator = store.manifest["generator"]
    changed = {**store.manifest, "generator": {**generator, "knobs": {**generator["knobs"], "noise": 0.6}}}
    other = copy(store)
    other.manifest = changed
    with pytest.raises(StoreError, match=r"of 200 clicks did not happen again"):
        judge(other, split, targets=200)


def test_the_truth_of_real_data_is_not_known(tmp_path: Path) -> None:
    real = make_store(tmp_path / "store")
    with pytest.raises(StoreError, match="nobody knows its truth"):
        market_of(real)
