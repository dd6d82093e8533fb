"""The funnel: channels, merge, pre-rank, rank, list; and the folder it is loaded from.

    folder/
      funnel.json                                     FunnelSettings; how the pre-ranker's scores are fused, if they are
      channels/<name>/  model.json model.safetensors
      prerank/  rank/   model, and the features it was trained with; either may be absent

Without history. A request with no history (anonymous, new user) has nothing that a ranker could go by. Channels that
can say nothing about it return empty slots, the merge order of the others is kept, and the fallback channel
(popularity) fills the list. The same channel fills any other list that the channels left short.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.data.history import Requests
from penchant.data.split import Split
from penchant.data.store import write_json
from penchant.errors import ConfigError, RunError
from penchant.funnel.fusion import Fusion
from penchant.funnel.merge import merge_quota, merge_rrf
from penchant.funnel.rank import ModelScorer
from penchant.funnel.retrieve import retriever
from penchant.funnel.similarity import Similarity, similarities
from penchant.funnel.stages import Candidates, Retriever, Scorer
from penchant.models import load_model

SETTINGS = "funnel.json"


@dataclass(frozen=True, kw_only=True)
class ChannelSettings:
    """One channel's part in the funnel.

    Attributes:
        k: items it retrieves.
        quota: items it may bring into the merged list before the others' leftovers; only for merge "quota".
    """

    name: str
    k: int
    quota: int = 0


@dataclass(frozen=True, kw_only=True)
class FunnelSettings:
    """Sizes of the funnel's stages.

    Attributes:
        channels: in the order that candidates, features and reports name them.
        merge: by reciprocal rank fusion, or by the channels' quotas.
        merged_size: M, candidates after the merge.
        preranked_size: M', candidates that reach the ranker.
        list_size: length of the list where a request names none.
        rrf_constant: of reciprocal rank fusion.
        exclude_seen: leave out what is in the request's history. None lets training decide: yes, unless people
            come back to items they had.
        max_history: actions of a history that any stage sees.
        fallback: the channel that answers without history and fills short lists.
    """

    channels: tuple[ChannelSettings, ...]
    merge: Literal["quota", "rrf"] = "rrf"
    merged_size: int = 200
    preranked_size: int = 50
    list_size: int = 10
    rrf_constant: float = 60.0
    exclude_seen: bool | None = False
    max_history: int = 200
    fallback: str = "popularity"

    def __post_init__(self) -> None:
        names = [c.name for c in self.channels]
        if self.fallback not in names:
            raise ConfigError(
                f"fallback channel {self.fallback!r} is not among the channels {names}",
                fix="Add it: without a channel that needs no history a new user would get nothing.",
            )
        if len(set(names)) < len(names):
            raise ConfigError(f"two channels of one name in {names}", fix="Give each a name of its own.")
        if not 1 <= self.list_size <= self.preranked_size <= self.merged_size:
            raise ConfigError(
                f"list_size {self.list_size}, preranked_size {self.preranked_size}, merged_size {self.merged_size}",
                fix="Each stage keeps at most what the one before it gave: 1 <= list <= pre-ranked <= merged.",
            )
        if self.max_history < 1 or any(c.k < 1 or c.quota < 0 for c in self.channels):
            wrong = [f"{c.name}: k {c.k}, quota {c.quota}" for c in self.channels if c.k < 1 or c.quota < 0]
            what = f"max_history {self.max_history}{''.join(f', {said}' for said in wrong)}"
            raise ConfigError(what, fix="Set max_history and each k to 1 or more, each quota to 0 or more.")
        if self.merge == "quota" and not any(c.quota for c in self.channels):
            raise ConfigError('merge "quota" needs a quota above 0 on some channel', fix='Set one, or merge "rrf".')


@dataclass(frozen=True)
class Trace:
    """What each stage held for a batch of requests.

    Attributes:
        lists: each channel's own list, in the settings' order.
        merged: after merge and fill, at most M.
        preranked: at most M', the list that reached the ranker.
        ranked: the final order of the same.
        without_history: True for the requests answered without personal order.
        seconds: wall time of each stage for the whole batch: each channel as "retrieve:<name>", then "merge",
            "prerank", "fuse" where scores are fused, "rank".
        unfused: what the pre-ranker alone would have passed on, at most M'; None where nothing is fused.
    """

    lists: tuple[Candidates, ...]
    merged: Candidates
    preranked: Candidates
    ranked: Candidates
    without_history: Bool[Tensor, " B"]
    seconds: Mapping[str, float]
    unfused: Candidates | None = None


class Funnel:
    """Channels -> merge -> pre-rank (-> fuse) -> rank -> list.

    Args:
        retrievers: one for each channel of the settings, in any order.
        prerank: None keeps the first M' of the merged list.
        rank: None keeps the pre-ranked order.
        fusion: None keeps the pre-ranker's scores as they are.

    Raises:
        ConfigError: a channel of the settings has no retriever, or the other way round.
    """

    def __init__(
        self,
        retrievers: Sequence[Retriever],
        prerank: Scorer | None,
        rank: Scorer | None,
        settings: FunnelSettings,
        fusion: Fusion | None = None,
    ) -> None:
        by_name = {r.name: r for r in retrievers}
        wanted = [c.name for c in settings.channels]
        if set(by_name) != set(wanted) or len(by_name) != len(retrievers):
            what = f"the settings name channels {wanted}, there are retrievers {[r.name for r in retrievers]}"
            raise ConfigError(what, fix="Give one retriever for each channel.")
        self.retrievers = tuple(by_name[name] for name in wanted)
        self.prerank = prerank
        self.rank = rank
        self.settings = settings
        self.fusion = fusion

    @torch.no_grad()
    def run(self, requests: Requests) -> Trace:
        """Every stage's candidates for a batch of requests, with the time each took."""
        settings = self.settings
        clock = _Clock()
        requests = requests.last(settings.max_history)
        new = requests.lengths == 0
        lists = []
        for channel, source in zip(settings.channels, self.retrievers, strict=True):
            lists.append(source.retrieve(requests, channel.k))
            clock.lap(f"retrieve:{channel.name}")
        merged = self._fill(requests, self._merge(lists))
        clock.lap("merge")
        preranked = _score(self.prerank, requests, merged, new)
        clock.lap("prerank")
        unfused = None
        if self.fusion is not None:
            unfused = preranked.top(settings.preranked_size)
            preranked = _score(self.fusion, requests, preranked, new)
            clock.lap("fuse")
        preranked = preranked.top(settings.preranked_size)
        ranked = _score(self.rank, requests, preranked, new)
        clock.lap("rank")
        return Trace(tuple(lists), merged, preranked, ranked, new, clock.seconds, unfused)

    def recommend(self, requests: Requests, k: int | None = None) -> Candidates:
        """The final lists: the first k (`list_size` where none is given), at most M'."""
        return self.run(requests).ranked.top(k or self.settings.list_size)

    @torch.no_grad()
    def order(self, requests: Requests, items: Int[Tensor, "B K"]) -> Candidates:
        """Given items (0 = none) in the ranker's order, as for a text search; without one, in the pre-ranker's, fused.

        The channels run too, so that each item carries the provenance the ranker's features are made of; an item no
        channel found is ranked without. A request with no history keeps the order given.
        """
        requests = requests.last(self.settings.max_history)
        found = [s.retrieve(requests, c.k) for c, s in zip(self.settings.channels, self.retrievers, strict=True)]
        given = torch.arange(items.shape[1], 0, -1, device=items.device).expand_as(items).float()
        candidates = _with_provenance(items, torch.where(items > 0, given, -torch.inf), found)
        new = requests.lengths == 0
        if self.rank is not None:
            return _score(self.rank, requests, candidates, new)
        return _score(self.fusion, requests, _score(self.prerank, requests, candidates, new), new)

    @property
    def has_scorer(self) -> bool:
        """False where lists keep the merged order."""
        return self.prerank is not None or self.rank is not None

    def with_exclude_seen(self, exclude_seen: bool) -> Funnel:
        """The same models, leaving out seen items or not.

        Raises:
            ValueError: a channel that `funnel/retrieve.py` did not make.
        """
        if exclude_seen == self.settings.exclude_seen:
            return self
        sources = [copy(source) for source in self.retrievers]
        for source in sources:
            if not hasattr(source, "exclude_seen"):
                raise ValueError(f"channel {source.name!r}: a {type(source).__name__} has no exclude_seen")
            source.exclude_seen = exclude_seen
        settings = replace(self.settings, exclude_seen=exclude_seen)
        return Funnel(sources, self.prerank, self.rank, settings, self.fusion)

    def _merge(self, lists: list[Candidates]) -> Candidates:
        settings = self.settings
        if settings.merge == "rrf":
            return merge_rrf(lists, settings.merged_size, settings.rrf_constant)
        return merge_quota(lists, [c.quota for c in settings.channels], settings.merged_size)

    def _fill(self, requests: Requests, merged: Candidates) -> Candidates:
        """Merged lists too short to answer from, filled up with the fallback channel's next items."""
        short = merged.mask.sum(1) < self.settings.preranked_size
        if not bool(short.any()):
            return merged
        c = merged.channels.index(self.settings.fallback)
        more = self.retrievers[c].retrieve(requests, self.settings.merged_size)
        known = (more.items[:, :, None] == merged.items[:, None, :]).any(2)
        items = torch.where(known | ~short[:, None], 0, more.items)
        ranks = more.ranks.new_zeros(*items.shape, len(merged.channels))
        scores = more.channel_scores.new_zeros(*items.shape, len(merged.channels))
        ranks[..., c] = more.ranks[..., 0] * (items > 0)
        scores[..., c] = more.channel_scores[..., 0] * (items > 0)
        # Below everything merged, in the fallback's own order.
        lowest = torch.where(merged.mask, merged.scores, torch.inf).amin(1, keepdim=True)
        lowest = torch.where(torch.isfinite(lowest), lowest, 0.0)
        place = torch.arange(1, items.shape[1] + 1, device=items.device)
        both = Candidates(
            items=torch.cat([merged.items, items], 1),
            scores=torch.cat([merged.scores, torch.where(items > 0, lowest - place, -torch.inf)], 1),
            channels=merged.channels,
            ranks=torch.cat([merged.ranks, ranks], 1),
            channel_scores=torch.cat([merged.channel_scores, scores], 1),
        )
        return both.rescored(both.scores).top(self.settings.merged_size)


def _score(
    scorer: Scorer | None, requests: Requests, candidates: Candidates, keep_order: Bool[Tensor, " B"]
) -> Candidates:
    """The scorer's order, except for the requests that keep the one they came in."""
    if scorer is None or bool(keep_order.all()):
        return candidates
    if not bool(keep_order.any()):
        return scorer.score(requests, candidates)
    scored = scorer.score(requests, candidates)

    def choose(kept: Tensor, new: Tensor) -> Tensor:
        return torch.where(keep_order.view(-1, *[1] * (kept.ndim - 1)), kept, new)

    return replace(
        scored,
        items=choose(candidates.items, scored.items),
        scores=choose(candidates.scores, scored.scores),
        ranks=choose(candidates.ranks, scored.ranks),
        channel_scores=choose(candidates.channel_scores, scored.channel_scores),
    )


def _with_provenance(
    items: Int[Tensor, "B K"], scores: Float[Tensor, "B K"], lists: Sequence[Candidates]
) -> Candidates:
    """Given items as candidates of the channels that produced `lists`."""
    ranks, channel_scores = [], []
    for found in lists:
        same = (items[:, :, None] == found.items[:, None, :]) & (items > 0)[:, :, None]
        ranks.append((same * found.ranks[:, None, :, 0]).sum(2))
        channel_scores.append((same * found.channel_scores[:, None, :, 0]).sum(2))
    names = tuple(found.channels[0] for found in lists)
    return Candidates(items, scores, names, torch.stack(ranks, 2), torch.stack(channel_scores, 2))


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def save_settings(
    settings: FunnelSettings, folder: Path, split: Split | None = None, fusion: Fusion | None = None
) -> None:
    """Write `funnel.json`, with the split the models were trained on, so that an export can name and check it."""
    folder.mkdir(parents=True, exist_ok=True)
    trained_on = {"split": split.name, "fingerprint": split.fingerprint} if split else None
    described = {"trained_on": trained_on, "fusion": fusion.described() if fusion else None}
    write_json(folder / SETTINGS, {**asdict(settings), **described})


def load_settings(folder: Path) -> FunnelSettings:
    """Read `funnel.json`.

    Raises:
        RunError: there is none, or it is not what `save_settings` writes.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise RunError("no funnel here", where=folder, fix="Train one with `penchant funnel`.")
    try:
        saved: dict[str, Any] = json.loads(path.read_text())
        for beside in ("trained_on", "fusion"):
            saved.pop(beside, None)
        return FunnelSettings(**{**saved, "channels": tuple(ChannelSettings(**c) for c in saved["channels"])})
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"damaged or of another version ({error})", where=path, fix="Train it again.") from error


def _load_fusion(folder: Path, known: Mapping[str, Similarity]) -> Fusion | None:
    path = folder / SETTINGS
    try:
        saved = json.loads(path.read_text()).get("fusion")
        return None if saved is None else Fusion.of_description(saved, known)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"damaged or of another version ({error})", where=path, fix="Train it again.") from error


def load_funnel(folder: Path) -> Funnel:
    """The funnel of a run folder or of a bundle.

    Raises:
        RunError: a file is missing or damaged; the message names it.
    """
    settings = load_settings(folder)
    retrievers = [
        retriever(c.name, load_model(folder / "channels" / c.name), exclude_seen=bool(settings.exclude_seen))
        for c in settings.channels
    ]
    prerank, rank, known = folder / "prerank", folder / "rank", similarities(retrievers)
    return Funnel(
        retrievers,
        ModelScorer.load(prerank, known) if prerank.is_dir() else None,
        ModelScorer.load(rank, known) if rank.is_dir() else None,
        settings,
        _load_fusion(folder, known),
    )
