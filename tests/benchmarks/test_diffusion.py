"""The bench of T2Diff's serving cost, small."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks.serving import diffusion as bench

from penchant.evaluation.results import find_results
from penchant.recipes.t2diff.tables import baselines


def test_every_way_to_a_guess_gets_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "STEPS", (6,))
    monkeypatch.setattr(bench, "BATCHES", (1, 64))
    monkeypatch.setattr(sys, "argv", ["diffusion", "--rounds", "1", "--results", str(tmp_path)])
    bench.main()
    rows = {result.row: result.metrics for result in find_results(tmp_path)}
    ways = {"t2diff-one-estimate", "t2diff-ddim-5", "t2diff-chain-006", "t2diff-causal-8", "causal-last-item"}
    assert set(rows) == {"mixed-attention", "mixed-parameters"} | ways | set(baselines())
    # A guess costs time, and no parameters by its number of steps.
    assert rows["t2diff-ddim-5"]["Parameters"] == rows["t2diff-one-estimate"]["Parameters"]
    with_guess, without = (rows[name]["Parameters"] for name in ("t2diff-one-estimate", "mixed-attention"))
    assert with_guess is not None
    assert without is not None
    assert with_guess > without
    assert rows["mixed-attention"]["Times mixed attention's, batch 64"] == 1.0
    for metrics in rows.values():
        assert all(value is not None and value > 0 for value in metrics.values())
