"""The funnel's two interfaces, and what flows between them.

    Requests -> Retriever -> Candidates -> merge -> Scorer (pre-rank) -> Scorer (rank) -> list

Everything takes batches; one request is a batch of one. Candidates keep where each item came from, so that every item
lost or found can be traced to a stage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.data.history import Requests

__all__ = ["Candidates", "CatalogueScorer", "Embedder", "Requests", "Retriever", "Scorer"]


@dataclass(frozen=True)
class Candidates:
    """K items for each of B requests, best first, with their provenance in C channels.

    Attributes:
        items: dense items; 0 = an empty slot (they come last).
        scores: of the last stage that scored; -inf in empty slots.
        channels: names of the channels, the order of the last axis below.
        ranks: place in each channel's list from 1; 0 where that channel did not find the item.
        channel_scores: raw score in each channel; 0 where it did not find the item.
    """

    items: Int[Tensor, "B K"]
    scores: Float[Tensor, "B K"]
    channels: tuple[str, ...]
    ranks: Int[Tensor, "B K C"]
    channel_scores: Float[Tensor, "B K C"]

    @property
    def mask(self) -> Bool[Tensor, "B K"]:
        """True at real candidates."""
        return self.items > 0

    @classmethod
    def of_channel(cls, name: str, items: Int[Tensor, "B K"], scores: Float[Tensor, "B K"]) -> Candidates:
        """One channel's list, best first; items 0 or scores -inf are empty slots."""
        found = (items > 0) & torch.isfinite(scores)
        items = torch.where(found, items, 0)
        scores = torch.where(found, scores, -torch.inf)
        rank = torch.arange(1, items.shape[1] + 1, device=items.device).expand_as(items) * found
        return cls(items, scores, (name,), rank[..., None], torch.where(found, scores, 0.0)[..., None])

    def rescored(self, scores: Float[Tensor, "B K"]) -> Candidates:
        """The same items under new scores, sorted best first (ties keep the order they came in)."""
        scores = torch.where(self.mask, scores, -torch.inf)
        order = scores.argsort(dim=1, descending=True, stable=True)
        return self._taken(order, scores.gather(1, order))

    def top(self, k: int) -> Candidates:
        """The first k."""
        return replace(
            self,
            items=self.items[:, :k],
            scores=self.scores[:, :k],
            ranks=self.ranks[:, :k],
            channel_scores=self.channel_scores[:, :k],
        )

    def rows(self, rows: slice | Int[Tensor, " b"]) -> Candidates:
        """Those of some of the requests."""
        return replace(
            self,
            items=self.items[rows],
            scores=self.scores[rows],
            ranks=self.ranks[rows],
            channel_scores=self.channel_scores[rows],
        )

    def _taken(self, order: Int[Tensor, "B K"], scores: Float[Tensor, "B K"]) -> Candidates:
        deep = order[..., None].expand_as(self.ranks)
        return replace(
            self,
            items=self.items.gather(1, order),
            scores=scores,
            ranks=self.ranks.gather(1, deep),
            channel_scores=self.channel_scores.gather(1, deep),
        )


class Retriever(ABC):
    """Finds up to k items of the whole catalogue for each request: a channel.

    Attributes:
        exclude_seen: whether lists leave out what is in the request's history; absent where a channel has no choice.
    """

    name: str
    exclude_seen: bool

    @abstractmethod
    def retrieve(self, requests: Requests, k: int) -> Candidates:
        """Best first, each item at most once. A request it can say nothing about gets empty slots, never an error."""


class Scorer(ABC):
    """Orders given candidates anew: a pre-ranker or a ranker."""

    @abstractmethod
    def score(self, requests: Requests, candidates: Candidates) -> Candidates:
        """The same candidates with this stage's scores, best first, provenance kept."""


@runtime_checkable
class CatalogueScorer(Protocol):
    """A model that scores every item at once (counts, chains); `funnel/retrieve.py` makes a Retriever of it."""

    num_items: int

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        """I = num_items + 1; column 0 (padding) is -inf, so is every item it cannot score."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """A model that scores by dot product; `funnel/retrieve.py` makes a Retriever of it and an Index."""

    num_items: int

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """One vector a request. Zero for a request it can say nothing about (no history)."""
        ...

    def item_vectors(self) -> Float[Tensor, "I D"]:
        """I = num_items + 1; row 0 is padding and never retrieved."""
        ...
