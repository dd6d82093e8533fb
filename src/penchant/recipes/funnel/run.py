"""The recipe of a funnel: channels, then a pre-ranker and a ranker on what the channels found, then the verdict.

    window   train                rank                       valid            test
             channels learn       pre-ranker, ranker learn   both are chosen, the funnel report
                                                             fusion is tuned

No stage learns from a window that a stage feeding it has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from penchant.baselines.ranking.content import MODALITIES
from penchant.baselines.ranking.parts import RankerConfig
from penchant.data.history import Requests, requests_before_events, requests_before_times
from penchant.data.output import alone, whole
from penchant.data.split import Split
from penchant.data.store import Store, write_text
from penchant.errors import ConfigError, RunError, StoreError
from penchant.evaluation.funnel.audit import FunnelAudit
from penchant.evaluation.funnel.page import item_titles, write_page
from penchant.evaluation.funnel.report import FunnelReport, Provenance
from penchant.evaluation.protocol import subsample
from penchant.evaluation.results import versions_here
from penchant.funnel.features import Features
from penchant.funnel.fusion import Fusion
from penchant.funnel.pipeline import Funnel, save_settings
from penchant.funnel.rank import ModelScorer
from penchant.funnel.retrieve import retriever
from penchant.funnel.similarity import TRAINING, Similarity, similarities
from penchant.funnel.stages import Candidates, Retriever, Scorer
from penchant.models import load_model
from penchant.papers.dmae.model import DMAEConfig
from penchant.papers.dmae.objective import DMAEObjectiveConfig
from penchant.recipes.funnel.plan import FunnelRun, seeded, settled
from penchant.recipes.karma.run import KarmaRun, check_karma
from penchant.recipes.ranking import Auxiliary, build_ranker, ranker_objective
from penchant.recipes.runs import (
    check_out,
    describe_run,
    flat,
    train_run,
)
from penchant.training.candidates import CandidateArrays, CandidateBatches
from penchant.training.loop import fit

PER_USER = "per_user.parquet"
"""In a judged funnel's folder: each user's mean HR, NDCG and share retrieved, for comparisons in pairs."""
BLOCK = 256
"""Requests judged at a time."""


def run_funnel(
    run: FunnelRun, store: Store, split: Split, out: Path, console: Console | None = None, *, limit: int = 0
) -> TrainedFunnel:
    """Train a funnel into `out` and judge it there (`train_funnel`, `judge_funnel`).

    Raises:
        RunError: `out` holds another run, or no run but something else, or another process is at work on it.
    """
    run = settled(run, store, split, console)
    check_out(out, "channels")
    with alone(out, RunError, inside=True):
        funnel = train_funnel(run, store, split, out, console)
        report = judge_funnel(funnel, store, split, out, config=flat(asdict(run)), seed=run.seed, limit=limit)
    return TrainedFunnel(funnel, store, report)


def train_funnel(run: FunnelRun, store: Store, split: Split, out: Path, console: Console | None = None) -> Funnel:
    """Train every stage into `out`; stages that are finished there are taken as they are."""
    console = console or Console()
    run = seeded(settled(run, store, split))
    _check_vectors(run, store)
    describe_run(run, store, split, out)
    for channel in run.channels:
        console.print(f"[bold]Channel {channel.name}")
        train_run(channel.run, store, split, out / "channels" / channel.name)
    sources = open_channels(run, out)
    similar = similarities(sources, TRAINING)
    channels = Funnel(sources, None, None, run.settings)
    learn = _candidates(channels, store, split, "rank", run.rank_targets, run, out / "candidates" / "rank")
    choose = _candidates(channels, store, split, "valid", run.valid_targets, run, out / "candidates" / "valid")
    names, minutes = tuple(c.name for c in run.channels), run.session_minutes
    features = Features.fit(store, split, "train", names, max_len=run.max_len, session_minutes=minutes)

    console.print("[bold]Pre-ranker")
    prerank = ModelScorer(*_train_scorer("prerank", run, store, features, learn, choose, out / "prerank"))
    fusion = _tuned(similar[run.fuse], prerank, choose, store, run) if run.fuse else None
    if fusion:
        tried = ", ".join(f"{weight:g}: {hr:.4f}" for weight, hr in fusion.tried)
        console.print(f"Fused with {run.fuse} by {fusion.weight:g} (HR@{run.settings.preranked_size} on valid {tried})")
    console.print("[bold]Ranker")
    kept = _scored((prerank, fusion), choose, store, run, run.settings.preranked_size)
    seen = _preranked_by_halves(run, store, features, learn, choose, fusion, out)
    features = replace(features, similarity=similar[run.features_from] if run.features_from else None)
    rank = ModelScorer(*_train_scorer("rank", run, store, features, seen, kept, out / "rank"))
    save_settings(run.settings, out, split, fusion)
    return Funnel(sources, prerank, rank, run.settings, fusion)


def _check_vectors(run: FunnelRun, store: Store) -> None:
    """Before hours of work: what the stages read is there.

    Raises:
        StoreError: the Store lacks vectors that a channel or the ranker reads.
    """
    for channel in run.channels:
        if isinstance(channel.run, KarmaRun):
            check_karma(channel.run, store)
    _, config, _ = _ranker(run, store)
    for name in config.modalities if isinstance(config, DMAEConfig) else ():
        store.vectors(name)


def open_channels(run: FunnelRun, out: Path) -> list[Retriever]:
    """The channels that were trained into `out`."""
    return [
        retriever(c.name, load_model(out / "channels" / c.name), exclude_seen=bool(run.settings.exclude_seen))
        for c in run.channels
    ]


def _tuned(similar: Similarity, prerank: Scorer, choose: CandidateArrays, store: Store, run: FunnelRun) -> Fusion:
    """The fusion whose weight keeps most of the validation window's clicks, which nothing it fuses learned from."""

    def preranked() -> Iterator[tuple[Requests, Candidates, torch.Tensor]]:
        for rows in _blocks(len(choose.events)):
            requests = requests_before_events(store, choose.events[rows], run.settings.max_history)
            targets = torch.from_numpy(store.event_item[choose.events[rows]].astype(np.int64))
            yield requests, prerank.score(requests, choose.candidates(rows)), targets

    return Fusion.tuned(similar, preranked(), run.settings.preranked_size)


def _preranked_by_halves(
    run: FunnelRun,
    store: Store,
    features: Features,
    learn: CandidateArrays,
    choose: CandidateArrays,
    fusion: Fusion | None,
    out: Path,
) -> CandidateArrays:
    """What the ranker learns from: lists as short and as hard as those it will serve.

    Each half of the users is pre-ranked by a model that learned from the other half, so that no list was cut by a model
    that had seen its click. Returns the clicks in another order.
    """
    odd = store.event_user[learn.events] % 2 == 1
    parts = []
    for name, mine in (("odd", odd), ("even", ~odd)):
        folder = out / "candidates" / f"preranked-{name}"
        if not (folder / "candidates.json").is_file():
            others = learn.take(np.flatnonzero(~mine))
            part = f"for {name} users"
            half = ModelScorer(
                *_train_scorer("prerank", run, store, features, others, choose, folder / "prerank", part)
            )
            found = learn.take(np.flatnonzero(mine))
            _scored((half, fusion), found, store, run, run.settings.preranked_size).save(folder)
        parts.append(CandidateArrays.load(folder))
    return CandidateArrays.joined(parts)


def _train_scorer(
    stage: Literal["prerank", "rank"],
    run: FunnelRun,
    store: Store,
    features: Features,
    learn: CandidateArrays,
    choose: CandidateArrays,
    folder: Path,
    part: str = "",
) -> tuple[nn.Module, Features]:
    """Train one stage on the rank window's candidates, chosen by what it keeps of the valid window's.

    Args:
        part: for whom it is trained, for its progress line; for all if "".
    """
    light = stage == "prerank"
    kind, config, beside = ("light_two_tower", run.prerank, None) if light else _ranker(run, store)
    train = run.prerank_train if light else run.rank_train
    try:
        batches = CandidateBatches(store, features, learn, cells=run.batch_cells, seed=run.seed)
    except ValueError as error:
        fix = "More logs, larger k of the channels, or a merged list of more items."
        raise StoreError(f"too little to learn the {stage} stage from ({error})", where=store.path, fix=fix) from error
    features.save(folder)
    model = build_ranker(kind, config, store, features, batches.batch, run.seed)
    scorer = ModelScorer(model, features)
    size = run.settings.preranked_size if light else run.settings.list_size

    def validate() -> dict[str, float]:
        scored = _scored((scorer,), choose, store, run)
        place = _places(scored.items, store.event_item[choose.events])
        ndcg = np.where(place <= size, 1 / np.log2(place + 1), 0.0)
        return {"hr": float((place <= size).mean()), "ndcg": float(ndcg.mean())}

    title = f"{kind}, {part}" if part else kind
    fit(model, ranker_objective(beside, model, lists=True), batches, train, folder, validate, title=title)
    return model, features


def _ranker(run: FunnelRun, store: Store) -> tuple[str, RankerConfig, Auxiliary | None]:
    """The ranker's kind and sizes, and what it learns beside clicks."""
    there = tuple(name for name in MODALITIES if name in store.vector_names)
    kind = ("dmae" if there else "din") if run.rank_kind == "auto" else run.rank_kind
    if kind != "dmae":
        return kind, run.rank, None
    # Sizes that are a plain ranker's are DMAE's too.
    own = isinstance(run.rank, DMAEConfig)
    config = run.rank if own else DMAEConfig(**asdict(run.rank), modalities=there or MODALITIES)
    return kind, config, DMAEObjectiveConfig()


def _places(items: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float [N]: the place of each target in its list from 1; inf where it is not in it."""
    hit = items == targets[:, None]
    return np.where(hit.any(1), hit.argmax(1) + 1.0, np.inf)


Stage = Callable[[np.ndarray, Requests], Candidates]
"""What a stage makes of some requests: (their places among the events, the requests) -> candidates."""


def _collect(events: np.ndarray, store: Store, run: FunnelRun, stage: Stage, title: str = "") -> CandidateArrays:
    """What a stage makes of each event's request, block by block; with a progress line if it has a title."""

    def parts() -> Iterator[Candidates]:
        blocks = _blocks(len(events))
        for rows in track(blocks, description=title, transient=True) if title else blocks:
            with torch.no_grad():
                yield stage(rows, requests_before_events(store, events[rows], run.settings.max_history))

    return CandidateArrays.collect(events, parts())


def _blocks(count: int) -> list[np.ndarray]:
    """0 .. count in order, `BLOCK` at a time."""
    return [np.arange(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def _scored(
    scorers: Sequence[Scorer | None], candidates: CandidateArrays, store: Store, run: FunnelRun, size: int | None = None
) -> CandidateArrays:
    """Candidates in the order of scorers, one after the other (None: no such stage), cut to `size`."""

    def stage(rows: np.ndarray, requests: Requests) -> Candidates:
        scored = candidates.candidates(rows)
        for scorer in scorers:
            scored = scorer.score(requests, scored) if scorer else scored
        return scored if size is None else scored.top(size)

    return _collect(candidates.events, store, run, stage)


def _candidates(
    channels: Funnel, store: Store, split: Split, window: str, limit: int, run: FunnelRun, folder: Path
) -> CandidateArrays:
    """The merged candidates of a window's clicks, kept on disk so that a run that was cut need not find them again."""
    if (folder / "candidates.json").is_file():
        return CandidateArrays.load(folder)
    events = subsample(split.targets(window), limit, run.seed)[0]
    if not len(events):
        what = f"nobody with a history has an event in window {window!r}"
        fix = "Prepare a longer log, or give a split of your own whose windows are longer."
        raise StoreError(what, where=store.path, fix=fix)
    title = f"candidates, {window} window"
    found = _collect(events, store, run, lambda _, requests: channels.run(requests).merged, title)
    found.save(folder)
    return found


def judge_funnel(
    funnel: Funnel,
    store: Store,
    split: Split,
    out: Path,
    *,
    config: Mapping[str, object],
    seed: int = 0,
    limit: int = 0,
    window: str = "test",
) -> FunnelReport:
    """Judge a funnel on a window; write `report.json`, `report.html` and what each user got into `out`.

    Args:
        config: shown at the foot of the report.
        limit: judge at most so many clicks, drawn by the seed; 0 = all.
    """
    targets = split.targets(window)
    targets, _ = subsample(targets, limit or None, seed)
    audit = FunnelAudit(
        item_counts=split.item_counts(store),
        user_counts=split.stops("train") - split.starts("train"),
        funnel=funnel,
        seed=seed,
    )
    for start in track(range(0, len(targets), BLOCK), description=f"judging the {window} window", transient=True):
        events = targets[start : start + BLOCK]
        requests = requests_before_events(store, events, funnel.settings.max_history)
        items = torch.from_numpy(store.event_item[events].astype(np.int64))
        audit.add(funnel.run(requests), requests, items)
    report = audit.report(
        Provenance(
            data=store.name,
            store_fingerprint=store.fingerprint,
            split=split.name,
            split_fingerprint=split.fingerprint,
            window=window,
            seed=seed,
            synthetic=bool(store.manifest.get("synthetic", False)),
            versions=versions_here(),
            config={k: str(v) for k, v in config.items()}
            | ({"fuse.weight": f"{funnel.fusion.weight:g}"} if funnel.fusion else {}),
        )
    )
    with whole(out / PER_USER) as temporary:
        pq.write_table(audit.per_user(), temporary)
    write_text(out / "report.json", report.to_json())
    write_page(report, out / "report.html", lost=audit.lost_targets(), titles=item_titles(store))
    return report


@dataclass(frozen=True)
class TrainedFunnel:
    """A funnel with the Store it was trained on: users by name in, a table out."""

    funnel: Funnel
    store: Store
    report: FunnelReport

    def recommend(self, user_ids: Sequence[str], k: int = 10) -> pa.Table:
        """The next k items for each user, after all they did in the Store; a user it does not know gets the popular.

        Returns: columns user_id, rank (from 1), item_id, title, score; k rows a user.

        Raises:
            ConfigError: k is more than the items that reach the ranker, or one user is given for a list of them.
        """
        if isinstance(user_ids, str):
            raise ConfigError(f"one text, {user_ids!r}", where="user_ids", fix=f"Give a list: [{user_ids!r}].")
        most = self.funnel.settings.preranked_size
        if not 1 <= k <= most:
            fix = f"Ask for 1 to {most}, or train a funnel with a larger settings.preranked_size."
            raise ConfigError(f"{k} items a user", where="k", fix=fix)
        known = {name: user for user, name in enumerate(self.store.user_ids) if user}
        users = np.array([known.get(str(name), 0) for name in user_ids], dtype=np.int64)
        # Each asks right after the last thing they did; one it does not know, after the Store's last event.
        last = self.store.user_indptr[users + 1] - 1
        now = np.where(users > 0, self.store.event_ts_ms[last], self.store.event_ts_ms.max()) + 1
        requests = requests_before_times(self.store, users, now, self.funnel.settings.max_history)
        found = self.funnel.recommend(requests, k)
        row, column = found.mask.nonzero(as_tuple=True)
        items = found.items[row, column].numpy()
        titles, ids = item_titles(self.store), self.store.item_ids
        return pa.table(
            {
                "user_id": [str(user_ids[r]) for r in row.tolist()],
                "rank": (column + 1).numpy(),
                "item_id": [ids[i] for i in items],
                "title": [titles[i] for i in items],
                "score": found.scores[row, column].numpy(),
            }
        )
