"""What both halves of ULIM read histories with: actions as vectors, MHSA with average pooling, target attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.layers import Dropout, item_embedding

GAPS = 24
"""Buckets of the time since an action: each twice as long as the one before, from one minute to sixteen years."""


def gap_buckets(now_ms: Int[Tensor, "*N"], then_ms: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
    """min(floor(log2(1 + minutes)), GAPS - 1)."""
    minutes = (now_ms - then_ms).clamp(min=0).double() / 60_000
    return torch.log2(1 + minutes).long().clamp(max=GAPS - 1)


def looked_up(table: Int[Tensor, " I"], items: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
    """table[items], several times as fast for thousands."""
    return table.index_select(0, items.flatten()).view(items.shape)


class Actions(nn.Module):
    """x = item + category + bucket of the time since; what a history is read as."""

    def __init__(self, num_items: int, num_categories: int, width: int) -> None:
        super().__init__()
        self.items = item_embedding(num_items, width)
        self.categories = item_embedding(num_categories, width)
        self.gaps = nn.Embedding(GAPS, width)
        nn.init.normal_(self.gaps.weight, std=0.1 * width**-0.5)

    def plain(self, items: Int[Tensor, "*N"], categories: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        """Item and category alone."""
        return self.items(items) + self.categories(categories)

    def forward(
        self,
        items: Int[Tensor, "*N"],
        categories: Int[Tensor, "*N"],
        now_ms: Int[Tensor, "*N"],
        then_ms: Int[Tensor, "*N"],
    ) -> Float[Tensor, "*N D"]:
        return self.plain(items, categories) + self.gaps(gap_buckets(now_ms, then_ms))

    def item_sums(self, items: Int[Tensor, " N"], begins: Int[Tensor, " G"]) -> Float[Tensor, "G D"]:
        """Sums of items' own vectors over N sorted into G groups, of which each begins where it says."""
        return F.embedding_bag(items, self.items.weight, begins, mode="sum", sparse=self.items.sparse)

    def gap_sums(self, gaps: Int[Tensor, " N"], begins: Int[Tensor, " G"]) -> Float[Tensor, "G D"]:
        """The same of the vectors of times."""
        return F.embedding_bag(gaps, self.gaps.weight, begins, mode="sum")


class PooledSelfAttention(nn.Module):
    """Multi-head self-attention, then the mean over the real places: Vaswani et al. 2017, ULIM section 2.1.3.

    Deviates: LayerNorm before it and a residual around it, of which the paper does not speak.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "B S D"], real: Bool[Tensor, "B S"]) -> Float[Tensor, "B D"]:
        """Zero where nothing is real."""
        count, length, width = x.shape
        if not length:
            return x.new_zeros(count, width)
        heads = self.qkv(self.norm(x)).view(count, length, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        seen = real | ~real.any(1, keepdim=True)  # a row of nothing must not be a softmax over nothing
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(count, length, width)))
        return (x * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)


class TargetAttention(nn.Module):
    """Multi-head scaled dot attention of queries, each over its own segment of one flat sequence (U6).

    sum_j softmax_j(q W_Q (x_j W_K)^T / sqrt(d)) x_j W_V, j in the query's segment. No segment is padded to the length
    of another, so that the cost is that of the actions read.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, queries: Float[Tensor, "Q D"], x: Float[Tensor, "P D"], segments: Int[Tensor, " P"]
    ) -> Float[Tensor, "Q D"]:
        """Zero where a segment is empty.

        Args:
            segments: the query of each x.
        """
        count, width = queries.shape
        each = width // self.heads  # by name: with no query or no action there is nothing that -1 could be told from
        q = (self.query(queries) * each**-0.5).view(count, self.heads, each)
        k, v = self.keys_values(x).view(len(x), 2, self.heads, each).unbind(1)
        # A lookup, whose gradient is summed in a fixed order: that of indexing is not, with several threads.
        asked = F.embedding(segments, q.flatten(1)).view(len(x), self.heads, each)
        logits = (asked * k).sum(-1)
        of = segments[:, None].expand_as(logits)
        highest = logits.new_zeros(count, self.heads).scatter_reduce(0, of, logits.detach(), "amax", include_self=False)
        mass = (logits - highest[segments]).exp()
        total = mass.new_zeros(count, self.heads).index_add(0, segments, mass)
        mixed = v.new_zeros(q.shape).index_add(0, segments, mass[..., None] * v)
        mixed = mixed / total.clamp(min=torch.finfo(total.dtype).tiny)[..., None]
        return self.out(mixed.flatten(1)) * (total[:, :1] > 0)


def padded(x: Float[Tensor, "P D"], segments: Int[Tensor, " P"], count: int) -> tuple[Tensor, Tensor]:
    """Segments of a flat sequence, in ascending order of segments, one below the other: [Q, L, D] and what is real."""
    lengths = torch.bincount(segments, minlength=count)
    longest = int(lengths.max()) if count else 0
    real = torch.arange(longest, device=x.device) < lengths[:, None]
    return x.new_zeros(count, longest, x.shape[1]).masked_scatter(real[..., None], x), real


def segments_of(
    history_categories: Int[Tensor, "B S"],
    inside: Bool[Tensor, "B S"],
    categories: Int[Tensor, "B K"],
    longest: int,
    num_categories: int,
) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"]]:
    """The subsequences of the categories asked for: flat places b S + s, and the segment b K + k that each belongs to.

    An action is in one at most, and nothing is padded: P is the number of actions found. They are sorted by segment,
    and by time within it.

    Args:
        inside: actions that may be in a subsequence.
        categories: distinct in a row but for 0, which is none.
        longest: of each subsequence only so many actions, the newest.
    """
    count, asked = categories.shape
    slot = categories.new_full((count, num_categories + 1), -1)
    slot.scatter_(1, categories, torch.arange(asked, device=categories.device).expand(count, -1))
    slot[:, 0] = -1
    found = torch.where(inside, slot.gather(1, history_categories), -1)
    place = (found >= 0).flatten().nonzero()[:, 0]
    segment = found.flatten()[place] + place // max(found.shape[1], 1) * asked
    segment, order = segment.sort(stable=True)
    ends = torch.bincount(segment, minlength=count * asked).cumsum(0)
    kept = ends[segment] - torch.arange(len(segment), device=segment.device) <= longest
    return place[order][kept], segment[kept]
