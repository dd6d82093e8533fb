"""T2Diff's losses: noising the unknown, L_KL, and the towers' softmax (Algorithm 1, Eq. 23 to 25). Train-only.

Here alone the target is known, so here alone it can leak: Algorithm 1 hands the tower a guess made from the noised
target, which at small r is the target itself. `leak.py` measures what comes of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.baselines.retrieval.objective import SoftmaxConfig, SoftmaxObjective
from penchant.errors import ConfigError
from penchant.papers.t2diff.diffusion import Diffusion
from penchant.papers.t2diff.model import T2Diff
from penchant.papers.t2diff.samples import SampleBatch

SCALE_SHARE = 0.01
"""Of each batch in the running size of item vectors."""


@dataclass(frozen=True, kw_only=True)
class T2DiffObjectiveConfig(SoftmaxConfig):
    """What is learned, from what, and what each part teaches."""

    kl: float = 1.0
    """lambda of Eq. 25; the paper says 1 or 10."""
    kl_weight: Literal["simple", "mu", "vlb"] = "simple"
    """simple: the distance of z_0 and z^_0 (Algorithm 1, line 9); mu: that of the posterior's means, as Eq. 23 is
    printed, which weighs r = 1 some 250 times as much as r = 50; vlb: that divided by twice its variance (Eq. 7)."""
    kl_positions: Literal["all", "last", "last_weighted"] = "all"
    """all n drifts as printed, though X_{1:n} tells the first n - 1; the last alone; the last as much as all others."""
    train_xhat: Literal["served", "onestep_r"] = "served"
    """x^ that the tower learns with: served = made as when serving, never from the target; onestep_r = Algorithm 1:
    from the target, noised r times."""
    detach_in: bool = True
    """L_KL moves no item vector."""
    detach_out: bool = True
    """L_TOWER moves no parameter of the diffusion module."""

    def __post_init__(self) -> None:
        if not 0 <= self.kl < math.inf:
            raise ConfigError(f"kl is {self.kl}", fix="Set kl to 0 or more.")


class T2DiffObjective:
    """L_TOWER + lambda L_KL (Eq. 25), as named terms.

    Deviates: squared norms are means over the D columns, so that lambda does not depend on D; x^ is by default made
    from noise as when serving, where Algorithm 1 makes it from the target. Gradients are clipped together, so that a
    large lambda shortens the towers' steps too, whatever is detached.

    Args:
        counts: [I] how often each item occurs in the train window: what a sampled softmax is drawn by.
    """

    def __init__(self, config: T2DiffObjectiveConfig, counts: Tensor) -> None:
        self.config = config
        self.softmax = SoftmaxObjective(config, counts)

    def __call__(self, model: T2Diff, batch: SampleBatch) -> dict[str, Tensor]:
        """{"softmax": L_TOWER in nats, "kl": lambda L_KL}; without a diffusion module the first alone."""
        config, past, terms = self.config, model.past(batch.requests), {}
        x, following = past.x, model.items(batch.targets)
        if config.detach_in:
            x, following = x.detach(), following.detach()
        if model.diffusion is None:
            xhat = model.guess(past.x, past.real, _no_noise)
        else:
            if model.config.latent_scale and model.training:
                size = (x.detach().square().sum() / (past.real.sum() * x.shape[-1])).sqrt()
                model.scale.lerp_(size, SCALE_SHARE)
            z_0 = unknown(model, x, following)
            r = torch.randint(1, model.config.steps + 1, (len(x),), device=x.device)
            z_r = noised(model.diffusion, z_0, r, torch.randn_like(z_0))
            told = model.diffusion.estimate(z_r, r, x / model.scale, past.real)
            distance = drift_distance(told, z_0, past.real, kl_weights(model.diffusion, config)[r], config.kl_positions)
            terms["kl"] = config.kl * distance
            if config.train_xhat == "onestep_r":
                xhat = model.restored(told, x)
                xhat = xhat.detach() if config.detach_out else xhat
            else:
                with torch.set_grad_enabled(not config.detach_out and torch.is_grad_enabled()):
                    xhat = model.guess(x, past.real, lambda _: torch.randn_like(z_0))
        return {**self.softmax.terms(model, model.tower(past, xhat), batch.targets), **terms}


def unknown(model: T2Diff, x: Float[Tensor, "B S D"], following: Float[Tensor, "B D"]) -> Float[Tensor, "B S D"]:
    """z_0 of Eq. 11, X_{2:n+1} - X_{1:n}, in the diffusion's scale; X_{2:n+1} itself W/O DP.

    Args:
        x: X_{1:n}, which ends at the last column.
        following: x_{n+1}.
    """
    then = torch.cat([x[:, 1:], following[:, None]], dim=1)
    return ((then - x) if model.config.drift else then) / model.scale


def noised(
    diffusion: Diffusion, z_0: Float[Tensor, "B S D"], r: Int[Tensor, " B"], noise: Float[Tensor, "B S D"]
) -> Float[Tensor, "B S D"]:
    """z_r = sqrt(abar_r) z_0 + sqrt(1 - abar_r) noise (Eq. 14).

    Deviates: Eq. 3 prints the variance 1 - alpha_r; Eq. 14 is right.
    """
    kept = diffusion.alpha_bar[r][:, None, None]
    return kept.sqrt() * z_0 + (1 - kept).sqrt() * noise


def kl_weights(diffusion: Diffusion, config: T2DiffObjectiveConfig) -> Float[Tensor, " R"]:
    """w_r of w_r ||z_0 - z^_0||^2 for r = 0 .. T; entry 0 is no step.

    mu~_r is linear in z_0, so Eq. 23 is w_r = abar_{r-1} beta_r^2 / (1 - abar_r)^2; vlb divides it by 2 beta~_r, at
    r = 1, where beta~ is zero, by 2 beta~_2 (Ho et al. 2020).
    """
    beta, now = diffusion.betas[1:], diffusion.alpha_bar[1:]
    before = diffusion.alpha_bar[:-1]
    weights = before * beta**2 / (1 - now) ** 2
    if config.kl_weight == "simple":
        weights = torch.ones_like(weights)
    elif config.kl_weight == "vlb":
        variance = (1 - before) / (1 - now) * beta
        weights = weights / (2 * torch.cat([variance[1:2], variance[1:]]))
    return torch.cat([weights.new_zeros(1), weights])


def drift_distance(
    told: Float[Tensor, "B S D"],
    z_0: Float[Tensor, "B S D"],
    real: Bool[Tensor, "B S"],
    weights: Float[Tensor, " B"],
    positions: Literal["all", "last", "last_weighted"],
) -> Float[Tensor, ""]:
    """Mean squared difference over columns and real positions, each row weighted (Eq. 23).

    Args:
        weights: w_r of each row.
    """
    distance = (told - z_0).square().mean(2) * weights[:, None]
    last = distance[:, -1].mean()
    if positions == "last":
        return last
    if positions == "all":
        return (distance * real).sum() / real.sum()
    others = real[:, :-1]
    return (last + (distance[:, :-1] * others).sum() / others.sum().clamp(min=1)) / 2


def _no_noise(number: int) -> Tensor:
    raise ValueError(f"draw {number}: a model without a diffusion module draws no noise")
