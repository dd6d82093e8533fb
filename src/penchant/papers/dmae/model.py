"""DMAE's serving half: how alike the candidate is to each past action, in text and in image, beside DIN.

Eq. 1 to 9, 14 and 15.

What guides it while it trains (IDDU, Eq. 10 to 13) is in `objective.py`: nothing here can decode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.baselines.ranking.content import ContentRankerConfig, ItemContent, Similarities, actions_since
from penchant.baselines.ranking.din import ActivationUnit
from penchant.baselines.ranking.parts import RankerBody
from penchant.errors import ConfigError, at_least
from penchant.funnel.features import RankInputs
from penchant.models import Sizes


@dataclass(frozen=True, kw_only=True)
class DMAEConfig(ContentRankerConfig):
    """DIN's sizes, the content, and the sizes of MIEU and MIFU."""

    interest: int = 16
    """Width d of an interest representation."""
    buckets: int = 50
    """N_B of Eq. 2."""
    encoding: Literal["both", "buckets"] = "both"
    """Eq. 1 to 3, or plain buckets without a factor and without sine and cosine (the paper's w/o MIEU-se)."""
    wave: Literal["buckets", "one"] = "buckets"
    """What Eq. 3 takes sine and cosine of: r (N_B - 1), or r as printed, which is one almost linear feature."""
    places: bool = True
    """Whether Eq. 4 knows how long ago an action was."""
    fusion: bool = True
    """MIFU; without, the mean of each modality's sequence (the paper's w/o MIFU)."""
    window: int = 10
    """Neighbours that an action's representation attends to, half on each side."""
    residual: bool = True
    """Residual and norm around the window attention; without, as printed."""
    query: Literal["other", "own", "both"] = "other"
    """Whose mean asks in Eq. 8 and 9. With one modality it is its own."""
    max_len: int = 64
    """T: places that are told apart; older actions share the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(2, self, "interest", "buckets")
        at_least(1, self, "window", "max_len")
        if self.interest % 2:
            raise ConfigError(f"interest is {self.interest}", fix="Set interest to an even number: sine and cosine.")


class InterestEncoding(nn.Module):
    """MIEU of one modality: from a similarity to what it says of the user's interest. Eq. 1 to 4.

    r_hat = w r + b;  r_d = r_hat E[floor(r (N_B - 1))];  r_sc = (sin(x / 10^(2i/d)), cos(x / 10^(2i/d)), ..)
    ReLU(W2 [ReLU(W1 [r_d, r_sc] + b1), PE_(T-j)] + b2)

    Deviates: x = r (N_B - 1) in place of r, whose sines and cosines are of rank one (`wave`); d values of Eq. 3, not
    the d + 2 of its last exponent. W1 and W2 are applied in two parts each, so that what depends on the bucket, or on
    the place, alone is multiplied once.
    """

    frequencies: Tensor

    def __init__(self, config: DMAEConfig) -> None:
        super().__init__()
        d = config.interest
        self.config = config
        self.w, self.b = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))
        self.bucket = nn.Embedding(config.buckets, d)
        self.first = nn.Linear(2 * d if config.encoding == "both" else d, d)
        self.second = nn.Linear(2 * d if config.places else d, d)
        self.place = nn.Embedding(config.max_len, d) if config.places else None
        self.register_buffer("frequencies", 10.0 ** (-torch.arange(0, d, 2) / d), persistent=False)

    def forward(self, r: Float[Tensor, "B K S"], ago: Int[Tensor, "B S"]) -> Float[Tensor, "B K S d"]:
        """Args:
        ago: T - j, actions since: 0 is the last.
        """
        d, top = self.config.interest, self.config.buckets - 1
        of_bucket = F.linear(self.bucket.weight, self.first.weight[:, :d])
        inner = F.embedding((r * top).long(), of_bucket)
        if self.config.encoding == "both":
            angles = (r * top if self.config.wave == "buckets" else r)[..., None] * self.frequencies
            waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
            inner = inner * (self.w * r + self.b)[..., None] + F.linear(waves, self.first.weight[:, d:])
        inner = F.relu(inner + self.first.bias)
        outer = F.linear(inner, self.second.weight[:, :d], self.second.bias)
        if self.place is not None:
            of_place = F.linear(self.place.weight, self.second.weight[:, d:])
            outer = outer + F.embedding(ago.clamp(0, len(of_place) - 1), of_place)[:, None]
        return F.relu(outer)


class WindowAttention(nn.Module):
    """MIFU's G: each place attends to those at most `window` / 2 away. Eq. 5 and 6, in O(S).

    Deviates: residual and LayerNorm around it (`residual`), of which the paper does not speak.
    """

    def __init__(self, width: int, window: int, residual: bool) -> None:
        super().__init__()
        self.reach = max(1, window // 2)
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = nn.LayerNorm(width) if residual else None

    def forward(self, x: Float[Tensor, "N S d"], known: Bool[Tensor, "N S"]) -> Float[Tensor, "N S d"]:
        """What comes out at a place that is not known means nothing."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        mixed = banded_attention(q, k, v, known, self.reach)
        return mixed if self.norm is None else self.norm(x + mixed)


BLOCK = 64
"""Places whose attention is one dense product."""


def banded_attention(
    q: Float[Tensor, "N S d"],
    k: Float[Tensor, "N S d"],
    v: Float[Tensor, "N S d"],
    known: Bool[Tensor, "N S"],
    reach: int,
) -> Float[Tensor, "N S d"]:
    """softmax(q . k / sqrt(d)) v over the known places at most `reach` away, and the place itself.

    In blocks: places of a block attend to the block and `reach` on each side, so that all is dense products and nothing
    grows faster than S.
    """
    count, length, width = q.shape
    if not length:
        return q
    block = min(max(2 * reach, BLOCK), length)
    blocks = -(-length // block)
    place = torch.arange(length, device=q.device)
    if blocks == 1:
        allowed = ((place - place[:, None]).abs() <= reach)[None]
        if not bool(known.all()):  # else one mask does for all
            allowed = (allowed & known[:, None]) | torch.eye(length, dtype=torch.bool, device=q.device)
        one_head = (of[:, None] for of in (q, k, v))
        return F.scaled_dot_product_attention(*one_head, attn_mask=allowed[:, None])[:, 0]
    after, span = blocks * block - length, block + 2 * reach
    queries = F.pad(q, (0, 0, 0, after)).view(count, blocks, block, width)
    keys, values = (F.pad(of, (0, 0, reach, reach + after)).unfold(1, span, block).mT for of in (k, v))
    away = torch.arange(span, device=q.device) - torch.arange(block, device=q.device)[:, None] - reach
    seen = F.pad(known, (reach, reach + after)).unfold(1, span, block)[:, :, None]
    allowed = ((away.abs() <= reach) & seen) | (away == 0)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed).flatten(1, 2)[:, :length]


class CrossFusion(nn.Module):
    """One modality's sequence, asked by a pooled vector of another. Eq. 8 and 9.

    softmax((asked W_Q) (r_hat W_K)^T / sqrt(d)) r_hat W_V
    """

    def __init__(self, asked: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(asked, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def forward(
        self, asked: Float[Tensor, "N a"], x: Float[Tensor, "N S d"], known: Bool[Tensor, "N S"]
    ) -> Float[Tensor, "N d"]:
        """Zero where nothing is known."""
        # (q W_Q) . (x W_K) = x . (q W_Q W_K^T): the sequence is read once, not projected.
        asks = F.linear(self.query(asked), self.key.weight.T)
        scores = (x @ asks[..., None])[..., 0] / math.sqrt(x.shape[-1])
        weights = scores.masked_fill(~known, -torch.inf).softmax(-1).nan_to_num(0.0)
        return self.value((weights[:, None] @ x)[:, 0])


@dataclass(frozen=True)
class Interests:
    """What MIEU and MIFU make of candidates, N = B K of them.

    Attributes:
        similarities: what they were made from.
        ago: actions since each, 0 = the last.
        sequences: by modality, r_hat of Eq. 5 and 6 (of Eq. 4 without MIFU).
        fused: r_* of each modality, side by side.
    """

    similarities: Similarities
    ago: Int[Tensor, "B S"]
    sequences: tuple[Float[Tensor, "N S d"], ...]
    fused: Float[Tensor, "B K f"]


class DMAE(nn.Module):
    """Distribution-Guided Multimodal-Interest Auto-Encoder.

    h = DIN(history, candidate)                                           [Eq. 14]
    logit = MLP([h, e, h * e, features, r_*^1, .., r_*^M])                [Eq. 15]

    Any number of modalities; an action or a candidate without one is left out of that modality alone, and a candidate
    of which nothing is known gets zeros.

    Deviates: features in place of v_u, and h * e, as `DIN` here has them. With more than two modalities Eq. 8's query
    is the mean over the other ones; with one it is its own.
    """

    kind: ClassVar[str] = "dmae"
    Config: ClassVar[type] = DMAEConfig

    def __init__(self, config: DMAEConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes, self.num_items = config, sizes, sizes.num_items
        modalities, d = len(config.modalities), config.interest
        self.body = RankerBody(config, sizes, further=modalities * d)
        self.unit = ActivationUnit(config.width + config.category_width, config.attention)
        self.content = ItemContent(config, sizes.num_items)
        self.encoders = nn.ModuleList(InterestEncoding(config) for _ in range(modalities))
        asked = 2 * d if config.query == "both" else d
        self.windows = nn.ModuleList(
            WindowAttention(d, config.window, config.residual) for _ in range(modalities if config.fusion else 0)
        )
        self.crosses = nn.ModuleList(CrossFusion(asked, d) for _ in self.windows)

    def forward(self, inputs: RankInputs) -> Float[Tensor, "B K"]:
        """Logits; what an empty slot gets means nothing."""
        return self.logits(inputs, self.interests(inputs))

    def interests(self, inputs: RankInputs) -> Interests:
        """MIEU and MIFU."""
        requests = inputs.requests
        similarities = self.content(requests.history, inputs.items)
        ago = actions_since(requests)
        known = [mask.flatten(0, 1) for mask in similarities.known.unbind(2)]
        sequences = [
            encoder(r, ago).flatten(0, 1) for encoder, r in zip(self.encoders, similarities.r.unbind(2), strict=True)
        ]
        if self.windows:
            sequences = [g(x, of) for g, x, of in zip(self.windows, sequences, known, strict=True)]
        means = [masked_mean(x, of) for x, of in zip(sequences, known, strict=True)]
        if self.windows:
            asked = [self._asked(means, m) for m in range(len(means))]
            means = [
                cross(*of) for cross, of in zip(self.crosses, zip(asked, sequences, known, strict=True), strict=True)
            ]
        fused = torch.cat(means, dim=-1).view(*inputs.items.shape, -1)
        return Interests(similarities, ago, tuple(sequences), fused)

    def logits(self, inputs: RankInputs, interests: Interests) -> Float[Tensor, "B K"]:
        """DIN's pooled history and the fused interests through the last network."""
        candidates, history = self.body.embed(inputs.items), self.body.embed(inputs.requests.history)
        pooled = self.unit(history, candidates, inputs.requests.mask) @ history
        return self.body(pooled, candidates, inputs, interests.fused)

    def _asked(self, means: list[Float[Tensor, "N d"]], m: int) -> Float[Tensor, "N a"]:
        others = [mean for n, mean in enumerate(means) if n != m] or [means[m]]
        other = torch.stack(others).mean(0)
        match self.config.query:
            case "other":
                return other
            case "own":
                return means[m]
            case "both":
                return torch.cat([other, means[m]], dim=-1)


def masked_mean(x: Float[Tensor, "N S d"], kept: Bool[Tensor, "N S"]) -> Float[Tensor, "N d"]:
    """Mean over the kept places; zero where there is none. Eq. 7 and 11."""
    weights = kept / kept.sum(1, keepdim=True).clamp(min=1)
    return (weights[:, None].to(x.dtype) @ x)[:, 0]
