"""KARMA's Eq. 8: heads that learn a frozen vector's distribution given a condition. Train-only, like `objective.py`.

Three instances of one thing: what a denoiser is given, what it is asked, and how its answers become samples; and the
mean alone beside them. The same heads make the retrieval vectors of the paper's Table 2 (`generated.py`). Shapes: N
rows, V the vector's width, C the condition's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.store import ContentVectors
from penchant.errors import ConfigError, StoreError, at_least
from penchant.papers.karma.denoiser import Denoiser
from penchant.papers.karma.language import another_item

LEVELS = 1000
"""Noise levels of the DDPM: Ho et al.'s T."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Which instance of Eq. 8, and its size. The paper names the three and gives no size."""

    kind: Literal["flow", "ddpm", "edm", "mse"] = "flow"
    """Flow matching (Lipman et al. 2022), DDPM (Ho et al. 2020), EDM (Karras et al. 2022); or no process at all."""
    width: int = 256
    """Of the denoiser's residual stream."""
    blocks: int = 3
    steps: int = 32
    """Steps of a sample. A step asks the denoiser once (ddpm) or twice (flow, edm)."""

    def __post_init__(self) -> None:
        at_least(1, self, "width", "blocks")
        if not 1 <= self.steps <= LEVELS:
            raise ConfigError(f"steps is {self.steps}", fix=f"Set steps to 1 to {LEVELS}.")


class Question(NamedTuple):
    """What the denoiser gets, and what it should say.

    Attributes:
        given: [N, V] the noised vector.
        clock: [N] when in the process that is, on the scale of the denoiser's time code.
        answer: [N, V] what the squared error is taken to.
    """

    given: Float[Tensor, "N V"]
    clock: Float[Tensor, " N"]
    answer: Float[Tensor, "N V"]


Ask = Callable[[Tensor, float], Tensor]
"""The denoiser's answer to [N, V] at a clock."""
Draw = Callable[[], Tensor]
"""Fresh standard normal noise, [N, V]."""


@dataclass(frozen=True)
class Flow:
    """Flow matching (Lipman et al. 2022, Eq. 20-23): x_t = (1 - t) noise + t v; the velocity v - noise is asked.

    Deviates: the path ends in v itself, sigma_min is 0.
    """

    steps: int

    def times(self, target: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
        """t ~ Uniform(0, 1)."""
        return torch.rand(len(target), device=target.device, dtype=target.dtype)

    def question(
        self, target: Float[Tensor, "N V"], noise: Float[Tensor, "N V"], times: Float[Tensor, " N"]
    ) -> Question:
        t = times[:, None]
        return Question((1 - t) * noise + t * target, times, target - noise)

    def sample(self, ask: Ask, draw: Draw) -> Tensor:
        """dx/dt = velocity from t = 0 to 1, by the midpoint rule."""
        x, step = draw(), 1 / self.steps
        for i in range(self.steps):
            middle = x + step / 2 * ask(x, i * step)
            x = x + step * ask(middle, (i + 0.5) * step)
        return x


@dataclass(frozen=True)
class Regression:
    """Nothing is noised: v is asked, given the condition alone, so that the answer is its conditional mean."""

    steps: int

    def times(self, target: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
        """Zero."""
        return target.new_zeros(len(target))

    def question(
        self, target: Float[Tensor, "N V"], noise: Float[Tensor, "N V"], times: Float[Tensor, " N"]
    ) -> Question:
        return Question(torch.zeros_like(noise), times, target)

    def sample(self, ask: Ask, draw: Draw) -> Tensor:
        """Always the same."""
        return ask(torch.zeros_like(draw()), 0.0)


@dataclass(frozen=True)
class DDPM:
    """Ho et al. 2020, Eq. 4: x_t = sqrt(a_t) v + sqrt(1 - a_t) noise, a_t for alpha-bar_t, t in 1 .. T; v is asked.

    Deviates: v is asked instead of the noise, and a_t falls by a cosine instead of a linear beta_t. An error in the
    noise becomes one in v times sqrt(1 / a_t - 1), which images bound by clipping and vectors cannot; an error in v
    stays what it is, even at a_T = 0, where the best answer is the conditional mean. A sample takes `steps` of the T
    levels, evenly spaced (Nichol and Dhariwal 2021, section 4).
    """

    steps: int

    def times(self, target: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
        """t ~ Uniform(1 .. T)."""
        return torch.randint(1, LEVELS + 1, (len(target),), device=target.device).to(target.dtype)

    def question(
        self, target: Float[Tensor, "N V"], noise: Float[Tensor, "N V"], times: Float[Tensor, " N"]
    ) -> Question:
        kept = alpha_bar(times)[:, None]
        return Question(kept.sqrt() * target + (1 - kept).sqrt() * noise, times / LEVELS, target)

    def sample(self, ask: Ask, draw: Draw) -> Tensor:
        """The chain backwards from a_T = 0; the last step adds no noise."""
        levels = torch.linspace(0, LEVELS, self.steps + 1, dtype=torch.float64).round()
        kept = alpha_bar(levels).tolist()
        x = draw()
        for i in range(self.steps, 0, -1):
            of_v, of_x, variance = reverse_step(kept[i], kept[i - 1])
            x = of_v * ask(x, float(levels[i]) / LEVELS) + of_x * x
            if i > 1:
                x = x + math.sqrt(variance) * draw()
        return x


def alpha_bar(level: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Share of v's variance that is left at levels 0 .. T: from 1 to 0 (Nichol and Dhariwal 2021, Eq. 17)."""
    offset = 0.008
    start = math.cos(offset / (1 + offset) * math.pi / 2)
    return (torch.cos((level / LEVELS + offset) / (1 + offset) * (math.pi / 2)) / start) ** 2


def reverse_step(kept: float, less_noisy: float) -> tuple[float, float, float]:
    """From a level to a less noisy one, given alpha-bar of both: weights of v and of x in the mean, and the variance.

    The mean is Ho et al.'s Eq. 7 with beta_t = 1 - kept / less_noisy. Of the two variances in their section 3.2 it is
    beta_t, which suits v in unit variance; beta-tilde_t leaves out the doubt about v: in 32 steps and with the best
    denoiser samples of N(0, 0.5^2) come out at 0.91 of that spread, here at 1.03.
    """
    alpha = kept / less_noisy
    noisy = 1 - kept
    return math.sqrt(less_noisy) * (1 - alpha) / noisy, math.sqrt(alpha) * (1 - less_noisy) / noisy, 1 - alpha


@dataclass(frozen=True)
class EDM:
    """Karras et al. 2022: x = v + sigma noise; the estimate of v is c_skip x + c_out F(c_in x, c_noise) (Eq. 7).

    The denoiser is F. Asked for (v - c_skip x) / c_out, its plain squared error is that of the estimate under the
    paper's weight lambda(sigma) = 1 / c_out^2 (Eq. 8). sigma_data is 1, because v is standardised: what is asked is
    then (sigma v - noise) / sqrt(sigma^2 + 1), and c_in = c_out / sigma = sqrt(c_skip) is 1 over that root.

    Deviates: the lognormal and the range of sigma are as printed, where sigma_data is 0.5; relative to the data the
    noise is half as loud here.
    """

    steps: int
    log_mean: ClassVar[float] = -1.2
    log_std: ClassVar[float] = 1.2
    sigma_min: ClassVar[float] = 0.002
    sigma_max: ClassVar[float] = 80.0
    rho: ClassVar[float] = 7.0

    def times(self, target: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
        """sigma, with ln sigma ~ N(log_mean, log_std^2)."""
        normal = torch.randn(len(target), device=target.device, dtype=target.dtype)
        return (self.log_mean + self.log_std * normal).exp()

    def question(
        self, target: Float[Tensor, "N V"], noise: Float[Tensor, "N V"], times: Float[Tensor, " N"]
    ) -> Question:
        sigma = times[:, None]
        length = (sigma**2 + 1).sqrt()
        return Question((target + sigma * noise) / length, times.log() / 4, (sigma * target - noise) / length)

    def sample(self, ask: Ask, draw: Draw) -> Tensor:
        """dx/dsigma = (x - estimate) / sigma from sigma_max to 0 by Heun's rule, the last step by Euler's (Alg. 1)."""

        def slope(x: Tensor, sigma: float) -> Tensor:
            total = sigma**2 + 1
            estimate = x / total + sigma / math.sqrt(total) * ask(x / math.sqrt(total), math.log(sigma) / 4)
            return (x - estimate) / sigma

        sigmas = self.sigmas()
        x = sigmas[0] * draw()
        for sigma, lower in pairwise(sigmas):
            first = slope(x, sigma)
            ahead = x + (lower - sigma) * first
            x = x + (lower - sigma) * (first + slope(ahead, lower)) / 2 if lower else ahead
        return x

    def sigmas(self) -> list[float]:
        """Eq. 5: `steps` falling noise levels, then 0."""
        first, last = (sigma ** (1 / self.rho) for sigma in (self.sigma_max, self.sigma_min))
        share = [i / max(self.steps - 1, 1) for i in range(self.steps)]
        return [*((first + s * (last - first)) ** self.rho for s in share), 0.0]


class Generator(nn.Module):
    """g_psi of Eq. 8: what is known of a vector v given a condition c, as a loss and as samples.

    Args:
        target_width: V, of the vectors; they are standardised in each dimension.
        condition_width: C.
    """

    def __init__(self, config: GeneratorConfig, target_width: int, condition_width: int) -> None:
        super().__init__()
        self.config, self.target_width = config, target_width
        processes = {"flow": Flow, "ddpm": DDPM, "edm": EDM, "mse": Regression}
        self.process: Flow | DDPM | EDM | Regression = processes[config.kind](config.steps)
        self.denoiser = Denoiser(target_width, condition_width, config.width, config.blocks)

    def loss(self, target: Float[Tensor, "N V"], condition: Float[Tensor, "N C"]) -> Float[Tensor, ""]:
        """Eq. 8 with one time and one noise a row, drawn here; mean over rows and dimensions, 0 without rows.

        Gradients reach the condition: whoever does not want that detaches it.
        """
        noise, times = torch.randn_like(target), self.process.times(target)
        given, clock, answer = self.process.question(target, noise, times)
        return (self.denoiser(given, clock, condition) - answer).square().sum() / max(target.numel(), 1)

    @torch.no_grad()
    def sample(
        self,
        condition: Float[Tensor, "N C"],
        *,
        count: int = 1,
        noise: Callable[[], Float[Tensor, "#N V"]] | None = None,
    ) -> Float[Tensor, "N V"]:
        """The mean of `count` samples for each row, without gradients.

        Args:
            noise: standard normal, new at every call, of all rows or of each; None = drawn by torch.
        """
        if count < 1:
            raise ValueError(f"count is {count}, and a mean needs a sample")

        def draw() -> Tensor:
            shape = len(condition), self.target_width
            if noise is not None:
                return noise().to(condition).expand(shape)
            return torch.randn(shape, device=condition.device, dtype=condition.dtype)

        def ask(x: Tensor, clock: float) -> Tensor:
            return self.denoiser(x, x.new_full((len(x),), clock), condition)

        count = 1 if isinstance(self.process, Regression) else count
        total = condition.new_zeros(len(condition), self.target_width)
        for _ in range(count):
            total += self.process.sample(ask, draw)
        return total / count


class VisualTargets(nn.Module):
    """v of every item, standardised over those that have a picture. Frozen, and in no checkpoint.

    Args:
        shuffled: every item has another's, as in a placebo (`another_item`).

    Attributes:
        values: float32 [I+1, V], zero where there is no picture.
        present: bool [I+1].
        missing: items without a picture.

    Raises:
        StoreError: no item has a picture.
    """

    values: Tensor
    present: Tensor

    def __init__(self, pictures: ContentVectors, shuffled: bool = False) -> None:
        super().__init__()
        self.missing = int((~pictures.present[1:]).sum())
        if self.missing == len(pictures.present) - 1:
            raise StoreError("no item has a picture's vector", fix="Run `penchant encode` on a Store with pictures.")
        values, present = torch.from_numpy(pictures.standardised()), torch.from_numpy(pictures.present.copy())
        shown = another_item(len(values)) if shuffled else torch.arange(len(values))
        self.register_buffer("values", values[shown], persistent=False)
        self.register_buffer("present", present[shown], persistent=False)

    def loss(
        self, generator: Generator, items: Int[Tensor, " N"], condition: Float[Tensor, "N C"]
    ) -> Float[Tensor, ""]:
        """Eq. 8 for the pictures of some items; the mean is over the rows whose item has one, 0 if none has."""
        seen = self.present[items]
        return generator.loss(self.values[items[seen]], condition[seen])
