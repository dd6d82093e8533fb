"""Figures: what is put on one line."""

from __future__ import annotations

from penchant.evaluation.figures import draw_against


def test_rows_that_differ_in_a_last_number_are_one_line_and_far_apart_values_get_a_logarithmic_scale() -> None:
    points = {"ann-0200": (1.0, 2.0), "ann-1000": (3.0, 90.0), "exact": (2.0, 1.0), "alone-5": (4.0, 4.0)}
    drawn = draw_against("title", "ms", "recall", points).decode()
    for label in ("ann 1000", "200", "exact", "alone-5"):
        assert f"<!-- {label} -->" in drawn, label
    assert "ann-0200" not in drawn
    assert drawn.count("mathdefault{10^") > 2  # both axes
    near = {name: (x, 1.0 + y / 100) for name, (x, y) in points.items()}
    assert draw_against("title", "ms", "recall", near) != draw_against("title", "ms", "recall", points)
