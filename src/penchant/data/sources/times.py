"""Times of any usual kind as milliseconds since 1970 UTC: one unit for a column, told from its type and size."""

from __future__ import annotations

from collections.abc import Sequence

from penchant.data.schema import FIRST_MS, LAST_MS
from penchant.data.sources.raw import Check, Raw, Workspace, sift, text

UNITS = (("seconds", 1e11, 1e3), ("milliseconds", 1e14, 1.0), ("microseconds", 1e17, 1e-3), ("nanoseconds", 1e20, 1e-6))
"""Unit, what the column's median is under, milliseconds in it."""

DAYS = 19_900_101, 21_000_101
"""Numbers between these are days: as seconds they would all be of 1970."""

TOLD_BY = 1_000_000
"""The unit is told from this many rows, evenly spread."""


ISO = "ISO 8601 text (UTC where it has no zone)"

SHORTER = (
    (r"^(\d{4})(\d\d)(\d\d)(\.0)?$", r"\1-\2-\3"),  # 20240501, as a number too
    (r"^(\S+[T ]\d\d)(Z|[+-]\d\d(:?\d\d)?)?$", r"\1:00\2"),  # 2024-05-01T12
    (r"(:\d\d(\.\d+)?) +([+-]\d\d(:?\d\d)?)$", r"\1\3"),  # 2024-05-01 12:30:00 +0200
)
"""Ways to write ISO 8601 that DuckDB does not read, and what stands for them."""


def _iso_sql() -> str:
    """SQL of column `time` read as ISO 8601 text; each of `SHORTER` is only tried where the text as it is fails."""
    whole = "CAST(time AS VARCHAR)"
    ways = [whole, *(f"regexp_replace({whole}, {text(short)}, {text(long)})" for short, long in SHORTER)]
    return f"epoch_ms(coalesce({', '.join(f'TRY_CAST({way} AS TIMESTAMPTZ)' for way in ways)}))"


def ms_sql(work: Workspace, table: str) -> tuple[str, str, str]:
    """SQL for the milliseconds of column `time` of a table, NULL where it is no time; its unit; SQL for what is none.

    A column is taken for numbers if at least half of it are, and for days if the numbers are 20240501 and the like.
    The last is true of a number among ISO text, false of ISO text among numbers, else NULL.
    """
    kind = work.types(table)["time"]
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return "epoch_ms(TRY_CAST(time AS TIMESTAMPTZ))", "timestamps (UTC where they have no zone)", "NULL"
    number = "TRY_CAST(time AS DOUBLE)"
    every = 1 + work.value(f"SELECT count(*) FROM {table}") // TOLD_BY
    numeric, given, middle = work.rows(
        f"SELECT count({number}), count(time), median(abs({number})) FILTER (isfinite({number})) FROM {table} "
        f"WHERE row % {every} = 0"
    )[0]
    if 2 * numeric < given or DAYS[0] <= (middle or 0) < DAYS[1]:
        return _iso_sql(), ISO, f"nullif(isfinite({number}), false)"
    unit, factor = next(((u, f) for u, limit, f in UNITS if (middle or 0) < limit), (UNITS[-1][0], UNITS[-1][2]))
    # Numbers beyond any date would not fit an integer; they are cut to one that is refused as a date. NaN passes for
    # the largest number.
    ms = f"CAST(round(greatest(least({number} * {factor}, 1e17), -1e17)) AS BIGINT)"
    # least and greatest pass over what is no number
    return f"CASE WHEN {number} IS NOT NULL THEN {ms} END", unit, f"CASE WHEN {_iso_sql()} IS NOT NULL THEN false END"


def with_ms(work: Workspace, table: str) -> tuple[str, str]:
    """Query of a table with `ms` and, where that is NULL, `is_number` (see `ms_sql`); and the unit."""
    ms, unit, is_number = ms_sql(work, table)
    told = f"CASE WHEN ms IS NULL AND time IS NOT NULL THEN {is_number} END"
    return f"SELECT *, {told} AS is_number FROM (SELECT *, {ms} AS ms FROM {table})", unit


def timed(raw: Raw, kind: str, table: str, into: str, has_time: bool) -> None:
    """Create table `into` of `table` with `ms`: the time; without one, what elapsed, or the row's number for its order.

    `has_time` is false where no time was given. Where the source has read times already, `ms` is there. A table and not
    a view, as all that follows reads it several times.
    """
    has = raw.work.types(table)
    elapsed = "elapsed_ms" if "elapsed_ms" in has else "row"
    query = f"SELECT *, {elapsed} AS ms, true AS has_time FROM {table}"
    if has_time:
        read = table
        if "ms" not in has:
            read, unit = with_ms(raw.work, table)
            raw.notes.append(f"Times of {kind} were read as {unit}.")
        query = f"SELECT * EXCLUDE (time), time IS NOT NULL AS has_time FROM ({read})"
    raw.work.db.execute(f"CREATE TABLE {into} AS {query}")


def time_checks(missing: str = "time IS NULL") -> list[Check]:
    """What `ms` must satisfy; `missing` is SQL for a row that was given no time."""
    fix = "Write seconds or milliseconds since 1970, or ISO 8601 text such as 2024-05-01 12:30:00+02:00."
    one = "A column has one kind of time: write all of it as ISO 8601 text, or all as numbers."
    return [
        Check("time is missing", missing, "time", "Every row needs a time."),
        Check("time is a number in a column of ISO text", "is_number", "time", one),
        Check("time is ISO text in a column of numbers", "NOT is_number", "time", one),
        Check("time is not understood", "ms IS NULL", "time", fix),
        Check("time is before 1990 or after 2100", f"ms < {FIRST_MS} OR ms >= {LAST_MS}", "time", "Is its unit right?"),
    ]


def sift_log(raw: Raw, kind: str, table: str, checks: Sequence[Check], into: str) -> None:
    """Sift a log with user_id, item_id and time at its source, for one that counts or chooses among the good rows.

    View `into` has their `ms` beside the columns of `table`; refusals are appended to `raw.refused`.
    """
    raw.work.db.execute(f"CREATE VIEW {table}_ms AS {with_ms(raw.work, table)[0]}")
    fix = "Every row needs a user, an item and a time."
    present = [Check(f"{c} is missing", f"{c} IS NULL", c, fix) for c in ("user_id", "item_id")]
    sift(raw, kind, f"{table}_ms", [*present, *checks, *time_checks()], into)
