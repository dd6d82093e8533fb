"""RecTools' models on a job's events. Runs in RecTools' own environment; knows nothing of Penchant."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import DEPTH, KEPT, Job, cut_short
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import PopularModel, SASRecModel

warnings.filterwarnings("ignore")


class UntilSpent(Callback):
    """Ends training after so many CPU seconds, and counts the targets of the batches until then."""

    def __init__(self, cpu_s: float) -> None:
        self.cpu_s, self.began, self.targets = cpu_s, 0.0, 0

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.began = time.process_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.targets += int((batch["y"] > 0).sum())
        trainer.should_stop = time.process_time() - self.began > self.cpu_s


def trainer(epochs: int, cpu_s: float) -> Trainer:
    """RecTools' default, without what it writes to disk."""
    return Trainer(
        max_epochs=epochs,
        callbacks=[UntilSpent(cpu_s)],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
        accelerator="cpu",
    )


def build(job: Job) -> SASRecModel | PopularModel:
    s = job.settings
    if job.model == "popular":
        return PopularModel(popularity="n_interactions")
    return SASRecModel(
        n_factors=s["width"],
        n_blocks=s["blocks"],
        n_heads=s["heads"],
        dropout_rate=s["dropout"],
        session_max_len=s["max_len"],
        loss="softmax",
        lr=s["lr"],
        batch_size=s["batch_size"],
        epochs=s["epochs"],
        get_trainer_func=trainer,
        get_trainer_func_kwargs={"epochs": s["epochs"], "cpu_s": s["train_cpu_s"]},
        recommend_torch_device="cpu",
    )


def main() -> None:
    job = Job.given()
    torch.set_num_threads(1)
    seed_everything(job.settings.get("seed", 0))
    log = pd.read_parquet(job.events)
    log = log.rename(columns={"user_id": Columns.User, "item_id": Columns.Item, "place": Columns.Datetime})
    log[Columns.Datetime] = pd.to_datetime(log[Columns.Datetime], unit="s")
    log[Columns.Weight] = 1.0
    dataset = Dataset.construct(log)
    lengths = log.groupby(Columns.User).size()
    model = build(job)
    with job.measured("train"):
        model.fit(dataset)
    users = lengths.index.to_numpy()
    with job.measured("recommend"):
        lists = model.recommend(users=users, dataset=dataset, k=DEPTH, filter_viewed=False)
    unseen = model.recommend(users=users, dataset=dataset, k=DEPTH, filter_viewed=True)
    for name, table in {"lists": lists, "unseen": unseen}.items():
        table = table[table[Columns.Rank] <= KEPT]
        job.write_lists(name, table[Columns.User], table[Columns.Item], table[Columns.Score])
    targets, notes = None, []
    if job.model == "sasrec":
        targets = next(c.targets for c in model.fit_trainer.callbacks if isinstance(c, UntilSpent))
        notes = cut_short(job, targets / np.minimum(lengths.to_numpy() - 1, job.settings["max_len"]).sum())
    job.finish(("rectools", "torch", "numpy", "pytorch-lightning"), targets, notes)


if __name__ == "__main__":
    main()
