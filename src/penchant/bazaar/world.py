"""The market lives: its days go on under any policy.

world = World(SIZES["tiny"])
for log in world.step(ShopPolicy(world.market), days=7):
    log.events(), log.impressions()
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from penchant.bazaar.behaviour import Log, Requests, draw_requests, react
from penchant.bazaar.config import BazaarConfig
from penchant.bazaar.market import Market
from penchant.bazaar.policies import Policy, RandomPolicy, ShopPolicy

BLOCK = 2048
"""Sessions that are lived at once: memory depends on it, and on no other length."""

PILOT = 3000
"""Sessions by which activity is scaled to the wanted number of actions."""

WEEK = (0.95, 0.9, 0.9, 0.95, 1.0, 1.15, 1.15)
"""Sessions of each day of the week, of the mean; the first day is a Monday."""


class World:
    """A market in time. Days are independent given the people, so any of them can be lived alone.

    Attributes:
        day: the day that `step` lives next.
        market: people and items.
        sessions: float64 [U+1], mean sessions of each user on a day they are there.

    Raises:
        ConfigError: more leaf categories than the language has names for.
    """

    def __init__(self, config: BazaarConfig) -> None:
        self.config = config
        self.day = 0
        self.market = Market(config)
        self._explorer = RandomPolicy(self.market)
        self.sessions = self._scaled_sessions()

    def step(self, policy: Policy, days: int) -> Iterator[Log]:
        """Live on for some days under a policy; the logs of each day, in parts."""
        for _ in range(days):
            yield from self.live(policy, self.day)
            self.day += 1

    def live(self, policy: Policy, day: int) -> Iterator[Log]:
        """One day under a policy, in parts. The people and what they ask for do not depend on the policy."""
        rng = np.random.default_rng([self.config.seed, 2, day])
        mean = self.sessions * (self.market.people.joined <= day) * WEEK[day % 7]
        users = np.repeat(np.arange(len(mean)), rng.poisson(mean)).astype(np.int32)
        users = rng.permutation(users)
        first = day * 10**9
        for block, start in enumerate(range(0, len(users), BLOCK)):
            rng = np.random.default_rng([self.config.seed, 2, day, block])
            requests = draw_requests(self.market, rng, day, users[start : start + BLOCK], first)
            yield react(self.market, rng, requests, self.lists(policy, requests))
            first += len(requests)

    def lists(self, policy: Policy, requests: Requests) -> Int[np.ndarray, "R K"]:
        """What is shown: the policy's lists, but drawn at random where the truth says so."""
        items = policy.rank(requests)
        rows = np.flatnonzero(requests.truth.explores)
        if len(rows):
            drawn = self._explorer.rank(requests.take(rows))[:, : items.shape[1]]
            items = items.copy()
            items[rows] = 0
            items[rows, : drawn.shape[1]] = drawn
        return items

    def _scaled_sessions(self) -> np.ndarray:
        """Mean sessions of each user on a day, so that all days together bring the wanted number of actions."""
        people, days = self.market.people, self.config.days
        activity = people.activity.astype(np.float64)
        activity[0] = 0
        there = activity * np.maximum(days - people.joined, 0)
        rng = np.random.default_rng([self.config.seed, 5])
        users = rng.choice(len(there), PILOT, p=there / there.sum()).astype(np.int32)
        requests = draw_requests(self.market, rng, days // 2, users, 0)
        clicks = (react(self.market, rng, requests, self.lists(ShopPolicy(self.market), requests)).reached > 0).sum()
        return activity * self.config.actions / (there.sum() * clicks / PILOT)


@dataclass(frozen=True)
class Comparison:
    """Two policies side by side, each on half of the users.

    Attributes:
        rates: clicks for an impression, under the first and the second.
        difference: of the second from the first.
        low, high: its 95 % interval, by the delta method over users.
    """

    rates: tuple[float, float]
    difference: float
    low: float
    high: float


def compare(world: World, first: Policy, second: Policy, days: int) -> Comparison:
    """An A/B test: each user is given to one of the policies for all days, by chance.

    With two equal policies it is an A/A test, whose interval holds 0 in 95 of 100 cases.
    """
    second_arm = np.random.default_rng([world.config.seed, 6]).random(len(world.sessions)) < 0.5
    clicks, shown = np.zeros((2, len(second_arm)))
    for log in world.step(_Arms(first, second, second_arm), days):
        clicks += np.bincount(log.requests.user, (log.reached > 0).sum(axis=1), len(clicks))
        shown += np.bincount(log.requests.user, (log.items > 0).sum(axis=1), len(shown))
    rates, variances = [], []
    for arm in (~second_arm, second_arm):
        c, n = clicks[arm & (shown > 0)], shown[arm & (shown > 0)]
        rates.append(float(c.sum() / n.sum()))
        residual = c - rates[-1] * n
        variances.append(len(n) / max(len(n) - 1, 1) * float((residual**2).sum()) / n.sum() ** 2)
    difference, spread = rates[1] - rates[0], 1.96 * float(np.sqrt(sum(variances)))
    return Comparison((rates[0], rates[1]), difference, difference - spread, difference + spread)


class _Arms:
    """Each user's requests go to the policy of their arm."""

    def __init__(self, first: Policy, second: Policy, second_arm: np.ndarray) -> None:
        self.policies, self.second_arm = (first, second), second_arm

    def rank(self, requests: Requests) -> Int[np.ndarray, "R K"]:
        arm = self.second_arm[requests.user].astype(np.int8)
        parts = [np.flatnonzero(arm == a) for a in (0, 1)]
        ranked = [
            p.rank(requests.take(rows)) if len(rows) else None for p, rows in zip(self.policies, parts, strict=True)
        ]
        out = np.zeros((len(requests), max(r.shape[1] for r in ranked if r is not None)), dtype=np.int32)
        for rows, items in zip(parts, ranked, strict=True):
            if items is not None:
                out[rows, : items.shape[1]] = items
        return out
