"""What a funnel is to be: its channels, how much each stage keeps, and how its learned parts are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from rich.console import Console
from tyro.conf import AvoidSubcommands

from penchant.baselines.ranking.parts import RankerConfig
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import ConfigError, at_least
from penchant.funnel.pipeline import ChannelSettings, FunnelSettings
from penchant.funnel.prerank import LightTwoTowerConfig
from penchant.recipes.controls import item_knn, popularity, sasrec
from penchant.recipes.karma.run import KarmaRun
from penchant.recipes.runs import UNSERVED, CountRun, Run, SequenceRun
from penchant.recipes.t2diff.causal import CausalT2DiffRun
from penchant.recipes.t2diff.run import T2DiffRun
from penchant.training.loop import TrainConfig
from penchant.training.optim import OptimConfig

REPEATING = 0.05
"""Share of the training clicks that are of items their users had before, from which on lists show such items."""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One way of finding candidates; `settings.channels` says how many."""

    name: str
    run: AvoidSubcommands[Run]


@dataclass(frozen=True, kw_only=True)
class FunnelRun:
    """A whole funnel: what to train and how much each stage keeps."""

    channels: tuple[Channel, ...]
    settings: FunnelSettings
    prerank: LightTwoTowerConfig = field(default_factory=LightTwoTowerConfig)
    prerank_train: TrainConfig = field(default_factory=lambda: _train(10, "hr"))
    rank_kind: Literal["auto", "din", "mean_pooling", "dmae"] = "auto"
    """auto: DMAE where the Store has text or image vectors (`penchant encode`), else DIN."""
    rank: RankerConfig = field(default_factory=RankerConfig)
    rank_train: TrainConfig = field(default_factory=lambda: _train(6, "ndcg"))
    max_len: int = 50
    """Actions of a history that pre-ranker and ranker see."""
    fuse: str | None = None
    """The channel of vectors whose scores are fused with the pre-ranker's; None fuses nothing."""
    features_from: str | None = None
    """The channel of vectors whose similarities are features of the ranker; None = it has none."""
    session_minutes: float = 0.0
    """Pre-ranker and ranker read what the session is about: a longer pause ends it. 0 = they do not."""
    rank_targets: int = 30_000
    """Clicks of the rank window they learn from, at most; drawn by the seed."""
    valid_targets: int = 3_000
    """Clicks of the valid window they are chosen on, at most."""
    batch_cells: int = 1_600
    """Candidates in a training batch."""
    seed: int = 0
    """Of every part: channels, pre-ranker, ranker, and what is drawn from the windows."""

    def __post_init__(self) -> None:
        at_least(1, self, "max_len", "rank_targets", "valid_targets", "batch_cells")
        if not 0 <= self.session_minutes < float("inf"):
            raise ConfigError(f"session_minutes is {self.session_minutes}", fix="Set 30, or 0 for none.")
        for channel in self.channels:
            if type(channel.run).__name__ in UNSERVED:
                what = f"channel {channel.name!r}: {channel.run.kind} is an experiment's and cannot serve"
                raise ConfigError(what, fix="Choose a recipe that serves, such as karma_decoded.")
            if isinstance(channel.run, KarmaRun) and channel.run.model.query == "interleaved":
                what = f"channel {channel.name!r} reads the query of every past action, which no server keeps"
                raise ConfigError(what, fix="Set model.query to token or none.")
        with_vectors = [c.name for c in self.channels if _has_vectors(c.run)]
        for where, name in (("fuse", self.fuse), ("features_from", self.features_from)):
            if name is not None and name not in with_vectors:
                what = f"{name!r} is no channel of vectors, the channels are {[c.name for c in self.channels]}"
                fix = f"Choose one of those with vectors: {', '.join(with_vectors) or 'there is none'}."
                raise ConfigError(what, where=where, fix=fix)


def _has_vectors(run: Run) -> bool:
    """Whether its model searches with one vector of a user: each guess of a union searches by itself."""
    if isinstance(run, CausalT2DiffRun):
        return not run.model.union
    return isinstance(run, SequenceRun | KarmaRun | T2DiffRun)


def _train(epochs: float, metric: str) -> TrainConfig:
    return TrainConfig(epochs=epochs, optim=OptimConfig(lr=1e-3), metric=metric, patience=3)


def funnel() -> FunnelRun:
    """A learned channel and item-kNN beside popularity, merged by reciprocal rank, pre-ranked, ranked by DIN."""
    return funnel_of({"sasrec": sasrec(), "item_knn": item_knn(), "popularity": popularity()})


def funnel_of(channels: Mapping[str, Run], k: int = 200) -> FunnelRun:
    """A funnel of these channels, each retrieving k items, with the default sizes; histories are as long as the channel
    that reads the most of them reads."""
    models = [getattr(run, "model", None) for run in channels.values()]
    longest = max((getattr(model, "max_len", 0) for model in models), default=0)
    settings = FunnelSettings(
        channels=tuple(ChannelSettings(name=name, k=k) for name in channels),
        merge="rrf",
        exclude_seen=None,
        max_history=max(longest, FunnelSettings.max_history),
    )
    return FunnelRun(channels=tuple(Channel(name=name, run=run) for name, run in channels.items()), settings=settings)


def shortened(run: FunnelRun, epochs: float) -> FunnelRun:
    """The same funnel with its learned channels, pre-ranker and ranker trained for so many epochs at most."""
    channels = tuple(
        c if isinstance(c.run, CountRun) else replace(c, run=replace(c.run, train=_capped(c.run.train, epochs)))
        for c in run.channels
    )
    prerank, rank = _capped(run.prerank_train, epochs), _capped(run.rank_train, epochs)
    return replace(run, channels=channels, prerank_train=prerank, rank_train=rank)


def _capped(train: TrainConfig, epochs: float) -> TrainConfig:
    return replace(train, epochs=min(epochs, train.epochs))


def seeded(run: FunnelRun) -> FunnelRun:
    """The same funnel with its one seed in every part that draws."""
    channels = tuple(
        c if isinstance(c.run, CountRun) else replace(c, run=replace(c.run, train=replace(c.run.train, seed=run.seed)))
        for c in run.channels
    )
    prerank, rank = replace(run.prerank_train, seed=run.seed), replace(run.rank_train, seed=run.seed)
    return replace(run, channels=channels, prerank_train=prerank, rank_train=rank)


def settled(run: FunnelRun, store: Store, split: Split, console: Console | None = None) -> FunnelRun:
    """The run with what is left to the data decided: whether lists leave out what is in a history."""
    if run.settings.exclude_seen is not None:
        return run
    events = split.events("train")
    pairs = store.event_user[events].astype(np.int64) * (store.num_items + 1) + store.event_item[events]
    repeated = 1 - len(np.unique(pairs)) / max(len(events), 1)
    if console and repeated >= REPEATING:
        console.print(
            f"{repeated:.0%} of the training clicks are of items their users had before, so lists show such items; "
            "--settings.exclude-seen True leaves them out."
        )
    return replace(run, settings=replace(run.settings, exclude_seen=repeated < REPEATING))
