"""The bench of T2Diff's serving cost, small."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks.serving import diffusion as bench

from penchant.evaluation.results import find_results


def test_every_way_to_a_guess_gets_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "STEPS", (6,))
    monkeypatch.setattr(bench, "BATCHES", (1, 64))
    monkeypatch.setattr(sys, "argv", ["diffusion", "--rounds", "1", "--results", str(tmp_path)])
    bench.main()
    rows = {result.row: result.metrics for result in find_results(tmp_path)}
    guesses = {"t2diff-one-estimate", "t2diff-ddim-5", "t2diff-chain-006"}
    assert set(rows) == {"sasrec", "gru4rec", "mixed-attention"} | guesses
    assert rows["mixed-attention"]["Times mixed attention's, batch 64"] == 1.0
    for metrics in rows.values():
        assert all(value is not None and value > 0 for value in metrics.values())
