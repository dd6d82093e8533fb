"""How well anyone could do on a Store of the market: the next click ranked by its true rate.

The oracle knows everything but chance: people, items, the shop's policy, exposure. It comes in three kinds, by what it
knows of the request that brought the click: nothing but the user and the day (`user`), also what the session is for
(`session`), or the request itself, with its query or category (`request`). The rate of a click on item i is

    P(i is in the pool) P(i is shown at place k, given the pool) exam(k) E[sigmoid(a - CLICK + noise)], summed over k

and over requests, where these are not known, with their true shares. docs/bazaar.md derives it and says what is
approximate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from penchant.bazaar.behaviour import CLICK, DAY_MS, DWELL_MS, START_MS, Log, Requests, sigmoid
from penchant.bazaar.config import BazaarConfig
from penchant.bazaar.market import Market, Shelf
from penchant.bazaar.policies import PERSONAL, POOL, ShopPolicy, ranges
from penchant.bazaar.world import World
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import StoreError

KNOWS = ("user", "session", "request")
GRID = np.geomspace(1e-4, 1e4, 48)
"""Times at which arrivals are counted (see `_examined`)."""


@dataclass(frozen=True)
class Judged:
    """What the oracle makes of a window.

    Attributes:
        ranks: for each of `KNOWS`, float64 [T]: the true next item's place in the whole catalogue, ties averaged.
        labels: bool [N], whether each impression of the window was clicked.
        chances: float32 [N], the true chance of it, place included.
        attractions: float32 [N].
        requests: int64 [N], the impression's request.
    """

    ranks: dict[str, np.ndarray]
    labels: np.ndarray
    chances: np.ndarray
    attractions: np.ndarray
    requests: np.ndarray


def market_of(store: Store) -> World:
    """The market that a Store came from, made again.

    Raises:
        StoreError: it came from elsewhere.
    """
    if store.manifest.get("source") != "bazaar":
        raise StoreError(
            f"its source is {store.manifest.get('source')!r}: nobody knows its truth",
            where=store.path,
            fix="Make one with `penchant prepare bazaar`.",
        )
    return World(BazaarConfig.from_json(store.manifest["generator"]))


def replay(world: World, split: Split, window: str) -> Iterator[Log]:
    """The days of a window once more, with their truth: each log as it was, whole days (so that it may start early).

    Raises:
        StoreError: the split has no global cuts.
    """
    start, end = _times(world, split, window)
    for day in range((start - START_MS) // DAY_MS, (end - 1 - START_MS) // DAY_MS + 1):
        yield from world.live(ShopPolicy(world.market), day)


def _times(world: World, split: Split, window: str) -> tuple[int, int]:
    """When a window starts and ends, in milliseconds."""
    later = split.windows.index(window) + 1
    end = START_MS + world.config.days * DAY_MS
    return max(split.cut_ms(window), START_MS), split.cut_ms(split.windows[later]) if later < len(
        split.windows
    ) else end


def judge(store: Store, split: Split, window: str = "test", targets: int = 2000, seed: int = 0) -> Judged:
    """Rank a window's targets by the truth, and give the true chances of its impressions.

    Args:
        targets: how many of them, drawn with `seed`; all if there are fewer.

    Raises:
        StoreError: the Store is not of the market, its split has no global cuts, or this version of the market does
            not live the same days again.
    """
    world = market_of(store)
    market = world.market
    rows = split.targets(window)
    rows = np.sort(np.random.default_rng(seed).choice(rows, min(targets, len(rows)), replace=False))
    number = np.array([0, *(int(name[1:]) for name in store.user_ids[1:])])
    user = number[np.searchsorted(store.user_indptr, rows, side="right") - 1]
    items = np.array([0, *(int(name[1:]) for name in store.item_ids[1:])])[store.event_item[rows]]
    clicks = dict(zip(_keys(user, store.event_ts_ms[rows]).tolist(), items.tolist(), strict=True))
    ranks: dict[str, list[float]] = {kind: [] for kind in KNOWS}
    shown: list[tuple[np.ndarray, ...]] = []
    start, end = _times(world, split, window)
    for log in replay(world, split, window):
        r = log.requests
        row, place = np.nonzero(log.reached)
        keys = _keys(r.user[row], r.ts_ms[row] + (place + 1) * DWELL_MS).tolist()
        here = log.items[row, place].tolist()
        chosen = [clicks.get(key) == item for key, item in zip(keys, here, strict=True)]
        for at, item in zip(row[chosen], log.items[row, place][chosen], strict=True):
            for kind, scores in rates(market, r, int(at)).items():
                ranks[kind].append(_rank(scores, int(item)))
        row, place = np.nonzero((log.items > 0) & ((r.ts_ms >= start) & (r.ts_ms < end))[:, None])
        attraction = log.attraction[row, place]
        chance = log.propensity[place] * click_chance(market, attraction)
        shown.append((log.reached[row, place] > 0, chance, attraction, r.request[row]))
    if lost := len(clicks) - len(ranks[KNOWS[0]]):
        raise StoreError(
            f"{lost:,} of {len(clicks):,} clicks did not happen again: another version of the market made it",
            where=store.path,
            fix="Prepare it again.",
        )
    labels, chances, attractions, requests = (np.concatenate(parts) for parts in zip(*shown, strict=True))
    return Judged({kind: np.array(values) for kind, values in ranks.items()}, labels, chances, attractions, requests)


def click_chance(market: Market, attraction: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """E[sigmoid(a - CLICK + noise)] of what is looked at: a Gauss-Hermite sum over the noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    noise = market.config.knobs.noise * nodes
    total = sum(w * sigmoid(attraction - CLICK + x) for x, w in zip(noise, weights / weights.sum(), strict=True))
    return np.asarray(total, dtype=np.float32)


def rates(market: Market, requests: Requests, at: int) -> dict[str, Float[np.ndarray, " I"]]:
    """True rate of a click on every item (row 0 is padding) for one of the requests, by what of it is known (`KNOWS`).

    Only `request` reads the request's own query or category, only it and `session` the session's intent.
    """
    knobs, catalogue, people = market.config.knobs, market.catalogue, market.people
    r = requests.take(np.array([at]))
    liked = market.attraction(r.user, r.day, np.arange(len(catalogue) + 1)[None])[0]
    home = _home(market, r, liked)
    leaf_starts = catalogue.starts[-1, 1:]
    pages = _listed(market, r.day, liked, leaf_starts, catalogue.stops[-1, 1:])
    # Of the requests for a leaf: those of sessions for it that stay, and of those for others that come.
    shares = np.bincount(people.leaf[r.user[0]], people.interests(r.user, r.day)[0], catalogue.num_leaves + 1)
    intent = np.zeros(catalogue.num_leaves + 1)
    intent[r.truth.intent[0]] = 1
    stray = np.concatenate([[0.0], market.leaf_weights])
    result = {}
    for kind, sessions in (("user", shares), ("session", intent)):
        leaf = (1 - knobs.cross_category) * sessions + knobs.cross_category * stray
        result[kind] = knobs.home * home + (1 - knobs.home) * leaf[catalogue.leaf] * pages
    if r.is_search[0]:
        result["request"] = search_rates(market, r)
    else:
        result["request"] = np.where(catalogue.leaf == r.category[0], pages, 0) if r.category[0] else home
    return result


def search_rates(market: Market, one: Requests) -> Float[np.ndarray, " I"]:
    """True rate of a click on every item (row 0 is padding) for one search that is known: `request` of `rates`."""
    items = np.arange(len(market.catalogue) + 1)[None]
    asked = market.attraction(one.user, one.day, items, one.truth.asked)[0]
    return _listed(market, one.day, asked, *ranges(market, one))


def _listed(market: Market, day: int, liked: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Rates [I+1] where one list is shown for each of the given ranges of items, which do not overlap."""

    def pool(shelf: Shelf) -> np.ndarray:
        shares = np.zeros(len(liked))
        for start, stop in zip(starts, stops, strict=True):
            total = shelf.weights[start:stop].sum()
            shares[start:stop] = shelf.weights[start:stop] / total if total else 0
        return shares

    return _explored(market, liked, pool(market.shelf(day)), pool(market.launched(day)), starts)


def _home(market: Market, one: Requests, liked: np.ndarray) -> np.ndarray:
    """Rates [I+1] on the front page: each place of the pool is given to one of the user's interests."""
    shelf, catalogue = market.shelf(one.day), market.catalogue
    interests = market.people.interests(one.user, one.day)[0]
    shares = np.zeros(len(liked))
    for leaf, share in zip(market.people.leaf[one.user[0]], interests, strict=True):
        inside = slice(catalogue.starts[-1, leaf], catalogue.stops[-1, leaf])
        shares[inside] += share * shelf.weights[inside] / shelf.weights[inside].sum()
    launched = market.launched(one.day).weights
    return _explored(market, liked, shares, launched / launched.sum(), np.array([1]))


def _explored(
    market: Market, liked: np.ndarray, shares: np.ndarray, launched: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """The shop's lists and those drawn at random, by their shares."""
    explored = market.config.knobs.exploration
    places = market.propensity(market.config.list_size)
    shop = _examined(shares, np.exp(PERSONAL * liked.astype(np.float64)), starts, places)
    chance = _examined(launched, np.ones(len(liked)), starts, places) if explored else 0.0
    return ((1 - explored) * shop + explored * chance) * click_chance(market, liked)


def _examined(
    shares: Float[np.ndarray, " I"],
    speed: Float[np.ndarray, " I"],
    starts: Int[np.ndarray, " G"],
    places: Float[np.ndarray, " K"],
) -> Float[np.ndarray, " I"]:
    """The chance that each item is shown and looked at, in G lists of consecutive items.

    A list by log speed + Gumbel noise is the order of arrival of clocks that ring at rate `speed`. With
    N(s) = sum_i pool_i (1 - exp(-speed_i s)) arrivals expected by time s, place k is that of who arrives between the
    times at which N is k - 1 and k.

    Args:
        shares: of each draw into the pool, which sum to 1 within each list (0 outside of all).
    """
    used = np.flatnonzero(shares > 0)
    out = np.zeros(len(shares))
    if not len(used):
        return out
    group = np.searchsorted(starts, used, side="right") - 1
    pool, v = -np.expm1(POOL * np.log1p(-np.minimum(shares[used], 1 - 1e-12))), speed[used]
    arrived = pool[:, None] * -np.expm1(-v[:, None] * GRID)
    firsts = np.flatnonzero(np.diff(group, prepend=-1))
    counts = np.zeros((len(starts), len(GRID)))
    counts[group[firsts]] = np.add.reduceat(arrived, firsts)
    before = np.ones(len(used))
    for k, place in enumerate(places, 1):
        until = np.array([np.interp(k, row, GRID, right=np.inf) for row in counts])
        after = np.exp(-v * until[group])
        out[used] += place * (before - after)
        before = after
    out[used] *= pool
    return out


def _rank(scores: np.ndarray, item: int) -> float:
    return 0.5 + (scores[1:] > scores[item]).sum() + (scores[1:] == scores[item]).sum() / 2


def _keys(user: np.ndarray, ts_ms: np.ndarray) -> np.ndarray:
    """One number for a user and a time."""
    return user.astype(np.int64) * 2**40 + (ts_ms - START_MS)
