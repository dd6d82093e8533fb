"""What the noise that T2Diff is served by does: finished runs judged with several seeds of it, in several ways.

The weights stay as they are. One step: one estimate from noise; mean of 8: of eight of those; 5 steps: DDIM; chain:
Algorithm 2's T steps. A seed gives every user other noise; the deviation is that of the metric over the seeds.

    penchant reproduce t2diff-table2
    python -m benchmarks.noise runs/t2diff/table2/t2diff.ml-1m-all.temporal-successive.s1 --store stores/ml-1m-all
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from benchmarks.command import argument_parser, parsed
from benchmarks.written import is_there, write

from penchant.errors import RunError
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.papers.t2diff.model import T2Diff
from penchant.recipes.runs import LoadedRun, load_run

TABLE = "noise"
METRICS = ("HR@20", "MRR@20", "NDCG@10")
WAYS = {
    "one-step": {"xhat": "onestep"},
    "mean-of-8": {"xhat": "onestep", "samples": 8},
    "5-steps": {"xhat": "ddim", "ddim_steps": 5},
    "chain": {"xhat": "chain"},
}


def main() -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of T2Diff")
    parser.add_argument("--store", type=Path, help="where their Store lies, if not where it was")
    parser.add_argument("--seeds", type=int, default=5, help="of the noise, two or more")
    parser.add_argument("--targets", type=int, default=5000, help="of the test window, drawn at random")
    arguments = parsed(parser)
    for folder in arguments.runs:
        loaded = load_run(folder, arguments.store, device="cpu")
        if not isinstance(loaded.model, T2Diff) or loaded.model.diffusion is None:
            raise RunError("is no run with a diffusion module", where=folder, fix="Name runs of T2Diff.")
        run, place = folder.name.partition(".")[0], (loaded.store, loaded.split.name)
        config = {**loaded.described["config"], "seeds": arguments.seeds, "targets": arguments.targets}
        seed = loaded.described["config"]["train"]["seed"]
        for way in WAYS:
            row = f"{run}-{way}"
            if is_there(arguments.results, TABLE, row, *place, seed):
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            metrics = judged(loaded, way, arguments.seeds, arguments.targets)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            write(arguments.results, TABLE, row, *place, metrics, config, window="test", seed=seed, wall=wall, cpu=cpu)
            print(row, metrics, flush=True)


def judged(loaded: LoadedRun, way: str, seeds: int, targets: int) -> dict[str, float]:
    """Each metric's mean and deviation over the seeds of the noise; the targets are the same for all."""
    found: dict[str, list[float]] = {metric: [] for metric in METRICS}
    model = loaded.model
    trained = model.config
    for noise_seed in range(seeds):
        model.config = replace(trained, noise_seed=noise_seed, **WAYS[way])
        result = evaluate_retrieval(
            model, loaded.store, loaded.split, ks=(10, 20), max_len=trained.max_len, targets=targets
        ).metrics()
        for metric in METRICS:
            found[metric].append(result[metric])
    model.config = trained
    means = {metric: mean(values) for metric, values in found.items()}
    return means | {f"{metric}, deviation": stdev(values) for metric, values in found.items()}


if __name__ == "__main__":
    main()
