"""YouTube DNN: the mean of the history through a tower of ReLUs. Covington et al., "Deep neural networks for YouTube
recommendations", RecSys 2016, section 3: candidate generation.

Deviates: item ids alone, without the paper's searches, geography, age of the example and gender; histories of any
length instead of the last 50; the last layer is linear, as item vectors, which input and output share here, have both
signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.baselines.retrieval.interests import items_of
from penchant.data.history import Requests
from penchant.errors import ConfigError
from penchant.layers import Dropout, check_sizes
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class YouTubeDNNConfig:
    """Sizes of YouTube DNN."""

    width: int = 64
    """Width of item vectors."""
    tower: tuple[int, ...] = (256, 128)
    """Widths of the layers of ReLUs between the mean and the user's vector."""
    dropout: float = 0.2
    max_len: int = 50
    """Actions read, the latest ones."""
    categories: bool = False
    """Items' vectors also have a part that all items of a category share."""

    def __post_init__(self) -> None:
        check_sizes(self, "width", "max_len")
        if min(self.tower, default=1) < 1:
            raise ConfigError(f"tower is {self.tower}", fix="Set widths of 1 or more.")


class YouTubeDNN(nn.Module):
    """u = Tower[mean of x_1 .. x_n]; scores u . e_i."""

    kind: ClassVar[str] = "youtube_dnn"
    Config: ClassVar[type] = YouTubeDNNConfig

    def __init__(self, config: YouTubeDNNConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        self.items = items_of(sizes, config.width, config.categories)
        self.dropout = Dropout(config.dropout)
        layers: list[nn.Module] = []
        widths = (config.width, *config.tower)
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU(), Dropout(config.dropout)]
        self.tower = nn.Sequential(*layers, nn.Linear(widths[-1], config.width))

    def interests(self, history: Int[Tensor, "B S"]) -> tuple[Float[Tensor, "B K D"], Bool[Tensor, "B K"]]:
        """The user's one vector, K = 1, as the objective of single targets asks for it; none without any action."""
        lengths = (history > 0).sum(1, keepdim=True)
        mean = self.items(history).sum(1) / lengths.clamp(min=1)
        return self.tower(self.dropout(mean * self.config.width**0.5))[:, None], lengths > 0

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """The vector after the last action; zero without any."""
        vectors, real = self.interests(requests.last(self.config.max_len).history)
        return (vectors * real[..., None])[:, 0]

    def item_vectors(self) -> Float[Tensor, "I D"]:
        return self.items.weight

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, as the sampled softmax needs them."""
        return self.items(items)
