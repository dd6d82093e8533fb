"""Penchant's DIN on the exported requests, reading items and categories alone, as its peer does."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from common import Job

from penchant.baselines.ranking.objective import pointwise
from penchant.baselines.ranking.parts import RankerConfig
from penchant.data.history import Requests
from penchant.data.output import alone
from penchant.data.split import Split, load_split
from penchant.data.store import Store
from penchant.errors import RunError
from penchant.evaluation.ranking import evaluate_ranking
from penchant.funnel.features import Features, RankInputs
from penchant.funnel.stages import Candidates
from penchant.recipes.ranking import build_ranker
from penchant.training.impressions import ImpressionBatches, evaluate_impressions
from penchant.training.loop import TrainConfig, fit
from penchant.training.optim import OptimConfig

warnings.filterwarnings("ignore", "std")  # of no columns


class NoFeatures(Features):
    """No dense columns at all: the peer is given none."""

    @property
    def names(self) -> tuple[str, ...]:
        return ()

    def __call__(self, requests: Requests, candidates: Candidates) -> RankInputs:
        nothing = torch.zeros(*candidates.items.shape, 0)
        return RankInputs(requests.last(self.max_len), candidates.items, nothing)


@dataclass(frozen=True)
class Exported(Split):
    """The split with the requests that were exported, and no others."""

    exported: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def requests(self, store: Store, window: str) -> np.ndarray:
        return self.exported[window]


def exported_split(split: Split, folder: Path) -> Exported:
    told = {
        window: pq.read_table(folder / f"{window}.requests.parquet", columns=["request"])["request"].to_numpy()
        for window in split.windows
    }
    return Exported(**{f.name: getattr(split, f.name) for f in fields(split)}, exported=told)


def main() -> None:
    job = Job.given()
    torch.set_num_threads(1)
    s = job.settings
    store = Store(job.store)
    split = exported_split(load_split(store, job.split), job.events)
    features = NoFeatures.fit(store, split, None, max_len=s["max_len"])
    batches = ImpressionBatches(store, split, "train", features, cells=s["batch_rows"], seed=s["seed"])
    config = RankerConfig(
        width=s["width"],
        category_width=s["category_width"],
        hidden=s["hidden"],
        hidden_second=s["hidden_second"],
        attention=s["attention"],
        dropout=s["dropout"],
        embedding_dropout=s["embedding_dropout"],
    )
    model = build_ranker("din", config, store, features, batches.batch, s["seed"])
    train = TrainConfig(
        metric="AUC",
        epochs=float(s["epochs"]),
        evaluate_every=s["evaluate_every"],
        patience=0,
        optim=OptimConfig(lr=s["lr"]),
        checkpoint_every_s=1e9,  # writing is no part of training
        tensorboard=False,
        device="cpu",
        seed=s["seed"],
    )

    def validate() -> dict[str, float]:
        with job.aside():
            shown = evaluate_impressions(model, features, store, split, "valid")
            return evaluate_ranking(shown.scores, shown.labels, shown.requests, shown.users).metrics()

    with alone(job.out / "run", RunError, inside=True), job.measured("train"):
        done = fit(model, pointwise, batches, train, job.out / "run", validate)
    with job.measured("score"):
        shown = evaluate_impressions(model, features, store, split, "test")
    job.write_scores(pq.read_table(job.events / "test.parquet", columns=["row"])["row"].to_numpy(), shown.scores)
    rows = pq.read_metadata(job.events / "train.parquet").num_rows * s["epochs"]
    job.figures |= {"steps": done.steps, "best_step": done.best_step, "valid_auc": done.best}
    job.finish(("penchant", "torch", "numpy"), rows)


if __name__ == "__main__":
    main()
