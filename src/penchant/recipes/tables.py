"""Every table of results: which rows, on which data, how many seeds."""

from __future__ import annotations

from penchant.recipes import controls
from penchant.recipes.dmae import tables as dmae
from penchant.recipes.funnel import tables as funnel
from penchant.recipes.karma import tables as karma
from penchant.recipes.rows import RATES, ResultTable, Row
from penchant.recipes.t2diff import tables as t2diff
from penchant.recipes.t2diff.baselines import bert4rec_long
from penchant.recipes.ulim import tables as ulim

PREPARE = {
    "ml-1m-all": "penchant prepare movielens --path ml-1m --view all --abstracts abstracts.json --out {store}, "
    "then penchant encode {store}",
    "beauty": "penchant prepare sequences --path beauty/sequences.txt --gaps beauty/time_gaps.txt "
    "--ids beauty/datamaps.json --items beauty/categories_by_asin.json --brand-first --category-queries --out {store}",
    "ml-1m-liked": "penchant prepare movielens --path ml-1m --view liked --posters posters.zip "
    "--abstracts abstracts.json --out {store}, then penchant encode {store}",
    "bazaar-small-pictures": "penchant prepare bazaar --size small --out {store}, then penchant encode {store}",
    "bazaar-large": "penchant prepare bazaar --size large --no-pictures --out {store}",
    "bazaar-small": "penchant prepare bazaar --size small --no-pictures --out {store}, then penchant encode {store}",
    "bazaar-content": "penchant prepare bazaar --size small --no-pictures --knobs.text 3 --knobs.image 0 "
    "--knobs.identity 0 --knobs.price 0 --out {store}, then penchant encode {store}",
    "bazaar-new-items": "penchant prepare bazaar --size small --no-pictures --knobs.cold 1 --out {store}, "
    "then penchant encode {store}",
    "bazaar-more-new-items": "penchant prepare bazaar --size small --no-pictures --knobs.cold 1 --seed 1 "
    "--out {store}, then penchant encode {store}",
    "bazaar-few-items": "penchant prepare bazaar --size small --items 500 --no-pictures --out {store}, "
    "then penchant encode {store}",
}
"""How to make the Stores that the tables need. KARMA reads posters and abstracts; no control does."""


def calibration() -> ResultTable:
    """The harness against the literature: SASRec and GRU4Rec with histories of 200 on ML-1M, one seed; BERT4Rec where
    the literature has it, leave-one-out."""
    runs = (("sasrec-ce", controls.sasrec_long(), 45.0, 11), ("gru4rec-ce", controls.gru4rec_long(), 45.0, 2))
    rows = tuple(
        Row(name=name, run=run, data="ml-1m-all", split=split, minutes=minutes, trials=trials)
        for split in ("loo", "temporal-successive")
        for name, run, minutes, trials in runs
    )
    rows += (Row(name="bert4rec-ce", run=bert4rec_long(), data="ml-1m-all", split="loo", minutes=100.0),)
    return ResultTable(paper="controls", name="calibration", rows=rows, seeds=1)


def retrieval() -> ResultTable:
    """Every retrieval control on ML-1M at histories of 50."""
    runs = (
        ("popularity", controls.popularity(), 0.5, 1),
        ("recent-popularity", controls.recent_popularity(), 0.5, 1),
        ("markov", controls.markov(), 0.5, 1),
        ("item-knn", controls.item_knn(), 1.0, 10),
        ("two-tower", controls.two_tower(), 8.0, 1),
        ("sasrec", controls.sasrec(), 8.0, 1),
        ("gru4rec", controls.gru4rec(), 8.0, 1),
    )
    rows = tuple(
        Row(name=name, run=run, data="ml-1m-all", split=split, minutes=minutes, trials=trials)
        for split in ("temporal-successive", "loo")
        for name, run, minutes, trials in runs
    )
    return ResultTable(paper="controls", name="retrieval", rows=rows, seeds=1)


def beauty() -> ResultTable:
    """The controls on Beauty, which knows an order but no dates: leave-one-out alone."""
    runs = (
        ("popularity", controls.popularity(), 0.5, 1),
        ("markov", controls.markov(), 0.5, 1),
        ("item-knn", controls.item_knn(), 0.5, 1),
        ("sasrec", controls.sasrec_beauty(), 16.0, 10),
        ("sasrec-refit", controls.sasrec_beauty_refit(), 12.0, 10),
    )
    rows = tuple(
        Row(name=name, run=run, data="beauty", split="loo", minutes=minutes, trials=trials)
        for name, run, minutes, trials in runs
    )
    return ResultTable(paper="controls", name="beauty", rows=rows, seeds=1)


def ranking() -> ResultTable:
    """DIN against mean pooling on what ML-1M's users rated, liked or not; three seeds, four learning rates each."""
    rows = tuple(
        Row(name=name, run=run, rates=RATES, data="ml-1m-liked", split="temporal-successive", minutes=8.0)
        for name, run in (("mean-pooling", controls.mean_pooling()), ("din", controls.din()))
    )
    return ResultTable(paper="controls", name="ranking", rows=rows, seeds=3)


def of_four() -> ResultTable:
    """One funnel of the four papers, each part taken away in turn. One seed."""
    return ResultTable(paper="funnel", name="four", rows=funnel.rows(), seeds=1)


def tables() -> dict[str, ResultTable]:
    """Every table under `<paper>-<table>`."""
    controls = (calibration(), retrieval(), beauty(), ranking(), of_four())
    papers = (*karma.tables(), *t2diff.tables(), *dmae.tables(), *ulim.tables())
    return {f"{t.paper}-{t.name}": t for t in (*controls, *papers)}
