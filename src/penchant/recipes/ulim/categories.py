"""Which category comes next: PGIN's training by itself, and what it and simpler answers are worth.

As a rule the half of ULIM that `run.py` trains first; by itself where a shop's items are too many, or too rarely acted
on, for anything else to be said of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from penchant.data.category_batch import TargetBatch, TargetBatches, TargetDataConfig, targets_of_events
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import StoreError
from penchant.evaluation.protocol import subsample
from penchant.funnel.rank import judging
from penchant.models import Sizes
from penchant.papers.ulim.categories import PGIN, PGINConfig, counted_categories
from penchant.papers.ulim.objective import PGINObjective, pgin_losses
from penchant.training.loop import FitResult, TrainConfig, fit

VALID_TARGETS = 4000
"""Validation looks at so many: one pass tells all."""
KS = (1, 5, 10, 20)
BATCH = 128


def train_pgin(
    config: PGINConfig, data: TargetDataConfig, train: TrainConfig, store: Store, split: Split, folder: Path
) -> tuple[PGIN, FitResult]:
    """PGIN at the best of its validations; goes on where `folder` has a part of it.

    Raises:
        StoreError: the train window has nothing to learn from.
    """
    torch.manual_seed(train.seed)
    pgin = PGIN(config, Sizes(num_items=store.num_items, num_categories=store.num_categories))
    pgin.set_categories(torch.from_numpy(store.item_category.astype(np.int64)))
    batches = TargetBatches(store, split, data, config.max_len, train.seed)
    can_choose = len(split.targets("valid")) > 0
    validate = (lambda: judge_categories(pgin, store, split, "valid", VALID_TARGETS)) if can_choose else None
    return pgin, fit(pgin, PGINObjective(), batches, train, folder, validate, title="ulim, categories")


@dataclass(frozen=True)
class ToldCategories:
    """Where each answer puts the category that came next, over T targets.

    Attributes:
        users: who acted.
        places: from 1, by answer: "pgin", its "pointer" and its "generator" alone; "frequency" and "last", which learn
            nothing. Among categories that an answer holds equal the mean of their places.
        loss: cross-entropy of PGIN, in nats.
        gate: P_poi.
        outside: the history does not have the category, so that no pointer can name it.
    """

    users: Int[np.ndarray, " T"]
    places: dict[str, Float[np.ndarray, " T"]]
    loss: Float[np.ndarray, " T"]
    gate: Float[np.ndarray, " T"]
    outside: Float[np.ndarray, " T"]

    def hits(self, answer: str, k: int) -> Float[np.ndarray, " T"]:
        """1 where the category is among the first k."""
        return (self.places[answer] <= k).astype(np.float64)


def tell_categories(model: PGIN, store: Store, split: Split, window: str, targets: int | None) -> ToldCategories:
    """Answers for a window's targets that have a category: all, or so many drawn by a stated seed.

    Raises:
        StoreError: none of them has one.
    """
    events, _ = subsample(split.targets(window), targets, seed=0)
    events = events[store.item_category[store.event_item[events]] > 0]
    if not len(events):
        what = f"no target in window {window!r} of split {split.name!r} has a category"
        raise StoreError(what, where=store.path, fix="Prepare the Store with the items' categories.")
    users = np.searchsorted(store.user_indptr, events, side="right") - 1
    order = np.argsort(events - store.user_indptr[users], kind="stable")
    parts: list[dict[str, Tensor]] = []
    with judging(model):
        for start in range(0, len(events), BATCH):
            batch = targets_of_events(store, events[order[start : start + BATCH]], model.config.max_len)
            parts.append(_told(model, batch.to(model.item_category.device)))
    columns = {name: torch.cat([part[name].float().cpu() for part in parts]).numpy() for name in parts[0]}
    loss, gate, outside = (columns.pop(name) for name in ("loss", "gate", "outside"))
    return ToldCategories(users[order], columns, loss, gate, outside)


def judge_categories(model: PGIN, store: Store, split: Split, window: str, targets: int | None) -> dict[str, float]:
    """PGIN's "category HR@k"; "cross-entropy" in nats; "P_poi", the gate's mean; "outside", the share of targets whose
    category the history does not have."""
    told = tell_categories(model, store, split, window, targets)
    values = {f"category HR@{k}": told.hits("pgin", k) for k in KS}
    values |= {"cross-entropy": told.loss, "P_poi": told.gate, "outside": told.outside}
    return {name: float(value.mean()) for name, value in values.items()}


def _told(model: PGIN, batch: TargetBatch) -> dict[str, Tensor]:
    """A batch's columns of `ToldCategories`."""
    requests, named = batch.requests, batch.categories[:, None]
    told = model(requests)
    answers = {"pgin": told.probs, "pointer": told.pointer, "generator": told.generator}
    for how in ("frequency", "last"):
        answers[how] = counted_categories(model.config, requests, model.item_category, model.num_categories, how)
    columns = {name: _places(probs, named) for name, probs in answers.items()}
    outside = (model.item_category[requests.history] != named).all(1)
    return {**columns, "loss": pgin_losses(told, batch.categories), "gate": told.gate, "outside": outside}


def _places(probs: Float[Tensor, "B C"], named: Int[Tensor, "B 1"]) -> Float[Tensor, " B"]:
    """Column 0 is no category and nobody's rival: an answer that says nothing holds all the others equal."""
    own, others = probs.gather(1, named), probs[:, 1:]
    return (others > own).sum(1) + ((others == own).sum(1) + 1) / 2
