"""The market: who lives in it, what they would like, and how their days go on under any policy.

world = World(SIZES["tiny"])
for log in world.step(ShopPolicy(world), days=7):
    log.events(), log.impressions()
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from penchant.bazaar.behaviour import Log, Requests, draw_requests, react
from penchant.bazaar.catalogue import make_catalogue
from penchant.bazaar.config import BazaarConfig
from penchant.bazaar.people import make_people
from penchant.bazaar.policies import FRESH_DAYS, FRESHNESS, POPULARITY, Policy, RandomPolicy, Shelf, ShopPolicy
from penchant.bazaar.queries import UNASKED, relevance

BLOCK = 2048
"""Sessions that are lived at once: memory depends on it, and on no other length."""

PILOT = 3000
"""Sessions by which activity is scaled to the wanted number of actions."""

WEEK = (0.95, 0.9, 0.9, 0.95, 1.0, 1.15, 1.15)
"""Sessions of each day of the week, of the mean; the first day is a Monday."""


class World:
    """A market that its config tells wholly. Days are independent given the people, so any of them can be lived alone.

    Attributes:
        day: the day that `step` lives next.
        leaf_weights: float64 [C], how often each of the leaves 1..C (from position 0) is an interest.
        sessions: float64 [U+1], mean sessions of each user on a day they are there.

    Raises:
        ConfigError: more leaf categories than the language has names for.
    """

    def __init__(self, config: BazaarConfig) -> None:
        self.config = config
        self.day = 0
        self.catalogue = make_catalogue(config)
        sizes = np.bincount(self.catalogue.leaf, minlength=self.catalogue.num_leaves + 1)[1:]
        self.leaf_weights = sizes**0.7 / (sizes**0.7).sum()
        self.people = make_people(config, self.leaf_weights, config.seed)
        self.shelf = lru_cache(maxsize=2)(self._shelf)
        self.launched = lru_cache(maxsize=2)(self._launched)
        self._explorer = RandomPolicy(self)
        self.sessions = self._scaled_sessions()

    def attraction(
        self,
        users: Int[np.ndarray, " R"],
        day: int,
        items: Int[np.ndarray, "R M"],
        asked: Int[np.ndarray, "R A"] | None = None,
    ) -> Float[np.ndarray, "R M"]:
        """How much each user is drawn to each of their items that day, given what they ask for, in logits.

        a = w_interest interest[u, cat(i)](t) + w_text x + w_image y + w_cross w_text w_image x y + w_identity pop_i
            - w_price |level_i - level_u| + w_query rel(q, i),
        x = <p_u(t), theme_i> / sqrt 8,  y = <s_u(t), style_i> / sqrt 8

        Without a query the last term is 0.
        """
        w, people, catalogue = self.config.knobs, self.people, self.catalogue
        text, image = self.taste_terms(users, day, items)
        a = w.text * text + w.image * image + (w.cross * w.text * w.image) * text * image
        a += w.identity * catalogue.popularity[items]
        a -= w.price * np.abs(catalogue.level[items] - people.level[users][:, None])
        shares = (w.interest * people.interests(users, day)).astype(np.float32)
        leaf = catalogue.leaf[items]
        for slot in range(shares.shape[1]):
            a += np.where(leaf == people.leaf[users, slot][:, None], shares[:, slot, None], np.float32(0))
        if asked is not None:
            rows = np.flatnonzero((asked != UNASKED).any(axis=1))
            if len(rows):
                a[rows] += np.float32(w.query) * relevance(asked[rows], catalogue.attributes, items[rows])
        return a

    def taste_terms(
        self, users: Int[np.ndarray, " R"], day: int, items: Int[np.ndarray, "R M"]
    ) -> tuple[Float[np.ndarray, "R M"], Float[np.ndarray, "R M"]]:
        """x and y of `attraction`: the user's taste for what each item says, and for what it shows."""
        theme, style = self.people.tastes(users, day)
        scale = np.float32(1 / np.sqrt(theme.shape[1]))
        x = np.matmul(self.catalogue.theme[items], theme[:, :, None])[..., 0] * scale
        y = np.matmul(self.catalogue.style[items], style[:, :, None])[..., 0] * scale
        return x, y

    def propensity(self, places: int) -> Float[np.ndarray, " K"]:
        """The chance that each place of a list is looked at."""
        return (1 / np.arange(1, places + 1) ** self.config.knobs.position).astype(np.float32)

    def ranges(self, requests: Requests) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " R"]]:
        """Start and stop of the items that fit each request's query or category; all items on the front page."""
        catalogue = self.catalogue
        leaf = np.where(requests.is_search, requests.truth.leaf, requests.category)
        starts, stops = catalogue.starts[-1, leaf], catalogue.stops[-1, leaf]
        found = catalogue.asked_range(requests.truth.asked, leaf)
        return np.where(requests.is_search, found[0], starts), np.where(requests.is_search, found[1], stops)

    def step(self, policy: Policy, days: int) -> Iterator[Log]:
        """Live on for some days under a policy; the logs of each day, in parts."""
        for _ in range(days):
            yield from self.live(policy, self.day)
            self.day += 1

    def live(self, policy: Policy, day: int) -> Iterator[Log]:
        """One day under a policy, in parts. The people and what they ask for do not depend on the policy."""
        rng = np.random.default_rng([self.config.seed, 2, day])
        mean = self.sessions * (self.people.joined <= day) * WEEK[day % 7]
        users = np.repeat(np.arange(len(mean)), rng.poisson(mean)).astype(np.int32)
        users = rng.permutation(users)
        first = day * 10**9
        for block, start in enumerate(range(0, len(users), BLOCK)):
            rng = np.random.default_rng([self.config.seed, 2, day, block])
            requests = draw_requests(self, rng, day, users[start : start + BLOCK], first)
            yield react(self, rng, requests, self.lists(policy, requests))
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

    def _shelf(self, day: int) -> Shelf:
        age = day - self.catalogue.launch
        fresh = FRESHNESS * np.exp(-np.maximum(age, 0) / FRESH_DAYS)
        return Shelf(np.exp(POPULARITY * self.catalogue.popularity + fresh) * (age >= 0))

    def _launched(self, day: int) -> Shelf:
        return Shelf((self.catalogue.launch <= day).astype(np.float64))

    def _scaled_sessions(self) -> np.ndarray:
        """Mean sessions of each user on a day, so that all days together bring the wanted number of actions."""
        people, days = self.people, self.config.days
        activity = people.activity.astype(np.float64)
        activity[0] = 0
        there = activity * np.maximum(days - people.joined, 0)
        rng = np.random.default_rng([self.config.seed, 5])
        users = rng.choice(len(there), PILOT, p=there / there.sum()).astype(np.int32)
        requests = draw_requests(self, rng, days // 2, users, 0)
        clicks = (react(self, rng, requests, self.lists(ShopPolicy(self), requests)).reached > 0).sum()
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
