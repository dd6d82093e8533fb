"""T2Diff's training samples: X_{1:n} and x_{n+1}, with the times of both (section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from penchant.data.history import Requests, requests_before_events
from penchant.data.prefix_batch import PrefixBatches
from penchant.data.store import Store


@dataclass(frozen=True)
class SampleBatch:
    """Requests as they come when serving, each at its target's time, and what was chosen.

    Attributes:
        requests: at least one action before each.
        targets: x_{n+1}.
    """

    requests: Requests
    targets: Int[Tensor, " B"]

    @property
    def num_targets(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> SampleBatch:
        return SampleBatch(self.requests.to(device), self.targets.to(device))


class SampleBatches(PrefixBatches):
    """Prefix batches that know users and times, read by the code that reads requests.

    Attributes:
        epochs: how far the last batch was, in passes over the data.
    """

    epochs: float = 0.0

    def batch(self, step: int) -> SampleBatch:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The batch of a step, counted from 0 through all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._plan, self._epoch = self._planned(epoch), epoch
        self.epochs = (step + 1) / self.steps_per_epoch
        return samples_of(self.store, self._plan[place][1], self.config.max_len)


def samples_of(store: Store, events: np.ndarray, max_len: int) -> SampleBatch:
    """Each event as a target, after what its user did strictly before it in the Store's order.

    Args:
        events: int64 [B], rows of the Store's events.
    """
    targets = torch.from_numpy(store.event_item[events].astype(np.int64))
    return SampleBatch(requests_before_events(store, events, max_len), targets)
