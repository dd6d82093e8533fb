"""DiffuRec: the target's vector is noised, and a transformer over the history and it finds it again. Li et al.,
"DiffuRec: a diffusion model for sequential recommendation", ACM TOIS 2023.

The loss is in `auxiliary.py`. To serve, a vector of pure noise is denoised step by step beside the history, and items
are scored against what remains. The noise comes from a generator that the request's own history and `noise_seed` seed:
the same request gets the same answer, alone or in any company.

As in the published code: no positions, every action attends to every other, the state at the last one is the estimate,
and lambda is so small (0.001) that the noised target hardly speaks.

Deviates: padding is not attended to; vectors are noised in units in which they have variance 1, at any width; steps are
drawn uniformly in training, not by past losses; serving takes lambda's mean; two blocks of width 64 instead of four of
128. Every position of a piece would need a pass of its own, for its history ends with its own noised target: a few
positions of each piece are learned (`DiffuRecObjectiveConfig`).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.errors import ConfigError
from penchant.layers import BlockConfig, Dropout, OpenBlock, check_sizes, item_embedding
from penchant.models import Sizes

Schedule = Literal["truncated_linear", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class DiffuRecConfig:
    """Sizes of DiffuRec and its diffusion."""

    width: int = 64
    """Width of item vectors and hidden states."""
    blocks: int = 2
    heads: int = 2
    expansion: int = 4
    """Inner width of the feed-forward layers, in widths."""
    dropout: float = 0.1
    embedding_dropout: float = 0.3
    steps: int = 32
    """T, of the diffusion; serving computes so many passes."""
    schedule: Schedule = "truncated_linear"
    uncertainty: float = 0.001
    """delta: lambda, the weight of the noised target beside each item of the history, from N(delta, delta^2)."""
    noise_seed: int = 0
    """Another one gives other answers: how far they differ is the noise of serving."""
    max_len: int = 50
    """Actions read, the latest ones."""

    def __post_init__(self) -> None:
        check_sizes(self, "width", "blocks", "heads", "expansion", "steps", "max_len")
        if not 0 <= self.embedding_dropout < 1:
            raise ConfigError(f"embedding_dropout is {self.embedding_dropout}", fix="Set it to 0 or more, below 1.")
        if min(self.uncertainty, self.noise_seed) < 0:
            what = f"uncertainty is {self.uncertainty}, noise_seed {self.noise_seed}"
            raise ConfigError(what, fix="Set both to 0 or more.")


def noise_rates(schedule: Schedule, steps: int) -> Float[np.ndarray, " T"]:
    """beta_1 .. beta_T, in double precision.

    linear: 1e-4 to 0.02, times 1000 / T. truncated_linear: the same plus 0.01; its end 0.001 * 1000 / T + 0.01 where it
    would pass 1. cosine: alpha-bar(t) = cos^2(pi / 2 (t / T + 0.008) / 1.008), beta at most 0.999.
    """
    scale = 1000 / steps
    if schedule == "cosine":
        kept = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - kept[1:] / kept[:-1], 0.999)
    lift = 0.01 if schedule == "truncated_linear" else 0.0
    end = 0.02 * scale + lift
    if end > 1 and schedule == "truncated_linear":
        end = 0.001 * scale + lift
    return np.minimum(np.linspace(0.0001 * scale + lift, end, steps), 0.999)


class DiffuRec(nn.Module):
    """x_0' = f(z, s), z_i = e_i + lambda_i (x_s + d_s), scores x_0' . e_i.

    d_s is the embedding of step s, f a transformer whose state at the last action is the estimate.
    """

    kind: ClassVar[str] = "diffurec"
    Config: ClassVar[type] = DiffuRecConfig
    kept: Tensor
    posterior: Tensor

    def __init__(self, config: DiffuRecConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        width = config.width
        self.items = item_embedding(sizes.num_items, width)
        self.norm_items = nn.LayerNorm(width)
        self.embedding_dropout, self.dropout = Dropout(config.embedding_dropout), Dropout(config.dropout)
        self.step = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        block = BlockConfig(width=width, heads=config.heads, dropout=config.dropout, expansion=config.expansion)
        self.blocks = nn.ModuleList(OpenBlock(block) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        beta = noise_rates(config.schedule, config.steps)
        kept = np.cumprod(1 - beta)
        before = np.concatenate([[1.0], kept[:-1]])
        # x_{s-1} ~ N(a x_0 + b x_s, c^2): rows a, b, c. The last step (s = 1) gives x_0 itself.
        rows = [
            beta * np.sqrt(before) / (1 - kept),
            np.sqrt(1 - beta) * (1 - before) / (1 - kept),
            np.sqrt(beta * (1 - before) / (1 - kept)),
        ]
        self.register_buffer("kept", torch.from_numpy(kept).float(), persistent=False)
        self.register_buffer("posterior", torch.from_numpy(np.stack(rows)).float(), persistent=False)

    def vectors(self, items: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """x_0: items' vectors at a variance of about 1."""
        return self.items(items) * self.config.width**0.5

    def noised(
        self, x: Float[Tensor, "B D"], steps: Int[Tensor, " B"], noise: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B D"]:
        """x_s = sqrt(alpha-bar_s) x_0 + sqrt(1 - alpha-bar_s) noise, steps from 1."""
        kept = self.kept[steps - 1][:, None]
        return kept.sqrt() * x + (1 - kept).sqrt() * noise

    def embedded(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """e_i of each action."""
        return self.norm_items(self.embedding_dropout(self.vectors(history)))

    def estimate(
        self,
        embedded: Float[Tensor, "B S D"],
        lengths: Int[Tensor, " B"],
        x: Float[Tensor, "B D"],
        steps: Int[Tensor, " B"],
        weight: Float[Tensor, "B S D"] | float,
    ) -> Float[Tensor, "B D"]:
        """x_0' from the history and x_s.

        Args:
            weight: lambda.
        """
        told = x + self.step(step_waves(steps * (1000 / self.config.steps), self.config.width))
        z = embedded + weight * told[:, None]
        *blocks, top = self.blocks
        for block in blocks:
            z = block(z, lengths)
        assert isinstance(top, OpenBlock)
        return self.norm(self.dropout(top.last(z, lengths)))

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """x_0 after T steps back from noise; zero without any history."""
        requests = requests.last(self.config.max_len)
        if not requests.history.shape[1]:
            return self.items.weight.new_zeros(len(requests), self.config.width)
        embedded, lengths, noise = self.embedded(requests.history), requests.lengths, self._noise(requests)
        x = noise[:, -1]
        for step in range(self.config.steps, 0, -1):
            steps = torch.full_like(lengths, step)
            guess = self.estimate(embedded, lengths, x, steps, self.config.uncertainty)
            a, b, c = self.posterior[:, step - 1]
            x = a * guess + b * x + c * noise[:, step - 2] if step > 1 else guess
        return x * (lengths > 0)[:, None]

    def item_vectors(self) -> Float[Tensor, "I D"]:
        return self.items.weight

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, as the sampled softmax needs them."""
        return self.items(items)

    def _noise(self, requests: Requests) -> Float[Tensor, "B T D"]:
        """Standard normal, of each request from a generator of its own, the same on every device."""
        shape = (self.config.steps, self.config.width)
        drawn = []
        for history, length in zip(requests.history.cpu().numpy(), requests.lengths.tolist(), strict=True):
            seed = zlib.crc32(history[:length].astype("<i8").tobytes(), self.config.noise_seed)
            drawn.append(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
        return torch.stack(drawn).to(self.items.weight)


def step_waves(steps: Float[Tensor, " B"], width: int) -> Float[Tensor, "B D"]:
    """The steps as cosines and sines of frequencies from 1 down to 1 / 10,000; a last column of zeros at odd widths."""
    half = width // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=steps.device) / max(half, 1))
    angles = steps[:, None] * rates
    return torch.cat([angles.cos(), angles.sin(), angles.new_zeros(len(steps), width % 2)], dim=1)
