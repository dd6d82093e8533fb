"""The one pass over the events: its numbers are those of plain loops, and it finds leaks that were planted."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.data.split import Split, add_split, load_split
from penchant.data.store import Store
from penchant.evaluation.sheet.events import (
    DAY,
    GAPS,
    EventNumbers,
    Part,
    SplitNumbers,
    count_events,
    latest_before,
    seen_before,
)
from tests.evaluation.sheet.stores import small_store

NOW = 4_000_000_000_000
SPLITS = ("temporal-successive", "temporal-last", "loo", "funnel")


def histories(store: Store) -> list[list[tuple[int, int]]]:
    """Each user's (item, time), in order."""
    ends = store.user_indptr
    items, times = store.event_item.tolist(), store.event_ts_ms.tolist()
    return [list(zip(items[a:b], times[a:b], strict=True)) for a, b in pairwise(ends[1:])]


def counted(store: Store, *names: str) -> EventNumbers:
    return count_events(store, [load_split(store, name) for name in names], NOW)


def split_of(store: Store, split: Split) -> SplitNumbers:
    return count_events(store, [split], NOW).splits[0]


@pytest.mark.parametrize("rows", [1, 50, 10**6])
def test_counts_are_those_of_a_loop_however_the_events_are_parted(store: Store, rows: int) -> None:
    numbers = count_events(store, [], NOW, rows)
    steps = repeats = duplicates = category_steps = category_repeats = triples = even = one_time = 0
    gaps = dict.fromkeys((name for name, _ in GAPS), 0)
    items = [0] * (store.num_items + 1)
    for history in histories(store):
        one_time += len(history) > 1 and len({at for _, at in history}) == 1
        for i, (item, at) in enumerate(history):
            items[item] += 1
            if not i:
                continue
            before = history[:i]
            steps += 1
            repeats += item in [other for other, _ in before]
            duplicates += (item, at) in before
            category = store.item_category[item]
            category_steps += category > 0
            category_repeats += category in [store.item_category[other] for other, _ in before]
            gaps[[name for name, low in GAPS if at - before[-1][1] >= low][-1]] += 1
            if i + 1 < len(history):
                one, two = at - before[-1][1], history[i + 1][1] - at
                triples += 1
                even += min(one, two) > 60_000 and abs(one - two) <= 1000
    assert numbers.item_counts.tolist() == items
    assert numbers.gaps is not None
    assert numbers.gaps.tolist() == list(gaps.values())
    assert numbers.gaps[0] > 0
    assert (numbers.steps, numbers.repeats, numbers.duplicates) == (steps, repeats, duplicates)
    assert (numbers.category_steps, numbers.category_repeats) == (category_steps, category_repeats)
    assert (numbers.triples, numbers.even, numbers.one_time_users) == (triples, even, one_time)
    assert numbers.lengths.tolist() == [len(history) for history in histories(store)]
    assert numbers.periods is not None
    assert int(numbers.periods.counts.sum()) == store.num_events


@pytest.mark.parametrize("rows", [1, 50, 10**6])
@pytest.mark.parametrize("name", SPLITS)
def test_a_split_is_counted_as_by_a_loop(store: Store, name: str, rows: int) -> None:
    split = load_split(store, name)
    numbers = count_events(store, [split], NOW, rows).splits[0]
    items, times, user = store.event_item, store.event_ts_ms, store.event_user
    train, test = set(split.events("train").tolist()), set(split.events("test").tolist())
    trained = {int(items[row]) for row in train}
    tested = {int(items[row]) for row in test}
    elsewhere = {int(items[row]) for row in range(store.num_events) if row not in test}
    targets = split.targets("test").tolist()
    begin = min(int(times[row]) for row in test)
    end = max(int(times[row]) for row in train)
    history = {row: range(store.user_indptr[user[row]], row) for row in targets}
    window = {row: w for w, name in enumerate(split.windows) for row in split.events(name).tolist()}
    crossed = [r for r in range(1, store.num_events) if user[r] == user[r - 1] and window[r] != window[r - 1]]
    assert numbers.cold_items == len(tested - trained)
    assert numbers.only_test_items == len(tested - elsewhere)
    assert numbers.cold_targets == sum(int(items[row]) not in trained for row in targets)
    assert numbers.repeats == sum(items[row] in items[list(history[row])] for row in targets)
    assert numbers.train_late == sum(int(times[row]) >= begin for row in train)
    assert numbers.overtaken == sum(int(times[row]) <= end for row in targets)
    assert numbers.crossings == len(crossed)
    assert numbers.tied_crossings == sum(int(times[r] == times[r - 1]) for r in crossed)
    for w, of in zip(split.windows, numbers.windows, strict=True):
        rows_of = split.events(w)
        assert (of.events, of.users) == (len(rows_of), len({int(user[r]) for r in rows_of}))
        assert of.items == len({int(items[r]) for r in rows_of})
        assert of.late == 0
        if w != "train":
            tied = [max(times[store.user_indptr[user[r]] : r]) == times[r] for r in split.targets(w).tolist()]
            assert (of.targets, of.tied) == (len(tied), sum(tied))


def by_loops(users: list[int], values: list[int]) -> tuple[list[int], list[int]]:
    """The last place of the same value, and the highest value, among the same user's before each."""
    same, highest = [], []
    for i, (user, value) in enumerate(zip(users, values, strict=True)):
        before = [j for j in range(i) if users[j] == user]
        same.append(max((j for j in before if values[j] == value), default=-1))
        highest.append(max((values[j] for j in before), default=-1))
    return same, highest


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=30))
def test_what_came_before_is_what_loops_say_whatever_the_order_of_times(drawn: list[tuple[int, int]]) -> None:
    drawn.sort(key=lambda pair: pair[0])  # users together, their values in any order
    users, values = (np.array(column, dtype=np.int64) for column in zip(*drawn, strict=True))
    first = np.diff(users, prepend=-1) > 0
    part = Part(0, users, values, values, first)
    same, highest = by_loops(users.tolist(), values.tolist())
    assert seen_before(part, values).tolist() == same
    assert latest_before(part)[~first].tolist() == [h for h, begins in zip(highest, first, strict=True) if not begins]


def test_times_that_run_backwards_are_found_in_every_split(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    times = np.load(tmp_path / "store" / "arrays" / "event_ts_ms.npy")
    user = int(np.argmax(np.diff(store.user_indptr)))
    times[store.user_indptr[user]] += 1000 * DAY  # the user's first event is now the last, and still stands first
    np.save(tmp_path / "store" / "arrays" / "event_ts_ms.npy", times)
    found = split_of(Store(tmp_path / "store"), load_split(store, "loo"))
    assert [w.late for w in found.windows] == [0, 1, 1]
    assert [w.late for w in split_of(store, load_split(store, "loo")).windows] == [0, 0, 0]


def test_a_training_window_that_reaches_into_the_test_is_found(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    leaky = Store(tmp_path / "store")
    honest = load_split(leaky, "temporal-successive")
    ends = honest.ends.copy()
    user = int(np.argmax(ends[:, 2] - ends[:, 1]))  # has most test events
    ends[user, :2] = ends[user, 2]
    planted = split_of(leaky, add_split(leaky, "leaky", ("train", "valid", "test"), ends))
    assert split_of(leaky, honest).train_late == 0
    assert planted.train_late == honest.ends[user, 2] - honest.ends[user, 1]
    assert planted.overtaken > 0


def test_equal_times_on_two_sides_of_a_cut_are_found(tmp_path: Path) -> None:
    tied = [(1, 1, 10 * DAY), (1, 2, 11 * DAY), (1, 3, 12 * DAY), (1, 1, 12 * DAY)]
    apart = [(2, 1, 10 * DAY), (2, 2, 11 * DAY), (2, 3, 12 * DAY)]
    store = small_store(tmp_path / "store", [*tied, *apart], num_items=3)
    numbers = split_of(store, load_split(store, "loo"))
    assert (numbers.tied_crossings, numbers.crossings) == (1, 4)
    assert numbers.windows[-1].tied == 1
    assert numbers.repeats == 1


def test_events_after_the_sheet_is_made_and_events_logged_twice_are_counted(tmp_path: Path) -> None:
    events = [(1, 1, DAY), (1, 1, DAY), (1, 2, DAY), (1, 2, NOW + 1)]
    numbers = counted(small_store(tmp_path / "store", events, num_items=2))
    assert (numbers.future, numbers.duplicates, numbers.repeats) == (1, 1, 2)


def test_requests_of_each_window_are_counted_and_none_is_late(store: Store) -> None:
    numbers, by_order = counted(store, "funnel", "loo").splits
    assert sum(w.requests or 0 for w in numbers.windows) == store.num_requests
    assert numbers.late_requests == 0
    assert by_order.late_requests is None


def test_without_times_nothing_is_said_of_them(tmp_path: Path) -> None:
    events = [(1, 1, 0), (1, 2, 1), (1, 1, 2)]
    numbers = counted(small_store(tmp_path / "store", events, num_items=2, has_time=False), "loo")
    assert numbers.periods is None
    assert numbers.gaps is None
    assert numbers.duplicates == numbers.triples == 0
    assert numbers.repeats == 1
    assert numbers.splits[0].windows[-1].first_ms is None
