"""KARMA's Table 2: a head G makes the retrieval vector from h_t. Is the next item, generated, the better query?"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import count
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.batch import SequenceBatch
from penchant.data.history import Requests
from penchant.errors import at_least
from penchant.layers import noise_of_users
from penchant.models import Sizes
from penchant.papers.karma.generators import Generator, GeneratorConfig
from penchant.papers.karma.model import Karma, KarmaConfig


@dataclass(frozen=True, kw_only=True)
class GeneratedConfig(KarmaConfig):
    """A finished KARMA's sizes, and the head on its h_t."""

    head: Literal["mse", "flow", "ddpm", "edm"] = "mse"
    """See `generators.py`."""
    head_width: int = 256
    head_blocks: int = 3
    head_steps: int = 20
    """Steps of a sample."""
    samples: int = 1
    """Samples whose mean is the query."""
    noise_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "samples")

    def of_head(self) -> GeneratorConfig:
        """The head's own."""
        return GeneratorConfig(kind=self.head, width=self.head_width, blocks=self.head_blocks, steps=self.head_steps)

    def of_karma(self) -> KarmaConfig:
        """KARMA's own."""
        return KarmaConfig(**{f.name: getattr(self, f.name) for f in fields(KarmaConfig)})


class GeneratedKarma(nn.Module):
    """e^ = G(h_t), score = e^ . e_i; e^ is the mean of so many samples (K22, K23).

    Noise is the user's own, so that an answer depends on its request alone, and what is judged is no single draw.

    Deviates: the paper does not say what G learns with. Here KARMA is finished and stays as it is, G alone learns
    toward the vectors of next items: every row of the table has one h_t, and nothing can collapse.
    """

    kind: ClassVar[str] = "karma_generated"
    Config: ClassVar[type] = GeneratedConfig
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: GeneratedConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        self.karma = Karma(config.of_karma(), sizes).requires_grad_(False)
        self.head = Generator(config.of_head(), config.width, self.karma.body.config.hidden_size)
        self.register_buffer("mean", torch.zeros(config.width))
        self.register_buffer("deviation", torch.ones(config.width))

    def train(self, mode: bool = True) -> GeneratedKarma:
        """KARMA never learns."""
        super().train(mode)
        self.karma.eval()
        return self

    @torch.no_grad()
    def standardise(self, counts: Float[Tensor, " I"]) -> None:
        """Take next items' vectors to mean 0 and size 1 in each dimension, as they occur in the train window."""
        vectors, weights = self.item_vectors(), (counts / counts.sum().clamp(min=1))[:, None]
        self.mean.copy_((vectors * weights).sum(0))
        self.deviation.copy_(((vectors - self.mean).square() * weights).sum(0).sqrt().clamp(min=1e-6))

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        """KARMA's."""
        return self.karma.embed_items(items)

    def item_vectors(self) -> Float[Tensor, "I V"]:
        """KARMA's."""
        return self.karma.item_vectors()

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B V"]:
        """e^; zero without a history."""
        states, known = self.karma.last_states(requests)
        number, draw = count(), noise_of_users(requests.users, 1, self.config.width, self.config.noise_seed)
        made = self.head.sample(states, count=self.config.samples, noise=lambda: draw(next(number))[:, 0])
        return (self.mean + self.deviation * made) * known[:, None]


class GeneratedObjective(nn.Module):
    """The head's loss toward the next item's vector, at every position of the histories. Train-only."""

    def forward(self, model: GeneratedKarma, batch: SequenceBatch) -> dict[str, Tensor]:
        """{"head"}: the squared error of Eq. 8, or of the vector itself."""
        karma, mask = model.karma, batch.mask
        with torch.no_grad():
            states = karma.read(karma.tokens(batch.history))[mask]
            target = (karma.embed_items(batch.targets[mask]) - model.mean) / model.deviation
        return {"head": model.head.loss(target, states)}
