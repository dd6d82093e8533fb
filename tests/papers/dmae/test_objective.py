"""IDDU: P counted in loops, each distance against its formula, the printed one's fault, and what may be masked."""

from __future__ import annotations

import logging
import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.baselines.ranking.content import interest_distribution
from penchant.errors import ConfigError
from penchant.papers.dmae.objective import (
    DMAEObjective,
    DMAEObjectiveConfig,
    decoding_distance,
)
from tests.papers.dmae.test_dmae import made
from tests.rank_inputs import labelled, some_inputs


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 12), st.integers(1, 6), st.integers(1, 6), st.integers(0, 999))
def test_eq_10_counts_known_actions_by_time_and_similarity(length: int, slices: int, bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    width = length + 2  # padding
    r = torch.from_numpy(rng.choice([0.0, 0.2, 0.25, 0.5, 0.7, 1.0], size=(1, 1, width))).float()
    known = torch.from_numpy(rng.random((1, 1, width)) < 0.8)
    known[..., length:] = False
    ago = length - 1 - torch.arange(width)[None]
    p = interest_distribution(r, known, ago, slices=slices, bins=bins)[0, 0].view(slices, bins)
    counted: Counter[tuple[int, int]] = Counter()
    for s in range(length):
        if known[0, 0, s]:
            i = (length - 1 - s) * slices // length
            # c_1 = [0, 1/n], c_2 = (1/n, 2/n], ..
            j = next(j for j in range(bins) if float(r[0, 0, s]) * bins <= j + 1 + 1e-6)
            counted[i, j] += 1
    expected = torch.zeros(slices, bins)
    for cell, count in counted.items():
        expected[cell] = count / sum(counted.values())
    torch.testing.assert_close(p, expected)
    assert float(p.sum()) == pytest.approx(1.0 if counted else 0.0)


def random_pair(slices: int = 3, bins: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(6, slices * bins, generator=generator)
    p = torch.rand(6, slices * bins, generator=generator) * (torch.rand(6, slices * bins, generator=generator) < 0.5)
    return x, p / p.sum(1, keepdim=True)


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True) if a > 0)


@pytest.mark.parametrize("q", ["softmax", "literal", "generalised_kl", "row_softmax", "cells", "earth_mover"])
def test_each_distance_is_its_formula(q: Any) -> None:
    x, p = random_pair()
    config = DMAEObjectiveConfig(slices=3, bins=4, q=q)
    got = decoding_distance(x, p, config)
    for n in range(len(x)):
        logits, target = x[n].double().numpy(), p[n].double().numpy()
        sigmoid = 1 / (1 + np.exp(-logits))
        softmax = np.exp(logits) / np.exp(logits).sum()
        if q == "softmax":
            expected = _kl(target, softmax)
        elif q == "literal":
            expected = _kl(target, sigmoid)
        elif q == "generalised_kl":
            expected = _kl(target, sigmoid) + sigmoid.sum() - target.sum()
        elif q == "row_softmax":
            expected = 0.0
            for row, logit in zip(target.reshape(3, 4), logits.reshape(3, 4), strict=True):
                if row.sum() > 0:
                    expected += row.sum() * _kl(row / row.sum(), np.exp(logit) / np.exp(logit).sum())
        elif q == "cells":
            expected = sum(
                (a * math.log(a / b) if a else 0) + ((1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0)
                for a, b in zip(target.tolist(), sigmoid.tolist(), strict=True)
            )
        else:
            moved = np.abs(np.cumsum((target - softmax).reshape(3, 4), axis=1)).sum()
            expected = moved / 4
        assert float(got[n]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("q", ["softmax", "generalised_kl", "cells"])
def test_the_least_distance_is_at_the_distribution_itself(q: Any) -> None:
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    config = DMAEObjectiveConfig(slices=2, bins=2, q=q)
    right = p.log() if q == "softmax" else torch.logit(p)
    assert float(decoding_distance(right, p, config)) == pytest.approx(0.0, abs=1e-5)
    for _ in range(20):
        assert float(decoding_distance(right + torch.randn(1, 4), p, config)) > 0


def test_as_printed_the_loss_wants_every_cell_at_one_whatever_the_history() -> None:
    """The erratum: the larger every q, the lower; its least value is -H(P), and biases alone reach it."""
    _, p = random_pair()
    config = DMAEObjectiveConfig(slices=3, bins=4, q="literal")
    entropy = torch.special.entr(p).sum(1)
    values = [decoding_distance(torch.full_like(p, bias), p, config) for bias in (0.0, 2.0, 5.0, 20.0)]
    assert all(bool((later < earlier).all()) for earlier, later in pairwise(values))
    torch.testing.assert_close(values[-1], -entropy, atol=1e-5, rtol=1e-4)
    x = torch.full_like(p, 20.0, requires_grad=True)
    decoding_distance(x, p, config).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) < 1e-6  # nothing is left to learn


def test_the_literal_form_says_what_it_does(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        DMAEObjective(DMAEObjectiveConfig(), ("text",), 4)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        DMAEObjective(DMAEObjectiveConfig(q="literal"), ("text",), 4)
    assert "teaches the encoder nothing" in caplog.text


def test_only_candidates_of_which_something_is_known_are_told_and_masking_is_for_training_alone() -> None:
    model, batch = made(), labelled(some_inputs())
    objective = DMAEObjective(DMAEObjectiveConfig(masked=0.5), ("text", "image"), 4)
    interests = model.interests(batch.inputs)
    known = (interests.similarities.known[:, :, 0].any(2) & batch.mask).sum()
    whole = objective.eval().told(interests, 0, batch.mask)
    assert len(whole.p) == int(known) < batch.mask.numel()
    torch.testing.assert_close(whole.p.sum(1), torch.ones(len(whole.p)))
    again = objective.told(interests, 0, batch.mask)
    assert torch.equal(whole.pooled, again.pooled)
    torch.manual_seed(0)
    one, other = (objective.train().told(interests, 0, batch.mask) for _ in range(2))
    assert one.pooled.shape != other.pooled.shape or not torch.equal(one.pooled, other.pooled)


def test_the_decoding_loss_reaches_mieu_and_the_window_and_nothing_after_them() -> None:
    """D16: the cross-attention comes after r_hat and gets no gradient of it."""
    model, batch = made(), labelled(some_inputs())
    objective = DMAEObjective(DMAEObjectiveConfig(), ("text", "image"), 4)
    torch.manual_seed(0)
    objective(model, batch)["decode_text"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert {"encoders.0.bucket.weight", "encoders.0.w", "windows.0.qkv.weight"} < reached
    assert not {name for name in reached if name.startswith(("crosses", "body", "unit", "encoders.1", "windows.1"))}


def test_a_batch_without_anything_known_has_no_decoding_loss() -> None:
    model = made()
    model.content.present[:] = False
    objective = DMAEObjective(DMAEObjectiveConfig(), ("text", "image"), 4)
    terms = objective(model, labelled(some_inputs()))
    assert float(terms["decode_text"].detach()) == 0.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decode": -1.0}, "decode is -1.0. Set decode to 0 or more"),
        ({"masked": 1.0}, "masked is 1.0"),
        ({"slices": 0}, "slices is 0. Set slices to 1 or more"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DMAEObjectiveConfig(**values)
