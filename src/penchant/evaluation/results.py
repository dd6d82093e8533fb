"""Result files: one trained and judged row of one table, with everything needed to trust it and to compare it later.

    results/<paper>/<table>/<row>.<data>.<split>.s<seed>.json
    results/<paper>/<table>/<row>.<data>.<split>.s<seed>.parquet   per-user values, under 200 KB
    results/<paper>/<table>/table.json                             optional: how the table is shown (report.py)

The Parquet file is written first and the JSON last, each by renaming, so a JSON file means a finished row.
"""

from __future__ import annotations

import io
import json
import math
import platform
import re
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penchant.data.output import whole
from penchant.data.store import write_json
from penchant.errors import ConfigError, RunError

FORMAT = 1
PER_USER_BYTES = 200_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of one table, one seed.

    Attributes:
        row: the row's name; our own controls and variants are named apart from a paper's rows.
        data: the Store's name. `data_fingerprint`, `split_fingerprint`: of the Store and the split.
        window: what was judged: "test", or "valid" while choosing.
        config: everything that was set, as plain values.
        versions: of python and the packages, see `versions_here`.
        cpu_seconds, wall_seconds: training and evaluation together.
        steps: optimizer steps; 0 for a model that only counts.
        trials: how many variants were tried on validation before this one was tested.
        metrics: numbers by name, None where undefined.
        slices: group -> slice -> numbers.
        synthetic: generated data; every page says so.
        notes: what a reader of the numbers must know.
        per_user_dropped: metrics left out of the per-user file to keep it small.
    """

    paper: str
    table: str
    row: str
    data: str
    split: str
    seed: int
    window: str
    config: dict[str, Any]
    data_fingerprint: str
    split_fingerprint: str
    versions: dict[str, str]
    device: str
    cpu_seconds: float
    wall_seconds: float
    steps: int
    trials: int
    metrics: dict[str, float | None]
    synthetic: bool
    slices: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    per_user_dropped: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return f"{self.row}.{self.data}.{self.split}.s{self.seed}"

    def path(self, results: str | Path) -> Path:
        """Where this result is written below the folder of results."""
        return result_path(results, self.paper, self.table, self.row, self.data, self.split, self.seed)


def result_path(results: str | Path, paper: str, table: str, row: str, data: str, split: str, seed: int) -> Path:
    """The JSON file of a row; it exists exactly if the row is finished.

    Raises:
        ConfigError: a name that cannot be part of a file name (letters, digits, _ + - only, so that dots divide).
    """
    for what, name in {"paper": paper, "table": table, "row": row, "data": data, "split": split}.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{what} {name!r} is no name", fix="Use letters, digits, _, + and -, without dots.")
    return Path(results) / paper / table / f"{row}.{data}.{split}.s{seed}.json"


def versions_here() -> dict[str, str]:
    """What this process runs on."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy", "penchant")}


def write_result(results: str | Path, result: Result, per_user: pa.Table | None = None) -> Path:
    """Write a result and its per-user values; a reader sees both or neither.

    Args:
        per_user: columns `user`, `weight` and one a metric (`RetrievalResult.per_user`), most important first: where
            the file would pass 200 KB the last columns are dropped, and named in the JSON.

    Raises:
        ConfigError: a name that cannot be part of a file name.
    """
    path = result.path(results)
    json.dumps(result.config)  # a value JSON cannot say fails here, before any file is made
    path.parent.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = asdict(result)
    values["metrics"] = {k: v if v is not None and math.isfinite(v) else None for k, v in result.metrics.items()}
    values["format"] = FORMAT
    if per_user is not None:
        data, dropped = _small_parquet(per_user)
        with whole(path.with_name(f"{result.stem}.parquet")) as temporary:
            temporary.write_bytes(data)
        values["per_user_dropped"] = [*dropped, *result.per_user_dropped]  # taken from elsewhere it lacks some already
    write_json(path, values)
    return path


def read_result(path: str | Path) -> Result:
    """Read and check one result file.

    Raises:
        RunError: names the file and the field that is missing, unknown or of the wrong type.
    """
    path = Path(path)
    fix = "Remove the file and reproduce the row."
    try:
        values = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"not a result file ({error})", where=path, fix=fix) from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise RunError(f"field 'format' is not {FORMAT}", where=path, fix=fix)
    known = {f.name: f for f in fields(Result)}
    for name in values.keys() - known.keys():
        raise RunError(f"unknown field {name!r}", where=path, fix=fix)
    for name in known.keys() - values.keys():
        raise RunError(f"field {name!r} is missing", where=path, fix=fix)
    for name, value in values.items():
        if not _fits(str(known[name].type), value):
            raise RunError(f"field {name!r} is {value!r}, not {known[name].type}", where=path, fix=fix)
    for name in ("notes", "per_user_dropped"):
        values[name] = tuple(values[name])
    result = Result(**values)
    if (
        path.name != f"{result.stem}.json"
        or path.parent.name != result.table
        or path.parent.parent.name != result.paper
    ):
        raise RunError(f"its fields say {result.paper}/{result.table}/{result.stem}", where=path, fix=fix)
    return result


def read_per_user(results: str | Path, result: Result) -> pa.Table | None:
    """The per-user values beside a result; None where there are none.

    Raises:
        RunError: the file is damaged or lacks `user` or `weight`.
    """
    path = result.path(results).with_suffix(".parquet")
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"damaged ({error})", where=path, fix="Remove it and reproduce the row.") from error
    for name in ("user", "weight"):
        if name not in table.column_names:
            raise RunError(f"column {name!r} is missing", where=path, fix="Remove it and reproduce the row.")
    return table


def find_results(results: str | Path, paper: str = "*", table: str = "*") -> list[Result]:
    """Every result below a folder, sorted by path; see `read_result` for what it raises."""
    paths = sorted(Path(results).glob(f"{paper}/{table}/*.json"))
    return [read_result(path) for path in paths if path.name != "table.json"]


def _small_parquet(table: pa.Table) -> tuple[bytes, list[str]]:
    """The table as Parquet of at most PER_USER_BYTES, and the metrics that had to go."""
    dropped: list[str] = []
    # A hit is 0 or 1 and wants a dictionary; a mean of many is new for every user and wants its bytes sorted by place.
    distinct = {name: len(table[name].unique()) for name in table.column_names}
    while True:
        few: Any = [name for name in table.column_names if 4 * distinct[name] <= table.num_rows]
        buffer = io.BytesIO()
        pq.write_table(
            table,
            buffer,
            compression="zstd",
            compression_level=19,
            write_statistics=False,
            use_dictionary=few,
            column_encoding={
                name: "DELTA_BINARY_PACKED" if pa.types.is_integer(table[name].type) else "BYTE_STREAM_SPLIT"
                for name in table.column_names
                if name not in few
            },
        )
        if buffer.tell() <= PER_USER_BYTES or table.num_columns <= 3:
            return buffer.getvalue(), dropped
        dropped.insert(0, table.column_names[-1])
        table = table.drop_columns([table.column_names[-1]])


def _fits(kind: str, value: object) -> bool:
    """Whether a value from JSON is of a field's annotated type."""
    if kind == "dict[str, float | None]":
        return isinstance(value, dict) and all(v is None or _fits("float", v) for v in value.values())
    if kind == "dict[str, str]":
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    if kind == "tuple[str, ...]":
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    if isinstance(value, bool):
        return kind == "bool"
    return isinstance(value, {"str": str, "int": int, "float": (int, float), "dict[str, Any]": dict}.get(kind, ()))
