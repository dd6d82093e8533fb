"""Rows of results side by side: means over seeds, and differences in pairs, user by user."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa

from penchant.evaluation.results import Result, read_per_user
from penchant.evaluation.significance import Difference, paired_bootstrap


@dataclass(frozen=True)
class ResultRow:
    """One row's seeds, on one data set and split."""

    name: str
    seeds: tuple[Result, ...]
    per_user: tuple[pa.Table | None, ...]

    def values(self, metric: str) -> list[float]:
        """Of each seed; empty unless every seed has it."""
        name, _, part = metric.rpartition(", ")
        group, sliced, chosen = part.partition("=")
        found = [
            seed.slices.get(group, {}).get(chosen, {}).get(name) if sliced else seed.metrics.get(metric)
            for seed in self.seeds
        ]
        return [] if None in found else [float(v) for v in found if v is not None]

    def users(self, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Users, weights and values averaged over the seeds; None unless every seed has them for the same targets.

        A metric with a column "<metric> weight" has weights of its own. Users without weight are left out.
        """
        tables = [t for t in self.per_user if t is not None and metric in t.column_names]
        if len(tables) != len(self.seeds) or not tables:
            return None
        own = f"{metric} weight"
        weighed = own if own in tables[0].column_names else "weight"
        if any(weighed not in t.column_names for t in tables):
            return None
        user, weight = (tables[0][c].to_numpy() for c in ("user", weighed))
        if any(not _same(user, t["user"]) or not _same(weight, t[weighed]) for t in tables):
            return None
        values = np.mean([t[metric].to_numpy().astype(np.float64) for t in tables], axis=0)
        return user[weight > 0], weight[weight > 0], values[weight > 0]

    def at(self, seeds: set[int]) -> ResultRow:
        """Of these seeds alone."""
        kept = [n for n, one in enumerate(self.seeds) if one.seed in seeds]
        return ResultRow(self.name, tuple(self.seeds[n] for n in kept), tuple(self.per_user[n] for n in kept))


def _same(a: np.ndarray, column: pa.ChunkedArray) -> bool:
    return np.array_equal(a, column.to_numpy())


def difference(row: ResultRow, control: ResultRow, metric: str) -> Difference | str:
    """Row minus control with its interval, over the seeds that both have; or why it cannot be said."""
    both = {one.seed for one in row.seeds} & {one.seed for one in control.seeds}
    if not both:
        return "no seed in common"
    row, control = row.at(both), control.at(both)
    if not row.values(metric) or not control.values(metric):
        return "a row lacks the metric"
    a, b = row.users(metric), control.users(metric)
    if a is None or b is None:
        return "no per-user values"
    if not np.array_equal(a[0], b[0]) or not np.array_equal(a[1], b[1]):
        return "judged on other targets"
    if np.isnan(a[2]).any() or np.isnan(b[2]).any():
        return "undefined for a user"
    return paired_bootstrap(a[2], b[2], a[1])


def group_of(result: Result) -> tuple[str, ...]:
    """Rows are compared only within the same data, split and window."""
    return result.data, result.split, result.window, result.data_fingerprint, result.split_fingerprint


def rows_of(results: Path, members: list[Result]) -> list[ResultRow]:
    """The rows of one group, by name."""
    members = sorted(members, key=lambda r: (r.row, r.seed))
    rows = []
    for name, of_row in groupby(members, key=lambda r: r.row):
        seeds = tuple(of_row)
        rows.append(ResultRow(name, seeds, tuple(read_per_user(results, seed) for seed in seeds)))
    return rows
