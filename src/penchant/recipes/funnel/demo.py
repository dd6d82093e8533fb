"""The demo's funnel: the papers' channels at a size for MovieLens 100K and a few minutes."""

from __future__ import annotations

from dataclasses import replace

from penchant.recipes.controls import item_knn, popularity, sasrec
from penchant.recipes.funnel.plan import FunnelRun, funnel_of
from penchant.recipes.karma.run import KarmaRun, karma_decoded
from penchant.recipes.runs import Run
from penchant.recipes.t2diff.causal import t2diff_causal
from penchant.recipes.ulim.run import ulim
from penchant.training.loop import TrainConfig
from penchant.training.optim import OptimConfig


def demo_funnel(*, with_karma: bool = False) -> FunnelRun:
    """T2Diff and ULIM beside the default channels, sized for MovieLens 100K and a few minutes; DMAE ranks where texts
    have vectors.

    Args:
        with_karma: KARMA in its three places (its section 3.5): a channel, fused with the pre-ranker, and among the
            ranker's features. Needs text vectors and `make models`; some ten minutes more.
    """
    # Few users: more passes, at a higher rate, than a large shop's logs need.
    train = TrainConfig(epochs=30, optim=OptimConfig(lr=3e-3), tensorboard=False)
    channels: dict[str, Run] = {
        "sasrec": replace(sasrec(), train=train),
        "t2diff": replace(t2diff_causal(), train=train),
        "ulim": ulim(),
    }
    if with_karma:
        channels["karma"] = demo_karma()
    run = funnel_of({**channels, "item_knn": item_knn(), "popularity": popularity()})
    return replace(run, fuse="karma", features_from="karma") if with_karma else run


def demo_karma() -> KarmaRun:
    """KARMA, kept decodable, for a small catalogue of short texts."""
    run = karma_decoded()
    return replace(
        run,
        continuation=replace(run.continuation, steps=60, rows=8),
        warm_up=replace(run.warm_up, steps=60),
        train=replace(run.train, epochs=5.0, evaluate_every=2.5, tensorboard=False),
    )
