"""Judging a finished run: the whole catalogue for a retrieval model, what was shown for a ranker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table

from penchant.data.split import Split
from penchant.data.store import Store, write_json
from penchant.evaluation.diagnostics.meaning import item_terms, js_at, shown_gauc
from penchant.evaluation.metrics import GroupAUC, auc
from penchant.evaluation.protocol import RetrievalResult, evaluate_retrieval, per_user_table
from penchant.evaluation.ranking import RankingResult, evaluate_ranking
from penchant.evaluation.slices import popularity_slices
from penchant.papers.ulim.decomposition import decompose
from penchant.recipes.runs import LoadedRun, load_features
from penchant.training.impressions import ImpressionScores, evaluate_impressions

KS = (2, 5, 10, 20, 50, 100)
WIDEST = 200
"""Of KARMA's tables, which look further down."""
GAUC = "GAUC request"
SHOWN = 4000
"""Requests with clicks and non-clicks by which GAUC is taken beside a retrieval result."""


@dataclass(frozen=True)
class Verdict:
    """What a run is worth on one window.

    Attributes:
        provenance: data, split, window and settings that the numbers belong to.
        cpu_seconds, wall_seconds: of judging.
        beside: of a retrieval result, further values of each target: where asked for JS@50 with the target and over the
            others; of ULIM, which of its halves found it.
        shown: GAUC by request on what was shown, where asked for and the Store knows it; and each request's user.
        said: of a ranking result, where its non-clicks come from; of ULIM, its hit rate in parts.
        by_item: of a ranking result, AUC among the impressions of popular, rare and new items.
    """

    result: RetrievalResult | RankingResult
    provenance: dict[str, Any]
    cpu_seconds: float
    wall_seconds: float
    beside: dict[str, np.ndarray] = field(default_factory=dict)
    shown: tuple[GroupAUC, np.ndarray] | None = None
    said: tuple[str, ...] = ()
    by_item: dict[str, dict[str, float]] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        beside = {name: float(values.mean()) for name, values in self.beside.items()}
        shown = {} if self.shown is None else {GAUC: self.shown[0].value}
        return self.result.metrics() | beside | shown

    def slices(self) -> dict[str, Any]:
        """Means by popularity of the item, by history length, by query; of rankers AUC by popularity of the item, and
        how reliable their probabilities are."""
        if isinstance(self.result, RetrievalResult):
            return self.result.slices()
        return {"item": self.by_item, "reliability": self.result.reliability()}

    def per_user(self) -> pa.Table:
        """Per-user values, the most important metrics first."""
        table = self.result.per_user()
        if self.beside and isinstance(self.result, RetrievalResult):
            overlaps = per_user_table(self.result.users, self.beside)
            for name in self.beside:
                table = table.append_column(name, overlaps[name])
        if self.shown:
            table = with_gauc(table, *self.shown)
        kept = [name for name in table.column_names if not name.startswith("MRR") or name == "MRR@20"]
        return table.select(sorted(kept, key=_rank_of_column))

    def notes(self) -> tuple[str, ...]:
        return (self.result.notes if isinstance(self.result, RetrievalResult) else ()) + self.said

    def write(self, path: Path) -> None:
        """Metrics, slices and provenance as JSON."""
        write_json(path, {**self.provenance, "metrics": self.metrics(), "slices": self.slices(), "notes": self.notes()})


def _rank_of_column(name: str) -> int:
    """The most important columns first, as the last may have to go."""
    if name.endswith(("user", "weight", GAUC, "@10", "@20")):
        return 0
    return 1 if name.startswith("HR") and int(name.partition("@")[2].split()[0]) not in KS else 2


def auc_by_item(shown: ImpressionScores, counts: np.ndarray) -> dict[str, dict[str, float]]:
    """AUC among the impressions of head, torso, tail and cold items by their events in the train window, and how many
    there are. Left out where there is one class alone."""
    parts = {name: members[shown.items] for name, members in popularity_slices(counts).items()}
    return {
        name: {"impressions": int(inside.sum()), "AUC": auc(shown.labels[inside], shown.scores[inside])}
        for name, inside in parts.items()
        if 0 < shown.labels[inside].sum() < inside.sum()
    }


def non_clicks_of(store: Store, split: Split, window: str) -> str:
    """Where a window's non-clicks come from (`schema.SOURCES`), with counts: a proxy is not what was shown."""
    requests = split.requests(store, window)
    judged = np.zeros(len(store.impression_label) + 1, dtype=np.int64)
    np.add.at(judged, store.request_indptr[requests - 1], 1)
    np.add.at(judged, store.request_indptr[requests], -1)
    inside = judged.cumsum()[:-1] > 0
    source = store.table("impressions", ["source"])["source"].to_numpy(zero_copy_only=False)
    names, counts = np.unique(source[inside & (store.impression_label[:] == 0)], return_counts=True)
    told = ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
    return f"Non-clicks by source: {told or 'none'}."


def with_gauc(table: pa.Table, shown: GroupAUC, users: np.ndarray) -> pa.Table:
    """Per-user values with two columns more: each user's mean AUC over requests, and its weight, their impressions.

    Users who were shown something and have no target come in with weight 0 in all else.

    Args:
        users: of each of `shown`'s groups; an anonymous one (0) is a user of its own.
    """
    users = np.where(users == 0, -1 - np.arange(len(users)), users)
    known, of = np.unique(users, return_inverse=True)
    weight = np.bincount(of, weights=shown.impressions)
    total = np.bincount(of, weights=np.nan_to_num(shown.aucs) * shown.impressions)
    here = table["user"].to_numpy()
    everyone = np.union1d(here, known)
    columns: dict[str, np.ndarray] = {"user": everyone.astype(np.int32)}
    for name in table.column_names[1:]:
        old = table[name].to_numpy()
        columns[name] = np.zeros(len(everyone), old.dtype)
        columns[name][np.searchsorted(everyone, here)] = old
    at = np.searchsorted(everyone, known)
    for name, values in ((GAUC, total / np.maximum(weight, 1)), (f"{GAUC} weight", weight)):
        columns[name] = np.zeros(len(everyone), np.float32)
        columns[name][at] = values
    return pa.table(columns)


def judge_run(
    loaded: LoadedRun,
    folder: Path,
    window: str = "test",
    *,
    targets: int | None = None,
    filter_seen: bool = False,
    memory_mb: float = 256,
    meaning: bool = False,
    ks: Sequence[int] = (),
    cold: bool = False,
) -> Verdict:
    """Judge the run of a folder on a window of its own split.

    Args:
        meaning: also say what the lists mean, and how a model of vectors ranks what was shown: KARMA's measures.
        ks: further lengths of lists, beside the usual ones. ULIM's hit rate is told in parts at these.
        cold: only targets whose item nobody clicked in the train window; not of ULIM, whose parts are of all.
    """
    store, split, model = loaded.store, loaded.split, loaded.model
    wall, cpu = time.perf_counter(), time.process_time()
    beside: dict[str, np.ndarray] = {}
    of_shown: tuple[GroupAUC, np.ndarray] | None = None
    said: tuple[str, ...] = ()
    by_item: dict[str, dict[str, float]] = {}
    if loaded.described["run"] == "RankingRun":
        shown = evaluate_impressions(model, load_features(folder), store, split, window)
        result = evaluate_ranking(shown.scores, shown.labels, shown.requests, shown.users)
        said = (non_clicks_of(store, split, window),)
        by_item = auc_by_item(shown, split.item_counts(store))
    else:
        max_len = getattr(model.config, "max_len", 50)
        by_category = loaded.described["run"] == "UlimRun"
        result = evaluate_retrieval(
            model,
            store,
            split,
            window,
            ks=sorted({*KS, *ks, *((WIDEST,) if meaning else ())}),
            max_len=max_len,
            targets=targets,
            # What is left of a merged list is not the list merged of what is left, which is what is served.
            filter_seen=filter_seen and not by_category,
            memory_mb=memory_mb,
            cold=cold,
        )
        if meaning:
            js = js_at(result.lists[:, :50], result.items, item_terms(store))
            beside |= dict(zip(("JS@50", "JS@50 others"), js, strict=True))
            if hasattr(model, "user_vectors") and split.cuts_ms is not None and len(split.requests(store, window)):
                found = shown_gauc(model, store, split, window, max_len=max_len, requests=SHOWN)
                if found.impressions.any():
                    of_shown = found, np.asarray(store.request_user)[found.groups]
        if by_category:
            parts = decompose(model, store, split, window, ks or KS[-1:], targets)
            beside |= parts.values
            said = parts.notes()
    provenance = {
        "data": store.name,
        "data_fingerprint": store.fingerprint,
        "split": split.name,
        "split_fingerprint": split.fingerprint,
        "window": window,
        "config": loaded.described["config"],
    }
    seconds = time.process_time() - cpu, time.perf_counter() - wall
    return Verdict(result, provenance, *seconds, beside, of_shown, said, by_item)


def metrics_table(result: RetrievalResult | RankingResult, title: str = "") -> Table:
    """Metrics for a terminal: a column for each k, or a line for each ranking metric."""
    values = result.metrics()
    if isinstance(result, RankingResult):
        table = Table("metric", "value", title=title, box=None)
        for name, value in values.items():
            table.add_row(name, f"{value:,.0f}" if name.endswith("of one class") else f"{value:.4f}")
        return table
    table = Table("metric", *(f"@{k}" for k in result.ks), title=title, box=None)
    for name in dict.fromkeys(n.partition("@")[0] + n.partition("@")[2].lstrip("0123456789") for n in values):
        stem, _, label = name.partition(" ")
        cells = [values.get(f"{stem}@{k}{' ' + label if label else ''}") for k in result.ks]
        table.add_row(name, *("" if v is None else f"{v:.4f}" for v in cells))
    return table
