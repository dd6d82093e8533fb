"""The network of KARMA's Eq. 8: a noised vector, a time and a condition in, a vector out. Train-only.

The paper calls it a lightweight head and says no more. Shapes: N rows, V the vector's width, C the condition's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from penchant.layers import MLP

CLOCK_WIDTH = 64
"""Width of the sinusoidal code of time."""
EXPANSION = 2
"""A block's inner width, in widths."""


class Denoiser(nn.Module):
    """A residual MLP over the noised vector, whose blocks time and condition steer. It begins as the constant 0.

    Beside the blocks each number has a way straight through, weighed by time and condition: blocks narrower than the
    vector cannot pass its noise on, which two of the three processes ask for.
    """

    def __init__(self, target_width: int, condition_width: int, width: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Linear(target_width, width)
        self.clock = MLP(CLOCK_WIDTH, width, width)
        self.condition = nn.Linear(condition_width, width)
        self.blocks = nn.ModuleList(AdaptiveBlock(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = zero_linear(width, target_width)
        self.through = zero_linear(width, target_width)

    def forward(
        self, given: Float[Tensor, "N V"], clock: Float[Tensor, " N"], condition: Float[Tensor, "N C"]
    ) -> Float[Tensor, "N V"]:
        # A condition's length says nothing where dot products rank, and it differs from model to model.
        direction = F.rms_norm(condition, condition.shape[-1:], eps=1e-6)
        key = F.silu(self.condition(direction) + self.clock(sinusoidal(clock, CLOCK_WIDTH)))
        hidden = self.enter(given)
        for block in self.blocks:
            hidden = block(hidden, key)
        return self.leave(self.norm(hidden)) + self.through(key) * given


class AdaptiveBlock(nn.Module):
    """x + gate * MLP(norm(x) (1 + scale) + shift), the three linear in a key; it begins as x.

    AdaLN-Zero of Peebles and Xie 2023, without attention.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.steer = zero_linear(width, 3 * width)
        self.mlp = MLP(width, EXPANSION * width, width)

    def forward(self, x: Float[Tensor, "N D"], key: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        shift, scale, gate = self.steer(key).chunk(3, -1)
        return x + gate * self.mlp(F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift)


def zero_linear(fan_in: int, fan_out: int) -> nn.Linear:
    """A linear layer that says 0 until it has learned."""
    layer = nn.Linear(fan_in, fan_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def sinusoidal(clock: Float[Tensor, " N"], width: int) -> Float[Tensor, "N D"]:
    """Sines, then cosines, of 1 to 100 radians a unit of time, evenly spaced in the logarithm."""
    rates = torch.logspace(0, 2, width // 2, device=clock.device, dtype=clock.dtype)
    angles = clock[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
