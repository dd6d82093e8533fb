"""What a finished funnel's scores are worth as chances: learned from its own lists on the valid window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from rich.progress import track

from penchant.data.history import requests_before_events
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import ConfigError, StoreError
from penchant.evaluation.metrics import calibration
from penchant.evaluation.protocol import subsample
from penchant.funnel.calibration import Kind, ScoreCalibration, fit_calibration, sigmoid
from penchant.funnel.pipeline import Funnel

BLOCK = 256
"""Requests at a time."""


def calibrate_funnel(
    funnel: Funnel, store: Store, split: Split, kind: Kind, *, targets: int = 3000
) -> ScoreCalibration:
    """Learn how often the item of a score was the next click, over all items that reached the ranker.

    A request whose click is not in its list counts too: every item of it was none. The error before and after is of
    users that were left out: each half is judged by what the other half says. What is returned is of all of them.

    Args:
        targets: clicks of the valid window, at most, drawn at random, always the same.

    Raises:
        ConfigError: the funnel has no ranker.
        StoreError: the window's lists hold no click.
    """
    if funnel.rank is None:
        fix = "Export without calibration, or train a funnel with a ranker."
        raise ConfigError("only a ranker's scores can be calibrated, and the funnel has none", fix=fix)
    scores, labels, users = _listed(funnel, store, subsample(split.targets("valid"), targets, seed=0)[0])
    half = users % 2 == 1
    held_out = np.zeros(len(scores))
    try:
        for mine in (half, ~half):
            if mine.any():
                held_out[mine] = fit_calibration(kind, scores[~mine], labels[~mine])(scores[mine])
        fitted = fit_calibration(kind, scores, labels)
    except ValueError as error:
        what = f"the valid window's lists are too few to calibrate by ({error})"
        raise StoreError(what, where=store.path, fix="Export without calibration, or use more logs.") from error
    return replace(fitted, ece=(calibration(labels, sigmoid(scores)).ece, calibration(labels, held_out).ece))


def _listed(funnel: Funnel, store: Store, events: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, whether it is the click, and user of every listed item; requests without history have no scores."""
    parts = []
    for start in track(range(0, len(events), BLOCK), description="lists to calibrate by", transient=True):
        rows = events[start : start + BLOCK]
        requests = requests_before_events(store, rows, funnel.settings.max_history)
        trace = funnel.run(requests)
        targets = torch.from_numpy(store.event_item[rows].astype(np.int64))
        listed = trace.ranked.mask & ~trace.without_history[:, None]
        parts.append(
            (
                trace.ranked.scores[listed].double().numpy(),
                (trace.ranked.items == targets[:, None])[listed].numpy(),
                requests.users[:, None].expand_as(listed)[listed].numpy(),
            )
        )
    if not parts:
        return np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64)
    scores, labels, users = (np.concatenate(of) for of in zip(*parts, strict=True))
    return scores, labels, users
