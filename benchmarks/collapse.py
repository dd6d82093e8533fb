"""What finished runs' vectors, lists and attention look like side by side: `penchant report diagnostics` as rows.

A row a run; the frozen text vectors; and the first run's decoder and item encoder as they began, and with random
weights, given the same input: the frozen model, action alone and KARMA of the paper's Figure 2.

    penchant reproduce karma-table1
    python -m benchmarks.collapse runs/karma/table1/action... runs/karma/table1/task-1-2... --store stores/ml-1m-liked
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.command import argument_parser, parsed
from benchmarks.written import write
from rich.console import Console

from penchant.evaluation.diagnostics.report import Diagnosis
from penchant.recipes.diagnose import DiagnoseConfig, diagnose
from penchant.recipes.runs import load_run

TABLE = "collapse"
OF_VECTORS = {
    "Effective rank, items": "rank",
    "Mean cosine, items": "cosine",
    "Effective rank, users": "user_rank",
    "Mean cosine, users": "user_cosine",
    "Skew of occurrence": "skew",
    "Coverage@50": "coverage",
    "Category purity": "purity",
    "Text read off items, R2": "ridge",
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


def main() -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of one Store, split and seed")
    parser.add_argument("--prefix", default="", help="what the rows' names begin with")
    parser.add_argument("--store", type=Path, help="where their Store lies, if not where it was")
    arguments = parsed(parser)
    report = diagnose(arguments.runs, DiagnoseConfig(), Console(), store=arguments.store)
    configs = [load_run(folder, arguments.store, device="cpu").described["config"] for folder in arguments.runs]
    store = load_run(arguments.runs[0], arguments.store, device="cpu").store
    of_runs = dict(zip((c.name for c in report.columns), configs, strict=False))
    for name, metrics in rows_of(report.columns).items():
        row, config, seed = arguments.prefix + name, of_runs.get(name, {}), configs[0]["train"]["seed"]
        write(arguments.results, TABLE, row, store, report.split, metrics, config, window=report.window, seed=seed)
        print(row, metrics, flush=True)


def rows_of(columns: tuple[Diagnosis, ...]) -> dict[str, dict[str, float | None]]:
    """Every column's numbers, with what its trained parts attend to; then the first such parts with other weights."""
    rows: dict[str, dict[str, float | None]] = {}
    for column in columns:
        numbers = {label: column.numbers[key] for label, key in OF_VECTORS.items() if key in column.numbers}
        rows[column.name.replace(" ", "-")] = {**numbers, **_attention(column, "trained")}
    first = next((column for column in columns if column.readings), None)
    if first is not None:
        rows["as-it-began"] = _attention(first, "untouched")
        rows["random"] = _attention(first, "random")
    return rows


def _attention(column: Diagnosis, weights: str) -> dict[str, float | None]:
    found = [r for reader in READERS for r in column.readings if (r.reader, r.weights) == (reader, weights)]
    return {f"{label}, {r.reader}": r.mean(key) for r in found for label, key in OF_ATTENTION.items()}


if __name__ == "__main__":
    main()
