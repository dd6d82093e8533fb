"""Writing a Store: events and impressions stream through, so their number costs disk and time but no memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penchant.data import schema
from penchant.data.output import whole
from penchant.data.split import define_splits
from penchant.data.store import MANIFEST, Store, fingerprint, sha256, write_json
from penchant.errors import StoreError

Rows = pa.Table | Callable[[], pa.RecordBatchReader]
"""A long table: whole, or what opens it to be read batch by batch."""

BATCH = 1 << 20
"""Rows of a long table that are held at once, and in a row group of its Parquet file."""

ARRAYS = {
    "user_indptr": np.int64,
    "event_item": np.int32,
    "event_ts_ms": np.int64,
    "event_query": np.int32,
    "item_category": np.int32,
    "request_indptr": np.int64,
    "request_user": np.int32,
    "request_ts_ms": np.int64,
    "request_query": np.int32,
    "impression_item": np.int32,
    "impression_label": np.int8,
}
"""The Store's arrays; its docstring says what they hold."""

ENCODINGS = dict.fromkeys(("user", "item", "ts_ms", "row"), "DELTA_BINARY_PACKED")
"""Of dense or sorted numbers: half the time, and no more bytes, than dictionaries take."""


def write_store(
    out: str | Path,
    *,
    name: str,
    items: pa.Table,
    users: pa.Table,
    events: Rows,
    impressions: Rows | None = None,
    queries: pa.Table | None = None,
    has_time: bool = True,
    meta: Mapping[str, Any] | None = None,
) -> Store:
    """Write dense, sorted tables (`schema.TABLES`) as a Store with its splits: to a temporary folder beside `out`, then
    renamed.

    Args:
        meta: kept in the manifest as it is: source, view, refused rows, notes.

    Raises:
        StoreError: `out` exists.
        ValueError: a table is not dense or not sorted as its schema says (the preparing code is wrong, not the user).
    """
    out = Path(out)
    if out.exists():
        raise StoreError("already exists", where=out, fix="Choose another --out, or remove it first.")
    items, users = _conform(items, "items"), _conform(users, "users")
    texts = _conform(queries if queries is not None else schema.QUERIES.empty_table(), "queries")
    for key, table in (("item", items), ("user", users)):
        if not np.array_equal(table[key].to_numpy(), np.arange(1, table.num_rows + 1)):
            raise ValueError(f"{key} must run 1..{table.num_rows}")
    with whole(out) as temporary:
        (temporary / "arrays").mkdir(parents=True)
        for key, table in (("items", items), ("users", users), ("queries", texts)):
            pq.write_table(table, temporary / f"{key}.parquet", compression="zstd")
        arrays = _Arrays(temporary / "arrays")
        arrays.add("item_category", np.concatenate([[0], items["category"].to_numpy()]))
        about_events = _write_events(temporary, arrays, events, users.num_rows, items.num_rows)
        shown = impressions if impressions is not None else schema.IMPRESSIONS.empty_table()
        num_shown, num_requests = _write_impressions(temporary, arrays, shown, items.num_rows)
        content = arrays.close()
        files = {
            str(path.relative_to(temporary)): {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        counts = {
            "items": items.num_rows,
            "users": users.num_rows,
            "queries": texts.num_rows,
            "events": about_events.pop("events"),
            "impressions": num_shown,
            "requests": num_requests,
            "categories": int(max(items["category"].to_numpy(), default=0)),
        }
        # Of the arrays, not of the Parquet bytes: those change with the library's version, the content does not. What
        # is in neither the arrays nor the five texts below is not covered; the Store's docstring lists it.
        content["item_id"] = fingerprint(items["item_id"].to_pylist())
        content["text"] = fingerprint([items["title"].to_pylist(), items["text"].to_pylist()])
        content["user_id"] = fingerprint(users["user_id"].to_pylist())
        if texts.num_rows:
            content["query"] = fingerprint(texts["text"].to_pylist())
        write_json(
            temporary / MANIFEST,
            {
                "format": schema.FORMAT,
                "name": name,
                "fingerprint": fingerprint(content),
                "counts": counts,
                "has_time": has_time,
                "files": files,
                **(about_events if has_time else {**about_events, "time_range_ms": None}),
                **(meta or {}),
            },
        )
        define_splits(Store(temporary))
    return Store(out)


class _Arrays:
    """The Store's arrays, growing on disk, each with the hash of its content."""

    def __init__(self, folder: Path) -> None:
        self._files = {name: (folder / f"{name}.npy").open("wb") for name in ARRAYS}
        self._digests = {name: hashlib.sha256() for name in ARRAYS}
        for name, file in self._files.items():
            file.write(_header(name, 0))

    def add(self, name: str, values: np.ndarray) -> None:
        """Append to the array of that name."""
        content = np.ascontiguousarray(values, dtype=ARRAYS[name]).data
        self._files[name].write(content)
        self._digests[name].update(content)

    def close(self) -> dict[str, str]:
        """Write each array's length into its header; the hash of each."""
        for name, file in self._files.items():
            start = len(_header(name, 0))
            header = _header(name, (file.tell() - start) // np.dtype(ARRAYS[name]).itemsize)
            if len(header) != start:
                raise ValueError("NumPy leaves no room for the length in its header")
            file.seek(0)
            file.write(header)
            file.close()
        return {name: digest.hexdigest() for name, digest in self._digests.items()}


def _header(name: str, rows: int) -> bytes:
    """The start of a .npy file; NumPy pads it so that its length does not depend on the number of rows."""
    header = io.BytesIO()
    kind = np.lib.format.dtype_to_descr(np.dtype(ARRAYS[name]))
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": (rows,)})
    return header.getvalue()


def _write_events(folder: Path, arrays: _Arrays, events: Rows, num_users: int, num_items: int) -> dict[str, Any]:
    """The events' table and arrays. Returns what the manifest says of them."""
    per_user = np.zeros(num_users + 1, dtype=np.int64)
    last = (0, 0, 0)  # user, ts_ms, row of the event before
    first_ms, last_ms = 2**62, -(2**62)
    repeats, moment = 0, [np.zeros(0, dtype=np.int64)] * 3  # user, ts_ms, item of the events of the last moment
    tables = _tables(events, "events")
    with _parquet(folder / "events.parquet", next(tables).schema) as parquet:
        for table in tables:
            user, ts, row = (table[key].to_numpy() for key in ("user", "ts_ms", "row"))
            if _outside(table["user"], num_users) or _outside(table["item"], num_items):
                raise ValueError("an event's user or item is not in its table")
            steps = [np.diff(column, prepend=before) for column, before in zip((user, ts, row), last, strict=True)]
            later = (steps[0] > 0) | ((steps[0] == 0) & ((steps[1] > 0) | ((steps[1] == 0) & (steps[2] > 0))))
            if not later.all():
                raise ValueError("events are not sorted by (user, ts_ms, row)")
            last = int(user[-1]), int(ts[-1]), int(row[-1])
            first_ms, last_ms = min(first_ms, int(ts.min())), max(last_ms, int(ts.max()))
            per_user += np.bincount(user, minlength=num_users + 1)
            both = [np.concatenate(pair) for pair in zip(moment, (user, ts, table["item"].to_numpy()), strict=True)]
            repeats += _repeats(*both) - _repeats(*moment)
            moment = [column[(both[0] == last[0]) & (both[1] == last[1])] for column in both]
            parquet.write_table(table)
            arrays.add("event_item", table["item"].to_numpy())
            arrays.add("event_ts_ms", ts)
            arrays.add("event_query", table["query"].to_numpy())
    arrays.add("user_indptr", np.concatenate([[0], np.cumsum(per_user)]))
    active = per_user[per_user > 0]
    quartiles = np.quantile(active, (0, 0.25, 0.5, 0.75, 1), method="nearest") if len(active) else []
    return {
        "events": int(per_user.sum()),
        "repeated_events": repeats,
        "time_range_ms": [first_ms, last_ms] if len(active) else None,
        "history_length_quartiles": [int(q) for q in quartiles],
    }


def _repeats(user: np.ndarray, ts_ms: np.ndarray, item: np.ndarray) -> int:
    """How many events, sorted by user and time, have user, time and item of an earlier one."""
    same = (np.diff(user) == 0) & (np.diff(ts_ms) == 0)
    tied = np.zeros(len(user), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    columns = user[tied], ts_ms[tied], item[tied]
    order = np.lexsort(columns[::-1])
    return int(np.logical_and.reduce([np.diff(column[order]) == 0 for column in columns]).sum())


def _write_impressions(folder: Path, arrays: _Arrays, shown: Rows, num_items: int) -> tuple[int, int]:
    """The impressions' table and arrays. Returns how many impressions and how many requests."""
    rows = requests = 0
    for key in ("user", "ts_ms", "query"):
        arrays.add(f"request_{key}", np.zeros(1))  # padding
    tables = _tables(shown, "impressions")
    with _parquet(folder / "impressions.parquet", next(tables).schema) as parquet:
        for table in tables:
            request = table["request"].to_numpy()
            starts = np.flatnonzero(np.diff(request, prepend=requests))
            expected = np.arange(requests + 1, requests + len(starts) + 1)
            if not np.array_equal(request[starts], expected) or _outside(table["item"], num_items):
                raise ValueError("impressions are not grouped by request 1..R, or show an unknown item")
            parquet.write_table(table)
            arrays.add("request_indptr", starts + rows)
            for key in ("user", "ts_ms", "query"):
                arrays.add(f"request_{key}", table[key].to_numpy()[starts])
            arrays.add("impression_item", table["item"].to_numpy())
            arrays.add("impression_label", table["label"].to_numpy())
            rows, requests = rows + len(request), requests + len(starts)
    arrays.add("request_indptr", np.array([rows]))
    return rows, requests


def _parquet(path: Path, columns: pa.Schema) -> pq.ParquetWriter:
    encoded = {key: how for key, how in ENCODINGS.items() if key in columns.names}
    plain: Any = [key for key in columns.names if key not in encoded]
    return pq.ParquetWriter(path, columns, compression="zstd", column_encoding=encoded, use_dictionary=plain)


def _tables(rows: Rows, name: str) -> Iterator[pa.Table]:
    """First an empty table, for its schema; then the rows, `BATCH` of them at a time, however they come."""
    given: Any = rows
    reader = given.to_reader() if isinstance(given, pa.Table) else given()
    yield _conform(reader.schema.empty_table(), name)
    waiting = reader.schema.empty_table()
    for batch in reader:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
        while waiting.num_rows >= BATCH:
            yield _conform(waiting.slice(0, BATCH), name)
            waiting = waiting.slice(BATCH)
    if waiting.num_rows:
        yield _conform(waiting, name)


def _conform(table: pa.Table, name: str) -> pa.Table:
    """Columns of the schema first and in its order and types, the source's own after them."""
    wanted = schema.TABLES[name]
    columns = {}
    for field in wanted:
        if field.name in table.column_names:
            columns[field.name] = table[field.name].cast(field.type)
        elif field.nullable:
            columns[field.name] = pa.nulls(table.num_rows, field.type)
        else:
            raise ValueError(f"table {name} lacks column {field.name}")
    extra = {c: table[c] for c in table.column_names if c not in columns}
    return pa.table({**columns, **extra})


def _outside(column: pa.ChunkedArray, size: int) -> bool:
    low, high = pc.call_function("min_max", [column]).as_py().values()
    return low is not None and (low < 1 or high > size)
