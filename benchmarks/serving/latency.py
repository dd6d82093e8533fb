"""What an answer costs: the export of a run with KARMA's train-only losses beside that of action alone.

Requests of the test window are answered one by one, each by both exports, alternating which comes first; the ratio is
the median of the pairs' ratios. Beside it what the two halves of an LLM recommender cost: an item's vector (offline,
once an item), a whole history's, and one click more with the cached prefix.

    python -m benchmarks.serving.latency --action runs/karma/table1/action... --decoded runs/karma/table1/task-1-2...
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks.command import argument_parser, parsed
from benchmarks.written import write

from penchant.data.history import Requests, requests_before_events
from penchant.evaluation.protocol import subsample
from penchant.models import load_model
from penchant.papers.karma.model import Karma
from penchant.recipes.karma.run import LEARNER
from penchant.recipes.runs import LoadedRun, load_run

PAIRS = 200


def main() -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("--action", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--decoded", type=Path, required=True, help="of another, alike but for its losses")
    parser.add_argument("--store", type=Path, help="where the Store is, if not where the runs found it")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    arguments = parsed(parser)
    folders = {"action": arguments.action, "decoded": arguments.decoded}
    runs = {name: load_run(folder, arguments.store, "cpu") for name, folder in folders.items()}
    requests = _requests(runs["action"], arguments.pairs)
    with torch.inference_mode():
        taken = alternating({name: run.model for name, run in runs.items()}, requests)
        for name, run in runs.items():
            learner = load_model(folders[name] / LEARNER)
            ratios = [a / b for a, b in zip(taken[name], taken["action"], strict=True)]
            metrics = {
                "A user vector (ms)": median(taken[name]),
                "Times the action-only export": median(ratios),
                "One click more (ms)": median(advancing(run.model, requests)),
                "An item vector, offline (ms)": _offline(learner),
                "Parameters served (millions)": sum(p.numel() for p in run.model.parameters()) / 1e6,
            }
            print(name, metrics, flush=True)
            config, spent = run.described["config"], sum(taken[name]) / 1000
            where = (arguments.results, "latency", name, run.store, run.split.name)
            write(*where, metrics, config, window="test", steps=len(requests), wall=spent)


def alternating(models: dict[str, Karma], requests: list[Requests]) -> dict[str, list[float]]:
    """Milliseconds of each model for each request; which model comes first alternates."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    for request in requests[:10]:  # not counted
        for model in models.values():
            model.user_vectors(request)
    for i, request in enumerate(requests):
        for name in list(models)[:: 1 if i % 2 else -1]:
            taken[name].append(_milliseconds(lambda model=models[name], asked=request: model.user_vectors(asked)))
    return taken


def advancing(model: Karma, requests: list[Requests]) -> list[float]:
    """Milliseconds of one click after a history that was read before."""
    taken: list[float] = []
    for request in requests:
        before = request.last(model.config.max_len - 1)
        state, click = model.begin(before), before.history[0, -1:]
        taken.append(_milliseconds(lambda of=state, new=click: model.advance(of, new)))
    return taken


def _offline(learner: Any) -> float:
    """Milliseconds an item, encoded in one go."""
    return _milliseconds(learner.item_vectors) / learner.num_items


def _milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def _requests(run: LoadedRun, count: int) -> list[Requests]:
    """One request each, with a history as long as the model reads."""
    length = run.model.config.max_len
    events = run.split.targets("test")
    long = events[(events - run.store.user_indptr[run.store.event_user[events]]) >= length]
    found = requests_before_events(run.store, subsample(long, count, 0)[0], length)
    return [found.rows(slice(i, i + 1)) for i in range(len(found))]


if __name__ == "__main__":
    main()
