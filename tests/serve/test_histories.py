"""Histories at serving are made of bundle and log as training makes its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.data.history import make_requests, requests_before_times
from penchant.data.store import Store
from penchant.serve.bundle import Bundle
from penchant.serve.events import EventLog
from penchant.serve.histories import Histories, UnknownItemError
from tests.serve.conftest import NOW_MS, SETTINGS
from tests.serve.test_events import event


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
    old = list(zip(old_items, old_times, strict=True))
    logged = [(item, ts) for (item, _), ts in zip(new, times, strict=True)]
    everything = old + [e for e in sorted(logged, key=lambda e: e[1])[-max_len:] if e not in old]
    expected = sorted(everything, key=lambda e: e[1])[-max_len:]  # sorted() is stable
    items, ts_ms = histories.of_user(f"u{user}")
    assert list(zip(items.tolist(), ts_ms.tolist(), strict=True)) == expected
    log.close()


def test_what_a_new_bundle_already_has_is_not_counted_twice(bundle: Bundle, tmp_path: Path) -> None:
    items, times = bundle.history(3)
    histories = Histories(bundle, EventLog(tmp_path / "log"), SETTINGS.max_history)
    histories.append([event("u3", f"i{item}", ts) for item, ts in zip(items.tolist(), times.tolist(), strict=True)])
    assert [a.tolist() for a in histories.of_user("u3")] == [items.tolist(), times.tolist()]
    # The same item at another time is another action, and so is another item at the same time.
    other = 1 + int(items[-1]) % 80
    histories.append([event("u3", f"i{items[-1]}", NOW_MS), event("u3", f"i{other}", NOW_MS)])
    assert histories.of_user("u3")[0][-2:].tolist() == [int(items[-1]), other]


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


def test_without_times_a_request_is_dated_as_training_dates_it(bundle: Bundle, store: Store, tmp_path: Path) -> None:
    """By the rows' numbers, where the Store knows an order alone: what the log has comes next, then the request."""
    untimed = replace(
        bundle,
        manifest={**bundle.manifest, "has_time": False},
        history_indptr=store.user_indptr,
        history_items=store.event_item,
        history_ts_ms=np.arange(store.num_events),
    )
    histories = Histories(untimed, EventLog(tmp_path / "log"), SETTINGS.max_history)
    start, stop = store.user_indptr[3:5].tolist()
    for new in ([], [5, 6]):
        items, rows = np.append(store.event_item[start:stop], new), np.arange(start, stop + len(new))
        theirs = make_requests(
            np.array([3]), rows[-1:] + 1, items, rows, np.array([0]), np.array([len(rows)]), SETTINGS.max_history
        )
        ours = histories.request("u3", NOW_MS)
        for name in ("users", "times_ms", "history", "history_times_ms"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        histories.append([event("u3", "i6", NOW_MS), event("u3", "i5", 0)])
    assert histories.request("stranger", NOW_MS).times_ms.tolist() == [0]


def test_a_request_is_never_earlier_than_its_last_action(bundle: Bundle, tmp_path: Path) -> None:
    histories = Histories(bundle, EventLog(tmp_path / "log"), 10)
    histories.append([event("stranger", "i5", ts_ms=NOW_MS + 50)])
    assert histories.request("stranger", NOW_MS).times_ms.tolist() == [NOW_MS + 50]
