"""Metrics against hand values, plain loops, ir-measures and scikit-learn."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, R, Success, nDCG
from sklearn import metrics as sk

from penchant.evaluation import metrics

quick = settings(deadline=None, max_examples=40)
ranks = st.lists(st.integers(1, 30), min_size=1, max_size=30)


def test_hand_values() -> None:
    r = np.array([1.0, 3.0, 10.5, np.inf])
    assert metrics.hr_at(r, 10).tolist() == [1, 1, 0, 0]
    assert metrics.hr_at(r, 11).tolist() == [1, 1, 1, 0]
    assert metrics.ndcg_at(r, 3).tolist() == [1.0, 0.5, 0.0, 0.0]
    assert metrics.mrr_at(r, 3).tolist() == [1.0, pytest.approx(1 / 3), 0.0, 0.0]


@quick
@given(ranks, st.integers(1, 12))
def test_rank_metrics_agree_with_ir_measures(places: list[int], k: int) -> None:
    measures = {"HR": Success @ k, "Recall": R @ k, "NDCG": nDCG @ k, "MRR": RR @ k}
    qrels = [ir_measures.Qrel(str(q), "target", 1) for q in range(len(places))]
    run = [
        ir_measures.ScoredDoc(str(q), "target" if p == place else f"d{p}", -float(p))
        for q, place in enumerate(places)
        for p in range(1, 31)
    ]
    theirs = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
    for name, measure in measures.items():
        ours = metrics.RANK_METRICS[name](np.array(places, dtype=np.float64), k).mean()
        assert ours == pytest.approx(theirs[measure]), name


def test_exposure_leaves_empty_slots_out() -> None:
    lists = np.array([[1, 2, 0], [2, 0, 0]])
    assert metrics.exposure(lists, 4).tolist() == [0, 1, 2, 0, 0]
    assert metrics.coverage(metrics.exposure(lists, 4)) == 0.5


@quick
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any))
def test_gini_is_the_mean_absolute_difference_over_twice_the_mean(x: list[int]) -> None:
    n = len(x)
    loop = sum(abs(a - b) for a in x for b in x) / (2 * n * sum(x))
    assert metrics.gini(np.array([0, *x])) == pytest.approx(loop)


def test_gini_of_equal_exposure_is_zero_and_of_none_is_undefined() -> None:
    assert metrics.gini(np.array([0, 3, 3, 3])) == pytest.approx(0)
    assert math.isnan(metrics.gini(np.array([0, 0, 0])))


def test_novelty_is_bits_of_the_training_share_and_a_cold_item_counts_as_seen_once() -> None:
    train = np.array([0, 6, 2, 0])
    assert metrics.novelty(np.array([0, 0, 1, 0]), train) == pytest.approx(2.0)  # 2 of 8
    assert metrics.novelty(np.array([0, 0, 1, 3]), train) == pytest.approx((2 + 3 * 3) / 4)  # 1 of 8 = 3 bits


scored = st.lists(st.tuples(st.booleans(), st.integers(-4, 4), st.integers(0, 3)), min_size=1, max_size=60)


@quick
@given(scored)
def test_auc_agrees_with_scikit_learn_and_ties_count_half(rows: list[tuple[bool, int, int]]) -> None:
    labels, scores = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], dtype=np.float64)
    if labels.all() or not labels.any():
        assert math.isnan(metrics.auc(labels, scores))
    else:
        assert metrics.auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores))


@quick
@given(scored)
def test_gauc_is_the_impression_weighted_mean_of_groups_of_both_classes(rows: list[tuple[bool, int, int]]) -> None:
    labels, scores, groups = (np.array(x) for x in zip(*rows, strict=True))
    total = weight = left_out = 0
    for g in sorted(set(groups.tolist())):
        inside = groups == g
        if len(set(labels[inside].tolist())) < 2:
            left_out += 1
            continue
        total += inside.sum() * sk.roc_auc_score(labels[inside], scores[inside])
        weight += inside.sum()
    found = metrics.gauc(labels, scores, groups)
    assert found.left_out == left_out
    assert found.impressions.sum() == weight
    assert found.value == pytest.approx(total / weight) if weight else math.isnan(found.value)


def test_log_loss_agrees_with_scikit_learn_and_survives_confidence() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=200) * 3, rng.integers(0, 2, 200)
    assert metrics.log_loss(labels, logits).mean() == pytest.approx(sk.log_loss(labels, 1 / (1 + np.exp(-logits))))
    assert metrics.log_loss(np.array([0, 1]), np.array([1e4, 1e4])).tolist() == [1e4, 0.0]


def test_calibration_bins_are_equal_in_size_and_ece_is_their_mean_gap() -> None:
    rng = np.random.default_rng(1)
    probs = rng.random(1000)
    labels = rng.random(1000) < probs**2
    table = metrics.calibration(labels, probs, num_bins=10)
    order = np.argsort(probs)
    loop = [abs(probs[b].mean() - labels[b].mean()) for b in np.split(order, 10)]
    assert table.rows.tolist() == [100] * 10
    assert table.ece == pytest.approx(np.mean(loop))


def test_equal_probabilities_share_a_bin() -> None:
    table = metrics.calibration(np.array([0, 1, 0, 1]), np.full(4, 0.3), num_bins=4)
    assert table.rows.tolist() == [4]
    assert table.ece == pytest.approx(0.2)
