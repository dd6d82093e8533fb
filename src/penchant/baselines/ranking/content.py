"""What items look and read like, as a ranker sees it: frozen vectors of any number of modalities, compared in pairs.

A candidate is compared with each action of the history, r = (cos + 1) / 2 in [0, 1]: one product a modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.baselines.ranking.parts import RankerConfig
from penchant.data.history import Requests
from penchant.errors import ConfigError

MODALITIES = ("text", "image")
"""Those that `penchant encode` makes."""
STEPS = 4096
"""Of r, at which the similarities' distribution is known; linear between them."""
PLACEBO = 20
"""Seed of the shuffled content."""
HELD = 1 << 25
"""Pairs of items whose similarities training holds, at most: 128 MB a modality."""


@dataclass(frozen=True, kw_only=True)
class ContentRankerConfig(RankerConfig):
    """A ranker that reads content too: which, and how it is compared."""

    modalities: tuple[str, ...] = MODALITIES
    """Frozen vectors of the Store by name; "learned": those of `features_from`."""
    calibration: Literal["quantile", "whiten", "none"] = "quantile"
    """Similarities of frozen vectors lie in a narrow band. quantile: r becomes the share of training pairs below it,
    even over [0, 1]; whiten: each dimension with mean 0 and variance 1 before the cosine; none: as printed."""
    precision: Literal["float32", "float16", "int8"] = "float16"
    """Of the vectors that are held; int8 with one scale an item."""
    shuffled: bool = False
    """Placebo: every item has another item's content, always the same."""
    content_widths: tuple[int, ...] = ()
    """Of the vectors, by modality; set by the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ConfigError(f"modalities are {self.modalities}", fix="Name one or more, each once.")


@dataclass(frozen=True, kw_only=True)
class VectorRankerConfig(ContentRankerConfig):
    """A ranker that reads the vectors themselves, not how alike they are."""

    calibration: Literal["quantile", "whiten", "none"] = "whiten"
    """whiten: each dimension of the vectors with mean 0 and variance 1; quantile changes similarities alone."""


@dataclass(frozen=True)
class Similarities:
    """A candidate beside each action of its request's history, in each modality.

    Attributes:
        r: in [0, 1]; 0 where it is not known.
        known: True where the action is real and both items have the modality.
    """

    r: Float[Tensor, "B K M S"]
    known: Bool[Tensor, "B K M S"]


class ItemContent(nn.Module):
    """Frozen unit vectors of every item in each modality; zero where it has none. Nothing here learns."""

    def __init__(self, config: ContentRankerConfig, num_items: int) -> None:
        super().__init__()
        if len(config.content_widths) != len(config.modalities):
            raise ValueError("the vectors' widths come from the data: see recipes/runs.py")
        self.config = config
        kind = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}[config.precision]
        count = len(config.modalities)
        for m, width in enumerate(config.content_widths):
            self.register_buffer(f"vectors_{m}", torch.zeros(num_items + 1, width, dtype=kind))
        self.register_buffer("scales", torch.ones(count, num_items + 1) if config.precision == "int8" else None)
        self.register_buffer("present", torch.zeros(count, num_items + 1, dtype=torch.bool))
        even = torch.linspace(0, 1, STEPS + 1).repeat(count, 1)
        self.register_buffer("below", even if config.calibration == "quantile" else None)
        self.register_buffer("pairs", None, persistent=False)
        self.register_load_state_dict_post_hook(_compared_anew)

    present: Tensor
    pairs: Tensor | None
    scales: Tensor | None
    below: Tensor | None

    @torch.no_grad()
    def fill(self, vectors: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Take the vectors of each modality.

        Args:
            vectors: (values [I+1, D], present [I+1]) by modality; row 0 is padding.
        """
        self.pairs = None
        for m, (values, present) in enumerate(vectors):
            known = torch.from_numpy(np.array(present, dtype=bool))
            known[0] = False
            given = torch.from_numpy(np.asarray(values, dtype=np.float32)).clone()
            if self.config.shuffled:
                order = np.flatnonzero(known.numpy())
                given[order] = given[np.random.default_rng(PLACEBO).permutation(order)]
            if self.config.calibration == "whiten":
                of_known = given[known]
                given = (given - of_known.mean(0)) / of_known.std(0, correction=0).clamp(min=1e-6)
            known &= given.norm(dim=1) > 0
            unit = F.normalize(given, dim=1) * known[:, None]
            self.present[m] = known
            held = self.get_buffer(f"vectors_{m}")
            if self.scales is None:
                held.copy_(unit)
            else:
                scale = unit.abs().amax(1).clamp(min=1e-12) / 127
                self.scales[m] = scale
                held.copy_((unit / scale[:, None]).round())

    @torch.no_grad()
    def fit(self, pairs: Sequence[tuple[Int[Tensor, "_ _"], Int[Tensor, "_ _"]]]) -> None:
        """Learn the distribution of similarities from some training batches: (histories [B, S], candidates [B, K]).

        A modality of which no pair is known stays as it is.
        """
        if self.below is None:
            return
        found = [self._raw(history, items) for history, items in pairs]
        steps = torch.linspace(0, 1, STEPS + 1)
        for m in range(len(self.config.modalities)):
            values = torch.cat([one.r[:, :, m][one.known[:, :, m]] for one in found]).sort().values
            if len(values):
                self.below[m] = torch.searchsorted(values, steps, right=True) / len(values)

    @torch.no_grad()
    def hold_pairs(self) -> None:
        """Compare every two items once, if they are few: training compares the same ones again and again.

        For a model that learns; one that serves need not be so large.
        """
        count = self.present.shape[1]
        if count**2 <= HELD:
            every = torch.arange(count, device=self.present.device)[None]
            self.pairs = self._compared(every, every)[0].transpose(0, 1).contiguous()

    def forward(self, history: Int[Tensor, "B S"], items: Int[Tensor, "B K"]) -> Similarities:
        """Compare each candidate with each action."""
        raw = self._raw(history, items)
        if self.below is None:
            return raw
        r = torch.stack([_share_below(raw.r[:, :, m], below) for m, below in enumerate(self.below)], dim=2)
        return Similarities(r * raw.known, raw.known)

    def has(self, items: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Whether an item has any of the modalities."""
        return self.present[:, items].any(0)

    def vectors(self, m: int, items: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        """Unit vectors of items in one modality; zero where there is none."""
        found = self.get_buffer(f"vectors_{m}")[items].float()
        return found if self.scales is None else found * self.scales[m][items][..., None]

    def _raw(self, history: Int[Tensor, "B S"], items: Int[Tensor, "B K"]) -> Similarities:
        modalities = range(len(self.config.modalities))
        both = torch.stack(
            [self.present[m][items][:, :, None] & self.present[m][history][:, None] for m in modalities], dim=2
        )
        if self.pairs is None:
            return Similarities(self._compared(history, items) * both, both)
        of = [self.pairs[m][items[:, :, None], history[:, None]] for m in modalities]
        return Similarities(torch.stack(of, dim=2) * both, both)

    def _compared(self, history: Int[Tensor, "B S"], items: Int[Tensor, "B K"]) -> Float[Tensor, "B K M S"]:
        of = range(len(self.config.modalities))
        with torch.autocast(items.device.type, enabled=False):  # served in float32, and calibrated so
            cosines = [self.vectors(m, items) @ self.vectors(m, history).mT for m in of]
        return ((torch.stack(cosines, dim=2) + 1) / 2).clamp(0, 1)


class ContentProjection(nn.Module):
    """g = sum_m W_m x^m of an item's frozen vectors: without a bias, so zero where it has none of them.

    Args:
        std: of the first weights, and so, as the vectors have length 1, of each number of one modality's part of g.
    """

    def __init__(self, config: ContentRankerConfig, width: int, std: float) -> None:
        super().__init__()
        self.of_modality = nn.ModuleList(nn.Linear(given, width, bias=False) for given in config.content_widths)
        for linear in self.of_modality:
            nn.init.normal_(linear.get_parameter("weight"), std=std)

    def forward(self, content: ItemContent, items: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        """An item that comes often is projected once."""
        distinct, places = items.unique(return_inverse=True)
        of_distinct = [of(content.vectors(m, distinct)) for m, of in enumerate(self.of_modality)]
        # A lookup, whose gradient is summed in a fixed order: that of indexing is not, with several threads.
        return F.embedding(places, torch.stack(of_distinct).sum(0))


def actions_since(requests: Requests) -> Int[Tensor, "B S"]:
    """T - j of each action of the history: 0 is the last; below 0 is padding."""
    history = requests.history
    return requests.lengths[:, None] - 1 - torch.arange(history.shape[1], device=history.device)


def interest_counts(
    r: Float[Tensor, "B K S"], known: Bool[Tensor, "B K S"], ago: Int[Tensor, "B S"], *, slices: int, bins: int
) -> Float[Tensor, "B K c"]:
    """Known actions in each (slice, bin) of DMAE's Eq. 10, slices from the most recent, each of equally many actions.

    Bins are (0, 1/n], (1/n, 2/n], ..; the first holds 0 too.

    Args:
        ago: actions since; below 0 is padding.
    """
    lengths = (ago >= 0).sum(1)[:, None].clamp(min=1)
    part = (ago.clamp(min=0) * slices // lengths).clamp(max=slices - 1)
    level = ((r * bins).ceil().long() - 1).clamp(0, bins - 1)
    cell = part[:, None] * bins + level
    return r.new_zeros(*r.shape[:2], slices * bins).scatter_add(2, cell, known.to(r.dtype))


def interest_distribution(
    r: Float[Tensor, "B K S"], known: Bool[Tensor, "B K S"], ago: Int[Tensor, "B S"], *, slices: int, bins: int
) -> Float[Tensor, "B K c"]:
    """P of DMAE's Eq. 10: the share of the known actions in each (slice, bin); sums to 1, or is 0."""
    counts = interest_counts(r, known, ago, slices=slices, bins=bins)
    return counts / counts.sum(2, keepdim=True).clamp(min=1)


def _compared_anew(content: nn.Module, _: object) -> None:
    """Pairs that are held are of the vectors that are there: a checkpoint may bring others."""
    assert isinstance(content, ItemContent)
    if content.pairs is not None:
        content.hold_pairs()


def _share_below(r: Float[Tensor, "*shape"], below: Float[Tensor, " Q"]) -> Float[Tensor, "*shape"]:
    """The distribution function at r."""
    at = r * (len(below) - 1)
    step = at.long().clamp(max=len(below) - 2)
    return torch.lerp(below[step], below[step + 1], at - step)
