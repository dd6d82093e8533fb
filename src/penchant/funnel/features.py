"""What a pre-ranker and a ranker read: the one implementation of features, for training, judging and serving.

A feature comes from four places only: statistics of a window that ended before the requests (`Features.fit`), the
request with its history, the candidates' provenance, and an embedding model that learned before the requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.data.output import whole
from penchant.data.split import Split
from penchant.data.store import Store, write_json
from penchant.errors import RunError
from penchant.funnel.fields import Fields
from penchant.funnel.similarity import Similarity
from penchant.funnel.stages import Candidates

REQUEST_FEATURES = ("idle_log_hours", "history_log_length")
"""The first columns, the same for every candidate: log(1 + hours) since the last action, log(1 + length)."""

ITEM_FEATURES = ("log_popularity", "category_share", "category_share_recent", "seen", "seen_log_hours")
"""log(1 + count) in the fitted window; share of the history, and of its last `RECENT` actions, in the candidate's
category; 1 if the item is in the history; log(1 + hours) since it last was, 0 if it is not."""

SESSION_FEATURES = ("session_share", "session_log_length", "category_log_hours")
"""Share of the session's actions in the candidate's category; log(1 + actions of the session), the same for every
candidate; log(1 + hours) since the last action in its category, `NEVER` without one. The session is what was done since
the last pause longer than `Features.session_minutes`, that before the request included."""
NEVER = 12.0
"""log(1 + hours) of 19 years."""

SIMILARITY_FEATURES = ("cosine_max", "cosine_mean", "cosine_max_recent", "dot")
"""Of one embedding model's vectors: largest and mean cosine with the items of the history, the largest with those of
its last `RECENT` actions; and the model's own score, h_t . e_i. All 0 without history. KARMA, section 3.5.

Deviates: the paper says "the similarity between the user's historical items and the target item" and no more. Of the
last actions this is the largest cosine, not their mean."""

CHANNEL_FEATURES = ("found", "reciprocal_rank", "score")
"""For each channel: 1 if it found the item; 1 / rank; its raw score, which the model's `FeatureScale` puts on a scale.
All 0 where it did not find the item. None depends on what else is in the list, so an item has the same features before
and after a stage has cut the list down."""

RECENT = 10
HOUR_MS = 3_600_000
MINUTE_MS = 60_000


@dataclass(frozen=True)
class RankInputs:
    """K items to score for each of B requests, made on the CPU.

    Attributes:
        requests: with histories of at most `Features.max_len` actions.
        items: 0 = an empty slot.
        features: columns as `Features.names` lists them; 0 in empty slots.
        codes: of fields, columns as `Fields.columns` says; None without fields.
    """

    requests: Requests
    items: Int[Tensor, "B K"]
    features: Float[Tensor, "B K F"]
    codes: Int[Tensor, "B K v"] | None = None

    @property
    def mask(self) -> Bool[Tensor, "B K"]:
        """True at real items."""
        return self.items > 0

    def to(self, device: torch.device | str) -> RankInputs:
        codes = None if self.codes is None else self.codes.to(device)
        return RankInputs(self.requests.to(device), self.items.to(device), self.features.to(device), codes)


@dataclass(frozen=True)
class Features:
    """Dense features of (request, candidate) pairs; carries its statistics, so a bundle needs no Store.

    Attributes:
        log_popularity: log(1 + count) of each item in the fitted window.
        item_category: 0 = none.
        channels: whose provenance becomes columns; () for impressions, which have none.
        max_len: actions of a history that are looked at, so that a longer one passed in changes nothing.
        fitted_on: split, window and fingerprint the statistics come from.
        similarity: whose vectors become columns; it learned from a window that ended before the requests. Saved by its
            name alone: the model is the channel's, in the same folder.
        fields: columns of users, items and the moment: numbers are further columns here, the rest are codes.
        session_minutes: a longer pause ends a session; 0 = without the columns `SESSION_FEATURES`.
    """

    log_popularity: Float[Tensor, " I"]
    item_category: Int[Tensor, " I"]
    channels: tuple[str, ...] = ()
    max_len: int = 50
    fitted_on: str = ""
    similarity: Similarity | None = None
    fields: Fields | None = None
    session_minutes: float = 0.0

    @classmethod
    def fit(
        cls,
        store: Store,
        split: Split,
        window: str | None = "train",
        channels: tuple[str, ...] = (),
        max_len: int = 50,
        similarity: Similarity | None = None,
        fields: Fields | None = None,
        session_minutes: float = 0.0,
    ) -> Features:
        """Statistics of one window; what comes after it is never read.

        Args:
            window: one that ended before the requests the features are for. None where there is none before the ones a
                model learns from: an item's count would hold the very clicks that are to be predicted. Popularity is 0
                then.
        """
        counts = split.item_counts(store, window) if window else np.zeros(store.num_items + 1)
        return cls(
            log_popularity=torch.from_numpy(np.log1p(counts)).float(),
            item_category=torch.from_numpy(store.item_category.astype(np.int64)),
            channels=channels,
            max_len=max_len,
            fitted_on=f"{split.name}/{window or 'nothing'} {split.fingerprint}",
            similarity=similarity,
            fields=fields,
            session_minutes=session_minutes,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What each column is, in order."""
        similar = tuple(f"{self.similarity.channel}:{name}" for name in SIMILARITY_FEATURES) if self.similarity else ()
        of_channels = tuple(f"{channel}:{name}" for channel in self.channels for name in CHANNEL_FEATURES)
        numbers = self.fields.numbers if self.fields else ()
        of_session = SESSION_FEATURES if self.session_minutes else ()
        counted = ("num_channels",) if self.channels else ()
        return REQUEST_FEATURES + ITEM_FEATURES + of_session + numbers + similar + of_channels + counted

    def __call__(self, requests: Requests, candidates: Candidates) -> RankInputs:
        """Features of candidates; channels are matched by name, their order does not matter.

        Raises:
            ValueError: the candidates lack a channel of `channels`.
        """
        missing = set(self.channels) - set(candidates.channels)
        if missing:
            raise ValueError(f"candidates lack channels {sorted(missing)}; they have {list(candidates.channels)}")
        requests = requests.last(self.max_len)
        columns = [_of_request(requests, candidates.items), self._of_items(requests, candidates.items)]
        if self.session_minutes:
            columns.append(self._of_session(requests, candidates.items))
        if self.fields:
            columns.append(self.fields.values(requests, candidates.items))
        if self.similarity:
            cosines = self.similarity.cosines(requests, candidates.items, RECENT)
            columns += [cosines, self.similarity.scores(requests, candidates.items)[..., None]]
        if self.channels:
            place = [candidates.channels.index(channel) for channel in self.channels]
            columns.append(_of_channels(candidates.ranks[..., place], candidates.channel_scores[..., place]))
        features = torch.cat(columns, dim=-1) * candidates.mask[..., None]
        codes = self.fields.codes(requests, candidates.items) if self.fields else None
        return RankInputs(requests, candidates.items, features, codes)

    def of_items(self, requests: Requests, items: Int[Tensor, "B K"]) -> RankInputs:
        """Features of items that came from no channel: impressions.

        Raises:
            ValueError: these features have channels.
        """
        nothing = torch.zeros(*items.shape, 0)
        return self(requests, Candidates(items, torch.zeros(items.shape), (), nothing.long(), nothing))

    def _of_items(self, requests: Requests, items: Int[Tensor, "B K"]) -> Float[Tensor, "B K f"]:
        # One column of padding, so that a batch without any history needs no case of its own.
        history, times = F.pad(requests.history, (0, 1)), F.pad(requests.history_times_ms, (0, 1))
        lengths = requests.lengths[:, None]
        real = history > 0
        recent = real & (torch.arange(history.shape[1]) >= lengths - RECENT)
        share = torch.stack([real / lengths.clamp(min=1), recent / lengths.clamp(1, RECENT)], dim=2)
        alike = self._alike(items, history)
        same = (items[..., None] == history[:, None]) & real[:, None]
        seen = same.any(2)
        last = torch.where(same, times[:, None], torch.iinfo(torch.int64).min).amax(2)
        ago = _log_hours(torch.where(seen, requests.times_ms[:, None] - last, 0))
        return torch.cat(
            [self.log_popularity[items][..., None], alike.float() @ share, torch.stack([seen.float(), ago], dim=2)], 2
        )

    def _of_session(self, requests: Requests, items: Int[Tensor, "B K"]) -> Float[Tensor, "B K f"]:
        history, times = F.pad(requests.history, (0, 1)), F.pad(requests.history_times_ms, (0, 1))
        real, alike = history > 0, self._alike(items, history)
        last = torch.arange(history.shape[1]) == requests.lengths[:, None] - 1
        until = torch.where(last, requests.times_ms[:, None], times.roll(-1, 1)) - times
        pauses = (real & (until > self.session_minutes * MINUTE_MS)).long()
        inside = real & (pauses.flip(1).cumsum(1).flip(1) == 0)  # no pause from this action on
        count = inside.sum(1)
        share = (alike.float() @ (inside / count.clamp(min=1)[:, None])[..., None])[..., 0]
        at = torch.where(alike, times[:, None], torch.iinfo(torch.int64).min).amax(2)
        ago = _log_hours(torch.where(alike.any(2), requests.times_ms[:, None] - at, 0))
        length = count.float().log1p()[:, None].expand(items.shape)
        return torch.stack([share, length, torch.where(alike.any(2), ago, NEVER)], dim=2)

    def _alike(self, items: Int[Tensor, "B K"], history: Int[Tensor, "B L"]) -> Bool[Tensor, "B K L"]:
        """Which actions are in each candidate's category; none where it has none."""
        category = self.item_category[items][..., None]
        return (category == self.item_category[history][:, None]) & (category > 0)

    def save(self, folder: Path) -> None:
        """Write `features.safetensors` and `features.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / "features.safetensors") as temporary:
            save_file({"log_popularity": self.log_popularity, "item_category": self.item_category}, temporary)
        described = {
            "channels": list(self.channels),
            "max_len": self.max_len,
            "fitted_on": self.fitted_on,
            "similarity": self.similarity.channel if self.similarity else None,
            "fields": self.fields is not None,
            "session_minutes": self.session_minutes,
        }
        if self.fields:
            self.fields.save(folder)
        write_json(folder / "features.json", {**described, "names": list(self.names)})

    @classmethod
    def load(cls, folder: Path, known: Mapping[str, Similarity] | None = None) -> Features:
        """What `save` wrote.

        Args:
            known: the embedding models there are, one of which the features may read.
        Raises:
            RunError: a file is missing or damaged, this version computes other features, or they need a model that
                `known` lacks.
        """
        known = known or {}
        try:
            saved = json.loads((folder / "features.json").read_text())
            similar = saved.get("similarity")
            if similar is not None and similar not in known:
                what = f"features need the vectors of {similar!r}, there are those of {sorted(known)}"
                raise RunError(what, where=folder / "features.json", fix="Train the model again.")
            features = cls(
                **load_file(folder / "features.safetensors"),
                channels=tuple(saved["channels"]),
                max_len=saved["max_len"],
                fitted_on=saved["fitted_on"],
                similarity=None if similar is None else known[similar],
                fields=Fields.load(folder) if saved.get("fields") else None,
                session_minutes=float(saved.get("session_minutes", 0)),
            )
            names = tuple(saved["names"])
        except (ValueError, AttributeError, SafetensorError, KeyError, TypeError, FileNotFoundError) as error:
            what = f"features missing or damaged ({error})"
            raise RunError(what, where=folder, fix="Train the model again.") from error
        if names != features.names:
            what = f"features {', '.join(names)} were saved, this version computes {', '.join(features.names)}"
            raise RunError(what, where=folder / "features.json", fix="Train the model again.")
        return features


class FeatureScale(nn.Module):
    """(x - mean) / std of each feature, cut at +-5 so that no outlier of a later window rules the score."""

    mean: Tensor
    std: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))

    @torch.no_grad()
    def fit(self, batches: Iterable[RankInputs]) -> None:
        """Take mean and std from real candidates; a constant feature gets std 1.

        Raises:
            ValueError: there is no real candidate in `batches`.
        """
        real = torch.cat([inputs.features[inputs.mask].double() for inputs in batches])
        if not len(real):
            raise ValueError("no candidate to take the features' mean and std from")
        std = real.std(0, correction=0)
        self.mean.copy_(real.mean(0))
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))

    def forward(self, features: Float[Tensor, "B K F"]) -> Float[Tensor, "B K F"]:
        return ((features - self.mean) / self.std).clamp(-5, 5)


def _log_hours(ms: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return torch.log1p(ms.clamp(min=0) / HOUR_MS)


def _of_request(requests: Requests, items: Int[Tensor, "B K"]) -> Float[Tensor, "B K f"]:
    lengths = requests.lengths
    last = F.pad(requests.history_times_ms, (0, 1)).gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
    idle = _log_hours(torch.where(lengths > 0, requests.times_ms - last, 0))
    return torch.stack([idle, lengths.float().log1p()], dim=1)[:, None].expand(-1, items.shape[1], -1)


def _of_channels(ranks: Int[Tensor, "B K C"], scores: Float[Tensor, "B K C"]) -> Float[Tensor, "B K f"]:
    found = (ranks > 0).float()
    columns = torch.stack([found, found / ranks.clamp(min=1), scores * found], dim=3)
    return torch.cat([columns.flatten(2), found.sum(2, keepdim=True)], dim=2)
