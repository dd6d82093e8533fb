"""What a generated market is made from: its size, its seed, and the knobs that say why people click."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from penchant.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """Why people click, how they change and what is shown. The equations are in docs/bazaar.md.

    Weights (from 0) are logits for one standard deviation of what they weigh.
    """

    interest: float = 2.0
    """Weight of the user's present interest in the item's category."""
    text: float = 1.0
    """Weight of the user's taste in themes, which the item's text tells."""
    image: float = 1.0
    """Weight of the user's taste in style, which the item's picture shows."""
    cross: float = 0.5
    """Weight of the two tastes' product, times `text` and `image`: it takes both to see it."""
    identity: float = 0.6
    """Weight of the item's own popularity, which neither text nor picture tells."""
    price: float = 0.5
    """Weight of the distance between price and purse."""
    query: float = 2.5
    """Weight of the item's relevance to the query."""
    noise: float = 0.5
    """Standard deviation of what nothing explains, in logits."""
    drift: float = 0.5
    """Quarter turns a year that tastes make: at 1, nothing is left of a taste after a year."""
    switch: float = 0.5
    """Times a year that a user's first interest is given up for another, from one day to the next."""
    returning: float = 0.5
    """Share of users with interests that sleep for months and return."""
    cross_category: float = 0.15
    """Share of a session's requests that leave its category for another."""
    cold: float = 0.3
    """Share of items launched after the first day."""
    search: float = 0.4
    """Share of requests that are searches."""
    home: float = 0.15
    """Share of requests that open the front page, with neither query nor category; the others open a category."""
    exploration: float = 0.05
    """Share of requests whose list is drawn at random from all that could be shown."""
    position: float = 0.7
    """A place k of a list is looked at with probability 1 / k^position."""


FIX = "Give a number in that range."
SHARES = ("returning", "cross_category", "cold", "search", "home", "exploration")
"""Knobs between 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class BazaarConfig:
    """A market: the same config gives the same bytes."""

    users: int
    items: int
    days: int
    actions: int
    """Clicks (or more) that the days shall bring, within a few in a hundred."""
    seed: int = 0
    leaves: int | None = None
    """Leaf categories; one for 20 items if None, between 8 and 200."""
    list_size: int = 10
    """Items on a list."""
    knobs: Knobs = field(default_factory=Knobs)

    def __post_init__(self) -> None:
        for name, least, most in (("users", 1, 10**7), ("items", 8, 10**7), ("days", 1, 3650), ("list_size", 1, 20)):
            value = getattr(self, name)
            if not least <= value <= most:
                what, where = f"{value} is not between {least} and {most}", f"--{name.replace('_', '-')}"
                raise ConfigError(what, where=where, fix=FIX)
        if self.seed < 0:
            raise ConfigError(f"{self.seed} is below 0", where="--seed", fix="Give 0 or more.")
        if not 0 < self.actions <= 10**9:
            raise ConfigError(f"{self.actions} is not between 1 and a billion", where="--actions", fix=FIX)
        if not 1 <= self.num_leaves <= self.items:
            what = f"{self.num_leaves} leaf categories for {self.items} items"
            raise ConfigError(what, where="--leaves", fix="Every leaf needs an item.")
        for knob in fields(Knobs):
            value = getattr(self.knobs, knob.name)
            if not 0 <= value <= (1 if knob.name in SHARES else 100):
                most = "1: it is a share" if knob.name in SHARES else "100"
                raise ConfigError(f"{value} is not between 0 and {most}", where=f"--knobs.{knob.name}", fix=FIX)
        if self.knobs.search + self.knobs.home > 1:
            raise ConfigError("--knobs.search and --knobs.home are over 1 together", fix="They are shares of requests.")

    @property
    def num_leaves(self) -> int:
        return self.leaves if self.leaves is not None else min(200, max(8, self.items // 20))

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> BazaarConfig:
        """What `dataclasses.asdict` made of a config."""
        return BazaarConfig(**{**value, "knobs": Knobs(**value["knobs"])})


SIZES = {
    "tiny": BazaarConfig(users=300, items=500, days=60, actions=20_000),
    "small": BazaarConfig(users=3_000, items=4_000, days=240, actions=300_000),
    "large": BazaarConfig(users=20_000, items=50_000, days=365, actions=10_000_000),
}
