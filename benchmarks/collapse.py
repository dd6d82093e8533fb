"""What finished runs' vectors, lists and attention look like side by side: `penchant report diagnostics` as rows.

A row a run; the frozen text vectors; and what reads, as it began and with random weights, given the same input as the
first run that has it: the frozen model, action alone and KARMA of the paper's Figure 2, whose maps go to
results/attention.json and are drawn by tools/attention.py. Table 1's runs have a decoder
alone and read their items from frozen vectors; those of karma-table1-encoder have an item encoder too, which Figure 2
is of. As it began: the backbone continued on the catalogue's texts. A row that has a result is not trained again for
its folder: name an empty folder of results.

    penchant reproduce karma-table1 --rows action task-1-2 --seeds 1 --results again
    python -m benchmarks.collapse runs/karma/table1/action... runs/karma/table1/task-1-2... --store stores/ml-1m-liked
    penchant reproduce karma-table1-encoder --results again
    python -m benchmarks.collapse runs/karma/table1-encoder/* --store stores/ml-1m-liked --prefix encoder-
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np
from benchmarks.command import argument_parser, parsed
from benchmarks.written import write
from PIL import Image
from rich.console import Console

from penchant.data.store import write_json
from penchant.evaluation.diagnostics.report import WEIGHTS, Diagnosis
from penchant.recipes.diagnose import DiagnoseConfig, diagnose
from penchant.recipes.runs import load_run

TABLE = "collapse"
OF_VECTORS = {
    "Effective rank, items": "rank",
    "Effective rank, items, centred": "rank_centred",
    "Stable rank, items": "stable",
    "Top-1 share, items": "top",
    "Mean cosine, items": "cosine",
    "Uniformity, items": "uniformity",
    "Effective rank, users": "user_rank",
    "Mean cosine, users": "user_cosine",
    "Alignment of user and target": "alignment",
    "Skew of occurrence": "skew",
    "Coverage@50": "coverage",
    "Category purity": "purity",
    "Text read off items, R2": "ridge",
    "Topics read off items, R2": "topics",
    "JS@50": "js",
    "JS@50 without the target": "js_others",
    "Next title told, nats": "told_gain",
    "HR@50": "hr",
    "HR@50, rare": "hr_rare",
}
"""Columns, by the names of a `Diagnosis`'s numbers."""
OF_ATTENTION = {
    "Attention entropy": "entropy",
    "Largest column beside position 0": "column",
    "Barcode beside position 0": "barcode_beyond",
}
"""Columns of each reader, by the names of a reading's; means over layers and heads."""
READERS = ("decoder", "item encoder")
UNTRAINED = {"untouched": "as-it-began", "random": "random"}
MAPS = "attention.json"


def main() -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of one Store, split and seed")
    parser.add_argument("--prefix", default="", help="what the rows' names begin with")
    parser.add_argument("--store", type=Path, help="where their Store lies, if not where it was")
    arguments = parsed(parser)
    report = diagnose(arguments.runs, DiagnoseConfig(), Console(), store=arguments.store)
    configs = [load_run(folder, arguments.store, device="cpu").described["config"] for folder in arguments.runs]
    store = load_run(arguments.runs[0], arguments.store, device="cpu").store
    rows = rows_of(report.columns, arguments.prefix)
    # The runs come first, in their order.
    of_runs = dict(zip(rows, configs, strict=False))
    notes = {row: column.notes for row, column in zip(rows, report.columns, strict=False)}
    seed = next((config["train"]["seed"] for config in configs if "train" in config), 0)  # what is counted has none
    for row, metrics in rows.items():
        config = of_runs.get(row, {})
        where = (arguments.results, TABLE, row, store, report.split)
        write(*where, metrics, config, window=report.window, seed=seed, notes=notes.get(row, ()))
        print(row, metrics, flush=True)
    if maps := maps_of(report.columns):
        write_json(arguments.results / f"{arguments.prefix}{MAPS}", maps)


def rows_of(columns: Sequence[Diagnosis], prefix: str = "") -> dict[str, dict[str, float | None]]:
    """Every column's numbers, with what its trained parts attend to; then what such parts do with other weights.

    Returns: in the columns' order, by names that a result file can have.
    """
    rows: dict[str, dict[str, float | None]] = {}
    for column in columns:
        numbers = {label: column.numbers[key] for label, key in OF_VECTORS.items() if key in column.numbers}
        parts = [_attention(column, reader, "trained") for reader in READERS]
        rows[_row_name(prefix + column.name, rows)] = dict(chain(numbers.items(), *(part.items() for part in parts)))
    for reader in READERS:
        first = next((column for column in columns if _attention(column, reader, "trained")), None)
        if first is not None:
            for weights, said in UNTRAINED.items():
                rows[_row_name(f"{prefix}{reader}-{said}", rows)] = _attention(first, reader, weights)
    return rows


def maps_of(columns: Sequence[Diagnosis]) -> dict[str, list[dict[str, str]]]:
    """{"decoder, layer 1, head 1": [{"title": "random", "map": a grey PNG as base64}, ..]}: one example, all weights.

    A map's value is 255 times the square root of the weight. What is read is not told, as it may be somebody's history.
    """
    out: dict[str, list[dict[str, str]]] = {}
    for reader in READERS:
        told = [(column.name, r) for column in columns for r in column.readings if r.reader == reader]
        shared = [next(((WEIGHTS[w], r) for _, r in told if r.weights == w), None) for w in reversed(UNTRAINED)]
        trained = [(name, r) for name, r in told if r.weights == "trained"]
        for title, reading in [*filter(None, shared), *trained]:
            for (layer, head), weights in reading.pictures.items():
                drawn = {"title": title, "map": _png(weights)}
                out.setdefault(f"{reader}, layer {layer}, head {head}", []).append(drawn)
    return out


def _png(weights: np.ndarray) -> str:
    buffer = io.BytesIO()
    pixels = np.rint(255 * np.sqrt(np.clip(weights, 0, 1))).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _row_name(name: str, taken: Mapping[str, object]) -> str:
    """A run's folder may be named as it likes: what no row can be named is a dash, what is taken gets a number."""
    plain = re.sub(r"[^A-Za-z0-9_+-]+", "-", name).strip("-")
    return next(row for row in chain([plain], (f"{plain}-{n}" for n in count(2))) if row not in taken)


def _attention(column: Diagnosis, reader: str, weights: str) -> dict[str, float | None]:
    found = [r for r in column.readings if (r.reader, r.weights) == (reader, weights)]
    return {f"{label}, {reader}": r.mean(key) for r in found for label, key in OF_ATTENTION.items()}


if __name__ == "__main__":
    main()
