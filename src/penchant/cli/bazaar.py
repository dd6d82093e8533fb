"""penchant bazaar oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from penchant.cli.arguments import check_folder, open_split, parse, pick
from penchant.data.split import Split
from penchant.data.store import Store, read_json, write_json
from penchant.errors import RunError

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
    $ penchant bazaar oracle stores/bazaar-tiny --beside runs/sasrec runs/markov
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
    beside: tuple[Path, ...] = ()
    """Runs that `penchant evaluate` judged on this window: their metrics, and what share they are of the possible."""
    out: Path | None = None
    """Write the numbers as JSON."""


def bazaar(args: Sequence[str]) -> None:
    """Do one of the market's tasks."""
    if pick("bazaar", "task", TASKS, HELP, args) is None:
        return
    from penchant.bazaar.oracle import judge
    from penchant.evaluation.metrics import auc, gauc, mean_metrics

    chosen = parse("bazaar oracle", Oracle, args[1:])
    check_folder(chosen.out)
    console = Console(stderr=True, highlight=False)
    store = Store(chosen.store)
    split = open_split(store, chosen.split)
    beside = {str(run): _judged(run, store, split, chosen.window) for run in chosen.beside}
    with console.status("living through the window again"):
        judged = judge(store, split, chosen.window, chosen.targets, chosen.seed)
    rows = {knows: mean_metrics(ranks, (10, 50), ("HR", "NDCG")) for knows, ranks in judged.ranks.items()}
    numbers = {
        "store": store.fingerprint,
        "split": split.fingerprint,
        "window": chosen.window,
        "targets": len(judged.ranks["user"]),
        "synthetic": True,
        "knows": rows,
        "beside": beside,
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
    for run, values in beside.items():
        table.add_row(run, *(f"{values[m]:.4f} ({values[m] / rows['session'][m]:.0%})" for m in rows["session"]))
    Console(highlight=False).print(table)
    if beside:
        Console(highlight=False).print("In brackets: the share of what `session` could reach.")
    for name in ("AUC", "AUC of attraction", "GAUC of attraction by request"):
        Console(highlight=False).print(f"{name} on {len(judged.labels):,} impressions: {numbers[name]:.4f}")
    if chosen.out is not None:
        write_json(chosen.out, numbers)


def _judged(run: Path, store: Store, split: Split, window: str) -> dict[str, float]:
    """A run's metrics on the window.

    Raises:
        RunError: it was not judged there, or ranks what was shown instead of the whole catalogue.
    """
    path = run / f"evaluation-{window}.json"
    fix = f"Judge it first: penchant evaluate {run} --window {window}"
    if not path.is_file():
        raise RunError("no such evaluation", where=path, fix=fix)
    told = read_json(path, fix, RunError)
    if (told["data_fingerprint"], told["split_fingerprint"]) != (store.fingerprint, split.fingerprint):
        raise RunError(f"is of another Store or split than {store.path}, {split.name}", where=path, fix=fix)
    if "HR@10" not in told["metrics"]:
        raise RunError("has no HR@10: it is a ranker's", where=path, fix="Compare its AUC with the one below.")
    return told["metrics"]
