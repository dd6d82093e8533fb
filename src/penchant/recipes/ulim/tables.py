"""ULIM's tables: Table 1 and 2, Figure 3, and the controls that say what they are worth.

The paper's lists are 500, 1,000 and 2,000 long, of a catalogue whose size it does not tell. Bazaar's large market has
50,000 items, so that they are 1, 2 and 4 % of it; of ML-1M's 3,883 movies the same shares are 39, 78 and 155.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from penchant.recipes import controls
from penchant.recipes.rows import ResultTable, Row
from penchant.recipes.runs import PrefixRun, Run, SequenceRun
from penchant.recipes.ulim.run import UlimRun, ulim
from penchant.training.loop import TrainConfig

BAZAAR, ML1M, SPLIT = "bazaar-large", "ml-1m-all", "temporal-successive"
PAPER_KS = (500, 1000, 2000)
KS = {BAZAAR: PAPER_KS, ML1M: (39, 78, 155, *PAPER_KS)}
TARGETS = 5000
"""Judged, drawn at random from all after the cut."""
RAW = 200
"""Actions that the generator reads one by one; the paper's MHSA over a thousand costs more than the rest of a row."""
MINUTES = 4.0
RATES = (1.0, 2.0, 4.0, 8.0)
"""Times a recipe's learning rate: of so few steps larger ones are better."""
CHOSEN_RATE = 0.016
"""Of ULIM on Bazaar."""
EPOCHS = {
    BAZAAR: {
        "sasrec": 0.24,
        "youtube-dnn": 0.36,
        "mind": 0.2,
        "comirec-sa": 0.09,
        "comirec-dr": 0.22,
        "youtube-dnn-long": 0.12,
        "mind-long": 0.043,
        "comirec-sa-long": 0.007,
        "comirec-dr-long": 0.04,
        "ulim": 0.045,
        "categories": 0.014,
    },
    ML1M: {"sasrec": 8.0, "comirec-sa": 2.0, "ulim": 0.6, "categories": 0.2},
}
"""What three minutes of one core are enough for: of the others' training, and of both halves of ULIM's together."""


def paper_run(data: str) -> UlimRun:
    """By our defaults, in a row's minutes."""
    run, epochs = ulim(), EPOCHS[data]
    return replace(
        run,
        model=replace(run.model, raw_up_to=RAW),
        train=_for(run.train, epochs["ulim"]),
        category_train=replace(_for(run.category_train, epochs["categories"]), metric=run.category_train.metric),
    )


def chosen_run(data: str) -> UlimRun:
    """The same at the rate that Table 1 chose, for tables that try none."""
    run = paper_run(data)
    return replace(run, train=replace(run.train, optim=replace(run.train.optim, lr=CHOSEN_RATE)))


def others(data: str) -> dict[str, Run]:
    """SASRec over short histories; YouTube DNN, MIND and ComiRec with histories of 50, and as long as ULIM's.

    All but SASRec read what ULIM reads of an item, its id and category, in vectors as wide as its own; all learn beside
    about as many negatives.
    """
    width, max_len = ulim().model.width, ulim().model.max_len
    prefixes = {
        "youtube-dnn": controls.youtube_dnn(),
        "mind": controls.mind(),
        "comirec-sa": controls.comirec_sa(),
        "comirec-dr": controls.comirec_dr(),
    }
    prefixes = {name: replace(r, model=replace(r.model, width=width, categories=True)) for name, r in prefixes.items()}
    prefixes |= {f"{name}-long": controls.long(run, max_len) for name, run in prefixes.items()}
    runs: dict[str, SequenceRun | PrefixRun] = {"sasrec": controls.sasrec(), **prefixes}
    known, negatives = EPOCHS[data], ulim().data.negatives + ulim().objective.corpus_negatives
    return {
        name: replace(run, objective=replace(run.objective, num_sampled=negatives), train=_for(run.train, known[name]))
        for name, run in runs.items()
        if name in known
    }


def table1(data: str) -> ResultTable:
    """ULIM beside the others, each with its usual short history and with a long one, as ULIM reads; rates are chosen on
    validation. Three seeds.
    """
    runs: dict[str, Any] = {**others(data), "ulim": paper_run(data)}
    return _table("table1", data, runs, seeds=3, choose=True)


def table2(data: str) -> ResultTable:
    """The paper's ablations; then ours: what says which categories, what batches hold, which vectors search. One seed.

    With the right category known (the ceiling) is a column of every row.
    """
    run = chosen_run(data)
    model, told = run.model, run.objective
    runs = {
        "ulim": run,
        "half-newest": replace(run, model=replace(model, half="newest")),
        "half-oldest": replace(run, model=replace(model, half="oldest")),
        "self-attention": replace(run, model=replace(model, attention="self")),
        "categories-frequency": replace(run, model=replace(model, categories="frequency")),
        "categories-last": replace(run, model=replace(model, categories="last")),
        "no-grouping": replace(run, data=replace(run.data, grouping="random")),
        "no-long": replace(run, model=replace(model, channels="short"), objective=replace(told, alpha=0.0)),
        "no-short": replace(run, model=replace(model, channels="long"), objective=replace(told, beta=0.0)),
        "short-negatives-category": replace(run, objective=replace(told, short_negatives="category")),
    }
    return _table("table2", data, runs)


def figure3(data: str) -> ResultTable:
    """How many categories are searched. Trained once: K is a setting of serving. One seed."""
    run = chosen_run(data)
    runs = {f"k-{k:02}": replace(run, model=replace(run.model, num_searched=k)) for k in (1, 2, 5, 10, 20)}
    return _table("figure3", data, runs)


def forms(data: str) -> ResultTable:
    """As printed beside our defaults, and other ways to merge. One seed."""
    run = chosen_run(data)
    model, told = run.model, run.objective
    runs = {
        "ulim": run,
        "merge-factorised": replace(run, model=replace(model, merge="factorised")),
        "merge-raw": replace(run, model=replace(model, merge="raw")),
        "share-25": replace(run, model=replace(model, short_share=0.25)),
        "share-75": replace(run, model=replace(model, short_share=0.75)),
        "query-short": replace(run, model=replace(model, query="short")),
        "query-stopped": replace(run, model=replace(model, stop_query=True)),
        "overlap": replace(run, model=replace(model, overlap=True)),
        "pointer-linear": replace(run, model=replace(model, pointer="linear")),
        "pointer-query-features": replace(run, model=replace(model, pointer_query="features")),
        "pointer-query-last": replace(run, model=replace(model, pointer_query="last")),
        "no-log-q": replace(run, objective=replace(told, log_q=False)),
        "null-learned": replace(run, objective=replace(told, empty="learned")),
    }
    return _table("forms", data, runs)


def _for(train: TrainConfig, epochs: float) -> TrainConfig:
    """So long, its weights chosen by a list of a length that retrieval is for."""
    return replace(train, epochs=epochs, evaluate_every=epochs / 3, metric="HR@100", tensorboard=False)


def _table(name: str, data: str, runs: Mapping[str, Any], seeds: int = 1, choose: bool = False) -> ResultTable:
    known = {"data": data, "split": SPLIT, "minutes": MINUTES, "trials": len(RATES)}
    rows = tuple(Row(name=row, run=run, rates=RATES if choose else (), **known) for row, run in runs.items())
    label = name if data == BAZAAR else f"{name}-ml1m"
    return ResultTable(paper="ulim", name=label, rows=rows, seeds=seeds, targets=TARGETS, ks=KS[data])


def tables() -> tuple[ResultTable, ...]:
    """All of ULIM's: on the market made for it; the main row and its best controls on ML-1M."""
    return table1(BAZAAR), table2(BAZAAR), figure3(BAZAAR), forms(BAZAAR), table1(ML1M)
