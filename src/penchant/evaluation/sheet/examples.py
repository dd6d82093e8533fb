"""Some users and items as they are: titles, pictures, times. These are rows of the data."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from penchant.data.sources.images import small_jpeg
from penchant.data.store import Store
from penchant.evaluation.slices import popularity_slices

NUM_USERS, NUM_EVENTS, NUM_ITEMS = 6, 12, 4
"""Users; the last events of each; items of each part of the catalogue."""

PICTURE = (72, 96)
"""Largest width and height of a picture, in pixels. With NUM_USERS * NUM_EVENTS + 3 * NUM_ITEMS of them a page stays
under 2 MB whatever they show."""

MAX_TITLE, MAX_TEXT = 80, 160


@dataclass(frozen=True)
class Item:
    """An item to show.

    Attributes:
        title: or its id, where it has none.
        picture: a data URL of a small JPEG; "" where it has none or it cannot be read.
        count: its events.
        part: "head", "torso", "tail" or "cold" (`popularity_slices`, of all events).
    """

    title: str
    text: str
    category: str
    picture: str
    count: int
    part: str


@dataclass(frozen=True)
class History:
    """A user's last events, oldest first: each item, and when in milliseconds (or the row where there are no times)."""

    user_id: str
    length: int
    items: tuple[Item, ...]
    times_ms: tuple[int, ...]


@dataclass(frozen=True)
class Examples:
    """Users, and items from head, torso and tail."""

    users: tuple[History, ...]
    items: tuple[Item, ...]


def draw_examples(store: Store, item_counts: np.ndarray, category_names: list[str], seed: int) -> Examples:
    """The same seed draws the same."""
    rng = np.random.default_rng(seed)
    active = np.flatnonzero(np.diff(store.user_indptr))
    users = rng.choice(active, min(NUM_USERS, len(active)), replace=False)
    parts = popularity_slices(item_counts)
    drawn = [rng.choice(rows, min(NUM_ITEMS, len(rows)), replace=False) for rows in _rows(parts)]
    stops = store.user_indptr[users + 1]
    starts = np.maximum(store.user_indptr[users], stops - NUM_EVENTS)
    events = [store.event_item[a:b] for a, b in zip(starts, stops, strict=True)]
    known = _items(store, np.unique(np.concatenate([*events, *drawn]).astype(np.int64)), item_counts, category_names)
    user_ids = store.table("users", ["user_id"])["user_id"]
    return Examples(
        users=tuple(
            History(
                user_id=user_ids[user - 1].as_py(),
                length=int(store.user_indptr[user + 1] - store.user_indptr[user]),
                items=tuple(known[item] for item in items.tolist()),
                times_ms=tuple(store.event_ts_ms[a:b].tolist()),
            )
            for user, items, a, b in zip(users.tolist(), events, starts.tolist(), stops.tolist(), strict=True)
        ),
        items=tuple(known[item] for part in drawn for item in part.tolist()),
    )


def _rows(parts: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [np.flatnonzero(parts[name]) for name in ("head", "torso", "tail")]


def _items(store: Store, wanted: np.ndarray, counts: np.ndarray, category_names: list[str]) -> dict[int, Item]:
    """The items of these numbers (sorted)."""
    parts = popularity_slices(counts)
    found: dict[int, Item] = {}
    columns = ["item", "item_id", "title", "text", "category", "image"]
    # Unbuffered and in small batches: the pictures of a whole catalogue do not fit into memory.
    with pq.ParquetFile(store.path / "items.parquet", pre_buffer=False, buffer_size=1 << 20) as file:
        first = 1
        for batch in file.iter_batches(256, columns=columns):
            here = wanted[(wanted >= first) & (wanted < first + batch.num_rows)]
            for row in batch.take((here - first).tolist()).to_pylist() if len(here) else []:
                number = row["item"]
                found[number] = Item(
                    title=_cut(row["title"] or row["item_id"], MAX_TITLE),
                    text=_cut(row["text"] or "", MAX_TEXT),
                    category=_cut(category_names[row["category"]], MAX_TITLE) if row["category"] else "",
                    picture=_picture(row["image"]),
                    count=int(counts[number]),
                    part=next(name for name, inside in parts.items() if inside[number]),
                )
            first += batch.num_rows
    return found


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _picture(encoded: bytes | None) -> str:
    small = small_jpeg(encoded, PICTURE, quality=75) if encoded else None
    return f"data:image/jpeg;base64,{base64.b64encode(small).decode()}" if small else ""
