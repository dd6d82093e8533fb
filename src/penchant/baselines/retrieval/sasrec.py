"""SASRec: a causal transformer over item ids. Kang & McAuley, "Self-attentive sequential recommendation", ICDM 2018.

Deviates: trained with a softmax over the catalogue instead of one sampled negative (which is what made the published
numbers low), pre-norm blocks with GELU, item vectors shared by input and output.

With `gated` its blocks are LiGR's, which makes it eSASRec (Tikhonovich et al., RecSys 2025); the loss is as above,
where eSASRec samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.errors import ConfigError
from penchant.layers import BlockConfig, CausalBlock, Dropout, check_sizes, item_embedding
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class SASRecConfig:
    """Sizes of SASRec."""

    width: int = 64
    """Width of item vectors and hidden states."""
    blocks: int = 2
    heads: int = 2
    expansion: int = 4
    """Inner width of the feed-forward layers, in widths."""
    gated: bool = False
    """Gated residuals and SwiGLU, as eSASRec has them."""
    dropout: float = 0.2
    max_len: int = 50
    """Actions read, the latest ones."""
    first_length: float = 1.0
    """Expected length of item and position vectors before training; short ones learn faster where items are rare."""

    def __post_init__(self) -> None:
        if not 0 < self.first_length < float("inf"):
            raise ConfigError(f"first_length is {self.first_length}", fix="Set first_length above 0.")
        check_sizes(self, "width", "blocks", "heads", "expansion", "max_len")


class SASRec(nn.Module):
    """h_t = transformer(items up to t); scores h_t . e_i."""

    kind: ClassVar[str] = "sasrec"
    Config: ClassVar[type] = SASRecConfig

    def __init__(self, config: SASRecConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        block = BlockConfig(
            width=config.width,
            heads=config.heads,
            dropout=config.dropout,
            expansion=config.expansion,
            gated=config.gated,
        )
        self.items = item_embedding(sizes.num_items, config.width)
        self.positions = nn.Embedding(config.max_len, config.width)
        nn.init.normal_(self.positions.weight, std=config.width**-0.5)
        with torch.no_grad():
            for table in (self.items, self.positions):
                table.weight.mul_(config.first_length)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(CausalBlock(block) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)

    def hidden(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """The user's vector after each action, right-padded with what nobody should read."""
        x = self._embedded(history)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """h after the last action; zero without any. The last block is computed for that one position."""
        requests = requests.last(self.config.max_len)
        *blocks, top = self.blocks
        x = self._embedded(requests.history)
        for block in blocks:
            x = block(x)
        assert isinstance(top, CausalBlock)
        return self.norm(top.last(x, requests.lengths)) * (requests.lengths > 0)[:, None]

    def _embedded(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        return self.dropout(self._read(history) + self.positions.weight[: history.shape[1]])

    def _read(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        return self.items(history)

    def item_vectors(self) -> Float[Tensor, "I D"]:
        return self.items.weight

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, as the sampled softmax needs them."""
        return self.items(items)
