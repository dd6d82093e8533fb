"""What a ranker's answer costs: 500 candidates beside a history of 64, DMAE and DIN in turn on the same requests.

Milliseconds of `model(inputs)` alone (features are the same for both), by percentile; memory of the content by
precision, with the largest change of a score. The weights are fresh: they cost what trained ones do.

    python -m benchmarks.serving.ranking
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import torch
from benchmarks.command import argument_parser, parsed
from benchmarks.written import write_made_up
from rich.console import Console
from rich.table import Table

from penchant.baselines.ranking.din import DIN
from penchant.baselines.ranking.parts import RankerConfig
from penchant.data.history import Requests
from penchant.funnel.features import Features, RankInputs
from penchant.models import Sizes
from penchant.papers.dmae.model import DMAE, DMAEConfig
from penchant.recipes.ranking import fit_inputs

ITEMS, CATEGORIES, FEATURES = 50_000, 500, 12
WIDTHS = (384, 384)
"""Of text and image vectors."""


def main() -> None:
    parser = argument_parser(__doc__, threads=2)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--history", type=int, default=64)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--interest", type=int, default=16)
    arguments = parsed(parser)
    torch.manual_seed(0)
    sizes = Sizes(num_items=ITEMS, num_categories=CATEGORIES, num_features=FEATURES)
    content = [(np.random.default_rng(m).normal(size=(ITEMS + 1, w)), np.ones(ITEMS + 1)) for m, w in enumerate(WIDTHS)]
    inputs = [some_inputs(arguments.candidates, arguments.history, seed) for seed in range(arguments.requests)]
    features = Features(torch.zeros(ITEMS + 1), torch.randint(1, CATEGORIES + 1, (ITEMS + 1,)))
    config = DMAEConfig(content_widths=WIDTHS, interest=arguments.interest)
    models: dict[str, DIN | DMAE] = {"din": DIN(RankerConfig(), sizes)}
    models |= {f"dmae-{p}": _filled(config, p, sizes, content) for p in ("float32", "float16", "int8")}
    for model in models.values():
        fit_inputs(model, features, inputs[:2])
        model.eval()
    with torch.inference_mode():
        taken, scores = alternating(models, inputs)
    table = Table("model", "p50 ms", "p99 ms", "times DIN", "content MB", "largest change of a score", box=None)
    told = vars(arguments) | {"results": str(arguments.results)}
    data = f"made-up-{arguments.candidates}x{arguments.history}"
    for name, model in models.items():
        ratio = float(np.median(np.array(taken[name]) / np.array(taken["din"])))
        held = sum(b.nbytes for k, b in model.named_buffers() if k.startswith("content.vectors")) / 1e6
        change = float(np.abs(scores[name] - scores["dmae-float32"]).max()) if isinstance(model, DMAE) else float("nan")
        p50, p99 = (float(of) for of in np.percentile(taken[name], [50, 99]))
        metrics = {"p50 ms": p50, "p99 ms": p99, "Times DIN": ratio, "Content MB": held, "Largest change": change}
        finite = {metric: value for metric, value in metrics.items() if np.isfinite(value)}
        load = f"{len(inputs)} requests; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors."
        sizes = {"items": ITEMS, "features": FEATURES, "widths": list(WIDTHS), "requests": arguments.requests}
        write_made_up(arguments.results, "ranking-speed", name, data, sizes, finite, told, notes=[load])
        table.add_row(name, f"{p50:.2f}", f"{p99:.2f}", f"{ratio:.2f}", f"{held:.0f}", f"{change:.1e}")
    Console().print(table)


def alternating(
    models: dict[str, DIN | DMAE], inputs: list[RankInputs]
) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Milliseconds of each model for each request, and its scores of the last."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    scores: dict[str, np.ndarray] = {}
    for request in inputs[:5]:  # not counted
        for model in models.values():
            model(request)
    for i, request in enumerate(inputs):
        for name in list(models)[:: 1 if i % 2 else -1]:
            began = time.perf_counter()
            scores[name] = models[name](request).numpy()
            taken[name].append(1000 * (time.perf_counter() - began))
    return taken, scores


def some_inputs(candidates: int, length: int, seed: int) -> RankInputs:
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(1, ITEMS + 1, (1, length), generator=generator)
    requests = Requests(torch.zeros(1, dtype=torch.int64), torch.full((1,), 10**9), history, history * 100)
    items = torch.randint(1, ITEMS + 1, (1, candidates), generator=generator)
    return RankInputs(requests, items, torch.randn(1, candidates, FEATURES, generator=generator))


def _filled(config: DMAEConfig, precision: str, sizes: Sizes, content: list[tuple[np.ndarray, np.ndarray]]) -> DMAE:
    """The same weights with the content held in another precision."""
    torch.manual_seed(1)
    model = DMAE(replace(config, precision=precision), sizes)
    model.content.fill(content)
    return model


if __name__ == "__main__":
    main()
