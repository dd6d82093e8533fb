"""Who decides what is shown: the interface of a policy, the shop's own that made the log, and chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float, Int

from penchant.bazaar.behaviour import Requests, choose

if TYPE_CHECKING:
    from penchant.bazaar.world import World

POOL = 40
"""Items drawn for a list before some of them are chosen."""

POPULARITY, FRESHNESS, FRESH_DAYS = 0.6, 0.7, 30.0
"""The shop's pool favours the popular, and the new: log weight POPULARITY pop + FRESHNESS exp(-age / FRESH_DAYS)."""

PERSONAL = 0.7
"""How closely the shop's order follows true attraction: PERSONAL a + Gumbel noise."""


class Policy(Protocol):
    """Anything that ranks. It may read all of `Requests` but `truth`."""

    def rank(self, requests: Requests) -> Int[np.ndarray, "R K"]:
        """Items for each request, best first, each once; 0 for an empty slot. int32."""
        ...


class Shelf:
    """What can be shown on a day, and how often it gets into a pool.

    Args:
        weights: float64 [I+1], relative; 0 for what cannot be shown.
    """

    def __init__(self, weights: Float[np.ndarray, " I"]) -> None:
        self.weights = weights
        self._upto = np.concatenate([[0.0], np.cumsum(weights)])

    def total(self, starts: Int[np.ndarray, "*S"], stops: Int[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
        """Weight of the items of each range."""
        return self._upto[stops] - self._upto[starts]

    def draw(
        self,
        rng: np.random.Generator,
        starts: Int[np.ndarray, "R _"],
        stops: Int[np.ndarray, "R _"],
        shape: tuple[int, int],
    ) -> Int[np.ndarray, "R M"]:
        """Items of the ranges `starts` up to `stops`, by weight, with replacement; 0 where a range has none."""
        low, total = self._upto[starts], self.total(starts, stops)
        drawn = np.searchsorted(self._upto, low + rng.random(shape) * total, side="right") - 1
        return np.where(total > 0, np.minimum(drawn, stops - 1), 0).astype(np.int32)


class ShopPolicy:
    """The shop that made the log: it finds what was asked for, favours the popular and the new, and knows people a bit.

    It is of the generator: its search understands every typo, and its knowledge of people is true attraction with noise.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def rank(self, requests: Requests) -> Int[np.ndarray, "R K"]:
        world = self.world
        rng = np.random.default_rng([world.config.seed, 3, requests.day, int(requests.request[0])])
        starts, stops = world.ranges(requests)
        shape = (len(requests), POOL)
        starts, stops = (np.broadcast_to(ends[:, None], shape).copy() for ends in (starts, stops))
        home = np.flatnonzero(~requests.is_search & (requests.category == 0))
        shares = np.repeat(world.people.interests(requests.user[home], requests.day), POOL, axis=0)
        slot = choose(rng, shares).reshape(-1, POOL)
        leaf = world.people.leaf[requests.user[home][:, None], slot]
        starts[home], stops[home] = world.catalogue.starts[-1, leaf], world.catalogue.stops[-1, leaf]
        pool = world.shelf(requests.day).draw(rng, starts, stops, shape)
        liked = world.attraction(requests.user, requests.day, pool, requests.truth.asked)
        return best(pool, PERSONAL * liked + rng.gumbel(size=shape), world.config.list_size)


class RandomPolicy:
    """Every item that fits the request's category or query has the same chance; on the front page every item has."""

    def __init__(self, world: World) -> None:
        self.world = world

    def rank(self, requests: Requests) -> Int[np.ndarray, "R K"]:
        world = self.world
        rng = np.random.default_rng([world.config.seed, 4, requests.day, int(requests.request[0])])
        starts, stops = world.ranges(requests)
        shape = (len(requests), POOL)
        pool = world.launched(requests.day).draw(rng, starts[:, None], stops[:, None], shape)
        return best(pool, rng.random(shape), world.config.list_size)


def best(items: Int[np.ndarray, "R M"], scores: Float[np.ndarray, "R M"], k: int) -> Int[np.ndarray, "R K"]:
    """The k items of each row with the highest scores, each once (an item that is there twice has its first score)."""
    rows = np.arange(len(items))[:, None]
    order = np.argsort(items, axis=1, kind="stable")
    items, scores = items[rows, order], scores[rows, order]
    again = np.zeros(items.shape, dtype=bool)
    again[:, 1:] = items[:, 1:] == items[:, :-1]
    scores = np.where(again | (items == 0), -np.inf, scores)
    top = np.argsort(-scores, axis=1)[:, :k]
    return np.where(np.isneginf(scores[rows, top]), 0, items[rows, top]).astype(np.int32)
