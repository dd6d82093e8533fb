"""LRD on DIN: the history is weighed by latent relations between the candidate's and each action's frozen text."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from penchant.baselines.ranking.content import ContentProjection, ItemContent, VectorRankerConfig
from penchant.baselines.ranking.din import ActivationUnit
from penchant.baselines.ranking.parts import RankerBody
from penchant.errors import at_least
from penchant.funnel.features import RankInputs
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class LRDConfig(VectorRankerConfig):
    """DIN's sizes, the content, and the relations."""

    modalities: tuple[str, ...] = ("text",)
    """As published, the text; the projections of several are added."""
    relations: int = 8
    """R: latent relations that two items may have."""
    relation_hidden: int = 16
    """Width to which the encoder projects the vectors before it compares them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "relations", "relation_hidden")


class RelationEncoder(nn.Module):
    """q(r | i, s) = softmax(W [g_i, g_s, g_i * g_s] + b), g = P x: a distribution over R relations for each pair.

    W is applied in three parts: what depends on one item alone is multiplied once, and no [B, K, S, 3 p] tensor is
    made.
    """

    def __init__(self, config: LRDConfig) -> None:
        super().__init__()
        self.project = ContentProjection(config, config.relation_hidden, std=1.0)
        self.classify = nn.Linear(3 * config.relation_hidden, config.relations)

    def forward(self, content: ItemContent, inputs: RankInputs) -> Float[Tensor, "B K R S"]:
        """Zero, not a distribution, where the action is padding or one of the two has no content."""
        history = inputs.requests.history
        candidates, actions = self.project(content, inputs.items), self.project(content, history)
        of_candidate, of_action, of_product = self.classify.weight.chunk(3, dim=1)
        one = F.linear(candidates, of_candidate, self.classify.bias)[..., None]
        other = F.linear(actions, of_action).mT[:, None]
        both = (candidates[:, :, None] * of_product) @ actions.mT[:, None]
        known = content.has(inputs.items)[:, :, None, None] & content.has(history)[:, None, None]
        return (one + other + both).softmax(2) * known


class LRD(nn.Module):
    """Yang et al., "Sequential Recommendation with Latent Relations based on Large Language Model", SIGIR 2024.

    rho_s = sum_r q(r | i, s) E_r: the relation of action and candidate, in expectation
    w_s = a(h_s, e) + rho_s . e;  v = sum_s w_s (h_s + rho_s)
    logit = MLP([v, e, v * e, features])

    A pair of which no relation is known is weighed as DIN does.

    Deviates: the paper adds latent relations to the known ones of relation-aware recommenders that retrieve; as in
    DMAE's Table 2 the backbone is DIN, into whose weights and pooling the relation enters as above. The encoder also
    reads g_i * g_s, without which the two texts could not be compared. Frozen vectors of any encoder, standardised, in
    place of a large language model's. What teaches it to find relations by itself is in `auxiliary.py`.
    """

    kind = "lrd"
    Config = LRDConfig

    def __init__(self, config: LRDConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        width = config.width + config.category_width
        self.body = RankerBody(config, sizes)
        self.unit = ActivationUnit(width, config.attention)
        self.content = ItemContent(config, sizes.num_items)
        self.encoder = RelationEncoder(config)
        self.relation = nn.Embedding(config.relations, width)
        nn.init.normal_(self.relation.weight, std=0.05)

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        """Logits; what an empty slot gets means nothing."""
        return self.logits(inputs, self.encoder(self.content, inputs))

    def logits(self, inputs: RankInputs, q: Float[Tensor, "B K R S"]) -> Float[Tensor, "B K"]:
        """DIN with relations, given each pair's distribution."""
        candidates, history = self.body.embed(inputs.items), self.body.embed(inputs.requests.history)
        of_relation = F.linear(candidates, self.relation.weight)
        weights = self.unit(history, candidates, inputs.requests.mask) + (of_relation[:, :, None] @ q)[:, :, 0]
        # sum_s w_s rho_s = (sum_s w_s q_s) E: no vector of D for each pair.
        pooled = weights @ history + (q @ weights[..., None])[..., 0] @ self.relation.weight
        return self.body(pooled, candidates, inputs)
