"""The user's own logs: events, and where there are any items, impressions and users, from files or from tables."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penchant.data.sources.columns import check_mapping, decode_bytes, find_columns, id_sql
from penchant.data.sources.formats import Opened, choices, open_arrow, open_file
from penchant.data.sources.images import load_images
from penchant.data.sources.raw import MEMORY, Raw, Workspace, category_queries, name, text
from penchant.data.sources.served import add_served
from penchant.errors import DataError


@dataclass(frozen=True)
class Table:
    """Your own logs, as CSV, TSV, Parquet, Arrow or JSON lines, plain or .gz, .zst, .xz, .zip.

    Example: penchant prepare table --events clicks.csv.gz --items products.parquet --columns user_id=customer
    timestamp=when --out stores/shop
    """

    events: Path
    """What users did: user_id, item_id; timestamp, action, query, request_id where known."""
    items: Path | None = None
    """The catalogue: item_id; title, text, category, category_path, image (a path or bytes); other columns are kept."""
    impressions: Path | None = None
    """What users were shown: request_id, item_id, label (1 clicked, 0 not); position, user_id, timestamp, query,
    propensity (the chance that the place was looked at)."""
    users: Path | None = None
    """Profiles: user_id and any other columns."""
    served: Path | None = None
    """What `penchant serve` has logged since: BUNDLE.events.sqlite. It is put behind `events`; what both have, the same
    user, item and millisecond, counts once."""
    columns: tuple[str, ...] = ()
    """What your columns are called where the name cannot be guessed: user_id=customer item_id=sku timestamp=when."""
    header: bool = True
    """Whether the first line of a CSV names its columns; with --no-header they are called 1, 2, 3, ..."""
    category_queries: bool = False
    """Give events pseudo-queries: the words of their item's category path."""
    name: str = ""
    """The data's name in results; the events file's if not given."""


def read(options: Table, memory: str = MEMORY) -> Raw:
    """The user's files.

    Raises:
        DataError: a file is missing, cannot be read, is of no known format, or lacks a column it needs.
    """
    mapping: dict[str, str] = {}
    for pair in options.columns:
        key, _, column = pair.partition("=")
        if not column:
            raise DataError(f"{pair!r} maps nothing", where="--columns", fix="Write user_id=customer item_id=sku.")
        mapping[key] = column
    work = Workspace(memory)
    given = {
        "events": options.events,
        "items": options.items,
        "impressions": options.impressions,
        "users": options.users,
    }
    opened = {
        k: open_file(work, path.expanduser(), f"file_{k}", options.header)
        for k, path in given.items()
        if path is not None
    }
    folder = options.items.expanduser().parent if options.items else Path()
    raw = _assemble(work, opened, mapping, options.name or options.events.name.split(".")[0], folder)
    if options.served:
        add_served(raw, options.served.expanduser())
    if options.category_queries:
        category_queries(raw)
    return raw


def from_tables(
    events: Any,
    items: Any = None,
    impressions: Any = None,
    users: Any = None,
    *,
    columns: Mapping[str, str] | None = None,
    name: str = "tables",
    image_folder: str | Path = ".",
    served: str | Path | None = None,
) -> Raw:
    """The same from tables in memory: pandas, polars or Arrow, or whatever speaks Arrow's C stream.

    Args:
        columns: field -> column, where the name cannot be guessed: {"user_id": "customer"}.
        image_folder: what image paths are relative to.
        served: the event log of a server, put behind `events`.

    Raises:
        DataError: a table lacks a column it needs, or is no table; `served` is no event log.
    """
    given = {"events": events, "items": items, "impressions": impressions, "users": users}
    work, notes = Workspace(), []
    opened = {
        k: open_arrow(work, _to_arrow(table, k, notes), f"file_{k}", k)
        for k, table in given.items()
        if table is not None
    }
    raw = _assemble(work, opened, dict(columns or {}), name, Path(image_folder))
    raw.notes += notes
    if served:
        add_served(raw, Path(served))
    return raw


def _to_arrow(table: Any, kind: str, notes: list[str]) -> pa.Table:
    if isinstance(table, pa.Table):
        return table
    if hasattr(table, "to_arrow"):  # polars, whose Object columns would arrive as addresses in memory
        for column, dtype in table.schema.items():
            if str(dtype) == "Object":
                raise DataError(f"column {column!r} holds Python objects", where=kind, fix="Make it text or numbers.")
        return table.to_arrow()
    if hasattr(table, "iloc"):  # pandas: its own stream would add the index as a column
        try:
            try:
                return pa.Table.from_pandas(table, preserve_index=False)
            except UnicodeEncodeError:
                return pa.Table.from_pandas(_without_halves(table, kind, notes), preserve_index=False)
        except (pa.ArrowException, ValueError) as error:
            what = f"is no table of columns of one type each ({'; '.join(map(str, error.args))})"
            fix = 'Name each column once and give it one type: table["x"].astype(str).'
            raise DataError(what, where=kind, fix=fix) from error
    if hasattr(table, "__arrow_c_stream__"):
        return pa.table(table)
    raise DataError(f"is a {type(table).__name__}", where=kind, fix="Give a pandas, polars or Arrow table.")


def _without_halves(table: Any, kind: str, notes: list[str]) -> Any:
    """A pandas table whose half letters, which Python can hold and no file can, are escaped: \\ud800."""
    count = 0

    def escape(value: Any) -> Any:
        nonlocal count
        if not isinstance(value, str):
            return value
        whole = value.encode(errors="backslashreplace").decode()
        count += whole != value
        return whole

    table = table.copy(deep=False)
    for column in table.columns:
        if str(table[column].dtype) in ("object", "string", "str"):
            table[column] = table[column].map(escape)
    notes.append(f"{kind}: {count:,} values have half a letter, which no file can hold; they were escaped: \\ud800.")
    return table


def _assemble(
    work: Workspace, opened: Mapping[str, Opened], mapping: Mapping[str, str], title: str, folder: Path
) -> Raw:
    raw = Raw(name=title, source="table", work=work, locate={k: o.locate for k, o in opened.items()})
    found = {kind: find_columns(kind, table, mapping, raw.notes) for kind, table in opened.items()}
    check_mapping(mapping, opened, found)
    opened = {kind: decode_bytes(work, table, found[kind], raw.notes) for kind, table in opened.items()}
    for table in opened.values():
        raw.refused += table.refused
        raw.notes += table.notes
    raw.has_time = "timestamp" in found["events"]
    if not raw.has_time:
        raw.notes.append(
            f"{opened['events'].label} has no time column (it has: {choices([*opened['events'].columns])}): "
            "the order of its rows is the order of events."
        )
    for kind, keys, what in UNTOLD:
        raw.notes += _missed(opened[kind], found[kind], keys, what) if kind in opened else ()
    _log_view(work, opened["events"], found["events"], "raw_events")
    if "impressions" in opened:
        _log_view(work, opened["impressions"], found["impressions"], "raw_shown")
        raw.impressions = "raw_shown"
        if "position" in found["impressions"]:
            _from_one(raw)
    if "items" in opened:
        raw.items = _items(raw, opened["items"], found["items"], folder)
    if "users" in opened:
        raw.users = _kept(raw, opened["users"], found["users"])
    return raw


UNTOLD = (
    ("events", ("action",), "every event is a click"),
    ("items", ("title",), "ids are shown instead"),
    ("items", ("category", "category_path"), "no ULIM, and no features of categories"),
)
"""Of which table, which columns (one of them will do) are missed, and what is there without them."""


def _missed(table: Opened, found: Mapping[str, str], keys: Sequence[str], what: str) -> list[str]:
    """A note where none of the columns was recognised, and one that was not may be meant for it."""
    if any(key in found for key in keys) or len(found) == len(table.columns):
        return []
    return [
        f"{table.label} has no {keys[0]} column (it has: {choices([*table.columns])}): {what}. "
        f"If one of them is meant, map it: --columns {keys[0]}=COLUMN."
    ]


def _log_view(work: Workspace, table: Opened, found: Mapping[str, str], view: str) -> None:
    """A view of the log under the names `prepare` knows."""
    parts = ["row"]
    for key, column in found.items():
        value = table.columns[column]
        if key in ("user_id", "item_id", "request_id"):
            parts.append(f"{id_sql(work, table, column)} AS {key}")
        elif key == "timestamp":
            parts.append(f"{value} AS time")
        elif key in ("action", "query"):
            parts.append(f"nullif(trim(CAST({value} AS VARCHAR)), '') AS {key}")
        else:
            parts.append(f"{value} AS {key}")
    work.db.execute(f"CREATE VIEW {view} AS SELECT {', '.join(parts)} FROM {table.table}")


def _from_one(raw: Raw) -> None:
    """Positions that start at 0 are moved to start at 1, as 0 means unknown."""
    number = "CAST(TRY_CAST(position AS SMALLINT) AS INTEGER)"
    if raw.work.rows(f"SELECT min({number}) FROM raw_shown") == [(0,)]:
        moved = f"coalesce(CAST({number} + 1 AS VARCHAR), CAST(position AS VARCHAR)) AS position"
        raw.work.db.execute(f"CREATE VIEW raw_shown_from_one AS SELECT * REPLACE ({moved}) FROM raw_shown")
        raw.impressions = "raw_shown_from_one"
        raw.notes.append("Positions start at 0; 1 was added to each.")


def _kept(raw: Raw, table: Opened, found: Mapping[str, str]) -> pa.Table:
    """A table's known columns under their names, then its other columns as they came, or as the numbers they hold."""
    work, parts = raw.work, []
    for key, column in found.items():
        parts.append(f"{id_sql(work, table, column) if key.endswith('_id') else table.columns[column]} AS {key}")
    others = [c for c in table.columns if c not in found.values()]
    numbers = _numbers(work, table, others)
    if numbers:
        raw.notes.append(f"{table.label}: took {choices([*numbers])} as numbers.")
    almost = _almost_numbers(work, table, [c for c in others if c not in numbers])
    if almost:
        raw.notes.append(
            f"{table.label}: kept as text: {'; '.join(almost[:20])}. "
            "Numbers are written as 12.50, and left empty where there are none."
        )
    taken = {*_RESERVED, *others} - {""}
    for column in others:
        own = column
        if not column or column.lower() in _RESERVED:  # not to pass for one of the Store's
            own = f"own_{column}"
            while own in taken:
                own = f"own_{own}"
        taken.add(own)
        parts.append(f"{numbers.get(column, table.columns[column])} AS {name(own)}")
    kept = work.arrow(f"SELECT {', '.join(parts)} FROM {table.table} ORDER BY {table.table}.row")
    for field in kept.schema:
        try:
            pq.write_table(pa.schema([field]).empty_table(), io.BytesIO())
        except pa.ArrowException as error:
            what = f"column {field.name!r} of type {field.type} cannot be kept"
            raise DataError(what, where=table.label, fix="Make it text or numbers, or leave it out.") from error
    return kept


WHOLE = r"-?(0|[1-9]\d{0,17})"
DECIMAL = rf"({WHOLE}|-)?(\.\d+)?([eE][-+]?\d+)?"
"""What is taken for a number: not 007 or +49, nor more digits than an integer holds, which are codes."""


def _numbers(work: Workspace, table: Opened, columns: Sequence[str]) -> dict[str, str]:
    """SQL of the columns whose text is numbers throughout, but for what programs write where there is none."""
    texts = {column: id_sql(work, table, column) for column in columns} if table.textual else {}
    if not texts:
        return {}
    kind = (
        f"max(CASE WHEN regexp_full_match(COLUMNS(*), {text(WHOLE)}) THEN 1 "
        f"WHEN regexp_full_match(COLUMNS(*), {text(DECIMAL)}) AND isfinite(TRY_CAST(COLUMNS(*) AS DOUBLE)) THEN 2 "
        "WHEN COLUMNS(*) IS NOT NULL THEN 3 END)"
    )
    values = ", ".join(f"{value} AS c{i}" for i, value in enumerate(texts.values()))
    types = {1: "BIGINT", 2: "DOUBLE"}
    kinds = work.rows(f"SELECT {kind} FROM (SELECT {values} FROM {table.table})")[0]
    found = zip(texts.items(), kinds, strict=True)
    return {column: f"CAST({value} AS {types[kind]})" for (column, value), kind in found if kind in types}


def _almost_numbers(work: Workspace, table: Opened, columns: Sequence[str]) -> list[str]:
    """Of columns kept as text those whose values mostly begin as numbers do, each with the first that is none."""
    found = []
    for column in columns if table.textual else ():
        number = f"(regexp_full_match(v, {text(DECIMAL)}) AND isfinite(TRY_CAST(v AS DOUBLE)))"
        values = f"SELECT row, {id_sql(work, table, column)} AS v FROM {table.table}"
        count, digits, first = work.rows(
            "SELECT count(v), count(*) FILTER (regexp_matches(v, '^[-+]?[0-9]')), "
            f"arg_min(v, row) FILTER (NOT {number}) FROM ({values})"
        )[0]
        if 2 * digits > count:
            found.append(f"{column[:40]} (the first that is no number: {first[:40]!r})")
    return found


_RESERVED = ("item", "user", "item_id", "user_id", "title", "text", "category", "category_path", "image")


def _items(raw: Raw, table: Opened, found: Mapping[str, str], folder: Path) -> pa.Table:
    items = _kept(raw, table, found)
    for key in ("title", "text", "category", "category_path"):
        if key in found:
            texts = [_as_text(v, key.startswith("category")) for v in items[key].to_pylist()]
            items = items.set_column(items.column_names.index(key), key, pa.array(texts, pa.string()))
    if "image" in found:
        place = items.column_names.index("image")
        images, refused = load_images(items["image"].to_pylist(), folder, table.locate)
        raw.refused += refused
        items = items.set_column(place, "image", images)
    return items


def _as_text(value: object, of_levels: bool) -> str | None:
    """Text as it came; lists, of levels also those of JSON, become "Home > Garden"."""
    if of_levels and isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        # JSON can spell half a letter, which no file can hold.
        return " > ".join(str(v) for v in value if v is not None).encode(errors="replace").decode() or None
    return None if value is None else str(value).strip() or None
