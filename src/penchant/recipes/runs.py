"""What one training run is, and how it is carried out: the part of a recipe that is the same for every model.

A recipe (see `controls.py`) is a function that returns one of these dataclasses, complete and typed. Any field can be
set by name on the command line.
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tyro.conf import AvoidSubcommands, Fixed

from penchant.baselines.counted.item_knn import ItemKNNConfig
from penchant.baselines.counted.markov import MarkovConfig
from penchant.baselines.counted.popularity import PopularityConfig
from penchant.baselines.ranking.objective import FurtherLabels, PositionEffect
from penchant.baselines.ranking.parts import RankerConfig
from penchant.baselines.retrieval.auxiliary import SequenceObjectiveConfig, sequence_objective
from penchant.baselines.retrieval.bert4rec import BERT4RecConfig
from penchant.baselines.retrieval.caser import CaserConfig
from penchant.baselines.retrieval.comirec import ComiRecDRConfig, ComiRecSAConfig
from penchant.baselines.retrieval.contrast_vae import ContrastVAEConfig
from penchant.baselines.retrieval.dat import DAT, DATConfig
from penchant.baselines.retrieval.diffurec import DiffuRecConfig
from penchant.baselines.retrieval.gru4rec import GRU4RecConfig
from penchant.baselines.retrieval.mind import MINDConfig
from penchant.baselines.retrieval.objective import (
    PrefixSoftmaxConfig,
    PrefixSoftmaxObjective,
    SoftmaxConfig,
)
from penchant.baselines.retrieval.sasrec import SASRecConfig
from penchant.baselines.retrieval.stosa import STOSAConfig
from penchant.baselines.retrieval.two_tower import TwoTower, TwoTowerConfig
from penchant.baselines.retrieval.youtube_dnn import YouTubeDNNConfig
from penchant.data.batch import SequenceBatches, SequenceDataConfig, check_lengths
from penchant.data.output import alone, made_for
from penchant.data.prefix_batch import PrefixBatches, PrefixDataConfig
from penchant.data.split import Split, load_split
from penchant.data.store import Store, read_json, write_json
from penchant.errors import ConfigError, RunError, at_least
from penchant.evaluation.diagnostics.vectors import item_spread, occurrences, skew, with_items
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.evaluation.ranking import evaluate_ranking
from penchant.evaluation.results import versions_here
from penchant.funnel.features import Features
from penchant.funnel.fields import Fields
from penchant.funnel.retrieve import retriever
from penchant.funnel.similarity import SERVING, TRAINING, Similarity, similarities
from penchant.models import build_model, load_model, pick_device, save_model, sizes_of
from penchant.papers.karma.generated import GeneratedKarma
from penchant.recipes.karma.generated import GeneratedRun, train_generated
from penchant.recipes.karma.run import LEARNER, KarmaRun, train_karma
from penchant.recipes.ranking import Auxiliary, build_ranker, ranker_objective
from penchant.recipes.t2diff.causal import CausalT2DiffRun, train_causal
from penchant.recipes.t2diff.run import T2DiffRun, train_t2diff
from penchant.recipes.ulim.run import UlimRun, train_ulim
from penchant.training.checkpoint import OBJECTIVE, drop_checkpoints, save_state
from penchant.training.impressions import ImpressionBatches, Positions, evaluate_impressions
from penchant.training.loop import FitResult, TrainConfig, fit

log = logging.getLogger(__name__)

SequenceConfig = (
    SASRecConfig
    | GRU4RecConfig
    | TwoTowerConfig
    | CaserConfig
    | BERT4RecConfig
    | STOSAConfig
    | ContrastVAEConfig
    | DiffuRecConfig
    | DATConfig
)

UNSERVED = {GeneratedRun.__name__: GeneratedKarma}
"""Runs of a paper's experiments whose model no funnel can hold: its parts are train-only."""
RUN = "run.json"
AGAIN = "Remove the run's folder and train it again."
"""What to do about a damaged file of a run."""
SIMILARITY = "similarity"
"""In a ranking run's folder: the retrieval model whose similarities its features hold."""
VALID_TARGETS = 4000
"""Validation during training looks at no more targets than this, drawn once; the test looks at all."""


@dataclass(frozen=True, kw_only=True)
class CountRun:
    """A model that is counted, not trained."""

    kind: Fixed[str]
    model: AvoidSubcommands[PopularityConfig | MarkovConfig | ItemKNNConfig]


@dataclass(frozen=True, kw_only=True)
class SequenceRun:
    """A retrieval model trained on pieces of histories, most with one target per position."""

    kind: Fixed[str]
    model: AvoidSubcommands[SequenceConfig]
    data: SequenceDataConfig = field(default_factory=SequenceDataConfig)
    objective: AvoidSubcommands[SequenceObjectiveConfig] = field(default_factory=SoftmaxConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    refit: bool = False
    """Learn from the valid window too, for all the epochs: once everything has been chosen by it."""


@dataclass(frozen=True, kw_only=True)
class PrefixRun:
    """A retrieval model that reads a history as a whole, trained on one target per history."""

    kind: Fixed[str]
    model: AvoidSubcommands[YouTubeDNNConfig | MINDConfig | ComiRecSAConfig | ComiRecDRConfig]
    data: PrefixDataConfig = field(default_factory=PrefixDataConfig)
    objective: PrefixSoftmaxConfig = field(default_factory=PrefixSoftmaxConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, kw_only=True)
class ImpressionDataConfig:
    """How impressions become batches."""

    max_len: int = 50
    """Actions of the history a ranker sees, the latest ones."""
    cells: int = 1024
    """Impressions, padding included, in a batch at most."""
    positions: Positions = "ignored"
    """About places that are looked at less: ignored; propensity = clicks count 1 / the logged chance that their place
    was looked at; estimated = each place's effect is learned beside the model, and left out when serving."""

    def __post_init__(self) -> None:
        at_least(1, self, "max_len", "cells")


@dataclass(frozen=True, kw_only=True)
class RankingRun:
    """A ranking model trained on what users were shown, clicked or not.

    It learns from window `rank` where the split has one (`funnel`), else from `train`.
    """

    kind: Fixed[str]
    model: RankerConfig
    objective: AvoidSubcommands[Auxiliary | None] = None
    """What is learned beside clicks; None = nothing."""
    features_from: Path | None = None
    """Folder of a finished retrieval run whose similarities become features (KARMA, section 3.5). It must have learned
    before the window that this run learns from: train both with --split funnel."""
    fields: tuple[str, ...] = ()
    """Columns of users and items and the moment, read beside histories: user.gender item.price item.genres:list
    user.zip_code:hash1000 item.year:category time.hour time.weekday. Without a kind, numbers are numbers, all else
    categories."""
    actions: tuple[str, ...] = ()
    """Further labels by the events' actions (cart order), each learned by a head of its own beside the click, which
    alone ranks; the heads are left out when serving."""
    actions_weight: float = 0.3
    """Of each further label's loss."""
    data: ImpressionDataConfig = field(default_factory=ImpressionDataConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(metric="AUC", epochs=2, evaluate_every=0.5, patience=2)
    )

    def __post_init__(self) -> None:
        if not 0 <= self.actions_weight < math.inf:
            raise ConfigError(f"actions_weight is {self.actions_weight}", fix="Set actions_weight to 0 or more.")


Run = CountRun | SequenceRun | PrefixRun | RankingRun | KarmaRun | GeneratedRun | T2DiffRun | CausalT2DiffRun | UlimRun


def train_run(run: Run, store: Store, split: Split, out: Path) -> FitResult:
    """Carry out a run into the folder `out`; one that was cut goes on, a finished one is only loaded again.

    Raises:
        RunError: `out` holds another run, or no run but something else, or another process is at work on it.
    """
    check_out(out)
    with alone(out, RunError, inside=True):
        describe_run(run, store, split, out)
        finished = out / "result.json"
        if finished.is_file():
            _drop_checkpoints(out)  # a kill may have come before the last process had
            return FitResult(**read_json(finished, AGAIN, RunError))
        match run:
            case CountRun():
                result = _train_counts(run, store, split, out)
            case SequenceRun():
                result = _train_sequence(run, store, split, out)
            case PrefixRun():
                result = _train_prefixes(run, store, split, out)
            case RankingRun():
                result = _train_ranking(run, store, split, out)
            case KarmaRun():
                validate = partial(_validated, store=store, split=split, max_len=run.model.max_len)
                result = train_karma(run, store, split, out, sizes_of(store), validate)
            case GeneratedRun():
                validate = partial(_validated, store=store, split=split, max_len=run.data.max_len)
                base = partial(train_run, run.base, store, split)
                result = train_generated(run, store, split, out, sizes_of(store), validate, base)
            case UlimRun():
                result = train_ulim(run, store, split, out, sizes_of(store))
            case T2DiffRun():
                validate = partial(_validated, store=store, split=split, max_len=run.model.max_len)
                result = train_t2diff(run, store, split, out, sizes_of(store), validate)
            case CausalT2DiffRun():
                validate = partial(_validated, store=store, split=split, max_len=run.model.max_len)
                result = train_causal(run, store, split, out, sizes_of(store), validate)
        write_json(finished, asdict(result))
        _drop_checkpoints(out)
    return result


def _drop_checkpoints(out: Path) -> None:
    for folder in (out, out / LEARNER):
        drop_checkpoints(folder)


def check_out(out: Path, *laid: str) -> None:
    """Before anything there is locked or removed: the folder is a run's, or empty but for what a kill leaves.

    Args:
        laid: names of what may be laid there before the run begins.

    Raises:
        RunError: it is somebody else's.
    """
    if not out.is_dir() or (out / RUN).is_file():
        return
    foreign = sorted(p.name for p in out.iterdir() if p.name not in ("lock", *laid) and not made_for(p))
    if foreign:
        what = f"is no run, it holds {', '.join(foreign[:3])}"
        raise RunError(what, where=out, fix="Choose another --out: a new folder, or an empty one.")


def describe_run(run: Any, store: Store, split: Split, out: Path) -> None:
    """Write what this run is, or check that the folder's run is the same one."""
    stated = {
        "run": type(run).__name__,
        "config": json.loads(json.dumps(asdict(run), default=str)),
        "store": {"path": str(store.path.resolve()), "name": store.name, "fingerprint": store.fingerprint},
        "split": {"name": split.name, "fingerprint": split.fingerprint},
    }
    path = out / RUN
    if path.is_file():
        there, here = (flat(_identity(d)) for d in (read_json(path, AGAIN, RunError), stated))
        differs = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        if differs:
            what = "; ".join(f"{key} was {there.get(key)!r}, now {here.get(key)!r}" for key in differs[:3])
            raise RunError(f"holds another run: {what}", where=out, fix="Choose another --out, or remove the folder.")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, {**stated, "versions": versions_here()})


def _identity(described: dict[str, Any]) -> dict[str, Any]:
    """What makes two runs the same: not where the Store lies, nor which versions began it."""
    fingerprints = {key: described[key]["fingerprint"] for key in ("store", "split")}
    return {"run": described["run"], **described["config"], **fingerprints}


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    if isinstance(values, dict) or (isinstance(values, list) and any(isinstance(v, dict) for v in values)):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return {k: v for name, value in items for k, v in flat(value, f"{prefix}.{name}".lstrip(".")).items()}
    return {prefix: values}


def _train_counts(run: CountRun, store: Store, split: Split, out: Path) -> FitResult:
    wall, cpu = time.perf_counter(), time.process_time()
    model = build_model(run.kind, asdict(run.model), sizes_of(store))
    model.fit(store, split)
    save_model(model, out)
    return FitResult(0, 0, None, {}, time.perf_counter() - wall, time.process_time() - cpu)


def _train_sequence(run: SequenceRun, store: Store, split: Split, out: Path) -> FitResult:
    check_lengths(run.data.max_len, run.model.max_len)
    torch.manual_seed(run.train.seed)
    config = replace(run.model, num_users=store.num_users) if isinstance(run.model, DATConfig) else run.model
    model = build_model(run.kind, asdict(config), sizes_of(store))
    if isinstance(model, TwoTower | DAT):
        model.set_categories(torch.from_numpy(store.item_category.astype(np.int64)))
    learned = split.with_valid_in_train() if run.refit else split
    counts = torch.from_numpy(learned.item_counts(store))
    objective = sequence_objective(run.objective, counts)
    batches = SequenceBatches(store, learned, run.data, run.train.seed)

    validate = partial(_validated, model, store, split, run.model.max_len)
    can_choose = len(learned.targets("valid")) > 0
    return fit(model, objective, batches, run.train, out, validate if can_choose else None, title=run.kind)


def _train_prefixes(run: PrefixRun, store: Store, split: Split, out: Path) -> FitResult:
    check_lengths(run.data.max_len, run.model.max_len)
    torch.manual_seed(run.train.seed)
    model = build_model(run.kind, asdict(run.model), sizes_of(store))
    if run.model.categories:
        model.items.item_category.copy_(torch.from_numpy(store.item_category.astype(np.int64)))
    objective = PrefixSoftmaxObjective(run.objective, torch.from_numpy(split.item_counts(store)))
    batches = PrefixBatches(store, split, run.data, run.train.seed)
    validate = partial(_validated, model, store, split, run.model.max_len)
    can_choose = len(split.targets("valid")) > 0
    return fit(model, objective, batches, run.train, out, validate if can_choose else None, title=run.kind)


def _validated(model: Any, store: Store, split: Split, max_len: int) -> dict[str, float]:
    """What decides between the weights of a retrieval model's steps, and whether its item vectors collapse."""
    made = with_items(model)
    # A model of several interests scores by itself: it has no one vector of a user.
    judged = evaluate_retrieval(
        model if hasattr(model, "score_items") else made,
        store,
        split,
        "valid",
        ks=(10, 100),
        max_len=max_len,
        targets=VALID_TARGETS,
    )
    hubs = {"Skew of occurrence": skew(occurrences(judged.lists[:, :50], store.num_items))}
    return judged.metrics() | item_spread(made.made) | hubs


def _train_ranking(run: RankingRun, store: Store, split: Split, out: Path) -> FitResult:
    window = "rank" if "rank" in split.windows else "train"
    # No popularity where no window comes before the one it learns from: the counts would hold that window's clicks.
    counted = "train" if window == "rank" else None
    similarity = None if run.features_from is None else _keep_similarity(run.features_from, store, split, out)
    fields = Fields.fit(run.fields, store, split) if run.fields else None
    for note in fields.notes if fields else ():
        log.warning(note)
    features = Features.fit(store, split, counted, max_len=run.data.max_len, similarity=similarity, fields=fields)
    features.save(out)
    places = run.data.positions
    batches = ImpressionBatches(
        store,
        split,
        window,
        features,
        cells=run.data.cells,
        seed=run.train.seed,
        positions=places,
        actions=run.actions,
    )
    model = build_ranker(run.kind, run.model, store, features, batches.batch, run.train.seed)
    objective = ranker_objective(run.objective, model)
    if run.actions:
        objective = FurtherLabels(objective, model, run.actions, run.actions_weight)
    if places == "estimated":
        objective = PositionEffect(objective, batches.most_positions)

    def validate() -> dict[str, float]:
        shown = evaluate_impressions(model, features, store, split, "valid")
        return evaluate_ranking(shown.scores, shown.labels, shown.requests, shown.users).metrics()

    result = fit(model, objective, batches, run.train, out, validate, title=run.kind)
    if isinstance(objective, nn.Module):
        save_state(objective, out / OBJECTIVE)
    return result


def _keep_similarity(source: Path, store: Store, split: Split, out: Path) -> Similarity:
    """A finished retrieval run's similarities, its model copied into `out`, so that the folder needs no other.

    Raises:
        ConfigError: the split has no window between what the source learned from and validation, or the source does not
            search with one vector of a user.
        RunError: no finished run there, or one that did not learn on this very split and may have seen what the ranker
            learns from.
    """
    if not (out / SIMILARITY / "model.json").is_file():
        if "rank" not in split.windows:
            what = f"split {split.name!r} has no window 'rank': both would learn from 'train'"
            raise ConfigError(what, where="features_from", fix="Train both runs with --split funnel.")
        loaded = load_run(source, store.path, "cpu")
        # A model of several interests has vectors too, and scores by itself.
        if not hasattr(loaded.model, "user_vectors") or hasattr(loaded.model, "score_items"):
            what = f"{loaded.model.kind} does not search with one vector of a user"
            raise ConfigError(what, where=source, fix="Name a run of a model that does, such as sasrec or karma.")
        if loaded.split.fingerprint != split.fingerprint:
            first, last = split.starts("rank"), split.stops("rank")
            seen = np.maximum(np.minimum(last, loaded.split.stops("train")) - first, 0).sum()
            what = (
                f"learned from split {loaded.split.name!r}, which this run does not: it has seen {seen:,} of the "
                f"{(last - first).sum():,} events of window 'rank', from which the ranker learns"
            )
            raise RunError(what, where=source, fix=f"Train it with --split {split.name}.")
        save_model(loaded.model, out / SIMILARITY)
    return next(iter(_kept_similarity(out, TRAINING).values()))


def _kept_similarity(folder: Path, remembered: int = SERVING) -> dict[str, Similarity]:
    if not (folder / SIMILARITY).is_dir():
        return {}
    model = load_model(folder / SIMILARITY)
    return similarities([retriever(model.kind, model)], remembered)


def load_features(folder: Path) -> Features:
    """The features of a ranking run.

    Raises:
        RunError: a file is missing or damaged.
    """
    return Features.load(folder, _kept_similarity(folder))


@dataclass(frozen=True)
class LoadedRun:
    """A finished run, ready to be judged.

    Attributes:
        described: what `run.json` says.
        result: what training came to.
    """

    model: Any
    store: Store
    split: Split
    described: dict[str, Any]
    result: FitResult


def check_run(folder: Path) -> None:
    """
    Raises:
        RunError: there is no finished run in the folder.
    """
    if not (folder / RUN).is_file() or not (folder / "result.json").is_file():
        raise RunError("no finished run here", where=folder, fix="Train one with `penchant train`, or let it finish.")


def load_run(folder: Path, store: Path | None = None, device: str = "auto") -> LoadedRun:
    """The finished run in a folder, with the Store it was trained on (or the same one at another place).

    Raises:
        RunError: no finished run there, or `store` is another one.
    """
    check_run(folder)
    described = read_json(folder / RUN, AGAIN, RunError)
    opened = Store(store or described["store"]["path"])
    split = load_split(opened, described["split"]["name"])
    if (opened.fingerprint, split.fingerprint) != (
        described["store"]["fingerprint"],
        described["split"]["fingerprint"],
    ):
        raise RunError("was trained on another Store or split", where=folder, fix="Name the right one with --store.")
    result = FitResult(**read_json(folder / "result.json", AGAIN, RunError))
    if described["config"].get("refit"):
        split = split.with_valid_in_train()  # nothing it learned from may judge it
    model = load_model(folder, pick_device(device), UNSERVED.get(described["run"]))
    return LoadedRun(model, opened, split, described, result)
