"""Times of any usual kind as milliseconds since 1970 UTC: one unit for a column, told from its type and size."""

from __future__ import annotations

from collections.abc import Sequence

from penchant.data.schema import FIRST_MS, LAST_MS
from penchant.data.sources.raw import Check, Raw, Workspace, sift

UNITS = (("seconds", 1e11, 1e3), ("milliseconds", 1e14, 1.0), ("microseconds", 1e17, 1e-3), ("nanoseconds", 1e20, 1e-6))
"""Unit, what the column's median is under, milliseconds in it."""


TOLD_BY = 1_000_000
"""The unit is told from this many rows, evenly spread."""


def ms_sql(work: Workspace, table: str) -> tuple[str, str]:
    """SQL for the milliseconds of column `time` of a table, NULL where it is no time; and its unit.

    A column is taken for numbers if at least half of it are.
    """
    kind = work.types(table)["time"]
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return "epoch_ms(TRY_CAST(time AS TIMESTAMPTZ))", "timestamps (UTC where they have no zone)"
    number = "TRY_CAST(time AS DOUBLE)"
    every = 1 + work.value(f"SELECT count(*) FROM {table}") // TOLD_BY
    numeric, given, middle = work.rows(
        f"SELECT count({number}), count(time), median(abs({number})) FILTER (isfinite({number})) FROM {table} "
        f"WHERE row % {every} = 0"
    )[0]
    if 2 * numeric < given:
        return "epoch_ms(TRY_CAST(time AS TIMESTAMPTZ))", "ISO 8601 text (UTC where it has no zone)"
    unit, factor = next(((u, f) for u, limit, f in UNITS if (middle or 0) < limit), (UNITS[-1][0], UNITS[-1][2]))
    # Numbers beyond any date would not fit an integer; they are cut to one that is refused as a date. NaN passes for
    # the largest number.
    ms = f"CAST(round(greatest(least({number} * {factor}, 1e17), -1e17)) AS BIGINT)"
    return f"CASE WHEN {number} IS NOT NULL THEN {ms} END", unit  # least and greatest pass over what is no number


def timed(raw: Raw, kind: str, table: str, into: str, has_time: bool) -> None:
    """Create table `into` of `table` with `ms`: the time; without one, what elapsed, or the row's number for its order.

    `has_time` is false where no time was given. A table and not a view, as all that follows reads it several times.
    """
    expression = "elapsed_ms" if "elapsed_ms" in raw.work.types(table) else "row"
    given, left_out = "true", ""
    if has_time:
        expression, unit = ms_sql(raw.work, table)
        given, left_out = "time IS NOT NULL", " EXCLUDE (time)"
        raw.notes.append(f"Times of {kind} were read as {unit}.")
    raw.work.db.execute(
        f"CREATE TABLE {into} AS SELECT *{left_out}, {expression} AS ms, {given} AS has_time FROM {table}"
    )


def time_checks(missing: str = "time IS NULL") -> list[Check]:
    """What `ms` must satisfy; `missing` is SQL for a row that was given no time."""
    fix = "Write seconds or milliseconds since 1970, or ISO 8601 text."
    return [
        Check("time is missing", missing, "time", "Every row needs a time."),
        Check("time is not understood", "ms IS NULL", "time", fix),
        Check("time is before 1990 or after 2100", f"ms < {FIRST_MS} OR ms >= {LAST_MS}", "time", "Is its unit right?"),
    ]


def sift_log(raw: Raw, kind: str, table: str, checks: Sequence[Check], into: str) -> None:
    """Sift a log with user_id, item_id and time at its source, for one that counts or chooses among the good rows.

    View `into` has their `ms` beside the columns of `table`; refusals are appended to `raw.refused`.
    """
    expression, _ = ms_sql(raw.work, table)
    raw.work.db.execute(f"CREATE VIEW {table}_ms AS SELECT *, {expression} AS ms FROM {table}")
    fix = "Every row needs a user, an item and a time."
    present = [Check(f"{c} is missing", f"{c} IS NULL", c, fix) for c in ("user_id", "item_id")]
    sift(raw, kind, f"{table}_ms", [*present, *checks, *time_checks()], into)
