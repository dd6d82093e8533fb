"""How long `penchant prepare table` takes, and how much memory, as a log of text ids grows: rows beside DuckDB alone.

DuckDB alone reads the same file, turns ids and times into numbers, sorts by user and time, and writes Parquet: what any
preparation has to do at least. Both are processes of their own, one after the other, with the same memory setting.

    python -m benchmarks.prepare --rows 1000000 20000000 100000000 --work /large/disk
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
from benchmarks.command import argument_parser

from penchant.data.sources.raw import MEMORY, text
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.evaluation.results import Result, result_path, versions_here, write_result

SPLIT = "temporal-successive"


@dataclass(frozen=True)
class Cost:
    """What a finished process took, by the operating system's account."""

    wall_seconds: float
    cpu_seconds: float
    peak_gb: float


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000, 20_000_000, 100_000_000])
    parser.add_argument("--work", type=Path, default=Path("runs/prepare"), help="about 70 bytes a row, removed after")
    arguments = parser.parse_args()
    for rows in arguments.rows:
        name = f"rows-{rows // 1000}k"
        if result_path(arguments.results, "benchmarks", "prepare", name, "generated", SPLIT, 0).is_file():
            print(f"{name}: finished before")
            continue
        arguments.work.mkdir(parents=True, exist_ok=True)
        log, out, alone = (arguments.work / f"{name}.{kind}" for kind in ("csv", "store", "parquet"))
        generate(rows, log)
        shutil.rmtree(out, ignore_errors=True)
        at_least = measure([sys.executable, "-m", "benchmarks.peers.with_duckdb", str(log), str(alone)])
        command = "from penchant.cli.main import main; main()"
        cost = measure([sys.executable, "-c", command, "prepare", "table", "--events", str(log), "--out", str(out)])
        write(arguments.results, name, rows, Store(out), cost, at_least)
        print(name, cost, at_least)
        shutil.rmtree(out)
        log.unlink()
        alone.unlink()


def generate(rows: int, path: Path) -> None:
    """A log of a year: text ids, popular items and busy users, in no order of time."""
    users, items = max(rows // 50, 10), min(max(rows // 200, 10), 1_000_000)
    with duckdb.connect() as db:
        db.execute("SELECT setseed(0.5)")
        db.execute("SET threads = 1")
        db.execute(
            f"COPY (SELECT 'user-' || CAST(floor({users} * pow(random(), 1.5)) AS BIGINT) AS user_id, "
            f"'item-' || CAST(floor({items} * pow(random(), 3)) AS BIGINT) AS item_id, "
            f"CAST(1600000000 + floor(random() * 31536000) AS BIGINT) AS timestamp FROM range({rows})) TO {text(path)}"
        )


def measure(command: list[str]) -> Cost:
    """Run a command to its end. Its peak is at least this process's own, some 0.1 GB: a fork begins with it."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6)


def write(results: Path, name: str, rows: int, store: Store, cost: Cost, at_least: Cost) -> None:
    """The result file of one size."""
    metrics: dict[str, float | None] = {
        "Rows": float(rows),
        "Wall s": cost.wall_seconds,
        "CPU s": cost.cpu_seconds,
        "CPU us a row": cost.cpu_seconds / rows * 1e6,
        "Peak GB": cost.peak_gb,
        "DuckDB alone CPU s": at_least.cpu_seconds,
        "CPU, times DuckDB alone": cost.cpu_seconds / at_least.cpu_seconds,
    }
    result = Result(
        paper="benchmarks",
        table="prepare",
        row=name,
        data="generated",
        split=SPLIT,
        seed=0,
        window="train",
        config={"rows": rows, "memory": MEMORY, "processors": os.cpu_count(), "load": os.getloadavg()[0]},
        data_fingerprint=store.fingerprint,
        split_fingerprint=load_split(store, SPLIT).fingerprint,
        versions=versions_here() | {"duckdb": duckdb.__version__},
        device="cpu",
        cpu_seconds=cost.cpu_seconds,
        wall_seconds=cost.wall_seconds,
        steps=0,
        trials=1,
        metrics=metrics,
        synthetic=True,
        notes=(f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors when it ended.",),
    )
    write_result(results, result)


if __name__ == "__main__":
    main()
