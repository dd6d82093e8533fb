"""What people do in a day: sessions with an intent, requests with or without a query, clicks on what is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from penchant.bazaar.market import Market
from penchant.bazaar.queries import ASKABLE, UNASKED, query

START_MS = 1_704_067_200_000
"""The first day: 1 January 2024, UTC."""

DAY_MS = 86_400_000
FURTHER_REQUESTS, MOST_REQUESTS = 1.8, 12
"""Mean of the requests after a session's first, and how many a session has at most."""

BETWEEN_MS, DWELL_MS = 90_000, 4_000
"""Time from a request to the next one of its session, and from one place of a list to the next."""

CONSIDERED = 4
"""Items of its category that a searcher has in mind; the query describes the one they like best."""

CLICK, CART, ORDER = 2.5, 4.5, 6.0
"""Attraction at which half of those who look at an item click it; of those who clicked, half take it to the cart; of
those who did, half order it."""

ACTIONS = ("click", "cart", "order")


@dataclass(frozen=True)
class Truth:
    """What only the generator knows of R requests; no policy but its own may look.

    Attributes:
        intent: int32 [R], the leaf that the session is for.
        leaf: int32 [R], the leaf that the request is for.
        asked: int32 [R, A], what the query means (`queries.query`).
        explores: bool [R], the list is drawn at random.
    """

    intent: np.ndarray
    leaf: np.ndarray
    asked: np.ndarray
    explores: np.ndarray


@dataclass(frozen=True)
class Requests:
    """R requests of one day: what a server knows when it has to rank.

    Attributes:
        day: 0 is the first.
        request: int64 [R], their numbers.
        user: int32 [R].
        ts_ms: int64 [R].
        session: int64 [R], equal within a session.
        category: int32 [R], the leaf that was opened; 0 with a query or on the front page.
        query: what was typed, or None.
        truth: hidden.
    """

    day: int
    request: np.ndarray
    user: np.ndarray
    ts_ms: np.ndarray
    session: np.ndarray
    category: np.ndarray
    query: list[str | None]
    truth: Truth

    def __len__(self) -> int:
        return len(self.user)

    @property
    def is_search(self) -> Bool[np.ndarray, " R"]:
        return self.truth.asked[:, :3].max(axis=1) >= 0

    def take(self, rows: Int[np.ndarray, " N"]) -> Requests:
        """Some of them."""
        t = self.truth
        return Requests(
            day=self.day,
            request=self.request[rows],
            user=self.user[rows],
            ts_ms=self.ts_ms[rows],
            session=self.session[rows],
            category=self.category[rows],
            query=[self.query[r] for r in rows],
            truth=Truth(t.intent[rows], t.leaf[rows], t.asked[rows], t.explores[rows]),
        )


@dataclass(frozen=True)
class Log:
    """What came of R requests with lists of K.

    Attributes:
        items: int32 [R, K]; 0 is an empty slot.
        attraction: float32 [R, K].
        propensity: float32 [K], the chance that a place is looked at.
        reached: int8 [R, K]: 0 not clicked, 1 clicked, 2 taken to the cart, 3 ordered.
    """

    requests: Requests
    items: np.ndarray
    attraction: np.ndarray
    propensity: np.ndarray
    reached: np.ndarray

    def events(self) -> pa.Table:
        """A row for each clicked item, with the furthest that was reached as its action; columns as in `Raw`."""
        row, place = np.nonzero(self.reached)
        r = self.requests
        actions = pa.DictionaryArray.from_arrays(
            pa.array(self.reached[row, place] - 1, pa.int8()), pa.array(ACTIONS)
        ).cast(pa.string())
        times = pa.array(r.ts_ms[row] + (place + 1) * DWELL_MS, pa.int64())
        return pa.table({**self._common(row, place), "time": times, "action": actions})

    def impressions(self) -> pa.Table:
        """A row for each place that was filled; columns as in `Raw`."""
        row, place = np.nonzero(self.items)
        r = self.requests
        kinds = pa.array(["logged", "logged_random"])
        source = pa.DictionaryArray.from_arrays(pa.array(r.truth.explores[row].astype(np.int8)), kinds)
        columns = {
            "time": pa.array(r.ts_ms[row], pa.int64()),
            "position": pa.array(place + 1, pa.int16()),
            "label": pa.array((self.reached[row, place] > 0).astype(np.int8)),
            "source": source.cast(pa.string()),
            "propensity": pa.array(self.propensity[place]),
        }
        return pa.table({**self._common(row, place), **columns})

    def _common(self, row: np.ndarray, place: np.ndarray) -> dict[str, Any]:
        r = self.requests
        return {
            "user_id": _text("u", r.user[row]),
            "item_id": _text("i", self.items[row, place]),
            "request_id": _text("r", r.request[row]),
            "query": pa.array(r.query, pa.string()).take(pa.array(row)),
        }


def _text(letter: str, numbers: np.ndarray) -> pa.Array:
    return pc.call_function("binary_join_element_wise", [pa.scalar(letter), pa.array(numbers).cast(pa.string()), ""])


def draw_requests(
    market: Market, rng: np.random.Generator, day: int, users: Int[np.ndarray, " S"], first: int
) -> Requests:
    """The requests of S sessions, one of each given user (who may be there several times).

    Args:
        first: number of the first request.
    """
    knobs, people = market.config.knobs, market.people
    shares = people.interests(users, day)
    intent = people.leaf[users, choose(rng, shares)]
    sizes = np.minimum(1 + rng.poisson(FURTHER_REQUESTS, len(users)), MOST_REQUESTS)
    starts_ms = np.clip(rng.normal(18.0, 4.0, len(users)) % 24, 0.0, 23.5) * 3_600_000
    of = np.repeat(np.arange(len(users)), sizes)
    nth = np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    user, leaf = users[of], intent[of]
    ts_ms = START_MS + day * DAY_MS + starts_ms[of] + nth * BETWEEN_MS + rng.uniform(0, BETWEEN_MS / 3, len(of))
    leaves = rng.random(len(of)) < knobs.cross_category
    leaf = np.where(leaves, _another(rng, leaf, market.leaf_weights), leaf).astype(np.int32)
    kind = rng.random(len(of))
    is_search, is_home = kind < knobs.search, (kind >= knobs.search) & (kind < knobs.search + knobs.home)
    asked = np.full((len(of), len(ASKABLE)), UNASKED, dtype=np.int32)
    typed: list[str | None] = [None] * len(of)
    searches = np.flatnonzero(is_search)
    for r, target in zip(searches, _targets(market, rng, day, user[searches], leaf[searches]), strict=True):
        typed[r], asked[r] = query(rng, market.catalogue.attributes, int(target))
    return Requests(
        day=day,
        request=np.arange(first, first + len(of)),
        user=user,
        ts_ms=ts_ms.astype(np.int64),
        session=first + np.repeat(np.cumsum(sizes) - sizes, sizes),
        category=np.where(is_search | is_home, 0, leaf).astype(np.int32),
        query=typed,
        truth=Truth(intent[of], leaf, asked, rng.random(len(of)) < knobs.exploration),
    )


def choose(rng: np.random.Generator, shares: Float[np.ndarray, "R J"]) -> Int[np.ndarray, " R"]:
    """One column of each row, by its shares, which sum to 1."""
    upto = np.cumsum(shares, axis=1)
    return (rng.random((len(shares), 1)) * upto[:, -1:] >= upto).sum(axis=1)


def _another(rng: np.random.Generator, leaf: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A leaf drawn by `weights` for each of the given ones, and not itself unless there is no other."""
    drawn = 1 + rng.choice(len(weights), len(leaf), p=weights)
    return np.where(drawn == leaf, drawn % len(weights) + 1, drawn)


def _targets(market: Market, rng: np.random.Generator, day: int, users: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    """Item [R] that each searcher has in mind: of a few of the leaf, the one they like best, give or take."""
    starts, stops = market.catalogue.starts[-1, leaf], market.catalogue.stops[-1, leaf]
    items = market.shelf(day).draw(rng, starts[:, None], stops[:, None], (len(users), CONSIDERED))
    liked = market.attraction(users, day, items) + rng.gumbel(size=items.shape)
    return np.take_along_axis(items, liked.argmax(axis=1)[:, None], axis=1)[:, 0]


def react(market: Market, rng: np.random.Generator, requests: Requests, items: Int[np.ndarray, "R K"]) -> Log:
    """Clicks, carts and orders on the lists shown.

    P(click at place k) = exam(k) sigmoid(a - CLICK + noise), exam(k) = 1 / k^position; given a click, P(cart) =
    sigmoid(a - CART + noise); given a cart, P(order) = sigmoid(a - ORDER + noise).
    """
    attraction = market.attraction(requests.user, requests.day, items, requests.truth.asked)
    propensity = market.propensity(items.shape[1])
    logits = attraction + market.config.knobs.noise * rng.standard_normal(items.shape, dtype=np.float32)
    luck = rng.random((3, *items.shape), dtype=np.float32)
    clicked = (luck[0] < propensity * sigmoid(logits - CLICK)) & (items > 0)
    carted = clicked & (luck[1] < sigmoid(logits - CART))
    ordered = carted & (luck[2] < sigmoid(logits - ORDER))
    reached = clicked.astype(np.int8) + carted + ordered
    return Log(requests, items, attraction, propensity, reached)


def sigmoid(x: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    return 1 / (1 + np.exp(-x))
