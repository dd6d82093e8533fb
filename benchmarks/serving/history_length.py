"""What ULIM's user side costs as a history grows: read it, predict categories, make K + 1 vectors.

Made-up histories of 100 to 10,000 actions on items drawn alike, of categories of Zipf sizes; a model of default sizes
with fresh weights, which cost what trained ones do. A history is cut out of one long array of events, as from a Store.
PGIN's generator reads a summary for each category (summaries), each action (each-action), or as by default each action
of histories up to 1,024 (default). One request at a time; lengths take turns, so that what else the machine does meets
all alike. Memory is what a request adds to the process at most.

    python -m benchmarks.serving.history_length
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from benchmarks.command import argument_parser, parsed
from benchmarks.written import write_made_up

from penchant.data.history import Requests, make_requests
from penchant.models import Sizes
from penchant.papers.ulim.model import ULIM, ULIMConfig

TABLE = "history-length"
LENGTHS = (100, 300, 1000, 3000, 10_000)
ITEMS, CATEGORIES, SEARCHED = 50_000, 400, 10
ROUNDS = 100


def main() -> None:
    parser = argument_parser(__doc__, threads=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="requests of each length")
    arguments = parsed(parser)
    reads = {"summaries": 0, "each-action": LENGTHS[-1], "default": ULIMConfig().raw_up_to}
    models = {name: made(raw_up_to) for name, raw_up_to in reads.items()}
    requests = {length: request_of(length) for length in LENGTHS}
    calls = {
        f"{name}-{length:05}": partial(searched, model, ask)
        for name, model in models.items()
        for length, ask in requests.items()
    }
    with torch.inference_mode():
        taken = in_turn(calls, arguments.rounds)
        for name, call in calls.items():
            kind, length = name.rsplit("-", 1)
            shortest = taken[f"{kind}-{LENGTHS[0]:05}"]
            metrics = {
                "Actions": float(length),
                "p50 ms": median(taken[name]),
                "p99 ms": float(np.quantile(taken[name], 0.99)),
                "Times that of 100 actions": median(a / b for a, b in zip(taken[name], shortest, strict=True)),
                "Added MB, at most": added_mb(call),
            }
            print(name, {k: round(v, 2) for k, v in metrics.items()}, flush=True)
            sizes = {"items": ITEMS, "categories": CATEGORIES, "longest": LENGTHS[-1]}
            config = {"model": asdict(models[kind].config), "threads": arguments.threads, "rounds": arguments.rounds}
            write_made_up(
                arguments.results, TABLE, name, "generated", sizes, metrics, config, wall=sum(taken[name]) / 1000
            )


def made(raw_up_to: int) -> ULIM:
    """A model of default sizes that reads histories of 10,000; `raw_up_to` as in `PGINConfig`."""
    torch.manual_seed(0)
    config = ULIMConfig(max_len=LENGTHS[-1], num_searched=SEARCHED, raw_up_to=raw_up_to)
    model = ULIM(config, Sizes(num_items=ITEMS, num_categories=CATEGORIES))
    rng = np.random.default_rng(0)
    model.set_categories(torch.from_numpy(np.concatenate([[0], zipf(rng, CATEGORIES, ITEMS)])))
    return model.eval()


def searched(model: ULIM, ask: Callable[[], Requests]) -> object:
    """All of a user's side: the history cut out and read, categories predicted, vectors made."""
    return model.searches(ask())


def zipf(rng: np.random.Generator, names: int, count: int) -> np.ndarray:
    """int64 [count]: 1 to `names`, each with a share of 1 / itself."""
    share = 1 / np.arange(1, names + 1)
    return rng.choice(names, count, p=share / share.sum()) + 1


def request_of(length: int) -> Callable[[], Requests]:
    """Cuts one user's history out of the events: what has to be done anew for each request."""
    rng = np.random.default_rng(length)
    events = 3 * length
    items = rng.integers(1, ITEMS + 1, events).astype(np.int32)
    times = 1_700_000_000_000 + np.sort(rng.integers(0, 10**10, events))
    now, start = times[-1:] + 1000, np.array([events - length])
    user, stop = np.array([1]), np.array([events])
    return lambda: make_requests(user, now, items, times, start, stop, LENGTHS[-1])


def in_turn(calls: Mapping[str, Callable[[], object]], rounds: int, uncounted: int = 5) -> dict[str, list[float]]:
    """Milliseconds of each call, one round after the other; the first rounds do not count."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + uncounted):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if i >= uncounted:
                taken[name].append(1000 * (time.perf_counter() - began))
    return taken


def added_mb(call: Callable[[], object]) -> float:
    """Memory that a call adds to the process at its fullest (Linux)."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed goes back, so that it is counted when taken again
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _held("VmRSS")
    call()
    return max(_held("VmHWM") - before, 0.0)


def _held(what: str) -> float:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
