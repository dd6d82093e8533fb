"""FRNet on a factorization machine: features refined by their context, then taken in pairs; no behaviour sequence."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from penchant.baselines.ranking.parts import FieldEmbedding, FirstOrder, ItemEmbedding, RankerConfig
from penchant.funnel.features import Features, FeatureScale, RankInputs
from penchant.layers import Dropout
from penchant.models import Sizes


class InformationExtraction(nn.Module):
    """IEU(E) = O_vec * O_bit: cross-feature relations of each field, times one context of the whole instance.

    O_vec = softmax(Q K^T) V W_P with Q, K, V = E W_Q, E W_K, E W_V      (self-attention unit, not scaled)
    O_bit = PReLU(W_2 PReLU(W_1 [e_1 .. e_f] + b_1) + b_2)               (contextual information extractor)
    """

    def __init__(self, num_fields: int, config: RankerConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.width, config.attention, bias=False)
        self.key = nn.Linear(config.width, config.attention, bias=False)
        self.value = nn.Linear(config.width, config.attention, bias=False)
        self.project = nn.Linear(config.attention, config.width, bias=False)
        self.context = nn.Sequential(
            nn.Linear(num_fields * config.width, config.hidden),
            nn.PReLU(),
            Dropout(config.dropout),
            nn.Linear(config.hidden, config.width),
            nn.PReLU(),
        )

    def forward(self, fields: Float[Tensor, "B K f D"]) -> Float[Tensor, "B K f D"]:
        relations = (self.query(fields) @ self.key(fields).transpose(2, 3)).softmax(dim=-1)
        vectors = self.project(relations @ self.value(fields))
        return vectors * self.context(fields.flatten(2))[:, :, None]


class FRNet(nn.Module):
    """Wang et al., "Enhancing CTR Prediction with Context-Aware Feature Representation Learning", SIGIR 2022, on the
    factorization machine of Rendle, "Factorization Machines", ICDM 2010.

    E_r = E * sigmoid(W_b) + E_g * (1 - sigmoid(W_b)) with E_g, W_b = IEU_G(E), IEU_W(E)      (CSGate, bit by bit)
    logit = b + sum_i w_i x_i + sum_{i<j} <r_i, r_j>, r the rows of E_r, the pairs as (|sum r|^2 - sum |r|^2) / 2

    Fields: the item, its category, each further field, and each dense feature, whose vector is scaled by its
    standardised value. The
    history is read by dense features alone. A candidate costs F^2 products of vectors, F the dense features.

    Deviates: dense features are fields of their own where the paper has categorical ones alone; no batch normalisation
    in the extractor, which the authors' code has and whose statistics would count padding; no user field.
    """

    kind = "frnet"
    Config = RankerConfig

    def __init__(self, config: RankerConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        self.embed = ItemEmbedding(replace(config, category_width=config.width), sizes)
        self.dense = nn.Embedding(sizes.num_features, config.width)
        nn.init.normal_(self.dense.weight, std=0.05)
        self.scale = FeatureScale(sizes.num_features)
        self.dropout = Dropout(config.embedding_dropout)
        self.first_order = FirstOrder(sizes)
        self.fields = FieldEmbedding(sizes, config.width)
        count = 2 + sizes.num_features + len(sizes.code_columns)
        self.complement = InformationExtraction(count, config)
        self.gate = InformationExtraction(count, config)

    def fit_inputs(self, features: Features, batches: list[RankInputs]) -> None:
        """Fill the buffers: the items' categories, and the features' mean and std over some training batches."""
        self.embed.category_of.copy_(features.item_category)
        self.scale.fit(batches)

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        """Logits; what an empty slot gets means nothing."""
        features = self.scale(inputs.features)
        of_item = self.dropout(self.embed(inputs.items)).unflatten(2, (2, self.config.width))
        further = self.fields(inputs)
        parts = [of_item, features[..., None] * self.dense.weight]
        fields = torch.cat([*parts, further] if further.shape[2] else parts, dim=2)
        kept = self.gate(fields).sigmoid()
        refined = fields * kept + self.complement(fields) * (1 - kept)
        pairs = (refined.sum(2).square() - refined.square().sum(2)).sum(-1) / 2
        return self.first_order(inputs, self.embed.category_of[inputs.items], features) + pairs
