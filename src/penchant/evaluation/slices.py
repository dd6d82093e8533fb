"""Parts of the targets that a mean hides: popular and rare items, short and long histories, common and rare queries."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

HEAD, TORSO = 0.5, 0.8
"""Head: the most popular that take the first half of the training events; torso: up to 80 %; tail: the rest."""

POPULARITY = ("head", "torso", "tail", "cold")
HISTORY_EDGES = (0, 1, 5, 10, 20, 50, 100, 200)
"""Where each slice of history length starts, in actions."""


def popularity_slices(counts: Int[np.ndarray, " I"]) -> dict[str, Bool[np.ndarray, " I"]]:
    """Which items (or queries) are head, torso, tail and cold, by their count in the training window.

    The one that crosses a border belongs to the upper part; equal counts keep the order of their numbers. Cold ones
    have no training event. Entry 0 (padding, no query) is in none.
    """
    counts = np.concatenate([[0], counts[1:]])
    order = np.argsort(-counts, kind="stable")
    before = np.empty(len(counts))
    before[order] = (np.cumsum(counts[order]) - counts[order]) / max(counts.sum(), 1)
    seen = counts > 0
    cold = ~seen
    cold[0] = False
    parts = (seen & (before < HEAD), seen & (before >= HEAD) & (before < TORSO), seen & (before >= TORSO), cold)
    return dict(zip(POPULARITY, parts, strict=True))


def history_slices(lengths: Int[np.ndarray, " T"]) -> dict[str, Bool[np.ndarray, " T"]]:
    """Targets by how many actions came before them: "0", "1-4", ..., "200+"."""
    out = {}
    for low, high in zip(HISTORY_EDGES, (*HISTORY_EDGES[1:], None), strict=True):
        name = f"{low}+" if high is None else f"{low}-{high - 1}" if high > low + 1 else f"{low}"
        out[name] = (lengths >= low) & (lengths < (2**62 if high is None else high))
    return out


def mean_of_slices(
    slices: Mapping[str, Bool[np.ndarray, " T"]], values: Mapping[str, Float[np.ndarray, " T"]]
) -> dict[str, dict[str, float]]:
    """Number of targets and mean of each metric in every slice that has a target."""
    return {
        name: {"targets": int(inside.sum()), **{metric: float(v[inside].mean()) for metric, v in values.items()}}
        for name, inside in slices.items()
        if inside.any()
    }
