"""Channels: a Retriever made of any retrieval model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from penchant.data.history import Requests
from penchant.funnel.stages import Candidates, CatalogueScorer, Embedder, Retriever
from penchant.index.base import Index
from penchant.index.exact import ExactIndex, best_items

BLOCK_SCORES = 2**22
"""Scores held at once by a channel that scores the whole catalogue: 16 MB."""
BLOCK_REQUESTS = 256
"""Requests a model reads at once."""


class EmbeddingRetriever(Retriever):
    """Searches an index for each request's user vector; a zero vector (no history) finds nothing.

    Requests are on the model's device, and the model in evaluation mode.

    Args:
        exclude_seen: leave out what is in the request's history.

    Raises:
        ValueError: the index is of another catalogue than the model.
    """

    def __init__(self, name: str, model: Embedder, index: Index, *, exclude_seen: bool = False) -> None:
        if index.num_items != model.num_items:
            raise ValueError(f"channel {name!r}: model of {model.num_items} items, index of {index.num_items}")
        self.name, self.model, self.index, self.exclude_seen = name, model, index, exclude_seen

    @torch.no_grad()
    def retrieve(self, requests: Requests, k: int) -> Candidates:
        """See `Retriever.retrieve`."""
        return _concatenated([self._retrieve(part, k) for part in _parts(requests, BLOCK_REQUESTS)])

    def _retrieve(self, requests: Requests, k: int) -> Candidates:
        query = self.model.user_vectors(requests)
        items, scores = self.index.search(query, k, exclude=requests.history if self.exclude_seen else None)
        items = torch.where((query != 0).any(1, keepdim=True), items, 0)
        return Candidates.of_channel(self.name, items, scores)


class ScoreRetriever(Retriever):
    """Scores the whole catalogue for each request, and keeps the best; equal scores, the smaller item first.

    Requests are on the model's device, and the model in evaluation mode.

    Args:
        exclude_seen: leave out what is in the request's history.
    """

    def __init__(self, name: str, model: CatalogueScorer, *, exclude_seen: bool = False) -> None:
        self.name, self.model, self.exclude_seen = name, model, exclude_seen

    @torch.no_grad()
    def retrieve(self, requests: Requests, k: int) -> Candidates:
        """See `Retriever.retrieve`."""
        rows = max(1, min(BLOCK_REQUESTS, BLOCK_SCORES // (self.model.num_items + 1)))
        return _concatenated([self._retrieve(part, k) for part in _parts(requests, rows)])

    def _retrieve(self, requests: Requests, k: int) -> Candidates:
        scores = self.model.score_items(requests)
        if self.exclude_seen:
            scores = scores.scatter(1, requests.history, -torch.inf)
        return Candidates.of_channel(self.name, *best_items(scores, k))


def retriever(name: str, model: Any, *, index: Index | None = None, exclude_seen: bool = False) -> Retriever:
    """A channel of whatever the model offers: scores of all items, or vectors (then searched exactly, or in `index`).

    Raises:
        ValueError: the model is neither a CatalogueScorer nor an Embedder.
    """
    if hasattr(model, "score_items"):
        return ScoreRetriever(name, model, exclude_seen=exclude_seen)
    if hasattr(model, "user_vectors"):
        if index is None:
            with torch.no_grad():
                index = ExactIndex(model.item_vectors())
        return EmbeddingRetriever(name, model, index, exclude_seen=exclude_seen)
    raise ValueError(f"channel {name!r}: a {type(model).__name__} has neither score_items nor user_vectors")


def _parts(requests: Requests, rows: int) -> Iterator[Requests]:
    """The requests, at most `rows` at a time; one empty part where there are none."""
    for start in range(0, max(len(requests), 1), rows):
        yield requests.rows(slice(start, start + rows))


def _concatenated(parts: list[Candidates]) -> Candidates:
    """One channel's lists one below the other."""
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        items=torch.cat([p.items for p in parts]),
        scores=torch.cat([p.scores for p in parts]),
        ranks=torch.cat([p.ranks for p in parts]),
        channel_scores=torch.cat([p.channel_scores for p in parts]),
    )
