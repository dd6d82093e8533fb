"""Stages that are models: they read a request, its candidates and their features together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from penchant.data.history import Requests
from penchant.funnel.features import Features
from penchant.funnel.similarity import Similarity
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


@dataclass(frozen=True)
class ModelScorer(Scorer):
    """A stage that is a model: a pre-ranker (a light one, `prerank.py`) or a ranker.

    Attributes:
        model: forward(RankInputs) -> logits [B, K].
        features: fitted with the channels the candidates come with.
        cells: candidates scored at a time (at least one request's): bounds memory, changes nothing else.
    """

    model: nn.Module
    features: Features
    cells: int = 8192

    @classmethod
    def load(cls, folder: Path, known: Mapping[str, Similarity] | None = None) -> ModelScorer:
        """Model and features of a folder.

        Args:
            known: the embedding models there are, one of which the features may read.
        Raises:
            RunError: one of them is missing or damaged.
        """
        return cls(load_model(folder), Features.load(folder, known))

    def score(self, requests: Requests, candidates: Candidates) -> Candidates:
        """The same candidates, best first by logit, provenance kept."""
        rows = max(1, self.cells // max(candidates.items.shape[1], 1))
        device = next(self.model.parameters()).device
        scores = candidates.scores.clone()
        with judging(self.model):
            for start in range(0, len(requests), rows):
                block = slice(start, start + rows)
                inputs = self.features(requests.rows(block), candidates.rows(block))
                scores[block] = self.model(inputs.to(device)).to(scores)
        return candidates.rescored(scores)
