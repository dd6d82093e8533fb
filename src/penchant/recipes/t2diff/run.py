"""T2Diff's run: samples of a history and the item that followed; its leak measured at every validation; its recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tyro.conf import Fixed

from penchant.data.batch import check_lengths
from penchant.data.prefix_batch import PrefixDataConfig
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.models import Sizes, build_model
from penchant.papers.t2diff.leak import add_to_report, measure_leak
from penchant.papers.t2diff.model import T2DiffConfig
from penchant.papers.t2diff.objective import T2DiffObjective, T2DiffObjectiveConfig
from penchant.papers.t2diff.samples import SampleBatches
from penchant.training.loop import FitResult, TrainConfig, fit
from penchant.training.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class T2DiffRun:
    """T2Diff, trained on one target per history."""

    kind: Fixed[str] = "t2diff"
    model: T2DiffConfig = field(default_factory=T2DiffConfig)
    data: PrefixDataConfig = field(default_factory=lambda: PrefixDataConfig(batch_targets=256))
    objective: T2DiffObjectiveConfig = field(default_factory=T2DiffObjectiveConfig)
    leak_targets: int = 1000
    """Validation targets by which each validation measures the leak, into leak.json and leak.svg; 0 = no report."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=1.2, evaluate_every=0.3, optim=OptimConfig(lr=2e-3))
    )

    def __post_init__(self) -> None:
        if self.leak_targets < 0:
            raise ConfigError(f"leak_targets is {self.leak_targets}", fix="Set leak_targets to 0 (none) or more.")


def t2diff() -> T2DiffRun:
    """T2Diff without the leak: the tower learns with guesses from noise, as it is served. Minutes."""
    return T2DiffRun()


def t2diff_algorithm_1() -> T2DiffRun:
    """T2Diff by Algorithms 1 and 2: the tower learns with guesses from the target, and is served by T steps."""
    run = T2DiffRun()
    return replace(
        run, model=replace(run.model, xhat="chain"), objective=replace(run.objective, train_xhat="onestep_r")
    )


def t2diff_literal() -> T2DiffRun:
    """T2Diff as printed: Eq. 15 without r, Eq. 17's noise, Eq. 20's share of a sum, vectors as they are. L_KL is that
    of Algorithm 1, line 9; of Eq. 23 with --objective.kl-weight mu."""
    run = t2diff_algorithm_1()
    model = replace(
        run.model, step_embedding=False, reverse_noise="literal", attention="literal_ratio", latent_scale=False
    )
    return replace(run, model=model)


def mixed_attention() -> T2DiffRun:
    """The mixed-attention module alone: the same towers, x^ is zero. Minutes."""
    return T2DiffRun(model=T2DiffConfig(xhat="zero"), leak_targets=0)


def train_t2diff(
    run: T2DiffRun, store: Store, split: Split, out: Path, sizes: Sizes, validate: Callable[[Any], dict[str, float]]
) -> FitResult:
    """Carry out the run into `out`; with a diffusion module, the leak's report too.

    Args:
        validate: metrics of the served model on the validation window. Nothing of the leak's report is among them.

    Raises:
        ConfigError: histories and model differ in length, or the model asks for times that the Store does not know.
    """
    check_lengths(run.data.max_len, run.model.max_len)
    if not store.has_time and (run.model.time_lag or run.model.session == "gap"):
        what = f"this data has an order but no times: model.time_lag {run.model.time_lag}, session {run.model.session}"
        raise ConfigError(what, where=store.path, fix="Choose --model.no-time-lag and --model.session last_k.")
    torch.manual_seed(run.train.seed)
    model = build_model(run.kind, asdict(run.model), sizes)
    objective = T2DiffObjective(run.objective, torch.from_numpy(split.item_counts(store)))
    batches = SampleBatches(store, split, run.data, run.train.seed)

    def validated() -> dict[str, float]:
        if model.diffusion is not None and run.leak_targets:
            add_to_report(measure_leak(model, store, split, batches.epochs, run.leak_targets), out)
        return validate(model)

    can_choose = len(split.targets("valid")) > 0
    return fit(model, objective, batches, run.train, out, validated if can_choose else None, title=run.kind)


RETRIEVAL = (t2diff, t2diff_algorithm_1, t2diff_literal, mixed_attention)
