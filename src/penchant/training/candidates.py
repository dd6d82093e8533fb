"""Training data of the pre-ranker and the ranker: the funnel's own merged candidates, and which one came true."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from penchant.data.history import requests_before_events
from penchant.data.output import whole
from penchant.data.store import Store, write_json
from penchant.errors import RunError
from penchant.funnel.features import Features
from penchant.funnel.stages import Candidates
from penchant.training.impressions import BatchPlan, RankBatch

ARRAYS = ("events", "items", "ranks", "channel_scores")


@dataclass(frozen=True)
class CandidateArrays:
    """Candidates of many requests, small enough to keep: in memory, or mapped from a folder.

    Attributes:
        events: int64 [N], the target of each request as a row of the Store's events.
        items: int32 [N, K], in the order they came in; 0 = an empty slot.
        ranks: int32 [N, K, C].
        channel_scores: float32 [N, K, C].
    """

    channels: tuple[str, ...]
    events: np.ndarray
    items: np.ndarray
    ranks: np.ndarray
    channel_scores: np.ndarray

    @classmethod
    def collect(cls, events: np.ndarray, parts: Iterable[Candidates]) -> CandidateArrays:
        """Candidates of `events`, in their order, part by part; only one part's tensors are held at a time.

        Raises:
            ValueError: there are more or fewer requests than events, or the parts' channels differ.
        """
        channels: tuple[str, ...] | None = None
        kept: list[tuple[np.ndarray, ...]] = []
        for part in parts:
            if part.channels != (channels := channels or part.channels):
                raise ValueError(f"channels {part.channels} after {channels}")
            ranks, scores = part.ranks.numpy().astype(np.int32), part.channel_scores.numpy().astype(np.float32)
            kept.append((part.items.numpy().astype(np.int32), ranks, scores))
        width = max((items.shape[1] for items, _, _ in kept), default=0)
        if sum(len(items) for items, _, _ in kept) != len(events) or not kept:
            raise ValueError(
                f"{sum(len(items) for items, _, _ in kept)} requests with candidates, {len(events)} events"
            )
        items, ranks, scores = (np.concatenate([_widened(p[i], width) for p in kept]) for i in range(3))
        return cls(channels or (), np.asarray(events, dtype=np.int64), items, ranks, scores)

    def candidates(self, rows: np.ndarray) -> Candidates:
        """Candidates of some rows. Their scores are 0, -1, -2, ...: the order is kept, not the values."""
        items = torch.from_numpy(self.items[rows].astype(np.int64))
        place = torch.arange(items.shape[1]).expand_as(items)
        return Candidates(
            items,
            torch.where(items > 0, -place.float(), -torch.inf),
            self.channels,
            torch.from_numpy(self.ranks[rows].astype(np.int64)),
            torch.from_numpy(self.channel_scores[rows]),
        )

    def take(self, rows: np.ndarray) -> CandidateArrays:
        """Some of the requests, in this order."""
        return CandidateArrays(self.channels, *(getattr(self, name)[rows] for name in ARRAYS))

    @classmethod
    def joined(cls, parts: Sequence[CandidateArrays]) -> CandidateArrays:
        """The requests of all parts, of the same channels, one part after the other."""
        width = max(part.items.shape[1] for part in parts)
        events = np.concatenate([part.events for part in parts])
        deep = (np.concatenate([_widened(getattr(part, n), width) for part in parts]) for n in ARRAYS[1:])
        return cls(parts[0].channels, events, *deep)

    def save(self, folder: Path) -> None:
        """Write the arrays, then the note that makes them complete."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            with whole(folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, getattr(self, name))
        write_json(folder / "candidates.json", {"channels": list(self.channels), "requests": len(self.events)})

    @classmethod
    def load(cls, folder: Path) -> CandidateArrays:
        """What `save` wrote, mapped.

        Raises:
            RunError: a file is missing or damaged.
        """
        try:
            described = json.loads((folder / "candidates.json").read_text())
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
            return cls(tuple(described["channels"]), **arrays)
        except (OSError, ValueError, KeyError) as error:
            what = f"candidates missing or damaged ({error})"
            raise RunError(what, where=folder, fix="Remove the folder and train again.") from error


class CandidateBatches:
    """Requests with their candidates, label 1 for the item that came next. Requests that missed it are left out.

    Args:
        cells: bound of candidates in a batch.

    Attributes:
        num_missed: requests left out because no candidate is the target.

    Raises:
        ValueError: no request's candidates hold its target.
    """

    def __init__(
        self,
        store: Store,
        features: Features,
        candidates: CandidateArrays,
        *,
        cells: int = 32768,
        seed: int = 0,
    ) -> None:
        self._store, self._features, self._candidates = store, features, candidates
        self._targets = store.event_item[candidates.events]
        found = (candidates.items == self._targets[:, None]).any(1)
        self._rows = np.flatnonzero(found)
        self.num_missed = int((~found).sum())
        if not len(self._rows):
            raise ValueError(f"none of {len(found)} requests has its target among its candidates")
        events = candidates.events[self._rows]
        lengths = np.minimum(events - store.user_indptr[store.event_user[events]], features.max_len)
        self._plan = BatchPlan(np.full(len(self._rows), candidates.items.shape[1]), lengths, cells, seed)
        self.steps_per_epoch = self._plan.steps_per_epoch

    def batch(self, step: int) -> RankBatch:
        """The batch of a step, counted from 0 over all epochs."""
        rows = self._rows[self._plan.rows(step)]
        requests = requests_before_events(self._store, self._candidates.events[rows], self._features.max_len)
        inputs = self._features(requests, self._candidates.candidates(rows))
        targets = torch.from_numpy(self._targets[rows].astype(np.int64))[:, None]
        return RankBatch(inputs, (inputs.items == targets).float())


def _widened(array: np.ndarray, width: int) -> np.ndarray:
    """Zeros added on the second axis up to `width`."""
    extra = [(0, 0)] * array.ndim
    extra[1] = (0, width - array.shape[1])
    return np.pad(array, extra)
