"""ComiRec: several interests of a user, by self-attention (SA) or by routing (DR). Cen et al., "Controllable
multi-interest framework for recommendation", KDD 2020.

Training compares the target with the interest nearest to it alone (`objective.nearest`). Serving takes an item's best
interest.

Deviates: no aggregation that trades scores for diversity of categories (lambda = 0, Algorithm 2). Interests are
lengthened by sqrt(D), for with vectors shorter than 1 a softmax over a whole catalogue stays flat for long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.baselines.retrieval.interests import MultiInterest, routed
from penchant.layers import check_sizes
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class ComiRecSAConfig:
    """Sizes of ComiRec-SA."""

    width: int = 64
    """Width of item vectors and of interests."""
    interests: int = 4
    inner: int = 256
    """Width of the attention's inner layer, d_a."""
    dropout: float = 0.2
    max_len: int = 50
    """Actions read, the latest ones."""
    categories: bool = False
    """Items' vectors also have a part that all items of a category share."""

    def __post_init__(self) -> None:
        check_sizes(self, "width", "interests", "inner", "max_len")


class ComiRecSA(MultiInterest):
    """A = softmax over the actions of W2 tanh(W1 (x_i + p_i)), one row an interest; V = A X (section 3.2).

    Deviates: positions are counted back from the latest action, so that it has the same one in every history.
    """

    kind: ClassVar[str] = "comirec_sa"
    Config: ClassVar[type] = ComiRecSAConfig

    def __init__(self, config: ComiRecSAConfig, sizes: Sizes) -> None:
        super().__init__(config.width, config.max_len, config.dropout, sizes, categories=config.categories)
        self.config = config
        self.ages = nn.Embedding(config.max_len, config.width)
        nn.init.normal_(self.ages.weight, std=config.width**-0.5)
        self.attention = nn.Sequential(
            nn.Linear(config.width, config.inner), nn.Tanh(), nn.Linear(config.inner, config.interests)
        )

    def interests(self, history: Int[Tensor, "B S"]) -> tuple[Float[Tensor, "B K D"], Bool[Tensor, "B K"]]:
        """See `MultiInterest.interests`. All K of them from the first action on."""
        real = history > 0
        x = self.dropout(self.items(history))
        logits = self.attention(x + self.ages(ages(real)))
        # The smallest number and not -inf: without any action the mean is of nothing, and must be no NaN.
        weights = logits.masked_fill(~real[..., None], torch.finfo(logits.dtype).min).softmax(1)
        vectors = weights.transpose(1, 2) @ x * self.config.width**0.5
        return vectors, real.any(1, keepdim=True).expand(-1, self.config.interests)


def ages(real: Bool[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    """How many actions came after each: 0 at the latest. Whatever at padding."""
    return (real.sum(1, keepdim=True) - 1 - torch.arange(real.shape[1], device=real.device)).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class ComiRecDRConfig:
    """Sizes of ComiRec-DR."""

    width: int = 64
    """Width of item vectors and of interests."""
    interests: int = 4
    iterations: int = 3
    """Rounds of routing."""
    dropout: float = 0.2
    max_len: int = 50
    """Actions read, the latest ones."""
    categories: bool = False
    """Items' vectors also have a part that all items of a category share."""

    def __post_init__(self) -> None:
        check_sizes(self, "width", "interests", "iterations", "max_len")


class ComiRecDR(MultiInterest):
    """v_1 .. v_K = routing of x_1 .. x_n from zero logits, each interest with a map of its own (Algorithm 1).

    Deviates: a map W_k an interest, instead of W_ik for every place i too, which with histories of 1000 were sixteen
    million numbers: the order of actions is not read, as it is not by MIND. (Vectors of the actions' ages added to the
    items, a cheap stand-in, made it no better on ML-1M.) The weights of the last round are constants to the gradient.
    """

    kind: ClassVar[str] = "comirec_dr"
    Config: ClassVar[type] = ComiRecDRConfig

    def __init__(self, config: ComiRecDRConfig, sizes: Sizes) -> None:
        super().__init__(config.width, config.max_len, config.dropout, sizes, categories=config.categories)
        self.config = config
        self.maps = nn.Parameter(torch.randn(config.interests, config.width, config.width) * config.width**-0.5)

    def interests(self, history: Int[Tensor, "B S"]) -> tuple[Float[Tensor, "B K D"], Bool[Tensor, "B K"]]:
        """See `MultiInterest.interests`. All K of them from the first action on."""
        known = history > 0
        x = self.dropout(self.items(history))
        logits = x.new_zeros(1, history.shape[1], self.config.interests)
        every = torch.ones(len(x), self.config.interests, dtype=torch.bool, device=x.device)
        vectors = routed(x, self.maps, logits, every, self.config.iterations)
        return vectors * self.config.width**0.5, every & known.any(1, keepdim=True)
