"""How a ranker's logits are judged: on impressions that were really shown, clicked or not.

Anonymous requests (user 0) come from nobody knows how many people, so each counts as a user of its own: one group of
GAUC by user, one row of the per-user values, one cluster of the bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped

from penchant.evaluation import metrics
from penchant.evaluation.metrics import Calibration, GroupAUC
from penchant.evaluation.protocol import per_user_table
from penchant.funnel.calibration import sigmoid


@dataclass(frozen=True, kw_only=True)
class RankingResult:
    """A ranker's logits of N impressions, and what they are worth.

    Attributes:
        users: of each impression; minus the request where the user is anonymous.
        by_request, by_user: GAUC, with the groups of one class that were left out.
    """

    logits: Float[np.ndarray, " N"]
    labels: Shaped[np.ndarray, " N"]
    users: Int[np.ndarray, " N"]
    requests: Int[np.ndarray, " N"]
    by_request: GroupAUC
    by_user: GroupAUC
    calibration: Calibration

    def metrics(self) -> dict[str, float]:
        """AUC, LogLoss (nats an impression), GAUC by request and by user, ECE, and the groups GAUC left out."""
        return {
            "AUC": metrics.auc(self.labels, self.logits),
            "LogLoss": float(metrics.log_loss(self.labels, self.logits).mean()),
            "GAUC request": self.by_request.value,
            "GAUC user": self.by_user.value,
            "ECE": self.calibration.ece,
            "Requests of one class": self.by_request.left_out,
            "Users of one class": self.by_user.left_out,
        }

    def reliability(self) -> dict[str, dict[str, float]]:
        """Of each bin of like probabilities, the lowest first: impressions, mean probability, share of clicks."""
        of = self.calibration
        return {
            f"bin {place:02}": {"impressions": int(rows), "predicted": float(told), "observed": float(share)}
            for place, (rows, told, share) in enumerate(zip(of.rows, of.predicted, of.observed, strict=True), start=1)
        }

    def per_user(self) -> pa.Table:
        """Columns `user`, `weight` (its impressions) and a value of each metric whose mean, so weighted, is the metric.

        An anonymous request is a user, numbered minus the request.
        LogLoss is a mean already. AUC and GAUC are not means over users, so a user's value is the metric plus that
        user's influence on it (the first-order term; for AUC that of DeLong et al. 1988, clustered as in Obuchowski
        1997). A bootstrap of their mean is the metric's own bootstrap up to terms of order 1 / users.
        """
        of_request = np.searchsorted(self.by_request.groups, self.requests)
        of_user = np.searchsorted(self.by_user.groups, self.users)
        return per_user_table(
            self.users,
            {
                "AUC": _auc_influence(self.labels, self.logits),
                "LogLoss": metrics.log_loss(self.labels, self.logits),
                "GAUC request": _gauc_influence(self.by_request, of_request),
                "GAUC user": _gauc_influence(self.by_user, of_user),
            },
        )


def evaluate_ranking(
    logits: Float[np.ndarray, " N"],
    labels: Shaped[np.ndarray, " N"],
    requests: Int[np.ndarray, " N"],
    users: Int[np.ndarray, " N"],
) -> RankingResult:
    """Judge the logits of N impressions (labels 1 clicked, 0 not) of given requests and users (0 = anonymous).

    Raises:
        ValueError: a logit is not finite, or there are no impressions.
    """
    if not len(logits) or not np.isfinite(logits).all():
        raise ValueError(f"{int((~np.isfinite(logits)).sum())} of {len(logits)} logits are not finite")
    users = np.where(users == 0, -requests, users)
    return RankingResult(
        logits=logits,
        labels=labels,
        users=users,
        requests=requests,
        by_request=metrics.gauc(labels, logits, requests),
        by_user=metrics.gauc(labels, logits, users),
        calibration=metrics.calibration(labels, sigmoid(logits)),
    )


def _auc_influence(labels: np.ndarray, logits: np.ndarray) -> Float[np.ndarray, " N"]:
    """AUC + N x (each row's first-order share in it); the mean over rows is AUC. All NaN where one class is missing."""
    positive = labels.astype(bool)
    p, n = positive.sum(), (~positive).sum()
    if not p or not n:
        return np.full(len(labels), np.nan)
    everywhere = metrics.tied_ranks(logits)
    within = metrics.tied_ranks(logits, positive)
    # A row's placement: the share of the other class that it beats (ties half), turned around for negatives.
    below = everywhere - within
    placement = np.where(positive, below / n, 1 - below / p)
    value = placement[positive].mean()
    return value + len(labels) * (placement - value) / np.where(positive, p, n)


def _gauc_influence(grouped: GroupAUC, group: np.ndarray) -> Float[np.ndarray, " N"]:
    """GAUC + N x (each row's first-order share in it): its group's distance from the mean, 0 where left out."""
    counted = grouped.impressions[group] > 0
    if not counted.any():
        return np.full(len(group), np.nan)
    distance = np.where(counted, np.nan_to_num(grouped.aucs[group]) - grouped.value, 0.0)
    return grouped.value + len(group) * distance / grouped.impressions.sum()
