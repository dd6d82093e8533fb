"""What histories are read with, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.papers.ulim.sequences import (
    GAPS,
    PooledSelfAttention,
    TargetAttention,
    gap_buckets,
    padded,
    segments_of,
)


def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def test_target_attention_has_the_same_gradient_every_time_with_several_threads() -> None:
    torch.manual_seed(0)
    attention, threads = TargetAttention(32, 2), torch.get_num_threads()
    queries, x = torch.randn(128, 32), torch.randn(12_800, 32)
    segments = torch.randint(0, 128, (len(x),)).sort().values
    torch.set_num_threads(4)
    try:
        found = set()
        for _ in range(20):
            attention.zero_grad()
            attention(queries, x, segments).square().sum().backward()
            assert attention.query.weight.grad is not None
            found.add(attention.query.weight.grad.numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


@settings(deadline=None, max_examples=30)
@given(queries=st.integers(0, 5), actions=st.integers(0, 12), heads=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_target_attention_is_a_softmax_over_each_querys_own_segment(
    queries: int, actions: int, heads: int, seed: int
) -> None:
    torch.manual_seed(seed)
    attention = TargetAttention(8, heads).double()
    q, x = torch.randn(queries, 8).double(), torch.randn(actions if queries else 0, 8).double()
    segments = torch.randint(0, max(queries, 1), (len(x),)).sort().values
    found = attention(q, x, segments).detach().numpy()
    keys, values = np.split(linear(attention.keys_values, x.numpy()), 2, axis=1)
    asks = linear(attention.query, q.numpy())
    for row in range(queries):
        own = np.flatnonzero(segments.numpy() == row)
        mixed = np.zeros(8)
        for h in range(heads):
            part = slice(h * 8 // heads, (h + 1) * 8 // heads)
            logits = [float(asks[row, part] @ keys[j, part]) / math.sqrt(8 / heads) for j in own]
            total = sum(math.exp(v) for v in logits)
            for j, v in zip(own, logits, strict=True):
                mixed[part] += math.exp(v) / total * values[j, part]
        expected = linear(attention.out, mixed) if len(own) else np.zeros(8)
        np.testing.assert_allclose(found[row], expected, atol=1e-9)


def test_large_logits_do_not_overflow() -> None:
    attention = TargetAttention(4, 1)
    x = 1e4 * torch.randn(6, 4)
    assert torch.isfinite(attention(100 * torch.ones(2, 4), x, torch.tensor([0, 0, 0, 1, 1, 1]))).all()


def test_self_attention_is_a_mean_over_attended_places_and_knows_no_padding() -> None:
    torch.manual_seed(0)
    encoder = PooledSelfAttention(8, 2, 0.0).eval().double()
    x = torch.randn(1, 3, 8).double()
    real = torch.ones(1, 3, dtype=torch.bool)
    q, k, v = np.split(linear(encoder.qkv, encoder.norm(x[0]).detach().numpy()), 3, axis=1)
    pooled = np.zeros(8)
    for s in range(3):
        mixed = np.zeros(8)
        for h in range(2):
            part = slice(4 * h, 4 * h + 4)
            weights = np.exp([q[s, part] @ k[j, part] / 2 for j in range(3)])
            mixed[part] = weights / weights.sum() @ v[:, part]
        pooled += (x[0, s].numpy() + linear(encoder.out, mixed)) / 3
    np.testing.assert_allclose(encoder(x, real)[0].detach().numpy(), pooled, atol=1e-9)
    longer = torch.cat([x, torch.randn(1, 4, 8).double()], 1)
    mask = torch.arange(7)[None] < 3
    torch.testing.assert_close(encoder(longer, mask), encoder(x, real))
    assert not encoder(longer, mask & False).any()
    assert encoder(x[:, :0], real[:, :0]).shape == (1, 8)


def test_nothing_real_has_a_gradient_of_zero() -> None:
    encoder = PooledSelfAttention(4, 1, 0.0)
    x = torch.randn(2, 3, 4, requires_grad=True)
    real = torch.tensor([[True, True, False], [False, False, False]])
    encoder(x, real).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert not x.grad[1].any()
    assert not x.grad[0, 2].any()


@settings(deadline=None, max_examples=50)
@given(
    batch=st.integers(0, 4),
    length=st.integers(0, 15),
    asked=st.integers(0, 4),
    longest=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_subsequences_are_those_a_loop_picks(batch: int, length: int, asked: int, longest: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    history = torch.from_numpy(rng.integers(0, 6, (batch, length)))
    inside = torch.from_numpy(rng.random((batch, length)) < 0.7)
    wanted = [rng.permutation(5)[:asked] + 1 for _ in range(batch)]
    categories = torch.from_numpy(np.array(wanted).reshape(batch, asked)).long()
    if asked > 1:
        categories[:, -2:] = 0  # nothing asked for in these places
    places, segments = segments_of(history, inside, categories, longest, 5)
    expected = []
    for b in range(batch):
        for k in range(asked):
            c = int(categories[b, k])
            own = [b * length + s for s in range(length) if c and inside[b, s] and history[b, s] == c]
            expected += [(place, b * asked + k) for place in own[-longest:]]
    assert list(zip(places.tolist(), segments.tolist(), strict=True)) == expected


def test_a_flat_sequence_is_padded_only_where_asked_for() -> None:
    x = torch.arange(8.0).view(4, 2)
    blocks, real = padded(x, torch.tensor([0, 2, 2, 2]), 3)
    assert real.tolist() == [[True, False, False], [False, False, False], [True, True, True]]
    assert torch.equal(blocks[2], x[1:])
    assert torch.equal(blocks[0, 0], x[0])
    assert padded(x[:0], torch.zeros(0).long(), 0)[0].shape == (0, 0, 2)


@pytest.mark.parametrize(("minutes", "bucket"), [(-5, 0), (0, 0), (0.9, 0), (1, 1), (3, 2), (62, 5), (63, 6)])
def test_gaps_double(minutes: float, bucket: int) -> None:
    now = torch.tensor([10**12])
    assert gap_buckets(now, now - int(60_000 * minutes)).tolist() == [bucket]


def test_the_longest_gap_is_in_the_last_bucket() -> None:
    assert gap_buckets(torch.tensor([2**62]), torch.tensor([0])).tolist() == [GAPS - 1]
