"""T2Diff's diffusion module: noise schedules, the U-Net that estimates z_0, and the ways back from noise. It serves.

Noising a known target and the loss are in `objective.py`. Shapes: B users, S positions, D width. Sequences end at the
last column, padding stands on the left: Slice(x) = x[-1] of Eq. 18 is a column, and halving positions never parts two
neighbours because of padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.errors import ConfigError
from penchant.layers import Draw

Kind = Literal["linear", "log", "exp"]


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The noise, and how a way back from it is gone."""

    steps: int = 50
    """T of Eq. 12."""
    schedule: Kind = "exp"
    """How beta_r grows: exp is Eq. 13; linear and log have the same end points (section 5.1.5)."""
    first_beta: float = 1e-3
    """beta_1."""
    last_beta: float = 0.5
    """beta_T. The paper tells neither a nor b of Eq. 13; these end points leave 0.7 % of z_0's variance at T = 50."""
    reverse_noise: Literal["sqrt", "literal", "none"] = "sqrt"
    """Of a reverse step: sqrt(beta~) e', the deviation of Eq. 4; beta~ e', as Eq. 17 is printed; none."""

    def __post_init__(self) -> None:
        if not 2 <= self.steps <= 1000:
            raise ConfigError(f"steps is {self.steps}", fix="Set steps to 2 to 1000.")
        if not 0 < self.first_beta <= self.last_beta < 1:
            what = f"first_beta is {self.first_beta}, last_beta {self.last_beta}"
            raise ConfigError(what, fix="Set both above 0 and below 1, the first no larger than the last.")


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(NoiseConfig):
    """The noise, the way back, and the U-Net."""

    channels: int = 16
    """Of the U-Net's finest level; each level below has twice as many."""
    depth: int = 1
    """Times that the U-Net halves the positions."""
    step_embedding: bool = True
    """The U-Net is told r in every block, as Eq. 23 has it; False is Eq. 15 as printed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or not 0 <= self.depth <= 6:
            what = f"channels is {self.channels}, depth {self.depth}"
            raise ConfigError(what, fix="Set channels to 1 or more, depth to 0 to 6.")


def noise_levels(config: NoiseConfig) -> Float[Tensor, " T"]:
    """beta_1 .. beta_T (Eq. 13, section 5.1.5, Figure 5), in double precision.

    exp: a e^(b r) with a = beta_1 (beta_1 / beta_T)^(1 / (T - 1)) and b = ln(beta_T / beta_1) / (T - 1).
    """
    first, last = config.first_beta, config.last_beta
    r = torch.arange(1, config.steps + 1, dtype=torch.float64)
    if config.schedule == "exp":
        return first * (last / first) ** ((r - 1) / (config.steps - 1))
    share = r.log() / math.log(config.steps) if config.schedule == "log" else (r - 1) / (config.steps - 1)
    return first + (last - first) * share


class Diffusion(nn.Module):
    """The way back from noise to z_0, given X_{1:n} (Eq. 16 and 17).

    Args:
        network: estimates z_0 from concat([z_r, X_{1:n}]), r, and which positions are real.
    """

    betas: Tensor
    alpha_bar: Tensor

    def __init__(self, config: NoiseConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network
        betas = torch.cat([torch.zeros(1, dtype=torch.float64), noise_levels(config)])
        # Entry r belongs to step r; entry 0 is no noise at all. Made anew from the settings, so not in the state.
        self.register_buffer("betas", betas.float(), persistent=False)
        self.register_buffer("alpha_bar", (1 - betas).cumprod(0).float(), persistent=False)

    def estimate(
        self, z: Float[Tensor, "B S D"], r: Int[Tensor, " B"], x: Float[Tensor, "B S C"], real: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B S D"]:
        """z^_0 = network(concat([z_r, x])) (Eq. 15); zero at padding.

        Args:
            x: what is known, X_{1:n}; of D columns, or of others where the network takes them.
        """
        return self.network(torch.cat([z, x], dim=-1), r, real)

    def posterior(
        self, z: Float[Tensor, "B S D"], z_0: Float[Tensor, "B S D"], t: int
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, ""]]:
        """mu~_t and beta~_t of q(z_{t-1} | z_t, z_0) (Eq. 5 and 6); t from 1, where they are z_0 and 0."""
        beta, now, before = self.betas[t], self.alpha_bar[t], self.alpha_bar[t - 1]
        mean = before.sqrt() * beta / (1 - now) * z_0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * z
        return mean, (1 - before) / (1 - now) * beta

    def chain(
        self, x: Float[Tensor, "B S C"], real: Bool[Tensor, "B S"], draw: Draw
    ) -> Iterator[Float[Tensor, "B S D"]]:
        """Algorithm 2: z^_0 at t = T .. 1. The last one is its z_0, for mu~_1 is z^_0 and beta~_1 is 0."""
        z = draw(0)
        for t in range(self.config.steps, 0, -1):
            z_0 = self.estimate(z, self._all_at(t, x), x, real)
            yield z_0
            z, variance = self.posterior(z, z_0, t)
            if t > 1 and self.config.reverse_noise != "none":
                size = variance.sqrt() if self.config.reverse_noise == "sqrt" else variance
                z = z + size * draw(self.config.steps + 1 - t)

    def ddim(
        self, x: Float[Tensor, "B S C"], real: Bool[Tensor, "B S"], draw: Draw, steps: int
    ) -> Float[Tensor, "B S D"]:
        """z_0 by so many deterministic steps (Song et al. 2021, eta = 0). One step is the estimate from z_T itself."""
        times = torch.linspace(self.config.steps, 0, steps + 1).round().int().tolist()
        z = draw(0)
        for now, after in pairwise(times):
            z_0 = self.estimate(z, self._all_at(now, x), x, real)
            here, there = self.alpha_bar[now], self.alpha_bar[after]
            noise = (z - here.sqrt() * z_0) / (1 - here).sqrt()
            z = there.sqrt() * z_0 + (1 - there).sqrt() * noise
        return z

    def _all_at(self, t: int, x: Tensor) -> Tensor:
        return torch.full((len(x),), t, device=x.device)


class UNet(nn.Module):
    """A 1-D U-Net over positions (sections 3.2 and 4.2.1): 2 D in, D out.

    Deviates: the paper gives no sizes, and tells of max-pooling and transposed convolution: here positions are halved
    and doubled by learned maps of pairs. The last layer reads the input too, as few channels could not hold D numbers.
    Norms are per position and padding is zero after every layer, so that it changes nothing; positions are padded on
    the left to a multiple of 2^depth.
    """

    def __init__(self, config: DiffusionConfig, width: int) -> None:
        super().__init__()
        self.depth = config.depth
        widths = [config.channels << level for level in range(config.depth + 1)]
        told = 4 * config.channels if config.step_embedding else 0
        self.clock = StepEmbedding(config.channels, told) if told else None
        self.first = Convolution(2 * width, widths[0])
        self.ways_down = nn.ModuleList(Block(w, told) for w in widths[:-1])
        # Convolutions of kernel and stride 2 are linear maps of pairs of positions.
        self.halving = nn.ModuleList(nn.Linear(2 * w, 2 * w) for w in widths[:-1])
        self.bottom = Block(widths[-1], told)
        self.doubling = nn.ModuleList(nn.Linear(2 * w, 2 * w) for w in widths[:-1])
        self.merging = nn.ModuleList(Convolution(2 * w, w) for w in widths[:-1])
        self.ways_up = nn.ModuleList(Block(w, told) for w in widths[:-1])
        self.last = nn.Linear(widths[0] + 2 * width, width)

    def forward(
        self, x: Float[Tensor, "B S C"], r: Int[Tensor, " B"], real: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B S D"]:
        batch, length, _ = x.shape
        extra = -length % (1 << self.depth)
        masks = [F.pad(real, (extra, 0))[..., None]]
        given = F.pad(x, (0, 0, extra, 0)) * masks[0]
        told = None if self.clock is None else self.clock(r)[:, None]
        x, kept = self.first(given) * masks[0], []
        for block, halve in zip(self.ways_down, self.halving, strict=True):
            x = block(x, told, masks[-1])
            kept.append(x)
            masks.append(masks[-1].view(batch, -1, 2, 1).any(2))
            x = halve(x.reshape(batch, x.shape[1] // 2, 2 * x.shape[2])) * masks[-1]
        x = self.bottom(x, told, masks.pop())
        for block, double, merge in list(zip(self.ways_up, self.doubling, self.merging, strict=True))[::-1]:
            there = kept.pop()
            mask = masks.pop()
            x = merge(torch.cat([double(x).view(there.shape) * mask, there], dim=-1)) * mask
            x = block(x, told, mask)
        return self.last(torch.cat([x, given], dim=-1))[:, extra:] * real[..., None]


class Block(nn.Module):
    """x + conv(gelu(norm(conv(gelu(norm(x))) + step)))."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.conv_in, self.conv_out = Convolution(width, width), Convolution(width, width)
        self.step = nn.Linear(told, width) if told else None

    def forward(
        self, x: Float[Tensor, "B S C"], told: Float[Tensor, "B 1 E"] | None, real: Bool[Tensor, "B S 1"]
    ) -> Float[Tensor, "B S C"]:
        inner = self.conv_in(F.gelu(self.norm_in(x)) * real)
        if self.step is not None and told is not None:
            inner = inner + self.step(told)
        return (x + self.conv_out(F.gelu(self.norm_out(inner)) * real)) * real


class Convolution(nn.Linear):
    """Kernel 3 over positions, zeros beyond the ends, as one matrix product: on a CPU faster than `nn.Conv1d`."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(3 * width_in, width_out)

    def forward(self, input: Float[Tensor, "B S C"]) -> Float[Tensor, "B S E"]:
        x = F.pad(input, (0, 0, 1, 1))
        return super().forward(torch.cat([x[:, :-2], x[:, 1:-1], x[:, 2:]], dim=-1))


class StepEmbedding(nn.Sequential):
    """Sines and cosines of r, then a layer."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__(nn.Linear(2 * width, told), nn.GELU())
        self.width = width

    def forward(self, input: Int[Tensor, " B"]) -> Float[Tensor, "B E"]:
        rates = torch.exp(-math.log(1000.0) / self.width * torch.arange(self.width, device=input.device))
        angles = input[:, None] * rates
        return super().forward(torch.cat([angles.sin(), angles.cos()], dim=1))
