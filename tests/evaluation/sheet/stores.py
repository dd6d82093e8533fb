"""Stores of a few events written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penchant.data.store import Store
from penchant.data.writer import write_store


def small_store(
    out: Path,
    events: Sequence[tuple[int, int, int]],
    *,
    num_items: int,
    items: dict[str, list[Any]] | None = None,
    has_time: bool = True,
    name: str = "small",
    meta: dict[str, Any] | None = None,
) -> Store:
    """A Store of (user, item, time in milliseconds), as they are sorted; items without content unless it is given."""
    user, item, ts = (np.array(column) for column in zip(*sorted(events, key=lambda e: (e[0], e[2])), strict=True))
    numbers = np.arange(1, num_items + 1)
    users = np.arange(1, user.max() + 1)
    nothing = np.zeros(len(user), dtype=np.int64)
    table = {"item": numbers, "item_id": [f"i{n}" for n in numbers], "category": 0 * numbers, **(items or {})}
    return write_store(
        out,
        name=name,
        items=pa.table(table),
        users=pa.table({"user": users, "user_id": [f"u{n}" for n in users]}),
        events=pa.table(
            {
                "user": user,
                "item": item,
                "query": nothing,
                "action": ["click"] * len(user),
                "ts_ms": ts,
                "request": nothing,
                "row": np.arange(len(user)),
            }
        ),
        has_time=has_time,
        meta=meta,
    )
