"""What the causal T2Diff is trained with: a softmax over the catalogue and the diffusion's loss, at every position."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from penchant.baselines.retrieval.objective import SoftmaxConfig, SoftmaxObjective
from penchant.data.batch import SequenceBatch
from penchant.errors import ConfigError
from penchant.papers.t2diff.causal import CausalT2Diff, PositionNetwork
from penchant.papers.t2diff.objective import noised

SCALE_SHARE = 0.01
"""Of each batch in the running size of latents."""
SLOW_SHARE = 0.005
"""Of the items' vectors in their slow copy, at each step."""


@dataclass(frozen=True, kw_only=True)
class CausalT2DiffObjectiveConfig(SoftmaxConfig):
    """What the diffusion's loss weighs, and what each loss may teach."""

    kl: float = 1.0
    """lambda of Eq. 25."""
    detach_in: bool = True
    """The diffusion's loss does not teach h_t; items' vectors it never teaches."""
    detach_out: bool = True
    """The softmax does not teach the diffusion."""

    def __post_init__(self) -> None:
        if not 0 <= self.kl < math.inf:
            raise ConfigError(f"kl is {self.kl}", fix="Set kl to 0 or more.")


class CausalT2DiffObjective:
    """L_TOWER + lambda L_KL (Eq. 25) over all positions. The guess is made from noise, as when serving.

    Args:
        counts: [I] how often each item occurs in the train window: what a sampled softmax is drawn by.
    """

    def __init__(self, config: CausalT2DiffObjectiveConfig, counts: Tensor) -> None:
        self.config = config
        self.softmax = SoftmaxObjective(config, counts)

    def __call__(self, model: CausalT2Diff, batch: SequenceBatch) -> dict[str, Tensor]:
        """{"softmax": nats, "kl": lambda L_KL}; without a guess the first alone."""
        config, mask = self.config, batch.mask
        if model.training:
            self._follow(model, batch)
        h = model.states(batch.history)
        here = model.latents(batch.history)
        if model.diffusion is None:
            users = model.answered(h, model.guessed(h, here, mask, lambda _: torch.zeros_like(here)))
            return self.softmax.terms(model, users[mask], batch.targets[mask])
        following = model.latents(batch.targets)
        z_0 = following - here if model.config.drift else following
        r = torch.randint(1, model.config.steps + 1, (len(z_0),), device=z_0.device)
        z_r = noised(model.diffusion, z_0, r, torch.randn_like(z_0))
        if model.config.guess == "regressed":
            r, z_r = torch.full_like(r, model.config.steps), torch.zeros_like(z_r)
        network = model.diffusion.network
        assert isinstance(network, PositionNetwork)
        asked = network.withheld(h.detach() if config.detach_in else h)
        told = network.plain(torch.cat([z_r, asked], dim=-1), r, mask)
        kl = config.kl * (told - z_0).square().mean(2)[mask].mean()
        with torch.set_grad_enabled(not config.detach_out and torch.is_grad_enabled()):
            guess = model.guessed(h, here, mask, lambda _: torch.randn_like(here))
        users = model.answered(h, guess)
        return {**self.softmax.terms(model, users[mask], batch.targets[mask]), "kl": kl}

    @torch.no_grad()
    def _follow(self, model: CausalT2Diff, batch: SequenceBatch) -> None:
        if model.config.latent == "slow":
            model.slow.lerp_(model.item_vectors(), SLOW_SHARE)
        size = (model.latents(batch.targets[batch.mask]) * model.scale).square().mean().sqrt()
        model.scale.lerp_(size, SCALE_SHARE)
