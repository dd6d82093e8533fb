"""Penchant beside its peers: RecTools, RecBole and implicit, each in an environment of its own.

Every row of `rows.py` that has no result file yet is run: the library's script (`peers/with_<library>.py`) is given the
same events of the Store's split and leaves lists behind, which Penchant's own evaluation judges. One thread each, one
row at a time, CPU seconds of training and of recommending alone: loading, importing and writing are left out on all
sides. To run a row again, remove its file from results/benchmarks/.

    make bench                                      what is missing
    make bench ARGS="--rows recbole-sasrec --data beauty"
    make bench ARGS=--dry-run                       say what is missing

`penchant report results` writes tables and figures from the files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.command import argument_parser
from benchmarks.environments import python_of, run_script
from benchmarks.exchange import export_events, judge_and_write
from benchmarks.rows import Row, every_row

from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.errors import PenchantError, RunError, StoreError
from penchant.evaluation.results import result_path
from penchant.recipes.tables import PREPARE

SPLIT = "loo"


def main() -> None:
    arguments = _arguments()
    left = [
        row
        for row in every_row()
        if (not arguments.rows or row.name in arguments.rows)
        and (not arguments.data or row.data in arguments.data)
        and (not arguments.tables or row.table in arguments.tables)
        and not result_path(arguments.results, "benchmarks", row.table, row.name, row.data, SPLIT, 0).is_file()
    ]
    print(f"{len(left)} left: {', '.join(f'{row.table}/{row.name}.{row.data}' for row in left) or 'nothing'}")
    if arguments.dry_run:
        return
    failed = []
    for row in left:
        print(f"== {row.table}: {row.name} on {row.data}", flush=True)
        try:
            run(row, arguments.stores, arguments.envs, arguments.work, arguments.results)
        except subprocess.CalledProcessError as error:  # its own message is above; the other rows do not need it
            failed.append(f"{row.table}/{row.name}.{row.data} (status {error.returncode})")
    if failed:
        raise RunError(f"{len(failed)} rows failed: {', '.join(failed)}", fix="Mend them and call this again.")


def run(row: Row, stores: Path, envs: Path, work: Path, results: Path) -> None:
    """Run one row and write its result file.

    Raises:
        StoreError: its Store is not in `stores`; the message says how to make it.
    """
    path = stores / row.data
    if not path.is_dir():
        raise StoreError("no such Store", where=path, fix=f"Make it with: {PREPARE[row.data].format(store=path)}")
    store = Store(path)
    split = load_split(store, SPLIT)
    python = python_of(row.library, envs)
    out = work.resolve() / f"{row.table}.{row.name}.{row.data}"
    shutil.rmtree(out, ignore_errors=True)  # of a run that was cut: its seconds would be of a part alone
    out.mkdir(parents=True)
    events = work / f"{row.data}.{split.fingerprint}.parquet"
    if not events.is_file():
        export_events(store, split, events)
    job = {"model": row.model, "settings": row.settings, "events": events, "store": path, "split": SPLIT, "out": out}
    (out / "job.json").write_text(json.dumps(job, default=lambda p: str(p.resolve())))
    run_script(f"with_{row.library}", python, out)
    result = judge_and_write(row, store, split, out, results)
    names = ("HR@10", "NDCG@10", "HR@10 unseen", "Train CPU s", "Recommend CPU s", "Peak MB")
    print("   " + ", ".join(f"{name} {result.metrics[name]:.4g}" for name in names), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--stores", type=Path, default=Path("stores"), help="folder of the Stores, by name")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="for events, lists and runs")
    parser.add_argument(
        "--envs", type=Path, default=Path("~/.cache/penchant/peers").expanduser(), help="for the peers' environments"
    )
    parser.add_argument("--tables", nargs="+", help="these tables alone: peers, sasrec")
    parser.add_argument("--rows", nargs="+", help="these rows alone")
    parser.add_argument("--data", nargs="+", help="these data alone: ml-1m-all, beauty")
    parser.add_argument("--dry-run", action="store_true", help="say what is missing, run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except PenchantError as error:
        raise SystemExit(f"error: {error}") from None
