"""A data sheet: all that can be said of a Store before anything is trained on it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.evaluation.pages import percent
from penchant.evaluation.sheet.catalogue import (
    Categories,
    Impressions,
    Queries,
    Spread,
    actions,
    categories,
    category_names,
    content,
    impressions,
    queries,
    spread,
)
from penchant.evaluation.sheet.checks import REASSURANCE, Check, split_checks, store_checks
from penchant.evaluation.sheet.events import EventNumbers, count_events
from penchant.evaluation.sheet.examples import Examples, draw_examples


@dataclass(frozen=True, kw_only=True)
class DataSheet:
    """Everything the page says.

    Attributes:
        manifest: the Store's own, as it is.
        made_ms: when the sheet was made.
        content: items with a title, a text, a picture.
    """

    manifest: Mapping[str, Any]
    made_ms: int
    seed: int
    events: EventNumbers
    items: Spread
    categories: Categories | None
    queries: Queries | None
    impressions: Impressions | None
    actions: Mapping[str, int]
    content: Mapping[str, int]
    checks: tuple[Check, ...]
    examples: Examples

    @property
    def has_time(self) -> bool:
        return self.manifest["has_time"]


def make_sheet(store: Store, *, seed: int = 0, now_ms: int | None = None) -> DataSheet:
    """Count, check and draw examples.

    Args:
        seed: of the examples.
        now_ms: the moment after which an event is in the future; this one if None.

    Raises:
        StoreError: a split of the Store is damaged.
    """
    made_ms = int(time.time() * 1000) if now_ms is None else now_ms
    splits = [load_split(store, path.stem) for path in sorted(store.path.glob("splits/*.json"))]
    events = count_events(store, splits, made_ms)
    names = category_names(store)
    checks = store_checks(events)
    for split in events.splits:
        checks += split_checks(split, has_time=store.has_time)
    return DataSheet(
        manifest=store.manifest,
        made_ms=made_ms,
        seed=seed,
        events=events,
        items=spread(events.item_counts[1:]),
        categories=categories(store, events.item_counts, names),
        queries=queries(store, events.query_counts),
        impressions=impressions(store),
        actions=actions(store),
        content=content(store),
        checks=tuple(checks),
        examples=draw_examples(store, events.item_counts, names, seed),
    )


def day(time_ms: int) -> str:
    """2026-01-31"""
    return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()


def dates(sheet: DataSheet) -> str:
    """First and last day of the events."""
    periods = sheet.events.periods
    return f"{day(periods.first_ms)} to {day(periods.last_ms)}" if periods else "no times, only an order"


def render_terminal(sheet: DataSheet) -> RenderableType:
    """A few lines for the terminal: `rich.print(render_terminal(sheet))`."""
    counts = sheet.manifest["counts"]
    head = Text("Data sheet", style="bold")
    head.append(f"  {sheet.manifest['name']} · {sheet.manifest['fingerprint']} · {dates(sheet)}", style="not bold")
    if sheet.manifest.get("synthetic"):
        head.append("  SYNTHETIC DATA", style="bold yellow")
    body = Text(
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['events']:,} events; the top 1 % of items take "
        f"{percent(sheet.items.top1)} of them, {sheet.items.never:,} items none"
    )
    warned = [check for check in sheet.checks if not check.passes]
    verdict = Text(f"{len(sheet.checks) - len(warned)} of {len(sheet.checks)} checks pass", style="bold")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("does not hold", "split", "how often"):
        table.add_column(title)
    for check in warned:
        table.add_row(check.name, escape(check.split) or "-", check.numbers, style="yellow")
    return Group(head, body, verdict, *([Text(REASSURANCE), table] if warned else []))
