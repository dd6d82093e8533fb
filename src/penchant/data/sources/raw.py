"""What a source yields: a user's data with the shop's own ids and times, not yet checked, and what is wrong with it.

The large tables live in a DuckDB workspace on disk, so that twenty million rows need no more memory than two.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from penchant.errors import ConfigError, DataError

SAMPLES = 3
"""How many refused rows of each reason are shown."""

MEMORY = "1GB"
"""What DuckDB holds in memory if nothing else is said; beyond it, tables, sorts and joins go to disk."""

PREFIX, LOCK = "penchant-workspace-", "workspace.lock"
"""Names of a workspace's folder and of the lock in it: nobody else's, as what has both and no process is removed."""

Locate = Callable[[Sequence[int]], list[str]]
"""Names the places of rows, given their numbers: "ratings.dat line 17"."""


@dataclass(frozen=True)
class Refused:
    """Rows that were left out for one reason.

    Attributes:
        reason: "item_id is missing".
        count: how many.
        samples: the first few, as "ratings.dat line 17: timestamp = 'yesterday'".
        fix: what to do about them.
    """

    reason: str
    count: int
    samples: tuple[str, ...]
    fix: str = ""


class Workspace:
    """A DuckDB database that goes to a temporary folder when it outgrows its memory; the folder goes with it.

    The folder is in the system's temporary directory (TMPDIR). One that a killed process left there, many GB maybe, is
    removed by the next workspace; an empty one stays if the kill came before it was locked.

    Args:
        memory: "500MB", "4GB": the most that DuckDB holds. Python, Arrow and the batch being written come on top.

    Raises:
        ConfigError: `memory` is no such size.
    """

    def __init__(self, memory: str = MEMORY) -> None:
        if not re.fullmatch(r"\d+(\.\d+)? ?(MB|GB|TB)", memory):
            raise ConfigError(f"memory is {memory!r}", fix="Write it as 500MB or 4GB.")
        _remove_dead()
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        # Locked before it has its name, so that nobody finds the lock of a living process free.
        lock = os.open(self.folder / "new", os.O_CREAT | os.O_WRONLY)
        self._unlock = weakref.finalize(self, os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (self.folder / "new").rename(self.folder / LOCK)
        self.db = duckdb.connect()
        self.db.execute(f"SET memory_limit = '{memory}'")
        self.db.execute(f"SET temp_directory = {text(self.folder / 'spill')}")
        self.db.execute("SET TimeZone = 'UTC'")
        self.db.execute("SET enable_progress_bar = false")

    def arrow(self, query: str) -> pa.Table:
        """The result of a query as an Arrow table."""
        return self.db.sql(query).to_arrow_table()

    def reader(self, query: str) -> pa.RecordBatchReader:
        """The result of a long query over tables of the workspace, a million rows at a time."""
        return self.db.cursor().sql(query).to_arrow_reader(1 << 20)

    def rows(self, query: str) -> list[tuple]:
        """The result of a (small) query."""
        return self.db.execute(query).fetchall()

    def value(self, query: str) -> int:
        """The one number a query gives."""
        return self.rows(query)[0][0]

    def load(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table visible to queries under `name`, without copying it."""
        self.db.register(name, table)

    def types(self, table: str) -> dict[str, str]:
        """Column -> DuckDB type."""
        return {row[0]: row[1] for row in self.rows(f"DESCRIBE {name(table)}")}

    def close(self) -> None:
        self.db.close()
        self._unlock()
        self._folder.cleanup()


def _remove_dead() -> None:
    """Remove the workspaces of killed processes: a lock goes with its process, so one that can be had has none."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), lock.open() as file:  # its process lives, it is another user's, or it is just gone
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


@dataclass
class Raw:
    """A source's data, unchecked: `prepare` makes a Store of it.

    Attributes:
        name: the data's name in result files: "ml-1m-liked".
        source: which source read it: "movielens".
        work: the workspace that holds the large tables under the names given here.
        events: table with user_id, item_id and row; time, action, query, request_id where known. Without times,
            elapsed_ms (since the user's first event) where that is known.
            `row` numbers the source's rows in their order; `time` is text, a number or a timestamp.
        impressions: table with request_id, item_id, label and row; user_id, time, query, position, source, propensity
            (the chance that the place was looked at) where known.
            A request is the rows of one (user_id, request_id). None where nothing was logged.
        items: item_id; title, text, category, category_path, image and columns of the source's own where known.
            None where there is no catalogue.
        users: user_id and profile columns.
        has_time: False where the rows have an order but no time.
        dated_from_ms: events before this are in their order, but their times are not known and decide no split.
        locate: for each table ("events", "impressions", "items", "users"), names the places of its rows.
        view: which reading of the source this is, where it has several.
        refused: rows the source could not read at all.
        notes: what the source guessed or left out, in whole sentences.
        generator: what generated data was made from, so that it can be made again; None for real data.
    """

    name: str
    source: str
    work: Workspace
    events: str = "raw_events"
    impressions: str | None = None
    items: pa.Table | None = None
    users: pa.Table | None = None
    has_time: bool = True
    dated_from_ms: int | None = None
    locate: dict[str, Locate] = field(default_factory=dict)
    view: str | None = None
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    generator: dict[str, Any] | None = None

    def places(self, table: str, rows: Sequence[int]) -> list[str]:
        """Where rows of a table came from, for messages."""
        if table in self.locate:
            return self.locate[table](rows)
        return [f"{table} row {row}" for row in rows]


@dataclass(frozen=True)
class Check:
    """One reason to refuse a row.

    Attributes:
        reason: as it is shown: "item_id is missing".
        condition: SQL, true for a row to refuse.
        column: whose value is shown.
        fix: what the user can do.
    """

    reason: str
    condition: str
    column: str
    fix: str


def sift(raw: Raw, kind: str, table: str, checks: Sequence[Check], into: str, shown: str | None = None) -> None:
    """Create view `into` of the rows of `table` (a table or view with `row`) that pass; refuse the others.

    Each refused row counts once, under the first check it fails. Refusals are appended to `raw.refused`.

    Args:
        shown: where the values of refused rows are shown from, by `row`; `table` if None.
    """
    work = raw.work
    why = "CASE " + " ".join(f"WHEN {c.condition} THEN {i}" for i, c in enumerate(checks)) + " END"
    work.db.execute(
        f"CREATE TABLE {into}_refused AS SELECT * FROM (SELECT row, {why} AS why FROM {table}) WHERE why IS NOT NULL"
    )
    counts = work.rows(f"SELECT why, count(*) FROM {into}_refused GROUP BY why ORDER BY why")
    for number, count in counts:
        check = checks[number]
        sample = f"SELECT row FROM {into}_refused WHERE why = {number} ORDER BY row LIMIT {SAMPLES}"
        first = work.rows(
            f"SELECT row, CAST({check.column} AS VARCHAR) FROM {shown or table} SEMI JOIN ({sample}) USING (row) "
            "ORDER BY row"
        )
        places = raw.places(kind, [row for row, _ in first])
        samples = tuple(f"{place}: {check.column} = {value!r}" for place, (_, value) in zip(places, first, strict=True))
        raw.refused.append(Refused(check.reason, count, samples, check.fix))
    work.db.execute(
        f"CREATE VIEW {into} AS SELECT * FROM {table}" + (f" ANTI JOIN {into}_refused USING (row)" if counts else "")
    )


def category_queries(raw: Raw) -> None:
    """Give every event a pseudo-query: the words of its item's category path, as papers on product search do.

    "Hair Care > Hair Styling, Women's" becomes "hair care hair styling women's": small letters, levels joined, no
    punctuation, a word that follows itself once. Events of items without a category get no query.

    Raises:
        DataError: no item has a category, or the data has queries or impressions of its own.
    """
    where = "--category-queries"
    if "query" in raw.work.types(raw.events):
        raise DataError("the events have queries of their own", where=where, fix="Leave it out.")
    if raw.impressions is not None:
        what = "impressions were given, and a request's query would be told from what was clicked in it"
        raise DataError(what, where=where, fix="Leave out the one or the other.")
    listed = raw.items if raw.items is not None else pa.table({"item_id": []})
    paths = next((listed[c].to_pylist() for c in ("category_path", "category") if c in listed.column_names), [])
    texts = [query_words(path) if path else None for path in paths]
    without = texts.count(None)
    if without == len(texts):
        raise DataError("no item has a category", where=where, fix="Give a catalogue with categories, or leave it out.")
    raw.work.load("category_query", pa.table({"item_id": listed["item_id"], "query": pa.array(texts, pa.string())}))
    raw.work.db.execute(
        f"CREATE VIEW events_queried AS SELECT e.*, q.query FROM {raw.events} e LEFT JOIN "
        "(SELECT item_id, first(query) AS query FROM category_query GROUP BY item_id) q USING (item_id)"
    )
    raw.events = "events_queried"
    raw.notes.append("Queries are pseudo-queries, the category words of the very item that was chosen.")
    if without:
        raw.notes.append(f"{without:,} of {len(texts):,} items have no category, and events on them no query.")


def query_words(path: str) -> str | None:
    """The words of a category path, as a pseudo-query; None if it has none."""
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", path.lower())
    return " ".join(word for word, _ in groupby(words)) or None


def text(value: object) -> str:
    """A value as an SQL text literal."""
    return "'" + str(value).replace("'", "''") + "'"


def name(value: str) -> str:
    """A column or table name as an SQL identifier."""
    return '"' + value.replace('"', '""') + '"'
