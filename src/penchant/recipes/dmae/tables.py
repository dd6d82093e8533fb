"""DMAE's tables: Tables 2 to 4, Figure 4, and what the paper does not ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from penchant.papers.dmae.model import DMAEConfig
from penchant.papers.dmae.objective import DMAEObjectiveConfig
from penchant.recipes import controls
from penchant.recipes.dmae.run import dimo, dmae, lrd, simtier, simtier_slices, unisrec
from penchant.recipes.rows import RATES, ResultTable, Row
from penchant.recipes.runs import RankingRun, Run

MODEL, TOLD = DMAEConfig(embedding_dropout=0.1), DMAEObjectiveConfig()
ML1M, BAZAAR, SPLIT = "ml-1m-liked", "bazaar-small-pictures", "temporal-successive"
EPOCHS = 1.0
"""Every ranker here is best on validation within one pass over what was shown, and falls in a second."""
RATE = 2e-3
"""The rate that DIN and mean pooling are best at on ML-1M's validation window."""


def table2() -> ResultTable:
    """Every ranker with the same features, embeddings, last network and steps, each at the best of four rates.

    Beside the paper's rows: SimTier on both modalities (the paper's is of one), and DMAE's own target as an input.
    """
    one = simtier()
    runs: dict[str, RankingRun] = {
        "wide-deep": controls.wide_deep(),
        "frnet": controls.frnet(),
        "mean-pooling": controls.mean_pooling(),
        "gru4rec": controls.gru4rec_ranker(),
        "din": controls.din(),
        "bst": controls.bst(),
        "unisrec": unisrec(),
        "lrd": lrd(),
        "dimo": dimo(),
        "simtier": replace(one, model=replace(one.model, modalities=("text",))),
        "simtier-both": one,
        "simtier-slices": simtier_slices(),
        "dmae": dmae(),
    }
    return _chosen("table2", runs, seeds=3)


def table2_bazaar() -> ResultTable:
    """The main row and its best controls on the generated market, where pictures matter. One seed."""
    runs: dict[str, RankingRun] = {"din": controls.din(), "simtier-both": simtier(), "dmae": dmae()}
    return _chosen("table2-bazaar", runs, seeds=1, data=BAZAAR)


def table3() -> ResultTable:
    """Each unit left out; wo-mieu-t is the distribution without time, as the paper defines it, wo-places the code."""
    runs = {
        "dmae": _row(),
        "wo-mieu-se": _row(replace(MODEL, encoding="buckets")),
        "wo-mieu-t": _row(told=replace(TOLD, slices=1)),
        "wo-places": _row(replace(MODEL, places=False)),
        "wo-mifu": _row(replace(MODEL, fusion=False)),
        "wo-iddu": _row(told=replace(TOLD, decode=0.0)),
    }
    return _table("table3", runs)


def table4() -> ResultTable:
    """Slices of time by slices of similarity."""
    grid = [(slices, bins) for slices in (1, 5, 10, 32, 64) for bins in (1, 5, 10, 50, 100)]
    return _table(
        "table4", {f"l{slices}-n{bins}": _row(told=replace(TOLD, slices=slices, bins=bins)) for slices, bins in grid}
    )


def figure4() -> ResultTable:
    """How much decoding counts."""
    return _table(
        "figure4",
        {f"decode-{int(100 * w):03}": _row(told=replace(TOLD, decode=w)) for w in (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)},
    )


def forms() -> ResultTable:
    """As printed beside our defaults, and controls of our own: a placebo, one modality alone."""
    runs = {
        "dmae": _row(),
        "literal": _row(replace(MODEL, wave="one", calibration="none", residual=False), replace(TOLD, q="literal")),
        "q-literal": _row(told=replace(TOLD, q="literal")),
        "q-row-softmax": _row(told=replace(TOLD, q="row_softmax")),
        "q-generalised-kl": _row(told=replace(TOLD, q="generalised_kl")),
        "q-cells": _row(told=replace(TOLD, q="cells")),
        "q-earth-mover": _row(told=replace(TOLD, q="earth_mover")),
        "wave-one": _row(replace(MODEL, wave="one")),
        "uncalibrated": _row(replace(MODEL, calibration="none")),
        "whitened": _row(replace(MODEL, calibration="whiten")),
        "no-residual": _row(replace(MODEL, residual=False)),
        "query-own": _row(replace(MODEL, query="own")),
        "query-both": _row(replace(MODEL, query="both")),
        "masked-none": _row(told=replace(TOLD, masked=0.0)),
        "masked-075": _row(told=replace(TOLD, masked=0.75)),
        "shuffled-content": _row(replace(MODEL, shuffled=True)),
        "held-float32": _row(replace(MODEL, precision="float32")),
        "held-int8": _row(replace(MODEL, precision="int8")),
        "text-alone": _row(replace(MODEL, modalities=("text",))),
        "image-alone": _row(replace(MODEL, modalities=("image",))),
    }
    return _table("forms", runs)


def _row(model: DMAEConfig = MODEL, told: DMAEObjectiveConfig = TOLD) -> RankingRun:
    run = _once(dmae())
    train = replace(run.train, optim=replace(run.train.optim, lr=RATE))
    return replace(run, model=model, objective=told, train=train)


def _once(run: RankingRun) -> RankingRun:
    train = replace(run.train, epochs=EPOCHS, evaluate_every=EPOCHS / 4, patience=0, tensorboard=False)
    return replace(run, train=train)


def _chosen(name: str, runs: Mapping[str, RankingRun], seeds: int, data: str = ML1M) -> ResultTable:
    """Each run at the best of four rates."""
    once = {row: _once(run) for row, run in runs.items()}
    rows = tuple(Row(name=row, run=run, rates=RATES, data=data, split=SPLIT, minutes=8.0) for row, run in once.items())
    return ResultTable(paper="dmae", name=name, rows=rows, seeds=seeds)


def _table(name: str, runs: Mapping[str, Run]) -> ResultTable:
    rows = tuple(Row(name=row, run=run, data=ML1M, split=SPLIT, minutes=8.0) for row, run in runs.items())
    return ResultTable(paper="dmae", name=name, rows=rows, seeds=1)


def tables() -> tuple[ResultTable, ...]:
    """All of DMAE's."""
    return table2(), table2_bazaar(), table3(), table4(), figure4(), forms()
