"""T2Diff: a two-tower model whose user tower meets a guess of the next item before it forms the user's vector.

Noisy guesses come from `diffusion.py`; here the history is read, the guess is mixed in (Eq. 19 to 22), and both towers
serve. Shapes: B requests, S actions, K actions of the last session, D width. Actions end at the last column.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.errors import ConfigError, at_least
from penchant.layers import MLP, Draw, Dropout, check_sizes, item_embedding, noise_of_users
from penchant.models import Sizes
from penchant.papers.t2diff.diffusion import Diffusion, DiffusionConfig, UNet

LAGS = 40
"""Time lags are told apart by their order of magnitude: log2 of seconds."""
LAG_WIDTH = 8
SMALLEST_SUM = 1e-3
"""Eq. 20's denominator is kept this far from zero: as printed it may be zero."""
GUESSES = ("onestep", "ddim", "chain")
"""Ways to x^ that need the diffusion module."""
Norm = Literal["softmax", "literal_ratio", "none", "sigmoid", "relu_ratio"]


@dataclass(frozen=True, kw_only=True)
class T2DiffConfig(DiffusionConfig):
    """Sizes, and how the guess comes about when serving."""

    width: int = 64
    """D, of item vectors and of both towers' vectors."""
    max_len: int = 50
    """Actions read, the latest ones."""
    blocks: int = 1
    """Transformer layers of Eq. 19."""
    heads: int = 2
    expansion: int = 4
    inner: int = 64
    """Inner width of the networks of Eq. 20 and 22."""
    dropout: float = 0.2
    session: Literal["last_k", "gap"] = "last_k"
    """The last session: the last `session_items` actions; gap: those of them after the last pause."""
    session_items: int = 10
    """k of section 4.1."""
    gap_minutes: float = 30.0
    """A pause is longer than this."""
    attention: Norm = "softmax"
    """What makes weights a_j of Eq. 20's logits: a softmax; their share of the sum as printed; nothing, as in DIN; a
    sigmoid each; their share once negative ones are zero."""
    time_lag: bool = True
    """Eq. 20 also reads how long before the request each action was; needs real times."""
    xhat: Literal["onestep", "ddim", "chain", "zero", "last"] = "onestep"
    """Where x^_{n+1} comes from: one estimate from pure noise; a few deterministic steps; Algorithm 2. Without a
    diffusion module: zero (mixed attention alone); the last action once more."""
    ddim_steps: int = 5
    drift: bool = True
    """What is diffused is the step from each action to the next (Eq. 11); False = the next action itself (W/O DP)."""
    latent_scale: bool = True
    """Item vectors are divided by their running root mean square before the diffusion, whose noise has size one."""
    samples: int = 1
    """Guesses averaged; the paper takes one."""
    noise_seed: int = 0
    """Each user has noise of their own, the same in every request."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = ("width", "max_len", "blocks", "heads", "expansion", "inner", "session_items", "ddim_steps", "samples")
        check_sizes(self, *sizes)
        if self.ddim_steps > self.steps:
            raise ConfigError(f"ddim_steps is {self.ddim_steps}", fix=f"Set ddim_steps to {self.steps} or less.")
        at_least(0, self, "gap_minutes")


@dataclass(frozen=True)
class Past:
    """Histories as the model reads them: padding on the left.

    Attributes:
        x: X_{1:n}, zero at padding.
        real: True at actions.
        session: True at those of the last session.
        lags: how long before the request, a code from 0 to LAGS - 1.
    """

    x: Float[Tensor, "B S D"]
    real: Bool[Tensor, "B S"]
    session: Bool[Tensor, "B S"]
    lags: Int[Tensor, "B S"]


class T2Diff(nn.Module):
    """e_u = FFN([h_l, h_s]) of session, history and x^_{n+1} (Eq. 19 to 22); scores e_u . e_i.

    Deviates: the item tower, which the paper does not describe, is the table of item vectors.
    """

    kind: ClassVar[str] = "t2diff"
    Config: ClassVar[type] = T2DiffConfig
    scale: Tensor

    def __init__(self, config: T2DiffConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.num_items = sizes.num_items
        width = config.width
        self.items = item_embedding(sizes.num_items, width)
        self.diffusion = Diffusion(config, UNet(config, width)) if config.xhat in GUESSES else None
        self.register_buffer("scale", torch.tensor(width**-0.5 if config.latent_scale else 1.0))
        self.positions = nn.Parameter(torch.randn(config.session_items + 1, width) * width**-0.5)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.lags = nn.Embedding(LAGS, LAG_WIDTH) if config.time_lag else None
        self.activation = MLP(4 * width + (LAG_WIDTH if config.time_lag else 0), config.inner, 1)
        self.user = MLP(2 * width, config.inner, width, dropout=config.dropout)

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """e_u; zero without any action. The same request gives the same vector in any company."""
        requests = requests.last(self.config.max_len)
        past = self.past(requests)
        length, width = past.x.shape[1:]
        draw = noise_of_users(requests.users, length, width, self.config.noise_seed)
        xhat = self.guess(past.x, past.real, draw)
        return self.tower(past, xhat) * (requests.lengths > 0)[:, None]

    def item_vectors(self) -> Float[Tensor, "I D"]:
        """e_i; row 0 is zero."""
        return self.items.weight

    def embed_items(self, items: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Vectors of some items, as the sampled softmax needs them."""
        return self.items(items)

    def past(self, requests: Requests) -> Past:
        """What was done before the requests, the last session told from what came before."""
        config, lengths = self.config, requests.lengths
        width = requests.history.shape[1]
        at = torch.arange(width, device=lengths.device) - (width - lengths)[:, None]
        real = at >= 0
        history = requests.history.gather(1, at.clamp(min=0)) * real
        times = requests.history_times_ms.gather(1, at.clamp(min=0))
        session = real & (torch.arange(width, device=lengths.device) >= width - config.session_items)
        if config.session == "gap" and width:
            pause = F.pad(times.diff(dim=1) > config.gap_minutes * 60_000, (0, 1))
            session &= pause.flip(1).cumsum(1).flip(1) == 0
        seconds = (requests.times_ms[:, None] - times).clamp(min=0) / 1000
        lags = (1 + seconds).log2().long().clamp(max=LAGS - 1)
        return Past(self.items(history), real, session, lags)

    def guess(self, x: Float[Tensor, "B S D"], real: Bool[Tensor, "B S"], draw: Draw) -> Float[Tensor, "B D"]:
        """x^_{n+1} as it is served; it has never seen x_{n+1}.

        Args:
            x: X_{1:n}.
            draw: noise; each sample takes T + 1 draws.
        """
        config = self.config
        if self.diffusion is None or not x.shape[1]:
            return x[:, -1] if config.xhat == "last" and x.shape[1] else x.new_zeros(len(x), config.width)
        total = x.new_zeros(len(x), config.width)
        for sample in range(config.samples):
            z_0 = self._z_0(self.diffusion, x / self.scale, real, draw, sample * (config.steps + 1))
            total = total + self.restored(z_0, x)
        return total / config.samples

    def _z_0(self, diffusion: Diffusion, x: Tensor, real: Tensor, draw: Draw, first: int) -> Tensor:
        def own(number: int) -> Tensor:
            return draw(first + number)

        if self.config.xhat == "chain":
            return deque(diffusion.chain(x, real, own), maxlen=1).pop()
        return diffusion.ddim(x, real, own, self.config.ddim_steps if self.config.xhat == "ddim" else 1)

    def restored(self, z_0: Float[Tensor, "B S D"], x: Float[Tensor, "B S D"]) -> Float[Tensor, "B D"]:
        """x^_{n+1} = Slice(z_0 + X_{1:n}) (Eq. 18), in the items' scale; Slice(z_0) W/O DP."""
        last = z_0[:, -1] * self.scale
        return last + x[:, -1] if self.config.drift else last

    def tower(self, past: Past, xhat: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """e_u of Eq. 19 to 22."""
        config = self.config
        recent = past.x[:, -config.session_items :]
        tokens = torch.cat([recent, xhat[:, None]], dim=1)
        there = F.pad(past.session[:, -config.session_items :], (0, 1), value=True)
        h = self.dropout(tokens + self.positions[-tokens.shape[1] :])
        for block in self.blocks:
            h = block(h, there)
        h_s = (self.norm(h) * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        old = past.real & ~past.session
        h_l = (attention_weights(self._logits(past, h_s), old, config.attention)[..., None] * past.x).sum(1)
        return self.user(torch.cat([h_l, h_s], dim=1))

    def _logits(self, past: Past, h_s: Tensor) -> Tensor:
        """FFN of Eq. 20, [B, S]."""
        x = past.x
        h = h_s[:, None].expand_as(x)
        parts = [x, x - h, x * h, h] + ([] if self.lags is None else [self.lags(past.lags)])
        return self.activation(torch.cat(parts, dim=-1))[..., 0]


def attention_weights(logits: Float[Tensor, "B S"], real: Bool[Tensor, "B S"], norm: Norm) -> Float[Tensor, "B S"]:
    """a_j of Eq. 20 from the FFN's answers; zero where nothing is real.

    Deviates: a softmax by default. Printed is the share of the sum (literal_ratio), which may be zero or change its
    sign between two users; there it is kept `SMALLEST_SUM` from zero.
    """
    if norm == "softmax":
        return logits.masked_fill(~real, torch.finfo(logits.dtype).min).softmax(1) * real
    if norm == "sigmoid":
        return logits.sigmoid() * real
    logits = logits * real
    if norm == "none":
        return logits
    if norm == "relu_ratio":
        logits = logits.relu()
    total = logits.sum(1, keepdim=True)
    away = torch.where(total < 0, -SMALLEST_SUM, SMALLEST_SUM)
    return logits / torch.where(total.abs() < SMALLEST_SUM, away, total)


class EncoderBlock(nn.Module):
    """A transformer's encoder layer (Eq. 19), pre-norm: every position attends to every real one."""

    def __init__(self, config: T2DiffConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = MLP(width, config.expansion * width, width, dropout=config.dropout)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B S D"], real: Bool[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        batch, length, width = x.shape
        heads = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))
