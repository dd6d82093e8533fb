"""GRU4Rec: a recurrent network over item ids. Hidasi et al., "Session-based recommendations with recurrent neural
networks", ICLR 2016; Hidasi & Karatzoglou, "Recurrent neural networks with top-k gains", CIKM 2018.

Deviates: trained with a softmax over the catalogue; whole histories instead of session-parallel batches; item vectors
shared by input and output (the 2018 paper's "constrained embeddings").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.layers import Dropout, check_sizes, item_embedding, last_hidden
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class GRU4RecConfig:
    """Sizes of GRU4Rec."""

    width: int = 64
    """Width of item vectors."""
    state: int = 128
    """Width of the recurrent state."""
    layers: int = 1
    dropout: float = 0.2
    max_len: int = 50
    """Actions read, the latest ones."""

    def __post_init__(self) -> None:
        check_sizes(self, "width", "state", "layers", "max_len")


class GRU4Rec(nn.Module):
    """h_t = W GRU(items up to t); scores h_t . e_i."""

    kind: ClassVar[str] = "gru4rec"
    Config: ClassVar[type] = GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        self.items = item_embedding(sizes.num_items, config.width)
        self.dropout = Dropout(config.dropout)
        self.gru = nn.GRU(config.width, config.state, config.layers, batch_first=True)
        self.out = nn.Linear(config.state, config.width)
        self.norm = nn.LayerNorm(config.width)

    def hidden(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """The user's vector after each action, right-padded with what nobody should read."""
        x = self.dropout(self.items(history) * self.config.width**0.5)
        states, _ = self.gru(x)
        return self.norm(self.out(self.dropout(states)))

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """h after the last action; zero without any."""
        requests = requests.last(self.config.max_len)
        if not requests.history.shape[1]:
            return self.items.weight.new_zeros(len(requests), self.config.width)
        return last_hidden(self.hidden(requests.history), requests.lengths)

    def item_vectors(self) -> Float[Tensor, "I D"]:
        return self.items.weight

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, as the sampled softmax needs them."""
        return self.items(items)
