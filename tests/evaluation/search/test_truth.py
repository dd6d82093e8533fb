"""The true relevance of what is shown: the market's own, lived again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rich.console import Console

from penchant.bazaar.behaviour import DWELL_MS
from penchant.bazaar.oracle import market_of, replay
from penchant.bazaar.queries import relevance
from penchant.bazaar.source import Bazaar, read
from penchant.data.prepare import prepare
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import StoreError
from penchant.evaluation.search.judge import SearchResult, evaluate_search
from penchant.evaluation.search.systems import Lexical
from penchant.evaluation.search.targets import SearchTargets, search_targets
from penchant.evaluation.search.truth import BazaarTruth, TrueRate, TrueRelevance
from tests.evaluation.models import Fixed


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Store:
    options = Bazaar(size="tiny", actions=6_000, pictures=False)
    return prepare(read(options), tmp_path_factory.mktemp("bazaar") / "store", console=Console(quiet=True))


@pytest.fixture(scope="module")
def targets(market: Store) -> SearchTargets:
    return search_targets(market, load_split(market, "temporal-successive"), targets=150)


@pytest.fixture(scope="module")
def truth(targets: SearchTargets) -> BazaarTruth:
    return BazaarTruth(targets)


@pytest.fixture(scope="module")
def judged(market: Store, targets: SearchTargets, truth: BazaarTruth) -> dict[str, SearchResult]:
    popular = Fixed(torch.from_numpy(targets.split.item_counts(market)).float())
    systems = {
        "lexical": Lexical(targets.matcher),
        "popular": popular,
        "relevance": TrueRelevance(truth),
        "clicks": TrueRate(truth),
    }
    return {name: evaluate_search(system, targets, truth=truth) for name, system in systems.items()}


def test_each_search_means_what_was_meant_when_it_was_typed(
    market: Store, targets: SearchTargets, truth: BazaarTruth
) -> None:
    meant = {}
    for log in replay(market_of(market), targets.split, targets.window):
        r = log.requests
        for at in range(len(r)):
            for place, item in enumerate(log.items[at]):
                click = (f"u{r.user[at]}", int(r.ts_ms[at]) + (place + 1) * DWELL_MS, f"i{item}")
                meant[click] = (r.query[at], r.truth.asked[at].tolist())
    for target, event in enumerate(targets.events):
        user, item = market.user_ids[market.event_user[event]], market.item_ids[market.event_item[event]]
        text, asked = meant[user, int(market.event_ts_ms[event]), item]
        assert text == market.query_texts[market.event_query[event]]
        assert truth.asked[target].tolist() == asked


def test_relevance_is_the_market_s_of_the_very_item(market: Store, targets: SearchTargets, truth: BazaarTruth) -> None:
    rng = np.random.default_rng(0)
    lists = rng.integers(0, market.num_items + 1, (len(targets.events), 7))
    lists[:, 0] = market.event_item[targets.events]
    told = truth.relevance(lists)
    attributes = market_of(market).market.catalogue.attributes
    for target, row in enumerate(lists):
        for place, item in enumerate(row):
            number = int(market.item_ids[item][1:]) if item else 0
            asked = tuple(truth.asked[target].tolist())
            expected = relevance(asked, attributes, np.array([number]))[0] if item else 0
            assert told[target, place] == pytest.approx(expected)
    assert (told[:, 0] > 0).all()  # nobody is shown, and clicks, another category than was asked for
    assert (told[:, 1:] == 0).mean() > 0.8


def test_what_a_list_shows_is_judged_place_by_place(judged: dict[str, SearchResult], truth: BazaarTruth) -> None:
    lexical = judged["lexical"]
    for target in range(0, len(lexical.events), 7):
        shown = [(i, truth.relevance(lexical.lists)[target, p]) for p, i in enumerate(lexical.lists[target])]
        assert lexical.values["Relevance@10"][target] == pytest.approx(sum(r for i, r in shown if i) / 10)
        assert lexical.values["Irrelevant@10"][target] == sum(i > 0 and r == 0 for i, r in shown) / 10
        assert lexical.values["Filled@10"][target] == sum(i > 0 for i, _ in shown) / 10
    assert lexical.metrics()["Filled@10"] < 1


def test_nobody_is_more_relevant_than_the_truth_and_taste_alone_breaks_it(judged: dict[str, SearchResult]) -> None:
    most = judged["relevance"].values["Relevance@10"]
    for name in ("lexical", "popular", "clicks"):
        assert (judged[name].values["Relevance@10"] <= most + 1e-6).all()
    metrics = {name: result.metrics() for name, result in judged.items()}
    assert metrics["popular"]["Relevance@10"] < 0.5 * metrics["lexical"]["Relevance@10"]
    assert metrics["popular"]["Irrelevant@10"] > 0.5 > metrics["lexical"]["Irrelevant@10"]
    assert metrics["clicks"]["Irrelevant@10"] == 0
    assert metrics["clicks"]["HR@10"] > max(metrics[name]["HR@10"] for name in ("lexical", "popular", "relevance"))


def test_without_a_truth_nothing_is_said_of_relevance(targets: SearchTargets) -> None:
    assert "Relevance@10" not in evaluate_search(Lexical(targets.matcher), targets).metrics()


def test_a_store_of_other_data_or_targets_are_refused(searched: Store, market: Store, truth: BazaarTruth) -> None:
    with pytest.raises(StoreError, match=r"nobody knows its truth.*penchant prepare bazaar"):
        BazaarTruth(search_targets(searched, load_split(searched, "temporal-successive")))
    others = search_targets(market, load_split(market, "temporal-successive"), targets=5)
    with pytest.raises(ValueError, match="of other targets"):
        evaluate_search(Lexical(others.matcher), others, truth=truth)


def test_a_store_that_does_not_happen_again_is_refused(market: Store, targets: SearchTargets) -> None:
    other = Store(market.path)
    other.manifest["generator"]["seed"] = 5
    moved = SearchTargets(other, targets.split, targets.window, targets.events, targets.matcher)
    with pytest.raises(StoreError, match="did not happen again: another version"):
        BazaarTruth(moved)
