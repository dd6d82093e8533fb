"""The fresh decoder tells what is in a vector, and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penchant.evaluation.diagnostics.decoder import (
    DecoderConfig,
    decodability,
    of_another,
    title_words,
    unigram_nll,
)

SMALL = DecoderConfig(steps=60, rows=32, width=16, words=20, longest=4, lr=2e-2)
TITLES = ["", *(f"{colour} {thing}" for colour in ("red", "blue", "green", "grey") for thing in ("cup", "bowl"))]


def some_targets(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A vector that is its target's own, with a little noise; targets; owners with four targets each."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, len(TITLES), 240)
    of_item = rng.normal(size=(len(TITLES), 6))
    return (of_item[targets] + 0.1 * rng.normal(size=(240, 6))).astype(np.float32), targets, np.arange(240) // 4


def test_titles_become_their_most_frequent_words() -> None:
    words = title_words(["", "The cup", "cup, the CUP!", "bowl of rice"], DecoderConfig(words=2, longest=3))
    assert words.tolist() == [[-1, -1, -1], [3, 2, 0], [2, 3, 2], [1, 1, 1]]


def test_vectors_that_hold_the_title_tell_it() -> None:
    users, targets, owners = some_targets()
    ticks: list[None] = []
    found = decodability(users, targets, owners, title_words(TITLES, SMALL), SMALL, lambda: ticks.append(None))
    assert found is not None
    assert found.own < 0.2 < found.shuffled < found.unigram
    assert found.targets == 60
    assert len(ticks) == 2 * SMALL.steps
    assert decodability(users, targets, owners, title_words(TITLES, SMALL), SMALL) == found


def test_vectors_of_noise_tell_no_more_than_anothers() -> None:
    users, targets, owners = some_targets()
    noise = np.random.default_rng(9).normal(size=users.shape).astype(np.float32)
    found = decodability(noise, targets, owners, title_words(TITLES, SMALL), SMALL)
    assert found is not None
    assert found.own > 0.7 * found.shuffled


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 99))
def test_another_is_somebody_else_wherever_there_is_one(of: list[int], seed: int) -> None:
    owners = np.array(of)
    places = of_another(owners, np.random.default_rng(seed))
    if len(set(of)) > 1:
        assert (owners[places] != owners).all()
    else:
        assert places.tolist() == list(range(len(of)))


def test_everybody_else_is_as_likely_another() -> None:
    owners = np.array([3] * 60 + [1, 2] + [3] * 38)  # nearly all are one's own
    rng = np.random.default_rng(0)
    drawn = np.concatenate([of_another(owners, rng)[owners == 3] for _ in range(40)])
    assert set(drawn) == {60, 61}
    assert 0.45 < (drawn == 60).mean() < 0.55


def test_too_few_targets_are_not_judged() -> None:
    users, targets, owners = some_targets()
    words = title_words(TITLES, SMALL)
    assert decodability(users[:40], targets[:40], owners[:40], words, SMALL) is None
    assert decodability(np.zeros_like(users), targets, owners, words, SMALL) is None
    assert decodability(users, targets, owners, np.full_like(words, -1), SMALL) is None


def test_unigram_is_the_mean_surprise_of_a_word() -> None:
    learn, judge = np.array([[2, 0, -1], [2, 1, 0]]), np.array([[1, 0, -1], [3, -1, -1]])
    counts = {0: 3, 1: 2, 2: 3, 3: 1}
    expected = -np.mean([np.log(counts[w] / 9) for w in (1, 0, 3)])
    assert unigram_nll(learn, judge) == pytest.approx(expected)
