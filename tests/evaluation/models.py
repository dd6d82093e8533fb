"""Models whose scores are known."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from penchant.data.history import Requests


class Walker(nn.Module):
    """An Embedder: the mean vector of the history against every item's vector; zero without history."""

    def __init__(self, vectors: Float[Tensor, "I D"]) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)
        self.num_items = len(vectors) - 1
        self.batches: list[int] = []

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        assert not self.training
        self.batches.append(len(requests))
        return (self.vectors[requests.history] * requests.mask[..., None]).sum(1)

    def item_vectors(self) -> Float[Tensor, "I D"]:
        return self.vectors


class Fixed:
    """A CatalogueScorer: the same scores for every request."""

    def __init__(self, scores: Float[Tensor, " I"]) -> None:
        self.scores = scores
        self.num_items = len(scores) - 1

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        return self.scores.expand(len(requests), -1)


def walker(num_items: int, *, whole: bool, seed: int = 0) -> Walker:
    """Vectors of small whole numbers make every sum exact and ties common; normal ones make ties rare."""
    generator = torch.Generator().manual_seed(seed)
    if whole:
        return Walker(torch.randint(-2, 3, (num_items + 1, 4), generator=generator).float())
    return Walker(torch.randn(num_items + 1, 24, generator=generator))
