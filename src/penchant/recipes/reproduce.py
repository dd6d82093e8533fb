"""Tables of results: what rows they have, which of them are missing, and how to run those.

A finished row is a file `results/<paper>/<table>/<row>.<data>.<split>.s<seed>.json`; it is never run twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from penchant.data.output import alone
from penchant.data.split import Split, load_split
from penchant.data.store import MANIFEST, Store
from penchant.errors import ConfigError, RunError, StoreError
from penchant.evaluation.results import (
    Result,
    find_results,
    read_per_user,
    result_path,
    versions_here,
    write_result,
)
from penchant.recipes.funnel.tables import run_funnel_row
from penchant.recipes.judge import judge_run
from penchant.recipes.karma.run import said_by
from penchant.recipes.rows import TRIED, Chosen, FunnelRow, ResultTable, Row, choose_rate, with_rate
from penchant.recipes.runs import CountRun, Run, load_run, train_run
from penchant.recipes.tables import PREPARE, tables


@dataclass(frozen=True)
class Missing:
    """A row that has no result file yet."""

    table: ResultTable
    row: Row | FunnelRow
    seed: int


def missing(
    chosen: Sequence[ResultTable], results: Path, rows: Sequence[str], data: Sequence[str], seeds: int | None
) -> Iterator[Missing]:
    """Rows of the tables that still have to run, in the tables' order."""
    for table in chosen:
        for row in table.rows:
            if (rows and row.name not in rows) or (data and row.data not in data):
                continue
            for seed in range(table.first_seed, table.first_seed + (table.seeds if seeds is None else seeds)):
                if isinstance(row.run, CountRun) and seed > table.first_seed:
                    continue  # counts know no seed
                if not result_path(results, table.paper, table.name, row.name, row.data, row.split, seed).is_file():
                    yield Missing(table, row, seed)


def choose(name: str) -> list[ResultTable]:
    """The tables of a paper ("controls") or one of them ("controls-ranking").

    Raises:
        ConfigError: there is no such table.
    """
    known = tables()
    found = [table for key, table in known.items() if name in (key, table.paper)]
    if not found:
        papers = sorted({t.paper for t in known.values()})
        raise ConfigError(f"there is no table {name!r}", fix=f"Choose one of: {', '.join([*papers, *known])}.")
    return found


def outdated(chosen: Sequence[ResultTable], stores: Path, results: Path) -> Iterator[str]:
    """What finished rows are not of the Stores that are here: they cannot be compared with rows that are run now."""
    here = {path.name: Store(path).fingerprint for path in stores.glob("*") if (path / MANIFEST).is_file()}
    for table in chosen:
        found = find_results(results, table.paper, table.name)
        old = sorted(
            {f"{r.row} ({r.data})" for r in found if here.get(r.data, r.data_fingerprint) != r.data_fingerprint}
        )
        if old:
            fix = "Remove the files to run them anew."
            yield f"Of another version of its Store in {table.name}: {', '.join(old)}. {fix}"


def show(left: Sequence[Missing], results: Path, console: Console) -> None:
    """What is left and how long it will take, by this machine's own times where a row has run before."""
    listing = RichTable("table", "row", "data", "split", "seed", "minutes", box=None)
    total = 0.0
    for item in left:
        minutes = _minutes(item, results)
        total += minutes
        listing.add_row(
            item.table.name, item.row.name, item.row.data, item.row.split, str(item.seed), f"{minutes:,.1f}"
        )
    console.print(listing if left else "Nothing is left to run.")
    if left:
        console.print(f"{len(left)} left, about {total:,.0f} minutes.")


def _minutes(item: Missing, results: Path) -> float:
    ran = [
        r.wall_seconds / 60
        for r in find_results(results, item.table.paper, item.table.name)
        if (r.row, r.data, r.split) == (item.row.name, item.row.data, item.row.split)
    ]
    return sum(ran) / len(ran) if ran else item.row.minutes


def run_row(item: Missing, stores: Path, runs: Path, results: Path) -> Result:
    """Train (or go on training) one row, judge it on the table's window, write its result file.

    A row that another table has too, under whatever name, is taken from there.

    Raises:
        StoreError: its Store is not in `stores`; the message says how to make it.
        RunError: another process is at work on this row.
    """
    row, table = item.row, item.table
    path = stores / row.data
    if not path.is_dir():
        how = PREPARE.get(row.data, "penchant prepare --help").format(store=path)
        raise StoreError("no such Store", where=path, fix=f"Make it with: {how}")
    store = Store(path)
    split = load_split(store, row.split)
    folder = runs / table.paper / table.name / f"{row.name}.{row.data}.{row.split}"
    if isinstance(row, FunnelRow):
        return run_funnel_row(row, item.seed, store, split, folder.with_name(f"{folder.name}.s{item.seed}"), results)
    chosen = Chosen(row.run, (), row.trials)
    if row.rates:
        chosen = _chosen_before(row, table, store, split, results) or choose_rate(
            row.run, row.rates, store, split, folder
        )
    run = _seeded(chosen.run, item.seed)
    if found := _elsewhere(item, run, store, split, results):
        # What was tried for it is this table's own.
        notes = (*(note for note in found.notes if not note.startswith(TRIED)), *chosen.notes)
        here = replace(found, paper=table.paper, table=table.name, row=row.name, data=row.data)
        result = replace(here, trials=chosen.trials, notes=notes)
        write_result(results, result, read_per_user(results, found))
        return result
    out = folder.with_name(f"{folder.name}.s{item.seed}")
    with alone(out, RunError):  # until it is judged; `train_run` holds the folder while it trains
        trained = train_run(run, store, split, out)
        loaded = load_run(out, path)
        verdict = judge_run(
            loaded,
            out,
            table.window,
            filter_seen=True,
            targets=table.targets,
            meaning=table.meaning,
            ks=table.ks,
            cold=table.cold,
        )
        result = Result(
            paper=table.paper,
            table=table.name,
            row=row.name,
            data=row.data,
            split=row.split,
            seed=item.seed,
            window=table.window,
            config=loaded.described["config"],
            data_fingerprint=store.fingerprint,
            split_fingerprint=split.fingerprint,
            versions=versions_here(),
            device="cpu" if isinstance(run, CountRun) else str(next(loaded.model.parameters()).device),
            cpu_seconds=trained.cpu_seconds + verdict.cpu_seconds,
            wall_seconds=trained.wall_seconds + verdict.wall_seconds,
            steps=trained.steps,
            trials=chosen.trials,
            metrics=dict(verdict.metrics()),
            slices=verdict.slices(),
            notes=(*verdict.notes(), *chosen.notes, *said_by(out)),
            synthetic=bool(store.manifest.get("synthetic", False)),
        )
        write_result(results, result, verdict.per_user())
    return result


def _elsewhere(item: Missing, run: Run, store: Store, split: Split, results: Path) -> Result | None:
    """The same run, judged the same way, in another table: it is not run twice."""

    def judged(table: ResultTable) -> tuple[Any, ...]:
        return table.window, table.targets, table.meaning, table.ks, table.cold

    alike = [t for t in tables().values() if judged(t) == judged(item.table)]
    prints = (store.fingerprint, split.fingerprint, item.seed)
    for result in (r for t in alike for r in find_results(results, t.paper, t.name)):
        same = (result.data_fingerprint, result.split_fingerprint, result.seed) == prints
        if same and same_config(run, result.config):
            return result
    return None


def _chosen_before(row: Row, table: ResultTable, store: Store, split: Split, results: Path) -> Chosen | None:
    """What this row chose when another seed of it was run."""
    prints = (row.name, store.fingerprint, split.fingerprint)
    for found in find_results(results, table.paper, table.name):
        notes = tuple(note for note in found.notes if note.startswith(TRIED))
        if not notes or (found.row, found.data_fingerprint, found.split_fingerprint) != prints:
            continue
        assert not isinstance(row.run, CountRun)
        run = with_rate(row.run, found.config["train"]["optim"]["lr"])
        if same_config(_seeded(run, found.seed), found.config):
            return Chosen(run, notes, found.trials)
    return None


def _seeded(run: Run, seed: int) -> Run:
    return run if isinstance(run, CountRun) else replace(run, train=replace(run.train, seed=seed))


def same_config(run: Any, saved: Any) -> bool:
    """Whether a result's config is this run's; what it does not name, as it is older, was what is now the default."""
    if not is_dataclass(run):
        return json.loads(json.dumps(run)) == saved
    if not isinstance(saved, dict):
        return False
    known = {f.name: f for f in fields(run)}
    if saved.keys() - known.keys():
        return False
    return all(
        same_config(getattr(run, name), saved[name])
        if name in saved
        else getattr(run, name) == (of.default_factory() if of.default_factory is not MISSING else of.default)
        for name, of in known.items()
    )
