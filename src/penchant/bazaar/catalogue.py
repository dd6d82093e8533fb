"""What is sold: items with a category, attributes, a price, a launch day, a popularity, and what they say and show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from penchant.bazaar.config import BazaarConfig
from penchant.bazaar.pictures import draw, style_of
from penchant.bazaar.words import (
    BRANDS,
    COLOURS,
    KIND_OF,
    LEAVES,
    MATERIALS,
    MIDDLE_OF,
    PATTERNS,
    Attributes,
    category_tree,
    compose,
    description,
    theme_of,
    title,
)
from penchant.errors import ConfigError

ZIPF = 0.8
"""Leaf sizes fall as 1 / rank^ZIPF."""

NEVER = 10**6
OLDEST_DAYS = 365
"""How long before the first day the oldest items were launched."""

BATCH = 1024
"""Items whose texts and pictures are made at once."""


@dataclass(frozen=True)
class Catalogue:
    """The items 1..I, ordered by middle category, kind and leaf; row 0 is padding.

    Attributes:
        attributes: of I+1 items.
        leaf: int32 [I+1], from 1; 0 is padding's.
        theme, style: float32 [I+1, 8], standardised over the catalogue.
        popularity: float32 [I+1], standard normal.
        level: float32 [I+1], log price in standard deviations within its leaf.
        price: float32 [I+1].
        launch: int32 [I+1], the day from which the item can be shown; negative before the first day.
        paths: names of the leaves 1..C, "root > middle > leaf"; entry 0 is empty.
        starts, stops: int64 [3, C+1]; the items of leaf c's middle category, kind and leaf are rows starts[.., c] up to
            stops[.., c] (whole catalogue: leaf 0).
    """

    attributes: Attributes
    leaf: np.ndarray
    theme: np.ndarray
    style: np.ndarray
    popularity: np.ndarray
    level: np.ndarray
    price: np.ndarray
    launch: np.ndarray
    paths: list[str]
    starts: np.ndarray
    stops: np.ndarray

    def __len__(self) -> int:
        """How many items, padding not counted."""
        return len(self.leaf) - 1

    @property
    def num_leaves(self) -> int:
        return len(self.paths) - 1

    def asked_range(
        self, asked: Int[np.ndarray, "R A"], leaf: Int[np.ndarray, " R"]
    ) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " R"]]:
        """Start and stop of the items in the category that each query names: of the leaf, its kind or its middle.

        Args:
            asked: what each query means (`queries.query`).
            leaf: a leaf in the category that it names.
        """
        level = np.argmax(asked[:, : len(self.starts)] >= 0, axis=1)
        return self.starts[level, leaf], self.stops[level, leaf]

    def batches(self, pictures: bool) -> Iterator[pa.Table]:
        """The items as a source's table, with their texts and, if asked for, pictures."""
        of = self.attributes
        for first in range(1, len(self) + 1, BATCH):
            rows = range(first, min(first + BATCH, len(self) + 1))
            columns = {
                "item_id": [item_id(i) for i in rows],
                "title": [title(of, i) for i in rows],
                "text": [description(of, i) for i in rows],
                "category_path": [self.paths[self.leaf[i]] for i in rows],
                "brand": [BRANDS[of.brand[i]] for i in rows],
                "price": np.round(self.price[first : rows.stop].astype(np.float64), 2),
                "colour": [COLOURS[of.colour[i]] for i in rows],
                "material": [MATERIALS[of.material[i]] for i in rows],
                "pattern": [PATTERNS[of.pattern[i]] for i in rows],
                "launch_day": self.launch[first : rows.stop],
            }
            if pictures:
                columns["image"] = pa.array([draw(of, i) for i in rows], pa.binary())
            yield pa.table(columns)


def item_id(item: int) -> str:
    """The shop's id of an item."""
    return f"i{item}"


def make_catalogue(config: BazaarConfig) -> Catalogue:
    """Draw the items.

    Raises:
        ConfigError: more leaf categories than the language has names for.
    """
    if config.num_leaves > len(LEAVES):
        what = f"{config.num_leaves} leaf categories, there are names for {len(LEAVES)}"
        raise ConfigError(what, where="--leaves", fix="Give no more than that.")
    rng = np.random.default_rng([config.seed, 0])
    order = np.lexsort((np.arange(config.num_leaves), KIND_OF[: config.num_leaves], MIDDLE_OF[: config.num_leaves]))
    sizes = _sizes(rng, config)
    leaf = np.concatenate([[0], np.repeat(np.arange(1, config.num_leaves + 1), sizes)]).astype(np.int32)
    attributes = compose(rng, order[np.maximum(leaf, 1) - 1].astype(np.int32))
    names = category_tree(config.num_leaves)
    n = len(leaf)
    level = rng.standard_normal(n).astype(np.float32)
    usual = rng.normal(3.5, 0.8, config.num_leaves + 1)
    late = rng.random(n) < config.knobs.cold
    launch = np.where(late, rng.integers(1, max(2, config.days), n), -rng.integers(0, OLDEST_DAYS, n))
    starts, stops = _ranges(leaf, MIDDLE_OF[order], KIND_OF[order])
    launch[starts[-1, 1:]] = np.minimum(launch[starts[-1, 1:]], 0)  # no category opens empty
    launch[0] = NEVER
    return Catalogue(
        attributes=attributes,
        leaf=leaf,
        theme=_standardised(theme_of(attributes.themes)),
        style=_standardised(style_of(attributes)),
        popularity=rng.standard_normal(n).astype(np.float32),
        level=level,
        price=np.exp(usual[leaf] + 0.5 * level).astype(np.float32),
        launch=launch.astype(np.int32),
        paths=["", *(" > ".join(names[i]) for i in order)],
        starts=starts,
        stops=stops,
    )


def _sizes(rng: np.random.Generator, config: BazaarConfig) -> np.ndarray:
    """Items of each leaf: one for all, the others by Zipf's law."""
    weight = 1 / np.arange(1, config.num_leaves + 1) ** ZIPF
    weight = rng.permutation(weight / weight.sum())
    return 1 + rng.multinomial(config.items - config.num_leaves, weight)


def _ranges(leaf: np.ndarray, middle: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the items of each leaf's middle, kind and own begin and end."""
    bounds = np.searchsorted(leaf, np.arange(1, len(middle) + 2))
    starts = np.ones((3, len(middle) + 1), dtype=np.int64)
    stops = np.full_like(starts, len(leaf))
    for row, groups in enumerate((middle, kind, np.arange(len(middle)))):
        new = np.flatnonzero(np.diff(groups, prepend=-1))
        group = np.searchsorted(new, np.arange(len(middle)), side="right") - 1
        starts[row, 1:] = bounds[new[group]]
        stops[row, 1:] = bounds[np.append(new[1:], len(middle))[group]]
    return starts, stops


def _standardised(values: Float[np.ndarray, "I 8"]) -> Float[np.ndarray, "I 8"]:
    spread = values[1:].std(axis=0)
    return ((values - values[1:].mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)
