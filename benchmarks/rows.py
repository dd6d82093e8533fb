"""What the bench runs: every row of its tables, with all that is set. Rows of a pair run one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STORES = {
    "ml-1m-all": "penchant prepare movielens --path ml-1m --view all --out {store}",
    "beauty": "penchant prepare sequences --path beauty --out {store}",
}
"""The Stores that rows need, and how to make them."""

TRAIN_CPU_S = 300.0
"""CPU seconds after which a peer that trains one target a prefix is stopped; the others' epochs take less."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: a library's model on one data set, always under leave-one-out and with seed 0.

    Attributes:
        library: whose script runs it, `peers/with_<library>.py`.
        model: what that script calls the model.
        settings: what is set; the rest is the library's default.
        note: what a reader of its numbers must know.
    """

    table: str
    name: str
    data: str
    library: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def sasrec(library: str, max_len: int, epochs: int, dropout: float) -> dict[str, Any]:
    """SASRec's settings: equal in all libraries but for batches and learning rate, which are each one's own."""
    own = {
        "penchant": {"batch_targets": 1600, "lr": 2e-3},
        "rectools": {"batch_size": 128, "lr": 1e-3},
        "recbole": {"batch_size": 2048, "lr": 1e-3, "train_cpu_s": TRAIN_CPU_S},
    }
    shared = {"width": 64, "blocks": 2, "heads": 2, "dropout": dropout, "max_len": max_len}
    return {**shared, "epochs": epochs, "seed": 0, **own[library]}


def speed() -> list[Row]:
    """SASRec beside RecTools at two lengths."""
    return [
        Row(
            table="sasrec",
            name=f"{library}-L{max_len}",
            data="ml-1m-all",
            library=library,
            model="sasrec",
            settings=sasrec(library, max_len, epochs, dropout=0.2),
        )
        for max_len, epochs in ((50, 4), (200, 2))
        for library in ("rectools", "penchant")
    ]


def peers(data: str, epochs: int, dropout: float) -> list[Row]:
    """Everything beside everything at histories of 50."""
    knn = {"neighbours": 100}
    plain = {**knn, "shrink": 0.0, "decay": 1.0, "max_len": 10_000, "max_user_events": 10_000}
    models: list[tuple[str, str, str, dict[str, Any], str]] = [
        ("penchant-sasrec", "penchant", "sasrec", sasrec("penchant", 50, epochs, dropout), ""),
        ("rectools-sasrec", "rectools", "sasrec", sasrec("rectools", 50, epochs, dropout), ""),
        ("recbole-sasrec", "recbole", "SASRec", sasrec("recbole", 50, epochs, dropout), ""),
        ("penchant-item-knn", "penchant", "item_knn", knn, "recent actions weigh more, similarity is shrunk, histories are cut at 50"),
        ("penchant-item-knn-plain", "penchant", "item_knn", plain, "the model of implicit's cosine, which also counts an item as its own neighbour"),
        ("implicit-item-knn-cosine", "implicit", "cosine", knn, ""),
        ("implicit-item-knn-bm25", "implicit", "bm25", knn, ""),
        ("implicit-als", "implicit", "als", {"width": 64, "epochs": 15, "seed": 0}, ""),
        ("penchant-popularity", "penchant", "popularity", {}, ""),
        ("rectools-popularity", "rectools", "popular", {}, ""),
    ]
    return [
        Row(table="peers", name=name, data=data, library=library, model=model, settings=settings, note=note)
        for name, library, model, settings, note in models
    ]


def every_row() -> list[Row]:
    return [*peers("ml-1m-all", epochs=6, dropout=0.2), *peers("beauty", epochs=10, dropout=0.5), *speed()]
