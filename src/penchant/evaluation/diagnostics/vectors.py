"""How vectors fill their space: spectrum, anisotropy, alignment, uniformity, hubness. Collapse is when they do not.

Pure functions. N vectors of width D; a row of zeros (a user without history) is nobody's and is to be left out before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.data.history import Requests
from penchant.evaluation.metrics import exposure
from penchant.funnel.rank import judging

PAIRED = 2000
"""Most vectors among which uniformity looks at all pairs."""


def spectrum(vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " D"]:
    """Share of each direction in the sum of squares, sigma_k^2 / sum sigma^2, the largest first; not centred.

    Of the D x D Gram matrix, so that a large catalogue costs N D^2 once. Zero vectors alone give zeros.
    """
    x = vectors.astype(np.float64)
    energy = np.maximum(np.linalg.eigvalsh(x.T @ x)[::-1], 0.0)
    # What is below the rounding of the largest is no direction: its entropy would count for something.
    energy[energy < energy[0] * 1e-12] = 0.0
    return energy / (energy.sum() or 1.0)


def effective_rank(shares: Float[np.ndarray, " D"]) -> float:
    """exp(H(p)) of a spectrum p (Roy and Vetterli 2007): 1 = one line, D = all directions alike."""
    p = shares[shares > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def stable_rank(shares: Float[np.ndarray, " D"]) -> float:
    """Sum of squares over the largest direction's, 1 / p_1: never above the effective rank."""
    return float(1.0 / shares[0]) if shares[0] else 0.0


def mean_cosine(vectors: Float[np.ndarray, "N D"]) -> float:
    """Anisotropy: mean cosine over all pairs of different vectors, 1 = all point one way, about 0 = any way.

    Exact and without pairs: |sum x/|x||^2 is the sum over pairs. NaN of fewer than two.
    """
    n = len(vectors)
    if n < 2:
        return float("nan")
    unit = normalised(vectors)
    own = float((unit * unit).sum())
    return float((np.square(unit.sum(0)).sum() - own) / (n * (n - 1)))


def alignment(one: Float[np.ndarray, "N D"], other: Float[np.ndarray, "N D"]) -> float:
    """Mean |x - y|^2 of pairs that belong together, normalised (Wang and Isola 2020): 0 to 4, low = together."""
    return float(np.square(normalised(one) - normalised(other)).sum(1).mean()) if len(one) else float("nan")


def uniformity(vectors: Float[np.ndarray, "N D"], seed: int = 0) -> float:
    """log of the mean of exp(-2 |x - y|^2) over pairs, normalised (Wang and Isola 2020): 0 = one point, low = spread.

    All pairs of at most `PAIRED` vectors, drawn with `seed`. NaN of fewer than two.
    """
    if len(vectors) > PAIRED:
        vectors = vectors[np.random.default_rng(seed).choice(len(vectors), PAIRED, replace=False)]
    n = len(vectors)
    if n < 2:
        return float("nan")
    unit = normalised(vectors)
    near = np.exp(-2 * np.maximum(2 - 2 * (unit @ unit.T), 0.0))
    return float(np.log((near.sum() - np.trace(near)) / (n * (n - 1))))


def normalised(vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Of length one; zero stays zero."""
    x = vectors.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def occurrences(lists: Int[np.ndarray, "T K"], num_items: int) -> Int[np.ndarray, " n"]:
    """In how many of the lists each item 1, 2, .. is: its k-occurrence."""
    return exposure(lists, num_items)[1:]


def skew(counts: Int[np.ndarray, " n"]) -> float:
    """Skewness of k-occurrence, the usual number for hubs (Radovanovic et al. 2010): high = few are everywhere.

    Third central moment over the variance to the power 3/2; 0 = even, also where all are equal.
    """
    x = counts.astype(np.float64) - counts.mean()
    spread = np.square(x).mean()
    return float((x**3).mean() / spread**1.5) if spread else 0.0


def within_popular(lists: Int[np.ndarray, "T K"], counts: Int[np.ndarray, " I"], top: int = 100) -> float:
    """Share of the lists all of whose items are among the `top` with most training events; empty lists are left out.

    Args:
        counts: training events of each item, entry 0 is padding; equal counts, the smaller item first.
    """
    popular = np.zeros(len(counts), dtype=bool)
    popular[1 + np.argsort(-counts[1:], kind="stable")[:top]] = True
    some = (lists > 0).any(1)
    return float((popular[lists] | (lists == 0)).all(1)[some].mean()) if some.any() else float("nan")


class WithItems(nn.Module):
    """An embedding model whose item vectors were made already: an item encoder reads a whole catalogue once.

    Args:
        vectors: the model's own `item_vectors()`.
    """

    model: Any

    def __init__(self, model: Any, vectors: Float[Tensor, "I D"]) -> None:
        super().__init__()
        self.model, self.num_items = model, model.num_items
        self.made = vectors.detach()  # a parameter would be registered as one
        self.training = model.training if isinstance(model, nn.Module) else False

    def user_vectors(self, requests: Requests) -> Float[Tensor, "B D"]:
        """The model's own."""
        return self.model.user_vectors(requests)

    def item_vectors(self) -> Float[Tensor, "I D"]:
        """Those that were given."""
        return self.made


def with_items(model: Any) -> WithItems:
    """The model beside the vectors it makes now, in evaluation mode."""
    embedder: Any = model  # beside the check below, which the types would narrow it by
    with judging(model) if isinstance(model, nn.Module) else torch.no_grad():
        vectors = embedder.item_vectors()
    return WithItems(model, vectors)


def item_spread(vectors: Float[Tensor, "I D"]) -> dict[str, float]:
    """What is cheap enough to be told at every validation: effective rank and mean cosine of the item vectors.

    Args:
        vectors: row 0 is padding.
    """
    x = vectors[1:].detach().float().cpu().numpy()
    return {"Effective rank": effective_rank(spectrum(x)), "Mean cosine": mean_cosine(x)}
