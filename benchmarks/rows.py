"""What the bench runs: every row of its tables, with all that is set. Rows of a pair run one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TRAIN_CPU_S = 120.0
"""CPU seconds after which a peer's training in the table `peers` is stopped: about what Penchant's epochs take."""


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


def sasrec(library: str, max_len: int, epochs: int, dropout: float, train_cpu_s: float = 3600.0) -> dict[str, Any]:
    """SASRec's settings: equal in all libraries but for batches and learning rate, which are each one's own."""
    own = {
        "penchant": {"batch_targets": 1600, "lr": 2e-3},
        "rectools": {"batch_size": 128, "lr": 1e-3},
        "recbole": {"batch_size": 2048, "lr": 1e-3},
    }
    shared = {"width": 64, "blocks": 2, "heads": 2, "dropout": dropout, "max_len": max_len, "train_cpu_s": train_cpu_s}
    return {**shared, "epochs": epochs, "seed": 0, **own[library]}


def speed() -> list[Row]:
    """How fast SASRec is beside RecTools at two lengths: two epochs, since every further one costs the same."""
    return [
        Row(
            table="sasrec",
            name=f"{library}-L{max_len}",
            data="ml-1m-all",
            library=library,
            model="sasrec",
            settings=sasrec(library, max_len, epochs=2, dropout=0.2),
        )
        for max_len in (50, 200)
        for library in ("rectools", "penchant")
    ]


NOTES = {
    "penchant-item-knn": "recent actions weigh more, similarity is shrunk, histories are cut at 50",
    "penchant-item-knn-plain": "the model of implicit's cosine, which also counts an item as its own neighbour",
}


def peers(data: str, epochs: int, dropout: float) -> list[Row]:
    """Everything beside everything at histories of 50."""
    knn = {"neighbours": 100}
    plain = {**knn, "shrink": 0.0, "decay": 1.0, "max_len": 10_000, "max_user_events": 10_000}
    models = [
        *(
            (library, "sasrec", "sasrec", sasrec(library, 50, epochs, dropout, TRAIN_CPU_S))
            for library in ("penchant", "rectools", "recbole")
        ),
        ("penchant", "item-knn", "item_knn", knn),
        ("penchant", "item-knn-plain", "item_knn", plain),
        ("implicit", "item-knn-cosine", "cosine", knn),
        ("implicit", "item-knn-bm25", "bm25", knn),
        ("implicit", "als", "als", {"width": 64, "epochs": 15, "seed": 0}),
        ("penchant", "popularity", "popularity", {}),
        ("rectools", "popularity", "popular", {}),
    ]
    rows = []
    for library, kind, model, settings in models:
        name = f"{library}-{kind}"
        note = NOTES.get(name, "")
        rows.append(
            Row(table="peers", name=name, data=data, library=library, model=model, settings=settings, note=note)
        )
    return rows


def every_row() -> list[Row]:
    return [*peers("ml-1m-all", epochs=3, dropout=0.2), *peers("beauty", epochs=4, dropout=0.5), *speed()]
