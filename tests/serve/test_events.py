"""The event log keeps what it acknowledged."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penchant.errors import DataError
from penchant.serve.events import Event, EventLog, LogUnwritableError
from tests.serve.conftest import NOW_MS


def event(user: str = "u1", item: str = "i1", ts_ms: int = NOW_MS, event_id: str | None = None) -> Event:
    return Event(user, item, "click", ts_ms, event_id)


WRITER = """
import sys
from penchant.serve.events import Event, EventLog
log = EventLog(sys.argv[1])
for n in range(1_000_000):
    log.append([Event("u", f"i{n}", "click", n)])
    print(n, flush=True)
"""


def test_no_acknowledged_event_is_lost_to_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline() for _ in range(200)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += writer.stdout.readlines()
    writer.wait()
    last = int([line for line in acknowledged if line.endswith("\n")][-1])
    assert last >= 199
    log = EventLog(path)
    kept = [item for item, _ in log.last("u", 10**6)]
    assert kept[: last + 1] == [f"i{n}" for n in range(last + 1)]
    log.close()


def test_events_come_back_in_order_of_time_then_of_arrival(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    log.append([event(item="a", ts_ms=5), event(item="b", ts_ms=3), event(item="c", ts_ms=5), event("u2", "d", 4)])
    log.append([event(item="e", ts_ms=5)])
    assert log.last("u1", 10) == [("b", 3), ("a", 5), ("c", 5), ("e", 5)]
    assert log.last("u1", 2) == [("c", 5), ("e", 5)]
    assert log.last("nobody", 2) == []
    assert len(log) == 5


def test_a_repeat_by_event_id_is_kept_once_for_each_user(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    assert log.append([event(event_id="x"), event(event_id="x"), event("u2", event_id="x"), event(), event()]) == 4
    assert log.append([event(event_id="x", ts_ms=9), event(event_id="y")]) == 1
    assert len(log) == 5


def test_a_batch_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    broken = event()
    object.__setattr__(broken, "item_id", None)
    with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
        log.append([event(), broken])
    assert len(log) == 0
    assert log.append([event()]) == 1


def test_what_a_full_disk_does_not_take_is_no_event_and_may_come_again(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    (pages,) = log._db.execute("PRAGMA page_count").fetchone()
    log._db.execute(f"PRAGMA max_page_count={pages}")
    many = [event(item=f"{'long' * 50}{n}", ts_ms=n) for n in range(1000)]
    says = r"log: cannot be written \(database or disk is full\)\. Free space there\."
    with pytest.raises(LogUnwritableError, match=says):
        log.append(many)
    assert len(log) == 0
    log._db.execute("PRAGMA max_page_count=100000")
    assert log.append(many) == 1000


def test_a_log_that_may_no_longer_be_written_is_named(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    log._db.execute("PRAGMA query_only=1")
    with pytest.raises(LogUnwritableError, match=r"log: cannot be written \(.*readonly database\)\. Look after"):
        log.append([event()])


def test_threads_write_side_by_side(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")

    def write(user: str) -> None:
        for n in range(50):
            log.append([event(user, f"i{n}", ts_ms=1)])

    threads = [threading.Thread(target=write, args=(f"u{t % 2}",)) for t in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(log) == 200
    assert len(log.last("u0", 1000)) == 100


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"something else" * 1000)
    with pytest.raises(DataError, match="cannot be used as an event log"):
        EventLog(tmp_path / "log")


def test_a_database_of_something_else_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as theirs:
        theirs.executescript("CREATE TABLE orders (id); CREATE TABLE stock (id)")
    before = (tmp_path / "shop.db").read_bytes()
    with pytest.raises(DataError, match=r"shop\.db: is no event log, it holds orders, stock\. Name another"):
        EventLog(tmp_path / "shop.db")
    assert (tmp_path / "shop.db").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["shop.db"]


def test_of_a_damaged_log_the_way_to_recover_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = EventLog(path)
    log.append([event()])
    log.close()
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 0xFF  # the kind of the schema's own page
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"malformed.*backup.*sqlite3 \S+log \.recover"):
        EventLog(path)


def test_reading_does_not_wait_for_a_write(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    log.append([event()])
    other = sqlite3.connect(tmp_path / "log", isolation_level=None)
    with contextlib.closing(other), ThreadPoolExecutor(1) as people:
        other.execute("BEGIN IMMEDIATE")
        written = people.submit(log.append, [event()])
        time.sleep(0.1)  # it has begun to wait
        assert len(log.last("u1", 5)) == 1
        assert not written.done()
        other.execute("ROLLBACK")
        assert written.result() == 1
    assert len(log.last("u1", 5)) == 2
    log.close()


def test_a_full_log_is_read_quickly(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    log.append([event(f"u{n % 100}", "i1", ts_ms=n) for n in range(20_000)])
    start = time.perf_counter()
    for n in range(100):
        assert len(log.last(f"u{n}", 50)) == 50
    assert time.perf_counter() - start < 2
