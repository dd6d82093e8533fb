"""The pre-ranker's scores fused with an embedding model's: KARMA, section 3.5.

    fused = z(pre-ranking score) + weight * z(h_t . e_i)        z: mean 0, variance 1 over the request's candidates

The weight is the one of `WEIGHTS` that keeps the most of the validation window's targets among the M' items that go on
to the ranker. 0 is among them, the pre-ranker alone, so that fusion never keeps fewer there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.data.history import Requests
from penchant.funnel.similarity import Similarity
from penchant.funnel.stages import Candidates, Scorer

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Fusion(Scorer):
    """A stage right after the pre-ranker, whose scores it takes from the candidates.

    Deviates: the paper gives neither the scale of the two scores nor how the weight is found.

    Attributes:
        weight: 0 leaves scores and order as they are.
        tried: (weight, HR@M' on the validation window) of every weight it was chosen among.
    """

    similarity: Similarity
    weight: float
    tried: tuple[tuple[float, float], ...] = ()

    def score(self, requests: Requests, candidates: Candidates) -> Candidates:
        """The same candidates, best first by fused score, provenance kept."""
        if not self.weight:
            return candidates
        return _Parts(self.similarity, requests, candidates).fused(self.weight)

    @classmethod
    def tuned(
        cls,
        similarity: Similarity,
        preranked: Iterable[tuple[Requests, Candidates, Int[Tensor, " B"]]],
        size: int,
    ) -> Fusion:
        """With the best weight, the smallest of those that are equally good.

        Args:
            preranked: requests, their candidates with the pre-ranker's scores, and what each user did next; validation
                alone, which neither the pre-ranker nor the embedding model learned from.
            size: M', candidates that go on.
        """
        hits, count = dict.fromkeys(WEIGHTS, 0), 0
        for requests, candidates, targets in preranked:
            parts = _Parts(similarity, requests, candidates)
            count += len(targets)
            for weight in WEIGHTS:
                kept = (parts.fused(weight) if weight else candidates).top(size).items
                hits[weight] += int((kept == targets[:, None]).sum())
        best = max(WEIGHTS, key=lambda weight: hits[weight])
        return cls(similarity, best, tuple((weight, hits[weight] / max(count, 1)) for weight in WEIGHTS))

    def described(self) -> dict[str, Any]:
        """What `funnel.json` keeps of it."""
        return {"channel": self.similarity.channel, "weight": self.weight, "tried": [list(t) for t in self.tried]}

    @classmethod
    def of_description(cls, saved: Mapping[str, Any], known: Mapping[str, Similarity]) -> Fusion:
        """The fusion that `described` tells of.

        Args:
            known: the funnel's channels of vectors.
        Raises:
            ValueError: it is not what `described` writes, or is of a channel that `known` lacks.
        """
        channel, weight = saved["channel"], float(saved["weight"])
        if channel not in known:
            raise ValueError(f"fuses channel {channel!r}, channels with vectors are {sorted(known)}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"the weight of the fusion is {weight}")
        return cls(known[channel], weight, tuple((float(w), float(hr)) for w, hr in saved["tried"]))


class _Parts:
    """Both scores of the same candidates on one scale."""

    def __init__(self, similarity: Similarity, requests: Requests, candidates: Candidates) -> None:
        self._candidates = candidates
        self._light = standardised(candidates.scores, candidates.mask)
        self._similar = standardised(similarity.scores(requests, candidates.items), candidates.mask)

    def fused(self, weight: float) -> Candidates:
        return self._candidates.rescored(self._light + weight * self._similar)


def standardised(scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Mean 0 and variance 1 over each row's real candidates; 0 in empty slots and in rows of equal scores."""
    count = mask.sum(1, keepdim=True).clamp(min=1)
    scores = torch.where(mask, scores, 0.0).double()
    centred = torch.where(mask, scores - scores.sum(1, keepdim=True) / count, 0.0)
    std = (centred.pow(2).sum(1, keepdim=True) / count).sqrt()
    equal = std <= 1e-6 * scores.abs().amax(1, keepdim=True) if scores.shape[1] else std > -1
    return torch.where(equal, 0.0, centred / std).float()
