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

from penchant.errors import DataError

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
    """An append-only log in one file; safe to use from many threads.

    Raises:
        DataError: the file is not such a log.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA busy_timeout=5000")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise DataError(
                f"cannot be used as an event log ({error})", where=self.path, fix="Name another file with --events."
            ) from error

    def append(self, events: Sequence[Event]) -> int:
        """Write all of them in one transaction; on the disk when this returns.

        Returns: how many were new; the others are repeats by `event_id` and change nothing.
        """
        new = 0
        with self._lock:
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
                self._db.execute("ROLLBACK")
                raise
        return new

    def last(self, user_id: str, limit: int) -> list[tuple[str, int]]:
        """A user's last (item_id, ts_ms), oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT item, ts_ms FROM event WHERE user = ? ORDER BY ts_ms DESC, seq DESC LIMIT ?", (user_id, limit)
            ).fetchall()
        return rows[::-1]

    def __len__(self) -> int:
        with self._lock:
            return self._db.execute("SELECT count(*) FROM event").fetchone()[0]

    def close(self) -> None:
        with self._lock:
            self._db.close()
