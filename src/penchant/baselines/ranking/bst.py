"""BST: a ranker whose transformer block reads the history together with the candidate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from penchant.baselines.ranking.parts import RankerBody, RankerConfig
from penchant.data.history import Requests
from penchant.errors import ConfigError, at_least
from penchant.funnel.features import RankInputs
from penchant.layers import Dropout
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class BSTConfig(RankerConfig):
    """Sizes of BST."""

    heads: int = 4
    """Of the self-attention; the paper's 8 would leave each of them five dimensions."""
    positions: int = 50
    """Places in the history with a vector of their own, the latest ones; what is older shares the last of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "heads", "positions")
        if (width := self.width + self.category_width) % self.heads:
            what = f"width + category_width is {width}, not a multiple of heads {self.heads}"
            raise ConfigError(what, fix="Set heads to a divisor of it.")


class SequenceBlock(nn.Module):
    """The transformer block over [history, candidate], for each of K candidates.

    s = LayerNorm(x + Dropout(MultiHead(x)))                                  [Eq. 5]
    f = LayerNorm(s + Dropout(LeakyReLU(s W_1 + b_1) W_2 + b_2))              [Eq. 6]

    An action attends to the history and to the candidate. Only the second part differs between candidates, so the
    history's own attention o, with Z the sum of its exponents, is computed once a request and mended for each:

        softmax over both = (1 - g) o + g v_c,  g = e^(q . k_c) / (Z + e^(q . k_c)) = sigmoid(q . k_c - log Z)

    This is exact. What remains for each pair of candidate and action is the output's projection and the feed-forward
    layer: 3 D^2 products and memory of [B, K, S, D], where computing [B * K, S + 1] sequences anew would also take
    3 D^2 for queries, keys and values and [B, K, S, S] for attention.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_attention = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width))
        self.norm_feed_forward = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(
        self, history: Float[Tensor, "B S D"], candidates: Float[Tensor, "B K D"], mask: Bool[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B K S D"], Float[Tensor, "B K D"]]:
        """What the block makes of each action, beside each candidate, and of each candidate."""
        (q, k, v), (q_c, k_c, v_c) = self._heads(history), self._heads(candidates)
        # Not -inf: without any action, every softmax must stay finite.
        hidden, lowest = ~mask[:, None, None], torch.finfo(q.dtype).min
        among = (q @ k.transpose(2, 3)).masked_fill(hidden, lowest)
        alone = (among.softmax(dim=-1) @ v)[:, :, None]
        g = (k_c @ q.transpose(2, 3) - among.logsumexp(dim=-1)[:, :, None]).sigmoid()[..., None]
        of_actions = alone + g * (v_c[:, :, :, None] - alone)

        to_history = (q_c @ k.transpose(2, 3)).masked_fill(hidden, lowest)
        weights = torch.cat([to_history, (q_c * k_c).sum(-1, keepdim=True)], dim=-1).softmax(dim=-1)
        of_candidates = weights[..., :-1] @ v + weights[..., -1:] * v_c
        return (
            self._after_attention(history[:, None], of_actions.permute(0, 2, 3, 1, 4).flatten(3)),
            self._after_attention(candidates, of_candidates.transpose(1, 2).flatten(2)),
        )

    def _heads(self, x: Float[Tensor, "B N D"]) -> tuple[Float[Tensor, "B H N d"], ...]:
        """Queries (scaled), keys and values."""
        batch, length, width = x.shape
        each = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = each.permute(2, 0, 3, 1, 4)
        return q * (width // self.heads) ** -0.5, k, v

    def _after_attention(self, x: Float[Tensor, "... D"], mixed: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        s = self.norm_attention(x + self.dropout(self.out(mixed)))
        return self.norm_feed_forward(s + self.dropout(self.feed_forward(s)))


class BST(nn.Module):
    """Chen et al., "Behavior Sequence Transformer for E-commerce Recommendation in Alibaba", DLP-KDD 2019.

    x = item embedding + position, of [history, candidate]; f = block(x), one block as the paper found best
    v = mean of f over the history (zero where there is none), e = f of the candidate
    logit = MLP([v, e, v * e, features])

    Deviates: a position is the number of actions since, where the paper embeds the time since, and it is added, not
    concatenated; the mean of the history's outputs where the paper's Figure 1 concatenates twenty of them; Eq. 5 with
    the block's input where it prints the attention's output; the feed-forward layer, whose width the paper leaves open,
    is as wide as its input. The rest as `DIN` says.
    """

    kind = "bst"
    Config = BSTConfig

    def __init__(self, config: BSTConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        width = config.width + config.category_width
        self.body = RankerBody(config, sizes)
        # 0 = padding, 1 = the candidate, 2 = the latest action, 3 = the one before it, ...
        self.position = nn.Embedding(config.positions + 2, width, padding_idx=0)
        nn.init.normal_(self.position.weight, std=0.05)
        nn.init.zeros_(self.position.weight[0])
        self.block = SequenceBlock(width, config.heads, config.dropout)

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        """Logits; what an empty slot gets means nothing."""
        mask = inputs.requests.mask
        candidates = self.body.embed(inputs.items) + self.position.weight[1]
        actions, candidates = self.block(self._history(inputs.requests), candidates, mask)
        total = (actions * mask[:, None, :, None]).sum(2)
        mean = total / inputs.requests.lengths.clamp(min=1)[:, None, None]
        return self.body(mean, candidates, inputs)

    def _history(self, requests: Requests) -> Float[Tensor, "B S D"]:
        since = requests.lengths[:, None] - torch.arange(requests.history.shape[1], device=requests.history.device)
        place = torch.where(requests.mask, since.clamp(max=self.config.positions) + 1, 0)
        return self.body.embed(requests.history) + self.position(place)
