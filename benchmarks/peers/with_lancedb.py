"""LanceDB with pre-filtering on a job's searches. Runs in LanceDB's own environment, on as many threads as it likes.

A category is looked up in a scalar index and its vectors are compared one by one, which is exact; the whole corpus is
searched through inverted lists.
"""

from __future__ import annotations

import shutil
import time

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import BTree, IvfFlat
from searching import Lists, Searches


def main() -> None:
    job = Searches.given()
    folder = job.out / "lancedb"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    width = job.vectors.shape[1]
    columns = {
        "item": pa.array(np.arange(1, len(job.vectors))),
        "category": pa.array(job.categories[1:]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(job.vectors[1:].ravel()), width),
    }
    table = lancedb.connect(folder).create_table("items", pa.table(columns))
    print(f"   table: {time.perf_counter() - began:.0f} s", flush=True)
    table.create_index("category", config=BTree())
    (settings,) = job.rows.values()
    lists = max(1, len(job.vectors) // 256)
    table.create_index("vector", config=IvfFlat(distance_type="dot", num_partitions=lists))
    build_s = time.perf_counter() - began
    print(f"   indexes: {build_s:.0f} s", flush=True)

    def answer(i: int) -> Lists:
        whole = table.search(job.short[i]).distance_type("dot").nprobes(settings["probes"]).limit(job.k_short)
        each = [
            table.search(query)
            .distance_type("dot")
            .where(f"category = {name}", prefilter=True)
            .bypass_vector_index()
            .limit(job.k_each)
            for query, name in zip(job.interests[i], job.names[i], strict=True)
        ]
        return items_of(whole), [items_of(one) for one in each]

    (row,) = job.rows
    job.measure(row, answer, lambda count: None, build_s)
    shutil.rmtree(folder)


def items_of(search: lancedb.query.LanceQueryBuilder) -> np.ndarray:
    return search.select(["item", "_distance"]).to_arrow()["item"].to_numpy()


if __name__ == "__main__":
    main()
