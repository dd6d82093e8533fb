"""What `penchant serve` has logged, put behind a shop's own log: the next Store knows what users did meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from penchant.data.sources.raw import Raw, Workspace
from penchant.data.sources.times import with_ms
from penchant.errors import DataError

BLOCK = 100_000
"""Events that are in memory at once."""

LOGGED = pa.schema(
    [
        ("n", pa.int64()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("ms", pa.int64()),
        ("action", pa.string()),
    ]
)


def add_served(raw: Raw, path: Path) -> None:
    """Put the events of a server's log behind those of `raw`; what both have counts once.

    Both have an event where user, item and millisecond are the same. Where the shop's own events have no times, all
    that was served comes after them, in its own order. A server may go on writing meanwhile.

    Raises:
        DataError: there is no such file, or it is no event log.
    """
    work, own = raw.work, raw.events
    count = _load(work, path)
    last = work.value(f"SELECT coalesce(max(row), 0) FROM {own}")
    if raw.has_time:
        read, unit = with_ms(work, own)
        raw.notes.append(f"Times of events were read as {unit}.")
        work.db.execute(f"CREATE VIEW events_timed AS SELECT * REPLACE (CAST(time AS VARCHAR) AS time) FROM ({read})")
        work.db.execute(
            "CREATE VIEW served_alone AS SELECT *, CAST(ms AS VARCHAR) AS time FROM served "
            "ANTI JOIN events_timed USING (user_id, item_id, ms)"
        )
    else:
        work.db.execute(f"CREATE VIEW events_timed AS SELECT * FROM {own}")
        work.db.execute("CREATE VIEW served_alone AS SELECT * EXCLUDE (ms) FROM served")
    work.db.execute(
        "CREATE VIEW events_and_served AS SELECT * FROM events_timed UNION ALL BY NAME "
        f"SELECT * EXCLUDE (n), n + {last} AS row FROM served_alone"
    )
    raw.events = "events_and_served"
    both = count - work.value("SELECT count(*) FROM served_alone")
    twice = f"; {both:,} of them are in the other log too and count once" if both else ""
    raw.notes.append(f"{path.name}: {count:,} events that a server logged{twice}.")
    located = raw.locate["events"]

    def locate(rows: Sequence[int]) -> list[str]:
        ours = [row for row in rows if row <= last]
        places = dict(zip(ours, located(ours), strict=True)) if ours else {}
        return [places.get(row, f"{path.name} event {row - last}") for row in rows]

    raw.locate["events"] = locate


def _load(work: Workspace, path: Path) -> int:
    """Make table `served`, its rows numbered `n` from 1 in order of time; how many there are."""
    fix = "Give the event log of `penchant serve`: BUNDLE.events.sqlite, or what --events named."
    if not path.is_file():
        raise DataError("no such file", where=path, fix=fix)
    work.db.execute("CREATE TABLE served (n BIGINT, user_id VARCHAR, item_id VARCHAR, ms BIGINT, action VARCHAR)")
    count = 0
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as log:
            events = log.execute("SELECT user, item, ts_ms, action FROM event ORDER BY ts_ms, user, seq")
            while block := events.fetchmany(BLOCK):
                numbers = range(count + 1, count + len(block) + 1)
                columns = [numbers, *zip(*block, strict=True)]
                table = pa.table([pa.array(c, k.type) for c, k in zip(columns, LOGGED, strict=True)], schema=LOGGED)
                work.load("served_block", table)
                work.db.execute("INSERT INTO served SELECT * FROM served_block")
                count += len(block)
    except (sqlite3.Error, pa.ArrowException) as error:
        raise DataError(f"is no event log ({error})", where=path, fix=fix) from error
    return count
