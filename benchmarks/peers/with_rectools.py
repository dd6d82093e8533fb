"""RecTools' models on a job's events. Runs in RecTools' own environment; knows nothing of Penchant."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import torch
from common import DEPTH, Job
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import PopularModel, SASRecModel

warnings.filterwarnings("ignore")


def trainer(epochs: int) -> Trainer:
    """RecTools' default, without what it writes to disk."""
    return Trainer(
        max_epochs=epochs,
        min_epochs=epochs,
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
        get_trainer_func_kwargs={"epochs": s["epochs"]},
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
        job.write_lists(name, table[Columns.User], table[Columns.Item], table[Columns.Score])
    targets = None
    if job.model == "sasrec":
        per_epoch = np.minimum(lengths.to_numpy() - 1, job.settings["max_len"]).sum()
        targets = int(per_epoch) * job.settings["epochs"]
    job.finish(("rectools", "torch", "numpy", "pytorch-lightning"), targets)


if __name__ == "__main__":
    main()
