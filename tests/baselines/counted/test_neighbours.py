"""The strongest neighbours against a plain sort of each row."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penchant.baselines.counted.neighbours import strongest


@given(
    st.dictionaries(st.tuples(st.integers(0, 4), st.integers(1, 6)), st.integers(1, 3), max_size=30),
    st.integers(1, 8),
)
@settings(deadline=None, max_examples=50)
def test_rows_are_sorted_cut_and_padded(matrix: dict[tuple[int, int], int], size: int) -> None:
    keys = np.array(sorted(matrix), dtype=np.int64).reshape(-1, 2)
    values = np.array([matrix[k] for k in sorted(matrix)], dtype=np.float64)
    columns, kept = strongest(keys[:, 0], keys[:, 1], values, 5, size)
    for row in range(5):
        best = sorted(((-v, c) for (r, c), v in matrix.items() if r == row))[:size]
        pad = size - len(best)
        assert columns[row].tolist() == [c for _, c in best] + [0] * pad
        assert kept[row].tolist() == [-v for v, _ in best] + [0] * pad
