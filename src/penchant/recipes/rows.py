"""What a table of results is made of: rows, and which learning rate a row's run takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Literal, TypeVar

from penchant.data.split import Split
from penchant.data.store import Store
from penchant.errors import ConfigError, DivergedError
from penchant.recipes.funnel.plan import FunnelRun
from penchant.recipes.karma.generated import GeneratedRun
from penchant.recipes.karma.run import KarmaRun
from penchant.recipes.runs import CountRun, PrefixRun, RankingRun, Run, SequenceRun, train_run
from penchant.recipes.t2diff.causal import CausalT2DiffRun
from penchant.recipes.t2diff.run import T2DiffRun
from penchant.recipes.ulim.run import UlimRun

Trained = TypeVar(
    "Trained",
    bound=SequenceRun | PrefixRun | RankingRun | KarmaRun | GeneratedRun | T2DiffRun | CausalT2DiffRun | UlimRun,
)
RATES = (0.25, 0.5, 1.0, 2.0)
"""The four that a table's rows try where nothing is said of theirs."""
TRIED = "Tried on validation"
"""What a note of what was tried begins with."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table on one data set and split.

    Attributes:
        rates: learning rates, times the recipe's, from the smallest on, of which the one that is best on validation
            after a quarter of the epochs is taken; the recipe's own if none.
        minutes: wall time on two cores, about, judging included.
        trials: variants tried by hand before, where there are no `rates`.
    """

    name: str
    run: Run
    rates: tuple[float, ...] = ()
    data: str
    split: str
    minutes: float
    trials: int = 1


@dataclass(frozen=True, kw_only=True)
class FunnelRow:
    """A funnel on one data set.

    Attributes:
        alone: its one channel is judged by itself: nothing comes after it.
        later: that channel also learns from the window that the rankers of the others learn from.
        minutes: wall time on two cores, about, with channels that another row has trained left out.
    """

    name: str
    run: FunnelRun
    data: str
    minutes: float
    split: str = "funnel"
    alone: bool = False
    later: bool = False


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """A table of a paper, or of the controls."""

    paper: str
    name: str
    rows: tuple[Row | FunnelRow, ...]
    seeds: int
    first_seed: int = 0
    """Seeds that chose what is tested here are not among those it is tested with."""
    window: Literal["test", "valid"] = "test"
    """What is judged; valid: rows to choose from."""
    targets: int | None = None
    """Targets judged, drawn at random; all if None."""
    meaning: bool = False
    """Judged by KARMA's measures too: what lists mean, and how what was shown is ranked."""
    ks: tuple[int, ...] = ()
    """Further lengths of lists to be judged, the table's own."""
    cold: bool = False
    """Judged only by targets whose item nobody clicked in the train window."""


@dataclass(frozen=True)
class Chosen:
    """A run at the learning rate that was chosen for it, what was tried, and how many were."""

    run: Run
    notes: tuple[str, ...]
    trials: int


def with_rate(run: Trained, lr: float) -> Trained:
    """The run at another learning rate."""
    return replace(run, train=replace(run.train, optim=replace(run.train.optim, lr=lr)))


def choose_rate(base: Run, rates: Sequence[float], store: Store, split: Split, folder: Path) -> Chosen:
    """The run at the learning rate that is best on validation after a quarter of its epochs, by its own seed.

    Where the best of the rates is the smallest or the largest, the next one, by the same factor, is tried too, as
    long as it is better: twice at most.

    Args:
        rates: times the run's own, two or more, from the smallest on.
        folder: the tries' folders lie beside it, under its name.

    Raises:
        ConfigError: the split has nothing to choose by.
    """
    assert not isinstance(base, CountRun)
    rate, reached = base.train.optim.lr, dict[float, float]()

    def reach(factor: float) -> None:
        run = with_rate(base, rate * factor)
        short = replace(run, train=replace(run.train, epochs=run.train.epochs / 4, patience=0))
        try:
            best = train_run(short, store, split, folder.with_name(f"{folder.name}.try{len(reached)}")).best
        except DivergedError:
            best = -inf
        if best is None:
            raise ConfigError(f"split {split.name!r} has no validation to choose by", fix="Choose another split.")
        reached[factor] = best

    for factor in rates:
        reach(factor)
    by = rates[-1] / rates[-2]
    for _ in range(2):
        best = max(reached, key=lambda factor: reached[factor])
        if best in (max(reached), min(reached)):
            reach(best * by if best == max(reached) else best / by)
    best = max(reached, key=lambda factor: reached[factor])
    said = "; ".join(f"{rate * factor:g}: {reached[factor]:.4f}" for factor in sorted(reached))
    note = f"{TRIED}, a quarter of the epochs each: train.optim.lr {said}."
    return Chosen(with_rate(base, rate * best), (note,), len(reached))
