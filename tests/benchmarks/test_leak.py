"""The leak's reports as result rows."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import leak
from penchant.data.split import load_split
from penchant.evaluation.results import find_results
from penchant.papers.t2diff.leak import FROM_TARGET, GUESSES, read_report
from penchant.recipes.runs import train_run
from penchant.recipes.t2diff.figures import COSINE
from tests.factories import make_store
from tests.recipes.test_t2diff import RUN


def test_a_row_has_the_last_moment_and_curves_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store")
    folder = tmp_path / "t2diff.made-up.loo.s0"
    train_run(replace(RUN, leak_targets=50), store, load_split(store, "temporal-successive"), folder)
    results = tmp_path / "results"
    monkeypatch.setattr(sys, "argv", ["leak", str(folder), "--results", str(results)])
    leak.main()
    (row,) = find_results(results, table="leak")
    moments = read_report(folder)
    assert (row.row, row.window) == ("t2diff", "valid")
    assert row.metrics[f"cosine, {FROM_TARGET}"] == pytest.approx(moments[-1].guesses[FROM_TARGET]["cosine"])
    assert row.metrics["Error of z_0, last"] == pytest.approx(moments[-1].drift["last"])
    assert row.metrics["Error of z_0, all steps"] == pytest.approx(moments[-1].drift["all"])
    lines = row.slices["curves"]["panels"]["Recall@20"]
    assert set(lines) == set(GUESSES)
    assert [at for at, _ in lines["chain"]] == [moment.epochs for moment in moments]
    schedules, histogram, reverse = find_results(results, table="leak-figures")
    assert (histogram.row, histogram.slices["curves"]["over"]) == ("t2diff-histogram", COSINE)
    for points in histogram.slices["curves"]["panels"]["targets"].values():
        assert sum(count for _, count in points) == 50
    (told,) = reverse.slices["curves"]["panels"].values()
    assert [y for _, y in told["mean"]] == pytest.approx([mean for mean, _ in moments[-1].reverse])
    assert all(low <= high for (_, low), (_, high) in zip(told["mean"], told["mean + deviation"], strict=True))
    left = schedules.slices["curves"]["panels"]["share left"]
    assert set(left) == {"exp", "linear", "log"}
    betas = schedules.slices["curves"]["panels"]["beta"]
    ends = {(round(line[0][1], 6), round(line[-1][1], 6)) for line in betas.values()}
    assert len(ends) == 1
