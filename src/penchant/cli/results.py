"""penchant reproduce, penchant report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from tyro.conf import Positional

from penchant.cli.arguments import parse
from penchant.errors import RunError
from penchant.evaluation.report import report_is_current, write_report
from penchant.recipes.reproduce import choose, missing, run_row, show


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Run what is missing of a table of results. A row that was cut goes on; a finished row is never run twice.

    $ penchant reproduce controls --dry-run                        what is left, and how long it will take
    $ penchant reproduce controls-ranking
    $ penchant reproduce controls-calibration --rows sasrec-ce
    """

    table: Positional[str]
    """A paper (controls), or one of its tables (controls-calibration, controls-retrieval, controls-ranking)."""
    rows: tuple[str, ...] = ()
    """Only these rows."""
    data: tuple[str, ...] = ()
    """Only these data sets."""
    splits: tuple[str, ...] = ()
    """Only these splits."""
    seeds: int | None = None
    """So many seeds instead of the table's own number."""
    dry_run: bool = False
    """Say what is left and how long it will take, and run nothing."""
    stores: Path = Path("stores")
    """Folder of the Stores, each under its data's name."""
    runs: Path = Path("runs")
    """Folder of the runs; large, and not needed once their result files are there."""
    results: Path = Path("results")
    """Folder of the result files."""


def reproduce(args: Sequence[str]) -> None:
    """Run the missing rows one after the other."""
    chosen = parse("reproduce", Reproduce, args)
    console = Console(highlight=False)
    left = [
        item
        for item in missing(choose(chosen.table), chosen.results, chosen.rows, chosen.data, chosen.seeds)
        if not chosen.splits or item.row.split in chosen.splits
    ]
    show(left, chosen.results, console)
    if chosen.dry_run:
        return
    for i, item in enumerate(left, start=1):
        console.rule(f"{i}/{len(left)}: {item.table.name} {item.row.name}, {item.row.data}, {item.row.split}")
        result = run_row(item, chosen.stores, chosen.runs, chosen.results)
        headline = {k: v for k, v in result.metrics.items() if k in ("HR@10", "NDCG@10", "AUC", "GAUC user")}
        console.print("   ".join(f"{k} {v:.4f}" for k, v in headline.items() if v is not None))


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write docs/results.md and its figures from the result files. Nobody types a number.

    $ penchant report results
    $ penchant report results --check      only say whether docs/results.md is up to date
    """

    what: Positional[Literal["results"]]
    """What to report."""
    results: Path = Path("results")
    docs: Path = Path("docs")
    check: bool = False
    """Write nothing; end with an error if the report is not up to date."""


def report(args: Sequence[str]) -> None:
    """Write the report, or check it."""
    chosen = parse("report", Report, args)
    console = Console(highlight=False)
    if not chosen.check:
        console.print(f"wrote {write_report(chosen.results, chosen.docs)}")
    elif report_is_current(chosen.results, chosen.docs):
        console.print(f"{chosen.docs / 'results.md'} is up to date")
    else:
        raise RunError(
            "is not what the result files say", where=chosen.docs / "results.md", fix="penchant report results"
        )
