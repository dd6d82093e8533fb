"""Each item's strongest neighbours, as two rectangular tables: what Markov and item-kNN keep of a catalogue squared."""

from __future__ import annotations

import numpy as np


def strongest(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, num_rows: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `size` largest values of each row of a sparse matrix; equal values, the smaller column first.

    Args:
        rows, columns: int [n], no pair twice.
        values: float [n].
    Returns: columns as int32 [R, N] and values as float32 [R, N], best first; 0 and 0.0 where a row has fewer.
    """
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    starts = np.searchsorted(rows, np.arange(num_rows))
    place = np.arange(len(rows)) - starts[rows]
    kept = place < size
    out_columns = np.zeros((num_rows, size), dtype=np.int32)
    out_values = np.zeros((num_rows, size), dtype=np.float32)
    out_columns[rows[kept], place[kept]] = columns[kept]
    out_values[rows[kept], place[kept]] = values[kept]
    return out_columns, out_values
