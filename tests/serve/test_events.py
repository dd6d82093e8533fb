"""The event log keeps what it acknowledged, and histories are made of bundle and log as training makes its own."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.history import requests_before_times
from penchant.data.store import Store
from penchant.errors import DataError
from penchant.serve.bundle import Bundle
from penchant.serve.events import Event, EventLog, Histories, UnknownItemError
from tests.serve.conftest import NOW_MS, SETTINGS


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


def test_a_full_log_is_read_quickly(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    log.append([event(f"u{n % 100}", "i1", ts_ms=n) for n in range(20_000)])
    start = time.perf_counter()
    for n in range(100):
        assert len(log.last(f"u{n}", 50)) == 50
    assert time.perf_counter() - start < 2


def test_without_new_events_a_history_is_the_stores(bundle: Bundle, store: Store, tmp_path: Path) -> None:
    histories = Histories(bundle, EventLog(tmp_path / "log"), SETTINGS.max_history)
    for user in range(1, store.num_users + 1):
        ours = histories.request(f"u{user}", NOW_MS)
        theirs = requests_before_times(store, np.array([user]), np.array([NOW_MS]), SETTINGS.max_history)
        for name in ("users", "times_ms", "history", "history_times_ms"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


@settings(deadline=None, max_examples=25)
@given(
    new=st.lists(st.tuples(st.integers(1, 80), st.integers(0, 5)), max_size=40),
    max_len=st.integers(1, 30),
    user=st.integers(1, 60),
)
def test_a_history_is_all_actions_in_order_of_time_cut_at_max_len(
    new: list[tuple[int, int]], max_len: int, user: int, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    old_items, old_times = (a.tolist() for a in bundle.history(user))
    # Some of the new events are as late as the middle of the old ones.
    times = [old_times[len(old_times) // 2] if late == 0 else NOW_MS + late for _, late in new]
    log = EventLog(tmp_path_factory.mktemp("log") / "log")
    histories = Histories(bundle, log, max_len)
    histories.append([event(f"u{user}", f"i{item}", ts) for (item, _), ts in zip(new, times, strict=True)])
    everything = list(zip(old_items + [i for i, _ in new], old_times + times, strict=True))
    expected = sorted(everything, key=lambda e: e[1])[-max_len:]  # sorted() is stable
    items, ts_ms = histories.of_user(f"u{user}")
    assert list(zip(items.tolist(), ts_ms.tolist(), strict=True)) == expected
    log.close()


def test_a_new_users_history_is_what_the_log_has(bundle: Bundle, tmp_path: Path) -> None:
    histories = Histories(bundle, EventLog(tmp_path / "log"), 10)
    assert histories.request("stranger", NOW_MS).history.shape == (1, 0)
    histories.append([event("stranger", "i5"), event("stranger", "i6")])
    request = histories.request("stranger", NOW_MS, "red")
    assert request.history.tolist() == [[5, 6]]
    assert request.users.tolist() == [0]
    assert request.queries == ("red",)


def test_an_unknown_item_is_refused_by_name_and_nothing_is_kept(bundle: Bundle, tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    with pytest.raises(UnknownItemError, match=r"events\.1\.item_id: item 'i999'"):
        Histories(bundle, log, 10).append([event(), event(item="i999")])
    assert len(log) == 0


def test_an_item_of_an_earlier_catalogue_is_passed_over(bundle: Bundle, tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    log.append([event("stranger", "gone"), event("stranger", "i5")])
    assert Histories(bundle, log, 10).of_user("stranger")[0].tolist() == [5]


def test_a_request_is_never_earlier_than_its_last_action(bundle: Bundle, tmp_path: Path) -> None:
    histories = Histories(bundle, EventLog(tmp_path / "log"), 10)
    histories.append([event("stranger", "i5", ts_ms=NOW_MS + 50)])
    assert histories.request("stranger", NOW_MS).times_ms.tolist() == [NOW_MS + 50]
