"""Judging search: trained runs beside what searches without a user, all on the same clicks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from penchant.baselines.counted.popularity import Popularity, PopularityConfig
from penchant.data.output import whole
from penchant.data.split import Split
from penchant.data.store import Store, write_json
from penchant.errors import PenchantError, RunError
from penchant.evaluation.search.judge import SearchResult, evaluate_search
from penchant.evaluation.search.systems import Lexical, WithinMatches, WithoutUser, sentence_of
from penchant.evaluation.search.targets import SearchTargets, search_targets
from penchant.evaluation.search.truth import BazaarTruth, TrueRate, TrueRelevance
from penchant.evaluation.significance import Difference, paired_bootstrap
from penchant.models import sizes_of
from penchant.recipes.runs import LoadedRun

LEXICAL = "lexical search"
BY_QUERY = ("head", "tail", "unseen")
TRUE = ("Relevance@10", "Irrelevant@10", "Filled@10")


@dataclass(frozen=True)
class SearchVerdict:
    """Systems on the same targets.

    Attributes:
        results: by the system's name.
        provenance: data, split and window that the numbers belong to.
        notes: what a reader of the numbers must know, one line each.
        seconds: wall time of each system.
    """

    results: dict[str, SearchResult]
    provenance: dict[str, Any]
    notes: tuple[str, ...]
    seconds: dict[str, float]

    def difference(self, system: str, metric: str, beside: str = LEXICAL) -> Difference:
        """A system's metric minus another's, with its interval, by the paired bootstrap over users."""
        one, other = (self.results[name].per_user() for name in (system, beside))
        columns = (one[metric], other[metric], one["weight"])
        return paired_bootstrap(*(column.to_numpy() for column in columns))

    def tables(self) -> list[Table]:
        """A line a system: HR@10 in the whole catalogue, among the matches, and by query; and the true relevance."""
        slices = {name: result.slices()["query"] for name, result in self.results.items()}
        counted = {part: of["targets"] for part, of in next(iter(slices.values())).items()}
        hits = Table(title=self._title(), title_justify="left", box=None)
        for column in ("system", "catalogue", "matches", *BY_QUERY):
            hits.add_column(column, justify="left" if column == "system" else "right", overflow="fold")
        hits.add_row("clicks", *[f"{self._targets:,}"] * 2, *(f"{counted.get(part, 0):,}" for part in BY_QUERY))
        for name, result in self.results.items():
            told = [result.metrics()[metric] for metric in ("HR@10", "HR@10 matches")]
            parts = [slices[name][part]["HR@10"] if part in counted else float("nan") for part in BY_QUERY]
            hits.add_row(name, *(f"{value:.4f}" for value in (*told, *parts)))
        if TRUE[0] not in next(iter(self.results.values())).values:
            return [hits]
        true = Table(title="True relevance of the first ten", title_justify="left", box=None)
        for column in ("system", *TRUE):
            true.add_column(column, justify="left" if column == "system" else "right", overflow="fold")
        for name, result in self.results.items():
            true.add_row(name, *(f"{result.metrics()[metric]:.4f}" for metric in TRUE))
        return [hits, true]

    def write(self, path: Path) -> None:
        """Metrics, slices and provenance as JSON; beside it, as Parquet, each user's values by system."""
        systems = {
            name: {"metrics": result.metrics(), "slices": result.slices(), "wall_seconds": self.seconds[name]}
            for name, result in self.results.items()
        }
        users = [
            result.per_user().add_column(0, "system", pa.array([name] * len(set(result.users.tolist()))))
            for name, result in self.results.items()
        ]
        with whole(path.with_suffix(".parquet")) as temporary:
            pq.write_table(pa.concat_tables(users), temporary, compression="zstd")
        write_json(path, {**self.provenance, "targets": self._targets, "notes": self.notes, "systems": systems})

    @property
    def _targets(self) -> int:
        return len(next(iter(self.results.values())).events)

    def _title(self) -> str:
        of = self.provenance
        synthetic = " (synthetic)" if of["synthetic"] else ""
        return f"HR@10 of searches on {of['data']}{synthetic}, {of['split']}, {of['window']}"


def judge_search(
    store: Store,
    split: Split,
    window: str = "test",
    runs: Mapping[str, LoadedRun] | None = None,
    *,
    targets: int | None = None,
    memory_mb: float = 256,
    device: str = "auto",
) -> SearchVerdict:
    """Judge text search, the sentence encoder, popularity within the matches, and each run in three ways.

    A run is judged as it is, as the order of the text's matches, and without the user (left out where it says nothing
    without a history). Without text vectors the sentence encoder is left out, which a note tells. On a Store of the
    generated market the oracles and the true relevance come too.

    Args:
        runs: finished retrieval runs of this Store and split, by name.
        targets: a random subsample of so many targets, always the same.

    Raises:
        StoreError: no target came from a query.
        RunError: a run is of another Store or split, or is a ranker.
    """
    for name, run in (runs or {}).items():
        _check(name, run, store, split)
    of = search_targets(store, split, window, targets=targets)
    truth = BazaarTruth(of) if store.manifest.get("source") == "bazaar" else None
    results: dict[str, SearchResult] = {}
    seconds: dict[str, float] = {}
    left_out: tuple[str, ...] = ()

    def judge(name: str, model: Any, max_len: int = 1) -> None:
        start = time.perf_counter()
        results[name] = evaluate_search(model, of, max_len=max_len, memory_mb=memory_mb, truth=truth)
        seconds[name] = time.perf_counter() - start

    popularity = Popularity(PopularityConfig(), sizes_of(store))
    popularity.fit(store, split)
    judge(LEXICAL, Lexical(of.matcher))
    try:
        judge("sentence encoder", sentence_of(store, device))
    except PenchantError as error:
        left_out += (f"The sentence encoder is left out: {error}",)
    judge("popularity in the matches", WithinMatches(popularity, of.matcher))
    for name, run in (runs or {}).items():
        model, max_len = run.model, getattr(run.model.config, "max_len", 50)
        judge(name, model, max_len)
        judge(f"{name} in the matches", WithinMatches(model, of.matcher), max_len)
        if hasattr(model, "user_vectors"):
            judge(f"{name} without the user", WithoutUser(model), max_len)
            if results[f"{name} without the user"].unanswered == len(of.events):
                del results[f"{name} without the user"]
                left_out += (f"{name} says nothing without a history, so it is not judged without the user.",)
    if truth is not None:
        judge("oracle: relevance", TrueRelevance(truth))
        judge("oracle: clicks", TrueRate(truth))
    provenance = {
        "data": store.name,
        "data_fingerprint": store.fingerprint,
        "split": split.name,
        "split_fingerprint": split.fingerprint,
        "window": window,
        "synthetic": bool(store.manifest.get("synthetic", False)),
        "runs": {name: run.described["config"] for name, run in (runs or {}).items()},
    }
    return SearchVerdict(results, provenance, (*_notes(results, of), *left_out), seconds)


def _notes(results: Mapping[str, SearchResult], of: SearchTargets) -> tuple[str, ...]:
    lexical = results[LEXICAL]
    missed = f"{int(lexical.outside.sum()):,} clicked items are not among their query's matches: a miss there."
    nothing = f"{lexical.unanswered:,} queries match nothing."
    silent = [
        f"{name}: {result.unanswered:,} requests got no answer, a miss."
        for name, result in results.items()
        if result.unanswered > lexical.unanswered
    ]
    return (*of.notes, missed, nothing, *silent)


def _check(name: str, run: LoadedRun, store: Store, split: Split) -> None:
    if run.described["run"] == "RankingRun":
        raise RunError(
            "is a ranker, and search is judged on the whole catalogue", where=name, fix="Name retrieval runs."
        )
    if (run.store.fingerprint, run.split.fingerprint) != (store.fingerprint, split.fingerprint):
        raise RunError(
            f"was trained on another Store or split than {store.path}, {split.name}",
            where=name,
            fix="Judge together what was trained on the same Store and split.",
        )
