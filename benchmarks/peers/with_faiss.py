"""faiss's HNSW graph, a category by an id selector, on a job's searches. Runs in faiss's own environment.

A request's searches are shared out to threads, for faiss itself spreads queries of one call alone, and these have a
selector each.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
from searching import Lists, Searches


def main() -> None:
    job = Searches.given()
    settings = next(iter(job.rows.values()))
    began = time.perf_counter()
    graph = faiss.IndexHNSWFlat(job.vectors.shape[1], settings["neighbours"], faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = settings["construction"]
    rows = job.vectors[1:]
    faiss.omp_set_num_threads(job.threads)
    for start in range(0, len(rows), 100_000):
        graph.add(rows[start : start + 100_000])
        print(f"   graph: {graph.ntotal} of {len(rows)}, {time.perf_counter() - began:.0f} s", flush=True)
    build_s = time.perf_counter() - began
    faiss.omp_set_num_threads(1)
    # One bit an item is the fastest selector there is; made before the clock runs.
    selectors = {
        int(name): faiss.IDSelectorBitmap(np.packbits(job.categories[1:] == name, bitorder="little"))
        for name in np.unique(job.names)
    }
    pool = ThreadPoolExecutor(job.threads)
    threads = 1

    def use_threads(count: int) -> None:
        nonlocal threads
        threads = count

    for row, of in job.rows.items():
        whole = faiss.SearchParametersHNSW(efSearch=max(of["ef"], job.k_short))
        within = {
            c: faiss.SearchParametersHNSW(efSearch=max(of["ef"], job.k_each), sel=s) for c, s in selectors.items()
        }

        def search(asked: tuple[np.ndarray, int, faiss.SearchParametersHNSW]) -> np.ndarray:
            query, k, parameters = asked
            found = graph.search(query[None], k, params=parameters)[1][0]
            return found[found >= 0] + 1

        def answer(i: int, whole=whole, within=within, search=search) -> Lists:
            asked = [(job.short[i], job.k_short, whole)]
            asked += [(q, job.k_each, within[int(c)]) for q, c in zip(job.interests[i], job.names[i], strict=True)]
            short, *each = pool.map(search, asked) if threads > 1 else map(search, asked)
            return short, each

        job.measure(row, answer, use_threads, build_s)
    pool.shutdown()


if __name__ == "__main__":
    main()
