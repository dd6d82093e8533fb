"""Building blocks that two or more models share."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class MLP(nn.Sequential):
    """Linear layers with GELU between them: widths (in, hidden, ..., out); nothing after the last."""

    def __init__(self, *widths: int, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            if i:
                layers += [nn.GELU(), nn.Dropout(dropout)]
            layers.append(nn.Linear(fan_in, fan_out))
        super().__init__(*layers)


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Sizes of a transformer block."""

    width: int = 64
    heads: int = 2
    dropout: float = 0.2
    expansion: int = 4
    """The feed-forward layer's inner width, in widths."""


class CausalBlock(nn.Module):
    """Pre-norm transformer block: each position attends to itself and what came before.

    Right-padded input needs no padding mask: a real position never sees the padding after it.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"width {config.width} is not a multiple of heads {config.heads}")
        self.heads = config.heads
        self.rate = config.dropout
        self.norm_attention = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm_mlp = nn.LayerNorm(config.width)
        self.mlp = MLP(config.width, config.expansion * config.width, config.width, dropout=config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))
