"""Building blocks that two or more models share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.errors import ConfigError, at_least

SPARSE_FROM_ITEMS = 100_000
"""Catalogues of this size or more get sparse gradients and a row-wise optimizer: a dense one touches every row."""


def check_sizes(config: Any, *names: str) -> None:
    """Refuse a config whose named sizes are below 1, whose width does not fit its heads, or whose dropout is no rate.

    Raises:
        ConfigError: which field, and what it may be.
    """
    at_least(1, config, *names)
    if "heads" in names and config.width % config.heads:
        what = f"width {config.width} is not a multiple of heads {config.heads}"
        raise ConfigError(what, fix="Set width to a multiple of heads.")
    if not 0 <= config.dropout < 1:
        raise ConfigError(f"dropout is {config.dropout}", fix="Set dropout to 0 or more, and below 1.")


def item_embedding(num_items: int, width: int) -> nn.Embedding:
    """Item vectors of expected length 1, row 0 (padding) zero and kept so."""
    table = nn.Embedding(num_items + 1, width, padding_idx=0, sparse=num_items >= SPARSE_FROM_ITEMS)
    with torch.no_grad():
        table.weight.normal_(std=width**-0.5)
        table.weight[0] = 0.0
    return table


class CategorisedItems(nn.Module):
    """Item vectors that also have a vector of their category: x_i = item_i + category_c(i); row 0 zero."""

    item_category: Tensor

    def __init__(self, num_items: int, num_categories: int, width: int) -> None:
        super().__init__()
        self.own = item_embedding(num_items, width)
        self.of_category = item_embedding(num_categories, width)
        self.register_buffer("item_category", torch.zeros(num_items + 1, dtype=torch.int64))

    @property
    def weight(self) -> Float[Tensor, "I D"]:
        """All of them."""
        return self.own.weight + self.of_category(self.item_category)

    def forward(self, items: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        return self.own(items) + self.of_category(self.item_category[items])


def last_hidden(hidden: Float[Tensor, "B S D"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
    """The vector at each row's last real position; zero where there is none."""
    if not hidden.shape[1]:
        return hidden.new_zeros(hidden.shape[0], hidden.shape[2])
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, (lengths - 1).clamp(min=0)] * (lengths > 0)[:, None]


class Dropout(nn.Module):
    """Dropout at a rate of 1/256 steps, from eight random bytes a draw: on a CPU, drawing is what dropout costs.

    `nn.Dropout` draws one Bernoulli number an element, which took a fifth of a training step here. Elsewhere than on a
    CPU it is `nn.Dropout`.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout must be in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        dropped = min(round(self.rate * 256), 255)
        if not self.training or not dropped:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * (kept.to(x.dtype) * (256 / (256 - dropped)))


class MLP(nn.Sequential):
    """Linear layers with GELU between them: widths (in, hidden, ..., out); nothing after the last."""

    def __init__(self, *widths: int, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            if i:
                layers += [nn.GELU(), Dropout(dropout)]
            layers.append(nn.Linear(fan_in, fan_out))
        super().__init__(*layers)


class SwiGLU(nn.Module):
    """W_2 (silu(W_1 x) * W_3 x). Shazeer, "GLU variants improve transformer", 2020."""

    def __init__(self, width: int, inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        gate, value = self.inner(x).chunk(2, dim=-1)
        return self.out(self.dropout(F.silu(gate) * value))


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Sizes of a transformer block."""

    width: int = 64
    heads: int = 2
    dropout: float = 0.2
    expansion: int = 4
    """The feed-forward layer's inner width, in widths."""
    gated: bool = False
    """LiGR: x + sigmoid(W x) * f(norm(x)) in place of x + f(norm(x)), and a SwiGLU as feed-forward layer."""


class _Block(nn.Module):
    """Pre-norm transformer block over right-padded rows; who attends to whom is the subclasses' matter."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"width {config.width} is not a multiple of heads {config.heads}")
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm_mlp = nn.LayerNorm(config.width)
        inner = config.expansion * config.width
        if config.gated:
            self.mlp = SwiGLU(config.width, inner, dropout=config.dropout)
        else:
            self.mlp = MLP(config.width, inner, config.width, dropout=config.dropout)
        self.gates = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(2 if config.gated else 0))
        self.dropout = Dropout(config.dropout)

    def last(self, x: Float[Tensor, "B S D"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """`last_hidden` of what `forward` gives, at the price of one position: one query, one pass of the MLP a row."""
        batch, length, width = x.shape
        if not length:
            return x.new_zeros(batch, width)
        normed = self.norm_attention(x)
        at = last_hidden(x, lengths)
        q = F.linear(last_hidden(normed, lengths), self.qkv.weight[:width], self.qkv.bias[:width])
        keys = F.linear(normed, self.qkv.weight[width:], self.qkv.bias[width:])
        k, v = keys.view(batch, length, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mask = _real(lengths, length)[:, None, None]
        mixed = F.scaled_dot_product_attention(q.view(batch, self.heads, 1, width // self.heads), k, v, attn_mask=mask)
        return self._after_attention(at, mixed.reshape(batch, width)) * (lengths > 0)[:, None]

    def _attended(self, x: Float[Tensor, "B S D"], mask: Bool[Tensor, "B 1 1 S"] | None) -> Float[Tensor, "B S D"]:
        """The block's output where each position attends to what the mask shows; causally without one."""
        batch, length, width = x.shape
        # Widths by name: with no row or no position there is nothing that -1 could be told from.
        heads = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self._after_attention(x, mixed.transpose(1, 2).reshape(batch, length, width))

    def _after_attention(self, x: Float[Tensor, "*B D"], mixed: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        x = x + self.dropout(self._gated(0, x, self.out(mixed)))
        return x + self.dropout(self._gated(1, x, self.mlp(self.norm_mlp(x))))

    def _gated(self, gate: int, x: Float[Tensor, "*B D"], added: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.gates[gate](x).sigmoid() * added if self.gates else added


class CausalBlock(_Block):
    """Pre-norm transformer block: each position attends to itself and what came before.

    Right-padded input needs no padding mask: a real position never sees the padding after it.
    """

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        return self._attended(x, None)


class OpenBlock(_Block):
    """Pre-norm transformer block: each position attends to all real ones, before it and after it."""

    def forward(self, x: Float[Tensor, "B S D"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B S D"]:
        return self._attended(x, _real(lengths, x.shape[1])[:, None, None])


def _real(lengths: Int[Tensor, " B"], width: int) -> Bool[Tensor, "B S"]:
    """What may be attended to: a row's real positions, the first one where there are none."""
    return torch.arange(width, device=lengths.device) < lengths.clamp(min=1)[:, None]


Draw = Callable[[int], Tensor]
"""Standard normal noise [B, S, D] under a number, the same whenever that number is asked for."""


def noise_of_users(users: Int[Tensor, " B"], length: int, width: int, seed: int) -> Draw:
    """Normal noise that depends on the user, the seed, the number of the draw, the place from the end and the column
    alone: a model that serves samples gives the same request the same answer.

    A generator by counters, as one with a state would give a user other noise in other company or with other padding.
    Bits by SplitMix64 (Steele et al. 2014), normals by Box and Muller.

    Returns: draws of [B, length, width].
    """
    place = torch.arange(length - 1, -1, -1, device=users.device)[:, None] * width
    cell = place + torch.arange(width, device=users.device)

    def draw(number: int) -> Tensor:
        stream = _mixed(_mixed(users + seed * 0x9E37_79B9) + number)
        bits = _mixed(stream[:, None, None] + cell)
        # 24 bits each; the first is never 0, whose logarithm there is none of.
        one = ((bits >> 40 & 0xFF_FFFF) + 1).float() / 2**24
        two = (bits >> 16 & 0xFF_FFFF).float() / 2**24
        return (-2 * one.log()).sqrt() * (2 * math.pi * two).cos()

    return draw


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's next number after x, of int64 taken as 64 bits."""
    x = x - 0x61C8_8646_80B5_83EB
    x = (x ^ _shifted(x, 30)) * -0x40A7_B892_E31B_1A47
    x = (x ^ _shifted(x, 27)) * -0x6B2F_B644_ECCE_EE15
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Right, with zeros coming in."""
    return x >> by & (1 << 64 - by) - 1
