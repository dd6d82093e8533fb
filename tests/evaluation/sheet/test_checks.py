"""Checks pass and warn by their numbers alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from penchant.data.store import Store
from penchant.evaluation.sheet.checks import Check
from penchant.evaluation.sheet.events import DAY, MINUTE
from penchant.evaluation.sheet.report import make_sheet
from tests.evaluation.sheet.stores import small_store

NOW = 4_000_000_000_000


def warned(store: Store) -> set[tuple[str, str]]:
    return {(check.name, check.split) for check in make_sheet(store, now_ms=NOW).checks if not check.passes}


def test_a_check_passes_up_to_what_is_allowed() -> None:
    assert Check("x", "", 2, 10, 0.2, "").passes
    assert not Check("x", "", 3, 10, 0.2, "").passes
    assert Check("x", "", 0, 0, 0.0, "").passes
    assert Check("x", "", 3, 1000, 0.2, "").numbers == "3 of 1,000 (0.3\u00a0%)"


def test_leaving_one_out_is_warned_of_and_cutting_in_time_is_not(store: Store) -> None:
    found = {split for name, split in warned(store) if name == "Training ends before the test begins"}
    assert found == {"loo"}


@pytest.mark.parametrize(
    ("events", "name"),
    [
        ([(1, 1, DAY), (1, 2, NOW + DAY)], "No event is in the future"),
        ([(1, 1, DAY), (1, 1, DAY), (1, 2, 2 * DAY)], "No event is logged twice"),
        ([(1, 1, DAY), (1, 2, DAY), (1, 3, 2 * DAY)], "Neighbouring events have different times"),
        ([(1, 1, DAY), (1, 2, DAY)], "Users' events are spread over time"),
        ([(1, item, DAY + item * 7 * MINUTE) for item in (1, 2, 3)], "Times are not evenly spaced"),
    ],
)
def test_each_fault_of_times_is_warned_of(events: list[tuple[int, int, int]], name: str, tmp_path: Path) -> None:
    sound = [(1, item, DAY * item**2 + item) for item in (1, 2, 3)]
    assert name not in {found for found, _ in warned(small_store(tmp_path / "sound", sound, num_items=3))}
    assert name in {found for found, _ in warned(small_store(tmp_path / "faulty", events, num_items=3))}


def test_cold_and_repeated_targets_are_warned_of(tmp_path: Path) -> None:
    cold = [(user, item, DAY * item**2 + item) for user in (1, 2) for item in (1, 2, 3)]
    repeated = [(user, item, DAY * i**2 + i) for user in (1, 2) for i, item in enumerate((1, 2, 1))]
    cold_store, repeated_store = (
        small_store(tmp_path / name, events, num_items=3) for name, events in (("cold", cold), ("repeated", repeated))
    )
    assert ("Test items were seen in training", "loo") in warned(cold_store)
    assert ("Test targets are new to their users", "loo") not in warned(cold_store)
    assert ("Test targets are new to their users", "loo") in warned(repeated_store)
    assert ("Test items were seen in training", "loo") not in warned(repeated_store)


def test_without_times_only_order_is_checked(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store", [(1, 1, 0), (1, 2, 1), (1, 3, 2)], num_items=3, has_time=False)
    assert {check.name for check in make_sheet(store).checks} == {
        "No history reaches past its target",
        "Test items were seen in training",
        "Test targets are new to their users",
    }
