"""What searching more categories costs ULIM's channel: K of 1 to 20 in turn on the same requests of a trained run.

Each request is one user's: the history read from the Store, categories predicted, K + 1 vectors, the searches, the
merge. Hit rates are those of Figure 3's result files, so that the time stands beside what it buys.

    penchant reproduce ulim-figure3
    python -m benchmarks.serving.searched_categories runs/ulim/figure3/k-20.bazaar-large.temporal-successive.s0
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from benchmarks.command import argument_parser, parsed
from benchmarks.serving.history_length import in_turn
from benchmarks.written import write

from penchant.data.history import requests_before_events
from penchant.data.store import Store
from penchant.evaluation.results import find_results
from penchant.funnel.rank import judging
from penchant.funnel.retrieve import retriever
from penchant.funnel.stages import Retriever
from penchant.models import load_model
from penchant.papers.ulim.model import ULIM
from penchant.recipes.runs import load_run

KS = (1, 2, 5, 10, 20)
SIZE = 2000
"""Items asked for."""


def main() -> None:
    parser = argument_parser(__doc__, threads=2)
    parser.add_argument("run", type=Path, help="folder of a finished ULIM run")
    parser.add_argument("--store", type=Path, help="where its Store lies, if not where it was")
    parser.add_argument("--requests", type=int, default=100)
    arguments = parsed(parser)
    loaded = load_run(arguments.run, arguments.store, device="cpu")
    store, model = loaded.store, loaded.model
    assert isinstance(model, ULIM)
    targets = loaded.split.targets("test")
    events = np.random.default_rng(0).choice(targets, min(arguments.requests, len(targets)), replace=False)
    found = {
        (r.row, r.data): r.metrics for r in find_results(arguments.results, "ulim", "figure3") if r.data == store.name
    }
    with judging(model):
        channels = {k: retriever("ulim", searching(arguments.run, k)) for k in KS}
        taken: dict[int, list[float]] = {k: [] for k in KS}
        for event in events.tolist():
            calls: dict[str, Callable[[], object]] = {
                str(k): asked(channel, loaded.store, event, model.config.max_len) for k, channel in channels.items()
            }
            for k, times in in_turn(calls, 1, uncounted=1).items():
                taken[int(k)] += times
    load = f"{len(events)} requests; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors."
    for k in KS:
        row = f"k-{k:02}"
        metrics = {name: found[row, store.name][name] for name in ("HR@500", "HR@1000", "HR@2000")}
        p50, p99 = (float(of) for of in np.percentile(taken[k], [50, 99]))
        metrics |= {"p50 ms": p50, "p99 ms": p99}
        print(row, {name: value and round(value, 4) for name, value in metrics.items()}, flush=True)
        config = {
            "model": loaded.described["config"]["model"],
            "threads": arguments.threads,
            "items": SIZE,
            "load": load,
        }
        write(arguments.results, "searched-categories", row, store, loaded.split.name, metrics, config, window="test")


def searching(run: Path, k: int) -> ULIM:
    """The run's model, with so many categories searched."""
    model = load_model(run)
    model.config = replace(model.config, num_searched=k)
    return model.eval()


def asked(channel: Retriever, store: Store, event: int, max_len: int) -> Callable[[], object]:
    """One request's list."""
    return lambda: channel.retrieve(requests_before_events(store, np.array([event]), max_len), SIZE)


if __name__ == "__main__":
    main()
