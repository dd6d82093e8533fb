"""From a ranker's scores to the chance that an item of the list is the user's next click.

A ranker that learned to order lists has scores without a zero: they say which item is better, not how likely it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped

Kind = Literal["temperature", "isotonic"]
STEPS = 100
"""Of Newton's method, at most."""


@dataclass(frozen=True)
class ScoreCalibration:
    """chance = sigmoid(slope * score + offset), or, isotonic, linear between knots and flat outside them.

    Attributes:
        slope: 1 / temperature; above 0, so that no order changes.
        offset: where the scores' zero lies.
        scores, chances: the knots, neither of which ever falls; empty unless isotonic.
        ece: expected calibration error on users it was not fitted on, before and after; None where nobody looked.
    """

    kind: Kind
    slope: float = 1.0
    offset: float = 0.0
    scores: tuple[float, ...] = ()
    chances: tuple[float, ...] = ()
    ece: tuple[float, float] | None = None

    def __call__(self, scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """Chances in [0, 1]; 0 for a score of -inf, an empty slot."""
        if self.kind == "isotonic":
            chances = np.interp(scores, self.scores, self.chances)
        else:
            chances = sigmoid(self.slope * np.asarray(scores, dtype=np.float64) + self.offset)
        return np.where(np.isneginf(scores), 0.0, chances)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ScoreCalibration:
        """What `asdict` gave, from a file.

        Raises:
            ValueError, TypeError: it is nothing of the kind.
        """
        if values.get("kind") not in ("temperature", "isotonic"):
            raise ValueError(f"no calibration of kind {values.get('kind')!r}")
        told: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        made = cls(**told)
        numbers = (made.slope, made.offset, *made.scores, *made.chances)
        knots = len(made.scores) == len(made.chances) and (made.kind == "temperature" or len(made.scores) > 0)
        if not knots or not np.isfinite(numbers).all():
            raise ValueError("a calibration without its knots, or with one that is no number")
        return made


def fit_calibration(kind: Kind, scores: Float[np.ndarray, " N"], labels: Shaped[np.ndarray, " N"]) -> ScoreCalibration:
    """The calibration of least log-loss (temperature) or of least squares among those that never fall (isotonic).

    Raises:
        ValueError: a score is not finite, or all labels are the same: nothing says how likely a click is.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite")
    if not 0 < labels.sum() < len(labels):
        raise ValueError(f"{int(labels.sum())} of {len(labels)} are clicks: both kinds are needed")
    return _temperature(scores, labels) if kind == "temperature" else _isotonic(scores, labels)


def _temperature(scores: np.ndarray, labels: np.ndarray) -> ScoreCalibration:
    """Newton's method on slope and offset, the scores standardised, which keeps it in bounds."""
    mean, std = scores.mean(), max(scores.std(), 1e-12)
    x = np.stack([(scores - mean) / std, np.ones(len(scores))], axis=1)
    rate = labels.mean()
    weights = np.array([1.0, np.log(rate / (1 - rate))])
    for _ in range(STEPS):
        chance = sigmoid(x @ weights)
        # A little of a square holds the slope where scores and clicks part completely.
        slope = x.T @ (chance - labels) + 1e-3 * weights * [1, 0]
        curve = (x * (chance * (1 - chance))[:, None]).T @ x + np.diag([1e-3, 1e-9])
        step = np.linalg.solve(curve, slope)
        weights -= step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    # A ranker worse than chance: its order is kept all the same.
    slope = max(weights[0], 1e-6) / std
    return ScoreCalibration("temperature", slope=float(slope), offset=float(weights[1] - slope * mean))


def _isotonic(scores: np.ndarray, labels: np.ndarray) -> ScoreCalibration:
    """Pool adjacent violators (Ayer et al. 1955): neighbours out of order are merged into their mean."""
    score, of, rows = np.unique(scores, return_inverse=True, return_counts=True)
    clicks = np.bincount(of, weights=labels)
    blocks: list[tuple[float, float, int]] = []  # clicks, rows, distinct scores
    for block in zip(clicks.tolist(), rows.tolist(), [1] * len(score), strict=True):
        blocks.append(block)
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            last, before = blocks.pop(), blocks.pop()
            blocks.append((before[0] + last[0], before[1] + last[1], before[2] + last[2]))
    sizes = np.array([size for _, _, size in blocks])
    ends = np.cumsum(sizes) - 1
    chance = [block[0] / block[1] for block in blocks]
    # A block is flat from its first score to its last.
    knots = np.stack([score[ends - sizes + 1], score[ends]], axis=1).ravel()
    chances = np.repeat(chance, 2)
    kept = np.concatenate([[True], (np.diff(knots) > 0) | (np.diff(chances) > 0)])
    return ScoreCalibration("isotonic", scores=tuple(knots[kept].tolist()), chances=tuple(chances[kept].tolist()))


def sigmoid(x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """From logits to probabilities, in float64 and without overflow."""
    return 1.0 / (1.0 + np.exp(-np.clip(x.astype(np.float64), -500, 500)))
