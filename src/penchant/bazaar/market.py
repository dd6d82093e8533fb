"""The truth of the market: who lives in it, what is sold, and how much anyone would like anything."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from penchant.bazaar.catalogue import make_catalogue
from penchant.bazaar.config import BazaarConfig
from penchant.bazaar.people import make_people
from penchant.bazaar.queries import UNASKED, relevance

POPULARITY, FRESHNESS, FRESH_DAYS = 0.6, 0.7, 30.0
"""The shop's pool favours the popular, and the new: log weight POPULARITY pop + FRESHNESS exp(-age / FRESH_DAYS)."""


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


class Market:
    """People and items, which their config tells wholly.

    Attributes:
        leaf_weights: float64 [C], how often each of the leaves 1..C (from position 0) is an interest.
        shelf, launched: for a day, what can be shown: weighted as in the shop's pools, and each item alike.

    Raises:
        ConfigError: more leaf categories than the language has names for.
    """

    def __init__(self, config: BazaarConfig) -> None:
        self.config = config
        self.catalogue = make_catalogue(config)
        sizes = np.bincount(self.catalogue.leaf, minlength=self.catalogue.num_leaves + 1)[1:]
        self.leaf_weights = sizes**0.7 / (sizes**0.7).sum()
        self.people = make_people(config, self.leaf_weights, config.seed)
        self.shelf = lru_cache(maxsize=2)(self._shelf)
        self.launched = lru_cache(maxsize=2)(self._launched)

    def attraction(
        self,
        users: Int[np.ndarray, " R"],
        day: int,
        items: Int[np.ndarray, "R M"],
        asked: Int[np.ndarray, "R A"] | None = None,
    ) -> Float[np.ndarray, "R M"]:
        """How much each user is drawn to each of their items that day, given what they ask for, in logits.

        a = w_interest interest(u, cat(i), t) + w_text x + w_image y + w_cross w_text w_image x y + w_identity pop_i
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

    def _shelf(self, day: int) -> Shelf:
        age = day - self.catalogue.launch
        fresh = FRESHNESS * np.exp(-np.maximum(age, 0) / FRESH_DAYS)
        return Shelf(np.exp(POPULARITY * self.catalogue.popularity + fresh) * (age >= 0))

    def _launched(self, day: int) -> Shelf:
        return Shelf((self.catalogue.launch <= day).astype(np.float64))
