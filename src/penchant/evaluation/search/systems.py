"""Systems to judge: what searches without a user, what orders matches, and what is left of a model without its user.

Each is a `CatalogueScorer` or an `Embedder` that reads `requests.queries`; so is any trained model that does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.data.store import Store
from penchant.encoders.text import load_text_encoder
from penchant.errors import StoreError
from penchant.evaluation.search.targets import Matcher
from penchant.funnel.stages import CatalogueScorer, Embedder

_BATCH = 64


class Lexical:
    """The text search alone: BM25 of what matches; nothing else is scored."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self.num_items = matcher.num_items

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        return self._matcher.scores(_queries(requests))


class Sentence:
    """A frozen sentence encoder: the cosine of the query's vector with each item's text vector.

    Args:
        vectors: the items' text vectors, row 0 is padding; a row of zeros is an item without text, of cosine 0.
        encode: some queries to their vectors.
    """

    def __init__(
        self,
        vectors: Float[np.ndarray, "I D"],
        encode: Callable[[Sequence[str]], Float[np.ndarray, "B D"]],
    ) -> None:
        self.num_items = len(vectors) - 1
        self._items = nn.functional.normalize(torch.from_numpy(vectors.astype(np.float32)), dim=1)
        self._encode = encode
        self._known = {"": np.zeros(vectors.shape[1], np.float32)}

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        queries = _queries(requests)
        new = sorted({q for q in queries if q not in self._known}, key=len)
        for start in range(0, len(new), _BATCH):
            some = new[start : start + _BATCH]
            self._known.update(zip(some, self._encode(some), strict=True))
        return nn.functional.normalize(torch.from_numpy(np.stack([self._known[q] for q in queries])), dim=1)

    def item_vectors(self) -> Float[Tensor, "I D"]:
        return self._items


def sentence_of(store: Store, device: str = "auto") -> Sentence:
    """A Store's text vectors and the encoder that made them.

    Raises:
        StoreError: the Store has no text vectors, or the encoder has changed since.
        ModelUnavailableError: the encoder cannot be had.
    """
    vectors = store.vectors("text")
    encoder = load_text_encoder(vectors.encoder, device=device)
    if encoder.fingerprint != vectors.encoder_fingerprint:
        raise StoreError(
            f"its text vectors were made by another {vectors.encoder!r} than the one here",
            where=store.path,
            fix=f"Make them again with `penchant encode {store.path} --text {vectors.encoder}`.",
        )
    return Sentence(np.asarray(vectors.values), encoder.encode)


class WithinMatches(nn.Module):
    """The items that match the query, in a model's order: what the server's search does with a ranker.

    A request that the model can say nothing about keeps the text's order.
    """

    def __init__(self, model: CatalogueScorer | Embedder, matcher: Matcher) -> None:
        super().__init__()
        self.model: Any = model
        self._matcher = matcher
        self.num_items = matcher.num_items

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        if hasattr(self.model, "score_items"):
            scores = self.model.score_items(requests)
            answered = (scores[:, 1:] > -torch.inf).any(1)
        else:
            users = self.model.user_vectors(requests)
            scores, answered = users @ self._item_vectors.T, (users != 0).any(1)
        lexical = self._matcher.scores(_queries(requests)).to(scores.device)
        return torch.where(answered[:, None], scores, lexical).masked_fill(lexical == -torch.inf, -torch.inf)

    @cached_property
    def _item_vectors(self) -> Tensor:
        return self.model.item_vectors()


class WithoutUser(nn.Module):
    """A model that is told the query and nothing of the user: what the history adds is the difference."""

    def __init__(self, model: Embedder) -> None:
        super().__init__()
        self.model: Any = model
        self.num_items = model.num_items

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        return self.model.user_vectors(replace(requests.last(0), users=torch.zeros_like(requests.users)))

    def item_vectors(self) -> Float[Tensor, "I D"]:
        return self.model.item_vectors()


def _queries(requests: Requests) -> tuple[str, ...]:
    if requests.queries is None:
        raise ValueError("requests without queries")
    return requests.queries
