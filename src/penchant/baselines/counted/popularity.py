"""Popularity, and recent popularity: the same list for everybody. Whoever does not beat it has learned nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.models import Sizes

DAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class PopularityConfig:
    """Which events count."""

    window_days: float | None = None
    """None counts the whole train window; a number, only the events within that many days before its end. Where the
    data know an order but no times, each user's last `window_days` events, as if there were one a day."""

    def __post_init__(self) -> None:
        if self.window_days is not None and not self.window_days > 0:
            raise ConfigError(f"{self.window_days}", where="window_days", fix="Give days above 0, or none for all.")


class Popularity(nn.Module):
    """Scores every item by how often it occurs in the train window, or near the window's end.

    The train window ends at the split's first cut after it; under a split without cuts (leave-one-out), at the latest
    train event of all users. The counts are those of `fit`: they are not refreshed while serving, so "recent" means
    recent when the model was made.
    """

    kind: ClassVar[str] = "popularity"
    Config: ClassVar[type] = PopularityConfig
    counts: Tensor

    def __init__(self, config: PopularityConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        self.register_buffer("counts", torch.zeros(sizes.num_items + 1, dtype=torch.int64))

    def fit(self, store: Store, split: Split) -> None:
        """Count the events of the train window."""
        rows = recent_rows(store, split, self.config.window_days)
        self.counts.copy_(torch.from_numpy(np.bincount(store.event_item[rows], minlength=self.num_items + 1)))

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        """Counts, the same for every request, with a history or without; 0 for an item never counted."""
        scores = self.counts.float()
        scores[0] = -torch.inf
        return scores.expand(len(requests), -1)


def recent_rows(store: Store, split: Split, window_days: float | None) -> np.ndarray:
    """Event rows of the train window that `PopularityConfig.window_days` lets count, int64."""
    rows = split.events("train")
    if window_days is None or not len(rows):
        return rows
    if not store.has_time:
        stops = split.stops("train")[store.event_user[rows]]
        return rows[rows >= stops - round(window_days)]
    times = store.event_ts_ms[rows]
    if split.cuts_ms is None:
        end_ms = int(times.max()) + 1
    else:
        end_ms = split.cuts_ms[split.windows.index("train")]
    return rows[times >= end_ms - window_days * DAY_MS]
