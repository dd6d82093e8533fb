"""A small ULIM and histories for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from penchant.data.history import Requests
from penchant.models import Sizes
from penchant.papers.ulim.model import ULIM, ULIMConfig

NUM_ITEMS, NUM_CATEGORIES = 24, 5
SIZES = Sizes(num_items=NUM_ITEMS, num_categories=NUM_CATEGORIES)
SMALL: dict[str, Any] = {
    "width": 8,
    "inner": 12,
    "dropout": 0.0,
    "short_len": 3,
    "max_len": 12,
    "max_subsequence": 4,
    "num_searched": 3,
}
CATEGORY = torch.tensor([0, *(1 + (i * i) % NUM_CATEGORIES for i in range(NUM_ITEMS))])
CATEGORY[7] = 0
"""Of items 1, 2, ..: unequal sizes, 3 and 4 of no item, one item of none."""


def made(seed: int = 0, **changes: Any) -> ULIM:
    torch.manual_seed(seed)
    model = ULIM(ULIMConfig(**{**SMALL, **changes}), SIZES)
    model.set_categories(CATEGORY)
    with torch.no_grad():
        model.null.normal_()
    return model.eval()


def histories(lengths: list[int], seed: int = 0, padding: int = 0) -> Requests:
    rng = np.random.default_rng(seed)
    width = max(lengths, default=0) + padding
    history, times = np.zeros((len(lengths), width), np.int64), np.zeros((len(lengths), width), np.int64)
    for row, length in enumerate(lengths):
        history[row, :length] = rng.integers(1, NUM_ITEMS + 1, length)
        times[row, :length] = 10**12 + np.sort(rng.integers(0, 10**10, length))
    now = torch.full((len(lengths),), 10**12 + 2 * 10**10)
    return Requests(torch.zeros(len(lengths)).long(), now, torch.from_numpy(history), torch.from_numpy(times))
