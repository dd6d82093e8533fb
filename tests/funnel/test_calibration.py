"""Scores to chances: against scikit-learn, and on scores whose chance is known."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.isotonic import IsotonicRegression

from penchant.funnel.calibration import Kind, ScoreCalibration, fit_calibration

KINDS: tuple[Kind, ...] = ("temperature", "isotonic")


def drawn(slope: float, offset: float, count: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and clicks of chance sigmoid(slope * score + offset)."""
    rng = np.random.default_rng(0)
    scores = rng.normal(scale=2.0, size=count)
    return scores, rng.random(count) < 1 / (1 + np.exp(-(slope * scores + offset)))


def test_temperature_finds_slope_and_offset() -> None:
    fitted = fit_calibration("temperature", *drawn(0.5, -3.0))
    assert fitted.slope == pytest.approx(0.5, abs=0.03)
    assert fitted.offset == pytest.approx(-3.0, abs=0.06)


@pytest.mark.parametrize("kind", KINDS)
def test_both_find_the_chances(kind: Kind) -> None:
    fitted = fit_calibration(kind, *drawn(0.5, -1.0))
    at = np.linspace(-3, 3, 13)
    assert fitted(at) == pytest.approx(1 / (1 + np.exp(-(0.5 * at - 1.0))), abs=0.05)


@given(st.data())
def test_isotonic_is_scikit_learns(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 40))
    scores = data.draw(hnp.arrays(np.int8, size)).astype(np.float64) / 8  # many ties
    labels = data.draw(hnp.arrays(np.bool_, size).filter(lambda x: 0 < x.sum() < len(x)))
    ours = fit_calibration("isotonic", scores, labels)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    assert ours(scores) == pytest.approx(theirs.predict(scores), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slope", [0.7, -0.7])
def test_no_order_is_turned_round(kind: Kind, slope: float) -> None:
    """Not even that of a ranker which is worse than chance."""
    scores, labels = drawn(slope, -1.0, 500)
    chances = fit_calibration(kind, scores, labels)(np.sort(scores))
    assert (np.diff(chances) >= 0).all()
    assert (chances >= 0).all()
    assert (chances <= 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_part_clicks_completely(kind: Kind) -> None:
    fitted = fit_calibration(kind, np.array([-2.0, -1.0, 1.0, 2.0]), np.array([0, 0, 1, 1]))
    low, high = fitted(np.array([-2.0, 2.0]))
    assert low < 0.1
    assert high > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_slot_has_no_chance(kind: Kind) -> None:
    assert fit_calibration(kind, *drawn(1.0, 0.0, 200))(np.array([-np.inf]))[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_through_json(kind: Kind) -> None:
    fitted = fit_calibration(kind, *drawn(1.0, 0.0, 200))
    assert ScoreCalibration.from_json(json.loads(json.dumps(asdict(fitted)))) == fitted


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "magic"},
        {"kind": "isotonic", "scores": [1.0], "chances": []},
        {"kind": "temperature", "slope": float("nan")},
    ],
)
def test_what_is_no_calibration_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="calibration"):
        ScoreCalibration.from_json(values)


@pytest.mark.parametrize(
    ("scores", "labels", "why"),
    [([0.0, 1.0], [0, 0], "0 of 2 are clicks"), ([0.0, np.nan], [0, 1], "1 of 2 scores"), ([], [], "0 of 0")],
)
def test_what_cannot_be_fitted_is_refused(scores: list[float], labels: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fit_calibration("isotonic", np.array(scores), np.array(labels))
