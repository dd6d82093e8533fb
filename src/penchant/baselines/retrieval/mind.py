"""MIND: actions routed to interests. Li et al., "Multi-interest network with dynamic routing for recommendation at
Tmall", CIKM 2019.

Label-aware attention (section 3.4) belongs to training alone: `objective.py: attended`. Routing starts from random
logits of N(0, 1), the variance that the paper finds best: training draws them anew each time, as the paper does;
serving reads one draw that is kept with the model, a number for each (place in the history, interest), so that the same
history gives the same answer.

Deviates: item ids (and categories, as asked), no profile of the user; capsules are lengthened by sqrt(D) before the
layers that follow, whose last is linear, as item vectors have both signs; the weights of the last round are constants
to the gradient.
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
class MINDConfig:
    """Sizes of MIND."""

    width: int = 64
    """Width of item vectors and of interests."""
    interests: int = 4
    """Most interests of a user."""
    iterations: int = 3
    """Rounds of routing."""
    inner: int = 128
    """Width of the layer of ReLUs after the capsules."""
    dropout: float = 0.2
    max_len: int = 50
    """Actions read, the latest ones."""
    categories: bool = False
    """Items' vectors also have a part that all items of a category share."""

    def __post_init__(self) -> None:
        check_sizes(self, "width", "interests", "iterations", "inner", "max_len")


class MIND(MultiInterest):
    """u_1 .. u_K = B2I routing of x_1 .. x_n (Algorithm 1); v_k = W relu(W' u_k); scores max_k v_k . e_i.

    All interests share one bilinear map S. A user of n actions has max(1, min(K, log2 n)) interests, rounded down
    (section 3.3).
    """

    kind: ClassVar[str] = "mind"
    Config: ClassVar[type] = MINDConfig
    first_logits: Tensor
    fewest: Tensor

    def __init__(self, config: MINDConfig, sizes: Sizes) -> None:
        super().__init__(config.width, config.max_len, config.dropout, sizes, categories=config.categories)
        self.config = config
        self.bilinear = nn.Parameter(torch.randn(config.width, config.width) * config.width**-0.5)
        self.head = nn.Sequential(
            nn.Linear(config.width, config.inner), nn.ReLU(), nn.Linear(config.inner, config.width)
        )
        self.register_buffer("first_logits", torch.randn(config.max_len, config.interests))
        # The first interest from 1 action on, the second from 2^2, the third from 2^3: log2 in whole numbers.
        fewest = [1, *(2**k for k in range(2, config.interests + 1))]
        self.register_buffer("fewest", torch.tensor(fewest), persistent=False)

    def interests(self, history: Int[Tensor, "B S"]) -> tuple[Float[Tensor, "B K D"], Bool[Tensor, "B K"]]:
        """See `MultiInterest.interests`."""
        real = (history > 0).sum(1, keepdim=True) >= self.fewest
        x = self.dropout(self.items(history))
        logits = self.first_logits[None, : history.shape[1]]
        if self.training:
            logits = torch.randn(len(history), *logits.shape[1:], device=x.device)
        first = torch.arange(len(self.fewest), device=x.device) == 0  # takes part even where there is no action
        maps = self.bilinear.expand(len(self.fewest), -1, -1)
        capsules = routed(x, maps, logits, real | first, self.config.iterations)
        return self.head(capsules * self.config.width**0.5), real
