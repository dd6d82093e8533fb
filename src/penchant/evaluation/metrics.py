"""Metrics as pure functions of arrays: of ranks, of lists, of labels and scores. Nothing here knows a model or a Store.

Every target is one request with one relevant item, so Recall@k and HR@k are the same number; both names are kept
because papers use both. Functions of ranks return one value per target: the mean is the metric, and the values
themselves are what the paired bootstrap resamples.

A rank is 1-based, the average of its places where scores are equal (so 10.5 is a miss at 10), and inf where the model
did not score the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num, Shaped


def hr_at(ranks: Float[np.ndarray, " T"], k: int) -> Float[np.ndarray, " T"]:
    """Hit rate: 1 where the target is within the first k."""
    return (ranks <= k).astype(np.float64)


def recall_at(ranks: Float[np.ndarray, " T"], k: int) -> Float[np.ndarray, " T"]:
    """Share of the relevant items within the first k: with one relevant item a target, the hit rate."""
    return hr_at(ranks, k)


def ndcg_at(ranks: Float[np.ndarray, " T"], k: int) -> Float[np.ndarray, " T"]:
    """1 / log2(1 + rank) within the first k, else 0; the ideal gain of one relevant item is 1."""
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)


def mrr_at(ranks: Float[np.ndarray, " T"], k: int) -> Float[np.ndarray, " T"]:
    """Reciprocal rank, 1 / rank within the first k, else 0."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


RANK_METRICS = {"HR": hr_at, "Recall": recall_at, "NDCG": ndcg_at, "MRR": mrr_at}


def mean_metrics(ranks: Float[np.ndarray, " T"], ks: Sequence[int], names: Sequence[str]) -> dict[str, float]:
    """Means of some of `RANK_METRICS`, as {"HR@10": 0.1, ..}."""
    return {f"{name}@{k}": float(RANK_METRICS[name](ranks, k).mean()) for k in ks for name in names}


def exposure(lists: Int[np.ndarray, "T K"], num_items: int) -> Int[np.ndarray, " I"]:
    """How many lists show each item; entry 0 (empty slots) is 0. I = num_items + 1."""
    counts = np.bincount(lists.ravel(), minlength=num_items + 1)
    counts[0] = 0
    return counts


def coverage(exposed: Int[np.ndarray, " I"]) -> float:
    """Share of the catalogue that at least one list shows."""
    return float((exposed[1:] > 0).mean())


def gini(exposed: Int[np.ndarray, " I"]) -> float:
    """Inequality of exposure over the whole catalogue: 0 = every item equally often, near 1 = one item takes all.

    sum_i (2 i - n - 1) x_i / (n sum_i x_i), x sorted upwards. NaN where no list shows anything.
    """
    x = np.sort(exposed[1:]).astype(np.float64)
    if not x.sum():
        return float("nan")
    n = len(x)
    return float(((2 * np.arange(1, n + 1) - n - 1) * x).sum() / (n * x.sum()))


def novelty(exposed: Int[np.ndarray, " I"], train_counts: Int[np.ndarray, " I"]) -> float:
    """Mean over the shown slots of -log2 of the item's share of the training events, in bits.

    An item without training events counts as if it had one: its own share would make the mean infinite.
    """
    shown = exposed[1:]
    if not shown.sum():
        return float("nan")
    share = np.maximum(train_counts[1:], 1) / max(train_counts[1:].sum(), 1)
    return float((shown * -np.log2(share)).sum() / shown.sum())


def tied_ranks(
    scores: Num[np.ndarray, " N"], groups: Shaped[np.ndarray, " N"] | None = None
) -> Float[np.ndarray, " N"]:
    """Rank of each score from 1 upwards, lowest first, within its group; equal scores share their average rank."""
    if groups is None:
        groups = np.zeros(len(scores), dtype=np.int8)
    order = np.lexsort((scores, groups))
    s, g = scores[order], groups[order]
    new_group = np.ones(len(s), dtype=bool)
    new_group[1:] = g[1:] != g[:-1]
    new_value = new_group.copy()
    new_value[1:] |= s[1:] != s[:-1]
    first = np.flatnonzero(new_value)
    last = np.append(first[1:], len(s))
    group_start = np.flatnonzero(new_group)[np.cumsum(new_group) - 1]
    # Places first..last-1 counted from 1 within the group: their mean.
    average = (first + last + 1) / 2
    out = np.empty(len(s))
    out[order] = average[np.cumsum(new_value) - 1] - group_start
    return out


def auc(labels: Shaped[np.ndarray, " N"], scores: Num[np.ndarray, " N"]) -> float:
    """Chance that a positive scores above a negative, ties counting half; NaN where one class is missing."""
    positive = labels.astype(bool)
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return float("nan")
    return float((tied_ranks(scores)[positive].sum() - p * (p + 1) / 2) / (p * n))


@dataclass(frozen=True)
class GroupAUC:
    """AUC within each group and its mean, weighted by impressions.

    Attributes:
        value: the weighted mean; NaN where no group has both classes.
        groups: the G groups' ids, sorted.
        aucs: of each group; NaN where it has one class.
        impressions: rows of each group that count: 0 where it has one class.
        left_out: how many groups have one class.
    """

    value: float
    groups: Shaped[np.ndarray, " G"]
    aucs: Float[np.ndarray, " G"]
    impressions: Int[np.ndarray, " G"]
    left_out: int


def gauc(labels: Shaped[np.ndarray, " N"], scores: Num[np.ndarray, " N"], groups: Shaped[np.ndarray, " N"]) -> GroupAUC:
    """AUC within groups (requests or users); groups with one class are left out and counted."""
    names, group = np.unique(groups, return_inverse=True)
    positive = labels.astype(bool)
    total = np.bincount(group, minlength=len(names))
    p = np.bincount(group, weights=positive, minlength=len(names))
    n = total - p
    rank_sum = np.bincount(group, weights=tied_ranks(scores, group) * positive, minlength=len(names))
    both = (p > 0) & (n > 0)
    aucs = np.full(len(names), np.nan)
    aucs[both] = (rank_sum[both] - p[both] * (p[both] + 1) / 2) / (p[both] * n[both])
    impressions = np.where(both, total, 0)
    value = float((aucs[both] * impressions[both]).sum() / impressions.sum()) if both.any() else float("nan")
    return GroupAUC(value, names, aucs, impressions, int((~both).sum()))


def log_loss(labels: Shaped[np.ndarray, " N"], logits: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Cross-entropy of each row in nats, from logits so that a confident score does not overflow."""
    x = logits.astype(np.float64)
    return np.logaddexp(0.0, x) - labels * x


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed click rates in bins of equal size, lowest prediction first.

    Attributes:
        predicted: mean probability of each of the C bins.
        observed: share of clicks.
        rows: rows in each bin.
    """

    predicted: Float[np.ndarray, " C"]
    observed: Float[np.ndarray, " C"]
    rows: Int[np.ndarray, " C"]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over rows of |predicted - observed| of their bin."""
        return float((self.rows * np.abs(self.predicted - self.observed)).sum() / self.rows.sum())


def calibration(labels: Shaped[np.ndarray, " N"], probs: Float[np.ndarray, " N"], num_bins: int = 15) -> Calibration:
    """Rows sorted by probability and cut into bins of equal size; equal probabilities share a bin."""
    _, value, rows = np.unique(probs, return_inverse=True, return_counts=True)
    before = np.cumsum(rows) - rows
    bin_of_value = (before * num_bins) // max(len(probs), 1)
    _, bin_ = np.unique(bin_of_value[value], return_inverse=True)
    size = np.bincount(bin_)
    predicted = np.bincount(bin_, weights=probs.astype(np.float64)) / size
    return Calibration(predicted, np.bincount(bin_, weights=labels) / size, size)
