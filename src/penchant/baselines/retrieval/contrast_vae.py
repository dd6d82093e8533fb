"""ContrastVAE: a variational transformer that learns from two views of each sequence. Wang et al., "ContrastVAE:
contrastive variational autoencoder for sequential recommendation", CIKM 2022.

Model augmentation: the second view is the same sequence once more through the encoders, under other dropout (section
4.3.2). The ContrastELBO of both is in `auxiliary.py`.

Deviates: pre-norm blocks; z is drawn as printed, mean + std * noise, where the published code adds the bare std; served
at the mean. The next item is learned by a softmax over the catalogue unless `loss` is "published" (a sampled negative).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.layers import BlockConfig, CausalBlock, Dropout, check_sizes, item_embedding
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class ContrastVAEConfig:
    """Sizes of ContrastVAE."""

    width: int = 64
    """Width of item vectors, of z and of hidden states."""
    blocks: int = 1
    """Of the encoder of the means, of that of the variances, and of the decoder: so many each."""
    heads: int = 2
    expansion: int = 4
    """Inner width of the feed-forward layers, in widths."""
    dropout: float = 0.2
    max_len: int = 50
    """Actions read, the latest ones."""

    def __post_init__(self) -> None:
        check_sizes(self, "width", "blocks", "heads", "expansion", "max_len")


class View(NamedTuple):
    """One pass over the sequences, a vector a position: the posterior of z, z itself, and what was decoded of it."""

    mean: Float[Tensor, "B S D"]
    log_variance: Float[Tensor, "B S D"]
    z: Float[Tensor, "B S D"]
    hidden: Float[Tensor, "B S D"]


class ContrastVAE(nn.Module):
    """z_t ~ N(mean_t, std_t^2) of items up to t, h_t = decoder(z up to t), scores h_t . e_i."""

    kind: ClassVar[str] = "contrast_vae"
    Config: ClassVar[type] = ContrastVAEConfig

    def __init__(self, config: ContrastVAEConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        self.items = item_embedding(sizes.num_items, config.width)
        self.positions = nn.Embedding(config.max_len, config.width)
        nn.init.normal_(self.positions.weight, std=config.width**-0.5)
        self.dropout = Dropout(config.dropout)
        self.means, self.log_variances, self.decoder = (_Transformer(config) for _ in range(3))

    def view(self, history: Int[Tensor, "B S"]) -> View:
        """A pass in which dropout and, in training, z are drawn anew; right-padded with what nobody should read."""
        x = self._embedded(history)
        mean, log_variance = self.means(x), self.log_variances(x)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean
        return View(mean, log_variance, z, self.decoder(z))

    def hidden(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """The user's vector after each action, right-padded with what nobody should read."""
        return self.view(history).hidden

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """h after the last action, of z's mean; zero without any."""
        requests = requests.last(self.config.max_len)
        mean = self.means(self._embedded(requests.history))
        return self.decoder.last(mean, requests.lengths) * (requests.lengths > 0)[:, None]

    def item_vectors(self) -> Float[Tensor, "I D"]:
        return self.items.weight

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, as the sampled softmax needs them."""
        return self.items(items)

    def _embedded(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        return self.dropout(self.items(history) + self.positions.weight[: history.shape[1]])


class _Transformer(nn.Module):
    """Causal blocks and a norm."""

    def __init__(self, config: ContrastVAEConfig) -> None:
        super().__init__()
        block = BlockConfig(width=config.width, heads=config.heads, dropout=config.dropout, expansion=config.expansion)
        self.blocks = nn.ModuleList(CausalBlock(block) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def last(self, x: Float[Tensor, "B S D"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """What `forward` gives at each row's last real position; the last block is computed there alone."""
        *blocks, top = self.blocks
        for block in blocks:
            x = block(x)
        assert isinstance(top, CausalBlock)
        return self.norm(top.last(x, lengths))
