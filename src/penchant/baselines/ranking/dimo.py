"""DIMO as a ranker: an interest told by ids and one told by content, each from its own view of the history."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from penchant.baselines.ranking.content import ContentProjection, ItemContent, VectorRankerConfig
from penchant.baselines.ranking.din import ActivationUnit
from penchant.baselines.ranking.parts import RankerBody
from penchant.funnel.features import RankInputs
from penchant.models import Sizes


@dataclass(frozen=True)
class View:
    """Candidates and history as one view has them, and the interest that it tells."""

    candidates: Float[Tensor, "B K D"]
    history: Float[Tensor, "B S D"]
    interest: Float[Tensor, "B K D"]


class DIMO(nn.Module):
    """Zhang et al., "Disentangling ID and Modality Effects for Session-based Recommendation", SIGIR 2024, as a ranker.

    e, h_s: ids and categories;  g = sum_m W_m x^m: content in one common space, of the same width
    v_id = sum_s a_id(h_s, e) h_s;  v_mo = sum_s a_mo(g_s, g) g_s
    logit = MLP([v_id, e, v_id * e, features, v_mo, g, v_mo * g])

    An item without content has g = 0: in the history it adds nothing to v_mo.

    Deviates: the paper retrieves by a weighted sum of both views' scores; here each view has DIN's unit, and the last
    network reads both. Its co-occurrence graph over ids, its alignment of modalities and its proxies are three terms in
    `auxiliary.py`, as told there; its counterfactual sessions and its explanations are left out. Vectors are
    standardised before.
    """

    kind = "dimo"
    Config = VectorRankerConfig

    def __init__(self, config: VectorRankerConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        width = config.width + config.category_width
        self.body = RankerBody(config, sizes, further=3 * width)
        self.unit = ActivationUnit(width, config.attention)
        self.content = ItemContent(config, sizes.num_items)
        self.project = ContentProjection(config, width, std=0.05)  # as the embeddings
        self.content_unit = ActivationUnit(width, config.attention)

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        """Logits; what an empty slot gets means nothing."""
        return self.logits(inputs, *self.views(inputs))

    def views(self, inputs: RankInputs) -> tuple[View, View]:
        """By id, and by content."""
        history, mask = inputs.requests.history, inputs.requests.mask
        e, h = self.body.embed(inputs.items), self.body.embed(history)
        g, g_s = self.project(self.content, inputs.items), self.project(self.content, history)
        return View(e, h, self.unit(h, e, mask) @ h), View(g, g_s, self.content_unit(g_s, g, mask) @ g_s)

    def logits(self, inputs: RankInputs, by_id: View, by_content: View) -> Float[Tensor, "B K"]:
        """Both views through the last network."""
        interest, g = self.body.dropout(by_content.interest), self.body.dropout(by_content.candidates)
        further = torch.cat([interest, g, interest * g], dim=2)
        return self.body(by_id.interest, by_id.candidates, inputs, further)
