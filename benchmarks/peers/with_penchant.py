"""Penchant's models on a job's Store, trained on the very events that its peers are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from common import DEPTH, KEPT, Job

from penchant.baselines.counted.item_knn import ItemKNN, ItemKNNConfig
from penchant.baselines.counted.popularity import Popularity, PopularityConfig
from penchant.baselines.retrieval.objective import SoftmaxConfig, SoftmaxObjective
from penchant.baselines.retrieval.sasrec import SASRec, SASRecConfig
from penchant.data.batch import SequenceBatches, SequenceDataConfig
from penchant.data.history import requests_before_events
from penchant.data.output import alone
from penchant.data.split import Split, load_split
from penchant.data.store import Store
from penchant.errors import RunError
from penchant.evaluation.protocol import evaluate_retrieval
from penchant.funnel.rank import judging
from penchant.funnel.retrieve import retriever
from penchant.models import Sizes
from penchant.training.loop import TrainConfig, fit
from penchant.training.optim import OptimConfig


def train_sasrec(job: Job, store: Store, split: Split, sizes: Sizes) -> tuple[SASRec, int]:
    """The model, and how many targets it saw."""
    s = job.settings
    config = SASRecConfig(
        width=s["width"],
        blocks=s["blocks"],
        heads=s["heads"],
        expansion=1,  # as in RecTools
        dropout=s["dropout"],
        max_len=s["max_len"],
    )
    torch.manual_seed(s["seed"])
    model = SASRec(config, sizes)
    data = SequenceDataConfig(max_len=s["max_len"], batch_targets=s["batch_targets"], newest_only=True)
    batches = SequenceBatches(store, split, data, s["seed"])
    objective = SoftmaxObjective(SoftmaxConfig(), torch.from_numpy(split.item_counts(store)))
    optim = OptimConfig(lr=s["lr"])
    train = TrainConfig(epochs=float(s["epochs"]), optim=optim, tensorboard=False, device="cpu", seed=s["seed"])
    with alone(job.out / "run", RunError, inside=True), job.measured("train"):
        fit(model, objective, batches, train, job.out / "run")
    return model, batches.num_targets * s["epochs"]


def count(job: Job, store: Store, split: Split, sizes: Sizes) -> Any:
    """A model that is counted, not trained."""
    if job.model == "popularity":
        model = Popularity(PopularityConfig(), sizes)
    else:
        model = ItemKNN(ItemKNNConfig(**job.settings), sizes)
    with job.measured("train"):
        model.fit(store, split)
    return model


def main() -> None:
    job = Job.given()
    torch.set_num_threads(1)
    store = Store(job.store)
    split = load_split(store, job.split)
    # The valid window joins the training, as in the events that the peers are given.
    whole = replace(split, windows=("train", "test"), ends=split.ends[:, 1:])
    sizes = Sizes(num_items=store.num_items, num_categories=store.num_categories)
    model, targets = (
        train_sasrec(job, store, whole, sizes) if job.model == "sasrec" else (count(job, store, whole, sizes), None)
    )
    max_len = model.config.max_len if hasattr(model.config, "max_len") else 1
    with job.measured("recommend"):
        judged = evaluate_retrieval(model, store, split, "test", ks=(DEPTH,), max_len=max_len)
    users, items = (np.array(ids, dtype=object) for ids in (store.user_ids, store.item_ids))
    longest = int(np.diff(store.user_indptr).max())
    requests = requests_before_events(store, judged.events, longest)
    with judging(model):
        found = retriever("unseen", model, exclude_seen=True).retrieve(requests, DEPTH)
    for name, ids, scores in (
        ("lists", judged.lists, judged.list_scores),
        ("unseen", found.items.numpy(), found.scores.numpy()),
    ):
        row, place = np.nonzero(ids[:, :KEPT])
        job.write_lists(name, users[judged.users[row]], items[ids[row, place]], scores[row, place])
    job.finish(("penchant", "torch", "numpy"), targets)


if __name__ == "__main__":
    main()
