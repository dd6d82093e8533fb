"""Past the paper: T2Diff's idea on a causal transformer, learned at every position, and without the leak. It serves.

h_t reads the history as SASRec does. From noise and h_t alone the diffusion guesses where the next step leads, and what
the tower answers is

    e_u = h_t + FFN([h_t, guess])

whose last layer begins at zero, so that it begins as SASRec. What the guess is made in (the latent) may be the items'
own vectors, a slow copy of them, or frozen vectors of what items look and read like.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.baselines.retrieval.interests import best_products
from penchant.baselines.retrieval.sasrec import SASRec, SASRecConfig
from penchant.data.history import Requests
from penchant.errors import ConfigError, at_least
from penchant.layers import MLP, Draw, noise_of_users
from penchant.models import Sizes
from penchant.papers.t2diff.diffusion import Diffusion, NoiseConfig, StepEmbedding

CLOCK = 16
"""Sines of r."""
WITHHELD = 0.1
"""Share of the positions whose h_t the diffusion does not see while it learns, where there is guidance."""


@dataclass(frozen=True, kw_only=True)
class CausalT2DiffConfig(SASRecConfig, NoiseConfig):
    """SASRec's sizes, the noise, and how the guess comes about."""

    guess: Literal["none", "zero", "last", "regressed", "onestep", "ddim", "chain"] = "onestep"
    """none: SASRec, for the same items; zero: the same and the network that reads a guess, which is zero; last: which
    is the last item; regressed: the mean, told by the diffusion's network without ever a noise; onestep: one estimate
    from pure noise; ddim: a few deterministic steps; chain: Algorithm 2."""
    ddim_steps: int = 5
    samples: int = 1
    """Guesses averaged; with `union`, interests."""
    union: bool = False
    """Each guess searches by itself, and an item's score is the best of its products; it learns with one guess."""
    drift: bool = True
    """What is diffused is the step from this item to the next (Eq. 11); False = the next item."""
    latent: Literal["items", "slow", "content"] = "items"
    """items: their vectors as they are; slow: a copy that follows them (an exponential mean); content: frozen."""
    item_content: bool = False
    """Item vectors have a part that is made of their content: e_i = table_i + W c_i."""
    content_width: int = 0
    """Of the content vectors; set by the data."""
    guidance: float = 0.0
    """w of classifier-free guidance: (1 + w) of the estimate with h_t, less w of the one without."""
    noise_seed: int = 0

    def __post_init__(self) -> None:
        SASRecConfig.__post_init__(self)
        NoiseConfig.__post_init__(self)
        at_least(1, self, "ddim_steps", "samples")
        if self.ddim_steps > self.steps:
            raise ConfigError(f"ddim_steps is {self.ddim_steps}", fix=f"Set ddim_steps to {self.steps} or less.")
        if not 0 <= self.guidance < float("inf"):
            raise ConfigError(f"guidance is {self.guidance}", fix="Set guidance to 0 or more.")

    @property
    def reads_content(self) -> bool:
        return self.item_content or self.latent == "content"

    @property
    def latent_width(self) -> int:
        return self.content_width if self.latent == "content" else self.width


class CausalT2Diff(SASRec):
    """SASRec whose answer also reads a guess of the next item; e_u . e_i scores.

    Raises:
        ConfigError: content is read, and there is none.
    """

    kind: ClassVar[str] = "t2diff_causal"
    Config: ClassVar[type] = CausalT2DiffConfig
    content: Tensor
    slow: Tensor
    scale: Tensor

    def __init__(self, config: CausalT2DiffConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.config: CausalT2DiffConfig = config
        if config.reads_content and not config.content_width:
            what = "content is to be read, and the items have none"
            raise ConfigError(what, fix="Make it with `penchant encode STORE`, or choose latent items.")
        width, rows = config.width, sizes.num_items + 1
        kept = rows if config.reads_content else 0
        self.register_buffer("content", torch.zeros(kept, config.content_width, dtype=torch.float16))
        self.project = nn.Linear(config.content_width, width, bias=False) if config.item_content else None
        self.register_buffer("slow", self.items.weight.detach().clone() if config.latent == "slow" else torch.zeros(0))
        # What latents are divided by: about their size at first, then followed. Content is given with size one.
        self.register_buffer("scale", torch.tensor(1.0 if config.latent == "content" else config.width**-0.5))
        self.diffusion = self.answer = None
        if config.guess not in ("none", "zero", "last"):
            self.diffusion = Diffusion(config, PositionNetwork(config))
        if config.guess != "none":
            self.answer = MLP(width + config.latent_width, 2 * width, width, dropout=config.dropout)
            nn.init.zeros_(self.answer[-1].get_parameter("weight"))
            nn.init.zeros_(self.answer[-1].get_parameter("bias"))

    def hidden(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """e_u after each action, of a user whom nobody knows; while it trains by noise drawn at random."""
        h, latents = super().hidden(history), self.latents(history)
        somebody = torch.zeros(1, dtype=torch.int64, device=history.device)
        own = noise_of_users(somebody, 1, latents.shape[2], self.config.noise_seed)

        def draw(number: int) -> Tensor:
            return torch.randn_like(latents) if self.training else own(number).expand_as(latents)

        return self.answered(h, self.guessed(h, latents, history > 0, draw))

    def states(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """h_t."""
        return super().hidden(history)

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """e_u after the last action; zero without any. The same request gets the same vector in any company."""
        return self.answers(requests, 1)[:, 0]

    def answers(self, requests: Requests, count: int) -> Float[Tensor, "B K D"]:
        """So many e_u after the last action, each of noise of its own; zero without any action."""
        requests = requests.last(self.config.max_len)
        h, known = super().user_vectors(requests)[:, None], requests.lengths > 0
        if not requests.history.shape[1]:
            return h.expand(-1, count, -1)
        last = requests.history.gather(1, (requests.lengths - 1).clamp(min=0)[:, None])
        latents = self.latents(last)
        draw = noise_of_users(requests.users, 1, latents.shape[2], self.config.noise_seed)
        made = [
            self.answered(h, self.guessed(h, latents, known[:, None], nth(draw, k * (self.config.steps + 1))))
            for k in range(count)
        ]
        return torch.cat(made, dim=1) * known[:, None, None]

    def item_vectors(self) -> Float[Tensor, "I D"]:
        table = self.items.weight
        return table if self.project is None else table + self.project(self.content.to(table))

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, as the sampled softmax needs them."""
        return self._read(items)

    def latents(self, items: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape L"]:
        """What is guessed of items, of size one; nothing learns through it."""
        match self.config.latent:
            case "items":
                found = self._read(items).detach()
            case "slow":
                found = F.embedding(items, self.slow)
            case "content":
                found = F.embedding(items, self.content).to(self.scale)
        return found / self.scale

    def guessed(
        self,
        h: Float[Tensor, "B S D"],
        latents: Float[Tensor, "B S L"],
        real: Bool[Tensor, "B S"],
        draw: Draw,
    ) -> Float[Tensor, "B S L"]:
        """The next item's latent by h_t and noise; it has never seen that item.

        Args:
            latents: of the item at each position.
            draw: noise of their shape; each sample takes T + 1 draws.
        """
        if self.diffusion is None:
            return latents if self.config.guess == "last" else torch.zeros_like(latents)
        config, total = self.config, torch.zeros_like(latents)
        samples = 1 if config.union else config.samples
        for sample in range(samples):
            total = total + self._z_0(self.diffusion, h, real, nth(draw, sample * (config.steps + 1)))
        guess = total / samples
        return guess + latents if config.drift else guess

    def _z_0(self, diffusion: Diffusion, h: Tensor, real: Tensor, draw: Draw) -> Tensor:
        if self.config.guess == "regressed":
            return diffusion.ddim(h, real, lambda number: torch.zeros_like(draw(number)), 1)
        if self.config.guess == "chain":
            return deque(diffusion.chain(h, real, draw), maxlen=1).pop()
        return diffusion.ddim(h, real, draw, self.config.ddim_steps if self.config.guess == "ddim" else 1)

    def answered(self, h: Float[Tensor, "B S D"], guess: Float[Tensor, "B S L"]) -> Float[Tensor, "B S D"]:
        """e_u = h_t + FFN([h_t, guess])."""
        return h if self.answer is None else h + self.answer(torch.cat([h, guess], dim=-1))

    def _read(self, history: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        table = self.items(history)
        return table if self.project is None else table + self.project(F.embedding(history, self.content).to(table))


class CausalT2DiffUnion(CausalT2Diff):
    """Its guesses as interests: each searches by itself, and a list is of the best that any of them found."""

    kind: ClassVar[str] = "t2diff_union"

    def interest_vectors(self, requests: Requests) -> tuple[Float[Tensor, "B K D"], Bool[Tensor, "B K"]]:
        """The vectors a server searches with, and which of them there are."""
        vectors = self.answers(requests, self.config.samples)
        return vectors, (requests.lengths > 0)[:, None].expand(vectors.shape[:2])

    def score_items(self, requests: Requests) -> Float[Tensor, "B I"]:
        """max_k e_u^k . e_i; -inf at padding, and for a user without any action."""
        return best_products(*self.interest_vectors(requests), self.item_vectors())


def nth(draw: Draw, first: int) -> Draw:
    """The same noise, its numbers counted from `first`."""
    return lambda number: draw(first + number)


class PositionNetwork(nn.Module):
    """z^_0 of each position by itself: an MLP of z_r, h_t and r. What h_t knows of the history is all that it reads.

    With guidance every guess is guided, in training as when serving; what L_KL teaches is `plain`.
    """

    def __init__(self, config: CausalT2DiffConfig) -> None:
        super().__init__()
        self.width, self.guidance = config.width, config.guidance
        told = 4 * CLOCK
        self.clock = StepEmbedding(CLOCK, told)
        self.nothing = nn.Parameter(torch.zeros(config.width)) if config.guidance else None
        inner = 2 * config.width
        self.mlp = MLP(config.latent_width + config.width + told, inner, inner, config.latent_width)

    def forward(
        self, x: Float[Tensor, "B S C"], r: Int[Tensor, " B"], real: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B S L"]:
        """Args:
        x: [z_r, h_t].
        """
        if self.nothing is None:
            return self.plain(x, r, real)
        without = torch.cat([x[..., : -self.width], self.nothing.expand(*x.shape[:2], -1)], dim=-1)
        return (1 + self.guidance) * self.plain(x, r, real) - self.guidance * self.plain(without, r, real)

    def plain(
        self, x: Float[Tensor, "B S C"], r: Int[Tensor, " B"], real: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B S L"]:
        """Without guidance."""
        told = self.clock(r)[:, None].expand(-1, x.shape[1], -1)
        return self.mlp(torch.cat([x, told], dim=-1)) * real[..., None]

    def withheld(self, h: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """h_t, now and then nothing in its place, where guidance will ask for an estimate without it."""
        if self.nothing is None:
            return h
        where = torch.rand(h.shape[:2], device=h.device) < WITHHELD
        return torch.where(where[..., None], self.nothing, h)
