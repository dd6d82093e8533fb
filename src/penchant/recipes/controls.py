"""Recipes of the controls: what every engine is measured against, with the same harness and the same tuning budget.

Each function returns a complete run; its fields can be set by name: `penchant train sasrec STORE --model.width 128`.
"""

from __future__ import annotations

from dataclasses import replace

from penchant.baselines.counted.item_knn import ItemKNNConfig
from penchant.baselines.counted.markov import MarkovConfig
from penchant.baselines.counted.popularity import PopularityConfig
from penchant.baselines.ranking.bst import BSTConfig
from penchant.baselines.ranking.parts import RankerConfig
from penchant.baselines.retrieval.comirec import ComiRecDRConfig, ComiRecSAConfig
from penchant.baselines.retrieval.gru4rec import GRU4RecConfig
from penchant.baselines.retrieval.mind import MINDConfig
from penchant.baselines.retrieval.objective import PrefixSoftmaxConfig, SoftmaxConfig
from penchant.baselines.retrieval.sasrec import SASRecConfig
from penchant.baselines.retrieval.two_tower import TwoTowerConfig
from penchant.baselines.retrieval.youtube_dnn import YouTubeDNNConfig
from penchant.data.batch import SequenceDataConfig
from penchant.recipes.runs import CountRun, PrefixRun, RankingRun, SequenceRun
from penchant.training.loop import TrainConfig
from penchant.training.optim import OptimConfig


def popularity() -> CountRun:
    """Every item by how often it occurs in the train window. Seconds."""
    return CountRun(kind="popularity", model=PopularityConfig())


def recent_popularity() -> CountRun:
    """Popularity over the last 30 days of the train window. Seconds."""
    return CountRun(kind="popularity", model=PopularityConfig(window_days=30.0))


def markov() -> CountRun:
    """First-order chain: what followed the last item, smoothed with popularity. Seconds."""
    return CountRun(kind="markov", model=MarkovConfig())


def item_knn() -> CountRun:
    """Items that the same users chose as the last ones. Seconds."""
    return CountRun(kind="item_knn", model=ItemKNNConfig())


def two_tower() -> SequenceRun:
    """The papers' "regular two-tower": mean of the history and the last item against id and category. Minutes."""
    return SequenceRun(kind="two_tower", model=TwoTowerConfig(), train=_train(10, 2e-3))


def sasrec() -> SequenceRun:
    """SASRec with a softmax over the catalogue, histories of 50. Minutes; measured in docs/results.md."""
    data = SequenceDataConfig(batch_targets=1600)
    return SequenceRun(kind="sasrec", model=SASRecConfig(), data=data, train=_train(12, 2e-3))


def esasrec() -> SequenceRun:
    """eSASRec: SASRec with gated residuals and SwiGLU, a modern control. Minutes."""
    run = sasrec()
    return replace(run, model=SASRecConfig(gated=True))


def gru4rec() -> SequenceRun:
    """GRU4Rec with a softmax over the catalogue, histories of 50. Minutes."""
    data = SequenceDataConfig(batch_targets=1600)
    return SequenceRun(kind="gru4rec", model=GRU4RecConfig(), data=data, train=_train(10, 2e-3))


def sasrec_long() -> SequenceRun:
    """The calibration run: SASRec with histories of 200, as long as it takes (ML-1M: half an hour or so)."""
    return SequenceRun(
        kind="sasrec",
        model=SASRecConfig(max_len=200, width=128),
        data=SequenceDataConfig(max_len=200, batch_targets=800),
        train=_train(16, 2e-3),
    )


def sasrec_beauty() -> SequenceRun:
    """SASRec on Beauty, where items are rare and histories short: much dropout, short vectors at first. Minutes."""
    return SequenceRun(
        kind="sasrec",
        model=SASRecConfig(width=192, dropout=0.5, first_length=0.16),
        data=SequenceDataConfig(batch_targets=800),
        objective=SoftmaxConfig(full_up_to_items=1000, num_sampled=1024),
        train=TrainConfig(epochs=50, evaluate_every=3.0, patience=4, optim=OptimConfig(lr=3e-3)),
    )


def sasrec_beauty_refit() -> SequenceRun:
    """sasrec_beauty, trained on the validation events too, as the highest published numbers are. Minutes."""
    run = sasrec_beauty()
    return replace(run, refit=True, train=replace(run.train, epochs=30))


def gru4rec_long() -> SequenceRun:
    """The calibration run: GRU4Rec with histories of 200, as long as it takes (ML-1M: half an hour or so)."""
    return SequenceRun(
        kind="gru4rec",
        model=GRU4RecConfig(max_len=200, width=128, state=256, dropout=0.3),
        data=SequenceDataConfig(max_len=200),
        train=_train(20, 2e-3),
    )


def youtube_dnn() -> PrefixRun:
    """YouTube DNN: the mean of the last 50 actions through a tower. Minutes."""
    return PrefixRun(kind="youtube_dnn", model=YouTubeDNNConfig(), train=_train(10, 2e-3))


def mind() -> PrefixRun:
    """MIND: up to four interests by routing, histories of 50. Minutes."""
    return PrefixRun(kind="mind", model=MINDConfig(), objective=PrefixSoftmaxConfig(power=2.0), train=_train(10, 2e-3))


def comirec_sa() -> PrefixRun:
    """ComiRec-SA: four interests by self-attention, histories of 50. Minutes."""
    return PrefixRun(kind="comirec_sa", model=ComiRecSAConfig(), train=_train(10, 2e-3))


def comirec_dr() -> PrefixRun:
    """ComiRec-DR: four interests by routing, histories of 50. Minutes."""
    return PrefixRun(kind="comirec_dr", model=ComiRecDRConfig(), train=_train(10, 2e-3))


def long(run: PrefixRun, max_len: int = 1000) -> PrefixRun:
    """The same run on histories of that length: what a model for long histories is to be compared with.

    As many targets a step, in two batches of half the size: what is held of so long histories is large.
    """
    data = replace(run.data, max_len=max_len, batch_targets=run.data.batch_targets // 2)
    train = replace(run.train, accumulate=2 * run.train.accumulate)
    return replace(run, model=replace(run.model, max_len=max_len), data=data, train=train)


def mean_pooling() -> RankingRun:
    """Ranker: mean pooling, the history's mean beside the candidate. Minutes."""
    return RankingRun(kind="mean_pooling", model=RankerConfig(embedding_dropout=0.1))


def din() -> RankingRun:
    """Ranker: DIN, the history weighted anew for each candidate. Minutes."""
    return RankingRun(kind="din", model=RankerConfig(embedding_dropout=0.1))


def wide_deep() -> RankingRun:
    """Ranker: Wide & Deep, a linear part beside a network, no behaviour sequence. Minutes."""
    return RankingRun(kind="wide_deep", model=RankerConfig(embedding_dropout=0.1))


def frnet() -> RankingRun:
    """Ranker: FRNet on a factorization machine, features refined by their context, no behaviour sequence. Minutes."""
    return RankingRun(kind="frnet", model=RankerConfig(embedding_dropout=0.1))


def gru4rec_ranker() -> RankingRun:
    """Ranker: GRU4Rec, the last state of a recurrent network over the history. Minutes."""
    return RankingRun(kind="gru4rec_ranker", model=RankerConfig(embedding_dropout=0.1))


def bst() -> RankingRun:
    """Ranker: BST, a transformer block over the history and the candidate. Minutes."""
    return RankingRun(kind="bst", model=BSTConfig(embedding_dropout=0.1))


def _train(epochs: float, lr: float) -> TrainConfig:
    return TrainConfig(epochs=epochs, optim=OptimConfig(lr=lr))


RETRIEVAL = (
    popularity,
    recent_popularity,
    markov,
    item_knn,
    two_tower,
    sasrec,
    esasrec,
    gru4rec,
    youtube_dnn,
    mind,
    comirec_sa,
    comirec_dr,
    sasrec_long,
    gru4rec_long,
    sasrec_beauty,
    sasrec_beauty_refit,
)
RANKING = (mean_pooling, din, wide_deep, frnet, gru4rec_ranker, bst)
