"""What a user's vector costs by T2Diff: one estimate from noise, a few steps, and Algorithm 2's T steps, T = 10 to 200.

Beside them the tower without diffusion (mixed attention), the other models of the paper's Table 2, each as that table
has it, and T2Diff on a causal transformer, which is the funnel's channel. Fresh weights, which cost what trained ones
do; random histories of 50; one user at a time, and 64 at once. Calls take turns, so that what else the machine does
meets all alike.

    python -m benchmarks.serving.diffusion
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from benchmarks.command import argument_parser, parsed
from benchmarks.serving.history_length import in_turn
from benchmarks.written import write_made_up

from penchant.data.history import Requests, make_requests
from penchant.models import Sizes, build_model
from penchant.recipes.t2diff.causal import t2diff_causal
from penchant.recipes.t2diff.tables import baselines, forms

TABLE = "diffusion"
ITEMS, LENGTH, WIDTH = 4000, 50, 64
STEPS = (10, 50, 200)
"""The U-Net runs so often; one estimate is T = 1."""
BATCHES = (1, 64)
ROUNDS = 50


def main() -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parsed(parser)
    models, asked = made(), {batch: requests_of(batch) for batch in BATCHES}
    calls: dict[str, Callable[[], object]] = {
        f"{name} {batch}": partial(model.user_vectors, requests)
        for name, model in models.items()
        for batch, requests in asked.items()
    }
    with torch.inference_mode():
        taken = in_turn(calls, arguments.rounds)
    for name, model in models.items():
        metrics: dict[str, float | None] = {}
        for batch in BATCHES:
            own, tower = taken[f"{name} {batch}"], taken[f"mixed-attention {batch}"]
            metrics[f"p50 ms, batch {batch}"] = median(own)
            metrics[f"p99 ms, batch {batch}"] = float(np.quantile(own, 0.99))
            times = median(a / b for a, b in zip(own, tower, strict=True))
            metrics[f"Times mixed attention's, batch {batch}"] = times
        metrics["ms a user, batch 64"] = median(taken[f"{name} 64"]) / 64
        metrics["Parameters"] = float(sum(p.numel() for p in model.parameters()))
        print(name, {k: round(v or 0.0, 3) for k, v in metrics.items()}, flush=True)
        sizes = {"items": ITEMS, "length": LENGTH, "width": WIDTH}
        config = {"model": asdict(model.config), "threads": arguments.threads, "rounds": arguments.rounds}
        write_made_up(arguments.results, TABLE, name, "generated", sizes, metrics, config)


def made() -> dict[str, Any]:
    """The models by row."""
    ours, causal = forms(WIDTH), t2diff_causal()
    config = ours["t2diff"].model
    configs: dict[str, tuple[str, Any]] = {
        **{name: (run.kind, run.model) for name, run in baselines().items()},
        "mixed-attention": ("t2diff", ours["mixed-attention"].model),
        "mixed-parameters": ("t2diff", ours["mixed-parameters"].model),
        "t2diff-one-estimate": ("t2diff", config),
        "t2diff-ddim-5": ("t2diff", replace(config, xhat="ddim", ddim_steps=5)),
        **{f"t2diff-chain-{n:03}": ("t2diff", replace(config, xhat="chain", steps=n)) for n in STEPS},
        "t2diff-causal-8": (causal.kind, causal.model),
        "causal-last-item": (causal.kind, replace(causal.model, guess="last", samples=1)),
    }
    torch.manual_seed(0)
    sizes = Sizes(num_items=ITEMS, num_categories=1)
    return {name: build_model(kind, asdict(config), sizes).eval() for name, (kind, config) in configs.items()}


def requests_of(batch: int) -> Requests:
    """Of so many users, each with a random history of full length."""
    rng = np.random.default_rng(0)
    items = rng.integers(1, ITEMS + 1, batch * LENGTH).astype(np.int32)
    times = 1_700_000_000_000 + np.sort(rng.integers(0, 10**9, (batch, LENGTH))).ravel()
    users = np.arange(1, batch + 1)
    now = np.full(batch, times.max() + 1000)
    return make_requests(users, now, items, times, LENGTH * (users - 1), LENGTH * users, LENGTH)


if __name__ == "__main__":
    main()
