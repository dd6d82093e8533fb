"""What the rankers share, so that how each uses the history is the one difference between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.errors import ConfigError, at_least
from penchant.funnel.features import Features, FeatureScale, RankInputs
from penchant.layers import MLP, SPARSE_FROM_ITEMS, Dropout
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """Widths of a ranker. The defaults are DIN's, but for the embeddings' widths."""

    width: int = 32
    """Of an item's own embedding."""
    category_width: int = 8
    """Of its category's embedding; FRNet's fields are all of `width`."""
    field_width: int = 8
    """Of each further field's embedding (`fields` of a run)."""
    hidden: int = 200
    """Width of the last network's first inner layer; of FRNet's contextual information extractor."""
    hidden_second: int = 80
    """Width of its second inner layer; FRNet has no last network."""
    attention: int = 36
    """Inner width of DIN's activation unit and of FRNet's self-attention; the others have neither."""
    dropout: float = 0.1
    """Inside the last network, FRNet's extractor and BST's block."""
    embedding_dropout: float = 0.3
    """On the candidate's embedding and on what the history is pooled to, against learning the items by heart."""

    def __post_init__(self) -> None:
        at_least(1, self, "width", "category_width", "field_width", "hidden", "hidden_second", "attention")
        for name in ("dropout", "embedding_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix=f"Set {name} to 0 or more, and below 1.")


class ItemEmbedding(nn.Module):
    """e = [embedding of the item, embedding of its category]; zero for 0. The categories are a buffer."""

    category_of: Tensor

    def __init__(self, config: RankerConfig, sizes: Sizes) -> None:
        super().__init__()
        sparse = sizes.num_items >= SPARSE_FROM_ITEMS
        self.item = nn.Embedding(sizes.num_items + 1, config.width, padding_idx=0, sparse=sparse)
        self.category = nn.Embedding(sizes.num_categories + 1, config.category_width, padding_idx=0)
        self.register_buffer("category_of", torch.zeros(sizes.num_items + 1, dtype=torch.int64))
        for table in (self.item, self.category):
            nn.init.normal_(table.weight, std=0.05)
            nn.init.zeros_(table.weight[0])

    def forward(self, items: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        return torch.cat([self.item(items), self.category(self.category_of[items])], dim=-1)


class FieldEmbedding(nn.Module):
    """One vector of each field: of its code, or the mean over those of a list. Nothing where there are no fields."""

    def __init__(self, sizes: Sizes, width: int) -> None:
        super().__init__()
        self.columns = sizes.code_columns
        self.table = nn.Embedding(sizes.num_codes + 1, width, padding_idx=0) if self.columns else None
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=0.05)
            nn.init.zeros_(self.table.weight[0])

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K f D"]:
        """Raises:
        ValueError: the model has fields and the inputs do not.
        """
        if self.table is None:
            return inputs.features.new_zeros(*inputs.items.shape, 0, 1)
        if inputs.codes is None:
            raise ValueError("this model reads fields, the inputs have none")
        parts = [
            self.table(codes).sum(2) / (codes > 0).sum(2, keepdim=True).clamp(min=1)
            for codes in inputs.codes.split(list(self.columns), dim=2)
        ]
        return torch.stack(parts, dim=2)


class FirstOrder(nn.Module):
    """The linear part of Wide & Deep and of FM: w_item + w_category + w . features + sum of w_field + b."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        sparse = sizes.num_items >= SPARSE_FROM_ITEMS
        self.item = nn.Embedding(sizes.num_items + 1, 1, padding_idx=0, sparse=sparse)
        self.category = nn.Embedding(sizes.num_categories + 1, 1, padding_idx=0)
        self.features = nn.Linear(sizes.num_features, 1)
        self.fields = FieldEmbedding(sizes, 1)
        for table in (self.item, self.category):
            nn.init.zeros_(table.weight)

    def forward(
        self, inputs: RankInputs, categories: Int[Tensor, "B K"], features: Float[Tensor, "B K F"]
    ) -> Float[Tensor, "B K"]:
        """Args:
        features: scaled.
        """
        of_item = self.item(inputs.items) + self.category(categories)
        return (of_item + self.features(features) + self.fields(inputs).sum(2))[..., 0]


class RankerBody(nn.Module):
    """Embeddings before the pooling, and the last network after it: MLP([v, e, v * e, features, fields, further]).

    Args:
        further: width of what a ranker has beside these.
    """

    def __init__(self, config: RankerConfig, sizes: Sizes, further: int = 0) -> None:
        super().__init__()
        width = config.width + config.category_width
        self.embed = ItemEmbedding(config, sizes)
        self.scale = FeatureScale(sizes.num_features)
        self.dropout = Dropout(config.embedding_dropout)
        self.fields = FieldEmbedding(sizes, config.field_width)
        inputs = 3 * width + sizes.num_features + len(sizes.code_columns) * config.field_width + further
        self.mlp = MLP(inputs, config.hidden, config.hidden_second, 1, dropout=config.dropout)

    def fit_inputs(self, features: Features, batches: list[RankInputs]) -> None:
        """Fill the buffers: the items' categories, and the features' mean and std over some training batches."""
        self.embed.category_of.copy_(features.item_category)
        self.scale.fit(batches)

    def forward(
        self,
        pooled: Float[Tensor, "B K D"],
        candidates: Float[Tensor, "B K D"],
        inputs: RankInputs,
        further: Float[Tensor, "B K f"] | None = None,
    ) -> Float[Tensor, "B K"]:
        pooled, candidates = self.dropout(pooled), self.dropout(candidates)
        parts = [pooled, candidates, pooled * candidates, self.scale(inputs.features), self.fields(inputs).flatten(2)]
        return self.mlp(torch.cat(parts if further is None else [*parts, further], dim=2))[..., 0]
