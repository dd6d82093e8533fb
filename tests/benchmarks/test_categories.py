"""The bench of category prediction, on a small made-up Store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import categories as bench
from penchant.evaluation.results import find_results
from tests.factories import make_store


def test_each_answer_gets_its_row_and_what_is_there_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "made-up")
    monkeypatch.setattr(bench, "SEEDS", 1)
    arguments = [str(store.path), "--epochs", "0.2", "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["categories", *arguments, "--results", str(tmp_path / "results")])
    bench.main()
    rows = {result.row: result for result in find_results(tmp_path / "results")}
    assert set(rows) == {"each-action", "summaries", "pointer-alone", "generator-alone", "most-frequent", "latest"}
    for result in rows.values():
        hits = [float(result.metrics[f"category HR@{k}"] or 0.0) for k in bench.KS]
        assert sorted(hits) == hits
        assert hits[-1] > 0
    gain = rows["summaries"].metrics
    for counted in ("most-frequent", "latest"):
        low, high = (gain[f"HR@10 less {counted}'s, {end}"] for end in ("from", "to"))
        assert low is not None
        assert high is not None
        assert low <= high
    assert rows["summaries"].steps > 0
    assert rows["latest"].steps == 0
    bench.main()
    assert capsys.readouterr().out.count("finished before") == 2


def test_a_store_without_its_epochs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["categories", "a", "b", "--epochs", "1"])
    with pytest.raises(SystemExit):
        bench.main()
