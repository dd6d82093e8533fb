"""A made-up Store whose answers are known by hand: two colours of items, and nobody who likes one touches the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from penchant.data.history import Requests
from penchant.data.store import Store
from penchant.data.writer import write_store

ITEMS_PER_COLOUR = 5
NUM_ITEMS = 2 * ITEMS_PER_COLOUR
ODD = torch.arange(1, NUM_ITEMS, 2)
EVEN = torch.arange(2, NUM_ITEMS + 1, 2)


def same_colour(item: int) -> set[int]:
    return set((ODD if item % 2 else EVEN).tolist())


def make_checkerboard(out: Path) -> Store:
    """Each user walks once around the items of one colour: every start (5), every stride (4), both colours: 40 users.

    So every two items of one colour have the same number of users in common, and each follows each equally often, also
    when the last two events are left out. Three more users did one thing each (10, 10, 9): items 10 and 9 lead in
    popularity, and nothing else changes. The category is the colour.
    """
    walks = [
        [2 * ((start + stride * step) % ITEMS_PER_COLOUR) + 2 - odd for step in range(ITEMS_PER_COLOUR)]
        for odd in (1, 0)
        for start in range(ITEMS_PER_COLOUR)
        for stride in range(1, ITEMS_PER_COLOUR)
    ]
    walks += [[NUM_ITEMS], [NUM_ITEMS], [NUM_ITEMS - 1]]
    user = np.repeat(np.arange(1, len(walks) + 1), [len(w) for w in walks])
    events = len(user)
    item = np.arange(1, NUM_ITEMS + 1)
    return write_store(
        out,
        name="checkerboard",
        items=pa.table(
            {
                "item": pa.array(item, pa.int32()),
                "item_id": [f"i{i}" for i in item],
                "category": pa.array(2 - item % 2, pa.int32()),
            }
        ),
        users=pa.table(
            {
                "user": pa.array(np.arange(1, len(walks) + 1), pa.int32()),
                "user_id": [f"u{u}" for u in range(1, len(walks) + 1)],
            }
        ),
        events=pa.table(
            {
                "user": pa.array(user, pa.int32()),
                "item": pa.array(np.concatenate(walks), pa.int32()),
                "query": pa.array(np.zeros(events), pa.int32()),
                "action": ["click"] * events,
                "ts_ms": pa.array(1_700_000_000_000 + 1000 * np.arange(events), pa.int64()),
                "request": pa.array(np.zeros(events), pa.int64()),
                "row": pa.array(np.arange(events), pa.int64()),
            }
        ),
    )


def requests_of(*histories: list[int], padding: int = 0) -> Requests:
    """Requests with these histories, and that many more columns of padding than needed."""
    width = max((len(h) for h in histories), default=0) + padding
    history = torch.zeros(len(histories), width, dtype=torch.int64)
    for row, items in enumerate(histories):
        history[row, : len(items)] = torch.tensor(items, dtype=torch.int64)
    times = (torch.arange(width) + 1) * 1000 * (history > 0)
    return Requests(torch.zeros(len(histories)).long(), torch.full((len(histories),), 10**6), history, times)
