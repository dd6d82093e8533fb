"""penchant evaluate --search: its own half of the command (train.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from penchant.cli.arguments import cold_users, open_split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.recipes.runs import load_run
from penchant.recipes.search import LEXICAL, judge_search


def evaluate_search_of(
    runs: Sequence[Path],
    store: Path | None,
    split: str | None,
    window: str,
    targets: int | None,
    memory_mb: float,
    device: str,
    out: Path | None,
) -> None:
    """Judge search by runs, or by what needs no run; print the table and write it as JSON.

    Args:
        runs: the first one's folder takes the JSON where `out` is None.

    Raises:
        ConfigError: neither a run nor a Store.
    """
    if not runs and store is None:
        raise ConfigError("--search needs a run or --store", fix="penchant evaluate --help shows both.")
    names = [run.name for run in runs]
    loaded = {run.name if names.count(run.name) == 1 else str(run): load_run(run, store, device) for run in runs}
    first = next(iter(loaded.values()), None)
    if first is None:
        assert store is not None
        opened = Store(store)
        of = open_split(opened, split or "temporal-successive")
    else:
        opened, of = first.store, first.split
    with Console(stderr=True).status("judging search"):
        verdict = judge_search(opened, of, window, loaded, targets=targets, memory_mb=memory_mb, device=device)
    console = Console(highlight=False)
    for table in verdict.tables():
        console.print(table)
        console.print()
    for name in verdict.results:
        if name != LEXICAL and not name.startswith("oracle"):
            gain = verdict.difference(name, "HR@10 matches")
            console.print(f"{name}: HR@10 matches {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] to {LEXICAL}")
    for note in (*verdict.notes, cold_users(of, window)):
        console.print(note)
    subsample = "" if targets is None else f"-{targets}"
    path = out or (runs[0] / f"search-{window}{subsample}.json" if runs else None)
    if path is not None:
        verdict.write(path)
