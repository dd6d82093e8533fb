"""Numbers of vectors and lists, each against a plain loop; and what collapse looks like in them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.evaluation.diagnostics import vectors as v
from penchant.evaluation.diagnostics.charts import Curve, log_curves
from tests.evaluation.models import walker

quick = settings(deadline=None, max_examples=40)


def drawn(seed: int, n: int = 30, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)) @ np.diag(np.arange(1.0, width + 1))


@quick
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 7))
def test_the_spectrum_is_that_of_singular_values(seed: int, n: int, width: int) -> None:
    x = drawn(seed, n, width)
    energy = np.linalg.svd(x, compute_uv=False) ** 2
    shares = np.zeros(width)
    shares[: len(energy)] = energy / energy.sum()
    found = v.spectrum(x)
    assert found == pytest.approx(shares, abs=1e-9)
    assert v.effective_rank(found) == pytest.approx(np.exp(-sum(p * np.log(p) for p in shares if p > 1e-13)), rel=1e-6)
    assert v.stable_rank(found) == pytest.approx(energy.sum() / energy[0])
    assert 1 - 1e-9 <= v.stable_rank(found) <= v.effective_rank(found) + 1e-9 <= min(n, width) + 1e-6


@quick
@given(st.integers(0, 2**31), st.integers(2, 12))
def test_cosine_and_uniformity_are_means_over_all_pairs(seed: int, n: int) -> None:
    x = drawn(seed, n)
    pairs = [(x[i] / np.linalg.norm(x[i]), x[j] / np.linalg.norm(x[j])) for i in range(n) for j in range(n) if i != j]
    assert v.mean_cosine(x) == pytest.approx(np.mean([a @ b for a, b in pairs]))
    assert v.uniformity(x) == pytest.approx(np.log(np.mean([np.exp(-2 * ((a - b) ** 2).sum()) for a, b in pairs])))
    y = drawn(seed + 1, n)
    apart = [((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2).sum() for a, b in zip(x, y, strict=True)]
    assert v.alignment(x, y) == pytest.approx(np.mean(apart))


def test_vectors_on_one_line_have_collapsed() -> None:
    line = np.arange(1.0, 21)[:, None] * np.array([[1.0, -2, 3, 0.5]])
    shares = v.spectrum(line)
    assert v.effective_rank(shares) == pytest.approx(1)
    assert v.stable_rank(shares) == pytest.approx(1)
    assert v.mean_cosine(line) == pytest.approx(1)
    assert v.uniformity(line) == pytest.approx(0, abs=1e-9)


def test_vectors_along_all_axes_have_not() -> None:
    axes = np.concatenate([np.eye(6), -np.eye(6)])
    assert v.effective_rank(v.spectrum(axes)) == pytest.approx(6)
    assert v.mean_cosine(axes) == pytest.approx(-1 / 11)  # each has one opposite
    assert v.uniformity(axes) < -3


def test_nothing_to_compare_is_no_number() -> None:
    one = np.ones((1, 3))
    assert np.isnan(v.mean_cosine(one))
    assert np.isnan(v.uniformity(one))
    assert np.isnan(v.alignment(one[:0], one[:0]))
    assert v.effective_rank(v.spectrum(np.zeros((4, 3)))) == 1.0
    assert v.stable_rank(v.spectrum(np.zeros((4, 3)))) == 0.0


def test_uniformity_looks_at_a_stated_sample_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v, "PAIRED", 50)
    x = drawn(3, 400)
    assert v.uniformity(x, seed=1) == v.uniformity(x, seed=1) != v.uniformity(x, seed=2)
    monkeypatch.setattr(v, "PAIRED", 400)
    assert v.uniformity(x, seed=1) == pytest.approx(v.uniformity(x, seed=2))


@quick
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 6))
def test_hubness_is_counted_list_by_list(seed: int, lists: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    shown = np.stack([rng.permutation(9)[:depth] for _ in range(lists)])  # 0 is an empty slot
    counts = v.occurrences(shown, 8)
    assert counts.tolist() == [sum(item in row for row in shown.tolist()) for item in range(1, 9)]
    mean, sd = counts.mean(), counts.std()
    assert v.skew(counts) == pytest.approx(np.mean([((c - mean) / sd) ** 3 for c in counts]) if sd else 0.0)
    trained = rng.integers(0, 5, 9)
    popular = set(sorted(range(1, 9), key=lambda item: (-trained[item], item))[:4])
    inside = [set(row) - {0} <= popular for row in shown.tolist() if any(row)]
    found = v.within_popular(shown, trained, top=4)
    assert found == pytest.approx(np.mean(inside)) if inside else np.isnan(found)


def test_an_item_in_every_list_is_skew() -> None:
    even = np.full(100, 5)
    hub = even.copy()
    hub[3] = 400
    assert v.skew(even) == 0.0
    assert v.skew(hub) > 5


def test_a_model_beside_its_items_is_the_same_model() -> None:
    model = walker(12, whole=False)
    model.train()
    beside = v.with_items(model)
    assert model.training
    assert beside.training
    assert torch.equal(beside.item_vectors(), model.vectors)
    assert not beside.item_vectors().requires_grad
    model.train(False)
    assert not v.with_items(model).training


def test_what_validation_tells_leaves_padding_out() -> None:
    x = torch.from_numpy(drawn(5, 20)).float()
    x[0] = 1e6
    told = v.item_spread(x)
    assert told["Effective rank"] == pytest.approx(v.effective_rank(v.spectrum(x[1:].numpy())))
    assert told["Mean cosine"] == pytest.approx(v.mean_cosine(x[1:].numpy()))


def test_axes_of_hubs_end_where_the_values_do() -> None:
    curve = Curve(np.array([0.5, 0.1, 1 / 132]), "ink")
    drawn = log_curves([curve], "Hubs", "rank", "share", floor=1 / 132)
    ticks = {
        float(said): float(y)
        for y, said in re.findall(r'y="([\d.]+)" class="t-tick" text-anchor="end">([\d.e-]+)<', drawn)
    }
    assert set(ticks) >= {1.0, 0.1, 0.01}
    assert 0.001 not in ticks  # below the smallest value shown
    assert ticks[0.01] - ticks[0.1] == pytest.approx(ticks[0.1] - ticks[1.0], abs=0.2)  # a decade is a decade
