"""Made-up result rows whose differences are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penchant.evaluation.results import Result, write_result

USERS = 200


def result(**changes: Any) -> Result:
    values: dict[str, Any] = {
        "paper": "house",
        "table": "retrieval",
        "row": "sasrec",
        "data": "made-up",
        "split": "loo",
        "seed": 0,
        "window": "test",
        "config": {"width": 64, "lr": 1e-3},
        "data_fingerprint": "d1",
        "split_fingerprint": "s1",
        "versions": {"python": "3.11"},
        "device": "cpu",
        "cpu_seconds": 12.4,
        "wall_seconds": 7.0,
        "steps": 100,
        "trials": 4,
        "metrics": {"HR@10": 0.25, "NDCG@10": 0.125},
        "synthetic": False,
    }
    return Result(**(values | changes))


def per_user(mean: float, seed: int = 0, users: int = USERS) -> pa.Table:
    """Values of users that share what makes each easy, plus a little noise of their own."""
    easy = np.random.default_rng(99).normal(size=users)
    own = np.random.default_rng(seed).normal(size=users) * 0.02
    value = (mean + 0.1 * easy + own - own.mean() - 0.1 * easy.mean()).astype(np.float32)
    return pa.table(
        {
            "user": np.arange(1, users + 1, dtype=np.int32),
            "weight": np.ones(users, dtype=np.int32),
            "HR@10": value,
            "NDCG@10": value / 2,
        }
    )


def write_row(results: Path, mean: float, **changes: Any) -> Result:
    """A row of that mean, with its per-user values."""
    row = result(metrics={"HR@10": mean, "NDCG@10": mean / 2}, **changes)
    write_result(results, row, per_user(mean, seed=1000 * len(row.row) + row.seed))
    return row
