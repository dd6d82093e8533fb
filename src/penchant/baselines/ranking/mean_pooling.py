"""Mean pooling: a ranker that sees the average of the history, whatever the candidate. DIN's control."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from penchant.baselines.ranking.parts import RankerBody, RankerConfig
from penchant.funnel.features import RankInputs
from penchant.models import Sizes


class MeanPooling(nn.Module):
    """The base model of Zhou et al., "Deep Interest Network for Click-Through Rate Prediction" (KDD 2018), section 4.2.

    v = mean of the embedded history (zero where there is none); logit = MLP([v, e, v * e, features])

    Deviates: a mean where the paper sums, so that a long history is no larger vector; the rest as `DIN` says.
    """

    kind = "mean_pooling"
    Config = RankerConfig

    def __init__(self, config: RankerConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        self.body = RankerBody(config, sizes)

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        """Logits; what an empty slot gets means nothing."""
        candidates = self.body.embed(inputs.items)
        # Padding has the zero vector, so the sum needs no mask.
        total = self.body.embed(inputs.requests.history).sum(1)
        mean = total / inputs.requests.lengths.clamp(min=1)[:, None]
        return self.body(mean[:, None].expand_as(candidates), candidates, inputs)
