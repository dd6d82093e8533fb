"""Merging against plain loops over every request."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.funnel.merge import merge_quota, merge_rrf
from penchant.funnel.stages import Candidates

NAMES = ("a", "b", "c", "d")


def quota_loop(lists: list[list[int]], quotas: list[int], size: int) -> list[int]:
    """Turn by turn, first within the quotas, then beyond them."""
    out: list[int] = []
    longest = max(map(len, lists), default=0)
    for turn in range(longest):
        out += [c[turn] for c, quota in zip(lists, quotas, strict=True) if turn < min(quota, len(c))]
    for turn in range(longest):
        out += [c[quota + turn] for c, quota in zip(lists, quotas, strict=True) if quota + turn < len(c)]
    return list(dict.fromkeys(out))[:size]


def rrf_loop(lists: list[list[int]], constant: float, size: int) -> list[tuple[int, float]]:
    scores: dict[int, float] = {}
    for items in lists:
        for rank, item in enumerate(items, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (constant + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:size]


def candidates(name: str, rows: list[list[int]], spare: int) -> Candidates:
    """One channel's lists; the score of an item at rank r is 100 * channel - r."""
    width = max(map(len, rows)) + spare
    items = torch.zeros(len(rows), width, dtype=torch.int64)
    for row, found in enumerate(rows):
        items[row, : len(found)] = torch.tensor(found, dtype=torch.int64)
    scores = 100.0 * (NAMES.index(name) + 1) - torch.arange(1, width + 1).float().expand(len(rows), -1)
    return Candidates.of_channel(name, items, scores)


@st.composite
def channels(draw: st.DrawFn) -> list[list[list[int]]]:
    """Lists by [channel][row]."""
    num, batch = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    one = st.lists(st.integers(1, 9), unique=True, max_size=7)
    return [[draw(one) for _ in range(batch)] for _ in range(num)]


def check(merged: Candidates, rows: list[list[list[int]]], expected: list[list[int]], size: int) -> None:
    """Items, empty slots and provenance."""
    assert merged.items.shape == (len(expected), size)
    assert merged.channels == NAMES[: len(rows)]
    for b, wanted in enumerate(expected):
        empty = size - len(wanted)
        assert merged.items[b].tolist() == wanted + [0] * empty
        assert torch.isneginf(merged.scores[b, len(wanted) :]).all()
        assert torch.isfinite(merged.scores[b, : len(wanted)]).all()
        assert (merged.scores[b, :-1] >= merged.scores[b, 1:]).all()
        ranks = [[of[b].index(i) + 1 if i in of[b] else 0 for of in rows] for i in wanted]
        assert merged.ranks[b].tolist() == ranks + [[0] * len(rows)] * empty
        scores = [[100.0 * (c + 1) - r if r else 0.0 for c, r in enumerate(of)] for of in ranks]
        assert merged.channel_scores[b].tolist() == scores + [[0.0] * len(rows)] * empty


@given(channels(), st.lists(st.integers(0, 5), min_size=4, max_size=4), st.integers(1, 14))
@settings(deadline=None, max_examples=100)
def test_quota_equals_the_loop(rows: list[list[list[int]]], quotas: list[int], size: int) -> None:
    lists, quotas = [candidates(NAMES[c], of, c % 3) for c, of in enumerate(rows)], quotas[: len(rows)]
    merged = merge_quota(lists, quotas, size)
    batch = range(len(rows[0]))
    check(merged, rows, [quota_loop([c[b] for c in rows], quotas, size) for b in batch], size)
    assert torch.equal(merged.rescored(merged.scores).items, merged.items), "the scores reproduce the order"


@given(
    channels(),
    st.sampled_from([0.0, 1.0, 60.0]),
    st.integers(1, 14),
)
@settings(deadline=None, max_examples=100)
def test_rrf_equals_the_loop(rows: list[list[list[int]]], constant: float, size: int) -> None:
    lists = [candidates(NAMES[c], of, c % 3) for c, of in enumerate(rows)]
    merged = merge_rrf(lists, size, constant)
    expected = [rrf_loop([c[b] for c in rows], constant, size) for b in range(len(rows[0]))]
    check(merged, rows, [[item for item, _ in row] for row in expected], size)
    for b, row in enumerate(expected):
        assert merged.scores[b, : len(row)].tolist() == pytest.approx([score for _, score in row], rel=1e-6)


def test_every_channel_keeps_its_quota() -> None:
    strong, weak = candidates("a", [[1, 2, 3, 4, 5, 6]], 0), candidates("b", [[7, 8, 9]], 0)
    assert merge_quota([strong, weak], [4, 1], 5).items.tolist() == [[1, 7, 2, 3, 4]]
    assert merge_quota([strong, weak], [4, 0], 6).items.tolist() == [[1, 2, 3, 4, 5, 7]]


def test_what_two_channels_agree_on_comes_first_under_rrf() -> None:
    merged = merge_rrf([candidates("a", [[1, 2, 3]], 0), candidates("b", [[4, 3, 5]], 0)], 3)
    assert merged.items.tolist() == [[3, 1, 4]]
    assert merged.scores[0, 0].item() == pytest.approx(1 / 63 + 1 / 62)


def test_places_far_down_a_list_keep_their_order() -> None:
    n = 3000
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)) + 1
    one = Candidates.of_channel("a", order[None], torch.linspace(1, 0, n)[None])
    two = Candidates.of_channel("b", torch.zeros(1, n, dtype=torch.int64), torch.zeros(1, n))
    for merged in (merge_rrf([one, two], n), merge_quota([one, two], [5, 5], n)):
        assert torch.equal(merged.items[0], order)
        assert (merged.scores[0, :-1] > merged.scores[0, 1:]).all()


def test_no_requests_give_no_rows() -> None:
    none = Candidates.of_channel("a", torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 4))
    assert merge_rrf([none], 3).items.shape == merge_quota([none], [1], 3).items.shape == (0, 3)


@pytest.mark.parametrize(
    "merge",
    [
        lambda a, b: merge_quota([], [], 3),
        lambda a, b: merge_quota([a, b], [1], 3),
        lambda a, b: merge_quota([a, b], [1, -1], 3),
        lambda a, b: merge_quota([a, b], [1, 1], 0),
        lambda a, b: merge_quota([a, a], [1, 1], 3),
        lambda a, b: merge_rrf([a, b], 3, constant=-1.0),
        lambda a, b: merge_rrf([merge_rrf([a, b], 3)], 3),
    ],
)
def test_misuse_is_refused(merge: Callable[[Candidates, Candidates], Candidates]) -> None:
    with pytest.raises(ValueError, match="channel"):
        merge(candidates("a", [[1, 2]], 0), candidates("b", [[2]], 0))
