"""SASRec here and in RecTools, side by side: the same interactions, sizes, loss, epochs and judge.

usage: python benchmarks/sasrec.py --store stores/ml-1m-all [--peer PYTHON] [--max-len 50 200]

`--peer` is the Python of an environment with `rectools[torch]==0.19.0`; without it one is made under `--work`. The two
take turns (theirs, ours) on the same number of threads. Figures are CPU seconds of training alone and of scoring every
user's test target against the whole catalogue alone: loading, importing and writing are left out on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow import csv

from penchant.baselines.retrieval.objective import SoftmaxConfig, SoftmaxObjective
from penchant.baselines.retrieval.sasrec import SASRec, SASRecConfig
from penchant.data.batch import SequenceBatches
from penchant.data.output import alone
from penchant.data.split import Split, load_split
from penchant.data.store import Store
from penchant.errors import RunError
from penchant.evaluation.lists import evaluate_lists
from penchant.evaluation.protocol import RetrievalResult, evaluate_retrieval
from penchant.evaluation.results import Result, versions_here, write_result
from penchant.models import Sizes
from penchant.recipes.controls import sasrec
from penchant.training.loop import fit

REQUIREMENT = "rectools[torch]==0.19.0"
KS = (5, 10, 20, 50, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("stores/ml-1m-all"))
    parser.add_argument("--peer", type=Path, help="Python with RecTools; made where none is given")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-sasrec"), help="for environments and runs")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--max-len", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 2], help="for each of --max-len")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    store = Store(arguments.store)
    split = load_split(store, "loo")
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    peer = arguments.peer or make_peer(work / "rectools")
    export_train(store, split, work / "train.csv")
    for max_len, epochs in zip(arguments.max_len, arguments.epochs, strict=True):
        settings = {
            "width": 64,
            "blocks": 2,
            "heads": 2,
            "dropout": 0.2,
            "max_len": max_len,
            "epochs": epochs,
            "batch_size": 128,
            "lr": 1e-3,
            "seed": 0,
            "threads": arguments.threads,
        }
        theirs = run_peer(peer, store, split, work, settings)
        ours = run_ours(store, split, work / f"penchant-{max_len}-{time.time_ns()}", settings)
        for row, (figures, judged, versions) in {"rectools": theirs, "penchant": ours}.items():
            write(arguments.results, f"{row}-L{max_len}", store, split, settings, figures, judged, versions)
        print(f"\nL={max_len}, {epochs} epochs, ratios ours / theirs (speed) of one run:")
        for key, title in (("targets_per_cpu_s", "training targets per CPU second"), ("judged_per_cpu_s", "judging")):
            print(f"  {title}: {ours[0][key] / theirs[0][key]:.2f} ({ours[0][key]:,.0f} : {theirs[0][key]:,.0f})")
        for name in ("HR@10", "NDCG@10"):
            print(f"  {name}: {ours[1].metrics()[name]:.4f} : {theirs[1].metrics()[name]:.4f}")


def make_peer(folder: Path) -> Path:
    """An environment of RecTools' own; its Python."""
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "torch==2.13.0", REQUIREMENT], check=True)
    return python


def export_train(store: Store, split: Split, path: Path) -> None:
    """The train and valid windows' interactions, as a peer reads them; ties keep their order by a running second.

    Both sides train on what lies before the test target: a peer has no way to be given a history that was not trained
    on, so the valid window joins the training here.
    """
    stop = split.stops("valid")
    rows = np.concatenate([np.arange(a, b) for a, b in zip(store.user_indptr[:-1], stop, strict=True)])
    place = rows - store.user_indptr[store.event_user[rows]]
    ids = np.array(store.item_ids, dtype=object)
    users = np.array(store.user_ids, dtype=object)
    table = {"user_id": users[store.event_user[rows]], "item_id": ids[store.event_item[rows]], "ts": place}
    csv.write_csv(pa.table(table), path)


def run_peer(
    peer: Path, store: Store, split: Split, work: Path, settings: dict[str, float]
) -> tuple[dict[str, float], RetrievalResult, dict[str, str]]:
    out = work / f"rectools-{settings['max_len']}"
    out.mkdir(exist_ok=True)
    script = Path(__file__).parent / "peers" / "rectools_sasrec.py"
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings["threads"])}
    subprocess.run(
        [str(peer), str(script), str(work / "train.csv"), str(out), json.dumps(settings)],
        check=True,
        env=environment,
        stdout=sys.stderr,
    )
    raw = json.loads((out / "figures.json").read_text())
    as_text = csv.ConvertOptions(column_types={"user_id": pa.string(), "item_id": pa.string()})
    pq.write_table(csv.read_csv(out / "lists.csv", convert_options=as_text), out / "lists.parquet")
    judged = evaluate_lists(out / "lists.parquet", store, split, "test", ks=KS)
    return rates(raw, len(judged.ranks)), judged, raw["versions"]


def run_ours(
    store: Store, split: Split, out: Path, settings: dict[str, float]
) -> tuple[dict[str, float], RetrievalResult, dict[str, str]]:
    max_len = int(settings["max_len"])
    config = SASRecConfig(
        width=int(settings["width"]),
        blocks=int(settings["blocks"]),
        heads=int(settings["heads"]),
        expansion=1,  # as in RecTools
        dropout=float(settings["dropout"]),
        max_len=max_len,
    )
    torch.manual_seed(int(settings["seed"]))
    model = SASRec(config, Sizes(num_items=store.num_items))
    whole = replace(split, windows=("train", "test"), ends=split.ends[:, 1:])
    # Batch and learning rate are the recipe's, as theirs are their defaults.
    data = replace(sasrec().data, max_len=max_len, newest_only=True)
    batches = SequenceBatches(store, whole, data, int(settings["seed"]))
    objective = SoftmaxObjective(SoftmaxConfig(), torch.from_numpy(whole.item_counts(store)))
    train = replace(sasrec().train, epochs=float(settings["epochs"]), tensorboard=False, device="cpu")
    wall, cpu = time.perf_counter(), time.process_time()
    with alone(out, RunError, inside=True):
        fit(model, objective, batches, train, out)
    raw = {"train_wall_s": time.perf_counter() - wall, "train_cpu_s": time.process_time() - cpu}
    raw["targets"] = batches.num_targets * settings["epochs"]
    wall, cpu = time.perf_counter(), time.process_time()
    judged = evaluate_retrieval(model, store, split, "test", ks=KS, max_len=max_len)
    raw |= {"judge_wall_s": time.perf_counter() - wall, "judge_cpu_s": time.process_time() - cpu}
    return rates(raw, len(judged.ranks)), judged, versions_here()


def rates(raw: dict[str, float], users: int) -> dict[str, float]:
    return {
        "targets_per_cpu_s": raw["targets"] / raw["train_cpu_s"],
        "judged_per_cpu_s": users / raw["judge_cpu_s"],
        "train_cpu_s": raw["train_cpu_s"],
        "train_wall_s": raw["train_wall_s"],
        "judge_cpu_s": raw["judge_cpu_s"],
        "judge_wall_s": raw["judge_wall_s"],
    }


def write(
    results: Path,
    row: str,
    store: Store,
    split: Split,
    settings: dict[str, float],
    figures: dict[str, float],
    judged: RetrievalResult,
    versions: dict[str, str],
) -> None:
    names = {"targets_per_cpu_s": "Targets per CPU s", "judged_per_cpu_s": "Judged per CPU s"}
    quality = {k: v for k, v in judged.metrics().items() if k.endswith(("@10", "@20"))}
    result = Result(
        paper="benchmarks",
        table="sasrec",
        row=row,
        data=store.name,
        split=split.name,
        seed=int(settings["seed"]),
        window="test",
        config=dict(settings),
        data_fingerprint=store.fingerprint,
        split_fingerprint=split.fingerprint,
        versions=versions,
        device="cpu",
        cpu_seconds=figures["train_cpu_s"] + figures["judge_cpu_s"],
        wall_seconds=figures["train_wall_s"] + figures["judge_wall_s"],
        steps=0,
        trials=1,
        metrics={**{names.get(k, k): v for k, v in figures.items()}, **quality},
        synthetic=False,
        notes=judged.notes,
    )
    write_result(results, result, judged.per_user().select(["user", "weight", "NDCG@10", "HR@10"]))


if __name__ == "__main__":
    main()
