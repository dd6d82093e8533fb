"""Made-up inputs of rankers: requests, their candidates and features, and what a test may do to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from penchant.data.history import Requests
from penchant.funnel.features import RankInputs
from penchant.training.impressions import RankBatch


def some_inputs(*, seed: int = 0, lengths: tuple[int, ...] = (5, 0, 3, 1), k: int = 4) -> RankInputs:
    generator = torch.Generator().manual_seed(seed)
    batch, width = len(lengths), max(lengths)
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    history = torch.randint(1, 21, (batch, width), generator=generator) * real
    requests = Requests(torch.arange(batch), torch.full((batch,), 9000), history, history * 100)
    items = torch.randint(1, 21, (batch, k), generator=generator)
    features = torch.randn(batch, k, 3, generator=generator)
    features[..., :2] = features[:, :1, :2]  # the request's features are the same for all of its candidates
    return RankInputs(requests, items, features)


def labelled(inputs: RankInputs) -> RankBatch:
    """One clicked candidate a request; two of the rows have an empty slot."""
    items = inputs.items.clone()
    items[:2, -1] = 0
    return RankBatch(replace(inputs, items=items), F.one_hot(torch.tensor([0, 2, 1, 3]), 4).float())


def taken(inputs: RankInputs, columns: torch.Tensor) -> RankInputs:
    """The items at these places of each row."""
    deep = columns[..., None].expand(-1, -1, inputs.features.shape[2])
    return replace(inputs, items=inputs.items.gather(1, columns), features=inputs.features.gather(1, deep))


def padded(inputs: RankInputs) -> RankInputs:
    """The same with three more places in each history, and two more for candidates, all empty."""
    requests = replace(
        inputs.requests,
        history=F.pad(inputs.requests.history, (0, 3)),
        history_times_ms=F.pad(inputs.requests.history_times_ms, (0, 3)),
    )
    return RankInputs(requests, F.pad(inputs.items, (0, 2)), F.pad(inputs.features, (0, 0, 0, 2)))


@dataclass(frozen=True)
class Slot:
    """One candidate and what is known of it, with the logit that the model under test gives it."""

    history: list[int]
    item: int
    features: np.ndarray
    logit: float


def slots(model: nn.Module, inputs: RankInputs) -> Iterator[Slot]:
    """Every candidate as the model scores it."""
    logits = model(inputs).detach().numpy()
    assert logits.shape == inputs.items.shape
    for b, k in np.ndindex(logits.shape):
        history = [i for i in inputs.requests.history[b].tolist() if i]
        yield Slot(history, int(inputs.items[b, k]), inputs.features[b, k].numpy(), logits[b, k].item())
