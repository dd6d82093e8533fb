"""PGIN, the Pointer-Generator Interest Network: which category comes next. ULIM, section 2.2.1; and simpler answers.

Everything here serves: its loss is in `objective.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.data.history import HistoryParts, Requests
from penchant.errors import at_least
from penchant.layers import MLP, check_sizes
from penchant.models import Sizes
from penchant.papers.ulim.sequences import GAPS, Actions, PooledSelfAttention, gap_buckets, looked_up

COUNTS = 12
"""Buckets of how often a category occurs, each twice as wide as the one before."""
FEATURES = 4


@dataclass(frozen=True, kw_only=True)
class PGINConfig(HistoryParts):
    """Sizes of PGIN, and what it reads."""

    width: int = 32
    """Width of all vectors."""
    heads: int = 2
    inner: int = 64
    """Width of the inner layers of MLPs."""
    dropout: float = 0.1
    raw_up_to: int = 1024
    """The generator reads each action of histories up to this length, of longer ones a summary for each category."""
    pointer: Literal["scatter", "linear"] = "scatter"
    """The backward projection to the category space: attention weights put in their categories' places, or a linear
    map of the attended vector and a softmax."""
    pointer_query: Literal["short", "features", "last"] = "short"
    """What asks the pointer: the short-term vector and the user's features, these alone, or the last category."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "width", "heads", "inner")
        at_least(0, self, "raw_up_to")

    def places(self, lengths: Int[Tensor, " B"], width: int) -> tuple[Bool[Tensor, "B S"], Bool[Tensor, "B S"]]:
        """The recent part and the earlier part of right-padded histories."""
        at = torch.arange(width, device=lengths.device)
        start, stop = (part[:, None] for part in self.earlier(lengths))
        recent = (at >= (lengths - self.short_len)[:, None]) & (at < lengths[:, None])
        return recent, (at >= start) & (at < stop)


class Visited(NamedTuple):
    """The distinct categories of histories, the one seen last first; 0 after them.

    Attributes:
        counts, last: how often, and the place of the last time, from 1; 0 in empty slots.
        slot: of each category, its column here; meaningless where it was not visited.
    """

    categories: Int[Tensor, "B M"]
    counts: Int[Tensor, "B M"]
    last: Int[Tensor, "B M"]
    slot: Int[Tensor, "B C"]


def visited(categories: Int[Tensor, "B S"], inside: Bool[Tensor, "B S"], num_categories: int) -> Visited:
    """What there is to point at: deduplicated, in order of the last occurrence (U14). Category 0 is none.

    Args:
        inside: actions that count.
    """
    count, length = categories.shape
    inside = inside & (categories > 0)
    at = torch.arange(1, length + 1, device=categories.device).expand(count, -1) * inside
    empty = categories.new_zeros(count, num_categories + 1)
    counts = empty.scatter_add(1, categories, inside.long())
    last = empty.scatter_reduce(1, categories, at, "amax")
    most = int((counts > 0).sum(1).max()) if count else 0
    last, order = last.sort(dim=1, descending=True, stable=True)
    last, order = last[:, :most], order[:, :most]
    slot = empty.scatter(1, order, torch.arange(most, device=order.device).expand(count, -1))
    return Visited(order * (last > 0), counts.gather(1, order), last, slot)


class Prediction(NamedTuple):
    """Distributions over categories; column 0 is 0.

    y-hat = gate pointer + (1 - gate) generator.
    """

    probs: Float[Tensor, "B C"]
    pointer: Float[Tensor, "B C"]
    generator: Float[Tensor, "B C"]
    gate: Float[Tensor, " B"]


class PGIN(nn.Module):
    """A pointer to the categories of the history, a generator of all, and a gate between them.

    pointer    target attention over distinct categories, whose weights are scattered to the category space (U16)
    generator  MHSA and pooling of both parts, target attention with the user's features, an MLP, a softmax
    gate       P_poi = sigmoid(linear[pointer context, generator context, query]) (U18)

    Deviates: the paper describes no profile; the user's features are four numbers of the history (`_features`).
    "Multiscale category features" is not defined: a category's vector is joined by how often and how long ago (U14).
    Where no category was visited the gate is 0.
    """

    kind: ClassVar[str] = "pgin"
    Config: ClassVar[type] = PGINConfig
    item_category: Tensor

    def __init__(self, config: PGINConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items, self.num_categories = sizes.num_items, sizes.num_categories
        width = config.width
        self.register_buffer("item_category", torch.zeros(sizes.num_items + 1, dtype=torch.int64))
        self.actions = Actions(sizes.num_items, sizes.num_categories, width)
        self.counts = nn.Embedding(COUNTS, width)
        nn.init.normal_(self.counts.weight, std=0.1 * width**-0.5)
        self.short = PooledSelfAttention(width, config.heads, config.dropout)
        self.long = PooledSelfAttention(width, config.heads, config.dropout)
        self.features = MLP(FEATURES, config.inner, width)
        self.asks = nn.Linear(2 * width, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.linear = nn.Linear(width, sizes.num_categories + 1) if config.pointer == "linear" else None
        self.fuse_query, self.fuse_key, self.fuse_value = (nn.Linear(width, width) for _ in range(3))
        self.head = MLP(2 * width, config.inner, config.inner, sizes.num_categories + 1, dropout=config.dropout)
        self.gate = nn.Linear(3 * width, 1)

    def set_categories(self, item_category: Int[Tensor, " I"]) -> None:
        """Tell it each item's category (a Store's `item_category`)."""
        self.item_category.copy_(item_category)

    def forward(self, requests: Requests) -> Prediction:
        """What comes next, from at most `max_len` actions; C = num_categories + 1."""
        requests = requests.last(self.config.max_len)
        history, times, now = requests.history, requests.history_times_ms, requests.times_ms[:, None]
        categories = looked_up(self.item_category, history)
        recent, earlier = self.config.places(requests.lengths, history.shape[1])
        inside = recent | earlier
        seen = visited(categories, inside, self.num_categories)
        short = self.short(*self._read(requests.last(self.config.short_len)))
        features = self.features(self._features(requests, seen, inside))
        # The pointer.
        since = times.gather(1, (seen.last - 1).clamp(min=0)) if times.shape[1] else seen.last
        told = self._counted(seen.counts) + self.actions.gaps(gap_buckets(now.expand_as(since), since))
        tokens = self.actions.categories(seen.categories) + told
        query = self._query(short, features, seen)
        weights = self._attention(self.query(query), self.key(tokens), seen.counts > 0)
        context = (weights[:, None] @ self.value(tokens))[:, 0]
        if self.linear is None:
            empty = weights.new_zeros(len(weights), self.num_categories + 1)
            pointer = empty.scatter_add(1, seen.categories, weights)
        else:
            pointer = _distribution(self.linear(context))
        # The generator.
        pooled = torch.stack([self._long(requests, inside, seen, told), short], dim=1)
        both = torch.ones(pooled.shape[:2], dtype=torch.bool, device=pooled.device)
        mixed = self._attention(self.fuse_query(features), self.fuse_key(pooled), both)
        generated = (mixed[:, None] @ self.fuse_value(pooled))[:, 0]
        generator = _distribution(self.head(torch.cat([generated, features], dim=1)))
        # The gate.
        gate = torch.sigmoid(self.gate(torch.cat([context, generated, query], dim=1)))[:, 0]
        gate = gate * (seen.counts > 0).any(1)
        return Prediction(gate[:, None] * pointer + (1 - gate)[:, None] * generator, pointer, generator, gate)

    def _read(self, requests: Requests) -> tuple[Float[Tensor, "B S D"], Bool[Tensor, "B S"]]:
        """Every action as a vector, and which are real."""
        now = requests.times_ms[:, None].expand_as(requests.history)
        categories = looked_up(self.item_category, requests.history)
        return self.actions(requests.history, categories, now, requests.history_times_ms), requests.mask

    def _long(
        self, requests: Requests, inside: Bool[Tensor, "B S"], seen: Visited, told: Float[Tensor, "B M D"]
    ) -> Float[Tensor, "B D"]:
        """MHSA over the actions of short histories, over the means of each category's actions in long ones."""
        raw = inside.sum(1) <= self.config.raw_up_to
        out = told.new_zeros(len(told), told.shape[2])
        for rows, of in ((raw.nonzero()[:, 0], self._of_actions), ((~raw).nonzero()[:, 0], self._of_categories)):
            if len(rows):
                few = Visited(*(part[rows] for part in seen))
                out = out.index_put((rows,), of(requests.rows(rows), inside[rows], few, told[rows]))
        return out

    def _of_actions(self, requests: Requests, inside: Tensor, seen: Visited, told: Tensor) -> Float[Tensor, "B D"]:
        # A part that was cut out of the middle costs its places, not their attention.
        width = inside.shape[1]
        longest = int((inside * torch.arange(1, width + 1, device=inside.device)).max()) if width else 0
        first = replace(
            requests,
            history=requests.history[:, :longest],
            history_times_ms=requests.history_times_ms[:, :longest],
            history_queries=None,
        )
        return self.long(self._read(first)[0], inside[:, :longest])

    def _of_categories(self, requests: Requests, inside: Tensor, seen: Visited, told: Tensor) -> Float[Tensor, "B D"]:
        """Thousands of actions are summed from the tables by category, and never laid out as vectors."""
        history, width = requests.history, inside.shape[1]
        categories = looked_up(self.item_category, history)
        place = (inside & (categories > 0)).flatten().nonzero()[:, 0]
        first = torch.arange(len(history), device=place.device)[:, None] * seen.counts.shape[1]
        bag, order = (seen.slot.gather(1, categories) + first).flatten().index_select(0, place).sort()
        place = place.index_select(0, order)
        begins = torch.searchsorted(bag, torch.arange(seen.counts.numel(), device=bag.device))
        items, then = (x.flatten().index_select(0, place) for x in (history, requests.history_times_ms))
        now = requests.times_ms.index_select(0, place // width)
        gaps = gap_buckets(now, then)
        sums = self.actions.item_sums(items, begins) + self.actions.gap_sums(gaps, begins)
        means = sums.view_as(told) / seen.counts.clamp(min=1)[..., None]
        return self.long(means + self.actions.categories(seen.categories) + told, seen.counts > 0)

    def _features(self, requests: Requests, seen: Visited, inside: Bool[Tensor, "B S"]) -> Float[Tensor, "B F"]:
        """The user: actions, distinct categories, share of the most frequent one, time since the last action."""
        length = inside.sum(1)
        newest = F.pad(requests.history_times_ms, (1, 0)).amax(1)
        newest = torch.where(requests.lengths > 0, newest, requests.times_ms)
        most = F.pad(seen.counts, (1, 0)).amax(1)
        columns = (
            torch.log1p(length.float()) / 8,
            torch.log1p((seen.counts > 0).sum(1).float()) / 4,
            most / length.clamp(min=1),
            gap_buckets(requests.times_ms, newest) / GAPS,
        )
        return torch.stack(columns, dim=1).to(self.asks.weight)

    def _query(self, short: Tensor, features: Tensor, seen: Visited) -> Tensor:
        if self.config.pointer_query == "features":
            return features
        if self.config.pointer_query == "last":
            last = seen.categories[:, :1] if seen.categories.shape[1] else seen.slot[:, :1]
            return self.actions.categories(last)[:, 0]
        return self.asks(torch.cat([short, features], dim=1))

    def _counted(self, counts: Int[Tensor, "B M"]) -> Float[Tensor, "B M D"]:
        return self.counts(torch.log2(1 + counts.double()).long().clamp(max=COUNTS - 1))

    @staticmethod
    def _attention(
        query: Float[Tensor, "B D"], keys: Float[Tensor, "B M D"], real: Bool[Tensor, "B M"]
    ) -> Float[Tensor, "B M"]:
        """softmax(q . k / sqrt(d)) over what is real; zeros where nothing is."""
        logits = (keys @ query[..., None])[..., 0] * query.shape[1] ** -0.5
        # A finite fill, so that the gradient of a row of nothing is zero and not NaN.
        return logits.masked_fill(~real, -1e9).softmax(-1) * real


def _distribution(logits: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """softmax over categories 1, 2, ..; 0 in column 0."""
    return F.pad(logits[:, 1:].softmax(1), (1, 0))


def counted_categories(
    config: PGINConfig, requests: Requests, item_category: Int[Tensor, " I"], num_categories: int, how: str
) -> Float[Tensor, "B C"]:
    """What needs no learning, instead of PGIN's y-hat: controls. Column 0 is 0, and so are rows of empty histories.

    Args:
        how: "frequency" = shares of the history's actions; "last" = 1 / place in the order of last occurrence.
    """
    requests = requests.last(config.max_len)
    recent, earlier = config.places(requests.lengths, requests.history.shape[1])
    seen = visited(item_category[requests.history], recent | earlier, num_categories)
    places = torch.arange(1, seen.counts.shape[1] + 1, device=seen.counts.device)
    weights = seen.counts.float() if how == "frequency" else (seen.counts > 0) / places
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
    return weights.new_zeros(len(weights), num_categories + 1).scatter_add(1, seen.categories, weights)
