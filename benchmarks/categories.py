"""Which category comes next, on clicks that no training has seen: PGIN, its two halves alone, and what learns nothing.

The halves are those of the one PGIN, which learned together: what each says without the other, not what it might learn.

PGIN is trained twice: its generator reads each action of a history by self-attention, as printed, or a summary for each
category. Best of its validations; three seeds.

    python -m benchmarks.categories stores/taobao stores/bazaar-large --epochs 8 0.05 --runs runs/categories
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from benchmarks.command import argument_parser, parsed
from benchmarks.written import is_there, write

from penchant.data.category_batch import TargetDataConfig
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.evaluation.significance import paired_bootstrap
from penchant.papers.ulim.categories import PGINConfig
from penchant.recipes.ulim.categories import KS, ToldCategories, tell_categories, train_pgin
from penchant.recipes.ulim.run import UlimRun
from penchant.training.loop import TrainConfig

TABLE, SPLIT = "category-prediction", "temporal-successive"
READS = {"each-action": 1024, "summaries": 0}
"""Actions that the generator reads one by one; of longer histories a summary for each category."""
SEEDS = 3
JUDGED = 20_000
"""Targets at most, drawn at random."""


def main() -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("stores", type=Path, nargs="+", help="Stores whose items have categories")
    parser.add_argument("--epochs", type=float, nargs="+", help="of each Store, in the same order")
    parser.add_argument("--runs", type=Path, default=Path("runs/categories"))
    arguments = parsed(parser)
    if len(arguments.epochs or ()) != len(arguments.stores):
        parser.error(f"{len(arguments.stores)} Stores and {len(arguments.epochs or ())} numbers of epochs")
    for path, epochs in zip(arguments.stores, arguments.epochs, strict=True):
        store = Store(path)
        for reads in READS:
            for seed in range(SEEDS):
                measure(store, reads, seed, epochs, arguments.runs, arguments.results)


def measure(store: Store, reads: str, seed: int, epochs: float, runs: Path, results: Path) -> None:
    """Train one PGIN, unless it was, and write its rows."""
    if is_there(results, TABLE, reads, store, SPLIT, seed):
        print(f"{store.name} {reads} seed {seed}: finished before")
        return
    split, model, data = load_split(store, SPLIT), PGINConfig(raw_up_to=READS[reads]), TargetDataConfig()
    train = pgin_training(epochs, seed)
    folder = runs / f"{store.name}.{reads}.s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    pgin, result = train_pgin(model, data, train, store, split, folder)
    told = tell_categories(pgin, store, split, "test", JUDGED)
    rows: dict[str, str] = {}
    if reads == "each-action":
        rows = {"pointer-alone": "pointer", "generator-alone": "generator"}
        if not seed:  # counting knows no seed
            rows |= {"most-frequent": "frequency", "latest": "last"}
    rows[reads] = "pgin"  # the last one: it says that all are there
    config = {"model": asdict(model), "data": asdict(data), "train": asdict(train)}
    for row, answer in rows.items():
        learned = row in READS
        metrics = metrics_of(told, answer)
        print(store.name, row, seed, ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()), flush=True)
        cost = {"steps": result.steps, "wall": result.wall_seconds, "cpu": result.cpu_seconds} if learned else {}
        write(results, TABLE, row, store, SPLIT, metrics, config, window="test", seed=seed, **cost)


def pgin_training(epochs: float, seed: int) -> TrainConfig:
    """The recipe's, for so long, with six validations."""
    return replace(
        UlimRun().category_train, epochs=epochs, evaluate_every=epochs / 6, seed=seed, tensorboard=False, patience=0
    )


def metrics_of(told: ToldCategories, answer: str) -> dict[str, float]:
    """Of one answer: hit rates, and for PGIN what the gate does and how much it gains over counting."""
    metrics = {f"category HR@{k}": float(told.hits(answer, k).mean()) for k in KS}
    if answer == "pgin":
        users, of = np.unique(told.users, return_inverse=True)
        weights = np.bincount(of)
        means = {name: np.bincount(of, told.hits(name, 10)) / weights for name in ("pgin", "frequency", "last")}
        for row, counted in (("most-frequent", "frequency"), ("latest", "last")):
            gain = paired_bootstrap(means["pgin"], means[counted], weights)
            metrics |= {f"HR@10 less {row}'s, from": gain.low, f"HR@10 less {row}'s, to": gain.high}
        metrics |= {
            "cross-entropy": float(told.loss.mean()),
            "P_poi": float(told.gate.mean()),
            "outside": float(told.outside.mean()),
            "users": float(len(users)),
        }
    return metrics


if __name__ == "__main__":
    main()
