"""K+1 lists become one: against a loop that fills one place after the other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.funnel.interests import InterestLists, interest_keys, merge_interests


def some_lists(seed: int, items: int, categories: int, searched: int, depth: int) -> tuple[InterestLists, np.ndarray]:
    """Lists of one request as a search would find them: every item has one category, the short list knows all items."""
    rng = np.random.default_rng(seed)
    of = rng.integers(1, categories + 1, items)
    short, long = rng.permutation(items).astype(float) / 4, rng.permutation(items).astype(float) / 4
    short_items = np.argsort(-short)[:depth]
    found = np.zeros((searched, depth), int)
    scores = np.full((searched, depth), -np.inf)
    mass = np.full(searched, -np.inf)
    weights = np.sort(rng.dirichlet(np.ones(searched)))[::-1].copy()
    for k in range(min(searched, categories)):
        own = np.flatnonzero(of == k + 1)
        if len(own):
            mass[k] = np.log(np.exp(long[own]).sum())
        own = own[np.argsort(-long[own])][:depth]
        found[k, : len(own)], scores[k, : len(own)] = own + 1, long[own]
    parts = (short_items + 1, short[short_items], found, scores, mass, weights)
    a, b, c, d, e, f = (torch.from_numpy(np.asarray(part))[None] for part in parts)
    return InterestLists(a, b, c, d, e, f), of


def by_loop(lists: InterestLists, size: int, how: str, share: float) -> list[int]:
    """One place after the other."""
    short = [i for i in lists.short_items[0].tolist() if i]
    long = [[i for i in row if i] for row in lists.items[0].tolist()]
    weights, scores = lists.weights[0].tolist(), lists.scores[0].tolist()
    assert lists.log_mass is not None
    if how != "quota":
        entries = []
        for k, row in enumerate(long):
            for r, item in enumerate(row):
                log_p = math.log(weights[k]) + scores[k][r] - float(lists.log_mass[0, k])
                entries.append((-log_p if how == "factorised" else -scores[k][r], k + 1, r, item))
        after = max((e[0] for e in entries), default=0.0) + 1
        for r, item in enumerate(short):
            entries.append((after + r if how == "factorised" else -float(lists.short_scores[0, r]), 0, r, item))
        ordered = [item for *_, item in sorted(entries)]
        return list(dict.fromkeys(ordered))[:size]
    total = sum(w for w, row in zip(weights, long, strict=True) if row)
    queues = [short, *long]
    shares = [share, *((1 - share) * w / total if row else 0.0 for w, row in zip(weights, long, strict=True))]
    gone = [0] * len(queues)
    placed: list[int] = []
    while len(placed) < size:
        behind = [
            ((gone[j] + 0.5) / shares[j], j) for j, queue in enumerate(queues) if gone[j] < len(queue) and shares[j] > 0
        ]
        if not behind:
            break
        _, j = min(behind)
        item = queues[j][gone[j]]
        gone[j] += 1
        if item not in placed:
            placed.append(item)
    return placed


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 9999),
    items=st.integers(1, 30),
    categories=st.integers(1, 6),
    searched=st.integers(0, 6),
    depth=st.integers(1, 30),
    size=st.integers(1, 40),
    how=st.sampled_from(["quota", "factorised", "raw"]),
    share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_the_merged_list_is_the_one_a_loop_fills(
    seed: int, items: int, categories: int, searched: int, depth: int, size: int, how: Any, share: float
) -> None:
    lists, _ = some_lists(seed, items, categories, searched, min(depth, items))
    merged = merge_interests(lists, size, how, share)
    assert merged.items.shape == merged.keys.shape == merged.source.shape == (1, size)
    found = [i for i in merged.items[0].tolist() if i]
    assert found == by_loop(lists, size, how, share)
    assert merged.items[0].tolist() == found + [0] * (size - len(found))
    assert torch.isinf(merged.keys[0, len(found) :]).all()
    assert (merged.keys[0, : len(found)].diff() >= 0).all()
    for item, source in zip(found, merged.source[0].tolist(), strict=False):
        assert item in (lists.short_items[0] if source == 0 else lists.items[0, source - 1])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 9999), how=st.sampled_from(["quota", "factorised", "raw"]), n=st.integers(1, 20))
def test_shorter_lists_are_the_beginning_of_longer_ones(seed: int, how: Any, n: int) -> None:
    lists, _ = some_lists(seed, 30, 4, 3, 30)
    assert torch.equal(merge_interests(lists, n, how).items, merge_interests(lists, 25, how).items[:, :n])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 9999))
def test_every_list_has_its_share_of_the_first_places(seed: int) -> None:
    """Lists without an item in common, none exhausted: at each length within one place of the share."""
    rng = np.random.default_rng(seed)
    weights = torch.from_numpy(rng.dirichlet(np.ones(4)))[None]
    items = 1000 + torch.arange(4 * 200).view(1, 4, 200)
    scores = torch.zeros(1, 4, 200)
    lists = InterestLists(torch.arange(1, 201)[None], torch.zeros(1, 200), items, scores, torch.zeros(1, 4), weights)
    source = merge_interests(lists, 200, "quota", 0.5).source[0]
    counts = torch.nn.functional.one_hot(source, 5).cumsum(0)
    shares = torch.cat([torch.tensor([0.5]), 0.5 * weights[0]])
    assert ((counts - torch.arange(1, 201)[:, None] * shares).abs() < 2).all()


def test_rows_do_not_depend_on_each_other() -> None:
    one, two = (some_lists(seed, 20, 4, 3, 20)[0] for seed in (1, 2))
    names = ("short_items", "short_scores", "items", "scores", "log_mass", "weights")
    a, b, c, d, e, f = (torch.cat([getattr(x, name) for x in (one, two)]) for name in names)
    both = InterestLists(a, b, c, d, e, f)
    for how in ("quota", "factorised", "raw"):
        merged = merge_interests(both, 15, how)
        for row, alone in enumerate((one, two)):
            assert torch.equal(merged.items[row], merge_interests(alone, 15, how).items[0])


def test_factorised_lists_need_their_mass() -> None:
    lists, _ = some_lists(3, 12, 3, 3, 12)
    with pytest.raises(ValueError, match="log_mass"):
        interest_keys(replace(lists, log_mass=None), "factorised")


def test_factorised_is_the_log_probability_of_category_and_item() -> None:
    lists, of = some_lists(3, 12, 3, 3, 12)
    _, long = interest_keys(lists, "factorised")
    total = sum(math.exp(-k) for k in long[lists.items > 0].tolist())
    searched = lists.weights[0, [k for k in range(3) if (of == k + 1).any()]]
    assert total == pytest.approx(float(searched.sum()))


def test_nothing_found_is_nothing_merged() -> None:
    empty = InterestLists(
        torch.zeros(2, 3).long(),
        torch.full((2, 3), -torch.inf),
        torch.zeros(2, 2, 0).long(),
        torch.zeros(2, 2, 0),
        torch.full((2, 2), -torch.inf),
        torch.zeros(2, 2),
    )
    for how in ("quota", "factorised", "raw"):
        merged = merge_interests(empty, 4, how)
        assert not merged.items.any()
        assert torch.isinf(merged.keys).all()


def test_impossible_shares_and_sizes_are_refused() -> None:
    lists, _ = some_lists(0, 5, 2, 2, 5)
    for share in (1.5, -0.1):
        with pytest.raises(ValueError, match="short_share is"):
            interest_keys(lists, "quota", share)
    with pytest.raises(ValueError, match="size is 0"):
        merge_interests(lists, 0)
