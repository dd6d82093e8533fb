"""ULIM's run: PGIN on whole histories, then the two encoders on batches of one category; and its recipes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tyro.conf import Fixed

from penchant.data.category_batch import CategoryBatches, CategoryDataConfig, TargetDataConfig
from penchant.data.split import Split
from penchant.data.store import Store, fingerprint
from penchant.evaluation.diagnostics.vectors import item_spread
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.models import Sizes, save_model
from penchant.papers.ulim.categories import PGINConfig
from penchant.papers.ulim.model import ULIM, ULIMConfig
from penchant.papers.ulim.objective import ULIMObjective, ULIMObjectiveConfig
from penchant.recipes.ulim.categories import train_pgin
from penchant.training.loop import FitResult, TrainConfig, fit
from penchant.training.once import cached, made_once
from penchant.training.optim import OptimConfig

VALID_TARGETS = 1000
"""Validation of the encoders looks at so many targets, drawn once: each is a history of thousands."""
SERVING = ("num_searched", "categories", "merge", "short_share")
"""Settings of the model that change what is found, and nothing that is learned."""


def _train(epochs: float, lr: float, metric: str) -> TrainConfig:
    return TrainConfig(epochs=epochs, metric=metric, evaluate_every=epochs / 4, patience=0, optim=OptimConfig(lr=lr))


@dataclass(frozen=True, kw_only=True)
class UlimRun:
    """ULIM: what predicts categories and what retrieves within them, trained one after the other."""

    kind: Fixed[str] = "ulim"
    model: ULIMConfig = field(default_factory=ULIMConfig)
    data: CategoryDataConfig = field(default_factory=CategoryDataConfig)
    objective: ULIMObjectiveConfig = field(default_factory=ULIMObjectiveConfig)
    train: TrainConfig = field(default_factory=lambda: _train(4.0, 4e-3, "HR@100"))
    category_data: TargetDataConfig = field(default_factory=TargetDataConfig)
    """Of PGIN."""
    category_train: TrainConfig = field(default_factory=lambda: _train(1.0, 2e-3, "category HR@10"))
    """Of PGIN; its seed is that of `train`."""


def ulim() -> UlimRun:
    """ULIM on histories of up to 2,000 actions: K categories predicted, each searched by a vector. Minutes."""
    return UlimRun()


def train_ulim(run: UlimRun, store: Store, split: Split, out: Path, sizes: Sizes) -> FitResult:
    """Carry out the run. Each half is made once for all runs that train it alike, in the cache: one that only searches
    more categories, or merges in another way, is trained already.

    `out` gets the whole model, `out/categories` and `out/retrieval` what was logged. PGIN never sees what the encoders
    are validated by, and is there when they are.

    Raises:
        ConfigError: no item has a category.
        StoreError: the train window has nothing to learn from.
        RunError: another process is training the same half.
    """
    pgin_run = replace(run.category_train, seed=run.train.seed)
    served = {name: getattr(ULIMConfig(), name) for name in SERVING}
    plain = replace(run.model, **served)
    pgin_config = PGINConfig(**{f.name: getattr(plain, f.name) for f in fields(PGINConfig)})
    data = {"store": store.fingerprint, "split": split.fingerprint}
    item_category = torch.from_numpy(store.item_category.astype(np.int64))
    can_choose = len(split.targets("valid")) > 0

    def begin() -> ULIM:
        torch.manual_seed(run.train.seed)
        model = ULIM(plain, sizes)
        model.set_categories(item_category)
        return model

    def categories(folder: Path) -> tuple[nn.Module, FitResult]:
        return train_pgin(pgin_config, run.category_data, pgin_run, store, split, folder)

    needs = {"model": asdict(pgin_config), "data": asdict(run.category_data), "train": asdict(pgin_run), **data}
    pgin_state, first = _half("categories", needs, categories, out)

    def retrieval(folder: Path) -> tuple[nn.Module, FitResult]:
        model = begin()
        model.pgin.load_state_dict(pgin_state)
        objective = ULIMObjective(run.objective, torch.from_numpy(split.item_counts(store)), item_category)
        batches = CategoryBatches(store, split, run.data, plain, run.train.seed)
        validate = (lambda: _validated(model, store, split)) if can_choose else None
        return model, fit(model, objective, batches, run.train, folder, validate, title="ulim, retrieval")

    needs = {
        "pgin": fingerprint(needs),
        "model": asdict(plain),
        "data": asdict(run.data),
        "objective": asdict(run.objective),
        "train": asdict(run.train),
        **data,
    }
    state, second = _half("retrieval", needs, retrieval, out)
    model = ULIM(run.model, sizes)
    model.load_state_dict(state)
    save_model(model, out)
    return replace(
        second,
        wall_seconds=first.wall_seconds + second.wall_seconds,
        cpu_seconds=first.cpu_seconds + second.cpu_seconds,
    )


def _validated(model: ULIM, store: Store, split: Split) -> dict[str, float]:
    """As it serves by the defaults, whatever the run's own number of categories and way of merging."""
    max_len, ks = model.config.max_len, (10, 100, 500)
    judged = evaluate_retrieval(model, store, split, "valid", ks=ks, max_len=max_len, targets=VALID_TARGETS)
    with torch.no_grad():
        return judged.metrics() | item_spread(model.item_vectors())


def _half(
    stage: str, depends: Any, train: Callable[[Path], tuple[nn.Module, FitResult]], out: Path
) -> tuple[dict[str, Tensor], FitResult]:
    """A half's weights and what its training came to; from the cache if it was trained before, or goes on there."""
    folder = cached(f"ulim/{stage}", depends)
    model, result = made_once(folder, train)
    (out / stage).mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "metrics.jsonl", out / stage / "metrics.jsonl")
    return {k: v.detach().cpu() for k, v in model.state_dict().items()}, result


RETRIEVAL = (ulim,)
