"""The runs of KARMA's Table 2: one finished KARMA, and on its h_t a head that makes the retrieval vector."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tyro.conf import Fixed

from penchant.data.batch import SequenceBatches, SequenceDataConfig
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import ConfigError
from penchant.models import Sizes, load_model, save_model
from penchant.papers.karma.generated import GeneratedConfig, GeneratedKarma, GeneratedObjective
from penchant.papers.karma.generators import GeneratorConfig
from penchant.recipes.karma.run import KarmaRun, karma_decoded
from penchant.recipes.karma.stages import FORMAT
from penchant.training.loop import FitResult, TrainConfig, fit
from penchant.training.once import cached, made_once
from penchant.training.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class GeneratedRun:
    """A head on a finished KARMA."""

    kind: Fixed[str] = "karma_generated"
    base: KarmaRun = field(default_factory=karma_decoded)
    """KARMA, trained once for all heads."""
    head: GeneratorConfig = field(default_factory=lambda: GeneratorConfig(kind="mse", steps=20))
    samples: int = 1
    """Samples whose mean is the query; nothing is trained again for more."""
    data: SequenceDataConfig = field(default_factory=lambda: SequenceDataConfig(batch_targets=1024))
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=1, evaluate_every=1, optim=OptimConfig(lr=1e-3), tensorboard=False)
    )


def karma_generated() -> GeneratedRun:
    """KARMA's Table 2: a head on its h_t makes the next item's vector, by regression or diffusion. Minutes."""
    return GeneratedRun()


def train_generated(
    run: GeneratedRun,
    store: Store,
    split: Split,
    out: Path,
    sizes: Sizes,
    validate: Callable[[Any], dict[str, float]],
    train_base: Callable[[Path], object],
) -> FitResult:
    """Carry out the run. KARMA and the head are made once for all runs that train them alike, in the cache.

    Args:
        validate: metrics of the model on the validation window.
        train_base: trains `run.base` into a folder, unless it is finished there.

    Raises:
        ConfigError: histories and model differ in length, or the model reads queries.
        RunError: another process is training the same head.
    """
    if run.data.max_len != run.base.model.max_len or run.base.model.query != "none":
        what = f"data.max_len is {run.data.max_len}, base.model {run.base.model.max_len}, {run.base.model.query!r}"
        raise ConfigError(what, fix="Set both lengths alike, and base.model.query to 'none'.")
    needs = {"format": FORMAT, "base": asdict(run.base), "store": store.fingerprint, "split": split.fingerprint}
    base = cached("karma/run", needs)
    train_base(base)
    karma = load_model(base)
    head = run.head
    config = GeneratedConfig(
        **asdict(karma.config), head=head.kind, head_width=head.width, head_blocks=head.blocks, head_steps=head.steps
    )
    needs |= {"head": asdict(head), "data": asdict(run.data), "train": asdict(run.train)}
    folder = cached("karma/head", needs)
    torch.manual_seed(run.train.seed)
    model = GeneratedKarma(config, sizes)
    model.karma.load_state_dict(karma.state_dict())
    model.standardise(torch.from_numpy(split.item_counts(store)).float())
    batches = SequenceBatches(store, split, run.data, run.train.seed)
    chooses = (lambda: validate(model)) if len(split.targets("valid")) > 0 else None

    def learn(folder: Path) -> FitResult:
        return fit(model, GeneratedObjective(), batches, run.train, folder, chooses, title=f"karma, {head.kind}")

    result = made_once(folder, learn)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "metrics.jsonl", out / "metrics.jsonl")
    served = GeneratedKarma(GeneratedConfig(**{**asdict(config), "samples": run.samples}), sizes)
    served.load_state_dict(model.state_dict())
    save_model(served, out)
    return result


RETRIEVAL = (karma_generated,)
