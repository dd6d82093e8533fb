"""Recipes of the sequence models that T2Diff's Table 2 compares with, beside SASRec and GRU4Rec of `controls.py`.

All learn by a softmax over the catalogue; `--objective.loss published` gives the loss as printed where that is another.
Minutes are of one core on the liked items of ML-1M (about 450,000 targets), from the first epochs' speed, judging
included.
"""

from __future__ import annotations

from dataclasses import replace

from penchant.baselines.retrieval.auxiliary import (
    CaserObjectiveConfig,
    ClozeConfig,
    ContrastVAEObjectiveConfig,
    DATObjectiveConfig,
    DiffuRecObjectiveConfig,
    STOSAObjectiveConfig,
)
from penchant.baselines.retrieval.bert4rec import BERT4RecConfig
from penchant.baselines.retrieval.caser import CaserConfig
from penchant.baselines.retrieval.contrast_vae import ContrastVAEConfig
from penchant.baselines.retrieval.dat import DATConfig
from penchant.baselines.retrieval.diffurec import DiffuRecConfig
from penchant.baselines.retrieval.stosa import STOSAConfig
from penchant.data.batch import SequenceDataConfig
from penchant.recipes.runs import SequenceRun
from penchant.training.loop import TrainConfig
from penchant.training.optim import OptimConfig


def caser() -> SequenceRun:
    """Caser: convolutions over the last five items. `penchant train caser STORE`. 6 minutes."""
    return SequenceRun(
        kind="caser",
        model=CaserConfig(),
        data=SequenceDataConfig(batch_targets=1600),
        objective=CaserObjectiveConfig(),
        train=_train(12, 2e-3),
    )


def bert4rec() -> SequenceRun:
    """BERT4Rec: a bidirectional transformer that fills in masks. `penchant train bert4rec STORE`. 10 minutes.

    A fifth of the items is learned in each pass, so it takes more passes than causal models do.
    """
    return SequenceRun(
        kind="bert4rec",
        model=BERT4RecConfig(),
        data=SequenceDataConfig(batch_targets=1600),
        objective=ClozeConfig(),
        train=replace(_train(40, 2e-3), evaluate_every=2.0),
    )


def bert4rec_long() -> SequenceRun:
    """The calibration run: BERT4Rec with histories of 200, as long as it takes (ML-1M: hours).

    Published reproductions on ML-1M, leave-one-out, the whole catalogue ranked: HR@10 0.282 to 0.284, NDCG@10 0.152 to
    0.156.
    """
    run = bert4rec()
    return replace(
        run,
        model=BERT4RecConfig(max_len=200, width=128),
        data=SequenceDataConfig(max_len=200, batch_targets=1600),
        train=replace(_train(100, 1e-3), evaluate_every=4.0),
    )


def stosa() -> SequenceRun:
    """STOSA: items as Gaussians, attention by Wasserstein distance. `penchant train stosa STORE`. 11 minutes."""
    return SequenceRun(
        kind="stosa",
        model=STOSAConfig(),
        data=SequenceDataConfig(batch_targets=1600),
        objective=STOSAObjectiveConfig(),
        train=_train(12, 2e-3),
    )


def contrast_vae() -> SequenceRun:
    """ContrastVAE: a variational transformer, two views by dropout. `penchant train contrast_vae STORE`. 13 min."""
    return SequenceRun(
        kind="contrast_vae",
        model=ContrastVAEConfig(),
        data=SequenceDataConfig(batch_targets=1600),
        objective=ContrastVAEObjectiveConfig(),
        train=_train(12, 2e-3),
    )


def diffurec() -> SequenceRun:
    """DiffuRec: the target found again from noise and history. `penchant train diffurec STORE`. 20 minutes.

    Four positions of each piece are learned in a pass, so it takes more passes than causal models do; serving takes 32.
    """
    return SequenceRun(
        kind="diffurec",
        model=DiffuRecConfig(),
        data=SequenceDataConfig(batch_targets=3200),
        objective=DiffuRecObjectiveConfig(),
        train=replace(_train(40, 2e-3), evaluate_every=4.0),
    )


def dat() -> SequenceRun:
    """DAT: a two-tower with augmented vectors that mimic the other tower. `penchant train dat STORE`. 5 minutes."""
    return SequenceRun(
        kind="dat",
        model=DATConfig(),
        data=SequenceDataConfig(batch_targets=1600),
        objective=DATObjectiveConfig(),
        train=_train(10, 2e-3),
    )


def _train(epochs: float, lr: float) -> TrainConfig:
    return TrainConfig(epochs=epochs, optim=OptimConfig(lr=lr))


RETRIEVAL = (caser, bert4rec, bert4rec_long, stosa, contrast_vae, diffurec, dat)
