"""What a user did before a moment: the one implementation that training, judging and serving share.

Histories are oldest first and right-padded with 0, so a causal model needs no padding mask at the positions that count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from penchant.data.store import Store
from penchant.errors import at_least


@dataclass(frozen=True)
class Requests:
    """A batch of requests: who asks, when, for what, and what they did before. One request is a batch of one.

    Attributes:
        users: dense users; 0 = anonymous or new.
        times_ms: the moment of each request.
        history: items, oldest first, 0 = padding at the end.
        history_times_ms: when; 0 at padding.
        queries: what each typed; None where nobody searched (recommendation), "" where one did not.
        history_queries: the dense query under which each past action happened, 0 = none, unknown or padding; None where
            nobody knows: the Store has no queries, or the history comes from a server.
    """

    users: Int[Tensor, " B"]
    times_ms: Int[Tensor, " B"]
    history: Int[Tensor, "B S"]
    history_times_ms: Int[Tensor, "B S"]
    queries: tuple[str, ...] | None = None
    history_queries: Int[Tensor, "B S"] | None = None

    def __len__(self) -> int:
        return len(self.users)

    @property
    def mask(self) -> Bool[Tensor, "B S"]:
        """True at real actions."""
        return self.history > 0

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        return self.mask.sum(1)

    def last(self, max_len: int) -> Requests:
        """The same requests with the last `max_len` actions of each history, and no more padding than needed."""
        lengths = self.lengths
        width = int(lengths.clamp(max=max_len).max()) if len(self) else 0
        if width == self.history.shape[1]:
            return self  # nothing to cut: no history is longer than the widest that is kept
        column = torch.arange(width, device=lengths.device) + (lengths - max_len).clamp(min=0)[:, None]
        inside = column < lengths[:, None]
        column = column.clamp(max=max(self.history.shape[1] - 1, 0))
        return replace(
            self,
            history=self.history.gather(1, column) * inside,
            history_times_ms=self.history_times_ms.gather(1, column) * inside,
            history_queries=None if self.history_queries is None else self.history_queries.gather(1, column) * inside,
        )

    def rows(self, rows: slice | Int[Tensor, " b"]) -> Requests:
        """Some of the requests."""
        of = range(len(self))[rows] if isinstance(rows, slice) else rows.tolist()
        return replace(
            self,
            users=self.users[rows],
            times_ms=self.times_ms[rows],
            history=self.history[rows],
            history_times_ms=self.history_times_ms[rows],
            queries=None if self.queries is None else tuple(self.queries[i] for i in of),
            history_queries=None if self.history_queries is None else self.history_queries[rows],
        )

    def to(self, device: torch.device | str) -> Requests:
        return replace(
            self,
            users=self.users.to(device),
            times_ms=self.times_ms.to(device),
            history=self.history.to(device),
            history_times_ms=self.history_times_ms.to(device),
            history_queries=None if self.history_queries is None else self.history_queries.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class HistoryParts:
    """Where a history's recent part ends and its earlier part begins, for models that read thousands of actions.

    The recent part is the last `short_len` actions; the earlier one all before, as far back as `max_len`.
    """

    max_len: int = 2000
    """Actions read, the latest ones."""
    short_len: int = 100
    """Actions of the recent part."""
    overlap: bool = False
    """Whether the earlier part goes on through the recent one."""
    half: Literal["none", "newest", "oldest"] = "none"
    """Which half of the earlier part alone is kept: an ablation of ULIM's."""
    max_subsequence: int = 256
    """Actions of one category read of the earlier part, the latest ones."""

    def __post_init__(self) -> None:
        at_least(1, self, "max_len", "short_len", "max_subsequence")

    def earlier(self, lengths: Int[Tensor, " B"]) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
        """Places start:stop of the earlier part in histories of so many actions, 0 = the oldest action there is."""
        start = (lengths - self.max_len).clamp(min=0)
        stop = lengths if self.overlap else torch.maximum(lengths - self.short_len, start)
        if self.half == "newest":
            start = start + (stop - start) // 2
        elif self.half == "oldest":
            stop = start + (stop - start + 1) // 2
        return start, stop


def gather_ragged(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, max_len: int) -> np.ndarray:
    """The last `max_len` of values[start:end] for each pair, right-padded with 0.

    Args:
        values: [E], may be memory-mapped; only the rows asked for are read.
        starts, ends: int64 [B].
    Returns: [B, S] of values' type, S = the longest slice, at most max_len.
    """
    starts = np.maximum(starts, ends - max_len)
    lengths = ends - starts
    width = int(lengths.max(initial=0))
    out = np.zeros((len(starts), width), dtype=values.dtype)
    inside = np.arange(width) < lengths[:, None]
    out[inside] = values[(starts[:, None] + np.arange(width))[inside]]
    return out


def make_requests(
    users: np.ndarray,
    times_ms: np.ndarray,
    items: np.ndarray,
    item_times_ms: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    max_len: int,
    queries: tuple[str, ...] | None = None,
    item_queries: np.ndarray | None = None,
) -> Requests:
    """Requests whose histories are slices of flat arrays: a Store's events, or a server's event log.

    Args:
        queries: what each request typed.
        item_queries: the dense query of each item of `items`; None where unknown.
    """

    def histories(values: np.ndarray) -> Tensor:
        return torch.from_numpy(gather_ragged(values, starts, ends, max_len).astype(np.int64))

    return Requests(
        users=torch.from_numpy(np.asarray(users, dtype=np.int64)),
        times_ms=torch.from_numpy(np.asarray(times_ms, dtype=np.int64)),
        history=histories(items),
        history_times_ms=histories(item_times_ms),
        queries=queries,
        history_queries=None if item_queries is None else histories(item_queries),
    )


def requests_before_events(store: Store, events: np.ndarray, max_len: int) -> Requests:
    """One request per event: its user, at its time, with the history strictly before it in the Store's order.

    Where the Store has queries, `queries` is what was typed for the event itself.

    Args:
        events: int64 [B], rows of the Store's events.
    """
    users = np.searchsorted(store.user_indptr, events, side="right") - 1
    return make_requests(
        users,
        store.event_ts_ms[events],
        store.event_item,
        store.event_ts_ms,
        store.user_indptr[users],
        np.asarray(events, dtype=np.int64),
        max_len,
        texts_of(store, store.event_query[events]) if store.num_queries else None,
        store.event_query if store.num_queries else None,
    )


def requests_before_times(
    store: Store, users: np.ndarray, times_ms: np.ndarray, max_len: int, queries: tuple[str, ...] | None = None
) -> Requests:
    """One request per (user, time), with the actions strictly before that time: one at the same time is not seen.

    Args:
        queries: what each request typed; a time alone does not tell.
    """
    users = np.asarray(users, dtype=np.int64)
    starts, ends = store.user_indptr[users], ends_before(store, users, np.asarray(times_ms))
    asked = store.event_query if store.num_queries else None
    return make_requests(users, times_ms, store.event_item, store.event_ts_ms, starts, ends, max_len, queries, asked)


def texts_of(store: Store, queries: np.ndarray) -> tuple[str, ...]:
    """The texts of dense queries, "" for 0."""
    texts = store.query_texts
    return tuple(texts[q] for q in queries.tolist())


def ends_before(store: Store, users: np.ndarray, times_ms: np.ndarray) -> np.ndarray:
    """int64 [B]: the row after each user's last event strictly before a time. One binary search for all at once."""
    low, high = store.user_indptr[users], store.user_indptr[users + 1]
    while (unsure := low < high).any():
        middle = (low + high) // 2
        before = unsure & (store.event_ts_ms[np.where(unsure, middle, 0)] < times_ms)
        low, high = np.where(before, middle + 1, low), np.where(unsure & ~before, middle, high)
    return low
