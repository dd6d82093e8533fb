"""penchant bazaar oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from penchant.cli.arguments import open_split, parse, pick
from penchant.data.store import Store, write_json

TASKS = {"oracle": "the best HR, NDCG and AUC that anyone could reach on a Store of the generated market"}

HELP = """\
usage: penchant bazaar oracle STORE [--FIELD VALUE ...]

What is known of the generated market alone. Its Stores come from `penchant prepare bazaar`.

  penchant bazaar oracle stores/bazaar-tiny
  penchant bazaar oracle --help     every field
"""


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """The best possible HR, NDCG and AUC on a Store of the generated market: everything is known but chance.

    $ penchant bazaar oracle stores/bazaar-tiny
    $ penchant bazaar oracle stores/bazaar-large --targets 500 --out oracle.json
    """

    store: Positional[Path]
    """The Store, from `penchant prepare bazaar`."""
    split: str = "temporal-successive"
    """temporal-successive, temporal-last or funnel."""
    window: str = "test"
    targets: int = 2000
    """How many targets are ranked, drawn at random."""
    seed: int = 0
    """Of the draw."""
    out: Path | None = None
    """Write the numbers as JSON."""


def bazaar(args: Sequence[str]) -> None:
    """Do one of the market's tasks."""
    if pick("bazaar", "task", TASKS, HELP, args) is None:
        return
    import numpy as np

    from penchant.bazaar.oracle import KNOWS, judge
    from penchant.evaluation.metrics import auc, gauc, hr_at, ndcg_at

    chosen = parse("bazaar oracle", Oracle, args[1:])
    console = Console(stderr=True, highlight=False)
    store = Store(chosen.store)
    split = open_split(store, chosen.split)
    with console.status("living through the window again"):
        judged = judge(store, split, chosen.window, chosen.targets, chosen.seed)
    rows = {
        kind: {
            f"{name}@{k}": float(np.mean(metric(judged.ranks[kind], k)))
            for k in (10, 50)
            for name, metric in (("HR", hr_at), ("NDCG", ndcg_at))
        }
        for kind in KNOWS
    }
    numbers = {
        "store": store.fingerprint,
        "split": split.fingerprint,
        "window": chosen.window,
        "targets": len(judged.ranks["user"]),
        "synthetic": True,
        "knows": rows,
        "AUC": auc(judged.labels, judged.chances),
        "AUC of attraction": auc(judged.labels, judged.attractions),
        "GAUC of attraction by request": gauc(judged.labels, judged.attractions, judged.requests).value,
    }
    table = Table(
        title=f"{store.name} (synthetic), {split.name} {chosen.window}: the best of {numbers['targets']:,} targets",
        title_justify="left",
    )
    for column in ("known", *rows["user"]):
        table.add_column(column)
    for kind, values in rows.items():
        table.add_row(kind, *(f"{value:.4f}" for value in values.values()))
    Console(highlight=False).print(table)
    for name in ("AUC", "AUC of attraction", "GAUC of attraction by request"):
        Console(highlight=False).print(f"{name} on {len(judged.labels):,} impressions: {numbers[name]:.4f}")
    if chosen.out is not None:
        write_json(chosen.out, numbers)
