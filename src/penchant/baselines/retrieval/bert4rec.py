"""BERT4Rec: a bidirectional transformer that fills in masked items. Sun et al., "BERT4Rec: sequential recommendation
with bidirectional encoder representations from transformer", CIKM 2019.

Trained by the cloze task (`auxiliary.py`): items of a piece are masked and guessed from both sides. To serve, a mask is
appended and what it hides is the next item.

Deviates: pre-norm blocks. The loss is a softmax over the catalogue as published (sampled beyond a size, as everywhere).
Published reproductions that train long enough reach an HR@10 of 0.28 on ML-1M (leave-one-out, histories of 200).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.layers import BlockConfig, Dropout, OpenBlock, check_sizes, item_embedding
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class BERT4RecConfig:
    """Sizes of BERT4Rec."""

    width: int = 64
    """Width of item vectors and hidden states."""
    blocks: int = 2
    heads: int = 2
    expansion: int = 4
    """Inner width of the feed-forward layers, in widths."""
    dropout: float = 0.2
    max_len: int = 50
    """Actions read, the latest ones; the mask comes on top."""

    def __post_init__(self) -> None:
        check_sizes(self, "width", "blocks", "heads", "expansion", "max_len")


class BERT4Rec(nn.Module):
    """score(t, i) = GELU(W h_t + b) . e_i + b_i (Eq. 7), h_t = the transformer's state at a mask in place t.

    The users' vectors are [GELU(W h + b); 1], the items' [e_i; b_i].
    """

    kind: ClassVar[str] = "bert4rec"
    Config: ClassVar[type] = BERT4RecConfig

    def __init__(self, config: BERT4RecConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        self.items = item_embedding(sizes.num_items, config.width)
        self.mask = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        self.positions = nn.Embedding(config.max_len + 1, config.width)
        nn.init.normal_(self.positions.weight, std=config.width**-0.5)
        self.dropout = Dropout(config.dropout)
        block = BlockConfig(width=config.width, heads=config.heads, dropout=config.dropout, expansion=config.expansion)
        self.blocks = nn.ModuleList(OpenBlock(block) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.width)
        self.bias = nn.Parameter(torch.zeros(sizes.num_items + 1))

    def filled_in(
        self, sequence: Int[Tensor, "B S"], masked: Bool[Tensor, "B S"], lengths: Int[Tensor, " B"]
    ) -> Float[Tensor, "N D"]:
        """The vectors of what is behind the masks, row by row.

        Args:
            sequence: items, right-padded; what is masked is not read.
            lengths: of the rows, masks included.
        """
        x = self._embedded(sequence, masked)
        for block in self.blocks:
            x = block(x, lengths)
        return self._scored(x[masked])

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """The vector of a mask after the last action; zero without any. The last block is computed there alone."""
        requests = requests.last(self.config.max_len)
        lengths = requests.lengths + 1
        sequence = F.pad(requests.history, (0, 1))
        masked = torch.arange(sequence.shape[1], device=lengths.device) == requests.lengths[:, None]
        x = self._embedded(sequence, masked)
        *blocks, top = self.blocks
        for block in blocks:
            x = block(x, lengths)
        assert isinstance(top, OpenBlock)
        return self._scored(top.last(x, lengths)) * (requests.lengths > 0)[:, None]

    def item_vectors(self) -> Float[Tensor, "I D"]:
        """[e_i; b_i]; D = width + 1."""
        return torch.cat([self.items.weight, self.bias[:, None]], dim=1)

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, as the sampled softmax needs them."""
        return torch.cat([self.items(items), self.bias[items][:, None]], dim=1)

    def _embedded(self, sequence: Int[Tensor, "B S"], masked: Bool[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        x = torch.where(masked[..., None], self.mask, self.items(sequence))
        return self.dropout(x + self.positions.weight[: sequence.shape[1]])

    def _scored(self, states: Float[Tensor, "N D"]) -> Float[Tensor, "N D1"]:
        guess = F.gelu(self.head(self.norm(states)))
        return torch.cat([guess, guess.new_ones(len(guess), 1)], dim=1)
