"""Rankers judged on impressions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from penchant.evaluation import metrics
from penchant.evaluation.ranking import RankingResult, evaluate_ranking
from penchant.evaluation.significance import paired_bootstrap, resample_users


def judged(seed: int = 0, noise: float = 1.5) -> RankingResult:
    """40 to 160 impressions of each of 150 users, in requests of ten; made up. Labels are the same for every noise."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(1, 151), 10 * rng.integers(4, 16, 150))
    requests = np.arange(len(users)) // 10 + 1
    taste = rng.normal(size=len(users)) + rng.normal(size=151)[users]
    labels = (rng.random(len(users)) < 1 / (1 + np.exp(1.5 - taste))).astype(np.int8)
    logits = np.round(taste - 1.5 + noise * np.random.default_rng(seed + 1).normal(size=len(users)), 1)
    return evaluate_ranking(logits, labels, requests, users)


def test_metrics_are_those_of_scikit_learn_and_the_groups_left_out_are_counted() -> None:
    found = judged()
    values = found.metrics()
    probs = 1 / (1 + np.exp(-found.logits))
    assert values["AUC"] == pytest.approx(sk.roc_auc_score(found.labels, found.logits))
    assert values["LogLoss"] == pytest.approx(sk.log_loss(found.labels, probs))
    clicks = np.bincount(found.requests, weights=found.labels)[1:]
    assert values["Requests of one class"] == ((clicks == 0) | (clicks == 10)).sum() > 0
    assert values["ECE"] == metrics.calibration(found.labels, probs).ece


def test_order_of_rows_changes_nothing() -> None:
    found = judged()
    mixed = np.random.default_rng(3).permutation(len(found.labels))
    again = evaluate_ranking(found.logits[mixed], found.labels[mixed], found.requests[mixed], found.users[mixed])
    assert again.metrics() == pytest.approx(found.metrics())
    for name in found.per_user().column_names:
        assert np.allclose(again.per_user()[name].to_numpy(), found.per_user()[name].to_numpy(), atol=1e-5), name


def test_per_user_values_weighted_by_impressions_are_the_metrics() -> None:
    found = judged()
    table, values = found.per_user(), found.metrics()
    for name in ("AUC", "LogLoss", "GAUC request", "GAUC user"):
        mean = np.average(table[name].to_numpy(), weights=table["weight"].to_numpy())
        assert mean == pytest.approx(values[name], abs=1e-5), name


def auc_of_repeated(judged: RankingResult, times: np.ndarray) -> float:
    """AUC where each row is there so often."""
    return metrics.auc(np.repeat(judged.labels, times), np.repeat(judged.logits, times))


def test_bootstrap_of_per_user_values_is_that_of_auc_itself() -> None:
    a, b = judged(noise=1.2), judged(noise=1.5)
    assert np.array_equal(a.labels, b.labels)
    _, user = np.unique(a.users, return_inverse=True)
    drawn = [
        auc_of_repeated(a, times[user]) - auc_of_repeated(b, times[user])
        for block in resample_users(150, 400, seed=0)
        for times in block.astype(int)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    of_a, of_b = a.per_user(), b.per_user()
    first_order = paired_bootstrap(
        of_a["AUC"].to_numpy(), of_b["AUC"].to_numpy(), of_a["weight"].to_numpy(), resamples=400
    )
    value = a.metrics()["AUC"] - b.metrics()["AUC"]
    assert first_order.value == pytest.approx(value, abs=1e-5)
    assert (first_order.low, first_order.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_bootstrap_of_per_user_values_is_that_of_gauc_itself() -> None:
    a, b = judged(noise=1.2), judged(noise=1.5)
    grouped_a, grouped_b = a.by_user, b.by_user
    exact = paired_bootstrap(
        np.nan_to_num(grouped_a.aucs), np.nan_to_num(grouped_b.aucs), grouped_a.impressions, resamples=400
    )
    of_a, of_b = a.per_user(), b.per_user()
    first_order = paired_bootstrap(
        of_a["GAUC user"].to_numpy(), of_b["GAUC user"].to_numpy(), of_a["weight"].to_numpy(), resamples=400
    )
    width = exact.high - exact.low
    assert (first_order.low, first_order.high) == pytest.approx((exact.low, exact.high), abs=0.05 * width)


def test_reliability_tells_each_bins_clicks() -> None:
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(size=300), (rng.random(300) < 0.4).astype(np.int8)
    told = evaluate_ranking(logits, labels, np.arange(300) // 5, np.arange(300) // 10 + 1).reliability()
    assert list(told) == sorted(told)
    assert sum(bin_["impressions"] for bin_ in told.values()) == 300
    assert sum(bin_["impressions"] * bin_["observed"] for bin_ in told.values()) == pytest.approx(labels.sum())
    predicted = [bin_["predicted"] for bin_ in told.values()]
    assert predicted == sorted(predicted)


def test_a_logit_that_is_no_number_is_refused() -> None:
    one = np.array([1])
    with pytest.raises(ValueError, match="1 of 1 logits"):
        evaluate_ranking(np.array([np.nan]), one, one, one)


def test_each_anonymous_request_is_a_user_of_its_own() -> None:
    found = judged()
    anonymous = evaluate_ranking(found.logits, found.labels, found.requests, np.zeros_like(found.users))
    assert anonymous.by_user.value == pytest.approx(anonymous.by_request.value)
    assert anonymous.by_user.left_out == anonymous.by_request.left_out
    table = anonymous.per_user()
    assert sorted(-table["user"].to_numpy()) == np.unique(found.requests).tolist()
    assert set(table["weight"].to_pylist()) == {10}
    # Users who are known stay together.
    some = evaluate_ranking(found.logits, found.labels, found.requests, np.where(found.users < 100, 0, found.users))
    known = some.per_user()["user"].to_numpy()
    assert known[known > 0].tolist() == list(range(100, 151))
