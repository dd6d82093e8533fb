"""Penchant's category index on a job's searches, the whole corpus searched exactly or by inverted lists."""

from __future__ import annotations

import time

import torch
from searching import Lists, Searches

from penchant.errors import ConfigError
from penchant.index.ann import AnnIndex
from penchant.index.category import CategoryIndex
from penchant.index.exact import ExactIndex


def main() -> None:
    job = Searches.given()
    vectors, categories, short, interests, names = (
        torch.from_numpy(a) for a in (job.vectors, job.categories, job.short, job.interests, job.names)
    )
    for row, settings in job.rows.items():
        torch.set_num_threads(job.threads)
        began = time.perf_counter()
        try:
            index = CategoryIndex(vectors, categories, AnnIndex if settings["whole"] == "ann" else ExactIndex)
        except ConfigError as error:
            print(f"   {row} is left out: {error}", flush=True)
            continue
        build_s = time.perf_counter() - began

        def answer(i: int, index: CategoryIndex = index) -> Lists:
            one = slice(i, i + 1)
            found = index.search_all(short[one], interests[one], names[one], job.k_short, job.k_each)
            return found.short_items[0].numpy(), list(found.items[0].numpy())

        job.measure(row, answer, torch.set_num_threads, build_s)


if __name__ == "__main__":
    main()
