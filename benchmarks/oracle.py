"""What anyone could reach on a Store of the generated market, by what is known of a click: the user, the session too,
or the request too (`docs/bazaar.md`, The oracle). Everything else of the market is known, but not chance.

Split funnel, so beside the funnel of the four, whose 5,000 clicks these are: both draw by the same seed.

    penchant reproduce funnel-four --data bazaar-small-pictures
    python -m benchmarks.oracle stores/bazaar-small-pictures
"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.command import argument_parser
from benchmarks.written import is_there, write

from penchant.bazaar.oracle import judge
from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.evaluation.metrics import mean_metrics
from penchant.recipes.funnel.tables import SPLIT, TARGETS

TABLE = "oracle"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("stores", type=Path, nargs="+", help="Stores of the generated market")
    parser.add_argument("--targets", type=int, default=TARGETS, help="of the test window, drawn at random")
    arguments = parser.parse_args()
    for path in arguments.stores:
        store = Store(path)
        if is_there(arguments.results, TABLE, "user", store, SPLIT):
            print(f"{store.name}: finished before")
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        judged = judge(store, load_split(store, SPLIT), "test", arguments.targets)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        for knows, ranks in reversed(judged.ranks.items()):  # user last: it says that all are there
            metrics = mean_metrics(ranks, (10, 50), ("HR", "NDCG"))
            config = {"targets": arguments.targets}
            write(arguments.results, TABLE, knows, store, SPLIT, metrics, config, window="test", wall=wall, cpu=cpu)
            print(store.name, knows, metrics, flush=True)


if __name__ == "__main__":
    main()
