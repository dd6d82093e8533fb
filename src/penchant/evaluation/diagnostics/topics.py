"""Topics of texts, from words alone: the main directions of their TF-IDF. No model has a part in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from penchant.evaluation.diagnostics.meaning import terms_of

TOPICS = 50
"""Directions that are kept, where there are so many."""
SPARE = 10
"""Directions found beside those: with them the randomised decomposition comes near to the exact one."""


def topics(texts: Sequence[str], count: int = TOPICS, seed: int = 0) -> Float[np.ndarray, "N E"]:
    """TF-IDF of each text's terms, of length one, in its leading directions (truncated SVD: latent semantic analysis).

    A term counts once a text, as in JS@K, and is left out where no other text has it. Weights are
    log((1 + N) / (1 + texts that have it)) + 1.

    Args:
        seed: draws what the decomposition begins with; torch's own draws stay as they were.

    Returns: all zeros of a text without such terms; E is less than `count` where there are fewer texts or terms.
    """
    told = [sorted(terms_of(text)) for text in texts]
    terms, columns, often = np.unique(
        np.array([term for row in told for term in row], dtype=np.str_), return_inverse=True, return_counts=True
    )
    rows = np.repeat(np.arange(len(told)), [len(row) for row in told])
    weights = np.where(often > 1, np.log((1 + len(told)) / (1 + often)) + 1, 0.0)[columns]
    lengths = np.sqrt(np.bincount(rows, weights**2, minlength=len(told)))
    kept = weights > 0
    rows, columns, weights = rows[kept], columns[kept], weights[kept]
    place, values = torch.from_numpy(np.stack([rows, columns])), torch.from_numpy(weights / lengths[rows])
    table = torch.sparse_coo_tensor(place, values, (len(told), len(terms)), check_invariants=True)
    found = min(count + SPARE, *table.shape)
    if not found:
        return np.zeros((len(told), 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, strength, _ = torch.svd_lowrank(table.coalesce(), q=found, niter=6)
    return np.where(lengths[:, None] > 0, (left * strength)[:, :count].numpy(), 0.0)
