"""ULIM's serving half: a short-term vector for the catalogue, a long-term one for each category searched.

Section 2.1.3 and 2.2.2. The losses of Eq. 1 to 3 are in `objective.py`: nothing here can learn alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.errors import ConfigError, at_least
from penchant.funnel.interests import InterestLists, Interests, Merge, merge_interests
from penchant.index.exact import best_items
from penchant.layers import MLP, Dropout, item_embedding
from penchant.models import Sizes
from penchant.papers.ulim.categories import PGIN, PGINConfig, counted_categories
from penchant.papers.ulim.sequences import (
    Actions,
    PooledSelfAttention,
    TargetAttention,
    looked_up,
    padded,
    segments_of,
)

MAX_SCALE = 100.0
"""Largest 1 / temperature."""
DEPTH = 2048
"""Places of a merged list that `score_items` orders; what comes after them is in the short-term vector's order."""
BLOCK = 256
"""Subsequences whose self-attention is computed at once."""


@dataclass(frozen=True, kw_only=True)
class ULIMConfig(PGINConfig):
    """PGIN's sizes, the encoders', and how lists are merged."""

    temperature: float = 0.05
    """The learned temperatures' first value."""
    query: Literal["category", "short"] = "category"
    """What asks the subsequence: the short-term pool and the category's embedding, or, as printed, the pool alone."""
    stop_query: bool = False
    """Whether L_l teaches the short-term encoder nothing through the query."""
    attention: Literal["target", "self"] = "target"
    """self = the paper's ablation: self-attention of the subsequence, then its mean; nobody asks."""
    num_searched: int = 10
    """K: categories searched."""
    categories: Literal["pgin", "frequency", "last"] = "pgin"
    """What says which: PGIN, or as controls the history's most frequent categories or its last ones."""
    channels: Literal["both", "short", "long"] = "both"
    """Which vectors search: controls of one kind alone."""
    merge: Merge = "quota"
    """How K+1 lists become one: see `funnel/interests.py`."""
    short_share: float = 0.5
    """Share of the merged list that is the short-term vector's, with quotas."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "num_searched")
        if not 0 <= self.short_share <= 1:
            raise ConfigError(f"short_share is {self.short_share}", fix="Set short_share to 0 to 1.")
        if not 1 / MAX_SCALE <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}", fix=f"Set temperature to {1 / MAX_SCALE} or more.")


class ULIM(nn.Module):
    """v^(s) = head(MHSA(recent actions), pooled); v^(l)_c = head(attention over the earlier actions of category c).

    e_i = x_i + MLP(x_i), x_i = item + category, of length 1; user vectors have length 1 / temperature. An empty
    subsequence reads as a null token, zero unless the objective teaches it, and the query itself (U9). Which
    categories: `pgin`, which is trained apart and shares nothing with the rest but its code (U20).

    Deviates: the query also has the activated category's embedding (U4), keys a bucket of the time since (U6), and
    heads are residual MLPs (U5), as the paper leaves them open; scores are cosines with learned temperatures.
    """

    kind: ClassVar[str] = "ulim"
    Config: ClassVar[type] = ULIMConfig
    item_category: Tensor

    def __init__(self, config: ULIMConfig, sizes: Sizes) -> None:
        super().__init__()
        if not sizes.num_categories:
            raise ConfigError("no item has a category", fix="Prepare the Store with categories: ULIM searches them.")
        self.config, self.sizes = config, sizes
        self.num_items, self.num_categories = sizes.num_items, sizes.num_categories
        width = config.width
        self.register_buffer("item_category", torch.zeros(sizes.num_items + 1, dtype=torch.int64))
        self.actions = Actions(sizes.num_items, sizes.num_categories, width)
        self.dropout = Dropout(config.dropout)
        self.tower = MLP(width, config.inner, width, dropout=config.dropout)
        self.short = PooledSelfAttention(width, config.heads, config.dropout)
        self.short_head = MLP(width, config.inner, width, dropout=config.dropout)
        self.category_query = item_embedding(sizes.num_categories, width)
        self.long: TargetAttention | PooledSelfAttention
        if config.attention == "target":
            self.long = TargetAttention(width, config.heads)
        else:
            self.long = PooledSelfAttention(width, config.heads, config.dropout)
        self.long_head = MLP(width, config.inner, width, dropout=config.dropout)
        self.null = nn.Parameter(torch.zeros(width))
        self.log_scales = nn.Parameter(torch.full((2,), -math.log(config.temperature)))
        self.pgin = PGIN(config, sizes)

    def set_categories(self, item_category: Int[Tensor, " I"]) -> None:
        """Tell both halves each item's category (a Store's `item_category`); before that all have none."""
        self.item_category.copy_(item_category)
        self.pgin.set_categories(item_category)

    # Items.

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, of length 1."""
        x = self.actions.plain(items, self.item_category[items])
        return F.normalize(x + self.tower(x), dim=-1)

    def item_vectors(self) -> Float[Tensor, "I D"]:
        """Vectors of length 1; row 0 is zero."""
        items = torch.arange(self.num_items + 1, device=self.item_category.device)
        return self.embed_items(items) * (items > 0)[:, None]

    # Users.

    def pooled(self, requests: Requests) -> Float[Tensor, "B D"]:
        """The short-term encoder: MHSA over the last `short_len` actions, then their mean. Zero without any."""
        recent = requests.last(self.config.short_len)
        now = requests.times_ms[:, None].expand_as(recent.history)
        categories = self.item_category[recent.history]
        x = self.actions(recent.history, categories, now, recent.history_times_ms)
        return self.short(self.dropout(x), recent.mask)

    def short_vectors(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """v^(s) of pooled recent actions; zero where there were none."""
        vectors = F.normalize(pooled + self.short_head(pooled), dim=-1) * self._scale(0)
        return vectors * (pooled != 0).any(1, keepdim=True)

    def long_vectors(
        self,
        pooled: Float[Tensor, "B D"],
        categories: Int[Tensor, "B K"],
        items: Int[Tensor, " P"],
        now_ms: Int[Tensor, " P"],
        then_ms: Int[Tensor, " P"],
        segments: Int[Tensor, " P"],
    ) -> Float[Tensor, "B K D"]:
        """v^(l) of each category, from its actions in one flat sequence; zero where category or history is none.

        Args:
            items: actions, sorted by segment.
            segments: b K + k, the category that each belongs to.
        """
        asks = (pooled.detach() if self.config.stop_query else pooled)[:, None].expand(-1, categories.shape[1], -1)
        if self.config.query == "category":
            asks = asks + self.category_query(categories)
        asks = asks.flatten(0, 1)
        x = self.dropout(self.actions(items, self.item_category[items], now_ms, then_ms))
        if isinstance(self.long, TargetAttention):
            read = self.long(asks, x, segments)
        else:
            read = self._self_attention(self.long, x, segments, len(asks))
        empty = torch.bincount(segments, minlength=len(asks)) == 0
        read = torch.where(empty[:, None], self.null + asks, read)
        vectors = F.normalize(read + self.long_head(read), dim=-1) * self._scale(1)
        known = (categories > 0) & (pooled != 0).any(1, keepdim=True)
        return vectors.view(*categories.shape, self.config.width) * known[..., None]

    def searches(self, requests: Requests) -> Interests:
        """What serving searches with: K as configured, of the channels configured."""
        return self.interests(requests, 0 if self.config.channels == "short" else self.config.num_searched)

    def interests(self, requests: Requests, k: int) -> Interests:
        """The short-term vector, and long-term ones of the k most probable categories; K here is k + 1.

        Fewer where fewer are probable at all; none without a history.
        """
        weights, categories = self.category_probs(requests).topk(min(k, self.num_categories + 1), dim=1)
        missing = (0, k - weights.shape[1])
        return self.toward(requests, F.pad(categories * (weights > 0), missing), F.pad(weights, missing))

    def toward(self, requests: Requests, categories: Int[Tensor, "B k"], weights: Float[Tensor, "B k"]) -> Interests:
        """The same of given categories, distinct in a row but for 0 = none: as where the right one is known."""
        requests = requests.last(self.config.max_len)
        history, times = requests.history, requests.history_times_ms
        pooled = self.pooled(requests)
        _, earlier = self.config.places(requests.lengths, history.shape[1])
        places, segments = segments_of(
            looked_up(self.item_category, history),
            earlier,
            categories,
            self.config.max_subsequence,
            self.num_categories,
        )
        now = requests.times_ms[places // max(history.shape[1], 1)]
        items, then = history.flatten()[places], times.flatten()[places]
        long = self.long_vectors(pooled, categories, items, now, then, segments)
        short = self.short_vectors(pooled) * (self.config.channels != "long")
        vectors = torch.cat([short[:, None], long], dim=1)
        return Interests(vectors, F.pad(categories, (1, 0)), F.pad(weights, (1, 0), value=1.0))

    def category_probs(self, requests: Requests) -> Float[Tensor, "B C"]:
        """y-hat over categories, or what stands in for it; column 0 is 0, and so are rows without a history."""
        if self.config.categories == "pgin":
            return self.pgin(requests).probs * (requests.lengths > 0)[:, None]
        return counted_categories(
            self.config, requests, self.item_category, self.num_categories, self.config.categories
        )

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """The short-term vector alone, which searches the whole catalogue. Zero for a request without a history."""
        return self.short_vectors(self.pooled(requests))

    # What they find.

    def lists_of(self, interests: Interests, vectors: Float[Tensor, "I D"], depth: int = DEPTH) -> InterestLists:
        """Exact search among the items' vectors: the best `depth` of the catalogue, and of each category."""
        return self._searched(interests, vectors, depth)[0]

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        """Scores in the order in which serving would merge the K+1 lists, whatever length is asked for.

        The first 2,048 places at least; the others follow by the short-term vector, or are -inf without one. All are
        -inf without a history.
        """
        lists, short = self._searched(self.searches(requests), self.item_vectors(), DEPTH)
        merged = merge_interests(lists, DEPTH, self.merge, self.short_share)
        # From 0 downwards, below the first places, which count down to 1.
        scores = short - short.amax(1, keepdim=True).clamp(min=torch.finfo(short.dtype).min)
        places = torch.arange(DEPTH, 0, -1, device=short.device).to(short).expand_as(merged.items)
        scores = scores.scatter(1, merged.items, places)
        scores[:, 0] = -torch.inf  # where empty slots have written too
        return scores

    @property
    def merge(self) -> Merge:
        """How the lists become one."""
        return self.config.merge

    @property
    def short_share(self) -> float:
        """The short-term vector's share of a merged list."""
        return 0.0 if self.config.channels == "long" else self.config.short_share

    def _searched(
        self, interests: Interests, vectors: Float[Tensor, "I D"], depth: int
    ) -> tuple[InterestLists, Float[Tensor, "B I"]]:
        known = (interests.vectors[:, 0] != 0).any(1, keepdim=True)
        short = (interests.vectors[:, 0] @ vectors.T).masked_fill(~known, -torch.inf)
        short[:, 0] = -torch.inf
        short_items, short_scores = best_items(short, min(depth, self.num_items))
        categories = interests.categories[:, 1:]
        block, begin = self._by_category()
        sizes = (begin[1:] - begin[:-1])[categories] * (categories > 0)
        longest = min(int(sizes.max()) if sizes.numel() else 0, depth)
        items = categories.new_zeros(*categories.shape, longest)
        scores = short.new_full(items.shape, -torch.inf)
        mass = short.new_full(categories.shape, -torch.inf)
        for category in categories.unique().tolist():
            own = block[begin[category] : begin[category + 1]]
            if not category or not len(own):
                continue
            row, k = (categories == category).nonzero(as_tuple=True)
            of = interests.vectors[row, k + 1] @ vectors[own].T
            mass[row, k] = of.logsumexp(1)
            best, at = of.topk(min(len(own), longest), dim=1)
            items[row, k, : best.shape[1]], scores[row, k, : best.shape[1]] = own[at], best
        return InterestLists(short_items, short_scores, items, scores, mass, interests.weights[:, 1:]), short

    def _by_category(self) -> tuple[Int[Tensor, " I"], Int[Tensor, " c"]]:
        """Items sorted by category, and where each category's begin."""
        ordered, block = self.item_category.sort(stable=True)
        begin = torch.searchsorted(ordered, torch.arange(self.num_categories + 2, device=block.device))
        return block, begin

    def _scale(self, which: int) -> Tensor:
        return self.log_scales[which].exp().clamp(max=MAX_SCALE)

    @staticmethod
    def _self_attention(attention: PooledSelfAttention, x: Tensor, segments: Tensor, count: int) -> Tensor:
        """Subsequences of like length together, so that they are not all padded to the longest."""
        lengths = torch.bincount(segments, minlength=count)
        out = x.new_zeros(count, x.shape[1])
        for part in lengths.argsort(stable=True).split(BLOCK):
            renumbered = segments.new_full((count,), -1)
            renumbered[part] = torch.arange(len(part), device=part.device)
            order = renumbered[segments]
            chosen = (order >= 0).nonzero()[:, 0]
            chosen = chosen[order[chosen].argsort(stable=True)]
            out = out.index_put((part,), attention(*padded(x[chosen], order[chosen], len(part))))
        return out
