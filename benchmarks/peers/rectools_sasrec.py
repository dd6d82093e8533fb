"""RecTools' SASRec on prepared interactions. Runs in RecTools' own environment; knows nothing of Penchant.

usage: rectools_sasrec.py TRAIN.csv OUT_FOLDER JSON_SETTINGS

Writes lists.csv (user_id, item_id, rank, score) and figures.json (seconds, targets).
"""

import json
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

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


def main() -> None:
    source, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(settings["threads"])
    seed_everything(settings["seed"])
    log = pd.read_csv(source, dtype={"user_id": str, "item_id": str})
    log = log.rename(columns={"user_id": Columns.User, "item_id": Columns.Item, "ts": Columns.Datetime})
    log[Columns.Datetime] = pd.to_datetime(log[Columns.Datetime], unit="s")
    log[Columns.Weight] = 1.0
    dataset = Dataset.construct(log)
    model = SASRecModel(
        n_factors=settings["width"],
        n_blocks=settings["blocks"],
        n_heads=settings["heads"],
        dropout_rate=settings["dropout"],
        session_max_len=settings["max_len"],
        loss="softmax",
        lr=settings["lr"],
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        get_trainer_func=trainer,
        get_trainer_func_kwargs={"epochs": settings["epochs"]},
        recommend_torch_device="cpu",
    )
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(dataset)
    train_wall, train_cpu = time.perf_counter() - wall, time.process_time() - cpu
    lengths = log.groupby(Columns.User).size()
    targets = int(np.minimum(lengths.to_numpy() - 1, settings["max_len"]).sum()) * settings["epochs"]

    users = lengths.index.to_numpy()
    wall, cpu = time.perf_counter(), time.process_time()
    lists = model.recommend(users=users, dataset=dataset, k=100, filter_viewed=False)
    judge_wall, judge_cpu = time.perf_counter() - wall, time.process_time() - cpu
    lists = lists.rename(columns={Columns.User: "user_id", Columns.Item: "item_id", Columns.Rank: "rank"})
    lists[["user_id", "item_id", "rank", "score"]].to_csv(out / "lists.csv", index=False)
    figures = {
        "targets": targets,
        "train_cpu_s": train_cpu,
        "train_wall_s": train_wall,
        "judge_cpu_s": judge_cpu,
        "judge_wall_s": judge_wall,
        "versions": {name: version(name) for name in ("rectools", "torch", "numpy", "pytorch-lightning")},
    }
    (out / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
