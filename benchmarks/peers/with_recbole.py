"""RecBole's SASRec on a job's events. Runs in RecBole's own environment; knows nothing of Penchant."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import KEPT, Job, best, cut_short
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed

warnings.filterwarnings("ignore")

MODELS = {"sasrec": "SASRec"}
"""What RecBole calls a model."""
ROWS = 256  # users scored at once


class UntilSpent:
    """A loader's batches until so many CPU seconds have passed, and how many targets they held."""

    def __init__(self, loader: Any, cpu_s: float) -> None:
        self.loader, self.stop = loader, time.process_time() + cpu_s
        self.targets = 0
        self.shuffle = False  # asked for by the trainer; the loader under it does shuffle

    @property
    def is_spent(self) -> bool:
        return time.process_time() > self.stop

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if self.is_spent:
                return
            self.targets += len(batch)
            yield batch


def write_atomic(job: Job) -> None:
    """RecBole's own format, a place in the history as the time."""
    log = pd.read_parquet(job.events)
    log.columns = ["user_id:token", "item_id:token", "timestamp:float"]
    (job.out / "events").mkdir(exist_ok=True)
    log.to_csv(job.out / "events" / "events.inter", sep="\t", index=False)


def config_of(job: Job) -> Config:
    s = job.settings
    sizes = {
        "hidden_size": s["width"],
        "inner_size": s["width"],  # as in RecTools
        "n_layers": s["blocks"],
        "n_heads": s["heads"],
        "hidden_dropout_prob": s["dropout"],
        "attn_dropout_prob": s["dropout"],
        "MAX_ITEM_LIST_LENGTH": s["max_len"],
        "train_batch_size": s["batch_size"],
        "learning_rate": s["lr"],
        "seed": s["seed"],
    }
    house = {
        "data_path": str(job.out),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "TO", "group_by": "none", "mode": "full"},
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        "checkpoint_dir": str(job.out / "saved"),
    }
    return Config(model=MODELS[job.model], dataset="events", config_dict={**sizes, **house})


def histories(job: Job, dataset: Any) -> tuple[list[str], list[np.ndarray]]:
    """Every user, and their items in RecBole's numbers, oldest first."""
    log = pd.read_parquet(job.events)
    log["item"] = dataset.token2id(dataset.iid_field, log["item_id"].to_numpy())
    groups = log.groupby("user_id", sort=False)["item"]
    return [str(user) for user, _ in groups], [items.to_numpy() for _, items in groups]


@torch.no_grad()
def lists_of(model: Any, past: list[np.ndarray], max_len: int, *, unseen: bool) -> tuple[np.ndarray, np.ndarray]:
    """The best items of every user and their scores."""
    model.eval()
    found, values = [], []
    for start in range(0, len(past), ROWS):
        part = past[start : start + ROWS]
        sequence = np.zeros((len(part), max_len), dtype=np.int64)
        for row, items in enumerate(part):
            recent = items[-max_len:]
            sequence[row, : len(recent)] = recent
        lengths = np.array([min(len(items), max_len) for items in part])
        asked = {model.ITEM_SEQ: torch.from_numpy(sequence), model.ITEM_SEQ_LEN: torch.from_numpy(lengths)}
        scores = model.full_sort_predict(Interaction(asked)).numpy()
        scores[:, 0] = -np.inf
        for row, items in enumerate(part if unseen else []):
            scores[row, items] = -np.inf
        top = best(scores)
        found.append(top)
        values.append(np.take_along_axis(scores, top, 1))
    return np.concatenate(found), np.concatenate(values)


def main() -> None:
    job = Job.given()
    del sys.argv[1:]  # which RecBole would read too
    torch.set_num_threads(1)
    write_atomic(job)
    config = config_of(job)
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    users, past = histories(job, dataset)
    train_set = dataset.build()[0]
    model = get_model(MODELS[job.model])(config, train_set)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    loader = TrainDataLoader(config, train_set, None, shuffle=True)
    batches = UntilSpent(loader, job.settings["train_cpu_s"])
    with job.measured("train"):
        for epoch in range(job.settings["epochs"]):
            if not batches.is_spent:
                trainer._train_epoch(batches, epoch)
    max_len = job.settings["max_len"]
    with job.measured("recommend"):
        lists = lists_of(model, past, max_len, unseen=False)
    unseen = lists_of(model, past, max_len, unseen=True)
    for name, (items, scores) in {"lists": lists, "unseen": unseen}.items():
        items, scores = items[:, :KEPT], scores[:, :KEPT]
        kept = np.isfinite(scores)
        tokens = dataset.id2token(dataset.iid_field, items[kept])
        job.write_lists(name, np.repeat(users, kept.sum(1)), tokens, scores[kept])
    notes = cut_short(job, batches.targets / len(train_set))
    job.finish(("recbole", "torch", "numpy", "pandas"), batches.targets, notes)


if __name__ == "__main__":
    main()
