"""Caser: convolutions over the image that the last L items make. Tang & Wang, "Personalized top-N sequential
recommendation via convolutional sequence embedding", WSDM 2018.

Deviates: no vector of the user beside the sequence's (the paper's P_u), so that a user nobody has seen is served like
any other; one convolution over the whole piece gives every position's window at once, where the paper cuts windows out;
the catalogue's rows W' are vectors of their own, as in the paper, and learn by a softmax unless `loss` is "published".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.errors import ConfigError
from penchant.layers import Dropout, check_sizes, item_embedding, last_hidden
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class CaserConfig:
    """Sizes of Caser."""

    width: int = 64
    """Width of item vectors, read and scored."""
    window: int = 5
    """L: the last so many items are read, and no others."""
    horizontal: int = 16
    """Horizontal filters of each height from 1 to L."""
    vertical: int = 4
    """Vertical filters, each as high as the window and one item dimension wide."""
    dropout: float = 0.5
    max_len: int = 50
    """Longest piece it is trained on; what it reads is `window`."""

    def __post_init__(self) -> None:
        check_sizes(self, "width", "window", "horizontal", "vertical", "max_len")
        if self.window > self.max_len:
            what = f"window is {self.window}, max_len {self.max_len}"
            raise ConfigError(what, fix="Set window to max_len or less.")


class Caser(nn.Module):
    """z = ReLU(W [o; o~] + b), score(t, i) = W'_i z + b'_i (section 3.3), for E = the vectors of the last L items:

    o: of each horizontal filter F of height h, max over rows s of ReLU(F * E[s : s + h]) (section 3.2).
    o~: of each vertical filter F~, sum over rows l of F~_l E_l, one value a dimension.

    A window that the history does not fill begins with zeros.
    """

    kind: ClassVar[str] = "caser"
    Config: ClassVar[type] = CaserConfig

    def __init__(self, config: CaserConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        self.items = item_embedding(sizes.num_items, config.width)
        self.horizontal = nn.ModuleList(
            nn.Conv1d(config.width, config.horizontal, height) for height in range(1, config.window + 1)
        )
        self.vertical = nn.Conv1d(1, config.vertical, config.window, bias=False)
        self.dropout = Dropout(config.dropout)
        together = config.window * config.horizontal + config.vertical * config.width
        self.dense = nn.Linear(together, config.width)
        self.scored = item_embedding(sizes.num_items, config.width)
        self.bias = nn.Parameter(torch.zeros(sizes.num_items + 1))

    def hidden(self, history: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """[z; 1] after each action, right-padded with what nobody should read; D = width + 1."""
        batch, length = history.shape
        window, width = self.config.window, self.config.width
        x = self.items(history) * width**0.5
        x = F.pad(x.transpose(1, 2), (window - 1, 0))  # [B, width, window - 1 + S]: item s is in column window - 1 + s
        across = [
            F.max_pool1d(conv(x).relu(), window - height + 1, stride=1)  # over the places inside each window
            for height, conv in enumerate(self.horizontal, 1)
        ]
        down = self.vertical(x.reshape(batch * width, 1, window - 1 + length))
        features = torch.cat([*across, down.view(batch, width * self.config.vertical, length)], dim=1)
        z = self.dense(self.dropout(features.transpose(1, 2))).relu()
        return torch.cat([z, z.new_ones(batch, length, 1)], dim=-1)

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """[z; 1] after the last action; zero without any."""
        requests = requests.last(self.config.window)
        if not requests.history.shape[1]:
            return self.items.weight.new_zeros(len(requests), self.config.width + 1)
        return last_hidden(self.hidden(requests.history), requests.lengths)

    def item_vectors(self) -> Float[Tensor, "I D"]:
        """[W'; b']."""
        return torch.cat([self.scored.weight, self.bias[:, None]], dim=1)

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, as the sampled softmax needs them."""
        return torch.cat([self.scored(items), self.bias[items][:, None]], dim=1)
