"""Training batches of histories: a target at every position, no prefix ever expanded, hardly any padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from penchant.data.history import gather_ragged
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import ConfigError, StoreError, at_least


@dataclass(frozen=True)
class SequenceBatch:
    """Pieces of histories and, for each action in them, the one that followed.

    Attributes:
        history: items, oldest first, 0 = padding at the end.
        targets: the item after each action; 0 at padding.
        shown: items that were shown with each target and not clicked, 0 = none; None where they were not asked for.
        queries: the dense query of each target, which its user has typed before they act; 0 = none. None where not
            asked for.
        history_queries: the dense query of each action of `history`, likewise.
        users: whose piece each is, 0 = unknown.
    """

    history: Int[Tensor, "B S"]
    targets: Int[Tensor, "B S"]
    shown: Int[Tensor, "B S N"] | None = None
    queries: Int[Tensor, "B S"] | None = None
    history_queries: Int[Tensor, "B S"] | None = None
    users: Int[Tensor, " B"] | None = None

    @property
    def mask(self) -> Bool[Tensor, "B S"]:
        """True where there is a target."""
        return self.targets > 0

    @property
    def num_targets(self) -> int:
        return int(self.mask.sum())

    def to(self, device: torch.device) -> SequenceBatch:
        return SequenceBatch(
            self.history.to(device),
            self.targets.to(device),
            *(
                None if x is None else x.to(device)
                for x in (self.shown, self.queries, self.history_queries, self.users)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class SequenceDataConfig:
    """How histories become batches."""

    max_len: int = 50
    """Longest piece; a longer history is cut into pieces, anew at random places each epoch."""
    batch_targets: int = 6400
    """Targets in a batch, about; the number of histories in it follows from their lengths."""
    newest_only: bool = False
    """Only the newest `max_len` + 1 actions of a user train, as in most published code."""
    shown: int = 0
    """Items that were shown with each target and not clicked: so many at most come along, for who learns from them."""
    queries: bool = False
    """The queries of targets and of past actions come along."""
    users_share: float = 1.0
    """Share of the users whose histories are learned from, at random and the same for every seed. Popularity, by which
    a sampled softmax is corrected, and what is cold stay those of all."""

    def __post_init__(self) -> None:
        if not 0 < self.users_share <= 1:
            raise ConfigError(f"users_share is {self.users_share}", fix="Set users_share above 0, at most 1.")
        at_least(0, self, "shown")
        at_least(1, self, "max_len", "batch_targets")


def check_lengths(data: int, model: int) -> None:
    """Refuse a run whose batches hold histories of another length than its model reads.

    Raises:
        ConfigError: with both lengths.
    """
    if data != model:
        what = f"data.max_len is {data}, model.max_len {model}"
        raise ConfigError(what, fix="Set both alike: a model is judged on histories as long as it was trained on.")


class Unclicked:
    """What was shown with an event, in the same request, and not clicked.

    Args:
        most: of each event's, the last ones of the list.
    """

    def __init__(self, store: Store, most: int) -> None:
        self.most = most
        self.request = store.table("events", ["request"])["request"].to_numpy()
        unclicked = store.impression_label[:] == 0
        self.items = store.impression_item[:][unclicked]
        self.indptr = np.concatenate([[0], np.cumsum(unclicked)])[store.request_indptr]

    def of(self, events: Int[np.ndarray, "*B"]) -> Int[np.ndarray, "*B N"]:
        """int32; 0 = none. An event of -1 is none, and one of no request has none."""
        request = np.where(events >= 0, self.request[events], 0).ravel()
        starts = np.where(request > 0, self.indptr[np.maximum(request - 1, 0)], 0)
        stops = np.where(request > 0, self.indptr[request], 0)
        found = gather_ragged(self.items, starts, stops, self.most)
        out = np.zeros((len(request), self.most), dtype=self.items.dtype)
        out[:, : found.shape[1]] = found
        return out.reshape(*events.shape, self.most)


def users_to_learn_from(store: Store, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """int64 [N] twice: where the train events of each user who has two or more of them start and stop.

    Raises:
        StoreError: there is no such user.
    """
    starts, stops = split.starts("train"), split.stops("train")
    long_enough = stops - starts >= 2
    if not long_enough.any():
        raise StoreError(
            f"no user has two events in window 'train' of split {split.name!r}, so nothing can be learned",
            where=store.path,
            fix="Choose another split, or prepare the Store from more logs.",
        )
    return starts[long_enough], stops[long_enough]


class SequenceBatches:
    """The train window's histories as batches: `batch(step)` depends on the step and the seed alone.

    Pieces of like length go together (sorted by length with 10 % jitter, so that the company changes every epoch), and
    the batches are taken in random order.

    Raises:
        StoreError: no user has two events in the window.
    """

    def __init__(self, store: Store, split: Split, config: SequenceDataConfig, seed: int) -> None:
        self.store, self.config, self.seed = store, config, seed
        self.starts, self.stops = users_to_learn_from(store, split)
        if config.users_share < 1:
            kept = max(1, round(config.users_share * len(self.starts)))
            some = np.sort(np.random.default_rng(0).permutation(len(self.starts))[:kept])
            self.starts, self.stops = self.starts[some], self.stops[some]
        if config.newest_only:
            self.starts = np.maximum(self.starts, self.stops - config.max_len - 1)
        self.num_targets = int((self.stops - self.starts - 1).sum())
        self._unclicked = Unclicked(store, config.shown) if config.shown else None
        # A batch holds at least the longest piece, so that none is ever empty.
        self.steps_per_epoch = max(1, self.num_targets // max(config.batch_targets, config.max_len))
        self._epoch = -1
        self._pieces: list[tuple[np.ndarray, np.ndarray]] = []

    def batch(self, step: int) -> SequenceBatch:
        """The batch of a step, counted from 0 through all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._pieces, self._epoch = self._plan(epoch), epoch
        starts, ends = self._pieces[place]
        rows = gather_ragged(self.store.event_item, starts, ends, self.config.max_len + 1).astype(np.int64)
        asked = None
        if self.config.queries:
            asked = gather_ragged(self.store.event_query, starts, ends, self.config.max_len + 1).astype(np.int64)
        # The newest action of a piece has no target.
        old = np.arange(rows.shape[1] - 1) < (ends - starts - 1)[:, None]
        targets, shown = rows[:, 1:].copy(), None
        if self._unclicked is not None:
            events = np.where(targets > 0, starts[:, None] + 1 + np.arange(targets.shape[1]), -1)
            shown = torch.from_numpy(self._unclicked.of(events).astype(np.int64))
        return SequenceBatch(
            torch.from_numpy(rows[:, :-1] * old),
            torch.from_numpy(targets),
            shown,
            queries=None if asked is None else torch.from_numpy(asked[:, 1:].copy()),
            history_queries=None if asked is None else torch.from_numpy(asked[:, :-1] * old),
            users=torch.from_numpy(np.searchsorted(self.store.user_indptr, starts, side="right") - 1),
        )

    def _plan(self, epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each batch's pieces as (starts, ends) of event rows; a piece of n + 1 events has n targets."""
        rng = np.random.default_rng([self.seed, epoch])
        longest, targets = self.config.max_len, self.stops - self.starts - 1
        # The first piece of a long history is of random length, the others are whole, the last is what is left.
        first = np.where(targets > longest, rng.integers(1, longest + 1, len(targets)), targets)
        others = -(-(targets - first) // longest)
        user = np.repeat(np.arange(len(targets)), others + 1)
        number = np.arange(len(user)) - np.repeat(np.cumsum(others + 1) - (others + 1), others + 1)
        begin = np.where(number == 0, 0, first[user] + (number - 1) * longest)
        starts = self.starts[user] + begin
        ends = np.minimum(self.starts[user] + np.where(number == 0, first[user], begin + longest) + 1, self.stops[user])
        lengths = ends - starts - 1
        order = np.argsort(lengths * (1 + 0.1 * rng.random(len(lengths))))
        starts, ends, lengths = starts[order], ends[order], lengths[order]
        done = np.cumsum(lengths)
        # Integers, and the right side: a piece that ends on a border belongs before it. As no piece is longer than the
        # borders are apart, one ends between any two of them, so no batch is empty.
        borders = np.arange(1, self.steps_per_epoch) * done[-1] // self.steps_per_epoch
        cuts = np.searchsorted(done, borders, side="right")
        batches = list(zip(np.split(starts, cuts), np.split(ends, cuts), strict=True))
        return [batches[i] for i in rng.permutation(len(batches))]
