"""Every kind of broken data ends in rows refused and counted, or in one line that says what to do."""

from __future__ import annotations

import re

import pytest

from penchant.data.store import Store
from tests.data.sources.broken import catalogue, files, memory, movies, releases, rows
from tests.data.sources.broken.case import Case, Outcome, run

# A source that fails leaves its workspace, whose lock Python closes with a warning.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CASES = [*rows.CASES, *files.CASES, *catalogue.CASES, *movies.CASES, *releases.CASES, *memory.CASES]


def in_time(number: int, case: Case) -> object:
    """What makes a Store takes longer: one in six of these is in the quick tests, the others are in the slow ones."""
    slow = not case.error and number % 6
    return pytest.param(case, id=case.name.replace(" ", "-"), marks=[pytest.mark.slow] if slow else [])


@pytest.fixture(params=[in_time(n, c) for n, c in enumerate(CASES)], scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def outcome(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Each case is run once for both tests."""
    return run(case, tmp_path_factory.mktemp("case"))


def test_there_are_at_least_a_hundred_kinds() -> None:
    assert len({c.name for c in CASES}) == len(CASES) >= 100


def test_it_ends_as_the_table_says(case: Case, outcome: Outcome) -> None:
    if case.error:
        assert re.search(rf"^error: (\S*/)?{case.error}", outcome.said), outcome.said
        return
    assert outcome.store is not None, outcome.said
    store = outcome.store
    assert {r["reason"]: r["count"] for r in store.manifest["refused"]} == dict(case.refused)
    if case.sample:
        samples = [s for r in store.manifest["refused"] for s in r["samples"]]
        assert any(re.search(case.sample, s) for s in samples), samples
    if case.notes:
        assert re.search(case.notes, "\n".join(store.manifest["notes"])), store.manifest["notes"]
    for key, values in case.holds.items():
        table, _, column = key.partition(".")
        assert store.table(table)[column].to_pylist() == values


def test_whatever_is_broken_ends_well(case: Case, outcome: Outcome) -> None:
    assert outcome.left == []
    assert "Traceback" not in outcome.said
    if case.error:
        assert outcome.status == 2
        assert outcome.store is None
        assert outcome.said.count("\n") == 1
        assert re.fullmatch(r"error: [^:]+: .+\. (--)?[A-Za-z].*\n", outcome.said), "no place, or no fix"
        return
    assert outcome.status == 0
    assert isinstance(outcome.store, Store)
    refused = outcome.store.manifest["refused"]
    assert all(r["fix"] and r["samples"] for r in refused)
    if case.rows is not None:
        assert outcome.store.manifest["counts"][case.table] + sum(r["count"] for r in refused) == case.rows
