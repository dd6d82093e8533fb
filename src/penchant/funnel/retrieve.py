"""Channels: a Retriever made of any retrieval model."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from penchant.data.history import Requests
from penchant.funnel.interests import InterestLists, Interests, Merge, merge_interests
from penchant.funnel.stages import Candidates, CatalogueScorer, Embedder, Retriever
from penchant.index.base import Index
from penchant.index.category import CategoryIndex
from penchant.index.exact import ExactIndex, best_items

log = logging.getLogger(__name__)
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
        query = usable(self.name, self.model.user_vectors(requests))
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


@runtime_checkable
class CategorySearcher(Protocol):
    """A model of a vector for the whole catalogue and of others for one category each: ULIM."""

    num_items: int
    item_category: Int[Tensor, " I"]

    @property
    def merge(self) -> Merge:
        """How the lists become one."""
        ...

    @property
    def short_share(self) -> float:
        """The whole catalogue's share of the merged list, with quotas."""
        ...

    def searches(self, requests: Requests) -> Interests:
        """The vectors of each request, with where each searches."""
        ...

    def item_vectors(self) -> Float[Tensor, "I D"]:
        """I = num_items + 1; row 0 is padding and never retrieved."""
        ...


class CategoryRetriever(Retriever):
    """Searches the catalogue with one vector and some categories with one each; the lists are merged. ULIM, 2.2.

    Requests are on the model's device, and the model in evaluation mode. A request without history finds nothing.

    Args:
        index: of the model's item vectors and categories.
        exclude_seen: leave out what is in the request's history, as far as it goes.
        deadline_ms: no further category is begun so long after a block of requests was; None searches all. The vectors,
            the search of the whole catalogue and the first category are always waited for.

    Raises:
        ValueError: the index is of another catalogue than the model.
    """

    def __init__(
        self,
        name: str,
        model: CategorySearcher,
        index: CategoryIndex,
        *,
        exclude_seen: bool = False,
        deadline_ms: float | None = None,
    ) -> None:
        if index.num_items != model.num_items:
            raise ValueError(f"channel {name!r}: model of {model.num_items} items, index of {index.num_items}")
        self.name, self.model, self.index = name, model, index
        self.exclude_seen, self.deadline_ms = exclude_seen, deadline_ms

    @torch.no_grad()
    def retrieve(self, requests: Requests, k: int) -> Candidates:
        """See `Retriever.retrieve`."""
        return _concatenated([self._retrieve(part, k) for part in _parts(requests, BLOCK_REQUESTS)])

    def _retrieve(self, requests: Requests, k: int) -> Candidates:
        deadline = None if self.deadline_ms is None else time.perf_counter() + self.deadline_ms / 1000
        vectors, categories, weights = self.model.searches(requests)
        vectors = usable(self.name, vectors)
        categories = torch.where((vectors != 0).any(2), categories, 0)  # a zero vector says nothing
        seen = requests.history if self.exclude_seen else None
        with_mass = self.model.merge == "factorised"
        asked = vectors[:, 0], vectors[:, 1:], categories[:, 1:]
        found = self.index.search_all(*asked, k, k, exclude=seen, deadline=deadline, with_mass=with_mass)
        known = (vectors[:, 0] != 0).any(1, keepdim=True)
        short = torch.where(known, found.short_items, 0)
        lists = InterestLists(short, found.short_scores, found.items, found.scores, found.log_mass, weights[:, 1:])
        merged = merge_interests(lists, k, self.model.merge, self.model.short_share)
        return Candidates.of_channel(self.name, merged.items, -merged.keys.float())


def usable(name: str, vectors: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """The vectors, zero where one has NaN or infinity: it finds nothing, other channels answer, and the log says so."""
    bad = ~torch.isfinite(vectors).all(-1, keepdim=True)
    if bool(bad.any()):
        log.warning("channel %r: %d of %d vectors have NaN or infinity and find nothing", name, bad.sum(), bad.numel())
        vectors = vectors.masked_fill(bad, 0.0)
    return vectors


def retriever(name: str, model: Any, *, exclude_seen: bool = False) -> Retriever:
    """A channel of whatever the model offers: vectors of categories, scores of all items, or one vector.

    Vectors are searched exactly; a channel with another index is made by its class.

    Raises:
        ValueError: the model is none of CategorySearcher, CatalogueScorer and Embedder.
    """
    if hasattr(model, "searches"):
        with torch.no_grad():
            by_category = CategoryIndex(model.item_vectors(), model.item_category)
        return CategoryRetriever(name, model, by_category, exclude_seen=exclude_seen)
    if hasattr(model, "score_items"):
        return ScoreRetriever(name, model, exclude_seen=exclude_seen)
    if hasattr(model, "user_vectors"):
        with torch.no_grad():
            of_items = ExactIndex(model.item_vectors())
        return EmbeddingRetriever(name, model, of_items, exclude_seen=exclude_seen)
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
