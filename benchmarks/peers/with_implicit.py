"""implicit's models on a job's events. Runs in implicit's own environment; knows nothing of Penchant."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from common import DEPTH, KEPT, Job
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender
from scipy.sparse import csr_matrix

warnings.filterwarnings("ignore")


def build(job: Job) -> Any:
    s = job.settings
    if job.model == "als":
        sizes = {"factors": s["width"], "iterations": s["epochs"], "random_state": s["seed"]}
        return AlternatingLeastSquares(**sizes, num_threads=1, use_gpu=False)
    kinds = {"cosine": CosineRecommender, "bm25": BM25Recommender}
    return kinds[job.model](K=s["neighbours"], num_threads=1)


def main() -> None:
    job = Job.given()
    events = pq.read_table(job.events)
    users, user = np.unique(events["user_id"].to_numpy(), return_inverse=True)
    items, item = np.unique(events["item_id"].to_numpy(), return_inverse=True)
    matrix = csr_matrix((np.ones(len(user), dtype=np.float32), (user, item)), shape=(len(users), len(items)))
    model = build(job)
    everybody = np.arange(len(users))
    with job.measured("train"):
        model.fit(matrix, show_progress=False)
    with job.measured("recommend"):
        lists = model.recommend(everybody, matrix, N=DEPTH, filter_already_liked_items=False)
    unseen = model.recommend(everybody, matrix, N=DEPTH, filter_already_liked_items=True)
    for name, (ids, scores) in {"lists": lists, "unseen": unseen}.items():
        # Where there are fewer than N, it fills up with -1, or with items at the lowest score there is.
        row, place = np.nonzero(((ids >= 0) & (scores > np.finfo(np.float32).min))[:, :KEPT])
        job.write_lists(name, users[row], items[ids[row, place]], scores[row, place])
    job.finish(("implicit", "numpy", "scipy"))


if __name__ == "__main__":
    main()
