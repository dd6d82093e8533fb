"""Ten categories and the whole corpus in one request: Penchant's category index beside a filtered graph and a database.

A generated catalogue whose categories' sizes follow Zipf's law. A request asks for the best items of ten categories,
drawn as items are, each by a vector of its own, and of the whole corpus. Each library answers the same requests one by
one with `--threads` threads (the milliseconds), then as many at once on one thread each (requests a second). Recall is
against a full comparison; a list's item is valid if it is of the category that was asked for.

    python -m benchmarks.serving.category_index
    python -m benchmarks.serving.category_index --items 20000 --categories 200 --requests 50     a minute's try

A row that has a result file is not measured again; a library that cannot be installed is left out with a message.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.command import argument_parser
from benchmarks.environments import REQUIREMENTS, python_of, run_script
from benchmarks.written import MADE_UP, write_made_up

from penchant.evaluation.results import find_results, read_result, result_path

TABLE = "category-index"
SCRIPTS = {"faiss": "with_faiss", "lancedb": "with_lancedb", "penchant": "with_penchant_categories"}
"""The graph comes first: the others' rows tell how many times its throughput they reach."""
GRAPH = "faiss-hnsw"
SMALL = 1000
"""A category is small if it has fewer than one in so many items."""
TOLERANCE = 1e-4  # two ways of adding up a product differ by less


@dataclass(frozen=True)
class Market:
    """The catalogue and the requests; see `Searches` of peers/searching.py."""

    vectors: np.ndarray
    categories: np.ndarray
    short: np.ndarray
    interests: np.ndarray
    names: np.ndarray

    @classmethod
    def generated(cls, items: int, categories: int, width: int, requests: int, asked: int) -> Market:
        """Items lie around their category's centre, requests too; the same on every call."""
        rng = np.random.default_rng(0)
        share = 1 / np.arange(1, categories + 1)
        share /= share.sum()
        of = np.concatenate([[0], rng.choice(categories, items, p=share) + 1])
        centres = rng.standard_normal((categories + 1, width), dtype=np.float32)
        vectors = centres[of] + rng.standard_normal((items + 1, width), dtype=np.float32)
        vectors[0] = 0
        names = np.stack([rng.choice(categories, asked, replace=False, p=share) + 1 for _ in range(requests)])
        interests = centres[names] + rng.standard_normal((*names.shape, width), dtype=np.float32)
        short = centres[names[:, 0]] + rng.standard_normal((requests, width), dtype=np.float32)
        return cls(vectors, of, short, interests, names)

    def write(self, folder: Path) -> None:
        for name, values in vars(self).items():
            np.save(folder / f"{name}.npy", values)


class Judge:
    """Knows the score that an item must have to be among a list's best.

    Args:
        k_short, k_each: how many those are.
    """

    def __init__(self, market: Market, k_short: int, k_each: int) -> None:
        self.market = market
        self.sizes = np.bincount(market.categories[1:], minlength=market.names.max() + 1)[market.names]
        self.wanted = np.minimum(self.sizes, k_each)
        self.k_short = min(k_short, len(market.vectors) - 1)
        order = np.argsort(market.categories, kind="stable")
        begins = np.searchsorted(market.categories[order], np.arange(market.categories.max() + 2))
        self.least = np.full(market.names.shape, np.inf, dtype=np.float32)
        self.least_short = np.zeros(len(market.short), dtype=np.float32)
        for r in range(len(market.names)):
            for c, name in enumerate(market.names[r]):
                if self.wanted[r, c]:
                    block = market.vectors[order[begins[name] : begins[name + 1]]]
                    self.least[r, c] = _least(block @ market.interests[r, c], self.wanted[r, c])
            self.least_short[r] = _least(market.vectors[1:] @ market.short[r], self.k_short)

    def judged(self, items: np.ndarray, short: np.ndarray) -> dict[str, float | None]:
        """Recall and valid items of lists [R, C, K] and [R, L], of the first R requests.

        Raises:
            ValueError: an item is twice in a list.
        """
        market, rows = self.market, len(items)
        for found in (*items.reshape(-1, items.shape[2]), *short):
            if len(np.unique(found[found > 0])) < np.count_nonzero(found):
                raise ValueError("an item is twice in a list")
        valid = (items > 0) & (market.categories[items] == market.names[:rows, :, None])
        right, short_right = np.zeros_like(valid), np.zeros(short.shape, dtype=bool)
        for r in range(rows):
            scores = np.einsum("ckd,cd->ck", market.vectors[items[r]], market.interests[r])
            right[r] = valid[r] & (scores >= self.least[r, :, None] - TOLERANCE)
            of_short = market.vectors[short[r]] @ market.short[r]
            short_right[r] = (short[r] > 0) & (of_short >= self.least_short[r] - TOLERANCE)
        wanted = self.wanted[:rows]
        small = self.sizes[:rows] < len(market.vectors) / SMALL
        # Items that tie with the last one would count beyond what is wanted.
        hits = np.minimum(right.sum(2), wanted)
        return {
            "Recall in categories": _share(hits, wanted),
            "Recall in small categories": _share(hits[small], wanted[small]),
            "Valid items, of those there are": _share(valid.sum(2), wanted),
            "Valid items in small categories": _share(valid.sum(2)[small], wanted[small]),
            "Recall in the corpus": _share(np.minimum(short_right.sum(1), self.k_short), np.array(self.k_short)),
        }


def main() -> None:
    arguments = _arguments()
    data = f"generated-{arguments.items}"
    rows = {library: _rows(library, arguments) for library in arguments.libraries}
    sizes = {n: getattr(arguments, n) for n in ("items", "categories", "width", "requests", "asked")}
    asked = {n: getattr(arguments, n) for n in ("k_short", "k_each", "threads", "seconds")}
    left = {
        library: {
            name: settings
            for name, settings in of.items()
            if not _measured(arguments.results, name, data, sizes | asked | settings)
        }
        for library, of in rows.items()
    }
    left = {library: left[library] for library in SCRIPTS if left.get(library)}
    print(f"left: {', '.join(name for of in left.values() for name in of) or 'nothing'}", flush=True)
    if not left:
        return
    print(f"generating {sizes}", flush=True)
    market = Market.generated(**sizes)
    folder = arguments.work.resolve() / data
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    market.write(folder)
    print("judging: a full comparison of every request", flush=True)
    judge = Judge(market, arguments.k_short, arguments.k_each)
    for library, of in left.items():
        print(f"== {library}", flush=True)
        out = folder / library
        out.mkdir()
        (out / "job.json").write_text(json.dumps({"rows": of, "market": str(folder), **asked}))
        try:
            run_script(SCRIPTS[library], python_of(library, arguments.envs), out, arguments.threads)
        except (subprocess.CalledProcessError, OSError) as error:  # its own message is above
            print(f"{library} is left out: {error}", flush=True)
            continue
        for name, settings in of.items():
            if (out / f"{name}.json").is_file():
                _write(arguments.results, name, data, sizes | asked | settings, judge, out)
    shutil.rmtree(folder)


def _measured(results: Path, name: str, data: str, config: dict[str, Any]) -> bool:
    """Whether the row is there, of these very sizes."""
    path = result_path(results, "benchmarks", TABLE, name, data, MADE_UP, 0)
    return path.is_file() and config.items() <= read_result(path).config.items()


def _write(results: Path, name: str, data: str, config: dict[str, Any], judge: Judge, out: Path) -> None:
    figures = json.loads((out / f"{name}.json").read_text())
    with np.load(out / f"{name}.npz") as lists:
        milliseconds = lists["milliseconds"]
        metrics: dict[str, float | None] = {
            "p50 ms": float(np.percentile(milliseconds, 50)),
            "p99 ms": float(np.percentile(milliseconds, 99)),
            "Requests/s": figures["per_second"],
            "CPU ms a request": figures["cpu_ms"],
            **judge.judged(lists["items"], lists["short"]),
            "Build s": figures["build_s"],
            "Peak MB": figures["peak_mb"],
        }
    graphs = [r for r in find_results(results, "benchmarks", TABLE) if r.row.startswith(GRAPH) and r.data == data]
    notes = [f"{len(milliseconds)} requests; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors."]
    if not name.startswith(GRAPH) and graphs:
        graph = max(graphs, key=lambda r: (r.metrics["Recall in categories"] or 0, r.metrics["Requests/s"] or 0))
        metrics["Requests/s, times the graph's"] = figures["per_second"] / (graph.metrics["Requests/s"] or 1)
        notes.append(
            f"The graph is {graph.row}, whose recall in categories is {graph.metrics['Recall in categories']:.4f}."
        )
    print(f"{name}: " + ", ".join(f"{n} {v:.4g}" for n, v in metrics.items() if v is not None), flush=True)
    library = next(name for name in SCRIPTS if out.name == name)
    write_made_up(
        results,
        TABLE,
        name,
        data,
        {n: config[n] for n in ("items", "categories", "width", "requests", "asked")},
        metrics,
        config | {"requires": list(REQUIREMENTS.get(library, ()))},
        wall=float(milliseconds.sum()) / 1000,
        notes=notes,
    )


def _rows(library: str, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name -> settings of a library's rows."""
    if library == "faiss":
        graph = {"neighbours": arguments.neighbours, "construction": arguments.construction}
        return {f"{GRAPH}-{ef}": {"ef": ef, **graph} for ef in arguments.ef}
    if library == "lancedb":
        return {"lancedb": {"probes": 64}}
    return {f"penchant-{whole}": {"whole": whole} for whole in ("ann", "exact")}


def _least(scores: np.ndarray, k: int) -> float:
    """The k-th largest."""
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    """Sum over sum; `whole` is broadcast."""
    total = float(np.broadcast_to(whole, part.shape).sum())
    return float(part.sum()) / total if total else None


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, threads=2)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--categories", type=int, default=4000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--asked", type=int, default=10, help="categories a request asks for")
    parser.add_argument("--k-each", type=int, default=200, help="items of each category")
    parser.add_argument("--k-short", type=int, default=500, help="items of the whole corpus")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which a row is cut")
    parser.add_argument("--ef", type=int, nargs="+", default=[200, 1000, 5000], help="breadths of the graph's search")
    parser.add_argument("--neighbours", type=int, default=32, help="of a node of the graph")
    parser.add_argument("--construction", type=int, default=40, help="breadth of the search while the graph is built")
    parser.add_argument("--libraries", nargs="+", default=list(SCRIPTS), choices=list(SCRIPTS))
    parser.add_argument("--work", type=Path, default=Path("runs/category-index"), help="about 0.5 GB a million items")
    parser.add_argument(
        "--envs", type=Path, default=Path("~/.cache/penchant/peers").expanduser(), help="for the peers' environments"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
