"""A measured row as a result file under results/benchmarks/."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penchant.data.split import load_split
from penchant.data.store import Store
from penchant.evaluation.results import Result, read_result, result_path, versions_here, write_result

MADE_UP = "generated"
"""The split of what has none."""


def is_there(results: Path, table: str, row: str, store: Store, split: str, seed: int = 0) -> bool:
    """Whether the row was measured before, of this very Store."""
    path = result_path(results, "benchmarks", table, row, store.name, split, seed)
    return path.is_file() and read_result(path).data_fingerprint == store.fingerprint


def write(
    results: Path,
    table: str,
    row: str,
    store: Store,
    split: str,
    metrics: Mapping[str, float | None],
    config: dict[str, Any],
    *,
    window: str = "train",
    steps: int = 0,
    wall: float = 0.0,
    cpu: float = 0.0,
    seed: int = 0,
    slices: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write it, with where it comes from.

    Args:
        slices: further numbers, such as curves.
        wall, cpu: seconds that were measured; 0 where the row is not about time.
    """
    result = Result(
        paper="benchmarks",
        table=table,
        row=row,
        data=store.name,
        split=split,
        seed=seed,
        window=window,
        config=config,
        data_fingerprint=store.fingerprint,
        split_fingerprint=load_split(store, split).fingerprint,
        versions=versions_here(),
        device="cpu",
        cpu_seconds=cpu,
        wall_seconds=wall,
        steps=steps,
        trials=1,
        metrics=dict(metrics),
        slices=dict(slices or {}),
        notes=tuple(notes),
        synthetic=bool(store.manifest.get("synthetic", False)),
    )
    write_result(results, result)


def write_made_up(
    results: Path,
    table: str,
    row: str,
    data: str,
    sizes: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    config: dict[str, Any],
    *,
    wall: float = 0.0,
    notes: Sequence[str] = (),
) -> None:
    """Write a row measured on random vectors or histories: there is no Store.

    Args:
        data: a name of what was made up.
        sizes: what it was made from; its fingerprint is theirs.
    """
    made = hashlib.sha256(json.dumps(dict(sizes), sort_keys=True).encode()).hexdigest()[:16]
    result = Result(
        paper="benchmarks",
        table=table,
        row=row,
        data=data,
        split=MADE_UP,
        seed=0,
        window="test",
        config=config,
        data_fingerprint=made,
        split_fingerprint=MADE_UP,
        versions=versions_here(),
        device="cpu",
        cpu_seconds=0.0,
        wall_seconds=wall,
        steps=0,
        trials=1,
        metrics=dict(metrics),
        synthetic=True,
        notes=tuple(notes),
    )
    write_result(results, result)
