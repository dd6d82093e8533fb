"""STOSA: items and users as Gaussians, attention and scores by their Wasserstein distance. Fan et al., "Sequential
recommendation via stochastic self-attention", WWW 2022.

For diagonal covariances W2(a, b)^2 = |mean_a - mean_b|^2 + |std_a - std_b|^2, std the square roots of the variances.
The score is its negative. |mean_u|^2 + |std_u|^2 is the same for every item, so what is left is a dot product that
ranks alike, and by which any index serves it:

    -W2(u, i)^2 + |mean_u|^2 + |std_u|^2 = [2 mean_u; 2 std_u; 1] . [mean_i; std_i; -|mean_i|^2 - |std_i|^2]

Deviates: trained with a softmax over these scores unless `loss` is "published" (BPR with the penalty on positive versus
negative, `auxiliary.py`). Means go on from layer to layer as the paper says; its published code binds them to a
misspelt name and scores with the means it put in. Means and variances share no layer norm; variances have a floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.layers import Dropout, check_sizes, item_embedding, last_hidden
from penchant.models import Sizes

FLOOR = 1e-6
"""Least variance: the square root's slope has no bound below it."""


@dataclass(frozen=True, kw_only=True)
class STOSAConfig:
    """Sizes of STOSA."""

    width: int = 64
    """Width of means and of variances."""
    blocks: int = 2
    heads: int = 2
    expansion: int = 4
    """Inner width of the feed-forward layers, in widths."""
    dropout: float = 0.2
    max_len: int = 50
    """Actions read, the latest ones."""

    def __post_init__(self) -> None:
        check_sizes(self, "width", "blocks", "heads", "expansion", "max_len")


def positive(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """ELU(x) + 1, and no less than the floor: how variances are made."""
    return (F.elu(x) + 1).clamp(min=FLOOR)


def wasserstein(
    mean: Float[Tensor, "*B D"], std: Float[Tensor, "*B D"], means: Float[Tensor, "*B D"], stds: Float[Tensor, "*B D"]
) -> Float[Tensor, "*B"]:
    """W2^2 between pairs of diagonal Gaussians."""
    return (mean - means).square().sum(-1) + (std - stds).square().sum(-1)


class STOSA(nn.Module):
    """(mean_t, variance_t) = stochastic self-attention over items up to t; score -W2^2 to each item."""

    kind: ClassVar[str] = "stosa"
    Config: ClassVar[type] = STOSAConfig

    def __init__(self, config: STOSAConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        self.means = _Half(config, sizes.num_items)
        self.variances = _Half(config, sizes.num_items)
        self.blocks = nn.ModuleList(StochasticBlock(config) for _ in range(config.blocks))

    def states(self, history: Int[Tensor, "B S"]) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S D"]]:
        """The user's mean and standard deviation after each action, right-padded with what nobody should read."""
        mean, variance = self.means(history), positive(self.variances(history))
        for block in self.blocks:
            mean, variance = block(mean, variance)
        return mean, variance.sqrt()

    def gaussians(self, items: Int[Tensor, "*B"]) -> tuple[Float[Tensor, "*B D"], Float[Tensor, "*B D"]]:
        """Means and standard deviations of items."""
        return self.means.items(items), positive(self.variances.items(items)).sqrt()

    def hidden(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S E"]:
        """[2 mean; 2 std; 1] after each action, right-padded with what nobody should read; E = 2 D + 1."""
        mean, std = self.states(history)
        return torch.cat([2 * mean, 2 * std, mean.new_ones(*mean.shape[:2], 1)], dim=-1)

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B E"]:
        """The vector after the last action; zero without any."""
        requests = requests.last(self.config.max_len)
        if not requests.history.shape[1]:
            return self.means.items.weight.new_zeros(len(requests), 2 * self.config.width + 1)
        return last_hidden(self.hidden(requests.history), requests.lengths)

    def item_vectors(self) -> Float[Tensor, "I E"]:
        """[mean; std; -|mean|^2 - |std|^2]."""
        mean, variance = self.means.items.weight, positive(self.variances.items.weight)
        return _vectors(mean, variance.sqrt())

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N E"]:
        """Vectors of some items, as the sampled softmax needs them."""
        return _vectors(*self.gaussians(items))


class StochasticBlock(nn.Module):
    """Wasserstein self-attention and two feed-forward networks, each with residual and layer norm.

    a_tk = softmax over k <= t of -W2(q_t, k_k)^2 / sqrt(width of a head); mean = sum a v_mean, variance = sum a^2
    v_var, as of a sum of independent parts.
    """

    def __init__(self, config: STOSAConfig) -> None:
        super().__init__()
        self.heads = config.heads
        width = config.width
        self.mean_qkv, self.variance_qkv = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.mean_out, self.variance_out = nn.Linear(width, width), nn.Linear(width, width)
        self.mean_norm, self.variance_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mean_forward, self.variance_forward = _Forward(config), _Forward(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, mean: Float[Tensor, "B S D"], variance: Float[Tensor, "B S D"]
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S D"]]:
        q, k, v = self._heads(self.mean_qkv(mean))
        q_var, k_var, v_var = self._heads(positive(self.variance_qkv(variance)))
        weights = self.weights(q, q_var.sqrt(), k, k_var.sqrt())
        mixed = self._joined(weights @ v)
        mixed_var = self._joined(weights.square() @ v_var)
        mean = self.mean_norm(mean + self.dropout(self.mean_out(mixed)))
        variance = self.variance_norm(variance + self.dropout(self.variance_out(mixed_var)))
        return self.mean_forward(mean), positive(self.variance_forward(variance))

    @staticmethod
    def weights(
        q: Float[Tensor, "B H S d"],
        q_std: Float[Tensor, "B H S d"],
        k: Float[Tensor, "B H S d"],
        k_std: Float[Tensor, "B H S d"],
    ) -> Float[Tensor, "B H S S"]:
        """The attention a, causal. |q|^2 and |q_std|^2 are the same for all keys and drop out of the softmax."""
        products = q @ k.transpose(-1, -2) + q_std @ k_std.transpose(-1, -2)
        sizes = (k.square() + k_std.square()).sum(-1)
        later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = (2 * products - sizes[..., None, :]) / q.shape[-1] ** 0.5
        return scores.masked_fill(later, -torch.inf).softmax(-1)

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.view(batch, length, 3, self.heads, width // 3 // self.heads).permute(2, 0, 3, 1, 4)

    def _joined(self, x: Tensor) -> Tensor:
        batch, heads, length, width = x.shape
        return x.transpose(1, 2).reshape(batch, length, heads * width)


class _Half(nn.Module):
    """Items and positions as vectors, normed: what means and variances are made of."""

    def __init__(self, config: STOSAConfig, num_items: int) -> None:
        super().__init__()
        self.items = item_embedding(num_items, config.width)
        self.positions = nn.Embedding(config.max_len, config.width)
        nn.init.normal_(self.positions.weight, std=config.width**-0.5)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        return self.dropout(self.norm(self.items(history) + self.positions.weight[: history.shape[1]]))


class _Forward(nn.Module):
    """Feed-forward network with ELU, residual and layer norm."""

    def __init__(self, config: STOSAConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.width, config.expansion * config.width)
        self.outer = nn.Linear(config.expansion * config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        return self.norm(x + self.dropout(self.outer(F.elu(self.inner(x)))))


def _vectors(mean: Tensor, std: Tensor) -> Tensor:
    size = (mean.square() + std.square()).sum(-1, keepdim=True)
    return torch.cat([mean, std, -size], dim=-1)
