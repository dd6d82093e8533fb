"""Slices: borders by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.evaluation.slices import history_slices, mean_of_slices, popularity_slices


def test_head_takes_the_first_half_of_the_events() -> None:
    slices = popularity_slices(np.array([99, 1, 50, 30, 0, 19]))  # entry 0 is padding, whatever it counts
    assert {name: np.flatnonzero(inside).tolist() for name, inside in slices.items()} == {
        "head": [2],
        "torso": [3],
        "tail": [1, 5],
        "cold": [4],
    }


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_each_item_is_in_one_slice_and_head_is_no_rarer_than_tail(counts: list[int]) -> None:
    c = np.array([0, *counts])
    slices = popularity_slices(c)
    assert np.stack(list(slices.values())).sum(0).tolist() == [0] + [1] * len(counts)
    if slices["head"].any() and slices["tail"].any():
        assert c[slices["head"]].min() >= c[slices["tail"]].max()


def test_history_slices_cover_every_length_once() -> None:
    slices = history_slices(np.arange(300))
    assert np.stack(list(slices.values())).sum(0).tolist() == [1] * 300
    assert next(iter(slices)) == "0"
    assert np.flatnonzero(slices["1-4"]).tolist() == [1, 2, 3, 4]
    assert np.flatnonzero(slices["200+"])[0] == 200


def test_a_slice_without_targets_is_left_out() -> None:
    inside = {"a": np.array([True, True, False]), "b": np.zeros(3, dtype=bool)}
    assert mean_of_slices(inside, {"x": np.array([1.0, 2.0, 9.0])}) == {"a": {"targets": 2, "x": 1.5}}
