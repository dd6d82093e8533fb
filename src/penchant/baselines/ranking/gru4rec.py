"""GRU4Rec as a ranker: a recurrent network reads the history, whatever the candidate."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from penchant.baselines.ranking.parts import RankerBody, RankerConfig
from penchant.funnel.features import RankInputs
from penchant.layers import last_hidden
from penchant.models import Sizes


class GRU4RecRanker(nn.Module):
    """Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016: its recurrent network.

    v = GRU(h_1 .. h_S), the state after the last action (zero without any); logit = MLP([v, e, v * e, features])

    Deviates: the paper retrieves, with a score of every item from the state alone; here the state is what a ranker's
    last network reads. Whole histories instead of session-parallel batches. The state is as wide as an item's
    embedding, for v * e. The rest as `DIN` says.
    """

    kind = "gru4rec_ranker"
    Config = RankerConfig

    def __init__(self, config: RankerConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        self.body = RankerBody(config, sizes)
        width = config.width + config.category_width
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        """Logits; what an empty slot gets means nothing."""
        candidates, states = self.body.embed(inputs.items), self.body.embed(inputs.requests.history)
        if states.shape[1]:  # nn.GRU refuses a sequence of no steps
            states, _ = self.gru(states)
        last = last_hidden(states, inputs.requests.lengths)
        return self.body(last[:, None].expand_as(candidates), candidates, inputs)
