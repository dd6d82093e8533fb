"""Past the paper: runs of the causal T2Diff, and the SASRec it has to beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tyro.conf import Fixed

from penchant.data.batch import SequenceBatches, SequenceDataConfig, check_lengths
from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import ConfigError, at_least
from penchant.models import Sizes, build_model
from penchant.papers.t2diff.auxiliary import CausalT2DiffObjective, CausalT2DiffObjectiveConfig
from penchant.papers.t2diff.causal import CausalT2DiffConfig
from penchant.training.loop import FitResult, TrainConfig, fit
from penchant.training.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class CausalT2DiffRun:
    """T2Diff on a causal transformer, learned at every position."""

    kind: Fixed[str] = "t2diff_causal"
    model: CausalT2DiffConfig = field(default_factory=CausalT2DiffConfig)
    data: SequenceDataConfig = field(default_factory=lambda: SequenceDataConfig(batch_targets=1600))
    objective: CausalT2DiffObjectiveConfig = field(default_factory=CausalT2DiffObjectiveConfig)
    content: tuple[str, ...] = ("text",)
    """Frozen vectors of the Store, for a model that reads content."""
    content_dims: int = 64
    """Principal components that are kept of each."""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=12, optim=OptimConfig(lr=2e-3)))

    def __post_init__(self) -> None:
        at_least(1, self, "content_dims")


def t2diff_causal() -> CausalT2DiffRun:
    """T2Diff past the paper: SASRec that also reads the mean of eight guesses of the next item, made from noise. Its
    history learns from the diffusion's loss too. Minutes.

    Eight of one step each: one guess is surely worse in lists of ten, four in lists of a hundred; five steps are no
    better than one (`t2diff-past`).
    """
    return CausalT2DiffRun(model=CausalT2DiffConfig(samples=8), objective=CausalT2DiffObjectiveConfig(detach_in=False))


def t2diff_content() -> CausalT2DiffRun:
    """t2diff_causal, its guesses made among frozen content vectors, which items' vectors read too (by
    `penchant encode`). Minutes."""
    run = t2diff_causal()
    return replace(run, model=replace(run.model, latent="content", item_content=True))


def train_causal(
    run: CausalT2DiffRun,
    store: Store,
    split: Split,
    out: Path,
    sizes: Sizes,
    validate: Callable[[Any], dict[str, float]],
) -> FitResult:
    """Carry out the run into `out`.

    Raises:
        ConfigError: histories and model differ in length, or no content is named where it is to be read.
        StoreError: the Store lacks vectors of content that is named.
    """
    check_lengths(run.data.max_len, run.model.max_len)
    torch.manual_seed(run.train.seed)
    config, content = run.model, None
    if config.reads_content:
        if not run.content:
            raise ConfigError("content is to be read, and none is named", fix="Name some: --content text image.")
        content = np.concatenate([components(store, name, run.content_dims) for name in run.content], axis=1)
        config = replace(config, content_width=content.shape[1])
    model = build_model("t2diff_union" if config.union else run.kind, asdict(config), sizes)
    if content is not None:
        model.content.copy_(torch.from_numpy(content))
    objective = CausalT2DiffObjective(run.objective, torch.from_numpy(split.item_counts(store)))
    batches = SequenceBatches(store, split, run.data, run.train.seed)
    can_choose = len(split.targets("valid")) > 0
    validated = (lambda: validate(model)) if can_choose else None
    return fit(model, objective, batches, run.train, out, validated, title=run.kind)


def components(store: Store, name: str, count: int) -> Float[np.ndarray, "I C"]:
    """The largest principal components of frozen vectors, of mean square 1 over them all; zero where there is none."""
    vectors = store.vectors(name)
    given = vectors.standardised().astype(np.float64)
    _, axes = np.linalg.eigh(given.T @ given)
    # Either direction of an axis is as good; that of its largest number is taken, so that all machines agree.
    axes = axes[:, ::-1][:, :count]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    reduced = given @ axes
    return (reduced / np.sqrt(np.square(reduced[vectors.present]).mean())).astype(np.float32)


RETRIEVAL = (t2diff_causal, t2diff_content)
