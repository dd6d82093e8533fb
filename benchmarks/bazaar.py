"""The generated market: what making it costs, and that its knobs do what they say.

usage: python -m benchmarks.bazaar [--actions 200000 1000000 10000000] [--results results] [--work runs/bench-bazaar]

Writes results/bazaar.json, which `benchmarks/bazaar_figures.py` draws. Costs are of one process: CPU seconds, seconds
by the clock, and the most memory it held, for living the days and for the whole Store. The curves are areas under
the ROC curve within a request's category, on lists drawn at random, of each part of the truth alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from benchmarks.command import argument_parser
from benchmarks.memory import peak_gb
from rich.console import Console

from penchant.bazaar.config import SIZES, Knobs
from penchant.bazaar.pictures import STYLES
from penchant.bazaar.policies import RandomPolicy
from penchant.bazaar.source import Bazaar, read
from penchant.bazaar.world import World
from penchant.data.prepare import prepare
from penchant.data.store import write_json
from penchant.evaluation.metrics import gauc
from penchant.evaluation.results import versions_here

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
PARTS = ("text", "image", "identity")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--actions", type=int, nargs="+", default=[200_000, 1_000_000, 10_000_000])
    parser.add_argument("--work", type=Path, default=Path("runs/bench-bazaar"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # the measured process: prints its costs as JSON
    arguments = parser.parse_args()
    if arguments.one:
        sys.stdout.write(json.dumps(cost(arguments.one, arguments.work)))
        return
    for folder in (arguments.results, arguments.work):
        folder.mkdir(parents=True, exist_ok=True)
    costs = []
    for actions in arguments.actions:
        finished = arguments.work / f"cost-{actions}.json"  # a market of ten million takes minutes: none is made twice
        if not finished.is_file():
            command = [sys.executable, "-m", "benchmarks.bazaar", "--one", str(actions), "--work", str(arguments.work)]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            write_json(finished, json.loads(told))
        costs.append(json.loads(finished.read_text()))
        Console().print_json(data=costs[-1])
    pictures_s = picture_cost()
    curves = {part: [aucs(replace(Knobs(), **{part: weight})) for weight in WEIGHTS] for part in PARTS}
    numbers = {
        "synthetic": True,
        "versions": versions_here(),
        "processors": len(os.sched_getaffinity(0)),
        "costs": costs,
        "pictures_of_4000_items_cpu_s": pictures_s,
        "style_told_by_text_r2": style_told_by_text(),
        "weights": WEIGHTS,
        "aucs": curves,
    }
    write_json(arguments.results / "bazaar.json", numbers)


def cost(actions: int, work: Path) -> dict[str, float]:
    """Make a Store of a `small` market with so many actions, without pictures."""
    out = work / "store"
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    raw = read(Bazaar(size="small", actions=actions, pictures=False))
    lived = {"live_cpu_s": time.process_time(), "live_wall_s": time.perf_counter() - start, "live_mb": 1000 * peak_gb()}
    store = prepare(raw, out, console=Console(quiet=True))
    counts = store.manifest["counts"]
    shutil.rmtree(out)
    whole = {"cpu_s": time.process_time(), "wall_s": time.perf_counter() - start, "mb": 1000 * peak_gb()}
    return {"actions": counts["events"], "impressions": counts["impressions"], **lived, **whole}


def picture_cost() -> float:
    """CPU seconds to write and draw the 4,000 items of `small`."""
    catalogue = World(SIZES["small"]).market.catalogue
    start = time.process_time()
    for _ in catalogue.batches(pictures=True):
        pass
    return time.process_time() - start


def style_told_by_text() -> dict[str, float]:
    """R2 of each number of the style, told by a ridge regression from the words of the text, on unseen items."""
    catalogue = World(SIZES["small"]).market.catalogue
    texts = [re.findall(r"\w+", t.lower()) for b in catalogue.batches(False) for t in b["text"].to_pylist()]
    place = {word: n for n, word in enumerate(sorted({word for words in texts for word in words}))}
    x = np.zeros((len(texts), len(place) + 1))
    x[:, -1] = 1
    for row, words in enumerate(texts):
        x[row, [place[word] for word in words]] = 1
    y = catalogue.style[1:].astype(np.float64)
    train, test = np.arange(len(texts)) % 2 == 0, np.arange(len(texts)) % 2 == 1
    weights = np.linalg.solve(x[train].T @ x[train] + np.eye(x.shape[1]), x[train].T @ y[train])
    left = ((y[test] - x[test] @ weights) ** 2).mean(axis=0) / y[test].var(axis=0)
    return dict(zip(STYLES, (1 - left).tolist(), strict=True))


def aucs(knobs: Knobs) -> dict[str, float]:
    """AUC within a request of the text, image and identity part of the truth, under these knobs."""
    knobs = replace(knobs, exploration=1.0, search=0.0, home=0.0)
    world = World(replace(SIZES["tiny"], days=8, actions=12_000, knobs=knobs))
    labels, groups, parts = [], [], []
    for log in world.step(RandomPolicy(world.market), 8):
        shown = log.items > 0
        labels.append(log.reached[shown] > 0)
        groups.append(np.broadcast_to(log.requests.request[:, None], shown.shape)[shown])
        terms = world.market.taste_terms(log.requests.user, log.requests.day, log.items)
        parts.append(np.stack([part[shown] for part in (*terms, world.market.catalogue.popularity[log.items])]))
    label, group, part = np.concatenate(labels), np.concatenate(groups), np.concatenate(parts, axis=1)
    return {name: gauc(label, part[p], group).value for p, name in enumerate(PARTS)}


if __name__ == "__main__":
    main()
