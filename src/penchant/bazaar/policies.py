"""Who decides what is shown: the interface of a policy, the shop's own that made the log, and chance."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from penchant.bazaar.behaviour import Requests, choose
from penchant.bazaar.market import Market

POOL = 40
"""Items drawn for a list before some of them are chosen."""

PERSONAL = 0.7
"""How closely the shop's order follows true attraction: PERSONAL a + Gumbel noise."""


@runtime_checkable
class Policy(Protocol):
    """Anything that ranks. It may read all of `Requests` but `truth`."""

    def rank(self, requests: Requests) -> Int[np.ndarray, "R K"]:
        """Items for each request, best first, each once; 0 for an empty slot. int32."""
        ...


class ShopPolicy:
    """The shop that made the log: it finds what was asked for, favours the popular and the new, and knows people a bit.

    It is the generator's own: its search understands every typo, and what it knows of people is true attraction and
    noise.
    """

    def __init__(self, market: Market) -> None:
        self.market = market

    def rank(self, requests: Requests) -> Int[np.ndarray, "R K"]:
        market = self.market
        rng = np.random.default_rng([market.config.seed, 3, requests.day, int(requests.request[0])])
        starts, stops = ranges(market, requests)
        shape = (len(requests), POOL)
        starts, stops = (np.broadcast_to(ends[:, None], shape).copy() for ends in (starts, stops))
        home = np.flatnonzero(~requests.is_search & (requests.category == 0))
        shares = np.repeat(market.people.interests(requests.user[home], requests.day), POOL, axis=0)
        slot = choose(rng, shares).reshape(-1, POOL)
        leaf = market.people.leaf[requests.user[home][:, None], slot]
        starts[home], stops[home] = market.catalogue.starts[-1, leaf], market.catalogue.stops[-1, leaf]
        pool = market.shelf(requests.day).draw(rng, starts, stops, shape)
        liked = market.attraction(requests.user, requests.day, pool, requests.truth.asked)
        return best(pool, PERSONAL * liked + rng.gumbel(size=shape), market.config.list_size)


class RandomPolicy:
    """Every item that fits the request's category or query has the same chance; on the front page every item has."""

    def __init__(self, market: Market) -> None:
        self.market = market

    def rank(self, requests: Requests) -> Int[np.ndarray, "R K"]:
        market = self.market
        rng = np.random.default_rng([market.config.seed, 4, requests.day, int(requests.request[0])])
        starts, stops = ranges(market, requests)
        shape = (len(requests), POOL)
        pool = market.launched(requests.day).draw(rng, starts[:, None], stops[:, None], shape)
        return best(pool, rng.random(shape), market.config.list_size)


def ranges(market: Market, requests: Requests) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " R"]]:
    """Start and stop of the items that fit each request's query or category; all items on the front page."""
    catalogue = market.catalogue
    leaf = np.where(requests.is_search, requests.truth.leaf, requests.category)
    starts, stops = catalogue.starts[-1, leaf], catalogue.stops[-1, leaf]
    found = catalogue.asked_range(requests.truth.asked, leaf)
    return np.where(requests.is_search, found[0], starts), np.where(requests.is_search, found[1], stops)


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
