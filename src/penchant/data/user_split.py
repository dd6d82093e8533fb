"""A user's own split: a file that says for each event which window it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from penchant.data.sources.columns import decode_bytes, find_columns, id_sql
from penchant.data.sources.formats import Opened, open_file
from penchant.data.sources.raw import Workspace
from penchant.data.sources.times import ms_sql
from penchant.data.split import Split, add_split
from penchant.data.store import Store
from penchant.errors import DataError

WINDOWS = (("train", "valid", "test"), ("train", "rank", "valid", "test"))


def read_split(
    store: Store,
    path: str | Path,
    name: str | None = None,
    target: Literal["successive", "last"] = "successive",
) -> Split:
    """Add a split given as a file with the columns user_id, item_id, timestamp and window to a Store.

    Each row is matched to the Store's event of that user, item and time (to that item's n-th event if it occurs n
    times). Windows are train, valid, test, or train, rank, valid, test, and follow each other in each user's order.
    Events after a user's last listed one may be left out of the file; they are in no window then.

    Args:
        path: CSV, Parquet, or whatever else `prepare table` reads. A Store without times needs no timestamp.
        name: the split's name; the file's if None.
        target: "successive" judges every event of a window, "last" each user's last one in it.

    Raises:
        DataError: a row matches no event, names no window, or comes before an earlier window's; an event has none.
        StoreError: a window ends before it starts (of `add_split`).
    """
    path = Path(path)
    work = Workspace()
    try:
        opened = open_file(work, path, "split_file")
        if opened.refused:
            first = opened.refused[0]
            raise DataError(first.reason, where=first.samples[0], fix=first.fix)
        windows, of_event = _match(store, work, opened)
    finally:
        work.close()
    return add_split(store, name or path.name.split(".")[0], windows, _ends(store, opened, windows, of_event), target)


def _match(store: Store, work: Workspace, opened: Opened) -> tuple[tuple[str, ...], np.ndarray]:
    """The windows' names, and int8 [E]: each event's window, -1 where the file does not list it."""
    found = find_columns("split", opened, {}, [])
    opened = decode_bytes(work, opened, found, [])
    if store.has_time and "timestamp" not in found:
        raise DataError(
            f"no column timestamp; the columns are: {', '.join(opened.columns)}",
            where=opened.label,
            fix="Give each row the time of its event.",
        )
    time = opened.columns[found["timestamp"]] if store.has_time else "NULL"
    work.db.execute(
        f"CREATE VIEW split_rows AS SELECT row, {id_sql(work, opened, found['user_id'])} AS user_id, "
        f"{id_sql(work, opened, found['item_id'])} AS item_id, {time} AS time, "
        f"lower(trim(CAST({opened.columns[found['window']]} AS VARCHAR))) AS window_name FROM {opened.table}"
    )
    names = {r[0] for r in work.rows("SELECT DISTINCT window_name FROM split_rows")}
    windows = WINDOWS["rank" in names]
    _refuse(work, opened, f"window_name IS NULL OR window_name NOT IN {windows}", "window_name", "is not a window",
            f"Windows are {', '.join(windows)}.")  # fmt: skip
    ms = ms_sql(work, "split_rows")[0] if store.has_time else "0"
    _load_events(store, work)
    # The n-th of equal rows of the file is the n-th of equal events of the Store.
    work.db.execute(
        f"CREATE TABLE split_matched AS SELECT r.*, e.event FROM (SELECT *, {ms} AS ms, row_number() OVER "
        f"(PARTITION BY user_id, item_id, {ms} ORDER BY row) AS nth FROM split_rows) r "
        "LEFT JOIN store_events e ON e.user_id = r.user_id AND e.item_id = r.item_id AND e.ms = r.ms AND e.nth = r.nth"
    )
    shown = "concat_ws(', ', user_id, item_id, time)"
    _refuse(work, opened, "event IS NULL", shown, "is no event of the Store", "Make the file from the same log.",
            table="split_matched")  # fmt: skip
    order = " ".join(f"WHEN '{w}' THEN {i}" for i, w in enumerate(windows))
    rows = work.arrow(f"SELECT event, CASE window_name {order} END AS place FROM split_matched")
    of_event = np.full(store.num_events, -1, dtype=np.int8)
    of_event[rows["event"].to_numpy()] = rows["place"].to_numpy()
    return windows, of_event


def _load_events(store: Store, work: Workspace) -> None:
    events = pa.table(
        {
            "event": np.arange(store.num_events),
            "user": store.event_user,
            "item": np.asarray(store.event_item),
            "ms": np.asarray(store.event_ts_ms) if store.has_time else np.zeros(store.num_events, np.int64),
        }
    )
    work.load("raw_store_events", events)
    work.load("store_users", store.table("users", ["user", "user_id"]))
    work.load("store_items", store.table("items", ["item", "item_id"]))
    work.db.execute(
        "CREATE VIEW store_events AS SELECT event, user_id, item_id, ms, "
        "row_number() OVER (PARTITION BY user, item, ms ORDER BY event) AS nth "
        "FROM raw_store_events JOIN store_users USING (user) JOIN store_items USING (item)"
    )


def _refuse(
    work: Workspace, opened: Opened, condition: str, value: str, what: str, fix: str, table: str = "split_rows"
) -> None:
    bad = work.rows(f"SELECT row, {value}, count(*) OVER () FROM {table} WHERE {condition} ORDER BY row LIMIT 1")
    if bad:
        row, shown, count = bad[0]
        more = f" (and {count - 1:,} more rows like it)" if count > 1 else ""
        raise DataError(f"{shown!r} {what}{more}", where=opened.locate([row])[0], fix=fix)


def _ends(store: Store, opened: Opened, windows: tuple[str, ...], of_event: np.ndarray) -> np.ndarray:
    """int64 [U+1, W] as `Split.ends`, if each user's windows follow each other and have no gap."""
    user = store.event_user
    same = np.diff(user) == 0
    before, after = of_event[:-1], of_event[1:]

    def fail(wrong: np.ndarray, what: str, fix: str) -> None:
        if wrong.any():
            event = int(np.flatnonzero(wrong)[0]) + 1
            who = f"user {store.user_ids[user[event]]!r}, item {store.item_ids[store.event_item[event]]!r}"
            raise DataError(f"{who}: {what}", where=opened.label, fix=fix)

    fix = "List every event up to a user's last listed one."
    fail(same & (before < 0) & (after >= 0), "an event before this one has no window", fix)
    fix = "Windows follow each other in a user's order of time: " + ", ".join(windows) + "."
    fail(same & (after >= 0) & (after < before), "its window comes before that of an earlier event", fix)
    listed = of_event >= 0
    cell = user[listed].astype(np.int64) * len(windows) + of_event[listed]
    counts = np.bincount(cell, minlength=(store.num_users + 1) * len(windows)).reshape(-1, len(windows))
    return store.user_indptr[:-1, None] + np.cumsum(counts, axis=1)
