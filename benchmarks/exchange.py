"""What Penchant gives its peers, and how it judges what comes back: one export, one judge for every row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.rows import Row

from penchant.data.split import Split
from penchant.data.store import Store
from penchant.evaluation.lists import evaluate_lists
from penchant.evaluation.protocol import RetrievalResult
from penchant.evaluation.results import Result, write_result

KS = (10, 20)
SHOWN = {
    "train_cpu_s": "Train CPU s",
    "recommend_cpu_s": "Recommend CPU s",
    "train_wall_s": "Train wall s",
    "recommend_wall_s": "Recommend wall s",
    "peak_mb": "Peak MB",
}
"""Figures of a script under the names that tables show."""


def export_events(store: Store, split: Split, path: Path) -> None:
    """Write what may be learned from: user_id, item_id, place (in the user's history, from 0), oldest first.

    That is the train and the valid window. A peer has no way to be given a history that it was not trained on, and the
    test target's history holds the valid event, so both train.
    """
    stops = split.stops("valid")
    rows = np.concatenate([np.arange(a, b) for a, b in zip(store.user_indptr[:-1], stops, strict=True)])
    user = store.event_user[rows]
    users, items = (np.array(ids, dtype=object) for ids in (store.user_ids, store.item_ids))
    place = rows - store.user_indptr[user]
    table = {"user_id": users[user], "item_id": items[store.event_item[rows]], "place": place}
    pq.write_table(pa.table(table), path)


def judge(folder: Path, store: Store, split: Split) -> RetrievalResult:
    """A script's lists against every user's test target; the column `unseen` by its lists without seen items."""
    judged = evaluate_lists(folder / "lists.parquet", store, split, "test", ks=KS)
    unseen = evaluate_lists(folder / "unseen.parquet", store, split, "test", ks=KS)
    return replace(judged, unseen_ranks=unseen.ranks)


def result_of(row: Row, store: Store, split: Split, judged: RetrievalResult, figures: dict[str, Any]) -> Result:
    """The result file of a row."""
    shown: dict[str, float | None] = {name: figures[key] for key, name in SHOWN.items()}
    shown["Judged per CPU s"] = len(judged.events) / figures["recommend_cpu_s"]
    if figures["targets"]:
        shown["Targets per CPU s"] = figures["targets"] / figures["train_cpu_s"]
    # Every row's lists come from a file of that name.
    notes = (row.note, *figures["notes"], *judged.notes[1:])
    return Result(
        paper="benchmarks",
        table=row.table,
        row=row.name,
        data=store.name,
        split=split.name,
        seed=0,
        window="test",
        config={"library": row.library, "model": row.model, **row.settings, "threads": 1},
        data_fingerprint=store.fingerprint,
        split_fingerprint=split.fingerprint,
        versions=figures["versions"],
        device="cpu",
        cpu_seconds=figures["train_cpu_s"] + figures["recommend_cpu_s"],
        wall_seconds=figures["train_wall_s"] + figures["recommend_wall_s"],
        steps=0,
        trials=1,
        metrics={**shown, **judged.metrics()},
        synthetic=bool(store.manifest.get("synthetic", False)),
        notes=tuple(note for note in notes if note),
    )


def judge_and_write(row: Row, store: Store, split: Split, folder: Path, results: Path) -> Result:
    """Judge what a script left in `folder`, and write the row's result file."""
    judged = judge(folder, store, split)
    result = result_of(row, store, split, judged, json.loads((folder / "figures.json").read_text()))
    columns = ["user", "weight", "HR@10", "NDCG@10", "HR@10 unseen", "NDCG@10 unseen"]
    write_result(results, result, judged.per_user().select(columns))
    return result
