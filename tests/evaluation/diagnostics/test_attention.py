"""Attention's numbers against plain loops, and what even and barcode-like maps come to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.evaluation.diagnostics.attention import barcode, head_numbers, read_maps

quick = settings(deadline=None, max_examples=40)


def some_map(seed: int, length: int, *, causal: bool) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(length, length)) * 2
    weights = np.exp(logits) * (np.tril(np.ones((length, length))) if causal else 1)
    return weights / weights.sum(1, keepdims=True)


def even_map(length: int) -> np.ndarray:
    lower = np.tril(np.ones((length, length)))
    return lower / lower.sum(1, keepdims=True)


@quick
@given(st.integers(0, 2**31), st.lists(st.integers(6, 12), min_size=1, max_size=4), st.booleans())
def test_numbers_of_a_head_are_those_of_a_loop(seed: int, lengths: list[int], causal: bool) -> None:
    maps = [some_map(seed + i, n, causal=causal) for i, n in enumerate(lengths)]
    found = head_numbers(maps, causal=causal)
    entropy, first, column = [], [], []
    for weights, n in zip(maps, lengths, strict=True):
        queries = range(n // 2, n) if causal else range(n)
        keys = range(n // 2) if causal else range(n)
        of_query = []
        for q in range(1 if causal else 0, n):
            seen = q + 1 if causal else n
            of_query.append(-sum(p * np.log(p) for p in weights[q] if p > 0) / np.log(seen))
        entropy.append(np.mean(of_query))
        first.append(np.mean([weights[q, 0] for q in queries]))
        column.append(max(np.mean([weights[q, k] for q in queries]) for k in keys if k))
    assert found.entropy == pytest.approx(np.mean(entropy))
    assert found.first == pytest.approx(np.mean(first))
    assert found.column == pytest.approx(np.mean(column))
    assert 0 <= found.barcode <= 1 + 1e-12
    assert 0 <= found.barcode_beyond <= 1 + 1e-12


@quick
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(2, 6))
def test_barcode_is_the_columns_share_of_the_variance(seed: int, queries: int, keys: int) -> None:
    block = np.random.default_rng(seed).random((queries, keys)) + 0.01
    rows = [row / row.sum() for row in block]
    columns = [np.mean([row[k] for row in rows]) for k in range(keys)]
    assert barcode(block) == pytest.approx(np.var(columns) / np.var(np.stack(rows)))


def test_queries_that_all_look_alike_are_a_barcode() -> None:
    liking = np.array([0.1, 3.0, 0.2, 2.0, 0.3, 1.0, 0.1, 0.5])
    weights = np.tril(np.tile(liking, (8, 1)))
    alike = head_numbers([weights / weights.sum(1, keepdims=True)], causal=True)
    assert alike.barcode == pytest.approx(1)
    assert alike.barcode_beyond == pytest.approx(1)
    both_ways = head_numbers([np.tile(liking / liking.sum(), (8, 1))], causal=False)
    assert both_ways.barcode == pytest.approx(1)


def test_even_attention_is_none() -> None:
    even = head_numbers([even_map(9)], causal=True)
    assert even.entropy == pytest.approx(1)
    assert even.barcode == even.barcode_beyond == 0
    each_itself = head_numbers([np.eye(6)], causal=False)
    assert each_itself.barcode == pytest.approx(0)
    assert each_itself.entropy == 0


def test_a_rest_on_position_0_is_told_apart() -> None:
    weights = np.zeros((8, 8))
    weights[:, 0] = 1
    rest = head_numbers([weights], causal=True)
    assert rest.first == rest.barcode == pytest.approx(1)
    assert rest.column == rest.barcode_beyond == rest.entropy == 0


def test_padding_is_not_read_and_only_what_is_there_is_drawn() -> None:
    lengths, width = [8, 6], 8
    maps = [np.full((2, 3, width, width), 9.0) for _ in range(2)]
    for layer in range(2):
        for i, n in enumerate(lengths):
            for head in range(3):
                maps[layer][i, head, :n, :n] = some_map(100 * layer + 10 * i + head, n, causal=True)
    found = read_maps(
        "decoder", "trained", maps, lengths, causal=True, layers=[1, 2, 7], heads=[3, 4], labels=list("abcdefgh")
    )
    assert sorted(found.pictures) == [(1, 3), (2, 3)]
    assert np.array_equal(found.pictures[2, 3], maps[1][0, 2])
    expected = head_numbers([maps[1][0, 1], maps[1][1, 1, :6, :6]], causal=True)
    assert found.heads[1][1] == expected
    assert found.mean("entropy") == pytest.approx(np.mean([h.entropy for layer in found.heads for h in layer]))


@pytest.mark.parametrize("maps", [[], [np.eye(5)]])
def test_maps_too_short_are_refused(maps: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="6 positions or more"):
        head_numbers(maps, causal=True)
