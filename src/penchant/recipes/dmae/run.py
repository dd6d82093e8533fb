"""Recipes of DMAE and of the rankers beside it in its Table 2 that read what items look and read like too.

They need the Store's vectors: `penchant encode STORE`.
"""

from __future__ import annotations

from penchant.baselines.ranking.auxiliary import DIMOObjectiveConfig, LRDObjectiveConfig, UniSRecObjectiveConfig
from penchant.baselines.ranking.content import VectorRankerConfig
from penchant.baselines.ranking.lrd import LRDConfig
from penchant.baselines.ranking.simtier import SimTierConfig
from penchant.baselines.ranking.unisrec import UniSRecConfig
from penchant.papers.dmae.model import DMAEConfig
from penchant.papers.dmae.objective import DMAEObjectiveConfig
from penchant.recipes.runs import RankingRun


def dmae() -> RankingRun:
    """Ranker: DMAE, DIN beside what items look and read like (`penchant encode`). Minutes."""
    return RankingRun(kind="dmae", model=DMAEConfig(embedding_dropout=0.1), objective=DMAEObjectiveConfig())


def simtier() -> RankingRun:
    """Ranker: SimTier on both modalities, DIN beside histograms of similarities. Minutes.

    As published: --model.modalities text, or image.
    """
    return RankingRun(kind="simtier", model=SimTierConfig(embedding_dropout=0.1))


def simtier_slices() -> RankingRun:
    """Ranker: SimTier by ten slices of the history, so that DIN reads what DMAE is taught to tell. Minutes."""
    return RankingRun(kind="simtier", model=SimTierConfig(embedding_dropout=0.1, slices=10))


def unisrec() -> RankingRun:
    """Ranker: UniSRec, DIN over ids and adapted text vectors. Minutes."""
    model = UniSRecConfig(embedding_dropout=0.1)
    return RankingRun(kind="unisrec", model=model, objective=UniSRecObjectiveConfig())


def lrd() -> RankingRun:
    """Ranker: LRD, DIN whose weights know of latent relations between texts. Minutes."""
    return RankingRun(kind="lrd", model=LRDConfig(embedding_dropout=0.1), objective=LRDObjectiveConfig())


def dimo() -> RankingRun:
    """Ranker: DIMO, one DIN over ids and one over content, kept apart. Minutes."""
    return RankingRun(kind="dimo", model=VectorRankerConfig(embedding_dropout=0.1), objective=DIMOObjectiveConfig())


RANKING = (dmae, simtier, simtier_slices, unisrec, lrd, dimo)
