"""Training batches of single targets, each with what its user did before: for models that read a history as a whole.

A causal model learns a target at every position at the price of one pass (`batch.py`). One that pools the history, or
draws interests from it, has an answer after the whole of it alone: each target needs a pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from penchant.data.batch import users_to_learn_from
from penchant.data.history import gather_ragged
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import ConfigError, at_least


@dataclass(frozen=True)
class PrefixBatch:
    """Targets and what was done strictly before each.

    Attributes:
        history: items, oldest first, 0 = padding at the end; at least one in every row.
        targets: the item that followed.
    """

    history: Int[Tensor, "B S"]
    targets: Int[Tensor, " B"]

    @property
    def num_targets(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> PrefixBatch:
        return PrefixBatch(self.history.to(device), self.targets.to(device))


@dataclass(frozen=True, kw_only=True)
class PrefixDataConfig:
    """How histories become batches of single targets."""

    max_len: int = 50
    """Actions before a target that are read, the latest ones."""
    batch_targets: int = 512
    """Targets in a batch, at most."""
    targets_per_user: int = 0
    """Targets of a user in an epoch, spread evenly over the history from a random place on; 0 = all. A bound weighs
    users alike, as Covington et al. do, and keeps the cost of long histories down."""

    def __post_init__(self) -> None:
        at_least(1, self, "max_len", "batch_targets")
        if self.targets_per_user < 0:
            what = f"targets_per_user is {self.targets_per_user}"
            raise ConfigError(what, fix="Set targets_per_user to 0 (all) or more.")


class PrefixBatches:
    """The train window's targets, one by one: `batch(step)` depends on the step and the seed alone.

    Every event of the window is a target once an epoch (or `targets_per_user` of each user's), but a user's first,
    which nothing precedes. Targets with histories of like length go together (sorted by length with 10 % jitter), and
    the batches are taken in random order. An epoch holds two numbers a target; histories are read when a batch is made.

    Raises:
        StoreError: no user has two events in the window.
    """

    def __init__(self, store: Store, split: Split, config: PrefixDataConfig, seed: int) -> None:
        self.store, self.config, self.seed = store, config, seed
        self.starts, self.stops = users_to_learn_from(store, split)
        known = self.stops - self.starts - 1
        self._taken = np.minimum(known, config.targets_per_user) if config.targets_per_user else known
        self.num_targets = int(self._taken.sum())
        self.steps_per_epoch = -(-self.num_targets // config.batch_targets)
        self._epoch = -1
        self._plan: list[tuple[np.ndarray, np.ndarray]] = []

    def batch(self, step: int) -> PrefixBatch:
        """The batch of a step, counted from 0 through all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._plan, self._epoch = self._planned(epoch), epoch
        starts, targets = self._plan[place]
        history = gather_ragged(self.store.event_item, starts, targets, self.config.max_len)
        items = self.store.event_item[targets]
        return PrefixBatch(torch.from_numpy(history.astype(np.int64)), torch.from_numpy(items.astype(np.int64)))

    def _planned(self, epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each batch's targets as (rows where their histories start, their own rows) of events."""
        rng = np.random.default_rng([self.seed, epoch])
        known, taken = self.stops - self.starts - 1, self._taken
        user = np.repeat(np.arange(len(taken)), taken)
        number = np.arange(len(user)) - np.repeat(np.cumsum(taken) - taken, taken)
        # A systematic sample in whole numbers: number * known + shift runs through [0, known * taken) in strides of
        # `known`, so each of the `known` targets is met with equal chance and none twice; all of them if all are taken.
        shift = rng.integers(0, known)
        targets = self.starts[user] + 1 + (number * known[user] + shift[user]) // taken[user]
        starts = self.starts[user]
        lengths = np.minimum(targets - starts, self.config.max_len)
        order = np.argsort(lengths * (1 + 0.1 * rng.random(len(lengths))))
        cuts = np.arange(1, self.steps_per_epoch) * len(order) // self.steps_per_epoch
        batches = list(zip(np.split(starts[order], cuts), np.split(targets[order], cuts), strict=True))
        return [batches[i] for i in rng.permutation(len(batches))]
