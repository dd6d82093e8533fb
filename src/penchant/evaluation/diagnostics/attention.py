"""What attention weights look like, as numbers of each layer and head: do all queries look at the same keys?

KARMA (section 3.3, figure 2) shows collapse as "barcode-like" maps. Of a causal model a late key is seen by few
queries, and its own triangle would look like a barcode; so keys are compared by those queries alone that see all of
them: queries of the second half, keys of the first. Where attention goes both ways, all queries and all keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

SHORTEST = 6
"""Positions that a text or history must have: of 5 a causal map leaves one key beside position 0."""


@dataclass(frozen=True)
class HeadNumbers:
    """Means over the maps of a layer and head.

    Attributes:
        entropy: of a query's weights over log(keys that it sees), queries that see one key left out: 1 = even.
        first: share of a query's weight on position 0, where language models rest ("attention sink").
        column: the largest mean weight that any other key gets.
        barcode: variance of the keys' mean weights over the variance of all weights: 1 = every query looks alike.
        barcode_beyond: the same without position 0, the other weights taken as all there is.
    """

    entropy: float
    first: float
    column: float
    barcode: float
    barcode_beyond: float


def head_numbers(maps: Sequence[Float[np.ndarray, "_ _"]], *, causal: bool) -> HeadNumbers:
    """Numbers of one head.

    Args:
        maps: of N texts or histories, square, weights[query, key], rows adding up to one; without padding, each of at
            least `SHORTEST` positions.
        causal: a query sees no key after it.

    Raises:
        ValueError: a map shorter than `SHORTEST`, or none.
    """
    if not maps or min(map(len, maps)) < SHORTEST:
        raise ValueError(f"head_numbers needs maps of {SHORTEST} positions or more")
    rows = [_of_map(np.asarray(one, dtype=np.float64), causal) for one in maps]
    return HeadNumbers(*(float(np.mean(column)) for column in zip(*rows, strict=True)))


def _of_map(weights: np.ndarray, causal: bool) -> tuple[float, float, float, float, float]:
    length = len(weights)
    seen = np.arange(1, length + 1) if causal else np.full(length, length)
    entropy = -(weights * np.log(np.where(weights > 0, weights, 1.0))).sum(1)
    asked = seen > 1
    block = weights[length // 2 :, : length // 2] if causal else weights
    return (
        float((entropy[asked] / np.log(seen[asked])).mean()),
        float(block[:, 0].mean()),
        float(block[:, 1:].mean(0).max()),
        barcode(block),
        barcode(block[:, 1:]),
    )


def barcode(block: Float[np.ndarray, "Q K"]) -> float:
    """Variance of the column means over the variance of all weights, rows made to add up to one.

    1 = all queries look at the same keys, 0 = each key gets as much as any other on average, or all weights are even.
    Of weights at random it is about one over the number of queries, so that only maps of equal lengths compare.
    """
    total = block.sum(1, keepdims=True)
    shares = np.where(total > 1e-12, block / np.maximum(total, 1e-12), 1 / block.shape[1])
    whole = shares.var()
    return float(shares.mean(0).var() / whole) if whole > 1e-15 else 0.0


@dataclass(frozen=True)
class Reading:
    """How one transformer attends while it reads.

    Attributes:
        reader: "decoder" (histories) or "item encoder" (texts).
        weights: "trained", "untouched" (those the run began with) or "random".
        heads: [layer][head], the first layer that was read first.
        pictures: {(layer, head): weights [L, L]} of one example, the same for all weights; layers and heads from 1.
        labels: what each position of the example is.
        below: layers under these, which are frozen and the pretrained ones whatever the weights are.
    """

    reader: str
    weights: str
    heads: tuple[tuple[HeadNumbers, ...], ...]
    pictures: dict[tuple[int, int], np.ndarray]
    labels: tuple[str, ...]
    below: int = 0

    def mean(self, name: str) -> float:
        """Of one of `HeadNumbers`' fields, over all layers and heads."""
        return float(np.mean([getattr(head, name) for layer in self.heads for head in layer]))


def read_maps(
    reader: str,
    weights: str,
    maps: Sequence[Float[np.ndarray, "N H L L"]],
    lengths: Sequence[int],
    *,
    causal: bool,
    layers: Sequence[int],
    heads: Sequence[int],
    labels: Sequence[str],
    below: int = 0,
) -> Reading:
    """Numbers of every layer and head, and the pictures asked for.

    Args:
        maps: of each layer, right-padded.
        lengths: real positions of each of the N; the first is the example that is drawn.
        layers, heads: that are drawn, from 1; those the model does not have are left out.
        labels: of the example's positions.
        below: layers under those of the maps; numbers of layers count them.
    """
    told = tuple(
        tuple(
            head_numbers([layer[i, h, :n, :n] for i, n in enumerate(lengths)], causal=causal)
            for h in range(layer.shape[1])
        )
        for layer in maps
    )
    n = lengths[0]
    pictures = {
        (layer, head): np.asarray(maps[layer - 1 - below][0, head - 1, :n, :n])
        for layer in layers
        for head in heads
        if below < layer <= below + len(maps) and 1 <= head <= maps[layer - 1 - below].shape[1]
    }
    return Reading(reader, weights, told, pictures, tuple(labels), below)
