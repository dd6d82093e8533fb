"""Penchant's DIN beside FuxiCTR's on ML-1M's impressions, each in an environment of its own.

Both are given the same requests, what was shown (an item and its category) and the history strictly before: up to 50
items and their categories. No user, and none of Penchant's dense features. Both have the same widths, epochs and
learning rate; the valid window chooses the weights; the scores that each leaves on disk are judged by Penchant's
evaluation. One thread, one at a time; CPU seconds of training are those of batches and steps alone: reading, validation
and writing are left out on both sides. What is finished is not run again.

    python -m benchmarks.ctr --store stores/ml-1m-liked
    python -m benchmarks.ctr --store stores/ml-1m-liked --limit 500 --seeds 0      a try, which is printed alone
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.command import argument_parser
from benchmarks.environments import python_of, run_script

from penchant.data.history import requests_before_times
from penchant.data.split import Split, load_split
from penchant.data.store import Store
from penchant.errors import PenchantError, RunError, StoreError
from penchant.evaluation.ranking import RankingResult, evaluate_ranking
from penchant.evaluation.results import Result, result_path, write_result
from penchant.recipes.judge import non_clicks_of
from penchant.recipes.tables import PREPARE

TABLE, SPLIT = "ctr", "temporal-successive"
ROWS = {"penchant-din": ("penchant", "with_penchant_din"), "fuxictr-din": ("fuxictr", "with_fuxictr")}
"""Each row's environment and script."""
SETTINGS: dict[str, Any] = {
    **{"width": 32, "category_width": 8, "max_len": 50},
    **{"hidden": 200, "hidden_second": 80, "attention": 36, "dropout": 0.1},
    **{"epochs": 2, "evaluate_every": 0.5, "lr": 1e-3, "batch_rows": 1024},
}
"""What both are told; the learning rate is the one that each library has by itself."""
OWN: dict[str, dict[str, Any]] = {"penchant-din": {"embedding_dropout": 0.1}}
"""What the other has no place for; as in Penchant's recipe `din`."""
BLOCK = 50_000
"""Requests whose histories are held at once while exporting."""


def main() -> None:
    arguments = _arguments()
    if not arguments.store.is_dir():
        fix = f"Make it with: {PREPARE['ml-1m-liked'].format(store=arguments.store)}"
        raise StoreError("no such Store", where=arguments.store, fix=fix)
    store = Store(arguments.store)
    split = load_split(store, SPLIT)
    # A pair runs one row after the other, so that what else the machine does meets both.
    for seed in arguments.seeds:
        for row in arguments.rows:
            path = result_path(arguments.results, "benchmarks", TABLE, row, store.name, SPLIT, seed)
            if not arguments.limit and path.is_file():
                print(f"{row}, seed {seed}: finished before")
                continue
            python = python_of(ROWS[row][0], arguments.envs)
            result, judged = run(row, seed, store, split, python, arguments.work, arguments.limit)
            if not arguments.limit:
                write_result(arguments.results, result, judged.per_user())
            names = ("AUC", "GAUC request", "GAUC user", "LogLoss", "Rows per CPU s", "Train CPU s", "Score CPU s")
            told = ", ".join(f"{name} {result.metrics[name]:,.4f}" for name in names)
            print(f"{row}, seed {seed}: {told}", flush=True)


def run(
    row: str, seed: int, store: Store, split: Split, python: Path, work: Path, limit: int = 0
) -> tuple[Result, RankingResult]:
    """Train a row with a seed and judge its scores.

    Args:
        python: of its library's environment.
        work: for the export and what the script leaves behind.
        limit: requests of each window, drawn once; 0 = all.
    """
    work = work.resolve()
    data = work / f"ctr.{store.name}.{split.fingerprint}.{limit or 'all'}"
    if not data.is_dir():
        half = work / f"{data.name}.half"
        shutil.rmtree(half, ignore_errors=True)
        export_impressions(store, split, half, SETTINGS["max_len"], limit)
        half.rename(data)
    out = work / f"{data.name}.{row}.s{seed}"
    shutil.rmtree(out, ignore_errors=True)  # of a run that was cut: its seconds would be of a part alone
    out.mkdir(parents=True)
    settings = {**SETTINGS, **OWN.get(row, {}), "seed": seed}
    places = {"events": str(data), "store": str(store.path.resolve()), "out": str(out)}
    job = {"model": "din", "settings": settings, "split": split.name, **places}
    (out / "job.json").write_text(json.dumps(job))
    run_script(ROWS[row][1], python, out)
    judged = judge(out, data, store)
    figures = json.loads((out / "figures.json").read_text())
    return result_of(row, settings, store, split, judged, figures), judged


def export_impressions(store: Store, split: Split, folder: Path, max_len: int, limit: int = 0) -> None:
    """Write what both are given, in the Store's own numbers; 0 = none.

        items.parquet               category, of each item from 0
        WINDOW.requests.parquet     request, history: its items strictly before the request, oldest first
        WINDOW.parquet              row (of the Store's impressions), request, item, label

    Args:
        limit: requests of each window, drawn once; 0 = all.
    """
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"category": np.asarray(store.item_category)}), folder / "items.parquet")
    for window in split.windows:
        requests = split.requests(store, window)
        if limit and limit < len(requests):
            requests = np.sort(np.random.default_rng(0).choice(requests, limit, replace=False))
        first, stop = store.request_indptr[requests - 1], store.request_indptr[requests]
        of = np.repeat(requests, stop - first)
        row = np.concatenate([np.arange(a, b) for a, b in zip(first, stop, strict=True)])
        shown = {"item": store.impression_item[row], "label": store.impression_label[row]}
        pq.write_table(pa.table({"row": row, "request": of, **shown}), folder / f"{window}.parquet")
        blocks = [_histories(store, requests[i : i + BLOCK], max_len) for i in range(0, len(requests), BLOCK)]
        told = {"request": requests, "history": pa.chunked_array(blocks)}
        pq.write_table(pa.table(told), folder / f"{window}.requests.parquet")


def _histories(store: Store, requests: np.ndarray, max_len: int) -> pa.Array:
    found = requests_before_times(store, store.request_user[requests], store.request_ts_ms[requests], max_len)
    offsets = np.concatenate([[0], np.cumsum(found.lengths.numpy())]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, found.history[found.mask].numpy().astype(np.int32))


def judge(out: Path, data: Path, store: Store) -> RankingResult:
    """A script's scores of the exported test window, in whatever order it wrote them.

    Raises:
        RunError: an impression has no score or two, or one was not asked for.
    """
    scored = pq.read_table(out / "scores.parquet").sort_by("row")
    row = pq.read_table(data / "test.parquet", columns=["row"])["row"].to_numpy()
    if not np.array_equal(scored["row"].to_numpy(), row):
        what = f"{scored.num_rows:,} scores are not those of the test window's {len(row):,} impressions"
        raise RunError(what, where=out / "scores.parquet", fix="Mend the script and call this again.")
    requests = np.searchsorted(store.request_indptr, row, side="right")
    users = store.request_user[requests].astype(np.int64)
    return evaluate_ranking(scored["score"].to_numpy(), store.impression_label[row], requests, users)


def result_of(
    row: str, settings: dict[str, Any], store: Store, split: Split, judged: RankingResult, figures: dict[str, Any]
) -> Result:
    """The result file of a row's seed."""
    speed = {
        "Rows per CPU s": figures["targets"] / figures["train_cpu_s"],
        "Train CPU s": figures["train_cpu_s"],
        "Score CPU s": figures["score_cpu_s"],
        "Peak MB": figures["peak_mb"],
        "AUC valid": figures["valid_auc"],
        "Best step": figures["best_step"],
    }
    return Result(
        paper="benchmarks",
        table=TABLE,
        row=row,
        data=store.name,
        split=split.name,
        seed=settings["seed"],
        window="test",
        config={"library": ROWS[row][0], "model": "din", **settings, "threads": 1},
        data_fingerprint=store.fingerprint,
        split_fingerprint=split.fingerprint,
        versions=figures["versions"],
        device="cpu",
        cpu_seconds=figures["train_cpu_s"] + figures["score_cpu_s"],
        wall_seconds=figures["train_wall_s"] + figures["score_wall_s"],
        steps=figures["steps"],
        trials=1,
        metrics={**judged.metrics(), **speed},
        synthetic=bool(store.manifest.get("synthetic", False)),
        notes=(non_clicks_of(store, split, "test"), *figures["notes"]),
    )


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--store", type=Path, default=Path("stores/ml-1m-liked"))
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="for what is exported, scores and runs")
    parser.add_argument(
        "--envs", type=Path, default=Path("~/.cache/penchant/peers").expanduser(), help="for the peer's environment"
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="these rows alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--limit", type=int, default=0, help="requests of each window, to try it out: printed, no result file"
    )
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except PenchantError as error:
        raise SystemExit(f"error: {error}") from None
