"""DIN: a ranker that weighs the history anew for each candidate."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from penchant.baselines.ranking.parts import RankerBody, RankerConfig
from penchant.funnel.features import RankInputs
from penchant.models import Sizes


class ActivationUnit(nn.Module):
    """a(h, e) = w . PReLU(W [h, e, h - e, h * e] + b) + c: one unbounded weight for each pair, no softmax.

    Computed as (W1 + W3) h + (W2 - W3) e + W4 (h * e): a request's history goes through its part once for all
    candidates, and no [B, K, S, 4 D] tensor is made.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(4 * width, hidden)
        self.act = nn.PReLU()
        self.out = nn.Linear(hidden, 1)

    def forward(
        self, history: Float[Tensor, "B S D"], candidates: Float[Tensor, "B K D"], mask: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B K S"]:
        of_history, of_candidate, of_difference, of_product = self.inner.weight.chunk(4, dim=1)
        h = F.linear(history, of_history + of_difference)
        e = F.linear(candidates, of_candidate - of_difference, self.inner.bias)
        both = F.linear(history[:, None] * candidates[:, :, None], of_product)
        weights = self.out(self.act(both + h[:, None] + e[:, :, None]))[..., 0]
        return weights * mask[:, None]


class DIN(nn.Module):
    """Deep Interest Network: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018.

    v(e) = sum_s a(h_s, e) h_s                              [Eq. 3]
    logit = MLP([v, e, v * e, features])

    Deviates: the activation unit reads h - e and h * e in place of their outer product; PReLU there and GELU in the
    last network where the paper has Dice, whose batch statistics would count padding; the last network also reads
    v * e; dense features in place of a user profile; no user embedding, so a new user is no special case. As in the
    paper, the weights are not normalised.
    """

    kind = "din"
    Config = RankerConfig

    def __init__(self, config: RankerConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        self.body = RankerBody(config, sizes)
        self.unit = ActivationUnit(config.width + config.category_width, config.attention)

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        """Logits; what an empty slot gets means nothing."""
        candidates, history = self.body.embed(inputs.items), self.body.embed(inputs.requests.history)
        weights = self.unit(history, candidates, inputs.requests.mask)
        return self.body(weights @ history, candidates, inputs)
