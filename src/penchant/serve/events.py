"""The event log of a server: what users did since the bundle was exported.

SQLite in write-ahead mode with synchronous=FULL: an event is on the disk before `append` returns, so one that was
acknowledged outlives a killed process and a power cut. Users and items are kept by the shop's own ids, so the log
outlives the bundle too.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penchant.errors import DataError, PenchantError

SCHEMA = """
CREATE TABLE IF NOT EXISTS event (
    user TEXT NOT NULL,
    ts_ms INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    item TEXT NOT NULL,
    action TEXT NOT NULL,
    event_id TEXT,
    PRIMARY KEY (user, ts_ms, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS event_once ON event (user, event_id) WHERE event_id IS NOT NULL;
"""

BUSY_SECONDS = 5.0
"""How long a write waits for another process that writes."""


class LogBusyError(PenchantError):
    """Another process writes to the log and does not end; nothing was kept, and the same may be asked again."""


class LogUnwritableError(PenchantError):
    """The disk is full, or fails; nothing was kept."""


@dataclass(frozen=True)
class Event:
    """One action of a user.

    Attributes:
        event_id: the sender's own name of it; a second event of the same user and name is taken for a repeat.
    """

    user_id: str
    item_id: str
    action: str
    ts_ms: int
    event_id: str | None = None


class EventLog:
    """An append-only log in one file; safe to use from many threads, of which a reader waits for no writer.

    Raises:
        DataError: the file is not such a log.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock, self._reading = threading.Lock(), threading.Lock()
        another = "Name another file with --events."
        try:
            self._db = self._connect()
            tables = [name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            if tables and "event" not in tables:  # before anything is written to what is somebody else's
                self._db.close()
                raise DataError(f"is no event log, it holds {', '.join(tables[:3])}", where=self.path, fix=another)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(SCHEMA)
            self._reader = self._connect()
        except sqlite3.Error as error:
            recover = f"Put a backup in its place, or save what is left: `sqlite3 {self.path} .recover | sqlite3 NEW`."
            damaged = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT
            raise DataError(
                f"cannot be used as an event log ({error})", where=self.path, fix=recover if damaged else another
            ) from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, BUSY_SECONDS, check_same_thread=False, isolation_level=None)

    def append(self, events: Sequence[Event]) -> int:
        """Write all of them in one transaction; on the disk when this returns.

        Returns: how many were new; the others are repeats by `event_id` and change nothing.

        Raises:
            LogBusyError: another process has been writing for `BUSY_SECONDS`.
            LogUnwritableError: the disk takes no more.
        """
        with self._lock:
            try:
                return self._write(events)
            except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
                raise  # no fault of the disk's
            except sqlite3.DatabaseError as error:
                code = error.sqlite_errorcode & 0xFF
                if code == sqlite3.SQLITE_BUSY:
                    what = "is being written by another process"
                    raise LogBusyError(what, where=self.path, fix="Try again.") from error
                fix = "Free space there." if code == sqlite3.SQLITE_FULL else "Look after the disk, and the file."
                raise LogUnwritableError(f"cannot be written ({error})", where=self.path, fix=fix) from error

    def _write(self, events: Sequence[Event]) -> int:
        new = 0
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for event in events:
                new += self._db.execute(
                    "INSERT INTO event SELECT ?1, ?2, coalesce(max(seq), 0) + 1, ?3, ?4, ?5 FROM event"
                    " WHERE user = ?1 AND ts_ms = ?2"
                    " ON CONFLICT (user, event_id) WHERE event_id IS NOT NULL DO NOTHING",
                    (event.user_id, event.ts_ms, event.item_id, event.action, event.event_id),
                ).rowcount
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # some errors SQLite has taken back itself
                self._db.execute("ROLLBACK")
            raise
        return new

    def last(self, user_id: str, limit: int) -> list[tuple[str, int]]:
        """A user's last (item_id, ts_ms), oldest first."""
        with self._reading:
            rows = self._reader.execute(
                "SELECT item, ts_ms FROM event WHERE user = ? ORDER BY ts_ms DESC, seq DESC LIMIT ?", (user_id, limit)
            ).fetchall()
        return rows[::-1]

    def __len__(self) -> int:
        with self._reading:
            return self._reader.execute("SELECT count(*) FROM event").fetchone()[0]

    def close(self) -> None:
        with self._lock, self._reading:
            self._reader.close()
            self._db.close()
