"""The generated market: the same from its seed, as its equations and knobs say, and open to any policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from penchant.bazaar import world as world_module
from penchant.bazaar.behaviour import CLICK, Log, Requests, sigmoid
from penchant.bazaar.config import SIZES, BazaarConfig, Knobs
from penchant.bazaar.market import Market
from penchant.bazaar.people import AWAKE_DAYS, RETURNING, STEADY, make_people
from penchant.bazaar.policies import RandomPolicy, ShopPolicy, best
from penchant.bazaar.world import World, compare
from penchant.errors import ConfigError
from penchant.evaluation.metrics import gauc

TINY = SIZES["tiny"]
WEEK = replace(TINY, days=7, actions=2_000)


def lived(config: BazaarConfig, days: int | None = None) -> tuple[World, list[Log]]:
    world = World(config)
    return world, list(world.step(ShopPolicy(world.market), config.days if days is None else days))


def tables(logs: Iterable[Log]) -> tuple[pa.Table, pa.Table]:
    logs = list(logs)
    return pa.concat_tables(log.events() for log in logs), pa.concat_tables(log.impressions() for log in logs)


@pytest.fixture(scope="module")
def tiny() -> tuple[World, list[Log]]:
    return lived(TINY)


def test_the_same_seed_gives_the_same_logs_and_another_seed_gives_others() -> None:
    first, again, other = (tables(lived(c)[1]) for c in (WEEK, WEEK, replace(WEEK, seed=1)))
    assert first[0].equals(again[0])
    assert first[1].equals(again[1])
    assert not first[0].equals(other[0])


def test_days_lived_one_by_one_are_the_days_lived_at_once() -> None:
    world, whole = lived(WEEK)
    alone = World(WEEK)
    one_by_one = [log for _ in range(7) for log in alone.step(ShopPolicy(alone.market), 1)]
    assert tables(whole)[1].equals(tables(one_by_one)[1])
    assert tables(world.live(ShopPolicy(world.market), 3))[0].equals(tables(alone.live(ShopPolicy(alone.market), 3))[0])


def test_a_day_comes_in_parts_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "BLOCK", 16)
    _, logs = lived(WEEK, days=2)
    assert len(logs) > 4
    assert all(len(np.unique(log.requests.session)) <= 16 for log in logs)
    numbers = np.concatenate([log.requests.request for log in logs])
    assert (np.diff(numbers) > 0).all()


def test_a_size_brings_its_actions_and_a_heavy_tail(tiny: tuple[World, list[Log]]) -> None:
    _, logs = tiny
    clicks = sum(int((log.reached > 0).sum()) for log in logs)
    assert clicks == pytest.approx(TINY.actions, rel=0.15)
    users = np.concatenate([log.requests.user[np.nonzero(log.reached)[0]] for log in logs])
    per_user = np.bincount(users, minlength=TINY.users + 1)
    active = np.sort(per_user[per_user > 0])
    assert active[-len(active) // 10 :].sum() > 0.35 * active.sum()
    assert active.max() > 5 * active.mean()


def test_large_has_users_of_over_five_thousand_actions() -> None:
    config = SIZES["large"]
    people = make_people(config, np.ones(200), config.seed)
    there = people.activity[1:] * (config.days - people.joined[1:])
    assert (config.actions * there / there.sum() > 5_000).sum() > 20


def test_lists_show_what_was_launched_and_each_item_once(tiny: tuple[World, list[Log]]) -> None:
    world, logs = tiny
    for log in logs:
        shown = log.items > 0
        assert (world.market.catalogue.launch[log.items[shown]] <= log.requests.day).all()
        for items in log.items[:5]:
            assert len(set(items[items > 0])) == (items > 0).sum()
    late = np.flatnonzero(world.market.catalogue.launch[1:] > 0) + 1
    assert len(late) == pytest.approx(TINY.knobs.cold * TINY.items, rel=0.25)
    assert np.isin(late, np.concatenate([log.items.ravel() for log in logs])).mean() > 0.8


def test_the_click_rate_at_a_place_is_its_propensity_times_attraction(tiny: tuple[World, list[Log]]) -> None:
    world, logs = tiny
    items, attraction, clicked = (
        np.concatenate([getattr(log, c) for log in logs]) for c in ("items", "attraction", "reached")
    )
    noise = np.random.default_rng(0).normal(0, TINY.knobs.noise, 200)
    wanted = sigmoid(attraction[:, :, None] - CLICK + noise).mean(axis=2) * world.market.propensity(items.shape[1])
    for place in range(items.shape[1]):
        shown = items[:, place] > 0
        rate, expected = (clicked[shown, place] > 0).mean(), wanted[shown, place].mean()
        assert abs(rate - expected) < 4 * np.sqrt(expected / shown.sum())


def test_carts_are_of_clicks_and_orders_of_carts(tiny: tuple[World, list[Log]]) -> None:
    _, logs = tiny
    events = pa.concat_tables(log.events() for log in logs)
    counts = {r["values"]: r["counts"] for r in events["action"].value_counts().to_pylist()}
    assert counts["click"] > counts["cart"] > counts["order"] > 0
    assert all(log.items[log.reached > 0].all() for log in logs)


def test_a_returning_interest_sleeps_for_weeks_and_comes_back() -> None:
    market = Market(replace(TINY, knobs=Knobs(returning=1.0, switch=0.0)))
    users = np.arange(1, TINY.users + 1)
    awake = np.stack([market.people.interests(users, day)[:, STEADY] > 0 for day in range(365)])
    assert 0.1 < awake.mean() < 0.45
    for mine in awake.T[:50]:
        edges = np.flatnonzero(np.diff(mine.astype(int)))
        assert 2 * (365 // 150) - 1 <= len(edges) <= 2 * (365 // 60 + 1)
        gaps = np.diff(edges)[~mine[edges[:-1] + 1]]
        assert (gaps >= 60 - AWAKE_DAYS).all()
    without = Market(replace(TINY, knobs=Knobs(returning=0.0)))
    assert not without.people.interests(users, 10)[:, STEADY : STEADY + RETURNING].any()


def test_tastes_drift_by_the_knob_and_keep_their_scale() -> None:
    def kept(drift: float) -> float:
        people = Market(replace(WEEK, knobs=Knobs(drift=drift))).people
        users = np.arange(1, TINY.users + 1)
        (now, _), (then, _) = people.tastes(users, 0), people.tastes(users, 365)
        assert then.std() == pytest.approx(1, abs=0.1)
        return float(np.corrcoef(now.ravel(), then.ravel())[0, 1])

    assert kept(0.0) == pytest.approx(1)
    assert kept(0.5) == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert abs(kept(1.0)) < 0.05


def test_a_switch_replaces_the_first_interest_from_one_day_to_the_next() -> None:
    users = np.arange(1, TINY.users + 1)
    people = Market(replace(WEEK, knobs=Knobs(switch=2.0))).people
    gone = people.interests(users, 364)[:, 0] == 0
    assert gone.mean() == pytest.approx(1 - np.exp(-2), abs=0.07)
    steady = Market(replace(WEEK, knobs=Knobs(switch=0.0))).people
    assert (steady.interests(users, 364)[:, 0] > 0).all()


def test_requests_leave_their_session_as_often_as_the_knob_says() -> None:
    for share in (0.0, 0.3):
        _, logs = lived(replace(WEEK, knobs=Knobs(cross_category=share)))
        truths = [log.requests.truth for log in logs]
        left = np.concatenate([t.leaf != t.intent for t in truths])
        assert left.mean() == pytest.approx(share, abs=0.03)


def taste_aucs(knobs: Knobs) -> dict[str, float]:
    """AUC within a request's category of each part of the truth, on lists drawn at random."""
    world, logs = lived(
        replace(TINY, days=4, actions=5_000, knobs=replace(knobs, exploration=1.0, home=0.0, search=0.0))
    )
    labels, groups, parts = [], [], {"text": [], "image": [], "identity": []}
    for log in logs:
        shown = log.items > 0
        labels.append(log.reached[shown] > 0)
        groups.append(np.broadcast_to(log.requests.request[:, None], shown.shape)[shown])
        text, image = world.market.taste_terms(log.requests.user, log.requests.day, log.items)
        for name, part in (
            ("text", text),
            ("image", image),
            ("identity", world.market.catalogue.popularity[log.items]),
        ):
            parts[name].append(part[shown])
    label, group = np.concatenate(labels), np.concatenate(groups)
    return {name: gauc(label, np.concatenate(part), group).value for name, part in parts.items()}


@pytest.mark.parametrize("name", ["text", "image", "identity"])
def test_a_weight_of_zero_explains_nothing_and_a_larger_one_more(name: str) -> None:
    aucs = [taste_aucs(replace(Knobs(), **{name: weight}))[name] for weight in (0.0, 0.6, 1.2)]
    assert aucs[0] == pytest.approx(0.5, abs=0.02)
    assert aucs[0] + 0.05 < aucs[1] < aucs[2] - 0.05


def test_the_attraction_is_the_equation() -> None:
    market = Market(WEEK)
    w, people, catalogue = WEEK.knobs, market.people, market.catalogue
    user, day, item = 7, 5, 44
    turn = w.drift * np.pi / 2 * day / 365
    p, s = (np.cos(turn) * t[0, user] + np.sin(turn) * t[1, user] for t in (people.theme, people.style))
    x, y = p @ catalogue.theme[item] / np.sqrt(8), s @ catalogue.style[item] / np.sqrt(8)
    shares = people.interests(np.array([user]), day)[0]
    wanted = w.interest * shares[people.leaf[user] == catalogue.leaf[item]].sum()
    wanted += w.text * x + w.image * y + w.cross * w.text * w.image * x * y + w.identity * catalogue.popularity[item]
    wanted -= w.price * abs(catalogue.level[item] - people.level[user])
    found = market.attraction(np.array([user]), day, np.array([[item]]))
    assert found[0, 0] == pytest.approx(wanted, abs=1e-5)


class MostPopular:
    """A policy from outside: it knows how often items were clicked, and ranks by that alone."""

    def __init__(self, clicks: np.ndarray) -> None:
        self.top = np.argsort(-clicks)[:10].astype(np.int32)

    def rank(self, requests: Requests) -> np.ndarray:
        return np.tile(self.top, (len(requests), 1))


def test_the_world_lives_on_under_any_policy_that_ranks(tiny: tuple[World, list[Log]]) -> None:
    world, logs = tiny
    clicked = np.concatenate([log.items[log.reached > 0] for log in logs])
    policy = MostPopular(np.bincount(clicked, minlength=TINY.items + 1))
    world.day = TINY.days
    further = list(world.step(policy, 2))
    assert world.day == TINY.days + 2
    for log in further:
        asked = ~log.requests.truth.explores
        assert (log.items[asked] == policy.top).all()
    assert sum((log.reached > 0).sum() for log in further) > 0
    world.day = 0
    result = compare(world, RandomPolicy(world.market), ShopPolicy(world.market), days=10)
    assert 0 < result.low < result.difference < result.high
    assert result.rates[1] > result.rates[0]


def equal_policies_agree(seed: int) -> bool:
    world = World(replace(TINY, seed=seed))
    world.day = 20
    result = compare(world, ShopPolicy(world.market), ShopPolicy(world.market), days=4)
    return result.low <= 0 <= result.high


def test_equal_policies_differ_by_no_more_than_chance_on_a_few_seeds() -> None:
    assert sum(equal_policies_agree(seed) for seed in range(6)) >= 4


@pytest.mark.slow
def test_an_aa_test_holds_in_its_interval_on_a_hundred_seeds() -> None:
    assert 90 <= sum(equal_policies_agree(seed) for seed in range(100)) <= 99


def test_the_best_items_come_first_and_once() -> None:
    items = np.array([[3, 0, 5, 3, 7], [0, 0, 0, 2, 2]])
    scores = np.array([[1.0, 9.0, 3.0, 1.0, 2.0], [1.0, 1.0, 1.0, 5.0, 5.0]])
    assert best(items, scores, 4).tolist() == [[5, 7, 3, 0], [2, 0, 0, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": 0}, "--users: 0 is not between 1 and"),
        ({"seed": -1}, "--seed: -1 is below 0"),
        ({"leaves": 900}, "900 leaf categories for 500 items"),
        ({"knobs": {"cold": 2.0}}, "--knobs.cold: 2.0 is not between 0 and 1"),
        ({"knobs": {"search": 0.7, "home": 0.7}}, "over 1 together"),
    ],
)
def test_an_impossible_market_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("--", "")):
        replace(TINY, **{k: Knobs(**v) if k == "knobs" else v for k, v in change.items()})
