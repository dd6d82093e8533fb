"""Penchant: a personalized search and recommendation funnel, from raw logs to a served list.

    store = penchant.prepare(events, items=items, out="store")
    funnel = penchant.train_funnel(store, out="run")
    lists = funnel.recommend(["ada", "grace"], k=10)

Tables in (pandas, polars, Arrow), tables out (Arrow). Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penchant.data.store import Store
    from penchant.recipes.funnel.run import TrainedFunnel
    from penchant.recipes.runs import LoadedRun

__version__ = "0.1.0"


def prepare(
    events: Any,
    items: Any = None,
    impressions: Any = None,
    users: Any = None,
    *,
    out: str | Path,
    columns: Mapping[str, str] | None = None,
    served: str | Path | None = None,
    strict: bool = False,
) -> Store:
    """Turn tables into a Store at `out`.

    Args:
        events: what users did: user_id, item_id, timestamp.
        items: the catalogue: item_id, title, text, category, image.
        impressions: what users were shown: request_id, item_id, label.
        columns: field -> column, where a column's name cannot be guessed.
        served: the event log of `penchant serve`, put behind `events`; what both have counts once.
        strict: rows that cannot be used are fatal instead of counted.

    Raises:
        DataError: a column is missing, or no usable row is left.
        StoreError: `out` exists.
    """
    from penchant.data import prepare as preparing
    from penchant.data.sources.table import from_tables

    raw = from_tables(events, items, impressions, users, columns=columns, served=served)
    return preparing.prepare(raw, out, strict=strict)


def train(
    store: Store | str | Path,
    recipe: str = "sasrec",
    *,
    out: str | Path,
    split: str = "temporal-successive",
    epochs: float | None = None,
) -> LoadedRun:
    """Train one model (`penchant train` lists the recipes); a run that was cut in `out` goes on.

    Args:
        store: it, or its folder.

    Raises:
        ConfigError: there is no such recipe.
        RunError: `out` holds another run.
        StoreError: there is no Store in that folder.
    """
    from dataclasses import replace

    from penchant.data.split import load_split
    from penchant.recipes.named import recipe_of
    from penchant.recipes.runs import CountRun, load_run, train_run

    run = recipe_of(recipe)
    if epochs is not None and not isinstance(run, CountRun):
        run = replace(run, train=replace(run.train, epochs=epochs))
    opened = _opened(store)
    train_run(run, opened, load_split(opened, split), Path(out))
    return load_run(Path(out), opened.path)


def train_funnel(
    store: Store | str | Path, *, out: str | Path, channels: Sequence[str] = (), epochs: float | None = None
) -> TrainedFunnel:
    """Train and judge a funnel; its report is `out`/report.html.

    Args:
        store: it, or its folder.
        channels: retrieval recipes (`penchant train` lists them) that find candidates, beside popularity; sasrec and
            item_knn where none is named.
        epochs: of every stage that learns, at most; None trains each as long as its recipe says.

    Raises:
        ConfigError: there is no such recipe, it ranks, or one is named twice.
        RunError: `out` holds another run.
    """
    from penchant.data.split import load_split
    from penchant.recipes.funnel.plan import shortened
    from penchant.recipes.funnel.run import run_funnel
    from penchant.recipes.named import funnel_by

    run = funnel_by(channels)
    run = run if epochs is None else shortened(run, epochs)
    opened = _opened(store)
    return run_funnel(run, opened, load_split(opened, "funnel"), Path(out))


def _opened(store: Store | str | Path) -> Store:
    from penchant.data.store import Store

    return store if isinstance(store, Store) else Store(Path(store))
