"""The ranker: a model that reads a request, its candidates and their features together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from penchant.data.history import Requests
from penchant.funnel.features import Features
from penchant.funnel.stages import Candidates, Scorer
from penchant.models import load_model


@contextmanager
def judging(model: nn.Module) -> Iterator[None]:
    """No gradients and no dropout inside; the model's mode is put back afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def score_in_blocks(
    model: nn.Module, features: Features, requests: Requests, candidates: Candidates, cells: int
) -> Candidates:
    """The candidates ordered by a model's logits, in blocks of at most `cells` candidates (at least one request)."""
    rows = max(1, cells // max(candidates.items.shape[1], 1))
    device = next(model.parameters()).device
    scores = candidates.scores.clone()
    with judging(model):
        for start in range(0, len(requests), rows):
            block = slice(start, start + rows)
            inputs = features(_requests(requests, block), _candidates(candidates, block))
            scores[block] = model(inputs.to(device)).to(scores)
    return candidates.rescored(scores)


@dataclass(frozen=True)
class Ranker(Scorer):
    """The last stage: orders candidates by a ranking model's logits.

    Attributes:
        model: forward(RankInputs) -> logits [B, K].
        features: fitted with the channels the candidates come with.
        cells: candidates scored at a time: bounds memory, changes nothing else.
    """

    model: nn.Module
    features: Features
    cells: int = 8192

    @classmethod
    def load(cls, folder: Path) -> Ranker:
        """Model and features of a folder.

        Raises:
            RunError: one of them is missing or damaged.
        """
        return cls(load_model(folder), Features.load(folder))

    def score(self, requests: Requests, candidates: Candidates) -> Candidates:
        """The same candidates, best first by logit, provenance kept."""
        return score_in_blocks(self.model, self.features, requests, candidates, self.cells)


def _requests(requests: Requests, rows: slice) -> Requests:
    return replace(
        requests,
        users=requests.users[rows],
        times_ms=requests.times_ms[rows],
        history=requests.history[rows],
        history_times_ms=requests.history_times_ms[rows],
        queries=None if requests.queries is None else requests.queries[rows],
    )


def _candidates(candidates: Candidates, rows: slice) -> Candidates:
    return replace(
        candidates,
        items=candidates.items[rows],
        scores=candidates.scores[rows],
        ranks=candidates.ranks[rows],
        channel_scores=candidates.channel_scores[rows],
    )
