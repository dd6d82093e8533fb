"""DMAE's recipe."""

from __future__ import annotations

from penchant.papers.dmae.model import DMAEConfig
from penchant.papers.dmae.objective import DMAEObjectiveConfig
from penchant.recipes.runs import RankingRun


def dmae() -> RankingRun:
    """Ranker: DMAE, DIN beside what items look and read like (`penchant encode`). Minutes."""
    return RankingRun(kind="dmae", model=DMAEConfig(embedding_dropout=0.1), objective=DMAEObjectiveConfig())


RANKING = (dmae,)
