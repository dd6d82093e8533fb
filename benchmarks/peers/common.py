"""What each library's script shares: the job it is given, the meter, the lists and figures it leaves behind.

Runs in every environment of the bench, so it takes the standard library, NumPy and pyarrow alone. A script is called
as `with_LIBRARY.py JOB.json` and writes into the job's folder

    lists.parquet     user_id, item_id, score: each user's best KEPT items of the whole catalogue
    unseen.parquet    the same without what the user has had already
    figures.json      seconds, peak memory, training targets, versions, notes

A ranker leaves scores behind in place of lists

    scores.parquet    row (of the Store's impressions), score (logit)
"""

from __future__ import annotations

import json
import platform
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DEPTH = 100
"""Items that each library is asked for."""
KEPT = 40
"""How many of them are written: judging looks at the best 20."""


@dataclass
class Job:
    """One row to run.

    Attributes:
        model: which of the library's models.
        settings: its sizes and how long it trains.
        events: Parquet, user_id, item_id, place (in the user's history, from 0): all that may be learned from. For a
            ranker a folder: what `export_impressions` of `ctr.py` writes.
        store, split: where the events came from; for Penchant alone.
        out: folder of what the script leaves behind.
        figures: seconds of each measured part, by now.
        aside_s: CPU and wall seconds inside the part that is measured now, to be left out of it.
    """

    model: str
    settings: dict[str, Any]
    events: Path
    store: Path
    split: str
    out: Path
    figures: dict[str, Any] = field(default_factory=dict)
    aside_s: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @classmethod
    def given(cls) -> Job:
        """The job named on the command line."""
        values = json.loads(Path(sys.argv[1]).read_text())
        return cls(**{k: Path(v) if k in ("events", "store", "out") else v for k, v in values.items()})

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """CPU and wall seconds of a part, and the process's peak memory at its end."""
        self.aside_s = [0.0, 0.0]
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.figures[f"{name}_cpu_s"] = time.process_time() - cpu - self.aside_s[0]
        self.figures[f"{name}_wall_s"] = time.perf_counter() - wall - self.aside_s[1]
        self.figures["peak_mb"] = _peak_mb()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What a measured part does beside: its seconds are not the part's."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.aside_s[0] += time.process_time() - cpu
        self.aside_s[1] += time.perf_counter() - wall

    def write_lists(self, name: str, users: Sequence[str], items: Sequence[str], scores: Sequence[float]) -> None:
        """Lists as one row an entry."""
        table = {"user_id": users, "item_id": items, "score": np.asarray(scores, dtype=np.float64)}
        pq.write_table(pa.table(table), self.out / f"{name}.parquet")

    def write_scores(self, rows: np.ndarray, scores: np.ndarray) -> None:
        """A ranker's logits of the test window's impressions."""
        table = {"row": np.asarray(rows, dtype=np.int64), "score": np.asarray(scores, dtype=np.float64)}
        pq.write_table(pa.table(table), self.out / "scores.parquet")

    def finish(self, packages: Sequence[str], targets: int | None = None, notes: Sequence[str] = ()) -> None:
        """Write the figures; the last thing a script does.

        Args:
            packages: whose versions are told.
            targets: how many next items the model was trained to tell, or impressions, all epochs together.
        """
        versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
        stated = {**self.figures, "targets": targets, "versions": versions, "notes": list(notes)}
        (self.out / "figures.json").write_text(json.dumps(stated))


def cut_short(job: Job, epochs: float) -> list[str]:
    """What to say where a model's CPU seconds were spent before its epochs were through."""
    wanted, cpu_s = job.settings["epochs"], job.settings["train_cpu_s"]
    return [f"stopped after {cpu_s:.0f} CPU s, {epochs:.2f} of {wanted} epochs"] if epochs < wanted - 0.005 else []


def _peak_mb() -> float:
    """The most memory this process has held, on Linux. (`ru_maxrss` begins with what the parent held at the fork.)"""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def best(scores: np.ndarray, depth: int = DEPTH) -> np.ndarray:
    """Columns of the highest scores of each row, best first."""
    depth = min(depth, scores.shape[1])
    found = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    return np.take_along_axis(found, np.argsort(-np.take_along_axis(scores, found, 1), axis=1, kind="stable"), 1)
