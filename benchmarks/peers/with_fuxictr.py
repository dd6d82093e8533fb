"""FuxiCTR's DIN on a job's impressions. Runs in FuxiCTR's own environment; knows nothing of Penchant.

Its DIN is the one that its package on PyPI holds, `model_zoo/LongCTR/DIN`: the same attention and network as its older
`model_zoo/DIN`, with histories looked up by item. Its trainer does the training; its loader, which reads Parquet and
looks each history up in pandas, is replaced by slices of arrays in memory, so that it costs as little as it can.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from common import Job
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo.LongCTR.DIN.DIN import DIN

Batch = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]
NEVER = 10**9


class Impressions:
    """Batches of a window's impressions: labels, items (the history's and then the candidate) and the history's mask.

    Histories end at the right, so a batch of short ones is cut from the left.
    """

    def __init__(self, folder: Path, window: str, max_len: int, batch_rows: int, seed: int | None = None) -> None:
        """Args:
        seed: rows are shuffled anew each epoch by it; None = in order.
        """
        shown = pq.read_table(folder / f"{window}.parquet")
        self.rows = shown["row"].to_numpy()
        self._items = torch.from_numpy(shown["item"].to_numpy().astype(np.int64))
        self._labels = torch.from_numpy(shown["label"].to_numpy().astype(np.float32))
        told = pq.read_table(folder / f"{window}.requests.parquet")
        of = np.searchsorted(told["request"].to_numpy(), shown["request"].to_numpy())
        self._request = torch.from_numpy(of)
        histories = told["history"].combine_chunks()
        lengths = np.diff(histories.offsets.to_numpy())
        padded = np.zeros((len(lengths), max_len), dtype=np.int32)
        padded[np.arange(max_len) >= max_len - lengths[:, None]] = histories.values.to_numpy()
        self._histories, self._lengths = torch.from_numpy(padded), torch.from_numpy(lengths)
        categories = pq.read_table(folder / "items.parquet")["category"].to_numpy()
        self._category_of = torch.from_numpy(categories.astype(np.int64))
        self._batch_rows = batch_rows
        self._rng = None if seed is None else np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self.rows) // self._batch_rows)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.rows)
        order = torch.from_numpy(np.arange(count) if self._rng is None else self._rng.permutation(count))
        for rows in order.split(self._batch_rows):
            requests = self._request[rows]
            longest = max(1, int(self._lengths[requests].max()))  # its batch norm wants a column
            history = self._histories[requests, -longest:].long()
            items = torch.cat([history, self._items[rows, None]], dim=1).flatten()
            yield {"label": self._labels[rows]}, {"item": items, "category": self._category_of[items]}, history > 0


class MeteredDIN(DIN):
    """Validation, with what it keeps on disk, is no part of training."""

    job: Job
    best_step = 0

    def eval_step(self) -> None:
        before = self._best_metric
        with self.job.aside():
            super().eval_step()
        if self._best_metric != before:
            self.best_step = self._total_steps


def feature_map(job: Job) -> FeatureMap:
    """An item and its category, which its DIN reads for the candidate and the history alike."""
    s = job.settings
    categories = pq.read_table(job.events / "items.parquet")["category"].to_numpy()
    shared: dict[str, Any] = {"source": "item", "type": "categorical", "padding_idx": 0}
    features = FeatureMap("ctr", str(job.out))
    features.features = OrderedDict(
        item={**shared, "vocab_size": len(categories), "embedding_dim": s["width"]},
        category={**shared, "vocab_size": int(categories.max()) + 1, "embedding_dim": s["category_width"]},
    )
    features.labels = ["label"]
    features.num_fields = features.get_num_fields()
    features.default_emb_dim = s["width"]
    return features


def main() -> None:
    job = Job.given()
    torch.set_num_threads(1)
    s = job.settings
    seed_everything(s["seed"])
    train = Impressions(job.events, "train", s["max_len"], s["batch_rows"], s["seed"])
    valid, test = (Impressions(job.events, window, s["max_len"], s["batch_rows"]) for window in ("valid", "test"))
    (job.out / "ctr").mkdir(exist_ok=True)  # where its trainer keeps the best weights
    model = MeteredDIN(
        feature_map(job),
        model_root=str(job.out),
        dnn_hidden_units=[s["hidden"], s["hidden_second"]],
        attention_hidden_units=[s["attention"]],
        net_dropout=s["dropout"],
        embedding_dim=s["width"],
        learning_rate=s["lr"],
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=["AUC"],
        monitor="AUC",
        eval_steps=max(1, int(len(train) * s["evaluate_every"])),
        early_stop_patience=NEVER,
        verbose=0,
    )
    model.job = job
    with job.measured("train"):
        model.fit(train, epochs=s["epochs"], validation_data=valid)
    model.dnn.mlp = model.dnn.mlp[:-1]  # logits: what the last layer, a sigmoid, rounds to 1 would be tied
    with job.measured("score"):
        scores = model.predict(test)
    job.write_scores(test.rows, scores)
    best = float(model._best_metric)
    job.figures |= {"steps": model._total_steps, "best_step": model.best_step, "valid_auc": best}
    job.finish(("fuxictr", "torch", "numpy", "pandas"), len(train.rows) * s["epochs"])


if __name__ == "__main__":
    main()
