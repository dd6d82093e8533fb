"""From a source's raw rows to a Store: checked, numbered densely, sorted, summed up.

    store = prepare(read(MovieLens("ml-1m.zip", view="liked")), "stores/ml-1m-liked")

Rows that cannot be used are refused, counted and shown with their place; with `strict` they are fatal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from penchant.data.disk import disk_errors
from penchant.data.numbering import number_events, number_items, number_queries, number_requests, number_users
from penchant.data.output import alone
from penchant.data.schema import SOURCES
from penchant.data.sources.raw import Check, Raw, Refused, sift, text
from penchant.data.sources.times import time_checks, timed
from penchant.data.store import Store
from penchant.data.summary import manifest_entries, print_summary
from penchant.data.writer import Rows, write_store
from penchant.errors import DataError, StoreError

CLICKED = (
    "CASE lower(CAST(label AS VARCHAR)) WHEN '1' THEN 1::TINYINT WHEN '1.0' THEN 1 WHEN 'true' THEN 1 "
    "WHEN '0' THEN 0 WHEN '0.0' THEN 0 WHEN 'false' THEN 0 END"
)
"""SQL of an impression's label, however it is written; NULL if it is not one."""


def prepare(raw: Raw, out: str | Path, *, strict: bool = False, console: Console | None = None) -> Store:
    """Check a source's rows and write them as a Store with its splits.

    Users are numbered as the users table lists them, then as they first occur; items as the catalogue lists them, cold
    ones included, then items that only the logs know. Equal times keep the source's order.

    Args:
        out: the Store's folder; it appears whole or not at all.
        strict: refused rows are fatal.
        console: where progress and the summary go; standard error if None.

    Raises:
        DataError: nothing usable is left, rows were refused and `strict` is set, or the disk is full or closed to us.
        StoreError: `out` exists, or another process is preparing it.
    """
    out = Path(out)
    console = console or Console(stderr=True)
    with disk_errors(out), alone(out, StoreError):
        if out.exists():
            raise StoreError("already exists", where=out, fix="Choose another --out, or remove it first.")
        try:
            with _steps(console, f"prepare {raw.name}", 5) as step:
                step("checking")
                _check(raw)
                step("numbering")
                items = number_items(raw)
                users = number_users(raw)
                queries = number_queries(raw)
                number_events(raw)
                step("requests")
                impressions = number_requests(raw)
                if strict and raw.refused:
                    raise _fatal(raw.refused)
                step("sorting events")
                events = _events(raw)
                step("writing")
                store = write_store(
                    out,
                    name=raw.name,
                    items=items,
                    users=users,
                    events=events,
                    impressions=impressions,
                    queries=queries,
                    has_time=raw.has_time,
                    meta=manifest_entries(raw),
                )
        finally:
            raw.work.close()
    print_summary(store, console)
    return store


def _check(raw: Raw) -> None:
    """Keep good rows as tables `events_ok` and `shown_ok`, with `ms` in milliseconds."""
    missing = "Every event needs a user_id, an item_id and a time." if raw.has_time else ""
    present = [
        Check(f"{c} is missing", f"{c} IS NULL", c, missing or "Every event needs a user_id and an item_id.")
        for c in ("user_id", "item_id")
    ]
    already = len(raw.refused)
    timed(raw, "events", raw.events, "events_ms", raw.has_time)
    sift(
        raw,
        "events",
        "events_ms",
        [*present, *(time_checks("NOT has_time") if raw.has_time else ())],
        "events_ok",
        raw.events,
    )
    if raw.work.value("SELECT count(*) FROM events_ok") == 0:
        why = "; ".join(f"{r.reason}: {r.count:,}" for r in raw.refused) or "there are no rows"
        # What most rows have is what is wrong with the file: the other reasons are of single rows.
        refused = [r for r in raw.refused[already:] or raw.refused if r.samples]
        most = max(refused, key=lambda r: r.count, default=None)
        where = most.samples[0] if most else raw.places("events", [1])[0]
        raise DataError(f"no usable event ({why})", where=where, fix=most.fix if most else "Give rows.")
    if raw.impressions is None:
        return
    has = raw.work.types(raw.impressions)
    place = "TRY_CAST(position AS SMALLINT)" if "position" in has else "0"
    chance = ", TRY_CAST(propensity AS FLOAT) AS chance" if "propensity" in has else ""
    raw.work.db.execute(
        f"CREATE VIEW raw_placed AS SELECT *, {place} AS place, {CLICKED} AS clicked{chance} FROM {raw.impressions}"
    )
    timed(raw, "impressions", "raw_placed", "shown_ms", raw.has_time and "time" in has)
    checks = [
        Check("request_id is missing", "request_id IS NULL", "request_id", "Every impression needs a request_id."),
        Check("item_id is missing", "item_id IS NULL", "item_id", "Every impression needs an item_id."),
        Check("label is not 0 or 1", "clicked IS NULL", "label", "1 = clicked, 0 = shown and not clicked."),
    ]
    if "position" in has:
        wrong = "position IS NOT NULL AND (place IS NULL OR place < 0)"
        checks.append(Check("position is not a number from 1", wrong, "position", "Leave it empty where unknown."))
    if chance:
        wrong = "chance IS NULL OR NOT (chance > 0 AND chance <= 1)"
        checks.append(
            Check("propensity is no chance", wrong, "propensity", "Give all one above 0, at most 1, or none.")
        )
    if "source" in has:
        allowed = ", ".join(text(s) for s in SOURCES)
        checks.append(Check("unknown source", f"source NOT IN ({allowed})", "source", f"One of {', '.join(SOURCES)}."))
    if raw.has_time and "time" in has:
        checks += time_checks("NOT has_time")
    sift(raw, "impressions", "shown_ms", checks, "shown_ok", raw.impressions)


def _events(raw: Raw) -> Rows:
    """The events table, in the Store's order."""
    has = raw.work.types("events_numbered")
    sorted_by_user, requests = ["e.user", "e.item", "e.ms AS ts_ms", "e.row"], ""
    query, request, action = "CAST(0 AS INTEGER)", "CAST(0 AS BIGINT)", "'click'"
    if "query" in has:
        sorted_by_user.append("coalesce(e.query, 0) AS query")
        query = "query"
    if "action" in has:
        sorted_by_user.append("e.action")
        action = "action"
    if "request_id" in has:
        sorted_by_user.append("CAST(coalesce(r.request, 0) AS BIGINT) AS request")
        request, requests = "request", "LEFT JOIN request_map r USING (request_id, user)"
    # What is the same in every row is added after the sort, not carried through it.
    return partial(
        raw.work.reader,
        f"SELECT user, item, {query} AS query, {action} AS action, ts_ms, {request} AS request, row FROM ("
        f"SELECT {', '.join(sorted_by_user)} FROM events_numbered e {requests} ORDER BY e.user, e.ms, e.row)",
    )


def _fatal(refused: list[Refused]) -> DataError:
    first = refused[0]
    rows = sum(r.count for r in refused)
    what = f"{first.reason} ({rows:,} rows refused in all, and --strict is set)"
    return DataError(
        what, where=first.samples[0] if first.samples else None, fix=first.fix or "Mend them, or leave out --strict."
    )


@contextmanager
def _steps(console: Console, title: str, count: int) -> Iterator[Callable[[str], None]]:
    """A progress line; the function it gives starts the next step."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=count)
        started = False

        def step(what: str) -> None:
            nonlocal started
            progress.update(task, advance=int(started), description=f"{title}: {what}")
            started = True

        yield step
