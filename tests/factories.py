"""Made-up Stores whose behaviour is known: nothing here comes from a real data set."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from penchant.data.store import MANIFEST, Store, sha256, write_json
from penchant.data.writer import write_store

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000


def make_store(
    out: Path,
    *,
    num_users: int = 60,
    num_items: int = 80,
    num_categories: int = 8,
    seed: int = 0,
    searches: bool = False,
) -> Store:
    """Users who keep to two categories each, and within one walk from an item to the next (so order can be learned).

    Half of the events came from a request that showed ten items; every third request had a query. Equal times occur.

    Args:
        searches: every other event, about, came from a search for the first word of its item's title, or both.
    """
    rng = np.random.default_rng(seed)
    category = 1 + np.arange(num_items) % num_categories
    words = ["red", "blue", "green", "wool", "silk", "oak", "steel", "glass"]
    title = [f"{words[(i * 7) % 8]} {words[c % 8]} thing {i + 1}" for i, c in enumerate(category)]
    items = pa.table(
        {
            "item": pa.array(np.arange(1, num_items + 1), pa.int32()),
            "item_id": [f"i{i + 1}" for i in range(num_items)],
            "title": title,
            "text": [None if i % 9 == 0 else f"A {t}, made by hand." for i, t in enumerate(title)],
            "category": pa.array(category, pa.int32()),
            "category_path": [f"all > kind {c}" for c in category],
            "image": [None if i % 7 == 0 else _picture(i) for i in range(num_items)],
        }
    )
    users = pa.table(
        {
            "user": pa.array(np.arange(1, num_users + 1), pa.int32()),
            "user_id": [f"u{u + 1}" for u in range(num_users)],
        }
    )
    events, shown = [], []
    for user in range(1, num_users + 1):
        liked = rng.choice(num_categories, size=2, replace=False) + 1
        at = START_MS + int(rng.integers(0, 60 * DAY_MS))
        item = 0
        for _ in range(int(rng.integers(6, 40))):
            at += int(rng.integers(0, 3)) * int(rng.integers(0, DAY_MS))  # a third of the steps take no time
            members = np.flatnonzero(category == rng.choice(liked)) + 1
            follows = item and rng.random() < 0.6
            item = item % num_items + num_categories if follows else int(rng.choice(members))
            item = item if 1 <= item <= num_items else int(rng.choice(members))
            events.append((user, item, at))
            if rng.random() < 0.5:
                others = rng.choice(np.setdiff1d(np.arange(1, num_items + 1), [item]), size=9, replace=False)
                place = int(rng.integers(0, 10))
                shown.append((at, user, np.insert(others, place, item), place, int(rng.random() < 1 / 3)))
    row = rng.permutation(len(events))
    query, texts = np.zeros(len(events), np.int32), ["red thing"]
    if searches:
        chance = np.random.default_rng([seed, 1])
        for at, (_, item, _) in enumerate(events):
            if chance.random() < 0.5:
                text = " ".join(title[item - 1].split()[: int(chance.integers(1, 3))])
                texts += [] if text in texts else [text]
                query[at] = texts.index(text) + 1
    user_, item_, ts_ = (np.array(x) for x in zip(*events, strict=True))
    order = np.lexsort((row, ts_, user_))
    event_table = pa.table(
        {
            "user": pa.array(user_[order], pa.int32()),
            "item": pa.array(item_[order], pa.int32()),
            "query": pa.array(query[order], pa.int32()),
            "action": ["click"] * len(events),
            "ts_ms": pa.array(ts_[order], pa.int64()),
            "request": pa.array(np.zeros(len(events)), pa.int64()),
            "row": pa.array(row[order], pa.int64()),
        }
    )
    shown.sort(key=lambda s: s[0])
    r = len(shown)
    impressions = pa.table(
        {
            "request": pa.array(np.repeat(np.arange(1, r + 1), 10), pa.int64()),
            "user": pa.array(np.repeat([s[1] for s in shown], 10), pa.int32()),
            "ts_ms": pa.array(np.repeat([s[0] for s in shown], 10), pa.int64()),
            "query": pa.array(np.repeat([s[4] for s in shown], 10), pa.int32()),
            "position": pa.array(np.tile(np.arange(1, 11), r), pa.int16()),
            "item": pa.array(np.concatenate([s[2] for s in shown]), pa.int32()),
            "label": pa.array(np.concatenate([np.arange(10) == s[3] for s in shown]), pa.int8()),
            "source": ["synthetic"] * (10 * r),
        }
    )
    queries = pa.table({"query": pa.array(np.arange(1, len(texts) + 1), pa.int32()), "text": texts})
    return write_store(
        out,
        name="made-up",
        items=items,
        users=users,
        events=event_table,
        impressions=impressions,
        queries=queries,
    )


def give_vectors(store: Store, *, width: int = 12, seed: int = 0) -> None:
    """Write text and image vectors into a Store as `penchant encode` does: near those of the same category.

    Every ninth item has no text, every seventh no picture.
    """
    rng = np.random.default_rng(seed)
    for kind, gap in (("text", 9), ("image", 7)):
        of_category = rng.normal(size=(store.num_categories + 1, width))
        values = of_category[store.item_category] + 0.5 * rng.normal(size=(store.num_items + 1, width))
        present = np.arange(store.num_items + 1) % gap != 0
        folder = store.path / "vectors" / kind
        folder.mkdir(parents=True)
        np.save(folder / "values.npy", (values * present[:, None]).astype(np.float16))
        np.save(folder / "present.npy", present)
        described = {"encoder": "made-up", "encoder_fingerprint": "made-up", "fingerprint": f"{kind} {seed}"}
        write_json(folder / "manifest.json", described)


def _picture(i: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), ((37 * i) % 256, (91 * i) % 256, (53 * i) % 256)).save(buffer, format="PNG")
    return buffer.getvalue()


def give_columns(store: Store, table: str, columns: dict[str, list[object]]) -> Store:
    """The same Store with further columns in one of its tables, as a source of one's own would have brought them."""
    path = store.path / f"{table}.parquet"
    whole = pq.read_table(path)
    for name, values in columns.items():
        whole = whole.append_column(name, pa.array(values))
    pq.write_table(whole, path)
    described = json.loads((store.path / MANIFEST).read_text())
    described["files"][path.name] |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(store.path / MANIFEST, described)
    return Store(store.path)
