"""What the events are spread over: items, categories, queries; and what users were shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penchant.data.store import Store

BATCH = 65_536
"""Rows of a table held at a time."""

TOP = 20
MAX_POSITION = 20
CURVE_POINTS = 60


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How unevenly events fall on things. All but `never` is about those with an event.

    Attributes:
        total: events.
        different: things with an event.
        never: things without.
        top1, top10: share of the events on the most frequent 1 % and 10 % of them (rounded up).
        gini: 0 = all equal, towards 1 = all on one.
        curve: (rank, count) at ranks evenly spaced on a logarithmic axis.
    """

    total: int
    different: int
    never: int
    top1: float
    top10: float
    gini: float
    curve: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Categories:
    """The items' categories.

    Attributes:
        top: the most frequent ones: name, share of the events, share of the items.
        entropy: of the events over the categories, in bits; events without one are left out.
        items_without: share of the items without a category.
    """

    top: tuple[tuple[str, float, float], ...]
    entropy: float
    items_without: float


@dataclass(frozen=True, kw_only=True)
class Queries:
    """What users typed; a use is an event or a request with the query.

    Attributes:
        top: the most frequent: text, uses.
        words: mean number of words of a different query.
    """

    spread: Spread
    top: tuple[tuple[str, int], ...]
    words: float


@dataclass(frozen=True, kw_only=True)
class Impressions:
    """What users were shown.

    Attributes:
        lengths: of the requests' lists: quartiles with both ends.
        clicked: share of the impressions that were clicked.
        without_click: share of the requests without any click.
        anonymous: share of the requests without a user.
        positions: (position, impressions, share clicked) of the first MAX_POSITION; () where none is known.
        sources: where non-clicks come from, with their number.
    """

    lengths: tuple[int, ...]
    clicked: float
    without_click: float
    anonymous: float
    positions: tuple[tuple[int, int, float], ...]
    sources: Mapping[str, int]


def spread(counts: np.ndarray) -> Spread:
    """Of the counts of all things; no padding entry."""
    sizes = -np.sort(-counts[counts > 0])
    n, total = len(sizes), int(sizes.sum())
    ranks = np.unique(np.geomspace(1, max(n, 1), CURVE_POINTS).round().astype(np.int64)) if n else np.array([], int)
    # The mean absolute difference of two events' things over twice the mean, from the ranks.
    gini = float(((n + 1 - 2 * np.arange(1, n + 1)) * sizes).sum() / (n * total)) if n else 0.0
    return Spread(
        total=total,
        different=n,
        never=len(counts) - n,
        top1=float(sizes[: -(-n // 100)].sum() / max(total, 1)),
        top10=float(sizes[: -(-n // 10)].sum() / max(total, 1)),
        gini=gini,
        curve=tuple((int(r), int(sizes[r - 1])) for r in ranks),
    )


def content(store: Store) -> dict[str, int]:
    """How many items have a title, a text, a picture. The pictures are not read."""
    with pq.ParquetFile(store.path / "items.parquet") as file:
        counted: Counter[str] = Counter()
        for batch in file.iter_batches(BATCH, columns=["title", "text"]):
            for name in ("title", "text"):
                counted[name] += sum(map(bool, batch.column(name).to_pylist()))
        image = file.schema_arrow.get_field_index("image")
        groups = [file.metadata.row_group(g).column(image) for g in range(file.num_row_groups)]
        counted["picture"] = sum(group.num_values - group.statistics.null_count for group in groups)
    return {name: counted[name] for name in ("title", "text", "picture")}


def category_names(store: Store) -> list[str]:
    """The path of each category's first item, by number; entry 0 is "none"."""
    with pq.ParquetFile(store.path / "items.parquet") as file:
        names = ["none", *(f"category {c}" for c in range(1, store.num_categories + 1))]
        left = set(range(1, store.num_categories + 1))
        for batch in file.iter_batches(BATCH, columns=["category", "category_path"]):
            numbers = batch.column("category").to_numpy()
            firsts = np.unique(numbers, return_index=True)
            for number, row in zip(*(f.tolist() for f in firsts), strict=True):
                if number in left:
                    left.remove(number)
                    names[number] = batch.column("category_path")[row].as_py() or names[number]
    return names


def categories(store: Store, item_counts: np.ndarray, names: list[str]) -> Categories | None:
    """None where no item has a category."""
    if not store.num_categories:
        return None
    of_items = np.bincount(store.item_category[1:], minlength=len(names))
    of_events = np.bincount(store.item_category, weights=item_counts, minlength=len(names))
    top = 1 + np.argsort(-of_events[1:], kind="stable")[:TOP]
    share = of_events[1:] / max(of_events[1:].sum(), 1)
    some = share[share > 0]
    return Categories(
        top=tuple(
            (names[c], float(of_events[c] / max(item_counts.sum(), 1)), float(of_items[c] / store.num_items))
            for c in top.tolist()
        ),
        entropy=float(-(some * np.log2(some)).sum()),
        items_without=float(of_items[0] / store.num_items),
    )


def queries(store: Store, event_counts: np.ndarray) -> Queries | None:
    """None where nobody searched.

    Args:
        event_counts: int64 [Q+1], events of each query.
    """
    if len(event_counts) == 1:
        return None
    uses = event_counts + np.bincount(store.request_query[1:], minlength=len(event_counts))
    texts = store.table("queries", ["text"])["text"]
    words = [len(text.split()) for text in texts.to_pylist()]
    top = 1 + np.argsort(-uses[1:], kind="stable")[:TOP]
    return Queries(
        spread=spread(uses[1:]),
        top=tuple((texts[q - 1].as_py(), int(uses[q])) for q in top.tolist()),
        words=float(np.mean(words)),
    )


def actions(store: Store) -> dict[str, int]:
    """Events by action, the most frequent first."""
    counted: Counter[str] = Counter()
    for batch in _batches(store, "events", ["action"]):
        for entry in batch.column("action").value_counts().to_pylist():
            counted[entry["values"]] += entry["counts"]
    return dict(counted.most_common())


def impressions(store: Store) -> Impressions | None:
    """None where nothing that was shown was logged."""
    if not store.num_requests:
        return None
    lengths = np.diff(store.request_indptr)
    clicks = np.add.reduceat(store.impression_label, store.request_indptr[:-1], dtype=np.int64)
    shown, clicked = np.zeros((2, MAX_POSITION + 1), dtype=np.int64)
    sources: Counter[str] = Counter()
    for batch in _batches(store, "impressions", ["position", "label", "source"]):
        position, label = (batch.column(name).to_numpy() for name in ("position", "label"))
        inside = position <= MAX_POSITION
        shown += np.bincount(position[inside], minlength=MAX_POSITION + 1)
        clicked += np.bincount(position[inside & (label == 1)], minlength=MAX_POSITION + 1)
        for entry in batch.column("source").filter(pa.array(label == 0)).value_counts().to_pylist():
            sources[entry["values"]] += entry["counts"]
    return Impressions(
        lengths=tuple(int(q) for q in np.quantile(lengths, (0, 0.25, 0.5, 0.75, 1), method="nearest")),
        clicked=float(clicks.sum() / lengths.sum()),
        without_click=float((clicks == 0).mean()),
        anonymous=float((store.request_user[1:] == 0).mean()),
        positions=tuple((p, int(shown[p]), float(clicked[p] / shown[p])) for p in range(1, len(shown)) if shown[p]),
        sources=dict(sources.most_common()),
    )


def _batches(store: Store, table: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(store.path / f"{table}.parquet", pre_buffer=False, buffer_size=1 << 20) as file:
        yield from file.iter_batches(BATCH, columns=columns)
