"""What a table of results is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from penchant.recipes.funnel.tables import FunnelRow
from penchant.recipes.karma.generated import GeneratedRun
from penchant.recipes.karma.run import KarmaRun
from penchant.recipes.runs import PrefixRun, RankingRun, Run, SequenceRun
from penchant.recipes.t2diff.causal import CausalT2DiffRun
from penchant.recipes.t2diff.run import T2DiffRun
from penchant.recipes.ulim.run import UlimRun

Trained = TypeVar(
    "Trained",
    bound=SequenceRun | PrefixRun | RankingRun | KarmaRun | GeneratedRun | T2DiffRun | CausalT2DiffRun | UlimRun,
)
RATES = (0.25, 0.5, 1.0, 2.0)
"""The four that a table's rows try where nothing is said of theirs."""


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


def with_rate(run: Trained, lr: float) -> Trained:
    """The run at another learning rate."""
    return replace(run, train=replace(run.train, optim=replace(run.train.optim, lr=lr)))
